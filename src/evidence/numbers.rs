//! Multisets of record numbers in bounded memory: what an audit counts with, and what it leaves in the log.
//!
//! Pure: depends on the event model only. Central type: [`IdCounts`]. Contract: the memory depends on how the numbers lie, not
//! on how often or in which order they come. Numbers without large gaps cost at most one bit each, and one more for every
//! doubling of the largest count (compressed bitmaps, <https://roaringbitmap.org>; the counts are bit-sliced: plane k holds
//! bit k of the copies beyond the first). A multiset that would need more than [`MOST_BYTES`] is refused.

use super::event::SinkRun;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

/// Most memory of one multiset. Numbers 0 to 100 million, each any number of times up to 256, need 113 MB at worst.
pub const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// Most runs that are written out in an event; more of them are packed.
pub const MOST_RUNS: usize = 100_000;

/// Longest range that is taken at once; a log that claims more is broken, not large.
pub const LONGEST_RANGE: u64 = 1 << 32;

/// How many additions may pass before the memory is looked at again.
const LOOK_EVERY: u64 = 1 << 20;

/// The numbers lie so far apart that they cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the record numbers lie too far apart to be held in {} MiB: number the records without gaps, from a small number on",
    MOST_BYTES / (1024 * 1024)
)]
pub struct TooScattered;

/// How often each number was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IdCounts {
    seen: RoaringTreemap,
    /// Plane k: numbers whose copies beyond the first have bit k set.
    excess: Vec<RoaringTreemap>,
    since_look: u64,
}

impl IdCounts {
    /// Adds one copy; says whether it was the first.
    ///
    /// # Errors
    /// [`TooScattered`].
    pub fn add(&mut self, id: u64) -> Result<bool, TooScattered> {
        self.since_look += 1;
        if self.since_look >= LOOK_EVERY {
            self.look()?;
        }
        if self.seen.insert(id) {
            return Ok(true);
        }
        // Adds one in binary: ones become zero until a zero becomes one. 32 planes count further than anyone can copy.
        for plane in &mut self.excess {
            if plane.insert(id) {
                return Ok(false);
            }
            plane.remove(id);
        }
        if self.excess.len() < 31 {
            self.excess.push(RoaringTreemap::from_iter([id]));
        }
        Ok(false)
    }

    /// Adds every number of `first..=last` that is not there yet, as one copy; says how many these were.
    ///
    /// # Errors
    /// [`TooScattered`], also for a range beyond [`LONGEST_RANGE`].
    pub fn add_missing(&mut self, first: u64, last: u64) -> Result<u64, TooScattered> {
        if last < first {
            return Ok(0);
        }
        if last - first >= LONGEST_RANGE {
            return Err(TooScattered);
        }
        // A long range may fill many blocks at once.
        self.since_look = self.since_look.saturating_add(1 + (last - first) / 64);
        let added = if first == last {
            u64::from(self.seen.insert(first))
        } else {
            self.seen.insert_range(first..=last)
        };
        if self.since_look >= LOOK_EVERY {
            self.look()?;
        }
        Ok(added)
    }

    fn look(&mut self) -> Result<(), TooScattered> {
        self.since_look = 0;
        if self.bytes() <= MOST_BYTES {
            return Ok(());
        }
        self.compact();
        if self.bytes() <= MOST_BYTES {
            Ok(())
        } else {
            Err(TooScattered)
        }
    }

    /// Stores long stretches as ranges. Changes no count.
    pub fn compact(&mut self) {
        self.seen.optimize();
        for plane in &mut self.excess {
            plane.optimize();
        }
    }

    /// Estimate of the memory that is held, in bytes: the values of all containers, and what surrounds each of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        std::iter::once(&self.seen).chain(&self.excess).map(plane_bytes).sum()
    }

    /// How many different numbers.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.seen.len()
    }

    /// How many copies in all.
    #[must_use]
    pub fn copies(&self) -> u64 {
        let excess =
            (self.excess.iter().enumerate()).map(|(bit, plane)| plane.len().saturating_mul(1_u64 << bit.min(63)));
        excess.fold(self.seen.len(), u64::saturating_add)
    }

    /// The highest number.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.seen.max()
    }

    /// Is every number of `first..=last` there?
    #[must_use]
    pub fn contains_range(&self, first: u64, last: u64) -> bool {
        // The length first: a range of billions is not looked through.
        last - first.min(last) < self.seen.len() && self.seen.contains_range(first..=last)
    }

    /// Is every number of the other one there?
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        other.seen.is_subset(&self.seen)
    }

    /// Ascending runs of neighbours with the same count.
    pub fn runs(&self) -> impl Iterator<Item = SinkRun> + '_ {
        Runs {
            seen: ranges(&self.seen),
            current: None,
            excess: self
                .excess
                .iter()
                .enumerate()
                .map(|(bit, plane)| {
                    let mut ranges = ranges(plane);
                    let next = ranges.next();
                    (1_u32 << bit.min(31), next, ranges)
                })
                .collect(),
            held: None,
        }
    }

    /// For an event: as a list of runs while that is short, else packed.
    #[must_use]
    pub fn numbers(&mut self) -> Numbers {
        let mut runs: Vec<SinkRun> = self.runs().take(MOST_RUNS + 1).collect();
        if runs.len() <= MOST_RUNS {
            runs.shrink_to_fit();
            return Numbers { runs, packed: None };
        }
        Numbers {
            runs: Vec::new(),
            packed: Some(self.packed()),
        }
    }

    /// As compressed bitmaps, however few runs there are.
    #[must_use]
    pub fn packed(&mut self) -> Packed {
        self.compact();
        Packed {
            planes: std::iter::once(&self.seen).chain(&self.excess).map(pack).collect(),
        }
    }
}

fn plane_bytes(plane: &RoaringTreemap) -> u64 {
    const ENTRY: u64 = 96;
    const CONTAINER: u64 = 64;
    const BITMAP: u64 = 8192;
    plane
        .bitmaps()
        .map(|(_, bitmap)| {
            let held = bitmap.statistics();
            // The bitmaps' own field counts bits.
            let bitmaps = BITMAP * u64::from(held.n_bitset_containers);
            let values = held.n_bytes_array_containers + held.n_bytes_run_containers + bitmaps;
            ENTRY + CONTAINER * u64::from(held.n_containers) + values
        })
        .sum()
}

fn pack(plane: &RoaringTreemap) -> String {
    let mut bytes = Vec::with_capacity(plane.serialized_size());
    // Writing to memory cannot fail; if it did, the reader would find the plane damaged.
    drop(plane.serialize_into(&mut bytes));
    STANDARD.encode(bytes)
}

type Ranges<'a> = Box<dyn Iterator<Item = (u64, u64)> + 'a>;

/// Ascending ranges of one plane. Those that meet at a multiple of 2^32 come apart.
fn ranges(plane: &RoaringTreemap) -> Ranges<'_> {
    Box::new(plane.bitmaps().flat_map(|(high, bitmap)| {
        let mut values = bitmap.iter();
        let base = u64::from(high) << 32;
        std::iter::from_fn(move || {
            let range = values.next_range()?;
            Some((base | u64::from(*range.start()), base | u64::from(*range.end())))
        })
    }))
}

/// A plane of copies: how many each of its numbers counts for, its next range, and those after it.
type Plane<'a> = (u32, Option<(u64, u64)>, Ranges<'a>);

struct Runs<'a> {
    seen: Ranges<'a>,
    current: Option<(u64, u64)>,
    excess: Vec<Plane<'a>>,
    held: Option<SinkRun>,
}

impl Runs<'_> {
    /// The next stretch over which no plane changes.
    fn piece(&mut self) -> Option<SinkRun> {
        let (first, end) = match self.current.take() {
            Some(rest) => rest,
            None => self.seen.next()?,
        };
        let (mut last, mut times) = (end, 1_u32);
        for (weight, next, ranges) in &mut self.excess {
            while next.is_some_and(|(_, upper)| upper < first) {
                *next = ranges.next();
            }
            match *next {
                Some((lower, upper)) if lower <= first => {
                    times = times.saturating_add(*weight);
                    last = last.min(upper);
                }
                Some((lower, _)) => last = last.min(lower - 1),
                None => {}
            }
        }
        if last < end {
            self.current = Some((last + 1, end));
        }
        Some(SinkRun { first, last, times })
    }
}

impl Iterator for Runs<'_> {
    type Item = SinkRun;

    fn next(&mut self) -> Option<SinkRun> {
        let mut run = match self.held.take() {
            Some(run) => run,
            None => self.piece()?,
        };
        while let Some(next) = self.piece() {
            if run.last.checked_add(1) == Some(next.first) && next.times == run.times {
                run.last = next.last;
            } else {
                self.held = Some(next);
                break;
            }
        }
        Some(run)
    }
}

/// A multiset of record numbers in an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Numbers {
    /// Ascending; empty when they are packed.
    pub runs: Vec<SinkRun>,
    /// Instead of the runs, when they are too many to be listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
}

/// Compressed bitmaps, each as base64 of the portable 64-bit format of <https://github.com/RoaringBitmap/RoaringFormatSpec>.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packed {
    /// First the numbers that were found; then plane k: those whose copies beyond the first have bit k set.
    pub planes: Vec<String>,
}

impl Packed {
    /// The multiset.
    ///
    /// # Errors
    /// When the text is not what was packed, as a sentence.
    pub fn open(&self) -> Result<IdCounts, String> {
        let open = |text: &String| {
            let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
            RoaringTreemap::deserialize_from(bytes.as_slice()).map_err(|error| error.to_string())
        };
        let mut planes = self
            .planes
            .iter()
            .map(|text| open(text).map_err(|why| format!("packed record numbers cannot be read: {why}")));
        let seen = planes.next().ok_or("packed record numbers have no plane")??;
        let excess = planes.collect::<Result<Vec<_>, _>>()?;
        if excess.len() > 31 || !excess.iter().all(|plane| plane.is_subset(&seen)) {
            return Err("packed record numbers contradict each other".to_owned());
        }
        Ok(IdCounts {
            seen,
            excess,
            since_look: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn counted(ids: &[u64]) -> IdCounts {
        let mut counts = IdCounts::default();
        for id in ids {
            counts.add(*id).unwrap();
        }
        counts
    }

    fn spread(runs: impl Iterator<Item = SinkRun>) -> BTreeMap<u64, u32> {
        runs.flat_map(|run| (run.first..=run.last).map(move |id| (id, run.times)))
            .collect()
    }

    #[test]
    fn runs_meet_where_the_bitmaps_do() {
        let edge = 1_u64 << 32;
        let runs: Vec<_> = counted(&[edge - 1, edge, edge + 1, edge]).runs().collect();
        let run = |first, last, times| SinkRun { first, last, times };
        assert_eq!(
            runs,
            [
                run(edge - 1, edge - 1, 1),
                run(edge, edge, 2),
                run(edge + 1, edge + 1, 1)
            ]
        );
        let runs: Vec<_> = counted(&[edge - 1, edge]).runs().collect();
        assert_eq!(runs, [run(edge - 1, edge, 1)]);
        let runs: Vec<_> = counted(&[u64::MAX, 0]).runs().collect();
        assert_eq!(runs, [run(0, 0, 1), run(u64::MAX, u64::MAX, 1)]);
    }

    #[test]
    fn numbers_without_order_are_packed_and_opened_again() {
        let ids: Vec<u64> = (0..300_000_u64)
            .map(|index| index * 3 % 700_001)
            .chain([5, 5, 5])
            .collect();
        let mut counts = counted(&ids);
        let numbers = counts.numbers();
        assert!(numbers.runs.is_empty());
        let opened = numbers.packed.unwrap().open().unwrap();
        assert_eq!(spread(opened.runs()), spread(counted(&ids).runs()));
        assert!(
            Packed {
                planes: vec!["AAAA".to_owned()]
            }
            .open()
            .is_err()
        );
        assert!(
            Packed {
                planes: vec!["%".to_owned()]
            }
            .open()
            .is_err()
        );
        assert!(Packed { planes: Vec::new() }.open().is_err());
    }

    #[test]
    fn numbers_that_lie_too_far_apart_are_refused_before_they_fill_the_memory() {
        let mut counts = IdCounts::default();
        let refused = (0..20_000_000_u64).any(|index| counts.add(index << 33).is_err());
        assert!(refused);
        assert!(counts.bytes() < 2 * MOST_BYTES, "{}", counts.bytes());
        assert_eq!(counts.add_missing(0, u64::MAX), Err(TooScattered));
        assert!(!counts.contains_range(0, u64::MAX));
    }

    proptest! {
        #[test]
        fn every_number_is_counted_as_a_map_would(ids in prop::collection::vec(prop_oneof![0_u64..40, Just(u64::MAX), (1_u64 << 32) - 3..(1_u64 << 32) + 3], 0..400), rotate in 0_usize..400) {
            let mut naive: BTreeMap<u64, u32> = BTreeMap::new();
            for id in &ids {
                *naive.entry(*id).or_default() += 1;
            }
            let mut other = ids.clone();
            other.rotate_left(rotate.min(ids.len()));
            let counts = counted(&other);
            prop_assert_eq!(spread(counts.runs()), naive.clone());
            prop_assert_eq!(counts.copies(), ids.len() as u64);
            prop_assert_eq!(counts.distinct(), naive.len() as u64);
            let mut packed = counts.clone();
            prop_assert_eq!(spread(packed.packed().open().unwrap().runs()), naive);
        }
    }
}
