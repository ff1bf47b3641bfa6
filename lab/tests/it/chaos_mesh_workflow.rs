//! Workflows and schedules in the double of Chaos Mesh: what comes after what, and what is never called accomplished.

use std::time::Duration;

use crate::chaos_mesh_support::{Kind, condition, install, lab, only, until};
use crate::node_support::{create, phase, pods, shell, wait_pod};
use kube::api::ListParams;
use serde_json::{Value, json};

/// The nodes of a workflow by the name of their template.
async fn nodes(kind: &Kind, flow: &str) -> Vec<(String, Value)> {
    let labels = format!("chaos-mesh.org/workflow={flow}");
    let listed = kind.api.list(&ListParams::default().labels(&labels)).await.unwrap();
    listed
        .items
        .iter()
        .map(|node| {
            let node = serde_json::to_value(node).unwrap();
            (node["spec"]["templateName"].as_str().unwrap().to_owned(), node)
        })
        .collect()
}

async fn node(kind: &Kind, flow: &str, template: &str) -> Option<Value> {
    let found = nodes(kind, flow).await.into_iter().find(|(name, _)| name == template);
    found.map(|(_, node)| node)
}

/// Waits for a condition of the node of a template.
async fn node_with(kind: &Kind, flow: &str, template: &str, holds: &str) -> Value {
    until(&format!("{template} has {holds}"), || async {
        let found = node(kind, flow, template).await;
        found.is_some_and(|node| condition(&node, holds))
    })
    .await;
    node(kind, flow, template).await.unwrap()
}

fn reason<'a>(node: &'a Value, kind: &str) -> &'a str {
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.unwrap()["reason"].as_str().unwrap()
}

fn stress(pod: &str) -> Value {
    json!({"mode": "all", "selector": only(pod), "stressors": {"memory": {"workers": 1, "size": "8MB"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_is_one_node_after_the_other_or_beside_it_and_each_experiment_ends_by_its_deadline() {
    let lab = lab("mesh-flow").await;
    install(&lab).await;
    create(&lab, shell("cart", "sleep 1000")).await;
    create(&lab, shell("shop", "sleep 1000")).await;
    wait_pod(&lab, "cart", "running", phase("Running")).await;
    wait_pod(&lab, "shop", "running", phase("Running")).await;
    let flows = Kind::new(&lab, "Workflow", "workflows");
    let steps = Kind::new(&lab, "WorkflowNode", "workflownodes");
    let chaos = Kind::new(&lab, "StressChaos", "stresschaos");

    let spec = json!({"entry": "all", "templates": [
        {"name": "all", "templateType": "Serial", "children": ["wait", "both"]},
        {"name": "wait", "templateType": "Suspend", "deadline": "2s"},
        {"name": "both", "templateType": "Parallel", "children": ["one", "two"]},
        {"name": "one", "templateType": "StressChaos", "deadline": "3s", "stressChaos": stress("cart")},
        {"name": "two", "templateType": "StressChaos", "deadline": "4s", "stressChaos": stress("shop")},
    ]});
    flows.create("flow", &spec).await;
    let wait = node_with(&steps, "flow", "wait", "DeadlineExceed").await;
    assert_eq!(reason(&wait, "DeadlineExceed"), "NodeDeadlineExceed");
    assert!(!condition(&wait, "Accomplished"), "a deadline is no success");
    let one = node_with(&steps, "flow", "one", "ChaosInjected").await;
    assert_eq!(reason(&one, "ChaosInjected"), "ChaosCRCreated");
    assert!(one["metadata"]["name"].as_str().unwrap().starts_with("one-"));
    let both = node(&steps, "flow", "both").await.unwrap();
    let labels = &one["metadata"]["labels"];
    assert_eq!(labels["chaos-mesh.org/controlled-by"], both["metadata"]["name"]);
    assert_eq!(labels["chaos-mesh.org/workflow"], "flow");
    let made = one["status"]["chaosResource"]["name"].as_str().unwrap().to_owned();
    let injected = chaos.injected(&made).await;
    assert_eq!(
        injected["metadata"]["labels"]["chaos-mesh.org/controlled-by"],
        one["metadata"]["name"]
    );
    let running = flows.get("flow").await;
    assert!(condition(&running, "Scheduled") && !condition(&running, "Accomplished"));
    node_with(&steps, "flow", "two", "ChaosInjected").await;

    let over = flows
        .wait("flow", "accomplished", |flow| condition(flow, "Accomplished"))
        .await;
    assert!(over["status"]["endTime"].is_string());
    for template in ["all", "both"] {
        let node = node(&steps, "flow", template).await.unwrap();
        assert!(condition(&node, "Accomplished"), "{template}: {node:#}");
        assert_eq!(node["status"]["finishedChildren"].as_array().unwrap().len(), 2);
        assert_eq!(node["status"]["activeChildren"], json!([]));
    }
    for template in ["one", "two"] {
        let node = node(&steps, "flow", template).await.unwrap();
        assert!(condition(&node, "DeadlineExceed") && !condition(&node, "Accomplished"));
    }
    chaos.gone(&made).await;
    until("the node knows that its experiment is gone", || async {
        let one = node(&steps, "flow", "one").await.unwrap();
        !condition(&one, "ChaosInjected") && reason(&one, "ChaosInjected") == "ChaosCRDeleted"
    })
    .await;
    // What it has made goes with it.
    flows.delete("flow").await;
    flows.gone("flow").await;
    until("its nodes are gone", || async {
        nodes(&steps, "flow").await.is_empty()
    })
    .await;

    // Without a deadline even a kill never ends, until somebody aborts; a parent's deadline ends its children.
    let kill = json!({"action": "pod-kill", "mode": "all", "selector": only("shop")});
    let spec = json!({"entry": "kill", "templates": [{"name": "kill", "templateType": "PodChaos", "podChaos": kill}]});
    flows.create("hang", &spec).await;
    until("the pod is gone", || async {
        pods(&lab).get_opt("shop").await.unwrap().is_none()
    })
    .await;
    let kill = node_with(&steps, "hang", "kill", "ChaosInjected").await;
    assert_eq!(reason(&kill, "DeadlineExceed"), "NodeDeadlineOmitted");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!condition(&flows.get("hang").await, "Accomplished"), "it hangs");
    let abort = json!({"metadata": {"annotations": {"workflow.chaos-mesh.org/abort": "true"}}});
    flows.patch("hang", abort).await;
    flows
        .wait("hang", "accomplished all the same", |flow| {
            condition(flow, "Accomplished")
        })
        .await;
    let kill = node_with(&steps, "hang", "kill", "Aborted").await;
    assert_eq!(reason(&kill, "Aborted"), "WorkflowAborted");

    let spec = json!({"entry": "short", "templates": [
        {"name": "short", "templateType": "Parallel", "deadline": "2s", "children": ["long"]},
        {"name": "long", "templateType": "StressChaos", "deadline": "5m", "stressChaos": stress("cart")},
    ]});
    flows.create("cut", &spec).await;
    let long = node_with(&steps, "cut", "long", "DeadlineExceed").await;
    assert_eq!(reason(&long, "DeadlineExceed"), "ParentNodeDeadlineExceed");
    let made = long["status"]["chaosResource"]["name"].as_str().unwrap();
    chaos.gone(made).await;
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_makes_one_experiment_after_the_other_and_keeps_what_its_limit_says() {
    let lab = lab("mesh-sched").await;
    install(&lab).await;
    create(&lab, shell("cart", "sleep 1000")).await;
    wait_pod(&lab, "cart", "running", phase("Running")).await;
    let schedules = Kind::new(&lab, "Schedule", "schedules");
    let chaos = Kind::new(&lab, "StressChaos", "stresschaos");
    let children = |schedule: &'static str| {
        let chaos = chaos.clone();
        async move {
            let labels = format!("managed-by={schedule}");
            let listed = chaos.api.list(&ListParams::default().labels(&labels)).await.unwrap();
            listed
                .items
                .iter()
                .map(|one| serde_json::to_value(one).unwrap())
                .collect::<Vec<Value>>()
        }
    };
    let mut embedded = stress("cart");
    embedded["duration"] = json!("1s");
    let spec = json!({"schedule": "@every 2s", "type": "StressChaos", "historyLimit": 1, "stressChaos": embedded});
    schedules.create("often", &spec).await;
    until("a first child", || async { !children("often").await.is_empty() }).await;
    let first = children("often").await.remove(0);
    let name = first["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("often-") && name.len() == "often-".len() + 5, "{name}");
    // On a busy machine the first one may be over before anybody looks.
    until("one of them is injected", || async {
        let now = children("often").await;
        now.iter()
            .any(|one| one.pointer("/status/experiment/containerRecords/0/injectedCount") == Some(&json!(1)))
    })
    .await;
    until("the first one is over, and a second one takes its place", || async {
        let now = children("often").await;
        chaos.get(&name).await.is_null() && !now.is_empty()
    })
    .await;
    // Paused, nothing comes any more.
    let pause = json!({"metadata": {"annotations": {"experiment.chaos-mesh.org/pause": "true"}}});
    let paused = schedules.patch("often", pause).await;
    assert!(paused["status"]["time"].is_string(), "{paused:#}");
    assert!(
        paused["status"].get("conditions").is_none(),
        "a Schedule has no conditions"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = schedules.get("often").await["status"]["time"].clone();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(schedules.get("often").await["status"]["time"], before);
    lab.stop().await.unwrap();
}
