//! The log is evidence: no byte of it can be changed unseen, and any prefix of it can be undone.

use crate::dsl::{Log, at, experiment, pending, pod, pods_ready, target};
use chaosrun::evidence::{Chain, Event, ReadError, Seen, fold_log, genesis, open_undos, read_log};
use chaosrun::fault::Undo;
use chaosrun::model::Mono;
use proptest::prelude::*;

fn small() -> Log {
    Log::of(&experiment("small", vec![pods_ready(1.0)], 10.0))
        .pod(Seen::Listed, 51.0, pod("ä"))
        .fault(&["ä"], 99.9, 100.0)
        .pod(Seen::Deleted, 100.0, pod("ä"))
        .pod(Seen::Added, 102.0, pending("b"))
        .end(105.0, 110.0)
}

fn object(name: &str) -> Undo {
    Undo::DeleteObject {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        plural: "jobs".to_owned(),
        namespace: Some("shop".to_owned()),
        name: name.to_owned(),
    }
}

#[test]
fn the_first_line_follows_the_genesis() {
    let log = read_log(small().text().as_bytes()).unwrap();
    assert_eq!(log.records[0].prev, genesis());
    assert_eq!(log.records[1].prev, log.records[0].hash);
    assert_eq!(log.torn, None);
    assert_eq!(log.intact_bytes, small().text().len());
}

#[test]
fn a_removed_a_repeated_and_a_swapped_line_are_found() {
    let text = small().text();
    let lines: Vec<&str> = text.lines().collect();
    let join = |lines: Vec<&str>| lines.join("\n") + "\n";
    let removed = join([&lines[..3], &lines[4..]].concat());
    assert_eq!(read_log(removed.as_bytes()).unwrap_err().line, 4);
    let repeated = join([&lines[..3], &lines[2..]].concat());
    assert_eq!(read_log(repeated.as_bytes()).unwrap_err().line, 4);
    let mut swapped = lines;
    swapped.swap(3, 4);
    assert_eq!(read_log(join(swapped).as_bytes()).unwrap_err().line, 4);
}

/// Long enough to be checked in several pieces at once.
fn long() -> String {
    let mut chain = Chain::new();
    (0..12_000_u32)
        .map(|number| {
            let event = Event::LedgerReached {
                at: at(f64::from(number)),
                acknowledged: Some(u64::from(number)),
                committed: None,
            };
            chain
                .line(at(f64::from(number)), "2026-01-01T00:00:00Z", &event)
                .unwrap()
        })
        .collect()
}

/// What folding a log gives, in the form that keeping it gives.
fn folded(bytes: &[u8]) -> Result<(Vec<Event>, bool, u64), (usize, String)> {
    let mut events = Vec::new();
    match fold_log(bytes, |event| events.push(event)) {
        Ok(checked) => {
            assert_eq!(checked.records, events.len());
            Ok((events, checked.torn.is_some(), checked.intact_bytes))
        }
        Err(ReadError::Log(error)) => Err((error.line, error.what)),
        Err(ReadError::Io(error)) => panic!("{error}"),
    }
}

fn kept(bytes: &[u8]) -> Result<(Vec<Event>, bool, u64), (usize, String)> {
    match read_log(bytes) {
        Ok(log) => Ok((
            log.records.into_iter().map(|record| record.event).collect(),
            log.torn.is_some(),
            log.intact_bytes as u64,
        )),
        Err(error) => Err((error.line, error.what)),
    }
}

#[test]
fn a_log_in_many_pieces_is_read_as_in_one() {
    let text = long();
    assert!(
        text.len() > 2 * 1024 * 1024,
        "too short to need several pieces: {}",
        text.len()
    );
    assert_eq!(folded(text.as_bytes()), kept(text.as_bytes()));
    let head = fold_log(text.as_bytes(), drop).unwrap().head;
    assert_eq!(head, read_log(text.as_bytes()).unwrap().records.last().unwrap().hash);
    // Damage in any piece is found at its line, whatever stands in the pieces after it.
    for place in [0, 7, 500_000, 1_000_003, 2_000_001, text.len() - 40] {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        let damage = folded(&bytes).unwrap_err();
        assert_eq!(damage, kept(&bytes).unwrap_err());
        let newlines = text[..place].matches('\n').count();
        assert_eq!(damage.0, newlines + 1);
        assert_eq!(folded(&bytes[..place]), kept(&bytes[..place]));
    }
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for gone in [0, 1, 5_000, 11_998] {
        let rest = [&lines[..gone], &lines[gone + 1..]].concat().concat();
        assert_eq!(folded(rest.as_bytes()), kept(rest.as_bytes()));
        assert_eq!(folded(rest.as_bytes()).unwrap_err().0, gone + 1);
    }
}

#[test]
fn a_line_of_another_log_in_the_same_place_is_found() {
    let mut other = small();
    other.events[2] = Event::WorkloadIdentified {
        workload: "another".to_owned(),
        stand_in: false,
    };
    let (text, other) = (small().text(), other.text());
    let mut lines: Vec<&str> = text.lines().collect();
    lines[3] = other.lines().nth(3).unwrap();
    let error = read_log((lines.join("\n") + "\n").as_bytes()).unwrap_err();
    assert_eq!(error.line, 4);
    assert!(error.what.contains("does not follow"), "{error}");
}

#[test]
fn a_torn_last_line_is_reported_and_the_chain_goes_on_behind_the_intact_part() {
    let text = small().text();
    let torn = &text.as_bytes()[..text.len() - 20];
    let log = read_log(torn).unwrap();
    assert!(log.torn.unwrap().what.contains("never finished"));
    let mut chain = Chain::resume(&log.records);
    let more = chain
        .line(Mono(9), "later", &Event::ExperimentEnded { index: 0, error: None })
        .unwrap();
    let mut bytes = torn[..log.intact_bytes].to_vec();
    bytes.extend(more.as_bytes());
    assert_eq!(read_log(&bytes).unwrap().records.len(), log.records.len() + 1);
}

#[test]
fn a_whole_last_line_without_its_newline_still_counts() {
    let text = small().text();
    let log = read_log(text.trim_end().as_bytes()).unwrap();
    assert_eq!(log.records, small().records());
    assert!(log.torn.unwrap().what.contains("newline"));
}

#[test]
fn unbounded_clock_offsets_survive_json() {
    let event = Event::ClockOffset {
        clock: "producer".to_owned(),
        lower_ms: f64::NEG_INFINITY,
        upper_ms: 4.5,
    };
    let text = Chain::new().line(Mono(0), "", &event).unwrap();
    assert_eq!(read_log(text.as_bytes()).unwrap().records[0].event, event);
}

#[test]
fn what_is_gone_is_reverted_and_what_failed_stays_open() {
    let armed = |name: &str| Event::ObjectArmed {
        purpose: "guard".to_owned(),
        undo: object(name),
    };
    let undone = |name: &str, error: Option<&str>| Event::Undone {
        undo: object(name),
        error: error.map(str::to_owned),
    };
    // The pod that the fault was aimed at had been replaced, its object was already gone: the undo succeeded all the same.
    let mut events = vec![armed("guard"), armed("lock"), undone("lock", None)];
    assert_eq!(open_undos(&events), vec![object("guard")]);
    events.push(undone("guard", Some("403 Forbidden")));
    assert_eq!(open_undos(&events), vec![object("guard")]);
    events.push(undone("guard", None));
    assert!(open_undos(&events).is_empty());
}

#[test]
fn the_last_armed_is_undone_first_and_nothing_is_undone_for_a_one_shot() {
    let events = [
        Event::ObjectArmed {
            purpose: "guard".to_owned(),
            undo: object("guard"),
        },
        Event::FaultArmed {
            fault: "kill".to_owned(),
            injector: "direct".to_owned(),
            targets: vec![target("a")],
            undo: vec![Undo::Nothing, object("policy")],
            lasting: false,
        },
        Event::ObjectArmed {
            purpose: "guard".to_owned(),
            undo: object("guard"),
        },
    ];
    assert_eq!(open_undos(&events), vec![object("policy"), object("guard")]);
}

#[derive(Debug, Clone)]
enum Act {
    Arm(u8),
    Fault(Vec<u8>),
    Undo(u8, bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0_u8..5).prop_map(Act::Arm),
        proptest::collection::vec(0_u8..5, 0..3).prop_map(Act::Fault),
        (0_u8..5, any::<bool>()).prop_map(|(name, works)| Act::Undo(name, works)),
    ];
    proptest::collection::vec(act, 0..30)
}

fn event(act: &Act) -> Event {
    let name = |number: &u8| object(&format!("o{number}"));
    match act {
        Act::Arm(number) => Event::ObjectArmed {
            purpose: "guard".to_owned(),
            undo: name(number),
        },
        Act::Fault(numbers) => Event::FaultArmed {
            fault: "f".to_owned(),
            injector: "direct".to_owned(),
            targets: Vec::new(),
            undo: numbers.iter().map(name).collect(),
            lasting: false,
        },
        Act::Undo(number, works) => Event::Undone {
            undo: name(number),
            error: (!works).then(|| "timeout".to_owned()),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_prefix_of_any_log_can_be_undone(acts in acts(), cut in 0_usize..30) {
        let mut events: Vec<Event> = acts.iter().take(cut).map(event).collect();
        let open = open_undos(&events);
        // Whatever was armed after its last successful undo is open, exactly once.
        for number in 0..5_u8 {
            let wanted = object(&format!("o{number}"));
            let armed = acts.iter().take(cut).rposition(|act| match act {
                Act::Arm(known) => *known == number,
                Act::Fault(known) => known.contains(&number),
                Act::Undo(..) => false,
            });
            let undone = acts.iter().take(cut).rposition(|act| matches!(act, Act::Undo(known, true) if *known == number));
            prop_assert_eq!(open.iter().filter(|undo| **undo == wanted).count(), usize::from(armed.is_some() && armed > undone));
        }
        // Undoing all of it leaves nothing.
        events.extend(open.into_iter().map(|undo| Event::Undone { undo, error: None }));
        prop_assert!(open_undos(&events).is_empty());
    }

    #[test]
    fn one_flipped_bit_anywhere_is_found(place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let text = small().text();
        let mut bytes = text.into_bytes();
        let place = place.index(bytes.len());
        let last = place == bytes.len() - 1;
        bytes[place] ^= 1 << bit;
        prop_assert_eq!(folded(&bytes), kept(&bytes));
        match read_log(&bytes) {
            Err(_) => {}
            // The very last newline is the one byte whose loss looks like a crash, and is reported as one.
            Ok(log) => prop_assert!(last && log.torn.is_some()),
        }
    }

    #[test]
    fn a_log_cut_anywhere_is_read_up_to_the_cut(cut in any::<prop::sample::Index>()) {
        let text = small().text();
        let cut = cut.index(text.len());
        let log = read_log(&text.as_bytes()[..cut]).unwrap();
        prop_assert_eq!(folded(&text.as_bytes()[..cut]), kept(&text.as_bytes()[..cut]));
        let whole = text.bytes().take(cut).filter(|byte| *byte == b'\n').count();
        prop_assert!(log.records.len() == whole || log.records.len() == whole + 1);
        prop_assert_eq!(&log.records[..], &small().records()[..log.records.len()]);
    }

    #[test]
    fn every_event_round_trips(event in crate::properties::any_event()) {
        let text = Chain::new().line(at(1.0), "2026-01-01T00:00:00Z", &event).unwrap();
        let log = read_log(text.as_bytes()).unwrap();
        prop_assert_eq!(&log.records[0].event, &event);
        // The short way to read an event and the general one agree.
        let general: chaosrun::evidence::Record = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&general, &log.records[0]);
    }
}
