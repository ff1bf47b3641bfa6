//! Statistics for few trials: what may be claimed of a distribution, a rate or a difference, and with which confidence.
//!
//! Pure: may depend on [`crate::model`] at most. Central types: [`Observed`] (a value that may only be known within bounds, or
//! from below only) and [`Undefined`] (why there is no number). The unit is always the TRIAL: records or requests inside one
//! outage fail together, so a million of them are still one observation.
//!
//! # Contract
//! - No function panics, loops for ever or overflows, whatever it is given; inputs for which a value does not exist give
//!   [`Undefined`], and where a bound does not exist at all the result says so with `None`, never with the largest value seen.
//! - Probabilities are accurate to about 1e-12 (binomial and beta tails) and 1e-14 (normal), which tests compare with scipy.
//! - Bounds are exact (order statistics, Clopper-Pearson, exact null distributions) where the sample is small, and conservative:
//!   a level counts as reached only when it is reached, but for rounding in the last digits ([`special::reaches`]).
//! - Randomness is not needed: the bootstrap here is the exact one.

pub mod availability;
pub mod bootstrap;
pub mod clock;
pub mod observation;
pub mod quantile;
pub mod rates;
pub mod records;
pub mod sequential;
pub mod special;
pub mod survival;
pub mod trend;
pub mod two_sample;

mod calibration;
mod error;

pub use calibration::{Calibrated, Known, calibrated};
pub use error::Undefined;
pub use quantile::Observed;
