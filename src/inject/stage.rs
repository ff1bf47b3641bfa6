//! What every injector works with, and the way from a fault to its dispatch.

use super::prepare::{Detail, Prepared};
use super::{chaos_mesh, inside, litmus, netns, nodes, objects, partition, pods};
use crate::cluster::{Cluster, ClusterError, UNDOS_KEY};
use crate::evidence::Event;
use crate::experiment::Guards;
use crate::fault::{FaultSpec, FaultTarget, Undo};
use crate::model::{EXPERIMENT_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, PURPOSE_LABEL, RUN_LABEL};
use crate::observe::PodIndex;
use crate::plan::{Candidate, select};
use crate::world::{RecordError, Recorder};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ApiResource, PostParams};
use serde_json::{Value, json};

/// Why a fault could not be chosen, prepared or fired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectError {
    /// Nothing was touched: what is wanted cannot be done here, and why.
    #[error("{0}")]
    Refused(String),
    /// The cluster could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The log could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The guard Job that owns what a fault makes, so that it goes with it.
#[derive(Debug, Clone)]
pub(crate) struct GuardOwner {
    /// Name of the Job.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
}

/// What every injector works with.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) pods: PodIndex,
    /// Namespace of the target.
    pub(crate) namespace: String,
    /// The target's own object, unless it is a bare selector.
    pub(crate) own: Option<(ApiResource, String)>,
    pub(crate) run: String,
    pub(crate) experiment: String,
    pub(crate) trial: u32,
    /// How long taking one thing back may take.
    pub(crate) revert: std::time::Duration,
    /// Image of the containers that are put beside a target to shape its traffic.
    pub(crate) tools_image: String,
    /// Service account that runs the experiments of Litmus.
    pub(crate) litmus_account: String,
}

impl Stage {
    /// The exact targets of a fault.
    ///
    /// # Errors
    /// When too little matches, a guard forbids it, or the cluster cannot be asked.
    pub(crate) async fn choose(
        &self,
        fault: &FaultSpec,
        guards: &Guards,
        candidates: &[Candidate],
        seed: u64,
    ) -> Result<Vec<FaultTarget>, InjectError> {
        if let Some(object) = fault.kind.on_object() {
            return objects::target(self, fault, object, guards).await;
        }
        let chosen = select(fault, guards, candidates, seed, self.trial)
            .map_err(|refusal| InjectError::Refused(refusal.to_string()))?;
        if fault.kind.on_nodes() {
            return nodes::targets(self, fault, candidates, &chosen).await;
        }
        Ok(chosen)
    }

    /// What fault number `index` of the experiment is called wherever it leaves a trace.
    pub(super) fn token(&self, index: usize) -> String {
        format!("chaosrun-{}-t{}-f{}", self.run, self.trial, index + 1)
    }

    /// Labels of an object that is made for a fault.
    pub(super) fn labels(&self, purpose: &str) -> Value {
        json!({
            MANAGED_BY_LABEL: MANAGED_BY_VALUE,
            RUN_LABEL: self.run,
            EXPERIMENT_LABEL: self.experiment,
            PURPOSE_LABEL: purpose,
        })
    }

    /// Metadata of an object that is made for a fault and goes with the guard.
    pub(super) fn owned(&self, name: &str, guard: &GuardOwner) -> Value {
        json!({
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels("fault"),
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": guard.name, "uid": guard.uid, "controller": false,
            }],
        })
    }

    /// Arms a prepared fault, fires it at every target and waits for the proofs. Returns how many were proven.
    ///
    /// # Errors
    /// When the log cannot be written, or the record of what cannot end by itself cannot be kept. A failing injection call is no
    /// error here: its outcome is unknown, and the proof decides.
    pub(crate) async fn fire(&self, prepared: Prepared, guard: &GuardOwner) -> Result<usize, InjectError> {
        let Prepared {
            spec,
            targets,
            token,
            undo,
            detail,
            ..
        } = prepared;
        for held in &undo {
            if let Undo::Record { namespace, name, undos } = held {
                // The record is in the log before it is made, and made before anything is fired.
                self.recorder.record_durably(Event::ObjectArmed {
                    purpose: "record".to_owned(),
                    undo: held.clone(),
                })?;
                self.keep_record(namespace, name, undos).await?;
            }
        }
        let armed = self.recorder.arm(spec, targets, undo)?;
        match detail {
            Detail::Pods => pods::fire(self, &armed).await,
            Detail::Inside(scripts) => inside::fire(self, &armed, &token, &scripts).await,
            Detail::Nodes => nodes::fire(self, &armed).await,
            Detail::Object(change) => objects::fire(self, &armed, &change).await,
            Detail::Partition(plan) => partition::fire(self, &armed, &token, &plan, guard).await,
            Detail::Netns(plan) => netns::fire(self, &armed, &token, &plan).await,
            Detail::Litmus(plan) => litmus::fire(self, &armed, &token, &plan, guard).await,
            Detail::ChaosMesh(plan) => chaos_mesh::fire(self, &armed, &token, &plan, guard).await,
        }
        .map_err(InjectError::from)
    }

    async fn keep_record(&self, namespace: &str, name: &str, undos: &[Undo]) -> Result<(), InjectError> {
        let record: ConfigMap = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace, "labels": self.labels("record")},
            "data": {UNDOS_KEY: json!(undos).to_string()},
        }))
        .map_err(|error| InjectError::Refused(format!("the record of the fault cannot be written: {error}")))?;
        let maps: Api<ConfigMap> = Api::namespaced(self.cluster.client(), namespace);
        self.cluster
            .call(
                format!("keep the record ConfigMap {namespace}/{name}"),
                maps.create(&PostParams::default(), &record),
            )
            .await?;
        Ok(())
    }
}
