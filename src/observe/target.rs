//! What belongs to a target: the label selector to watch by, and membership by owner UID, never by name alone.

use crate::cluster::{Cluster, ClusterError, Failed};
use crate::experiment::{Target, Workload};
use crate::model::Role;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use std::collections::BTreeMap;

/// Label of the Spark operator with the application's name.
const SPARK_APP: &str = "sparkoperator.k8s.io/app-name";
/// Label with the uuid of one submission: the generation of a Spark pod.
const SPARK_SUBMISSION: &str = "sparkoperator.k8s.io/submission-id";
/// Label with `driver` or `executor`.
const SPARK_ROLE: &str = "spark-role";

/// A target that was found on the cluster.
#[derive(Debug, Clone)]
pub(crate) struct ResolvedTarget {
    /// Namespace.
    pub(crate) namespace: String,
    /// Label selector of the target's pods, in the API's syntax.
    pub(crate) selector: String,
    /// The same selector as pairs that must all match.
    labels: BTreeMap<String, String>,
    /// Name of the target's own object; `None` for a bare label selector.
    pub(crate) name: Option<String>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Spark,
    Deployment,
    Owned,
    Labels,
}

/// Group, version, kind and plural of the target's own object, and its name.
pub(crate) fn own_kind(target: &Target) -> Option<(ApiResource, String)> {
    let (group, version, kind, plural, name) = match &target.workload {
        Workload::SparkApplication { name } => (
            "sparkoperator.k8s.io",
            "v1beta2",
            "SparkApplication",
            "sparkapplications",
            name,
        ),
        Workload::Deployment { name } => ("apps", "v1", "Deployment", "deployments", name),
        Workload::StatefulSet { name } => ("apps", "v1", "StatefulSet", "statefulsets", name),
        Workload::Job { name } => ("batch", "v1", "Job", "jobs", name),
        Workload::Labels { .. } => return None,
    };
    Some((
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural),
        name.clone(),
    ))
}

/// Finds the target. `None` when its object does not exist (yet).
///
/// # Errors
/// When the cluster cannot be asked, or the object has no selector that could be watched by.
pub(crate) async fn resolve(cluster: &Cluster, target: &Target) -> Result<Option<ResolvedTarget>, ClusterError> {
    let namespace = &target.namespace;
    let found = |name: &str, labels: BTreeMap<String, String>, kind: Kind| ResolvedTarget {
        namespace: namespace.clone(),
        selector: labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(","),
        labels,
        name: Some(name.to_owned()),
        kind,
    };
    let attempted = |kind: &str, name: &str| format!("read {kind} {namespace}/{name}");
    match &target.workload {
        Workload::SparkApplication { name } => {
            let Some((resource, _)) = own_kind(target) else {
                return Ok(None);
            };
            let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), namespace, &resource);
            let object = cluster
                .call_opt(attempted("SparkApplication", name), api.get(name))
                .await?;
            let labels = BTreeMap::from([(SPARK_APP.to_owned(), name.clone())]);
            Ok(object.map(|_| found(name, labels, Kind::Spark)))
        }
        Workload::Deployment { name } => {
            let api: Api<Deployment> = Api::namespaced(cluster.client(), namespace);
            let Some(object) = cluster.call_opt(attempted("Deployment", name), api.get(name)).await? else {
                return Ok(None);
            };
            let selector = object.spec.as_ref().map(|spec| &spec.selector);
            let labels = match_labels(selector, &attempted("Deployment", name))?;
            Ok(Some(found(name, labels, Kind::Deployment)))
        }
        Workload::StatefulSet { name } => {
            let api: Api<StatefulSet> = Api::namespaced(cluster.client(), namespace);
            let Some(object) = cluster.call_opt(attempted("StatefulSet", name), api.get(name)).await? else {
                return Ok(None);
            };
            let selector = object.spec.as_ref().map(|spec| &spec.selector);
            let labels = match_labels(selector, &attempted("StatefulSet", name))?;
            Ok(Some(found(name, labels, Kind::Owned)))
        }
        Workload::Job { name } => {
            let api: Api<Job> = Api::namespaced(cluster.client(), namespace);
            let Some(object) = cluster.call_opt(attempted("Job", name), api.get(name)).await? else {
                return Ok(None);
            };
            let selector = object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let labels = match_labels(selector, &attempted("Job", name))?;
            Ok(Some(found(name, labels, Kind::Owned)))
        }
        Workload::Labels { labels } => {
            let labels: BTreeMap<_, _> = labels.iter().cloned().collect();
            let mut target = found("", labels, Kind::Labels);
            target.name = None;
            Ok(Some(target))
        }
    }
}

fn match_labels(selector: Option<&LabelSelector>, attempted: &str) -> Result<BTreeMap<String, String>, ClusterError> {
    let labels = selector
        .and_then(|selector| selector.match_labels.clone())
        .unwrap_or_default();
    if labels.is_empty() {
        return Err(ClusterError {
            attempted: attempted.to_owned(),
            failed: Failed::Other,
            why: "its selector has no matchLabels; name its pods with `target.labels` instead".to_owned(),
        });
    }
    Ok(labels)
}

impl ResolvedTarget {
    /// Does a pod carry the target's labels at all?
    pub(crate) fn selects(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.as_ref();
        self.labels
            .iter()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    }

    /// The pod's role within this target.
    pub(crate) fn role(&self, pod: &Pod) -> Option<Role> {
        let word = match self.kind {
            Kind::Spark => pod.metadata.labels.as_ref()?.get(SPARK_ROLE)?.clone(),
            Kind::Deployment | Kind::Owned | Kind::Labels => "any".to_owned(),
        };
        Some(Role(word))
    }

    /// Which run of the application a pod belongs to.
    pub(crate) fn generation(&self, pod: &Pod) -> Option<String> {
        match self.kind {
            Kind::Spark => pod.metadata.labels.as_ref()?.get(SPARK_SUBMISSION).cloned(),
            Kind::Deployment | Kind::Owned | Kind::Labels => None,
        }
    }

    fn is_named(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    /// Membership by owner; `None` when it hangs on a ReplicaSet that has to be looked up.
    fn member_by_owner(&self, pod: &Pod) -> Option<bool> {
        let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
        match self.kind {
            Kind::Labels => Some(true),
            // By the name of the owner, which only one object of that kind can have at a time: it may have been deleted and
            // made again, by a fault or by whoever reconciles it, and the labels were asked for already.
            Kind::Owned => Some(owners.iter().any(|owner| self.is_named(&owner.name))),
            // Executors are owned by their driver's pod; a driver by its SparkApplication, which may have been made anew
            // under the same name between two trials.
            Kind::Spark => Some(
                owners
                    .iter()
                    .filter(|owner| owner.kind == "SparkApplication")
                    .all(|owner| Some(&owner.name) == self.name.as_ref()),
            ),
            Kind::Deployment => {
                if owners.iter().any(|owner| owner.kind == "ReplicaSet") {
                    None
                } else {
                    Some(false)
                }
            }
        }
    }
}

/// Decides membership; remembers which ReplicaSets belong to the target's Deployment, one GET for each.
pub(crate) struct Membership {
    pub(crate) target: ResolvedTarget,
    replica_sets: BTreeMap<String, bool>,
}

impl Membership {
    pub(crate) fn new(target: ResolvedTarget) -> Self {
        Self {
            target,
            replica_sets: BTreeMap::new(),
        }
    }

    /// Whether a pod that carries the labels belongs to the target.
    pub(crate) async fn is_member(&mut self, cluster: &Cluster, pod: &Pod) -> bool {
        if let Some(known) = self.target.member_by_owner(pod) {
            return known;
        }
        let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
        let Some(owner) = owners.iter().find(|owner| owner.kind == "ReplicaSet") else {
            return false;
        };
        if let Some(known) = self.replica_sets.get(&owner.uid) {
            return *known;
        }
        let api: Api<ReplicaSet> = Api::namespaced(cluster.client(), &self.target.namespace);
        let attempted = format!("read ReplicaSet {}/{}", self.target.namespace, owner.name);
        match cluster.call_opt(attempted, api.get(&owner.name)).await {
            Ok(Some(set)) if set.metadata.uid.as_ref() == Some(&owner.uid) => {
                let parents = set.metadata.owner_references.as_deref().unwrap_or_default();
                let member = parents
                    .iter()
                    .any(|parent| parent.kind == "Deployment" && self.target.is_named(&parent.name));
                self.replica_sets.insert(owner.uid.clone(), member);
                member
            }
            Ok(_gone) => false,
            Err(error) => {
                tracing::warn!(%error, "membership of a pod is not known; it is left out");
                false
            }
        }
    }
}
