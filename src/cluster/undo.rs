//! Takes things back: interprets an [`Undo`].

use super::chaos_mesh;
use super::connect::Cluster;
use super::error::{ClusterError, Failed};
use super::exec::run_in_pod;
use super::litmus;
use super::stuck::{Means, delete};
use crate::fault::{Claim, Inside, Undo};
use crate::model::{FAULTED_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, PodName, RESTORE_ANNOTATION, RUN_LABEL};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Ends a fault inside a container. Also part of the start script, which arms its own end with it.
pub(crate) const STOP_SCRIPT: &str = include_str!("stop.sh");

/// How long a process inside a container may take to be ended.
const INSIDE_LIMIT: Duration = Duration::from_secs(15);

/// The API of one kind, in a namespace or cluster-wide.
pub(crate) fn api_of(
    cluster: &Cluster,
    (api_version, kind, plural): (&str, &str, &str),
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client(), namespace, &resource),
        None => Api::all_with(cluster.client(), &resource),
    }
}

/// `Kind namespace/name` for people.
fn title(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// Takes something back. "Gone" and "never was" succeed; nothing that does not carry our label is deleted or changed.
///
/// # Errors
/// When a call fails for another reason, or something is still there when its time is over.
pub(crate) async fn undo(cluster: &Cluster, undo: &Undo, means: Means) -> Result<(), ClusterError> {
    match undo {
        Undo::Nothing => Ok(()),
        Undo::DeleteObject {
            api_version,
            kind,
            namespace: Some(namespace),
            name,
            ..
        } if litmus::is_engine(api_version, kind) => litmus::remove_engine(cluster, namespace, name, means).await,
        Undo::DeleteObject {
            api_version,
            kind,
            plural,
            namespace: Some(namespace),
            name,
        } if chaos_mesh::is_flow(api_version, kind) => {
            let flow = chaos_mesh::Flow {
                cluster,
                kind,
                plural,
                namespace,
                name,
            };
            Box::pin(flow.remove(means)).await
        }
        Undo::DeleteObject {
            api_version,
            kind,
            plural,
            namespace,
            name,
        } => {
            let namespace = namespace.as_deref();
            let api = api_of(cluster, (api_version, kind, plural), namespace);
            delete(
                cluster,
                &api,
                name,
                format!("delete {}", title(kind, namespace, name)),
                means,
            )
            .await
        }
        Undo::Restore {
            api_version,
            kind,
            plural,
            namespace,
            name,
        } => {
            let namespace = namespace.as_deref();
            let api = api_of(cluster, (api_version, kind, plural), namespace);
            restore(cluster, &api, name, &title(kind, namespace, name)).await
        }
        Undo::Recreate { object, plural } => recreate(cluster, object, plural, means.limit).await,
        Undo::Inside {
            pod,
            container,
            token,
            also,
            claim,
        } => {
            let place = Place {
                pod,
                container,
                claim: claim.as_ref(),
            };
            stop_inside(cluster, place, token, also).await
        }
        Undo::Record { namespace, name, undos } => {
            for inner in undos {
                Box::pin(self::undo(cluster, inner, means)).await?;
            }
            let api: Api<ConfigMap> = Api::namespaced(cluster.client(), namespace);
            cluster
                .call_opt(
                    format!("delete the record ConfigMap {namespace}/{name}"),
                    api.delete(name, &DeleteParams::default()),
                )
                .await
                .map(drop)
        }
    }
}

/// Whether chaosrun made it.
pub(super) fn is_ours(object: &DynamicObject) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY_LABEL))
        .is_some_and(|value| value == MANAGED_BY_VALUE)
}

/// Puts back what the annotation says; an object without it was never changed, or was put back already.
async fn restore(cluster: &Cluster, api: &Api<DynamicObject>, name: &str, title: &str) -> Result<(), ClusterError> {
    let attempted = format!("put {title} back to what it was");
    let Some(found) = cluster.call_opt(attempted.clone(), api.get(name)).await? else {
        return Ok(());
    };
    let annotation = found
        .metadata
        .annotations
        .as_ref()
        .and_then(|held| held.get(RESTORE_ANNOTATION));
    let Some(text) = annotation else {
        return Ok(());
    };
    let mut patch: Value = serde_json::from_str(text).map_err(|error| ClusterError {
        attempted: attempted.clone(),
        failed: Failed::Other,
        why: format!("its annotation {RESTORE_ANNOTATION} is not understood: {error}"),
    })?;
    // Not merged: merging a null would take the key out of the patch, where it has to stay to take it out of the object.
    if let (Some(patch), Some(marks)) = (patch.as_object_mut(), unmark().get("metadata")) {
        patch.insert("metadata".to_owned(), marks.clone());
    }
    cluster
        .call_opt(
            attempted,
            api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)),
        )
        .await
        .map(drop)
}

/// The merge patch that marks an object as changed by `run`, with the merge patch that undoes the change.
pub(crate) fn mark(run: &str, back: &Value) -> Value {
    json!({"metadata": {
        "labels": {FAULTED_LABEL: "true", RUN_LABEL: run},
        "annotations": {RESTORE_ANNOTATION: back.to_string()},
    }})
}

fn unmark() -> Value {
    json!({"metadata": {
        "labels": {FAULTED_LABEL: null, RUN_LABEL: null},
        "annotations": {RESTORE_ANNOTATION: null},
    }})
}

async fn recreate(cluster: &Cluster, object: &Value, plural: &str, limit: Duration) -> Result<(), ClusterError> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let attempted = format!("make {} again", title(kind, namespace, name));
    let api = api_of(cluster, (api_version, kind, plural), namespace);
    let wanted: DynamicObject = serde_json::from_value(object.clone()).map_err(|error| ClusterError {
        attempted: attempted.clone(),
        failed: Failed::Other,
        why: format!("what was kept of it is not understood: {error}"),
    })?;
    // One that is still on its way out must be gone first.
    let going = async {
        while let Some(found) = cluster.call_opt(attempted.clone(), api.get(name)).await? {
            if found.metadata.deletion_timestamp.is_none() {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<bool, ClusterError>(true)
    };
    match tokio::time::timeout(limit, going).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Err(_elapsed) => {
            let attempted = format!("{attempted} (the old one is still being deleted)");
            return Err(ClusterError::timed_out(attempted, limit));
        }
    }
    match cluster
        .call(attempted, api.create(&PostParams::default(), &wanted))
        .await
    {
        Ok(_) => Ok(()),
        // Somebody was faster.
        Err(error) if error.failed == Failed::Conflict => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where something inside a container was done.
struct Place<'a> {
    pod: &'a PodName,
    container: &'a str,
    claim: Option<&'a Claim>,
}

async fn stop_inside(cluster: &Cluster, place: Place<'_>, token: &str, also: &Inside) -> Result<(), ClusterError> {
    let namespace = &place.pod.namespace;
    let attempted = format!("end the fault {token} inside pod {namespace}/{}", place.pod.name);
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let found = cluster.call_opt(attempted.clone(), pods.get(&place.pod.name)).await?;
    let same = found.filter(|found| found.metadata.uid.as_deref() == Some(&place.pod.uid));
    if same.is_some_and(|same| is_running(&same, place.container)) {
        if *also == Inside::EndMain {
            return end_main(cluster, &place, token, attempted).await;
        }
        return run_stop(
            cluster,
            (namespace, &place.pod.name, place.container),
            token,
            also,
            attempted,
        )
        .await;
    }
    // What ran inside went with it; what it wrote to a claim is still there, and any pod that mounts it can reach it.
    let Some(claim) = place.claim else {
        return Ok(());
    };
    let listed = cluster
        .call(attempted.clone(), pods.list(&ListParams::default()))
        .await?;
    for pod in &listed.items {
        let Some((container, mount)) = mounts(pod, claim) else {
            continue;
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let also = also.moved(&claim.mount, &mount);
        return run_stop(cluster, (namespace, name, &container), token, &also, attempted).await;
    }
    Err(ClusterError {
        attempted,
        failed: Failed::Other,
        why: format!(
            "the pod is gone, and no running pod mounts the claim {} to put {} back; start one, then run `chaosrun clean`",
            claim.name,
            words(also).get(1).map_or("", String::as_str)
        ),
    })
}

/// Asks a container's program to end. The asking shell ends with it, so its exit code says nothing: the pod's status does.
async fn end_main(cluster: &Cluster, place: &Place<'_>, token: &str, attempted: String) -> Result<(), ClusterError> {
    let (namespace, name) = (&place.pod.namespace, &place.pod.name);
    let asked = run_stop(
        cluster,
        (namespace, name, place.container),
        token,
        &Inside::EndMain,
        attempted.clone(),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let ended = async {
        loop {
            match cluster.call_opt(attempted.clone(), pods.get(name)).await {
                Ok(Some(pod)) if is_running(&pod, place.container) => {}
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "the pod could not be read"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(INSIDE_LIMIT, ended).await {
        Ok(()) => Ok(()),
        Err(_elapsed) => asked.and(Err(ClusterError::timed_out(
            format!("{attempted} (its container still runs)"),
            INSIDE_LIMIT,
        ))),
    }
}

async fn run_stop(
    cluster: &Cluster,
    (namespace, pod, container): (&str, &str, &str),
    token: &str,
    also: &Inside,
    attempted: String,
) -> Result<(), ClusterError> {
    let mut command = ["sh", "-c", STOP_SCRIPT, "stop", "-", token]
        .map(str::to_owned)
        .to_vec();
    command.extend(words(also));
    let output = run_in_pod(cluster, namespace, pod, Some(container), &command, INSIDE_LIMIT).await?;
    match output.code {
        Some(0) => Ok(()),
        code => Err(ClusterError {
            attempted,
            failed: Failed::Other,
            why: format!(
                "the stop script in {pod} ended with {}: {}",
                code.map_or("no exit code".to_owned(), |code| format!("exit code {code}")),
                output.stderr
            ),
        }),
    }
}

fn is_running(pod: &Pod, container: &str) -> bool {
    let Some(status) = &pod.status else { return false };
    let ordinary = status.container_statuses.iter().flatten();
    ordinary
        .chain(status.ephemeral_container_statuses.iter().flatten())
        .find(|held| held.name == container)
        .and_then(|held| held.state.as_ref())
        .is_some_and(|state| state.running.is_some())
}

/// The running container of a pod that mounts a claim in the same way, and where.
fn mounts(pod: &Pod, claim: &Claim) -> Option<(String, String)> {
    let spec = pod.spec.as_ref()?;
    let volume = spec.volumes.iter().flatten().find(|volume| {
        let held = volume.persistent_volume_claim.as_ref();
        held.is_some_and(|held| held.claim_name == claim.name)
    })?;
    spec.containers
        .iter()
        .filter(|held| is_running(pod, &held.name))
        .find_map(|held| {
            let mount = held.volume_mounts.iter().flatten().find(|mount| {
                mount.name == volume.name && mount.sub_path.as_deref().unwrap_or_default() == claim.sub_path
            })?;
            Some((held.name.clone(), mount.mount_path.clone()))
        })
}

/// The stop script's arguments after the token.
pub(crate) fn words(also: &Inside) -> [String; 3] {
    let (word, one, other) = match also {
        Inside::Nothing => ("nothing", "", ""),
        Inside::Continue => ("continue", "", ""),
        Inside::EndMain => ("end", "", ""),
        Inside::RemoveFile { path } => ("remove", path.as_str(), ""),
        Inside::MoveBack { path, aside } => ("back", path.as_str(), aside.as_str()),
        Inside::GiveBack { path, kept } => ("give", path.as_str(), kept.as_str()),
    };
    [word, one, other].map(str::to_owned)
}
