//! One short event log per trap of the field (see `docs`): committed, chained, and judged as it stands on disk.
//!
//! `CHAOSRUN_BLESS=1 cargo test --test pure` writes the files again from the cases; without it a file that says something else
//! is a failure. A field that was added since, and has a default, is no difference: old logs stay readable.

use crate::dsl::Log;
use chaosrun::evidence::read_log;
use chaosrun::model::Verdict;
use chaosrun::report::{Run, build};
use std::path::PathBuf;

/// A log and what has to come out.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) log: Log,
    pub(crate) verdict: Verdict,
    /// Seconds that the recovery time must contain, and the widest acceptable error bar.
    pub(crate) rto: Option<(f64, f64)>,
    /// Words that the sentence of some claim, or a note, must contain.
    pub(crate) says: &'static str,
}

fn cases() -> Vec<Case> {
    let mut cases = crate::pod_cases::cases();
    cases.extend(crate::probe_cases::cases());
    cases.extend(crate::ledger_cases::cases());
    cases.extend(crate::lasting_cases::cases());
    cases
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The report of a committed log.
pub(crate) fn committed(name: &str) -> Run {
    let bytes = std::fs::read(folder().join(format!("{name}.jsonl"))).unwrap();
    build(&read_log(&bytes).unwrap().records)
}

fn said(run: &Run) -> String {
    let experiment = &run.experiments[0];
    let mut said: Vec<&str> = experiment.claims.iter().map(|claim| claim.why.as_str()).collect();
    said.extend(experiment.notes.iter().map(String::as_str));
    for trial in &experiment.trials {
        said.extend(trial.notes.iter().map(String::as_str));
    }
    said.join("\n")
}

fn check(case: &Case, run: &Run) -> Result<(), String> {
    let said = said(run);
    if run.verdict != case.verdict {
        return Err(format!(
            "verdict {:?}, expected {:?}\n{said}",
            run.verdict, case.verdict
        ));
    }
    if !said.contains(case.says) {
        return Err(format!("{:?} is not said in\n{said}", case.says));
    }
    let Some((truth, width)) = case.rto else {
        return Ok(());
    };
    let rto = &run.experiments[0].trials[0].rto;
    let (Some(lower), Some(upper)) = (rto.lower, rto.upper) else {
        return Err(format!("no recovery time: {rto:?}"));
    };
    if lower > truth || upper < truth || upper - lower > width {
        return Err(format!("recovery [{lower}, {upper}], truth {truth}"));
    }
    Ok(())
}

#[test]
fn every_trap_of_the_corpus_is_judged_as_its_truth_demands() {
    let bless = std::env::var_os("CHAOSRUN_BLESS").is_some();
    let mut failures = Vec::new();
    for case in cases() {
        let path = folder().join(format!("{}.jsonl", case.name));
        if bless {
            std::fs::write(&path, case.log.text()).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        match read_log(&bytes) {
            Ok(log) => {
                let same = log.records.iter().map(|record| &record.event);
                if !same.eq(&case.log.events) {
                    failures.push(format!("{}: the committed log differs", case.name));
                }
                if let Err(why) = check(&case, &build(&log.records)) {
                    failures.push(format!("{}: {why}", case.name));
                }
            }
            Err(error) => failures.push(format!("{}: {error}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn no_file_of_the_corpus_is_left_over() {
    let names: Vec<String> = cases().iter().map(|case| format!("{}.jsonl", case.name)).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            std::path::Path::new(&name).extension().is_none_or(|end| end != "jsonl") || names.contains(&name),
            "no case is named {name}"
        );
    }
}
