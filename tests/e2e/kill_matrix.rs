//! `kill -9` of the runner at every journalled step; afterwards nothing but waiting, or nothing but `chaosrun clean`.
//! No fault object may remain either way.

use crate::support::file;
use crate::support::lab::Lab;
use crate::support::shop::Shop;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// An experiment with these faults; short holds, and a guard that expires while the test waits.
fn experiment(faults: &[&str], guards: &str) -> String {
    format!(
        "apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {{name: killed}}
claim: {{text: it comes back}}
target: {{namespace: shop, deployment: web}}
steadyState: {{probes: [{{name: pods ready, pods: {{ready: '>= 2'}}, hold: 200ms}}]}}
faults: [{}]
slos: {{rto: '< 20s'}}
timeouts: {{baseline: 30s, recovery: 21s, settle: 300ms}}
guards: {{{guards}}}
",
        faults.join(", ")
    )
}

/// A guard that expires soon; every pod may be hit.
const SOON: &str = "deadline: 5s, maxPercent: 100";

/// Over at once; what is left is what a run itself makes.
const ONE_SHOTS: [&str; 3] = [
    "{name: kill one, podKill: {gracePeriod: 0s}, mode: one}",
    "{name: evict one, podEvict: {}, mode: one, after: 500ms}",
    "{name: end one, containerKill: {signal: TERM}, mode: one, after: 1s}",
];

/// What ends by itself: by timers inside containers, by the guard Job, by the end of an ephemeral container.
const EXPIRING: [&str; 4] = [
    "{name: memory, memoryStress: {size: 20Mi}, duration: 1s}",
    "{name: cut, networkPartition: {peer: {labels: {app: store}}, direction: to}, mode: all, duration: 1s}",
    "{name: busy, cpuStress: {}, duration: 1s}",
    "{name: delay, networkDelay: {latency: 50ms}, duration: 1s}",
];

/// The same ways to end, by other kinds. What shapes traffic has one place in a pod: one of them at a time.
const TRAFFIC: [&str; 3] = [
    "{name: lossy, networkLoss: {percent: 5%}, duration: 1s}",
    "{name: names, dnsFailure: {}, duration: 1s}",
    "{name: pause, processPause: {}, duration: 1s}",
];

/// What cannot end by itself, and is put back by its annotation or its record.
const KEPT: [&str; 5] = [
    "{name: full, diskFill: {path: /data, size: 1Mi}, duration: 1s}",
    "{name: lost, storageLoss: {path: /data/spare}, duration: 1s}",
    "{name: cordon, nodeCordon: {}, duration: 1s}",
    "{name: scale, scale: {apiVersion: apps/v1, kind: Deployment, name: store, replicas: 2}, duration: 1s}",
    "{name: delete, deleteResource: {apiVersion: v1, kind: ConfigMap, name: settings}, duration: 1s, after: 500ms}",
];

/// Objects of Chaos Mesh: owned by the guard, kept by a finalizer until they are taken back.
const MESH: [&str; 3] = [
    "{name: memory, memoryStress: {size: 20Mi}, duration: 1s, injector: chaos-mesh}",
    "{name: lossy, networkLoss: {percent: 5%}, duration: 1s, injector: chaos-mesh}",
    "{name: cut, networkPartition: {peer: {labels: {app: store}}}, duration: 1s, injector: chaos-mesh}",
];

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

/// How many events the newest run has journalled.
fn steps_of_the_last_run(lab: &Lab) -> usize {
    let outs = std::fs::read_dir(lab.folder()).unwrap().flatten();
    let newest = outs
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("run-"))
        .max_by_key(|entry| entry.metadata().and_then(|held| held.modified()).ok());
    newest.map_or(0, |entry| journalled(&entry.path()).unwrap_or_default().len())
}

/// The type of the last journalled event, once there are `halt_at` of them.
fn stands_still(out: &std::path::Path, halt_at: usize) -> Option<String> {
    let journalled = journalled(out)?;
    (journalled.len() >= halt_at).then(|| journalled.last().cloned().unwrap_or_default())
}

/// The types of what a run journalled, without what it only saw.
fn journalled(out: &std::path::Path) -> Option<Vec<String>> {
    const SEEN: [&str; 11] = [
        "probeSample",
        "podSeen",
        "resourceSeen",
        "watchGap",
        "watchBroken",
        "ledgerReached",
        "revisionTick",
        "ledgerSample",
        "clockOffset",
        "clockPair",
        "runnerStalled",
    ];
    let folder = std::fs::read_dir(out).ok()?.next()?.ok()?.path();
    let log = std::fs::read_to_string(folder.join("events.jsonl")).ok()?;
    let journalled = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|record| {
            let kind = record["event"]["type"].as_str().unwrap_or_default().to_owned();
            format!("{kind} {}", record["event"]["step"].as_str().unwrap_or_default())
        })
        .filter(|kind| !SEEN.iter().any(|seen| kind.starts_with(seen)))
        .collect();
    Some(journalled)
}

/// Every step of a run, that nothing is armed in the cluster yet among them.
const FROM_THE_BEGIN: usize = 1;
/// Everything before is the same whatever the fault is: run, experiment, trial, baseline, lock, guard and journal.
const FROM_THE_FAULT: usize = 10;

/// Kills at every step in turn; `after` looks at what is left.
fn matrix(name: &str, experiment: &str, from: usize, after: impl Fn(&Shop, &str)) {
    let shop = Shop::open(name);
    shop.store();
    matrix_in(&shop, experiment, from, after);
}

fn matrix_in(shop: &Shop, experiment: &str, from: usize, after: impl Fn(&Shop, &str)) {
    let before = shop.state();
    let machine = shop.settled_machine();
    let experiment = file(shop.lab.folder(), "killed.yaml", experiment);
    let experiment = experiment.to_str().unwrap();
    let mut died_at = Vec::new();
    for halt_at in from.. {
        shop.ready();
        match kill_at(&shop.lab, experiment, halt_at) {
            Ended::Killed(step) => {
                after(shop, &step);
                shop.ready();
                for (now, then) in shop.state().iter().zip(&before) {
                    assert_eq!(now, then, "after death at {step}");
                }
                shop.same(&machine, &format!("after death at {step}"));
                died_at.push(step);
            }
            Ended::Finished => break,
        }
    }
    // Runs do not have the same number of steps (a revert may take two attempts): the last ones are looked for from the end.
    let steps = steps_of_the_last_run(&shop.lab);
    for halt_at in (steps.saturating_sub(3)..steps).rev() {
        if died_at
            .iter()
            .any(|died| died.contains("teardown") || died.contains("trialEnded"))
        {
            break;
        }
        shop.ready();
        if let Ended::Killed(step) = kill_at(&shop.lab, experiment, halt_at) {
            after(shop, &step);
            died_at.push(step);
        }
    }
    // Which event is the n-th may differ by a neighbour between runs (an answer and its proof race), so neighbours stand for
    // each other; every step must have been died in.
    let died = |wanted: &str| died_at.iter().any(|died| died.contains(wanted));
    let begin: &[&str] = if from == FROM_THE_BEGIN {
        &["baseline", "arm", "objectArmed"]
    } else {
        &[]
    };
    for wanted in ["inject", "faultArmed", "faultRequested", "undone"].iter().chain(begin) {
        assert!(died(wanted), "never died at {wanted}: {died_at:?}");
    }
    for (one, other) in [
        ("faultAnswered", "faultProven"),
        ("observe", "revert"),
        ("settle", "costCounted"),
        ("teardown", "trialEnded"),
    ] {
        assert!(died(one) || died(other), "never died at {one} or {other}: {died_at:?}");
    }
    assert!(died_at.len() + from > 18, "{died_at:?}");
}

fn waiting_alone(shop: &Shop, step: &str) {
    let what = format!("expiry after death at {step}");
    shop.lab
        .wait(&what, Duration::from_secs(20), || shop.traces().is_empty());
}

fn clean_alone(shop: &Shop, step: &str) {
    for time in ["once", "twice"] {
        let clean = shop.lab.command(&["clean", "--yes"]).output().unwrap();
        assert_eq!(
            clean.status.code(),
            Some(0),
            "{time} after death at {step}\n{}",
            crate::support::texts(&clean)
        );
        assert_eq!(shop.traces(), Vec::<String>::new(), "{time} after death at {step}");
    }
}

#[test]
fn killed_at_any_step_waiting_alone_removes_every_fault_object() {
    matrix(
        "matrix-wait",
        &experiment(&ONE_SHOTS, SOON),
        FROM_THE_BEGIN,
        waiting_alone,
    );
}

#[test]
fn killed_at_any_step_clean_alone_removes_every_fault_object() {
    matrix(
        "matrix-clean",
        &experiment(&ONE_SHOTS, SOON),
        FROM_THE_BEGIN,
        clean_alone,
    );
}

#[test]
fn killed_at_any_step_faults_that_expire_are_over_by_waiting_alone() {
    // One of each way to end by itself: the others end in the same way, and every step costs the wait.
    let few = experiment(&EXPIRING[..2], SOON);
    matrix("expiring-wait", &few, FROM_THE_FAULT, waiting_alone);
}

fn mesh_matrix(name: &str, after: impl Fn(&Shop, &str)) {
    let shop = Shop::open(name);
    shop.store();
    crate::chaos_mesh::install(&shop.lab);
    matrix_in(&shop, &experiment(&MESH, SOON), FROM_THE_FAULT, |shop, step| {
        after(shop, step);
        assert_eq!(
            crate::chaos_mesh::chaos(shop),
            Vec::<String>::new(),
            "after death at {step}"
        );
    });
}

#[test]
fn killed_at_any_step_faults_by_chaos_mesh_are_over_by_waiting_alone() {
    mesh_matrix("mesh-wait", |shop, step| {
        let what = format!("expiry after death at {step}");
        shop.lab.wait(&what, Duration::from_secs(20), || {
            shop.traces().is_empty() && crate::chaos_mesh::chaos(shop).is_empty()
        });
    });
}

#[test]
fn killed_at_any_step_faults_by_chaos_mesh_are_over_by_clean_alone() {
    mesh_matrix("mesh-clean", clean_alone);
}

#[test]
fn killed_at_any_step_faults_that_expire_are_over_by_clean_alone() {
    matrix(
        "expiring-clean",
        &experiment(&EXPIRING, SOON),
        FROM_THE_FAULT,
        clean_alone,
    );
}

#[test]
fn killed_at_any_step_what_cannot_expire_is_put_back_by_clean_alone() {
    matrix(
        "kept-clean",
        &experiment(&KEPT, "deadline: 30s"),
        FROM_THE_FAULT,
        clean_alone,
    );
}

#[test]
fn killed_at_any_step_traffic_and_pauses_are_over_by_waiting_alone() {
    matrix(
        "traffic-wait",
        &experiment(&TRAFFIC, SOON),
        FROM_THE_FAULT,
        waiting_alone,
    );
}

#[test]
fn killed_at_any_step_traffic_and_pauses_are_over_by_clean_alone() {
    matrix(
        "traffic-clean",
        &experiment(&TRAFFIC, SOON),
        FROM_THE_FAULT,
        clean_alone,
    );
}

#[test]
fn killed_at_any_step_a_limited_bandwidth_is_over_by_waiting_alone() {
    let fault = experiment(&["{name: rate, networkBandwidth: {rate: 10mbit}, duration: 1s}"], SOON);
    matrix("rate-wait", &fault, FROM_THE_FAULT, waiting_alone);
}

#[test]
fn killed_at_any_step_a_drained_node_and_a_changed_image_are_put_back_by_clean_alone() {
    let faults = [
        "{name: drain, nodeDrain: {}, duration: 1s}",
        "{name: image, imagePullFailure: {}, duration: 1s}",
    ];
    let fault = experiment(&faults, SOON);
    matrix("drain-clean", &fault, FROM_THE_FAULT, clean_alone);
}

/// Engines of Litmus, whose pods do the work and have to take it back.
fn litmus_matrix(name: &str, after: impl Fn(&Shop, &str)) {
    let shop = Shop::open(name);
    shop.store();
    crate::litmus::install(&shop.lab);
    crate::litmus::experiments(&shop.lab, "shop");
    let fault = experiment(
        &["{name: busy, cpuStress: {workers: 1, load: 20%}, duration: 1s, injector: litmus}"],
        SOON,
    );
    matrix_in(&shop, &fault, FROM_THE_FAULT, |shop, step| {
        after(shop, step);
        assert_eq!(left_by_litmus(shop), Vec::<String>::new(), "after death at {step}");
    });
}

/// A ChaosResult is no fault but a record, which Litmus gives no owner: the one of a run that died before it was there stays.
fn left_by_litmus(shop: &Shop) -> Vec<String> {
    let mut left = crate::litmus::left(&shop.lab);
    left.retain(|found| !found.contains("chaosresults"));
    left
}

#[test]
fn killed_at_any_step_faults_by_litmus_are_over_by_waiting_alone() {
    litmus_matrix("litmus-wait", |shop, step| {
        let what = format!("expiry after death at {step}");
        shop.lab.wait(&what, Duration::from_secs(60), || {
            shop.traces().is_empty() && left_by_litmus(shop).is_empty()
        });
    });
}

#[test]
fn killed_at_any_step_faults_by_litmus_are_over_by_clean_alone() {
    litmus_matrix("litmus-clean", |shop, step| {
        clean_alone(shop, step);
        assert_eq!(
            crate::litmus::left(&shop.lab),
            Vec::<String>::new(),
            "after death at {step}"
        );
    });
}
