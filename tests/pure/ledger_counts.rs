//! Counting by ranges and bitmaps gives what counting one record at a time gives.

use crate::dsl::between;
use crate::ledger_cases::{driver, streaming};
use chaosrun::evidence::{AckedBlock, AckedRange, Event, IdCounts, Numbers, SinkRead};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The fault of [`driver`] takes effect at 100 s.
const EPOCH_MS: i64 = crate::dsl::EPOCH_MS;

fn counts(ids: &[u64]) -> IdCounts {
    let mut counts = IdCounts::default();
    for id in ids {
        counts.add(*id).unwrap();
    }
    counts
}

fn numbers(ids: &[u64], packed: bool) -> Numbers {
    let mut counts = counts(ids);
    if packed {
        Numbers {
            runs: Vec::new(),
            packed: Some(counts.packed()),
        }
    } else {
        counts.numbers()
    }
}

fn sink_read(seconds: f64, ids: &[u64], packed: bool) -> SinkRead {
    let numbers = numbers(ids, packed);
    SinkRead {
        during: between(seconds, seconds + 0.1),
        last_batch: None,
        runs: numbers.runs,
        packed: numbers.packed,
        uncommitted_files: 0,
        reordered: None,
    }
}

/// Record `id` was made half a second apart from its neighbours, around the fault.
fn made_ms(id: u64) -> i64 {
    EPOCH_MS + 85_000 + 500 * id as i64
}

fn line(id: u64) -> AckedRange {
    AckedRange {
        first: id,
        last: id,
        at_ms: made_ms(id),
        acked_ms: made_ms(id) + 5,
        block: None,
    }
}

/// Blocks of eight numbers, as a long log is told.
fn blocks(acked: &BTreeSet<u64>) -> Vec<AckedRange> {
    let mut blocks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for id in acked {
        blocks.entry(id / 8).or_default().push(*id);
    }
    blocks
        .into_iter()
        .map(|(index, ids)| {
            let (oldest, newest) = (made_ms(ids[0]), made_ms(ids[ids.len() - 1]));
            AckedRange {
                first: index * 8,
                last: index * 8 + 7,
                at_ms: oldest,
                acked_ms: oldest + 5,
                block: Some(AckedBlock {
                    records: ids.len() as u64,
                    at_last_ms: newest,
                    acked_last_ms: newest + 5,
                }),
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ranges_count_what_single_records_count(
        acked in prop::collection::btree_set(0_u64..60, 0..50),
        later in prop::collection::btree_set(50_u64..70, 0..10),
        attempted in prop::collection::btree_set(0_u64..75, 0..70),
        tells in any::<bool>(),
        first in prop::collection::vec(0_u64..80, 0..60),
        arrived in prop::collection::vec(0_u64..80, 0..120),
        rotate in 0_usize..100,
        packed in any::<bool>(),
        in_blocks in any::<bool>(),
        drained in any::<bool>(),
    ) {
        // The sink is never in order, and grows.
        let mut last: Vec<u64> = first.iter().chain(&arrived).copied().collect();
        if !last.is_empty() {
            let by = rotate % last.len();
            last.rotate_left(by);
        }
        let mut lines: Vec<AckedRange> = acked.iter().rev().map(|id| line(*id)).collect();
        let mut acked_ids = None;
        if in_blocks {
            lines = blocks(&acked);
            acked_ids = Some(numbers(&acked.iter().copied().collect::<Vec<_>>(), packed));
        }
        let list = |ids: &BTreeSet<u64>| ids.iter().copied().collect::<Vec<_>>();
        let log = driver(&streaming("counted", 60.0)).event(Event::LedgerAudited {
            acked: lines,
            acked_read: between(121.0, 121.1),
            reads: vec![sink_read(121.5, &first, packed), sink_read(125.0, &last, packed)],
            drained,
            acked_ids,
            attempted: tells.then(|| numbers(&list(&attempted), packed)),
            acked_later: tells.then(|| numbers(&list(&later), packed)),
        }).end(118.0, 135.0);
        let run = log.judge();
        let trial = &run.experiments[0].trials[0];
        let found = &trial.ledger;

        let times = |id: u64, ids: &[u64]| ids.iter().filter(|held| **held == id).count() as u64;
        let newest = last.iter().max().copied();
        let count = |holds: &dyn Fn(u64) -> bool| (0..100_u64).filter(|id| holds(*id)).count() as u64;
        let there = |id: u64| times(id, &last) > 0;
        let missing = |id: u64| acked.contains(&id) && !there(id);
        let pending = |id: u64| missing(id) && !drained && newest.is_none_or(|newest| id > newest);
        let lost = |id: u64| missing(id) && !pending(id);
        let known = |id: u64| acked.contains(&id) || (tells && later.contains(&id));
        let tried = |id: u64| tells && attempted.contains(&id);
        prop_assert_eq!(found.produced, Some(acked.len() as u64));
        prop_assert_eq!(found.committed, Some(count(&|id| acked.contains(&id) && there(id))));
        prop_assert_eq!(found.lost, Some(count(&lost)));
        prop_assert_eq!(found.pending, Some(count(&pending)));
        prop_assert_eq!(found.late, Some(count(&|id| acked.contains(&id) && there(id) && times(id, &first) == 0)));
        prop_assert_eq!(found.unacknowledged, Some(count(&|id| there(id) && !acked.contains(&id))));
        let copies: u64 = (0..100).map(|id| times(id, &last).saturating_sub(1)).sum();
        prop_assert_eq!(found.duplicated, Some(copies));
        let told = |count: u64| tells.then_some(count);
        prop_assert_eq!(found.attempted, told(count(&|id| known(id) || tried(id))));
        prop_assert_eq!(found.unexpected, told(count(&|id| there(id) && !known(id) && !tried(id))));
        prop_assert_eq!(found.recovered, told(count(&|id| there(id) && !known(id) && tried(id))));
        prop_assert_eq!(found.indeterminate, told(count(&|id| !there(id) && !known(id) && tried(id))));

        prop_assert_eq!(trial.rpo.records, found.lost);
        let oldest = (0..100).find(|id| lost(*id)).map(made_ms);
        let truth = oldest.map_or(0.0, |oldest| ((EPOCH_MS + 100_000 - oldest) as f64 / 1000.0).max(0.0));
        let (lower, upper) = (trial.rpo.seconds_lower.unwrap(), trial.rpo.seconds_upper.unwrap());
        prop_assert!(lower <= truth && truth <= upper, "{truth} in [{lower}, {upper}]");
        let after = count(&|id| lost(id) && made_ms(id) + 5 > EPOCH_MS + 100_010);
        let listed = found.lost_after_fault.unwrap();
        prop_assert!(if in_blocks { listed <= after } else { listed == after }, "{listed} of {after}");
    }
}

#[test]
fn a_sink_without_batches_has_had_its_time_when_more_came_of_it_or_the_newest_is_there() {
    let acked: BTreeSet<u64> = (0..60).collect();
    let audited = |first: &[u64], last: &[u64]| {
        let log = driver(&streaming("no-batches", 60.0)).event(Event::LedgerAudited {
            acked: acked.iter().map(|id| line(*id)).collect(),
            acked_read: between(121.0, 121.1),
            reads: vec![sink_read(121.5, first, false), sink_read(150.0, last, true)],
            drained: false,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        });
        let run = log.end(118.0, 151.0).judge();
        let claims = &run.experiments[0].claims;
        claims
            .iter()
            .find(|claim| claim.name == "lost records")
            .unwrap()
            .verdict
    };
    let without: Vec<u64> = (0..60).filter(|id| *id != 7).collect();
    let more: Vec<u64> = without.iter().copied().chain(60..70).collect();
    // It stands still behind the newest record, and then it has passed it.
    let early: Vec<u64> = (0..50).filter(|id| *id != 7).collect();
    assert_eq!(audited(&early, &early), chaosrun::model::Verdict::Inconclusive);
    assert_eq!(audited(&without, &without), chaosrun::model::Verdict::Fail);
    assert_eq!(audited(&without, &more), chaosrun::model::Verdict::Fail);
}

#[test]
fn packed_numbers_that_cannot_be_opened_give_no_verdict() {
    let mut broken = sink_read(122.0, &[1, 2, 3], true);
    broken.packed.as_mut().unwrap().planes[0].insert(0, 'A');
    let log = driver(&streaming("broken", 60.0)).event(Event::LedgerAudited {
        acked: vec![line(1)],
        acked_read: between(121.0, 121.1),
        reads: vec![broken],
        drained: true,
        acked_ids: None,
        attempted: None,
        acked_later: None,
    });
    let run = log.end(118.0, 135.0).judge();
    let reason = run.experiments[0].trials[0].ledger.reason.clone().unwrap();
    assert!(reason.contains("cannot be read"), "{reason}");
}

/// The worst pattern: no two neighbours are alike. `CHAOSRUN_LEDGER_RECORDS` makes it larger.
#[test]
fn a_packed_audit_is_judged_without_being_spread_out() {
    let count: u64 = std::env::var("CHAOSRUN_LEDGER_RECORDS").map_or(300_000, |text| text.parse().unwrap());
    let mut sink = IdCounts::default();
    for id in (0..count).filter(|id| !id.is_multiple_of(3)) {
        for _ in 0..if id.is_multiple_of(5) { 3 } else { 1 } {
            sink.add(id).unwrap();
        }
    }
    let read = SinkRead {
        packed: Some(sink.packed()),
        ..sink_read(122.0, &[], false)
    };
    drop(sink);
    let all = AckedRange {
        first: 0,
        last: count - 1,
        ..line(0)
    };
    let log = driver(&streaming("packed", 60.0)).event(Event::LedgerAudited {
        acked: vec![all],
        acked_read: between(121.0, 121.1),
        reads: vec![read],
        drained: false,
        acked_ids: None,
        attempted: None,
        acked_later: None,
    });
    let run = log.end(118.0, 135.0).judge();
    let found = &run.experiments[0].trials[0].ledger;
    // 0 is missing; what is missing above the newest record is still on its way.
    let newest = (0..count).rev().find(|id| !id.is_multiple_of(3)).unwrap();
    let lost = newest.div_ceil(3);
    assert_eq!(
        (found.lost, found.pending),
        (Some(lost), Some(count.div_ceil(3) - lost))
    );
    assert_eq!(found.duplicated, Some(2 * (count.div_ceil(5) - count.div_ceil(15))));
}
