//! The seam for what other clusters do with admission webhooks: changes and refusals by somebody who knows a kind.
//!
//! Depends on causes and resource types only; the server knows none of those who register. Central type: [`Admission`].
//! Contract: called as webhooks are, for creations and updates of the main object and never for deletions or a status
//! subresource; `mutate` before defaults and schema, `validate` after them.

use serde_json::Value;

use super::auth::User;
use super::registry::ResourceType;
use super::server::{ApiServer, Operation};
use super::status::ApiError;

/// What a write is about.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionRequest<'a> {
    /// The resource in the path.
    pub resource: &'a ResourceType,
    /// What is done.
    pub operation: Operation,
    /// The stored state; absent on creation.
    pub old: Option<&'a Value>,
    /// Who asks.
    pub(crate) user: &'a User,
}

impl AdmissionRequest<'_> {
    /// Name of who asks.
    #[must_use]
    pub fn user_name(&self) -> &str {
        &self.user.name
    }

    /// Whether who asks may create objects of a resource (group, plural) in a namespace, as a review would answer.
    #[must_use]
    pub fn user_may_create(&self, server: &ApiServer, resource: (&str, &str), namespace: &str) -> bool {
        server.may_create(self.user, resource, namespace)
    }
}

/// Changes and refuses objects before they are stored. Must not write to the store.
pub trait Admission: Send + Sync {
    /// As a mutating webhook: the object as the client sent it.
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), ApiError>;

    /// As a validating webhook: the object as it would be stored.
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError>;
}
