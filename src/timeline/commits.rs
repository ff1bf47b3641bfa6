//! The commit lane: batches that the ledger's sink has committed, as sampled.

use super::lane::{ProbeState, Span};
use super::moment::Moment;
use crate::model::{Interval, Mono};
use std::time::Duration;

/// One answered look at the commit log.
#[derive(Debug, Clone, Copy)]
struct Look {
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
    failures: Vec<(Mono, String)>,
}

impl CommitLane {
    pub(crate) fn add(&mut self, sent: Mono, received: Mono, committed: Option<u64>) {
        let place = self
            .looks
            .partition_point(|known| (known.sent, known.received) <= (sent, received));
        self.looks.insert(
            place,
            Look {
                sent,
                received,
                committed,
            },
        );
    }

    pub(crate) fn fail(&mut self, sent: Mono, why: &str) {
        let place = self.failures.partition_point(|(known, _)| *known <= sent);
        self.failures.insert(place, (sent, why.to_owned()));
    }

    /// The first commit that was surely made after `effective`. A batch that was in flight at the fault and is seen by the first
    /// look afterwards counts as old.
    pub(crate) fn first_after(&self, effective: Mono) -> FirstCommit {
        let mut looks = self.looks.iter().filter(|look| look.sent >= effective);
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
        let mut last: Option<(u64, Moment)> = None;
        let mut previous: Option<Look> = None;
        for look in self.looks.iter().filter(|look| look.received <= effective) {
            if let Some(batch) = look.committed
                && last.is_none_or(|(known, _)| batch > known)
            {
                last = previous.map(|previous| {
                    (
                        batch,
                        Moment::midpoint(Interval {
                            lower: previous.sent,
                            upper: look.received,
                        }),
                    )
                });
            }
            previous = Some(*look);
        }
        last
    }

    /// Good while the last commit is no older than `within`.
    pub(crate) fn progress(&self, within: Duration) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut highest: Option<u64> = None;
        let mut commit: Option<Interval> = None;
        let mut previous: Option<Look> = None;
        for look in &self.looks {
            let Some(before) = previous.replace(*look) else {
                highest = look.committed;
                continue;
            };
            if look.committed > highest {
                let made = Interval {
                    lower: before.sent,
                    upper: look.received,
                };
                if let Some(old) = commit
                    && made.lower > old.upper.plus(within)
                {
                    turn_bad(&mut spans, old, within, made.lower);
                }
                turn_good(&mut spans, made, look.sent);
                highest = look.committed;
                commit = Some(made);
            } else if let Some(old) = commit {
                if look.sent > old.upper.plus(within) {
                    turn_bad(&mut spans, old, within, look.sent);
                } else if let Some(last) = spans.last_mut() {
                    last.last_known = look.sent.min(old.lower.plus(within));
                }
            } else if let Some(first) = self.looks.first()
                && look.sent.since(first.received) > within
            {
                let seen = Interval::exact(first.received);
                turn_bad(&mut spans, seen, within, look.sent);
            }
        }
        for span in &mut spans {
            span.last_heard = span.last_known;
        }
        spans
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
