//! What the pod of one experiment does: its ChaosResult, its faults, its verdict.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};

use super::acts::{Act, Helper};
use super::objects::Objects;
use super::selection::{Targets, environment, policy};

/// How an experiment ended, as the runner sees it.
pub(super) enum Outcome {
    /// With this verdict.
    Finished(String),
    /// The runner did not even start it.
    Skipped,
    /// Its pod is gone, and nobody says how it went.
    PodDied,
}

/// One experiment of one engine.
pub(super) struct Experiment<'a> {
    pub(super) name: String,
    /// The engine's service account.
    pub(super) account: String,
    /// Where its pods may be: of the runner, and of the experiment.
    pub(super) runner_nodes: Value,
    pub(super) nodes: Value,
    environment: BTreeMap<String, String>,
    objects: &'a Objects,
    helper: &'a Helper,
    /// What has to be taken back.
    done: Mutex<Vec<Act>>,
}

/// Code and reason of what went wrong.
struct Failure(&'static str, String);

impl<'a> Experiment<'a> {
    pub(super) async fn new(objects: &'a Objects, helper: &'a Helper, engine: &DynamicObject) -> Self {
        let text = |pointer: &str| {
            let held = engine.data.pointer(pointer).and_then(Value::as_str);
            held.unwrap_or_default().to_owned()
        };
        let part = |pointer: &str| engine.data.pointer(pointer).cloned().unwrap_or_default();
        let name = text("/spec/experiments/0/name");
        let found = objects.api("ChaosExperiment").get_opt(&name).await.ok().flatten();
        let definition = found.map(|found| found.data).unwrap_or_default();
        Self {
            environment: environment(&engine.data, &definition, &objects.namespace),
            account: text("/spec/chaosServiceAccount"),
            runner_nodes: part("/spec/components/runner/nodeSelector"),
            nodes: part("/spec/experiments/0/spec/components/nodeSelector"),
            name,
            objects,
            helper,
            done: Mutex::default(),
        }
    }

    /// The name of its pod, once there is one.
    pub(super) fn pod_name(&self, status: &str) -> String {
        if status == "Waiting for Job Creation" {
            "Yet to be launched".to_owned()
        } else {
            format!("{}-pod", self.name)
        }
    }

    fn of(&self, variable: &str) -> &str {
        self.environment.get(variable).map(String::as_str).unwrap_or_default()
    }

    fn number(&self, variable: &str, default: u64) -> u64 {
        self.of(variable).parse().unwrap_or(default)
    }

    fn result_name(&self) -> String {
        format!("{}-{}", self.objects.name, self.name)
    }

    /// Makes the result, or overwrites one of an older run of the same names.
    async fn begin(&self, uid: &str, status: &Value) -> Result<(), String> {
        let name = self.result_name();
        let result = json!({
            "apiVersion": format!("{}/v1alpha1", super::GROUP), "kind": "ChaosResult",
            "metadata": {"name": name, "namespace": self.objects.namespace, "labels": {"chaosUID": uid, "name": name}},
            "spec": {"engine": self.objects.name, "experiment": self.name},
            "status": {"experimentStatus": status, "history": {"passedRuns": 0, "failedRuns": 0, "stoppedRuns": 0, "targets": []}},
        });
        let object: DynamicObject = serde_json::from_value(result).map_err(|error| error.to_string())?;
        match self
            .objects
            .api("ChaosResult")
            .create(&PostParams::default(), &object)
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 409 => self.write(uid, status).await,
            Err(error) => Err(error.to_string()),
        }
    }

    /// Updates the result. Marks move from the annotations into the history with every update, and the labels are set anew.
    async fn write(&self, uid: &str, status: &Value) -> Result<(), String> {
        let name = self.result_name();
        let own_name = name.clone();
        self.objects
            .update("ChaosResult", &name, |result| {
                let labels = result.labels_mut();
                labels.clear();
                labels.insert("chaosUID".to_owned(), uid.to_owned());
                labels.insert("name".to_owned(), own_name.clone());
                let mut marks: Vec<(String, String)> = Vec::new();
                result
                    .annotations_mut()
                    .retain(|key, word| match key.strip_prefix("pod/") {
                        Some(pod) => {
                            marks.push((pod.to_owned(), word.clone()));
                            false
                        }
                        None => true,
                    });
                json_patch::merge(&mut result.data, &json!({"status": {"experimentStatus": status}}));
                let verdict = status.get("verdict").and_then(Value::as_str).unwrap_or_default();
                let counter = match verdict {
                    "Pass" => Some("passedRuns"),
                    "Fail" => Some("failedRuns"),
                    "Stopped" => Some("stoppedRuns"),
                    _ => None,
                };
                if let Some(counter) = counter {
                    let at = format!("/status/history/{counter}");
                    let runs = result.data.pointer(&at).and_then(Value::as_u64).unwrap_or(0) + 1;
                    json_patch::merge(&mut result.data, &json!({"status": {"history": {counter: runs}}}));
                }
                let targets = result
                    .data
                    .pointer_mut("/status/history/targets")
                    .and_then(Value::as_array_mut);
                if let Some(targets) = targets {
                    for (pod, word) in marks {
                        targets.retain(|held| held.get("name").and_then(Value::as_str) != Some(&pod));
                        targets.push(json!({"name": pod, "kind": "pod", "chaosStatus": word}));
                    }
                }
            })
            .await
    }

    /// Marks a target by an annotation, as a helper does.
    async fn mark(&self, pod: &Pod, word: &str) -> Result<(), String> {
        let key = format!("pod/{}", pod.name_any());
        let name = self.result_name();
        self.objects
            .update("ChaosResult", &name, |result| {
                result.annotations_mut().insert(key.clone(), word.to_owned());
            })
            .await
    }

    /// From the first to the last line of the experiment's pod, or to where `switch` has it fail.
    pub(super) async fn perform(&self, switch: &str) -> Result<Outcome, String> {
        let uid = self.objects.uid.as_str();
        let awaited = json!({"phase": "Running", "verdict": "Awaited", "probeSuccessPercentage": "Awaited"});
        if switch == "stale-result" {
            self.begin(
                "00000000-0000-0000-0000-000000000000",
                &json!({"phase": "Completed", "verdict": "Pass"}),
            )
            .await?;
            return Ok(Outcome::PodDied);
        }
        self.begin(uid, &awaited).await?;
        let finished = |status: Value| async move {
            self.write(uid, &status).await?;
            let verdict = status.get("verdict").and_then(Value::as_str).unwrap_or_default();
            Ok(Outcome::Finished(verdict.to_owned()))
        };
        match switch {
            "awaited" => return Ok(Outcome::PodDied),
            // The shape up to 2.14.
            "old-shape" => {
                let step = "[chaos]: Failed inside the chaoslib, err: unable to get the target pod";
                return finished(
                    json!({"phase": "Error", "verdict": "Error", "failStep": step, "probeSuccessPercentage": "0"}),
                )
                .await;
            }
            "probe-failure" => {
                let name = self.result_name();
                let probe = json!([{"name": "front-ok", "type": "httpProbe", "mode": "Continuous",
                    "status": {"verdict": "Failed", "description": "actual response code 503"}}]);
                self.objects
                    .update("ChaosResult", &name, |result| {
                        json_patch::merge(&mut result.data, &json!({"status": {"probeStatuses": probe}}));
                    })
                    .await?;
                return finished(
                    json!({"phase": "Completed_With_Probe_Failure", "verdict": "Fail", "probeSuccessPercentage": "0"}),
                )
                .await;
            }
            _ => {}
        }
        let outcome = if switch == "error" {
            Err(Failure(
                "HELPER_POD_FAILED_ERROR",
                "helper pod failed: unable to find the container runtime".to_owned(),
            ))
        } else {
            self.chaos().await
        };
        self.revert().await;
        match outcome {
            Ok(()) => finished(json!({"phase": "Completed", "verdict": "Pass", "probeSuccessPercentage": "100"})).await,
            Err(Failure(code, reason)) => {
                let output = json!({"errorCode": code, "reason": reason});
                finished(
                    json!({"phase": "Error", "verdict": "Error", "probeSuccessPercentage": "0", "errorOutput": output}),
                )
                .await
            }
        }
    }

    async fn announce(&self, reason: &str, message: &str) {
        let component = format!("{}-pod", self.name);
        self.objects.event(&component, "Normal", reason, message).await;
    }

    async fn chaos(&self) -> Result<(), Failure> {
        let api = |error: String| Failure("CHAOS_INJECT_ERROR", error);
        self.announce("PreChaosCheck", "AUT: Running").await;
        if self.name == "node-drain" {
            return self.drain().await;
        }
        let targets = Targets::read(&self.environment);
        let listed = self.objects.pods().list(&ListParams::default()).await;
        let pods = listed.map_err(|error| api(error.to_string()))?.items;
        let chosen = targets
            .choose(&self.environment, &pods)
            .map_err(|why| Failure("TARGET_SELECTION_ERROR", why))?;
        let announcement = format!("Injecting {} chaos on application pod", self.name);
        let duration = Duration::from_secs(self.number("TOTAL_CHAOS_DURATION", 60));
        match self.name.as_str() {
            "pod-delete" | "container-kill" => {
                // Announced before it is done, and done again after every interval.
                let interval = Duration::from_secs(self.number("CHAOS_INTERVAL", 10)).max(Duration::from_secs(1));
                let mut passed = Duration::ZERO;
                while passed < duration {
                    self.announce("ChaosInject", &announcement).await;
                    for pod in &chosen {
                        self.kill(pod).await.map_err(api)?;
                    }
                    tokio::time::sleep(interval).await;
                    for pod in chosen.iter().filter(|_| self.name == "container-kill") {
                        self.mark(pod, "targeted").await.map_err(api)?;
                    }
                    passed += interval;
                }
                return Ok(());
            }
            "pod-network-partition" => {
                // Neither announced nor marked by an annotation: its targets stand in the history when all is over.
                let spec = policy(&self.environment, &targets).map_err(api)?;
                self.helper
                    .cut(self.objects, &targets.namespace, &spec, &|act| self.keep(act))
                    .await
                    .map_err(api)?;
            }
            _ => {
                for pod in &chosen {
                    self.helped(pod).await.map_err(|why| Failure("HELPER_ERROR", why))?;
                    self.mark(pod, "injected").await.map_err(api)?;
                }
                self.announce("ChaosInject", &announcement).await;
            }
        }
        tokio::time::sleep(duration).await;
        self.revert().await;
        for pod in &chosen {
            self.mark(pod, "reverted").await.map_err(api)?;
        }
        self.announce("PostChaosCheck", "AUT: Running").await;
        Ok(())
    }

    /// Announced before it is done; the time counts from when the node is empty.
    async fn drain(&self) -> Result<(), Failure> {
        let api = |error: String| Failure("CHAOS_INJECT_ERROR", error);
        let node = self.of("TARGET_NODE");
        if node.is_empty() {
            return Err(Failure(
                "TARGET_SELECTION_ERROR",
                "the lab's double of Litmus needs a TARGET_NODE".to_owned(),
            ));
        }
        self.announce("ChaosInject", &format!("Injecting node-drain chaos on {node} node"))
            .await;
        self.helper
            .cordon(self.objects, node, &|act| self.keep(act))
            .await
            .map_err(api)?;
        let duration = Duration::from_secs(self.number("TOTAL_CHAOS_DURATION", 60));
        match tokio::time::timeout(duration, self.helper.drain(self.objects, node)).await {
            Ok(drained) => drained.map_err(api)?,
            Err(_elapsed) => {
                return Err(Failure(
                    "CHAOS_INJECT_ERROR",
                    format!("could not drain {node} within the duration"),
                ));
            }
        }
        tokio::time::sleep(duration).await;
        self.revert().await;
        self.announce("PostChaosCheck", "AUT: Running").await;
        Ok(())
    }

    async fn kill(&self, pod: &Pod) -> Result<(), String> {
        if self.name == "container-kill" {
            return self
                .helper
                .kill_container(pod, self.of("TARGET_CONTAINER"), self.of("SIGNAL"));
        }
        let parameters = if self.of("FORCE") == "true" {
            DeleteParams::default().grace_period(0)
        } else {
            DeleteParams::default()
        };
        let deleted = self.objects.pods().delete(&pod.name_any(), &parameters).await;
        deleted.map(drop).map_err(|error| error.to_string())
    }

    /// What a privileged helper does to one pod.
    async fn helped(&self, pod: &Pod) -> Result<(), String> {
        let keep = |act| self.keep(act);
        let (uid, container) = (&self.objects.uid, self.of("TARGET_CONTAINER"));
        match self.name.as_str() {
            "pod-network-loss" => {
                let percent = self.number("NETWORK_PACKET_LOSS_PERCENTAGE", 100);
                self.helper.lose(uid, pod, percent, &keep).await
            }
            "pod-memory-hog" => {
                let bytes = self.number("MEMORY_CONSUMPTION", 500) * 1024 * 1024;
                let workers = self.number("NUMBER_OF_WORKERS", 1);
                self.helper
                    .stress(uid, pod, container, ("memory", bytes, workers), &keep)
                    .await
            }
            "pod-cpu-hog" => {
                let cores = self.number("CPU_CORES", 1).max(1);
                self.helper.stress(uid, pod, container, ("cpu", 0, cores), &keep).await
            }
            other => Err(format!("the lab's double of Litmus does not inject {other}")),
        }
    }

    fn keep(&self, act: Act) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(act);
    }

    /// Takes back what was done; twice is the same as once.
    pub(super) async fn revert(&self) {
        let done = || self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let acts = done().clone();
        for act in &acts {
            if let Err(error) = self.helper.take_back(self.objects, act).await {
                tracing::debug!(error, "the double could not take a fault back");
            }
        }
        // Only now: whoever is stopped in between has it all to do again.
        let taken = acts.len();
        let mut left = done();
        let known = taken.min(left.len());
        left.drain(..known);
    }

    /// The verdict of an experiment that was stopped, when it had begun to write one.
    pub(super) async fn stopped(&self) -> Result<(), String> {
        let output = json!({"errorCode": "EXPERIMENT_ABORTED", "reason": "experiment is aborted"});
        let status =
            json!({"phase": "Stopped", "verdict": "Stopped", "probeSuccessPercentage": "0", "errorOutput": output});
        let found = self.objects.api("ChaosResult").get_opt(&self.result_name()).await;
        let awaited = found.ok().flatten().is_some_and(|result| {
            let verdict = result
                .data
                .pointer("/status/experimentStatus/verdict")
                .and_then(Value::as_str);
            verdict == Some("Awaited")
        });
        if awaited {
            let uid = self.objects.uid.clone();
            self.write(&uid, &status).await?;
        }
        Ok(())
    }
}
