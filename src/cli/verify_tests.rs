//! Whatever is changed in a run folder is found.

use super::*;
use crate::evidence::{Chain, Event, genesis, read_log};
use crate::report::{build, json, table};
use std::path::PathBuf;
use tempfile::TempDir;

/// A real, short log.
fn log() -> Vec<u8> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/kill-of-a-container-that-does-not-exist.jsonl");
    std::fs::read(path).unwrap()
}

/// A run folder with this log and the report that belongs to it.
fn folder(log: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, LOG, log);
    let run = build(&read_log(log).unwrap().records);
    put(&folder, JSON, json(&run).as_bytes());
    put(
        &folder,
        TABLE,
        table(&run, false, "reports/20260101-000000-42ab").as_bytes(),
    );
    folder
}

fn put(folder: &TempDir, name: &str, bytes: &[u8]) {
    std::fs::write(folder.path().join(name), bytes).unwrap();
}

fn get(folder: &TempDir, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).unwrap()
}

fn findings(folder: &TempDir) -> Vec<String> {
    let verified = examine(folder.path(), None).unwrap();
    assert_eq!(verified.holds, verified.findings.is_empty());
    verified
        .findings
        .iter()
        .map(|found| format!("{} {}: {}", found.file, found.at, found.what))
        .collect()
}

fn found(folder: &TempDir, words: &str) {
    let findings = findings(folder);
    assert!(
        findings.iter().any(|found| found.contains(words)),
        "{words}: {findings:#?}"
    );
}

/// The same events, but for one, in a new and unbroken chain.
fn forged(log: &[u8]) -> Vec<u8> {
    let records = read_log(log).unwrap().records;
    let mut chain = Chain::new();
    let mut text = String::new();
    for record in records {
        let event = match record.event {
            Event::WorkloadIdentified { .. } => Event::WorkloadIdentified {
                workload: "something better".to_owned(),
                stand_in: false,
            },
            Event::RunStarted {
                id,
                version,
                cluster,
                started_at,
                ..
            } => Event::RunStarted {
                id,
                seed: 4711,
                version,
                cluster,
                started_at,
            },
            event => event,
        };
        text.push_str(&chain.line(record.mono, &record.wall, &event).unwrap());
    }
    text.into_bytes()
}

#[test]
fn what_nobody_touched_holds() {
    let folder = folder(&log());
    let verified = examine(folder.path(), None).unwrap();
    assert!(verified.holds, "{:?}", verified.findings);
    let head = verified.head.clone().unwrap();
    let text = told(&verified, folder.path());
    assert!(text.starts_with("HOLDS: ") && text.contains(&head), "{text}");
    assert!(examine(folder.path(), Some(&head)).unwrap().holds);
}

#[test]
fn a_changed_byte_anywhere_in_the_log_is_found() {
    let log = log();
    let folder = folder(&log);
    for place in 0..log.len() {
        let mut bytes = log.clone();
        bytes[place] ^= if place % 2 == 0 { 1 } else { 0x20 };
        put(&folder, LOG, &bytes);
        found(&folder, "events.jsonl line ");
    }
    put(&folder, LOG, &log);
    assert!(findings(&folder).is_empty());
}

#[test]
fn a_changed_byte_anywhere_in_the_reports_is_found() {
    let log = log();
    let folder = folder(&log);
    let run = build(&read_log(&log).unwrap().records);
    for name in [JSON, TABLE] {
        let whole = get(&folder, name);
        let mut end = whole.len();
        if name == TABLE {
            // The path of the folder is not known to the log.
            let text = String::from_utf8(whole.clone()).unwrap();
            end = text.find("reports/").unwrap();
        }
        for place in 0..end {
            let mut bytes = whole.clone();
            bytes[place] ^= if place % 2 == 0 { 1 } else { 0x20 };
            let found = if name == JSON {
                differences_of_json(&bytes, &run)
            } else {
                differences_of_table(&bytes, &run)
            };
            assert!(!found.is_empty(), "{name}: byte {place}");
            // The command sees what the comparison sees.
            if place % 100 == 0 {
                put(&folder, name, &bytes);
                assert_eq!(examine(folder.path(), None).unwrap().findings, found);
            }
        }
        put(&folder, name, &whole);
    }
}

#[test]
fn a_byte_put_in_or_taken_out_anywhere_is_found() {
    let log = log();
    let folder = folder(&log);
    for name in [LOG, JSON] {
        let whole = get(&folder, name);
        for place in (0..whole.len()).step_by(37).chain([whole.len() - 1]) {
            let mut shorter = whole.clone();
            shorter.remove(place);
            put(&folder, name, &shorter);
            assert!(!findings(&folder).is_empty(), "{name}: without byte {place}");
            let mut longer = whole.clone();
            longer.insert(place, b' ');
            put(&folder, name, &longer);
            assert!(!findings(&folder).is_empty(), "{name}: with a space at {place}");
        }
        put(&folder, name, &whole);
    }
}

#[test]
fn lines_removed_swapped_added_and_cut_off_are_found_by_line() {
    let log = String::from_utf8(log()).unwrap();
    let folder = folder(log.as_bytes());
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let last = lines.len() - 1;
    put(&folder, LOG, [&lines[..3], &lines[4..]].concat().concat().as_bytes());
    found(&folder, "events.jsonl line 4: does not follow");
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    put(&folder, LOG, swapped.concat().as_bytes());
    found(&folder, "events.jsonl line 4: does not follow");
    // Cut between two lines the chain is whole: only the report knows that there was more.
    put(&folder, LOG, lines[..last].concat().as_bytes());
    found(&folder, "report.json /run/evidence/head: says ");
    found(
        &folder,
        &format!(
            "report.json /run/evidence/records: says {}, the log gives {last}",
            last + 1
        ),
    );
    put(&folder, LOG, &log.as_bytes()[..log.len() - 30]);
    found(&folder, &format!("events.jsonl line {}: ", last + 1));
    put(&folder, LOG, log.trim_end().as_bytes());
    found(&folder, "the newline at its end is missing");
    // A line that goes on with the chain as only its writer could.
    let read = read_log(log.as_bytes()).unwrap();
    let more = Chain::resume(&read.records)
        .line(
            read.records[last].mono,
            "later",
            &Event::ExperimentEnded { index: 0, error: None },
        )
        .unwrap();
    put(&folder, LOG, format!("{log}{more}").as_bytes());
    found(&folder, "report.json /run/evidence/records");
    put(&folder, LOG, b"");
    found(&folder, &format!("the log gives \"{}\"", genesis()));
}

#[test]
fn a_changed_hash_of_the_last_line_is_found() {
    let mut log = log();
    let folder = folder(&log);
    let place = log.len() - 10;
    log[place] = if log[place] == b'a' { b'b' } else { b'a' };
    put(&folder, LOG, &log);
    found(&folder, "its content does not match its hash");
}

#[test]
fn a_log_that_was_rewritten_whole_is_found_by_the_report_and_both_together_by_a_noted_head() {
    let log = log();
    let honest = folder(&log);
    let head = examine(honest.path(), None).unwrap().head.unwrap();
    put(&honest, LOG, &forged(&log));
    found(&honest, "report.json /run/evidence/head: says ");
    found(&honest, "report.json /run/seed: says ");
    let both = folder(&forged(&log));
    assert!(
        examine(both.path(), None).unwrap().holds,
        "nothing inside the folder can tell"
    );
    let verified = examine(both.path(), Some(&head)).unwrap();
    assert!(!verified.holds);
    assert!(verified.findings[0].what.contains(&head));
}

#[test]
fn a_changed_field_is_named_with_both_values() {
    let folder = folder(&log());
    let text = String::from_utf8(get(&folder, JSON)).unwrap();
    put(
        &folder,
        JSON,
        text.replacen("\"verdict\": \"inconclusive\"", "\"verdict\": \"pass\"", 1)
            .as_bytes(),
    );
    found(
        &folder,
        "report.json /verdict: says \"pass\", the log gives \"inconclusive\"",
    );
    put(&folder, JSON, text.replacen("\"flaps\": 0,", "", 1).as_bytes());
    found(&folder, "/flaps: is missing, the log gives 0");
    put(
        &folder,
        JSON,
        text.replacen("\"schema\"", "\"grade\": 1,\"schema\"", 1).as_bytes(),
    );
    found(&folder, "report.json /grade: says 1, where the log gives nothing");
    put(&folder, JSON, text.replacen(": ", ":  ", 1).as_bytes());
    found(
        &folder,
        "every field says what the log says, but it is not written as chaosrun writes it",
    );
    put(&folder, JSON, &text.as_bytes()[..100]);
    found(&folder, "it is not JSON");
}

#[test]
fn what_is_missing_is_named_and_a_folder_without_any_of_it_is_wrong_usage() {
    let folder = folder(&log());
    std::fs::remove_file(folder.path().join(TABLE)).unwrap();
    found(&folder, "report.txt : is missing");
    std::fs::remove_file(folder.path().join(JSON)).unwrap();
    found(&folder, "report.json : is missing");
    put(&folder, JSON, b"{}");
    std::fs::remove_file(folder.path().join(LOG)).unwrap();
    found(&folder, "nothing stands behind the report");
    std::fs::remove_file(folder.path().join(JSON)).unwrap();
    assert!(matches!(examine(folder.path(), None), Err(Failure::Usage(_))));
}

#[test]
fn a_log_of_another_version_is_called_that() {
    let text = String::from_utf8(log()).unwrap();
    let mut chain = Chain::new();
    let log: String = read_log(text.as_bytes())
        .unwrap()
        .records
        .into_iter()
        .map(|mut record| {
            if let Event::RunStarted { version, .. } = &mut record.event {
                "99.0.0".clone_into(version);
            }
            chain.line(record.mono, &record.wall, &record.event).unwrap()
        })
        .collect();
    let folder = folder(log.as_bytes());
    let verified = examine(folder.path(), None).unwrap();
    assert!(
        verified
            .notes
            .iter()
            .any(|note| note.contains("written by chaosrun 99.0.0"))
    );
    // An event that this version does not know, in a chain that is whole.
    put(&folder, LOG, log.replace("\"type\"", "\"kind\"").as_bytes());
    assert!(!examine(folder.path(), None).unwrap().holds);
}
