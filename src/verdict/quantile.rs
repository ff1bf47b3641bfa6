//! Rule 4 of measurement.md 4.3: a claim about a quantile, from trials that are within the limit, beyond it, or undecided.

use crate::model::Verdict;
use crate::stats::special::reaches;
use crate::stats::{quantile, rates};

/// What so many trials say about "a share of at least `quantile` of all trials is within the limit".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantileVerdict {
    /// Pass, fail or inconclusive.
    pub verdict: Verdict,
    /// One-sided lower bound of the share within the limit, undecided trials counted as failures.
    pub lower_bound: f64,
    /// One-sided upper bound of the share within the limit, undecided trials counted as successes.
    pub upper_bound: f64,
    /// Further trials that a pass needs when every one of them is within the limit: zero for a pass, none for a fail (and where no
    /// number of trials is enough).
    pub more_trials_needed: Option<u64>,
}

/// Judges a quantile claim after a plan of FIXED size. Looking after each trial and stopping at the first pass would not keep the
/// confidence: `untilDecided` needs [`crate::stats::sequential::until_decided`].
///
/// Of `trials`, `within` are within the limit, `undecided` are neither surely within nor surely beyond (the limit inside the error bar,
/// stopped before the limit), and the rest are beyond. Pass when the one-sided Clopper-Pearson lower bound, with the undecided as
/// failures, reaches the quantile; fail when the upper bound, with the undecided as successes, is below it; else inconclusive. What
/// makes no sense (a quantile or confidence that is not strictly between 0 and 1, more parts than trials) is inconclusive.
#[must_use]
pub fn quantile_verdict(within: u64, trials: u64, undecided: u64, quantile: f64, confidence: f64) -> QuantileVerdict {
    let failures = trials.saturating_sub(within);
    let unknown = QuantileVerdict {
        verdict: Verdict::Inconclusive,
        lower_bound: 0.0,
        upper_bound: 1.0,
        more_trials_needed: quantile::further_trials(trials, failures, quantile, confidence).ok(),
    };
    let not_beyond = within.saturating_add(undecided);
    let valid = quantile > 0.0 && quantile < 1.0 && not_beyond <= trials;
    let bounds = rates::lower_bound(within, trials, confidence)
        .and_then(|lower| Ok((lower, rates::upper_bound(not_beyond, trials, confidence)?)));
    let Some((lower_bound, upper_bound)) = bounds.ok().filter(|_| valid) else {
        return unknown;
    };
    let (verdict, more_trials_needed) = if reaches(lower_bound, quantile) {
        (Verdict::Pass, Some(0))
    } else if !reaches(upper_bound, quantile) {
        (Verdict::Fail, None)
    } else {
        (Verdict::Inconclusive, unknown.more_trials_needed)
    };
    QuantileVerdict {
        verdict,
        lower_bound,
        upper_bound,
        more_trials_needed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_trial_says_nothing_but_how_many_are_needed() {
        let none = quantile_verdict(0, 0, 0, 0.95, 0.95);
        assert_eq!(
            (none.verdict, none.more_trials_needed),
            (Verdict::Inconclusive, Some(59))
        );
        assert!(none.lower_bound <= 0.0 && none.upper_bound >= 1.0);
    }

    #[test]
    fn an_undecided_trial_is_a_failure_for_the_pass_and_a_success_for_the_fail() {
        let decided = quantile_verdict(58, 59, 0, 0.95, 0.95);
        let open = quantile_verdict(58, 59, 1, 0.95, 0.95);
        assert_eq!(open.verdict, Verdict::Inconclusive);
        assert!((open.lower_bound - decided.lower_bound).abs() < 1e-12);
        assert!(open.upper_bound > decided.upper_bound);
        assert_eq!(open.more_trials_needed, Some(93 - 59));
        assert_eq!(quantile_verdict(7, 10, 0, 0.95, 0.95).verdict, Verdict::Fail);
        assert_eq!(quantile_verdict(7, 10, 3, 0.95, 0.95).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn what_makes_no_sense_is_inconclusive() {
        for (within, trials, undecided, quantile, confidence) in [
            (3, 2, 0, 0.95, 0.95),
            (2, 2, 1, 0.95, 0.95),
            (59, 59, 0, 1.0, 0.95),
            (59, 59, 0, f64::NAN, 0.95),
            (59, 59, 0, 0.95, 1.0),
            (59, 59, 0, 0.95, f64::NAN),
        ] {
            let verdict = quantile_verdict(within, trials, undecided, quantile, confidence).verdict;
            assert_eq!(
                verdict,
                Verdict::Inconclusive,
                "{within} of {trials} + {undecided}, {quantile}, {confidence}"
            );
        }
    }
}
