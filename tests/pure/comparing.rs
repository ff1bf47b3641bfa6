//! Two sets of runs compared: from event logs to the answer, and every way in which there is none.

use crate::dsl::{Log, at_least, experiment, good_unless, http, silent};
use chaosrun::compare::{Comparison, Margin, Outcome, Rule, Saved, compare, table};
use chaosrun::evidence::{Event, TrialEnd};
use chaosrun::experiment::{Experiment, RtoStart};
use chaosrun::fault::Injector;

const TWO_SECONDS: Rule = Rule {
    margin: Margin::Seconds(2.0),
    confidence: 0.95,
};

fn wanted() -> Experiment {
    experiment("pod-kill", vec![http()], 60.0)
}

/// One run with one trial: the endpoint is bad from the fault at 100 until `recovered` seconds later; for ever without.
fn log(id: &str, wanted: &Experiment, recovered: Option<f64>) -> Log {
    let until = recovered.map_or(150.0, |seconds| 100.0 + seconds + 12.0);
    let mut log = Log::of(wanted)
        .samples("endpoint", 95.0, until, 0.2, |sent| {
            good_unless(sent >= 100.0 && recovered.is_none_or(|seconds| sent < 100.0 + seconds))
        })
        .fault(&["a"], 99.99, 100.01)
        .end(until, until + 1.0);
    rename(&mut log, id);
    log
}

fn rename(log: &mut Log, name: &str) {
    for event in &mut log.events {
        if let Event::RunStarted { id, .. } = event {
            name.clone_into(id);
        }
    }
}

fn saved(log: &Log) -> Vec<Saved> {
    Saved::of(&log.records())
}

fn runs_of(prefix: &str, wanted: &Experiment, seconds: &[f64]) -> Vec<Saved> {
    seconds
        .iter()
        .enumerate()
        .flat_map(|(index, seconds)| saved(&log(&format!("{prefix}-{index}"), wanted, Some(*seconds))))
        .collect()
}

fn runs(prefix: &str, seconds: &[f64]) -> Vec<Saved> {
    runs_of(prefix, &wanted(), seconds)
}

const BASE: [f64; 8] = [31.2, 28.4, 35.9, 30.1, 29.7, 33.3, 27.8, 30.9];
const SLOWER: [f64; 8] = [36.8, 33.1, 39.4, 34.9, 41.0, 35.2, 32.6, 38.7];
const SAME: [f64; 8] = [31.0, 29.2, 34.8, 30.6, 32.2, 28.1, 30.3, 33.0];

fn only(comparison: &Comparison) -> &chaosrun::compare::Compared {
    assert_eq!(comparison.experiments.len(), 1);
    &comparison.experiments[0]
}

#[test]
fn a_build_that_is_slower_by_more_than_the_margin_is_found() {
    let comparison = compare(&runs("old", &BASE), &runs("new", &SLOWER), TWO_SECONDS);
    assert_eq!(comparison.outcome, Outcome::Regressed);
    let recovery = &only(&comparison).measures[0];
    // The vector's shift is 5.35 s and its one-sided lower bound 2.9 s; the probe adds up to 0.2 s on each side.
    assert!((recovery.shift.unwrap() - 5.35).abs() < 0.3, "{recovery:?}");
    let gate = recovery.gate.unwrap();
    assert!((2.4..=2.9).contains(&gate.lower.unwrap()), "{gate:?}");
    insta::assert_snapshot!(table(&comparison, false));
}

#[test]
fn a_build_that_is_not_slower_by_the_margin_is_let_through() {
    let rule = Rule {
        margin: Margin::Share(0.12),
        ..TWO_SECONDS
    };
    let comparison = compare(&runs("old", &BASE), &runs("new", &SAME), rule);
    assert_eq!(comparison.outcome, Outcome::NotRegressed);
    insta::assert_snapshot!(table(&comparison, false));
}

#[test]
fn a_margin_inside_the_bounds_is_inconclusive_and_says_how_many_more_trials() {
    let rule = Rule {
        margin: Margin::Seconds(1.0),
        ..TWO_SECONDS
    };
    let comparison = compare(&runs("old", &BASE), &runs("new", &SAME), rule);
    assert_eq!(comparison.outcome, Outcome::Inconclusive);
    let more = only(&comparison).more_trials.unwrap();
    assert!(more.base > 0 && more.new > 0);
    insta::assert_snapshot!(table(&comparison, false));
}

#[test]
fn three_against_three_is_refused_however_far_apart_they_are() {
    let comparison = compare(&runs("old", &BASE[..3]), &runs("new", &[90.0, 91.0, 92.0]), TWO_SECONDS);
    assert_eq!(comparison.outcome, Outcome::Inconclusive);
    let compared = only(&comparison);
    let more = compared.more_trials.unwrap();
    assert_eq!((more.base, more.new), (2, 3), "eleven in all by Noether");
    insta::assert_snapshot!(table(&comparison, false));
    let more = compare(
        &runs("old", &BASE[..4]),
        &runs("new", &[90.0, 91.0, 92.0, 93.0]),
        TWO_SECONDS,
    );
    assert_eq!(more.outcome, Outcome::Regressed);
}

#[test]
fn what_never_recovered_ranks_above_everything() {
    let mut new = runs("new", &SAME[..5]);
    for index in 0..5 {
        new.extend(saved(&log(&format!("dead-{index}"), &wanted(), None)));
    }
    let comparison = compare(&runs("old", &BASE), &new, TWO_SECONDS);
    let recovery = &only(&comparison).measures[0];
    assert_eq!((recovery.new.trials, recovery.new.never), (10, 5));
    assert!(
        recovery.p.unwrap() < 0.2 && recovery.new.median.is_none(),
        "{recovery:?}"
    );
    assert_ne!(comparison.outcome, Outcome::NotRegressed);
    insta::assert_snapshot!(table(&comparison, false));
    // All of them: watched for 50 s, which is 15 s longer than the slowest of the base.
    let dead: Vec<Saved> = (0..6)
        .flat_map(|index| saved(&log(&format!("dead-{index}"), &wanted(), None)))
        .collect();
    assert_eq!(
        compare(&runs("old", &BASE), &dead, TWO_SECONDS).outcome,
        Outcome::Regressed
    );
    assert_ne!(compare(&dead, &dead, TWO_SECONDS).outcome, Outcome::NotRegressed);
}

/// Error bars of 6 s around the same midpoints: what was decided is not any more, and never the other way round.
#[test]
fn error_bars_never_decide() {
    let widen = |mut side: Vec<Saved>| {
        for value in side.iter_mut().flat_map(|saved| &mut saved.measures[0].trials) {
            value.lower -= 3.0;
            value.upper = value.upper.map(|upper| upper + 3.0);
        }
        side
    };
    let comparison = compare(&widen(runs("old", &BASE)), &widen(runs("new", &SLOWER)), TWO_SECONDS);
    assert_eq!(comparison.outcome, Outcome::Inconclusive);
    assert!(
        only(&comparison).why.contains("shorter probe interval"),
        "{}",
        only(&comparison).why
    );
}

#[test]
fn another_experiment_is_not_compared_and_the_difference_is_named() {
    let mut other = wanted();
    other.faults[0].injector = Injector::ChaosMesh;
    other.slos.rto = other.slos.rto.map(|mut rto| {
        rto.from = RtoStart::Impact;
        rto
    });
    let comparison = compare(&runs("old", &BASE), &runs_of("new", &other, &SAME), TWO_SECONDS);
    assert_eq!(comparison.outcome, Outcome::Inconclusive);
    let compared = only(&comparison);
    assert!(compared.measures.is_empty());
    insta::assert_snapshot!(table(&comparison, false));
    // Mixed on one side is no better.
    let mixed = [runs("old", &BASE[..4]), runs_of("other", &other, &BASE[4..])].concat();
    assert_eq!(
        compare(&mixed, &runs("new", &SAME), TWO_SECONDS).outcome,
        Outcome::Inconclusive
    );
}

#[test]
fn a_stand_in_is_not_the_real_workload() {
    let stand_in: Vec<Saved> = SAME
        .iter()
        .flat_map(|seconds| {
            let mut log = log("s", &wanted(), Some(*seconds));
            for event in &mut log.events {
                if let Event::WorkloadIdentified { stand_in, .. } = event {
                    *stand_in = true;
                }
            }
            saved(&log)
        })
        .collect();
    let comparison = compare(&runs("old", &BASE), &stand_in, TWO_SECONDS);
    assert_eq!(comparison.outcome, Outcome::Inconclusive);
    assert!(
        table(&comparison, false).contains("a stand-in"),
        "{}",
        table(&comparison, false)
    );
}

/// A new build has another image: that is why it is compared.
#[test]
fn another_version_of_the_workload_is_named_and_compared() {
    let mut new = runs("new", &SLOWER);
    for saved in &mut new {
        "deployment shop (shop:v2)".clone_into(&mut saved.workload);
    }
    let comparison = compare(&runs("old", &BASE), &new, TWO_SECONDS);
    assert_eq!(comparison.outcome, Outcome::Regressed);
    let notes = only(&comparison).notes.join("\n");
    assert!(
        notes.contains("another workload: deployment shop (base), deployment shop (shop:v2) (new)"),
        "{notes}"
    );
}

/// Trials that get longer and longer are not independent: whoever reads the bounds has to know.
#[test]
fn a_drift_within_a_run_is_named() {
    let one_run = |sorted: bool| {
        let mut seconds = SLOWER;
        if sorted {
            seconds.sort_by(f64::total_cmp);
        }
        let mut runs = runs("drift", &seconds);
        let values: Vec<_> = runs.iter().flat_map(|saved| saved.measures[0].trials.clone()).collect();
        runs.truncate(1);
        runs[0].measures[0].trials = values;
        compare(&self::runs("old", &BASE), &runs, TWO_SECONDS)
    };
    let notes = only(&one_run(true)).notes.join("\n");
    assert!(
        notes.contains("new: the trials of run drift-0 took longer one after the other"),
        "{notes}"
    );
    assert!(only(&one_run(false)).notes.is_empty());
}

/// Another limit changes the verdict of a run, not what it measured.
#[test]
fn another_limit_is_named_and_compared() {
    let comparison = compare(
        &runs("old", &BASE),
        &runs_of("new", &experiment("pod-kill", vec![http()], 30.0), &SLOWER),
        TWO_SECONDS,
    );
    assert_eq!(comparison.outcome, Outcome::Regressed);
    let notes = only(&comparison).notes.join("\n");
    assert!(
        notes.contains("another limit of rto: < 60 s (base), < 30 s (new)"),
        "{notes}"
    );
}

#[test]
fn a_log_that_stops_early_is_named_and_its_open_trial_left_out() {
    let mut killed = log("killed", &wanted(), Some(40.0));
    killed.events.retain(|event| {
        !matches!(
            event,
            Event::TrialEnded { .. } | Event::ExperimentEnded { .. } | Event::RunEnded { .. }
        )
    });
    let new = [runs("new", &SAME), saved(&killed)].concat();
    let comparison = compare(&runs("old", &BASE), &new, TWO_SECONDS);
    let compared = only(&comparison);
    assert_eq!(compared.measures[0].new.trials, 8);
    let notes = compared.notes.join("\n");
    assert!(
        notes.contains("the log of run killed stops before the run ended"),
        "{notes}"
    );
    assert!(notes.contains("trial 1 of run killed is left out"), "{notes}");
}

/// A stop condition that ends a trial leaves a lower bound: a build that trips it again and again must not look fast.
#[test]
fn an_aborted_trial_counts_as_long_as_it_was_watched() {
    let aborted: Vec<Saved> = (0..8)
        .flat_map(|index| {
            let mut log = log(&format!("aborted-{index}"), &wanted(), None);
            for event in &mut log.events {
                if let Event::TrialEnded { end, .. } = event {
                    *end = TrialEnd::Aborted {
                        why: "the error budget is spent".to_owned(),
                    };
                }
            }
            saved(&log)
        })
        .collect();
    let comparison = compare(&runs("old", &BASE), &aborted, TWO_SECONDS);
    assert_eq!(only(&comparison).measures[0].new.never, 8);
    assert_eq!(comparison.outcome, Outcome::Regressed);
}

#[test]
fn nothing_to_compare_is_inconclusive() {
    assert_eq!(compare(&[], &[], TWO_SECONDS).outcome, Outcome::Inconclusive);
    let one_sided = compare(&runs("old", &BASE), &[], TWO_SECONDS);
    assert_eq!(one_sided.outcome, Outcome::Inconclusive);
    assert!(only(&one_sided).why.contains("no run of it on the new side"));
    let unseen: Vec<Saved> = (0..5)
        .flat_map(|_| {
            let log = Log::of(&wanted())
                .samples("endpoint", 95.0, 99.0, 0.2, |_| good_unless(false))
                .samples("endpoint", 99.2, 120.0, 0.2, |_| silent())
                .fault(&["a"], 99.99, 100.01)
                .end(120.0, 121.0);
            saved(&log)
        })
        .collect();
    let comparison = compare(&runs("old", &BASE), &unseen, TWO_SECONDS);
    assert_eq!(comparison.outcome, Outcome::Inconclusive);
    assert!(
        only(&comparison).why.contains("no trial on the new side"),
        "{}",
        only(&comparison).why
    );
}

/// Ties (whole seconds) leave the exact test, and the table says so.
#[test]
fn ties_are_said_to_be_approximate() {
    let whole = |prefix: &str, seconds: &[f64]| {
        let mut side = runs(prefix, seconds);
        for value in side.iter_mut().flat_map(|saved| &mut saved.measures[0].trials) {
            value.lower = value.lower.round();
            value.upper = Some(value.lower);
        }
        side
    };
    let comparison = compare(&whole("old", &BASE), &whole("new", &SAME), TWO_SECONDS);
    assert!(!only(&comparison).measures[0].p_exact);
    assert!(table(&comparison, false).contains("~ normal approximation"));
}

#[test]
fn every_line_of_the_table_fits_eighty_columns() {
    let mut wordy = wanted();
    wordy.slos.availability = Some(0.5);
    wordy.slos.lost = Some(crate::dsl::at_most(0.0));
    wordy.steady_state.probes.push(crate::dsl::promql(
        "a probe with a name that nobody would give it",
        at_least(1.0),
    ));
    let long = |prefix: &str, side: &[f64]| -> Vec<Saved> {
        let mut saved = runs(
            &format!("{prefix}-with-a-run-id-that-is-as-long-as-those-of-a-scheduled-run"),
            side,
        );
        for one in &mut saved {
            "an-experiment-with-a-very-long-name-indeed-that-goes-on".clone_into(&mut one.experiment);
        }
        saved
    };
    let known = compare(&long("old", &BASE), &long("new", &SAME), TWO_SECONDS);
    let unlike = compare(&long("old", &BASE), &runs_of("new", &wordy, &SAME), TWO_SECONDS);
    for comparison in [known, unlike] {
        for line in table(&comparison, false).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

/// What is kept reads back as it was written, and its bytes depend on nothing but the log.
#[test]
fn what_is_saved_is_stable() {
    let first = log("r-1", &wanted(), Some(8.0));
    let text = serde_json::to_string_pretty(&saved(&first)).unwrap();
    assert_eq!(text, serde_json::to_string_pretty(&saved(&first)).unwrap());
    let back: Vec<Saved> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, saved(&first));
    insta::assert_snapshot!(text);
}
