//! Records in, records out. Lost, duplicated and late by multiset arithmetic over the final read.

use super::clock::ForeignClock;
use super::ranges::{Piece, Range, overlay};
use crate::model::{Bounded, Interval, Measured, Mono, WhyNot};
use crate::timeline::{Audit, Moment, Timeline, TrialFacts};

/// What the audit found. Counts are of this trial: what an earlier audit of the experiment already reported is left out of
/// `lost` and `duplicated`.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerCounts {
    /// Acknowledged by the producer.
    pub produced: u64,
    /// Acknowledged and in the final read.
    pub committed: u64,
    /// Acknowledged and not in the final read, although later records are (or the sink had caught up).
    pub lost: u64,
    /// Acknowledged, not in the final read, and nothing after them is either: perhaps only not processed yet.
    pub pending: u64,
    /// Copies beyond the first, acknowledged or not.
    pub duplicated: u64,
    /// In the final read, but missing from an earlier one that began after their acknowledgement.
    pub late: u64,
    /// In the final read without a known acknowledgement: written after the acknowledgements were read, or never answered.
    pub unacknowledged: u64,
    /// Lost records that were acknowledged only after the fault: a different bug than losing what was there.
    pub lost_after_fault: Option<u64>,
    /// Records surely acknowledged between fault and restoration.
    pub during_outage: Measured<u64>,
    /// The sink had caught up, or committed two further batches during the audit: what is missing then is lost, not late.
    pub settled: bool,
    /// Part files that no manifest names.
    pub uncommitted_files: u64,
    /// Age of the oldest lost record at the fault, in seconds.
    pub rpo_seconds: Measured<Bounded>,
}

/// The window in which records were at risk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) effect: Moment,
    pub(crate) until: Mono,
}

const ACKED: usize = 0;
const FINAL: usize = 1;
const LOST_BEFORE: usize = 2;
const EXCESS_BEFORE: usize = 3;
const FIXED_LAYERS: usize = 4;

/// Counts one trial's audit, given the audit before it.
pub(crate) fn count(
    timeline: &Timeline,
    trial: &TrialFacts,
    before: Option<&Audit>,
    outage: Outage,
) -> Measured<LedgerCounts> {
    if let Some(why) = &trial.unreadable {
        return Err(WhyNot::NoData {
            why: format!("the ledger could not be read: {why}"),
        });
    }
    let Some(audit) = &trial.audit else {
        return Err(WhyNot::NoData {
            why: "the ledger was not audited".to_owned(),
        });
    };
    let Some((final_read, earlier)) = audit.reads.split_last() else {
        return Err(WhyNot::NoData {
            why: "the sink was never read".to_owned(),
        });
    };
    let clock = ForeignClock::of(timeline, "producer");
    let mut layers: Vec<Vec<Range>> = vec![acked(audit), runs(&final_read.runs)];
    layers.push(before.map(lost_ranges).unwrap_or_default());
    layers.push(before.map(excess_ranges).unwrap_or_default());
    // Two layers per earlier read: what had surely been acknowledged when it began, and what it found.
    for read in earlier {
        let known = audit
            .acked
            .iter()
            .filter(|range| {
                read.during.lower >= audit.acked_read.upper
                    || clock
                        .as_ref()
                        .is_ok_and(|clock| clock.place(range.acked_ms).upper <= read.during.lower)
            })
            .map(|range| (range.first, range.last, 1))
            .collect();
        layers.push(known);
        layers.push(runs(&read.runs));
    }
    let pieces = overlay(&layers);
    let sum = |holds: &dyn Fn(&Piece) -> bool| -> u64 {
        pieces
            .iter()
            .filter(|piece| holds(piece))
            .map(Piece::size)
            .fold(0, u64::saturating_add)
    };
    let newest = pieces
        .iter()
        .rev()
        .find(|piece| piece.count(FINAL) > 0)
        .map(|piece| piece.last);
    let is_missing = |piece: &Piece| piece.count(ACKED) > 0 && piece.count(FINAL) == 0 && piece.count(LOST_BEFORE) == 0;
    let is_pending = |piece: &Piece| !audit.drained && newest.is_none_or(|newest| piece.first > newest);
    let is_lost = |piece: &Piece| is_missing(piece) && !is_pending(piece);
    let is_late = |piece: &Piece| {
        piece.count(FINAL) > 0
            && (0..earlier.len()).any(|read| {
                let layer = FIXED_LAYERS + 2 * read;
                piece.count(layer) > 0 && piece.count(layer + 1) == 0
            })
    };
    let lost: Vec<&Piece> = pieces.iter().filter(|piece| is_lost(piece)).collect();
    Ok(LedgerCounts {
        produced: sum(&|piece| piece.count(ACKED) > 0),
        committed: sum(&|piece| piece.count(ACKED) > 0 && piece.count(FINAL) > 0),
        lost: sum(&is_lost),
        pending: sum(&|piece| is_missing(piece) && is_pending(piece)),
        duplicated: pieces
            .iter()
            .map(|piece| {
                let excess = piece.count(FINAL).saturating_sub(1);
                let new = excess.saturating_sub(piece.count(EXCESS_BEFORE));
                new.saturating_mul(piece.size())
            })
            .fold(0, u64::saturating_add),
        late: sum(&is_late),
        unacknowledged: sum(&|piece| piece.count(ACKED) == 0 && piece.count(FINAL) > 0),
        lost_after_fault: clock
            .as_ref()
            .ok()
            .map(|clock| lost_after(audit, &lost, *clock, outage.effect.within.upper)),
        during_outage: during(audit, &clock, outage),
        settled: settled(audit),
        uncommitted_files: final_read.uncommitted_files,
        rpo_seconds: age(audit, &lost, &clock, outage.effect.within),
    })
}

fn settled(audit: &Audit) -> bool {
    let advanced = match audit.reads.as_slice() {
        [first, .., last] => last
            .last_batch
            .zip(Some(first.last_batch.map_or(0, |batch| batch + 1)))
            .is_some_and(|(last, next)| last > next),
        _ => false,
    };
    audit.drained || advanced
}

fn acked(audit: &Audit) -> Vec<Range> {
    audit.acked.iter().map(|range| (range.first, range.last, 1)).collect()
}

fn runs(runs: &[crate::evidence::SinkRun]) -> Vec<Range> {
    runs.iter().map(|run| (run.first, run.last, run.times)).collect()
}

fn lost_ranges(audit: &Audit) -> Vec<Range> {
    let read = audit.reads.last().map(|read| runs(&read.runs));
    overlay(&[acked(audit), read.unwrap_or_default()])
        .iter()
        .filter(|piece| piece.count(0) > 0 && piece.count(1) == 0)
        .map(|piece| (piece.first, piece.last, 1))
        .collect()
}

fn excess_ranges(audit: &Audit) -> Vec<Range> {
    let read = audit.reads.last().map(|read| runs(&read.runs));
    overlay(&[read.unwrap_or_default()])
        .iter()
        .filter_map(|piece| {
            let excess = u32::try_from(piece.count(0).checked_sub(1)?).unwrap_or(u32::MAX);
            (excess > 0).then_some((piece.first, piece.last, excess))
        })
        .collect()
}

/// Ranges of the producer's log that hold a lost record, and how many of it.
fn hit<'a>(audit: &'a Audit, lost: &'a [&Piece]) -> impl Iterator<Item = (&'a crate::evidence::AckedRange, u64)> {
    audit.acked.iter().filter_map(|range| {
        let from = lost.partition_point(|piece| piece.last < range.first);
        let count = lost
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(|piece| piece.first <= range.last)
            .map(|piece| piece.last.min(range.last) - piece.first.max(range.first) + 1)
            .fold(0, u64::saturating_add);
        (count > 0).then_some((range, count))
    })
}

fn lost_after(audit: &Audit, lost: &[&Piece], clock: ForeignClock, effect: Mono) -> u64 {
    hit(audit, lost)
        .filter(|(range, _)| clock.place(range.acked_ms).lower > effect)
        .map(|(_, count)| count)
        .fold(0, u64::saturating_add)
}

/// `max(0, fault - event time of the oldest lost record)`, zero when nothing is lost.
fn age(audit: &Audit, lost: &[&Piece], clock: &Result<ForeignClock, String>, effect: Interval) -> Measured<Bounded> {
    let Some(oldest) = hit(audit, lost).map(|(range, _)| range.at_ms).min() else {
        return Ok(Bounded::exact(0.0));
    };
    match clock {
        Ok(clock) => Ok(effect.since(clock.place(oldest))),
        Err(why) => Err(WhyNot::NotMeasurable { why: why.clone() }),
    }
}

fn during(audit: &Audit, clock: &Result<ForeignClock, String>, outage: Outage) -> Measured<u64> {
    let clock = clock
        .as_ref()
        .map_err(|why| WhyNot::NotMeasurable { why: why.clone() })?;
    Ok(audit
        .acked
        .iter()
        .filter(|range| {
            let at = clock.place(range.acked_ms);
            at.lower >= outage.effect.within.lower && at.upper <= outage.until
        })
        .map(|range| (range.last.saturating_sub(range.first)).saturating_add(1))
        .fold(0, u64::saturating_add))
}

impl LedgerCounts {
    /// Whether "nothing was lost" may be said at all.
    ///
    /// # Errors
    /// What is missing for it, as a sentence.
    pub fn conclusive(&self) -> Result<(), String> {
        if self.produced == 0 {
            return Err("no record was acknowledged: there was nothing to lose".to_owned());
        }
        if self.pending > 0 {
            return Err(format!(
                "{} acknowledged records had not been processed when the sink was last read",
                self.pending
            ));
        }
        if !self.settled {
            return Err("the sink had not caught up when it was last read".to_owned());
        }
        match &self.during_outage {
            Ok(0) => Err("no record was acknowledged during the outage: it was not put to the test".to_owned()),
            Ok(_) => Ok(()),
            Err(why) => Err(format!(
                "whether records were acknowledged during the outage is not known: {why}"
            )),
        }
    }
}
