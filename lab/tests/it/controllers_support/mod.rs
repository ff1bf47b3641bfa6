//! A cluster for controller tests: the real API server and the real controllers in process, and a double of the
//! kubelet that only claims that pods run.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of this module"
)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chaosrun_lab::api::{ApiServer, ApiServerConfig};
use chaosrun_lab::controllers::{ControllersConfig, ControllersHandle, spawn_all};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long a test waits for something that should take milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Cluster {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) client: kube::Client,
    controllers: Option<ControllersHandle>,
    kubelet: Option<tokio::task::JoinHandle<()>>,
}

impl Cluster {
    /// API server and controllers, one ready node with 4 cpu and 8 GiB, and the kubelet double.
    pub(crate) async fn start() -> Self {
        let mut cluster = Self::without_kubelet();
        cluster.add_node("node-1", "4").await;
        cluster.kubelet = Some(tokio::spawn(kubelet_double(cluster.client.clone())));
        cluster
    }

    /// API server and controllers only.
    pub(crate) fn without_kubelet() -> Self {
        Self::with(&ControllersConfig::default())
    }

    pub(crate) fn with(config: &ControllersConfig) -> Self {
        log();
        let server = ApiServer::new(ApiServerConfig::default()).unwrap();
        let controllers = spawn_all(server.client("controllers"), config);
        let client = server.client("test");
        Self {
            server,
            client,
            controllers: Some(controllers),
            kubelet: None,
        }
    }

    pub(crate) async fn stop(mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.abort();
        }
        self.controllers.take().unwrap().stop().await.unwrap();
    }

    pub(crate) async fn add_node(&self, name: &str, cpu: &str) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        }))
        .unwrap();
        let api: Api<Node> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {
            "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// The API of a kind in `default`.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + serde::Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn delete_now<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>()
            .delete(name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }

    pub(crate) async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap()
    }

    pub(crate) async fn patch_status<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap()
    }

    /// Pods in `default` with this label selector.
    pub(crate) async fn pods(&self, labels: &str) -> Vec<Pod> {
        self.api::<Pod>()
            .list(&ListParams::default().labels(labels))
            .await
            .unwrap()
            .items
    }

    /// Waits until pods with these labels are as wanted.
    pub(crate) async fn pods_until(&self, labels: &str, what: &str, holds: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
        until(what, || async {
            let pods = self.pods(labels).await;
            if holds(&pods) {
                Ok(pods)
            } else {
                Err(format!("{:#?}", summary(&pods)))
            }
        })
        .await
    }

    /// Waits until an object is as wanted.
    pub(crate) async fn object_until<K>(&self, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + serde::Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        until(what, || async {
            match self.api::<K>().get_opt(name).await.unwrap() {
                Some(object) if holds(&object) => Ok(object),
                other => Err(serde_json::to_string_pretty(&other).unwrap()),
            }
        })
        .await
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        until(&format!("{name} is gone"), || async {
            match self.api::<K>().get_opt(name).await.unwrap() {
                None => Ok(()),
                Some(object) => Err(format!("{object:?}")),
            }
        })
        .await;
    }
}

/// Log lines on the test's output; `LAB_LOG` says which.
pub(crate) fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LAB_LOG").unwrap_or_else(|_| "warn".into());
    let _already_set = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}

/// Tries again until it succeeds; panics with the last state when it takes too long.
pub(crate) async fn until<T, F>(what: &str, attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    until_for(PATIENCE, what, attempt).await
}

/// As [`until`], with a patience of its own.
pub(crate) async fn until_for<T, F>(patience: Duration, what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(state) => assert!(
                start.elapsed() < patience,
                "not within {patience:?}: {what}; last state: {state}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

fn summary(pods: &[Pod]) -> Vec<String> {
    pods.iter()
        .map(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            format!(
                "{} {phase:?} on {node:?}, deleted {:?}",
                pod.name_any(),
                pod.metadata.deletion_timestamp
            )
        })
        .collect()
}

pub(crate) fn uids(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().filter_map(ResourceExt::uid).collect()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A double of the kubelet: nothing runs. A bound pod is called Running and Ready (annotation `double/unready` keeps it
/// unready, `double/exit` ends it with that code), a deleted one is removed at once.
async fn kubelet_double(client: kube::Client) {
    let all: Api<Pod> = Api::all(client.clone());
    let mut stream = Box::pin(watcher(all, watcher::Config::default()).applied_objects());
    let mut next_ip = 1_u32;
    while let Some(event) = stream.next().await {
        let Ok(pod) = event else { continue };
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
            continue;
        };
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            if pod.metadata.deletion_grace_period_seconds != Some(0) {
                let _gone = api
                    .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
                    .await;
            }
        } else if matches!(phase.as_str(), "" | "Pending") {
            let status = claimed_status(&pod, &node, next_ip);
            next_ip += 1;
            let _racing = api
                .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
                .await;
        }
    }
}

fn claimed_status(pod: &Pod, node: &str, number: u32) -> Value {
    let now = Timestamp::now().to_string();
    let annotation = |key: &str| pod.annotations().get(key).cloned();
    let exit: Option<i32> = annotation("double/exit").map(|code| code.parse().unwrap());
    let ready = exit.is_none() && annotation("double/unready").is_none();
    let truth = if ready { "True" } else { "False" };
    let phase = match exit {
        None => "Running",
        Some(0) => "Succeeded",
        Some(_) => "Failed",
    };
    let state = match exit {
        None => json!({"running": {"startedAt": now}}),
        Some(code) => {
            json!({"terminated": {"exitCode": code, "startedAt": now, "finishedAt": now}})
        }
    };
    let address = format!("10.244.0.{number}");
    json!({"status": {
        "phase": phase, "hostIP": node, "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
            {"type": "Initialized", "status": "True", "lastTransitionTime": now},
            {"type": "ContainersReady", "status": truth, "lastTransitionTime": now},
            {"type": "Ready", "status": truth, "lastTransitionTime": now},
        ],
        "containerStatuses": [{
            "name": "c", "image": "busybox", "imageID": "", "ready": ready, "restartCount": 0, "state": state,
        }],
    }})
}

/// A pod template with this label and these annotations.
pub(crate) fn template(app: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"labels": {"app": app}, "annotations": annotations},
        "spec": {"containers": [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]},
    })
}
