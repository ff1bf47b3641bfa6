//! Measured values against limits: pass, fail or inconclusive, each with the sentence that says why.
//!
//! Pure: may depend on [`crate::model`], [`crate::experiment`], [`crate::evidence`], [`crate::stats`] and [`crate::measure`]. Central type:
//! [`ClaimVerdict`]. Contract (measurement.md 4.3): what spoils a trial makes its claims inconclusive whatever the numbers; a claim
//! passes only when the whole error bar is within the limit and fails only when the whole error bar is beyond it; silence is never
//! a pass; every verdict names its rule, interval and limit.
//!
//! With several trials each claim is judged in each trial, and the worst stands for all: its interval and sentence are shown. A claim
//! about all trials (a quantile, a share) is judged from what it came to in each, by rules that assume no distribution.

mod claims;
mod merge;
mod number;
mod over;
mod quantile;
mod rules;

pub use claims::{ClaimVerdict, LimitOf, judge};
pub use merge::{Ending, conclude, decided, experiment, trial};
pub use number::{count, decimals, fixed};
pub use over::{OverTrials, QuantileBound, Rule};
pub use quantile::{QuantileVerdict, quantile_verdict};
