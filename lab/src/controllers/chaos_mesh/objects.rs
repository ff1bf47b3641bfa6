//! Reads and writes of the objects of Chaos Mesh, as plain JSON through the API. Depends on `kube` and `kinds`.
//!
//! Central type: [`Objects`]. Contract: a change is read, change, replace-if-unchanged, again until no other writer was
//! faster, as upstream's controllers write; nothing is ever patched, so a lost status is lost.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams, Preconditions};
use serde_json::Value;

use super::kinds::Kind;
use super::worker::Key;

/// The webhooks' own limit; no request takes longer in one process.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectError {
    #[error("cannot {verb} {kind} {key}: {source}")]
    Api {
        verb: &'static str,
        kind: &'static str,
        key: Key,
        source: Box<kube::Error>,
    },
    #[error("cannot {verb} {kind} {key}: no answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        verb: &'static str,
        kind: &'static str,
        key: Key,
    },
    #[error("{kind} {key} cannot be written as JSON: {source}")]
    Shape {
        kind: &'static str,
        key: Key,
        source: serde_json::Error,
    },
}

impl ObjectError {
    /// HTTP status of the answer.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } | Self::Shape { .. } => None,
        }
    }
}

/// All objects of the kinds of Chaos Mesh.
#[derive(Clone)]
pub(super) struct Objects {
    client: Client,
}

impl Objects {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Every object of a kind.
    pub(super) fn all(&self, kind: Kind) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &kind.resource())
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    /// The present state; `None` when there is none.
    pub(super) async fn get(&self, kind: Kind, key: &Key) -> Result<Option<Value>, ObjectError> {
        let api = self.api(kind, &key.namespace);
        let found = call("get", kind, key, api.get_opt(&key.name)).await?;
        found.map(|object| value(kind, key, &object)).transpose()
    }

    /// Creates an object; `None` when the name is taken.
    pub(super) async fn create(&self, kind: Kind, key: &Key, object: &Value) -> Result<Option<Value>, ObjectError> {
        let object = dynamic(kind, key, object)?;
        let api = self.api(kind, &key.namespace);
        match call("create", kind, key, api.create(&PostParams::default(), &object)).await {
            Ok(created) => value(kind, key, &created).map(Some),
            Err(error) if error.code() == Some(409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes an object; `change` says whether it did. `None` when the object is gone.
    pub(super) async fn change(
        &self,
        kind: Kind,
        key: &Key,
        change: impl Fn(&mut Value) -> bool,
    ) -> Result<Option<Value>, ObjectError> {
        self.write(kind, key, change, false).await
    }

    /// As [`Objects::change`], through the status subresource of kinds that have it.
    pub(super) async fn change_status(
        &self,
        kind: Kind,
        key: &Key,
        change: impl Fn(&mut Value) -> bool,
    ) -> Result<Option<Value>, ObjectError> {
        self.write(kind, key, change, true).await
    }

    async fn write(
        &self,
        kind: Kind,
        key: &Key,
        change: impl Fn(&mut Value) -> bool,
        status: bool,
    ) -> Result<Option<Value>, ObjectError> {
        let api = self.api(kind, &key.namespace);
        loop {
            let Some(mut object) = self.get(kind, key).await? else {
                return Ok(None);
            };
            if !change(&mut object) {
                return Ok(Some(object));
            }
            let wanted = dynamic(kind, key, &object)?;
            let parameters = PostParams::default();
            let written = if status {
                call(
                    "update the status of",
                    kind,
                    key,
                    api.replace_status(&key.name, &parameters, &wanted),
                )
                .await
            } else {
                call("update", kind, key, api.replace(&key.name, &parameters, &wanted)).await
            };
            match written {
                Ok(written) => return value(kind, key, &written).map(Some),
                Err(error) if error.code() == Some(409) => {}
                Err(error) if error.code() == Some(404) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes this very object, by its UID. Gone is fine.
    pub(super) async fn delete(&self, kind: Kind, key: &Key, uid: &str) -> Result<(), ObjectError> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        let api = self.api(kind, &key.namespace);
        match call("delete", kind, key, api.delete(&key.name, &parameters)).await {
            Err(error) if !matches!(error.code(), Some(404 | 409)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Objects of a kind with these labels, in one namespace.
    pub(super) async fn list(&self, kind: Kind, namespace: &str, labels: &str) -> Result<Vec<Value>, ObjectError> {
        let key = Key::new(namespace, "");
        let api = self.api(kind, namespace);
        let listed = call("list", kind, &key, api.list(&ListParams::default().labels(labels))).await?;
        listed.items.iter().map(|object| value(kind, &key, object)).collect()
    }
}

fn value(kind: Kind, key: &Key, object: &DynamicObject) -> Result<Value, ObjectError> {
    serde_json::to_value(object).map_err(shape(kind, key))
}

fn dynamic(kind: Kind, key: &Key, object: &Value) -> Result<DynamicObject, ObjectError> {
    serde_json::from_value(object.clone()).map_err(shape(kind, key))
}

fn shape(kind: Kind, key: &Key) -> impl FnOnce(serde_json::Error) -> ObjectError {
    let (kind, key) = (kind.kind, key.clone());
    move |source| ObjectError::Shape { kind, key, source }
}

async fn call<T>(
    verb: &'static str,
    kind: Kind,
    key: &Key,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ObjectError> {
    let key = key.clone();
    let kind = kind.kind;
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ObjectError::Api {
            verb,
            kind,
            key,
            source: Box::new(source),
        }),
        Err(_) => Err(ObjectError::Timeout { verb, kind, key }),
    }
}
