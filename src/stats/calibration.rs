//! How wrong an instrument is: what it said of durations that were known.

/// One known duration, and what the instrument said of it. All in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// The truth is not below this.
    pub true_lower: f64,
    /// The truth is not above this; the same as `true_lower` where it is known exactly.
    pub true_upper: f64,
    /// The instrument's bounds.
    pub lower: f64,
    /// The instrument's bounds.
    pub upper: f64,
    /// The instrument's best estimate.
    pub value: f64,
}

impl Known {
    /// The middle of what is known of the truth.
    #[must_use]
    pub fn truth(&self) -> f64 {
        f64::midpoint(self.true_lower, self.true_upper)
    }

    /// Whether the stated interval is consistent with the truth: it holds the truth where that is known exactly, and overlaps
    /// with its bounds where it is not.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        self.lower <= self.true_upper && self.true_lower <= self.upper
    }

    /// Best estimate minus truth.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.value - self.truth()
    }
}

/// The error distribution of an instrument. All in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrated {
    /// Known durations.
    pub count: usize,
    /// Of these, inside the stated interval.
    pub covered: usize,
    /// The share of covered durations is at least this, with the asked confidence: one-sided Clopper-Pearson (Clopper and
    /// Pearson 1934, Biometrika 26).
    pub coverage_lower_bound: f64,
    /// Mean of midpoint minus truth.
    pub bias_of_midpoint: f64,
    /// Root of the mean square of midpoint minus truth.
    pub rms_error_of_midpoint: f64,
    /// Largest distance of a midpoint from the truth.
    pub max_abs_error_of_midpoint: f64,
    /// Mean of upper minus lower.
    pub mean_width: f64,
    /// Mean of best estimate minus truth.
    pub bias: f64,
    /// Median distance of the best estimate from the truth.
    pub median_abs_error: f64,
    /// 95 % of the distances are not larger (nearest rank).
    pub p95_abs_error: f64,
    /// 99 % of the distances are not larger (nearest rank: of fewer than 100 it is the largest).
    pub p99_abs_error: f64,
    /// Largest distance of a best estimate from the truth.
    pub max_abs_error: f64,
}

/// Sums up what an instrument said of known durations; `None` of none. `confidence` is that of the bound, such as 0.95.
#[must_use]
pub fn calibrated(known: &[Known], confidence: f64) -> Option<Calibrated> {
    if known.is_empty() {
        return None;
    }
    let midpoints: Vec<f64> = known
        .iter()
        .map(|known| f64::midpoint(known.lower, known.upper) - known.truth())
        .collect();
    let errors: Vec<f64> = known.iter().map(Known::error).collect();
    let mut distances: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    distances.sort_by(f64::total_cmp);
    let covered = known.iter().filter(|known| known.is_covered()).count();
    Some(Calibrated {
        count: known.len(),
        covered,
        coverage_lower_bound: success_lower_bound(covered, known.len(), confidence),
        bias_of_midpoint: mean(midpoints.iter().copied()),
        rms_error_of_midpoint: mean(midpoints.iter().map(|error| error * error)).sqrt(),
        max_abs_error_of_midpoint: midpoints.iter().fold(0.0, |most, error| error.abs().max(most)),
        mean_width: mean(known.iter().map(|known| known.upper - known.lower)),
        bias: mean(errors.iter().copied()),
        median_abs_error: median(&distances),
        p95_abs_error: nearest_rank(&distances, 95),
        p99_abs_error: nearest_rank(&distances, 99),
        max_abs_error: nearest_rank(&distances, 100),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// Of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    } else {
        at(middle)
    }
}

/// The smallest of the sorted values that `percent` of them do not exceed.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// One-sided lower Clopper-Pearson bound: the share at which so many successes or more have probability `1 - confidence`, found
/// by bisection of the exact binomial tail. To be replaced by the general one of this module once that is there.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn success_lower_bound(successes: usize, count: usize, confidence: f64) -> f64 {
    let alpha = 1.0 - confidence;
    if successes == 0 {
        return 0.0;
    }
    if successes == count {
        return alpha.powf(1.0 / count as f64);
    }
    let tail = |share: f64| -> f64 {
        let mut sum = 0.0;
        // ln of count over k, carried along from k = count downwards.
        let mut choose = 0.0_f64;
        for k in (successes..=count).rev() {
            sum += (choose + k as f64 * share.ln() + (count - k) as f64 * (1.0 - share).ln()).exp();
            choose += (k as f64).ln() - ((count - k + 1) as f64).ln();
        }
        sum
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if tail(middle) < alpha {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(truth: f64, lower: f64, upper: f64) -> Known {
        Known {
            true_lower: truth,
            true_upper: truth,
            lower,
            upper,
            value: f64::midpoint(lower, upper),
        }
    }

    /// Vector `calibration/mini`, computed with scipy 1.17.1.
    #[test]
    fn ten_intervals_of_which_one_misses_its_truth() {
        let mini = [
            known(5.0, 4.9, 5.2),
            known(5.0, 4.8, 5.1),
            known(10.0, 9.9, 10.3),
            known(10.0, 10.05, 10.4),
            known(20.0, 19.8, 20.1),
            known(20.0, 19.95, 20.25),
            known(30.0, 29.9, 30.2),
            known(30.0, 29.7, 30.0),
            known(60.0, 59.9, 60.3),
            known(60.0, 59.8, 60.1),
        ];
        let sum = calibrated(&mini, 0.95).unwrap();
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found} is not {wanted}");
        assert_eq!((sum.count, sum.covered), (10, 9));
        near(sum.coverage_lower_bound, 0.605_836_697_563_495_2);
        near(sum.bias_of_midpoint, 0.032_5);
        near(sum.rms_error_of_midpoint, 0.107_529_065_838_032_34);
        near(sum.max_abs_error_of_midpoint, 0.225);
        near(sum.mean_width, 0.325);
    }

    #[test]
    fn the_best_estimate_is_judged_by_itself_and_not_by_the_midpoint() {
        let late = Known {
            value: 5.2,
            ..known(5.1, 4.0, 5.2)
        };
        let sum = calibrated(&[late; 3], 0.95).unwrap();
        assert!((sum.bias - 0.1).abs() < 1e-9 && (sum.median_abs_error - 0.1).abs() < 1e-9);
        assert!((sum.bias_of_midpoint + 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_bound_of_no_miss_is_the_root_of_what_is_left() {
        let sum = calibrated(&[known(1.0, 1.0, 1.0); 300], 0.95).unwrap();
        assert!(
            (sum.coverage_lower_bound - 0.990_064).abs() < 1e-6,
            "{}",
            sum.coverage_lower_bound
        );
        assert!((success_lower_bound(295, 300, 0.95) - 0.965_258).abs() < 1e-4);
        assert!(success_lower_bound(0, 10, 0.95).abs() < f64::EPSILON);
    }

    #[test]
    fn ranks_are_those_of_values_that_occurred() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert!((nearest_rank(&sorted, 99) - 198.0).abs() < f64::EPSILON);
        assert!((median(&sorted) - 100.5).abs() < f64::EPSILON);
        assert!((nearest_rank(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
        assert_eq!(calibrated(&[], 0.95), None);
    }

    #[test]
    fn an_uncertain_truth_is_covered_where_it_may_lie_inside() {
        let wide = Known {
            true_lower: 4.99,
            true_upper: 5.01,
            ..known(5.0, 5.005, 5.2)
        };
        assert!(wide.is_covered());
        assert!(!Known { lower: 5.02, ..wide }.is_covered());
    }
}
