//! Asking for a window must give what asking for everything and throwing the rest away gives.

use super::*;
use proptest::prelude::*;

/// Sent, how long the answer took, how old what it speaks of was, and what it said.
type Told = (i64, i64, i64, u8);

fn told() -> impl Strategy<Value = Vec<Told>> {
    proptest::collection::vec((0_i64..200, 0_i64..30, 0_i64..15, 0_u8..8), 0..60)
}

fn outcome(word: u8) -> Outcome {
    match word {
        0..4 => Outcome::Good,
        4..7 => Outcome::Bad {
            why: format!("refused {word}"),
        },
        _ => Outcome::NoData {
            why: "timeout".to_owned(),
        },
    }
}

fn lane(told: &[Told]) -> SampledLane {
    let mut lane = SampledLane::default();
    for (sent, took, age, word) in told {
        let at = (Mono(*sent), Mono(sent + took));
        lane.add(at, Mono(sent - age), &outcome(*word), Some(f64::from(*word)));
    }
    lane
}

/// Stretches that have to do with the window, of any number of them.
fn relevant(spans: &[Span], from: Mono, to: Mono) -> Vec<Span> {
    let entered = |span: &&Span| span.entered.within.upper <= to;
    let reaches = |span: &&Span| span.entered.within.upper.max(span.last_known) >= from;
    spans.iter().filter(entered).filter(reaches).cloned().collect()
}

fn last_entered(spans: &[Span], at: Mono) -> Option<Span> {
    spans.iter().rev().find(|span| span.entered.within.upper <= at).cloned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_window_of_samples_is_a_part_of_the_whole(told in told(), from in 0_i64..220, length in 0_i64..120) {
        let lane = lane(&told);
        let (from, to) = (Mono(from), Mono(from + length));
        let (whole, part) = (lane.spans(), lane.spans_within(from, to));
        prop_assert_eq!(relevant(&whole, from, to), relevant(&part, from, to));
        prop_assert_eq!(last_entered(&whole, to), last_entered(&part, to));
        prop_assert_eq!(last_entered(&whole, to), lane.span_at(to));
        prop_assert_eq!(whole.last().cloned(), lane.last());
        let known: Vec<&Sample> = lane.samples.iter().filter(|sample| sample.state != ProbeState::NoData).collect();
        let longest = known
            .windows(2)
            .filter(|pair| pair[1].received >= from && pair[0].sent <= to)
            .map(|pair| pair[1].received.since(pair[0].known_from))
            .max();
        prop_assert_eq!(longest, lane.resolution(from, to));
        let sent = |word: std::ops::Range<u8>| {
            told.iter().filter(|(sent, _, _, said)| (from.0..=to.0).contains(sent) && word.contains(said)).count()
        };
        let counts = lane.count(from, to);
        prop_assert_eq!((counts.good, counts.bad, counts.silent), (sent(0..4), sent(4..7), sent(7..8)));
    }

    #[test]
    fn the_order_of_arrival_of_samples_changes_nothing(told in told(), keys in proptest::collection::vec(any::<u32>(), 60)) {
        // Two answers to one question sent at one instant have no order but that of their arrival.
        let mut told = told;
        told.sort_unstable();
        told.dedup_by_key(|(sent, took, ..)| (*sent, *took));
        let mut shuffled: Vec<(u32, Told)> = keys.into_iter().zip(told.iter().copied()).collect();
        shuffled.sort_unstable();
        let shuffled: Vec<Told> = shuffled.into_iter().map(|(_, told)| told).collect();
        let (ordered, shuffled) = (lane(&told), lane(&shuffled));
        prop_assert_eq!(ordered.spans(), shuffled.spans());
        prop_assert_eq!(ordered.newest(), shuffled.newest());
        prop_assert_eq!(ordered.holes(Duration::from_micros(3)), shuffled.holes(Duration::from_micros(3)));
    }

    #[test]
    fn a_window_of_a_watch_is_a_part_of_the_whole(
        steps in proptest::collection::vec((0_i64..12, any::<bool>(), proptest::option::of(0_u64..200)), 0..40),
        ticks in proptest::collection::vec((0_u64..200, 0_i64..200, 0_i64..4), 0..30),
        from in 0_i64..220,
        length in 0_i64..120,
    ) {
        let mut revisions = Revisions::default();
        for (revision, sent, took) in ticks {
            revisions.add(Mono(sent), Mono(sent + took), revision);
        }
        let mut lane = WatchedLane::default();
        let mut at = 0;
        for (step, good, revision) in steps {
            at += step;
            let receipt = Receipt { at: Mono(at), not_before: None, revision, after: lane.last_receipt() };
            let state = if good { ProbeState::Good } else { ProbeState::Bad };
            lane.add(receipt, state, String::new());
        }
        let (from, to, now) = (Mono(from), Mono(from + length), Mono(500));
        let whole = lane.spans(&revisions, now, now);
        let part = lane.spans_within(&revisions, (now, now), from, to);
        prop_assert_eq!(relevant(&whole, from, to), relevant(&part, from, to));
        prop_assert_eq!(last_entered(&whole, to), last_entered(&part, to));
        prop_assert_eq!(last_entered(&whole, to), lane.span_at(&revisions, (now, now), to));
        prop_assert_eq!(whole.last().cloned(), lane.last(&revisions, now, now));
    }
}
