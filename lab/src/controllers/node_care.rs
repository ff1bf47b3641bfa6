//! The little care that nodes and what is left on them need.
//!
//! May depend on the controllers' runtime. Central types: [`PodCollector`] (pods bound to nodes that no longer exist)
//! and [`CordonTainter`] (the taint that shows a cordon). A node cannot fall silent in the lab, since its agent is part
//! of the same process; so nothing here judges heartbeats.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use tokio::time::Instant;

use super::context::{Context, Informers, wake, wake_on_self};
use super::meta::{elapsed, is_terminal, is_terminating, stamp};
use super::runtime::{Change, Key, Outcome, Queue, Reconcile, ReconcileError, call};
use super::scheduler::fit::node_of;

/// A node that vanished may be about to register again; Kubernetes waits 40 s.
const QUARANTINE: Duration = Duration::from_secs(40);
/// A pod that is being deleted without ever having had a node has nobody to confirm its end.
const UNPLACED: Duration = Duration::from_secs(1);

/// Removes pods that no node agent will ever care for.
pub(crate) struct PodCollector {
    context: Context,
    /// Since when nodes that pods are bound to have been missing.
    missing: Mutex<HashMap<String, Instant>>,
}

impl PodCollector {
    /// A controller that wakes when pods change or nodes vanish.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        let nodes = context.caches.nodes.clone();
        wake(&mut informers.pods, queue, move |change: &Change<Pod>| {
            let Some(pod) = &change.new else {
                return Vec::new();
            };
            let lost = node_of(pod).is_some_and(|node| nodes.get_cluster(node).is_none());
            let unplaced = node_of(pod).is_none() && is_terminating(&pod.metadata);
            if lost || unplaced {
                vec![Key::of(&**pod)]
            } else {
                Vec::new()
            }
        });
        let pods = context.caches.pods.clone();
        wake(&mut informers.nodes, queue, move |change: &Change<Node>| {
            let (Some(node), None) = (&change.old, &change.new) else {
                return Vec::new();
            };
            let name = node.name_any();
            pods.all()
                .iter()
                .filter(|pod| node_of(pod) == Some(&name))
                .map(|pod| Key::of(&**pod))
                .collect()
        });
        Self {
            context,
            missing: Mutex::new(HashMap::new()),
        }
    }

    /// How long the node has been missing, counted from the first time somebody asked.
    fn missing_for(&self, node: &str) -> Duration {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|name, _| self.context.caches.nodes.get_cluster(name).is_none());
        missing.entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    async fn remove(&self, pod: &Pod, why: &str) -> Result<(), ReconcileError> {
        let Context {
            objects,
            caches,
            events,
        } = &self.context;
        events.normal(pod, "TaintManagerEviction", format!("Deleting pod: {why}"));
        if !is_terminal(pod) {
            let now = stamp(Timestamp::now());
            let patch = serde_json::json!({"metadata": {"uid": pod.uid()}, "status": {
                "phase": "Failed", "reason": "NodeLost", "message": why, "startTime": now,
            }});
            match objects.patch_status(&caches.pods, pod, &patch).await {
                Ok(_) => {}
                Err(error) if error.is_race() => {}
                Err(error) => return Err(error),
            }
        }
        objects.delete_with(&caches.pods, pod, Some(0)).await
    }
}

impl Reconcile for PodCollector {
    const NAME: &'static str = "pod-garbage-collector";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(pod) = caches.pods.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let now = Timestamp::now();
        match node_of(&pod) {
            Some(node) if caches.nodes.get_cluster(node).is_none() => {
                // A deleted pod has no hope of its node; another one gets the time that a node may need to come back.
                let missing = self.missing_for(node);
                if missing < QUARANTINE && !is_terminating(&pod.metadata) {
                    return Ok(Outcome::After(QUARANTINE.saturating_sub(missing)));
                }
                self.remove(&pod, &format!("node {node} no longer exists")).await?;
                Ok(Outcome::Done)
            }
            None if is_terminating(&pod.metadata) => {
                let due = pod.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
                let waited = elapsed(due, now);
                if waited < UNPLACED {
                    return Ok(Outcome::After(UNPLACED.saturating_sub(waited)));
                }
                self.context.objects.delete_with(&caches.pods, &*pod, Some(0)).await?;
                Ok(Outcome::Done)
            }
            _ => Ok(Outcome::Done),
        }
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .pods
            .all()
            .iter()
            .map(|pod| Key::of(&**pod))
            .collect()
    }
}

/// Keeps the taint `node.kubernetes.io/unschedulable` in step with `spec.unschedulable`.
pub(crate) struct CordonTainter {
    context: Context,
    client: kube::Client,
}

/// The taint of a cordoned node.
const CORDON: &str = "node.kubernetes.io/unschedulable";

impl CordonTainter {
    /// A controller that wakes when nodes change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>, client: kube::Client) -> Self {
        wake_on_self(&mut informers.nodes, queue);
        Self { context, client }
    }
}

impl Reconcile for CordonTainter {
    const NAME: &'static str = "node-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.context.caches.nodes.get_cluster(&key.name) else {
            return Ok(Outcome::Done);
        };
        let Some(taints) = new_taints(&node) else {
            return Ok(Outcome::Done);
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let parameters = PatchParams::default();
        let patch = Patch::Merge(serde_json::json!({
            "metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints},
        }));
        let patched = call::<Node, Node>("patch", key.name.clone(), api.patch(&key.name, &parameters, &patch)).await?;
        self.context
            .caches
            .nodes
            .caught_up_to(patched.resource_version().as_deref())
            .await;
        Ok(Outcome::Done)
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .nodes
            .all()
            .iter()
            .map(|node| Key::of(&**node))
            .collect()
    }
}

/// The taints that the node should have; `None` when it has them.
fn new_taints(node: &Node) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let cordoned = spec.unschedulable == Some(true);
    let mut taints = spec.taints.unwrap_or_default();
    let tainted = taints.iter().any(|taint| taint.key == CORDON);
    if cordoned == tainted {
        return None;
    }
    taints.retain(|taint| taint.key != CORDON);
    if cordoned {
        taints.push(Taint {
            key: CORDON.to_owned(),
            effect: "NoSchedule".to_owned(),
            time_added: Some(stamp(Timestamp::now())),
            value: None,
        });
    }
    Some(taints)
}
