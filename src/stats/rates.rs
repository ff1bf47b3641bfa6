//! Bounds of a success rate: recovered, met the limit, lost nothing.
//!
//! One-sided Clopper-Pearson for a verdict, Wilson for display, Jeffreys as the less conservative option (Brown, Cai & DasGupta
//! 2001).

use super::error::{Undefined, part_of, share};
use super::special::{beta_quantile, float, normal_quantile};

/// An interval of a rate, both ends between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateInterval {
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// One-sided lower bound of a rate (Clopper & Pearson 1934): use this one for a pass. Zero without a success.
///
/// # Errors
/// [`Undefined`] without trials, with more successes than trials, or when the confidence is not strictly between 0 and 1.
pub fn lower_bound(successes: u64, trials: u64, confidence: f64) -> Result<f64, Undefined> {
    part_of(successes, trials)?;
    let alpha = 1.0 - share("confidence", confidence)?;
    Ok(lower_end(successes, trials, alpha))
}

/// One-sided upper bound of a rate (Clopper & Pearson 1934): use this one for a fail. One without a failure.
///
/// # Errors
/// As [`lower_bound`].
pub fn upper_bound(successes: u64, trials: u64, confidence: f64) -> Result<f64, Undefined> {
    part_of(successes, trials)?;
    let alpha = 1.0 - share("confidence", confidence)?;
    Ok(1.0 - lower_end(trials - successes, trials, alpha))
}

/// `B(alpha; x, n - x + 1)`, in closed form where every trial is a success.
fn lower_end(successes: u64, trials: u64, alpha: f64) -> f64 {
    if successes == 0 {
        return 0.0;
    }
    if successes == trials {
        return (alpha.ln() / float(trials)).exp();
    }
    beta_quantile(alpha, float(successes), float(trials - successes + 1))
}

/// Two-sided interval of Clopper & Pearson 1934.
///
/// # Errors
/// As [`lower_bound`].
pub fn clopper_pearson(successes: u64, trials: u64, confidence: f64) -> Result<RateInterval, Undefined> {
    part_of(successes, trials)?;
    let half = (1.0 - share("confidence", confidence)?) / 2.0;
    Ok(RateInterval {
        lower: lower_end(successes, trials, half),
        upper: 1.0 - lower_end(trials - successes, trials, half),
    })
}

/// Two-sided score interval (Wilson 1927), without a correction for continuity.
///
/// # Errors
/// As [`lower_bound`].
pub fn wilson(successes: u64, trials: u64, confidence: f64) -> Result<RateInterval, Undefined> {
    part_of(successes, trials)?;
    let z = normal_quantile(1.0 - (1.0 - share("confidence", confidence)?) / 2.0);
    let n = float(trials);
    let rate = float(successes) / n;
    let square = z * z / n;
    let centre = (rate + square / 2.0) / (1.0 + square);
    let half = z * (rate * (1.0 - rate) / n + square / (4.0 * n)).sqrt() / (1.0 + square);
    Ok(RateInterval {
        lower: if successes == 0 { 0.0 } else { (centre - half).max(0.0) },
        upper: if successes == trials {
            1.0
        } else {
            (centre + half).min(1.0)
        },
    })
}

/// Two-sided interval from Jeffreys' prior, `Beta(x + 1/2, n - x + 1/2)`; pinned to 0 and 1 where nothing or everything succeeded.
///
/// # Errors
/// As [`lower_bound`].
pub fn jeffreys(successes: u64, trials: u64, confidence: f64) -> Result<RateInterval, Undefined> {
    part_of(successes, trials)?;
    let half = (1.0 - share("confidence", confidence)?) / 2.0;
    let (good, bad) = (float(successes) + 0.5, float(trials - successes) + 0.5);
    Ok(RateInterval {
        lower: if successes == 0 {
            0.0
        } else {
            beta_quantile(half, good, bad)
        },
        upper: if successes == trials {
            1.0
        } else {
            1.0 - beta_quantile(half, bad, good)
        },
    })
}

/// Upper bound of the probability of an event (a loss, say) after `events` in `trials`: without any, `1 - (1 - c)^(1/n)`, about
/// `3/n` at 95 % (Hanley & Lippman-Hand 1983); with some, Clopper-Pearson.
///
/// # Errors
/// As [`lower_bound`].
pub fn event_upper_bound(events: u64, trials: u64, confidence: f64) -> Result<f64, Undefined> {
    part_of(events, trials)?;
    let alpha = 1.0 - share("confidence", confidence)?;
    if events == 0 {
        return Ok(-(alpha.ln() / float(trials)).exp_m1());
    }
    upper_bound(events, trials, confidence)
}
