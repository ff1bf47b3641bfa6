//! When something happened, as well as it can be known; and how the cluster's revisions place a watch event.

use crate::model::{Bounded, Interval, Mono};
use serde::Serialize;

/// An instant known within bounds, with the best estimate inside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// The truth lies in here.
    pub within: Interval,
    /// Best estimate: the receipt for watched facts (a watch lags by milliseconds), the midpoint for sampled ones.
    pub best: Mono,
}

impl Moment {
    /// Somewhere within, nothing better known than the midpoint.
    #[must_use]
    pub fn midpoint(within: Interval) -> Self {
        Self {
            within,
            best: Mono(i64::midpoint(within.lower.0, within.upper.0)),
        }
    }

    /// Most likely at the end of the interval.
    #[must_use]
    pub fn late(within: Interval) -> Self {
        Self {
            within,
            best: within.upper,
        }
    }

    /// Seconds from `start` to this moment, clamped at zero.
    #[must_use]
    pub fn since(self, start: Self) -> Bounded {
        let bounds = self.within.since(start.within);
        let value = (self.best.seconds() - start.best.seconds()).clamp(bounds.lower, bounds.upper);
        Bounded { value, ..bounds }
    }

    /// The later of two moments, bound by bound.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        Self {
            within: Interval {
                lower: self.within.lower.max(other.within.lower),
                upper: self.within.upper.max(other.within.upper),
            },
            best: self.best.max(other.best),
        }
    }

    /// The earlier of two moments, bound by bound.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        Self {
            within: Interval {
                lower: self.within.lower.min(other.within.lower),
                upper: self.within.upper.min(other.within.upper),
            },
            best: self.best.min(other.best),
        }
    }

    /// The same moment, known not to be before `floor`.
    #[must_use]
    pub fn not_before(self, floor: Mono) -> Self {
        Self {
            within: Interval {
                lower: self.within.lower.max(floor),
                upper: self.within.upper.max(floor),
            },
            best: self.best.max(floor),
        }
    }
}

/// What is known of when a watch event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Receipt.
    pub(crate) at: Mono,
    /// Stated by the observer.
    pub(crate) not_before: Option<Mono>,
    /// Revision of exactly this change; `None` when the event merges several changes (a list) or carries an older revision.
    pub(crate) revision: Option<u64>,
    /// Receipt of the event before it in the same stream. Used only where no revision tick bounds it: a watch delivers in
    /// order, so this is right but for the delivery delay.
    pub(crate) after: Option<Mono>,
}

/// Consistent reads of the cluster's resource version: the clock that bounds watch events from below.
#[derive(Debug, Clone, Default)]
pub(crate) struct Revisions {
    /// `(revision, sent, received)`, ascending by revision.
    ticks: Vec<(u64, Mono, Mono)>,
}

impl Revisions {
    pub(crate) fn add(&mut self, sent: Mono, received: Mono, revision: u64) {
        let place = self
            .ticks
            .partition_point(|(known, known_sent, _)| (*known, *known_sent) <= (revision, sent));
        self.ticks.insert(place, (revision, sent, received));
    }

    pub(crate) fn place(&self, receipt: Receipt) -> Moment {
        let mut upper = receipt.at;
        let mut lower = None;
        if let Some(revision) = receipt.revision {
            let split = self.ticks.partition_point(|(known, ..)| *known < revision);
            let (before, from) = self.ticks.split_at(split);
            // Revisions only grow, so the neighbours on both sides are the tightest bounds.
            lower = before.last().map(|(_, sent, _)| *sent);
            if let Some((.., received)) = from.first() {
                upper = upper.min(*received);
            }
        }
        let lower = lower
            .or(receipt.after)
            .max(receipt.not_before)
            .unwrap_or(upper)
            .min(upper);
        Moment::late(Interval { lower, upper })
    }
}
