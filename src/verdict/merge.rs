//! From claims to trials, experiments and runs: the worst stands for all.

use super::claims::{ClaimVerdict, claims};
use crate::evidence::TrialEnd;
use crate::experiment::Experiment;
use crate::measure::{ControlMeasures, TrialMeasures};
use crate::model::{Bounded, Verdict, WhyNot};

/// A trial's verdict: its worst claim, and aborted above all.
#[must_use]
pub fn trial(measures: &TrialMeasures, claims: &[ClaimVerdict]) -> Verdict {
    let end = end_verdict(measures.end.as_ref());
    Verdict::worst(claims.iter().map(|claim| claim.verdict).chain([end]))
}

/// The claims of an experiment after its trials (each with its claims as [`super::judge`] gave them), in order, and the control
/// trials in between.
#[must_use]
pub fn conclude(
    experiment: &Experiment,
    trials: &[Vec<ClaimVerdict>],
    controls: &[ControlMeasures],
) -> Vec<ClaimVerdict> {
    claims(experiment)
        .into_iter()
        .enumerate()
        .filter_map(|(place, claim)| {
            let of_trials: Vec<&ClaimVerdict> = trials.iter().filter_map(|held| held.get(place)).collect();
            let concluded = match claim.over {
                Some(slo) => super::over::judge(experiment, slo, &of_trials),
                None => worst(&of_trials)?.clone(),
            };
            Some(doubted(concluded, claim.rests_on_ledger(), controls))
        })
        .collect()
}

/// What a control trial shows as well is not the fault's doing (measurement.md 4.3 rule 1).
fn doubted(claim: ClaimVerdict, ledger: bool, controls: &[ControlMeasures]) -> ClaimVerdict {
    let doubt = controls.iter().find_map(|control| {
        let seen = if ledger { control.damage() } else { control.outage() };
        seen.or_else(|| control.silence())
    });
    match doubt {
        Some(doubt) => ClaimVerdict {
            verdict: Verdict::Inconclusive,
            why: format!("{}; but {doubt}", claim.why),
            ..claim
        },
        None => claim,
    }
}

/// Why no further trial is needed, when the experiment's verdict cannot change any more.
#[must_use]
pub fn decided(experiment: &Experiment, trials: &[Vec<ClaimVerdict>], controls: &[ControlMeasures]) -> Option<String> {
    let plan = &experiment.trials;
    // A doubt that a control trial may still raise has to be looked for.
    if plan.run_all || (plan.control > 0 && controls.is_empty()) {
        return None;
    }
    let mut open = false;
    for (place, claim) in claims(experiment).into_iter().enumerate() {
        let of_trials: Vec<&ClaimVerdict> = trials.iter().filter_map(|held| held.get(place)).collect();
        let failed = match claim.over {
            Some(slo) => super::over::settled(experiment, slo, &of_trials),
            None => of_trials
                .iter()
                .any(|held| held.verdict == Verdict::Fail)
                .then_some(true),
        };
        match failed {
            Some(true) => {
                return Some(format!(
                    "the claim {:?} is refuted, whatever further trials bring",
                    claim.name
                ));
            }
            Some(false) => {}
            // A limit of each trial goes along for as long as the others need.
            None => open |= claim.over.is_some() || !plan.until_decided,
        }
    }
    (!open).then(|| "every claim is decided".to_owned())
}

/// Of the same claim in several trials, the worst.
pub(super) fn worst<'a>(of_trials: &[&'a ClaimVerdict]) -> Option<&'a ClaimVerdict> {
    of_trials
        .iter()
        .copied()
        .reduce(|worst, next| if is_worse(next, worst) { next } else { worst })
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

/// How an experiment's trials came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The log goes on to the experiment's end.
    pub finished: bool,
    /// A stop condition or a signal.
    pub stopped: bool,
    /// As many trials were run as the verdict needs.
    pub enough: bool,
}

/// An experiment's verdict: the worst of its claims; aborted above all; unfinished, with fewer trials than wanted, or with one
/// that ended before its time at best inconclusive.
#[must_use]
pub fn experiment(claims: &[ClaimVerdict], ends: &[Option<TrialEnd>], ending: Ending) -> Verdict {
    let whole = if ending.stopped {
        Verdict::Aborted
    } else if ending.finished && ending.enough {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    };
    Verdict::worst(
        claims
            .iter()
            .map(|claim| claim.verdict)
            .chain(ends.iter().map(|end| end_verdict(end.as_ref())))
            .chain([whole]),
    )
}

fn end_verdict(end: Option<&TrialEnd>) -> Verdict {
    match end {
        Some(TrialEnd::Completed) => Verdict::Pass,
        Some(TrialEnd::Aborted { .. }) => Verdict::Aborted,
        Some(TrialEnd::Refused { .. } | TrialEnd::Errored { .. }) | None => Verdict::Inconclusive,
    }
}
