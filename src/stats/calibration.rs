//! How good the instrument is: intervals against a truth that is known.

use super::error::{Undefined, finite};
use super::rates;
use super::special::float;

/// A measured interval and the truth, in one unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// The truth.
    pub truth: f64,
    /// Lower end of what was measured.
    pub lower: f64,
    /// Upper end of what was measured.
    pub upper: f64,
}

/// Summary of a calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// Trials.
    pub trials: u64,
    /// How many intervals contain their truth, ends included.
    pub covered: u64,
    /// One-sided Clopper-Pearson lower bound of that share.
    pub coverage_lower_bound: f64,
    /// Mean of midpoint minus truth.
    pub bias: f64,
    /// Root of the mean square of midpoint minus truth.
    pub rms_error: f64,
    /// Largest absolute difference of midpoint and truth.
    pub max_abs_error: f64,
    /// Median absolute difference of midpoint and truth.
    pub median_abs_error: f64,
    /// 99th percentile of the absolute difference: the smallest value that at least 99 % of the trials do not exceed.
    pub p99_abs_error: f64,
    /// Mean width of the intervals.
    pub mean_width: f64,
}

/// Summary of what was measured against what was true.
///
/// # Errors
/// [`Undefined`] without trials, with a number that is not finite, or a confidence not strictly between 0 and 1.
pub fn summary(trials: &[Known], confidence: f64) -> Result<Calibration, Undefined> {
    let n = trials.len() as u64;
    let mut errors = Vec::with_capacity(trials.len());
    let (mut covered, mut width) = (0, 0.0);
    for trial in trials {
        let truth = finite("the truth", trial.truth)?;
        let lower = finite("a lower end", trial.lower)?;
        let upper = finite("an upper end", trial.upper)?;
        errors.push(f64::midpoint(lower, upper) - truth);
        width += upper - lower;
        covered += u64::from(lower <= truth && truth <= upper);
    }
    let coverage_lower_bound = rates::lower_bound(covered, n, confidence)?;
    let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let at = |place: usize| sizes.get(place).or(sizes.last()).copied().unwrap_or_default();
    let middle = sizes.len() / 2;
    let median = if sizes.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    };
    Ok(Calibration {
        trials: n,
        covered,
        coverage_lower_bound,
        bias: errors.iter().sum::<f64>() / float(n),
        rms_error: (errors.iter().map(|error| error * error).sum::<f64>() / float(n)).sqrt(),
        max_abs_error: at(sizes.len().saturating_sub(1)),
        median_abs_error: median,
        p99_abs_error: at((sizes.len() * 99).div_ceil(100).saturating_sub(1)),
        mean_width: width / float(n),
    })
}
