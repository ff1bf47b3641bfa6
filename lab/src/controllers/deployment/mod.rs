//! Deployments: one `ReplicaSet` per pod template, and the way from the old one to the new one.
//!
//! May depend on the controllers' runtime; [`rollout`] is pure. Central type: [`DeploymentController`]. Contract: at no
//! time more pods than `replicas + maxSurge` nor fewer available ones than `replicas - maxUnavailable` by this
//! controller's doing; status as `kubectl rollout status` and `kubectl wait --for=condition=Available` need it.
//! Source of the rules: `pkg/controller/deployment` of Kubernetes 1.33. Left out: rollback (gone from the API).

mod history;
pub(crate) mod rollout;
mod status;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use self::rollout::{Scale, Sets};
use super::context::{Context, Informers, wake, wake_on_selected, wake_on_self};
use super::meta::{is_controlled_by, is_terminal, is_terminating, owner_name_of_kind};
use super::pods::claim;
use super::runtime::{Key, Outcome, Queue, Reconcile, ReconcileError};

/// Rolls Deployments.
pub(crate) struct DeploymentController {
    context: Context,
}

impl DeploymentController {
    /// A controller that wakes when Deployments, their `ReplicaSets`, or (for Recreate) their pods change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake_on_self(&mut informers.deployments, queue);
        let owners = context.caches.deployments.clone();
        wake_on_selected(&mut informers.replica_sets, queue, owners, |object: &Deployment| {
            object.spec.as_ref().map(|spec| &spec.selector)
        });
        // Recreate waits until the last old pod is gone, which no ReplicaSet's status tells.
        let sets = context.caches.replica_sets.clone();
        wake(&mut informers.pods, queue, move |change| {
            let Some(pod) = change
                .latest()
                .filter(|_| change.new.as_ref().is_none_or(|pod| is_terminal(pod)))
            else {
                return Vec::new();
            };
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let set = owner_name_of_kind::<ReplicaSet>(&pod.metadata).and_then(|name| sets.get(&namespace, name));
            let owner = set.and_then(|set| owner_name_of_kind::<Deployment>(&set.metadata).map(str::to_owned));
            owner.map(|name| Key::new(namespace, name)).into_iter().collect()
        });
        Self { context }
    }

    async fn scale(&self, deployment: &Deployment, scale: &Scale) -> Result<(), ReconcileError> {
        let caches = &self.context.caches;
        let namespace = deployment.namespace().unwrap_or_default();
        let Some(set) = caches.replica_sets.get(&namespace, &scale.name) else {
            return Ok(());
        };
        let mut updated = (*set).clone();
        let before = rollout::size(&set);
        if let Some(spec) = &mut updated.spec {
            spec.replicas = Some(scale.replicas);
        }
        history::note_size(&mut updated, deployment);
        if updated == *set {
            return Ok(());
        }
        self.context.objects.replace(&caches.replica_sets, &updated).await?;
        if before != scale.replicas {
            let direction = if before < scale.replicas { "up" } else { "down" };
            let note = format!(
                "Scaled {direction} replica set {} from {before} to {}",
                scale.name, scale.replicas
            );
            self.context.events.normal(deployment, "ScalingReplicaSet", note);
        }
        Ok(())
    }

    /// The `ReplicaSets` as the cache has them now.
    fn sets(&self, deployment: &Deployment, spec: &DeploymentSpec) -> Sets {
        let namespace = deployment.namespace().unwrap_or_default();
        let mut owned = self.context.caches.replica_sets.in_namespace(&namespace);
        owned.retain(|set| is_controlled_by(&set.metadata, &deployment.metadata));
        Sets::of(owned, spec)
    }

    /// Whether pods of old `ReplicaSets` still run or terminate.
    fn old_pods_left(&self, sets: &Sets) -> bool {
        sets.old.iter().any(|set| {
            let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
            let pods = self.context.caches.pods.in_namespace(namespace);
            pods.iter()
                .any(|pod| is_controlled_by(&pod.metadata, &set.metadata) && !is_terminal(pod))
        })
    }

    async fn roll(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
    ) -> Result<Result<(), ReconcileError>, ReconcileError> {
        let sets = self.sets(deployment, spec);
        if let Some(scales) = rollout::resize(spec, &sets) {
            for scale in &scales {
                self.scale(deployment, scale).await?;
            }
            return Ok(Ok(()));
        }
        if spec.paused == Some(true) {
            return Ok(Ok(()));
        }
        let recreate = rollout::is_recreate(spec);
        if recreate {
            for scale in rollout::old_to_zero(&sets) {
                self.scale(deployment, &scale).await?;
            }
            if self.old_pods_left(&self.sets(deployment, spec)) {
                return Ok(Ok(()));
            }
        }
        let created = self.ensure_new_set(deployment, spec, &sets).await;
        if let Err(error) = created {
            return Ok(Err(error));
        }
        let sets = self.sets(deployment, spec);
        let limits = rollout::Limits::of(spec).map_err(|problem| ReconcileError::Invalid {
            kind: "Deployment",
            object: Key::of(deployment).to_string(),
            problem,
        })?;
        let scales = if recreate {
            rollout::new_to_full(spec, &sets)
        } else {
            rollout::rolling_step(spec, &sets, limits)
        };
        for scale in &scales {
            self.scale(deployment, scale).await?;
        }
        Ok(Ok(()))
    }

    async fn clean_up(&self, deployment: &Deployment, spec: &DeploymentSpec) -> Result<(), ReconcileError> {
        for set in history::outdated(&self.sets(deployment, spec), spec) {
            self.context
                .objects
                .delete(&self.context.caches.replica_sets, &*set)
                .await?;
        }
        Ok(())
    }
}

impl Reconcile for DeploymentController {
    const NAME: &'static str = "deployment-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(deployment) = caches.deployments.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = deployment.spec.clone() else {
            return Ok(Outcome::Done);
        };
        claim(
            &self.context.objects,
            &caches.replica_sets,
            &*deployment,
            Some(&spec.selector),
        )
        .await?;
        let mut failed = None;
        if !is_terminating(&deployment.metadata) {
            failed = self.roll(&deployment, &spec).await?.err();
        }
        // Rolling may have written annotations to the Deployment; the status goes on top of that.
        let Some(deployment) = caches.deployments.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let now = Timestamp::now();
        let sets = self.sets(&deployment, &spec);
        let status = status::status_of(&deployment, &spec, &sets, failed.as_ref(), now);
        if deployment.status.as_ref() != Some(&status) {
            let mut updated = (*deployment).clone();
            updated.status = Some(status.clone());
            self.context
                .objects
                .replace_status(&caches.deployments, &updated)
                .await?;
        }
        if !is_terminating(&deployment.metadata) && status::is_complete(&deployment, &spec, &status) {
            self.clean_up(&deployment, &spec).await?;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(Outcome::after(status::progress_deadline_in(&spec, &status, now)))
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .deployments
            .all()
            .iter()
            .map(|deployment| Key::of(&**deployment))
            .collect()
    }
}

/// A progress deadline of this size means that there is none (`math.MaxInt32` in Kubernetes).
const NO_DEADLINE: i32 = i32::MAX;
/// `spec.progressDeadlineSeconds` when the API server did not default it.
const DEFAULT_PROGRESS_DEADLINE: i32 = 600;
/// Looks land after an instant, not a hair before it.
const MARGIN: Duration = Duration::from_millis(5);
