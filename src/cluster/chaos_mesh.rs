//! Takes a Schedule or a Workflow of Chaos Mesh back, with the experiments that it made.
//!
//! May depend on what `cluster` may. Contract: the parent has no finalizer and would be gone at once, while what it made still hangs on
//! its own, with no label of ours. So it is told to make nothing more, its experiments get our labels, are deleted and waited for, and it goes
//! last: whatever does not go is found again by `clean`, also when the guard has taken the parent away. Facts: `specs/chaos-mesh.md`, sections 5 to 8.

use super::connect::Cluster;
use super::error::{ClusterError, Failed};
use super::stuck::{Means, delete, let_go};
use super::undo::{api_of, is_ours};
use crate::fault::{ChaosMeshObject, chaos_mesh_plurals};
use crate::model::{EXPERIMENT_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, PURPOSE_LABEL, RUN_LABEL};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const API_VERSION: &str = "chaos-mesh.org/v1alpha1";

/// How often it is looked for more. One that was told to stop makes at most what it had begun.
const ROUNDS: u32 = 20;

/// Whether an object makes experiments, so that it must not only be deleted.
pub(super) fn is_flow(api_version: &str, kind: &str) -> bool {
    api_version.starts_with("chaos-mesh.org/") && matches!(kind, "Schedule" | "Workflow")
}

/// The label by which everything that a Schedule or a Workflow made is found.
pub(crate) fn made_by(kind: &str, name: &str) -> String {
    if kind == "Schedule" {
        format!("managed-by={name}")
    } else {
        format!("chaos-mesh.org/workflow={name}")
    }
}

/// A Schedule or a Workflow.
#[derive(Clone, Copy)]
pub(super) struct Flow<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) kind: &'a str,
    pub(super) plural: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl Flow<'_> {
    /// Stops it, deletes what it made, and then itself. One that is gone, or was never made, is no error; what is left of it goes all the
    /// same. Somebody else's is left alone.
    ///
    /// # Errors
    /// When a call fails, or something does not go within its time, or had to be forced.
    pub(super) async fn remove(&self, means: Means) -> Result<(), ClusterError> {
        let attempted = format!("delete {} {}/{}", self.kind, self.namespace, self.name);
        let api = self.api(self.plural, self.kind);
        let found = self.cluster.call_opt(attempted.clone(), api.get(self.name)).await?;
        if found.as_ref().is_some_and(|found| !is_ours(found)) {
            return Ok(());
        }
        let plurals = match &found {
            Some(found) => {
                self.stop(&api).await;
                let object = ChaosMeshObject {
                    kind: self.kind.to_owned(),
                    spec: found.data.get("spec").cloned().unwrap_or_default(),
                };
                object.experiment_plurals()
            }
            // Somebody was faster, perhaps the guard: what it made may still hang.
            None => chaos_mesh_plurals(),
        };
        let labels = labels_of(found.as_ref());
        let experiments = self.remove_experiments(&plurals, &labels, means, found.is_none()).await;
        if experiments.is_err() && !means.force {
            return experiments;
        }
        delete(self.cluster, &api, self.name, attempted, means).await?;
        if self.kind == "Workflow" {
            self.nodes_gone(means.limit).await?;
        }
        experiments
    }

    fn api(&self, plural: &str, kind: &str) -> Api<DynamicObject> {
        api_of(self.cluster, (API_VERSION, kind, plural), Some(self.namespace))
    }

    /// Tells it to make nothing more. A refusal is no reason to stop: the deletions say what stands in the way.
    async fn stop(&self, api: &Api<DynamicObject>) {
        let annotation = if self.kind == "Schedule" {
            "experiment.chaos-mesh.org/pause"
        } else {
            "workflow.chaos-mesh.org/abort"
        };
        let patch = json!({"metadata": {"annotations": {annotation: "true"}}});
        let stopped = self
            .cluster
            .call_opt(
                format!("stop {} {}/{}", self.kind, self.namespace, self.name),
                api.patch(self.name, &PatchParams::default(), &Patch::Merge(&patch)),
            )
            .await;
        if let Err(error) = stopped {
            tracing::warn!(%error, "it may make something more until it is gone");
        }
    }

    /// Deletes what it made until there is nothing more: what was being made when it was stopped may come late.
    async fn remove_experiments(
        &self,
        plurals: &BTreeSet<String>,
        labels: &Value,
        means: Means,
        is_gone: bool,
    ) -> Result<(), ClusterError> {
        let mut names = Vec::new();
        for _ in 0..ROUNDS {
            let mut made = Vec::new();
            for plural in plurals {
                match self.made(plural).await {
                    Ok(found) => made.extend(found.into_iter().map(|object| (plural.as_str(), object))),
                    // A kind that it never used need not be readable, nor there.
                    Err(error) if is_gone => tracing::debug!(%error, "whether some are left is not known"),
                    Err(error) => return Err(error),
                }
            }
            if made.is_empty() {
                return Ok(());
            }
            names = made
                .iter()
                .map(|(plural, object)| title(plural, object))
                .collect::<Vec<_>>();
            let removals = made.into_iter().map(|(plural, object)| async move {
                self.mark(plural, &object, labels).await;
                let attempted = format!("delete {}, made by {} {}", title(plural, &object), self.kind, self.name);
                let_go(self.cluster, &self.api(plural, plural), object, attempted, means).await
            });
            for removed in futures::future::join_all(removals).await {
                removed?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(ClusterError {
            attempted: format!("delete what {} {}/{} made", self.kind, self.namespace, self.name),
            failed: Failed::Other,
            why: format!(
                "it makes more and more, although it was told to stop (at last {}); is Chaos Mesh's controller-manager well?",
                names.join(", ")
            ),
        })
    }

    /// Gives something that it made the labels of its own: the guard may take the parent away while this still hangs, and `clean` would
    /// not find it. Best effort: what goes at once needs none.
    async fn mark(&self, plural: &str, object: &DynamicObject, labels: &Value) {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"metadata": {"labels": labels}});
        let marked = self
            .cluster
            .call_opt(
                format!("label {}", title(plural, object)),
                self.api(plural, plural)
                    .patch(name, &PatchParams::default(), &Patch::Merge(&patch)),
            )
            .await;
        if let Err(error) = marked {
            tracing::warn!(%error, "it can be found by its Schedule or Workflow only");
        }
    }

    /// What it made of one kind.
    async fn made(&self, plural: &str) -> Result<Vec<DynamicObject>, ClusterError> {
        let parameters = ListParams::default().labels(&made_by(self.kind, self.name));
        let attempted = format!("list {plural} in {}", self.namespace);
        let listed = self
            .cluster
            .call(attempted, self.api(plural, plural).list(&parameters))
            .await?;
        Ok(listed.items.into_iter().filter(is_made).collect())
    }

    /// Its nodes are owned by it and hold nothing themselves.
    async fn nodes_gone(&self, limit: Duration) -> Result<(), ClusterError> {
        let gone = async {
            loop {
                match self.made("workflownodes").await {
                    Ok(nodes) if nodes.is_empty() => return,
                    Err(error) if matches!(error.failed, Failed::Forbidden | Failed::NotFound) => return,
                    Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::time::timeout(limit, gone).await.map_err(|_elapsed| {
            ClusterError::timed_out(
                format!("see the nodes of Workflow {}/{} go", self.namespace, self.name),
                limit,
            )
        })
    }
}

/// The labels by which everything of a fault is found: those of the parent, as far as it is known.
fn labels_of(parent: Option<&DynamicObject>) -> Value {
    let held = parent.and_then(|parent| parent.metadata.labels.as_ref());
    let mut labels = json!({MANAGED_BY_LABEL: MANAGED_BY_VALUE, PURPOSE_LABEL: "fault"});
    for key in [RUN_LABEL, EXPERIMENT_LABEL] {
        if let (Some(labels), Some(value)) = (labels.as_object_mut(), held.and_then(|held| held.get(key))) {
            labels.insert(key.to_owned(), json!(value));
        }
    }
    labels
}

/// Made by Chaos Mesh itself: a label alone can be anybody's.
fn is_made(object: &DynamicObject) -> bool {
    let owners = object.metadata.owner_references.as_ref();
    owners.into_iter().flatten().any(|owner| {
        owner.api_version.starts_with("chaos-mesh.org/")
            && matches!(owner.kind.as_str(), "Schedule" | "Workflow" | "WorkflowNode")
    })
}

fn title(plural: &str, object: &DynamicObject) -> String {
    format!("{plural} {}", object.metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_chaos_mesh_made_is_taken_for_a_child() {
        let object = |owner: Value| -> DynamicObject {
            let value = json!({"apiVersion": API_VERSION, "kind": "PodChaos",
                "metadata": {"name": "a", "ownerReferences": [owner]}});
            serde_json::from_value(value).unwrap()
        };
        let owner = |api: &str, kind: &str| json!({"apiVersion": api, "kind": kind, "name": "it", "uid": "1"});
        assert!(is_made(&object(owner(API_VERSION, "Schedule"))));
        assert!(is_made(&object(owner(API_VERSION, "WorkflowNode"))));
        assert!(!is_made(&object(owner("batch/v1", "Job"))));
        assert!(!is_made(&object(owner(API_VERSION, "PodChaos"))));
        assert!(is_flow(API_VERSION, "Workflow"));
        assert!(!is_flow("batch/v1", "Schedule"));
    }
}
