//! Stopping early without lying: tests that hold however often one looks.
//!
//! Sources: Wald 1945 (sequential ratio test); Ville 1939 (test martingales: `P(sup E >= 1/alpha) <= alpha`); Robbins 1970 and
//! Howard et al., arXiv:1810.08240 (confidence sequences). Repeated looks at a plan of fixed size are what these replace:
//! [`extended_plan_false_pass`] says how wrong that goes.

use super::error::{Undefined, part_of, positive, share};
use super::quantile::trials_needed;
use super::special::{bisect, first_count, float, ln_beta, reaches};

/// What a sequential ratio test has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The claim is taken: the rate is the good one.
    AcceptGood,
    /// The claim is refused: the rate is the bad one.
    AcceptBad,
    /// Not yet.
    Continue,
}

/// State of a sequential ratio test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The decision.
    pub decision: Decision,
    /// After how many trials it fell; none while it has not.
    pub at: Option<u64>,
    /// Log likelihood ratio of good over bad then.
    pub log_ratio: f64,
    /// Boundary for the good rate, `ln((1 - beta)/alpha)`.
    pub upper: f64,
    /// Boundary for the bad rate, `ln(beta/(1 - alpha))`.
    pub lower: f64,
}

/// Wald's test of the bad rate `p0` against the good one `p1 > p0`, over the outcomes in their order; `alpha` is the risk of taking
/// a bad one for good, `beta` the other way round.
///
/// # Errors
/// [`Undefined`] when a probability is out of range or `p1` is not above `p0`.
pub fn ratio_test(outcomes: &[bool], p0: f64, p1: f64, alpha: f64, beta: f64) -> Result<Ratio, Undefined> {
    let steps = Steps::new(p0, p1)?;
    if p1 <= p0 {
        return Err(Undefined::OutOfRange {
            what: "the good rate",
            wanted: "above the bad one",
            value: p1,
        });
    }
    let (alpha, beta) = (share("alpha", alpha)?, share("beta", beta)?);
    let upper = ((1.0 - beta) / alpha).ln();
    let lower = (beta / (1.0 - alpha)).ln();
    let (mut good, mut bad) = (0, 0);
    for success in outcomes {
        if *success {
            good += 1;
        } else {
            bad += 1;
        }
        let log_ratio = steps.log(good, bad);
        let decision = if log_ratio >= upper {
            Decision::AcceptGood
        } else if log_ratio <= lower {
            Decision::AcceptBad
        } else {
            continue;
        };
        return Ok(Ratio {
            decision,
            at: Some(good + bad),
            log_ratio,
            upper,
            lower,
        });
    }
    Ok(Ratio {
        decision: Decision::Continue,
        at: None,
        log_ratio: steps.log(good, bad),
        upper,
        lower,
    })
}

/// What one success and one failure add to the log likelihood ratio of `p1` over `p0`.
struct Steps {
    success: f64,
    failure: f64,
}

impl Steps {
    /// `p0` strictly between 0 and 1; `p1` may be either end.
    fn new(p0: f64, p1: f64) -> Result<Self, Undefined> {
        let p0 = share("p0", p0)?;
        let p1 = super::error::closed_share("p1", p1)?;
        Ok(Self {
            success: (p1 / p0).ln(),
            failure: (-p1).ln_1p() - (-p0).ln_1p(),
        })
    }

    fn log(&self, successes: u64, failures: u64) -> f64 {
        // Zero times minus infinity is nothing seen, not an error.
        let part = |count: u64, step: f64| if count == 0 { 0.0 } else { float(count) * step };
        part(successes, self.success) + part(failures, self.failure)
    }
}

/// The value of a test martingale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence {
    /// Its logarithm: finite however many trials there are, but for minus infinity after what `p1` calls impossible.
    pub log: f64,
    /// Itself, `(p1/p0)^s ((1-p1)/(1-p0))^(n-s)`; infinite where it is too large to be written down.
    pub value: f64,
}

impl Evidence {
    /// Whether it is at least `1/alpha`, which happens with probability `alpha` at most when the hypothesis is true, however often one
    /// looks. False when `alpha` is not between 0 and 1.
    #[must_use]
    pub fn rejects(self, alpha: f64) -> bool {
        alpha > 0.0 && alpha < 1.0 && reaches(self.log, -alpha.ln())
    }
}

/// The e-value of `successes` in `trials` for `p1` against `p0`. With `p1 > p0` it speaks against every rate up to `p0` (the claim
/// "at least p0" passes when it rejects); with `p1 < p0` against every rate from `p0` on (the claim is refuted when it rejects). When
/// both are watched, each may spend half of alpha.
///
/// # Errors
/// [`Undefined`] with more successes than trials, `p0` not strictly between 0 and 1, `p1` outside of 0 to 1, or both equal.
pub fn e_value(successes: u64, trials: u64, p0: f64, p1: f64) -> Result<Evidence, Undefined> {
    if successes > trials {
        return Err(Undefined::MoreThanAll {
            part: successes,
            whole: trials,
        });
    }
    if p1.total_cmp(&p0).is_eq() {
        return Err(Undefined::NoValue {
            why: "p1 equals p0: nothing is tested",
        });
    }
    let log = Steps::new(p0, p1)?.log(successes, trials - successes);
    Ok(Evidence { log, value: log.exp() })
}

/// The first number of trials at which the e-process for `p1 > p0` passes when `failures` of them failed; their order does not
/// matter. None when no number is enough (a failure that `p1 = 1` calls impossible).
///
/// # Errors
/// [`Undefined`] when a probability is out of range or `p1` is not above `p0`.
pub fn e_process_trials_needed(p0: f64, p1: f64, alpha: f64, failures: u64) -> Result<Option<u64>, Undefined> {
    let steps = Steps::new(p0, p1)?;
    let alpha = share("alpha", alpha)?;
    if p1 <= p0 {
        return Err(Undefined::OutOfRange {
            what: "p1",
            wanted: "above p0",
            value: p1,
        });
    }
    Ok(first_count(failures.max(1), |n| {
        reaches(steps.log(n - failures, failures), -alpha.ln())
    }))
}

/// An interval that holds at every number of trials at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence {
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// Confidence sequence of a rate from a Beta(a, b) mixture (Robbins 1970): all p with
/// `B(a+s, b+n-s) / (B(a,b) p^s (1-p)^(n-s)) < 1/alpha`. For live display; the e-process is the cheaper proof.
///
/// # Errors
/// [`Undefined`] with more successes than trials, `alpha` not strictly between 0 and 1, or a prior that is not positive.
pub fn confidence_sequence(successes: u64, trials: u64, alpha: f64, a: f64, b: f64) -> Result<Sequence, Undefined> {
    if successes > trials {
        return Err(Undefined::MoreThanAll {
            part: successes,
            whole: trials,
        });
    }
    let alpha = share("alpha", alpha)?;
    let (a, b) = (positive("prior a", a)?, positive("prior b", b)?);
    let (s, f) = (float(successes), float(trials - successes));
    let mixture = ln_beta(a + s, b + f) - ln_beta(a, b) + alpha.ln();
    let part = |count: f64, log: f64| if count > 0.0 { count * log } else { 0.0 };
    // Inside: the likelihood of p is above alpha times that of the mixture. It rises up to s/n and falls from there.
    let inside = |p: f64| part(s, p.ln()) + part(f, (-p).ln_1p()) > mixture;
    let peak = if trials == 0 { 0.5 } else { s / (s + f) };
    let lower = if successes == 0 {
        0.0
    } else {
        peak * bisect(|x| inside(peak * x))
    };
    let upper = if successes == trials {
        1.0
    } else {
        1.0 - (1.0 - peak) * bisect(|x| inside(1.0 - (1.0 - peak) * x))
    };
    Ok(Sequence { lower, upper })
}

/// The first number of trials without a failure at which the lower end of [`confidence_sequence`] reaches `p0`.
///
/// # Errors
/// [`Undefined`] when a probability is out of range, the prior is not positive, or no countable number is enough.
pub fn confidence_sequence_trials_needed(p0: f64, alpha: f64, a: f64, b: f64) -> Result<u64, Undefined> {
    let p0 = share("p0", p0)?;
    let alpha = share("alpha", alpha)?;
    let (a, b) = (positive("prior a", a)?, positive("prior b", b)?);
    let whole = ln_beta(a, b);
    let proven = |n: u64| {
        let log = (alpha.ln() + ln_beta(a + float(n), b) - whole) / float(n);
        log >= p0.ln() - 1e-15
    };
    first_count(1, proven).ok_or(Undefined::NoValue {
        why: "no countable number of trials is enough",
    })
}

/// One stage of a plan that is extended after each failure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// Trials in all up to this stage.
    pub trials: u64,
    /// Failures with which it passes.
    pub allowed_failures: u64,
    /// Probability that a system just at the limit has passed by now.
    pub false_pass: f64,
}

/// What "59 trials with no failure, else 93 with one, else 124 with two .." really risks, for a rate that is exactly the quantile:
/// exact, stage by stage. Every stage alone keeps `1 - confidence`; together they do not, which is why the e-process exists.
///
/// # Errors
/// [`Undefined`] as [`trials_needed`].
pub fn extended_plan_false_pass(quantile: f64, confidence: f64, stages: u64) -> Result<Vec<Stage>, Undefined> {
    let stages = stages.min(1000);
    let kept = usize::try_from(stages).unwrap_or(usize::MAX);
    // Probability of not having passed yet with so many failures; more than the last stage allows can never pass.
    let mut failures = vec![0.0_f64; kept];
    if let Some(none) = failures.first_mut() {
        *none = 1.0;
    }
    let mut done = 0;
    let mut passed = 0.0;
    let mut plan = Vec::new();
    for allowed in 0..stages {
        let trials = trials_needed(quantile, confidence, allowed)?;
        while done < trials {
            let mut before = 0.0;
            for probability in &mut failures {
                let here = *probability;
                *probability = here * quantile + before * (1.0 - quantile);
                before = here;
            }
            done += 1;
        }
        let through = usize::try_from(allowed).unwrap_or(usize::MAX);
        for probability in failures.iter_mut().take(through.saturating_add(1)) {
            passed += *probability;
            *probability = 0.0;
        }
        plan.push(Stage {
            trials,
            allowed_failures: allowed,
            false_pass: passed,
        });
    }
    Ok(plan)
}

/// What an `untilDecided` claim says after so many trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// The claim holds.
    Pass,
    /// The claim is refuted.
    Fail,
    /// Not decided yet.
    Open,
}

/// The rule of `untilDecided`: two e-processes, each with half of `1 - confidence`. Undecided trials count as failures for the pass and
/// as successes for the fail. `good` and `bad` are the alternatives above and below the quantile.
///
/// # Errors
/// [`Undefined`] as [`e_value`], or when `bad < quantile < good` does not hold.
pub fn until_decided(
    within: u64,
    trials: u64,
    undecided: u64,
    quantile: f64,
    confidence: f64,
    alternatives: Alternatives,
) -> Result<Decided, Undefined> {
    if trials > 0 {
        part_of(within.saturating_add(undecided), trials)?;
    }
    let half = (1.0 - share("confidence", confidence)?) / 2.0;
    let Alternatives { bad, good } = alternatives;
    if !(bad < quantile && quantile < good) {
        return Err(Undefined::OutOfRange {
            what: "the quantile",
            wanted: "between the two alternatives",
            value: quantile,
        });
    }
    let pass = e_value(within, trials, quantile, good)?;
    let fail = e_value(within.saturating_add(undecided), trials, quantile, bad)?;
    Ok(if pass.rejects(half) {
        Decided::Pass
    } else if fail.rejects(half) {
        Decided::Fail
    } else {
        Decided::Open
    })
}

/// Trials after which [`until_decided`] proves a claim at the earliest, when so many of them are not within the limit: 90 without a miss for
/// 0.95 at 0.95. None when no number is enough.
///
/// # Errors
/// [`Undefined`] when the quantile or the confidence is not strictly between 0 and 1.
pub fn decided_after(quantile: f64, confidence: f64, misses: u64) -> Result<Option<u64>, Undefined> {
    let half = (1.0 - share("confidence", confidence)?) / 2.0;
    let quantile = share("quantile", quantile)?;
    e_process_trials_needed(quantile, Alternatives::around(quantile).good, half, misses)
}

/// The rates against which an e-process bets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alternatives {
    /// Below the quantile: what a system that breaks the claim does.
    pub bad: f64,
    /// Above the quantile: what a system that keeps the claim does.
    pub good: f64,
}

impl Alternatives {
    /// The ones of the published plan for 0.95 (0.80 and 0.99), and the same odds for every other quantile: a fifth of the failures
    /// that are allowed, and four times as many (but no more than half of the way to zero).
    #[must_use]
    pub fn around(quantile: f64) -> Self {
        let allowed = 1.0 - quantile;
        Self {
            bad: (1.0 - 4.0 * allowed).max(quantile / 2.0),
            good: 1.0 - allowed / 5.0,
        }
    }
}
