//! The timeline as the engine uses it: fed event by event, asked at the present instant.

use crate::dsl::{Log, at, experiment, good_unless, http, pending, pod, pods_ready, probe, silent};
use crate::pod_cases::{killed, one_pod};
use chaosrun::evidence::{Event, Outcome, Seen};
use chaosrun::experiment::{Check, Experiment, StopCondition};
use chaosrun::timeline::{ProbeState, Timeline};
use std::time::Duration;

/// Everything that had happened by `now`.
fn told(experiment: &Experiment, log: &Log, now: f64) -> Timeline {
    let mut timeline = Timeline::new(experiment);
    for event in &log.events {
        let instant = match event {
            Event::PodSeen { at, .. }
            | Event::StepStarted { at, .. }
            | Event::TrialEnded { at, .. }
            | Event::ResourceSeen { at, .. } => *at,
            Event::ProbeSample { received, .. }
            | Event::RevisionTick { received, .. }
            | Event::LedgerSample { received, .. } => *received,
            Event::FaultProven { effect, .. } => effect.upper,
            Event::WatchBroken { from, .. } => *from,
            Event::WatchGap { to, .. } => *to,
            _ => at(0.0),
        };
        if instant <= at(now) {
            timeline.apply(event);
        }
    }
    timeline
}

fn replaced() -> Log {
    killed(one_pod("live", 60.0, 120.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
}

#[test]
fn recovered_is_said_once_the_hold_time_is_over_and_dated_at_its_start() {
    let wanted = experiment("live", vec![pods_ready(1.0)], 60.0);
    let log = replaced();
    assert_eq!(told(&wanted, &log, 105.0).recovered(at(105.0)), None);
    assert_eq!(told(&wanted, &log, 109.9).recovered(at(109.9)), None);
    let recovered = told(&wanted, &log, 110.1).recovered(at(110.1)).unwrap();
    assert!(recovered.restored.within.lower <= at(108.0));
    assert!(recovered.restored.within.upper >= at(108.0));
    assert!(recovered.restored.within.upper <= at(108.1));
}

#[test]
fn a_broken_watch_vouches_for_nothing_until_it_is_back() {
    let wanted = experiment("live", vec![pods_ready(1.0)], 60.0);
    let gap = |from: f64| Event::WatchBroken {
        kind: "pods".to_owned(),
        subject: None,
        from: at(from),
        why: "connection reset".to_owned(),
    };
    let log = replaced().event(gap(108.5)).event(Event::WatchGap {
        kind: "pods".to_owned(),
        subject: None,
        from: at(108.5),
        to: at(115.0),
        resumed: true,
        why: "connection reset".to_owned(),
    });
    let broken = told(&wanted, &log, 114.0);
    assert_eq!(broken.recovered(at(114.0)), None);
    let why = broken.steady(at(114.0)).unwrap_err();
    assert_eq!(
        why,
        ["pods ready: nothing seen for 5.5 s, the watch is broken: connection reset"]
    );
    let back = told(&wanted, &log, 115.1);
    assert!(back.recovered(at(115.1)).is_some());
    assert_eq!(back.steady(at(115.1)), Ok(()));
}

#[test]
fn nothing_is_recovered_before_the_effect_is_proven() {
    let wanted = experiment("live", vec![pods_ready(1.0)], 60.0);
    let mut log = replaced();
    log.events.retain(|event| !matches!(event, Event::FaultProven { .. }));
    assert_eq!(told(&wanted, &log, 118.0).recovered(at(118.0)), None);
}

#[test]
fn a_symptom_that_comes_a_moment_after_the_effect_is_waited_for() {
    let wanted = experiment("delayed", vec![http()], 60.0);
    let log = Log::of(&wanted)
        .samples("endpoint", 60.0, 130.0, 0.2, |sent| {
            good_unless((101.0..110.0).contains(&sent))
        })
        .fault(&["a"], 99.99, 100.01);
    assert_eq!(told(&wanted, &log, 100.5).recovered(at(100.5)), None);
    assert_eq!(told(&wanted, &log, 105.0).recovered(at(105.0)), None);
    let recovered = told(&wanted, &log, 113.0).recovered(at(113.0)).unwrap();
    assert!(recovered.impact.is_some());
}

#[test]
fn the_steady_state_needs_every_probe_for_its_hold_time_and_says_which_is_missing() {
    let wanted = experiment("steady", vec![pods_ready(2.0), http()], 60.0);
    let log = Log::of(&wanted)
        .pod(Seen::Listed, 51.0, pod("a"))
        .samples("endpoint", 60.0, 61.0, 0.2, |_| Outcome::Good);
    assert_eq!(
        told(&wanted, &log, 61.1).steady(at(61.1)).unwrap_err(),
        ["pods ready: 1 ready pod, >= 2 wanted", "endpoint: good for only 1.1 s"]
    );
    let log = log
        .pod(Seen::Added, 61.5, pod("b"))
        .samples("endpoint", 61.2, 64.0, 0.2, |_| Outcome::Good);
    assert_eq!(told(&wanted, &log, 64.0).steady(at(64.0)), Ok(()));
}

#[test]
fn a_listing_is_one_instant_and_not_a_slow_arrival_of_pods() {
    let wanted = experiment("list", vec![pods_ready(3.0)], 60.0);
    let log = ["a", "b", "c"]
        .iter()
        .fold(Log::of(&wanted), |log, uid| log.pod(Seen::Listed, 51.0, pod(uid)));
    let spans = told(&wanted, &log, 52.0).spans("pods ready");
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].state, ProbeState::Good);
}

#[test]
fn a_probe_that_fell_silent_says_nothing_rather_than_its_last_word() {
    let wanted = experiment("stale", vec![http()], 60.0);
    let log = Log::of(&wanted).samples("endpoint", 60.0, 80.0, 0.2, |sent| {
        if sent > 70.0 { silent() } else { Outcome::Good }
    });
    let states = told(&wanted, &log, 80.0).probe_states(at(80.0));
    assert_eq!(states[0].state, ProbeState::NoData);
    assert!(states[0].why.contains("Prometheus did not answer"), "{}", states[0].why);
    assert!(told(&wanted, &log, 80.0).steady(at(80.0)).is_err());
    assert!(told(&wanted, &log, 69.0).steady(at(69.0)).is_ok());
}

#[test]
fn a_stop_condition_is_met_only_after_its_hold_time() {
    let mut wanted = experiment("stop", vec![pods_ready(1.0)], 60.0);
    wanted.stop = vec![StopCondition {
        probe: chaosrun::experiment::Probe {
            name: "budget".to_owned(),
            ..http()
        },
        budget: None,
    }];
    let log = Log::of(&wanted).samples("budget", 60.0, 90.0, 0.2, |sent| good_unless(sent >= 70.0));
    assert_eq!(told(&wanted, &log, 69.0).stop_condition(at(69.0)), None);
    assert_eq!(told(&wanted, &log, 71.0).stop_condition(at(71.0)), None);
    assert_eq!(
        told(&wanted, &log, 73.0).stop_condition(at(73.0)).as_deref(),
        Some("budget: connection refused")
    );
}

#[test]
fn progress_is_bad_once_the_last_commit_is_too_old() {
    let mut wanted = experiment(
        "progress",
        vec![probe(
            "progress",
            Check::Progress {
                within: Duration::from_secs(5),
            },
        )],
        60.0,
    );
    wanted.ledger = Some(crate::dsl::ledger());
    let log = Log::of(&wanted).commits(60.0, 90.0, &[61.0, 65.0, 68.0, 80.0]);
    let state = |now: f64| told(&wanted, &log, now).probe_states(at(now))[0].clone();
    assert_eq!(state(60.5).state, ProbeState::NoData);
    assert_eq!(state(67.0).state, ProbeState::Good);
    assert_eq!(state(72.0).state, ProbeState::Good);
    let bad = state(75.0);
    assert_eq!(bad.state, ProbeState::Bad);
    assert!(bad.why.starts_with("no commit for 6."), "{}", bad.why);
    let since = bad.since.unwrap();
    assert!(since >= at(73.0) && since <= at(73.2), "{since:?}");
    assert_eq!(state(80.2).state, ProbeState::Good);
}

#[test]
fn executors_of_the_driver_before_no_longer_serve() {
    use chaosrun::model::{PodFacts, Role};
    let member = |uid: &str, role: &str, generation: &str| PodFacts {
        role: Some(Role(role.to_owned())),
        generation: Some(generation.to_owned()),
        ..pod(uid)
    };
    let wanted = experiment("spark", vec![pods_ready(1.0)], 60.0);
    let log = Log::of(&wanted)
        .pod(Seen::Listed, 51.0, member("d1", "driver", "s1"))
        .pod(Seen::Listed, 51.0, member("e1", "executor", "s1"))
        .pod(Seen::Deleted, 100.0, member("d1", "driver", "s1"))
        .pod(
            Seen::Added,
            110.0,
            PodFacts {
                ready: false,
                ..member("d2", "driver", "s2")
            },
        );
    let executors = |now: f64| told(&wanted, &log, now).ready_count(Some(&Role("executor".to_owned())));
    assert_eq!(executors(60.0), 1);
    assert_eq!(executors(105.0), 1);
    assert_eq!(executors(111.0), 0);
}

#[test]
fn the_live_answer_and_the_report_agree() {
    let wanted = experiment("live", vec![pods_ready(1.0)], 60.0);
    let live = told(&wanted, &replaced(), 111.0).recovered(at(111.0)).unwrap();
    let run = replaced().end(112.0, 118.0).judge();
    let rto = &run.experiments[0].trials[0].rto;
    let effect = 100.0;
    let best = live.restored.best.seconds() - effect;
    assert!((rto.value.unwrap() - best).abs() < 0.002, "{rto:?} {best}");
}

/// Two outages of 2 s and of 3 s: the second one spends the budget of 3 s, and what came before the fault does not count.
#[test]
fn an_error_budget_is_spent_by_all_outages_since_the_injection_together() {
    let mut wanted = experiment("budget", vec![pods_ready(1.0)], 60.0);
    wanted.stop = vec![StopCondition {
        probe: probe("users", http().check),
        budget: Some(Duration::from_secs(3)),
    }];
    let bad =
        |sent: f64| (90.0..94.0).contains(&sent) || (101.0..103.0).contains(&sent) || (110.0..113.0).contains(&sent);
    let log = Log::of(&wanted)
        .pod(Seen::Listed, 51.0, pod("a"))
        .samples("users", 89.0, 99.8, 0.1, |sent| good_unless(bad(sent)))
        .fault(&["a"], 99.99, 100.01)
        .samples("users", 100.1, 120.0, 0.1, |sent| good_unless(bad(sent)));
    let stopped = |now: f64| told(&wanted, &log, now).stop_condition(at(now));
    assert_eq!(stopped(109.0), None);
    assert_eq!(stopped(110.9), None);
    let why = stopped(111.5).unwrap();
    assert!(
        why.contains("users: bad for 3.") && why.contains("the error budget is 3.0 s"),
        "{why}"
    );
}
