//! The dead-man's switch: a guard Job that never runs a pod, and the journal object that it owns.
//!
//! `parallelism: 0` (no pod is ever made), `activeDeadlineSeconds` = deadline, `ttlSecondsAfterFinished: 0`: when the deadline
//! passes, Kubernetes itself ends and deletes the Job, and garbage collection deletes what it owns. No agent is needed, and a
//! runner that was killed leaves nothing that does not expire.

use super::error::EngineError;
use crate::cluster::{Cluster, UNDOS_KEY};
use crate::evidence::Event;
use crate::fault::Undo;
use crate::model::{EXPERIMENT_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, PURPOSE_LABEL, RUN_LABEL};
use crate::world::Recorder;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::Duration;

/// What the guard of one trial is called and where it lives.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name of the Job and of the journal.
    pub(crate) name: String,
    /// UID of the Job.
    pub(crate) uid: String,
}

/// What is written on the guard's objects.
pub(crate) struct GuardRequest<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) recorder: &'a Recorder,
    pub(crate) namespace: &'a str,
    pub(crate) run: &'a str,
    pub(crate) experiment: &'a str,
    pub(crate) trial: u32,
    pub(crate) deadline: Duration,
    /// The faults about to be fired, for whoever finds the journal.
    pub(crate) faults: serde_json::Value,
    /// How they are taken back, for `clean`.
    pub(crate) undos: &'a [Undo],
}

/// Arms the guard: both objects are in the log, on disk, before they are made.
///
/// # Errors
/// When the log cannot be written or a call fails.
pub(crate) async fn arm(request: GuardRequest<'_>) -> Result<Guard, EngineError> {
    let mut guard = Guard {
        namespace: request.namespace.to_owned(),
        name: format!("chaosrun-{}-t{}", request.run, request.trial),
        uid: String::new(),
    };
    let labels = |purpose: &str| json!({MANAGED_BY_LABEL: MANAGED_BY_VALUE, RUN_LABEL: request.run, EXPERIMENT_LABEL: request.experiment, PURPOSE_LABEL: purpose});
    let (namespace, name) = (guard.namespace.clone(), guard.name.clone());
    let undo = |api_version: &str, kind: &str, plural: &str| Undo::DeleteObject {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        namespace: Some(namespace.clone()),
        name: name.clone(),
    };
    let job: Job = object(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": guard.name, "namespace": guard.namespace, "labels": labels("guard")},
        "spec": {
            "parallelism": 0,
            "activeDeadlineSeconds": request.deadline.as_secs().max(1),
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
    let armed = |purpose: &str, undo| {
        request.recorder.record_durably(Event::ObjectArmed {
            purpose: purpose.to_owned(),
            undo,
        })
    };
    armed("guard", undo("batch/v1", "Job", "jobs"))?;
    let jobs: Api<Job> = Api::namespaced(request.cluster.client(), &guard.namespace);
    let attempted = format!("create the guard Job {}/{}", guard.namespace, guard.name);
    let made = request
        .cluster
        .call(attempted, jobs.create(&PostParams::default(), &job))
        .await?;
    guard.uid = made.metadata.uid.unwrap_or_default();
    let journal: ConfigMap = object(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": guard.name,
            "namespace": guard.namespace,
            "labels": labels("journal"),
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": guard.name,
                "uid": guard.uid, "controller": true,
            }],
        },
        "data": {"faults.json": request.faults.to_string(), UNDOS_KEY: json!(request.undos).to_string()},
    }))?;
    armed("journal", undo("v1", "ConfigMap", "configmaps"))?;
    let maps: Api<ConfigMap> = Api::namespaced(request.cluster.client(), &guard.namespace);
    let attempted = format!("create the journal ConfigMap {}/{}", guard.namespace, guard.name);
    request
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

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, EngineError> {
    serde_json::from_value(value).map_err(|error| EngineError::Internal(format!("guard object: {error}")))
}
