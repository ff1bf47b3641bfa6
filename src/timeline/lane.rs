//! The life of one probe as stretches of good and bad, with what is not known about each edge.

use super::moment::{Moment, Receipt, Revisions};
use crate::evidence::Outcome;
use crate::model::{Interval, Mono};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// State of a probe at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeState {
    /// The condition holds.
    Good,
    /// It does not.
    Bad,
    /// Nothing (or nothing recent) is known.
    NoData,
}

/// A stretch of one state.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// `Good` or `Bad`.
    pub state: ProbeState,
    /// When the state was entered; for the first stretch of a lane, when it was first seen.
    pub entered: Moment,
    /// Last instant at which it was surely in this state.
    pub last_known: Mono,
    /// When it was last heard of; after `last_known` where the answers speak of older samples.
    pub last_heard: Mono,
    /// What was seen last when bad; empty when good.
    pub why: String,
}

/// One answer of a sampled probe.
#[derive(Debug, Clone)]
struct Sample {
    sent: Mono,
    received: Mono,
    known_from: Mono,
    state: ProbeState,
    why: Arc<str>,
    value: Option<f64>,
}

/// A run of samples of one state.
#[derive(Debug, Clone)]
struct Run {
    state: ProbeState,
    first_received: Mono,
    last_sent: Mono,
    last_known: Mono,
    why: Arc<str>,
}

/// Samples in the order in which they were sent, whatever the order of their answers (the schedule is open-loop).
#[derive(Debug, Clone, Default)]
pub(crate) struct SampledLane {
    samples: Vec<Sample>,
    runs: Vec<Run>,
}

impl SampledLane {
    /// Takes a sample in that was asked for and answered at these instants, and speaks of `known_from` or later.
    pub(crate) fn add(
        &mut self,
        (sent, received): (Mono, Mono),
        known_from: Mono,
        outcome: &Outcome,
        value: Option<f64>,
    ) {
        let (state, why) = match outcome {
            Outcome::Good => (ProbeState::Good, ""),
            Outcome::Bad { why } => (ProbeState::Bad, why.as_str()),
            Outcome::NoData { why } => (ProbeState::NoData, why.as_str()),
        };
        let why = match self.samples.last() {
            Some(last) if &*last.why == why => Arc::clone(&last.why),
            _ => Arc::from(why),
        };
        let sample = Sample {
            sent,
            received,
            known_from,
            state,
            why,
            value,
        };
        let place = self
            .samples
            .partition_point(|known| (known.sent, known.received) <= (sent, received));
        if place == self.samples.len() {
            extend(&mut self.runs, &sample);
            self.samples.push(sample);
            return;
        }
        self.samples.insert(place, sample);
        // A late answer: the runs from there on are counted again.
        self.runs.clear();
        for sample in &self.samples {
            extend(&mut self.runs, sample);
        }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut previous: Option<Mono> = None;
        self.runs
            .iter()
            .map(|run| {
                let within = Interval {
                    lower: previous.unwrap_or(run.first_received).min(run.first_received),
                    upper: run.first_received,
                };
                previous = previous.max(Some(run.last_known));
                Span {
                    state: run.state,
                    entered: Moment::midpoint(within),
                    last_known: run.last_known,
                    last_heard: run.last_sent,
                    why: run.why.to_string(),
                }
            })
            .collect()
    }

    /// Stretches between two neighbouring samples about which nothing is known: no answer, or none that is news for much longer
    /// than usual. `interval` is how often the probe asks.
    pub(crate) fn holes(&self, interval: Duration) -> Vec<Interval> {
        // Answers that speak of older samples bring news only as often as those are taken, and that is regular.
        let period = self.period();
        let longest = if period > interval {
            period.mul_f64(1.5)
        } else {
            interval.mul_f64(2.5)
        };
        let mut holes = Vec::new();
        let mut known: Option<Mono> = None;
        let mut silent = false;
        for sample in &self.samples {
            if sample.state == ProbeState::NoData {
                silent = true;
                continue;
            }
            if let Some(before) = known
                && (silent || sample.known_from.since(before) > longest)
            {
                holes.push(Interval::between(before, sample.known_from.max(before)));
            }
            known = known.max(Some(sample.known_from));
            silent = false;
        }
        holes
    }

    /// Median time between two samples that bring news; zero when there are none.
    fn period(&self) -> Duration {
        let mut newest: Option<Mono> = None;
        let mut steps = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.state != ProbeState::NoData) {
            if let Some(before) = newest.filter(|before| sample.known_from > *before) {
                steps.push(sample.known_from.since(before));
            }
            newest = newest.max(Some(sample.known_from));
        }
        steps.sort_unstable();
        steps.get(steps.len() / 2).copied().unwrap_or_default()
    }

    /// The longest that an outage could have lasted between neighbouring answered samples that touch `[from, to]` without being
    /// seen: from what the first one speaks of to the receipt of the next.
    pub(crate) fn resolution(&self, from: Mono, to: Mono) -> Option<Duration> {
        let known: Vec<&Sample> = self
            .samples
            .iter()
            .filter(|sample| sample.state != ProbeState::NoData)
            .collect();
        known
            .windows(2)
            .filter_map(|pair| match pair {
                [before, after] if after.received >= from && before.sent <= to => {
                    Some(after.received.since(before.known_from))
                }
                _ => None,
            })
            .max()
    }

    /// Good, bad and silent samples sent within, and what the first bad one said.
    pub(crate) fn count(&self, from: Mono, to: Mono) -> Counts {
        let mut counts = Counts::default();
        for sample in &self.samples {
            if sample.sent < from || sample.sent > to {
                continue;
            }
            match sample.state {
                ProbeState::Good => counts.good += 1,
                ProbeState::Bad => {
                    counts.bad += 1;
                    counts.first_bad.get_or_insert_with(|| sample.why.to_string());
                }
                ProbeState::NoData => {
                    counts.silent += 1;
                    counts.first_silent.get_or_insert_with(|| sample.why.to_string());
                }
            }
        }
        counts
    }

    /// The newest sample: when it was sent, whether it was silent, what it said, its value.
    pub(crate) fn newest(&self) -> Option<(Mono, ProbeState, &str, Option<f64>)> {
        self.samples
            .last()
            .map(|sample| (sample.sent, sample.state, &*sample.why, sample.value))
    }
}

fn extend(runs: &mut Vec<Run>, sample: &Sample) {
    if sample.state == ProbeState::NoData {
        return;
    }
    match runs.last_mut() {
        Some(run) if run.state == sample.state => {
            run.first_received = run.first_received.min(sample.received);
            run.last_sent = sample.sent;
            run.last_known = run.last_known.max(sample.known_from);
            run.why = Arc::clone(&sample.why);
        }
        _ => runs.push(Run {
            state: sample.state,
            first_received: sample.received,
            last_sent: sample.sent,
            last_known: sample.known_from,
            why: Arc::clone(&sample.why),
        }),
    }
}

/// Samples of a window, by state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Good ones.
    pub good: usize,
    /// Bad ones.
    pub bad: usize,
    /// Those that said nothing.
    pub silent: usize,
    /// What the first bad one said.
    pub first_bad: Option<String>,
    /// Why the first silent one was silent.
    pub first_silent: Option<String>,
}

/// A condition on watched objects: it changes only with an event.
#[derive(Debug, Clone, Default)]
pub(crate) struct WatchedLane {
    points: Vec<Point>,
    /// The newest receipt, also of events that changed nothing.
    last_receipt: Option<Mono>,
}

#[derive(Debug, Clone)]
struct Point {
    receipt: Receipt,
    state: ProbeState,
    /// What was seen, as it changed without a change of state.
    reasons: Vec<(Mono, String)>,
}

impl WatchedLane {
    /// The condition as it stands after an event.
    pub(crate) fn add(&mut self, receipt: Receipt, state: ProbeState, why: String) {
        self.last_receipt = self.last_receipt.max(Some(receipt.at));
        let reason = (receipt.at, why);
        if let Some(last) = self.points.last_mut() {
            if last.receipt.at == receipt.at {
                // Parts of one list: only the state after all of them was ever real.
                last.state = state;
                last.reasons = vec![reason];
                let repeated = match self.points.as_slice() {
                    [.., before, last] => before.state == last.state,
                    _ => false,
                };
                if repeated
                    && let Some(last) = self.points.pop()
                    && let Some(before) = self.points.last_mut()
                {
                    before.reasons.extend(last.reasons);
                }
                return;
            }
            if last.state == state {
                if last.reasons.last().is_none_or(|(_, known)| *known != reason.1) {
                    last.reasons.push(reason);
                }
                return;
            }
        }
        self.points.push(Point {
            receipt,
            state,
            reasons: vec![reason],
        });
    }

    pub(crate) fn last_receipt(&self) -> Option<Mono> {
        self.last_receipt
    }

    /// `now`: how far the watch is known to have told everything; `asked`: whose reasons are wanted.
    pub(crate) fn spans(&self, revisions: &Revisions, now: Mono, asked: Mono) -> Vec<Span> {
        let mut floor: Option<Mono> = None;
        let entered: Vec<Moment> = self
            .points
            .iter()
            .map(|point| {
                let placed = revisions.place(point.receipt);
                // Events of one stream happened in its order.
                let placed = floor.map_or(placed, |floor| placed.not_before(floor));
                floor = Some(placed.within.lower);
                placed
            })
            .collect();
        self.points
            .iter()
            .enumerate()
            .filter_map(|(index, point)| {
                Some(Span {
                    state: point.state,
                    entered: *entered.get(index)?,
                    last_known: entered.get(index + 1).map_or(now, |next| next.within.lower),
                    last_heard: now,
                    why: point
                        .reasons
                        .iter()
                        .rev()
                        .find(|(at, _)| *at <= asked)
                        .or(point.reasons.first())
                        .map(|(_, why)| why.clone())
                        .unwrap_or_default(),
                })
            })
            .collect()
    }
}
