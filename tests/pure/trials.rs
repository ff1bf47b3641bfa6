//! Many trials: quantiles and shares of them, when to stop, control trials, and the schedule of it all.

use crate::dsl::{Log, experiment, good_unless, http, silent};
use chaosrun::evidence::{Event, Step, TrialEnd};
use chaosrun::experiment::{About, Experiment, Limit, Over, RtoStart, TrialsSlo};
use chaosrun::measure::{ControlMeasures, ControlOutage, TrialMeasures};
use chaosrun::model::{Bounded, Verdict, WhyNot};
use chaosrun::plan::schedule;
use chaosrun::report::Run;
use chaosrun::verdict::{ClaimVerdict, QuantileBound, conclude, decided, judge};
use proptest::prelude::*;
use std::time::Duration;

fn limit(max: f64) -> Limit {
    Limit { max, strict: false }
}

/// An experiment that claims `share` of its recovery times to be within 30 s, at 95 %.
fn claims(share: f64, count: u32) -> Experiment {
    let mut wanted = experiment("quantile", vec![http()], 30.0);
    wanted.slos.rto = None;
    wanted.slos.over_trials = vec![TrialsSlo {
        about: About::Rto { from: RtoStart::Fault },
        limit: limit(30.0),
        over: Over::Share {
            share,
            confidence: 0.95,
        },
    }];
    wanted.trials.count = count;
    wanted.timeouts.recovery = Duration::from_mins(1);
    wanted
}

/// What one trial measured.
#[derive(Clone, Copy, Debug)]
enum Came {
    /// Back after so many seconds, known to 0.1 s.
    After(f64),
    Never,
    /// Nothing can be said of it.
    Unknown,
}

fn measures(number: u32, came: Came) -> TrialMeasures {
    let unknown = WhyNot::NoData {
        why: "no sample".to_owned(),
    };
    let rto = match came {
        Came::After(seconds) => Ok(Bounded::new(seconds - 0.05, seconds + 0.05)),
        Came::Never => Err(WhyNot::NotRecovered {
            observed_seconds: 60.0,
            why: "endpoint: refused".to_owned(),
        }),
        Came::Unknown => Err(unknown.clone()),
    };
    TrialMeasures {
        trial: number,
        spoiled: None,
        end: Some(TrialEnd::Completed),
        rto_from_fault: rto.clone(),
        rto_from_impact: rto,
        phases: Vec::new(),
        detected: Err(unknown.clone()),
        ledger: None,
        reprocessing: Err(unknown.clone()),
        availability: Err(unknown),
        assertions: Vec::new(),
        flaps: 0,
        relapses: 0,
        notes: Vec::new(),
    }
}

fn judged(wanted: &Experiment, trials: &[Came]) -> Vec<Vec<ClaimVerdict>> {
    (1..)
        .zip(trials)
        .map(|(number, came)| judge(wanted, Some(&measures(number, *came))))
        .collect()
}

fn of(wanted: &Experiment, trials: &[Came]) -> ClaimVerdict {
    let claims = conclude(wanted, &judged(wanted, trials), &[]);
    assert_eq!(claims.len(), 1);
    claims.into_iter().next().unwrap()
}

/// So many recoveries, of lengths that show no trend.
fn good(count: usize) -> Vec<Came> {
    (0..count)
        .map(|index| Came::After(20.0 + (index * 7 % 10) as f64 / 10.0))
        .collect()
}

#[test]
fn fifty_nine_good_trials_prove_the_p95_and_fifty_eight_do_not() {
    let wanted = claims(0.95, 59);
    let proven = of(&wanted, &good(59));
    assert_eq!(proven.verdict, Verdict::Pass, "{}", proven.why);
    assert!(
        proven.why.contains("59 of 59 trials are within <= 30 s"),
        "{}",
        proven.why
    );
    assert!(proven.why.contains("at least 95.0 %"), "{}", proven.why);
    let over = proven.over.unwrap();
    assert_eq!(over.bound, Some(QuantileBound::At(20.95)), "the largest upper end");
    assert_eq!(over.more_trials, None);

    let short = of(&wanted, &good(58));
    assert_eq!(short.verdict, Verdict::Inconclusive);
    assert!(
        short.why.contains("1 more within the limit would prove it"),
        "{}",
        short.why
    );
    // Not one of 58 values bounds a p95 at 95 %: the largest is no bound.
    assert_eq!(short.over.unwrap().bound, Some(QuantileBound::TooFewTrials));
}

#[test]
fn one_miss_needs_ninety_three_trials() {
    let mut trials = good(59);
    trials[30] = Came::After(31.0);
    let wanted = claims(0.95, 59);
    let claim = of(&wanted, &trials);
    assert_eq!(claim.verdict, Verdict::Inconclusive);
    assert_eq!(claim.over.unwrap().more_trials, Some(93 - 59));
    // It is one value of the distribution like any other: the p95 that was seen is not it.
    assert!(claim.measured.unwrap().value < 21.0);
}

#[test]
fn a_trial_that_never_recovers_lies_above_every_value() {
    let wanted = claims(0.5, 10);
    let mut trials = good(10);
    for trial in &mut trials[..6] {
        *trial = Came::Never;
    }
    let claim = of(&wanted, &trials);
    // 4 of 10: at most 69.6 % are within, which does not refute a median at 95 %.
    assert_eq!(claim.verdict, Verdict::Inconclusive);
    assert!(
        matches!(claim.measured, Err(WhyNot::NotRecovered { observed_seconds, .. }) if (observed_seconds - 60.0).abs() < 1e-9),
        "{:?}",
        claim.measured
    );
    assert_eq!(
        claim.over.unwrap().bound,
        Some(QuantileBound::NotBounded { at_least: 60.0 })
    );
    for trial in &mut trials[..9] {
        *trial = Came::Never;
    }
    assert_eq!(of(&wanted, &trials).verdict, Verdict::Fail, "1 of 10");
}

#[test]
fn a_trial_that_cannot_be_judged_counts_against_either_answer() {
    let wanted = claims(0.5, 5);
    assert_eq!(of(&wanted, &good(5)).verdict, Verdict::Pass);
    let mut trials = good(5);
    trials[2] = Came::Unknown;
    let claim = of(&wanted, &trials);
    assert_eq!(claim.verdict, Verdict::Inconclusive);
    assert!(claim.why.contains("1 cannot be judged"), "{}", claim.why);
    let mut bad = vec![Came::Never; 5];
    assert_eq!(of(&wanted, &bad).verdict, Verdict::Fail);
    bad[0] = Came::Unknown;
    assert_eq!(of(&wanted, &bad).verdict, Verdict::Inconclusive);
}

#[test]
fn recovery_that_gets_slower_from_trial_to_trial_is_no_sample_of_one_distribution() {
    let wanted = claims(0.5, 12);
    let drift: Vec<Came> = (0..12).map(|index| Came::After(10.0 + f64::from(index))).collect();
    let claim = of(&wanted, &drift);
    assert_eq!(claim.verdict, Verdict::Inconclusive);
    assert!(claim.why.contains("got slower from trial to trial"), "{}", claim.why);
    assert!(
        decided(
            &{
                let mut open = wanted.clone();
                open.trials.until_decided = true;
                open
            },
            &judged(&wanted, &drift),
            &[]
        )
        .is_none()
    );
}

#[test]
fn until_decided_takes_the_trials_that_looking_after_each_one_costs() {
    let mut wanted = claims(0.95, 1000);
    wanted.trials.until_decided = true;
    assert_eq!(decided(&wanted, &judged(&wanted, &good(89)), &[]), None);
    assert!(decided(&wanted, &judged(&wanted, &good(90)), &[]).is_some());
    let claim = of(&wanted, &good(90));
    assert_eq!(claim.verdict, Verdict::Pass, "{}", claim.why);
    let open = of(&wanted, &good(59));
    assert_eq!(
        open.verdict,
        Verdict::Inconclusive,
        "59 are enough only for who looks once"
    );
    assert_eq!(open.over.unwrap().more_trials, Some(31));
    let refuted = of(&wanted, &[Came::Never; 3]);
    assert_eq!(refuted.verdict, Verdict::Fail, "{}", refuted.why);
    assert!(decided(&wanted, &judged(&wanted, &[Came::Never; 3]), &[]).is_some());
}

#[test]
fn trials_end_when_the_verdict_cannot_change() {
    // A limit of each trial: one breach decides.
    let mut each = experiment("each", vec![http()], 30.0);
    each.trials.count = 10;
    assert_eq!(decided(&each, &judged(&each, &good(3)), &[]), None);
    let breached = [Came::After(20.0), Came::After(40.0)];
    assert!(
        decided(&each, &judged(&each, &breached), &[])
            .unwrap()
            .contains("refuted")
    );
    each.trials.run_all = true;
    assert_eq!(decided(&each, &judged(&each, &breached), &[]), None);
    each.trials.run_all = false;
    each.trials.control = 1;
    assert_eq!(
        decided(&each, &judged(&each, &breached), &[]),
        None,
        "a control trial may still raise a doubt"
    );
    // A median of 10 trials: with 8 misses it is refuted whatever the rest brings.
    let median = claims(0.5, 10);
    let misses = |count| vec![Came::Never; count];
    assert_eq!(
        decided(&median, &judged(&median, &misses(8)), &[]),
        None,
        "2 of 10 may still come, and 2 of 10 do not refute"
    );
    assert!(decided(&median, &judged(&median, &misses(9)), &[]).is_some());
}

#[test]
fn the_share_of_recoveries_is_a_claim_of_its_own() {
    let mut wanted = claims(0.8, 14);
    wanted.slos.over_trials = vec![TrialsSlo {
        about: About::Recovered,
        limit: limit(60.0),
        over: Over::Share {
            share: 0.8,
            confidence: 0.95,
        },
    }];
    // However slow.
    let slow = vec![Came::After(55.0); 14];
    let claim = of(&wanted, &slow);
    assert_eq!(
        (claim.name.as_str(), claim.verdict),
        ("recovered", Verdict::Pass),
        "{}",
        claim.why
    );
    assert!(
        claim.why.contains("service came back within 60 s in 14 of 14 trials"),
        "{}",
        claim.why
    );
    let measured = claim.measured.unwrap();
    assert!(
        (measured.value - 1.0).abs() < 1e-12 && (measured.lower - 0.807).abs() < 0.001,
        "{measured:?}"
    );
    assert_eq!(of(&wanted, &[Came::Never; 14]).verdict, Verdict::Fail);
}

#[test]
fn the_largest_value_says_what_it_proves() {
    let mut wanted = claims(0.8, 30);
    wanted.slos.over_trials[0].over = Over::Max;
    let claim = of(&wanted, &good(30));
    assert_eq!((claim.name.as_str(), claim.verdict), ("rto max", Verdict::Pass));
    assert!(
        claim.why.contains("largest of 30 trials") && claim.why.contains("90.4 %"),
        "{}",
        claim.why
    );
    let mut one = good(30);
    one[7] = Came::After(33.0);
    let claim = of(&wanted, &one);
    assert_eq!((claim.verdict, claim.trial), (Verdict::Fail, Some(8)));
    one[7] = Came::Unknown;
    assert_eq!(of(&wanted, &one).verdict, Verdict::Inconclusive);
}

#[test]
fn an_outage_without_a_fault_makes_every_time_doubtful() {
    let wanted = claims(0.5, 5);
    let control = ControlMeasures {
        trial: 3,
        spoiled: None,
        end: Some(TrialEnd::Completed),
        watched: 30.0,
        outages: vec![ControlOutage {
            probe: "endpoint".to_owned(),
            seconds: 12.3,
            why: "connection refused".to_owned(),
        }],
        ledger: None,
    };
    let claims = conclude(&wanted, &judged(&wanted, &good(5)), &[control]);
    assert_eq!(claims[0].verdict, Verdict::Inconclusive);
    assert!(
        claims[0]
            .why
            .contains("bad for 12.3 s in control trial 3, without any fault"),
        "{}",
        claims[0].why
    );
}

/// A fault trial, a control trial (with an outage or without), a fault trial.
fn with_control(outage: bool) -> Run {
    let mut wanted = experiment("controlled", vec![http()], 30.0);
    wanted.trials.count = 2;
    wanted.trials.control = 1;
    let bad = move |second: f64| {
        (100.0..103.0).contains(&second)
            || (300.0..303.0).contains(&second)
            || outage && (210.0..214.0).contains(&second)
    };
    let log = Log::of(&wanted)
        .samples(&http().name, 50.0, 330.0, 0.2, move |second| good_unless(bad(second)))
        .fault(&["a"], 100.0, 100.05)
        .step(Step::Revert, 120.0)
        .step(Step::Settle, 121.0)
        .ended(1, 130.0)
        .event(Event::TrialStarted {
            trial: 2,
            control: true,
        })
        .step(Step::Baseline, 190.0)
        .step(Step::Observe, 200.0)
        .step(Step::Revert, 230.0)
        .step(Step::Settle, 230.1)
        .ended(2, 240.0)
        .trial(3, 250.0)
        .fault(&["a"], 300.0, 300.05)
        .step(Step::Revert, 310.0)
        .step(Step::Settle, 311.0)
        .ended(3, 330.0)
        .finish(331.0);
    log.judge()
}

#[test]
fn a_control_trial_is_watched_and_not_judged() {
    let run = with_control(false);
    let experiment = &run.experiments[0];
    assert_eq!(experiment.verdict, Verdict::Pass, "{:?}", experiment.claims);
    let numbers: Vec<u32> = experiment.trials.iter().map(|trial| trial.index).collect();
    assert_eq!(numbers, [1, 3]);
    assert_eq!(experiment.controls.len(), 1);
    assert!((experiment.controls[0].watched - 30.0).abs() < 1e-9);
    assert!(experiment.controls[0].outages.is_empty());

    let run = with_control(true);
    let experiment = &run.experiments[0];
    assert_eq!(experiment.verdict, Verdict::Inconclusive);
    let outage = &experiment.controls[0].outages[0];
    assert!((outage.seconds - 4.0).abs() < 0.3, "{outage:?}");
}

#[test]
fn a_control_trial_that_nobody_answered_is_no_proof_that_nothing_happened() {
    let mut wanted = experiment("silent", vec![http()], 30.0);
    wanted.trials.control = 1;
    let log = Log::of(&wanted)
        .samples(&http().name, 50.0, 130.0, 0.2, |second| {
            good_unless((100.0..103.0).contains(&second))
        })
        .fault(&["a"], 100.0, 100.05)
        .step(Step::Revert, 120.0)
        .step(Step::Settle, 121.0)
        .ended(1, 130.0)
        .event(Event::TrialStarted {
            trial: 2,
            control: true,
        })
        .step(Step::Baseline, 190.0)
        .step(Step::Observe, 200.0)
        .samples(&http().name, 200.0, 240.0, 0.2, |_| silent())
        .step(Step::Revert, 230.0)
        .step(Step::Settle, 230.1)
        .ended(2, 240.0)
        .finish(241.0);
    let run = log.judge();
    let claim = &run.experiments[0].claims[0];
    assert_eq!(claim.verdict, Verdict::Inconclusive);
    assert!(claim.why.contains("control trial 2 says nothing"), "{}", claim.why);
}

#[test]
fn a_run_that_ends_early_says_why() {
    let mut wanted = experiment("early", vec![http()], 2.0);
    wanted.trials.count = 5;
    let run = Log::of(&wanted)
        .samples(&http().name, 50.0, 130.0, 0.2, |second| {
            good_unless((100.0..105.0).contains(&second))
        })
        .fault(&["a"], 100.0, 100.05)
        .step(Step::Revert, 120.0)
        .step(Step::Settle, 121.0)
        .ended(1, 130.0)
        .event(Event::TrialsStopped {
            why: "the claim \"rto\" is refuted, whatever further trials bring".to_owned(),
        })
        .finish(131.0)
        .judge();
    let experiment = &run.experiments[0];
    assert_eq!(experiment.verdict, Verdict::Fail);
    assert!(
        experiment.notes[0].contains("1 of 5 trials were run: the claim"),
        "{:?}",
        experiment.notes
    );
}

fn many(quantile: bool) -> Run {
    let mut wanted = claims(0.5, 8);
    "many".clone_into(&mut wanted.name);
    if !quantile {
        wanted.slos.over_trials.clear();
        wanted.slos.rto = experiment("many", vec![http()], 30.0).slos.rto;
    }
    let lengths = [3.0, 5.0, 4.0, 2.0, 33.0, 3.4, 4.6, 2.2];
    let mut log = Log::of(&wanted);
    log.events.truncate(log.events.len() - 2);
    for (number, length) in (1_u32..).zip(lengths) {
        let fault = f64::from(number) * 100.0;
        log = log
            .trial(number, fault - 50.0)
            .samples(&http().name, fault - 50.0, fault + 45.0, 0.2, move |second| {
                good_unless(second >= fault && second < fault + length)
            })
            .fault(&["a"], fault, fault + 0.05)
            .step(Step::Revert, fault + 40.0)
            .step(Step::Settle, fault + 41.0)
            .ended(number, fault + 45.0);
    }
    log.finish(1000.0).judge()
}

#[test]
fn many_trials_are_summed_up_within_eighty_columns() {
    let run = many(true);
    assert_eq!(run.verdict, Verdict::Pass);
    let table = chaosrun::report::table(&run, false, "reports/r-test");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    insta::assert_snapshot!("many_trials_with_a_quantile", table);
    let run = many(false);
    assert_eq!(run.verdict, Verdict::Fail);
    insta::assert_snapshot!(
        "many_trials_each",
        chaosrun::report::table(&run, false, "reports/r-test")
    );
}

#[test]
fn the_schedule_spreads_phases_over_the_period_and_controls_over_the_trials() {
    let mut wanted = claims(0.95, 60);
    wanted.trials.control = 6;
    wanted.trials.phase = Some(Duration::from_secs(30));
    let planned = schedule(&wanted, 7);
    assert_eq!(planned.len(), 66);
    assert!(
        planned
            .iter()
            .zip(1..)
            .all(|(planned, number)| planned.number == number)
    );
    let mut phases: Vec<f64> = planned
        .iter()
        .filter(|planned| !planned.control)
        .map(|planned| planned.phase.unwrap().as_secs_f64())
        .collect();
    // Not in order of time, and one in each sixtieth of the period.
    assert!(phases.windows(2).any(|pair| pair[0] > pair[1]));
    phases.sort_by(f64::total_cmp);
    for (part, phase) in phases.iter().enumerate() {
        let part = part as f64;
        assert!((part * 0.5..=(part + 1.0) * 0.5).contains(phase), "{part} {phase}");
    }
    // One control in each sixth of the trials.
    let controls: Vec<usize> = (0..)
        .zip(&planned)
        .filter(|(_, planned)| planned.control)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(controls.len(), 6);
    for (part, at) in controls.iter().enumerate() {
        let faults_before = at - part;
        assert!(
            (part * 10..=(part + 1) * 10 + 1).contains(&faults_before),
            "{controls:?}"
        );
    }
    assert_eq!(schedule(&wanted, 7), planned, "the same seed");
    assert_ne!(schedule(&wanted, 8), planned, "another seed");
}

#[test]
fn controls_come_before_the_verdict_can_be_there() {
    let mut wanted = claims(0.95, 1000);
    wanted.trials.until_decided = true;
    wanted.trials.control = 3;
    let planned = schedule(&wanted, 1);
    let last = planned.iter().rposition(|planned| planned.control).unwrap();
    assert!(
        last < 93,
        "decided after 90 trials at the earliest, the last control is trial {}",
        last + 1
    );
}

fn came() -> impl Strategy<Value = Came> {
    prop_oneof![
        6 => (1.0_f64..40.0).prop_map(Came::After),
        1 => Just(Came::Never),
        1 => Just(Came::Unknown),
    ]
}

proptest! {
    #[test]
    fn a_better_trial_never_makes_the_answer_worse(trials in proptest::collection::vec(came(), 1..40), at in any::<prop::sample::Index>()) {
        let wanted = claims(0.8, 40);
        let mut better = trials.clone();
        let at = at.index(trials.len());
        better[at] = Came::After(1.0);
        let (before, after) = (of(&wanted, &trials), of(&wanted, &better));
        let (before, after) = (before.over.unwrap(), after.over.unwrap());
        prop_assert!(after.share_at_least.unwrap() >= before.share_at_least.unwrap());
        if let (Some(QuantileBound::At(before)), Some(QuantileBound::At(after))) = (before.bound, after.bound) {
            prop_assert!(after <= before);
        }
    }

    #[test]
    fn what_is_called_decided_is_the_verdict_in_the_end(trials in proptest::collection::vec(came(), 1..30), rest in proptest::collection::vec(came(), 30)) {
        let wanted = claims(0.6, 30);
        let early = judged(&wanted, &trials);
        if decided(&wanted, &early, &[]).is_some() {
            let answer = |trials: &[Vec<ClaimVerdict>]| conclude(&wanted, trials, &[])[0].over.as_ref().unwrap().answer;
            let mut all = trials.clone();
            all.extend(rest.iter().take(30 - trials.len()));
            prop_assert_eq!(answer(&early), answer(&judged(&wanted, &all)));
        }
    }
}

#[test]
fn a_clock_that_is_off_is_told_and_moves_nothing() {
    let offset = |clock: &str, lower_ms, upper_ms| Event::ClockOffset {
        clock: clock.to_owned(),
        lower_ms,
        upper_ms,
    };
    let log = |offsets: Vec<Event>| {
        let wanted = experiment("clocks", vec![http()], 30.0);
        let mut log = Log::of(&wanted)
            .samples(&http().name, 50.0, 130.0, 0.2, |second| {
                good_unless((100.0..103.0).contains(&second))
            })
            .fault(&["a"], 100.0, 100.05);
        for event in offsets {
            log = log.event(event);
        }
        log.end(120.0, 130.0).judge()
    };
    let right = log(Vec::new());
    let off = log(vec![
        offset("apiserver", 4990.0, 5020.0),
        offset("apiserver", 5000.0, 5030.0),
        offset("prometheus", -10.0, 10.0),
        offset("prometheus", -9010.0, -8990.0),
    ]);
    assert_eq!(off.experiments[0].trials[0].rto, right.experiments[0].trials[0].rto);
    let clocks = &off.experiments[0].clocks;
    assert_eq!(
        (clocks[0].lower_ms, clocks[0].upper_ms, clocks[0].stepped),
        (Some(5000.0), Some(5020.0), false)
    );
    assert_eq!(
        (clocks[1].lower_ms, clocks[1].upper_ms, clocks[1].stepped),
        (Some(-8990.0), Some(-10.0), true)
    );
    let table = chaosrun::report::table(&off, false, "reports/r-test");
    assert!(table.contains("the API server's clock is 5.0 s ahead"), "{table}");
    assert!(
        table.contains("the clock of the Prometheus or of this machine stepped"),
        "{table}"
    );
}
