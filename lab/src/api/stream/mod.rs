//! Logs, exec, attach and port-forward.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;

use crate::api::server::ApiServer;
use crate::api::status::ApiError;

/// Serves `pods/{name}/{log,exec,attach,portforward}`. `pod` is the pod's present state.
pub(crate) async fn handle(
    server: &Arc<ApiServer>,
    _pod: &Value,
    _subresource: &str,
    _request: Request,
) -> Result<Response, ApiError> {
    match server.backend() {
        None => Err(ApiError::unavailable(
            "no node agent is connected to this API server",
        )),
        Some(_) => Err(ApiError::method_not_allowed()),
    }
}
