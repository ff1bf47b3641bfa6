//! Real Prometheus inside the lab, finding its targets through the lab's own API.
//!
//! Depends on `kube` for the objects and on the node's image table for the program behind the image name. Central
//! types: [`PrometheusConfig`]; start with [`deploy`], and put [`image`] into the lab's image table. Contract: a pod
//! annotated `prometheus.io/scrape: "true"` (with `prometheus.io/port`, and `/path`, `/scheme` if they differ from the
//! defaults) is scraped while it is neither ended nor without an address; its series carry `namespace`, `pod`, `node`
//! and every pod label. Service `prometheus.monitoring:9090` leads to the query API.
//!
//! The program is the host's (Debian package `prometheus`): the version is the host's, not the image tag's.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::runtime::Namespaced;
use crate::node::Image;

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

/// The entry for the lab's image table: pattern and program.
#[must_use]
pub fn image() -> (String, Image) {
    let image = Image {
        entrypoint: vec![PROGRAM.to_owned()],
        ..Image::default()
    };
    (format!("*{IMAGE}"), image)
}

/// Creates, or brings up to date, everything that Prometheus needs. Returns before it is ready.
pub async fn deploy(client: &Client, config: &PrometheusConfig) -> Result<(), PrometheusError> {
    let labels = json!({"app.kubernetes.io/name": NAME});
    let meta = json!({"name": NAME, "namespace": NAMESPACE, "labels": labels});
    ensure(
        &Api::<Namespace>::all(client.clone()),
        json!({"metadata": {"name": NAMESPACE}}),
    )
    .await?;
    ensure_namespaced::<ServiceAccount>(client, json!({"metadata": meta})).await?;
    let rules =
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]);
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
    let data = json!({"prometheus.yml": configuration(config)});
    ensure_namespaced::<ConfigMap>(client, json!({"metadata": meta, "data": data})).await?;
    let service = json!({"metadata": meta, "spec": {
        "selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
    }});
    ensure_namespaced::<Service>(client, service).await?;
    ensure_namespaced::<Deployment>(client, deployment(&meta, &labels)).await
}

fn deployment(meta: &serde_json::Value, labels: &serde_json::Value) -> serde_json::Value {
    json!({"metadata": meta, "spec": {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "serviceAccountName": NAME,
            "terminationGracePeriodSeconds": 5,
            "containers": [{
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
                ],
            }],
            "volumes": [
                {"name": "config", "configMap": {"name": NAME}},
                {"name": "data", "emptyDir": {}},
            ],
        }},
    }})
}

async fn ensure_namespaced<K>(
    client: &Client,
    object: serde_json::Value,
) -> Result<(), PrometheusError>
where
    K: Namespaced,
{
    ensure(&Api::<K>::namespaced(client.clone(), NAMESPACE), object).await
}

/// Creates the object, or merges it into the one that is there.
async fn ensure<K>(api: &Api<K>, object: serde_json::Value) -> Result<(), PrometheusError>
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
    let typed: K = serde_json::from_value(object.clone())
        .map_err(|error| failed(kube::Error::SerdeError(error)))?;
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
fn configuration(config: &PrometheusConfig) -> String {
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
        "  kubernetes_sd_configs:".to_owned(),
        "  - role: pod".to_owned(),
        "  relabel_configs:".to_owned(),
    ];
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
    rule(
        "__meta_kubernetes_pod_phase",
        "drop",
        "Succeeded|Failed",
        "",
        "",
    );
    rule("__meta_kubernetes_pod_ip", "keep", ".+", "", "");
    rule(
        &annotation("scheme"),
        "replace",
        "(https?)",
        "__scheme__",
        "$1",
    );
    rule(
        &annotation("path"),
        "replace",
        "(.+)",
        "__metrics_path__",
        "$1",
    );
    let address = format!("__meta_kubernetes_pod_ip, {}", annotation("port"));
    rule(&address, "replace", r"(.+);(\d+)", "__address__", "$1:$2");
    rule("", "labelmap", "__meta_kubernetes_pod_label_(.+)", "", "");
    rule(
        "__meta_kubernetes_namespace",
        "replace",
        "(.*)",
        "namespace",
        "$1",
    );
    rule("__meta_kubernetes_pod_name", "replace", "(.*)", "pod", "$1");
    rule(
        "__meta_kubernetes_pod_node_name",
        "replace",
        "(.*)",
        "node",
        "$1",
    );
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

    use super::{PrometheusConfig, configuration};

    #[test]
    fn the_configuration_is_what_was_reviewed() {
        insta::assert_snapshot!(configuration(&PrometheusConfig {
            scrape_interval: Duration::from_secs(1)
        }));
    }
}
