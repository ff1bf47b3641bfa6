//! `pods/{name}/eviction`.

use std::sync::Arc;

use axum::response::Response;
use serde_json::Value;

use super::handlers::Target;
use super::server::ApiServer;
use super::status::ApiError;

pub(crate) fn evict(
    _server: &Arc<ApiServer>,
    _target: &Target,
    _body: &Value,
) -> Result<Response, ApiError> {
    Err(ApiError::method_not_allowed())
}
