//! Two sets of runs: is recovery significantly slower, and by how much?
//!
//! Pure: may depend on the pure half. Central types: [`Saved`], what a run leaves behind for later comparisons (one per experiment; it
//! is also the format of the store of past runs), and [`Comparison`], made from two sets of them by [`compare`].
//!
//! # Contract
//! - A slow-down is claimed only when the one-sided lower bound of the shift is above the margin, no slow-down only when the upper
//!   bound is below it, and everything else is inconclusive (measurement.md 3.5). Both bounds take the ends of the trials' error bars
//!   that speak against the answer.
//! - A trial that never recovered ranks above every one that did. A trial that could not be judged is left out, by name.
//! - What is not the same experiment (another target, fault, injector, steady state; a stand-in against the real workload) is not
//!   compared. It is inconclusive, and the differences are named.

mod judge;
mod saved;
mod table;

pub use judge::{Compared, Comparison, Gates, Margin, Measure, More, Outcome, Rule, Side, compare};
pub use saved::{LeftOut, SCHEMA, Saved, SavedMeasure, SavedValue};
pub use table::table;
