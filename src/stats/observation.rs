//! What an instrument can see: errors of polling, of whole-second stamps and of rate windows, and what an injection phase finds.
//! Formulas and derivations: measurement.md 2.2 and 3.6.

use super::error::{Undefined, closed_share, not_negative, positive, some};
use super::special::float;

/// Errors of who takes the first sample that differs as the instant, with a period p: every instant is late by U(0, p), and a duration
/// between two of them is off by a triangular error on (-p, p). Seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollingError {
    /// Mean lateness of an instant, p/2.
    pub instant_mean_bias: f64,
    /// Standard deviation of that, p/sqrt(12).
    pub instant_sd: f64,
    /// Largest lateness, p.
    pub instant_max: f64,
    /// Mean error of a duration, 0.
    pub duration_mean_bias: f64,
    /// Standard deviation of that, p/sqrt(6).
    pub duration_sd: f64,
    /// Smallest error, -p.
    pub duration_min: f64,
    /// Largest error, p.
    pub duration_max: f64,
    /// 95 % of the errors are smaller than this: p (1 - sqrt(0.05)).
    pub duration_abs_p95: f64,
}

/// Errors of polling every `period` seconds.
///
/// # Errors
/// [`Undefined`] when the period is not above 0.
pub fn polling_error(period_seconds: f64) -> Result<PollingError, Undefined> {
    let p = positive("the period", period_seconds)?;
    Ok(PollingError {
        instant_mean_bias: p / 2.0,
        instant_sd: p / 12.0_f64.sqrt(),
        instant_max: p,
        duration_mean_bias: 0.0,
        duration_sd: p / 6.0_f64.sqrt(),
        duration_min: -p,
        duration_max: p,
        duration_abs_p95: p * (1.0 - 0.05_f64.sqrt()),
    })
}

/// The duration between two stamps that were cut to whole seconds: each instant lies in [t, t+1), so the difference lies strictly
/// between `d - 1` and `d + 1`. Lower and upper end, both open.
///
/// # Errors
/// [`Undefined`] when a stamp is not finite.
pub fn duration_from_truncated_seconds(start: f64, end: f64) -> Result<(f64, f64), Undefined> {
    let start = super::error::finite("the first stamp", start)?;
    let end = super::error::finite("the second stamp", end)?;
    Ok((end - start - 1.0, end - start + 1.0))
}

/// What `rate(..[window])` against a share f of the baseline does to a step outage. Seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateWindow {
    /// The impact shows this much late: (1 - f) w.
    pub impact_late: f64,
    /// The recovery shows this much late: f w.
    pub recovery_late: f64,
    /// So the duration is off by (2f - 1) w.
    pub duration_bias: f64,
    /// A shorter outage never crosses the threshold.
    pub longest_invisible_outage: f64,
}

/// Bias of timing by a rate window.
///
/// # Errors
/// [`Undefined`] when the window is not above 0 or the share not between 0 and 1.
pub fn rate_window(window_seconds: f64, threshold_share: f64) -> Result<RateWindow, Undefined> {
    let w = positive("the window", window_seconds)?;
    let f = closed_share("the threshold's share", threshold_share)?;
    Ok(RateWindow {
        impact_late: (1.0 - f) * w,
        recovery_late: f * w,
        duration_bias: (2.0 * f - 1.0) * w,
        longest_invisible_outage: (1.0 - f) * w,
    })
}

/// Age of the newest committed data when a fault comes at a random phase of the checkpoint period P, with commit delay c: `c + U(0, P)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DataAge {
    /// Best case, c.
    pub min: f64,
    /// Mean, c + P/2.
    pub mean: f64,
    /// 95th percentile, c + 0.95 P.
    pub p95: f64,
    /// Worst case, c + P.
    pub worst: f64,
    /// Share of phases in which the age is within the limit.
    pub share_within_limit: f64,
}

/// Data age at a uniform phase. Seconds.
///
/// # Errors
/// [`Undefined`] when the period is not above 0, or delay or limit is negative or not finite.
pub fn data_age(period_seconds: f64, delay_seconds: f64, limit_seconds: f64) -> Result<DataAge, Undefined> {
    let period = positive("the checkpoint period", period_seconds)?;
    let delay = not_negative("the commit delay", delay_seconds)?;
    let limit = not_negative("the limit", limit_seconds)?;
    Ok(DataAge {
        min: delay,
        mean: delay + period / 2.0,
        p95: delay + 0.95 * period,
        worst: delay + period,
        share_within_limit: ((limit - delay) / period).clamp(0.0, 1.0),
    })
}

/// How well n injection phases search the worst share of a period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhaseCoverage {
    /// Probability that at least one of n independent uniform phases hits it: `1 - (1 - share)^n`.
    pub hit_probability: f64,
    /// With one jittered phase per stratum the worst case is never further away than this share of the period: `1/n`.
    pub stratified_distance: f64,
}

/// Coverage of the worst `worst_share` of the phases by `trials` injections.
///
/// # Errors
/// [`Undefined`] without trials, or when the share is not between 0 and 1.
pub fn phase_coverage(trials: u64, worst_share: f64) -> Result<PhaseCoverage, Undefined> {
    let n = float(some("trial", trials)?);
    let share = closed_share("the worst share", worst_share)?;
    Ok(PhaseCoverage {
        hit_probability: -(n * (-share).ln_1p()).exp_m1(),
        stratified_distance: 1.0 / n,
    })
}

/// When a counter that stood still went up again: lower end (the last sample that was still flat) and upper end (the first sample that
/// was higher, and the duration of its scrape, within which the value was read). A counter that fell was reset by a restart; what it
/// counted since then is an increase. `None` when it never went up again.
///
/// `samples` are `(stamp, value)` in the order of their stamps; stamps and the duration are in seconds.
///
/// # Errors
/// [`Undefined`] when a number is not finite or the scrape's duration is negative.
pub fn counter_restored(samples: &[(f64, f64)], scrape_seconds: f64) -> Result<Option<(f64, f64)>, Undefined> {
    let scrape = not_negative("the duration of a scrape", scrape_seconds)?;
    for (stamp, value) in samples {
        super::error::finite("a stamp", *stamp)?;
        super::error::finite("a counter's value", *value)?;
    }
    let rises = |pair: &[(f64, f64)]| match pair {
        [(_, before), (_, after)] => after > before || (after < before && *after > 0.0),
        _ => false,
    };
    // Rises before it first stood still are the baseline.
    let still = samples.windows(2).position(|pair| !rises(pair)).unwrap_or_default();
    let restored = samples.windows(2).skip(still).find(|pair| rises(pair));
    Ok(match restored {
        Some([(before, _), (after, _)]) => Some((*before, after + scrape)),
        _ => None,
    })
}
