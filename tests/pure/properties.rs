//! What must hold for every log, not only for the ones that somebody thought of.

use crate::dsl::{Log, at, between, experiment, good_unless, http, owner, pending, pod, pods_ready, read, target};
use crate::ledger_cases::streaming;
use crate::pod_cases::{killed, one_pod};
use crate::probe_cases::endpoint;
use chaosrun::evidence::{AckedRange, ClusterInfo, Event, Outcome, Seen, Step, TrialEnd};
use chaosrun::fault::{Inside, Undo};
use chaosrun::model::{Interval, Mono, PodFacts, Verdict};
use chaosrun::report::Run;
use proptest::prelude::*;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn mono() -> impl Strategy<Value = Mono> {
    any::<i64>().prop_map(Mono)
}

fn interval() -> impl Strategy<Value = Interval> {
    (mono(), mono()).prop_map(|(a, b)| Interval::between(a, b))
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}|[\"\\\\\n\t{}]{0,6}"
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has no infinity", |value| value.is_finite())
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Good),
        text().prop_map(|why| Outcome::Bad { why }),
        text().prop_map(|why| Outcome::NoData { why }),
    ]
}

fn seen() -> impl Strategy<Value = Seen> {
    prop::sample::select(vec![
        Seen::Listed,
        Seen::Added,
        Seen::Modified,
        Seen::Deleted,
        Seen::Vanished,
    ])
}

fn facts() -> impl Strategy<Value = PodFacts> {
    (
        text(),
        any::<bool>(),
        any::<bool>(),
        any::<Option<u64>>(),
        any::<Option<i64>>(),
    )
        .prop_map(|(uid, member, ready, resource_version, grace)| PodFacts {
            member,
            ready,
            resource_version,
            deletion_grace_seconds: grace,
            generation: Some(uid.clone()),
            ..if ready { pod(&uid) } else { pending(&uid) }
        })
}

fn undo() -> impl Strategy<Value = Undo> {
    prop_oneof![
        Just(Undo::Nothing),
        (text(), proptest::option::of(text())).prop_map(|(name, namespace)| Undo::DeleteObject {
            api_version: "batch/v1".to_owned(),
            kind: "Job".to_owned(),
            plural: "jobs".to_owned(),
            namespace,
            name,
        }),
        text().prop_map(|name| Undo::Restore {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            plural: "nodes".to_owned(),
            namespace: None,
            name,
        }),
        (text(), text()).prop_map(|(uid, path)| Undo::Record {
            namespace: "shop".to_owned(),
            name: "record".to_owned(),
            undos: vec![Undo::Inside {
                pod: target(&uid).pod,
                container: "main".to_owned(),
                token: "t".to_owned(),
                also: Inside::RemoveFile { path },
                claim: None,
            }],
        }),
    ]
}

fn trial_end() -> impl Strategy<Value = TrialEnd> {
    prop_oneof![
        Just(TrialEnd::Completed),
        text().prop_map(|why| TrialEnd::Refused { why }),
        text().prop_map(|why| TrialEnd::Aborted { why }),
        text().prop_map(|why| TrialEnd::Errored { why }),
    ]
}

fn observed() -> BoxedStrategy<Event> {
    prop_oneof![
        (text(), mono(), mono(), outcome(), proptest::option::of(finite())).prop_map(
            |(probe, sent, received, outcome, value)| Event::ProbeSample {
                known_from: None,
                probe,
                scheduled: sent,
                sent,
                received,
                outcome,
                value,
            }
        ),
        (seen(), mono(), proptest::option::of(mono()), facts()).prop_map(|(seen, at, not_before, facts)| {
            Event::PodSeen {
                seen,
                at,
                not_before,
                pod: std::sync::Arc::new(facts),
            }
        }),
        (
            text(),
            seen(),
            mono(),
            proptest::collection::btree_map(text(), text(), 0..4)
        )
            .prop_map(|(subject, seen, at, fields)| Event::ResourceSeen {
                subject,
                seen,
                at,
                not_before: None,
                uid: "u".to_owned(),
                resource_version: None,
                fields,
            }),
        (text(), proptest::option::of(text()), mono(), mono(), any::<bool>()).prop_map(
            |(kind, subject, from, to, resumed)| {
                Event::WatchGap {
                    kind,
                    subject,
                    from,
                    to,
                    resumed,
                    why: "410 Gone".to_owned(),
                }
            }
        ),
        (text(), proptest::option::of(text()), mono()).prop_map(|(kind, subject, from)| Event::WatchBroken {
            kind,
            subject,
            from,
            why: "connection reset".to_owned(),
        }),
        (mono(), any::<Option<u64>>(), any::<Option<u64>>()).prop_map(|(at, acknowledged, committed)| {
            Event::LedgerReached {
                at,
                acknowledged,
                committed,
            }
        }),
        (mono(), mono(), any::<u64>()).prop_map(|(sent, received, resource_version)| {
            Event::RevisionTick {
                sent,
                received,
                resource_version,
            }
        }),
        (
            mono(),
            any::<Option<u64>>(),
            any::<Option<u64>>(),
            proptest::option::of(text())
        )
            .prop_map(|(sent, committed, planned, error)| Event::LedgerSample {
                scheduled: sent,
                sent,
                received: sent,
                committed,
                planned,
                error,
            }),
        (text(), finite(), finite()).prop_map(|(clock, lower_ms, upper_ms)| Event::ClockOffset {
            clock,
            lower_ms,
            upper_ms,
        }),
        (mono(), finite()).prop_map(|(mono, wall_ms)| Event::ClockPair { mono, wall_ms }),
        (mono(), mono()).prop_map(|(from, to)| Event::RunnerStalled { from, to }),
    ]
    .boxed()
}

fn done() -> BoxedStrategy<Event> {
    prop_oneof![
        (text(), any::<u64>(), text()).prop_map(|(id, seed, version)| Event::RunStarted {
            id,
            seed,
            version: version.clone(),
            cluster: ClusterInfo {
                kind: "lab".to_owned(),
                version,
            },
            started_at: "2026-01-01T00:00:00Z".to_owned(),
        }),
        (any::<usize>(), text(), finite()).prop_map(|(index, file, limit)| {
            Event::ExperimentStarted {
                index,
                file,
                experiment: Box::new(streaming("round-trip", limit)),
            }
        }),
        (text(), any::<bool>()).prop_map(|(workload, stand_in)| Event::WorkloadIdentified { workload, stand_in }),
        (any::<u32>(), any::<bool>()).prop_map(|(trial, control)| Event::TrialStarted { trial, control }),
        (any::<u64>(), interval(), proptest::option::of(any::<u64>()))
            .prop_map(|(phase_ms, since, batch)| Event::PhaseChosen { phase_ms, since, batch }),
        text().prop_map(|why| Event::TrialsStopped { why }),
        (prop::sample::select(Step::ALL.to_vec()), mono()).prop_map(|(step, at)| Event::StepStarted { step, at }),
        (text(), text(), proptest::collection::vec(undo(), 0..3), any::<bool>()).prop_map(
            |(fault, uid, undo, lasting)| Event::FaultArmed {
                fault,
                injector: "direct".to_owned(),
                targets: vec![target(&uid)],
                undo,
                lasting,
            }
        ),
        (text(), interval()).prop_map(|(fault, within)| Event::FaultEnded { fault, within }),
        (text(), text()).prop_map(|(fault, why)| Event::FaultSkipped { fault, why }),
        (text(), undo()).prop_map(|(purpose, undo)| Event::ObjectArmed { purpose, undo }),
        (text(), text(), mono()).prop_map(|(fault, uid, at)| Event::FaultRequested {
            fault,
            target: target(&uid),
            at,
        }),
        (text(), text(), mono(), proptest::option::of(text())).prop_map(|(fault, uid, at, error)| {
            Event::FaultAnswered {
                fault,
                target: target(&uid),
                at,
                error,
            }
        }),
        (text(), text(), interval(), text()).prop_map(|(fault, uid, effect, proof)| {
            Event::FaultProven {
                fault,
                target: target(&uid),
                effect,
                proof,
            }
        }),
        (text(), text(), text()).prop_map(|(fault, uid, why)| Event::FaultNotProven {
            fault,
            target: target(&uid),
            why,
        }),
        (undo(), proptest::option::of(text())).prop_map(|(undo, error)| Event::Undone { undo, error }),
    ]
    .boxed()
}

fn ended() -> BoxedStrategy<Event> {
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<i64>(), interval(), any::<bool>()).prop_map(
            |(first, last, stamp, acked_read, drained)| Event::LedgerAudited {
                acked: vec![AckedRange {
                    first,
                    last,
                    at_ms: stamp,
                    acked_ms: stamp,
                    block: None,
                }],
                acked_read,
                reads: vec![read(1.0, 3, &[(first, last, 2)])],
                drained,
                acked_ids: None,
                attempted: None,
                acked_later: None,
            }
        ),
        text().prop_map(|why| Event::LedgerUnreadable { why }),
        (any::<u64>(), interval(), any::<Option<i64>>()).prop_map(|(batch, committed, newest_record_ms)| {
            Event::CheckpointSeen {
                batch,
                committed,
                newest_record_ms,
            }
        }),
        (text(), mono()).prop_map(|(why, at)| Event::Stopping { why, at }),
        (any::<u64>(), any::<u64>()).prop_map(|(api_requests, max_rss_bytes)| Event::CostCounted {
            api_requests,
            max_rss_bytes,
        }),
        (any::<u32>(), trial_end(), mono()).prop_map(|(trial, end, at)| Event::TrialEnded { trial, end, at }),
        (any::<usize>(), proptest::option::of(text()))
            .prop_map(|(index, error)| Event::ExperimentEnded { index, error }),
        (mono(), proptest::collection::vec(undo(), 0..3)).prop_map(|(at, left)| Event::RunEnded { at, left }),
    ]
    .boxed()
}

/// Every kind of event with every kind of content.
pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![observed(), done(), ended()]
}

fn rto(run: &Run) -> (f64, f64) {
    let rto = &run.experiments[0].trials[0].rto;
    (rto.lower.unwrap(), rto.upper.unwrap())
}

/// Everything but the evidence (the order of lines is part of that).
fn judged(log: &Log) -> String {
    let run = log.judge();
    format!("{:?} {:?}", run.verdict, run.experiments)
}

fn rich() -> Log {
    let mut wanted = streaming("rich", 60.0);
    wanted.steady_state.probes.push(http());
    wanted.slos.availability = Some(0.1);
    let before: Vec<f64> = (0..20).map(|batch| 61.0 + 2.0 * f64::from(batch)).collect();
    Log::of(&wanted)
        .clocks()
        .pod(Seen::Listed, 51.0, pod("a"))
        .ticks(99.0, 121.0, 0.25)
        .samples("endpoint", 60.0, 121.0, 0.2, |sent| {
            good_unless((100.4..109.0).contains(&sent))
        })
        .commits(60.0, 121.0, &[before, vec![115.5, 117.0]].concat())
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .event(Event::LedgerAudited {
            acked: crate::dsl::acked(60.0, 121.0),
            acked_read: between(121.0, 121.2),
            reads: vec![read(122.0, 26, &[(600, 1210, 1)])],
            drained: true,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        })
}

/// Streams whose own order carries meaning; everything else is placed by its stamps.
fn is_ordered(event: &Event) -> bool {
    matches!(
        event,
        Event::PodSeen { .. } | Event::ResourceSeen { .. } | Event::StepStarted { .. }
    )
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn the_order_of_arrival_of_independent_events_changes_nothing(keys in proptest::collection::vec(any::<u32>(), 2000)) {
        let log = rich();
        let head = 4;
        let ordered: Vec<Event> = log.events[head..].iter().filter(|event| is_ordered(event)).cloned().collect();
        let mut middle: Vec<(u32, Event)> = log.events[head..]
            .iter()
            .enumerate()
            .map(|(index, event)| (keys[index % keys.len()].wrapping_add(index as u32), event.clone()))
            .collect();
        middle.sort_by_key(|(key, _)| *key);
        let mut ordered = ordered.into_iter();
        let shuffled = middle.into_iter().map(|(_, event)| {
            if is_ordered(&event) { ordered.next().unwrap() } else { event }
        });
        let events = log.events[..head].iter().cloned().chain(shuffled).collect();
        let shuffled = Log { events }.end(118.0, 135.0);
        prop_assert_eq!(judged(&shuffled), judged(&rich().end(118.0, 135.0)));
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn pods_of_others_change_nothing(strangers in proptest::collection::vec((52.0_f64..117.0, any::<bool>(), 0_u8..4, seen()), 0..20)) {
        let plain = killed(one_pod("strangers", 60.0, 115.0))
            .pod(Seen::Added, 102.0, pending("b"))
            .pod(Seen::Modified, 108.0, pod("b"));
        let mut log = plain.clone();
        for (seconds, ready, uid, seen) in strangers {
            let facts = PodFacts {
                member: false,
                role: None,
                owner: Some(owner("other")),
                ..if ready { pod(&format!("x{uid}")) } else { pending(&format!("x{uid}")) }
            };
            let place = 5 + (seconds as usize) % (log.events.len() - 5);
            let event = Log { events: Vec::new() }.pod(seen, seconds, facts).events.remove(0);
            log.events.insert(place, event);
        }
        prop_assert_eq!(judged(&log.end(112.0, 118.0)), judged(&plain.end(112.0, 118.0)));
    }

    #[test]
    fn a_longer_outage_never_turns_fail_into_pass(short in 0.05_f64..15.0, longer in 0.0_f64..15.0, limit in 0.5_f64..12.0, phase in 0.0_f64..0.2) {
        let begin = 100.02 + phase;
        let verdict = |length: f64| endpoint("longer", limit, (begin, begin + length)).end(118.0, 120.0).judge().verdict;
        let (before, after) = (verdict(short), verdict(short + longer));
        prop_assert!(after >= before, "{before:?} became {after:?}");
    }

    #[test]
    fn a_wider_gap_only_widens_the_interval(from in 100.1_f64..105.0, earlier in 0.0_f64..4.0, to in 109.0_f64..111.0, later in 0.0_f64..3.0) {
        let gap = |from: f64, to: f64| {
            let run = killed(one_pod("gap", 60.0, 120.0))
                .event(Event::WatchGap { kind: "pods".to_owned(), subject: None, from: at(from), to: at(to), resumed: false, why: "410 Gone".to_owned() })
                .event(Event::PodSeen {
                    seen: Seen::Listed,
                    at: at(to),
                    not_before: Some(at(from)),
                    pod: std::sync::Arc::new(PodFacts { resource_version: Some(108_000), ..pod("b") }),
                })
                .end(117.0, 120.0)
                .judge();
            rto(&run)
        };
        let narrow = gap(from, to);
        let wide = gap((from - earlier).max(100.02), to + later);
        prop_assert!(wide.0 <= narrow.0 && wide.1 >= narrow.1, "{narrow:?} became {wide:?}");
        prop_assert!(narrow.0 <= 8.0 && narrow.1 >= 8.0, "{narrow:?}");
    }

    #[test]
    fn a_lost_answer_only_widens_the_interval(lost in proptest::collection::vec(0_usize..300, 0..30), length in 1.0_f64..8.0) {
        let whole = endpoint("lost", 60.0, (100.05, 100.05 + length)).end(118.0, 120.0);
        let mut holed = whole.clone();
        let mut number = 0;
        for event in &mut holed.events {
            if let Event::ProbeSample { outcome, .. } = event {
                if lost.contains(&number) {
                    *outcome = Outcome::NoData { why: "lost".to_owned() };
                }
                number += 1;
            }
        }
        let run = holed.judge();
        let before = rto(&whole.judge());
        if let Some(lower) = run.experiments[0].trials[0].rto.lower {
            prop_assert!(lower <= before.0);
            if let Some(upper) = run.experiments[0].trials[0].rto.upper {
                prop_assert!(upper >= before.1);
            }
        }
    }

    #[test]
    fn the_truth_lies_inside_the_interval(
        phase in 0.0_f64..0.1,
        length in 0.01_f64..12.0,
        delays in proptest::collection::vec((0.001_f64..0.25, 0.0_f64..1.0), 1100),
    ) {
        // Open loop every 100 ms with answers of up to 250 ms, so that answers overtake each other. The state is taken at some
        // instant within each request, and the outage begins exactly with the fault.
        let begin = 100.0 + phase;
        let mut log = Log::of(&experiment("truth", vec![http()], 60.0));
        let mut samples = Vec::new();
        for (number, (delay, share)) in delays.iter().enumerate() {
            let sent = 60.0 + number as f64 * 0.1;
            if sent > 119.0 {
                break;
            }
            let looked = sent + delay * share;
            samples.push((sent + delay, Event::ProbeSample { known_from: None,
                probe: "endpoint".to_owned(),
                scheduled: at(sent),
                sent: at(sent),
                received: at(sent + delay),
                outcome: good_unless(looked >= begin && looked < begin + length),
                value: None,
            }));
        }
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        log.events.extend(samples.into_iter().map(|(_, event)| event));
        let run = log.fault(&["a"], begin, begin).end(117.0, 119.0).judge();
        let (lower, upper) = rto(&run);
        // Stamps are whole microseconds.
        prop_assert!(lower <= length + 2e-6 && upper >= length - 2e-6, "[{lower}, {upper}] without {length}");
        prop_assert!(upper - lower <= 0.71, "[{lower}, {upper}] is too wide");
    }

    #[test]
    fn no_log_makes_the_report_panic_or_silence_a_pass(events in proptest::collection::vec(any_event(), 0..40)) {
        let events: Vec<Event> = events.into_iter().filter(|event| !matches!(event, Event::TrialEnded { end: TrialEnd::Completed, .. })).collect();
        let run = Log { events }.judge();
        prop_assert_ne!(run.verdict, Verdict::Pass);
        let text = chaosrun::report::table(&run, true, "reports/r");
        prop_assert!(!text.is_empty());
        let json = chaosrun::report::json(&run);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }
}

#[test]
fn the_rich_log_is_rich_enough_for_its_property() {
    let run = rich().end(118.0, 135.0).judge();
    assert_eq!(run.verdict, Verdict::Pass, "{:#?}", run.experiments[0].claims);
    assert!(run.experiments[0].trials[0].phases.len() >= 7);
    assert_eq!(pods_ready(1.0).name, "pods ready");
}
