//! The life of one ChaosEngine: what Litmus' operator and its runner do with it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};

use super::acts::Helper;
use super::experiment::{Experiment, Outcome};
use super::objects::{Objects, stamp};
use super::selection;

const FINALIZER: &str = "chaosengine.litmuschaos.io/finalizer";
const PAUSE: Duration = Duration::from_millis(150);
/// The runner writes the engine's status again and again, whether it changed or not.
const REWRITE: Duration = Duration::from_secs(2);

/// One engine.
pub(super) struct Life {
    pub(super) objects: Objects,
    pub(super) helper: Arc<Helper>,
}

fn word<'a>(engine: &'a DynamicObject, pointer: &str) -> &'a str {
    engine.data.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Life {
    /// Until it is gone.
    pub(super) async fn live(self) {
        loop {
            self.objects.operator().await;
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(engine = self.objects.name, error, "the double tries again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One decision; false when the engine is gone.
    async fn step(&self) -> Result<bool, String> {
        let Some(engine) = self.objects.engine().await? else {
            return Ok(false);
        };
        if engine.metadata.deletion_timestamp.is_some() {
            self.objects.remove_pods().await;
            self.let_go().await?;
            return Ok(true);
        }
        // Nothing counts as active.
        let active = word(&engine, "/spec/engineState") != "stop";
        match (word(&engine, "/status/engineStatus"), active) {
            ("" | "initialized", true) => self.run(&engine).await?,
            ("completed" | "stopped", true) => {
                let message = "RestartInProgress: the engine is started again";
                self.objects
                    .event("chaos-operator", "Normal", "RestartInProgress", message)
                    .await;
                self.objects
                    .write_engine(json!({"status": {"engineStatus": null, "experiments": null}}))
                    .await?;
            }
            ("initialized", false) => self.stopped().await?,
            _ => {}
        }
        Ok(true)
    }

    async fn let_go(&self) -> Result<(), String> {
        if self.objects.switch().await.0 == "finalizer-stays" {
            return Ok(());
        }
        let name = self.objects.name.clone();
        self.objects
            .update("ChaosEngine", &name, |engine| {
                engine.finalizers_mut().retain(|held| held != FINALIZER);
            })
            .await
    }

    async fn run(&self, engine: &DynamicObject) -> Result<(), String> {
        let objects = &self.objects;
        let name = objects.name.clone();
        objects
            .update("ChaosEngine", &name, |engine| {
                let held = engine.finalizers_mut();
                if !held.iter().any(|held| held == FINALIZER) {
                    held.push(FINALIZER.to_owned());
                }
            })
            .await?;
        if !selection::is_valid(&engine.data) {
            return objects
                .write_engine(json!({"spec": {"engineState": "stop"}, "status": {"engineStatus": "stopped"}}))
                .await;
        }
        objects
            .write_engine(json!({"status": {"engineStatus": "initialized"}}))
            .await?;
        let message = "Identifying app under test & launching chaos-runner";
        objects
            .event("chaos-operator", "Normal", "ChaosEngineInitialized", message)
            .await;
        let experiment = Experiment::new(objects, &self.helper, engine).await;
        let outcome = tokio::select! {
            outcome = self.perform(&experiment) => outcome,
            () = self.told_to_stop() => {
                // The pods of the experiment take the fault back when they are told to end.
                experiment.revert().await;
                self.objects.remove_pods().await;
                experiment.stopped().await?;
                return self.stopped().await;
            }
        };
        let (status, verdict) = match outcome? {
            Outcome::Finished(verdict) => ("Completed", verdict),
            Outcome::Skipped => ("Skipped", "Fail".to_owned()),
            Outcome::PodDied => ("Running", "Awaited".to_owned()),
        };
        self.note(&experiment, status, &verdict).await?;
        self.objects.operator().await;
        for pod in objects.chaos_pods().await {
            self.helper.end_politely(&pod);
        }
        objects
            .write_engine(json!({"spec": {"engineState": "stop"}, "status": {"engineStatus": "completed"}}))
            .await?;
        let message = "ChaosEngine completed, will delete or retain the resources according to jobCleanUpPolicy";
        objects
            .event("chaos-operator", "Normal", "ChaosEngineCompleted", message)
            .await;
        Ok(())
    }

    /// Somebody deletes the experiment's pod.
    async fn told_to_end(&self, pod: &str) {
        loop {
            let found = self.objects.pods().get_opt(pod).await;
            if found.is_ok_and(|found| found.is_none_or(|found| found.metadata.deletion_timestamp.is_some())) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Somebody wants the end of it.
    async fn told_to_stop(&self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            self.objects.operator().await;
            match self.objects.engine().await {
                Ok(Some(engine)) => {
                    if engine.metadata.deletion_timestamp.is_some() || word(&engine, "/spec/engineState") == "stop" {
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    async fn stopped(&self) -> Result<(), String> {
        self.objects.remove_pods().await;
        let name = self.objects.name.clone();
        self.objects
            .update("ChaosEngine", &name, |engine| {
                let entries = engine
                    .data
                    .pointer_mut("/status/experiments")
                    .and_then(Value::as_array_mut);
                for entry in entries.into_iter().flatten() {
                    let waits = matches!(
                        entry.get("status").and_then(Value::as_str),
                        Some("Running" | "Waiting for Job Creation")
                    );
                    if waits {
                        let aborted =
                            json!({"status": "Forcefully Aborted", "verdict": "Stopped", "lastUpdateTime": stamp()});
                        json_patch::merge(entry, &aborted);
                    }
                }
                json_patch::merge(&mut engine.data, &json!({"status": {"engineStatus": "stopped"}}));
            })
            .await?;
        let message = "Chaos resources deleted successfully";
        self.objects
            .event("chaos-operator", "Normal", "ChaosEngineStopped", message)
            .await;
        self.let_go().await
    }

    /// What the runner does, and what the experiment does for it.
    async fn perform(&self, experiment: &Experiment<'_>) -> Result<Outcome, String> {
        self.resources(experiment).await?;
        let (switch, seconds) = self.objects.switch().await;
        let linger = if switch == "slow-stop" { seconds } else { 0 };
        self.objects.start_runner(linger, &experiment.runner_nodes).await?;
        self.note(experiment, "Waiting for Job Creation", "N/A").await?;
        let message = format!(
            "Experiment resources validated for Chaos Experiment: {}",
            experiment.name
        );
        self.objects
            .event("chaos-runner", "Normal", "ExperimentDependencyCheck", &message)
            .await;
        match switch.as_str() {
            "skipped" => return Ok(Outcome::Skipped),
            "no-result" => return Ok(Outcome::PodDied),
            _ => {}
        }
        let pod = self
            .objects
            .start_experiment(&experiment.name, linger, &experiment.nodes)
            .await?;
        let message = format!(
            "Experiment Job for Chaos Experiment: {} created: {pod}",
            experiment.name
        );
        self.objects
            .event("chaos-runner", "Normal", "ExperimentJobCreate", &message)
            .await;
        let rewriting = async {
            loop {
                if let Err(error) = self.note(experiment, "Running", "Awaited").await {
                    tracing::debug!(error, "the double could not write a status");
                }
                tokio::time::sleep(REWRITE).await;
            }
        };
        tokio::select! {
            outcome = experiment.perform(&switch) => outcome,
            () = rewriting => Ok(Outcome::PodDied),
            () = self.told_to_end(&pod) => {
                // With or without an operator: its signal handler takes the fault back.
                experiment.revert().await;
                experiment.stopped().await?;
                Ok(Outcome::PodDied)
            }
        }
    }

    /// What has to be in the namespace; while it is not, the engine stays as it is.
    async fn resources(&self, experiment: &Experiment<'_>) -> Result<(), String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.objects.client.clone(), &self.objects.namespace);
        loop {
            let found = self.objects.api("ChaosExperiment").get_opt(&experiment.name).await;
            let account = accounts.get_opt(&experiment.account).await;
            let missing = match (found, account) {
                (Ok(Some(_)), Ok(Some(_))) => return Ok(()),
                (Ok(None), _) => format!("chaosexperiments.litmuschaos.io {:?} not found", experiment.name),
                (_, Ok(None)) => format!("serviceaccounts {:?} not found", experiment.account),
                (Err(error), _) | (_, Err(error)) => error.to_string(),
            };
            let message = format!("(chaos start) Unable to get chaos resources: {missing}");
            self.objects
                .event("chaos-operator", "Warning", "ChaosResourcesOperationFailed", &message)
                .await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    async fn note(&self, experiment: &Experiment<'_>, status: &str, verdict: &str) -> Result<(), String> {
        let entry = json!([{
            "name": experiment.name, "runner": format!("{}-runner", self.objects.name),
            "experimentPod": experiment.pod_name(status), "status": status, "verdict": verdict, "lastUpdateTime": stamp(),
        }]);
        self.objects
            .write_engine(json!({"status": {"experiments": entry}}))
            .await
    }
}
