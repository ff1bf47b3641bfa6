//! The distributions behind the bounds: binomial, beta and normal, accurate in both tails.
//!
//! The gamma function and the normal quantile are those of `statrs`, the normal tail that of `libm` (that of `statrs` is good to
//! eleven digits only). The incomplete beta function of `statrs` stops after 140 terms and takes its leading factor from a difference
//! of large logarithms, so that is done here: the factor by Loader's saddle point ("Fast and accurate computation of binomial
//! probabilities", 2000), the fraction by Lentz's method with as many terms as it needs, the inverse by bisection of the function.

use libm::erfc;
use statrs::function::erf::erfc_inv;
use statrs::function::gamma::ln_gamma;
use std::f64::consts::{PI, SQRT_2};

/// Relative slack with which a level counts as reached: the rounding of a few thousand additions, far below what any reader or
/// any test tolerance can see.
const ROUNDING: f64 = 1e-12;

/// Whether `level` reaches `wanted`, rounding aside.
#[must_use]
pub fn reaches(level: f64, wanted: f64) -> bool {
    level >= wanted - ROUNDING * wanted.abs()
}

/// A count as a float. Counts of trials stay far below 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of trials stay far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// The smallest whole number not below `value`, rounding aside; `None` when it is negative, not a number or too large to count.
#[must_use]
pub(crate) fn ceil(value: f64) -> Option<u64> {
    whole((value - ROUNDING * value.abs()).ceil())
}

/// The largest whole number not above `value`, rounding aside; `None` when it is negative, not a number or too large to count.
#[must_use]
pub(crate) fn floor(value: f64) -> Option<u64> {
    whole((value + ROUNDING * value.abs()).floor())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked on the line before"
)]
fn whole(value: f64) -> Option<u64> {
    (0.0..9.0e15).contains(&value).then_some(value as u64)
}

/// `P(Z > z)` of a standard normal variable.
#[must_use]
pub fn normal_above(z: f64) -> f64 {
    erfc(z / SQRT_2) / 2.0
}

/// The `share`-quantile of the standard normal distribution, `share` in (0, 1).
#[must_use]
pub fn normal_quantile(share: f64) -> f64 {
    -SQRT_2 * erfc_inv(2.0 * share)
}

/// `ln B(a, b)`.
pub(crate) fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// `ln n! - ln(sqrt(2 pi n) (n/e)^n)`: the error of Stirling's formula.
fn stirling_error(n: f64) -> f64 {
    if n <= 15.0 {
        return ln_gamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * (2.0 * PI).ln();
    }
    let square = n * n;
    let tail = 1.0 / 1188.0 / square;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - tail) / square) / square) / square) / n
}

/// `x ln(x/mean) + mean - x` without the loss of digits where both are close.
fn deviance(x: f64, mean: f64) -> f64 {
    if (x - mean).abs() >= 0.1 * (x + mean) {
        return x * (x / mean).ln() + mean - x;
    }
    let ratio = (x - mean) / (x + mean);
    let mut sum = (x - mean) * ratio;
    let mut term = 2.0 * x * ratio;
    for step in 1..1000_u32 {
        term *= ratio * ratio;
        let next = sum + term / f64::from(2 * step + 1);
        if (next - sum).abs() <= f64::EPSILON * sum.abs() * 0.25 {
            return next;
        }
        sum = next;
    }
    sum
}

/// `n! / (x! (n-x)!) p^x q^(n-x)` for real `0 <= x <= n` and `p + q = 1`.
fn binomial_density(x: f64, n: f64, p: f64, q: f64) -> f64 {
    if p <= 0.0 {
        return if x <= 0.0 { 1.0 } else { 0.0 };
    }
    if q <= 0.0 {
        return if x >= n { 1.0 } else { 0.0 };
    }
    if x <= 0.0 {
        return (n * power_log(p, q)).exp();
    }
    if x >= n {
        return (n * power_log(q, p)).exp();
    }
    let rest = n - x;
    let exponent =
        stirling_error(n) - stirling_error(x) - stirling_error(rest) - deviance(x, n * p) - deviance(rest, n * q);
    let scale = (2.0 * PI).ln() + x.ln() + (-x / n).ln_1p();
    (exponent - 0.5 * scale).exp()
}

/// `ln q`, from whichever of `p = 1 - q` and `q` is the smaller.
fn power_log(p: f64, q: f64) -> f64 {
    if p < 0.5 { (-p).ln_1p() } else { q.ln() }
}

/// `P(X = k)` for `X` binomial with `n` trials of probability `p`.
#[must_use]
pub fn binomial_at(k: u64, n: u64, p: f64) -> f64 {
    if k > n {
        return 0.0;
    }
    binomial_density(float(k), float(n), p, 1.0 - p)
}

/// `P(X <= k)` for `X` binomial with `n` trials of probability `p`.
#[must_use]
pub fn binomial_at_most(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    if float(k) < float(n) * p {
        below(k, n, p)
    } else {
        1.0 - above(k + 1, n, p)
    }
}

/// `P(X >= k)` for `X` binomial with `n` trials of probability `p`.
#[must_use]
pub fn binomial_at_least(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 {
        return 1.0;
    }
    if k > n {
        return 0.0;
    }
    if float(k) > float(n) * p {
        above(k, n, p)
    } else {
        1.0 - below(k - 1, n, p)
    }
}

/// Sum of the probabilities of `k`, `k - 1`, .. 0, for `k` on the falling side; the terms shrink, so it ends when they no longer count.
fn below(k: u64, n: u64, p: f64) -> f64 {
    let mut term = binomial_at(k, n, p);
    let mut sum = term;
    for count in (1..=k).rev() {
        term *= float(count) * (1.0 - p) / (float(n - count + 1) * p);
        sum += term;
        if term <= sum * 1e-18 {
            break;
        }
    }
    sum.min(1.0)
}

/// Sum of the probabilities of `k`, `k + 1`, .. `n`.
fn above(k: u64, n: u64, p: f64) -> f64 {
    let mut term = binomial_at(k, n, p);
    let mut sum = term;
    for count in k..n {
        term *= float(n - count) * p / (float(count + 1) * (1.0 - p));
        sum += term;
        if term <= sum * 1e-18 {
            break;
        }
    }
    sum.min(1.0)
}

/// The regularised incomplete beta function `I_x(a, b)`, for `a, b > 0`.
#[must_use]
pub fn beta_share(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x <= (a + 1.0) / (a + b + 2.0) {
        beta_tail(a, b, x, 1.0 - x)
    } else {
        1.0 - beta_tail(b, a, 1.0 - x, x)
    }
}

/// `I_x(a, b)` by its continued fraction (DLMF 8.17.22), for `x` on the side where that converges fast; `rest = 1 - x`.
fn beta_tail(a: f64, b: f64, x: f64, rest: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |value: f64| if value.abs() < TINY { TINY } else { value };
    let sum = a + b;
    let factor = b / sum * binomial_density(a, sum, x, rest);
    let mut upper = 1.0_f64;
    let mut lower = 1.0 / guard(1.0 - sum * x / (a + 1.0));
    let mut fraction = lower;
    for step in 1..200_000_u32 {
        let count = f64::from(step);
        let twice = a + 2.0 * count;
        let even = count * (b - count) * x / ((twice - 1.0) * twice);
        let odd = -(a + count) * (sum + count) * x / (twice * (twice + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            lower = 1.0 / guard(1.0 + term * lower);
            upper = guard(1.0 + term / upper);
            change = upper * lower;
            fraction *= change;
        }
        if (change - 1.0).abs() <= 4.0 * f64::EPSILON {
            break;
        }
    }
    (factor * fraction).min(1.0)
}

/// The `share`-quantile of the beta distribution, for `a, b > 0`.
#[must_use]
pub fn beta_quantile(share: f64, a: f64, b: f64) -> f64 {
    bisect(|x| beta_share(a, b, x) >= share)
}

/// The smallest `x` in [0, 1] at which `reached` turns true, to the last digit that counts. `reached` must not turn false again.
pub(crate) fn bisect(reached: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high || high - low <= f64::EPSILON * high {
            break;
        }
        if reached(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The smallest count from `from` on for which `reached` holds, up to 2^52; `reached` must not turn false again.
pub(crate) fn first_count(from: u64, reached: impl Fn(u64) -> bool) -> Option<u64> {
    const MOST: u64 = 1 << 52;
    if reached(from) {
        return Some(from);
    }
    let (mut low, mut step) = (from, 1_u64);
    let mut high = loop {
        let next = low.saturating_add(step);
        if next > MOST {
            return None;
        }
        if reached(next) {
            break next;
        }
        low = next;
        step = step.saturating_mul(2);
    };
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if reached(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

/// `ln C(n, k)`.
pub(crate) fn ln_choose(n: u64, k: u64) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    -ln_beta(float(k + 1), float(n - k + 1)) - float(n + 1).ln()
}

/// `n!`, infinite from 171 on.
pub(crate) fn factorial(n: u64) -> f64 {
    if n > 170 {
        return f64::INFINITY;
    }
    (2..=n).map(float).product()
}
