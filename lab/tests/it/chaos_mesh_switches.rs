//! Misbehaviour of the double of Chaos Mesh that a client has to survive, each as it can be asked for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::chaos_mesh_support::{Kind, condition, events, install, lab, only, record, run, until};
use crate::node_support::{create, phase, pods, shell, wait_pod};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

fn stress(pod: &str) -> Value {
    json!({"mode": "all", "selector": only(pod), "stressors": {"memory": {"workers": 1, "size": "8MB"}}})
}

fn records(object: &Value) -> Vec<&str> {
    let records = object["status"]["experiment"]["containerRecords"].as_array();
    records
        .into_iter()
        .flatten()
        .map(|record| record["phase"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn some_targets_are_not_hit_and_what_cannot_be_applied_or_recovered_hangs() {
    let lab = lab("mesh-odd").await;
    install(&lab).await;
    for name in ["cart", "shop", "pay"] {
        create(&lab, shell(name, "sleep 1000")).await;
    }
    for name in ["cart", "shop", "pay"] {
        wait_pod(&lab, name, "running", phase("Running")).await;
    }
    let kind = Kind::new(&lab, "StressChaos", "stresschaos");
    let mut three = stress("cart");
    three["selector"] = json!({"pods": {"default": ["cart", "shop", "pay"]}});
    kind.create_switched("some", &three, &[("partial", "2")]).await;
    let some = kind
        .wait("some", "two of three", |object| {
            records(object).iter().filter(|phase| **phase == "Injected").count() == 2 && condition(object, "Selected")
        })
        .await;
    assert_eq!(records(&some).len(), 3);
    assert!(!condition(&some, "AllInjected") && !condition(&some, "AllRecovered"));
    kind.delete("some").await;
    kind.gone("some").await;

    // A cancel that fails without a word: nothing is tried again, and here force does help.
    kind.create_switched("quiet", &stress("cart"), &[("recoverSilently", "true")])
        .await;
    kind.injected("quiet").await;
    kind.delete("quiet").await;
    let stuck = kind
        .wait("quiet", "stopping", |object| {
            object["status"]["experiment"]["desiredPhase"] == "Stop"
        })
        .await;
    assert_eq!(records(&stuck), ["Injected"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!kind.get("quiet").await.is_null());
    assert!(events(&lab, "quiet", "Failed").await.is_empty());
    kind.force("quiet").await;
    kind.gone("quiet").await;
    let (_, processes) = run(&lab, "cart", "cat /proc/[0-9]*/cmdline").await;
    assert!(processes.contains("intruder"), "the fault is left behind: {processes}");

    // What waits for ever is first applied, also when it shall go.
    let network = Kind::new(&lab, "NetworkChaos", "networkchaos");
    let cut = json!({"action": "partition", "mode": "all", "selector": only("shop")});
    network.create_switched("never", &cut, &[("applyNever", "true")]).await;
    let waits = network
        .wait("never", "failing", |object| !record(object)["events"].is_null())
        .await;
    assert_eq!(record(&waits)["phase"], "Not Injected/Wait");
    network.delete("never").await;
    network.force("never").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!network.get("never").await.is_null(), "force does not help");
    network.unswitch("never", "applyNever").await;
    network.gone("never").await;

    // A pod of the same name takes the place of its target: nobody tells, and it is not hit.
    kind.create("moved", &stress("pay")).await;
    kind.injected("moved").await;
    pods(&lab)
        .delete("pay", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("the pod is gone", || async {
        pods(&lab).get_opt("pay").await.unwrap().is_none()
    })
    .await;
    create(&lab, shell("pay", "sleep 1000")).await;
    wait_pod(&lab, "pay", "running", phase("Running")).await;
    assert!(condition(&kind.get("moved").await, "AllInjected"));
    let (_, processes) = run(&lab, "pay", "cat /proc/[0-9]*/cmdline").await;
    assert!(!processes.contains("intruder"), "{processes}");
    kind.delete("moved").await;
    kind.gone("moved").await;
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn time_events_and_conditions_are_not_to_be_relied_on() {
    let lab = lab("mesh-vague").await;
    install(&lab).await;
    create(&lab, shell("cart", "sleep 1000")).await;
    wait_pod(&lab, "cart", "running", phase("Running")).await;
    let kind = Kind::new(&lab, "StressChaos", "stresschaos");

    let begun = Instant::now();
    let mut short = stress("cart");
    short["duration"] = json!("1s");
    kind.create_switched("late", &short, &[("lateExpiry", "3s")]).await;
    let over = kind
        .wait("late", "stopped", |object| {
            object["status"]["experiment"]["desiredPhase"] == "Stop" && records(object) == ["Not Injected"]
        })
        .await;
    // The creation is known in whole seconds only, so that up to one of the four can be missing.
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(record(&over)["recoveredCount"], 1);

    // Older than 2.6.3: nothing selected counts as everything. The order of conditions is by chance in any version.
    let mut orders = BTreeSet::new();
    for index in 0..12 {
        let name = format!("none-{index}");
        kind.create_switched(&name, &stress("nobody"), &[("conditionsBefore263", "true")])
            .await;
        let none = kind
            .wait(&name, "worked on", |object| !object["status"]["conditions"].is_null())
            .await;
        assert!(!condition(&none, "Selected") && condition(&none, "AllInjected") && condition(&none, "AllRecovered"));
        let conditions = none["status"]["conditions"].as_array().unwrap();
        orders.insert(conditions.iter().map(|one| one["type"].to_string()).collect::<String>());
    }
    assert!(orders.len() > 1, "{orders:?}");
    assert!(
        !events(&lab, "none-0", "Failed").await.is_empty(),
        "told by an Event only"
    );

    // A second writer is always faster than whoever reads first and writes then.
    kind.create_switched("busy", &stress("cart"), &[("restless", "20ms")])
        .await;
    kind.injected("busy").await;
    let read = kind.api.get("busy").await.unwrap();
    let version = read.metadata.resource_version.clone();
    until("the other one has written", || async {
        kind.api.get("busy").await.unwrap().metadata.resource_version != version
    })
    .await;
    match kind.api.replace("busy", &PostParams::default(), &read).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 409),
        other => panic!("not refused: {other:?}"),
    }
    kind.delete("busy").await;
    kind.gone("busy").await;

    // For everybody, by a ConfigMap: no Event is ever seen.
    let switches: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "chaosrun-double-switches"}, "data": {"loseEvents": "true"},
    }))
    .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(lab.client(), "chaos-mesh");
    maps.create(&PostParams::default(), &switches).await.unwrap();
    kind.create("silent", &stress("cart")).await;
    kind.injected("silent").await;
    kind.delete("silent").await;
    kind.gone("silent").await;
    maps.delete("chaosrun-double-switches", &DeleteParams::default())
        .await
        .unwrap();
    kind.create("loud", &stress("cart")).await;
    kind.injected("loud").await;
    until("its Event", || async {
        !events(&lab, "loud", "Applied").await.is_empty()
    })
    .await;
    for reason in ["Started", "Applied", "Recovered"] {
        assert!(events(&lab, "silent", reason).await.is_empty(), "{reason}");
    }
    lab.stop().await.unwrap();
}
