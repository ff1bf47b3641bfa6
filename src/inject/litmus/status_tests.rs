//! Each way in which Litmus misleads has its row.

use super::Read;
use serde_json::{Value, json};
use std::time::Duration;

const UID: &str = "u-1";

fn engine(status: &str, experiment: &str) -> Value {
    let experiments = if experiment.is_empty() {
        json!([])
    } else {
        json!([{"name": "pod-delete", "status": experiment}])
    };
    json!({"status": {"engineStatus": status, "experiments": experiments}})
}

fn result(uid: &str, status: &Value) -> Value {
    json!({"metadata": {"labels": {"chaosUID": uid}}, "status": {"experimentStatus": status}})
}

struct Row {
    engine: Value,
    result: Option<Value>,
    warning: Option<&'static str>,
    age: u64,
    ended: Option<u64>,
    says: Option<&'static str>,
}

#[test]
fn every_misleading_end_has_a_reason_and_none_of_them_is_a_success() {
    let row = |engine: Value, result: Option<Value>, age: u64, ended: Option<u64>, says: Option<&'static str>| Row {
        engine,
        result,
        warning: None,
        age,
        ended,
        says,
    };
    let pass = json!({"phase": "Completed", "verdict": "Pass"});
    let rows = [
        row(engine("", ""), None, 9, None, None),
        row(
            engine("", ""),
            None,
            10,
            None,
            Some("no chaos-operator took the ChaosEngine up"),
        ),
        row(engine("initialized", ""), None, 60, None, None),
        Row {
            warning: Some("(chaos start) Unable to get chaos resources"),
            ..row(
                engine("initialized", ""),
                None,
                10,
                None,
                Some("Unable to get chaos resources"),
            )
        },
        row(engine("initialized", ""), None, 200, None, Some("runner did not start")),
        row(engine("initialized", "Running"), None, 300, None, None),
        row(
            engine("initialized", "Running"),
            None,
            310,
            None,
            Some("no effect was seen within 310 s"),
        ),
        row(
            engine("initialized", "ChaosExperiment Not Found"),
            None,
            5,
            None,
            Some("no such ChaosExperiment"),
        ),
        row(engine("initialized", "Skipped"), None, 5, None, Some("skipped")),
        // The end and the effect may arrive in either order.
        row(engine("completed", "Completed"), None, 30, Some(1), None),
        row(
            engine("completed", "Completed"),
            None,
            30,
            Some(3),
            Some("wrote no ChaosResult"),
        ),
        row(
            engine("completed", "Completed"),
            Some(result(UID, &pass)),
            30,
            Some(3),
            Some("says Pass, but no effect"),
        ),
        row(
            engine("completed", "Completed"),
            Some(result("older", &pass)),
            30,
            Some(3),
            Some("belongs to another engine (chaosUID older)"),
        ),
        row(
            engine("completed", "Running"),
            Some(result(UID, &json!({"phase": "Running", "verdict": "Awaited"}))),
            30,
            Some(3),
            Some("still says Awaited"),
        ),
        row(
            engine("initialized", "Running"),
            Some(result(
                UID,
                &json!({"phase": "Error", "verdict": "Error", "errorOutput": {"errorCode": "CHAOS_INJECT_ERROR", "reason": "no tc"}}),
            )),
            30,
            None,
            Some("CHAOS_INJECT_ERROR: no tc"),
        ),
        row(
            engine("initialized", "Running"),
            Some(result(
                UID,
                &json!({"phase": "Error", "verdict": "Error", "failStep": "[pre-chaos]: failed"}),
            )),
            30,
            None,
            Some("it failed at \"[pre-chaos]: failed\""),
        ),
        row(
            engine("stopped", ""),
            None,
            5,
            Some(3),
            Some("stopped the ChaosEngine before the fault"),
        ),
        row(
            engine("stopped", "Forcefully Aborted"),
            Some(result(UID, &json!({"phase": "Stopped", "verdict": "Stopped"}))),
            5,
            Some(3),
            Some("stopped the experiment"),
        ),
    ];
    for row in rows {
        let read = Read {
            engine: Some(&row.engine),
            result: row.result.as_ref(),
            uid: UID,
            warning: row.warning,
            age: Duration::from_secs(row.age),
            ended: row.ended.map(Duration::from_secs),
        };
        let said = read.hopeless();
        match row.says {
            None => assert_eq!(said, None, "{:?}", row.engine),
            Some(part) => assert!(
                said.as_deref().is_some_and(|said| said.contains(part)),
                "{said:?}, not {part:?}"
            ),
        }
    }
    let gone = Read {
        uid: UID,
        ..Read::default()
    };
    assert!(gone.hopeless().unwrap().contains("is gone"));
}

#[test]
fn failed_probes_are_named_in_both_shapes() {
    let engine = engine("completed", "Completed");
    let shapes = [
        json!({"probeStatuses": [{"name": "front", "status": {"verdict": "Failed"}}, {"name": "fine", "status": {"verdict": "Passed"}}]}),
        json!({"probeStatus": [{"name": "front", "status": {"PostChaos": "Better Luck Next Time, Fail"}}]}),
    ];
    for mut status in shapes {
        json_patch::merge(
            &mut status,
            &json!({"experimentStatus": {"phase": "Completed_With_Probe_Failure", "verdict": "Fail"}}),
        );
        let result = json!({"metadata": {"labels": {"chaosUID": UID}}, "status": status});
        let read = Read {
            engine: Some(&engine),
            result: Some(&result),
            uid: UID,
            ended: Some(Duration::from_secs(5)),
            ..Read::default()
        };
        assert!(read.is_at_an_end());
        let said = read.hopeless().unwrap();
        assert!(said.contains("a probe of Litmus failed (front)"), "{said}");
    }
}

#[test]
fn a_mark_is_read_from_the_annotation_and_from_the_history_of_this_engine_only() {
    let annotated = |uid: &str| json!({"metadata": {"labels": {"chaosUID": uid}, "annotations": {"pod/a": "injected", "pod/b": "targeted"}}});
    let moved = json!({"metadata": {"labels": {"chaosUID": UID}},
        "status": {"history": {"targets": [{"name": "a", "kind": "pod", "chaosStatus": "reverted"}]}}});
    let marked = |result: &Value, pod: &str| {
        let read = Read {
            result: Some(result),
            uid: UID,
            ..Read::default()
        };
        read.is_marked(pod)
    };
    assert!(marked(&annotated(UID), "a"));
    assert!(!marked(&annotated(UID), "b"));
    assert!(!marked(&annotated("older"), "a"));
    assert!(marked(&moved, "a"));
    assert!(!marked(&moved, "b"));
}
