//! What it costs to watch ten thousand pods: the lab's API server in this process holds them (objects only: nothing runs them, and
//! this test writes their status, as a double of their kubelets), and chaosrun watches them as a target of its own process.
//!
//! `scripts/watch-10000-pods.sh` runs this optimised, and prints what it cost.

use crate::support::{chaosrun, file};
use chaosrun_lab::api::{ApiServer, ApiServerConfig};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Ten thousand when measured; fewer as a test, since each is two requests to a server that may be built without optimisation.
fn pods() -> usize {
    number("CHAOSRUN_PODS", 2_000)
}

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

/// The steady state has to hold for longer than is watched, so that the run stays quiet.
const EXPERIMENT: &str = r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: many}
claim: {text: "a lost pod is back within a minute"}
target: {namespace: many, labels: {app: web}}
steadyState:
  probes:
    - {name: pods ready, pods: {ready: ">= 1"}, hold: 5m}
faults:
  - {name: kill one, podKill: {gracePeriod: 0s}, mode: one}
slos: {rto: "< 120s"}
timeouts: {baseline: 10m, recovery: 10m}
"#;

async fn fill(api: &Api<Pod>) {
    let labels = json!({"app": "web", "pod-template-hash": "6d4cf56db6", "app.kubernetes.io/name": "web"});
    for number in 0..pods() {
        let name = format!("web-6d4cf56db6-{number:05}");
        let pod = json!({"metadata": {"name": name, "labels": labels,
                "annotations": {"checksum/config": "8c1f6d1e0b7a4f7f9d0c", "kubernetes.io/psp": "restricted"}},
            "spec": {"schedulerName": "nobody", "nodeName": format!("node-{}", number % 200),
                "containers": [{"name": "web", "image": "registry.example/shop/web:1.36",
                    "env": (0..10).map(|number| json!({"name": format!("SETTING_{number}"), "value": "a value of some length"}))
                        .collect::<Vec<_>>(),
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}});
        api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
        let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.1.0.1",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "web", "ready": true, "restartCount": 0, "image": "web", "imageID": "",
                "containerID": format!("containerd://{number:064x}"),
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }
}

/// A line of /proc/PID/status, in kB.
fn kilobytes(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':')
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// User and system time so far. The kernel counts in hundredths of a second.
fn processor_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    let ticks = |index: usize| after.split(' ').nth(index).unwrap().parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// Lines of the log that tell of a pod.
fn seen(folder: &Path) -> usize {
    let runs = folder.join("runs");
    let Ok(entries) = std::fs::read_dir(runs) else { return 0 };
    let logs = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("events.jsonl")).ok());
    logs.map(|log| log.matches("\"type\":\"podSeen\"").count()).sum()
}

/// Data that a run may hold: some without pods, and some for each, both with room to spare.
fn most_kilobytes() -> u64 {
    25_000 + 6 * pods() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_pods_are_watched_in_tens_of_megabytes() {
    let server = ApiServer::new(ApiServerConfig::default()).unwrap();
    let serving = server
        .serve(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .await
        .unwrap();
    let client = server.client("kubelet-double");
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "many"}})).unwrap();
    Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    fill(&Api::namespaced(client, "many")).await;
    let folder = tempfile::tempdir().unwrap();
    let config = server.kubeconfig_for(&format!("https://{}", serving.addresses()[0]));
    let config = file(folder.path(), "kubeconfig", &config);
    file(folder.path(), "many.yaml", EXPERIMENT);
    let mut run = chaosrun(folder.path())
        .args([
            "--kubeconfig",
            config.to_str().unwrap(),
            "run",
            "--out",
            "runs",
            "many.yaml",
        ])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("stderr.txt")).unwrap())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while seen(folder.path()) < pods() {
        if started.elapsed() > Duration::from_secs(290) {
            run.kill().unwrap();
        }
        assert!(
            run.try_wait().unwrap().is_none(),
            "{}",
            std::fs::read_to_string(folder.path().join("stderr.txt")).unwrap()
        );
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "only {} pods were seen",
            seen(folder.path())
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let listed = started.elapsed();
    let seconds = number("CHAOSRUN_QUIET_SECONDS", 5) as u64;
    let (before, from) = (processor_seconds(run.id()), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let quiet = (processor_seconds(run.id()) - before) / from.elapsed().as_secs_f64();
    // A program that is not optimised is a hundred megabytes of code, which is none of what pods cost.
    let own = kilobytes(run.id(), "RssAnon");
    let (resident, peak) = (kilobytes(run.id(), "VmRSS"), kilobytes(run.id(), "VmHWM"));
    println!(
        "{} pods: known after {:.1} s, {} MB resident ({} MB of it data), {} MB at most, {:.2} % of a processor over {seconds} s of quiet",
        pods(),
        listed.as_secs_f64(),
        resident / 1000,
        own / 1000,
        peak / 1000,
        quiet * 100.0
    );
    let lists = server
        .requests()
        .into_iter()
        .filter(|count| count.resource == "pods" && count.verb == "list" && count.user_agent.starts_with("chaosrun/"));
    let lists: u64 = lists.map(|count| count.count).sum();
    // An orderly end, so that nothing is left behind; what it says is not of interest here.
    rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::TERM).unwrap();
    tokio::task::spawn_blocking(move || run.wait()).await.unwrap().unwrap();
    serving.stop().await;
    assert!(own <= most_kilobytes(), "{own} kB");
    let pages = pods() as u64 / 100;
    assert!(
        lists <= 2 * pages + 4,
        "one list in pages, and a look or two at who could be hit: {lists}"
    );
}
