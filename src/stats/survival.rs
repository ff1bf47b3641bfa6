//! Times that may not have ended: Kaplan-Meier.
//!
//! Sources: Kaplan & Meier 1958; Greenwood 1926 for the variance; Kalbfleisch & Prentice for the log-log limits.

use super::error::{Undefined, not_negative, share};
use super::special::{float, normal_quantile};

/// One trial: how long, and whether it ended (recovered) or was only watched that long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// Duration, in any unit.
    pub time: f64,
    /// Recovered then; otherwise it had not when it was last looked at (timed out, or stopped by a condition).
    pub recovered: bool,
}

/// A step of the survival function, at a time at which something recovered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The time.
    pub time: f64,
    /// Trials not yet recovered just before it.
    pub at_risk: u64,
    /// Trials that recovered at it.
    pub events: u64,
    /// Share not recovered after it.
    pub survival: f64,
    /// Greenwood's standard error of that share; none once nothing is left.
    pub standard_error: Option<f64>,
    /// Log-log limits of that share; none once nothing is left.
    pub limits: Option<(f64, f64)>,
}

/// The survival function of recovery times.
#[derive(Debug, Clone, PartialEq)]
pub struct Survival {
    /// Its steps, in the order of time.
    pub steps: Vec<Step>,
}

/// The product-limit estimate with Greenwood's error and log-log limits. Of equal times recoveries come first, then censorings.
///
/// # Errors
/// [`Undefined`] without trials, with a time that is negative or not finite, or with a confidence not strictly between 0 and 1.
pub fn kaplan_meier(times: &[Time], confidence: f64) -> Result<Survival, Undefined> {
    if times.is_empty() {
        return Err(Undefined::Empty { what: "trial" });
    }
    let z = normal_quantile(1.0 - (1.0 - share("confidence", confidence)?) / 2.0);
    for time in times {
        not_negative("a time", time.time)?;
    }
    let mut times = times.to_vec();
    times.sort_by(|a, b| a.time.total_cmp(&b.time).then(b.recovered.cmp(&a.recovered)));
    let mut at_risk = times.len() as u64;
    let (mut survival, mut variance) = (1.0, 0.0);
    let mut steps = Vec::new();
    for group in times.chunk_by(|a, b| a.time.total_cmp(&b.time).is_eq()) {
        let events = group.iter().filter(|time| time.recovered).count() as u64;
        if let Some(first) = group.first().filter(|_| events > 0) {
            let (left, all) = (float(at_risk - events), float(at_risk));
            survival *= 1.0 - float(events) / all;
            variance += float(events) / (all * left);
            let known = at_risk > events;
            if !known {
                survival = 0.0;
            }
            let width = z * variance.sqrt() / f64::ln(survival);
            steps.push(Step {
                time: first.time,
                at_risk,
                events,
                survival,
                standard_error: known.then(|| survival * variance.sqrt()),
                limits: known.then(|| (survival.powf((-width).exp()), survival.powf(width.exp()))),
            });
        }
        at_risk -= group.len() as u64;
    }
    Ok(Survival { steps })
}

impl Survival {
    /// The `share`-quantile: the first time by which at least that share had recovered. None when it was not reached: print
    /// "> time-out", never the time-out itself.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        // A share that is reached but for rounding is reached: 1 - 1/2 of a product of twelve quotients is not always 1/2.
        let wanted = 1.0 - share + 1e-12;
        self.steps
            .iter()
            .find(|step| share > 0.0 && share <= 1.0 && step.survival <= wanted)
            .map(|step| step.time)
    }

    /// Mean time up to `horizon`: the area under the survival function (restricted mean). Past the last trial that was watched the
    /// function stays where it was.
    ///
    /// # Errors
    /// [`Undefined`] when the horizon is negative or not finite.
    pub fn restricted_mean(&self, horizon: f64) -> Result<f64, Undefined> {
        let horizon = not_negative("the horizon", horizon)?;
        let (mut area, mut from, mut height) = (0.0, 0.0, 1.0);
        for step in self.steps.iter().filter(|step| step.time < horizon) {
            area += height * (step.time - from);
            from = step.time;
            height = step.survival;
        }
        Ok(area + height * (horizon - from))
    }
}
