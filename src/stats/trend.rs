//! Are the trials exchangeable? A trend with the trial's number, or memory from one to the next, spoils every claim about a quantile.
//!
//! Kendall 1938; the choice between the exact and the asymptotic p-value is that of `scipy.stats.kendalltau`.

use super::error::{Undefined, finite};
use super::special::{factorial, float, normal_above};

/// Rank correlation of the values with their order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Kendall's tau-b, -1 to 1: positive when later trials take longer.
    pub tau: f64,
    /// Two-sided p-value. Below 0.01 the trials are not exchangeable.
    pub p_value: f64,
    /// Whether the p-value is exact.
    pub exact: bool,
}

/// Kendall's tau-b of the values against their order. None when it is not defined: fewer than two values, or all equal.
///
/// # Errors
/// [`Undefined`] when a value is not finite.
pub fn kendall(values: &[f64]) -> Result<Option<Trend>, Undefined> {
    for value in values {
        finite("a value", *value)?;
    }
    let n = values.len() as u64;
    let pairs = n * n.saturating_sub(1) / 2;
    // How many of the values before it are larger, for each value.
    let mut falling = 0_u64;
    let mut ordered: Vec<f64> = Vec::with_capacity(values.len());
    for value in values {
        let place = ordered.partition_point(|earlier| earlier <= value);
        falling += (ordered.len() - place) as u64;
        ordered.insert(place, *value);
    }
    let (mut tied, mut correction) = (0_u64, 0.0);
    #[expect(clippy::float_cmp, reason = "a tie is equality, and minus zero is zero")]
    for group in ordered.chunk_by(|a, b| a == b) {
        let size = group.len() as u64;
        tied += size * (size - 1) / 2;
        if size > 1 {
            let size = float(size);
            correction += size * (size - 1.0) * (2.0 * size + 5.0);
        }
    }
    if tied == pairs {
        return Ok(None);
    }
    let difference = float(pairs - tied) - 2.0 * float(falling);
    let tau = (difference / float(pairs).sqrt() / float(pairs - tied).sqrt()).clamp(-1.0, 1.0);
    let fewest = falling.min(pairs - tied - falling);
    let exact = tied == 0 && (n <= 33 || fewest <= 1);
    let p_value = if exact {
        exact_p(n, fewest)
    } else {
        let m = float(n) * (float(n) - 1.0);
        let variance = (m * (2.0 * float(n) + 5.0) - correction) / 18.0;
        (2.0 * normal_above((difference / variance.sqrt()).abs())).min(1.0)
    };
    Ok(Some(Trend { tau, p_value, exact }))
}

/// Two-sided probability of at most `inversions` inversions (or of as many pairs in order) in a random order of `n` values without
/// ties: Kendall, Rank Correlation Methods, 4th edition 1970.
fn exact_p(n: u64, inversions: u64) -> f64 {
    if n <= 2 || 4 * inversions >= n * (n - 1) {
        return 1.0;
    }
    // Orders with none inversion: one. With one: n - 1. Larger n only ever ask for these.
    if inversions == 0 {
        return 2.0 / factorial(n);
    }
    if inversions == 1 {
        return 2.0 / factorial(n - 1);
    }
    let size = usize::try_from(inversions).unwrap_or(usize::MAX).saturating_add(1);
    // Number of orders of 1, 2, .. n values by inversions: each further value adds 0 .. its index.
    let mut counts = vec![0.0_f64; size];
    if let Some(none) = counts.first_mut() {
        *none = 1.0;
    }
    for value in 2..=usize::try_from(n).unwrap_or(usize::MAX) {
        let before = counts.clone();
        let mut window = 0.0;
        for (place, count) in counts.iter_mut().enumerate() {
            window += before.get(place).copied().unwrap_or_default();
            if let Some(gone) = place.checked_sub(value) {
                window -= before.get(gone).copied().unwrap_or_default();
            }
            *count = window;
        }
    }
    (2.0 * counts.iter().sum::<f64>() / factorial(n)).min(1.0)
}

/// Correlation of each value with the one after it, `sum (x_i - m)(x_(i+1) - m) / sum (x_i - m)^2`. None with fewer than two values
/// or without any spread.
///
/// # Errors
/// [`Undefined`] when a value is not finite.
pub fn lag_one(values: &[f64]) -> Result<Option<f64>, Undefined> {
    for value in values {
        finite("a value", *value)?;
    }
    if values.len() < 2 {
        return Ok(None);
    }
    let mean = values.iter().sum::<f64>() / float(values.len() as u64);
    let spread: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let flat = values.iter().all(|value| values.first() == Some(value));
    if flat || spread <= 0.0 {
        return Ok(None);
    }
    let next = values.iter().skip(1);
    let together: f64 = values.iter().zip(next).map(|(a, b)| (a - mean) * (b - mean)).sum();
    Ok(Some(together / spread))
}

/// How many independent trials `n` correlated ones are worth: `n (1 - r)/(1 + r)`, for a first-order autoregression; `r` below zero
/// counts as zero.
#[must_use]
pub fn effective_trials(n: u64, lag_one: f64) -> f64 {
    let r = lag_one.clamp(0.0, 1.0);
    float(n) * (1.0 - r) / (1.0 + r)
}
