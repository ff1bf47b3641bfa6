//! The fold itself: events in, lanes and facts out.

use super::commits::{CommitLane, FirstCommit, Progress};
use super::lane::{Counts, ProbeState, SampledLane, Span, WatchedLane};
use super::moment::{Moment, Receipt, Revisions};
use super::pods::PodTable;
use super::trial::TrialFacts;
use crate::evidence::{Event, Outcome, Seen};
use crate::experiment::{Check, Experiment, Probe};
use crate::model::{Interval, Mono, Role};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a probe is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Part of the steady state: must hold before, and again after.
    Steady,
    /// An assertion among the SLOs.
    Assertion,
    /// A stop condition.
    Stop,
}

#[derive(Debug, Clone)]
enum Lane {
    Sampled(SampledLane),
    Watched(WatchedLane),
    Progress(Progress),
}

#[derive(Debug, Clone)]
pub(crate) struct ProbeLane {
    pub(crate) probe: Probe,
    pub(crate) purpose: Purpose,
    /// How long it may be bad in all, when it is an error budget.
    pub(crate) budget: Option<Duration>,
    lane: Lane,
}

/// A watch that was not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// What was watched.
    pub kind: String,
    /// Whose watch: none for the target's pods, else as in `ResourceSeen`.
    pub subject: Option<String>,
    /// From the last receipt before to the first after.
    pub during: Interval,
    /// Resumed without loss.
    pub resumed: bool,
    /// Why it broke.
    pub why: String,
}

/// Bounds of `clock - runner's wall clock`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockOffset {
    /// Not below this, milliseconds.
    pub lower_ms: f64,
    /// Not above this.
    pub upper_ms: f64,
    /// Its bounds contradict each other, so one of the two clocks stepped: the bounds are then what lies between them.
    pub stepped: bool,
}

/// Everything that one experiment's events say, ready to be asked. Used live by the engine and again by the report, so that both
/// share one judgement.
#[derive(Debug, Clone)]
pub struct Timeline {
    pub(crate) has_ledger: bool,
    pub(crate) lanes: Vec<ProbeLane>,
    pub(crate) pods: PodTable,
    pub(crate) commits: CommitLane,
    pub(crate) revisions: Revisions,
    pub(crate) trials: Vec<TrialFacts>,
    pub(crate) gaps: Vec<Gap>,
    /// Watches that are broken now, by subject: last receipt, and why.
    broken: BTreeMap<Option<String>, (Mono, String)>,
    /// All exchanges with each clock intersected.
    pub(crate) offsets: BTreeMap<String, (f64, f64)>,
    /// Extremes of the runner's wall clock less its monotonic one, in milliseconds.
    pub(crate) wall_minus_mono: Option<(f64, f64)>,
    now: Mono,
}

impl Timeline {
    /// An empty timeline of this experiment.
    #[must_use]
    pub fn new(experiment: &Experiment) -> Self {
        let steady = experiment
            .steady_state
            .probes
            .iter()
            .map(|probe| (probe, Purpose::Steady, None));
        let assertions = experiment
            .slos
            .assertions
            .iter()
            .map(|assertion| (&assertion.probe, Purpose::Assertion, None));
        let stops = experiment
            .stop
            .iter()
            .map(|stop| (&stop.probe, Purpose::Stop, stop.budget));
        let lanes = steady
            .chain(assertions)
            .chain(stops)
            .map(|(probe, purpose, budget)| ProbeLane {
                probe: probe.clone(),
                purpose,
                budget,
                lane: match &probe.check {
                    Check::Pods { .. } | Check::Resource { .. } => Lane::Watched(WatchedLane::default()),
                    Check::Progress { within } => Lane::Progress(Progress::new(*within)),
                    _ => Lane::Sampled(SampledLane::default()),
                },
            })
            .collect();
        Self {
            has_ledger: experiment
                .ledger
                .as_ref()
                .is_some_and(|ledger| ledger.checkpoint.is_some()),
            lanes,
            pods: PodTable::default(),
            commits: CommitLane::default(),
            revisions: Revisions::default(),
            trials: Vec::new(),
            gaps: Vec::new(),
            broken: BTreeMap::new(),
            offsets: BTreeMap::new(),
            wall_minus_mono: None,
            now: Mono(0),
        }
    }

    /// Takes one event in. Events that say nothing about this experiment are ignored.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::TrialStarted { trial, control } => self.trials.push(TrialFacts {
                trial: *trial,
                control: *control,
                ..TrialFacts::default()
            }),
            Event::ProbeSample {
                probe,
                sent,
                received,
                known_from,
                outcome,
                value,
                ..
            } => self.sample(probe, (*sent, *received), known_from.unwrap_or(*sent), outcome, *value),
            Event::PodSeen {
                seen,
                at,
                not_before,
                pod,
            } => {
                self.see(*at);
                if let Some(receipt) = self.pods.apply(*seen, *at, *not_before, pod) {
                    self.count_pods(receipt);
                }
            }
            Event::ResourceSeen {
                subject,
                seen,
                at,
                not_before,
                resource_version,
                fields,
                ..
            } => self.resource(
                subject,
                *seen,
                fields,
                Receipt {
                    at: *at,
                    not_before: *not_before,
                    // What a list merged has no revision of its own.
                    revision: resource_version.filter(|_| !matches!(seen, Seen::Listed | Seen::Vanished)),
                    after: None,
                },
            ),
            Event::WatchBroken { subject, from, why, .. } => {
                self.broken.insert(subject.clone(), (*from, why.clone()));
            }
            Event::WatchGap {
                kind,
                subject,
                from,
                to,
                resumed,
                why,
            } => {
                self.see(*to);
                self.broken.remove(subject);
                self.gaps.push(Gap {
                    kind: kind.clone(),
                    subject: subject.clone(),
                    during: Interval::between(*from, *to),
                    resumed: *resumed,
                    why: why.clone(),
                });
            }
            Event::RevisionTick {
                sent,
                received,
                resource_version,
            } => {
                self.see(*received);
                self.revisions.add(*sent, *received, *resource_version);
                for lane in &mut self.lanes {
                    if let Lane::Watched(watched) = &mut lane.lane {
                        watched.forget_places();
                    }
                }
            }
            Event::LedgerSample {
                sent,
                received,
                committed,
                error,
                ..
            } => {
                self.see(*received);
                match error {
                    None => self.look(*sent, *received, *committed),
                    Some(why) => self.commits.fail(*sent, why),
                }
            }
            Event::ClockOffset {
                clock,
                lower_ms,
                upper_ms,
            } => {
                let known = self.offsets.entry(clock.clone()).or_insert((*lower_ms, *upper_ms));
                *known = (known.0.max(*lower_ms), known.1.min(*upper_ms));
            }
            Event::ClockPair { mono, wall_ms } => {
                let difference = wall_ms - mono.seconds() * 1e3;
                let (lower, upper) = self.wall_minus_mono.unwrap_or((difference, difference));
                self.wall_minus_mono = Some((lower.min(difference), upper.max(difference)));
            }
            _ => {}
        }
        if let Event::StepStarted { at, .. } | Event::TrialEnded { at, .. } = event {
            self.see(*at);
        }
        if let Some(trial) = self.trials.last_mut() {
            trial.apply(event);
        }
    }

    fn see(&mut self, at: Mono) {
        self.now = self.now.max(at);
    }

    fn sample(
        &mut self,
        name: &str,
        (sent, received): (Mono, Mono),
        known_from: Mono,
        outcome: &Outcome,
        value: Option<f64>,
    ) {
        self.see(received);
        for lane in &mut self.lanes {
            if lane.probe.name == name
                && let Lane::Sampled(samples) = &mut lane.lane
            {
                samples.add((sent, received), known_from, outcome, value);
            }
        }
    }

    fn look(&mut self, sent: Mono, received: Mono, committed: Option<u64>) {
        let newest = self.commits.add(sent, received, committed);
        for lane in &mut self.lanes {
            if let Lane::Progress(progress) = &mut lane.lane {
                match self.commits.latest().filter(|_| newest) {
                    Some(look) => progress.take(look),
                    // A late answer: everything is counted again.
                    None => *progress = self.commits.progress(progress.within()),
                }
            }
        }
    }

    fn count_pods(&mut self, receipt: Receipt) {
        for lane in &mut self.lanes {
            let Check::Pods { role, ready } = &lane.probe.check else {
                continue;
            };
            let Lane::Watched(watched) = &mut lane.lane else {
                continue;
            };
            let count = self.pods.ready_count(role.as_ref());
            let holds = u32::try_from(count).is_ok_and(|count| ready.holds(f64::from(count)));
            let state = if holds { ProbeState::Good } else { ProbeState::Bad };
            let why = if holds {
                String::new()
            } else {
                let noun = if count == 1 { "pod" } else { "pods" };
                format!("{count} ready {noun}, {ready} wanted")
            };
            watched.add(receipt, state, why);
        }
    }

    fn resource(&mut self, subject: &str, seen: Seen, fields: &BTreeMap<String, String>, receipt: Receipt) {
        self.see(receipt.at);
        for lane in &mut self.lanes {
            let Check::Resource { field, equals, .. } = &lane.probe.check else {
                continue;
            };
            if !lane.follows(Some(subject)) {
                continue;
            }
            let Lane::Watched(watched) = &mut lane.lane else {
                continue;
            };
            let short = field.rsplit('.').next().unwrap_or(field);
            let why = match (seen, fields.get(field)) {
                (Seen::Deleted | Seen::Vanished, _) => "the object is gone".to_owned(),
                (_, Some(value)) if value == equals => String::new(),
                (_, Some(value)) if value.is_empty() => format!("{short} is empty"),
                (_, Some(value)) => format!("{short} is {value}"),
                (_, None) => format!("{short} is not set"),
            };
            let state = if why.is_empty() {
                ProbeState::Good
            } else {
                ProbeState::Bad
            };
            let receipt = Receipt {
                after: watched.last_receipt(),
                ..receipt
            };
            watched.add(receipt, state, why);
        }
    }

    /// The latest instant that any event spoke of.
    #[must_use]
    pub fn now(&self) -> Mono {
        self.now
    }

    /// The trials so far.
    #[must_use]
    pub fn trials(&self) -> &[TrialFacts] {
        &self.trials
    }

    /// Watches that were not connected, and for how long.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Watches that are broken and were not heard of again: what (none for the target's pods), since when, and why.
    pub fn broken(&self) -> impl Iterator<Item = (Option<&str>, Mono, &str)> {
        self.broken
            .iter()
            .map(|(subject, (from, why))| (subject.as_deref(), *from, why.as_str()))
    }

    /// Number of member pods of `role` (of all roles when none is named) that are ready and not asked to go.
    #[must_use]
    pub fn ready_count(&self, role: Option<&Role>) -> usize {
        self.pods.ready_count(role)
    }

    /// The first commit surely made after `effective`.
    #[must_use]
    pub fn first_commit_after(&self, effective: Mono) -> FirstCommit {
        self.commits.first_after(effective)
    }

    /// The stretches of a probe up to now, in order; empty for a name that is not known or has no data.
    #[must_use]
    pub fn spans(&self, probe: &str) -> Vec<Span> {
        self.lanes
            .iter()
            .find(|lane| lane.probe.name == probe)
            .map(|lane| self.spans_of(lane, self.now))
            .unwrap_or_default()
    }

    fn spans_of(&self, lane: &ProbeLane, now: Mono) -> Vec<Span> {
        match &lane.lane {
            Lane::Sampled(samples) => samples.spans(),
            Lane::Watched(watched) => watched.spans(&self.revisions, self.told(lane, now), now),
            Lane::Progress(progress) => progress.spans().to_vec(),
        }
    }

    /// The stretches of a lane that may have to do with `[from, to]`, as seen from `now`: those entered by `to` and entered or
    /// known at `from` or later, and the last one entered by `to` in any case. Perhaps a few more at either end. A run of a
    /// thousand trials asks for each of them, so that this must not cost what all of them cost.
    pub(crate) fn spans_within(&self, lane: &ProbeLane, now: Mono, from: Mono, to: Mono) -> Vec<Span> {
        match &lane.lane {
            Lane::Sampled(samples) => samples.spans_within(from, to),
            Lane::Watched(watched) => watched.spans_within(&self.revisions, (self.told(lane, now), now), from, to),
            Lane::Progress(progress) => {
                let spans = progress.spans();
                let end = spans.partition_point(|span| span.entered.within.lower <= to);
                let begun = spans.get(..end).unwrap_or_default();
                let start = begun.partition_point(|span| span.entered.within.upper.max(span.last_known) < from);
                let last = begun.iter().rposition(|span| span.entered.within.upper <= to);
                let start = last.map_or(start, |last| start.min(last));
                begun.get(start..).unwrap_or_default().to_vec()
            }
        }
    }

    /// The last stretch of a lane that was surely entered by `at`, as seen from there.
    pub(crate) fn span_at(&self, lane: &ProbeLane, at: Mono) -> Option<Span> {
        match &lane.lane {
            Lane::Sampled(samples) => samples.span_at(at),
            Lane::Watched(watched) => watched.span_at(&self.revisions, (self.told(lane, at), at), at),
            Lane::Progress(progress) => {
                let spans = progress.spans();
                spans.iter().rev().find(|span| span.entered.within.upper <= at).cloned()
            }
        }
    }

    /// The newest stretch of a lane, whenever it began.
    pub(crate) fn last_span(&self, lane: &ProbeLane, now: Mono) -> Option<Span> {
        match &lane.lane {
            Lane::Sampled(samples) => samples.last(),
            Lane::Watched(watched) => watched.last(&self.revisions, self.told(lane, now), now),
            Lane::Progress(progress) => progress.spans().last().cloned(),
        }
    }

    /// How far a watch has told everything, as seen from `now` or from the newest event.
    fn told(&self, lane: &ProbeLane, now: Mono) -> Mono {
        self.heard(lane, now.max(self.now))
    }

    /// Until when a lane that follows a watch is known: a watch that is connected vouches for the present, a broken one only
    /// for its last receipt.
    pub(crate) fn heard(&self, lane: &ProbeLane, at: Mono) -> Mono {
        self.broken_watch(lane).map_or(at, |(from, _)| from.min(at))
    }

    /// Since when, and why, the watch behind this lane is broken.
    pub(crate) fn broken_watch(&self, lane: &ProbeLane) -> Option<(Mono, &str)> {
        self.broken
            .iter()
            .filter(|(subject, _)| lane.follows(subject.as_deref()))
            .map(|(_, (from, why))| (*from, why.as_str()))
            .min()
    }

    /// Stretches of a lane about which nothing is known although it has data before and after, as far as they lie within
    /// `[from, to]`.
    pub(crate) fn holes_of(&self, lane: &ProbeLane, from: Mono, to: Mono) -> Vec<Interval> {
        match &lane.lane {
            Lane::Sampled(samples) => {
                let holes = samples.holes(lane.probe.interval);
                let first = holes.partition_point(|hole| hole.upper <= from);
                let within = holes.iter().skip(first).take_while(|hole| hole.lower < to);
                within.copied().collect()
            }
            Lane::Watched(_) => self
                .gaps
                .iter()
                .filter(|gap| !gap.resumed && gap.during.upper > from && gap.during.lower < to)
                .filter(|gap| lane.follows(gap.subject.as_deref()))
                .map(|gap| gap.during)
                .collect(),
            Lane::Progress(_) => Vec::new(),
        }
    }

    /// Bounds of `clock - runner's wall clock` in milliseconds, all exchanges intersected; lower above upper when it stepped.
    pub(crate) fn clock_offset(&self, clock: &str) -> Option<(f64, f64)> {
        self.offsets.get(clock).copied()
    }

    /// The clocks that were compared with the runner's, and what is known of their offsets.
    pub fn clocks(&self) -> impl Iterator<Item = (&str, ClockOffset)> {
        self.offsets.iter().map(|(clock, (lower, upper))| {
            let stepped = lower > upper;
            let (lower, upper) = if stepped { (upper, lower) } else { (lower, upper) };
            let offset = ClockOffset {
                lower_ms: *lower,
                upper_ms: *upper,
                stepped,
            };
            (clock.as_str(), offset)
        })
    }

    /// Bounds of `wall - monotonic` of the runner in milliseconds: the extremes of all pairs, so that a slewed clock widens.
    pub(crate) fn wall_minus_mono(&self) -> Option<(f64, f64)> {
        self.wall_minus_mono
    }

    pub(crate) fn place(&self, receipt: Receipt) -> Moment {
        self.revisions.place(receipt)
    }
}

impl ProbeLane {
    /// Whether the watch of this subject feeds the probe.
    fn follows(&self, subject: Option<&str>) -> bool {
        match (&self.probe.check, subject) {
            (Check::Pods { .. }, None) => true,
            (Check::Resource { .. }, Some(subject)) => {
                self.probe.name == subject || (self.probe.check.is_own_object() && subject == "target")
            }
            _ => false,
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        matches!(self.lane, Lane::Watched(_))
    }

    pub(crate) fn is_sampled(&self) -> bool {
        matches!(self.lane, Lane::Sampled(_))
    }

    /// The longest outage that the lane could have missed in this window.
    pub(crate) fn resolution(&self, from: Mono, to: Mono) -> Option<Duration> {
        match &self.lane {
            Lane::Sampled(samples) => samples.resolution(from, to),
            Lane::Watched(_) | Lane::Progress(_) => None,
        }
    }

    pub(crate) fn counts(&self, from: Mono, to: Mono) -> Option<Counts> {
        match &self.lane {
            Lane::Sampled(samples) => Some(samples.count(from, to)),
            Lane::Watched(_) | Lane::Progress(_) => None,
        }
    }

    /// Newest sample, for sampled probes.
    pub(crate) fn newest(&self) -> Option<(Mono, ProbeState, &str, Option<f64>)> {
        match &self.lane {
            Lane::Sampled(samples) => samples.newest(),
            Lane::Watched(_) | Lane::Progress(_) => None,
        }
    }
}
