//! `ReplicaSets` of a Deployment as its history: names, revisions, annotations, and which are too old to keep.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::DeploymentController;
use super::rollout::{Limits, Sets, first_size, size, wanted};
use crate::controllers::meta::{controller_reference, created, is_terminating, short_hash};
use crate::controllers::pods::{annotate, annotation, label};
use crate::controllers::runtime::{Key, ReconcileError};

/// Tells pods and `ReplicaSets` of different templates apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// Number of the rollout.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The Deployment's size when the set was last sized.
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus surge.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// What `kubectl apply` keeps on the Deployment is no business of a `ReplicaSet`.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Collisions of hashes are rare; this many in a row mean that something else is wrong.
const MOST_COLLISIONS: i32 = 16;

fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

/// Writes the sizes that a later resize is measured against.
pub(crate) fn note_size(set: &mut ReplicaSet, deployment: &Deployment) {
    let Some(spec) = &deployment.spec else { return };
    let surge = Limits::of(spec).map_or(0, |limits| limits.surge);
    annotate(&mut set.metadata, DESIRED_REPLICAS, wanted(spec).to_string());
    annotate(
        &mut set.metadata,
        MAX_REPLICAS,
        wanted(spec).saturating_add(surge).to_string(),
    );
}

/// Sets without pods beyond `revisionHistoryLimit`, oldest first.
pub(crate) fn outdated(sets: &Sets, spec: &DeploymentSpec) -> Vec<Arc<ReplicaSet>> {
    let keep = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let mut idle: Vec<Arc<ReplicaSet>> = sets
        .old
        .iter()
        .filter(|set| {
            let status = set.status.clone().unwrap_or_default();
            size(set) == 0
                && status.replicas == 0
                && status.observed_generation >= set.metadata.generation
                && !is_terminating(&set.metadata)
        })
        .cloned()
        .collect();
    idle.sort_by_key(|set| (revision(&set.metadata), created(&set.metadata)));
    let surplus = idle.len().saturating_sub(keep);
    idle.truncate(surplus);
    idle
}

fn copied_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let own = [LAST_APPLIED, REVISION, DESIRED_REPLICAS, MAX_REPLICAS];
    deployment
        .annotations()
        .iter()
        .filter(|(key, _)| !own.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn new_set(deployment: &Deployment, spec: &DeploymentSpec, sets: &Sets, collisions: i32) -> ReplicaSet {
    let hash = short_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    label(template.metadata.get_or_insert_default(), HASH_LABEL, hash.clone());
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let highest = sets.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: Some(copied_annotations(deployment)),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(first_size(spec, sets)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate(&mut set.metadata, REVISION, (highest + 1).to_string());
    note_size(&mut set, deployment);
    set
}

impl DeploymentController {
    /// Makes the `ReplicaSet` of the present template if there is none, and numbers it as the latest.
    pub(super) async fn ensure_new_set(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> Result<(), ReconcileError> {
        let caches = &self.context.caches;
        let number = if let Some(new) = &sets.new {
            self.renumber(deployment, spec, sets, new).await?
        } else {
            let created = self.create_new_set(deployment, spec, sets).await?;
            let note = format!(
                "Scaled up replica set {} from 0 to {}",
                created.name_any(),
                size(&created),
            );
            if size(&created) > 0 {
                self.context.events.normal(deployment, "ScalingReplicaSet", note);
            }
            revision(&created.metadata)
        };
        if revision(&deployment.metadata) != number {
            let patch = serde_json::json!({"metadata": {
                "uid": deployment.uid(), "annotations": {REVISION: number.to_string()},
            }});
            self.context
                .objects
                .patch(&caches.deployments, deployment, &patch)
                .await?;
        }
        Ok(())
    }

    /// An old template that came back is the newest revision again.
    async fn renumber(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
        new: &ReplicaSet,
    ) -> Result<i64, ReconcileError> {
        let highest = sets.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
        let number = if revision(&new.metadata) > highest {
            revision(&new.metadata)
        } else {
            highest + 1
        };
        let mut updated = new.clone();
        annotate(&mut updated.metadata, REVISION, number.to_string());
        for (key, value) in copied_annotations(deployment) {
            annotate(&mut updated.metadata, &key, value);
        }
        if let Some(set_spec) = &mut updated.spec {
            set_spec.min_ready_seconds = spec.min_ready_seconds;
        }
        if updated != *new {
            self.context
                .objects
                .replace(&self.context.caches.replica_sets, &updated)
                .await?;
        }
        Ok(number)
    }

    async fn create_new_set(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> Result<ReplicaSet, ReconcileError> {
        let caches = &self.context.caches;
        let known = deployment
            .status
            .as_ref()
            .and_then(|status| status.collision_count)
            .unwrap_or(0);
        for collisions in known..known.saturating_add(MOST_COLLISIONS) {
            let set = new_set(deployment, spec, sets, collisions);
            match self.context.objects.create(&caches.replica_sets, &set).await {
                // The name is taken, by another template or another owner: hash again.
                Err(error) if error.code() == Some(409) => {}
                result => return result,
            }
        }
        Err(ReconcileError::Invalid {
            kind: "Deployment",
            object: Key::of(deployment).to_string(),
            problem: format!("the names of {MOST_COLLISIONS} ReplicaSets in a row are taken"),
        })
    }
}
