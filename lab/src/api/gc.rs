//! Garbage collection by owner references.

use std::sync::Weak;

use tokio_util::sync::CancellationToken;

use super::server::ApiServer;

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

pub(crate) async fn run(_server: Weak<ApiServer>, stop: CancellationToken) {
    stop.cancelled().await;
}
