//! `kill -9` of the runner at every journalled step; afterwards nothing but waiting, or nothing but `chaosrun clean`.
//! No fault object may remain either way.

use crate::support::file;
use crate::support::lab::Lab;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Short holds, and a guard that expires while the test waits.
const EXPERIMENT: &str = r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: killed}
claim: {text: "a lost pod is back within 20 seconds"}
target: {namespace: matrix, deployment: web}
steadyState:
  probes:
    - {name: pods ready, pods: {ready: ">= 2"}, hold: 200ms}
faults:
  - {name: kill one, podKill: {gracePeriod: 0s}, mode: one}
slos: {rto: "< 20s"}
timeouts: {baseline: 30s, recovery: 21s, settle: 300ms}
guards: {deadline: 5s}
"#;

const DEPLOYMENT: &str = r#"{
  "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "matrix"},
  "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
      {"name": "web", "image": "busybox:1.36", "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"]}]}}}
}"#;

fn namespace_with_deployment(lab: &Lab) {
    let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "matrix"}});
    assert_eq!(lab.api("POST", "/api/v1/namespaces", Some(&namespace)).0, 201);
    let deployment: serde_json::Value = serde_json::from_str(DEPLOYMENT).unwrap();
    assert_eq!(
        lab.api("POST", "/apis/apps/v1/namespaces/matrix/deployments", Some(&deployment))
            .0,
        201
    );
}

/// What became of a run that was told to stand still.
enum Ended {
    /// It stood still, and was killed there; the last journalled event.
    Killed(String),
    /// It ran to its end: there is no such step any more.
    Finished,
}

fn start(lab: &Lab, experiment: &str, halt_at: usize) -> (Child, std::path::PathBuf) {
    let out = lab.folder().join(format!(
        "run-{halt_at}-{}",
        std::fs::read_dir(lab.folder()).unwrap().count()
    ));
    let child = lab
        .command(&["run", "--out"])
        .arg(&out)
        .arg(experiment)
        .env("CHAOSRUN_TEST_HALT_AT", halt_at.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, out)
}

fn kill_at(lab: &Lab, experiment: &str, halt_at: usize) -> Ended {
    let (mut child, out) = start(lab, experiment, halt_at);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if child.try_wait().unwrap().is_some() {
            return Ended::Finished;
        }
        assert!(Instant::now() < deadline, "the run neither stood still nor ended");
        if let Some(last) = stands_still(&out, halt_at) {
            child.kill().unwrap();
            child.wait().unwrap();
            return Ended::Killed(last);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The type of the last journalled event, once there are `halt_at` of them.
fn stands_still(out: &std::path::Path, halt_at: usize) -> Option<String> {
    const SEEN: [&str; 9] = [
        "probeSample",
        "podSeen",
        "resourceSeen",
        "watchGap",
        "revisionTick",
        "ledgerSample",
        "clockOffset",
        "clockPair",
        "runnerStalled",
    ];
    let folder = std::fs::read_dir(out).ok()?.next()?.ok()?.path();
    let log = std::fs::read_to_string(folder.join("events.jsonl")).ok()?;
    let journalled: Vec<String> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|record| {
            let kind = record["event"]["type"].as_str().unwrap_or_default().to_owned();
            format!("{kind} {}", record["event"]["step"].as_str().unwrap_or_default())
        })
        .filter(|kind| !SEEN.iter().any(|seen| kind.starts_with(seen)))
        .collect();
    (journalled.len() >= halt_at).then(|| journalled.last().cloned().unwrap_or_default())
}

fn matrix(name: &str, after: impl Fn(&Lab, &str)) {
    let lab = Lab::up(name);
    namespace_with_deployment(&lab);
    let experiment = file(lab.folder(), "killed.yaml", EXPERIMENT);
    let experiment = experiment.to_str().unwrap();
    let mut died_at = Vec::new();
    for halt_at in 1.. {
        match kill_at(&lab, experiment, halt_at) {
            Ended::Killed(step) => {
                after(&lab, &step);
                died_at.push(step);
            }
            Ended::Finished => break,
        }
    }
    // Which event is the n-th may differ by a neighbour between runs (an answer and its proof race), so neighbours stand for
    // each other; every step must have been died in.
    let died = |wanted: &str| died_at.iter().any(|died| died.contains(wanted));
    for wanted in [
        "baseline",
        "arm",
        "inject",
        "observe",
        "revert",
        "objectArmed",
        "faultArmed",
        "faultRequested",
        "undone",
        "trialEnded",
    ] {
        assert!(died(wanted), "never died at {wanted}: {died_at:?}");
    }
    for (one, other) in [
        ("faultAnswered", "faultProven"),
        ("settle", "costCounted"),
        ("teardown", "experimentEnded"),
    ] {
        assert!(died(one) || died(other), "never died at {one} or {other}: {died_at:?}");
    }
    assert!(died_at.len() >= 18, "{died_at:?}");
}

#[test]
fn killed_at_any_step_waiting_alone_removes_every_fault_object() {
    matrix("matrix-wait", |lab, step| {
        lab.wait(
            &format!("expiry after death at {step}"),
            Duration::from_secs(12),
            || lab.leftovers().is_empty(),
        );
    });
}

#[test]
fn killed_at_any_step_clean_alone_removes_every_fault_object() {
    matrix("matrix-clean", |lab, step| {
        let clean = lab.command(&["clean", "--yes"]).output().unwrap();
        assert_eq!(
            clean.status.code(),
            Some(0),
            "after death at {step}\n{}",
            crate::support::texts(&clean)
        );
        assert!(
            lab.leftovers().is_empty(),
            "after death at {step}: {:?}",
            lab.leftovers()
        );
        let again = lab.command(&["clean", "--yes"]).output().unwrap();
        assert_eq!(
            again.status.code(),
            Some(0),
            "twice is the same as once\n{}",
            crate::support::texts(&again)
        );
    });
}
