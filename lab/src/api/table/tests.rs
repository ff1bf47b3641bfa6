//! What `kubectl get` shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pods::summarize;
use super::{IncludeObject, human, to_table};
use crate::api::registry::{CustomType, Registry, ResourceType};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn row(group: &str, plural: &str, object: &Value) -> Vec<Value> {
    let version = "v1";
    let resource = Registry::new().get(group, version, plural).unwrap();
    let table = to_table(&resource, &[object], now(), IncludeObject::Metadata);
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(
        cells.len(),
        table["columnDefinitions"].as_array().unwrap().len(),
        "a cell for each column of {plural}"
    );
    cells
}

fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:59:00Z"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
        "status": status})
}

#[test]
fn the_status_of_a_pod_is_the_one_that_kubectl_users_know() {
    let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
    let running = json!({"ready": true, "state": {"running": {}}});
    let ended = |reason: &str, code: i64| json!({"state": {"terminated": {"reason": reason, "exitCode": code}}});
    let cases = [
        (json!({"phase": "Pending"}), "Pending"),
        (
            json!({"phase": "Running", "containerStatuses": [running, running]}),
            "Running",
        ),
        (
            json!({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}),
            "ContainerCreating",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff"), running]}),
            "CrashLoopBackOff",
        ),
        (
            json!({"phase": "Pending", "containerStatuses": [waiting("ErrImagePull")]}),
            "ErrImagePull",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [ended("Completed", 0)]}),
            "Completed",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended("Error", 1)]}),
            "Error",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended("OOMKilled", 137)]}),
            "OOMKilled",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended("", 3)]}),
            "ExitCode:3",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (
            json!({"phase": "Running", "containerStatuses": [ended("Completed", 0), running]}),
            "NotReady",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [ended("Completed", 0), {"state": {"running": {}}}]}),
            "Init:1/2",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [ended("Error", 1)]}),
            "Init:Error",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [waiting("CrashLoopBackOff")]}),
            "Init:CrashLoopBackOff",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [waiting("PodInitializing")]}),
            "Init:0/2",
        ),
    ];
    for (status, expected) in cases {
        assert_eq!(summarize(&pod(status.clone())).status, expected, "{status}");
    }
}

#[test]
fn a_pod_on_its_way_out_is_terminating_until_its_end_is_known() {
    let mut leaving = pod(json!({"phase": "Running"}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
    assert_eq!(summarize(&leaving).status, "Terminating");
    leaving["status"]["phase"] = json!("Failed");
    assert_eq!(summarize(&leaving).status, "Failed");
}

#[test]
fn a_pod_row_counts_ready_containers_and_restarts() {
    let object = pod(json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
        {"ready": true, "state": {"running": {}}, "restartCount": 2,
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:58:00Z"}}},
        {"ready": false, "state": {"running": {}}, "restartCount": 1}]}));
    let cells = row("", "pods", &object);
    assert_eq!(
        cells,
        vec![
            json!("p"),
            json!("1/2"),
            json!("Running"),
            json!("3 (2m ago)"),
            json!("60s"),
            json!("10.0.0.1"),
            json!("<none>"),
            json!("<none>"),
            json!("<none>"),
        ]
    );
}

#[test]
fn a_job_row_says_how_it_stands() {
    let mut object = json!({"metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"completions": 3}, "status": {"succeeded": 1, "startTime": "2026-01-01T00:59:30Z"}});
    assert_eq!(
        row("batch", "jobs", &object)[1..5],
        [json!("Running"), json!("1/3"), json!("30s"), json!("60m")]
    );
    object["status"]["conditions"] = json!([{"type": "Failed", "status": "True"}]);
    assert_eq!(row("batch", "jobs", &object)[1], "Failed");
}

#[test]
fn every_built_in_kind_has_a_cell_for_each_column() {
    let object = json!({"metadata": {"name": "x"}});
    let resources = Registry::new().all();
    for resource in &resources {
        let table = to_table(resource, &[&object], now(), IncludeObject::Metadata);
        assert_eq!(
            table["rows"][0]["cells"].as_array().unwrap().len(),
            table["columnDefinitions"].as_array().unwrap().len(),
            "{}",
            resource.kind
        );
    }
    assert!(resources.len() > 20);
}

#[test]
fn a_service_row_lists_its_ports() {
    let object = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "selector": {"b": "2", "a": "1"},
        "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]}});
    let cells = row("", "services", &object);
    assert_eq!(
        cells[1..],
        [
            json!("ClusterIP"),
            json!("None"),
            json!("<none>"),
            json!("80/TCP,53:30053/UDP"),
            json!("<unknown>"),
            json!("a=1,b=2")
        ]
    );
}

#[test]
fn a_custom_resource_has_the_columns_of_its_definition() {
    let pods = Registry::new().get("", "v1", "pods").unwrap();
    let resource = ResourceType {
        custom: Some(CustomType {
            printer_columns: vec![
                json!({"name": "Status", "type": "string", "jsonPath": ".status.applicationState.state"}),
                json!({"name": "Attempts", "type": "integer", "jsonPath": ".status.executionAttempts"}),
                json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}),
            ],
            ..CustomType::default()
        }),
        ..(*pods).clone()
    };
    let object = json!({"metadata": {"name": "app", "creationTimestamp": "2026-01-01T00:55:00Z"},
        "status": {"applicationState": {"state": "RUNNING"}, "executionAttempts": 2}});
    let table = to_table(&resource, &[&object], now(), IncludeObject::Metadata);
    assert_eq!(table["rows"][0]["cells"], json!(["app", "RUNNING", 2, "5m"]));
    assert_eq!(table["columnDefinitions"][1]["name"], "Status");
}

#[test]
fn a_row_carries_what_was_asked_for() {
    let resource = Registry::new().get("", "v1", "configmaps").unwrap();
    let object = json!({"metadata": {"name": "x"}, "data": {"a": "1"}});
    let carried = |include| to_table(&resource, &[&object], now(), include)["rows"][0]["object"].clone();
    assert_eq!(carried(IncludeObject::parse(Some("Object"))), object);
    assert_eq!(carried(IncludeObject::parse(Some("None"))), Value::Null);
    assert_eq!(carried(IncludeObject::parse(None))["kind"], "PartialObjectMetadata");
}

#[test]
fn durations_are_worded_as_kubectl_words_them() {
    for (seconds, expected) in [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (3600, "60m"),
        (10_800, "3h"),
        (11_700, "3h15m"),
        (100_000, "27h"),
        (183_600, "2d3h"),
        (864_000, "10d"),
        (70_000_000, "2y80d"),
    ] {
        assert_eq!(human(seconds), expected, "{seconds}");
    }
}
