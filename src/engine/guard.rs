//! The dead-man's switch: a guard Job that never runs a pod, and the journal object that it owns.
//!
//! `parallelism: 0` (no pod is ever made), `activeDeadlineSeconds` = deadline, `ttlSecondsAfterFinished: 0`: when the deadline
//! passes, Kubernetes itself ends and deletes the Job, and garbage collection deletes what it owns. No agent is needed, and a
//! runner that was killed leaves nothing that does not expire. A runner that lives renews it, so that the deadline says how long a
//! fault outlives its runner, and not how long it may last.

use super::error::EngineError;
use crate::cluster::{Cluster, UNDOS_KEY};
use crate::evidence::Event;
use crate::fault::Undo;
use crate::model::{EXPERIMENT_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, PURPOSE_LABEL, RUN_LABEL};
use crate::world::{Clock, Recorder};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A guard Job.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name of the Job, and of what it owns.
    pub(crate) name: String,
    /// UID of the Job.
    pub(crate) uid: String,
}

/// Whose guard it is.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) recorder: &'a Recorder,
    pub(crate) namespace: &'a str,
    pub(crate) run: &'a str,
    pub(crate) experiment: &'a str,
    /// How long what the guard owns outlives a runner that died.
    pub(crate) deadline: Duration,
}

impl Owner<'_> {
    /// Labels of an object of this run.
    pub(crate) fn labels(&self, purpose: &str) -> Value {
        json!({MANAGED_BY_LABEL: MANAGED_BY_VALUE, RUN_LABEL: self.run, EXPERIMENT_LABEL: self.experiment, PURPOSE_LABEL: purpose})
    }

    /// Writes down that an object is about to be made: in the log, on disk, before the call.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn armed(
        &self,
        purpose: &str,
        (api_version, kind, plural): (&str, &str, &str),
        name: &str,
    ) -> Result<(), EngineError> {
        Ok(self.recorder.record_durably(Event::ObjectArmed {
            purpose: purpose.to_owned(),
            undo: Undo::DeleteObject {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                plural: plural.to_owned(),
                namespace: Some(self.namespace.to_owned()),
                name: name.to_owned(),
            },
        })?)
    }

    /// Makes a guard Job.
    ///
    /// # Errors
    /// When the log cannot be written or the call fails.
    pub(crate) async fn guard(&self, name: String) -> Result<Guard, EngineError> {
        let job: Job = object(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": self.namespace, "labels": self.labels("guard")},
            "spec": {
                "parallelism": 0,
                "activeDeadlineSeconds": self.deadline.as_secs().max(1),
                "ttlSecondsAfterFinished": 0,
                "template": {"spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    // Never pulled and never started: parallelism is 0. A template must name something.
                    "containers": [{
                        "name": "never-runs",
                        "image": "registry.k8s.io/pause:3.10",
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "runAsNonRoot": true,
                            "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                    }],
                }},
            },
        }))?;
        self.armed("guard", ("batch/v1", "Job", "jobs"), &name)?;
        let jobs: Api<Job> = Api::namespaced(self.cluster.client(), self.namespace);
        let attempted = format!("create the guard Job {}/{name}", self.namespace);
        let made = self
            .cluster
            .call(attempted, jobs.create(&PostParams::default(), &job))
            .await?;
        Ok(Guard {
            namespace: self.namespace.to_owned(),
            name,
            uid: made.metadata.uid.unwrap_or_default(),
        })
    }
}

impl Guard {
    /// As the owner of what goes with it.
    pub(crate) fn reference(&self) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "Job", "name": self.name, "uid": self.uid, "controller": true})
    }

    /// Renews the guard while the runner lives: three times within each deadline. Ends when it is told to, or when the Job is gone.
    pub(crate) async fn keep_alive(self, cluster: Cluster, clock: Clock, deadline: Duration, stop: CancellationToken) {
        let made = clock.now();
        let jobs: Api<Job> = Api::namespaced(cluster.client(), &self.namespace);
        loop {
            let next = clock.now().plus(deadline / 3);
            tokio::select! {
                () = clock.sleep_until(next) => {}
                () = stop.cancelled() => return,
            }
            // Counted by the cluster from the Job's start, which came after it was made: never too short.
            let seconds = (clock.now().since(made) + deadline).as_secs() + 1;
            let patch = Patch::Merge(json!({"spec": {"activeDeadlineSeconds": seconds}}));
            let attempted = format!("renew the guard Job {}/{}", self.namespace, self.name);
            let parameters = PatchParams::default();
            let call = jobs.patch(&self.name, &parameters, &patch);
            match cluster.call_opt(attempted, call).await {
                Ok(Some(_)) => {}
                Ok(None) => return,
                // It is tried again; if it stays so, the cluster ends the faults at the deadline, as it should.
                Err(error) => tracing::warn!(%error, "the guard was not renewed"),
            }
        }
    }
}

/// The guard of one trial with its journal: both objects are in the log, on disk, before they are made.
///
/// # Errors
/// When the log cannot be written or a call fails.
pub(crate) async fn arm(owner: Owner<'_>, trial: u32, faults: &Value, undos: &[Undo]) -> Result<Guard, EngineError> {
    let guard = owner.guard(format!("chaosrun-{}-t{trial}", owner.run)).await?;
    let journal: ConfigMap = object(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": guard.name,
            "namespace": guard.namespace,
            "labels": owner.labels("journal"),
            "ownerReferences": [guard.reference()],
        },
        "data": {"faults.json": faults.to_string(), UNDOS_KEY: json!(undos).to_string()},
    }))?;
    owner.armed("journal", ("v1", "ConfigMap", "configmaps"), &guard.name)?;
    let maps: Api<ConfigMap> = Api::namespaced(owner.cluster.client(), &guard.namespace);
    let attempted = format!("create the journal ConfigMap {}/{}", guard.namespace, guard.name);
    owner
        .cluster
        .call(attempted, maps.create(&PostParams::default(), &journal))
        .await?;
    Ok(guard)
}

/// Writes down in the journal how everything fired so far is taken back, for `clean`.
///
/// # Errors
/// When the call fails.
pub(crate) async fn note_undos(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    undos: &[Undo],
) -> Result<(), EngineError> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), namespace);
    let patch = json!({"data": {UNDOS_KEY: json!(undos).to_string()}});
    let attempted = format!("write into the journal ConfigMap {namespace}/{name}");
    cluster
        .call(
            attempted,
            maps.patch(name, &PatchParams::default(), &Patch::Merge(&patch)),
        )
        .await?;
    Ok(())
}

pub(super) fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, EngineError> {
    serde_json::from_value(value).map_err(|error| EngineError::Internal(format!("guard object: {error}")))
}
