//! What every controller stands on: shared caches, a queue of keys without duplicates, and a worker that retries.
//!
//! May depend on `kube` and tokio only; knows no kind in particular. Central types: [`Cache`], [`Queue`] and the
//! trait [`Reconcile`].
//!
//! Contract: a change that the API server reports wakes the controller at once (no polling); a key is never worked on
//! twice at the same time; an error is retried with a growing pause; a controller that has written something waits
//! until its cache has seen it, so that it never acts on a picture older than its own last deed.

mod cache;
mod error;
mod objects;
mod queue;
mod worker;

pub(crate) use cache::{Cache, Change, Informer, informer};
pub(crate) use error::{Outcome, ReconcileError};
pub(crate) use objects::{Namespaced, Objects, call};
pub(crate) use queue::{Key, Queue};
pub(crate) use worker::{Reconcile, work};
