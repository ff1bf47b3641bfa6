//! The runner's clock. Monotonic for every duration, wall for people and for placing foreign stamps.

use crate::model::Mono;
use std::time::Duration;

/// Reads time since the run began. Sits on tokio's clock, so that paused time works in tests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock whose zero is now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    pub(crate) fn start() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }

    /// Now, on the monotonic clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    pub(crate) fn now(self) -> Mono {
        Mono(i64::try_from(tokio::time::Instant::now().duration_since(self.origin).as_micros()).unwrap_or(i64::MAX))
    }

    /// The kernel's monotonic clock, in nanoseconds, at this clock's zero: for comparing with stamps of other processes on this
    /// machine. Right to a microsecond.
    pub(crate) fn origin_ns(self) -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_ns = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        now_ns - self.now().0 * 1000
    }

    /// Now, on the wall clock.
    pub(crate) fn wall(self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    /// Waits until an instant; returns at once when it has passed.
    pub(crate) async fn sleep_until(self, at: Mono) {
        let offset = Duration::from_micros(u64::try_from(at.0).unwrap_or(0));
        tokio::time::sleep_until(self.origin + offset).await;
    }
}
