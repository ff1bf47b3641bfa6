//! Takes a ChaosEngine of Litmus back: stops it, deletes it, and removes what it left, by the label that all of it carries.
//!
//! May depend on what `cluster` may. Contract: Litmus' operator gets every chance to take the fault back itself, because only its pods know
//! how; then everything labelled `chaosUID` is gone, or it is said what is left. An operator that is dead does not block for ever: its pods
//! are ended without it; the finalizer is removed only by force, and that is said as a failure, because nobody knows what remains. Facts: `specs/litmus.md`, section 4.

use super::connect::Cluster;
use super::error::{ClusterError, Failed};
use super::stuck::Means;
use super::undo::{api_of, is_ours};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

const API_VERSION: &str = "litmuschaos.io/v1alpha1";
/// An operator that lives begins to stop an engine within this time.
const OPERATOR_LIMIT: Duration = Duration::from_secs(20);
/// How long the pods of an experiment may take to end: the grace that chaosrun gives them, and a bit.
const PODS_LIMIT: Duration = Duration::from_secs(75);
/// How long an operator itself waits for them at most.
const STOP_LIMIT: Duration = Duration::from_secs(190);
/// How long a finalizer may outlive the work that it stands for.
const FINALIZER_LIMIT: Duration = Duration::from_secs(15);

/// Whether an object is an engine of Litmus, which must not only be deleted.
pub(super) fn is_engine(api_version: &str, kind: &str) -> bool {
    kind == "ChaosEngine" && api_version.starts_with("litmuschaos.io/")
}

struct Engine<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    name: &'a str,
    means: Means,
}

/// What of an experiment is still there.
struct Left {
    /// `kind name`, for people.
    names: Vec<String>,
    /// All of it is on its way out.
    going: bool,
}

/// Stops an engine, deletes it and its result, and removes what is left of it. One that is gone, or was never made, is no error; its
/// remains are removed all the same.
///
/// # Errors
/// When a call fails, or something is left.
pub(super) async fn remove_engine(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    means: Means,
) -> Result<(), ClusterError> {
    let engine = Engine {
        cluster,
        namespace,
        name,
        means,
    };
    let Some(found) = engine.read().await? else {
        for result in engine.results_by_name().await? {
            if let Some(uid) = result.metadata.labels.and_then(|mut labels| labels.remove("chaosUID")) {
                engine.remove_rest(&uid).await?;
            }
        }
        return engine.remove_results_by_name().await;
    };
    if !is_ours(&found) {
        return Ok(());
    }
    let uid = found.metadata.uid.clone().unwrap_or_default();
    if status_of(&found) == "initialized" && found.metadata.deletion_timestamp.is_none() {
        engine.stop(&uid).await?;
    }
    // Whether it goes or not, what it left goes.
    let deleted = engine.delete(&uid).await;
    engine.remove_rest(&uid).await?;
    engine.remove_results_by_name().await?;
    deleted
}

fn status_of(engine: &DynamicObject) -> &str {
    let status = engine.data.pointer("/status/engineStatus").and_then(Value::as_str);
    status.unwrap_or_default()
}

fn is_final(engine: Option<&DynamicObject>) -> bool {
    engine.is_none_or(|engine| matches!(status_of(engine), "completed" | "stopped"))
}

/// Asks until `done` says so, or `limit` is over; true when it did.
async fn until<F: Future<Output = Result<bool, ClusterError>>>(limit: Duration, mut done: impl FnMut() -> F) -> bool {
    let asking = async {
        loop {
            match done().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "Litmus could not be asked"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(limit, asking).await.is_ok()
}

impl Engine<'_> {
    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (api_version, plural) = match kind {
            "Pod" => ("v1", "pods"),
            "Job" => ("batch/v1", "jobs"),
            "NetworkPolicy" => ("networking.k8s.io/v1", "networkpolicies"),
            "ChaosResult" => (API_VERSION, "chaosresults"),
            _ => (API_VERSION, "chaosengines"),
        };
        api_of(self.cluster, (api_version, kind, plural), Some(self.namespace))
    }

    async fn read(&self) -> Result<Option<DynamicObject>, ClusterError> {
        let attempted = format!("read ChaosEngine {}/{}", self.namespace, self.name);
        self.cluster
            .call_opt(attempted, self.api("ChaosEngine").get(self.name))
            .await
    }

    async fn patch(&self, attempted: &str, patch: &Value) -> Result<(), ClusterError> {
        let attempted = format!("{attempted} of ChaosEngine {}/{}", self.namespace, self.name);
        let api = self.api("ChaosEngine");
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        // Never a whole object: Litmus writes all the time, and a stale copy would undo what it wrote.
        self.cluster
            .call_opt(attempted, api.patch(self.name, &parameters, &patch))
            .await
            .map(drop)
    }

    /// Has the operator end the experiment; when there is none that does, ends its pods as the operator would have.
    async fn stop(&self, uid: &str) -> Result<(), ClusterError> {
        self.patch("set the state to stop", &json!({"spec": {"engineState": "stop"}}))
            .await?;
        let begun = until(OPERATOR_LIMIT, || async {
            Ok(is_final(self.read().await?.as_ref()) || self.left(uid, false).await?.going)
        });
        if !begun.await {
            tracing::warn!(
                engine = self.name,
                "Litmus' operator does not stop the engine; its pods are ended without it"
            );
            self.delete_labelled(uid, &["Job", "Pod"]).await?;
        }
        // Whether it came to an end is looked at again after the deletion.
        let stopped = until(PODS_LIMIT, || async {
            Ok(is_final(self.read().await?.as_ref()) || self.left(uid, false).await?.names.is_empty())
        });
        if !stopped.await {
            tracing::warn!(engine = self.name, "Litmus did not stop the engine in time");
        }
        Ok(())
    }

    async fn delete(&self, uid: &str) -> Result<(), ClusterError> {
        let attempted = format!("delete ChaosEngine {}/{}", self.namespace, self.name);
        let api = self.api("ChaosEngine");
        let parameters = DeleteParams::background();
        self.cluster
            .call_opt(attempted.clone(), api.delete(self.name, &parameters))
            .await?;
        let patience = FINALIZER_LIMIT.min(self.means.limit);
        let gone = || async {
            let found = self.read().await?;
            Ok(found.is_none_or(|found| found.metadata.uid.as_deref() != Some(uid)))
        };
        if until(patience, gone).await {
            return Ok(());
        }
        // The operator may still wait for pods. Without any, or at its own end, it has nothing left to do.
        let idle =
            || async { Ok(is_final(self.read().await?.as_ref()) || self.left(uid, false).await?.names.is_empty()) };
        if !until(STOP_LIMIT, idle).await {
            self.delete_labelled(uid, &["Job", "Pod"]).await?;
        }
        if until(patience, gone).await {
            return Ok(());
        }
        self.delete_labelled(uid, &["Job", "Pod"]).await?;
        until(PODS_LIMIT, || async {
            Ok(self.left(uid, false).await?.names.is_empty())
        })
        .await;
        let why = format!(
            "Litmus' operator does not let go of its finalizer, although no pod of the experiment is left after {} s",
            patience.as_secs()
        );
        if !self.means.force {
            return Err(ClusterError {
                attempted,
                failed: Failed::TimedOut(patience),
                why: format!(
                    "{why}; bring the operator back and run `chaosrun clean`, or let go of it by `chaosrun clean --force`, after which the \
                     fault may remain"
                ),
            });
        }
        self.patch("remove the finalizer", &json!({"metadata": {"finalizers": null}}))
            .await?;
        if until(patience, gone).await {
            return Err(ClusterError {
                attempted,
                failed: Failed::Other,
                why: format!("{why}; it was removed by force: the fault may remain, look at the target itself"),
            });
        }
        let attempted = format!("{attempted} (it is still there)");
        Err(ClusterError::timed_out(attempted, patience))
    }

    /// Everything that carries the engine's label; a result is only a record.
    async fn remove_rest(&self, uid: &str) -> Result<(), ClusterError> {
        self.delete_labelled(uid, &["Job", "Pod", "NetworkPolicy", "ChaosResult"])
            .await?;
        if until(PODS_LIMIT, || async {
            Ok(self.left(uid, true).await?.names.is_empty())
        })
        .await
        {
            return Ok(());
        }
        let left = self.left(uid, true).await?.names;
        Err(ClusterError {
            attempted: format!("remove what Litmus left of {}/{}", self.namespace, self.name),
            failed: Failed::TimedOut(PODS_LIMIT),
            why: format!(
                "still there after {} s: {} (label chaosUID={uid})",
                PODS_LIMIT.as_secs(),
                left.join(", ")
            ),
        })
    }

    async fn labelled(&self, uid: &str, kind: &str) -> Result<Vec<DynamicObject>, ClusterError> {
        let parameters = ListParams::default().labels(&format!("chaosUID={uid}"));
        let attempted = format!("list what Litmus left in {} ({kind})", self.namespace);
        match self.cluster.call(attempted, self.api(kind).list(&parameters)).await {
            Ok(listed) => Ok(listed.items),
            Err(error) if error.failed == Failed::NotFound => Ok(Vec::new()),
            // Only a partition makes policies, and whoever does one has the right to see them.
            Err(error) if error.failed == Failed::Forbidden && kind == "NetworkPolicy" => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn left(&self, uid: &str, everything: bool) -> Result<Left, ClusterError> {
        let kinds: &[&str] = if everything {
            &["Job", "Pod", "NetworkPolicy", "ChaosResult"]
        } else {
            &["Job", "Pod"]
        };
        let mut left = Left {
            names: Vec::new(),
            going: true,
        };
        for kind in kinds {
            for object in self.labelled(uid, kind).await? {
                left.going &= object.metadata.deletion_timestamp.is_some() || *kind == "Job";
                left.names
                    .push(format!("{kind} {}", object.metadata.name.unwrap_or_default()));
            }
        }
        Ok(left)
    }

    async fn delete_labelled(&self, uid: &str, kinds: &[&str]) -> Result<(), ClusterError> {
        for kind in kinds {
            let (api, parameters) = (self.api(kind), DeleteParams::background());
            for object in self.labelled(uid, kind).await? {
                let name = object.metadata.name.unwrap_or_default();
                let attempted = format!("delete {kind} {}/{name}", self.namespace);
                self.cluster.call_opt(attempted, api.delete(&name, &parameters)).await?;
            }
        }
        Ok(())
    }

    /// Results of an engine of this name, which is chaosrun's alone: they outlive it, and their labels are not always right.
    async fn results_by_name(&self) -> Result<Vec<DynamicObject>, ClusterError> {
        let attempted = format!("list ChaosResults in {}", self.namespace);
        let listed = self
            .cluster
            .call(attempted, self.api("ChaosResult").list(&ListParams::default()))
            .await;
        let mut results = match listed {
            Ok(listed) => listed.items,
            Err(error) if error.failed == Failed::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        results.retain(|result| result.data.pointer("/spec/engine").and_then(Value::as_str) == Some(self.name));
        Ok(results)
    }

    async fn remove_results_by_name(&self) -> Result<(), ClusterError> {
        let (api, parameters) = (self.api("ChaosResult"), DeleteParams::background());
        for result in self.results_by_name().await? {
            let name = result.metadata.name.unwrap_or_default();
            let attempted = format!("delete ChaosResult {}/{name}", self.namespace);
            self.cluster.call_opt(attempted, api.delete(&name, &parameters)).await?;
        }
        Ok(())
    }
}
