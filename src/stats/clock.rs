//! The offset of a foreign clock from exchanges with it: Cristian 1989 for one exchange, Marzullo 1984 for several.

use super::error::{Undefined, finite, not_negative};

/// One question to a foreign clock. All in the same unit; `sent` and `received` on the own clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exchange {
    /// When it was asked.
    pub sent: f64,
    /// When the answer was there.
    pub received: f64,
    /// What it said, cut down to its granularity.
    pub stamp: f64,
}

/// `foreign - own`, as the open interval that every exchange allows.
///
/// For stamp D cut to granularity g, asked at s and answered at r: the offset lies in `(D - r, D + g - s)`. `None` when the
/// intersection is empty: a clock stepped, and no stamp of it may be used.
///
/// # Errors
/// [`Undefined`] without exchanges, when a number is not finite, an answer came before its question, or the granularity is negative.
pub fn offset_bounds(exchanges: &[Exchange], granularity: f64) -> Result<Option<(f64, f64)>, Undefined> {
    let granularity = not_negative("the granularity", granularity)?;
    if exchanges.is_empty() {
        return Err(Undefined::Empty { what: "exchange" });
    }
    let (mut lower, mut upper) = (f64::NEG_INFINITY, f64::INFINITY);
    for exchange in exchanges {
        let sent = finite("when it was asked", exchange.sent)?;
        let received = finite("when it was answered", exchange.received)?;
        let stamp = finite("the stamp", exchange.stamp)?;
        if received < sent {
            return Err(Undefined::OutOfRange {
                what: "when it was answered",
                wanted: "not before it was asked",
                value: received,
            });
        }
        lower = lower.max(stamp - received);
        upper = upper.min(stamp + granularity - sent);
    }
    Ok((lower < upper).then_some((lower, upper)))
}
