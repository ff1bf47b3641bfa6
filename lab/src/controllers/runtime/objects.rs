//! Typed writes to the API server that come back only when the cache has seen them.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Cache, Key, ReconcileError};

/// In process an answer takes a millisecond; an API server that needs this long hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A namespaced kind of k8s-openapi.
pub(crate) trait Namespaced:
    Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The API server as controllers use it.
#[derive(Clone)]
pub(crate) struct Objects {
    client: kube::Client,
}

impl Objects {
    /// Talks through `client`.
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The API of one kind in one namespace.
    pub(crate) fn api<K: Namespaced>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates an object and waits until the cache has it.
    pub(crate) async fn create<K: Namespaced>(&self, cache: &Cache<K>, object: &K) -> Result<K, ReconcileError> {
        let created = self.create_unseen(object).await?;
        cache.caught_up_to(created.resource_version().as_deref()).await;
        Ok(created)
    }

    /// Creates an object of a kind that has no cache.
    pub(crate) async fn create_unseen<K: Namespaced>(&self, object: &K) -> Result<K, ReconcileError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        call::<K, K>("create", named(object), api.create(&PostParams::default(), object)).await
    }

    /// Replaces an object; refused when somebody changed it since it was read.
    pub(crate) async fn replace<K: Namespaced>(&self, cache: &Cache<K>, object: &K) -> Result<K, ReconcileError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let (name, parameters) = (object.name_any(), PostParams::default());
        let request = api.replace(&name, &parameters, object);
        let replaced = call::<K, K>("update", named(object), request).await?;
        cache.caught_up_to(replaced.resource_version().as_deref()).await;
        Ok(replaced)
    }

    /// Replaces the status of an object; refused when somebody changed it since it was read.
    pub(crate) async fn replace_status<K: Namespaced>(
        &self,
        cache: &Cache<K>,
        object: &K,
    ) -> Result<K, ReconcileError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let (name, parameters) = (object.name_any(), PostParams::default());
        let request = api.replace_status(&name, &parameters, object);
        let replaced = call::<K, K>("update the status of", named(object), request).await?;
        cache.caught_up_to(replaced.resource_version().as_deref()).await;
        Ok(replaced)
    }

    /// Merge patch; `patch` may name a UID or resource version as a condition.
    pub(crate) async fn patch<K: Namespaced>(
        &self,
        cache: &Cache<K>,
        object: &K,
        patch: &serde_json::Value,
    ) -> Result<K, ReconcileError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let name = object.name_any();
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        let patched = call::<K, K>("patch", named(object), api.patch(&name, &params, &patch)).await?;
        cache.caught_up_to(patched.resource_version().as_deref()).await;
        Ok(patched)
    }

    /// Merge patch of the status.
    pub(crate) async fn patch_status<K: Namespaced>(
        &self,
        cache: &Cache<K>,
        object: &K,
        patch: &serde_json::Value,
    ) -> Result<K, ReconcileError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let name = object.name_any();
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        let patched = call::<K, K>(
            "patch the status of",
            named(object),
            api.patch_status(&name, &params, &patch),
        )
        .await?;
        cache.caught_up_to(patched.resource_version().as_deref()).await;
        Ok(patched)
    }

    /// Deletes this very object (by UID) in the background way and waits until the cache knows. Gone is fine.
    pub(crate) async fn delete<K: Namespaced>(&self, cache: &Cache<K>, object: &K) -> Result<(), ReconcileError> {
        self.delete_with(cache, object, None).await
    }

    /// As [`Objects::delete`], with a grace period of its own.
    pub(crate) async fn delete_with<K: Namespaced>(
        &self,
        cache: &Cache<K>,
        object: &K,
        grace_period_seconds: Option<u32>,
    ) -> Result<(), ReconcileError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let name = object.name_any();
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            propagation_policy: Some(PropagationPolicy::Background),
            grace_period_seconds,
            ..DeleteParams::default()
        };
        match call::<K, _>("delete", named(object), api.delete(&name, &params)).await {
            Ok(_) => {}
            // Gone, or another object has taken the name: either way this one is deleted.
            Err(error) if error.is_race() => return Ok(()),
            Err(error) => return Err(error),
        }
        cache.saw_deletion_of(object).await;
        Ok(())
    }
}

fn named<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    let name = meta
        .name
        .as_deref()
        .or(meta.generate_name.as_deref())
        .unwrap_or_default();
    Key::new(meta.namespace.clone().unwrap_or_default(), name).to_string()
}

/// A request with a time limit whose error says what was asked.
pub(crate) async fn call<K: Resource<DynamicType = ()>, T>(
    verb: &'static str,
    object: String,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ReconcileError> {
    let kind = K::kind(&()).into_owned();
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ReconcileError::Api {
            verb,
            kind,
            object,
            source: Box::new(source),
        }),
        Err(_) => Err(ReconcileError::Timeout {
            verb,
            kind,
            object,
            seconds: REQUEST_TIMEOUT.as_secs(),
        }),
    }
}
