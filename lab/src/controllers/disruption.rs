//! `PodDisruptionBudgets`: how many pods may be evicted now.
//!
//! May depend on the controllers' runtime; [`judge`] is pure. Central type: [`DisruptionController`]. Contract: the
//! eviction subresource of the API server trusts `status.disruptionsAllowed`, so it must never be too large: when the
//! expected number of pods cannot be known (a percentage or `maxUnavailable` over pods whose controller has no scale,
//! as Spark executors owned by their driver pod), it is 0. Source of the rules: `pkg/controller/disruption` of
//! Kubernetes 1.33.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::context::{Caches, Context, Informers, wake, wake_on_self};
use super::meta::{
    controller_of, count, elapsed, is_ready, is_terminal, is_terminating, owner_name_of_kind, scaled, selects_or_all,
    stamp, truth,
};
use super::runtime::{Change, Key, Outcome, Queue, Reconcile, ReconcileError};

/// An eviction that the API server has granted is taken for failed when its pod is still there after this time.
const DELETION_TIMEOUT: std::time::Duration = std::time::Duration::from_mins(2);

/// Keeps the status of `PodDisruptionBudgets`.
pub(crate) struct DisruptionController {
    context: Context,
}

impl DisruptionController {
    /// A controller that wakes when budgets, the pods they select, or the workloads behind those change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake_on_self(&mut informers.disruption_budgets, queue);
        let budgets = context.caches.disruption_budgets.clone();
        wake(&mut informers.pods, queue, move |change: &Change<Pod>| {
            let mut keys = Vec::new();
            for pod in change.states() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                for budget in budgets.in_namespace(namespace) {
                    if covers(&budget, pod) {
                        keys.push(Key::of(&*budget));
                    }
                }
            }
            keys
        });
        // A scale changes how many pods are expected before any pod changes.
        let of_namespace = |budgets: super::runtime::Cache<PodDisruptionBudget>| {
            move |namespace: Option<String>| -> Vec<Key> {
                let all = budgets.in_namespace(namespace.as_deref().unwrap_or_default());
                all.iter().map(|budget| Key::of(&**budget)).collect()
            }
        };
        let in_namespace = of_namespace(context.caches.disruption_budgets.clone());
        wake(&mut informers.deployments, queue, {
            let in_namespace = in_namespace.clone();
            move |change: &Change<Deployment>| {
                let size = |one: &Arc<Deployment>| one.spec.as_ref().and_then(|spec| spec.replicas);
                if change.old.as_ref().map(size) == change.new.as_ref().map(size) {
                    return Vec::new();
                }
                in_namespace(change.latest().and_then(|one| one.namespace()))
            }
        });
        wake(
            &mut informers.stateful_sets,
            queue,
            move |change: &Change<StatefulSet>| {
                let size = |one: &Arc<StatefulSet>| one.spec.as_ref().and_then(|spec| spec.replicas);
                if change.old.as_ref().map(size) == change.new.as_ref().map(size) {
                    return Vec::new();
                }
                in_namespace(change.latest().and_then(|one| one.namespace()))
            },
        );
        Self { context }
    }
}

impl Reconcile for DisruptionController {
    const NAME: &'static str = "disruption-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(budget) = caches.disruption_budgets.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = &budget.spec else {
            return Ok(Outcome::Done);
        };
        let mut pods = caches.pods.in_namespace(&key.namespace);
        pods.retain(|pod| covers(&budget, pod) && !is_terminal(pod));
        let sizes = sizes(caches, &pods);
        let now = Timestamp::now();
        let status = judge(&budget, spec, &pods, &sizes, now);
        let pending = status.disrupted_pods.as_ref().is_some_and(|pods| !pods.is_empty());
        if budget.status.as_ref() != Some(&status) {
            let mut updated = (*budget).clone();
            updated.status = Some(status);
            self.context
                .objects
                .replace_status(&caches.disruption_budgets, &updated)
                .await?;
        }
        Ok(Outcome::after(pending.then_some(DELETION_TIMEOUT)))
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .disruption_budgets
            .all()
            .iter()
            .map(|budget| Key::of(&**budget))
            .collect()
    }
}

/// An empty selector covers every pod of the namespace, a missing one none.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selects_or_all(selector, pod.metadata.labels.as_ref()))
}

/// Sizes of the workloads behind pods, by UID of the top owner; or the first pod whose owner has none.
type Sizes = Result<BTreeMap<String, i32>, String>;

fn sizes(caches: &Caches, pods: &[Arc<Pod>]) -> Sizes {
    let mut sizes = BTreeMap::new();
    for pod in pods {
        let (uid, size) = scale_behind(caches, pod).ok_or_else(|| no_scale(pod))?;
        sizes.insert(uid, size);
    }
    Ok(sizes)
}

fn no_scale(pod: &Pod) -> String {
    match controller_of(&pod.metadata) {
        None => format!("found no controllers for pod \"{}\"", pod.name_any()),
        Some(owner) => {
            let plural = owner.kind.to_lowercase();
            format!(
                "{plural}s \"{}\" of pod \"{}\" does not implement the scale subresource",
                owner.name,
                pod.name_any()
            )
        }
    }
}

fn scale_behind(caches: &Caches, pod: &Pod) -> Option<(String, i32)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let owner = controller_of(&pod.metadata)?;
    if let Some(name) = owner_name_of_kind::<StatefulSet>(&pod.metadata) {
        let set = caches
            .stateful_sets
            .get(namespace, name)
            .filter(|set| set.uid().as_ref() == Some(&owner.uid))?;
        return Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1)));
    }
    let name = owner_name_of_kind::<ReplicaSet>(&pod.metadata)?;
    let set = caches
        .replica_sets
        .get(namespace, name)
        .filter(|set| set.uid().as_ref() == Some(&owner.uid))?;
    let Some(above) = controller_of(&set.metadata) else {
        return Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1)));
    };
    let name = owner_name_of_kind::<Deployment>(&set.metadata)?;
    let deployment = caches
        .deployments
        .get(namespace, name)
        .filter(|one| one.uid().as_ref() == Some(&above.uid))?;
    Some((above.uid.clone(), deployment.spec.as_ref()?.replicas.unwrap_or(1)))
}

/// Expected and desired numbers of pods, or why they cannot be known.
fn expectation(spec: &PodDisruptionBudgetSpec, pods: &[Arc<Pod>], sizes: &Sizes) -> Result<(i32, i32), String> {
    let expected = || {
        sizes
            .as_ref()
            .map(|sizes| sizes.values().sum::<i32>())
            .map_err(Clone::clone)
    };
    if let Some(limit) = &spec.max_unavailable {
        let expected = expected()?;
        let unavailable = scaled(limit, expected, true)?;
        return Ok((expected, expected.saturating_sub(unavailable).max(0)));
    }
    match &spec.min_available {
        Some(IntOrString::Int(number)) => Ok((count(pods.len()), *number)),
        Some(percentage) => {
            let expected = expected()?;
            Ok((expected, scaled(percentage, expected, true)?))
        }
        None => Ok((count(pods.len()), 0)),
    }
}

/// The status of a budget over these pods (ended ones left out).
fn judge(
    budget: &PodDisruptionBudget,
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    sizes: &Sizes,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let (expected, desired) = match expectation(spec, pods, sizes) {
        Ok(numbers) => numbers,
        // Nothing may be evicted while the right number is unknown ("fail safe").
        Err(problem) => {
            let conditions = Some(condition(&old, generation, 0, Some(problem), now));
            return PodDisruptionBudgetStatus {
                disruptions_allowed: 0,
                observed_generation: generation,
                conditions,
                ..old
            };
        }
    };
    // Pods that the API server has begun to evict do not count as healthy, until they turn out not to go.
    let disrupted: BTreeMap<String, Time> = old
        .disrupted_pods
        .clone()
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, since)| {
            let pod = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(name));
            pod.is_some_and(|pod| !is_terminating(&pod.metadata)) && elapsed(since.0, now) < DELETION_TIMEOUT
        })
        .collect();
    let healthy = pods.iter().filter(|pod| {
        let evicted = pod
            .metadata
            .name
            .as_ref()
            .is_some_and(|name| disrupted.contains_key(name));
        is_ready(pod) && !is_terminating(&pod.metadata) && !evicted
    });
    let healthy = count(healthy.count());
    let allowed = if expected <= 0 {
        0
    } else {
        healthy.saturating_sub(desired).max(0)
    };
    PodDisruptionBudgetStatus {
        observed_generation: generation,
        expected_pods: expected,
        current_healthy: healthy,
        desired_healthy: desired,
        disruptions_allowed: allowed,
        conditions: Some(condition(&old, generation, allowed, None, now)),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
    }
}

fn condition(
    old: &PodDisruptionBudgetStatus,
    generation: Option<i64>,
    allowed: i32,
    problem: Option<String>,
    now: Timestamp,
) -> Vec<Condition> {
    let (reason, message) = match problem {
        Some(problem) => ("SyncFailed", problem),
        None if allowed > 0 => ("SufficientPods", String::new()),
        None => ("InsufficientPods", String::new()),
    };
    let status = truth(allowed > 0);
    let mut others: Vec<Condition> = old.conditions.clone().unwrap_or_default();
    let before = others
        .iter()
        .position(|condition| condition.type_ == "DisruptionAllowed");
    let before = before.map(|index| others.remove(index));
    let since = before
        .filter(|before| before.status == status)
        .map(|before| before.last_transition_time);
    others.push(Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| stamp(now)),
    });
    others
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::{Sizes, judge};

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        (0..ready + unready)
            .map(|index| {
                let truth = if index < ready { "True" } else { "False" };
                let value = json!({
                    "metadata": {"name": format!("p{index}")},
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": truth}]},
                });
                Arc::new(serde_json::from_value(value).unwrap())
            })
            .collect()
    }

    fn status(spec: &Value, pods: &[Arc<Pod>], sizes: &Sizes) -> PodDisruptionBudgetStatus {
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"metadata": {"name": "b", "generation": 3}, "spec": spec})).unwrap();
        judge(&budget, budget.spec.as_ref().unwrap(), pods, sizes, Timestamp::now())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the other kind of sizes is an error")]
    fn size(replicas: i32) -> Sizes {
        Ok([("u".to_owned(), replicas)].into())
    }

    fn without_scale() -> Sizes {
        Err("pods \"driver\" of pod \"p0\" does not implement the scale subresource".to_owned())
    }

    #[test]
    fn numbers_and_percentages_round_towards_fewer_evictions() {
        for (spec, ready, unready, sizes, allowed) in [
            (json!({"minAvailable": 2}), 3, 0, size(3), 1),
            (json!({"minAvailable": 2}), 2, 1, size(3), 0),
            (json!({"minAvailable": "50%"}), 3, 0, size(3), 1),
            (json!({"minAvailable": "100%"}), 3, 0, size(3), 0),
            (json!({"maxUnavailable": 1}), 3, 0, size(3), 1),
            (json!({"maxUnavailable": 1}), 2, 1, size(3), 0),
            (json!({"maxUnavailable": "30%"}), 3, 0, size(3), 1),
            (json!({"maxUnavailable": 0}), 3, 0, size(3), 0),
            (json!({"minAvailable": 0}), 0, 0, size(0), 0),
        ] {
            let status = status(&spec, &pods(ready, unready), &sizes);
            assert_eq!(status.disruptions_allowed, allowed, "{spec} {ready}+{unready}");
            assert_eq!(status.observed_generation, Some(3));
        }
    }

    #[test]
    fn pods_whose_owner_has_no_scale_may_not_be_evicted_by_percentage_or_max_unavailable() {
        for spec in [
            json!({"maxUnavailable": 1}),
            json!({"minAvailable": "50%"}),
            json!({"maxUnavailable": "50%"}),
        ] {
            let status = status(&spec, &pods(2, 0), &without_scale());
            assert_eq!(status.disruptions_allowed, 0, "{spec}");
            let condition = &status.conditions.unwrap()[0];
            assert_eq!(
                (condition.status.as_str(), condition.reason.as_str()),
                ("False", "SyncFailed")
            );
        }
        let by_number = status(&json!({"minAvailable": 1}), &pods(2, 0), &without_scale());
        assert_eq!((by_number.disruptions_allowed, by_number.expected_pods), (1, 2));
    }

    #[test]
    fn a_pod_under_eviction_no_longer_counts_as_healthy() {
        let pods = pods(3, 0);
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": {"name": "b"}, "spec": {"minAvailable": 2},
            "status": {
                "currentHealthy": 3, "desiredHealthy": 2, "disruptionsAllowed": 0, "expectedPods": 3,
                "disruptedPods": {"p0": Timestamp::now().to_string(), "long-gone": Timestamp::now().to_string()},
            },
        }))
        .unwrap();
        let status = judge(
            &budget,
            budget.spec.as_ref().unwrap(),
            &pods,
            &size(3),
            Timestamp::now(),
        );
        assert_eq!((status.current_healthy, status.disruptions_allowed), (2, 0));
        assert_eq!(status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p0"]);
    }
}
