//! Pods as real processes: start, exit codes, logs, restart, memory, deletion. Needs root, runc, iproute2, nftables.

use std::time::{Duration, Instant};

use crate::node_support::{create, first, holds, lab, logs, phase, pods, shell, wait_pod, wait_pod_for};
use chaosrun_lab::backend::LogOptions;
use futures::TryStreamExt;
use kube::api::{DeleteParams, WatchEvent, WatchParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_its_exit_code_and_log_are_true() {
    let lab = lab("run").await;
    create(
        &lab,
        shell("good", "echo out; echo err >&2; hostname; touch /was-here; exit 0"),
    )
    .await;
    create(&lab, shell("bad", "exit 7")).await;
    create(&lab, shell("killed", "kill -9 $$; sleep 60")).await;
    let good = wait_pod(&lab, "good", "succeeded", phase("Succeeded")).await;
    let ended = &first(&good)["state"]["terminated"];
    assert_eq!(
        (ended["exitCode"].as_i64(), ended["reason"].as_str()),
        (Some(0), Some("Completed"))
    );
    assert!(first(&good)["containerID"].as_str().unwrap().starts_with("runc://"));
    let bad = wait_pod(&lab, "bad", "failed", phase("Failed")).await;
    assert_eq!(first(&bad)["state"]["terminated"]["exitCode"], 7);
    assert_eq!(first(&bad)["state"]["terminated"]["reason"], "Error");
    let mut lines: Vec<String> = logs(&lab, "good", LogOptions::default())
        .await
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["err", "good", "out"]);
    assert!(
        !std::path::Path::new("/was-here").exists(),
        "the host must not be written to"
    );
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_running_and_ready_soon_after_its_creation() {
    let lab = lab("speed").await;
    create(&lab, shell("warm", "sleep 100")).await;
    wait_pod(&lab, "warm", "running", phase("Running")).await;
    let start = Instant::now();
    create(&lab, shell("p", "sleep 100")).await;
    let pod = wait_pod(&lab, "p", "ready", |pod| holds(pod, "Ready")).await;
    let taken = start.elapsed();
    println!("creation to Ready: {taken:?}");
    assert!(taken < Duration::from_secs(3), "{taken:?}");
    assert!(pod["status"]["podIP"].as_str().unwrap().starts_with("10."));
    for condition in ["PodScheduled", "Initialized", "ContainersReady"] {
        assert!(holds(&pod, condition), "{condition}");
    }
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_is_known_before_a_container_starts_and_fields_are_in_the_environment() {
    let lab = lab("env").await;
    let mut pod = shell("p", "echo $IP $NAME $GREETING; sleep 100");
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "GREETING", "value": "hello-$(NAME)"},
    ]);
    let watch = pods(&lab).watch(&WatchParams::default(), "0").await.unwrap();
    create(&lab, pod).await;
    let mut watch = std::pin::pin!(watch);
    let mut address_first = false;
    while let Some(event) = tokio::time::timeout(Duration::from_secs(20), watch.try_next())
        .await
        .unwrap()
        .unwrap()
    {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else {
            continue;
        };
        let pod = serde_json::to_value(pod).unwrap();
        let running = first(&pod)["state"]["running"].is_object();
        if pod["status"]["podIP"].is_string() && !running {
            address_first = true;
        }
        if running {
            break;
        }
    }
    assert!(
        address_first,
        "no event with an address and without a running container"
    );
    let pod = wait_pod(&lab, "p", "running", phase("Running")).await;
    let expected = format!("{} p hello-p", pod["status"]["podIP"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(5);
    while logs(&lab, "p", LogOptions::default()).await != expected {
        assert!(Instant::now() < deadline, "log is not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_delete_shows_termination_then_the_final_phase_then_the_end() {
    let lab = lab("delete").await;
    create(
        &lab,
        shell("p", "trap 'exit 3' TERM; echo armed; while :; do sleep 0.1; done"),
    )
    .await;
    wait_pod(&lab, "p", "running", phase("Running")).await;
    // Running is not armed yet: an init without a handler ignores the signal.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !logs(&lab, "p", LogOptions::default()).await.contains("armed") {
        assert!(
            Instant::now() < deadline,
            "{}",
            logs(&lab, "p", LogOptions::default()).await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let version = pods(&lab).get("p").await.unwrap().metadata.resource_version.unwrap();
    let watch = pods(&lab).watch(&WatchParams::default(), &version).await.unwrap();
    pods(&lab).delete("p", &DeleteParams::default()).await.unwrap();
    let mut watch = std::pin::pin!(watch);
    let mut seen = Vec::new();
    while let Some(event) = tokio::time::timeout(Duration::from_secs(20), watch.try_next())
        .await
        .unwrap()
        .unwrap()
    {
        let (kind, pod) = match event {
            WatchEvent::Modified(pod) => ("modified", pod),
            WatchEvent::Deleted(pod) => ("deleted", pod),
            _ => continue,
        };
        let pod = serde_json::to_value(pod).unwrap();
        assert!(pod["metadata"]["deletionTimestamp"].is_string());
        let code = first(&pod)["state"]["terminated"]["exitCode"].as_i64();
        seen.push((kind, pod["status"]["phase"].as_str().unwrap().to_owned(), code));
        if kind == "deleted" {
            break;
        }
    }
    assert_eq!(
        seen.first().unwrap(),
        &("modified", "Running".to_owned(), None),
        "{seen:?}"
    );
    assert!(seen.contains(&("modified", "Failed".to_owned(), Some(3))), "{seen:?}");
    assert_eq!(
        seen.last().unwrap(),
        &("deleted", "Failed".to_owned(), Some(3)),
        "{seen:?}"
    );
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_process_is_killed_when_the_grace_period_is_over() {
    let lab = lab("deaf").await;
    let mut pod = shell("p", "trap '' TERM; while :; do sleep 0.1; done");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    create(&lab, pod).await;
    wait_pod(&lab, "p", "running", phase("Running")).await;
    let start = Instant::now();
    pods(&lab).delete("p", &DeleteParams::default()).await.unwrap();
    while pods(&lab).get_opt("p").await.unwrap().is_some() {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "killed too early: {:?}",
        start.elapsed()
    );
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_delete_kills_at_once_and_the_last_event_still_says_running() {
    let lab = lab("force").await;
    let marker = format!("86400.{}", std::process::id());
    create(&lab, shell("p", &format!("trap '' TERM; sleep {marker}"))).await;
    wait_pod(&lab, "p", "running", phase("Running")).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !process_exists(&marker) {
        assert!(Instant::now() < deadline, "the process never ran");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let version = pods(&lab).get("p").await.unwrap().metadata.resource_version.unwrap();
    let watch = pods(&lab).watch(&WatchParams::default(), &version).await.unwrap();
    let start = Instant::now();
    pods(&lab)
        .delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let mut watch = std::pin::pin!(watch);
    loop {
        let event = tokio::time::timeout(Duration::from_secs(5), watch.try_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if let WatchEvent::Deleted(pod) = event {
            assert_eq!(serde_json::to_value(pod).unwrap()["status"]["phase"], "Running");
            break;
        }
    }
    while process_exists(&marker) {
        assert!(start.elapsed() < Duration::from_secs(2), "the process outlives its pod");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!("forced delete to death: {:?}", start.elapsed());
    lab.stop().await.unwrap();
}

fn process_exists(marker: &str) -> bool {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        command.starts_with("sleep\0") && command.contains(marker)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_a_container_is_in_the_status_within_milliseconds() {
    let lab = lab("death").await;
    create(&lab, shell("p", "sleep 100")).await;
    let pod = wait_pod(&lab, "p", "running", phase("Running")).await;
    let version = pod["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = pods(&lab).watch(&WatchParams::default(), version).await.unwrap();
    let id = first(&pod)["containerID"]
        .as_str()
        .unwrap()
        .strip_prefix("runc://")
        .unwrap()
        .to_owned();
    let state = lab.info().kubeconfig.with_file_name("runc").join(id).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let pid = i32::try_from(state["init_process_pid"].as_i64().unwrap()).unwrap();
    let mut watch = std::pin::pin!(watch);
    let start = Instant::now();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(5), watch.try_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let WatchEvent::Modified(pod) = event else {
            continue;
        };
        let pod = serde_json::to_value(pod).unwrap();
        if first(&pod)["state"]["terminated"]["exitCode"] == 137 {
            break;
        }
    }
    let taken = start.elapsed();
    println!("death to status: {taken:?}");
    assert!(taken < Duration::from_millis(250), "{taken:?}");
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_container_restarts_at_once_and_then_backs_off() {
    let lab = lab("crash").await;
    let mut pod = shell("p", "echo run; exit 5");
    pod["spec"]["restartPolicy"] = json!("Always");
    create(&lab, pod).await;
    let looping = wait_pod(&lab, "p", "in a crash loop", |pod| {
        first(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff" && first(pod)["restartCount"] == 2
    })
    .await;
    assert_eq!(looping["status"]["phase"], "Running");
    assert_eq!(first(&looping)["lastState"]["terminated"]["exitCode"], 5);
    let previous = LogOptions {
        previous: true,
        ..LogOptions::default()
    };
    assert_eq!(logs(&lab, "p", previous).await, "run");
    let again = wait_pod(&lab, "p", "restarted again", |pod| first(pod)["restartCount"] == 3).await;
    assert_ne!(first(&again)["containerID"], first(&looping)["containerID"]);
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_oom_killed() {
    let lab = lab("oom").await;
    let mut pod = shell("p", "exec tail /dev/zero");
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "24Mi"}});
    create(&lab, pod).await;
    let failed = wait_pod_for(&lab, "p", "failed", Duration::from_mins(1), phase("Failed")).await;
    let ended = &first(&failed)["state"]["terminated"];
    assert_eq!(
        (ended["exitCode"].as_i64(), ended["reason"].as_str()),
        (Some(137), Some("OOMKilled"))
    );
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let lab = lab("refuse").await;
    let mut unknown = shell("unknown", "");
    unknown["spec"]["containers"][0]["command"] = json!(null);
    create(&lab, unknown).await;
    let mut missing = shell("missing", "");
    missing["spec"]["containers"][0]["command"] = json!(["/no/such/program"]);
    create(&lab, missing).await;
    let pulling = wait_pod(&lab, "unknown", "in ImagePullBackOff", |pod| {
        first(pod)["state"]["waiting"]["reason"] == "ImagePullBackOff"
    })
    .await;
    assert_eq!(pulling["status"]["phase"], "Pending");
    let failed = wait_pod(&lab, "missing", "failed", phase("Failed")).await;
    let ended = &first(&failed)["state"]["terminated"];
    assert_eq!(ended["reason"], "StartError");
    assert!(ended["message"].as_str().unwrap().contains("no such file"), "{ended}");
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_in_order_and_share_a_volume_with_the_main_one() {
    let lab = lab("init").await;
    let mut pod = shell("p", "cat /work/file");
    let mount = json!([{"name": "work", "mountPath": "/work"}]);
    pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = mount.clone();
    pod["spec"]["initContainers"] = json!([
        {"name": "a", "image": "x", "command": ["sh", "-c", "echo 1 >> /work/file"], "volumeMounts": mount},
        {"name": "b", "image": "x", "command": ["sh", "-c", "echo 2 >> /work/file"], "volumeMounts": mount},
    ]);
    create(&lab, pod).await;
    wait_pod(&lab, "p", "succeeded", phase("Succeeded")).await;
    assert_eq!(logs(&lab, "p", LogOptions::default()).await, "1\n2");
    lab.stop().await.unwrap();
}
