//! `chaosrun compare` as a CI job sees it: run folders on disk, exit codes, and a store of past runs.

#[path = "../pure/dsl.rs"]
#[expect(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the language of the pure tests, of which little is needed here; its numbers are small"
)]
mod dsl;

use chaosrun::evidence::Event;
use dsl::{Log, experiment, good_unless, http};
use std::path::{Path, PathBuf};
use std::process::Output;

fn chaosrun(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = std::process::Command::new(env!("CARGO_BIN_EXE_chaosrun"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A run folder of one trial that recovered after so many seconds.
fn run(parent: &Path, name: &str, day: u32, seconds: f64) -> PathBuf {
    let until = 112.0 + seconds;
    let mut log = Log::of(&experiment("pod-kill", vec![http()], 60.0))
        .samples("endpoint", 95.0, until, 0.2, |sent| {
            good_unless((100.0..100.0 + seconds).contains(&sent))
        })
        .fault(&["a"], 99.99, 100.01)
        .end(until, until + 1.0);
    for event in &mut log.events {
        if let Event::RunStarted { id, started_at, .. } = event {
            name.clone_into(id);
            *started_at = format!("2026-01-{day:02}T00:00:00Z");
        }
    }
    let folder = parent.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("events.jsonl"), log.text()).unwrap();
    folder
}

/// A folder of runs.
fn side(parent: &Path, name: &str, day: u32, seconds: &[f64]) -> String {
    let folder = parent.join(name);
    for (index, seconds) in seconds.iter().enumerate() {
        run(&folder, &format!("{name}-{index}"), day, *seconds);
    }
    folder.to_str().unwrap().to_owned()
}

const BASE: [f64; 6] = [10.1, 11.4, 10.7, 12.0, 10.9, 11.2];
const SLOW: [f64; 6] = [15.3, 16.1, 14.9, 17.2, 15.8, 16.6];

#[test]
fn the_exit_code_says_whether_recovery_is_slower() {
    let folder = tempfile::tempdir().unwrap();
    let base = side(folder.path(), "old", 1, &BASE);
    let slow = side(folder.path(), "new", 2, &SLOW);
    let few = side(folder.path(), "few", 3, &SLOW[..3]);
    let (code, out, err) = chaosrun(&["compare", &base, &slow, "--margin", "2s"]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert!(
        out.starts_with("REGRESSED: pod-kill: recovery is slower by at least "),
        "{out}"
    );
    let (code, out, _) = chaosrun(&["compare", &base, &slow, "--margin", "20s", "--confidence", "90%"]);
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = chaosrun(&["compare", &slow, &base]);
    assert!(code == 0 && out.contains("recovery is faster, by at least "), "{out}");
    // Three against three: not even these.
    let three = side(folder.path(), "three", 1, &BASE[..3]);
    let (code, out, _) = chaosrun(&["compare", &three, &few]);
    assert!(code == 2 && out.contains("more trials of the base"), "{out}");
    let (code, out, _) = chaosrun(&["compare", &base, &slow, "--margin", "2s", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["outcome"].as_str()), (1, Some("regressed")));
    assert_eq!(json["experiments"][0]["measures"][0]["base"]["trials"], 6);
}

#[test]
fn what_cannot_be_compared_is_a_usage_error_and_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let base = side(folder.path(), "old", 1, &BASE);
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (code, _, err) = chaosrun(&["compare", &base, empty.to_str().unwrap()]);
    assert!(
        code == 64 && err.contains("holds none: there is no events.jsonl"),
        "{err}"
    );
    let (code, _, err) = chaosrun(&["compare", &base]);
    assert!(code == 64 && err.contains("compare BASE NEW"), "{err}");
    let (code, ..) = chaosrun(&["compare", &base, &base, "--margin", "2"]);
    assert_eq!(code, 64);
    let (code, ..) = chaosrun(&["compare", &base, "--save"]);
    assert_eq!(code, 64, "--save without --store");
    // A log that was changed is no evidence.
    let log = Path::new(&base).join("old-0/events.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("refused", "refusee", 1)).unwrap();
    let (code, _, err) = chaosrun(&["compare", &base, &base]);
    assert!(code == 65 && err.contains("does not match its hash"), "{err}");
}

#[test]
fn a_store_of_past_runs_is_what_later_ones_are_compared_with() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let store = store.to_str().unwrap();
    let old = side(folder.path(), "old", 1, &BASE);
    let slow = side(folder.path(), "slow", 2, &SLOW);
    let new = side(folder.path(), "new", 3, &SLOW);
    assert_eq!(
        chaosrun(&["compare", "--store", store, "--save", &old, "--name", "v1"]).0,
        0
    );
    let kept: Vec<PathBuf> = files(&Path::new(store).join("pod-kill"));
    assert_eq!(kept.len(), 6, "{kept:?}");
    assert!(kept[0].ends_with("pod-kill/old-0.json"), "{kept:?}");
    let bytes = std::fs::read(&kept[0]).unwrap();
    assert!(bytes.len() < 3000 && bytes.ends_with(b"}\n"), "{} bytes", bytes.len());
    // The same run again: the same bytes, so that nothing changes in a repository.
    assert_eq!(
        chaosrun(&["compare", "--store", store, "--save", &old, "--name", "v1"]).0,
        0
    );
    assert_eq!(std::fs::read(&kept[0]).unwrap(), bytes);

    // The newest run's name stands for all of that name.
    let (code, out, _) = chaosrun(&["compare", "--store", store, &new]);
    assert!(code == 1 && out.contains("Base: 6 runs"), "{out}");
    assert_eq!(
        chaosrun(&["compare", "--store", store, "--save", &slow, "--name", "v2"]).0,
        0
    );
    let (code, out, _) = chaosrun(&["compare", "--store", store, &new, "--margin", "30%"]);
    assert!(code == 0 && out.contains("Base: 6 runs: slow-0"), "{out}");
    let (code, out, _) = chaosrun(&["compare", "--store", store, &new, "--base", "v1"]);
    assert!(code == 1 && out.contains("Base: 6 runs: old-0"), "{out}");
    let (code, _, err) = chaosrun(&["compare", "--store", store, &new, "--base", "v9"]);
    assert!(code == 64 && err.contains("no run with the name or id v9"), "{err}");

    // One file of the store is a side, too; and a broken one is named.
    let (code, out, _) = chaosrun(&["compare", kept[0].to_str().unwrap(), &new]);
    assert!(code == 2 && out.contains("1 against 6 trials"), "{out}");
    std::fs::write(&kept[0], b"{}").unwrap();
    let (code, _, err) = chaosrun(&["compare", "--store", store, &new]);
    assert!(code == 65 && err.contains("old-0.json is no saved run"), "{err}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}
