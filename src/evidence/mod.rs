//! The event log: what happened, stamped, chained and flushed. Everything after it is a pure function of it.
//!
//! Pure: may depend on [`crate::model`], [`crate::fault`] and [`crate::experiment`]; writing bytes to disk is the touching half's work.
//!
//! Central type: [`Event`], wrapped into a [`Record`] per line. [`Chain`] gives the lines, [`fold_log`] (or
//! [`read_log`], which keeps them all) takes them back and proves that none was changed, and [`open_undos`] says what is still to be reverted after any prefix of a log.
//!
//! ```
//! use chaosrun::evidence::{Chain, Event, read_log};
//! use chaosrun::model::Mono;
//!
//! let mut chain = Chain::new();
//! let line = chain.line(Mono(5), "2026-01-01T00:00:00Z", &Event::ExperimentEnded { index: 0, error: None }).unwrap();
//! let log = read_log(line.as_bytes()).unwrap();
//! assert_eq!(log.records[0].hash, chain.head());
//! ```

mod chain;
mod event;
mod line;
mod numbers;
mod reader;
mod undo;

pub use chain::{Chain, FORMAT, Log, LogError, Record, Torn, genesis, read_log};
pub use event::{
    AckedBlock, AckedRange, ClusterInfo, Event, InstrumentMethod, InstrumentSummary, Outcome, Seen, SinkRead, SinkRun,
    Step, TrialEnd,
};
pub use numbers::{IdCounts, LONGEST_RANGE, MOST_BYTES, MOST_RUNS, Numbers, Packed, TooScattered};
pub use reader::{Checked, ReadError, fold_log};
pub use undo::{OpenUndos, open_undos};
