//! What the instrument has to keep, and why so much.

use super::document::{Method, MethodSummary, Null};
use crate::model::Verdict;
use serde::{Deserialize, Serialize};

/// Median error of recoveries seen by watch, seconds. A watch event arrives milliseconds after its cause (DESIGN.md, section 9:
/// "the calibrated error of RTO is milliseconds"); rivals poll in seconds.
pub const MEDIAN_LIMIT: f64 = 0.010;
/// 99 % of the errors of recoveries seen by watch, seconds: a scheduler of a busy machine with two cores may take this long.
pub const P99_LIMIT: f64 = 0.100;
/// Share of recoveries inside the stated interval, for every method: below that the bounds are wrong, which is no noise
/// (specs/measurement.md, section 4.4).
pub const COVERAGE_LIMIT: f64 = 0.99;
/// Fewer measured recoveries by watch than this say nothing.
pub const FEWEST: usize = 20;
/// A larger share of recoveries that were not measured at all says nothing.
const LARGEST_LOSS: f64 = 0.1;

/// One limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitReport {
    /// Of what.
    pub name: String,
    /// `<=` or `>=`.
    pub operator: String,
    /// The limit: seconds, a share, or a number of alarms.
    pub limit: f64,
    /// What was found.
    pub found: f64,
    /// Whether it is kept.
    pub kept: bool,
}

fn at_most(name: &str, limit: f64, found: f64) -> LimitReport {
    LimitReport {
        name: name.to_owned(),
        operator: "<=".to_owned(),
        limit,
        found,
        kept: found <= limit,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn all(methods: &[MethodSummary], nulls: &[Null]) -> Vec<LimitReport> {
    let mut limits = Vec::new();
    for summary in methods {
        let numbers = &summary.from_fault;
        if summary.method == Method::Watch {
            limits.push(at_most("watch: median error", MEDIAN_LIMIT, numbers.median_abs_error));
            limits.push(at_most("watch: p99 of the error", P99_LIMIT, numbers.p99_abs_error));
        }
        let (name, found) = (format!("{}: coverage", summary.method.word()), numbers.coverage());
        limits.push(LimitReport {
            name,
            operator: ">=".to_owned(),
            limit: COVERAGE_LIMIT,
            found,
            kept: found >= COVERAGE_LIMIT,
        });
    }
    if !nulls.is_empty() {
        let alarms = nulls.iter().filter(|null| null.alarm).count();
        limits.push(at_most("alarms without an outage", 0.0, alarms as f64));
    }
    limits
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn verdict(limits: &[LimitReport], methods: &[MethodSummary], recoveries: usize, dropped: usize) -> Verdict {
    let watch = methods.iter().find(|summary| summary.method == Method::Watch);
    let enough = watch.is_some_and(|summary| summary.from_fault.recoveries >= FEWEST);
    let unmeasured: usize = methods.iter().map(|summary| summary.from_fault.unmeasured).sum();
    let measured: usize = methods.iter().map(|summary| summary.from_fault.recoveries).sum();
    let lost = |part: usize, rest: usize| part as f64 > (part + rest) as f64 * LARGEST_LOSS;
    if !enough || lost(unmeasured, measured) || lost(dropped, recoveries) {
        Verdict::Inconclusive
    } else if limits.iter().all(|limit| limit.kept) {
        Verdict::Pass
    } else {
        Verdict::Fail
    }
}
