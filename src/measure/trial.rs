//! One trial's numbers.

use super::availability::{self, Lane};
use super::kept;
use super::ledger::{self, LedgerCounts, Outage};
use super::replacement::{self, Replacement};
use crate::evidence::{Step, TrialEnd};
use crate::experiment::{Experiment, RtoStart, When};
use crate::fault::Mode;
use crate::model::{Bounded, Interval, Measured, Mono, WhyNot};
use crate::timeline::{Audit, Counts, Moment, ProbeState, Purpose, Recovered, Restoration, Timeline, TrialFacts};
use std::collections::BTreeSet;

/// A phase of the recovery, in seconds after the fault took effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Name as it stands in reports.
    pub name: &'static str,
    /// When, or why that is not known.
    pub at: Measured<Bounded>,
}

/// An assertion's samples in its window.
#[derive(Debug, Clone, PartialEq)]
pub struct AssertionMeasure {
    /// The probe's name.
    pub name: String,
    /// When it is judged.
    pub when: When,
    /// Samples (or watched stretches) in the window, or why they cannot be counted.
    pub counts: Measured<Counts>,
}

/// Everything measured in one trial.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialMeasures {
    /// From 1.
    pub trial: u32,
    /// Why nothing in this trial can be judged, whatever the numbers say (measurement.md 4.3 rule 1).
    pub spoiled: Option<WhyNot>,
    /// How it ended; none when the log ends first.
    pub end: Option<TrialEnd>,
    /// Recovery time from the fault's effect.
    pub rto_from_fault: Measured<Bounded>,
    /// Recovery time from the first symptom.
    pub rto_from_impact: Measured<Bounded>,
    /// Recovery in phases.
    pub phases: Vec<Phase>,
    /// First reaction of the system, seconds after the effect.
    pub detected: Measured<Bounded>,
    /// The ledger, when there is one.
    pub ledger: Option<Measured<LedgerCounts>>,
    /// Age of the last commit when the fault took effect, seconds. Replay work, never loss.
    pub reprocessing: Measured<Bounded>,
    /// Share of good time between effect and the end of settle.
    pub availability: Measured<Bounded>,
    /// Assertions among the SLOs.
    pub assertions: Vec<AssertionMeasure>,
    /// Good stretches during recovery that did not hold.
    pub flaps: usize,
    /// Outages after restoration that ended again.
    pub relapses: usize,
    /// What a reader of the numbers has to know.
    pub notes: Vec<String>,
}

impl TrialMeasures {
    /// Recovery time from where the claim starts its clock.
    pub fn rto(&self, from: RtoStart) -> &Measured<Bounded> {
        match from {
            RtoStart::Fault => &self.rto_from_fault,
            RtoStart::Impact => &self.rto_from_impact,
        }
    }
}

/// Measures one trial. `before` is the audit of the trial before it, whose findings are not counted again.
#[must_use]
pub fn trial(
    experiment: &Experiment,
    timeline: &Timeline,
    facts: &TrialFacts,
    before: Option<&Audit>,
) -> TrialMeasures {
    let until = facts.end.as_ref().map_or(timeline.now(), |(_, at)| *at);
    let restoration = timeline.restoration(facts, until);
    let spoiled = spoiled(experiment, timeline, facts, &restoration, until);
    let Some(effect) = facts.effect() else {
        return unproven(experiment, facts, spoiled);
    };
    let effective = facts.effective().unwrap_or(effect.within.upper);
    let outage_end = match &restoration {
        Restoration::Back(back) if back.restored.within.upper > effective => back.restored.within.upper,
        Restoration::Back(_) | Restoration::NotYet { .. } | Restoration::NoData { .. } => until,
    };
    // What was accepted while a fault was kept up was put to the test, even when no probe went bad.
    let ended = facts.faults_ended().map_or(outage_end, |ended| ended.within.upper);
    let outage = Outage {
        effect,
        until: outage_end.max(ended),
    };
    let found = replacement::replacements(timeline, facts, until);
    let (flaps, relapses) = match &restoration {
        Restoration::Back(back) => (back.flaps, back.relapses),
        Restoration::NotYet { .. } | Restoration::NoData { .. } => (0, 0),
    };
    TrialMeasures {
        trial: facts.trial,
        spoiled,
        end: facts.end.as_ref().map(|(end, _)| end.clone()),
        rto_from_fault: rto_from_fault(&restoration, effect, effective),
        rto_from_impact: rto_from_impact(&restoration, effect, effective),
        phases: phases(&restoration, facts, effect, &found),
        detected: replacement::reaction(timeline, facts, &found)
            .map(|moment| moment.since(effect))
            .ok_or_else(|| no_data("no reaction of the system was seen")),
        ledger: experiment
            .ledger
            .as_ref()
            .map(|_| ledger::count(timeline, facts, before, outage)),
        reprocessing: reprocessing(experiment, timeline, facts, effect),
        availability: availability(timeline, facts, &restoration, effective, until),
        assertions: assertions(experiment, timeline, facts, effective, until),
        flaps,
        relapses,
        notes: notes(timeline, facts, &restoration, &found, until),
    }
}

fn no_data(why: &str) -> WhyNot {
    WhyNot::NoData { why: why.to_owned() }
}

fn unproven(experiment: &Experiment, facts: &TrialFacts, spoiled: Option<WhyNot>) -> TrialMeasures {
    let why = spoiled.clone().unwrap_or(WhyNot::FaultNotProven {
        why: "no effect was recorded".to_owned(),
    });
    TrialMeasures {
        trial: facts.trial,
        end: facts.end.as_ref().map(|(end, _)| end.clone()),
        rto_from_fault: Err(why.clone()),
        rto_from_impact: Err(why.clone()),
        phases: Vec::new(),
        detected: Err(why.clone()),
        ledger: experiment.ledger.as_ref().map(|_| Err(why.clone())),
        reprocessing: Err(why.clone()),
        availability: Err(why.clone()),
        assertions: experiment
            .slos
            .assertions
            .iter()
            .map(|assertion| AssertionMeasure {
                name: assertion.probe.name.clone(),
                when: assertion.when,
                counts: Err(why.clone()),
            })
            .collect(),
        spoiled: Some(why),
        flaps: 0,
        relapses: 0,
        notes: Vec::new(),
    }
}

/// Rule 1: what makes every number of this trial worthless. The first reason in the order of events.
fn spoiled(
    experiment: &Experiment,
    timeline: &Timeline,
    facts: &TrialFacts,
    restoration: &Restoration,
    until: Mono,
) -> Option<WhyNot> {
    match facts.end.as_ref().map(|(end, _)| end) {
        Some(TrialEnd::Refused { why }) => {
            return Some(WhyNot::EndedEarly {
                why: format!("refused, nothing was touched: {why}"),
            });
        }
        Some(TrialEnd::Errored { why }) => {
            return Some(WhyNot::EndedEarly { why: why.clone() });
        }
        None => {
            return Some(WhyNot::EndedEarly {
                why: "the log stops before the trial ended".to_owned(),
            });
        }
        Some(TrialEnd::Completed | TrialEnd::Aborted { .. }) => {}
    }
    if let Some(requested) = facts.requested()
        && let Err(why) = timeline.steady(requested)
    {
        return Some(WhyNot::BaselineNotSteady { why: why.join("; ") });
    }
    if let Some(why) = not_proven(experiment, facts) {
        return Some(WhyNot::FaultNotProven { why });
    }
    if let Some(why) = kept::cut_short(experiment, timeline, facts, until) {
        return Some(WhyNot::FaultCutShort { why });
    }
    let end = match restoration {
        Restoration::Back(back) => back.restored.within.upper,
        Restoration::NotYet { .. } | Restoration::NoData { .. } => until,
    };
    let begin = facts.effect()?.within.lower;
    let stall = facts
        .stalls
        .iter()
        .find(|stall| stall.upper >= begin && stall.lower <= end)?;
    Some(WhyNot::NotMeasurable {
        why: format!(
            "the runner itself stood still for {:.1} s during the recovery",
            stall.upper.since(stall.lower).as_secs_f64()
        ),
    })
}

fn not_proven(experiment: &Experiment, facts: &TrialFacts) -> Option<String> {
    for spec in &experiment.faults {
        let armed = facts.faults.iter().find(|fault| fault.name == spec.name);
        if let Some(why) = armed.and_then(|fault| fault.skipped.as_ref()) {
            return Some(format!("{} was not fired: {why}", spec.name));
        }
        let Some(armed) = armed.filter(|fault| !fault.targets.is_empty()) else {
            return Some(format!("{} was never fired", spec.name));
        };
        if let Mode::Fixed(wanted) = spec.mode
            && armed.targets.len() < usize::try_from(wanted).unwrap_or(usize::MAX)
        {
            return Some(format!(
                "{}: {wanted} pods were asked for, {} were chosen",
                spec.name,
                armed.targets.len()
            ));
        }
    }
    facts.faults.iter().find_map(|fault| {
        let target = fault.targets.iter().find(|target| target.effect.is_none())?;
        let why = target
            .not_proven
            .clone()
            .or_else(|| target.error.clone())
            .unwrap_or_else(|| "no effect was recorded".to_owned());
        Some(format!("{} on {}: {why}", fault.name, target.target.pod.name))
    })
}

fn rto_from_fault(restoration: &Restoration, effect: Moment, effective: Mono) -> Measured<Bounded> {
    match restoration {
        Restoration::Back(back) => Ok(recovery(back, effect)),
        Restoration::NotYet { why, known, .. } => Err(WhyNot::NotRecovered {
            observed_seconds: known.since(effective.max(effect.within.upper)).as_secs_f64(),
            why: why.join("; "),
        }),
        Restoration::NoData { why } => Err(no_data(why)),
    }
}

/// Without any symptom and without a ledger nothing was out: zero, but for an outage too short to be seen.
fn recovery(back: &Recovered, effect: Moment) -> Bounded {
    if back.impact.is_some() || back.first_commit.is_some() {
        return back.restored.since(effect);
    }
    let unseen = back.resolution.map_or(0.0, |unseen| unseen.as_secs_f64());
    Bounded {
        value: 0.0,
        lower: 0.0,
        upper: unseen,
    }
}

fn rto_from_impact(restoration: &Restoration, effect: Moment, effective: Mono) -> Measured<Bounded> {
    match restoration {
        Restoration::Back(back) => match back.impact {
            Some(impact) => Ok(back.restored.since(impact)),
            // Nobody saw a symptom: the interruption may have been anything up to the whole recovery.
            None => Ok(Bounded {
                value: 0.0,
                lower: 0.0,
                upper: recovery(back, effect).upper,
            }),
        },
        Restoration::NotYet { why, known, impact } => {
            let from = impact.map_or(effective, |impact| impact.within.upper);
            Err(WhyNot::NotRecovered {
                observed_seconds: known.since(from).as_secs_f64(),
                why: why.join("; "),
            })
        }
        Restoration::NoData { why } => Err(no_data(why)),
    }
}

fn phases(restoration: &Restoration, facts: &TrialFacts, effect: Moment, found: &[Replacement]) -> Vec<Phase> {
    // A phase of several targets is over when the last of them is through.
    let all = |what: &str, of: fn(&Replacement) -> Option<Moment>| -> Measured<Moment> {
        found
            .iter()
            .map(|found| of(found).ok_or_else(|| no_data(what)))
            .reduce(|a, b| Ok(a?.later(b?)))
            .unwrap_or_else(|| Err(no_data(what)))
    };
    let in_place = !found.is_empty() && found.iter().all(|found| found.in_place);
    let created = if in_place {
        "the container came back inside the same pod"
    } else {
        "no replacement was seen"
    };
    let (impact, restored, steady) = match restoration {
        Restoration::Back(back) => (back.impact, Ok(back.restored), Ok(back.steady)),
        Restoration::NotYet { why, impact, .. } => {
            let why = no_data(&format!("not restored: {}", why.join("; ")));
            (*impact, Err(why.clone()), Err(why))
        }
        Restoration::NoData { why } => (None, Err(no_data(why)), Err(no_data(why))),
    };
    let ended = facts.faults_ended().map(|ended| ("fault ended", Ok(ended)));
    [
        ("fault effective", Ok(effect)),
        ("first symptom", impact.ok_or_else(|| no_data("no probe went bad"))),
    ]
    .into_iter()
    .chain(ended)
    .chain([
        ("replacement created", all(created, |found| found.created)),
        ("replacement scheduled", all(created, |found| found.scheduled)),
        ("replacement started", all("no start was seen", |found| found.started)),
        (
            "replacement ready",
            all("it was never seen to become ready", |found| found.ready),
        ),
        ("service restored", restored),
        ("steady", steady),
    ])
    .map(|(name, at)| Phase {
        name,
        at: at.map(|moment| moment.since(effect)),
    })
    .collect()
}

/// Age of the newest committed record (when the checkpoint tells it) or of the last commit at the fault.
fn reprocessing(experiment: &Experiment, timeline: &Timeline, facts: &TrialFacts, effect: Moment) -> Measured<Bounded> {
    if experiment.ledger.is_none() {
        return Err(no_data("there is no ledger"));
    }
    if let Some(checkpoint) = &facts.checkpoint {
        return Ok(effect.within.since(checkpoint.committed));
    }
    timeline
        .commits
        .last_before(effect.within.lower)
        .map(|(_, made)| effect.since(made))
        .ok_or_else(|| no_data("no commit was seen before the fault"))
}

fn availability(
    timeline: &Timeline,
    facts: &TrialFacts,
    restoration: &Restoration,
    effective: Mono,
    until: Mono,
) -> Measured<Bounded> {
    let steady = || timeline.lanes.iter().filter(|lane| lane.purpose == Purpose::Steady);
    let lanes: Vec<Lane<'_>> = steady()
        .map(|lane| Lane {
            probe: &lane.probe,
            silent: timeline.last_span(lane, until).is_none(),
            spans: timeline.spans_within(lane, until, effective, until),
            holes: timeline.holes_of(lane, effective, until),
        })
        .collect();
    // The settle step ends somewhere between two samples, and the audit follows it: the last sample of all probes ends the
    // window, but never before settling began.
    let settled = match restoration {
        Restoration::Back(back) => back.steady.within.upper,
        Restoration::NotYet { .. } | Restoration::NoData { .. } => until,
    };
    let floor = facts.step(Step::Settle).unwrap_or(until).max(settled);
    let heard = steady()
        .filter_map(|lane| timeline.last_span(lane, until))
        .map(|span| span.last_known)
        .min()
        .unwrap_or(until);
    availability::share(&lanes, effective, heard.max(floor).min(until))
}

fn assertions(
    experiment: &Experiment,
    timeline: &Timeline,
    facts: &TrialFacts,
    effective: Mono,
    until: Mono,
) -> Vec<AssertionMeasure> {
    experiment
        .slos
        .assertions
        .iter()
        .map(|assertion| {
            let window = match assertion.when {
                When::During => Ok(Interval::between(effective, facts.step(Step::Revert).unwrap_or(until))),
                When::After => facts
                    .step(Step::Settle)
                    .map(|from| Interval::between(from, until))
                    .ok_or_else(|| no_data("the trial never settled")),
            };
            AssertionMeasure {
                name: assertion.probe.name.clone(),
                when: assertion.when,
                counts: window.and_then(|window| counts(timeline, &assertion.probe.name, window)),
            }
        })
        .collect()
}

/// Samples in the window; for watched probes the stretches that surely reach into it.
fn counts(timeline: &Timeline, name: &str, window: Interval) -> Measured<Counts> {
    let lane = timeline
        .lanes
        .iter()
        .find(|lane| lane.purpose == Purpose::Assertion && lane.probe.name == name)
        .ok_or_else(|| no_data("the probe is not part of the experiment"))?;
    let counts = lane
        .counts(window.lower, window.upper)
        .unwrap_or_else(|| stretches(timeline, lane, window));
    if counts.good + counts.bad == 0 {
        let why = counts
            .first_silent
            .unwrap_or_else(|| "not one sample in its window".to_owned());
        return Err(WhyNot::NoData { why });
    }
    Ok(counts)
}

fn stretches(timeline: &Timeline, lane: &crate::timeline::ProbeLane, window: Interval) -> Counts {
    let mut counts = Counts::default();
    for span in timeline.spans_within(lane, window.upper, window.lower, window.upper) {
        if span.entered.within.upper > window.upper || span.last_known < window.lower {
            continue;
        }
        if span.state == ProbeState::Bad {
            counts.bad += 1;
            counts.first_bad.get_or_insert(span.why);
        } else {
            counts.good += 1;
        }
    }
    for hole in timeline.holes_of(lane, window.lower, window.upper) {
        if hole.upper > window.lower && hole.lower < window.upper {
            counts.silent += 1;
            counts
                .first_silent
                .get_or_insert_with(|| "the watch was not connected".to_owned());
        }
    }
    counts
}

fn notes(
    timeline: &Timeline,
    facts: &TrialFacts,
    restoration: &Restoration,
    found: &[Replacement],
    until: Mono,
) -> Vec<String> {
    let mut notes = Vec::new();
    if let Restoration::Back(back) = restoration {
        if back.impact.is_none() {
            notes.push("the probes saw nothing: either the fault did no harm, or they are deaf to it".to_owned());
        }
        if back.flaps > 0 {
            notes.push(format!(
                "good stretches during the recovery that did not hold: {}",
                back.flaps
            ));
        }
        if back.relapses > 0 {
            notes.push(format!(
                "outages after service was restored, each of them over again: {}",
                back.relapses
            ));
        }
    }
    let begin = facts.steps.first().map_or(Mono(0), |(_, at)| *at);
    let mut said = BTreeSet::new();
    for gap in timeline.gaps() {
        // One watch may have followed several objects.
        if !said.insert((&gap.kind, gap.during.lower, gap.during.upper))
            || gap.during.upper < begin
            || gap.during.lower > until
        {
            continue;
        }
        let length = gap.during.upper.since(gap.during.lower).as_secs_f64();
        let lost = if gap.resumed {
            "resumed without loss"
        } else {
            "what happened in between is known only by its result"
        };
        notes.push(format!(
            "the watch of {} was not connected for {length:.1} s ({}): {lost}",
            gap.kind, gap.why
        ));
    }
    for (subject, from, why) in timeline.broken().filter(|(_, from, _)| *from <= until) {
        let seconds = until.since(from).as_secs_f64();
        let what = subject.unwrap_or("pods");
        notes.push(format!(
            "the watch of {what} broke {seconds:.1} s before the end ({why}) and was not heard of again: nothing is known from there on"
        ));
    }
    let broken = found.iter().filter(|found| !found.unharmed);
    let shortfall = broken.clone().filter(|found| found.pod.is_empty()).count();
    if shortfall > 0 {
        notes.push(format!(
            "no replacement was seen for {shortfall} of {} broken pods",
            broken.count()
        ));
    }
    notes
}
