//! What the engine asks while a trial runs and the report asks afterwards: does it hold, and is it back?

use super::commits::FirstCommit;
use super::fold::{ProbeLane, Purpose, Timeline};
use super::lane::{ProbeState, Span};
use super::moment::Moment;
use super::trial::TrialFacts;
use crate::evidence::Step;
use crate::model::{Interval, Mono};
use std::time::Duration;

/// How a probe stands at an instant.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeStatus {
    /// Name.
    pub probe: String,
    /// What it is asked for.
    pub purpose: Purpose,
    /// State.
    pub state: ProbeState,
    /// Since when, at the latest; none when nothing is known.
    pub since: Option<Mono>,
    /// It has been good for its hold time.
    pub holds: bool,
    /// What was seen when not good; empty when good.
    pub why: String,
    /// The newest value that was compared, where there is one.
    pub value: Option<f64>,
}

/// Service is back.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// When it was restored: the first instant of the stretch that then held.
    pub restored: Moment,
    /// When every probe had been good for its hold time.
    pub steady: Moment,
    /// The first symptom; none when no probe went bad.
    pub impact: Option<Moment>,
    /// The commit that showed the data flowing again, when there is a ledger.
    pub first_commit: Option<u64>,
    /// Good stretches between fault and restoration that did not hold.
    pub flaps: usize,
    /// Outages after restoration that ended again.
    pub relapses: usize,
    /// Seconds within which an outage could have gone unseen, when no probe saw any.
    pub resolution: Option<Duration>,
}

/// Whether service came back after a trial's fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Restoration {
    /// It did, and held.
    Back(Recovered),
    /// Not as far as was watched.
    NotYet {
        /// Which probes do not hold, and what they saw.
        why: Vec<String>,
        /// Last instant at which it was surely not restored.
        known: Mono,
        /// The first symptom, if any probe went bad.
        impact: Option<Moment>,
    },
    /// Nothing can be said.
    NoData {
        /// Which probe said nothing.
        why: String,
    },
}

impl Timeline {
    /// How every probe stands at `at`, which is now or earlier.
    #[must_use]
    pub fn probe_states(&self, at: Mono) -> Vec<ProbeStatus> {
        self.lanes.iter().map(|lane| self.status(lane, at)).collect()
    }

    fn status(&self, lane: &ProbeLane, at: Mono) -> ProbeStatus {
        let newest = lane.newest();
        let mut status = ProbeStatus {
            probe: lane.probe.name.clone(),
            purpose: lane.purpose,
            state: ProbeState::NoData,
            since: None,
            holds: false,
            why: "no data yet".to_owned(),
            value: newest.and_then(|(.., value)| value),
        };
        let Some(span) = self.span_at(lane, at) else {
            if let Some((_, ProbeState::NoData, why, _)) = newest {
                why.clone_into(&mut status.why);
            } else if let (_, Some(why)) = self.commits.newest()
                && !lane.is_sampled()
                && !lane.is_watched()
            {
                status.why = format!("the commit log cannot be read: {why}");
            } else if lane.is_watched() && self.pods.is_empty() {
                "nothing seen by the watch yet".clone_into(&mut status.why);
            }
            return status;
        };
        let known = span.last_known.min(at);
        if let Some((from, why)) = self
            .broken_watch(lane)
            .filter(|(from, _)| *from < at && lane.is_watched())
        {
            let silence = at.since(from).as_secs_f64();
            status.why = format!("nothing seen for {silence:.1} s, the watch is broken: {why}");
            return status;
        }
        let heard = span.last_heard.min(at);
        if at.since(heard) > patience(lane) {
            let silence = at.since(heard).as_secs_f64();
            status.why = match newest {
                Some((_, ProbeState::NoData, why, _)) => {
                    format!("no data for {silence:.1} s: {why}")
                }
                _ => format!("no data for {silence:.1} s"),
            };
            return status;
        }
        status.state = span.state;
        status.since = Some(span.entered.within.upper);
        status.why.clone_from(&span.why);
        if span.state == ProbeState::Good {
            let end = if lane.is_watched() { at } else { known };
            status.holds = end.since(span.entered.within.upper) >= lane.probe.hold;
        }
        status
    }

    /// Whether every probe of the steady state has been good for its hold time.
    ///
    /// # Errors
    /// One sentence per probe that does not hold: its name and what it saw.
    pub fn steady(&self, at: Mono) -> Result<(), Vec<String>> {
        let why: Vec<String> = self
            .probe_states(at)
            .into_iter()
            .filter(|status| status.purpose == Purpose::Steady && !status.holds)
            .map(|status| {
                if status.state == ProbeState::Good {
                    let held = at.since(status.since.unwrap_or(at)).as_secs_f64();
                    format!("{}: good for only {held:.1} s", status.probe)
                } else {
                    format!("{}: {}", status.probe, status.why)
                }
            })
            .collect();
        if why.is_empty() { Ok(()) } else { Err(why) }
    }

    /// The stop condition that is met at `at`, if any: a stop probe bad for its hold time, or an error budget that is spent.
    #[must_use]
    pub fn stop_condition(&self, at: Mono) -> Option<String> {
        self.lanes
            .iter()
            .filter(|lane| lane.purpose == Purpose::Stop)
            .find_map(|lane| {
                let status = self.status(lane, at);
                if let Some(budget) = lane.budget {
                    let spent = self.surely_bad(lane, at);
                    return (spent > budget).then(|| {
                        format!(
                            "{}: bad for {:.1} s in all since the injection, the error budget is {:.1} s",
                            status.probe,
                            spent.as_secs_f64(),
                            budget.as_secs_f64()
                        )
                    });
                }
                let since = status.since?;
                (status.state == ProbeState::Bad && at.since(since) >= lane.probe.hold)
                    .then(|| format!("{}: {}", status.probe, status.why))
            })
    }

    /// How long a probe was bad in all since the injection, without what is only possible at the edges.
    fn surely_bad(&self, lane: &ProbeLane, at: Mono) -> Duration {
        let Some(from) = self.trials.last().and_then(TrialFacts::requested) else {
            return Duration::ZERO;
        };
        let spans = self.spans_within(lane, at, from, at);
        spans
            .iter()
            .enumerate()
            .filter(|(_, span)| span.state == ProbeState::Bad)
            .map(|(index, span)| {
                let next = spans.get(index + 1).map(|next| next.entered.within.lower);
                let end = next.unwrap_or(if lane.is_watched() { at } else { span.last_known });
                end.min(at).since(span.entered.within.upper.max(from))
            })
            .sum()
    }

    /// The newest commit of the ledger seen until `at`: its batch, and when it was made.
    #[must_use]
    pub fn last_commit(&self, at: Mono) -> Option<(u64, Interval)> {
        self.commits.last_before(at).map(|(batch, made)| (batch, made.within))
    }

    /// Service restored after the current trial's fault, as far as is known at `at`. None until every proven target's effect is
    /// in, every probe is back and has held, and (with a ledger) a batch was committed after the effect.
    #[must_use]
    pub fn recovered(&self, at: Mono) -> Option<Recovered> {
        match self.restoration(self.trials.last()?, at) {
            Restoration::Back(recovered) => Some(recovered),
            Restoration::NotYet { .. } | Restoration::NoData { .. } => None,
        }
    }

    /// The same for any trial, with the reasons when it is not back. `at` is the end of what is looked at.
    #[must_use]
    pub fn restoration(&self, trial: &TrialFacts, at: Mono) -> Restoration {
        let (Some(effect), Some(effective)) = (trial.effect(), trial.effective()) else {
            return Restoration::NoData {
                why: "the fault's effect was not observed".to_owned(),
            };
        };
        let horizon = trial.step(Step::Revert).unwrap_or(at).min(at);
        let mut sum = Sum::new(effect, effective);
        for lane in &self.lanes {
            if lane.purpose == Purpose::Steady {
                let spans: Vec<Span> = self
                    .spans_within(lane, at, effect.within.lower, at)
                    .into_iter()
                    .filter(|span| span.entered.within.upper <= at)
                    .collect();
                let heard = self.heard(lane, at);
                sum.lane(lane, &spans, horizon, heard, trial.step(Step::Baseline));
            }
        }
        if self.has_ledger {
            sum.commit(self.commits.first_after(effective), at);
        }
        // A symptom may still come: timeouts, queues that fill up. Service that holds only under the fault is not the claim.
        if let Some(fault) = trial.kept_up() {
            sum.not_yet(
                format!("the fault {} is still kept up", fault.name),
                effect.within.lower,
            );
        }
        sum.finish()
    }
}

/// How old the newest knowledge of a lane may be. A watch speaks only when something happens.
fn patience(lane: &ProbeLane) -> Duration {
    if lane.is_watched() {
        Duration::MAX
    } else {
        lane.probe.interval * 3 + lane.probe.timeout
    }
}

/// What the newest sample said, when it said nothing of the probe's condition.
fn reason_of_silence(lane: &ProbeLane) -> String {
    match lane.newest() {
        Some((_, ProbeState::NoData, why, _)) if !why.is_empty() => format!(" ({why})"),
        _ => String::new(),
    }
}

/// What the lanes add up to.
struct Sum {
    effect: Moment,
    effective: Mono,
    restored: Moment,
    steady: Moment,
    impact: Option<Moment>,
    first_commit: Option<u64>,
    flaps: usize,
    relapses: usize,
    resolution: Option<Duration>,
    bad: Vec<String>,
    known: Option<Mono>,
    silent: Option<String>,
}

impl Sum {
    fn new(effect: Moment, effective: Mono) -> Self {
        Self {
            effect,
            effective,
            restored: effect,
            steady: effect,
            impact: None,
            first_commit: None,
            flaps: 0,
            relapses: 0,
            resolution: None,
            bad: Vec::new(),
            known: None,
            silent: None,
        }
    }

    fn not_yet(&mut self, why: String, known: Mono) {
        self.bad.push(why);
        self.known = self.known.max(Some(known));
    }

    fn lane(&mut self, lane: &ProbeLane, spans: &[Span], horizon: Mono, at: Mono, since: Option<Mono>) {
        let floor = self.effect.within.lower;
        let name = &lane.probe.name;
        // A stretch that was bad when the fault came, or turned bad afterwards.
        let outage =
            |span: &Span| span.state == ProbeState::Bad && span.entered.within.upper.max(span.last_known) >= floor;
        let confirmed = |span: &Span| span.last_known.min(at).since(span.entered.within.upper) >= lane.probe.hold;
        let Some(last) = spans.last() else {
            let from = since.map_or(String::new(), |_| " after the fault".to_owned());
            self.silent
                .get_or_insert_with(|| format!("{name} gave no sample{from}{}", reason_of_silence(lane)));
            return;
        };
        if let Some(first) = spans.iter().find(|span| outage(span)) {
            let symptom = first.entered.not_before(floor);
            self.impact = Some(self.impact.map_or(symptom, |known| known.earlier(symptom)));
        }
        let last_outage = spans
            .iter()
            .rposition(|span| outage(span) && span.entered.within.lower <= horizon);
        let Some(last_outage) = last_outage else {
            self.unharmed(lane, last, at);
            return;
        };
        self.flaps += spans
            .get(..last_outage)
            .unwrap_or_default()
            .iter()
            .filter(|span| span.state == ProbeState::Good && span.entered.within.lower >= floor)
            .count();
        let after = spans.get(last_outage + 1..).unwrap_or_default();
        // Outages after the observed recovery: they must have ended for service to count as restored.
        self.relapses += after.iter().filter(|span| outage(span)).count();
        let Some(back) = after.iter().find(|span| span.state == ProbeState::Good) else {
            self.not_yet(format!("{name}: {}", last.why), last.last_known.min(at));
            return;
        };
        if last.state == ProbeState::Bad {
            self.not_yet(format!("{name}: bad again: {}", last.why), last.last_known.min(at));
            return;
        }
        if !confirmed(back) && !confirmed(last) {
            let held = last.last_known.min(at).since(last.entered.within.upper);
            self.not_yet(
                format!("{name}: good again, but only for {:.1} s so far", held.as_secs_f64()),
                last.entered.within.lower,
            );
            return;
        }
        let back = if confirmed(back) { back } else { last };
        let entered = back.entered.not_before(floor);
        self.restored = self.restored.later(entered);
        self.hold(entered, lane.probe.hold);
    }

    /// No symptom on this lane. It must have been heard after the fault for that to mean something.
    fn unharmed(&mut self, lane: &ProbeLane, last: &Span, at: Mono) {
        let heard = if lane.is_watched() { at } else { last.last_known };
        let wait = if lane.is_watched() {
            lane.probe.hold
        } else {
            lane.probe.hold.max(lane.probe.interval * 2)
        };
        if heard <= self.effective {
            self.silent.get_or_insert_with(|| {
                let reason = reason_of_silence(lane);
                format!("{} gave no sample after the fault{reason}", lane.probe.name)
            });
        } else if heard.since(self.effective) < wait {
            self.not_yet(
                format!(
                    "{}: seen good for only {:.1} s after the fault so far",
                    lane.probe.name,
                    heard.since(self.effective).as_secs_f64()
                ),
                self.effect.within.lower,
            );
        } else {
            self.resolution = self.resolution.max(lane.resolution(self.effect.within.lower, heard));
            self.hold(self.effect, lane.probe.hold);
        }
    }

    fn commit(&mut self, first: FirstCommit, at: Mono) {
        match first {
            FirstCommit::Seen { batch, at: made } if made.within.upper <= at => {
                self.first_commit = Some(batch);
                self.restored = self.restored.later(made);
                self.steady = self.steady.later(made);
            }
            FirstCommit::Seen { at: made, .. } => {
                self.not_yet("no batch was committed yet".to_owned(), made.within.lower);
            }
            FirstCommit::NotYet { known, batch } => {
                let batch = batch.map_or("none before".to_owned(), |batch| format!("the last is batch {batch}"));
                self.not_yet(
                    format!("no batch was committed after the fault ({batch})"),
                    known.min(at),
                );
            }
            FirstCommit::NoData { why } => {
                self.silent.get_or_insert(why);
            }
        }
    }

    fn hold(&mut self, entered: Moment, hold: Duration) {
        let mut steady = entered;
        steady.within.lower = steady.within.lower.plus(hold);
        steady.within.upper = steady.within.upper.plus(hold);
        steady.best = steady.best.plus(hold);
        self.steady = self.steady.later(steady);
    }

    fn finish(self) -> Restoration {
        if let Some(known) = self.known {
            return Restoration::NotYet {
                why: self.bad,
                known,
                impact: self.impact,
            };
        }
        if let Some(why) = self.silent {
            return Restoration::NoData { why };
        }
        Restoration::Back(Recovered {
            restored: self.restored,
            steady: self.steady.later(self.restored),
            impact: self.impact,
            first_commit: self.first_commit,
            flaps: self.flaps,
            relapses: self.relapses,
            resolution: self.resolution.filter(|_| self.impact.is_none()),
        })
    }
}
