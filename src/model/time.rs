//! Instants, intervals and measured values. `Mono` carries durations; wall-clock stamps are for people.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An instant on the runner's monotonic clock: microseconds since the run began. Never compared across runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub i64);

impl Mono {
    /// Seconds since the run began.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a run stay far below 2^52")]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The instant `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// The instant `duration` earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// Time from `earlier` to this instant, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// When something happened: not before `lower`, not after `upper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// Last instant at which it had surely not happened yet.
    pub lower: Mono,
    /// First instant at which it had surely happened.
    pub upper: Mono,
}

impl Interval {
    /// An instant known exactly.
    #[must_use]
    pub fn exact(at: Mono) -> Self {
        Self { lower: at, upper: at }
    }

    /// From two ends in any order.
    #[must_use]
    pub fn between(a: Mono, b: Mono) -> Self {
        Self {
            lower: a.min(b),
            upper: a.max(b),
        }
    }

    /// Seconds from `start` to `self`: `[self.lower - start.upper, self.upper - start.lower]`, clamped at zero.
    #[must_use]
    pub fn since(self, start: Self) -> Bounded {
        let lower = (self.lower.seconds() - start.upper.seconds()).max(0.0);
        let upper = (self.upper.seconds() - start.lower.seconds()).max(0.0);
        Bounded::new(lower, upper)
    }
}

/// A value with its error bar. `value` is the midpoint unless a measurement knows better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounded {
    /// Best estimate.
    pub value: f64,
    /// The truth is not below this.
    pub lower: f64,
    /// The truth is not above this.
    pub upper: f64,
}

impl Bounded {
    /// The midpoint of an interval.
    #[must_use]
    pub fn new(lower: f64, upper: f64) -> Self {
        Self {
            value: f64::midpoint(lower, upper),
            lower,
            upper,
        }
    }

    /// A value known exactly (a count, for example).
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self {
            value,
            lower: value,
            upper: value,
        }
    }
}

/// A measurement, or the reason why there is none. Absence always has a reason: silence must never become a pass.
pub type Measured<T> = Result<T, WhyNot>;

/// Why a value could not be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum WhyNot {
    /// The fault's effect was never observed.
    #[error("the fault was not proven: {why}")]
    FaultNotProven {
        /// What was missing.
        why: String,
    },
    /// The fault should have lasted, and did not.
    #[error("the fault did not last: {why}")]
    FaultCutShort {
        /// Which, and what ended it.
        why: String,
    },
    /// The steady state did not hold before the fault.
    #[error("the steady state did not hold before the fault: {why}")]
    BaselineNotSteady {
        /// Which probe, and what it said.
        why: String,
    },
    /// Service was not restored while it was watched. The time is a lower bound.
    #[error("not recovered within {observed_seconds:.1} s: {why}")]
    NotRecovered {
        /// How long it was observed after the fault took effect, in seconds.
        observed_seconds: f64,
        /// What was still bad at the end.
        why: String,
    },
    /// There is no usable sample for this value.
    #[error("no data: {why}")]
    NoData {
        /// What was looked for.
        why: String,
    },
    /// The instrument cannot resolve the limit, or was disturbed.
    #[error("not measurable: {why}")]
    NotMeasurable {
        /// What stands in the way.
        why: String,
    },
    /// The trial ended before the value was known.
    #[error("ended early: {why}")]
    EndedEarly {
        /// Signal, stop condition or error.
        why: String,
    },
}
