//! Shared by the tests of the node agent: a lab of its own for each test, and waiting with a deadline.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::allow_attributes,
    reason = "each test file uses its part; helpers of tests fail by panicking, too"
)]

use std::time::{Duration, Instant};

use chaosrun_lab::backend::{LogOptions, PodRef};
use chaosrun_lab::lifecycle::{Lab, LabConfig};
use chaosrun_lab::node::BackOff;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

/// A lab with a unique name and short back-off.
pub async fn lab(test: &str) -> Lab {
    let config = config(test);
    let controllers = chaosrun_lab::standard::controllers();
    match Lab::start(config, controllers).await {
        Ok(lab) => lab,
        Err(error) => panic!("these tests need root, runc, iproute2 and nftables: {error}"),
    }
}

/// Configuration with a unique name.
pub fn config(test: &str) -> LabConfig {
    drop(
        tracing_subscriber::fmt()
            .with_env_filter("warn,chaosrun_lab=info")
            .with_test_writer()
            .try_init(),
    );
    let name = format!("t-{test}-{}", std::process::id());
    let back_off = BackOff {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(4),
        reset: Duration::from_mins(10),
    };
    LabConfig {
        back_off,
        ..LabConfig::new(name)
    }
}

/// Pods of the default namespace.
pub fn pods(lab: &Lab) -> Api<Pod> {
    Api::namespaced(lab.client(), "default")
}

/// A pod on the first node that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": "lab-1", "restartPolicy": "Never", "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "main", "image": "busybox", "command": ["sh", "-c", script]}],
        },
    })
}

/// Creates a pod from JSON.
pub async fn create(lab: &Lab, pod: Value) -> Pod {
    let pod: Pod = serde_json::from_value(pod).unwrap();
    pods(lab).create(&PostParams::default(), &pod).await.unwrap()
}

/// Waits until a pod satisfies a condition.
pub async fn wait_pod(lab: &Lab, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    wait_pod_for(lab, name, what, Duration::from_secs(20), condition).await
}

/// Waits until a pod satisfies a condition, with a deadline.
pub async fn wait_pod_for(
    lab: &Lab,
    name: &str,
    what: &str,
    patience: Duration,
    condition: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Instant::now() + patience;
    loop {
        let pod = serde_json::to_value(pods(lab).get(name).await.unwrap()).unwrap();
        if condition(&pod) {
            return pod;
        }
        assert!(
            Instant::now() < deadline,
            "{name}: not {what} within {patience:?}: {:#}",
            pod["status"]
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A condition on the phase.
pub fn phase(wanted: &str) -> impl Fn(&Value) -> bool + '_ {
    move |pod| pod["status"]["phase"] == wanted
}

/// The status of the pod's first container.
pub fn first(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Whether a condition of a pod is True.
pub fn holds(pod: &Value, condition: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .any(|entry| entry["type"] == condition && entry["status"] == "True")
}

/// What a container has printed, asked from the node itself.
pub async fn logs(lab: &Lab, name: &str, options: LogOptions) -> String {
    let stream = lab
        .server()
        .backend()
        .unwrap()
        .logs(reference(lab, name).await, "main".to_owned(), options)
        .await
        .unwrap();
    let chunks: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
    String::from_utf8(chunks.concat()).unwrap().trim_end().to_owned()
}

/// How the API server names a pod to the node.
pub async fn reference(lab: &Lab, name: &str) -> PodRef {
    let pod = pods(lab).get(name).await.unwrap();
    PodRef {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: pod.metadata.uid.unwrap(),
    }
}
