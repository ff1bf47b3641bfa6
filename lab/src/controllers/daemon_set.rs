//! `DaemonSets`: one pod on every node that takes it.
//!
//! May depend on the controllers' runtime; [`plan`] is pure. Central type: [`DaemonSetController`]. Contract: a node
//! has one pod of the set, pinned to it by node affinity and bound by the scheduler, as in Kubernetes. Rolling updates
//! replace one pod at a time. Left out: `maxSurge`, history objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::context::{Context, Informers, wake, wake_on_selected, wake_on_self};
use super::meta::{available_in, is_ready, is_terminal, is_terminating, scaled, short_hash, unless_zero};
use super::pods::{PodName, claim, create_all, delete_all, label, pod_from_template};
use super::replica_set::next_availability;
use super::runtime::{Change, Key, Outcome, Queue, Reconcile, ReconcileError};
use super::scheduler::fit::{matches_node, node_of, tolerates};
use super::stateful_set::REVISION_LABEL;

/// Runs `DaemonSets`.
pub(crate) struct DaemonSetController {
    context: Context,
}

impl DaemonSetController {
    /// A controller that wakes when `DaemonSets`, their pods, or nodes change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake_on_self(&mut informers.daemon_sets, queue);
        let owners = context.caches.daemon_sets.clone();
        wake_on_selected(&mut informers.pods, queue, owners, |object: &DaemonSet| {
            object.spec.as_ref().map(|spec| &spec.selector)
        });
        let sets = context.caches.daemon_sets.clone();
        wake(&mut informers.nodes, queue, move |change: &Change<Node>| {
            let same = match (&change.old, &change.new) {
                (Some(old), Some(new)) => old.spec == new.spec && old.metadata.labels == new.metadata.labels,
                _ => false,
            };
            if same {
                Vec::new()
            } else {
                sets.all().iter().map(|set| Key::of(&**set)).collect()
            }
        });
        Self { context }
    }
}

impl Reconcile for DaemonSetController {
    const NAME: &'static str = "daemonset-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let Context {
            objects,
            caches,
            events,
        } = &self.context;
        let Some(set) = caches.daemon_sets.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = &set.spec else {
            return Ok(Outcome::Done);
        };
        let pods = claim(objects, &caches.pods, &*set, Some(&spec.selector)).await?;
        let now = Timestamp::now();
        let first = plan(&set, spec, &caches.nodes.all(), &pods, now);
        let mut failed = None;
        if !is_terminating(&set.metadata) {
            delete_all(objects, &caches.pods, events, &*set, &first.delete).await?;
            (_, failed) = create_all(objects, &caches.pods, events, &*set, &first.create).await;
        }
        let mut pods = caches.pods.in_namespace(&key.namespace);
        pods.retain(|pod| super::meta::is_controlled_by(&pod.metadata, &set.metadata));
        let status = plan(&set, spec, &caches.nodes.all(), &pods, now).status;
        if set.status.as_ref() != Some(&status) {
            let mut updated = (*set).clone();
            updated.status = Some(status);
            objects.replace_status(&caches.daemon_sets, &updated).await?;
        }
        failed.map_or(Ok(()), Err)?;
        Ok(Outcome::after(next_availability(
            &pods,
            spec.min_ready_seconds.unwrap_or(0),
            now,
        )))
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .daemon_sets
            .all()
            .iter()
            .map(|set| Key::of(&**set))
            .collect()
    }
}

struct Plan {
    create: Vec<Pod>,
    delete: Vec<Arc<Pod>>,
    status: DaemonSetStatus,
}

fn plan(set: &DaemonSet, spec: &DaemonSetSpec, nodes: &[Arc<Node>], pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let revision = short_hash(&spec.template, 0);
    let probe = daemon_pod(set, spec, None, &revision);
    let mut by_node: BTreeMap<String, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target_node(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let mut plan = Plan {
        create: Vec::new(),
        delete: Vec::new(),
        status: DaemonSetStatus::default(),
    };
    let status = &mut plan.status;
    let (mut available, mut updated) = (0, 0);
    let mut outdated = Vec::new();
    for node in nodes {
        let name = node.name_any();
        let here = by_node.remove(&name).unwrap_or_default();
        if !takes(node, &probe) {
            status.number_misscheduled += i32::from(!here.is_empty());
            plan.delete
                .extend(here.into_iter().filter(|pod| !is_terminating(&pod.metadata)).cloned());
            continue;
        }
        status.desired_number_scheduled += 1;
        let mut alive: Vec<&Arc<Pod>> = here
            .iter()
            .copied()
            .filter(|pod| !is_terminating(&pod.metadata))
            .collect();
        let ended: Vec<Arc<Pod>> = alive.iter().copied().filter(|pod| is_terminal(pod)).cloned().collect();
        alive.retain(|pod| !is_terminal(pod));
        if here.is_empty() {
            plan.create.push(daemon_pod(set, spec, Some(&name), &revision));
        }
        plan.delete.extend(ended);
        plan.delete.extend(alive.iter().skip(1).map(|pod| Arc::clone(pod)));
        let Some(pod) = alive.first() else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(is_ready(pod));
        let minimum = spec.min_ready_seconds.unwrap_or(0);
        available += i32::from(available_in(pod, minimum, now).is_some_and(|wait| wait.is_zero()));
        if pod.labels().get(REVISION_LABEL) == Some(&revision) {
            updated += 1;
        } else {
            outdated.push(Arc::clone(pod));
        }
    }
    status.number_available = unless_zero(available);
    status.number_unavailable = unless_zero(status.desired_number_scheduled - available);
    status.updated_number_scheduled = unless_zero(updated);
    status.observed_generation = set.metadata.generation;
    let on_delete = spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        == Some("OnDelete");
    if !on_delete && plan.create.is_empty() && plan.delete.is_empty() {
        let limit = spec
            .update_strategy
            .as_ref()
            .and_then(|strategy| strategy.rolling_update.as_ref()?.max_unavailable.as_ref())
            .and_then(|limit| scaled(limit, status.desired_number_scheduled, true).ok())
            .unwrap_or(1)
            .max(1);
        // Pods that do not serve can be replaced without loss; of the others only as many as may be missing.
        outdated.sort_by_key(|pod| is_ready(pod));
        let mut room = limit - (status.desired_number_scheduled - available);
        for pod in outdated {
            if is_ready(&pod) {
                if room <= 0 {
                    continue;
                }
                room -= 1;
            }
            plan.delete.push(pod);
        }
    }
    plan
}

/// Whether a pod of the set belongs on the node: selector, affinity, and taints that the pod tolerates.
fn takes(node: &Node, pod: &Pod) -> bool {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let barred = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    matches_node(pod, node) && taints.iter().filter(barred).all(|taint| tolerates(tolerations, taint))
}

/// The node that a pod is bound or pinned to.
fn target_node(pod: &Pod) -> Option<String> {
    if let Some(node) = node_of(pod) {
        return Some(node.to_owned());
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.first()?.match_fields.as_ref()?;
    fields.first()?.values.as_ref()?.first().cloned()
}

fn daemon_pod(set: &DaemonSet, spec: &DaemonSetSpec, node: Option<&str>, revision: &str) -> Pod {
    let name = format!("{}-", set.name_any());
    let mut pod = pod_from_template(set, &spec.template, PodName::Generated(name));
    label(&mut pod.metadata, REVISION_LABEL, revision);
    let Some(pod_spec) = &mut pod.spec else {
        return pod;
    };
    let tolerations = pod_spec.tolerations.get_or_insert_default();
    for (key, effect) in [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/not-ready", "NoSchedule"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ] {
        tolerations.push(Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        });
    }
    if let Some(node) = node {
        let affinity = pod_spec
            .affinity
            .get_or_insert_default()
            .node_affinity
            .get_or_insert_with(NodeAffinity::default);
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .get_or_insert_with(NodeSelector::default);
        if required.node_selector_terms.is_empty() {
            required.node_selector_terms.push(NodeSelectorTerm::default());
        }
        for term in &mut required.node_selector_terms {
            term.match_fields = Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]);
        }
    }
    pod
}
