//! A log to a [`Run`], and a run to bytes.
//!
//! Pure: may depend on everything of the pure half. Central type: [`Run`], which is `report.json` field by field (schema
//! `chaosrun.report/v1`) and what the table is drawn from. [`build`] makes it from nothing but the records of an event log, so that
//! the same log always gives the same report; [`Builder`] does so event by event, for logs of any length.
//!
//! Times in a trial are seconds after the fault took effect. Numbers are rounded to a millisecond, error bars outwards; verdicts
//! are made before rounding.

mod build;
mod check;
mod json;
mod many;
mod model;
mod table;
mod text;

pub use build::{Builder, build};
pub use check::{Difference, differences_of_json, differences_of_table};
pub use json::json;
pub use model::{
    ClaimReport, ClaimText, Cost, ExperimentReport, FaultReport, LedgerReport, MissingPhase, PhaseReport, RpoReport,
    Run, RunInfo, SCHEMA, Span, TrialReport, Value,
};
pub use table::table;
pub(crate) use text::wrap;
