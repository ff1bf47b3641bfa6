//! Jobs: run pods to completion, retry with back-off, give up at a limit or a deadline, and vanish after their time.
//!
//! May depend on the controllers' runtime; [`plan`] is pure. Central type: [`JobController`].
//!
//! Contract: the semantics of Kubernetes 1.33, because chaosrun's dead-man's switch stands on them: `parallelism: 0`
//! never runs a pod, yet the deadline counts from `startTime`; past it the Job is Failed (`DeadlineExceeded`), and with
//! `ttlSecondsAfterFinished: 0` it is deleted at once, after which garbage collection takes what it owns. The deadline
//! is read anew each time, so raising it extends a Job that runs.
//! Pods carry the tracking finalizer, so that none is lost from the counts however it was deleted.

pub(crate) mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};

use self::plan::{Backoff, Plan, TRACKING_FINALIZER, has_tracking_finalizer, job_pod, plan, tell_of};
use super::context::{Context, Informers, wake, wake_on_selected, wake_on_self};
use super::meta::{controller_of, owner_name_of_kind};
use super::pods::{claim, create_all, delete_all};
use super::runtime::{Change, Key, Outcome, Queue, Reconcile, ReconcileError, call};

/// Runs Jobs.
pub(crate) struct JobController {
    context: Context,
    /// Failures in a row, by UID of the Job. In memory only, as in Kubernetes.
    backoffs: Mutex<HashMap<String, Backoff>>,
}

impl JobController {
    /// A controller that wakes when Jobs or their pods change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake_on_self(&mut informers.jobs, queue);
        let owners = context.caches.jobs.clone();
        wake_on_selected(&mut informers.pods, queue, owners, |object: &Job| {
            object.spec.as_ref().and_then(|spec| spec.selector.as_ref())
        });
        // A tracked pod that lost its Job must lose the finalizer too, or it could never go away.
        wake(&mut informers.pods, queue, |change: &Change<Pod>| {
            let stranded = change.new.iter().filter(|pod| has_tracking_finalizer(pod));
            stranded
                .filter(|pod| controller_of(&pod.metadata).is_none())
                .map(|pod| Key::of(&**pod))
                .collect()
        });
        Self {
            context,
            backoffs: Mutex::new(HashMap::new()),
        }
    }

    /// Takes the finalizer off pods whose Job is gone. `present` is the UID of the Job that has the name now: pods of
    /// an earlier one of that name are orphans too.
    async fn let_orphans_go(&self, key: &Key, present: Option<&str>) -> Result<(), ReconcileError> {
        for pod in self.context.caches.pods.in_namespace(&key.namespace) {
            let owner = controller_of(&pod.metadata);
            let of_a_past_job = owner_name_of_kind::<Job>(&pod.metadata) == Some(key.name.as_str())
                && owner.map(|owner| owner.uid.as_str()) != present;
            let without_owner = owner.is_none() && pod.metadata.name.as_deref() == Some(&key.name);
            if has_tracking_finalizer(&pod) && (of_a_past_job || without_owner) {
                self.untrack(&pod).await?;
            }
        }
        Ok(())
    }

    async fn untrack(&self, pod: &Pod) -> Result<(), ReconcileError> {
        let left: Vec<&String> = pod
            .finalizers()
            .iter()
            .filter(|name| *name != TRACKING_FINALIZER)
            .collect();
        let patch = serde_json::json!({"metadata": {
            "uid": pod.uid(), "resourceVersion": pod.resource_version(), "finalizers": left,
        }});
        match self.context.objects.patch(&self.context.caches.pods, pod, &patch).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn backoff_of(&self, job: &Job) -> Backoff {
        let backoffs = self.backoffs.lock().unwrap_or_else(PoisonError::into_inner);
        job.metadata
            .uid
            .as_ref()
            .and_then(|uid| backoffs.get(uid))
            .copied()
            .unwrap_or_default()
    }

    fn remember_backoff(&self, job: &Job, backoff: Backoff) {
        let mut backoffs = self.backoffs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(uid) = job.metadata.uid.clone() {
            if backoff == Backoff::default() {
                backoffs.remove(&uid);
            } else {
                backoffs.insert(uid, backoff);
            }
        }
    }

    fn forget_jobs_that_are_gone(&self) {
        let jobs = self.context.caches.jobs.all();
        let mut backoffs = self.backoffs.lock().unwrap_or_else(PoisonError::into_inner);
        backoffs.retain(|uid, _| jobs.iter().any(|job| job.metadata.uid.as_ref() == Some(uid)));
    }

    /// Deletes a finished Job whose time to live is over, in the foreground as Kubernetes' TTL controller does.
    async fn expire(&self, job: &Job) -> Result<(), ReconcileError> {
        let namespace = job.namespace().unwrap_or_default();
        let name = job.name_any();
        let api = self.context.objects.api::<Job>(&namespace);
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: job.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match call::<Job, _>("delete", format!("{namespace}/{name}"), api.delete(&name, &parameters)).await {
            Ok(_) => {}
            Err(error) if error.is_race() => {}
            Err(error) => return Err(error),
        }
        self.context.caches.jobs.saw_deletion_of(job).await;
        Ok(())
    }

    async fn carry_out(&self, job: &Job, plan: Plan) -> Result<(), ReconcileError> {
        let Context {
            objects,
            caches,
            events,
        } = &self.context;
        // First the books, then the deeds: a pod may lose its finalizer only after the status has its UID.
        if job.status.as_ref() != Some(&plan.status) {
            let mut updated = job.clone();
            for told in tell_of(job, &plan.status) {
                if told.warning {
                    events.warning(job, told.reason, told.note);
                } else {
                    events.normal(job, told.reason, told.note);
                }
            }
            updated.status = Some(plan.status);
            objects.replace_status(&caches.jobs, &updated).await?;
        }
        for pod in &plan.untrack {
            self.untrack(pod).await?;
        }
        delete_all(objects, &caches.pods, events, job, &plan.delete).await?;
        let pods: Vec<Pod> = plan.create.iter().map(|index| job_pod(job, *index)).collect();
        let (_, failed) = create_all(objects, &caches.pods, events, job, &pods).await;
        failed.map_or(Ok(()), Err)
    }
}

impl Reconcile for JobController {
    const NAME: &'static str = "job-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(job) = caches.jobs.get(&key.namespace, &key.name) else {
            self.let_orphans_go(&key, None).await?;
            self.forget_jobs_that_are_gone();
            return Ok(Outcome::Done);
        };
        if job
            .spec
            .as_ref()
            .and_then(|spec| spec.managed_by.as_deref())
            .is_some_and(|by| by != JOB_CONTROLLER)
        {
            return Ok(Outcome::Done);
        }
        self.let_orphans_go(&key, job.metadata.uid.as_deref()).await?;
        let now = Timestamp::now();
        if let Some(expiry) = plan::expires_in(&job, now) {
            if expiry.is_zero() {
                self.expire(&job).await?;
                return Ok(Outcome::Done);
            }
            return Ok(Outcome::After(expiry));
        }
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let pods = claim(&self.context.objects, &caches.pods, &*job, selector).await?;
        let backoff = self.backoff_of(&job);
        let plan = plan(&job, &pods, backoff, now);
        self.remember_backoff(&job, plan.backoff);
        let wait = plan.look_again;
        self.carry_out(&job, plan).await?;
        Ok(Outcome::after(wait))
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .jobs
            .all()
            .iter()
            .map(|job| Key::of(&**job))
            .collect()
    }
}

/// The value of `spec.managedBy` that means this controller.
const JOB_CONTROLLER: &str = "kubernetes.io/job-controller";

/// Wall-clock pause so that a look lands after an instant and not a hair before it.
const MARGIN: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests;
