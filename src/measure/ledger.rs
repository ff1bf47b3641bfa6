//! Records in, records out. Lost, duplicated and late by multiset arithmetic over the final read.

use super::clock::ForeignClock;
use super::ranges::{Layer, sweep};
use crate::evidence::{AckedRange, SinkRead};
use crate::model::{Bounded, Interval, Measured, Mono, WhyNot};
use crate::timeline::{Audit, Moment, Timeline, TrialFacts};

/// What the audit found. Counts are of this trial: what an earlier audit of the experiment already reported is left out of
/// `lost` and `duplicated`.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerCounts {
    /// Tried by the producer, acknowledged or not; none when its log does not say.
    pub attempted: Option<u64>,
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
    /// In the final read although the producer never tried to write it. This and the next two need a log of attempts.
    pub unexpected: Option<u64>,
    /// Never acknowledged, yet in the final read.
    pub recovered: Option<u64>,
    /// Never acknowledged and not in the final read: nobody knows, and it is no loss.
    pub indeterminate: Option<u64>,
    /// Records behind a later record of the same key, when the data carry a key.
    pub reordered: Option<u64>,
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
const ACKED_BEFORE: usize = 2;
const FINAL_BEFORE: usize = 3;
const ATTEMPTED: usize = 4;
const ACKED_LATER: usize = 5;
const FIXED_LAYERS: usize = 6;

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
    let layers = layers(audit, final_read, earlier, before, &clock).map_err(|why| WhyNot::NoData { why })?;
    let newest = layers.get(FINAL).and_then(Layer::highest);
    let mut sums = Sums::default();
    let mut hits = Hits::of(audit);
    sweep(&layers, |piece| {
        let held = |layer: usize| piece.count(layer) > 0;
        let size = piece.size();
        let lost_before = held(ACKED_BEFORE) && !held(FINAL_BEFORE);
        let missing = held(ACKED) && !held(FINAL) && !lost_before;
        let pending = missing && !audit.drained && newest.is_none_or(|newest| piece.first > newest);
        let is_late = (0..earlier.len()).any(|read| {
            let layer = FIXED_LAYERS + 2 * read;
            held(layer) && !held(layer + 1)
        });
        let known = held(ACKED) || held(ACKED_LATER);
        let excess = |layer| piece.count(layer).saturating_sub(1);
        let new_excess = excess(FINAL).saturating_sub(excess(FINAL_BEFORE));
        for (holds, sum) in [
            (held(ACKED), &mut sums.produced),
            (held(ACKED) && held(FINAL), &mut sums.committed),
            (missing && !pending, &mut sums.lost),
            (pending, &mut sums.pending),
            (held(ACKED) && held(FINAL) && is_late, &mut sums.late),
            (held(FINAL) && !held(ACKED), &mut sums.unacknowledged),
            (known || held(ATTEMPTED), &mut sums.attempted),
            (held(FINAL) && !known && !held(ATTEMPTED), &mut sums.unexpected),
            (held(FINAL) && !known && held(ATTEMPTED), &mut sums.recovered),
            (!held(FINAL) && !known && held(ATTEMPTED), &mut sums.indeterminate),
        ] {
            if holds {
                *sum = sum.saturating_add(size);
            }
        }
        sums.duplicated = sums.duplicated.saturating_add(new_excess.saturating_mul(size));
        if missing && !pending {
            hits.add(piece.first, piece.last);
        }
    });
    let told = |sum: u64| audit.attempted.as_ref().map(|_| sum);
    let reordered_before = before.and_then(|before| before.reads.last()?.reordered).unwrap_or(0);
    Ok(LedgerCounts {
        attempted: told(sums.attempted),
        produced: sums.produced,
        committed: sums.committed,
        lost: sums.lost,
        pending: sums.pending,
        duplicated: sums.duplicated,
        late: sums.late,
        unacknowledged: sums.unacknowledged,
        unexpected: told(sums.unexpected),
        recovered: told(sums.recovered),
        indeterminate: told(sums.indeterminate),
        reordered: final_read.reordered.map(|all| all.saturating_sub(reordered_before)),
        lost_after_fault: clock
            .as_ref()
            .ok()
            .map(|clock| lost_after(&hits, *clock, outage.effect.within.upper)),
        during_outage: during(audit, &clock, outage),
        settled: settled(audit, &layers),
        uncommitted_files: final_read.uncommitted_files,
        rpo_seconds: age(&hits, &clock, outage.effect.within),
    })
}

/// Sums over the pieces, as in [`LedgerCounts`].
#[derive(Debug, Default)]
struct Sums {
    attempted: u64,
    produced: u64,
    committed: u64,
    lost: u64,
    pending: u64,
    duplicated: u64,
    late: u64,
    unacknowledged: u64,
    unexpected: u64,
    recovered: u64,
    indeterminate: u64,
}

/// The fixed layers, and two for each earlier read: what had surely been acknowledged when it began, and what it found.
fn layers(
    audit: &Audit,
    final_read: &SinkRead,
    earlier: &[SinkRead],
    before: Option<&Audit>,
    clock: &Result<ForeignClock, String>,
) -> Result<Vec<Layer>, String> {
    let read = |read: &SinkRead| Layer::of(&read.runs, read.packed.as_ref());
    let last_before = before.and_then(|before| before.reads.last());
    let mut layers = vec![
        acked(audit)?,
        read(final_read)?,
        before.map_or_else(|| Layer::of_numbers(None), acked)?,
        last_before.map_or_else(|| Layer::of_numbers(None), read)?,
        Layer::of_numbers(audit.attempted.as_ref())?,
        Layer::of_numbers(audit.acked_later.as_ref())?,
    ];
    for earlier in earlier {
        let known = audit
            .acked
            .iter()
            .filter(|range| {
                earlier.during.lower >= audit.acked_read.upper
                    || clock
                        .as_ref()
                        .is_ok_and(|clock| clock.place(acked_last_ms(range)).upper <= earlier.during.lower)
            })
            .map(|range| (range.first, range.last, 1))
            .collect();
        layers.push(Layer::Ranges(known));
        layers.push(read(earlier)?);
    }
    Ok(layers)
}

/// Batches that were committed during the audit. A sink without batches has had its time when it moved on while the audit waited, or
/// holds the newest acknowledged record already.
fn settled(audit: &Audit, layers: &[Layer]) -> bool {
    let advanced = match audit.reads.as_slice() {
        [first, .., last] if first.last_batch.is_none() && last.last_batch.is_none() => {
            let copies = |layer: usize| layers.get(layer).map_or(0, Layer::copies);
            let highest = |layer: usize| layers.get(layer).and_then(Layer::highest);
            copies(FINAL) > copies(FIXED_LAYERS + 1) || highest(FINAL) >= highest(ACKED)
        }
        [first, .., last] => last
            .last_batch
            .zip(Some(first.last_batch.map_or(0, |batch| batch + 1)))
            .is_some_and(|(last, next)| last > next),
        _ => false,
    };
    audit.drained || advanced
}

fn acked(audit: &Audit) -> Result<Layer, String> {
    match &audit.acked_ids {
        Some(numbers) => Layer::of_numbers(Some(numbers)),
        None => Ok(Layer::Ranges(
            audit.acked.iter().map(|range| (range.first, range.last, 1)).collect(),
        )),
    }
}

/// Latest acknowledgement that the range stands for.
fn acked_last_ms(range: &AckedRange) -> i64 {
    range.block.map_or(range.acked_ms, |block| block.acked_last_ms)
}

/// How many lost records each range of the producer's log holds.
#[derive(Debug)]
struct Hits<'a> {
    /// Ascending by first record, with their counts.
    ranges: Vec<(&'a AckedRange, u64)>,
    next: usize,
    /// Ranges that may reach to the next lost record.
    open: Vec<usize>,
}

impl<'a> Hits<'a> {
    fn of(audit: &'a Audit) -> Self {
        let mut ranges: Vec<(&AckedRange, u64)> = audit.acked.iter().map(|range| (range, 0)).collect();
        ranges.sort_by_key(|(range, _)| range.first);
        Self {
            ranges,
            next: 0,
            open: Vec::new(),
        }
    }

    /// Lost records, ascending from call to call.
    fn add(&mut self, first: u64, last: u64) {
        while let Some((range, _)) = self.ranges.get(self.next)
            && range.first <= last
        {
            self.open.push(self.next);
            self.next += 1;
        }
        let ranges = &mut self.ranges;
        self.open.retain(|index| {
            let Some((range, count)) = ranges.get_mut(*index) else {
                return false;
            };
            if range.last >= first {
                *count = count.saturating_add((last.min(range.last) - first.max(range.first)).saturating_add(1));
            }
            range.last > last
        });
    }

    fn hit(&self) -> impl Iterator<Item = (&'a AckedRange, u64)> + '_ {
        self.ranges.iter().copied().filter(|(_, count)| *count > 0)
    }
}

fn lost_after(hits: &Hits<'_>, clock: ForeignClock, effect: Mono) -> u64 {
    hits.hit()
        .filter(|(range, _)| clock.place(range.acked_ms).lower > effect)
        .map(|(_, count)| count)
        .fold(0, u64::saturating_add)
}

/// `max(0, fault - event time of the oldest lost record)`, zero when nothing is lost. Of a block the record may be the oldest or
/// the newest.
fn age(hits: &Hits<'_>, clock: &Result<ForeignClock, String>, effect: Interval) -> Measured<Bounded> {
    let Some(oldest) = hits.hit().map(|(range, _)| range.at_ms).min() else {
        return Ok(Bounded::exact(0.0));
    };
    let latest = hits
        .hit()
        .map(|(range, _)| range.block.map_or(range.at_ms, |block| block.at_last_ms))
        .min()
        .unwrap_or(oldest);
    match clock {
        Ok(clock) => Ok(effect.since(Interval {
            lower: clock.place(oldest).lower,
            upper: clock.place(latest).upper,
        })),
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
            clock.place(range.acked_ms).lower >= outage.effect.within.lower
                && clock.place(acked_last_ms(range)).upper <= outage.until
        })
        .map(|range| {
            let listed = range.last.saturating_sub(range.first).saturating_add(1);
            range.block.map_or(listed, |block| block.records)
        })
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
