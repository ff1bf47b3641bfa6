//! What must hold for every input: definitions by direct sums, monotony, bounds around their estimate, and an answer (or a reason why
//! there is none) to nonsense.

use chaosrun::model::Verdict;
use chaosrun::stats::availability::{self, Outage};
use chaosrun::stats::clock::{Exchange, offset_bounds};
use chaosrun::stats::quantile::{self, Observed};
use chaosrun::stats::records::{Attempt, classify};
use chaosrun::stats::sequential::{self, Alternatives, Decided};
use chaosrun::stats::survival::{Time, kaplan_meier};
use chaosrun::stats::two_sample::{self, Gate};
use chaosrun::stats::{Known, bootstrap, calibrated, observation, rates, trend};
use chaosrun::verdict::quantile_verdict;
use proptest::collection::vec;
use proptest::prelude::*;

/// `P(Bin(n, p) <= k)`, term by term and without any cleverness.
fn binomial(k: u64, n: u64, p: f64) -> f64 {
    let mut choose = 0.0_f64;
    let mut sum = 0.0;
    for i in 0..=k.min(n) {
        sum += (choose + i as f64 * p.ln() + (n - i) as f64 * (1.0 - p).ln()).exp();
        choose += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    sum
}

const SLACK: f64 = 1e-9;

fn share() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.5), Just(0.9), Just(0.95), Just(0.99), 0.05..0.995]
}

fn seconds() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..200.0, (0_u32..20).prop_map(f64::from)]
}

/// Numbers that nobody should send, and some that somebody would.
fn anything() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(-0.0),
        Just(1.0),
        Just(f64::MIN_POSITIVE),
        Just(1.0 - f64::EPSILON),
        -2.0..2.0,
        share(),
    ]
}

fn observed() -> impl Strategy<Value = Observed> {
    prop_oneof![
        4 => (seconds(), 0.0..3.0).prop_map(|(from, width)| Observed::between(from, from + width)),
        1 => seconds().prop_map(Observed::censored),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_number_of_trials_is_the_smallest_that_proves(q in share(), c in share(), k in 0_u64..6) {
        let n = quantile::trials_needed(q, c, k).unwrap();
        prop_assert!(binomial(k, n, 1.0 - q) <= (1.0 - c) + SLACK);
        prop_assert!(n == k + 1 || n == 1 || binomial(k, n - 1, 1.0 - q) > (1.0 - c) - SLACK);
        prop_assert!(quantile::trials_needed(q, c, k + 1).unwrap() > n);
    }

    #[test]
    fn ranks_keep_their_definition(n in 1_u64..300, q in share(), c in share()) {
        let upper = quantile::upper_bound_rank(n, q, c).unwrap();
        match upper.rank {
            Some(rank) => {
                prop_assert!(binomial(rank - 1, n, q) >= c - SLACK);
                prop_assert!(rank == 1 || binomial(rank - 2, n, q) < c + SLACK);
            }
            None => prop_assert!(binomial(n - 1, n, q) < c + SLACK),
        }
        let lower = quantile::lower_bound_rank(n, q, c).unwrap();
        match lower.rank {
            Some(rank) => {
                prop_assert!(1.0 - binomial(rank - 1, n, q) >= c - SLACK);
                prop_assert!(rank == n || 1.0 - binomial(rank, n, q) < c + SLACK);
            }
            None => prop_assert!(1.0 - binomial(0, n, q) < c + SLACK),
        }
        if let Some((low, high)) = quantile::median_ranks(n, c).unwrap().ranks {
            prop_assert_eq!(low + high, n + 1);
            prop_assert!(1.0 - 2.0 * binomial(low - 1, n, 0.5) >= c - SLACK);
        }
    }

    #[test]
    fn intervals_of_a_rate_contain_it_and_move_with_it(n in 1_u64..2000, part in 0.0..=1.0_f64, c in share()) {
        let x = (part * n as f64).round() as u64;
        let rate = x as f64 / n as f64;
        for interval in [
            rates::clopper_pearson(x, n, c).unwrap(),
            rates::wilson(x, n, c).unwrap(),
        ] {
            prop_assert!(0.0 <= interval.lower && interval.lower <= rate + SLACK, "{:?}", interval);
            prop_assert!(rate - SLACK <= interval.upper && interval.upper <= 1.0, "{:?}", interval);
        }
        let jeffreys = rates::jeffreys(x, n, c).unwrap();
        prop_assert!(0.0 <= jeffreys.lower && jeffreys.lower <= jeffreys.upper && jeffreys.upper <= 1.0);
        let lower = rates::lower_bound(x, n, c).unwrap();
        let upper = rates::upper_bound(x, n, c).unwrap();
        // Each bound is the rate at which what was seen has just the probability 1 - c.
        if x > 0 {
            prop_assert!((1.0 - binomial(x - 1, n, lower) - (1.0 - c)).abs() < 1e-7);
            prop_assert!(rates::lower_bound(x - 1, n, c).unwrap() < lower);
        }
        if x < n {
            prop_assert!((binomial(x, n, upper) - (1.0 - c)).abs() < 1e-7);
            prop_assert!(rates::upper_bound(x + 1, n, c).unwrap() > upper);
        }
    }

    #[test]
    fn a_quantile_passes_exactly_when_enough_trials_are_within(
        n in 1_u64..200, beyond in 0_u64..8, undecided in 0_u64..4, q in share(), c in share(),
    ) {
        // Below 1/2 the two bounds change places, and both a pass and a fail are as good as nothing.
        let c = c.max(1.0 - c);
        let beyond = beyond.min(n);
        let undecided = undecided.min(n - beyond);
        let within = n - beyond - undecided;
        let found = quantile_verdict(within, n, undecided, q, c);
        let needed = quantile::trials_needed(q, c, beyond + undecided).unwrap();
        prop_assert_eq!(found.verdict == Verdict::Pass, n >= needed);
        if found.verdict == Verdict::Inconclusive {
            prop_assert_eq!(found.more_trials_needed, Some(needed - n));
        }
        prop_assert!(found.lower_bound <= found.upper_bound + SLACK || found.verdict != Verdict::Inconclusive);
        // Deciding an undecided trial never turns a pass into a fail or the other way round.
        for decided in [quantile_verdict(within + undecided, n, 0, q, c), quantile_verdict(within, n, 0, q, c)] {
            if found.verdict != Verdict::Inconclusive {
                prop_assert_eq!(decided.verdict, found.verdict);
            }
        }
    }

    #[test]
    fn wider_observations_only_widen_a_bound(trials in vec(observed(), 1..80), q in share(), c in share()) {
        let bound = quantile::quantile_upper_bound(&trials, q, c).unwrap();
        let narrow: Vec<Observed> = trials.iter().map(|trial| Observed::exact(trial.lower)).collect();
        let exact = quantile::quantile_upper_bound(&narrow, q, c).unwrap();
        prop_assert_eq!(bound.rank, exact.rank);
        match (bound.bound, bound.at_least) {
            (Some(bound), None) => prop_assert!(bound >= exact.bound.unwrap()),
            (None, Some(at_least)) => prop_assert_eq!(Some(at_least), exact.bound),
            (None, None) => prop_assert!(bound.rank.is_none() && bound.further_trials > 0),
            other => prop_assert!(false, "{:?}", other),
        }
        let lower = quantile::quantile_lower_bound(&trials, q, c).unwrap();
        if let (Some(lower), Some(upper)) = (lower.bound, bound.bound) && c > 0.5 {
            prop_assert!(lower <= upper);
        }
    }

    #[test]
    fn the_shift_is_the_median_of_all_differences(
        base in vec(seconds(), 1..25), new in vec(seconds(), 1..25), c in share(),
    ) {
        let found = two_sample::hodges_lehmann(&base, &new, c).unwrap();
        let mut all: Vec<f64> = base.iter().flat_map(|base| new.iter().map(move |new| new - base)).collect();
        all.sort_by(f64::total_cmp);
        let half = all.len() / 2;
        let median = if all.len() % 2 == 1 { all[half] } else { f64::midpoint(all[half - 1], all[half]) };
        prop_assert!((found.shift - median).abs() < 1e-12);
        match found.interval {
            Some((lower, upper)) => {
                let k = found.k as usize;
                prop_assert!((lower - all[k - 1]).abs() < 1e-12 && (upper - all[all.len() - k]).abs() < 1e-12);
                prop_assert!(lower <= median && median <= upper);
                prop_assert!(found.achieved_confidence.unwrap() >= c - SLACK);
            }
            None => prop_assert_eq!(found.k, 0),
        }
        let test = two_sample::mann_whitney(&base, &new).unwrap();
        let turned = two_sample::mann_whitney(&new, &base).unwrap();
        prop_assert!((test.p_two_sided - turned.p_two_sided).abs() < 1e-12);
        prop_assert!((test.u_new + turned.u_new - all.len() as f64).abs() < 1e-9);
        prop_assert!(test.p_two_sided >= two_sample::min_two_sided_p(base.len() as u64, new.len() as u64).unwrap() - SLACK || test.ties);
    }

    #[test]
    fn what_was_not_observed_never_decides(
        base in vec(observed(), 1..20), new in vec(observed(), 1..20), margin in 0.0..20.0, picks in vec(0.0..=1.0, 40),
    ) {
        let gated = two_sample::regression_gate_observed(&base, &new, margin, 0.95).unwrap();
        // Any truth inside the bounds: never the opposite answer.
        let truth = |trials: &[Observed], picks: &[f64]| -> Vec<f64> {
            trials.iter().zip(picks).map(|(trial, pick)| {
                if trial.is_censored() { trial.lower + 1000.0 * pick } else { trial.lower + pick * (trial.upper - trial.lower) }
            }).collect()
        };
        let exact = two_sample::regression_gate(&truth(&base, &picks[..20]), &truth(&new, &picks[20..]), margin, 0.95).unwrap();
        match gated.gate {
            Gate::Inconclusive => {}
            decided => prop_assert_eq!(exact.gate, decided),
        }
    }

    #[test]
    fn the_e_process_and_its_plan_agree(q in 0.5..0.99, failures in 0_u64..5, c in 0.8..0.99) {
        let alternatives = Alternatives::around(q);
        prop_assert!(alternatives.bad < q && q < alternatives.good && alternatives.good < 1.0 && alternatives.bad > 0.0);
        let n = sequential::e_process_trials_needed(q, alternatives.good, (1.0 - c) / 2.0, failures).unwrap().unwrap();
        let at = |n: u64| sequential::until_decided(n - failures, n, 0, q, c, alternatives).unwrap();
        prop_assert_eq!(at(n), Decided::Pass);
        prop_assert!(n == 1 || n == failures || at(n - 1) != Decided::Pass);
    }

    #[test]
    fn a_confidence_sequence_contains_the_rate(n in 0_u64..3000, part in 0.0..=1.0_f64, c in share()) {
        let x = (part * n as f64).floor() as u64;
        let found = sequential::confidence_sequence(x, n, 1.0 - c, 1.0, 1.0).unwrap();
        let rate = if n == 0 { 0.5 } else { x as f64 / n as f64 };
        prop_assert!(0.0 <= found.lower && found.lower <= rate && rate <= found.upper && found.upper <= 1.0);
    }

    #[test]
    fn survival_falls_and_its_limits_enclose_it(times in vec((seconds(), any::<bool>()), 1..40), c in share()) {
        let times: Vec<Time> = times.into_iter().map(|(time, recovered)| Time { time, recovered }).collect();
        let found = kaplan_meier(&times, c).unwrap();
        let mut before = 1.0;
        for step in &found.steps {
            prop_assert!((0.0..before).contains(&step.survival));
            before = step.survival;
            if let Some((lower, upper)) = step.limits {
                prop_assert!(0.0 <= lower && lower <= step.survival && step.survival <= upper && upper <= 1.0);
            }
        }
        prop_assert!(found.quantile(0.5) <= found.quantile(0.9) || found.quantile(0.9).is_none());
        let mean = found.restricted_mean(50.0).unwrap();
        prop_assert!((0.0..=50.0 + SLACK).contains(&mean));
    }

    #[test]
    fn the_bootstrap_of_the_median_is_a_distribution(values in vec(seconds(), 1..60), c in share()) {
        let found = bootstrap::median(&values, c).unwrap();
        let (low, high) = (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max));
        prop_assert!(low <= found.lower && found.lower <= found.upper && found.upper <= high);
        prop_assert!((low - SLACK..=high + SLACK).contains(&found.mean) && found.standard_error <= high - low + SLACK);
        if let Some(probabilities) = found.probabilities {
            prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < SLACK);
        }
    }

    #[test]
    fn nonsense_gets_an_answer_or_a_reason(
        values in vec(anything(), 0..12), other in vec(anything(), 0..12), counts in [0_u64..5000, 0..5000, 0..50],
        a in anything(), b in anything(), c in anything(), d in anything(),
    ) {
        let [n, k, few] = counts;
        let observed: Vec<Observed> = values.iter().zip(&other).map(|(a, b)| Observed::between(*a, *b)).collect();
        let times: Vec<Time> = values.iter().map(|time| Time { time: *time, recovered: *time > 1.0 }).collect();
        let _ = quantile::trials_needed(a, b, few);
        let _ = quantile::best_zero_failure_quantile(n, a);
        let _ = quantile::upper_bound_rank(n, a, b);
        let _ = quantile::lower_bound_rank(n, a, b);
        let _ = quantile::median_ranks(n, a);
        let _ = quantile::quantile_upper_bound(&observed, a, b);
        let _ = quantile::quantile_lower_bound(&observed, a, b);
        let _ = quantile::band_half_width(n, a);
        let _ = quantile::confidence_of_each(a, n);
        let _ = rates::clopper_pearson(k, n, a);
        let _ = rates::wilson(k, n, a);
        let _ = rates::jeffreys(k, n, a);
        let _ = rates::event_upper_bound(k, n, a);
        let _ = quantile_verdict(k, n, few, a, b);
        let outcomes: Vec<bool> = values.iter().map(|value| *value > 0.0).collect();
        let _ = sequential::ratio_test(&outcomes, a, b, c, d);
        let _ = sequential::e_value(k, n, a, b).map(|found| found.rejects(c));
        let _ = sequential::e_process_trials_needed(a, b, c, few);
        let _ = sequential::confidence_sequence(k, n, a, b, c);
        let _ = sequential::confidence_sequence_trials_needed(a, b, c, d);
        let _ = sequential::until_decided(k, n, few, a, b, Alternatives { bad: c, good: d });
        let _ = sequential::until_decided(k, n, few, a, b, Alternatives::around(a));
        let _ = kaplan_meier(&times, a).map(|found| (found.quantile(b), found.restricted_mean(c)));
        let _ = bootstrap::median(&values, a);
        let _ = trend::kendall(&values);
        let _ = trend::lag_one(&values);
        let _ = trend::effective_trials(n, a);
        let _ = two_sample::mann_whitney(&values, &other);
        let _ = two_sample::mann_whitney_asymptotic(&values, &other, false);
        let _ = two_sample::hodges_lehmann(&values, &other, a);
        let _ = two_sample::regression_gate(&values, &other, a, b);
        let _ = two_sample::regression_gate_observed(&observed, &observed, a, b);
        let _ = two_sample::min_two_sided_p(n, k);
        let _ = two_sample::noether_total(a, b, c, d);
        let _ = availability::error_budget_seconds(a, b);
        let _ = availability::recoveries_in_budget(a, b, c);
        let _ = availability::consumed_seconds(&[Outage { seconds: a, share: b }]);
        let _ = availability::from_means(a, b);
        let _ = availability::backlog_drain(a, b);
        let _ = observation::polling_error(a);
        let _ = observation::duration_from_truncated_seconds(a, b);
        let _ = observation::rate_window(a, b);
        let _ = observation::data_age(a, b, c);
        let _ = observation::phase_coverage(n, a);
        let _ = observation::counter_restored(&[(a, b), (c, d)], a);
        let _ = offset_bounds(&[Exchange { sent: a, received: b, stamp: c }], d);
        let _ = calibrated(&[Known { true_lower: a, true_upper: a, lower: b, upper: c, value: b }], d);
        let attempts = [Attempt { id: n, time: a, acknowledged: true }, Attempt { id: k, time: b, acknowledged: false }];
        let _ = classify(&attempts, &[vec![n, k, few]], c);
    }
}

/// One sample per vector method that has nothing to work with: no value, and no panic.
#[test]
fn nothing_gives_no_value() {
    assert!(quantile::upper_bound_rank(0, 0.95, 0.95).is_err());
    assert!(quantile::quantile_upper_bound(&[], 0.95, 0.95).is_err());
    assert!(rates::lower_bound(0, 0, 0.95).is_err());
    assert!(rates::lower_bound(2, 1, 0.95).is_err());
    assert!(kaplan_meier(&[], 0.95).is_err());
    assert!(bootstrap::median(&[], 0.95).is_err());
    assert!(two_sample::mann_whitney(&[], &[1.0]).is_err());
    assert!(two_sample::hodges_lehmann(&[1.0], &[], 0.95).is_err());
    assert!(two_sample::mann_whitney_exact(&[1.0, 2.0], &[2.0]).is_err(), "ties");
    assert_eq!(trend::kendall(&[1.0]), Ok(None));
    assert_eq!(trend::kendall(&[2.0, 2.0, 2.0]), Ok(None));
    assert_eq!(trend::lag_one(&[0.1, 0.1, 0.1]), Ok(None));
    assert!(calibrated(&[], 0.95).is_none());
    assert!(offset_bounds(&[], 1.0).is_err());
    assert!(classify(&[], &[], 0.0).is_err());
}

/// Even numbers of values: every resample of four, counted one by one.
#[test]
fn the_bootstrap_of_an_even_sample_is_that_of_all_its_resamples() {
    let values = [1.0, 2.0, 4.0, 9.0];
    let mut medians = Vec::new();
    for draw in 0..256_usize {
        let mut sample: Vec<f64> = (0..4).map(|place| values[draw >> (2 * place) & 3]).collect();
        sample.sort_by(f64::total_cmp);
        medians.push(f64::midpoint(sample[1], sample[2]));
    }
    let mean = medians.iter().sum::<f64>() / 256.0;
    let variance = medians.iter().map(|median| (median - mean).powi(2)).sum::<f64>() / 256.0;
    medians.sort_by(f64::total_cmp);
    let found = bootstrap::median(&values, 0.9).unwrap();
    assert!((found.mean - mean).abs() < 1e-12, "{found:?}, {mean}");
    assert!((found.standard_error - variance.sqrt()).abs() < 1e-12);
    // The smallest value with at least 5 % (95 %) of all resamples at or below it.
    assert!((found.lower - medians[12]).abs() < 1e-12 && (found.upper - medians[243]).abs() < 1e-12);
}

/// Ten thousand trials are no reason to wait.
#[test]
fn large_samples_are_answered() {
    let many: Vec<f64> = (0..10_000_u32).map(|n| f64::from(n * 7919 % 10_007)).collect();
    let moved: Vec<f64> = many.iter().map(|value| value + 100.25).collect();
    let shift = two_sample::hodges_lehmann(&many, &moved, 0.95).unwrap();
    assert!((shift.shift - 100.25).abs() < 1e-9, "{shift:?}");
    let (lower, upper) = shift.interval.unwrap();
    assert!(lower < 100.25 && 100.25 < upper && upper - lower < 200.0, "{shift:?}");
    assert!(two_sample::mann_whitney(&many, &moved).unwrap().p_two_sided < 0.05);
    assert!(trend::kendall(&many).unwrap().is_some());
    assert!(bootstrap::median(&many, 0.95).unwrap().standard_error > 0.0);
    let observed: Vec<Observed> = many.iter().copied().map(Observed::exact).collect();
    assert!(
        quantile::quantile_upper_bound(&observed, 0.999, 0.95)
            .unwrap()
            .bound
            .is_some()
    );
    assert!(rates::lower_bound(9_990, 10_000, 0.95).unwrap() > 0.998);
}

/// Where the exact distribution ends, the approximation goes on without a step.
#[test]
fn the_moses_interval_does_not_jump_where_the_exact_count_ends() {
    let sample = |n: u32, from: f64| -> Vec<f64> { (0..n).map(|i| from + f64::from(i * 7919 % 1009) / 7.0).collect() };
    let exact = two_sample::hodges_lehmann(&sample(265, 0.0), &sample(265, 3.0), 0.95).unwrap();
    let approximate = two_sample::hodges_lehmann(&sample(290, 0.0), &sample(290, 3.0), 0.95).unwrap();
    let width = |shift: two_sample::Shift| shift.interval.map(|(lower, upper)| upper - lower).unwrap();
    let ratio = width(exact) / width(approximate);
    assert!((1.0..1.2).contains(&ratio), "{ratio}");
}
