//! From claims to trials, experiments and runs: the worst stands for all.

use super::claims::ClaimVerdict;
use crate::evidence::TrialEnd;
use crate::measure::TrialMeasures;
use crate::model::{Bounded, Verdict, WhyNot};

/// A trial's verdict: its worst claim, and aborted above all.
#[must_use]
pub fn trial(measures: &TrialMeasures, claims: &[ClaimVerdict]) -> Verdict {
    let end = match &measures.end {
        Some(TrialEnd::Completed) => Verdict::Pass,
        Some(TrialEnd::Aborted { .. }) => Verdict::Aborted,
        Some(TrialEnd::Refused { .. } | TrialEnd::Errored { .. }) | None => Verdict::Inconclusive,
    };
    Verdict::worst(claims.iter().map(|claim| claim.verdict).chain([end]))
}

/// The same claims in several trials: of each, the worst.
#[must_use]
pub fn merge(trials: &[Vec<ClaimVerdict>]) -> Vec<ClaimVerdict> {
    let Some(first) = trials.first() else {
        return Vec::new();
    };
    (0..first.len())
        .filter_map(|place| {
            trials
                .iter()
                .filter_map(|claims| claims.get(place))
                .reduce(|worst, next| if is_worse(next, worst) { next } else { worst })
                .cloned()
        })
        .collect()
}

fn is_worse(next: &ClaimVerdict, worst: &ClaimVerdict) -> bool {
    let key = |claim: &ClaimVerdict| badness(claim);
    match next.verdict.cmp(&worst.verdict) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => key(next) > key(worst),
    }
}

/// How far towards the wrong side the measured value lies; what never ended lies beyond everything.
fn badness(claim: &ClaimVerdict) -> f64 {
    match &claim.measured {
        Ok(Bounded { upper, .. }) if claim.limit.is_upper() => *upper,
        Ok(Bounded { lower, .. }) => -lower,
        Err(WhyNot::NotRecovered { .. }) => f64::INFINITY,
        Err(_) => f64::NEG_INFINITY,
    }
}

/// An experiment's verdict: the worst of its claims and trials; unfinished or with fewer trials than wanted at best inconclusive.
#[must_use]
pub fn experiment(claims: &[ClaimVerdict], trials: &[Verdict], wanted: u32, finished: bool, stopped: bool) -> Verdict {
    let complete = finished && trials.len() >= usize::try_from(wanted).unwrap_or(usize::MAX);
    let whole = if stopped {
        Verdict::Aborted
    } else if complete {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    };
    Verdict::worst(
        claims
            .iter()
            .map(|claim| claim.verdict)
            .chain(trials.iter().copied())
            .chain([whole]),
    )
}
