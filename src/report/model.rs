//! The report, field by field. Fields of the contract keep their names; others may be added.

use crate::evidence::{ClusterInfo, InstrumentSummary};
use crate::fault::Undo;
use crate::model::{Bounded, Measured, Verdict};
use serde::Serialize;

/// Name and version of the format.
pub const SCHEMA: &str = "chaosrun.report/v1";

/// A measured value, or the reason why there is none. For a service that never came back `lower` says how long was watched.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Value {
    /// Best estimate.
    pub value: Option<f64>,
    /// The truth is not below this.
    pub lower: Option<f64>,
    /// The truth is not above this.
    pub upper: Option<f64>,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Value {
    /// Rounded to a millisecond, the bounds outwards.
    pub(super) fn of(measured: &Measured<Bounded>) -> Self {
        use crate::model::WhyNot;
        match measured {
            Ok(bounded) => Self {
                value: finite(nearest(bounded.value)),
                lower: finite(down(bounded.lower)),
                upper: finite(up(bounded.upper)),
                reason: None,
            },
            Err(why) => Self {
                lower: match why {
                    WhyNot::NotRecovered { observed_seconds, .. } => finite(down(*observed_seconds)),
                    WhyNot::FaultNotProven { .. }
                    | WhyNot::BaselineNotSteady { .. }
                    | WhyNot::NoData { .. }
                    | WhyNot::FaultCutShort { .. }
                    | WhyNot::NotMeasurable { .. }
                    | WhyNot::EndedEarly { .. } => None,
                },
                reason: Some(why.to_string()),
                ..Self::default()
            },
        }
    }
}

/// JSON has no infinity.
pub(super) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// To a millisecond (a thousandth of a ratio or count), after taking away the dust of floating point.
pub(super) fn nearest(value: f64) -> f64 {
    (value * 1e3).round() / 1e3 + 0.0
}

fn dusted(value: f64) -> f64 {
    (value * 1e6).round() / 1e3
}

pub(super) fn down(value: f64) -> f64 {
    dusted(value).floor() / 1e3 + 0.0
}

pub(super) fn up(value: f64) -> f64 {
    dusted(value).ceil() / 1e3 + 0.0
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The run itself.
    pub run: RunInfo,
    /// Worst of all experiments.
    pub verdict: Verdict,
    /// In the order in which they ran.
    pub experiments: Vec<ExperimentReport>,
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunInfo {
    /// Id.
    pub id: String,
    /// RFC 3339.
    pub started_at: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Version of chaosrun.
    pub version: String,
    /// Against what.
    pub cluster: ClusterInfo,
    /// The log is complete: the run ended in an orderly way.
    pub complete: bool,
    /// What could not be reverted and is still in the cluster.
    pub left: Vec<Undo>,
    /// What the last calibration of the instrument found, when it was at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instrument: Option<InstrumentSummary>,
    /// Hash of the log's last line, and how many lines stand behind the numbers.
    pub evidence: Evidence,
}

/// What the report was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Hash of the last line.
    pub head: String,
    /// Number of lines.
    pub records: usize,
}

/// One experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentReport {
    /// Name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Worst of its claims and trials.
    pub verdict: Verdict,
    /// What really ran.
    pub workload: String,
    /// A stand-in ran in place of the real workload.
    pub stand_in: bool,
    /// The sentence under test.
    pub claim: ClaimText,
    /// One per limit; of several trials the worst.
    pub claims: Vec<ClaimReport>,
    /// Trials wanted by the experiment; the most, when it goes on until it is decided.
    pub trials_wanted: u32,
    /// In order, control trials apart.
    pub trials: Vec<TrialReport>,
    /// Trials without the fault, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<ControlReport>,
    /// Clocks of others, as far off as they were. Durations do not rest on them: they are measured on the runner's monotonic clock.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clocks: Vec<ClockReport>,
    /// Why the experiment as a whole ended early, if it did.
    pub notes: Vec<String>,
}

/// Bounds of `clock - runner's wall clock`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockReport {
    /// `apiserver`, `prometheus`, `producer`.
    pub clock: String,
    /// Not below this, milliseconds; null when it is not bounded.
    pub lower_ms: Option<f64>,
    /// Not above this.
    pub upper_ms: Option<f64>,
    /// It (or the runner's wall clock) stepped during the experiment.
    pub stepped: bool,
}

/// The sentence under test and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimText {
    /// Sentence.
    pub text: String,
    /// Where it was made.
    pub source: Option<String>,
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClaimReport {
    /// Name.
    pub name: String,
    /// The number.
    pub limit: f64,
    /// `<`, `<=` or `>=`.
    pub operator: &'static str,
    /// Unit, empty for a ratio.
    pub unit: &'static str,
    /// What was measured.
    pub measured: Value,
    /// Verdict.
    pub verdict: Verdict,
    /// Why, as a sentence.
    pub why: String,
    /// The trial it is from.
    pub trial: Option<u32>,
    /// What all trials together say, for a claim about all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<OverReport>,
}

/// What all trials together say of a claim.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OverReport {
    /// `max` or `share`: the claimed share of all trials that could be run is within the limit.
    pub statistic: &'static str,
    /// The claimed share: 0.95 for a p95.
    pub share: Option<f64>,
    /// How sure the verdict has to be.
    pub confidence: Option<f64>,
    /// `largest`, `binomial` (exact bounds, number of trials fixed before) or `e-process` (valid however often one looks).
    pub rule: &'static str,
    /// Trials used.
    pub trials: u64,
    /// Within the limit, error bar included.
    pub within: u64,
    /// Beyond it.
    pub beyond: u64,
    /// Neither.
    pub undecided: u64,
    /// Bounds on the share of all trials that could be run, with that confidence (both ends together for an e-process).
    pub share_at_least: Option<f64>,
    /// See `shareAtLeast`.
    pub share_at_most: Option<f64>,
    /// The claimed quantile is at most this, with that confidence; null when so many trials do not bound it.
    pub quantile_at_most: Option<f64>,
    /// Why it is not bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile_not_bounded: Option<String>,
    /// Further trials, all within the limit, that would prove the claim; null when it is decided.
    pub more_trials: Option<u64>,
}

/// A trial without the fault: what it shows is there without us.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlReport {
    /// Number among all trials.
    pub index: u32,
    /// `completed`, or what ended it.
    pub end: String,
    /// How long the probes were watched, seconds.
    pub watched: f64,
    /// Outages that nobody caused.
    pub outages: Vec<ControlOutageReport>,
    /// Records in, records out.
    pub ledger: LedgerReport,
}

/// A stretch in which a probe was bad without a fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ControlOutageReport {
    /// The probe.
    pub probe: String,
    /// For how long at least.
    pub seconds: f64,
    /// What it saw.
    pub why: String,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrialReport {
    /// From 1, control trials included.
    pub index: u32,
    /// Worst of its claims; of a claim about all trials, whether this one is within its limit.
    pub verdict: Verdict,
    /// The phase at which the fault was to come, seconds after the begin of a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<f64>,
    /// `completed`, or what ended it.
    pub end: String,
    /// Why nothing in this trial can be judged, whatever its numbers say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spoiled: Option<String>,
    /// What was done.
    pub faults: Vec<FaultReport>,
    /// Recovery time from where the claim starts its clock (from the fault when there is no such claim).
    pub rto: Value,
    /// From the fault's effect.
    pub rto_from_fault: Value,
    /// From the first symptom.
    pub rto_from_impact: Value,
    /// Seconds after the fault took effect.
    pub phases: Vec<PhaseReport>,
    /// Phases without an instant, and why.
    pub missing_phases: Vec<MissingPhase>,
    /// First reaction of the system, seconds after the effect.
    pub detected: Value,
    /// Data loss.
    pub rpo: RpoReport,
    /// Records in, records out.
    pub ledger: LedgerReport,
    /// Age of the last commit when the fault took effect, seconds. Replay work, never loss.
    pub reprocessing_window: Value,
    /// Share of good time from effect to the end of settle.
    pub availability: Value,
    /// Good stretches during recovery that did not hold.
    pub flaps: usize,
    /// Outages after restoration that ended again.
    pub relapses: usize,
    /// Every claim, judged in this trial.
    pub claims: Vec<ClaimReport>,
    /// What the trial cost.
    pub cost: Cost,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// Name.
    pub name: String,
    /// Injector.
    pub injector: String,
    /// `namespace/pod` or `namespace/pod/container`.
    pub targets: Vec<String>,
    /// UIDs of the same.
    pub target_uids: Vec<String>,
    /// What was seen of its effect; null when the effect was not proven on every target.
    pub proof: Option<String>,
    /// Why the effect was not proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_proven: Option<String>,
}

/// A phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseReport {
    /// Name.
    pub name: &'static str,
    /// When, in seconds after the fault took effect.
    pub at: Span,
}

/// An instant with its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Span {
    /// Not before.
    pub lower: f64,
    /// Not after.
    pub upper: f64,
    /// Best estimate.
    pub value: f64,
}

/// A phase that was not seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingPhase {
    /// Name.
    pub name: &'static str,
    /// Why.
    pub why: String,
}

/// Data loss.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RpoReport {
    /// Lost records.
    pub records: Option<u64>,
    /// Age of the oldest lost record at the fault.
    pub seconds: Option<f64>,
    /// Not below this.
    pub seconds_lower: Option<f64>,
    /// Not above this.
    pub seconds_upper: Option<f64>,
    /// Why there is no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Records in, records out. All null when there is no ledger or it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerReport {
    /// Acknowledged by the producer.
    pub produced: Option<u64>,
    /// Of these, found in the sink.
    pub committed: Option<u64>,
    /// Of these, gone.
    pub lost: Option<u64>,
    /// Copies beyond the first.
    pub duplicated: Option<u64>,
    /// Arrived only between an earlier and the final read.
    pub late: Option<u64>,
    /// Not processed yet when the sink was last read.
    pub pending: Option<u64>,
    /// In the sink without a known acknowledgement.
    pub unacknowledged: Option<u64>,
    /// Tried by the producer, when its log tells attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempted: Option<u64>,
    /// In the sink although never tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unexpected: Option<u64>,
    /// Never acknowledged, yet in the sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<u64>,
    /// Never acknowledged and not in the sink: not known, and no loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indeterminate: Option<u64>,
    /// Behind a later record of the same key, when the data carry a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reordered: Option<u64>,
    /// Surely acknowledged during the outage.
    pub during_outage: Option<u64>,
    /// Lost although acknowledged only after the fault.
    pub lost_after_fault: Option<u64>,
    /// Part files that no manifest names.
    pub uncommitted_files: Option<u64>,
    /// Why there are no numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a trial cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Requests to the API server.
    pub api_requests: Option<u64>,
    /// Largest resident memory of the runner.
    pub max_rss_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bars_are_rounded_outwards_but_for_the_dust_of_floating_point() {
        let value = Value::of(&Ok(Bounded {
            value: 8.000_000_000_001,
            lower: 7.999_900_1,
            upper: 8.000_000_000_001,
        }));
        assert_eq!(value.lower, Some(7.999));
        assert_eq!(value.upper, Some(8.0));
        assert_eq!(value.value, Some(8.0));
    }
}
