//! Making and taking away pods for a workload: what `ReplicaSet`, `StatefulSet`, `DaemonSet` and Job have in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{Resource, ResourceExt};

use super::events::EventRecorder;
use super::meta::{controller_of, controller_reference, is_controlled_by, is_terminating, selects};
use super::runtime::{Cache, Namespaced, Objects, ReconcileError};

/// How a pod gets its name.
pub(crate) enum PodName {
    /// The API server appends five letters.
    Generated(String),
    /// A name that comes back after deletion.
    Fixed(String),
}

/// A pod from a template, controlled by `owner`.
pub(crate) fn pod_from_template<K: Resource<DynamicType = ()>>(
    owner: &K,
    template: &PodTemplateSpec,
    name: PodName,
) -> Pod {
    let source = template.metadata.clone().unwrap_or_default();
    let (name, generate_name) = match name {
        PodName::Generated(prefix) => (None, Some(prefix)),
        PodName::Fixed(name) => (Some(name), None),
    };
    Pod {
        metadata: ObjectMeta {
            name,
            generate_name,
            namespace: owner.meta().namespace.clone(),
            labels: source.labels,
            annotations: source.annotations,
            finalizers: source.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Adds a label.
pub(crate) fn label(meta: &mut ObjectMeta, key: &str, value: impl Into<String>) {
    meta.labels
        .get_or_insert_with(BTreeMap::new)
        .insert(key.to_owned(), value.into());
}

/// Adds an annotation.
pub(crate) fn annotate(meta: &mut ObjectMeta, key: &str, value: impl Into<String>) {
    meta.annotations
        .get_or_insert_with(BTreeMap::new)
        .insert(key.to_owned(), value.into());
}

/// An annotation's value.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The pods that belong to `owner` by its selector: those that it controls, and orphans that it adopts on the way.
/// Controlled pods that the selector no longer matches are let go (`controller.PodControllerRefManager`).
pub(crate) async fn claim<K: Resource<DynamicType = ()>, O: Namespaced>(
    objects: &Objects,
    cache: &Cache<O>,
    owner: &K,
    selector: Option<&LabelSelector>,
) -> Result<Vec<Arc<O>>, ReconcileError> {
    let mut claimed = Vec::new();
    for object in cache.in_namespace(owner.meta().namespace.as_deref().unwrap_or_default()) {
        let matches = selects(selector, object.meta().labels.as_ref());
        if is_controlled_by(object.meta(), owner.meta()) {
            // Without a selector there is nothing that a pod could fail to match.
            if matches || selector.is_none() {
                claimed.push(object);
            } else if !is_terminating(owner.meta()) && !is_terminating(object.meta()) {
                release(objects, cache, &object, owner).await?;
            }
        } else if matches
            && controller_of(object.meta()).is_none()
            && !is_terminating(owner.meta())
            && !is_terminating(object.meta())
            && let Some(adopted) = adopt(objects, cache, &object, owner).await?
        {
            claimed.push(Arc::new(adopted));
        }
    }
    Ok(claimed)
}

async fn adopt<K: Resource<DynamicType = ()>, O: Namespaced>(
    objects: &Objects,
    cache: &Cache<O>,
    object: &O,
    owner: &K,
) -> Result<Option<O>, ReconcileError> {
    let mut references = object.owner_references().to_vec();
    references.push(controller_reference(owner));
    // The resource version makes sure that two owners cannot both adopt.
    let patch = serde_json::json!({"metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(), "ownerReferences": references,
    }});
    match objects.patch(cache, object, &patch).await {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if error.is_race() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn release<K: Resource<DynamicType = ()>, O: Namespaced>(
    objects: &Objects,
    cache: &Cache<O>,
    object: &O,
    owner: &K,
) -> Result<(), ReconcileError> {
    let owner_uid = owner.meta().uid.clone().unwrap_or_default();
    let references: Vec<_> = object
        .owner_references()
        .iter()
        .filter(|reference| reference.uid != owner_uid)
        .cloned()
        .collect();
    let patch = serde_json::json!({"metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(), "ownerReferences": references,
    }});
    match objects.patch(cache, object, &patch).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_race() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates pods at the same time and tells about each. Returns how many were created and the first error.
pub(crate) async fn create_all<K: Resource<DynamicType = ()>>(
    objects: &Objects,
    cache: &Cache<Pod>,
    events: &EventRecorder,
    owner: &K,
    pods: &[Pod],
) -> (usize, Option<ReconcileError>) {
    // The first one alone: when a quota or an admission rule refuses it, the others need not be tried.
    let (first, rest) = pods.split_at(pods.len().min(1));
    let mut created = 0;
    for batch in [first, rest] {
        let mut requests: FuturesUnordered<_> = batch.iter().map(|pod| objects.create(cache, pod)).collect();
        let mut failed = None;
        while let Some(result) = requests.next().await {
            match result {
                Ok(pod) => {
                    created += 1;
                    events.normal(owner, "SuccessfulCreate", format!("Created pod: {}", pod.name_any()));
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error)
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    events.warning(owner, "FailedCreate", format!("Error creating: {cause}"));
                    failed = Some(error);
                }
            }
        }
        if failed.is_some() {
            return (created, failed);
        }
    }
    (created, None)
}

/// Deletes pods at the same time and tells about each. Tries all, returns the first error.
pub(crate) async fn delete_all<K: Resource<DynamicType = ()>>(
    objects: &Objects,
    cache: &Cache<Pod>,
    events: &EventRecorder,
    owner: &K,
    pods: &[Arc<Pod>],
) -> Result<(), ReconcileError> {
    let mut requests: FuturesUnordered<_> = pods
        .iter()
        .map(|pod| async move { (pod, objects.delete(cache, &**pod).await) })
        .collect();
    let mut failed = None;
    while let Some((pod, result)) = requests.next().await {
        match result {
            Ok(()) => events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any())),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}
