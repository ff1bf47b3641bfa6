//! The one event model: for the live screen, the log, replay and tests.
//!
//! Instants inside events are [`Mono`] (microseconds of the runner's monotonic clock since the run began). The envelope
//! carries the instant at which the event was written, which is never used for measurement.

use super::numbers::{Numbers, Packed};
use crate::experiment::Experiment;
use crate::fault::{FaultTarget, Undo};
use crate::model::{Interval, Mono, PodFacts};
use serde::{Deserialize, Deserializer, Serialize};
use std::sync::Arc;

/// The steps of a trial, in order. The kill matrix dies at each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Manifests are applied (once per experiment).
    Setup,
    /// The steady state must hold, else nothing is touched.
    Baseline,
    /// Guard Job and journal are created; intents are on disk.
    Arm,
    /// The fault is fired and its effect proven.
    Inject,
    /// Recovery is watched.
    Observe,
    /// Everything armed is taken back.
    Revert,
    /// Flaps, late data, assertions `after`; the ledger is audited.
    Settle,
    /// Manifests are removed (once per experiment).
    Teardown,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 8] = [
        Self::Setup,
        Self::Baseline,
        Self::Arm,
        Self::Inject,
        Self::Observe,
        Self::Revert,
        Self::Settle,
        Self::Teardown,
    ];

    /// Lower-case word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Baseline => "baseline",
            Self::Arm => "arm",
            Self::Inject => "inject",
            Self::Observe => "observe",
            Self::Revert => "revert",
            Self::Settle => "settle",
            Self::Teardown => "teardown",
        }
    }
}

/// What kind of cluster the run was against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// `lab` or `kubernetes`.
    pub kind: String,
    /// `gitVersion` of `/version`.
    pub version: String,
}

/// One answer of a sampled probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// The condition held.
    Good,
    /// The condition did not hold.
    Bad {
        /// What was seen instead.
        why: String,
    },
    /// Nothing can be said about this instant. Widens intervals, resets nothing, counts for nothing.
    NoData {
        /// Why not.
        why: String,
    },
}

/// How a watch event came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Seen {
    /// Part of the initial list (or of a new list after a gap): existed then, appeared at some time before.
    Listed,
    /// ADDED by the watch.
    Added,
    /// MODIFIED.
    Modified,
    /// DELETED.
    Deleted,
    /// Missing from a new list after a gap: went away at some time during the gap.
    Vanished,
}

/// What a calibration found, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstrumentSummary {
    /// Version of chaosrun that was calibrated.
    pub version: String,
    /// When, RFC 3339.
    pub date: String,
    /// Against what.
    pub cluster: String,
    /// Every limit was kept.
    pub kept: bool,
    /// Known recoveries.
    pub recoveries: usize,
    /// By method of observation.
    pub methods: Vec<InstrumentMethod>,
}

/// One method of observation in a calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstrumentMethod {
    /// `watch`, `scrape`, `Prometheus`, `ledger`.
    pub method: String,
    /// Recoveries that were measured.
    pub recoveries: usize,
    /// Of these, inside the stated interval.
    pub covered: usize,
    /// Median distance of the best estimate from the truth.
    pub median_abs_error_ms: f64,
    /// 99 % of the distances are not larger.
    pub p99_abs_error_ms: f64,
    /// Mean width of the stated interval.
    pub mean_width_ms: f64,
}

/// Why a trial ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum TrialEnd {
    /// All steps were done.
    Completed,
    /// Refused before anything was touched (steady state, guards, selection).
    Refused {
        /// Why.
        why: String,
    },
    /// A stop condition or a signal.
    Aborted {
        /// Which.
        why: String,
    },
    /// An error of the tool or of its surroundings.
    Errored {
        /// What went wrong.
        why: String,
    },
}

/// Acknowledged records `first..=last`, made at `at_ms` and durable at `acked_ms` (producer's wall clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AckedRange {
    /// First id.
    pub first: u64,
    /// Last id.
    pub last: u64,
    /// Event time, milliseconds since the epoch.
    pub at_ms: i64,
    /// Time of the durable acknowledgement.
    pub acked_ms: i64,
    /// Set when the line stands for many lines of the log, which were too many to be listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<AckedBlock>,
}

/// What a range of a very long acknowledgement log says beside its earliest times. Which records exactly are meant says
/// `ackedIds` of the same event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AckedBlock {
    /// How many different records of the range were acknowledged.
    pub records: u64,
    /// Latest event time in it; `at_ms` is the earliest.
    pub at_last_ms: i64,
    /// Latest acknowledgement in it; `acked_ms` is the earliest.
    pub acked_last_ms: i64,
}

/// Records `first..=last`, each found `times` times in the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRun {
    /// First id.
    pub first: u64,
    /// Last id.
    pub last: u64,
    /// How often each of them was found.
    pub times: u32,
}

/// One read of the sink through its commit protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkRead {
    /// When it was read.
    pub during: Interval,
    /// Highest batch in the manifest.
    pub last_batch: Option<u64>,
    /// Records found, ascending, neighbouring ids with the same count merged.
    pub runs: Vec<SinkRun>,
    /// Instead of the runs, when they are too many to be listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// Part files on disk that no manifest entry names (left by killed attempts; not data).
    pub uncommitted_files: u64,
    /// Records that came after a later record of the same key, when the data carry a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reordered: Option<u64>,
}

/// JSON has no infinity: an unknown lower bound is written as null and read back as what it means.
fn lower_bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NEG_INFINITY))
}

/// See [`lower_bound`].
fn upper_bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

/// A fact. Every fact that a number in a report depends on is one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// First event of a log.
    RunStarted {
        /// Run id (also the label on everything made).
        id: String,
        /// Seed of every random choice.
        seed: u64,
        /// Version of chaosrun.
        version: String,
        /// Against what.
        cluster: ClusterInfo,
        /// RFC 3339, for people.
        started_at: String,
    },
    /// An experiment begins; later events up to `ExperimentEnded` belong to it.
    ExperimentStarted {
        /// Position in the run, from 0.
        index: usize,
        /// Path of the file.
        file: String,
        /// The whole experiment, so that the log can be judged without the file.
        experiment: Box<Experiment>,
    },
    /// What really runs, as found on the cluster.
    WorkloadIdentified {
        /// Such as `apache-spark 4.3.0` or `built-in pipeline`.
        workload: String,
        /// True when a stand-in runs in place of the real thing.
        stand_in: bool,
    },
    /// A trial begins.
    TrialStarted {
        /// From 1, control trials included.
        trial: u32,
        /// A control trial: everything but the fault.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        control: bool,
    },
    /// The phase at which the fault is to be injected, and what it is counted from.
    PhaseChosen {
        /// How long after the begin of a period, milliseconds.
        phase_ms: u64,
        /// The begin of the period: when a commit was seen (`batch`), or when the steady state held.
        since: Interval,
        /// The commit's batch; none when there is no ledger.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch: Option<u64>,
    },
    /// No further trial is begun, although there could be more.
    TrialsStopped {
        /// Why: the verdict cannot change any more, or the time is up.
        why: String,
    },
    /// A step begins.
    StepStarted {
        /// Which.
        step: Step,
        /// When.
        at: Mono,
    },
    /// One sample of a probe. The state held at some instant within `[sent, received]`.
    ProbeSample {
        /// Name of the probe.
        probe: String,
        /// When it was due on the open-loop schedule.
        scheduled: Mono,
        /// When it was really sent.
        sent: Mono,
        /// When the answer was in (or the timeout struck).
        received: Mono,
        /// The answer may speak of any instant from here on, when that is before `sent`: it was computed from older samples.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        known_from: Option<Mono>,
        /// What it said.
        #[serde(flatten)]
        outcome: Outcome,
        /// The value that was compared, if there was one.
        value: Option<f64>,
    },
    /// A pod, as the watch told it.
    PodSeen {
        /// How.
        seen: Seen,
        /// Receipt; for `Vanished` the end of the gap.
        at: Mono,
        /// When known better than by the previous event: not before this (start of a gap, or the runner's revision clock).
        not_before: Option<Mono>,
        /// Facts (of the last sight, for `Deleted` and `Vanished`). Shared with whoever keeps them: there may be thousands.
        pod: Arc<PodFacts>,
    },
    /// A watched object other than a pod.
    ResourceSeen {
        /// Name of the probe that follows it, or `target` for the target's own object.
        subject: String,
        /// How.
        seen: Seen,
        /// Receipt.
        at: Mono,
        /// See `PodSeen`.
        not_before: Option<Mono>,
        /// UID.
        uid: String,
        /// Revision of the change, when the object carries a plain number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resource_version: Option<u64>,
        /// Dotted field to its value as text; fields that do not exist are absent.
        fields: std::collections::BTreeMap<String, String>,
    },
    /// A watch broke: from its last receipt on nothing is known, until a `WatchGap` closes this.
    WatchBroken {
        /// `pods`, `sparkapplications` ...
        kind: String,
        /// As in `ResourceSeen`; none for the watch on the target's pods.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
        /// Last receipt before.
        from: Mono,
        /// Why it broke.
        why: String,
    },
    /// A watch was not connected: what happened in between is known only by its result.
    WatchGap {
        /// `pods`, `sparkapplications` ...
        kind: String,
        /// As in `ResourceSeen`; none for the watch on the target's pods.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
        /// Last receipt before.
        from: Mono,
        /// When the new list or the resumed watch was in.
        to: Mono,
        /// True when the watch was resumed without loss; false when a new list merged what happened.
        resumed: bool,
        /// Why it broke.
        why: String,
    },
    /// Resource version of the cluster at some instant within `[sent, received]`: events with a lower version happened
    /// before `received`, those with a higher one after `sent`.
    RevisionTick {
        /// When the request was sent.
        sent: Mono,
        /// When the answer was in.
        received: Mono,
        /// The version.
        resource_version: u64,
    },
    /// Commit progress of the ledger, sampled like a probe.
    LedgerSample {
        /// When it was due.
        scheduled: Mono,
        /// When the question was sent.
        sent: Mono,
        /// When the answer was in.
        received: Mono,
        /// Highest committed batch (`commits/N`), none before the first.
        committed: Option<u64>,
        /// Highest planned batch (`offsets/N`).
        planned: Option<u64>,
        /// Why there is no answer, when there is none.
        error: Option<String>,
    },
    /// The newest records in and out, for the live view; the verdict rests on `LedgerAudited`.
    LedgerReached {
        /// Receipt.
        at: Mono,
        /// Number of the newest record that the producer knows to be durable.
        acknowledged: Option<u64>,
        /// Number of the newest record in a committed file of the sink.
        committed: Option<u64>,
    },
    /// `lower <= clock - runner's wall clock <= upper`, in milliseconds.
    ClockOffset {
        /// `producer`, `apiserver`, `prometheus`.
        clock: String,
        /// Lower bound; minus infinity (null in JSON) when there is none.
        #[serde(deserialize_with = "lower_bound")]
        lower_ms: f64,
        /// Upper bound; infinity (null in JSON) when there is none.
        #[serde(deserialize_with = "upper_bound")]
        upper_ms: f64,
    },
    /// Pairs the monotonic with the wall clock of the runner, so that foreign stamps can be placed.
    ClockPair {
        /// Monotonic.
        mono: Mono,
        /// Wall, milliseconds since the epoch.
        wall_ms: f64,
    },
    /// A fault and its revert are on disk; only now it may be fired.
    FaultArmed {
        /// Name of the fault.
        fault: String,
        /// Injector word.
        injector: String,
        /// Exactly these.
        targets: Vec<FaultTarget>,
        /// How it is taken back.
        undo: Vec<Undo>,
        /// Its effect is kept up for a while, and ends with a `FaultEnded`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lasting: bool,
    },
    /// A fault that was to come later in the trial was not fired: nothing was touched for it.
    FaultSkipped {
        /// Name of the fault.
        fault: String,
        /// Why.
        why: String,
    },
    /// The effect of a lasting fault was taken back while the trial went on.
    FaultEnded {
        /// Name of the fault.
        fault: String,
        /// From the begin of the revert to its success.
        within: Interval,
    },
    /// An object that the run is about to make (guard, lock, journal, setup manifest), before the call.
    ObjectArmed {
        /// `guard`, `lock`, `journal`, `setup`.
        purpose: String,
        /// How it is taken back.
        undo: Undo,
    },
    /// The injection call for one target.
    FaultRequested {
        /// Name of the fault.
        fault: String,
        /// Target.
        target: FaultTarget,
        /// Just before it was sent.
        at: Mono,
    },
    /// The answer to that call. An error means "unknown", not "did not happen".
    FaultAnswered {
        /// Name of the fault.
        fault: String,
        /// Target.
        target: FaultTarget,
        /// When.
        at: Mono,
        /// Error text, none when accepted.
        error: Option<String>,
    },
    /// The effect on one target was observed.
    FaultProven {
        /// Name of the fault.
        fault: String,
        /// Target.
        target: FaultTarget,
        /// Took effect within.
        effect: Interval,
        /// What was seen.
        proof: String,
    },
    /// No effect was seen on a target within the time allowed.
    FaultNotProven {
        /// Name of the fault.
        fault: String,
        /// Target.
        target: FaultTarget,
        /// What was waited for.
        why: String,
    },
    /// One revert was tried.
    Undone {
        /// What.
        undo: Undo,
        /// None when it succeeded (gone and never-was succeed).
        error: Option<String>,
    },
    /// Sink and producer were read after the trial. `reads` in order; a record absent in an earlier and present in a later read is late.
    LedgerAudited {
        /// What the producer knows to be durable.
        acked: Vec<AckedRange>,
        /// The acknowledgements ended within this interval on the runner's clock (later ones are not judged).
        acked_read: Interval,
        /// Reads of the sink.
        reads: Vec<SinkRead>,
        /// True when the sink had caught up (everything acked was in, or two further commits brought nothing new).
        drained: bool,
        /// Which records were acknowledged, when `acked` only gives the times of blocks of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acked_ids: Option<Numbers>,
        /// Records that the producer tried to write, read after the last read of the sink; none when its log does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempted: Option<Numbers>,
        /// Records acknowledged while the sink was being read; only with `attempted`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acked_later: Option<Numbers>,
    },
    /// The ledger could not be read.
    LedgerUnreadable {
        /// Why.
        why: String,
    },
    /// The checkpoint's age at the fault: last commit made before it.
    CheckpointSeen {
        /// Batch number.
        batch: u64,
        /// Commit seen within.
        committed: Interval,
        /// Event time of the newest record covered, ms of the producer's clock, when known.
        newest_record_ms: Option<i64>,
    },
    /// The runner itself was late: its samples say less than planned.
    RunnerStalled {
        /// From.
        from: Mono,
        /// To.
        to: Mono,
    },
    /// A signal or a stop condition was received.
    Stopping {
        /// Which.
        why: String,
        /// When.
        at: Mono,
    },
    /// What the trial cost.
    CostCounted {
        /// Requests to the API server since the trial began.
        api_requests: u64,
        /// Largest resident memory of the runner in bytes.
        max_rss_bytes: u64,
    },
    /// A trial ended.
    TrialEnded {
        /// From 1.
        trial: u32,
        /// How.
        #[serde(flatten)]
        end: TrialEnd,
        /// When.
        at: Mono,
    },
    /// An experiment ended.
    ExperimentEnded {
        /// Position in the run.
        index: usize,
        /// Why it ended before its time, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// How wrong the instrument was found to be when it was last held against known recoveries, for reports to quote.
    InstrumentCalibrated {
        /// The quote.
        summary: InstrumentSummary,
    },
    /// Last event of a complete log.
    RunEnded {
        /// When.
        at: Mono,
        /// Undo steps that did not succeed: what is left in the cluster.
        left: Vec<Undo>,
    },
}
