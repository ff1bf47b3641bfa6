//! The rules for one measured value and one limit.

use super::claims::LimitOf;
use super::number::{count, with_bounds};
use crate::model::{Bounded, Measured, Verdict, WhyNot};

/// Rules 2 and 3 for any value with an error bar.
pub(super) fn compare(what: &str, measured: &Measured<Bounded>, limit: LimitOf, unit: &str) -> (Verdict, String) {
    match measured {
        Ok(bounded) => {
            let shown = with_bounds(bounded, unit);
            let whole = if bounded.upper > bounded.lower {
                ", error bar included"
            } else {
                ""
            };
            if limit.holds(bounded.lower) && limit.holds(bounded.upper) {
                (
                    Verdict::Pass,
                    format!("{what} {shown}, within the limit {limit}{whole}"),
                )
            } else if limit.holds(bounded.lower) || limit.holds(bounded.upper) {
                (
                    Verdict::Inconclusive,
                    format!("{what} {shown}: the limit {limit} lies inside the error bar"),
                )
            } else {
                (
                    Verdict::Fail,
                    format!("{what} {shown}, which breaks the limit {limit}{whole}"),
                )
            }
        }
        Err(WhyNot::NotRecovered { observed_seconds, why }) => not_recovered(*observed_seconds, why, limit),
        Err(why) => (
            Verdict::Inconclusive,
            format!("{what} (limit {limit}) is not known: {why}"),
        ),
    }
}

/// Rule 3: what was watched is a lower bound.
fn not_recovered(observed: f64, why: &str, limit: LimitOf) -> (Verdict, String) {
    if limit.holds(observed) {
        (
            Verdict::Inconclusive,
            format!("service was not restored, but watched for only {observed:.1} s (limit {limit}): {why}"),
        )
    } else {
        (
            Verdict::Fail,
            format!("service was not restored within {observed:.1} s (limit {limit}): {why}"),
        )
    }
}

/// Rule 1, the part about the limit: an instrument must be finer than what it judges.
pub(super) fn measurable(
    measured: &Measured<Bounded>,
    limit: LimitOf,
    sampling_seconds: Option<f64>,
) -> Result<(), String> {
    if let Some(sampling) = sampling_seconds
        && limit.value < 2.0 * sampling
    {
        return Err(format!(
            "the limit {limit} is below twice the sampling interval of {} s: it cannot be measured",
            count(sampling)
        ));
    }
    if let Ok(bounded) = measured {
        let width = bounded.upper - bounded.lower;
        if limit.value < width {
            return Err(format!(
                "the limit {limit} is below the error bar of {width:.3} s: it cannot be measured"
            ));
        }
    }
    Ok(())
}
