//! Deleting what somebody else has to let go: an object of a controller that takes its time, is stuck, or is not there any more.
//!
//! Chaos Mesh and Litmus keep their objects by a finalizer until they have taken the fault back. The way out, in this order: wait, touch
//! the object once (a retry that was put off for minutes is woken by it), wait again, and only when the user said so take the
//! finalizer away; then whatever the fault did may still be there. Facts: `specs/chaos-mesh.md` sections 5, 6 and 13.

use super::connect::Cluster;
use super::error::{ClusterError, Failed};
use super::undo::is_ours;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

/// Put on an object to wake its controller.
const TOUCHED: &str = "chaosrun.dev/touched";

/// How an undo may be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Means {
    /// How long whatever has to go may take.
    pub(crate) limit: Duration,
    /// Take the finalizers away from what does not go.
    pub(crate) force: bool,
}

impl Means {
    /// Waiting so long, and no force.
    pub(crate) fn within(limit: Duration) -> Self {
        Self { limit, force: false }
    }
}

/// Deletes an object of ours, and returns when it is gone. "Never was" succeeds; somebody else's is left alone.
///
/// # Errors
/// When a call fails, when it does not go, or when it had to be forced: then its controller took nothing back.
pub(super) async fn delete(
    cluster: &Cluster,
    api: &Api<DynamicObject>,
    name: &str,
    attempted: String,
    means: Means,
) -> Result<(), ClusterError> {
    let Some(found) = cluster.call_opt(attempted.clone(), api.get(name)).await? else {
        return Ok(());
    };
    if !is_ours(&found) {
        // Somebody else's object under the same name: never touched.
        return Ok(());
    }
    let_go(cluster, api, found, attempted, means).await
}

/// Deletes this very object, and returns when it is gone. That it may be deleted is for the caller to know.
///
/// # Errors
/// As [`delete`].
pub(super) async fn let_go(
    cluster: &Cluster,
    api: &Api<DynamicObject>,
    found: DynamicObject,
    attempted: String,
    means: Means,
) -> Result<(), ClusterError> {
    let name = found.metadata.name.as_deref().unwrap_or_default();
    cluster
        .call_opt(attempted.clone(), api.delete(name, &DeleteParams::background()))
        .await?;
    let uid = found.metadata.uid.clone();
    let held = found
        .metadata
        .finalizers
        .as_ref()
        .is_some_and(|finalizers| !finalizers.is_empty());
    let first = if held { means.limit / 2 } else { means.limit };
    if gone(cluster, api, name, uid.as_deref(), first).await {
        return Ok(());
    }
    let mut refused = None;
    if held {
        // Another value each time: a patch that changes nothing wakes nobody.
        let touch = json!({"metadata": {"annotations": {TOUCHED: jiff::Timestamp::now().to_string()}}});
        let touched = cluster
            .call_opt(
                format!("touch {name}, which does not go"),
                api.patch(name, &PatchParams::default(), &Patch::Merge(&touch)),
            )
            .await;
        refused = touched.err();
        if gone(cluster, api, name, uid.as_deref(), means.limit / 2).await {
            return Ok(());
        }
    }
    let now = cluster.call_opt(attempted.clone(), api.get(name)).await?;
    let Some(now) = now.filter(|now| now.metadata.uid == uid) else {
        return Ok(());
    };
    let finalizers = now.metadata.finalizers.clone().unwrap_or_default();
    if finalizers.is_empty() {
        return Err(ClusterError::timed_out(
            format!("{attempted} (it is still there)"),
            means.limit,
        ));
    }
    let why = stuck(&now, &finalizers, means.limit, refused.as_ref());
    if !means.force {
        return Err(ClusterError {
            attempted,
            failed: Failed::TimedOut(means.limit),
            why: format!(
                "{why}; bring its controller back and run `chaosrun clean`, or let go of it by `chaosrun clean --force`, after which the \
                 fault may remain"
            ),
        });
    }
    let release = json!({"metadata": {"finalizers": null}});
    let released = cluster
        .call_opt(
            format!("take the finalizers {} away from {name}", finalizers.join(", ")),
            api.patch(name, &PatchParams::default(), &Patch::Merge(&release)),
        )
        .await;
    if let Err(error) = released {
        return Err(ClusterError {
            attempted,
            failed: error.failed.clone(),
            why: format!("{why}; {error}{}", webhooks(&error)),
        });
    }
    Err(ClusterError {
        attempted,
        failed: Failed::Other,
        why: format!(
            "{why}; it was removed by force, so nobody took the fault back: {}",
            remains(&now)
        ),
    })
}

async fn gone(cluster: &Cluster, api: &Api<DynamicObject>, name: &str, uid: Option<&str>, limit: Duration) -> bool {
    let gone = async {
        loop {
            match cluster
                .call_opt(format!("see whether {name} is gone"), api.get(name))
                .await
            {
                Ok(None) => return,
                Ok(Some(object)) if object.metadata.uid.as_deref() != uid => return,
                Ok(Some(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(limit, gone).await.is_ok()
}

/// Why it is still there, in its controller's words as far as it has any.
fn stuck(object: &DynamicObject, finalizers: &[String], limit: Duration, refused: Option<&ClusterError>) -> String {
    let mut why = format!(
        "it is still there after {} s, held by its finalizer {}",
        limit.as_secs(),
        finalizers.join(", ")
    );
    if let Some(complaint) = last_failure(object) {
        why.push_str(&format!("; its controller says: {complaint}"));
    }
    if let Some(refused) = refused {
        why.push_str(&format!("; {refused}{}", webhooks(refused)));
    }
    why
}

/// A webhook that nobody serves refuses every change, also the one that would let go.
fn webhooks(error: &ClusterError) -> &'static str {
    if error.why.contains("failed calling webhook") {
        "; its controller-manager does not answer: bring it back, or let an administrator delete its webhook configurations \
         (chaos-mesh-mutation, chaos-mesh-validation, chaos-mesh-validation-auth) and try again"
    } else {
        ""
    }
}

/// The message of the newest failed event in the records of a Chaos Mesh experiment.
fn last_failure(object: &DynamicObject) -> Option<String> {
    let records = object.data.pointer("/status/experiment/containerRecords")?.as_array()?;
    let events = records
        .iter()
        .flat_map(|record| record["events"].as_array().into_iter().flatten());
    events
        .filter(|event| event["type"] == "Failed")
        .filter_map(|event| Some((event["timestamp"].as_str()?, event["message"].as_str()?)))
        .max_by_key(|(stamp, _)| *stamp)
        .map(|(_, message)| message.to_owned())
}

/// What a reader has to do about a fault that nobody took back.
fn remains(object: &DynamicObject) -> String {
    let records = object
        .data
        .pointer("/status/experiment/containerRecords")
        .and_then(Value::as_array);
    let mut pods: Vec<&str> = records
        .into_iter()
        .flatten()
        .filter_map(|record| record["id"].as_str())
        // `namespace/pod`, or `namespace/pod/container`.
        .map(|id| {
            id.match_indices('/')
                .nth(1)
                .map_or(id, |(at, _)| id.get(..at).unwrap_or(id))
        })
        .collect();
    pods.sort_unstable();
    pods.dedup();
    if pods.is_empty() {
        "look at what it selected, and delete those pods".to_owned()
    } else {
        format!("delete {} to be rid of it", pods.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(records: Value) -> DynamicObject {
        let value = json!({
            "apiVersion": "chaos-mesh.org/v1alpha1", "kind": "StressChaos", "metadata": {"name": "a"},
            "status": {"experiment": {"containerRecords": records}},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_newest_failure_is_told_and_the_pods_to_delete() {
        let object = object(json!([
            {"id": "shop/web-0/web", "events": [
                {"type": "Succeeded", "operation": "Apply", "timestamp": "2026-01-01T00:00:01Z"},
                {"type": "Failed", "operation": "Recover", "message": "old", "timestamp": "2026-01-01T00:00:02Z"}]},
            {"id": "shop/web-1", "events": [
                {"type": "Failed", "operation": "Recover", "message": "new", "timestamp": "2026-01-01T00:00:09Z"}]},
        ]));
        assert_eq!(last_failure(&object).as_deref(), Some("new"));
        assert_eq!(remains(&object), "delete shop/web-0, shop/web-1 to be rid of it");
    }
}
