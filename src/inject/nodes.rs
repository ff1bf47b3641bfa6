//! Faults on the nodes of the chosen pods: cordon and drain. They cannot end by themselves: what a node was stands in its annotation.

use super::pods::evict_pod;
use super::shot::{Called, Miss, PROOF_LIMIT, Proof, count, poll, shoot};
use super::stage::{InjectError, Stage};
use crate::cluster::mark;
use crate::fault::{FaultKind, FaultSpec, FaultTarget, Undo};
use crate::model::{PodName, RESTORE_ANNOTATION};
use crate::plan::Candidate;
use crate::world::{Armed, RecordError};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a drain may take, as `kubectl drain` is usually told.
const DRAIN_LIMIT: Duration = Duration::from_mins(5);

/// The nodes of the chosen pods.
pub(super) async fn targets(
    stage: &Stage,
    fault: &FaultSpec,
    candidates: &[Candidate],
    chosen: &[FaultTarget],
) -> Result<Vec<FaultTarget>, InjectError> {
    let chosen: BTreeSet<&str> = chosen.iter().map(|target| target.pod.uid.as_str()).collect();
    let names: BTreeSet<&str> = candidates
        .iter()
        .filter(|candidate| chosen.contains(candidate.pod.uid.as_str()))
        .filter_map(|candidate| candidate.node.as_deref())
        .collect();
    let nodes: Api<Node> = Api::all(stage.cluster.client());
    let mut targets = Vec::new();
    for name in names {
        let node = stage.cluster.call(format!("read node {name}"), nodes.get(name)).await?;
        let marked = node
            .metadata
            .annotations
            .iter()
            .flatten()
            .any(|(key, _)| key == RESTORE_ANNOTATION);
        if marked || node.spec.is_some_and(|spec| spec.unschedulable == Some(true)) {
            return Err(InjectError::Refused(format!(
                "fault {:?}: node {name} is cordoned already, so its cordon could not be told from ours; uncordon it, or run \
                 `chaosrun clean` if an earlier run left it so",
                fault.name
            )));
        }
        targets.push(FaultTarget {
            pod: PodName {
                namespace: String::new(),
                name: name.to_owned(),
                uid: node.metadata.uid.unwrap_or_default(),
            },
            kind: Some("Node".to_owned()),
            container: None,
            container_id: None,
        });
    }
    Ok(targets)
}

pub(super) fn undo(targets: &[FaultTarget]) -> Vec<Undo> {
    targets
        .iter()
        .map(|target| Undo::Restore {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            plural: "nodes".to_owned(),
            namespace: None,
            name: target.pod.name.clone(),
        })
        .collect()
}

/// Fires at every node at once.
pub(super) async fn fire(stage: &Stage, armed: &Armed) -> Result<usize, RecordError> {
    let spec = armed.spec();
    let drain = match spec.kind {
        FaultKind::NodeDrain { grace_seconds } => Some(grace_seconds),
        _ => None,
    };
    let shots = armed.targets().iter().map(|target| async move {
        let call = async {
            cordon(stage, &target.pod.name).await?;
            if let Some(grace) = drain {
                drain_node(stage, &target.pod.name, grace).await?;
            }
            Ok(Called::Accepted)
        };
        let limit = if drain.is_some() { DRAIN_LIMIT } else { PROOF_LIMIT };
        shoot(stage, spec, target, call, |requested| async move {
            let name = &target.pod.name;
            let began = poll(stage, requested, limit, || effect(stage, name, false)).await?;
            if drain.is_none() {
                return Ok(began);
            }
            // The recovery clock starts when the draining does, and it counts as proven when it is complete.
            let done = poll(stage, requested, limit, || effect(stage, name, true)).await?;
            Ok(Proof {
                effect: began.effect,
                text: done.text,
            })
        })
        .await
    });
    count(shots).await
}

async fn cordon(stage: &Stage, name: &str) -> Result<(), Miss> {
    let nodes: Api<Node> = Api::all(stage.cluster.client());
    // The change and the way back are one write: there is no moment with the one and without the other.
    let mut patch = mark(&stage.run, &json!({"spec": {"unschedulable": null}}));
    json_patch::merge(&mut patch, &json!({"spec": {"unschedulable": true}}));
    stage
        .cluster
        .call(
            format!("cordon node {name}"),
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)),
        )
        .await?;
    Ok(())
}

/// Pods of the target's namespace on a node that a drain has to move: not those of a DaemonSet, and none that has ended.
async fn to_move(stage: &Stage, node: &str) -> Result<Vec<Pod>, Miss> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), &stage.namespace);
    let parameters = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let attempted = format!("list the pods of {} on node {node}", stage.namespace);
    let listed = stage.cluster.call(attempted, pods.list(&parameters)).await?;
    Ok(listed.items.into_iter().filter(must_move).collect())
}

fn must_move(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !owners.into_iter().any(|owner| owner.kind == "DaemonSet") && !matches!(phase, Some("Succeeded" | "Failed"))
}

async fn drain_node(stage: &Stage, node: &str, grace: Option<u32>) -> Result<(), Miss> {
    let clock = stage.recorder.clock();
    let deadline = clock.now().plus(DRAIN_LIMIT);
    let mut refused;
    loop {
        refused = None;
        let pods = to_move(stage, node).await?;
        for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match evict_pod(stage, &stage.namespace, name, None, grace).await {
                Ok(()) => {}
                // A disruption budget says: not now. As `kubectl drain` does, ask again.
                Err(miss) if miss.later || !miss.definite => refused = Some(miss.why),
                Err(miss) => return Err(miss),
            }
        }
        let Some(why) = refused else { return Ok(()) };
        if clock.now() > deadline {
            return Err(Miss::definite(format!("node {node} could not be drained: {why}")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

pub(super) async fn effect(stage: &Stage, name: &str, drained: bool) -> Result<Option<String>, String> {
    let nodes: Api<Node> = Api::all(stage.cluster.client());
    let node = stage
        .cluster
        .call(format!("read node {name}"), nodes.get(name))
        .await
        .map_err(|error| error.to_string())?;
    if node.spec.is_none_or(|spec| spec.unschedulable != Some(true)) {
        return Ok(None);
    }
    if !drained {
        return Ok(Some(format!("node {name} is unschedulable")));
    }
    let left = to_move(stage, name).await.map_err(|miss| miss.why)?;
    Ok(left.is_empty().then(|| {
        format!(
            "node {name} is unschedulable and has no pod of {} left",
            stage.namespace
        )
    }))
}
