//! The life of experiments in the double of Chaos Mesh: every version that a watcher sees, and what really happens to pods.

use std::time::Duration;

use crate::chaos_mesh_support::{Kind, condition, events, install, lab, only, record, run};
use crate::node_support::{create, first, phase, pods, shell, wait_pod};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_continuous_experiment_shows_each_of_its_versions_and_holds_memory_where_the_limit_counts() {
    let lab = lab("mesh-stress").await;
    install(&lab).await;
    let mut pod = shell("cart", "sleep 1000");
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "256Mi"}});
    create(&lab, pod).await;
    wait_pod(&lab, "cart", "running", phase("Running")).await;
    let kind = Kind::new(&lab, "StressChaos", "stresschaos");
    let versions = kind.versions("squeeze").await;
    let stress = |size: &str, duration: &str| json!({"mode": "all", "selector": only("cart"), "duration": duration, "stressors": {"memory": {"workers": 1, "size": size}}});
    kind.create("squeeze", &stress("64MB", "60s")).await;
    let injected = kind.injected("squeeze").await;
    assert_eq!(record(&injected)["id"], "default/cart/main");
    assert_eq!(record(&injected)["injectedCount"], 1);
    assert!(injected["status"]["instances"]["default/cart/main"]["memoryUid"].is_string());
    let held = || memory_of(&lab, "cart");
    let begun = std::time::Instant::now();
    while held().await < 60 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} bytes", held().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Pausing recovers, and resuming works on the same record.
    let pause = |value: &str| json!({"metadata": {"annotations": {"experiment.chaos-mesh.org/pause": value}}});
    kind.patch("squeeze", pause("true")).await;
    let paused = kind
        .wait("squeeze", "recovered", |object| condition(object, "AllRecovered"))
        .await;
    assert!(
        condition(&paused, "Paused") && record(&paused)["recoveredCount"] == 1,
        "{paused:#}"
    );
    assert!(held().await < 40 << 20, "{} bytes are left", held().await);
    kind.patch("squeeze", pause("false")).await;
    kind.injected("squeeze").await;
    assert_eq!(record(&kind.get("squeeze").await)["injectedCount"], 2);
    kind.delete("squeeze").await;
    kind.gone("squeeze").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        versions.all(),
        [
            "free - --- ",
            "kept - --- ",
            "kept Run --- ",
            "kept Run FFF ",
            "kept Run FFF Injected",
            "kept Run TTF Injected",
            // paused
            "kept Run TTF Injected",
            "kept Stop TTF Injected",
            "kept Stop TTF Injected",
            "kept Stop TTF Not Injected",
            "kept Stop TFT Not Injected",
            // resumed
            "kept Stop TFT Not Injected",
            "kept Run TFT Not Injected",
            "kept Run TFT Not Injected",
            "kept Run TFT Injected",
            "kept Run TTF Injected",
            // deleted: the conditions are never right again
            "kept Run TTF Injected deleting",
            "kept Stop TTF Injected deleting",
            "kept Stop TTF Not Injected deleting",
            "gone",
        ]
    );
    let applied = events(&lab, "squeeze", "Applied").await;
    assert_eq!(applied.len(), 2, "{applied:?}");
    let name = applied[0].metadata.name.as_deref().unwrap();
    let stamp = i128::from_str_radix(name.strip_prefix("squeeze.").unwrap(), 16).unwrap();
    assert!((jiff_now() - stamp).abs() < 60_000_000_000, "{name}");
    let annotations = applied[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["chaos-mesh.org/id"], "default/cart/main");

    // More than the container may have: the kernel kills, and the status does not notice.
    kind.create("burst", &stress("1GB", "3s")).await;
    kind.injected("burst").await;
    let begun = std::time::Instant::now();
    while oom_kills(&lab, "cart").await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing was killed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        condition(&kind.get("burst").await, "AllInjected"),
        "still said to be injected"
    );
    // Its time is up by itself, and the object stays.
    let over = kind
        .wait("burst", "over", |object| condition(object, "AllRecovered"))
        .await;
    assert_eq!(over["status"]["experiment"]["desiredPhase"], "Stop");
    assert_eq!(events(&lab, "burst", "TimeUp").await.len(), 1);
    lab.stop().await.unwrap();
}

fn jiff_now() -> i128 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i128::try_from(now.as_nanos()).unwrap()
}

/// The folder of the container's control group that counts memory.
async fn memory_folder(lab: &chaosrun_lab::lifecycle::Lab, pod: &str) -> std::path::PathBuf {
    let object = serde_json::to_value(pods(lab).get(pod).await.unwrap()).unwrap();
    let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
    let id = first(&object)["containerID"]
        .as_str()
        .unwrap()
        .trim_start_matches("runc://")
        .to_owned();
    let group = format!("{}/{uid}/{id}", lab.info().control_group.trim_start_matches('/'));
    let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
    let found = roots
        .iter()
        .map(|root| std::path::Path::new(root).join(&group))
        .find(|folder| folder.is_dir());
    found.expect("the container's control group")
}

async fn memory_of(lab: &chaosrun_lab::lifecycle::Lab, pod: &str) -> u64 {
    let folder = memory_folder(lab, pod).await;
    let files = ["memory.usage_in_bytes", "memory.current"];
    let text = files
        .iter()
        .find_map(|file| std::fs::read_to_string(folder.join(file)).ok());
    text.unwrap().trim().parse().unwrap()
}

async fn oom_kills(lab: &chaosrun_lab::lifecycle::Lab, pod: &str) -> u64 {
    let folder = memory_folder(lab, pod).await;
    let files = ["memory.oom_control", "memory.events"];
    let text = files
        .iter()
        .find_map(|file| std::fs::read_to_string(folder.join(file)).ok())
        .unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_killed_restarted_and_made_to_fail() {
    let lab = lab("mesh-pods").await;
    install(&lab).await;
    for name in ["cart", "shop", "pay"] {
        let mut pod = shell(name, "trap 'exit 0' TERM; while :; do sleep 0.1; done");
        pod["spec"]["restartPolicy"] = json!("Always");
        create(&lab, pod).await;
    }
    for name in ["cart", "shop", "pay"] {
        wait_pod(&lab, name, "running", phase("Running")).await;
    }
    let kind = Kind::new(&lab, "PodChaos", "podchaos");
    let spec = |action: &str, pod: &str| json!({"action": action, "mode": "all", "selector": only(pod), "containerNames": ["main"]});

    // A one-shot ends injected, and time and pause have no say.
    let versions = kind.versions("kill").await;
    let mut kill = spec("pod-kill", "cart");
    kill["duration"] = json!("1s");
    kind.create("kill", &kill).await;
    kind.injected("kill").await;
    crate::chaos_mesh_support::until("the pod is gone", || async {
        pods(&lab).get_opt("cart").await.unwrap().is_none()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        versions.all(),
        [
            "free - --- ",
            "kept - --- ",
            "kept Run --- ",
            "kept Run FFF ",
            "kept Run FFF Injected",
            "kept Run TTF Injected"
        ]
    );
    kind.delete("kill").await;
    kind.gone("kill").await;

    kind.create("stop", &spec("container-kill", "shop")).await;
    let killed = kind.injected("stop").await;
    assert_eq!(record(&killed)["id"], "default/shop/main");
    let restarted = wait_pod(&lab, "shop", "restarted", |pod| first(pod)["restartCount"] == 1).await;
    assert_eq!(first(&restarted)["lastState"]["terminated"]["exitCode"], 137);

    kind.create("fail", &spec("pod-failure", "pay")).await;
    kind.injected("fail").await;
    let failing = wait_pod(&lab, "pay", "failing", |pod| !crate::node_support::holds(pod, "Ready")).await;
    assert_eq!(
        failing["spec"]["containers"][0]["image"],
        "gcr.io/google-containers/pause:latest"
    );
    let key = "chaos-mesh-fail-pod-failure-main-normal-image";
    assert_eq!(failing["metadata"]["annotations"][key], "busybox");
    kind.delete("fail").await;
    kind.gone("fail").await;
    let healed = wait_pod(&lab, "pay", "well again", |pod| {
        crate::node_support::holds(pod, "Ready")
    })
    .await;
    assert_eq!(healed["spec"]["containers"][0]["image"], "busybox");
    assert_eq!(healed["metadata"]["annotations"].get(key), None::<&Value>);
    assert_eq!(run(&lab, "pay", "echo here").await, (0, "here\n".to_owned()));
    lab.stop().await.unwrap();
}
