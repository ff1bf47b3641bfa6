//! The calibration of the instrument: recoveries of known length, what was measured of them, and whether that keeps the limits.
//!
//! Pure; may depend on `model`, `stats` and `evidence`. Central type: [`Calibration`], which is the file `calibration.json`.
//! Contract: everything that it says in sum is computed from its rows, and every row says what it was computed from.

mod document;
mod limits;
mod table;

pub use document::{
    About, Calibration, From, Kind, Load, Method, MethodSummary, Null, Numbers, Recovery, SCHEMA, Seconds,
};
pub use limits::{COVERAGE_LIMIT, FEWEST, LimitReport, MEDIAN_LIMIT, P99_LIMIT};
pub use table::table;
