//! Thousands of synthetic claims: a rule that says "95 %" may pass a false claim in 5 % of the cases, and not in more. Seeded, so
//! each of these tests always gives the same answer; the margins are those of the binomial distribution, so that a rule which peeks
//! is caught (and each test shows one that is).

use chaosrun::model::Verdict;
use chaosrun::stats::quantile::{Observed, quantile_upper_bound};
use chaosrun::stats::rates;
use chaosrun::stats::sequential::{Alternatives, Decided, until_decided};
use chaosrun::stats::two_sample::{Gate, regression_gate, regression_gate_observed};
use chaosrun::verdict::quantile_verdict;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

const CONFIDENCE: f64 = 0.95;

/// Verdicts of quantile claims, each calculated once: thousands of claims meet the same few counts.
#[derive(Default)]
struct Verdicts(HashMap<(u64, u64, u64), Verdict>);

impl Verdicts {
    fn of(&mut self, within: u64, trials: u64, undecided: u64, quantile: f64) -> Verdict {
        let verdict = || quantile_verdict(within, trials, undecided, quantile, CONFIDENCE).verdict;
        *self.0.entry((within, trials, undecided)).or_insert_with(verdict)
    }
}

/// Whether `count` of `claims` is as little as a rate of `stated` allows: not significantly (one in ten thousand) above it.
fn keeps(count: u64, claims: u64, stated: f64) -> bool {
    rates::lower_bound(count, claims, 0.9999).unwrap() <= stated
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    rng.random::<f64>()
}

/// How many of `claims` simulated ones do what they must not.
fn count(seed: u64, claims: u64, mut wrong: impl FnMut(&mut ChaCha8Rng) -> bool) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..claims).filter(|_| wrong(&mut rng)).count() as u64
}

/// Systems that are within the limit in exactly the claimed share of trials: the worst case of a false claim.
#[test]
fn a_quantile_verdict_of_fixed_size_passes_false_claims_as_rarely_as_it_says() {
    const CLAIMS: u64 = 8_000;
    for (seed, quantile, trials) in [
        (1, 0.95, 59),
        (2, 0.95, 93),
        (3, 0.95, 208),
        (4, 0.9, 29),
        (5, 0.5, 8),
        (6, 0.8, 14),
    ] {
        let mut known = Verdicts::default();
        let mut verdict = |rng: &mut ChaCha8Rng| {
            let within = (0..trials).filter(|_| uniform(rng) < quantile).count() as u64;
            // One trial in twenty is undecided; the rule may not gain from that.
            let undecided = (0..within).filter(|_| uniform(rng) < 0.05).count() as u64;
            known.of(within - undecided, trials, undecided, quantile)
        };
        let passed = count(seed, CLAIMS, |rng| verdict(rng) == Verdict::Pass);
        let failed = count(seed + 100, CLAIMS, |rng| verdict(rng) == Verdict::Fail);
        assert!(
            keeps(passed, CLAIMS, 0.05),
            "{quantile} in {trials}: {passed} of {CLAIMS} false passes"
        );
        assert!(
            keeps(failed, CLAIMS, 0.05),
            "{quantile} in {trials}: {failed} of {CLAIMS} false fails"
        );
    }
    // Without undecided trials the rate is exactly that of 59 successes, 0.95^59 = 4.85 %: neither more nor much less.
    let mut known = Verdicts::default();
    let passed = count(7, CLAIMS, |rng| {
        let within = (0..59).filter(|_| uniform(rng) < 0.95).count() as u64;
        known.of(within, 59, 0, 0.95) == Verdict::Pass
    });
    assert!(
        keeps(passed, CLAIMS, 0.0486) && passed > CLAIMS * 4 / 100,
        "{passed} of {CLAIMS}"
    );
}

/// The same system, the same number of looks: the e-process keeps its word and peeking at the fixed plan does not.
#[test]
fn until_decided_keeps_its_word_however_often_it_looks() {
    const CLAIMS: u64 = 3_000;
    const LOOKS: u64 = 400;
    const HALF: f64 = (1.0 - CONFIDENCE) / 2.0;
    for (seed, quantile) in [(11, 0.95), (12, 0.9), (13, 0.5)] {
        let alternatives = Alternatives::around(quantile);
        let mut known = Verdicts::default();
        let (mut passed, mut failed, mut peeked) = (0, 0, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..CLAIMS {
            let (mut within, mut decided, mut naive) = (0, Decided::Open, false);
            for trials in 1..=LOOKS {
                within += u64::from(uniform(&mut rng) < quantile);
                if decided == Decided::Open {
                    decided = until_decided(within, trials, 0, quantile, CONFIDENCE, alternatives).unwrap();
                }
                // Every tenth look is enough to show what the fixed plan does when it is asked again and again.
                if !naive && (trials % 10 == 9) {
                    naive = known.of(within, trials, 0, quantile) == Verdict::Pass;
                }
                if decided != Decided::Open && naive {
                    break;
                }
            }
            passed += u64::from(decided == Decided::Pass);
            failed += u64::from(decided == Decided::Fail);
            peeked += u64::from(naive);
        }
        assert!(
            keeps(passed, CLAIMS, HALF),
            "{quantile}: {passed} of {CLAIMS} false passes"
        );
        assert!(
            keeps(failed, CLAIMS, HALF),
            "{quantile}: {failed} of {CLAIMS} false fails"
        );
        assert!(
            !keeps(peeked, CLAIMS, 1.0 - CONFIDENCE),
            "{quantile}: peeking passed only {peeked} of {CLAIMS}: this test would not notice a rule that peeks"
        );
    }
}

/// A good system is let through: being careful is not the same as never deciding.
#[test]
fn until_decided_decides_for_good_and_for_bad_systems() {
    const CLAIMS: u64 = 1_000;
    let decide = |seed: u64, rate: f64, wanted: Decided| {
        count(seed, CLAIMS, |rng| {
            let mut within = 0;
            (1..=400).any(|trials| {
                within += u64::from(uniform(rng) < rate);
                until_decided(within, trials, 0, 0.95, CONFIDENCE, Alternatives::around(0.95)).unwrap() == wanted
            })
        })
    };
    let good = decide(21, 0.99, Decided::Pass);
    let bad = decide(22, 0.80, Decided::Fail);
    assert!(good > CLAIMS * 95 / 100, "{good} of {CLAIMS} good systems passed");
    assert!(bad > CLAIMS * 99 / 100, "{bad} of {CLAIMS} bad systems failed");
}

/// A recovery of a system with a long tail, seen through a probe every two seconds, and given up after 120 s.
fn recovery(rng: &mut ChaCha8Rng, never: f64) -> (f64, Observed) {
    let truth = if uniform(rng) < never {
        f64::INFINITY
    } else {
        20.0 - 12.0 * (1.0 - uniform(rng)).ln()
    };
    if truth > 120.0 {
        return (truth, Observed::censored(120.0));
    }
    let phase = 2.0 * uniform(rng);
    let lower = ((truth - phase) / 2.0).floor() * 2.0 + phase;
    (truth, Observed::between(lower, lower + 2.0))
}

/// The bound is below the true quantile in no more than one claim of twenty, with polling and with trials that never recovered.
#[test]
fn an_upper_bound_of_a_quantile_is_too_low_as_rarely_as_it_says() {
    const CLAIMS: u64 = 2_500;
    for (seed, quantile, trials, never) in [
        (31, 0.9, 46, 0.0),
        (32, 0.9, 60, 0.04),
        (33, 0.95, 93, 0.03),
        (34, 0.5, 20, 0.2),
        (35, 0.95, 59, 0.08),
    ] {
        // The true quantile of the mixture; infinite when more never recover than the claim allows.
        let rest = (1.0 - quantile - never) / (1.0 - never);
        let truth = if rest > 0.0 {
            20.0 - 12.0 * f64::ln(rest)
        } else {
            f64::INFINITY
        };
        let (mut low, mut naive_low) = (0, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..CLAIMS {
            let seen: Vec<Observed> = (0..trials).map(|_| recovery(&mut rng, never).1).collect();
            let bound = quantile_upper_bound(&seen, quantile, CONFIDENCE).unwrap();
            low += u64::from(bound.bound.is_some_and(|bound| bound < truth));
            // What a percentile of the sample without the trials that "did not count" would have said.
            let mut counted: Vec<f64> = seen
                .iter()
                .filter(|one| !one.is_censored())
                .map(|one| one.upper)
                .collect();
            counted.sort_by(f64::total_cmp);
            let place = ((counted.len() as f64 * quantile).ceil() as usize).clamp(1, counted.len());
            naive_low += u64::from(counted[place - 1] < truth);
        }
        assert!(
            keeps(low, CLAIMS, 1.0 - CONFIDENCE),
            "p{quantile} of {trials}: {low} of {CLAIMS} bounds too low"
        );
        assert!(
            !keeps(naive_low, CLAIMS, 1.0 - CONFIDENCE),
            "p{quantile} of {trials}: a sample percentile is found out"
        );
    }
}

/// A new build that is slower by exactly the margin is neither "regressed" nor "not regressed" more often than stated, also through a
/// probe; asking again after every pair of trials is.
#[test]
fn the_regression_gate_errs_as_rarely_as_it_says() {
    const CLAIMS: u64 = 1_000;
    const MARGIN: f64 = 3.0;
    for (seed, base_size, new_size) in [(41, 8, 8), (42, 5, 12), (43, 15, 15)] {
        let (mut regressed, mut cleared, mut coarse) = (0, 0, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..CLAIMS {
            let base: Vec<f64> = (0..base_size).map(|_| recovery(&mut rng, 0.0).0).collect();
            let new: Vec<f64> = (0..new_size).map(|_| recovery(&mut rng, 0.0).0 + MARGIN).collect();
            match regression_gate(&base, &new, MARGIN, CONFIDENCE).unwrap().gate {
                Gate::Regressed => regressed += 1,
                Gate::NotRegressed => cleared += 1,
                Gate::Inconclusive => {}
            }
            let polled = |values: &[f64], rng: &mut ChaCha8Rng| -> Vec<Observed> {
                let width = |rng: &mut ChaCha8Rng| 1.5 * uniform(rng);
                values
                    .iter()
                    .map(|value| Observed::between(value - width(rng), value + width(rng)))
                    .collect()
            };
            let (base, new) = (polled(&base, &mut rng), polled(&new, &mut rng));
            let gate = regression_gate_observed(&base, &new, MARGIN, CONFIDENCE).unwrap().gate;
            coarse += u64::from(gate != Gate::Inconclusive);
        }
        let sizes = format!("{base_size} against {new_size}");
        assert!(
            keeps(regressed, CLAIMS, 0.05),
            "{sizes}: {regressed} of {CLAIMS} false alarms"
        );
        assert!(
            keeps(cleared, CLAIMS, 0.05),
            "{sizes}: {cleared} of {CLAIMS} slow-downs let through"
        );
        assert!(
            keeps(coarse, CLAIMS, 0.10),
            "{sizes}: {coarse} of {CLAIMS} wrong answers through a probe"
        );
    }
    let peeked = count(44, 800, |rng| {
        let (mut base, mut new) = (Vec::new(), Vec::new());
        (1..=16).any(|pairs| {
            base.push(recovery(rng, 0.0).0);
            new.push(recovery(rng, 0.0).0 + MARGIN);
            pairs >= 4 && regression_gate(&base, &new, MARGIN, CONFIDENCE).unwrap().gate == Gate::Regressed
        })
    });
    assert!(
        !keeps(peeked, 800, 0.05),
        "peeking raised only {peeked} of 800 false alarms: nobody would notice it"
    );
}
