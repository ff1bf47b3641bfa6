//! Two samples: is the new build slower, and by how much?
//!
//! Sources: Mann & Whitney 1947 (exact null distribution, and the normal approximation with tie and continuity correction, both as in
//! `scipy.stats.mannwhitneyu`); Hodges & Lehmann 1963 for the shift; Hollander, Wolfe & Chicken 2014, section 4.3 for the interval
//! of Moses; Noether 1987 for the number of trials.
//!
//! Values may be infinite (a trial that never recovered ranks above everything); two infinite ones are a tie.

use super::error::{Undefined, not_negative, share, some, sorted};
use super::quantile::Observed;
use super::special::{ceil, float, ln_choose, normal_above, normal_quantile, reaches};

/// Up to this many additions the null distribution is counted exactly; beyond it (some 270 against 270) the normal approximation
/// agrees to more digits than anybody reads.
const MOST_ADDITIONS: u64 = 10_000_000;

/// Result of a rank test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankTest {
    /// Mann and Whitney's U of the new sample: pairs in which it is larger, ties counting half.
    pub u_new: f64,
    /// Two-sided p-value.
    pub p_two_sided: f64,
    /// One-sided p-value against "new is larger".
    pub p_greater: f64,
    /// Exact, or the normal approximation.
    pub exact: bool,
    /// Some values are equal.
    pub ties: bool,
}

/// `P(U = u)` for u = 0 .. mn/2 under the null hypothesis; the other half mirrors it. None when it would take too long.
fn null_distribution(m: u64, n: u64) -> Option<Vec<f64>> {
    let (few, many) = (m.min(n), m.max(n));
    let half = few.checked_mul(many)? / 2;
    if few.checked_mul(half)? > MOST_ADDITIONS {
        return None;
    }
    // The generating function, prod (1 - q^(many + i)) / (1 - q^i), factor by factor; dividing by C(many + i, i) on the way keeps the
    // numbers probabilities. Below the middle the counts rise, so differences of neighbours stay small against their sum.
    let mut weights = vec![0.0_f64; usize::try_from(half).ok()?.checked_add(1)?];
    *weights.first_mut()? = 1.0;
    for i in 1..=few {
        let (step, gone) = (usize::try_from(i).ok()?, usize::try_from(many + i).ok()?);
        let scale = float(i) / float(many + i);
        for place in (gone..weights.len()).rev() {
            let lost = weights.get(place - gone).copied().unwrap_or_default();
            if let Some(weight) = weights.get_mut(place) {
                *weight -= lost;
            }
        }
        for place in step..weights.len() {
            let gained = weights.get(place - step).copied().unwrap_or_default();
            if let Some(weight) = weights.get_mut(place) {
                *weight += gained;
            }
        }
        for weight in &mut weights {
            *weight *= scale;
        }
    }
    Some(weights)
}

/// `P(U <= u)` from the lower half of the distribution.
fn at_most(weights: &[f64], pairs: u64, u: u64) -> f64 {
    let sum = |through: u64| -> f64 {
        let count = usize::try_from(through).unwrap_or(usize::MAX).saturating_add(1);
        weights.iter().take(count).sum()
    };
    if u >= pairs {
        1.0
    } else if u <= pairs / 2 {
        sum(u).clamp(0.0, 1.0)
    } else {
        (1.0 - sum(pairs - u - 1)).clamp(0.0, 1.0)
    }
}

/// Twice U of the new sample (so that ties stay whole), and the sizes of all groups of equal values.
fn ranks(base: &[f64], new: &[f64]) -> Result<(u64, Vec<u64>), Undefined> {
    let base = sorted("base trial", base)?;
    let new = sorted("new trial", new)?;
    let mut twice = 0;
    for value in &new {
        let below = base.partition_point(|other| other < value) as u64;
        let through = base.partition_point(|other| other <= value) as u64;
        twice += below + through;
    }
    let mut all: Vec<f64> = base.into_iter().chain(new).collect();
    all.sort_by(f64::total_cmp);
    #[expect(clippy::float_cmp, reason = "a tie is equality, and minus zero is zero")]
    let groups = all.chunk_by(|a, b| a == b).map(|group| group.len() as u64).collect();
    Ok((twice, groups))
}

/// Mann-Whitney with its exact null distribution.
///
/// # Errors
/// [`Undefined`] without values on one side, with NaN, with ties, or when the samples are too large to count (some 270 against 270).
pub fn mann_whitney_exact(base: &[f64], new: &[f64]) -> Result<RankTest, Undefined> {
    let (twice, groups) = ranks(base, new)?;
    if groups.iter().any(|size| *size > 1) {
        return Err(Undefined::Ties);
    }
    let (m, n) = (base.len() as u64, new.len() as u64);
    let weights = null_distribution(m, n).ok_or(Undefined::NoValue {
        why: "the samples are too large for the exact distribution",
    })?;
    let (pairs, u) = (m * n, twice / 2);
    // P(U >= u) = P(U <= pairs - u), by symmetry.
    let greater = at_most(&weights, pairs, pairs - u);
    let extreme = at_most(&weights, pairs, u.min(pairs - u));
    Ok(RankTest {
        u_new: float(u),
        p_two_sided: (2.0 * extreme).min(1.0),
        p_greater: greater,
        exact: true,
        ties: false,
    })
}

/// Mann-Whitney by the normal approximation with the tie correction, and with the continuity correction when asked for.
///
/// # Errors
/// [`Undefined`] without values on one side or with NaN.
pub fn mann_whitney_asymptotic(base: &[f64], new: &[f64], continuity: bool) -> Result<RankTest, Undefined> {
    let (twice, groups) = ranks(base, new)?;
    let (m, n) = (float(base.len() as u64), float(new.len() as u64));
    let all = m + n;
    let tied: f64 = groups.iter().map(|size| float(*size).powi(3) - float(*size)).sum();
    let deviation = (m * n / 12.0 * ((all + 1.0) - tied / (all * (all - 1.0))))
        .max(0.0)
        .sqrt();
    let u = float(twice) / 2.0;
    let correction = if continuity { 0.5 } else { 0.0 };
    let above = |u: f64| {
        let distance = u - m * n / 2.0 - correction;
        // All values equal: nothing speaks for a difference.
        if deviation > 0.0 {
            normal_above(distance / deviation)
        } else {
            1.0
        }
    };
    Ok(RankTest {
        u_new: u,
        p_two_sided: (2.0 * above(u.max(m * n - u))).min(1.0),
        p_greater: above(u),
        exact: false,
        ties: groups.iter().any(|size| *size > 1),
    })
}

/// The exact test where it holds (no ties, not too large), else the normal approximation with both corrections.
///
/// # Errors
/// [`Undefined`] without values on one side or with NaN.
pub fn mann_whitney(base: &[f64], new: &[f64]) -> Result<RankTest, Undefined> {
    mann_whitney_exact(base, new).or_else(|_| mann_whitney_asymptotic(base, new, true))
}

/// The smallest two-sided p-value that m against n can reach: `2 / C(m+n, m)`. Above alpha, no data can be significant.
///
/// # Errors
/// [`Undefined`] when one side is empty.
pub fn min_two_sided_p(m: u64, n: u64) -> Result<f64, Undefined> {
    some("base trial", m)?;
    some("new trial", n)?;
    let all = m.saturating_add(n);
    if m.min(n) > 100 {
        return Ok((2.0_f64.ln() - ln_choose(all, m)).exp().min(1.0));
    }
    // Factor by factor: exact to the last digit while the numbers are small.
    let few = m.min(n);
    let choose: f64 = (1..=few).fold(1.0, |product, i| product * float(all - few + i) / float(i));
    Ok((2.0 / choose).min(1.0))
}

/// How many trials, both samples together, find a slow-down with P(new > old) = `p_new_greater` with this power: Noether's
/// `(z_a + z_b)^2 / (12 c (1-c) (P - 1/2)^2)` with c the share of trials in the base.
///
/// # Errors
/// [`Undefined`] when a share is not strictly between 0 and 1, or P is 1/2: then nothing is ever found.
pub fn noether_total(
    p_new_greater: f64,
    alpha_two_sided: f64,
    power: f64,
    share_in_base: f64,
) -> Result<u64, Undefined> {
    let wanted = super::error::closed_share("P(new > base)", p_new_greater)?;
    let alpha = share("alpha", alpha_two_sided)?;
    let power = share("the power", power)?;
    let base = share("the share of the base", share_in_base)?;
    let z = normal_quantile(1.0 - alpha / 2.0) + normal_quantile(power);
    let distance = wanted - 0.5;
    ceil(z * z / (12.0 * base * (1.0 - base) * distance * distance)).ok_or(Undefined::NoValue {
        why: "no countable number of trials finds a difference this small",
    })
}

/// A shift between two samples, new minus base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// Median of all differences (Hodges & Lehmann). Infinite when most of them involve a trial that never recovered.
    pub shift: f64,
    /// Moses' interval; none when even all differences do not reach the confidence (3 against 3).
    pub interval: Option<(f64, f64)>,
    /// It runs from the k-th smallest to the k-th largest difference; 0 without one.
    pub k: u64,
    /// Confidence of that interval.
    pub achieved_confidence: Option<f64>,
}

/// Hodges-Lehmann shift with Moses' two-sided interval.
///
/// # Errors
/// [`Undefined`] without values on one side, with NaN, or with a confidence not strictly between 0 and 1.
pub fn hodges_lehmann(base: &[f64], new: &[f64], confidence: f64) -> Result<Shift, Undefined> {
    let base = sorted("base trial", base)?;
    let new = sorted("new trial", new)?;
    let pairs = base.len() as u64 * new.len() as u64;
    let (k, achieved_confidence) = moses_rank(base.len() as u64, new.len() as u64, confidence)?;
    let shift = f64::midpoint(
        kth_difference(&base, &new, pairs.div_ceil(2)),
        kth_difference(&base, &new, pairs / 2 + 1),
    );
    let interval = (k > 0).then(|| {
        (
            kth_difference(&base, &new, k),
            kth_difference(&base, &new, pairs + 1 - k),
        )
    });
    Ok(Shift {
        // Between minus and plus infinity nothing is known.
        shift: if shift.is_nan() { 0.0 } else { shift },
        interval,
        k,
        achieved_confidence,
    })
}

/// The largest k with `1 - 2 P(U <= k - 1) >= confidence`, and that confidence.
fn moses_rank(m: u64, n: u64, confidence: f64) -> Result<(u64, Option<f64>), Undefined> {
    let confidence = share("confidence", confidence)?;
    let Some(weights) = null_distribution(m, n) else {
        let (m, n) = (float(m), float(n));
        let deviation = (m * n * (m + n + 1.0) / 12.0).sqrt();
        let z = normal_quantile(1.0 - (1.0 - confidence) / 2.0);
        // P(U <= k - 1) is about Phi((k - 1/2 - mn/2) / deviation).
        let k = super::special::floor(m * n / 2.0 + 0.5 - z * deviation).unwrap_or(0);
        let level = 1.0 - 2.0 * normal_above((m * n / 2.0 + 0.5 - float(k)) / deviation);
        return Ok((k, (k > 0).then_some(level)));
    };
    let (mut below, mut k, mut level) = (0.0, 0, None);
    for weight in &weights {
        below += weight;
        let reached = 1.0 - 2.0 * below;
        if !reaches(reached, confidence) {
            break;
        }
        k += 1;
        level = Some(reached);
    }
    Ok((k, level))
}

/// `new - base`, where two trials that never recovered do not differ.
fn difference(new: f64, base: f64) -> f64 {
    let difference = new - base;
    if difference.is_nan() { 0.0 } else { difference }
}

/// The k-th smallest of all differences of two ascending samples, k from 1, without writing them down: halving over the floats
/// themselves, so that the answer is one of the differences to the last bit.
fn kth_difference(base: &[f64], new: &[f64], k: u64) -> f64 {
    let count = |limit: f64| -> u64 {
        let mut sum = 0;
        // A larger base leaves more of the new values at or below the limit.
        let mut below = 0;
        for value in base {
            while new.get(below).is_some_and(|other| difference(*other, *value) <= limit) {
                below += 1;
            }
            sum += below as u64;
        }
        sum
    };
    let (mut low, mut high) = (order(f64::NEG_INFINITY), order(f64::INFINITY));
    if count(f64::NEG_INFINITY) >= k {
        return f64::NEG_INFINITY;
    }
    while i128::from(high) - i128::from(low) > 1 {
        let middle = i64::midpoint(low, high);
        if count(value(middle)) >= k {
            high = middle;
        } else {
            low = middle;
        }
    }
    value(high) + 0.0
}

/// Floats as integers in the same order (that of `total_cmp`).
fn order(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// The float at this place of the order.
fn value(place: i64) -> f64 {
    let bits = place ^ ((place >> 63).cast_unsigned() >> 1).cast_signed();
    f64::from_bits(bits.cast_unsigned())
}

/// What a gate by margin says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Slower by more than the margin.
    Regressed,
    /// Not slower by the margin.
    NotRegressed,
    /// Neither is shown.
    Inconclusive,
}

/// A gate with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gated {
    /// Point estimate of the shift.
    pub shift: f64,
    /// One-sided bounds at the confidence; none when there are too few trials for any.
    pub bounds: Option<(f64, f64)>,
    /// What follows.
    pub gate: Gate,
}

fn decide(bounds: Option<(f64, f64)>, margin: f64) -> Gate {
    match bounds {
        Some((lower, _)) if lower > margin => Gate::Regressed,
        Some((_, upper)) if upper < margin => Gate::NotRegressed,
        _ => Gate::Inconclusive,
    }
}

/// Regression by margin, not by p: the one-sided lower bound above the margin is a regression, the upper bound below it is none, and
/// everything else is inconclusive. Both bounds are ends of the two-sided Moses interval with twice the doubt.
///
/// # Errors
/// As [`hodges_lehmann`], and when the margin is negative or the confidence not above 1/2.
pub fn regression_gate(base: &[f64], new: &[f64], margin: f64, one_sided: f64) -> Result<Gated, Undefined> {
    let margin = not_negative("the margin", margin)?;
    let shift = hodges_lehmann(base, new, 2.0 * share("confidence", one_sided)? - 1.0)?;
    Ok(Gated {
        shift: shift.shift,
        bounds: shift.interval,
        gate: decide(shift.interval, margin),
    })
}

/// The same for values that are only known within bounds: each bound of the shift takes the ends that make it wider (for the lower
/// one the lowest new values against the highest base values), so that what was not observed never decides. What never recovered
/// counts with how long it was watched below, and is infinite above.
///
/// # Errors
/// As [`regression_gate`].
pub fn regression_gate_observed(
    base: &[Observed],
    new: &[Observed],
    margin: f64,
    one_sided: f64,
) -> Result<Gated, Undefined> {
    let margin = not_negative("the margin", margin)?;
    let confidence = 2.0 * share("confidence", one_sided)? - 1.0;
    let ends = |observed: &[Observed], end: fn(&Observed) -> f64| observed.iter().map(end).collect::<Vec<f64>>();
    let lowest = hodges_lehmann(&ends(base, |o| o.upper), &ends(new, |o| o.lower), confidence)?;
    let highest = hodges_lehmann(&ends(base, |o| o.lower), &ends(new, |o| o.upper), confidence)?;
    let shift = hodges_lehmann(&ranked(base), &ranked(new), confidence)?.shift;
    let bounds = lowest.interval.zip(highest.interval).map(|(low, high)| (low.0, high.1));
    Ok(Gated {
        shift,
        bounds,
        gate: decide(bounds, margin),
    })
}

/// Midpoints for the ranks, and infinity for what never recovered.
#[must_use]
pub fn ranked(observed: &[Observed]) -> Vec<f64> {
    observed
        .iter()
        .map(|observed| f64::midpoint(observed.lower, observed.upper))
        .collect()
}
