//! The claims of an experiment, judged in one trial.

use super::over::OverTrials;
use super::rules::{compare, measurable};
use crate::evidence::TrialEnd;
use crate::experiment::{About, Check, Experiment, Limit, RtoStart, TrialsSlo, When};
use crate::measure::{AssertionMeasure, LedgerCounts, TrialMeasures};
use crate::model::{Bounded, Measured, Verdict, WhyNot};

/// A limit with its operator and unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitOf {
    /// The number.
    pub value: f64,
    /// `<`, `<=` or `>=`.
    pub operator: &'static str,
    /// Unit, empty for a ratio.
    pub unit: &'static str,
}

impl LimitOf {
    pub(super) fn at_most(limit: Limit, unit: &'static str) -> Self {
        Self {
            value: limit.max,
            operator: if limit.strict { "<" } else { "<=" },
            unit,
        }
    }

    /// Whether `value` is within.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self.operator {
            "<" => value < self.value,
            "<=" => value <= self.value,
            _ => value >= self.value,
        }
    }

    /// True when more is worse.
    #[must_use]
    pub fn is_upper(self) -> bool {
        self.operator != ">="
    }
}

impl std::fmt::Display for LimitOf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = super::number::count(self.value);
        write!(formatter, "{} {value}", self.operator)?;
        if self.unit.is_empty() {
            Ok(())
        } else {
            write!(formatter, " {}", self.unit)
        }
    }
}

/// One claim and what may be said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimVerdict {
    /// Name as it stands in reports.
    pub name: String,
    /// Limit.
    pub limit: LimitOf,
    /// What was measured, or why not.
    pub measured: Measured<Bounded>,
    /// Verdict.
    pub verdict: Verdict,
    /// Rule, interval and limit, as a sentence.
    pub why: String,
    /// The trial it is from; none when there was no trial, and for what is said of all of them.
    pub trial: Option<u32>,
    /// What all trials together say, for a claim about all of them.
    pub over: Option<OverTrials>,
}

/// What a claim is about.
#[derive(Debug, Clone, Copy)]
enum Subject<'a> {
    Rto(RtoStart),
    RpoSeconds,
    Lost,
    Duplicated,
    Availability,
    Assertion(&'a str, When),
    Recovered,
}

/// One claim of an experiment.
pub(super) struct Claim<'a> {
    pub(super) name: String,
    pub(super) limit: LimitOf,
    subject: Subject<'a>,
    /// What is said of all trials; none when each is judged for itself.
    pub(super) over: Option<&'a TrialsSlo>,
}

impl Claim<'_> {
    /// Whether it is about records, and not about time.
    pub(super) fn rests_on_ledger(&self) -> bool {
        matches!(self.subject, Subject::RpoSeconds | Subject::Lost | Subject::Duplicated)
    }
}

/// Every claim of the experiment, in the order in which reports show them.
pub(super) fn claims(experiment: &Experiment) -> Vec<Claim<'_>> {
    let slos = &experiment.slos;
    let mut claims: Vec<(String, LimitOf, Subject<'_>)> = Vec::new();
    if let Some(rto) = slos.rto {
        let name = match rto.from {
            RtoStart::Fault => "rto",
            RtoStart::Impact => "rto from impact",
        };
        let limit = LimitOf::at_most(rto.limit, "s");
        claims.push((name.to_owned(), limit, Subject::Rto(rto.from)));
    }
    let at_most = [
        ("rpo", slos.rpo_seconds, "s", Subject::RpoSeconds),
        ("lost records", slos.lost, "records", Subject::Lost),
        ("duplicated records", slos.duplicated, "records", Subject::Duplicated),
    ];
    for (name, limit, unit, subject) in at_most {
        if let Some(limit) = limit {
            claims.push((name.to_owned(), LimitOf::at_most(limit, unit), subject));
        }
    }
    if let Some(share) = slos.availability {
        let limit = LimitOf {
            value: share,
            operator: ">=",
            unit: "",
        };
        claims.push(("availability".to_owned(), limit, Subject::Availability));
    }
    for assertion in &slos.assertions {
        let limit = LimitOf {
            value: 0.0,
            operator: "<=",
            unit: "violations",
        };
        let name = &assertion.probe.name;
        let subject = Subject::Assertion(name, assertion.when);
        claims.push((name.clone(), limit, subject));
    }
    let each = claims.into_iter().map(|(name, limit, subject)| Claim {
        name,
        limit,
        subject,
        over: None,
    });
    let over = slos.over_trials.iter().map(|slo| {
        let (name, limit) = super::over::title(slo);
        let subject = match slo.about {
            About::Rto { from } => Subject::Rto(from),
            About::Rpo => Subject::RpoSeconds,
            About::Lost => Subject::Lost,
            About::Duplicated => Subject::Duplicated,
            About::Recovered => Subject::Recovered,
        };
        Claim {
            name,
            limit,
            subject,
            over: Some(slo),
        }
    });
    each.chain(over).collect()
}

/// Judges every claim in one trial (of a claim about all trials: whether this one is within its limit); with no trial at all every
/// claim is inconclusive.
#[must_use]
pub fn judge(experiment: &Experiment, trial: Option<&TrialMeasures>) -> Vec<ClaimVerdict> {
    claims(experiment)
        .into_iter()
        .map(
            |Claim {
                 name, limit, subject, ..
             }| {
                let Some(trial) = trial else {
                    let why = WhyNot::NoData {
                        why: "no trial was run".to_owned(),
                    };
                    return ClaimVerdict {
                        name,
                        limit,
                        verdict: Verdict::Inconclusive,
                        why: format!("not judged (limit {limit}): no trial was run"),
                        measured: Err(why),
                        trial: None,
                        over: None,
                    };
                };
                let (measured, verdict, why) = judge_one(experiment, trial, limit, subject);
                // Rule 1 stands above every number.
                let (verdict, why) = match &trial.spoiled {
                    Some(spoiled) => (Verdict::Inconclusive, format!("not judged (limit {limit}): {spoiled}")),
                    None => (verdict, why),
                };
                ClaimVerdict {
                    name,
                    limit,
                    measured,
                    verdict,
                    why,
                    trial: Some(trial.trial),
                    over: None,
                }
            },
        )
        .collect()
}

type Judged = (Measured<Bounded>, Verdict, String);

fn judge_one(experiment: &Experiment, trial: &TrialMeasures, limit: LimitOf, subject: Subject<'_>) -> Judged {
    match subject {
        Subject::Rto(from) => rto(experiment, trial.rto(from).clone(), limit),
        Subject::RpoSeconds => ledger(trial, limit, "rpo", |counts| counts.rpo_seconds.clone()),
        Subject::Lost => ledger(trial, limit, "lost:", |counts| Ok(exact(counts.lost))),
        Subject::Duplicated => ledger(trial, limit, "duplicated:", |counts| Ok(exact(counts.duplicated))),
        Subject::Recovered => recovered(experiment, trial),
        Subject::Availability => {
            let measured = trial.availability.clone();
            let (verdict, why) = compare("availability", &measured, limit, "");
            (measured, verdict, why)
        }
        Subject::Assertion(name, when) => {
            let counts = trial
                .assertions
                .iter()
                .find(|assertion| assertion.name == name && assertion.when == when);
            assertion(name, counts, limit)
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "record counts stay below 2^52")]
fn exact(count: u64) -> Bounded {
    Bounded::exact(count as f64)
}

fn rto(experiment: &Experiment, measured: Measured<Bounded>, limit: LimitOf) -> Judged {
    if let Err(why) = measurable(&measured, limit, sampling(experiment)) {
        return (measured, Verdict::Inconclusive, why);
    }
    let (verdict, why) = compare("recovery took", &measured, limit, "s");
    (measured, verdict, why)
}

/// Whether service came back while it was watched. What was given up early is no answer.
fn recovered(experiment: &Experiment, trial: &TrialMeasures) -> Judged {
    let measured = trial.rto_from_fault.clone();
    let watched = super::number::count(experiment.timeouts.recovery.as_secs_f64());
    match &measured {
        Ok(_) => (measured, Verdict::Pass, format!("service came back within {watched} s")),
        Err(WhyNot::NotRecovered { .. }) if trial.end == Some(TrialEnd::Completed) => {
            let why = format!("service did not come back within {watched} s");
            (measured, Verdict::Fail, why)
        }
        Err(why) => {
            let why = format!("not known whether service came back: {why}");
            (measured, Verdict::Inconclusive, why)
        }
    }
}

/// The longest sampling interval that the recovery time depends on.
fn sampling(experiment: &Experiment) -> Option<f64> {
    let probes = experiment
        .steady_state
        .probes
        .iter()
        .filter(|probe| !probe.check.is_watched())
        .filter(|probe| !matches!(probe.check, Check::Progress { .. }))
        .map(|probe| probe.interval);
    let ledger = experiment.ledger.as_ref().map(|ledger| ledger.interval);
    probes.chain(ledger).max().map(|interval| interval.as_secs_f64())
}

fn ledger(
    trial: &TrialMeasures,
    limit: LimitOf,
    what: &str,
    value: impl Fn(&LedgerCounts) -> Measured<Bounded>,
) -> Judged {
    let counts = match &trial.ledger {
        Some(Ok(counts)) => counts,
        Some(Err(why)) => {
            let (verdict, sentence) = compare(what, &Err(why.clone()), limit, limit.unit);
            return (Err(why.clone()), verdict, sentence);
        }
        None => {
            let why = WhyNot::NoData {
                why: "the experiment has no ledger".to_owned(),
            };
            let (verdict, sentence) = compare(what, &Err(why.clone()), limit, limit.unit);
            return (Err(why), verdict, sentence);
        }
    };
    let measured = value(counts);
    let (verdict, why) = compare(what, &measured, limit, limit.unit);
    // A pass needs proof that the ledger could have shown a breach; a loss is final only when the sink had its time.
    let doubt = match verdict {
        Verdict::Pass => counts.conclusive().err(),
        Verdict::Fail if what != "duplicated:" && !counts.settled => {
            Some("the sink had not caught up when it was last read, what is missing may be late".to_owned())
        }
        Verdict::Fail | Verdict::Inconclusive | Verdict::Aborted => None,
    };
    match doubt {
        Some(doubt) => (measured, Verdict::Inconclusive, format!("{why}, but {doubt}")),
        None => (measured, verdict, why),
    }
}

/// An assertion holds when every sample of its window was good. More than one silent sample in ten is not evidence.
fn assertion(name: &str, measure: Option<&AssertionMeasure>, limit: LimitOf) -> Judged {
    let counts = match measure.map(|measure| &measure.counts) {
        Some(Ok(counts)) => counts,
        Some(Err(why)) => {
            return (
                Err(why.clone()),
                Verdict::Inconclusive,
                format!("{name} is not judged (limit {limit}): {why}"),
            );
        }
        None => {
            let why = WhyNot::NoData {
                why: "it was never sampled".to_owned(),
            };
            let sentence = format!("{name} is not judged (limit {limit}): {why}");
            return (Err(why), Verdict::Inconclusive, sentence);
        }
    };
    let samples = counts.good + counts.bad + counts.silent;
    let measured = Ok(exact(counts.bad as u64));
    if let Some(why) = &counts.first_bad {
        let sentence = format!(
            "{name} was violated in {} of {samples} samples (limit {limit}): {why}",
            counts.bad
        );
        return (measured, Verdict::Fail, sentence);
    }
    if counts.silent * 10 > samples {
        let why = counts.first_silent.as_deref().unwrap_or("no answer");
        let sentence = format!(
            "{name}: {} of {samples} samples said nothing (limit {limit}): {why}",
            counts.silent
        );
        return (measured, Verdict::Inconclusive, sentence);
    }
    let sentence = format!("{name} held in all {samples} samples (limit {limit})");
    (measured, Verdict::Pass, sentence)
}
