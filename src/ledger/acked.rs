//! The producer's log, one line at a time: listed as it is while it is short, else as times of blocks and a bitmap of numbers.

use super::lines::Line;
use super::parse::{self, LogLine, ParseError};
use crate::evidence::{AckedBlock, AckedRange, IdCounts, Numbers, TooScattered};
use std::collections::BTreeMap;

/// Most lines that are kept as they are, and most blocks after that.
const MOST_LISTED: usize = 200_000;

/// What the producer says of its records.
#[derive(Debug, Default)]
pub(crate) struct AckLog {
    listed: Vec<AckedRange>,
    blocks: Option<Blocks>,
    attempted: IdCounts,
    tells_attempts: bool,
    /// Acknowledged after the log was closed.
    later: IdCounts,
    closed: bool,
}

/// Times of blocks of `2^shift` numbers. Blocks grow until there are few enough of them.
#[derive(Debug, Default)]
struct Blocks {
    ids: IdCounts,
    shift: u32,
    times: BTreeMap<u64, (i64, i64, AckedBlock)>,
}

impl AckLog {
    /// Takes one line.
    ///
    /// # Errors
    /// A line that is none, or numbers that cannot be held.
    pub(crate) fn add(&mut self, line: Line<'_>) -> Result<(), ParseError> {
        let scattered = |error: TooScattered| line.fail(error.to_string());
        match parse::log_line(line.text).map_err(|why| line.fail(format!("{why}: {:?}", line.text)))? {
            LogLine::Attempted { first, last } => {
                self.tells_attempts = true;
                self.attempted.add_missing(first, last).map_err(scattered)?;
            }
            LogLine::Acknowledged(range) if self.closed => {
                self.later.add_missing(range.first, range.last).map_err(scattered)?;
            }
            LogLine::Acknowledged(range) => self.acknowledge(range).map_err(scattered)?,
        }
        Ok(())
    }

    fn acknowledge(&mut self, range: AckedRange) -> Result<(), TooScattered> {
        if let Some(blocks) = &mut self.blocks {
            return blocks.add(range);
        }
        self.listed.push(range);
        if self.listed.len() > MOST_LISTED {
            let mut blocks = Blocks::default();
            for range in std::mem::take(&mut self.listed) {
                blocks.add(range)?;
            }
            self.blocks = Some(blocks);
        }
        Ok(())
    }

    /// What is acknowledged from now on came too late to be judged.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether the log has lines of attempts.
    pub(crate) fn tells_attempts(&self) -> bool {
        self.tells_attempts
    }

    /// Is every acknowledged record among these?
    pub(crate) fn is_within(&self, counts: &IdCounts) -> bool {
        match &self.blocks {
            Some(blocks) => counts.contains_all(&blocks.ids),
            None => self
                .listed
                .iter()
                .all(|range| counts.contains_range(range.first, range.last)),
        }
    }

    /// Lines, or blocks with the numbers that they stand for.
    pub(crate) fn acked(&mut self) -> (Vec<AckedRange>, Option<Numbers>) {
        match &mut self.blocks {
            None => (self.listed.clone(), None),
            Some(blocks) => (blocks.ranges(), Some(blocks.ids.numbers())),
        }
    }

    /// Attempts, and acknowledgements since the log was closed; nothing when the log does not tell attempts.
    pub(crate) fn attempts(&mut self) -> (Option<Numbers>, Option<Numbers>) {
        if self.tells_attempts {
            (Some(self.attempted.numbers()), Some(self.later.numbers()))
        } else {
            (None, None)
        }
    }

    /// Memory of everything that grows with the log, in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        let listed = self.listed.capacity() * size_of::<AckedRange>();
        let blocks = self.blocks.as_ref().map_or(0, |blocks| {
            blocks.ids.bytes() + (blocks.times.len() * 2 * size_of::<(u64, (i64, i64, AckedBlock))>()) as u64
        });
        listed as u64 + blocks + self.attempted.bytes() + self.later.bytes()
    }
}

impl Blocks {
    fn add(&mut self, range: AckedRange) -> Result<(), TooScattered> {
        // One line may cover more blocks than there should be in all.
        while (range.last - range.first) >> self.shift > MOST_LISTED as u64 / 4 {
            self.coarsen();
        }
        let mut first = range.first;
        loop {
            let index = first >> self.shift;
            let block_last = ((index << self.shift) | ((1_u64 << self.shift) - 1)).min(range.last);
            let records = self.ids.add_missing(first, block_last)?;
            let one = AckedBlock {
                records,
                at_last_ms: range.at_ms,
                acked_last_ms: range.acked_ms,
            };
            merge(&mut self.times, index, (range.at_ms, range.acked_ms, one));
            if block_last == range.last {
                break;
            }
            first = block_last + 1;
        }
        while self.times.len() > MOST_LISTED {
            self.coarsen();
        }
        Ok(())
    }

    fn coarsen(&mut self) {
        self.shift += 1;
        for (index, times) in std::mem::take(&mut self.times) {
            merge(&mut self.times, index >> 1, times);
        }
    }

    fn ranges(&self) -> Vec<AckedRange> {
        self.times
            .iter()
            .map(|(index, (at_ms, acked_ms, block))| AckedRange {
                first: index << self.shift,
                last: (index << self.shift) | ((1 << self.shift) - 1),
                at_ms: *at_ms,
                acked_ms: *acked_ms,
                block: Some(*block),
            })
            .collect()
    }
}

fn merge(
    all: &mut BTreeMap<u64, (i64, i64, AckedBlock)>,
    index: u64,
    (at_ms, acked_ms, block): (i64, i64, AckedBlock),
) {
    let held = all
        .entry(index)
        .or_insert((at_ms, acked_ms, AckedBlock { records: 0, ..block }));
    held.0 = held.0.min(at_ms);
    held.1 = held.1.min(acked_ms);
    held.2.records += block.records;
    held.2.at_last_ms = held.2.at_last_ms.max(block.at_last_ms);
    held.2.acked_last_ms = held.2.acked_last_ms.max(block.acked_last_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: impl IntoIterator<Item = String>) -> AckLog {
        let mut log = AckLog::default();
        for (index, text) in lines.into_iter().enumerate() {
            log.add(Line {
                what: "log",
                number: index + 1,
                text: &text,
            })
            .unwrap();
        }
        log
    }

    #[test]
    fn a_short_log_is_listed_as_it_is() {
        let mut log = log(["5 9 10 11".to_owned(), "0 4 12 13".to_owned()]);
        let (ranges, ids) = log.acked();
        assert_eq!(ids, None);
        assert_eq!(
            ranges
                .iter()
                .map(|range| (range.first, range.at_ms))
                .collect::<Vec<_>>(),
            [(5, 10), (0, 12)]
        );
        assert_eq!(log.attempts(), (None, None));
    }

    #[test]
    fn a_long_log_in_any_order_keeps_every_number_and_bounds_every_time() {
        let count = 1_000_000_u64;
        // Every number but the multiples of seven, out of order: 999,983 is prime.
        let ids = (0..count).map(|index| index * 999_983 % count).filter(|id| id % 7 != 0);
        let mut log = log(ids.map(|id| format!("{id} {id} {} {}", 1000 + id, 2000 + id)));
        let (blocks, ids) = log.acked();
        assert!(blocks.len() <= MOST_LISTED, "{}", blocks.len());
        let acked = ids.unwrap().packed.unwrap().open().unwrap();
        assert_eq!(acked.distinct(), count - count.div_ceil(7));
        assert!(!acked.contains_range(7, 7) && acked.contains_range(8, 13));
        let records: u64 = blocks.iter().map(|range| range.block.unwrap().records).sum();
        assert_eq!(records, acked.distinct());
        for range in blocks {
            let block = range.block.unwrap();
            for id in (range.first..=range.last.min(count - 1)).filter(|id| id % 7 != 0) {
                let (at, acked) = (1000 + id.cast_signed(), 2000 + id.cast_signed());
                assert!(range.at_ms <= at && at <= block.at_last_ms);
                assert!(range.acked_ms <= acked && acked <= block.acked_last_ms);
            }
        }
        assert!(log.bytes() < 40_000_000, "{}", log.bytes());
    }

    #[test]
    fn a_line_that_claims_too_much_is_refused_once_it_would_be_held() {
        let mut log = log((0..=MOST_LISTED).map(|id| format!("{id} {id} 0 0")));
        let text = format!("0 {} 0 0", i64::MAX);
        let line = Line {
            what: "log",
            number: 9,
            text: &text,
        };
        assert!(log.add(line).unwrap_err().why.contains("too far apart"));
    }

    #[test]
    fn attempts_and_later_acknowledgements_are_told_apart() {
        let mut log = log(["0 9 1 -", "0 9 1 2", "10 19 3 -"].map(str::to_owned));
        log.close();
        let line = Line {
            what: "log",
            number: 4,
            text: "10 19 3 4",
        };
        log.add(line).unwrap();
        let (attempted, later) = log.attempts();
        assert_eq!(attempted.unwrap().runs[0].last, 19);
        assert_eq!(later.unwrap().runs[0].first, 10);
        assert_eq!(log.acked().0.len(), 1);
    }
}
