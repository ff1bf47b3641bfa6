//! Claims about all trials together: quantiles and shares, with the confidence that was asked for (measurement.md 3 and 4.3 rule 4).
//!
//! `rto: {p95: 120s}` says that in at least 95 % of all trials that could be run the recovery time is within 120 s. With a fixed
//! number of trials the exact binomial bound on that share decides (Clopper and Pearson 1934, one-sided); with `untilDecided` two
//! e-processes do. No distribution is assumed, and a trial that cannot be judged counts against either answer.

use super::claims::{ClaimVerdict, LimitOf};
use super::number::{count, fixed};
use super::quantile::quantile_verdict;
use crate::experiment::{About, Experiment, Over, TrialsSlo};
use crate::model::{Bounded, Measured, Verdict, WhyNot};
use crate::stats::sequential::{self, Alternatives, Decided};
use crate::stats::{Observed, quantile, trend};

/// A trend over the trials is an alarm below this p-value: then they are no sample of one distribution.
const TREND_ALARM: f64 = 0.01;

/// By which rule a claim over all trials is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The largest value of the trials that were run.
    Largest,
    /// Exact binomial bounds after a number of trials that was fixed before.
    Binomial,
    /// Two e-processes, valid however often one looks.
    EProcess,
}

/// Upper bound of a quantile, by order statistics of the upper ends of the error bars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QuantileBound {
    /// The quantile is not above this, with the confidence of the claim.
    At(f64),
    /// It falls on a trial that did not recover: not below this, which is how long was watched.
    NotBounded {
        /// Seconds.
        at_least: f64,
    },
    /// So few trials bound no such quantile: the largest value is not a bound.
    TooFewTrials,
}

/// What all trials together say of a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct OverTrials {
    /// What is claimed of them.
    pub over: Over,
    /// By which rule.
    pub rule: Rule,
    /// Trials used.
    pub trials: u64,
    /// Within the limit, error bar included.
    pub within: u64,
    /// Beyond it, error bar included.
    pub beyond: u64,
    /// Neither: the limit is inside the error bar, or nothing can be said.
    pub undecided: u64,
    /// What they prove, if anything: pass or fail, else inconclusive. A trend over the trials may still forbid to believe it.
    pub answer: Verdict,
    /// The share of all trials that could be run is at least this, with the confidence of the claim.
    pub share_at_least: Option<f64>,
    /// And at most this.
    pub share_at_most: Option<f64>,
    /// Upper bound of the claimed quantile; only for a number of trials that was fixed before.
    pub bound: Option<QuantileBound>,
    /// Further trials within the limit, none beyond, that would prove the claim; none when it is decided.
    pub more_trials: Option<u64>,
}

/// One trial's value for one claim.
struct Placed<'a> {
    verdict: Verdict,
    measured: &'a Measured<Bounded>,
}

/// Counts of one claim.
#[derive(Clone, Copy)]
struct Tally {
    within: u64,
    beyond: u64,
    undecided: u64,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => self.within += 1,
            Verdict::Fail => self.beyond += 1,
            Verdict::Inconclusive | Verdict::Aborted => self.undecided += 1,
        }
    }

    fn trials(self) -> u64 {
        self.within + self.beyond + self.undecided
    }
}

/// What a claim over all trials comes to, from its verdicts in each of them, in order.
pub(super) fn judge(experiment: &Experiment, slo: &TrialsSlo, of_trials: &[&ClaimVerdict]) -> ClaimVerdict {
    let placed: Vec<Placed<'_>> = of_trials
        .iter()
        .map(|claim| Placed {
            verdict: claim.verdict,
            measured: &claim.measured,
        })
        .collect();
    let Some(any) = of_trials.first() else {
        return nothing(slo);
    };
    match slo.over {
        Over::Max => largest(slo, of_trials),
        Over::Share { share, confidence } => {
            let mut over = share_of(experiment, slo, share, confidence, &placed);
            let (verdict, why) = sentence(slo, share, confidence, &over, any.limit);
            let (verdict, why) = match trend(slo, &placed).filter(|_| verdict != Verdict::Inconclusive) {
                Some(alarm) => (Verdict::Inconclusive, format!("{why}; but {alarm}")),
                None => (verdict, why),
            };
            if verdict != Verdict::Inconclusive {
                over.more_trials = None;
            }
            ClaimVerdict {
                name: any.name.clone(),
                limit: any.limit,
                measured: measured(slo, share, &over, &placed),
                verdict,
                why,
                trial: None,
                over: Some(over),
            }
        }
    }
}

/// Name and limit, as they stand in reports.
pub(super) fn title(slo: &TrialsSlo) -> (String, LimitOf) {
    use crate::experiment::RtoStart;
    let statistic = match slo.over {
        Over::Max => "max".to_owned(),
        Over::Share { share, .. } => format!("p{}", count(share * 100.0)),
    };
    let (about, unit) = match slo.about {
        About::Rto { from: RtoStart::Fault } => ("rto", "s"),
        About::Rto { from: RtoStart::Impact } => ("rto from impact", "s"),
        About::Rpo => ("rpo", "s"),
        About::Lost => ("lost records", "records"),
        About::Duplicated => ("duplicated records", "records"),
        About::Recovered => {
            let share = match slo.over {
                Over::Share { share, .. } => share,
                Over::Max => 1.0,
            };
            return (
                "recovered".to_owned(),
                LimitOf {
                    value: share,
                    operator: ">=",
                    unit: "",
                },
            );
        }
    };
    (format!("{about} {statistic}"), LimitOf::at_most(slo.limit, unit))
}

fn nothing(slo: &TrialsSlo) -> ClaimVerdict {
    let (name, limit) = title(slo);
    let why = WhyNot::NoData {
        why: "no trial was run".to_owned(),
    };
    ClaimVerdict {
        name,
        limit,
        verdict: Verdict::Inconclusive,
        why: format!("not judged (limit {limit}): no trial was run"),
        measured: Err(why),
        trial: None,
        over: None,
    }
}

/// The largest value that was measured. A trial without a value leaves open what the largest is.
fn largest(slo: &TrialsSlo, of_trials: &[&ClaimVerdict]) -> ClaimVerdict {
    let worst = super::merge::worst(of_trials).map_or_else(|| nothing(slo), Clone::clone);
    let tally = tally(of_trials.iter().map(|claim| claim.verdict));
    let proves = quantile::best_zero_failure_quantile(tally.trials(), 0.95)
        .ok()
        .filter(|_| tally.within == tally.trials())
        .map(|share| {
            format!(
                " (largest of {} trials; that all are within it proves it for {} % of trials at 95 %)",
                tally.trials(),
                fixed(floor(share * 100.0, 1), 1)
            )
        });
    ClaimVerdict {
        why: format!("{}{}", worst.why, proves.unwrap_or_default()),
        over: Some(OverTrials {
            over: slo.over,
            rule: Rule::Largest,
            trials: tally.trials(),
            within: tally.within,
            beyond: tally.beyond,
            undecided: tally.undecided,
            answer: worst.verdict,
            share_at_least: None,
            share_at_most: None,
            bound: None,
            more_trials: None,
        }),
        ..worst
    }
}

fn tally(verdicts: impl Iterator<Item = Verdict>) -> Tally {
    let mut tally = Tally {
        within: 0,
        beyond: 0,
        undecided: 0,
    };
    for verdict in verdicts {
        tally.add(verdict);
    }
    tally
}

/// The first answer of the two e-processes, looked at after each trial: it stands, whatever comes after it.
fn until_decided(share: f64, confidence: f64, verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let mut tally = Tally {
        within: 0,
        beyond: 0,
        undecided: 0,
    };
    for verdict in verdicts {
        tally.add(verdict);
        let decided = sequential::until_decided(
            tally.within,
            tally.trials(),
            tally.undecided,
            share,
            confidence,
            Alternatives::around(share),
        );
        match decided {
            Ok(Decided::Pass) => return Verdict::Pass,
            Ok(Decided::Fail) => return Verdict::Fail,
            Ok(Decided::Open) | Err(_) => {}
        }
    }
    Verdict::Inconclusive
}

fn share_of(
    experiment: &Experiment,
    slo: &TrialsSlo,
    share: f64,
    confidence: f64,
    placed: &[Placed<'_>],
) -> OverTrials {
    let tally = tally(placed.iter().map(|placed| placed.verdict));
    let trials = tally.trials();
    let (rule, answer, at_least, at_most, more) = if experiment.trials.until_decided {
        let answer = until_decided(share, confidence, placed.iter().map(|placed| placed.verdict));
        // Robbins' mixture is valid at any time, too, and gives a number to look at (two-sided).
        let sequence = |successes: u64| sequential::confidence_sequence(successes, trials, 1.0 - confidence, 1.0, 1.0);
        let lower = sequence(tally.within).map(|ends| ends.lower);
        let upper = sequence(tally.within + tally.undecided).map(|ends| ends.upper);
        let more = sequential::decided_after(share, confidence, tally.beyond + tally.undecided)
            .ok()
            .flatten()
            .map(|needed| needed.saturating_sub(trials));
        (Rule::EProcess, answer, lower.ok(), upper.ok(), more)
    } else {
        let judged = quantile_verdict(tally.within, trials, tally.undecided, share, confidence);
        (
            Rule::Binomial,
            judged.verdict,
            Some(judged.lower_bound),
            Some(judged.upper_bound),
            judged.more_trials_needed,
        )
    };
    let bound =
        (rule == Rule::Binomial && slo.about != About::Recovered).then(|| quantile_bound(share, confidence, placed));
    OverTrials {
        over: slo.over,
        rule,
        trials,
        within: tally.within,
        beyond: tally.beyond,
        undecided: tally.undecided,
        answer,
        share_at_least: at_least,
        share_at_most: at_most,
        bound,
        more_trials: more,
    }
}

/// The verdict and the sentence behind it.
fn sentence(slo: &TrialsSlo, share: f64, confidence: f64, over: &OverTrials, limit: LimitOf) -> (Verdict, String) {
    let sure = format!("{} % confidence", count(confidence * 100.0));
    let claimed = format!("{} %", count(share * 100.0));
    let what = if slo.about == About::Recovered {
        format!(
            "service came back within {} s in {} of {} trials",
            count(slo.limit.max),
            over.within,
            over.trials
        )
    } else {
        format!("{} of {} trials are within {limit}", over.within, over.trials)
    };
    let unclear = match over.undecided {
        0 => String::new(),
        1 => ", 1 cannot be judged".to_owned(),
        many => format!(", {many} cannot be judged"),
    };
    let percent = |value: f64| fixed(value * 100.0, 1);
    let holds = over.share_at_least.map_or(String::new(), |least| {
        format!("at least {} % of all are", percent(floor(least, 3)))
    });
    let fails = over.share_at_most.map_or(String::new(), |most| {
        format!("at most {} % of all are", percent(ceil(most, 3)))
    });
    let verdict = over.answer;
    let why = match (verdict, over.rule) {
        (Verdict::Pass, Rule::EProcess) => {
            format!("{what}{unclear}: that proves {claimed} with {sure}, looked at after each trial")
        }
        (Verdict::Fail, Rule::EProcess) => {
            format!("{what}{unclear}: that refutes {claimed} with {sure}, looked at after each trial")
        }
        (Verdict::Pass, _) => format!("{what}{unclear}: {holds}, with {sure}; {claimed} are claimed"),
        (Verdict::Fail, _) => format!("{what}{unclear}: {fails}, with {sure}; {claimed} are claimed"),
        (Verdict::Inconclusive | Verdict::Aborted, _) => {
            let more = match over.more_trials {
                Some(1) => "; 1 more within the limit would prove it".to_owned(),
                Some(more) if more > 0 => format!("; {more} more, all within the limit, would prove it"),
                Some(_) | None => String::new(),
            };
            format!("{what}{unclear}: too few to prove or to refute {claimed} with {sure}{more}")
        }
    };
    (verdict, why)
}

/// The observed quantile: never interpolated, and what did not recover lies above everything.
fn measured(slo: &TrialsSlo, share: f64, over: &OverTrials, placed: &[Placed<'_>]) -> Measured<Bounded> {
    if slo.about == About::Recovered {
        return ratio(over);
    }
    let mut known: Vec<&Measured<Bounded>> = Vec::new();
    for placed in placed {
        if matches!(placed.measured, Ok(_) | Err(WhyNot::NotRecovered { .. })) {
            known.push(placed.measured);
        }
    }
    let rank = rank_of(share, known.len());
    let pick = |of: fn(&Bounded) -> f64| {
        let mut values: Vec<f64> = known
            .iter()
            .map(|held| held.as_ref().map_or(f64::INFINITY, of))
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(rank).copied()
    };
    let (Some(value), Some(lower), Some(upper)) = (
        pick(|held| held.value),
        pick(|held| held.lower),
        pick(|held| held.upper),
    ) else {
        return Err(WhyNot::NoData {
            why: "no trial gave a value".to_owned(),
        });
    };
    if upper.is_infinite() {
        return Err(WhyNot::NotRecovered {
            observed_seconds: watched(placed),
            why: "service did not come back in that many trials".to_owned(),
        });
    }
    Ok(Bounded { value, lower, upper })
}

#[expect(clippy::cast_precision_loss, reason = "a number of trials")]
fn ratio(over: &OverTrials) -> Measured<Bounded> {
    if over.trials == 0 {
        return Err(WhyNot::NoData {
            why: "no trial was run".to_owned(),
        });
    }
    let value = over.within as f64 / over.trials as f64;
    Ok(Bounded {
        value,
        lower: over.share_at_least.unwrap_or(0.0).min(value),
        upper: over.share_at_most.unwrap_or(1.0).max(value),
    })
}

/// The smallest place, from 0, such that at least `share` of so many values are not above it.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of trials"
)]
fn rank_of(share: f64, count: usize) -> usize {
    // 0.95 * 20 is a hair above 19 in binary.
    ((share * count as f64 - 1e-9).ceil().max(1.0) as usize) - 1
}

/// By order statistics of the upper ends; a trial that did not recover, or that cannot be judged, is above everything.
fn quantile_bound(share: f64, confidence: f64, placed: &[Placed<'_>]) -> QuantileBound {
    let values: Vec<Observed> = placed
        .iter()
        .map(|placed| match placed.measured {
            // Also when the limit lies inside its error bar: the value is known all the same.
            Ok(bounded) if known(placed.verdict) => Observed::between(bounded.lower, bounded.upper),
            Err(WhyNot::NotRecovered { observed_seconds, .. }) => Observed::censored(*observed_seconds),
            Ok(_) | Err(_) => Observed::censored(0.0),
        })
        .collect();
    match quantile::quantile_upper_bound(&values, share, confidence) {
        Ok(bound) => match (bound.bound, bound.rank) {
            (Some(value), _) => QuantileBound::At(value),
            (None, Some(_)) => QuantileBound::NotBounded {
                at_least: bound.at_least.unwrap_or(0.0),
            },
            (None, None) => QuantileBound::TooFewTrials,
        },
        Err(_) => QuantileBound::TooFewTrials,
    }
}

fn known(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Pass | Verdict::Fail | Verdict::Inconclusive)
}

/// How long the trials that did not recover were watched: the shortest of them.
fn watched(placed: &[Placed<'_>]) -> f64 {
    let watched = placed.iter().filter_map(|placed| match placed.measured {
        Err(WhyNot::NotRecovered { observed_seconds, .. }) => Some(*observed_seconds),
        _ => None,
    });
    watched.reduce(f64::min).unwrap_or(0.0)
}

/// Recovery that gets slower (or faster) from trial to trial is no sample of one distribution: no quantile of it can be claimed.
fn trend(slo: &TrialsSlo, placed: &[Placed<'_>]) -> Option<String> {
    if !matches!(slo.about, About::Rto { .. }) {
        return None;
    }
    let values: Vec<f64> = placed
        .iter()
        .filter_map(|placed| placed.measured.as_ref().ok().map(|held| held.value))
        .collect();
    let trend = trend::kendall(&values).ok()??;
    (trend.p_value < TREND_ALARM).then(|| {
        format!(
            "recovery {} from trial to trial (Kendall tau {}, p {:.4}): the trials are no sample of one distribution; let the \
             system settle longer between them (trials.cooldown)",
            if trend.tau > 0.0 { "got slower" } else { "got faster" },
            fixed(trend.tau, 2),
            trend.p_value
        )
    })
}

/// Cut to so many digits, downwards: a bound must not be rounded to the better side.
fn floor(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale + 1e-9).floor() / scale
}

fn ceil(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale - 1e-9).ceil() / scale
}

/// Whether a claim has an answer that cannot change any more, whatever the remaining trials bring; `true` when it fails for good.
pub(super) fn settled(experiment: &Experiment, slo: &TrialsSlo, of_trials: &[&ClaimVerdict]) -> Option<bool> {
    let verdicts = || of_trials.iter().map(|claim| claim.verdict);
    let tally = tally(verdicts());
    match slo.over {
        Over::Max => (tally.beyond > 0).then_some(true),
        Over::Share { share, confidence } if experiment.trials.until_decided => {
            let answer = until_decided(share, confidence, verdicts());
            let placed: Vec<Placed<'_>> = of_trials
                .iter()
                .map(|claim| Placed {
                    verdict: claim.verdict,
                    measured: &claim.measured,
                })
                .collect();
            // With a trend in them the trials prove nothing yet.
            (answer != Verdict::Inconclusive && trend(slo, &placed).is_none()).then_some(answer == Verdict::Fail)
        }
        Over::Share { share, confidence } => {
            let planned = u64::from(experiment.trials.count).max(tally.trials());
            let rest = planned - tally.trials();
            let answer = |more_within: u64, more_undecided: u64| {
                let (within, undecided) = (tally.within + more_within, tally.undecided + more_undecided);
                quantile_verdict(within, planned, undecided, share, confidence).verdict
            };
            let (best, worst, dull) = (answer(rest, 0), answer(0, 0), answer(0, rest));
            // Trials that can prove nothing any more still narrow the bounds: they are run.
            (best == worst && worst == dull && best != Verdict::Inconclusive).then_some(best == Verdict::Fail)
        }
    }
}
