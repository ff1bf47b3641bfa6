//! Claims about a quantile without a distribution: order statistics.
//!
//! Sources: Wilks 1941; Hahn, Meeker & Escobar, Statistical Intervals, 2nd ed. 2017, chapter 5; Conover 1999, section 3.2;
//! Massart 1990 for the band of Dvoretzky, Kiefer and Wolfowitz.

use super::error::{Undefined, part_of, share, some};
use super::special::{binomial_at_least, binomial_at_most, ceil, first_count, float, reaches};

/// A value of one trial: the truth is not below `lower` and not above `upper`, both in the unit of the claim.
///
/// What was never seen to end has `upper` infinite, and `lower` says how long it was watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// The truth is not below this.
    pub lower: f64,
    /// The truth is not above this; infinite when it never ended while it was watched.
    pub upper: f64,
}

impl Observed {
    /// A value known exactly.
    #[must_use]
    pub fn exact(value: f64) -> Self {
        Self {
            lower: value,
            upper: value,
        }
    }

    /// A value known to lie between two ends.
    #[must_use]
    pub fn between(lower: f64, upper: f64) -> Self {
        Self { lower, upper }
    }

    /// What had not ended when it was last looked at.
    #[must_use]
    pub fn censored(at_least: f64) -> Self {
        Self {
            lower: at_least,
            upper: f64::INFINITY,
        }
    }

    /// Whether it never ended while it was watched.
    #[must_use]
    pub fn is_censored(&self) -> bool {
        self.upper == f64::INFINITY
    }

    fn check(self) -> Result<Self, Undefined> {
        if self.lower.is_finite() && self.upper >= self.lower {
            return Ok(self);
        }
        let wanted = "an interval with a finite lower end and an upper end not below it";
        let value = if self.lower.is_finite() { self.upper } else { self.lower };
        Err(Undefined::OutOfRange {
            what: "an observation",
            wanted,
            value,
        })
    }
}

/// How many trials with at most `allowed_failures` failures prove that a share of at least `quantile` of all trials is within the
/// limit, with this confidence: the smallest n with `P(Bin(n, 1 - quantile) <= failures) <= 1 - confidence`. Without failures that
/// is `ln(1 - confidence) / ln(quantile)`, rounded up (Wilks 1941).
///
/// # Errors
/// [`Undefined`] when quantile or confidence is not strictly between 0 and 1, or no countable number is enough.
pub fn trials_needed(quantile: f64, confidence: f64, allowed_failures: u64) -> Result<u64, Undefined> {
    let quantile = share("quantile", quantile)?;
    let doubt = 1.0 - share("confidence", confidence)?;
    let endless = Undefined::NoValue {
        why: "no countable number of trials is enough",
    };
    if allowed_failures == 0 {
        return ceil(doubt.ln() / quantile.ln()).map(|n| n.max(1)).ok_or(endless);
    }
    let proven = |n: u64| reaches(doubt, binomial_at_most(allowed_failures, n, 1.0 - quantile));
    first_count(allowed_failures.saturating_add(1), proven).ok_or(endless)
}

/// The best quantile that `trials` without any failure prove: `(1 - confidence)^(1/trials)`.
///
/// # Errors
/// [`Undefined`] without trials, or when the confidence is not strictly between 0 and 1.
pub fn best_zero_failure_quantile(trials: u64, confidence: f64) -> Result<f64, Undefined> {
    let trials = some("trial", trials)?;
    let doubt = 1.0 - share("confidence", confidence)?;
    Ok((doubt.ln() / float(trials)).exp())
}

/// Which order statistic bounds a quantile, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rank {
    /// The rank; none when even the last (or first) one does not reach the confidence.
    pub rank: Option<u64>,
    /// The confidence of that rank; without one, the confidence of the best there is.
    pub achieved_confidence: f64,
}

/// The rank of the upper bound of a quantile: the smallest r with `P(Bin(n, quantile) <= r - 1) >= confidence`.
///
/// # Errors
/// [`Undefined`] without trials, or when quantile or confidence is not strictly between 0 and 1.
pub fn upper_bound_rank(n: u64, quantile: f64, confidence: f64) -> Result<Rank, Undefined> {
    let n = some("trial", n)?;
    let quantile = share("quantile", quantile)?;
    let confidence = share("confidence", confidence)?;
    let level = |rank: u64| binomial_at_most(rank - 1, n, quantile);
    let largest = level(n);
    if !reaches(largest, confidence) {
        return Ok(Rank {
            rank: None,
            achieved_confidence: largest,
        });
    }
    let (mut low, mut high) = (0, n);
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if reaches(level(middle), confidence) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Rank {
        rank: Some(high),
        achieved_confidence: level(high),
    })
}

/// The rank of the lower bound of a quantile: the largest r with `P(Bin(n, quantile) >= r) >= confidence`.
///
/// # Errors
/// [`Undefined`] without trials, or when quantile or confidence is not strictly between 0 and 1.
pub fn lower_bound_rank(n: u64, quantile: f64, confidence: f64) -> Result<Rank, Undefined> {
    let n = some("trial", n)?;
    let quantile = share("quantile", quantile)?;
    let confidence = share("confidence", confidence)?;
    let level = |rank: u64| binomial_at_least(rank, n, quantile);
    let smallest = level(1);
    if !reaches(smallest, confidence) {
        return Ok(Rank {
            rank: None,
            achieved_confidence: smallest,
        });
    }
    let (mut low, mut high) = (1, n + 1);
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if reaches(level(middle), confidence) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Rank {
        rank: Some(low),
        achieved_confidence: level(low),
    })
}

/// The two order statistics that enclose the median.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MedianRanks {
    /// Lower and upper rank, counted from 1; none when even the whole range does not reach the confidence.
    pub ranks: Option<(u64, u64)>,
    /// Confidence of these ranks; without any, that of the whole range.
    pub achieved_confidence: f64,
}

/// The sign-test interval of the median: `X_(l) .. X_(n+1-l)` with the largest l that keeps the confidence (Conover 1999).
///
/// # Errors
/// [`Undefined`] without trials, or when the confidence is not strictly between 0 and 1.
pub fn median_ranks(n: u64, confidence: f64) -> Result<MedianRanks, Undefined> {
    let n = some("trial", n)?;
    let confidence = share("confidence", confidence)?;
    let level = |lower: u64| 1.0 - 2.0 * binomial_at_most(lower - 1, n, 0.5);
    if !reaches(level(1), confidence) {
        return Ok(MedianRanks {
            ranks: None,
            achieved_confidence: level(1).max(0.0),
        });
    }
    let (mut low, mut high) = (1, n.div_ceil(2) + 1);
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if reaches(level(middle), confidence) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(MedianRanks {
        ranks: Some((low, n + 1 - low)),
        achieved_confidence: level(low),
    })
}

/// A one-sided bound of a quantile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantileBound {
    /// Which order statistic it is, counted from 1; none when there are too few trials for any.
    pub rank: Option<u64>,
    /// The bound. None when there is no rank, or when the rank falls on a trial that never ended.
    pub bound: Option<f64>,
    /// When the rank falls on a trial that never ended: the bound is at least this, and nothing better is known.
    pub at_least: Option<f64>,
    /// The confidence of the rank, or of the best one there is.
    pub achieved_confidence: f64,
    /// How many further trials a bound needs when none of them is beyond the largest; zero when there is a rank.
    pub further_trials: u64,
}

/// Upper bound of a quantile by order statistics. Interval-censored values are ordered by their UPPER ends (order statistics are
/// monotone in every argument, so the bound only gets wider); what never ended is infinite in the ordering.
///
/// # Errors
/// [`Undefined`] without observations, when one of them is not an interval, or when quantile or confidence is not strictly between
/// 0 and 1.
pub fn quantile_upper_bound(
    observations: &[Observed],
    quantile: f64,
    confidence: f64,
) -> Result<QuantileBound, Undefined> {
    let n = observations.len() as u64;
    let Rank {
        rank,
        achieved_confidence,
    } = upper_bound_rank(n, quantile, confidence)?;
    let (bound, at_least) = match rank {
        Some(rank) => {
            let upper = ordered(observations, rank, |observed| observed.upper)?;
            let lower = ordered(observations, rank, |observed| observed.lower)?;
            (
                upper.filter(|end| end.is_finite()),
                lower.filter(|_| upper == Some(f64::INFINITY)),
            )
        }
        None => {
            ordered(observations, 1, |observed| observed.upper)?;
            (None, None)
        }
    };
    let further_trials = match rank {
        Some(_) => 0,
        None => trials_needed(quantile, confidence, 0)?.saturating_sub(n),
    };
    Ok(QuantileBound {
        rank,
        bound,
        at_least,
        achieved_confidence,
        further_trials,
    })
}

/// Lower bound of a quantile by order statistics, over the LOWER ends. What never ended counts with how long it was watched.
///
/// # Errors
/// As [`quantile_upper_bound`].
pub fn quantile_lower_bound(
    observations: &[Observed],
    quantile: f64,
    confidence: f64,
) -> Result<QuantileBound, Undefined> {
    let n = observations.len() as u64;
    let Rank {
        rank,
        achieved_confidence,
    } = lower_bound_rank(n, quantile, confidence)?;
    let bound = ordered(observations, rank.unwrap_or(1), |observed| observed.lower)?.filter(|_| rank.is_some());
    let further_trials = match rank {
        Some(_) => 0,
        // A lower bound needs one trial at or beyond it: P(Bin(n, q) >= 1) >= c.
        None => trials_needed(1.0 - quantile, confidence, 0)?.saturating_sub(n),
    };
    Ok(QuantileBound {
        rank,
        bound,
        at_least: None,
        achieved_confidence,
        further_trials,
    })
}

/// The `rank`-th smallest of one end of all observations.
fn ordered(observations: &[Observed], rank: u64, end: impl Fn(&Observed) -> f64) -> Result<Option<f64>, Undefined> {
    let mut ends = observations
        .iter()
        .map(|observed| observed.check().map(|observed| end(&observed)))
        .collect::<Result<Vec<f64>, Undefined>>()?;
    ends.sort_by(f64::total_cmp);
    let place = usize::try_from(rank.saturating_sub(1)).unwrap_or(usize::MAX);
    Ok(ends.get(place).copied())
}

/// Half width of the confidence band around an empirical distribution function: `sqrt(ln(2/alpha) / (2n))` (Massart 1990).
///
/// # Errors
/// [`Undefined`] without trials, or when the confidence is not strictly between 0 and 1.
pub fn band_half_width(n: u64, confidence: f64) -> Result<f64, Undefined> {
    let n = float(some("trial", n)?);
    let alpha = 1.0 - share("confidence", confidence)?;
    Ok(((2.0 / alpha).ln() / (2.0 * n)).sqrt())
}

/// How many more trials without a further failure a claim about a quantile needs, after `failures` in `trials`.
///
/// # Errors
/// [`Undefined`] when there are more failures than trials, or as [`trials_needed`].
pub fn further_trials(trials: u64, failures: u64, quantile: f64, confidence: f64) -> Result<u64, Undefined> {
    if trials > 0 {
        part_of(failures, trials)?;
    }
    Ok(trials_needed(quantile, confidence, failures)?.saturating_sub(trials))
}

/// The confidence at which each of several claims must hold so that all of them hold together at `joint` (Bonferroni).
///
/// # Errors
/// [`Undefined`] without claims, or when the confidence is not strictly between 0 and 1.
pub fn confidence_of_each(joint: f64, claims: u64) -> Result<f64, Undefined> {
    let claims = float(some("claim", claims)?);
    Ok(1.0 - (1.0 - share("confidence", joint)?) / claims)
}
