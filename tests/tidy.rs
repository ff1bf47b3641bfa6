//! Conventions are tests: which module may know which, what the pure half must not touch, and what every file must have.

use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// Code without its tests, its comments and its docs.
fn product(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

const MODULES: [&str; 18] = [
    "model",
    "fault",
    "experiment",
    "plan",
    "evidence",
    "timeline",
    "measure",
    "verdict",
    "report",
    "world",
    "cluster",
    "prometheus",
    "ledger",
    "observe",
    "inject",
    "engine",
    "cli",
    "lib",
];

/// What each module may import (its own parts aside).
fn allowed(module: &str) -> &'static [&'static str] {
    match module {
        "model" => &[],
        "fault" => &["model"],
        "experiment" => &["model", "fault", "plan"],
        "plan" | "evidence" => &["model", "fault", "experiment"],
        "timeline" => &["model", "fault", "experiment", "evidence"],
        "measure" => &["model", "fault", "experiment", "evidence", "timeline"],
        "verdict" => &["model", "fault", "experiment", "evidence", "timeline", "measure"],
        "report" => &[
            "model",
            "fault",
            "experiment",
            "evidence",
            "timeline",
            "measure",
            "verdict",
        ],
        "world" => &["model", "fault", "experiment", "evidence", "timeline"],
        "cluster" | "prometheus" => &["model", "fault", "experiment", "evidence", "timeline", "world"],
        "ledger" => &["model", "experiment", "evidence", "world", "cluster", "observe"],
        "observe" => &[
            "model",
            "fault",
            "experiment",
            "evidence",
            "timeline",
            "world",
            "cluster",
            "prometheus",
            "ledger",
        ],
        "inject" => &["model", "fault", "evidence", "world", "cluster", "observe"],
        "engine" => &[
            "model",
            "fault",
            "experiment",
            "plan",
            "evidence",
            "timeline",
            "world",
            "cluster",
            "prometheus",
            "ledger",
            "observe",
            "inject",
        ],
        _ => &MODULES,
    }
}

#[test]
fn every_module_imports_only_what_the_architecture_allows() {
    for (path, text) in sources("src") {
        let relative = path
            .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
            .unwrap();
        let module = relative
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        let code = product(&text);
        for other in MODULES
            .iter()
            .filter(|other| **other != module && !allowed(module).contains(other))
        {
            assert!(
                !code.contains(&format!("crate::{other}::")),
                "{}: {module} must not know {other}",
                path.display()
            );
        }
        if !["cli", "main"].contains(&module) {
            assert!(
                !code.contains("chaosrun_lab"),
                "{}: only cli and main know the lab",
                path.display()
            );
        }
    }
}

#[test]
fn the_pure_half_touches_no_clock_no_file_no_network_and_no_randomness() {
    const BANNED: [&str; 9] = [
        "tokio::",
        "kube::",
        "reqwest::",
        "std::fs",
        "std::net",
        "std::env",
        "Instant::now",
        "SystemTime",
        "rand::",
    ];
    for module in [
        "model",
        "fault",
        "experiment",
        "plan",
        "evidence",
        "timeline",
        "measure",
        "verdict",
        "report",
    ] {
        for (path, text) in sources(&format!("src/{module}")) {
            let code = product(&text);
            for banned in BANNED {
                assert!(!code.contains(banned), "{} uses {banned}", path.display());
            }
        }
    }
}

#[test]
fn the_lab_imports_nothing_of_chaosrun() {
    for (path, text) in sources("lab/src") {
        let code = product(&text).replace("chaosrun_lab", "");
        assert!(!code.contains("chaosrun::"), "{} knows chaosrun", path.display());
    }
}

#[test]
fn every_file_says_what_it_is_for_and_is_no_longer_than_a_room() {
    for (path, text) in sources("src").into_iter().chain(sources("lab/src")) {
        assert!(
            text.starts_with("//!"),
            "{} has no module documentation",
            path.display()
        );
        let lines = text.lines().count();
        assert!(lines <= 1000, "{} has {lines} lines: two rooms", path.display());
        for mark in ["todo!(", "unimplemented!(", concat!("#[", "ignore")] {
            assert!(!text.contains(mark), "{} has {mark}", path.display());
        }
    }
}
