//! `ReplicaSets`: keep as many pods as asked for.
//!
//! May depend on the controllers' runtime. Central type: [`ReplicaSetController`]. Contract: pods belong by controller
//! reference (UID), orphans that match are adopted, and what is deleted first is what serves least
//! (`controller.ActivePodsWithRanks`).

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::context::{Context, Informers, wake_on_selected, wake_on_self};
use super::meta::{
    available_in, contains_all, count, created, is_active, is_ready, is_terminating, phase, stamp, unless_zero,
};
use super::pods::{PodName, annotation, claim, create_all, delete_all, pod_from_template};
use super::runtime::{Key, Outcome, Queue, Reconcile, ReconcileError};
use super::scheduler::fit::node_of;

/// Pods created in one round; the rest follows in the next.
const BURST: usize = 50;

/// Keeps `ReplicaSets` at their size.
pub(crate) struct ReplicaSetController {
    context: Context,
}

impl ReplicaSetController {
    /// A controller that wakes when `ReplicaSets` or their pods change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake_on_self(&mut informers.replica_sets, queue);
        let owners = context.caches.replica_sets.clone();
        wake_on_selected(&mut informers.pods, queue, owners, |object: &ReplicaSet| {
            object.spec.as_ref().map(|spec| &spec.selector)
        });
        Self { context }
    }

    async fn scale(&self, set: &ReplicaSet, active: &[Arc<Pod>], wanted: usize) -> Result<(), ReconcileError> {
        let Context {
            objects,
            caches,
            events,
        } = &self.context;
        if active.len() < wanted {
            let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
                return Ok(());
            };
            let missing = (wanted - active.len()).min(BURST);
            let name = format!("{}-", set.name_any());
            let pods: Vec<Pod> = (0..missing)
                .map(|_| pod_from_template(set, template, PodName::Generated(name.clone())))
                .collect();
            let (_, failed) = create_all(objects, &caches.pods, events, set, &pods).await;
            failed.map_or(Ok(()), Err)
        } else {
            let surplus = active.len() - wanted;
            let victims = least_useful(active, surplus);
            delete_all(objects, &caches.pods, events, set, &victims).await
        }
    }
}

impl Reconcile for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(set) = caches.replica_sets.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        let mut active = claim(&self.context.objects, &caches.pods, &*set, selector).await?;
        active.retain(|pod| is_active(pod));
        let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let wanted_pods = usize::try_from(wanted).unwrap_or(0);
        let mut scaled = Ok(());
        if !is_terminating(&set.metadata) && active.len() != wanted_pods {
            scaled = self.scale(&set, &active, wanted_pods).await;
            // Count what is there now: the caches have seen every write of `scale`.
            active = caches.pods.in_namespace(&key.namespace);
            active.retain(|pod| is_active(pod) && super::meta::is_controlled_by(&pod.metadata, &set.metadata));
        }
        let now = Timestamp::now();
        let status = status_of(&set, &active, scaled.as_ref().err(), now);
        if set.status.as_ref() != Some(&status) {
            let mut updated = (*set).clone();
            updated.status = Some(status);
            self.context
                .objects
                .replace_status(&caches.replica_sets, &updated)
                .await?;
        }
        scaled?;
        if active.len() < wanted_pods && !is_terminating(&set.metadata) {
            return Ok(Outcome::After(Duration::from_millis(1)));
        }
        Ok(Outcome::after(next_availability(&active, min_ready_seconds(&set), now)))
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .replica_sets
            .all()
            .iter()
            .map(|set| Key::of(&**set))
            .collect()
    }
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// When the next ready pod will have been ready for long enough.
pub(crate) fn next_availability(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    pods.iter()
        .filter_map(|pod| available_in(pod, min_ready_seconds, now))
        .filter(|wait| !wait.is_zero())
        .min()
        // Stamps are whole seconds; look a little after rather than a little before.
        .map(|wait| wait + Duration::from_millis(5))
}

fn status_of(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    failed: Option<&ReconcileError>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template_labels = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref())
        .and_then(|template| template.metadata.as_ref())
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    let of = |holds: &dyn Fn(&Pod) -> bool| count(active.iter().filter(|pod| holds(pod)).count());
    let minimum = min_ready_seconds(set);
    let old = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: unless_zero(of(&|pod| contains_all(pod.metadata.labels.as_ref(), &template_labels))),
        ready_replicas: unless_zero(of(&is_ready)),
        available_replicas: unless_zero(of(&|pod| {
            available_in(pod, minimum, now).is_some_and(|wait| wait.is_zero())
        })),
        observed_generation: set.metadata.generation,
        conditions: conditions(old.conditions.as_deref(), failed, now),
        terminating_replicas: old.terminating_replicas,
    }
}

fn conditions(
    old: Option<&[ReplicaSetCondition]>,
    failed: Option<&ReconcileError>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let before = old
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure");
    let failed = failed.filter(|error| !error.is_race())?;
    let cause = std::error::Error::source(failed).map_or_else(|| failed.to_string(), ToString::to_string);
    Some(vec![ReplicaSetCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        reason: Some("FailedCreate".to_owned()),
        message: Some(cause),
        last_transition_time: before
            .and_then(|condition| condition.last_transition_time.clone())
            .or(Some(stamp(now))),
    }])
}

/// The pods to delete first: not placed, pending, not ready, cheap, young, much restarted.
pub(crate) fn least_useful(pods: &[Arc<Pod>], surplus: usize) -> Vec<Arc<Pod>> {
    let mut ordered = pods.to_vec();
    ordered.sort_by_cached_key(|pod| {
        let phase_rank = match phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let cost: i64 = annotation(&pod.metadata, "controller.kubernetes.io/pod-deletion-cost")
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0);
        let restarts: i32 = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|container| container.restart_count)
            .max()
            .unwrap_or(0);
        (
            node_of(pod).is_some(),
            phase_rank,
            is_ready(pod),
            cost,
            Reverse(super::meta::ready_since(pod)),
            Reverse(restarts),
            Reverse(created(&pod.metadata)),
        )
    });
    ordered.truncate(surplus);
    ordered
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use serde_json::json;

    use super::least_useful;

    fn pod(name: &str, node: Option<&str>, phase: &str, ready: bool, created: &str) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": created}
            ]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn the_pods_that_serve_least_go_first() {
        let pods = [
            pod("old-ready", Some("n"), "Running", true, "2026-01-01T00:00:00Z"),
            pod("new-ready", Some("n"), "Running", true, "2026-01-02T00:00:00Z"),
            pod("unready", Some("n"), "Running", false, "2026-01-01T00:00:00Z"),
            pod("pending", Some("n"), "Pending", false, "2026-01-01T00:00:00Z"),
            pod("unplaced", None, "Pending", false, "2026-01-01T00:00:00Z"),
        ];
        let order: Vec<String> = least_useful(&pods, 5).iter().map(|pod| pod.name_any()).collect();
        assert_eq!(order, ["unplaced", "pending", "unready", "new-ready", "old-ready"]);
        assert_eq!(least_useful(&pods, 2).len(), 2);
    }
}
