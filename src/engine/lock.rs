//! One run at a time on a target: a Lease in the target's namespace, owned by a guard Job, so that it goes when its run died.

use super::error::EngineError;
use super::guard::{Guard, Owner, object};
use crate::cluster::{ClusterError, Failed};
use crate::model::RUN_LABEL;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const LEASE: (&str, &str, &str) = ("coordination.k8s.io/v1", "Lease", "leases");

/// Takes the target, or says who has it.
///
/// # Errors
/// [`EngineError::Refused`] when another run has it; when the log cannot be written or a call fails.
pub(crate) async fn acquire(owner: Owner<'_>, target: &str) -> Result<Guard, EngineError> {
    let leases: Api<Lease> = Api::namespaced(owner.cluster.client(), owner.namespace);
    let name = lease_name(target);
    let looked = format!("look for the Lease {}/{name}", owner.namespace);
    if let Some(held) = owner.cluster.call_opt(looked, leases.get(&name)).await? {
        return Err(taken(&held, target, owner));
    }
    let guard = owner
        .guard(format!("chaosrun-{}-{}", owner.run, short(owner.experiment)))
        .await?;
    let lease: Lease = object(json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": owner.labels("lock"),
            "ownerReferences": [guard.reference()],
        },
        "spec": {
            "holderIdentity": owner.run,
            "leaseDurationSeconds": owner.deadline.as_secs().max(1),
        },
    }))?;
    let attempted = format!("create the Lease {}/{name}", owner.namespace);
    match owner
        .cluster
        .call(attempted.clone(), leases.create(&PostParams::default(), &lease))
        .await
    {
        // Only now is it ours to delete: of two runs that came together one has lost.
        Ok(_) => {
            owner.armed("lock", LEASE, &name)?;
            Ok(guard)
        }
        Err(ClusterError {
            failed: Failed::Conflict,
            ..
        }) => {
            let held = owner.cluster.call_opt(attempted, leases.get(&name)).await?;
            Err(held.map_or_else(
                || EngineError::Refused(format!("another run took {target} at the same moment; try again")),
                |held| taken(&held, target, owner),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

fn taken(held: &Lease, target: &str, owner: Owner<'_>) -> EngineError {
    let labels = held.metadata.labels.as_ref();
    let run = labels
        .and_then(|labels| labels.get(RUN_LABEL))
        .map_or("unknown", String::as_str);
    let seconds = held
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_duration_seconds)
        .unwrap_or(0);
    EngineError::Refused(format!(
        "run {run} is at {target} in namespace {}, and two runs would measure each other; wait for it (if it died, its Lease goes by \
         itself within {seconds} s), or remove what it left with `chaosrun clean --run {run}`",
        owner.namespace
    ))
}

fn short(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The same for every run at this target.
fn lease_name(target: &str) -> String {
    format!("chaosrun-{}", short(target))
}
