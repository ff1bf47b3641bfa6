//! Manifests: any Kubernetes objects from YAML, applied in order, with what was new told apart from what was there.

use super::connect::Cluster;
use super::error::{ClusterError, Failed};
use crate::fault::Undo;
use crate::model::{EXPERIMENT_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, PURPOSE_LABEL, RUN_LABEL};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::discovery::{Scope, pinned_kind};
use std::time::Duration;

/// One object of a manifest file.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// The object.
    pub(crate) object: DynamicObject,
}

/// A manifest file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub(crate) struct ManifestError {
    /// Path.
    pub(crate) file: String,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// Reads every document of a manifest file.
///
/// # Errors
/// When a document is not YAML, or names no kind or name.
pub(crate) fn parse_manifests(file: &str, text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let fail = |why: String| ManifestError {
        file: file.to_owned(),
        why,
    };
    let documents: Vec<serde_json::Value> = serde_yaml::from_multiple(text).map_err(|error| fail(error.to_string()))?;
    let mut manifests = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        if document.is_null() {
            continue;
        }
        let object: DynamicObject = serde_json::from_value(document)
            .map_err(|error| fail(format!("document {}: not a Kubernetes object: {error}", index + 1)))?;
        if object.types.is_none() || object.metadata.name.is_none() {
            return Err(fail(format!(
                "document {}: apiVersion, kind or metadata.name is missing",
                index + 1
            )));
        }
        manifests.push(Manifest { object });
    }
    Ok(manifests)
}

impl Manifest {
    /// Is it this object?
    pub(crate) fn is(&self, kind: &str, name: &str) -> bool {
        self.object.types.as_ref().is_some_and(|types| types.kind == kind)
            && self.object.metadata.name.as_deref() == Some(name)
    }

    /// Is it this object? One without a namespace goes to the target's.
    pub(crate) fn is_in(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let own = self.object.metadata.namespace.as_deref();
        self.is(kind, name) && own.is_none_or(|own| own == namespace)
    }

    /// Applies a JSON merge patch (RFC 7386).
    ///
    /// # Errors
    /// When the result is no Kubernetes object any more.
    pub(crate) fn merge(&mut self, patch: &serde_json::Value) -> Result<(), String> {
        let mut document = serde_json::to_value(&self.object).map_err(|error| error.to_string())?;
        json_patch::merge(&mut document, patch);
        self.object = serde_json::from_value(document).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// `Kind namespace/name` for people.
    pub(crate) fn title(&self) -> String {
        let kind = self.object.types.as_ref().map_or("", |types| types.kind.as_str());
        let name = self.object.metadata.name.as_deref().unwrap_or_default();
        match &self.object.metadata.namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        }
    }

    async fn resource(&self, cluster: &Cluster) -> Result<(ApiResource, Scope), ClusterError> {
        let types = self.object.types.clone().unwrap_or_default();
        let attempted = format!("find the kind {} {} on the cluster", types.api_version, types.kind);
        let gvk = GroupVersionKind::try_from(&types).map_err(|error| ClusterError {
            attempted: attempted.clone(),
            failed: Failed::Rejected(400),
            why: error.to_string(),
        })?;
        // A CRD that was just created is served a moment later.
        let mut last = None;
        for _ in 0..20 {
            match cluster
                .call(attempted.clone(), pinned_kind(&cluster.client(), &gvk))
                .await
            {
                Ok((resource, capabilities)) => return Ok((resource, capabilities.scope)),
                Err(error) if matches!(error.failed, Failed::NotFound | Failed::Other) => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(last.unwrap_or_else(|| ClusterError::timed_out(attempted, Duration::from_secs(2))))
    }

    fn api(
        &self,
        cluster: &Cluster,
        resource: &ApiResource,
        scope: &Scope,
        default_namespace: &str,
    ) -> Api<DynamicObject> {
        match scope {
            Scope::Cluster => Api::all_with(cluster.client(), resource),
            Scope::Namespaced => {
                let namespace = self.object.metadata.namespace.as_deref().unwrap_or(default_namespace);
                Api::namespaced_with(cluster.client(), namespace, resource)
            }
        }
    }

    /// Creates the object unless it is there already. `arm` is called with the way back before the create call, and its
    /// refusal stops everything. Returns whether it was created.
    ///
    /// # Errors
    /// When a call fails, or `arm` refuses.
    pub(crate) async fn create<E: From<ClusterError>>(
        &self,
        cluster: &Cluster,
        default_namespace: &str,
        run: &str,
        experiment: &str,
        arm: impl FnOnce(Undo) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (resource, scope) = self.resource(cluster).await?;
        let api = self.api(cluster, &resource, &scope, default_namespace);
        let name = self.object.metadata.name.clone().unwrap_or_default();
        let title = self.title();
        if cluster
            .call_opt(format!("look for {title}"), api.get(&name))
            .await?
            .is_some()
        {
            return Ok(false);
        }
        let mut object = self.object.clone();
        let labels = object.metadata.labels.get_or_insert_default();
        for (key, value) in [
            (MANAGED_BY_LABEL, MANAGED_BY_VALUE),
            (RUN_LABEL, run),
            (EXPERIMENT_LABEL, experiment),
            (PURPOSE_LABEL, "setup"),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        let namespace = matches!(scope, Scope::Namespaced).then(|| {
            self.object
                .metadata
                .namespace
                .clone()
                .unwrap_or_else(|| default_namespace.to_owned())
        });
        arm(Undo::DeleteObject {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
            plural: resource.plural.clone(),
            namespace,
            name: name.clone(),
        })?;
        match cluster
            .call(format!("create {title}"), api.create(&PostParams::default(), &object))
            .await
        {
            Ok(_created) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}
