//! Traps of watching pods. The first four are the ones that leading tools answer wrongly.

use crate::corpus::Case;
use crate::dsl::{DELIVERY, Log, at, between, experiment, owner, pending, pod, pods_ready, target};
use chaosrun::evidence::{Event, Seen, Step, TrialEnd};
use chaosrun::fault::{FaultKind, FaultTarget, Mode, Signal};
use chaosrun::model::{ContainerFacts, ContainerState, PodFacts, Verdict};

/// One pod `a`, ready since long before, with a tick of the revision clock every 250 ms until `until`.
pub(crate) fn one_pod(name: &str, limit: f64, until: f64) -> Log {
    Log::of(&experiment(name, vec![pods_ready(1.0)], limit))
        .pod(Seen::Listed, 51.0, pod("a"))
        .ticks(99.0, until, 0.25)
}

pub(crate) fn killed(log: Log) -> Log {
    log.fault(&["a"], 99.99, 100.01).pod(Seen::Deleted, 100.0, pod("a"))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        other_name(),
        same_pod(),
        same_name(),
        bystander(),
        terminating(),
        relist(),
        broken_for_good(),
        broken_and_resumed(),
        skewed_stamps(),
        wrong_container(),
        shortfall(),
        never_fired(),
        unfinished(),
        refused(),
        aborted(),
        limit_inside_the_error_bar(),
        unharmed(),
        flapping(),
        relapsing(),
    ]
}

fn other_name() -> Case {
    let log = killed(one_pod("pod-replaced-under-another-name", 9.0, 115.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .end(112.0, 115.0);
    Case {
        name: "pod-replaced-under-another-name",
        log,
        verdict: Verdict::Pass,
        rto: Some((8.0, 0.5)),
        says: ", within the limit < 9 s",
    }
}

fn restarted(facts: PodFacts, id: &str, running: bool) -> PodFacts {
    PodFacts {
        ready: running,
        containers: vec![ContainerFacts {
            name: "main".to_owned(),
            container_id: format!("runc://{id}"),
            restarts: i32::from(running),
            ready: running,
            state: if running {
                ContainerState::Running { started_at: None }
            } else {
                ContainerState::Terminated {
                    exit_code: 137,
                    reason: "Error".to_owned(),
                }
            },
        }],
        ..facts
    }
}

fn same_pod() -> Case {
    let log = one_pod("container-restart-inside-the-pod", 31.0, 140.0)
        .pod(Seen::Modified, 90.0, pod("a"))
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Modified, 100.0, restarted(pod("a"), "a-0", false))
        .pod(Seen::Modified, 130.0, restarted(pod("a"), "a-1", true))
        .end(134.0, 140.0);
    Case {
        name: "container-restart-inside-the-pod",
        log,
        verdict: Verdict::Pass,
        rto: Some((30.0, 0.5)),
        says: ", within the limit < 31 s",
    }
}

fn same_name() -> Case {
    let named = |facts: PodFacts| {
        let mut facts = facts;
        "shop-0".clone_into(&mut facts.pod.name);
        facts
    };
    let log = Log::of(&experiment("same-name-replacement", vec![pods_ready(1.0)], 41.0))
        .pod(Seen::Listed, 51.0, named(pod("a")))
        .ticks(99.0, 145.0, 0.25)
        .pod(Seen::Modified, 90.0, named(pod("a")))
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, named(pod("a")))
        .pod(Seen::Added, 105.0, named(pending("b")))
        .pod(Seen::Modified, 140.0, named(pod("b")))
        .end(144.0, 146.0);
    Case {
        name: "same-name-replacement",
        log,
        verdict: Verdict::Pass,
        rto: Some((40.0, 0.5)),
        says: ", within the limit < 41 s",
    }
}

fn stranger(facts: PodFacts) -> PodFacts {
    PodFacts {
        member: false,
        role: None,
        owner: Some(owner("rs-of-somebody-else")),
        ..facts
    }
}

fn bystander() -> Case {
    let log = one_pod("autoscaled-bystander-is-no-replacement", 5.0, 160.0)
        .pod(Seen::Added, 95.0, stranger(pending("x")))
        .pod(Seen::Modified, 99.0, stranger(pod("x")));
    Case {
        name: "autoscaled-bystander-is-no-replacement",
        log: killed(log).end(160.0, 161.0),
        verdict: Verdict::Fail,
        rto: None,
        says: "service was not restored within 61.0 s (limit < 5 s): pods ready: 0 ready pods",
    }
}

/// A deletion stamp lies in the future by the grace period, and a terminating pod may stay ready: it no longer serves.
fn terminating() -> Case {
    let going = PodFacts {
        deletion_at: Some("2026-01-01T00:02:10Z".to_owned()),
        deletion_grace_seconds: Some(30),
        ..pod("a")
    };
    let log = one_pod("terminating-pod-is-not-ready", 21.0, 140.0)
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Modified, 100.0, going.clone())
        .pod(Seen::Added, 101.0, pending("b"))
        .pod(Seen::Modified, 120.0, pod("b"))
        .pod(Seen::Deleted, 130.0, going)
        .end(135.0, 140.0);
    Case {
        name: "terminating-pod-is-not-ready",
        log,
        verdict: Verdict::Pass,
        rto: Some((20.0, 0.5)),
        says: ", within the limit < 21 s",
    }
}

/// The watch was gone from 101 to 110: the replacement became ready somewhere in between, and nobody knows when.
fn relist() -> Case {
    let log = killed(one_pod("relist-widens-only-its-phase", 20.0, 120.0))
        .event(Event::WatchGap {
            kind: "pods".to_owned(),
            subject: None,
            from: at(101.0),
            to: at(110.0),
            resumed: false,
            why: "410 Gone".to_owned(),
        })
        .event(Event::PodSeen {
            seen: Seen::Listed,
            at: at(110.0),
            not_before: Some(at(101.0)),
            pod: std::sync::Arc::new(PodFacts {
                // The last of the merged changes; readiness came before it.
                resource_version: Some(109_500),
                ..pod("b")
            }),
        })
        .end(114.0, 118.0);
    Case {
        name: "relist-widens-only-its-phase",
        log,
        verdict: Verdict::Pass,
        rto: Some((5.0, 9.1)),
        says: "the watch of pods was not connected for 9.0 s (410 Gone)",
    }
}

fn broken(from: f64) -> Event {
    Event::WatchBroken {
        kind: "pods".to_owned(),
        subject: None,
        from: at(from),
        why: "connection reset".to_owned(),
    }
}

/// The replacement was ready for 0.4 s when the watch broke: nobody knows whether it held.
fn broken_for_good() -> Case {
    let log = killed(one_pod("broken-watch-proves-nothing", 9.0, 125.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .event(broken(108.4))
        .end(120.0, 125.0);
    Case {
        name: "broken-watch-proves-nothing",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "the watch of pods broke 16.6 s before the end (connection reset) and was not heard of again",
    }
}

/// What happened meanwhile is delivered late, and dated by its revision all the same.
fn broken_and_resumed() -> Case {
    let log = killed(one_pod("resumed-watch-dates-by-revision", 9.0, 125.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .event(broken(103.0))
        .event(Event::PodSeen {
            seen: Seen::Modified,
            at: at(111.0),
            not_before: None,
            pod: std::sync::Arc::new(PodFacts {
                resource_version: Some(108_000),
                ..pod("b")
            }),
        })
        .event(Event::WatchGap {
            kind: "pods".to_owned(),
            subject: None,
            from: at(103.0),
            to: at(111.0),
            resumed: true,
            why: "connection reset".to_owned(),
        })
        .end(114.0, 118.0);
    Case {
        name: "resumed-watch-dates-by-revision",
        log,
        verdict: Verdict::Pass,
        rto: Some((8.0, 0.5)),
        says: "the watch of pods was not connected for 8.0 s (connection reset): resumed without loss",
    }
}

/// Stamps of the API server's clock, an hour off: nothing is measured with them.
fn skewed_stamps() -> Case {
    let skewed = |facts: PodFacts| PodFacts {
        created_at: Some("2026-01-01T01:01:42Z".to_owned()),
        ..facts
    };
    let log = killed(one_pod("skewed-stamps-change-nothing", 9.0, 115.0))
        .pod(Seen::Added, 102.0, skewed(pending("b")))
        .pod(Seen::Modified, 108.0, skewed(pod("b")))
        .end(112.0, 115.0);
    Case {
        name: "skewed-stamps-change-nothing",
        log,
        verdict: Verdict::Pass,
        rto: Some((8.0, 0.5)),
        says: ", within the limit < 9 s",
    }
}

fn wrong_container() -> Case {
    let mut experiment = experiment("kill-of-a-container-that-does-not-exist", vec![pods_ready(1.0)], 60.0);
    experiment.faults[0].kind = FaultKind::ContainerKill {
        container: Some("mian".to_owned()),
        signal: Signal::Kill,
    };
    let hit = FaultTarget {
        container: Some("mian".to_owned()),
        ..target("a")
    };
    let log = Log::of(&experiment)
        .pod(Seen::Listed, 51.0, pod("a"))
        .event(Event::FaultArmed {
            fault: "kill".to_owned(),
            injector: "direct".to_owned(),
            targets: vec![hit.clone()],
            undo: Vec::new(),
            lasting: false,
        })
        .event(Event::FaultRequested {
            fault: "kill".to_owned(),
            target: hit.clone(),
            at: at(100.0),
        })
        .event(Event::FaultNotProven {
            fault: "kill".to_owned(),
            target: hit,
            why: "container mian does not exist in the pod".to_owned(),
        })
        .end(101.0, 105.0);
    Case {
        name: "kill-of-a-container-that-does-not-exist",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "the fault was not proven: kill on shop-a: container mian does not exist",
    }
}

fn shortfall() -> Case {
    let mut experiment = experiment("fewer-pods-than-asked-for", vec![pods_ready(1.0)], 60.0);
    experiment.faults[0].mode = Mode::Fixed(2);
    let log = Log::of(&experiment)
        .pod(Seen::Listed, 51.0, pod("a"))
        .pod(Seen::Listed, 51.0, pod("b"))
        .ticks(99.0, 110.0, 0.25)
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .end(104.0, 110.0);
    Case {
        name: "fewer-pods-than-asked-for",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "2 pods were asked for, 1 were chosen",
    }
}

fn never_fired() -> Case {
    let log = one_pod("fault-never-fired", 60.0, 110.0).end(104.0, 110.0);
    Case {
        name: "fault-never-fired",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "kill was never fired",
    }
}

fn unfinished() -> Case {
    let log = killed(one_pod("unfinished-experiment", 60.0, 115.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"));
    Case {
        name: "unfinished-experiment",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "the log stops before the trial ended",
    }
}

fn refused() -> Case {
    let log = one_pod("named-pod-missing", 60.0, 100.0).close(
        TrialEnd::Refused {
            why: "no pod matches the fault's selection".to_owned(),
        },
        100.0,
    );
    Case {
        name: "named-pod-missing",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "refused, nothing was touched: no pod matches",
    }
}

fn aborted() -> Case {
    let log = killed(one_pod("aborted-by-a-stop-condition", 60.0, 110.0))
        .event(Event::Stopping {
            why: "error budget spent".to_owned(),
            at: at(110.0),
        })
        .step(Step::Revert, 110.0)
        .close(
            TrialEnd::Aborted {
                why: "error budget spent".to_owned(),
            },
            111.0,
        );
    Case {
        name: "aborted-by-a-stop-condition",
        log,
        verdict: Verdict::Aborted,
        rto: None,
        says: "watched for only 11.0 s (limit < 60 s)",
    }
}

fn limit_inside_the_error_bar() -> Case {
    let log = killed(one_pod("limit-inside-the-error-bar", 7.95, 115.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .end(112.0, 115.0);
    Case {
        name: "limit-inside-the-error-bar",
        log,
        verdict: Verdict::Inconclusive,
        rto: Some((8.0, 0.5)),
        says: "the limit < 7.95 s lies inside the error bar",
    }
}

/// A pod goes, the others carry on: no symptom. It passes, and the reader is told.
fn unharmed() -> Case {
    let log = one_pod("probes-saw-nothing", 10.0, 115.0).pod(Seen::Listed, 51.0, pod("b"));
    let log = killed(log)
        .pod(Seen::Added, 101.0, pending("c"))
        .pod(Seen::Modified, 103.0, pod("c"))
        .end(106.0, 115.0);
    Case {
        name: "probes-saw-nothing",
        log,
        verdict: Verdict::Pass,
        rto: Some((0.0, 0.1)),
        says: "the probes saw nothing",
    }
}

/// Good for 1 s where 2 s are asked for: a flap. Recovery is the first instant of the stretch that held.
fn flapping() -> Case {
    let log = killed(one_pod("short-good-stretch-is-a-flap", 20.0, 120.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 104.0, pod("b"))
        .pod(Seen::Modified, 105.0, pending("b"))
        .pod(Seen::Modified, 112.0, pod("b"))
        .end(115.0, 120.0);
    Case {
        name: "short-good-stretch-is-a-flap",
        log,
        verdict: Verdict::Pass,
        rto: Some((12.0, 0.5)),
        says: "good stretches during the recovery that did not hold: 1",
    }
}

/// It breaks down again while settling and never comes back: not restored.
fn relapsing() -> Case {
    let log = killed(one_pod("relapse-without-end-is-no-recovery", 10.0, 160.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 104.0, pod("b"))
        .step(Step::Revert, 107.0)
        .step(Step::Settle, 107.1)
        .pod(Seen::Modified, 108.0, pending("b"))
        .close(TrialEnd::Completed, 160.0);
    Case {
        name: "relapse-without-end-is-no-recovery",
        log,
        verdict: Verdict::Fail,
        rto: None,
        says: "bad again: 0 ready pods",
    }
}

#[test]
fn the_phases_of_a_replacement_are_in_order_and_hold_the_truth() {
    let scheduled = PodFacts {
        scheduled: true,
        ..pending("b")
    };
    let started = PodFacts {
        ready: false,
        ..pod("b")
    };
    let run = killed(one_pod("phases", 9.0, 115.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 102.1, scheduled)
        .pod(Seen::Modified, 105.0, started)
        .pod(Seen::Modified, 108.0, pod("b"))
        .end(112.0, 115.0)
        .judge();
    let trial = &run.experiments[0].trials[0];
    let truth = [
        ("fault effective", 0.0),
        ("first symptom", 0.0),
        ("replacement created", 2.0),
        ("replacement scheduled", 2.1),
        ("replacement started", 5.0),
        ("replacement ready", 8.0),
        ("service restored", 8.0),
        ("steady", 10.0),
    ];
    let names: Vec<&str> = trial.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(names, truth.map(|(name, _)| name).to_vec());
    for (phase, (name, truth)) in trial.phases.iter().zip(truth) {
        assert!(
            phase.at.lower <= truth && truth <= phase.at.upper,
            "{name}: {:?}, truth {truth}",
            phase.at
        );
        assert!(phase.at.upper - phase.at.lower < 0.5, "{name}: {:?}", phase.at);
        // The best estimate is the receipt, not the middle of the revision clock's period.
        assert!((phase.at.value - truth).abs() < 0.02, "{name}: {:?}", phase.at);
    }
    assert!(trial.missing_phases.is_empty());
}

#[test]
fn a_relist_widens_only_the_phases_inside_it() {
    let run = relist().log.judge();
    let trial = &run.experiments[0].trials[0];
    let width = |name: &str| {
        let phase = trial.phases.iter().find(|phase| phase.name == name).unwrap();
        phase.at.upper - phase.at.lower
    };
    assert!(width("first symptom") < 0.3);
    assert!(width("service restored") > 8.9);
}

#[test]
fn a_grace_period_before_the_effect_widens_nothing_but_the_effect() {
    let run = one_pod("grace", 60.0, 150.0)
        .fault(&["a"], 100.0, 130.0)
        .pod(Seen::Deleted, 130.0, pod("a"))
        .pod(Seen::Added, 130.5, pending("b"))
        .pod(Seen::Modified, 140.0, pod("b"))
        .end(145.0, 150.0)
        .judge();
    let rto = &run.experiments[0].trials[0].rto;
    assert!(rto.lower.unwrap() <= 9.8 && rto.upper.unwrap() >= 40.0, "{rto:?}");
}

#[test]
fn a_container_restart_is_told_from_a_new_pod() {
    let run = same_pod().log.judge();
    let trial = &run.experiments[0].trials[0];
    let started = trial
        .phases
        .iter()
        .find(|phase| phase.name == "replacement started")
        .unwrap();
    assert!((started.at.value - 30.0).abs() < 0.02);
    assert!(
        trial
            .missing_phases
            .iter()
            .any(|phase| phase.name == "replacement created" && phase.why.contains("inside the same pod"))
    );
}

#[test]
fn without_ticks_the_order_of_the_watch_bounds_an_event_from_below() {
    let run = Log::of(&experiment("no-ticks", vec![pods_ready(1.0)], 60.0))
        .pod(Seen::Listed, 51.0, pod("a"))
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .end(112.0, 115.0)
        .judge();
    let rto = &run.experiments[0].trials[0].rto;
    let (lower, upper) = (rto.lower.unwrap(), rto.upper.unwrap());
    assert!(lower <= 2.0 + DELIVERY && upper >= 8.0, "{rto:?}");
    assert!((rto.value.unwrap() - 8.0).abs() < 0.02, "{rto:?}");
}

#[test]
fn thirty_four_percent_of_three_pods_is_one() {
    assert_eq!(Mode::Percent(34).count(3), Ok(1));
    assert!(Mode::Percent(33).count(3).is_err());
}

#[test]
fn two_targets_are_replaced_by_two_pods() {
    let mut experiment = experiment("two", vec![pods_ready(2.0)], 60.0);
    experiment.faults[0].mode = Mode::Fixed(2);
    let run = Log::of(&experiment)
        .pod(Seen::Listed, 51.0, pod("a"))
        .pod(Seen::Listed, 51.0, pod("b"))
        .ticks(99.0, 125.0, 0.25)
        .fault(&["a", "b"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .pod(Seen::Deleted, 100.0, pod("b"))
        .pod(Seen::Added, 101.0, pending("c"))
        .pod(Seen::Added, 103.0, pending("d"))
        .pod(Seen::Modified, 108.0, pod("c"))
        .pod(Seen::Modified, 118.0, pod("d"))
        .end(121.0, 125.0)
        .judge();
    let trial = &run.experiments[0].trials[0];
    let best = |name: &str| {
        let phase = trial.phases.iter().find(|phase| phase.name == name).unwrap();
        phase.at.value
    };
    assert!((best("replacement created") - 3.0).abs() < 0.02);
    assert!((best("replacement ready") - 18.0).abs() < 0.02);
    assert_eq!(run.verdict, Verdict::Pass);
}

#[test]
fn a_stall_of_the_runner_during_recovery_spoils_the_trial() {
    let log = killed(one_pod("stall", 60.0, 115.0))
        .event(Event::RunnerStalled {
            from: at(103.0),
            to: at(105.0),
        })
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .end(112.0, 115.0);
    let run = log.judge();
    assert_eq!(run.verdict, Verdict::Inconclusive);
    assert!(
        run.experiments[0].claims[0]
            .why
            .contains("the runner itself stood still for 2.0 s")
    );
}

#[test]
fn a_stall_before_the_fault_spoils_nothing() {
    let log = killed(one_pod("early-stall", 60.0, 115.0).event(Event::RunnerStalled {
        from: at(60.0),
        to: at(61.0),
    }))
    .pod(Seen::Added, 102.0, pending("b"))
    .pod(Seen::Modified, 108.0, pod("b"))
    .end(112.0, 115.0);
    assert_eq!(log.judge().verdict, Verdict::Pass);
}

#[test]
fn a_baseline_that_does_not_hold_at_the_injection_is_inconclusive() {
    let log = Log::of(&experiment("unsteady", vec![pods_ready(2.0)], 60.0))
        .pod(Seen::Listed, 51.0, pod("a"))
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .end(104.0, 110.0);
    let run = log.judge();
    assert_eq!(run.verdict, Verdict::Inconclusive);
    assert!(
        run.experiments[0].claims[0]
            .why
            .contains("the steady state did not hold before the fault: pods ready: 1 ready pod, >= 2 wanted")
    );
}

#[test]
fn an_effect_seen_on_one_of_two_targets_is_not_proven() {
    let mut experiment = experiment("half", vec![pods_ready(1.0)], 60.0);
    experiment.faults[0].mode = Mode::All;
    let log = Log::of(&experiment)
        .pod(Seen::Listed, 51.0, pod("a"))
        .armed(&["a", "b"])
        .requested("a", 99.99)
        .requested("b", 99.99)
        .event(Event::FaultProven {
            fault: "kill".to_owned(),
            target: target("a"),
            effect: between(99.99, 100.01),
            proof: "gone".to_owned(),
        })
        .pod(Seen::Deleted, 100.0, pod("a"))
        .pod(Seen::Added, 100.5, pod("c"))
        .end(104.0, 110.0);
    let run = log.judge();
    assert_eq!(run.verdict, Verdict::Inconclusive);
    assert_eq!(run.experiments[0].trials[0].faults[0].proof, None);
}

#[test]
fn a_pod_that_is_no_longer_of_the_target_no_longer_serves() {
    let run = one_pod("left", 60.0, 120.0)
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Modified, 100.0, stranger(pod("a")))
        .end(110.0, 120.0)
        .judge();
    assert!(run.experiments[0].trials[0].rto.value.is_none());
}

#[test]
fn an_event_that_is_delivered_late_is_bounded_by_the_reads_around_it() {
    let mut log = killed(one_pod("late-delivery", 9.0, 120.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .end(114.0, 120.0);
    for event in &mut log.events {
        if let Event::PodSeen { at, pod, .. } = event
            && pod.resource_version == Some(108_000)
        {
            *at = crate::dsl::at(111.0);
        }
    }
    let run = log.judge();
    let rto = &run.experiments[0].trials[0].rto;
    assert!(
        rto.lower.unwrap() <= 8.0 && rto.upper.unwrap() >= 8.0 && rto.upper.unwrap() < 8.3,
        "{rto:?}"
    );
    assert_eq!(run.verdict, Verdict::Pass);
}

#[test]
fn the_best_estimate_alone_never_passes() {
    // The estimate is 8.002 s, the error bar ends at 8.012 s.
    let run = killed(one_pod("estimate", 8.005, 115.0))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
        .end(112.0, 115.0)
        .judge();
    assert_eq!(run.verdict, Verdict::Inconclusive);
}
