//! Faults on objects: scale, delete, an image that cannot be pulled. They cannot end by themselves: what an object was stands in its
//! annotation, and a deleted one in a record.

use super::prepare::Detail;
use super::shot::{Called, Miss, PROOF_LIMIT, count, poll, shoot};
use super::stage::{InjectError, Stage};
use crate::cluster::{Failed, api_of, mark};
use crate::experiment::Guards;
use crate::fault::{FaultKind, FaultSpec, FaultTarget, ObjectRef, Undo};
use crate::model::{PodName, RESTORE_ANNOTATION};
use crate::plan::protects;
use crate::world::{Armed, RecordError};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, Preconditions};
use kube::discovery::pinned_kind;
use serde_json::{Value, json};

/// An image that no registry has: the name is reserved, see RFC 2606.
const NO_IMAGE: &str = "registry.invalid/chaosrun/no-such-image:v0";

/// What is done to an object.
pub(super) struct Change {
    resource: ApiResource,
    kind: ChangeKind,
}

enum ChangeKind {
    /// A merge patch, and what shows that it took effect.
    Patch {
        patch: Value,
        pointer: &'static str,
        wanted: Value,
    },
    /// A deletion.
    Delete,
}

async fn resource(stage: &Stage, object: Option<&ObjectRef>) -> Result<(ApiResource, String, String), InjectError> {
    let Some(object) = object else {
        let (resource, name) = stage.own.clone().ok_or_else(|| {
            InjectError::Refused("the target is a label selector and has no object of its own".to_owned())
        })?;
        return Ok((resource, stage.namespace.clone(), name));
    };
    let (group, version) = object.api_version.split_once('/').unwrap_or(("", &object.api_version));
    let gvk = GroupVersionKind::gvk(group, version, &object.kind);
    let attempted = format!("find the kind {} {}", object.api_version, object.kind);
    let (resource, _) = stage
        .cluster
        .call(attempted, pinned_kind(&stage.cluster.client(), &gvk))
        .await?;
    Ok((resource, object.namespace.clone(), object.name.clone()))
}

fn api(stage: &Stage, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    api_of(
        &stage.cluster,
        (&resource.api_version, &resource.kind, &resource.plural),
        Some(namespace),
    )
}

/// The exact object.
pub(super) async fn target(
    stage: &Stage,
    fault: &FaultSpec,
    object: Option<&ObjectRef>,
    guards: &Guards,
) -> Result<Vec<FaultTarget>, InjectError> {
    let (resource, namespace, name) = resource(stage, object).await?;
    if let Some(pattern) = protects(guards, &namespace) {
        return Err(InjectError::Refused(format!(
            "fault {:?}: namespace {namespace} is protected (guards.protectedNamespaces has {pattern})",
            fault.name
        )));
    }
    let title = format!("{} {namespace}/{name}", resource.kind);
    let found = stage
        .cluster
        .call_opt(format!("read {title}"), api(stage, &resource, &namespace).get(&name))
        .await?
        .ok_or_else(|| InjectError::Refused(format!("fault {:?}: there is no {title}", fault.name)))?;
    if found
        .metadata
        .annotations
        .is_some_and(|held| held.contains_key(RESTORE_ANNOTATION))
    {
        return Err(InjectError::Refused(format!(
            "fault {:?}: {title} still carries the change of another run; run `chaosrun clean` first",
            fault.name
        )));
    }
    Ok(vec![FaultTarget {
        pod: PodName {
            namespace,
            name,
            uid: found.metadata.uid.unwrap_or_default(),
        },
        kind: Some(resource.kind),
        container: None,
        container_id: None,
    }])
}

pub(super) async fn prepare(
    stage: &Stage,
    spec: &FaultSpec,
    targets: &[FaultTarget],
    token: &str,
) -> Result<(Detail, Vec<Undo>), InjectError> {
    let (resource, namespace, name) = resource(stage, spec.kind.on_object().flatten()).await?;
    let title = format!("{} {namespace}/{name}", resource.kind);
    let found = stage
        .cluster
        .call(format!("read {title}"), api(stage, &resource, &namespace).get(&name))
        .await?;
    if targets
        .iter()
        .all(|target| found.metadata.uid.as_deref() != Some(&target.pod.uid))
    {
        return Err(InjectError::Refused(format!(
            "{title} was replaced since it was chosen"
        )));
    }
    let restore = Undo::Restore {
        api_version: resource.api_version.clone(),
        kind: resource.kind.clone(),
        plural: resource.plural.clone(),
        namespace: Some(namespace.clone()),
        name,
    };
    let (kind, undo) = match &spec.kind {
        FaultKind::Scale { replicas, .. } => {
            let now = found.data.pointer("/spec/replicas").and_then(Value::as_u64);
            let Some(now) = now else {
                return Err(InjectError::Refused(format!("{title} has no spec.replicas to change")));
            };
            if now == u64::from(*replicas) {
                return Err(InjectError::Refused(format!("{title} has {now} replicas already")));
            }
            let mut patch = mark(&stage.run, &json!({"spec": {"replicas": now}}));
            json_patch::merge(&mut patch, &json!({"spec": {"replicas": replicas}}));
            let kind = ChangeKind::Patch {
                patch,
                pointer: "/status/replicas",
                wanted: json!(replicas),
            };
            (kind, restore)
        }
        FaultKind::ImagePullFailure { container } => {
            let kind = bad_image(stage, &found, container.as_deref(), &title)?;
            (kind, restore)
        }
        _ => {
            let undos = vec![Undo::Recreate {
                object: kept(&found, &resource),
                plural: resource.plural.clone(),
            }];
            let record = Undo::Record {
                namespace: stage.namespace.clone(),
                name: token.to_owned(),
                undos,
            };
            (ChangeKind::Delete, record)
        }
    };
    Ok((Detail::Object(Change { resource, kind }), vec![undo]))
}

fn bad_image(
    stage: &Stage,
    found: &DynamicObject,
    container: Option<&str>,
    title: &str,
) -> Result<ChangeKind, InjectError> {
    let containers = found
        .data
        .pointer("/spec/template/spec/containers")
        .and_then(Value::as_array);
    let mut changed = containers.cloned().unwrap_or_default();
    let before = json!({"spec": {"template": {"spec": {"containers": changed}}}});
    let is_it = |held: &Value| container.is_none_or(|name| held.get("name").and_then(Value::as_str) == Some(name));
    let Some(held) = changed
        .iter_mut()
        .find(|held| is_it(held))
        .and_then(Value::as_object_mut)
    else {
        return Err(InjectError::Refused(format!(
            "{title} has no container {:?} in its template",
            container.unwrap_or_default()
        )));
    };
    held.insert("image".to_owned(), json!(NO_IMAGE));
    let mut patch = mark(&stage.run, &before);
    json_patch::merge(
        &mut patch,
        &json!({"spec": {"template": {"spec": {"containers": changed}}}}),
    );
    Ok(ChangeKind::Patch {
        patch,
        pointer: "",
        wanted: Value::Null,
    })
}

/// An object as it can be created again: without what the server sets and owns.
fn kept(found: &DynamicObject, resource: &ApiResource) -> Value {
    let mut object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": found.metadata.name,
            "namespace": found.metadata.namespace,
            "labels": found.metadata.labels,
            "annotations": found.metadata.annotations,
            "ownerReferences": found.metadata.owner_references,
            "finalizers": found.metadata.finalizers,
        },
    });
    if let (Some(object), Some(data)) = (object.as_object_mut(), found.data.as_object()) {
        for (key, value) in data.iter().filter(|(key, _)| *key != "status") {
            object.insert(key.clone(), value.clone());
        }
    }
    object
}

/// Fires at the object.
pub(super) async fn fire(stage: &Stage, armed: &Armed, change: &Change) -> Result<usize, RecordError> {
    let spec = armed.spec();
    let shots = armed.targets().iter().map(|target| async move {
        let api = api(stage, &change.resource, &target.pod.namespace);
        let watch = &api;
        let call = call(stage, target, change, &api);
        shoot(stage, spec, target, call, |requested| async move {
            poll(stage, requested, PROOF_LIMIT, || {
                effect(stage, spec, target, change, watch)
            })
            .await
        })
        .await
    });
    count(shots).await
}

async fn call(stage: &Stage, target: &FaultTarget, change: &Change, api: &Api<DynamicObject>) -> Result<Called, Miss> {
    let title = format!("{} {}/{}", change.resource.kind, target.pod.namespace, target.pod.name);
    match &change.kind {
        ChangeKind::Patch { patch, .. } => {
            let mut patch = patch.clone();
            // A replacement under the same name is never hit.
            json_patch::merge(&mut patch, &json!({"metadata": {"uid": target.pod.uid}}));
            stage
                .cluster
                .call(
                    format!("change {title}"),
                    api.patch(&target.pod.name, &PatchParams::default(), &Patch::Merge(&patch)),
                )
                .await?;
        }
        ChangeKind::Delete => {
            let parameters = DeleteParams::background().preconditions(Preconditions {
                uid: Some(target.pod.uid.clone()),
                resource_version: None,
            });
            stage
                .cluster
                .call(format!("delete {title}"), api.delete(&target.pod.name, &parameters))
                .await?;
        }
    }
    Ok(Called::Accepted)
}

async fn effect(
    stage: &Stage,
    spec: &FaultSpec,
    target: &FaultTarget,
    change: &Change,
    api: &Api<DynamicObject>,
) -> Result<Option<String>, String> {
    let name = &target.pod.name;
    let title = format!("{} {}/{name}", change.resource.kind, target.pod.namespace);
    let found = match stage.cluster.call(format!("read {title}"), api.get(name)).await {
        Ok(found) => Some(found),
        Err(error) if error.failed == Failed::NotFound => None,
        Err(error) => return Err(error.to_string()),
    };
    let same = found.filter(|found| found.metadata.uid.as_deref() == Some(&target.pod.uid));
    match (&change.kind, same) {
        (ChangeKind::Delete, None) => Ok(Some(format!("{title} with UID {} is gone", target.pod.uid))),
        (ChangeKind::Delete, Some(_)) => Ok(None),
        (ChangeKind::Patch { .. }, None) => Err(format!("{title} is gone")),
        (ChangeKind::Patch { .. }, Some(_)) if matches!(spec.kind, FaultKind::ImagePullFailure { .. }) => {
            Ok(cannot_pull(stage))
        }
        (ChangeKind::Patch { pointer, wanted, .. }, Some(found)) => {
            // A controller that leaves the field out means none.
            let now = found.data.pointer(pointer).cloned().unwrap_or_else(|| json!(0));
            Ok((now == *wanted).then(|| format!("{title} has {now} replicas")))
        }
    }
}

/// A member of the target whose image cannot be pulled.
fn cannot_pull(stage: &Stage) -> Option<String> {
    use crate::model::ContainerState;
    stage.pods.present().iter().find_map(|pod| {
        pod.facts
            .containers
            .iter()
            .find_map(|container| match &container.state {
                ContainerState::Waiting { reason }
                    if matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff") =>
                {
                    Some(format!("pod {} waits with {reason}", pod.facts.pod.name))
                }
                _ => None,
            })
    })
}
