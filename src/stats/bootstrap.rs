//! The bootstrap of the median without drawing anything: its distribution is known exactly.
//!
//! Sources: Maritz & Jarrett 1978; Efron 1979. For an odd n the median of a resample is one of the values; for an even n it is the
//! mean of two neighbours in the resample, whose joint distribution is as simple.

use super::error::{Undefined, finite, share};
use super::special::{binomial_at, binomial_at_most, float};

/// The bootstrap distribution of the median.
#[derive(Debug, Clone, PartialEq)]
pub struct MedianBootstrap {
    /// Probability of each ordered value to be the median of a resample. None for an even number of values, whose resampled median may
    /// lie between two of them.
    pub probabilities: Option<Vec<f64>>,
    /// Mean of the resampled median.
    pub mean: f64,
    /// Its standard deviation: the standard error of the median.
    pub standard_error: f64,
    /// Percentile interval, lower end: the smallest value whose cumulated probability is at least `(1 - confidence)/2`.
    pub lower: f64,
    /// Percentile interval, upper end.
    pub upper: f64,
}

/// The exact bootstrap of the median.
///
/// # Errors
/// [`Undefined`] without values, with one that is not finite, or with a confidence not strictly between 0 and 1.
pub fn median(values: &[f64], confidence: f64) -> Result<MedianBootstrap, Undefined> {
    if values.is_empty() {
        return Err(Undefined::Empty { what: "value" });
    }
    let alpha = 1.0 - share("confidence", confidence)?;
    for value in values {
        finite("a value", *value)?;
    }
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let odd = values.len() % 2 == 1;
    let mut weighted = if odd { odd_median(&values) } else { even_median(&values) };
    let probabilities = odd.then(|| weighted.iter().map(|(_, probability)| *probability).collect());
    weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = weighted.iter().map(|(_, probability)| probability).sum();
    // Around a value in the middle, so that large times with a small spread keep their digits.
    let origin = values.get(values.len() / 2).copied().unwrap_or_default();
    let moment = |power: i32| {
        let sum: f64 = weighted
            .iter()
            .map(|(value, probability)| (value - origin).powi(power) * probability)
            .sum();
        sum / total
    };
    let offset = moment(1);
    let percentile = |share: f64| {
        let mut sum = 0.0;
        weighted
            .iter()
            .find(|(_, probability)| {
                sum += probability;
                sum >= share * total * (1.0 - 1e-12)
            })
            .or(weighted.last())
            .map_or(origin, |(value, _)| *value)
    };
    Ok(MedianBootstrap {
        probabilities,
        mean: origin + offset,
        standard_error: (moment(2) - offset * offset).max(0.0).sqrt(),
        lower: percentile(alpha / 2.0),
        upper: percentile(1.0 - alpha / 2.0),
    })
}

/// `P(median = x_(k)) = P(Bin(n, (k-1)/n) <= m-1) - P(Bin(n, k/n) <= m-1)` with `m = (n+1)/2`.
fn odd_median(values: &[f64]) -> Vec<(f64, f64)> {
    let n = values.len() as u64;
    let below = |k: u64| binomial_at_most((n - 1) / 2, n, float(k) / float(n));
    (0..n)
        .zip(values)
        .map(|(k, value)| (*value, (below(k) - below(k + 1)).max(0.0)))
        .collect()
}

/// Pairs of the two middle values of a resample. What has less than a share of 1e-20 is left out, so that the work stays small.
fn even_median(values: &[f64]) -> Vec<(f64, f64)> {
    let n = values.len() as u64;
    let half = n / 2;
    let part = |k: u64| float(k) / float(n);
    // The lower middle value is at most x_(k) when at least half of the draws are.
    let lower_at_most = |k: u64| 1.0 - binomial_at_most(half - 1, n, part(k));
    let mut pairs = Vec::new();
    for (i, first) in (1..=n).zip(values) {
        let here = lower_at_most(i) - lower_at_most(i - 1);
        if here < 1e-20 {
            continue;
        }
        // Exactly half of the draws are at most x_(i), with the largest of them on it: P(Bin = half) less that below i.
        let exactly = binomial_at(half, n, part(i));
        let before = ((part(i - 1) / part(i)).ln() * float(half)).exp();
        let on_edge = exactly * (1.0 - before);
        let mut later = 0.0;
        let rest = float(n - i);
        for (j, second) in (1..=n).zip(values).skip(usize::try_from(i).unwrap_or(usize::MAX)) {
            // The other half lies above i; its smallest is x_(j).
            let from = |k: u64| (float(n + 1 - k) / rest).powf(float(half));
            let probability = on_edge * (from(j) - from(j + 1));
            if from(j) < 1e-20 {
                break;
            }
            later += probability;
            pairs.push((f64::midpoint(*first, *second), probability));
        }
        pairs.push((*first, (here - later).max(0.0)));
    }
    pairs
}
