//! The commit lane: batches that the ledger's sink has committed, as sampled.

use super::lane::{ProbeState, Span};
use super::moment::Moment;
use crate::model::{Interval, Mono};
use std::time::Duration;

/// One answered look at the commit log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    sent: Mono,
    received: Mono,
    committed: Option<u64>,
}

/// When service came back according to the ledger.
#[derive(Debug, Clone, PartialEq)]
pub enum FirstCommit {
    /// A batch was committed after the fault's effect.
    Seen {
        /// Its number.
        batch: u64,
        /// When.
        at: Moment,
    },
    /// None yet; known up to this instant.
    NotYet {
        /// Last look that still showed the old batch.
        known: Mono,
        /// Highest batch seen.
        batch: Option<u64>,
    },
    /// The commit log was not read after the fault.
    NoData {
        /// Why.
        why: String,
    },
}

/// Looks at the commit log, in the order in which they were sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommitLane {
    looks: Vec<Look>,
    /// Up to each look, that none was answered later than this. Only grows.
    answered: Vec<Mono>,
    /// Looks that showed more batches than those before them: place, batch, and when it was committed.
    rises: Vec<(usize, u64, Moment)>,
    failures: Vec<(Mono, String)>,
}

/// Good while the last commit is no older than `within`: the stretches that the looks so far add up to.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    within: Duration,
    spans: Vec<Span>,
    highest: Option<u64>,
    commit: Option<Interval>,
    first: Option<Look>,
    previous: Option<Look>,
}

impl CommitLane {
    /// Takes a look in. True when it was sent after all others, as looks nearly always are.
    pub(crate) fn add(&mut self, sent: Mono, received: Mono, committed: Option<u64>) -> bool {
        let before = |known: &Look| (known.sent, known.received) <= (sent, received);
        let newest = self.looks.last().is_none_or(before);
        let place = if newest {
            self.looks.len()
        } else {
            self.looks.partition_point(before)
        };
        self.looks.insert(
            place,
            Look {
                sent,
                received,
                committed,
            },
        );
        if !newest {
            self.answered.truncate(place);
            self.rises.retain(|(index, ..)| *index < place);
        }
        for index in self.answered.len()..self.looks.len() {
            self.count(index);
        }
        newest
    }

    /// Brings what is known up to each look up to this one.
    fn count(&mut self, index: usize) {
        let Some(look) = self.looks.get(index) else { return };
        let answered = self
            .answered
            .last()
            .map_or(look.received, |known| look.received.max(*known));
        self.answered.push(answered);
        let previous = index.checked_sub(1).and_then(|before| self.looks.get(before));
        let last = self.rises.last().map(|(_, batch, _)| *batch).or_else(|| self.before());
        if let (Some(batch), Some(made)) = (rise(look, last), previous.map(|previous| made(previous, look))) {
            self.rises.push((index, batch, made));
        }
    }

    /// What had been committed before anybody looked: nobody knows when.
    fn before(&self) -> Option<u64> {
        self.looks.first().and_then(|look| look.committed)
    }

    /// The newest look.
    pub(crate) fn latest(&self) -> Option<Look> {
        self.looks.last().copied()
    }

    pub(crate) fn fail(&mut self, sent: Mono, why: &str) {
        let place = self.failures.partition_point(|(known, _)| *known <= sent);
        self.failures.insert(place, (sent, why.to_owned()));
    }

    /// The first commit that was surely made after `effective`. A batch that was in flight at the fault and is seen by the first
    /// look afterwards counts as old.
    pub(crate) fn first_after(&self, effective: Mono) -> FirstCommit {
        let from = self.looks.partition_point(|look| look.sent < effective);
        let mut looks = self.looks.iter().skip(from);
        let Some(first) = looks.next() else {
            let why = self
                .failures
                .iter()
                .rev()
                .find(|(sent, _)| *sent >= effective)
                .map_or("no look at the commit log after the fault".to_owned(), |(_, why)| {
                    format!("the commit log could not be read: {why}")
                });
            return FirstCommit::NoData { why };
        };
        let mut known = first.sent;
        for look in looks {
            if let Some(batch) = look.committed
                && look.committed > first.committed
            {
                return FirstCommit::Seen {
                    batch,
                    at: Moment::midpoint(Interval {
                        lower: known,
                        upper: look.received,
                    }),
                };
            }
            known = look.sent;
        }
        FirstCommit::NotYet {
            known,
            batch: first.committed,
        }
    }

    /// The last commit seen by a look that ended before `effective`: its batch and when it was made.
    pub(crate) fn last_before(&self, effective: Mono) -> Option<(u64, Moment)> {
        // Up to here every look had been answered; from here on each is looked at.
        let whole = self.answered.partition_point(|answered| *answered <= effective);
        let rises = self.rises.partition_point(|(index, ..)| *index < whole);
        let mut last = rises
            .checked_sub(1)
            .and_then(|index| self.rises.get(index))
            .map(|(_, batch, made)| (*batch, *made));
        let mut previous = whole.checked_sub(1).and_then(|index| self.looks.get(index));
        let rest = self.looks.iter().skip(whole).take_while(|look| look.sent <= effective);
        for look in rest.filter(|look| look.received <= effective) {
            let known = last.map(|(batch, _)| batch).or_else(|| self.before());
            if let (Some(batch), Some(previous)) = (rise(look, known), previous) {
                last = Some((batch, made(previous, look)));
            }
            previous = Some(look);
        }
        last
    }

    /// The stretches of all looks so far.
    pub(crate) fn progress(&self, within: Duration) -> Progress {
        let mut progress = Progress::new(within);
        for look in &self.looks {
            progress.take(*look);
        }
        progress
    }

    /// When the newest answered look was sent, and the newest failure after it.
    pub(crate) fn newest(&self) -> (Option<Mono>, Option<&str>) {
        let look = self.looks.last().map(|look| look.sent);
        let failure = self
            .failures
            .last()
            .filter(|(sent, _)| look.is_none_or(|look| *sent > look))
            .map(|(_, why)| why.as_str());
        (look, failure)
    }
}

/// The batch of a look that showed more than `last`.
fn rise(look: &Look, last: Option<u64>) -> Option<u64> {
    look.committed.filter(|batch| last.is_none_or(|known| *batch > known))
}

/// Committed after the look that did not show it was sent.
fn made(previous: &Look, look: &Look) -> Moment {
    Moment::midpoint(Interval {
        lower: previous.sent,
        upper: look.received,
    })
}

impl Progress {
    pub(crate) fn new(within: Duration) -> Self {
        Self {
            within,
            spans: Vec::new(),
            highest: None,
            commit: None,
            first: None,
            previous: None,
        }
    }

    pub(crate) fn within(&self) -> Duration {
        self.within
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Takes the next look in.
    pub(crate) fn take(&mut self, look: Look) {
        let (within, spans) = (self.within, &mut self.spans);
        let Some(before) = self.previous.replace(look) else {
            self.highest = look.committed;
            self.first = Some(look);
            return;
        };
        if look.committed > self.highest {
            let made = Interval {
                lower: before.sent,
                upper: look.received,
            };
            if let Some(old) = self.commit
                && made.lower > old.upper.plus(within)
            {
                turn_bad(spans, old, within, made.lower);
            }
            turn_good(spans, made, look.sent);
            self.highest = look.committed;
            self.commit = Some(made);
        } else if let Some(old) = self.commit {
            if look.sent > old.upper.plus(within) {
                turn_bad(spans, old, within, look.sent);
            } else if let Some(last) = spans.last_mut() {
                last.last_known = look.sent.min(old.lower.plus(within));
            }
        } else if let Some(first) = self.first
            && look.sent.since(first.received) > within
        {
            let seen = Interval::exact(first.received);
            turn_bad(spans, seen, within, look.sent);
        }
        // Only the newest stretches change: one that ends, one that began and ended unseen, one that begins.
        for span in spans.iter_mut().rev().take(3) {
            span.last_heard = span.last_known;
        }
    }
}

fn turn_bad(spans: &mut Vec<Span>, old: Interval, within: Duration, known: Mono) {
    let why = format!("no commit for {:.1} s", known.since(old.upper).as_secs_f64());
    if let Some(last) = spans.last_mut() {
        if last.state == ProbeState::Bad {
            last.last_known = known;
            last.why = why;
            return;
        }
        last.last_known = old.lower.plus(within);
    }
    spans.push(Span {
        state: ProbeState::Bad,
        entered: Moment::midpoint(Interval {
            lower: old.lower.plus(within),
            upper: old.upper.plus(within),
        }),
        last_known: known,
        last_heard: known,
        why,
    });
}

fn turn_good(spans: &mut Vec<Span>, made: Interval, known: Mono) {
    match spans.last_mut() {
        Some(last) if last.state == ProbeState::Good => last.last_known = known,
        _ => spans.push(Span {
            state: ProbeState::Good,
            entered: Moment::midpoint(made),
            last_known: known,
            last_heard: known,
            why: String::new(),
        }),
    }
}
