//! Runs experiments: baseline -> arm -> inject -> observe -> revert -> settle, per trial. Writes events and never a report.
//!
//! May depend on the pure half (but not `report`), `world`, `cluster`, `prometheus`, `ledger`, `observe` and `inject`.
//! Contract: nothing is fired that is not on disk first; whatever way the body of an experiment ends (value, error, panic,
//! signal), everything armed and still open in the log is reverted before the run ends.

mod error;
mod experiment;
mod guard;
mod lock;
mod preflight;
mod run;
mod shots;
mod trial;
mod wait;

pub(crate) use error::EngineError;
pub(crate) use preflight::{needed_permissions, needed_setup, uses_prometheus};
pub(crate) use run::{Loaded, RunOutcome, RunRequest, run};
pub(crate) use trial::snapshot_candidates;
