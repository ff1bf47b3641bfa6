//! A timeline to measured values, each with its error bar or the reason why there is none.
//!
//! Pure: may depend on [`crate::model`], [`crate::fault`], [`crate::experiment`], [`crate::evidence`] and [`crate::timeline`].
//! Central type: [`TrialMeasures`], made by [`trial`]. Contract: a number that is not known is a [`WhyNot`](crate::model::WhyNot),
//! never a zero; no limit is looked at here.
//!
//! The caught-up instant (backlog back to its baseline) needs a lag series and is left out until there is one.

mod availability;
mod clock;
mod control;
mod kept;
mod ledger;
mod ranges;
mod replacement;
mod trial;

pub use control::{ControlMeasures, ControlOutage, control};
pub use ledger::LedgerCounts;
pub use trial::{AssertionMeasure, Phase, TrialMeasures, trial};
