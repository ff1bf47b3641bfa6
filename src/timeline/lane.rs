//! The life of one probe as stretches of good and bad, with what is not known about each edge.

use super::moment::{Moment, Receipt, Revisions};
use crate::evidence::Outcome;
use crate::model::{Interval, Mono};
use serde::Serialize;
use std::sync::OnceLock;
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

/// One answer of a sampled probe. There may be millions: what it said is kept once per change.
#[derive(Debug, Clone, Copy)]
struct Sample {
    sent: Mono,
    received: Mono,
    known_from: Mono,
    /// Place among the reasons.
    why: u32,
    state: ProbeState,
}

/// A run of samples of one state.
#[derive(Debug, Clone, Copy)]
struct Run {
    state: ProbeState,
    first_sent: Mono,
    first_received: Mono,
    last_sent: Mono,
    last_known: Mono,
    /// The newest instant that the runs before it spoke of.
    known_before: Option<Mono>,
    /// No run up to and with this one was entered or known later than this. Only grows from run to run.
    reach: Mono,
    why: u32,
}

/// Samples in the order in which they were sent, whatever the order of their answers (the schedule is open-loop).
#[derive(Debug, Clone, Default)]
pub(crate) struct SampledLane {
    samples: Vec<Sample>,
    runs: Vec<Run>,
    reasons: Vec<Box<str>>,
    /// Value of the newest sample.
    value: Option<f64>,
    /// The longest that an answer took.
    slowest: Duration,
    /// Asked for once per trial, and the same each time until a sample comes.
    holes: OnceLock<Vec<Interval>>,
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
        self.holes.take();
        self.slowest = self.slowest.max(received.since(sent));
        let sample = Sample {
            sent,
            received,
            known_from,
            state,
            why: self.reason(why),
        };
        if self
            .samples
            .last()
            .is_none_or(|known| (known.sent, known.received) <= (sent, received))
        {
            self.value = value;
            extend(&mut self.runs, &sample);
            self.samples.push(sample);
            return;
        }
        let place = self
            .samples
            .partition_point(|known| (known.sent, known.received) <= (sent, received));
        self.samples.insert(place, sample);
        // A late answer: the runs from there on are counted again. Those that ended before it stay.
        let before = self.runs.partition_point(|run| run.last_sent < sent);
        let mut kept = before.saturating_sub(1);
        // Of samples that were sent at one instant, some may belong to the run before.
        while let Some(((earlier, run), less)) = self.pair(kept)
            && earlier.last_sent >= run.first_sent
        {
            kept = less;
        }
        let from = match self.runs.get(kept) {
            Some(run) if before > 0 => run.first_sent,
            _ => Mono(i64::MIN),
        };
        self.runs.truncate(kept);
        let from = self.samples.partition_point(|known| known.sent < from);
        for sample in self.samples.get(from..).unwrap_or_default() {
            extend(&mut self.runs, sample);
        }
    }

    /// The run at `place`, the one before it, and the place of that.
    fn pair(&self, place: usize) -> Option<((&Run, &Run), usize)> {
        let less = place.checked_sub(1)?;
        Some(((self.runs.get(less)?, self.runs.get(place)?), less))
    }

    /// The place of these words: the same as that of the newest sample when it said the same.
    fn reason(&mut self, why: &str) -> u32 {
        if let Some(newest) = self.samples.last()
            && self.said(newest.why) == why
        {
            return newest.why;
        }
        let known = self.reasons.iter().rev().take(8).position(|known| **known == *why);
        let place = known.map_or(self.reasons.len(), |back| self.reasons.len() - 1 - back);
        if known.is_none() {
            self.reasons.push(why.into());
        }
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    fn said(&self, why: u32) -> &str {
        usize::try_from(why)
            .ok()
            .and_then(|place| self.reasons.get(place))
            .map_or("", |why| why)
    }

    fn span(&self, run: &Run) -> Span {
        let within = Interval {
            lower: run.known_before.unwrap_or(run.first_received).min(run.first_received),
            upper: run.first_received,
        };
        Span {
            state: run.state,
            entered: Moment::midpoint(within),
            last_known: run.last_known,
            last_heard: run.last_sent,
            why: self.said(run.why).to_owned(),
        }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.runs.iter().map(|run| self.span(run)).collect()
    }

    /// The stretches that may have to do with `[from, to]`: those entered by `to` and entered or known at `from` or later, and the
    /// last one entered by `to` in any case. Perhaps a few more at either end.
    pub(crate) fn spans_within(&self, from: Mono, to: Mono) -> Vec<Span> {
        let begun = self.begun(to);
        let last = begun.iter().rposition(|run| run.first_received <= to);
        let start = begun.partition_point(|run| run.reach < from);
        let start = last.map_or(start, |last| start.min(last));
        begun.iter().skip(start).map(|run| self.span(run)).collect()
    }

    /// The last stretch that was surely entered by `at`.
    pub(crate) fn span_at(&self, at: Mono) -> Option<Span> {
        let run = self.begun(at).iter().rev().find(|run| run.first_received <= at)?;
        Some(self.span(run))
    }

    /// The newest stretch.
    pub(crate) fn last(&self) -> Option<Span> {
        self.runs.last().map(|run| self.span(run))
    }

    /// Runs whose first sample was sent by `at`.
    fn begun(&self, at: Mono) -> &[Run] {
        let end = self.runs.partition_point(|run| run.first_sent <= at);
        self.runs.get(..end).unwrap_or_default()
    }

    /// Stretches between two neighbouring samples about which nothing is known: no answer, or none that is news for much longer
    /// than usual. `interval` is how often the probe asks, the same at each call.
    pub(crate) fn holes(&self, interval: Duration) -> &[Interval] {
        self.holes.get_or_init(|| self.find_holes(interval))
    }

    fn find_holes(&self, interval: Duration) -> Vec<Interval> {
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
        let mut steps: Vec<i64> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.state != ProbeState::NoData) {
            if let Some(before) = newest.filter(|before| sample.known_from > *before) {
                steps.push(sample.known_from.0.saturating_sub(before.0));
            }
            newest = newest.max(Some(sample.known_from));
        }
        let middle = steps.len() / 2;
        if steps.is_empty() {
            return Duration::ZERO;
        }
        let (_, median, _) = steps.select_nth_unstable(middle);
        Duration::from_micros(median.unsigned_abs())
    }

    /// The longest that an outage could have lasted between neighbouring answered samples that touch `[from, to]` without being
    /// seen: from what the first one speaks of to the receipt of the next.
    pub(crate) fn resolution(&self, from: Mono, to: Mono) -> Option<Duration> {
        // Whatever was sent before this was answered before `from`.
        let answered = from.minus(self.slowest);
        let first = self.samples.partition_point(|sample| sample.sent < answered);
        let (earlier, later) = self.samples.split_at_checked(first)?;
        let mut before = earlier.iter().rev().find(|sample| sample.state != ProbeState::NoData);
        let mut longest = None;
        for after in later.iter().filter(|sample| sample.state != ProbeState::NoData) {
            if let Some(before) = before {
                if before.sent > to {
                    break;
                }
                if after.received >= from {
                    longest = longest.max(Some(after.received.since(before.known_from)));
                }
            }
            before = Some(after);
        }
        longest
    }

    /// Good, bad and silent samples sent within, and what the first bad one said.
    pub(crate) fn count(&self, from: Mono, to: Mono) -> Counts {
        let mut counts = Counts::default();
        let first = self.samples.partition_point(|sample| sample.sent < from);
        let within = self.samples.iter().skip(first).take_while(|sample| sample.sent <= to);
        for sample in within {
            match sample.state {
                ProbeState::Good => counts.good += 1,
                ProbeState::Bad => {
                    counts.bad += 1;
                    counts.first_bad.get_or_insert_with(|| self.said(sample.why).to_owned());
                }
                ProbeState::NoData => {
                    counts.silent += 1;
                    counts
                        .first_silent
                        .get_or_insert_with(|| self.said(sample.why).to_owned());
                }
            }
        }
        counts
    }

    /// The newest sample: when it was sent, whether it was silent, what it said, its value.
    pub(crate) fn newest(&self) -> Option<(Mono, ProbeState, &str, Option<f64>)> {
        self.samples
            .last()
            .map(|sample| (sample.sent, sample.state, self.said(sample.why), self.value))
    }
}

fn extend(runs: &mut Vec<Run>, sample: &Sample) {
    if sample.state == ProbeState::NoData {
        return;
    }
    let reach = sample.received.max(sample.known_from);
    match runs.last_mut() {
        Some(run) if run.state == sample.state => {
            run.first_received = run.first_received.min(sample.received);
            run.last_sent = sample.sent;
            run.last_known = run.last_known.max(sample.known_from);
            run.reach = run.reach.max(sample.known_from);
            run.why = sample.why;
        }
        last => {
            let run = Run {
                state: sample.state,
                first_sent: sample.sent,
                first_received: sample.received,
                last_sent: sample.sent,
                last_known: sample.known_from,
                known_before: last
                    .as_ref()
                    .map(|last| last.known_before.max(Some(last.last_known)).unwrap_or(last.last_known)),
                reach: last.map_or(reach, |last| last.reach.max(reach)),
                why: sample.why,
            };
            runs.push(run);
        }
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
    /// When each point was entered, and how far it and those before it reach. Asked for several times per trial, and the same until
    /// a point or a revision comes.
    placed: OnceLock<Vec<(Moment, Mono)>>,
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
        self.placed.take();
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

    /// The clock that places the points has ticked.
    pub(crate) fn forget_places(&mut self) {
        self.placed.take();
    }

    fn placed(&self, revisions: &Revisions) -> &[(Moment, Mono)] {
        self.placed.get_or_init(|| {
            let mut floor: Option<Mono> = None;
            let mut placed: Vec<(Moment, Mono)> = self
                .points
                .iter()
                .map(|point| {
                    let placed = revisions.place(point.receipt);
                    // Events of one stream happened in its order.
                    let placed = floor.map_or(placed, |floor| placed.not_before(floor));
                    floor = Some(placed.within.lower);
                    (placed, placed.within.upper)
                })
                .collect();
            let ends: Vec<Mono> = placed.iter().skip(1).map(|(next, _)| next.within.lower).collect();
            let mut reach = Mono(i64::MIN);
            for (index, (_, own)) in placed.iter_mut().enumerate() {
                reach = reach.max(*own).max(ends.get(index).copied().unwrap_or(Mono(i64::MAX)));
                *own = reach;
            }
            placed
        })
    }

    fn span(&self, index: usize, placed: &[(Moment, Mono)], now: Mono, asked: Mono) -> Option<Span> {
        let point = self.points.get(index)?;
        let (entered, _) = *placed.get(index)?;
        Some(Span {
            state: point.state,
            entered,
            last_known: placed.get(index + 1).map_or(now, |(next, _)| next.within.lower),
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
    }

    /// `now`: how far the watch is known to have told everything; `asked`: whose reasons are wanted.
    pub(crate) fn spans(&self, revisions: &Revisions, now: Mono, asked: Mono) -> Vec<Span> {
        let placed = self.placed(revisions);
        (0..self.points.len())
            .filter_map(|index| self.span(index, placed, now, asked))
            .collect()
    }

    /// As [`SampledLane::spans_within`].
    pub(crate) fn spans_within(
        &self,
        revisions: &Revisions,
        (now, asked): (Mono, Mono),
        from: Mono,
        to: Mono,
    ) -> Vec<Span> {
        let placed = self.placed(revisions);
        let end = placed.partition_point(|(entered, _)| entered.within.lower <= to);
        let begun = placed.get(..end).unwrap_or_default();
        let last = begun.iter().rposition(|(entered, _)| entered.within.upper <= to);
        let start = begun.partition_point(|(_, reach)| *reach < from);
        let start = last.map_or(start, |last| start.min(last));
        (start..end)
            .filter_map(|index| self.span(index, placed, now, asked))
            .collect()
    }

    /// The last stretch that was surely entered by `at`.
    pub(crate) fn span_at(&self, revisions: &Revisions, (now, asked): (Mono, Mono), at: Mono) -> Option<Span> {
        let placed = self.placed(revisions);
        let end = placed.partition_point(|(entered, _)| entered.within.lower <= at);
        let begun = placed.get(..end).unwrap_or_default();
        let index = begun.iter().rposition(|(entered, _)| entered.within.upper <= at)?;
        self.span(index, placed, now, asked)
    }

    /// The newest stretch.
    pub(crate) fn last(&self, revisions: &Revisions, now: Mono, asked: Mono) -> Option<Span> {
        let index = self.points.len().checked_sub(1)?;
        self.span(index, self.placed(revisions), now, asked)
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
