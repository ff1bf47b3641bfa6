//! Discovery of scrape targets for a Prometheus that cannot ask Kubernetes itself.
//!
//! Debian's package is built without Kubernetes support. So this program runs beside Prometheus in its pod, watches
//! pods through the API as Prometheus' `role: pod` would, with the pod's own service account, and writes what it finds
//! as a file that Prometheus follows. Depends on `kube` only. Entry point: [`main`]; [`targets`] is pure. Contract: the
//! labels are those of `role: pod`, so the same relabelling rules serve both; the file is replaced in one step and
//! written within milliseconds of a change.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde::Serialize;

use crate::controllers::meta::{controller_of, phase, pod_condition};

/// Addresses that share labels, as `file_sd_configs` reads them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TargetGroup {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

/// Why discovery ended.
#[derive(Debug, thiserror::Error)]
enum DiscoveryError {
    /// The arguments are not one file name.
    #[error("usage: prometheus-discovery FILE")]
    Usage,
    /// Not inside a pod, or its credentials cannot be used.
    #[error("cannot reach the API server from here: {0}")]
    Api(Box<dyn std::error::Error + Send + Sync>),
    /// The file cannot be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The watch ended, which it does only when it cannot go on.
    #[error("the watch on pods ended")]
    Ended,
}

/// The program: `arguments` are the name of the file to keep.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Refused only when there is one already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match (runtime, single(arguments)) {
        (Ok(runtime), Some(file)) => runtime.block_on(Box::pin(run(&file))),
        (Err(source), Some(file)) => Err(DiscoveryError::Write { file, source }),
        (_, None) => Err(DiscoveryError::Usage),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The container's log is the only place to say it.
            writeln!(std::io::stderr(), "{error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn single(arguments: impl IntoIterator<Item = OsString>) -> Option<PathBuf> {
    let mut arguments = arguments.into_iter();
    let file = arguments.next()?;
    arguments.next().is_none().then(|| file.into())
}

async fn run(file: &Path) -> Result<(), DiscoveryError> {
    let config = kube::Config::incluster().map_err(|error| DiscoveryError::Api(Box::new(error)))?;
    let client = Client::try_from(config).map_err(|error| DiscoveryError::Api(Box::new(error)))?;
    let (_reader, mut store) = reflector::store::<Pod>();
    let mut written = None;
    let mut events = Box::pin(watcher(Api::<Pod>::all(client), watcher::Config::default()).default_backoff());
    let mut complete = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                store.apply_watcher_event(&event);
                complete |= matches!(event, watcher::Event::InitDone);
            }
            Err(error) => {
                writeln!(std::io::stderr(), "watch interrupted: {error}").ok();
                continue;
            }
        }
        // Half a list would make Prometheus forget the other half of its targets.
        if complete {
            let mut pods = store.as_reader().state();
            pods.sort_by_key(|pod| ObjectRef::from_obj(&**pod).to_string());
            let groups: Vec<TargetGroup> = pods.iter().filter_map(|pod| targets(pod)).collect();
            if written.as_ref() != Some(&groups) {
                replace(file, &groups).map_err(|source| DiscoveryError::Write {
                    file: file.to_owned(),
                    source,
                })?;
                written = Some(groups);
            }
        }
    }
    Err(DiscoveryError::Ended)
}

fn replace(file: &Path, groups: &[TargetGroup]) -> std::io::Result<()> {
    // Not *.json, which Prometheus would read while it is half written.
    let unfinished = file.with_extension("unfinished");
    std::fs::write(&unfinished, serde_json::to_vec_pretty(groups)?)?;
    std::fs::rename(&unfinished, file)
}

/// What `role: pod` would say about a pod; `None` while it has no address.
fn targets(pod: &Pod) -> Option<TargetGroup> {
    let status = pod.status.as_ref()?;
    let address = status.pod_ip.clone().filter(|address| !address.is_empty())?;
    let spec = pod.spec.as_ref()?;
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    let mut targets: Vec<String> = ports.map(|port| format!("{address}:{}", port.container_port)).collect();
    if targets.is_empty() {
        targets.push(address.clone());
    }
    let mut labels = BTreeMap::new();
    let mut add = |name: &str, value: &str| {
        labels.insert(format!("__meta_kubernetes_{name}"), value.to_owned());
    };
    add("namespace", &pod.namespace().unwrap_or_default());
    add("pod_name", &pod.name_any());
    add("pod_uid", &pod.uid().unwrap_or_default());
    add("pod_ip", &address);
    add("pod_host_ip", status.host_ip.as_deref().unwrap_or_default());
    add("pod_node_name", spec.node_name.as_deref().unwrap_or_default());
    add("pod_phase", phase(pod));
    let ready = pod_condition(pod, "Ready").map_or("unknown", |condition| condition.status.as_str());
    add("pod_ready", &ready.to_lowercase());
    if let Some(owner) = controller_of(&pod.metadata) {
        add("pod_controller_kind", &owner.kind);
        add("pod_controller_name", &owner.name);
    }
    for (name, value) in pod.labels() {
        add(&format!("pod_label_{}", sanitized(name)), value);
        add(&format!("pod_labelpresent_{}", sanitized(name)), "true");
    }
    for (name, value) in pod.annotations() {
        add(&format!("pod_annotation_{}", sanitized(name)), value);
        add(&format!("pod_annotationpresent_{}", sanitized(name)), "true");
    }
    Some(TargetGroup { targets, labels })
}

/// Label names have letters, digits and underscores only.
fn sanitized(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::{replace, targets};

    fn pod(address: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "u", "labels": {"spark-role": "driver"},
                "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "4040"},
            },
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"containerPort": 7078}]}]},
            "status": {"podIP": address, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_is_described_as_kubernetes_discovery_would() {
        let group = targets(&pod("10.0.0.1")).unwrap();
        assert_eq!(group.targets, ["10.0.0.1:7078"]);
        for (name, value) in [
            ("namespace", "ns"),
            ("pod_name", "p"),
            ("pod_phase", "Running"),
            ("pod_ready", "true"),
            ("pod_label_spark_role", "driver"),
            ("pod_annotation_prometheus_io_scrape", "true"),
            ("pod_annotation_prometheus_io_port", "4040"),
        ] {
            assert_eq!(
                group
                    .labels
                    .get(&format!("__meta_kubernetes_{name}"))
                    .map(String::as_str),
                Some(value)
            );
        }
        assert_eq!(targets(&pod("")), None);
    }

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pods.json");
        for address in ["10.0.0.1", "10.0.0.2"] {
            replace(&file, &[targets(&pod(address)).unwrap()]).unwrap();
            let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            assert_eq!(read[0]["targets"][0], format!("{address}:7078"));
        }
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["pods.json"]);
    }
}
