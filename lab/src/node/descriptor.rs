//! Waiting for descriptors that tokio has no type for: pidfds and terminals. Depends on tokio.

use std::os::fd::{AsFd, AsRawFd};

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime.
#[expect(
    deprecated,
    reason = "the replacement is an unsafe function, and this crate forbids unsafe code; the descriptors here are owned, so what it warns of cannot happen"
)]
pub(crate) fn watch<T: AsFd + AsRawFd>(descriptor: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::new(descriptor)
}
