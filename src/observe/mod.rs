//! Turns the world into events: watches on pods and on the target's own object, sampled probes, the ledger's progress,
//! the cluster's revision clock.
//!
//! May depend on the pure half, `world`, `cluster`, `prometheus` and `ledger`. Contract: every observer writes facts with
//! both ends of the instant, keeps an open-loop schedule, and says so when it saw nothing.

mod checks;
mod facts;
mod observers;
mod pods;
mod probes;
mod resource;
mod revision;
mod target;
mod warnings;

pub(crate) use observers::{ObserveError, Observers, Wanted, all_probes};
pub(crate) use pods::{LivePod, PodIndex, list_members};
pub(crate) use revision::RevisionClock;
pub(crate) use target::{ResolvedTarget, own_kind, resolve};
pub(crate) use warnings::warnings;
