//! Traps of counting records.

use crate::corpus::Case;
use crate::dsl::{Log, acked, at_most, between, experiment, ledger, pending, pod, pods_ready, read};
use chaosrun::evidence::{Event, Seen, SinkRead};
use chaosrun::experiment::{Check, Comparison, Experiment, Operator, Workload};
use chaosrun::model::{PodFacts, Role, Verdict};
use std::time::Duration;

/// A streaming job with a ledger: no record lost, none twice, back within `limit`.
pub(crate) fn streaming(name: &str, limit: f64) -> Experiment {
    let mut experiment = experiment(name, vec![pods_ready(1.0)], limit);
    experiment.ledger = Some(ledger());
    experiment.slos.rpo_seconds = Some(at_most(10.0));
    experiment.slos.lost = Some(at_most(0.0));
    experiment.slos.duplicated = Some(at_most(0.0));
    experiment
}

/// Killed at 100, pod back at 108; batches every 2 s before, the first one after the fault at 115.5.
pub(crate) fn driver(experiment: &Experiment) -> Log {
    let before: Vec<f64> = (0..20).map(|batch| 61.0 + 2.0 * f64::from(batch)).collect();
    let after: Vec<f64> = (0..6).map(|batch| 115.5 + f64::from(batch)).collect();
    Log::of(experiment)
        .clocks()
        .pod(Seen::Listed, 51.0, pod("a"))
        .ticks(99.0, 121.0, 0.25)
        .commits(90.0, 121.0, &[before, after].concat())
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
}

fn audited(log: Log, reads: Vec<SinkRead>, drained: bool) -> Log {
    log.event(Event::LedgerAudited {
        acked: acked(92.0, 121.0),
        acked_read: between(121.0, 121.2),
        reads,
        drained,
        acked_ids: None,
        attempted: None,
        acked_later: None,
    })
    .end(118.0, 135.0)
}

const ALL: (u64, u64, u32) = (920, 1210, 1);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        intact(),
        duplicates(),
        lost(),
        late(),
        dead(),
        unread(),
        nothing_sent(),
        commits_stop(),
    ]
}

/// Service is back with the first commit after the fault, not with a ready pod.
fn intact() -> Case {
    Case {
        name: "first-commit-is-the-recovery",
        log: audited(
            driver(&streaming("first-commit-is-the-recovery", 60.0)),
            vec![read(122.0, 26, &[ALL])],
            true,
        ),
        verdict: Verdict::Pass,
        rto: Some((15.5, 0.3)),
        says: "lost: 0 records, within the limit <= 0 records",
    }
}

fn duplicates() -> Case {
    let reads = vec![read(122.0, 26, &[(920, 999, 1), (1000, 1004, 3), (1005, 1210, 1)])];
    Case {
        name: "duplicates-are-counted",
        log: audited(driver(&streaming("duplicates-are-counted", 60.0)), reads, true),
        verdict: Verdict::Fail,
        rto: Some((15.5, 0.3)),
        says: "duplicated: 10 records, which breaks the limit <= 0 records",
    }
}

/// Five records made half a second before the fault never arrive, although everything after them did.
fn lost() -> Case {
    let reads = vec![
        read(122.0, 26, &[(920, 994, 1), (1000, 1205, 1)]),
        read(134.0, 30, &[(920, 994, 1), (1000, 1300, 1)]),
    ];
    Case {
        name: "lost-records-are-counted",
        log: audited(driver(&streaming("lost-records-are-counted", 60.0)), reads, false),
        verdict: Verdict::Fail,
        rto: Some((15.5, 0.3)),
        says: "lost: 5 records, which breaks the limit <= 0 records",
    }
}

/// Read too early: ten records are missing at first and there at last. They are late, not lost.
fn late() -> Case {
    let reads = vec![read(121.5, 25, &[(920, 1200, 1)]), read(125.0, 27, &[(920, 1240, 1)])];
    Case {
        name: "late-records-are-not-lost",
        log: audited(driver(&streaming("late-records-are-not-lost", 60.0)), reads, true),
        verdict: Verdict::Pass,
        rto: Some((15.5, 0.3)),
        says: "lost: 0 records",
    }
}

/// The job never comes back. Its records wait in the source: the recovery is refuted, a loss is not proven.
fn dead() -> Case {
    let mut experiment = streaming("driver-never-restarts", 40.0);
    experiment.target.workload = Workload::SparkApplication {
        name: "orders".to_owned(),
    };
    "driver ready".clone_into(&mut experiment.steady_state.probes[0].name);
    experiment.steady_state.probes[0].check = Check::Pods {
        role: Some(Role("driver".to_owned())),
        ready: Comparison {
            operator: Operator::GreaterOrEqual,
            value: 1.0,
        },
    };
    experiment.steady_state.probes.push(crate::dsl::probe(
        "application state",
        Check::Resource {
            api_version: None,
            resource_kind: None,
            name: None,
            field: "status.applicationState.state".to_owned(),
            equals: "RUNNING".to_owned(),
        },
    ));
    let driver = PodFacts {
        role: Some(Role("driver".to_owned())),
        generation: Some("submission-1".to_owned()),
        ..pod("a")
    };
    let state = |seconds: f64, state: &str| Event::ResourceSeen {
        subject: "target".to_owned(),
        seen: Seen::Modified,
        at: crate::dsl::at(seconds),
        not_before: None,
        uid: "app".to_owned(),
        resource_version: None,
        fields: [("status.applicationState.state".to_owned(), state.to_owned())].into(),
    };
    let batches: Vec<f64> = (0..20).map(|batch| 61.0 + 2.0 * f64::from(batch)).collect();
    let log = Log::of(&experiment)
        .clocks()
        .event(state(51.0, "RUNNING"))
        .pod(Seen::Listed, 51.0, driver.clone())
        .ticks(99.0, 103.0, 0.25)
        .commits(90.0, 140.0, &batches)
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, driver)
        .event(state(100.3, "FAILED"))
        .event(Event::LedgerAudited {
            acked: acked(92.0, 140.0),
            acked_read: between(140.0, 140.1),
            reads: vec![read(140.2, 19, &[(920, 990, 1)]), read(200.0, 19, &[(920, 990, 1)])],
            drained: false,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        })
        .end(140.0, 201.0);
    Case {
        name: "driver-never-restarts",
        log,
        verdict: Verdict::Fail,
        rto: None,
        says: "(limit < 40 s): driver ready: 0 ready pods, >= 1 wanted; application state: state is FAILED; \
               no batch was committed after the fault",
    }
}

fn unread() -> Case {
    Case {
        name: "unreadable-ledger",
        log: driver(&streaming("unreadable-ledger", 60.0))
            .event(Event::LedgerUnreadable {
                why: "no ready pod carries the labels app=producer".to_owned(),
            })
            .end(118.0, 135.0),
        verdict: Verdict::Inconclusive,
        rto: Some((15.5, 0.3)),
        says: "the ledger could not be read: no ready pod",
    }
}

/// The producer stopped before the fault: nothing was at risk, so nothing is shown.
fn nothing_sent() -> Case {
    let log = driver(&streaming("nothing-acknowledged-during-the-outage", 60.0))
        .event(Event::LedgerAudited {
            acked: acked(92.0, 95.0),
            acked_read: between(121.0, 121.2),
            reads: vec![read(122.0, 26, &[(920, 950, 1)])],
            drained: true,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        })
        .end(118.0, 135.0);
    Case {
        name: "nothing-acknowledged-during-the-outage",
        log,
        verdict: Verdict::Inconclusive,
        rto: Some((15.5, 0.3)),
        says: "no record was acknowledged during the outage",
    }
}

/// No pod is hurt, but commits stop for 20 s: the progress probe is the one that notices.
fn commits_stop() -> Case {
    let mut experiment = streaming("progress-stops-while-pods-are-ready", 60.0);
    experiment.steady_state.probes = vec![crate::dsl::probe(
        "progress",
        Check::Progress {
            within: Duration::from_secs(5),
        },
    )];
    let before: Vec<f64> = (0..40).map(|batch| 61.0 + f64::from(batch)).collect();
    let after: Vec<f64> = (0..20).map(|batch| 120.3 + f64::from(batch)).collect();
    let log = Log::of(&experiment)
        .clocks()
        .commits(90.0, 130.0, &[before, after].concat())
        .fault(&["a"], 100.2, 100.25)
        .event(Event::LedgerAudited {
            acked: acked(92.0, 130.0),
            acked_read: between(130.0, 130.1),
            reads: vec![read(130.2, 60, &[(920, 1300, 1)])],
            drained: true,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        })
        .end(126.0, 131.0);
    Case {
        name: "progress-stops-while-pods-are-ready",
        log,
        verdict: Verdict::Pass,
        rto: Some((20.075, 0.4)),
        says: ", within the limit < 60 s",
    }
}

#[test]
fn the_oldest_lost_record_dates_the_loss() {
    let run = lost().log.judge();
    let trial = &run.experiments[0].trials[0];
    // Records 995..=999 were made from 99.5 s on, the fault took effect at 100.
    assert_eq!(trial.rpo.records, Some(5));
    assert!((trial.rpo.seconds.unwrap() - 0.5).abs() < 0.03, "{:?}", trial.rpo);
    let (lower, upper) = (trial.rpo.seconds_lower.unwrap(), trial.rpo.seconds_upper.unwrap());
    assert!(lower <= 0.5 && upper >= 0.5 && upper - lower < 0.05);
    assert_eq!(trial.ledger.lost_after_fault, Some(0));
}

#[test]
fn the_reprocessing_window_is_reported_and_never_counted_as_loss() {
    let run = intact().log.judge();
    let trial = &run.experiments[0].trials[0];
    // The last commit before the fault was at 99.
    assert!((trial.reprocessing_window.value.unwrap() - 1.0).abs() < 0.1);
    assert_eq!(trial.rpo.seconds, Some(0.0));
    assert_eq!(trial.ledger.lost, Some(0));
}

#[test]
fn late_records_are_told_apart() {
    let run = late().log.judge();
    let ledger = &run.experiments[0].trials[0].ledger;
    assert_eq!((ledger.lost, ledger.late), (Some(0), Some(10)));
    assert_eq!(ledger.unacknowledged, Some(30));
}

#[test]
fn records_that_wait_behind_a_dead_job_are_pending_not_lost() {
    let run = dead().log.judge();
    let trial = &run.experiments[0].trials[0];
    assert_eq!(trial.ledger.lost, Some(0));
    assert_eq!(trial.ledger.pending, Some(410));
    let lost = run.experiments[0]
        .claims
        .iter()
        .find(|claim| claim.name == "lost records")
        .unwrap();
    assert_eq!(lost.verdict, Verdict::Inconclusive);
}

#[test]
fn lost_records_without_a_bounded_clock_have_no_age_but_still_count() {
    let mut log = lost().log;
    log.events.retain(|event| !matches!(event, Event::ClockOffset { .. }));
    let run = log.judge();
    let verdict = |name: &str| {
        let claims = &run.experiments[0].claims;
        claims.iter().find(|claim| claim.name == name).unwrap().verdict
    };
    assert_eq!(verdict("rpo"), Verdict::Inconclusive);
    assert_eq!(verdict("lost records"), Verdict::Fail);
}

#[test]
fn a_clock_that_stepped_places_nothing() {
    let log = lost().log;
    let mut events = log.events;
    events.insert(
        3,
        Event::ClockOffset {
            clock: "producer".to_owned(),
            lower_ms: 5000.0,
            upper_ms: 5001.0,
        },
    );
    let run = Log { events }.judge();
    let rpo = &run.experiments[0].trials[0].rpo;
    assert!(rpo.reason.as_ref().unwrap().contains("clock stepped"));
}

#[test]
fn a_batch_in_flight_at_the_fault_is_no_recovery() {
    let experiment = streaming("in-flight", 60.0);
    // The batch planned before the fault commits 30 ms after it, before the first look.
    let run = Log::of(&experiment)
        .clocks()
        .pod(Seen::Listed, 51.0, pod("a"))
        .pod(Seen::Listed, 51.0, pod("b"))
        .ticks(99.0, 130.0, 0.25)
        .commits(90.0, 130.0, &[70.0, 99.0, 100.04, 117.0])
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .end(125.0, 131.0)
        .judge();
    let rto = &run.experiments[0].trials[0].rto;
    assert!((rto.value.unwrap() - 17.0).abs() < 0.2, "{rto:?}");
}

#[test]
fn what_an_earlier_trial_lost_is_not_counted_again() {
    let mut experiment = streaming("twice", 60.0);
    experiment.trials.count = 2;
    let reads = |end: u64| vec![read(122.0, 26, &[(920, 994, 1), (1000, 1100, 2), (1101, end, 1)])];
    let first = audited(driver(&experiment), reads(1210), true).events;
    let mut events: Vec<Event> = first;
    events.truncate(events.len() - 2);
    let second = Log { events }
        .trial(2, 150.0)
        .pod(Seen::Added, 151.0, pod("c"))
        .commits(
            121.5,
            230.0,
            &(0..100).map(|batch| 61.0 + f64::from(batch)).collect::<Vec<_>>(),
        )
        .ticks(199.0, 230.0, 0.25)
        .fault(&["b"], 199.99, 200.01)
        .pod(Seen::Deleted, 200.0, pod("b"))
        .event(Event::LedgerAudited {
            acked: acked(92.0, 230.0),
            acked_read: between(230.0, 230.1),
            reads: vec![read(231.0, 90, &[(920, 994, 1), (1000, 1100, 2), (1101, 2299, 1)])],
            drained: true,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        })
        .end(225.0, 232.0);
    let run = second.judge();
    let trials = &run.experiments[0].trials;
    assert_eq!(trials.len(), 2);
    assert_eq!(
        (trials[0].ledger.lost, trials[0].ledger.duplicated),
        (Some(5), Some(101))
    );
    assert_eq!((trials[1].ledger.lost, trials[1].ledger.duplicated), (Some(1), Some(0)));
}

#[test]
fn stamps_are_placed_through_the_offset_of_the_producers_clock() {
    // The producer's clock is 2 s ahead: its stamps look newer than they are.
    let mut log = lost().log;
    for event in &mut log.events {
        if let Event::ClockOffset { lower_ms, upper_ms, .. } = event {
            (*lower_ms, *upper_ms) = (1999.0, 2001.0);
        }
        if let Event::LedgerAudited { acked, .. } = event {
            for range in acked {
                range.at_ms += 2000;
                range.acked_ms += 2000;
            }
        }
    }
    let run = log.judge();
    let rpo = &run.experiments[0].trials[0].rpo;
    assert!((rpo.seconds.unwrap() - 0.5).abs() < 0.03, "{rpo:?}");
}

#[test]
fn a_commit_that_was_there_before_anybody_looked_has_no_date() {
    let experiment = streaming("old-commit", 60.0);
    // Batch 1 was committed long ago; the looks begin at 90 and see nothing new before the fault.
    let run = Log::of(&experiment)
        .clocks()
        .pod(Seen::Listed, 51.0, pod("a"))
        .pod(Seen::Listed, 51.0, pod("b"))
        .ticks(99.0, 130.0, 0.25)
        .commits(90.0, 130.0, &[60.0, 70.0, 117.0])
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .end(125.0, 131.0)
        .judge();
    let window = &run.experiments[0].trials[0].reprocessing_window;
    assert_eq!(window.value, None, "{window:?}");
    assert!(
        window
            .reason
            .as_ref()
            .unwrap()
            .contains("no commit was seen before the fault"),
        "{window:?}"
    );
}
