//! The data ledger: numbered records in, the sink audited by its commit protocol.
//!
//! A plain path is read by small shell scripts inside a pod that mounts the volume (any POSIX sh, busybox included), so that
//! it works wherever exec works and nothing has to be installed; a URL is read from here: object stores and HTTP in `places`,
//! topics in `kafka`. Whatever is read comes as lines (`lines`) into an `AckLog` or a `Tally`, whose memory is bounded. May depend on the pure half, `world`, `cluster` and the pod
//! index of `observe`. Contract: what cannot be read is said to be unreadable; nothing is ever assumed to be there.

mod acked;
mod audit;
mod counter;
mod error;
#[cfg(feature = "kafka")]
mod kafka;
mod lines;
mod parse;
mod places;
mod pod;
mod sampler;
mod sink;
mod tally;
#[cfg(test)]
mod tests;

pub(crate) use audit::audit;
pub(crate) use counter::Counter;
pub(crate) use sampler::Sampler;
