//! Availability arithmetic: what a share of good time leaves for recoveries.

use super::error::{Undefined, closed_share, not_negative, positive};
use super::special::floor;

const SECONDS_PER_DAY: f64 = 86_400.0;

/// Bad seconds that an availability allows: `(1 - slo) x period`.
///
/// # Errors
/// [`Undefined`] when the SLO is not between 0 and 1 or the period not above 0.
pub fn error_budget_seconds(slo: f64, period_days: f64) -> Result<f64, Undefined> {
    let slo = closed_share("the availability", slo)?;
    let period = positive("the period", period_days)?;
    Ok((1.0 - slo) * period * SECONDS_PER_DAY)
}

/// How many full outages of `recovery_seconds` fit into the budget.
///
/// # Errors
/// As [`error_budget_seconds`], and when the recovery takes no time at all.
pub fn recoveries_in_budget(slo: f64, period_days: f64, recovery_seconds: f64) -> Result<u64, Undefined> {
    let budget = error_budget_seconds(slo, period_days)?;
    let recovery = positive("the recovery time", recovery_seconds)?;
    floor(budget / recovery).ok_or(Undefined::NoValue {
        why: "more than can be counted",
    })
}

/// An outage: how long, and which share of the requests failed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    /// Seconds.
    pub seconds: f64,
    /// Share of requests that failed, 0 to 1.
    pub share: f64,
}

/// Bad seconds that outages used up: the sum of duration times share.
///
/// # Errors
/// [`Undefined`] when a duration is negative or a share not between 0 and 1.
pub fn consumed_seconds(outages: &[Outage]) -> Result<f64, Undefined> {
    outages.iter().try_fold(0.0, |sum, outage| {
        let seconds = not_negative("a duration", outage.seconds)?;
        Ok(sum + seconds * closed_share("a share", outage.share)?)
    })
}

/// `MTTF / (MTTF + MTTR)`.
///
/// # Errors
/// [`Undefined`] when one of them is negative or not finite, or both are zero.
pub fn from_means(mttf_seconds: f64, mttr_seconds: f64) -> Result<f64, Undefined> {
    let up = not_negative("MTTF", mttf_seconds)?;
    let down = not_negative("MTTR", mttr_seconds)?;
    if up + down <= 0.0 {
        return Err(Undefined::NoValue {
            why: "neither a time to failure nor a time to recovery",
        });
    }
    Ok(up / (up + down))
}

/// How long a backlog lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drain {
    /// Seconds from the end of the outage until the backlog is gone.
    pub drain_seconds: f64,
    /// Seconds from the begin of the outage until then.
    pub caught_up_seconds: f64,
}

/// Fluid model: an outage of D seconds at utilisation u is caught up after `D/(1 - u)`, of which `D u/(1 - u)` after its end.
///
/// # Errors
/// [`Undefined`] when the outage is negative, or the utilisation negative or not below 1 (it never catches up).
pub fn backlog_drain(outage_seconds: f64, utilisation: f64) -> Result<Drain, Undefined> {
    let outage = not_negative("the outage", outage_seconds)?;
    if !(0.0..1.0).contains(&utilisation) {
        return Err(Undefined::OutOfRange {
            what: "the utilisation",
            wanted: "from 0 to below 1, else it never catches up",
            value: utilisation,
        });
    }
    Ok(Drain {
        drain_seconds: outage * utilisation / (1.0 - utilisation),
        caught_up_seconds: outage / (1.0 - utilisation),
    })
}
