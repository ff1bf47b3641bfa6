//! Server-side apply and managed fields.

use serde_json::Value;

use super::registry::ResourceType;
use super::status::ApiError;

/// Merges an applied configuration into the present object, or creates it.
pub(crate) fn apply(
    existing: Option<&Value>,
    applied: &Value,
    _manager: &str,
    _force: bool,
    _resource: &ResourceType,
) -> Result<Value, ApiError> {
    let mut merged = existing.cloned().unwrap_or_else(|| serde_json::json!({}));
    super::patch::strategic_merge(&mut merged, applied)?;
    Ok(merged)
}

/// Notes in `metadata.managedFields` what a create, update or patch by this manager changed.
pub(crate) fn track_update(
    _existing: Option<&Value>,
    _updated: &mut Value,
    _manager: &str,
    _subresource: Option<&str>,
    _resource: &ResourceType,
) {
}
