//! `StatefulSets`: pods with names, claims and an order that stay.
//!
//! May depend on the controllers' runtime; [`plan`] is pure. Central type: [`StatefulSetController`]. Contract: never
//! two pods of one name; a pod comes back under its name only when the old one (another UID) is gone; with `OrderedReady`
//! one at a time and each only when those before it are available. Source of the rules:
//! `pkg/controller/statefulset/stateful_set_control.go` of Kubernetes 1.33. Left out: partitions, history objects
//! (`kubectl rollout undo`), retention policies of claims.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::context::{Context, Informers, wake_on_selected, wake_on_self};
use super::meta::{available_in, count, is_ready, is_terminal, is_terminating, phase, short_hash, unless_zero};
use super::pods::{PodName, claim, create_all, delete_all, label, pod_from_template};
use super::replica_set::next_availability;
use super::runtime::{Key, Outcome, Queue, Reconcile, ReconcileError};

/// Names the template that a pod was made from.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// Runs `StatefulSets`.
pub(crate) struct StatefulSetController {
    context: Context,
}

impl StatefulSetController {
    /// A controller that wakes when `StatefulSets` or their pods change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake_on_self(&mut informers.stateful_sets, queue);
        let owners = context.caches.stateful_sets.clone();
        wake_on_selected(&mut informers.pods, queue, owners, |object: &StatefulSet| {
            object.spec.as_ref().map(|spec| &spec.selector)
        });
        Self { context }
    }

    /// Makes the claims of a pod that are not there yet.
    async fn ensure_claims(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        ordinal: i32,
    ) -> Result<(), ReconcileError> {
        let caches = &self.context.caches;
        let namespace = set.namespace().unwrap_or_default();
        for template in spec.volume_claim_templates.iter().flatten() {
            let name = claim_name(set, template, ordinal);
            if caches.volume_claims.get(&namespace, &name).is_some() {
                continue;
            }
            let mut wanted: PersistentVolumeClaim = template.clone();
            wanted.metadata.name = Some(name.clone());
            wanted.metadata.namespace = Some(namespace.clone());
            wanted.status = None;
            let labels = wanted.metadata.labels.get_or_insert_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            match self.context.objects.create(&caches.volume_claims, &wanted).await {
                Ok(_) => {
                    let note = format!(
                        "create Claim {name} Pod {} in StatefulSet {} success",
                        pod_name(set, ordinal),
                        set.name_any()
                    );
                    self.context.events.normal(set, "SuccessfulCreate", note);
                }
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn carry_out(&self, set: &StatefulSet, spec: &StatefulSetSpec, plan: &Plan) -> Result<(), ReconcileError> {
        let Context {
            objects,
            caches,
            events,
        } = &self.context;
        delete_all(objects, &caches.pods, events, set, &plan.delete).await?;
        let mut pods = Vec::new();
        for ordinal in &plan.create {
            self.ensure_claims(set, spec, *ordinal).await?;
            pods.push(stateful_pod(set, spec, *ordinal, &plan.revision));
        }
        let (_, failed) = create_all(objects, &caches.pods, events, set, &pods).await;
        failed.map_or(Ok(()), Err)
    }
}

impl Reconcile for StatefulSetController {
    const NAME: &'static str = "statefulset-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(set) = caches.stateful_sets.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = &set.spec else {
            return Ok(Outcome::Done);
        };
        let pods = claim(&self.context.objects, &caches.pods, &*set, Some(&spec.selector)).await?;
        let now = Timestamp::now();
        let first = plan(&set, spec, &pods, now);
        let done = if is_terminating(&set.metadata) {
            Ok(())
        } else {
            self.carry_out(&set, spec, &first).await
        };
        // The caches have seen the deeds: the status tells what is there now.
        let mut pods = caches.pods.in_namespace(&key.namespace);
        pods.retain(|pod| super::meta::is_controlled_by(&pod.metadata, &set.metadata));
        let status = plan(&set, spec, &pods, now).status;
        if set.status.as_ref() != Some(&status) {
            let mut updated = (*set).clone();
            updated.status = Some(status);
            self.context
                .objects
                .replace_status(&caches.stateful_sets, &updated)
                .await?;
        }
        done?;
        let next = next_availability(&pods, spec.min_ready_seconds.unwrap_or(0), now);
        let more = !first.create.is_empty() || !first.delete.is_empty();
        Ok(Outcome::after(next.or(more.then_some(Duration::from_millis(100)))))
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .stateful_sets
            .all()
            .iter()
            .map(|set| Key::of(&**set))
            .collect()
    }
}

/// What to do next.
#[derive(Debug, PartialEq)]
struct Plan {
    create: Vec<i32>,
    delete: Vec<Arc<Pod>>,
    status: StatefulSetStatus,
    revision: String,
}

fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", template.name_any(), pod_name(set, ordinal))
}

fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    name.strip_prefix(&set.name_any())?.strip_prefix('-')?.parse().ok()
}

fn revision_name(set: &StatefulSet, spec: &StatefulSetSpec) -> String {
    format!("{}-{}", set.name_any(), short_hash(&spec.template, 0))
}

fn has_revision(pod: &Pod, revision: &str) -> bool {
    pod.labels().get(REVISION_LABEL).is_some_and(|label| label == revision)
}

fn is_available(pod: &Pod, spec: &StatefulSetSpec, now: Timestamp) -> bool {
    phase(pod) == "Running"
        && available_in(pod, spec.min_ready_seconds.unwrap_or(0), now).is_some_and(|wait| wait.is_zero())
}

fn plan(set: &StatefulSet, spec: &StatefulSetSpec, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let revision = revision_name(set, spec);
    let by_ordinal: BTreeMap<i32, &Arc<Pod>> = pods
        .iter()
        .filter_map(|pod| Some((ordinal_of(set, pod)?, pod)))
        .collect();
    let status = status_of(set, spec, pods, &revision, now);
    let mut plan = Plan {
        create: Vec::new(),
        delete: Vec::new(),
        status,
        revision,
    };
    let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1).max(0));

    for ordinal in wanted.clone() {
        let Some(pod) = by_ordinal.get(&ordinal) else {
            plan.create.push(ordinal);
            if ordered {
                return plan;
            }
            continue;
        };
        if is_terminal(pod) && !is_terminating(&pod.metadata) {
            // A pod that ended never runs again; it is taken away so that its name is free.
            plan.delete.push(Arc::clone(pod));
            if ordered {
                return plan;
            }
        } else if ordered && (is_terminating(&pod.metadata) || !is_available(pod, spec, now)) {
            return plan;
        }
    }
    if !plan.create.is_empty() {
        return plan;
    }
    for (_, pod) in by_ordinal.iter().rev().filter(|(ordinal, _)| !wanted.contains(ordinal)) {
        if ordered && is_terminating(&pod.metadata) {
            return plan;
        }
        if !is_terminating(&pod.metadata) {
            plan.delete.push(Arc::clone(pod));
            if ordered {
                return plan;
            }
        }
    }
    let on_delete = spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        == Some("OnDelete");
    if on_delete || !plan.delete.is_empty() {
        return plan;
    }
    // Rolling update: from the last to the first, each only when those after it serve again.
    for ordinal in wanted.rev() {
        let Some(pod) = by_ordinal.get(&ordinal) else {
            return plan;
        };
        if !has_revision(pod, &plan.revision) && !is_terminating(&pod.metadata) {
            plan.delete.push(Arc::clone(pod));
            return plan;
        }
        if is_terminating(&pod.metadata) || !is_available(pod, spec, now) {
            return plan;
        }
    }
    plan
}

fn status_of(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    pods: &[Arc<Pod>],
    update: &str,
    now: Timestamp,
) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let mut current = old.current_revision.clone().unwrap_or_else(|| update.to_owned());
    let of = |holds: &dyn Fn(&Pod) -> bool| count(pods.iter().filter(|pod| holds(pod)).count());
    let alive = |pod: &Pod| !is_terminating(&pod.metadata);
    let ready = of(&|pod| phase(pod) == "Running" && is_ready(pod));
    let updated = of(&|pod| alive(pod) && has_revision(pod, update));
    let wanted = spec.replicas.unwrap_or(1);
    if updated == wanted && ready == wanted && count(pods.len()) == wanted {
        update.clone_into(&mut current);
    }
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(pods.len()),
        ready_replicas: unless_zero(ready),
        available_replicas: Some(of(&|pod| is_available(pod, spec, now))),
        current_replicas: unless_zero(of(&|pod| alive(pod) && has_revision(pod, &current))),
        updated_replicas: unless_zero(updated),
        current_revision: Some(current),
        update_revision: Some(update.to_owned()),
        collision_count: Some(0),
        conditions: old.conditions,
    }
}

fn stateful_pod(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32, revision: &str) -> Pod {
    let name = pod_name(set, ordinal);
    let mut pod = pod_from_template(set, &spec.template, PodName::Fixed(name.clone()));
    label(&mut pod.metadata, "statefulset.kubernetes.io/pod-name", name.clone());
    label(&mut pod.metadata, "apps.kubernetes.io/pod-index", ordinal.to_string());
    label(&mut pod.metadata, REVISION_LABEL, revision);
    if let Some(pod_spec) = &mut pod.spec {
        pod_spec.hostname = Some(name);
        pod_spec.subdomain.clone_from(&spec.service_name);
        let claims: Vec<Volume> = spec
            .volume_claim_templates
            .iter()
            .flatten()
            .map(|template| Volume {
                name: template.name_any(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim_name(set, template, ordinal),
                    read_only: None,
                }),
                ..Volume::default()
            })
            .collect();
        let volumes = pod_spec.volumes.get_or_insert_default();
        volumes.retain(|volume| !claims.iter().any(|claim| claim.name == volume.name));
        volumes.extend(claims);
    }
    pod
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::jiff::Timestamp;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    use super::{Plan, REVISION_LABEL, plan, revision_name, stateful_pod};

    fn set(replicas: i32, more: &Value) -> StatefulSet {
        let mut value = json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "u", "generation": 1},
            "spec": {
                "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            },
        });
        json_patch::merge(&mut value, more);
        serde_json::from_value(value).unwrap()
    }

    fn pod(set: &StatefulSet, ordinal: i32, state: &str) -> Arc<Pod> {
        let spec = set.spec.as_ref().unwrap();
        let mut pod = stateful_pod(set, spec, ordinal, &revision_name(set, spec));
        let (phase, ready) = match state {
            "ready" => ("Running", "True"),
            "failed" => ("Failed", "False"),
            _ => ("Running", "False"),
        };
        if state == "terminating" {
            pod.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
        }
        pod.status = serde_json::from_value(json!({
            "phase": phase, "conditions": [{"type": "Ready", "status": ready}],
        }))
        .unwrap();
        Arc::new(pod)
    }

    fn next(set: &StatefulSet, pods: &[Arc<Pod>]) -> Plan {
        plan(set, set.spec.as_ref().unwrap(), pods, Timestamp::now())
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn ordered_sets_grow_one_by_one_when_the_one_before_is_ready() {
        let set = set(3, &json!({}));
        assert_eq!(next(&set, &[]).create, [0]);
        assert_eq!(next(&set, &[pod(&set, 0, "starting")]).create, [] as [i32; 0]);
        assert_eq!(next(&set, &[pod(&set, 0, "ready")]).create, [1]);
    }

    #[test]
    fn parallel_sets_grow_at_once() {
        let set = set(3, &json!({"spec": {"podManagementPolicy": "Parallel"}}));
        assert_eq!(next(&set, &[pod(&set, 1, "starting")]).create, [0, 2]);
    }

    #[test]
    fn a_name_is_taken_again_only_when_its_pod_is_gone() {
        for policy in ["OrderedReady", "Parallel"] {
            let set = set(2, &json!({"spec": {"podManagementPolicy": policy}}));
            let going = next(&set, &[pod(&set, 0, "ready"), pod(&set, 1, "terminating")]);
            assert!(going.create.is_empty() && going.delete.is_empty(), "{policy}");
            assert_eq!(next(&set, &[pod(&set, 0, "ready")]).create, [1], "{policy}");
        }
    }

    #[test]
    fn a_failed_pod_is_taken_away() {
        let set = set(1, &json!({}));
        assert_eq!(names(&next(&set, &[pod(&set, 0, "failed")]).delete), ["db-0"]);
    }

    #[test]
    fn sets_shrink_from_the_end() {
        let set = set(1, &json!({}));
        let pods = [pod(&set, 0, "ready"), pod(&set, 1, "ready"), pod(&set, 2, "ready")];
        assert_eq!(names(&next(&set, &pods).delete), ["db-2"]);
        let parallel = self::set(1, &json!({"spec": {"podManagementPolicy": "Parallel"}}));
        assert_eq!(names(&next(&parallel, &pods).delete), ["db-2", "db-1"]);
    }

    #[test]
    fn a_new_template_is_rolled_out_from_the_last_pod_waiting_for_each() {
        let old = set(2, &json!({}));
        let mut new = set(2, &json!({"spec": {"template": {"metadata": {"labels": {"v": "2"}}}}}));
        new.status = Some(next(&old, &[pod(&old, 0, "ready"), pod(&old, 1, "ready")]).status);
        let both_old = next(&new, &[pod(&old, 0, "ready"), pod(&old, 1, "ready")]);
        assert_eq!(names(&both_old.delete), ["db-1"]);
        assert_ne!(both_old.status.current_revision, both_old.status.update_revision);
        assert!(
            next(&new, &[pod(&old, 0, "ready"), pod(&new, 1, "starting")])
                .delete
                .is_empty()
        );
        assert_eq!(
            names(&next(&new, &[pod(&old, 0, "ready"), pod(&new, 1, "ready")]).delete),
            ["db-0"]
        );
        let done = next(&new, &[pod(&new, 0, "ready"), pod(&new, 1, "ready")]);
        assert_eq!(done.status.current_revision, done.status.update_revision);
        new.spec.as_mut().unwrap().update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
        assert!(
            next(&new, &[pod(&old, 0, "ready"), pod(&old, 1, "ready")])
                .delete
                .is_empty()
        );
    }

    #[test]
    fn a_pod_has_a_stable_name_host_and_claim() {
        let set = set(1, &json!({}));
        let pod = pod(&set, 0, "ready");
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(
            (spec.hostname.as_deref(), spec.subdomain.as_deref()),
            (Some("db-0"), Some("db"))
        );
        assert_eq!(
            pod.labels()
                .get("statefulset.kubernetes.io/pod-name")
                .map(String::as_str),
            Some("db-0")
        );
        assert!(pod.labels().contains_key(REVISION_LABEL));
        let volume = &spec.volumes.as_ref().unwrap()[0];
        assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-0");
    }
}
