//! Records in, records out, by name: the classes of Jepsen's `set` and `total-queue` checkers (with duplicates counted as multisets).
//!
//! For lists that fit in memory; the ledger of a run counts the same classes over ranges (`crate::measure`), which a test compares.

use super::error::{Undefined, finite};
use std::collections::{BTreeMap, BTreeSet};

/// A record that a producer tried to hand over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempt {
    /// Its number, unique per producer.
    pub id: u64,
    /// Event time, seconds.
    pub time: f64,
    /// The producer was told that it is durable.
    pub acknowledged: bool,
}

/// What became of the records.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Classes {
    /// How many were attempted.
    pub attempted: u64,
    /// How many of them were acknowledged.
    pub acknowledged: u64,
    /// Attempted, and in the final read.
    pub ok: Vec<u64>,
    /// Acknowledged, and not in the final read.
    pub lost: Vec<u64>,
    /// Not acknowledged, and yet in the final read.
    pub recovered: Vec<u64>,
    /// In the final read, and never attempted.
    pub unexpected: Vec<u64>,
    /// How often those were in the final read that were in it more than once.
    pub duplicated: BTreeMap<u64, u64>,
    /// Missing from an earlier read, and in the final one.
    pub late: Vec<u64>,
    /// Neighbours in the final read whose numbers go down.
    pub inversions: u64,
    /// Not acknowledged, and not in the final read: nobody knows, so they are not lost.
    pub indeterminate: Vec<u64>,
    /// Lost ones from before the fault or from its very instant.
    pub lost_before_fault: Vec<u64>,
    /// Lost ones from after the fault: another bug.
    pub lost_after_fault: Vec<u64>,
    /// Age of the oldest lost record at the fault in seconds, zero when nothing is lost.
    pub rpo_seconds: f64,
}

/// Sorts every record into its class. `reads` are reads of the sink in their order; the last one is the final one.
///
/// # Errors
/// [`Undefined`] without a read (then nothing may be said), or when a time is not finite.
pub fn classify(attempts: &[Attempt], reads: &[Vec<u64>], fault_time: f64) -> Result<Classes, Undefined> {
    let fault = finite("the time of the fault", fault_time)?;
    let Some((last, earlier)) = reads.split_last() else {
        return Err(Undefined::Empty {
            what: "read of the sink",
        });
    };
    let earlier: Vec<BTreeSet<u64>> = earlier.iter().map(|read| read.iter().copied().collect()).collect();
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for id in last {
        *times.entry(*id).or_default() += 1;
    }
    let mut known: BTreeMap<u64, Attempt> = BTreeMap::new();
    for attempt in attempts {
        finite("an event time", attempt.time)?;
        // Tried again: acknowledged once is acknowledged, and the first attempt dates it.
        let known = known.entry(attempt.id).or_insert(*attempt);
        known.acknowledged |= attempt.acknowledged;
        known.time = known.time.min(attempt.time);
    }
    let mut classes = Classes {
        attempted: known.len() as u64,
        inversions: last.iter().zip(last.iter().skip(1)).filter(|(a, b)| b < a).count() as u64,
        unexpected: times.keys().copied().filter(|id| !known.contains_key(id)).collect(),
        ..Classes::default()
    };
    classes.duplicated = times
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(id, times)| (*id, *times))
        .collect();
    for (id, attempt) in &known {
        classes.acknowledged += u64::from(attempt.acknowledged);
        match (times.contains_key(id), attempt.acknowledged) {
            (true, acknowledged) => {
                classes.ok.push(*id);
                if !acknowledged {
                    classes.recovered.push(*id);
                }
                if earlier.iter().any(|read| !read.contains(id)) {
                    classes.late.push(*id);
                }
            }
            (false, true) => {
                classes.lost.push(*id);
                if attempt.time <= fault {
                    classes.lost_before_fault.push(*id);
                } else {
                    classes.lost_after_fault.push(*id);
                }
                classes.rpo_seconds = classes.rpo_seconds.max(fault - attempt.time);
            }
            (false, false) => classes.indeterminate.push(*id),
        }
    }
    Ok(classes)
}
