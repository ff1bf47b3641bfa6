//! Foreign stamps on the runner's monotonic clock, as intervals.

use crate::model::{Interval, Mono};
use crate::timeline::Timeline;

/// Places the stamps of one foreign clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForeignClock {
    /// `foreign - monotonic`, milliseconds.
    lower: f64,
    upper: f64,
}

impl ForeignClock {
    /// From everything the log says of a clock: its offset to the runner's wall clock, and that clock's relation to the monotonic
    /// one. The error is a sentence.
    pub(crate) fn of(timeline: &Timeline, clock: &str) -> Result<Self, String> {
        let (lower, upper) = timeline
            .clock_offset(clock)
            .ok_or_else(|| format!("the offset of the {clock}'s clock was never bounded"))?;
        if lower > upper {
            return Err(format!(
                "the {clock}'s clock stepped: its offset bounds contradict each other"
            ));
        }
        let (pair_lower, pair_upper) = timeline
            .wall_minus_mono()
            .ok_or_else(|| "the runner's wall clock was never paired with its monotonic one".to_owned())?;
        Ok(Self {
            lower: lower + pair_lower,
            upper: upper + pair_upper,
        })
    }

    /// When the foreign clock showed `stamp_ms` (a whole millisecond, cut off).
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds since the epoch stay far below 2^52"
    )]
    pub(crate) fn place(self, stamp_ms: i64) -> Interval {
        let stamp = stamp_ms as f64;
        Interval {
            lower: micros(stamp - self.upper),
            upper: micros(stamp + 1.0 - self.lower),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float cast saturates, which is what an unbounded clock means"
)]
fn micros(millis: f64) -> Mono {
    Mono((millis * 1000.0).round() as i64)
}
