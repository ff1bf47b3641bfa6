//! A control trial: everything but the fault. What it shows is there without us (measurement.md 2.2 row 24).

use super::ledger::{self, LedgerCounts, Outage};
use crate::evidence::{Step, TrialEnd};
use crate::experiment::Experiment;
use crate::model::{Interval, Measured, Mono, WhyNot};
use crate::timeline::{Audit, Moment, ProbeState, Purpose, Timeline, TrialFacts};

/// What a control trial saw.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlMeasures {
    /// Its number among all trials.
    pub trial: u32,
    /// Why it says nothing.
    pub spoiled: Option<WhyNot>,
    /// How it ended; none when the log ends first.
    pub end: Option<TrialEnd>,
    /// How long the probes were watched, seconds.
    pub watched: f64,
    /// Outages that nobody caused.
    pub outages: Vec<ControlOutage>,
    /// The ledger, when there is one.
    pub ledger: Option<Measured<LedgerCounts>>,
}

/// A stretch in which a probe of the steady state was bad without a fault.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlOutage {
    /// The probe.
    pub probe: String,
    /// For how long at least, seconds.
    pub seconds: f64,
    /// What it saw.
    pub why: String,
}

impl ControlMeasures {
    /// A sentence on what went wrong without a fault, if anything did.
    #[must_use]
    pub fn outage(&self) -> Option<String> {
        let worst = self.outages.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
        Some(format!(
            "{} was bad for {:.1} s in control trial {}, without any fault: {}",
            worst.probe, worst.seconds, self.trial, worst.why
        ))
    }

    /// Why it says nothing, if that is so: what nobody saw is no proof that nothing happened.
    #[must_use]
    pub fn silence(&self) -> Option<String> {
        // One that ended early ends the experiment, which says so itself.
        let unread = self.ledger.as_ref().and_then(|ledger| ledger.as_ref().err());
        let why = self.spoiled.as_ref().or(unread);
        let why = why.filter(|_| self.end == Some(TrialEnd::Completed))?;
        Some(format!("control trial {} says nothing: {why}", self.trial))
    }

    /// Records that went missing or were doubled without a fault.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let Some(Ok(counts)) = &self.ledger else { return None };
        (counts.lost > 0 || counts.duplicated > 0).then(|| {
            format!(
                "{} records were lost and {} doubled in control trial {}, without any fault",
                counts.lost, counts.duplicated, self.trial
            )
        })
    }
}

/// Measures one control trial; `before` as in [`super::trial`].
#[must_use]
pub fn control(
    experiment: &Experiment,
    timeline: &Timeline,
    facts: &TrialFacts,
    before: Option<&Audit>,
) -> ControlMeasures {
    let until = facts.end.as_ref().map_or(timeline.now(), |(_, at)| *at);
    let from = facts.step(Step::Observe);
    let ended = spoiled(facts, from);
    let from = from.unwrap_or(until);
    let to = facts.step(Step::Revert).unwrap_or(until);
    let outages = outages(timeline, from, to, until);
    let spoiled = ended.or_else(|| {
        // Not steady, and yet no probe was bad: there was no answer.
        let why = timeline.steady(to).err().filter(|_| outages.is_empty())?;
        Some(WhyNot::NoData { why: why.join("; ") })
    });
    ControlMeasures {
        trial: facts.trial,
        end: facts.end.as_ref().map(|(end, _)| end.clone()),
        watched: to.since(from).as_secs_f64(),
        outages,
        ledger: experiment.ledger.as_ref().map(|_| match &spoiled {
            Some(why) => Err(why.clone()),
            None => {
                let effect = Moment::midpoint(Interval::exact(from));
                ledger::count(timeline, facts, before, Outage { effect, until: to })
            }
        }),
        spoiled,
    }
}

fn spoiled(facts: &TrialFacts, from: Option<Mono>) -> Option<WhyNot> {
    let why = match facts.end.as_ref().map(|(end, _)| end) {
        Some(TrialEnd::Refused { why }) => format!("refused: {why}"),
        Some(TrialEnd::Errored { why } | TrialEnd::Aborted { why }) => why.clone(),
        None => "the log stops before the trial ended".to_owned(),
        Some(TrialEnd::Completed) if from.is_none() => "nothing was observed".to_owned(),
        Some(TrialEnd::Completed) => return None,
    };
    Some(WhyNot::EndedEarly { why })
}

fn outages(timeline: &Timeline, from: Mono, to: Mono, until: Mono) -> Vec<ControlOutage> {
    let mut outages = Vec::new();
    for lane in timeline.lanes.iter().filter(|lane| lane.purpose == Purpose::Steady) {
        let spans = timeline.spans_within(lane, until, from, until);
        for (index, span) in spans.iter().enumerate() {
            if span.state != ProbeState::Bad || span.entered.within.upper < from || span.entered.within.lower > to {
                continue;
            }
            let next = spans.get(index + 1).map(|next| next.entered.within.lower);
            let end = next.unwrap_or(span.last_known).min(until);
            outages.push(ControlOutage {
                probe: lane.probe.name.clone(),
                seconds: end.since(span.entered.within.upper).as_secs_f64(),
                why: span.why.clone(),
            });
        }
    }
    outages
}
