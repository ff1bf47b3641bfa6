//! Traps of faults that last: symptoms that come late, and outages that begin when the fault ends.

use crate::corpus::Case;
use crate::dsl::{Log, at, between, experiment, good_unless, http, pod, target};
use chaosrun::evidence::{Event, Seen, Step};
use chaosrun::experiment::Experiment;
use chaosrun::fault::{Direction, FaultKind, FaultSpec, Undo};
use chaosrun::model::Verdict;
use chaosrun::timeline::Timeline;
use std::time::Duration;

/// A fault from 100 to 130.
fn lasting(name: &str) -> Experiment {
    let mut experiment = experiment(name, vec![http()], 60.0);
    experiment.faults[0].duration = Some(Duration::from_secs(30));
    experiment
}

fn ended() -> Event {
    Event::FaultEnded {
        fault: "kill".to_owned(),
        within: between(130.0, 130.05),
    }
}

/// The endpoint is down over `outage`, and the fault ends at 130.
fn during(name: &str, outage: (f64, f64)) -> Log {
    Log::of(&lasting(name))
        .samples("endpoint", 95.0, 99.8, 0.2, |_| good_unless(false))
        .fault(&["a"], 99.99, 100.01)
        .samples("endpoint", 100.1, 129.9, 0.2, move |sent| {
            good_unless(sent >= outage.0 && sent < outage.1)
        })
        .event(ended())
        .samples("endpoint", 130.1, 149.9, 0.2, move |sent| {
            good_unless(sent >= outage.0 && sent < outage.1)
        })
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "late-symptom-of-a-lasting-fault",
            log: during("late-symptom-of-a-lasting-fault", (115.0, 132.0)).end(140.0, 150.0),
            verdict: Verdict::Pass,
            rto: Some((32.0, 0.5)),
            says: "",
        },
        Case {
            name: "outage-when-a-lasting-fault-ends",
            log: during("outage-when-a-lasting-fault-ends", (130.5, 133.0)).end(140.0, 150.0),
            verdict: Verdict::Pass,
            rto: Some((33.0, 0.5)),
            says: "",
        },
        Case {
            name: "recovered-under-a-lasting-fault",
            log: during("recovered-under-a-lasting-fault", (100.5, 107.0)).end(140.0, 150.0),
            verdict: Verdict::Pass,
            rto: Some((7.0, 0.5)),
            says: "",
        },
    ]
    .into_iter()
    .chain(replacements())
    .collect()
}

/// The endpoint is down for a moment, and the pod that the fault lives in is replaced at 110, 20 s before its end.
fn replaced(name: &str, change: impl FnOnce(&mut FaultSpec)) -> Log {
    let mut experiment = lasting(name);
    experiment.faults[0].kind = FaultKind::CpuStress {
        container: None,
        workers: 1,
        load: 100,
    };
    change(&mut experiment.faults[0]);
    Log::of(&experiment)
        .pod(Seen::Listed, 51.0, pod("a"))
        .samples("endpoint", 95.0, 99.8, 0.2, |_| good_unless(false))
        .fault(&["a"], 99.99, 100.01)
        .samples("endpoint", 100.1, 109.9, 0.2, |sent| good_unless(sent > 101.0))
        .pod(Seen::Deleted, 110.0, pod("a"))
        .pod(Seen::Added, 110.5, pod("b"))
        .samples("endpoint", 110.1, 129.9, 0.2, |sent| good_unless(sent < 111.0))
        .event(ended())
        .samples("endpoint", 130.1, 149.9, 0.2, |_| good_unless(false))
        .end(140.0, 150.0)
}

fn victim(name: &'static str, verdict: Verdict, says: &'static str, change: impl FnOnce(&mut FaultSpec)) -> Case {
    Case {
        name,
        log: replaced(name, change),
        verdict,
        rto: Some((11.0, 0.5)),
        says,
    }
}

/// The same, and a second fault of the experiment kills that very pod.
fn killed_too() -> Log {
    let mut log = replaced("victim-that-another-fault-kills", |_| {});
    for event in &mut log.events {
        if let Event::ExperimentStarted { experiment, .. } = event {
            let mut second = experiment.faults[0].clone();
            "second".clone_into(&mut second.name);
            second.kind = FaultKind::PodKill { grace_seconds: 0 };
            second.duration = None;
            experiment.faults.push(second);
        }
    }
    let (target, effect) = (target("a"), between(109.99, 110.01));
    let at = log
        .events
        .iter()
        .position(|event| {
            matches!(
                event,
                Event::PodSeen {
                    seen: Seen::Deleted,
                    ..
                }
            )
        })
        .unwrap();
    let fault = "second".to_owned();
    let second = [
        Event::FaultArmed {
            fault: fault.clone(),
            injector: "direct".to_owned(),
            targets: vec![target.clone()],
            undo: vec![Undo::Nothing],
            lasting: false,
        },
        Event::FaultRequested {
            fault: fault.clone(),
            target: target.clone(),
            at: crate::dsl::at(109.99),
        },
        Event::FaultProven {
            fault,
            target,
            effect,
            proof: "pod UID a is gone".to_owned(),
        },
    ];
    log.events.splice(at..at, second);
    log
}

fn replacements() -> Vec<Case> {
    vec![
        victim(
            "victim-replaced-while-the-fault-should-last",
            Verdict::Inconclusive,
            "pod shop-a was replaced 10.0 s into its 30.0 s",
            |_| {},
        ),
        Case {
            log: killed_too(),
            ..victim("victim-that-another-fault-kills", Verdict::Pass, "", |_| {})
        },
        victim("victim-that-may-be-replaced", Verdict::Pass, "", |spec| {
            spec.may_be_replaced = true;
        }),
        // A policy that selects the target by its own labels cuts the replacement off as well.
        victim("victim-of-a-partition-by-labels", Verdict::Pass, "", |spec| {
            spec.kind = FaultKind::NetworkPartition {
                peer: None,
                direction: Direction::Both,
                ports: Vec::new(),
            };
        }),
    ]
}

/// While a fault is kept up the engine goes on watching, however good everything looks.
#[test]
fn service_is_not_back_before_a_lasting_fault_is_over() {
    let name = "kept-up";
    let log = during(name, (101.0, 105.0));
    let mut timeline = Timeline::new(&lasting(name));
    for event in &log.events {
        if let Event::FaultEnded { .. } = event {
            assert_eq!(timeline.recovered(at(129.5)), None, "the fault is still kept up");
        }
        timeline.apply(event);
    }
    assert!(timeline.recovered(at(145.0)).is_some());
}

/// The revert step takes back whatever is left, so what lasts is over then.
#[test]
fn the_revert_step_ends_every_fault() {
    let name = "reverted";
    let log = Log::of(&lasting(name))
        .samples("endpoint", 95.0, 99.8, 0.2, |_| good_unless(false))
        .fault(&["a"], 99.99, 100.01)
        .samples("endpoint", 100.1, 120.0, 0.2, |_| good_unless(false))
        .step(Step::Revert, 120.0);
    let mut timeline = Timeline::new(&lasting(name));
    for event in &log.events {
        timeline.apply(event);
    }
    assert!(timeline.recovered(at(119.9)).is_some());
}
