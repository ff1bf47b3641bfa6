//! How far the API server's clock is off, from the `Date` of the answers that come anyway: no request is made for it.
//!
//! A `Date` is cut to whole seconds (RFC 9110, 6.6.1), so one answer bounds the offset to a second and a round trip; many, at
//! different places in the second, to little more than a round trip (measurement.md 2.3). Where a proxy stands before the API
//! server, it is the proxy's clock.

use crate::stats::clock::{Exchange, offset_bounds};
use std::sync::{Arc, Mutex, PoisonError};

/// So many exchanges are kept: the ones that bound the offset best.
const KEPT: usize = 2;

/// Bounds of `API server's clock - runner's wall clock`, in milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerClock {
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

impl ServerClock {
    /// Takes an answer in: when the question was sent, when the answer was there (milliseconds since the epoch), and its `Date`.
    pub(super) fn add(&self, sent: f64, received: f64, headers: &http::HeaderMap) {
        let stamp = headers
            .get(http::header::DATE)
            .and_then(|date| date.to_str().ok())
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
            .map(|date| milliseconds(date.timestamp()));
        let Some(stamp) = stamp.filter(|_| received >= sent) else {
            return;
        };
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        exchanges.push(Exchange { sent, received, stamp });
        if exchanges.len() > KEPT {
            // The bounds are the largest lower and the smallest upper end: whoever gives neither can go.
            let lowest = best(&exchanges, |exchange| exchange.stamp - exchange.received);
            let highest = best(&exchanges, |exchange| exchange.sent - exchange.stamp);
            *exchanges = lowest.into_iter().chain(highest).collect();
        }
    }

    /// The bounds so far, and a fresh start: a clock that steps later must not contradict what was true before. None without an
    /// answer, or when it stepped meanwhile.
    pub(crate) fn take(&self) -> Option<(f64, f64)> {
        let exchanges = std::mem::take(&mut *self.exchanges.lock().unwrap_or_else(PoisonError::into_inner));
        offset_bounds(&exchanges, 1000.0).ok().flatten()
    }
}

fn best(exchanges: &[Exchange], of: fn(&Exchange) -> f64) -> Option<Exchange> {
    exchanges.iter().copied().max_by(|a, b| of(a).total_cmp(&of(b)))
}

/// Milliseconds since the epoch, with fraction.
#[expect(clippy::cast_precision_loss, reason = "microseconds since the epoch stay below 2^53")]
pub(super) fn milliseconds(wall: jiff::Timestamp) -> f64 {
    wall.as_microsecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(date: &str) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::DATE, date.parse().unwrap());
        headers
    }

    #[test]
    fn answers_around_the_edge_of_a_second_bound_the_offset_to_a_round_trip() {
        let clock = ServerClock::default();
        // The server is 2 s ahead. 1767225600000 is 2026-01-01T00:00:00Z.
        let base = 1_767_225_600_000.0;
        for (sent, date) in [
            (100.0, "Thu, 01 Jan 2026 00:00:02 GMT"),
            (500.0, "Thu, 01 Jan 2026 00:00:02 GMT"),
            (980.0, "Thu, 01 Jan 2026 00:00:02 GMT"),
            (1001.0, "Thu, 01 Jan 2026 00:00:03 GMT"),
            (1500.0, "Thu, 01 Jan 2026 00:00:03 GMT"),
        ] {
            clock.add(base + sent, base + sent + 10.0, &answer(date));
        }
        let (lower, upper) = clock.take().unwrap();
        assert!(
            lower <= 2000.0 && upper >= 2000.0 && upper - lower < 40.0,
            "{lower} {upper}"
        );
        assert_eq!(clock.take(), None, "a fresh start");
    }

    #[test]
    fn a_clock_that_stepped_has_no_offset() {
        let clock = ServerClock::default();
        let base = 1_767_225_600_000.0;
        clock.add(base, base + 10.0, &answer("Thu, 01 Jan 2026 00:00:00 GMT"));
        clock.add(base + 20.0, base + 30.0, &answer("Thu, 01 Jan 2026 00:00:09 GMT"));
        assert_eq!(clock.take(), None);
    }

    #[test]
    fn an_answer_without_a_date_says_nothing() {
        let clock = ServerClock::default();
        clock.add(0.0, 1.0, &http::HeaderMap::new());
        clock.add(0.0, 1.0, &answer("yesterday"));
        assert_eq!(clock.take(), None);
    }
}
