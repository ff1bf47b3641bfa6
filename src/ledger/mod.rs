//! The data ledger: numbered records in, the sink audited by its commit protocol.
//!
//! Everything is read by small shell scripts inside a pod that mounts the volume (any POSIX sh, busybox included), so that
//! it works wherever exec works and nothing has to be installed. May depend on the pure half, `world`, `cluster` and the pod
//! index of `observe`. Contract: what cannot be read is said to be unreadable; nothing is ever assumed to be there.

mod audit;
mod counter;
mod parse;
mod sampler;

pub(crate) use audit::audit;
pub(crate) use counter::Counter;
pub(crate) use sampler::Sampler;
