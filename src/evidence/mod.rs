//! The event log: what happened, stamped, chained and flushed. Everything after it is a pure function of it.
//!
//! Pure: may depend on [`crate::model`], [`crate::fault`] and [`crate::experiment`]; writing bytes to disk is the touching half's work.

mod event;

pub use event::{AckedRange, ClusterInfo, Event, Outcome, Seen, SinkRead, SinkRun, Step, TrialEnd};
