//! The scheduler: gives each pending pod a node through `pods/binding`.
//!
//! May depend on the controllers' runtime; [`fit`] is pure. Central type: [`Scheduler`].
//!
//! Contract: one pod at a time, each decision made on a cache that has seen the one before, so that two pods never
//! get the same room. A pod that fits nowhere says so in its `PodScheduled` condition and is looked at again whenever a
//! node changes or a pod gives room back.

pub(crate) mod fit;
pub(crate) mod quantity;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::PostParams;

use self::fit::{Placement, node_of, place};
use super::context::{Context, Informers, wake};
use super::meta::{is_terminal, is_terminating, pod_condition, stamp};
use super::runtime::{Change, Key, Outcome, Queue, Reconcile, ReconcileError, call};

/// An unschedulable pod is tried again after this time even if no event says that it could fit now.
const RETRY: Duration = Duration::from_secs(5);

/// Assigns nodes to pods.
pub(crate) struct Scheduler {
    context: Context,
}

impl Scheduler {
    /// A scheduler that wakes when pods appear, nodes change, or room is given back.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake(&mut informers.pods, queue, |change| {
            change
                .new
                .iter()
                .filter(|pod| wants_node(pod))
                .map(|pod| Key::of(&**pod))
                .collect()
        });
        let pods = context.caches.pods.clone();
        let pending = move || -> Vec<Key> {
            pods.all()
                .iter()
                .filter(|pod| wants_node(pod))
                .map(|pod| Key::of(&**pod))
                .collect()
        };
        let on_room = pending.clone();
        wake(&mut informers.pods, queue, move |change| {
            if gives_room(change) { on_room() } else { Vec::new() }
        });
        wake(&mut informers.nodes, queue, move |change| {
            if node_changed(change) { pending() } else { Vec::new() }
        });
        Self { context }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), ReconcileError> {
        let namespace = pod.namespace().unwrap_or_default();
        let name = pod.name_any();
        let binding = Binding {
            // The UID keeps a pod that took the name meanwhile from being bound on an old decision.
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api = self.context.objects.api::<Pod>(&namespace);
        let parameters = PostParams::default();
        let request = api.create_subresource::<_, serde_json::Value>("binding", &name, &parameters, &binding);
        call::<Pod, _>("bind", format!("{namespace}/{name}"), request).await?;
        self.context.events.normal(
            pod,
            "Scheduled",
            format!("Successfully assigned {namespace}/{name} to {node}"),
        );
        self.wait_for_binding(pod).await;
        Ok(())
    }

    /// The answer to a binding carries no resource version, so the next decision waits for the pod itself.
    async fn wait_for_binding(&self, pod: &Pod) {
        self.context.caches.pods.saw(pod, |now| node_of(now).is_some()).await;
    }

    async fn say_unschedulable(&self, pod: &Pod, message: &str) -> Result<(), ReconcileError> {
        let told = pod_condition(pod, "PodScheduled")
            .is_some_and(|condition| condition.status == "False" && condition.message.as_deref() == Some(message));
        if told {
            return Ok(());
        }
        self.context.events.warning(pod, "FailedScheduling", message.to_owned());
        let mut conditions = pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .map(|conditions| serde_json::json!(conditions))
            .and_then(|conditions| conditions.as_array().cloned())
            .unwrap_or_default();
        conditions
            .retain(|condition| condition.get("type").and_then(serde_json::Value::as_str) != Some("PodScheduled"));
        conditions.push(serde_json::json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": stamp(Timestamp::now()),
        }));
        let patch = serde_json::json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": conditions}});
        self.context
            .objects
            .patch_status(&self.context.caches.pods, pod, &patch)
            .await?;
        Ok(())
    }
}

impl Reconcile for Scheduler {
    const NAME: &'static str = "scheduler";
    const CONCURRENCY: usize = 1;

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(pod) = caches.pods.get(&key.namespace, &key.name).filter(|pod| wants_node(pod)) else {
            return Ok(Outcome::Done);
        };
        match place(&pod, &caches.nodes.all(), &caches.pods.all()) {
            Placement::Node(node) => match self.bind(&pod, &node).await {
                Ok(()) => Ok(Outcome::Done),
                // Deleted or bound meanwhile; if it still wants a node, its event brings it back.
                Err(error) if error.is_race() => Ok(Outcome::After(Duration::from_millis(100))),
                Err(error) => Err(error),
            },
            Placement::Unschedulable(message) => {
                self.say_unschedulable(&pod, &message).await?;
                Ok(Outcome::After(RETRY))
            }
        }
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .pods
            .all()
            .iter()
            .filter(|pod| wants_node(pod))
            .map(|pod| Key::of(&**pod))
            .collect()
    }
}

/// Whether the pod waits for this scheduler.
fn wants_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec
        .scheduler_name
        .as_deref()
        .is_none_or(|name| name.is_empty() || name == "default-scheduler");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    node_of(pod).is_none() && ours && !gated && !is_terminating(&pod.metadata) && !is_terminal(pod)
}

/// A placed pod ended or vanished.
fn gives_room(change: &Change<Pod>) -> bool {
    let held = change
        .old
        .as_ref()
        .is_some_and(|pod| node_of(pod).is_some() && !is_terminal(pod));
    held && change.new.as_ref().is_none_or(|pod| is_terminal(pod))
}

/// Something about a node that decides over pods has changed; heartbeats do not count.
fn node_changed(change: &Change<Node>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return true;
    };
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || fit::is_node_ready(old) != fit::is_node_ready(new)
        || allocatable(old) != allocatable(new)
}

#[cfg(test)]
mod tests;
