//! `OpenAPI` documents.

use std::sync::Arc;

use super::server::ApiServer;

/// `/openapi/v2` and `/openapi/v3`.
pub(crate) fn router() -> axum::Router<Arc<ApiServer>> {
    axum::Router::new()
}
