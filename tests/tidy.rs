//! Conventions are tests: which module may know which, what the pure half must not touch, and what every file must have.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` whose name ends in one of `ends`, with its text.
fn files(folder: &str, ends: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|end| ends.iter().any(|wanted| end == *wanted))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no {ends:?}");
    found
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    files(folder, &["rs"])
}

/// Code without its tests, its comments and its docs.
fn product(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The modules of chaosrun that `code` names: `crate::x::..`, `use crate::x;`, and each of `use crate::{x::.., y}`.
fn named_modules(code: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            named.extend(heads(group));
        } else {
            named.push(word(rest));
        }
    }
    named
}

/// The identifier that `text` starts with.
fn word(text: &str) -> &str {
    let end = text
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The first word of each entry of a group, whose opening brace is already gone.
fn heads(group: &str) -> Vec<&str> {
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(word(group[start..at].trim_start()));
                return heads;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(word(group[start..at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

const MODULES: [&str; 21] = [
    "model",
    "stats",
    "calibration",
    "fault",
    "experiment",
    "plan",
    "evidence",
    "timeline",
    "measure",
    "verdict",
    "report",
    "compare",
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
        "fault" | "stats" => &["model"],
        "experiment" => &["model", "fault", "plan", "stats"],
        "plan" => &["model", "fault", "experiment", "stats"],
        "evidence" => &["model", "fault", "experiment"],
        "calibration" => &["model", "stats", "evidence"],
        "timeline" => &["model", "fault", "experiment", "evidence"],
        "measure" => &["model", "fault", "experiment", "evidence", "timeline", "stats"],
        "verdict" => &[
            "model",
            "fault",
            "experiment",
            "evidence",
            "timeline",
            "measure",
            "stats",
        ],
        "report" => &[
            "model",
            "fault",
            "experiment",
            "evidence",
            "stats",
            "timeline",
            "measure",
            "verdict",
        ],
        "compare" => &["model", "experiment", "evidence", "stats", "verdict", "report"],
        "world" => &["model", "fault", "experiment", "evidence", "timeline"],
        "cluster" | "prometheus" => &["model", "fault", "experiment", "evidence", "stats", "timeline", "world"],
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
        "inject" => &[
            "model",
            "fault",
            "experiment",
            "plan",
            "evidence",
            "world",
            "cluster",
            "observe",
        ],
        "engine" => &[
            "model",
            "fault",
            "experiment",
            "plan",
            "evidence",
            "stats",
            "timeline",
            "measure",
            "verdict",
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
fn the_table_sees_every_way_to_name_a_module() {
    let code = "use crate::world::Clock;\nuse crate::cluster;\nuse crate::{model::{Pod, Role}, fault,\n    engine::Run};\ncrate::report::x()";
    assert_eq!(
        named_modules(code),
        ["world", "cluster", "model", "fault", "engine", "report"]
    );
}

#[test]
fn every_module_imports_only_what_the_architecture_allows() {
    for (path, text) in sources("src") {
        let relative = path.strip_prefix(root().join("src")).unwrap();
        let module = relative
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        let code = product(&text);
        assert!(
            MODULES.contains(&module) || module == "main",
            "{module} is not in the table: which modules may it know?"
        );
        for other in named_modules(&code) {
            assert!(
                other == module || !MODULES.contains(&other) || allowed(module).contains(&other),
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
        "stats",
        "timeline",
        "measure",
        "verdict",
        "report",
        "compare",
        "calibration",
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
        assert!(lines <= 900, "{} has {lines} lines: two rooms", path.display());
        for mark in ["todo!(", "unimplemented!("] {
            assert!(!text.contains(mark), "{} has {mark}", path.display());
        }
    }
}

#[test]
fn no_test_is_switched_off() {
    let all = ["src", "lab/src", "tests", "lab/tests"];
    for (path, text) in all.into_iter().flat_map(sources) {
        for mark in [concat!("#[", "ignore"), concat!("#[cfg(", "any())]")] {
            assert!(!text.contains(mark), "{} has {mark}", path.display());
        }
    }
}

/// With `abort`, the settling of a trial that panicked would never run.
#[test]
fn a_panic_unwinds_in_every_profile() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let settings = manifest.lines().filter(|line| !line.trim_start().starts_with('#'));
    for line in settings {
        let compact: String = line.chars().filter(|letter| !letter.is_whitespace()).collect();
        assert!(!compact.contains("panic=\"abort\""), "{line}");
    }
}

/// What works on one machine only has no place in what everyone gets.
#[test]
fn no_file_names_a_home_directory() {
    const FOREIGN: [&str; 2] = [concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let folders = ["src", "lab", "tests", "docs", "scenarios", "kind-config", "scripts"];
    let ends = ["rs", "md", "yaml", "json", "sh", "py", "toml"];
    let mut all: Vec<_> = folders.into_iter().flat_map(|folder| files(folder, &ends)).collect();
    for name in [
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "Cargo.toml",
        "deny.toml",
        ".ci/run",
    ] {
        all.push((root().join(name), std::fs::read_to_string(root().join(name)).unwrap()));
    }
    for (path, text) in all {
        for foreign in FOREIGN {
            assert!(!text.contains(foreign), "{} names {foreign}", path.display());
        }
    }
}
