//! Real Prometheus inside the lab, finding its targets through the lab's own API.
//!
//! Depends on `kube` for the objects and on the node's image table for the programs behind the image names. Central
//! type: [`PrometheusConfig`]; start with [`deploy`], and put [`images`] into the lab's image table. Contract: a pod
//! annotated `prometheus.io/scrape: "true"` (with `prometheus.io/port`, and `/path`, `/scheme` if they differ from the
//! defaults) is scraped while it is neither ended nor without an address; its series carry `namespace`, `pod`, `node`
//! and every pod label. Service `prometheus.monitoring:9090` leads to the query API.
//!
//! The program is the host's: its version is the host's, not an image tag's. Upstream's build asks the API itself
//! (`kubernetes_sd_configs`); Debian's is built without that, and [`discovery`] beside it does the asking.

pub mod discovery;

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use memchr::memmem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::runtime::Namespaced;
use crate::node::{Image, ImageBind};

/// Namespace of everything here.
pub const NAMESPACE: &str = "monitoring";
/// Name of the Deployment, the Service and the rest.
pub const NAME: &str = "prometheus";
/// Port of Prometheus' HTTP API.
pub const PORT: u16 = 9090;
/// Where Debian puts the program.
const PROGRAM: &str = "/usr/bin/prometheus";
/// The image name that stands for it.
const IMAGE: &str = "prom/prometheus";
/// The image name of [`discovery`].
const DISCOVERY_IMAGE: &str = "chaosrun/prometheus-discovery";
/// The hidden argument after `lab-internal` that leads to [`discovery::main`].
pub const DISCOVERY_ARGUMENT: &str = "prometheus-discovery";
/// Where both containers see the file of targets.
const TARGETS: &str = "/targets";
/// Every build that can ask Kubernetes has this name of a Go package in it.
const KUBERNETES_MARK: &[u8] = b"prometheus/discovery/kubernetes";

/// How Prometheus is to run.
#[derive(Debug, Clone)]
pub struct PrometheusConfig {
    /// Pause between two scrapes of a target.
    pub scrape_interval: Duration,
}

impl Default for PrometheusConfig {
    fn default() -> Self {
        Self {
            scrape_interval: Duration::from_secs(5),
        }
    }
}

/// Why Prometheus could not be deployed.
#[derive(Debug, thiserror::Error)]
#[error("cannot create {kind} {name} for prometheus")]
pub struct PrometheusError {
    kind: String,
    name: String,
    #[source]
    source: Box<kube::Error>,
}

/// Whether the host has the program.
#[must_use]
pub fn is_installed() -> bool {
    Path::new(PROGRAM).exists()
}

/// The entries for the lab's image table: patterns and programs. `program` is an executable of the lab whose
/// `lab-internal prometheus-discovery` arguments lead to [`discovery::main`].
#[must_use]
pub fn images(program: &Path) -> Vec<(String, Image)> {
    let inside = PathBuf::from("/opt/chaosrun/lab");
    let prometheus = Image {
        entrypoint: vec![PROGRAM.to_owned()],
        ..Image::default()
    };
    let discovery = Image {
        entrypoint: vec![
            inside.display().to_string(),
            "lab-internal".to_owned(),
            DISCOVERY_ARGUMENT.to_owned(),
        ],
        binds: vec![ImageBind {
            source: program.to_owned(),
            target: inside,
            writable: false,
        }],
        init: true,
        ..Image::default()
    };
    vec![
        (format!("*{IMAGE}"), prometheus),
        (format!("*{DISCOVERY_IMAGE}"), discovery),
    ]
}

/// Who finds the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discovery {
    /// Prometheus itself.
    Kubernetes,
    /// [`discovery`], by way of a file.
    File,
}

/// Looks into the program: what it can do cannot be asked without starting it.
async fn discovery_of(program: &'static str) -> Discovery {
    let read = tokio::task::spawn_blocking(move || std::fs::read(program)).await;
    match read {
        Ok(Ok(bytes)) if memmem::find(&bytes, KUBERNETES_MARK).is_some() => Discovery::Kubernetes,
        _ => Discovery::File,
    }
}

/// Creates, or brings up to date, everything that Prometheus needs. Returns before it is ready.
pub async fn deploy(client: &Client, config: &PrometheusConfig) -> Result<(), PrometheusError> {
    let discovery = discovery_of(PROGRAM).await;
    let labels = json!({"app.kubernetes.io/name": NAME});
    let meta = json!({"name": NAME, "namespace": NAMESPACE, "labels": labels});
    ensure(
        &Api::<Namespace>::all(client.clone()),
        json!({"metadata": {"name": NAMESPACE}}),
    )
    .await?;
    ensure_namespaced::<ServiceAccount>(client, json!({"metadata": meta})).await?;
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]);
    let cluster = json!({"name": format!("{NAMESPACE}-{NAME}"), "labels": labels});
    ensure(
        &Api::<ClusterRole>::all(client.clone()),
        json!({"metadata": cluster, "rules": rules}),
    )
    .await?;
    let binding = json!({
        "metadata": cluster,
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("{NAMESPACE}-{NAME}"),
        },
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    });
    ensure(&Api::<ClusterRoleBinding>::all(client.clone()), binding).await?;
    let data = json!({"prometheus.yml": configuration(config, discovery)});
    ensure_namespaced::<ConfigMap>(client, json!({"metadata": meta, "data": data})).await?;
    let service = json!({"metadata": meta, "spec": {
        "selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
    }});
    ensure_namespaced::<Service>(client, service).await?;
    ensure_namespaced::<Deployment>(client, deployment(&meta, &labels, discovery)).await
}

fn deployment(meta: &Value, labels: &Value, discovery: Discovery) -> Value {
    let mut containers = vec![json!({
        "name": NAME,
        "image": IMAGE,
        "args": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            "--storage.tsdb.retention.time=1d",
            format!("--web.listen-address=0.0.0.0:{PORT}"),
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "livenessProbe": {
            "httpGet": {"path": "/-/healthy", "port": PORT},
            "initialDelaySeconds": 10, "periodSeconds": 10, "failureThreshold": 6,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus"},
            {"name": "data", "mountPath": "/prometheus"},
            {"name": "targets", "mountPath": TARGETS, "readOnly": true},
        ],
    })];
    if discovery == Discovery::File {
        containers.push(json!({
            "name": "discovery",
            "image": DISCOVERY_IMAGE,
            "args": [format!("{TARGETS}/pods.json")],
            "volumeMounts": [{"name": "targets", "mountPath": TARGETS}],
        }));
    }
    json!({"metadata": meta, "spec": {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "serviceAccountName": NAME,
            "terminationGracePeriodSeconds": 5,
            "containers": containers,
            "volumes": [
                {"name": "config", "configMap": {"name": NAME}},
                {"name": "data", "emptyDir": {}},
                {"name": "targets", "emptyDir": {}},
            ],
        }},
    }})
}

async fn ensure_namespaced<K>(client: &Client, object: Value) -> Result<(), PrometheusError>
where
    K: Namespaced,
{
    ensure(&Api::<K>::namespaced(client.clone(), NAMESPACE), object).await
}

/// Creates the object, or merges it into the one that is there.
async fn ensure<K>(api: &Api<K>, object: Value) -> Result<(), PrometheusError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let kind = K::kind(&()).into_owned();
    let name = object
        .pointer("/metadata/name")
        .and_then(|name| name.as_str())
        .unwrap_or_default()
        .to_owned();
    let failed = |source: kube::Error| PrometheusError {
        kind: kind.clone(),
        name: name.clone(),
        source: Box::new(source),
    };
    let typed: K = serde_json::from_value(object.clone()).map_err(|error| failed(kube::Error::SerdeError(error)))?;
    match api.create(&PostParams::default(), &typed).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = Patch::Merge(&object);
            api.patch(&typed.name_any(), &PatchParams::default(), &patch)
                .await
                .map(drop)
                .map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// `prometheus.yml`. Written by hand: it is short, and a person may want to read it in the config map.
fn configuration(config: &PrometheusConfig, discovery: Discovery) -> String {
    let interval = duration(config.scrape_interval);
    let mut lines = vec![
        "global:".to_owned(),
        format!("  scrape_interval: {interval}"),
        format!("  evaluation_interval: {interval}"),
        "scrape_configs:".to_owned(),
        "- job_name: prometheus".to_owned(),
        "  static_configs:".to_owned(),
        format!("  - targets: ['127.0.0.1:{PORT}']"),
        "- job_name: kubernetes-pods".to_owned(),
    ];
    lines.extend(match discovery {
        Discovery::Kubernetes => ["  kubernetes_sd_configs:".to_owned(), "  - role: pod".to_owned()],
        Discovery::File => [
            "  file_sd_configs:".to_owned(),
            format!("  - files: ['{TARGETS}/*.json']"),
        ],
    });
    lines.push("  relabel_configs:".to_owned());
    let annotation = |name: &str| format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}");
    let mut rule = |source: &str, action: &str, regex: &str, target: &str, replacement: &str| {
        lines.push(format!("  - action: {action}"));
        lines.push(format!("    regex: '{regex}'"));
        if !source.is_empty() {
            lines.push(format!("    source_labels: [{source}]"));
        }
        if !target.is_empty() {
            lines.push(format!("    target_label: {target}"));
            lines.push(format!("    replacement: '{replacement}'"));
        }
    };
    rule(&annotation("scrape"), "keep", "true", "", "");
    rule("__meta_kubernetes_pod_phase", "drop", "Succeeded|Failed", "", "");
    rule("__meta_kubernetes_pod_ip", "keep", ".+", "", "");
    rule(&annotation("scheme"), "replace", "(https?)", "__scheme__", "$1");
    rule(&annotation("path"), "replace", "(.+)", "__metrics_path__", "$1");
    let address = format!("__meta_kubernetes_pod_ip, {}", annotation("port"));
    rule(&address, "replace", r"(.+);(\d+)", "__address__", "$1:$2");
    rule("", "labelmap", "__meta_kubernetes_pod_label_(.+)", "", "");
    rule("__meta_kubernetes_namespace", "replace", "(.*)", "namespace", "$1");
    rule("__meta_kubernetes_pod_name", "replace", "(.*)", "pod", "$1");
    rule("__meta_kubernetes_pod_node_name", "replace", "(.*)", "node", "$1");
    lines.push(String::new());
    lines.join("\n")
}

/// Prometheus writes durations in whole milliseconds.
fn duration(value: Duration) -> String {
    format!("{}ms", value.as_millis().max(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Discovery, PrometheusConfig, configuration};

    #[test]
    fn the_configuration_is_what_was_reviewed() {
        let config = PrometheusConfig {
            scrape_interval: Duration::from_secs(1),
        };
        insta::assert_snapshot!(configuration(&config, Discovery::File));
    }

    #[test]
    fn both_ways_of_discovery_share_all_rules() {
        let config = PrometheusConfig::default();
        let rules = |discovery| {
            let text = configuration(&config, discovery);
            text.split_once("relabel_configs:").map(|(_, rules)| rules.to_owned())
        };
        assert_eq!(rules(Discovery::File), rules(Discovery::Kubernetes));
        assert!(configuration(&config, Discovery::Kubernetes).contains("kubernetes_sd_configs:\n  - role: pod\n"));
    }
}
