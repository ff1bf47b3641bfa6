//! Traps of sampled probes and queries.

use crate::corpus::Case;
use crate::dsl::{
    Log, assertion, at, at_least, compare, experiment, good_unless, http, pending, pod, pods_ready, promql, silent,
};
use chaosrun::evidence::{Event, Outcome, Seen, Step, TrialEnd};
use chaosrun::experiment::{Experiment, Operator, RtoStart, When};
use chaosrun::model::Verdict;
use chaosrun::timeline::promql_outcome;

/// A pod dies at 100 and is back at 108; `experiment` says what else is looked at.
fn eight_seconds(experiment: &Experiment) -> Log {
    Log::of(experiment)
        .pod(Seen::Listed, 51.0, pod("a"))
        .ticks(99.0, 118.0, 0.25)
        .fault(&["a"], 99.99, 100.01)
        .pod(Seen::Deleted, 100.0, pod("a"))
        .pod(Seen::Added, 102.0, pending("b"))
        .pod(Seen::Modified, 108.0, pod("b"))
}

fn asserting(name: &str, is: chaosrun::experiment::Comparison) -> Experiment {
    let mut experiment = experiment(name, vec![pods_ready(1.0)], 20.0);
    experiment.slos.assertions = vec![assertion(promql("errors", is), When::During)];
    experiment
}

/// One endpoint, no pods watched by a probe, down over `outage`.
pub(crate) fn endpoint(name: &str, limit: f64, outage: (f64, f64)) -> Log {
    Log::of(&experiment(name, vec![http()], limit))
        .samples("endpoint", 95.0, 119.9, 0.2, move |sent| {
            good_unless(sent >= outage.0 && sent < outage.1)
        })
        .fault(&["a"], 99.99, 100.01)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        no_series(),
        zero_value(),
        second_series(),
        no_samples(),
        two_seconds(),
        deaf(),
        gap(),
        scraped(),
        absent(),
        between_scrapes(),
        blip_before(),
        flap(),
        below_resolution(),
        unavailable(),
        stuck_after_settle(),
    ]
}

fn no_series() -> Case {
    let experiment = asserting("query-without-series", compare(Operator::Less, 1.0));
    let log = eight_seconds(&experiment)
        .samples("errors", 95.0, 117.0, 0.2, |_| {
            promql_outcome(&[], compare(Operator::Less, 1.0))
        })
        .end(112.0, 118.0);
    Case {
        name: "query-without-series",
        log,
        verdict: Verdict::Inconclusive,
        rto: Some((8.0, 0.5)),
        says: "no data: the query returned no series",
    }
}

/// `up == 0` matches with the value 0, and `up` is asked to be at least 1.
fn zero_value() -> Case {
    let log = eight_seconds(&asserting("value-zero-while-the-condition-matches", at_least(1.0)))
        .samples("errors", 95.0, 117.0, 0.2, |_| promql_outcome(&[0.0], at_least(1.0)))
        .end(112.0, 118.0);
    Case {
        name: "value-zero-while-the-condition-matches",
        log,
        verdict: Verdict::Fail,
        rto: None,
        says: "value is 0, >= 1 wanted",
    }
}

fn second_series() -> Case {
    let log = eight_seconds(&asserting("second-series-breaches", at_least(1.0)))
        .samples("errors", 95.0, 117.0, 0.2, |_| {
            promql_outcome(&[1.0, 0.0, 1.0], at_least(1.0))
        })
        .end(112.0, 118.0);
    Case {
        name: "second-series-breaches",
        log,
        verdict: Verdict::Fail,
        rto: None,
        says: "one of 3 series is 0, >= 1 wanted",
    }
}

/// The probe fell silent before the window of its assertion.
fn no_samples() -> Case {
    let log = eight_seconds(&asserting("threshold-over-zero-samples", at_least(1.0)))
        .samples("errors", 95.0, 99.0, 0.2, |_| Outcome::Good)
        .end(112.0, 118.0);
    Case {
        name: "threshold-over-zero-samples",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "not one sample in its window",
    }
}

fn two_seconds() -> Case {
    Case {
        name: "two-second-outage-is-seen",
        log: endpoint("two-second-outage-is-seen", 5.0, (100.0, 102.0)).end(110.0, 120.0),
        verdict: Verdict::Pass,
        rto: Some((2.0, 0.5)),
        says: ", within the limit < 5 s",
    }
}

/// Prometheus, or the way to it, was hit as well: silence is no outage and no health.
fn deaf() -> Case {
    let log = Log::of(&experiment(
        "probe-hit-by-the-fault",
        vec![promql("traffic", at_least(1.0))],
        60.0,
    ))
    .samples("traffic", 95.0, 119.0, 0.2, |sent| {
        if sent >= 100.0 { silent() } else { Outcome::Good }
    })
    .fault(&["a"], 99.99, 100.01)
    .end(115.0, 120.0);
    Case {
        name: "probe-hit-by-the-fault",
        log,
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "no data: traffic gave no sample after the fault",
    }
}

/// Answers every half second, of samples that a scrape takes every five: at 97, 102, 107, 112. The truth is 108.
fn of_scrapes(name: &str, gone: impl Fn(f64) -> Option<f64>) -> Log {
    let up = |scrape: f64| !(100.0..108.0).contains(&scrape);
    let log = Log::of(&experiment(name, vec![promql("traffic", at_least(1.0))], 60.0));
    let mut log = log.samples("traffic", 92.0, 125.0, 0.5, |sent| {
        good_unless(!up(92.0 + ((sent - 92.0) / 5.0).floor() * 5.0))
    });
    for event in &mut log.events {
        if let Event::ProbeSample {
            sent,
            known_from,
            outcome,
            ..
        } = event
        {
            let asked = sent.seconds();
            let scrape = 92.0 + ((asked - 92.0) / 5.0).floor() * 5.0;
            let age = gone(asked).filter(|_| matches!(outcome, Outcome::Bad { .. }));
            *known_from = Some(at(age.map_or(scrape, |age| asked - age)));
        }
    }
    log.fault(&["a"], 99.99, 100.01).end(124.0, 126.0)
}

/// Between two scrapes nothing is known, however often Prometheus is asked.
fn scraped() -> Case {
    Case {
        name: "scrapes-bound-the-instant",
        log: of_scrapes("scrapes-bound-the-instant", |_| None),
        verdict: Verdict::Pass,
        rto: Some((8.0, 5.6)),
        says: ", within the limit < 60 s",
    }
}

/// A series that is not there has no stamp: it may be missing for two intervals before that means anything.
fn absent() -> Case {
    Case {
        name: "absent-series-have-no-stamp",
        log: of_scrapes("absent-series-have-no-stamp", |_| Some(10.0)),
        verdict: Verdict::Pass,
        rto: Some((8.0, 10.6)),
        says: ", within the limit < 60 s",
    }
}

/// The broken target left no stale marker, and its last value stood until its successor was scraped at 112.
fn between_scrapes() -> Case {
    let mut log = of_scrapes("outage-between-two-scrapes", |_| None);
    for event in &mut log.events {
        if let Event::ProbeSample {
            sent,
            known_from,
            outcome,
            ..
        } = event
        {
            *outcome = Outcome::Good;
            if (100.0..112.0).contains(&sent.seconds()) {
                *known_from = Some(at(97.0));
            }
        }
    }
    Case {
        name: "outage-between-two-scrapes",
        log,
        verdict: Verdict::Pass,
        rto: Some((8.0, 15.6)),
        says: "the probes saw nothing",
    }
}

/// The answers of the decisive three seconds are missing: the interval gets three seconds wide, and its truth stays inside.
fn gap() -> Case {
    let log = Log::of(&experiment(
        "missing-samples-widen",
        vec![promql("traffic", at_least(1.0))],
        60.0,
    ))
    .samples("traffic", 95.0, 119.0, 0.2, |sent| {
        if (103.0..106.0).contains(&sent) {
            silent()
        } else {
            good_unless((100.1..104.5).contains(&sent))
        }
    })
    .fault(&["a"], 99.99, 100.01)
    .end(112.0, 120.0);
    Case {
        name: "missing-samples-widen",
        log,
        verdict: Verdict::Pass,
        rto: Some((4.5, 3.5)),
        says: ", within the limit < 60 s",
    }
}

/// A blip before the fault is noise, not impact.
fn blip_before() -> Case {
    let log = Log::of(&experiment("blip-before-the-fault", vec![http()], 10.0))
        .samples("endpoint", 94.0, 119.9, 0.2, |sent| {
            let blip = (97.0..97.6).contains(&sent);
            good_unless(blip || (100.5..103.5).contains(&sent))
        })
        .fault(&["a"], 99.99, 100.01)
        .end(110.0, 120.0);
    Case {
        name: "blip-before-the-fault",
        log,
        verdict: Verdict::Pass,
        rto: Some((3.5, 0.5)),
        says: ", within the limit < 10 s",
    }
}

fn flap() -> Case {
    let log = Log::of(&experiment("flapping-endpoint", vec![http()], 20.0))
        .samples("endpoint", 95.0, 129.9, 0.2, |sent| {
            let out = (100.0..104.0).contains(&sent) || (105.0..109.0).contains(&sent);
            good_unless(out)
        })
        .fault(&["a"], 99.99, 100.01)
        .end(120.0, 130.0);
    Case {
        name: "flapping-endpoint",
        log,
        verdict: Verdict::Pass,
        rto: Some((9.0, 0.5)),
        says: "good stretches during the recovery that did not hold: 1",
    }
}

/// Sampled every 0.2 s, a limit of 0.3 s cannot be judged, whatever comes out.
fn below_resolution() -> Case {
    Case {
        name: "limit-below-twice-the-interval",
        log: endpoint("limit-below-twice-the-interval", 0.3, (100.0, 102.0)).end(110.0, 120.0),
        verdict: Verdict::Inconclusive,
        rto: None,
        says: "below twice the sampling interval of 0.2 s",
    }
}

/// Out for 4 of 20 seconds.
fn unavailable() -> Case {
    let mut experiment = experiment("availability-breached", vec![http()], 30.0);
    experiment.slos.availability = Some(0.9);
    let log = Log::of(&experiment)
        .samples("endpoint", 95.0, 120.0, 0.2, |sent| {
            good_unless((100.0..104.0).contains(&sent))
        })
        .fault(&["a"], 99.99, 100.01)
        .end(110.0, 120.0);
    Case {
        name: "availability-breached",
        log,
        verdict: Verdict::Fail,
        rto: Some((4.0, 0.5)),
        says: "which breaks the limit >= 0.9",
    }
}

/// An assertion about the time after: errors stay high.
fn stuck_after_settle() -> Case {
    let mut experiment = experiment("assertion-after-recovery", vec![pods_ready(1.0)], 20.0);
    experiment.slos.assertions = vec![assertion(promql("errors", compare(Operator::Less, 5.0)), When::After)];
    let log = eight_seconds(&experiment)
        .samples("errors", 95.0, 117.9, 0.2, |sent| {
            let errors = if sent >= 100.0 { 7.5 } else { 0.0 };
            promql_outcome(&[errors], compare(Operator::Less, 5.0))
        })
        .end(112.0, 118.0);
    Case {
        name: "assertion-after-recovery",
        log,
        verdict: Verdict::Fail,
        rto: Some((8.0, 0.5)),
        says: "value is 7.5, < 5 wanted",
    }
}

#[test]
fn a_query_is_judged_on_every_value_and_never_on_none() {
    let wanted = at_least(1.0);
    assert!(matches!(promql_outcome(&[], wanted), Outcome::NoData { .. }));
    assert_eq!(promql_outcome(&[1.0, 2.0], wanted), Outcome::Good);
    assert!(matches!(promql_outcome(&[1.0, 0.0], wanted), Outcome::Bad { .. }));
    assert!(matches!(promql_outcome(&[f64::NAN], wanted), Outcome::Bad { .. }));
    // `up == 0` while the target is down: the value 0 IS the breach, or the match, by comparison only.
    assert_eq!(promql_outcome(&[0.0], compare(Operator::Equal, 0.0)), Outcome::Good);
}

#[test]
fn a_slow_sampling_misses_the_short_outage_but_says_how_long_it_could_have_been() {
    let log = Log::of(&experiment("slow", vec![http()], 10.0))
        .samples("endpoint", 95.0, 119.0, 3.0, |sent| {
            good_unless((100.0..102.0).contains(&sent) && sent < 99.0)
        })
        .fault(&["a"], 100.2, 100.22)
        .end(110.0, 120.0);
    let run = log.judge();
    let rto = &run.experiments[0].trials[0].rto;
    assert_eq!(rto.lower, Some(0.0));
    assert!(rto.upper.unwrap() >= 3.0, "{rto:?}");
}

#[test]
fn answers_that_arrive_late_do_not_move_the_order_of_sending() {
    let mut log = endpoint("late-answers", 5.0, (100.0, 102.0)).end(110.0, 120.0);
    let expected = log.judge().experiments;
    log.events[3..].reverse();
    // Steps and the fault keep their places; only the samples are turned around.
    let (samples, mut rest): (Vec<_>, Vec<_>) = log
        .events
        .drain(..)
        .partition(|event| matches!(event, chaosrun::evidence::Event::ProbeSample { .. }));
    let started = rest.split_off(3);
    rest.extend(started.into_iter().rev());
    let place = rest
        .iter()
        .position(|event| matches!(event, chaosrun::evidence::Event::StepStarted { .. }))
        .unwrap();
    for (offset, sample) in samples.into_iter().enumerate() {
        rest.insert(place + offset, sample);
    }
    assert_eq!(Log { events: rest }.judge().experiments, expected);
}

#[test]
fn from_impact_starts_at_the_first_symptom() {
    let mut wanted = experiment("impact", vec![http()], 5.0);
    if let Some(rto) = &mut wanted.slos.rto {
        rto.from = RtoStart::Impact;
    }
    let run = Log::of(&wanted)
        .samples("endpoint", 95.0, 129.9, 0.2, |sent| {
            good_unless((110.0..113.0).contains(&sent))
        })
        .fault(&["a"], 99.99, 100.01)
        .end(120.0, 130.0)
        .judge();
    let trial = &run.experiments[0].trials[0];
    assert!((trial.rto.value.unwrap() - 3.0).abs() < 0.2, "{:?}", trial.rto);
    assert!((trial.rto_from_fault.value.unwrap() - 13.0).abs() < 0.2);
    assert_eq!(run.verdict, Verdict::Pass);
}

#[test]
fn strict_and_non_strict_limits_differ_at_the_limit_itself() {
    // Without a symptom the recovery time is exactly zero.
    let zero = |strict: bool| {
        let mut wanted = experiment("edge", vec![pods_ready(1.0)], 0.0);
        if let Some(rto) = &mut wanted.slos.rto {
            rto.limit.strict = strict;
        }
        Log::of(&wanted)
            .pod(Seen::Listed, 51.0, pod("a"))
            .pod(Seen::Listed, 51.0, pod("b"))
            .ticks(99.0, 118.0, 0.25)
            .fault(&["a"], 99.99, 100.01)
            .pod(Seen::Deleted, 100.0, pod("a"))
            .end(106.0, 118.0)
            .judge()
            .verdict
    };
    assert_eq!(zero(false), Verdict::Pass);
    assert_eq!(zero(true), Verdict::Fail);
}

#[test]
fn availability_counts_the_unknown_once_as_bad_and_once_as_good() {
    let run = Log::of(&experiment("availability", vec![http()], 60.0))
        .samples("endpoint", 95.0, 120.0, 0.2, |sent| {
            if (112.0..114.0).contains(&sent) {
                silent()
            } else {
                good_unless((100.0..104.0).contains(&sent))
            }
        })
        .fault(&["a"], 99.99, 100.01)
        .end(110.0, 120.0)
        .judge();
    let availability = &run.experiments[0].trials[0].availability;
    let (lower, upper) = (availability.lower.unwrap(), availability.upper.unwrap());
    // 4 of 20 s out, 2 s unknown, each edge known to 0.2 s.
    assert!(lower <= 0.70 && lower > 0.66, "{availability:?}");
    assert!((0.80..0.83).contains(&upper), "{availability:?}");
}

#[test]
fn an_aborted_trial_that_had_already_broken_its_limit_is_refuted_and_the_run_is_aborted() {
    let run = Log::of(&experiment("late-abort", vec![http()], 5.0))
        .samples("endpoint", 95.0, 130.0, 0.2, |sent| good_unless(sent >= 100.0))
        .fault(&["a"], 99.99, 100.01)
        .step(Step::Revert, 130.0)
        .close(
            TrialEnd::Aborted {
                why: "SIGINT".to_owned(),
            },
            131.0,
        )
        .judge();
    assert_eq!(run.experiments[0].claims[0].verdict, Verdict::Fail);
    assert_eq!(run.verdict, Verdict::Aborted);
}
