//! One run of each verdict, as a person and as a program sees it.

use crate::corpus::committed;
use crate::dsl::{Log, at, experiment, pod, pods_ready};
use crate::ledger_cases::cases as ledger_cases;
use crate::pod_cases::cases as pod_cases;
use chaosrun::evidence::Event;
use chaosrun::report::{build, json, table};

const FOLDER: &str = "reports/20260101-000000-42ab";

fn case(name: &str) -> Log {
    ledger_cases()
        .into_iter()
        .chain(pod_cases())
        .find(|case| case.name == name)
        .unwrap()
        .log
}

fn shown(log: &Log) -> String {
    let text = table(&log.judge(), false, FOLDER);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
    }
    text
}

#[test]
fn a_pass_as_a_table() {
    insta::assert_snapshot!(shown(&case("first-commit-is-the-recovery")));
}

#[test]
fn a_pass_as_json() {
    insta::assert_snapshot!(json(&committed("first-commit-is-the-recovery")));
}

#[test]
fn a_fail_as_a_table() {
    insta::assert_snapshot!(shown(&case("driver-never-restarts")));
}

#[test]
fn a_fail_as_json() {
    insta::assert_snapshot!(json(&committed("driver-never-restarts")));
}

#[test]
fn an_inconclusive_run_as_a_table() {
    insta::assert_snapshot!(shown(&case("kill-of-a-container-that-does-not-exist")));
}

#[test]
fn an_inconclusive_run_as_json() {
    insta::assert_snapshot!(json(&committed("unreadable-ledger")));
}

#[test]
fn a_refused_run_says_why_once() {
    let text = shown(&case("named-pod-missing"));
    assert_eq!(
        text.matches("no pod matches the fault's selection").count(),
        1,
        "{text}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn an_aborted_run_as_a_table() {
    insta::assert_snapshot!(shown(&case("aborted-by-a-stop-condition")));
}

#[test]
fn a_stand_in_is_named_in_the_table() {
    let mut log = case("first-commit-is-the-recovery");
    for event in &mut log.events {
        if let Event::WorkloadIdentified { workload, stand_in } = event {
            "built-in pipeline".clone_into(workload);
            *stand_in = true;
        }
    }
    let text = shown(&log);
    assert!(
        text.contains("built-in pipeline (a STAND-IN: the real workload did not run)"),
        "{text}"
    );
    assert!(log.judge().experiments[0].stand_in);
}

#[test]
fn the_verdict_is_the_first_word_and_colour_comes_only_when_asked_for() {
    let run = case("driver-never-restarts").judge();
    assert!(table(&run, false, FOLDER).starts_with("FAIL: driver-never-restarts: "));
    assert!(!table(&run, false, FOLDER).contains('\u{1b}'));
    assert!(table(&run, true, FOLDER).starts_with("\u{1b}[31mFAIL"));
}

#[test]
fn several_experiments_are_summed_up_in_the_first_line() {
    let mut events = case("first-commit-is-the-recovery").events;
    events.pop();
    let second = case("driver-never-restarts").events;
    events.extend(second.into_iter().skip(1));
    let log = Log { events };
    let text = shown(&log);
    assert!(text.starts_with("FAIL: 2 experiments: 1 fail, 1 pass\n"), "{text}");
}

#[test]
fn a_log_without_a_single_line_is_inconclusive() {
    let run = build(&[]);
    assert_eq!(run.verdict, chaosrun::model::Verdict::Inconclusive);
    assert!(table(&run, false, FOLDER).starts_with("INCONCLUSIVE: no experiment was run"));
}

#[test]
fn what_could_not_be_reverted_is_shown() {
    let mut log =
        Log::of(&experiment("left", vec![pods_ready(1.0)], 9.0)).pod(chaosrun::evidence::Seen::Listed, 51.0, pod("a"));
    log = log.event(Event::RunEnded {
        at: at(60.0),
        left: vec![chaosrun::fault::Undo::DeleteObject {
            api_version: "batch/v1".to_owned(),
            kind: "Job".to_owned(),
            plural: "jobs".to_owned(),
            namespace: Some("shop".to_owned()),
            name: "guard".to_owned(),
        }],
    });
    assert!(shown(&log).contains("NOT REVERTED: 1 objects are still in the cluster"));
}
