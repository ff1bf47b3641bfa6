//! Where pods go, and what is said when they cannot.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::fit::{Placement, place};

fn node(name: &str, cpu: &str, more: Value) -> Arc<Node> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": "ssd"}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    json_patch::merge(&mut value, &more);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(name: &str, node: Option<&str>, cpu: &str, more: Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": "a"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    });
    json_patch::merge(&mut value, &more);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn refused(placement: Placement) -> String {
    match placement {
        Placement::Unschedulable(message) => message,
        Placement::Node(node) => panic!("placed on {node}"),
    }
}

#[test]
fn the_node_with_most_left_wins() {
    let nodes = [node("a", "4", json!({})), node("b", "4", json!({}))];
    let placed = [pod("p", Some("a"), "1", json!({}))];
    assert_eq!(
        place(&pod("q", None, "1", json!({})), &nodes, &placed),
        Placement::Node("b".into())
    );
}

#[test]
fn pods_of_one_owner_are_spread() {
    let owner = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}
    ]}});
    let nodes = [node("a", "64", json!({})), node("b", "4", json!({}))];
    let placed = [pod("p", Some("a"), "1m", owner.clone())];
    assert_eq!(
        place(&pod("q", None, "1m", owner), &nodes, &placed),
        Placement::Node("b".into())
    );
}

#[test]
fn a_full_node_is_refused_until_a_pod_has_ended() {
    let nodes = [node("a", "1", json!({}))];
    let running = pod("p", Some("a"), "800m", json!({"status": {"phase": "Running"}}));
    let wanted = pod("q", None, "300m", json!({}));
    let message = refused(place(&wanted, &nodes, &[running]));
    assert!(
        message.starts_with("0/1 nodes are available: 1 Insufficient cpu."),
        "{message}"
    );
    let ended = pod("p", Some("a"), "800m", json!({"status": {"phase": "Succeeded"}}));
    assert_eq!(place(&wanted, &nodes, &[ended]), Placement::Node("a".into()));
}

#[test]
fn cordoned_tainted_and_unready_nodes_are_refused_each_with_its_reason() {
    let nodes = [
        node("cordoned", "1", json!({"spec": {"unschedulable": true}})),
        node(
            "tainted",
            "1",
            json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
        ),
        node(
            "unready",
            "1",
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
        ),
        node("other", "1", json!({"metadata": {"labels": {"disk": "hdd"}}})),
    ];
    let wanted = pod("q", None, "1m", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    let message = refused(place(&wanted, &nodes, &[]));
    for part in [
        "0/4 nodes are available: ",
        "1 node(s) were unschedulable",
        "1 node(s) had untolerated taint {k: v}",
        "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
        "1 node(s) didn't match Pod's node affinity/selector",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(refused(place(&wanted, &[], &[])), "no nodes available to schedule pods");
}

#[test]
fn a_toleration_opens_a_tainted_node() {
    let nodes = [node(
        "t",
        "1",
        json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
    )];
    for toleration in [
        json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}),
        json!({"key": "k", "operator": "Exists"}),
        json!({"operator": "Exists"}),
    ] {
        let wanted = pod("q", None, "1m", json!({"spec": {"tolerations": [toleration]}}));
        assert_eq!(place(&wanted, &nodes, &[]), Placement::Node("t".into()));
    }
    let wrong = pod(
        "q",
        None,
        "1m",
        json!({"spec": {"tolerations": [{"key": "k", "value": "other"}]}}),
    );
    refused(place(&wrong, &nodes, &[]));
}

#[test]
fn anti_affinity_keeps_pods_apart_in_both_directions() {
    let apart = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}}
    ]}}}});
    let nodes = [node("a", "4", json!({})), node("b", "4", json!({}))];
    let first = pod("p", Some("a"), "1m", apart.clone());
    let placed = [Arc::clone(&first)];
    assert_eq!(
        place(&pod("q", None, "1m", apart.clone()), &nodes, &placed),
        Placement::Node("b".into())
    );
    assert_eq!(
        place(&pod("q", None, "1m", json!({})), &nodes, &placed),
        Placement::Node("b".into())
    );
    let both = [first, pod("r", Some("b"), "1m", apart.clone())];
    let message = refused(place(&pod("q", None, "1m", apart), &nodes, &both));
    assert!(
        message.contains("2 node(s) didn't match pod anti-affinity rules"),
        "{message}"
    );
}

#[test]
fn node_affinity_reads_labels_and_the_name_field() {
    let nodes = [node("a", "4", json!({})), node("b", "4", json!({}))];
    let by = |terms: Value| {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})
    };
    let field = by(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]));
    assert_eq!(
        place(&pod("q", None, "1m", field), &nodes, &[]),
        Placement::Node("b".into())
    );
    let label = by(json!([
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["a"]}]}
    ]));
    assert_eq!(
        place(&pod("q", None, "1m", label), &nodes, &[]),
        Placement::Node("b".into())
    );
    refused(place(&pod("q", None, "1m", by(json!([{}]))), &nodes, &[]));
}
