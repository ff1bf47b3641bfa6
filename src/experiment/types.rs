//! A valid experiment. Parsed once into types that cannot be wrong; afterwards nobody checks again.
//! All durations are `Duration`; all limits carry their unit in the name.

use super::location::{SinkFormat, Storage};
use crate::fault::{FaultSpec, duration_millis, optional_millis};
use crate::model::Role;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One experiment document, valid and with its variables filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Experiment {
    /// `metadata.name`: DNS-1123, used in labels and file names.
    pub name: String,
    /// `metadata.description`.
    pub description: Option<String>,
    /// The sentence under test.
    pub claim: Claim,
    /// What is broken.
    pub target: Target,
    /// What is deployed first.
    pub setup: Setup,
    /// What must hold before, and again after.
    pub steady_state: SteadyState,
    /// What is done, in order.
    pub faults: Vec<FaultSpec>,
    /// The limits.
    pub slos: Slos,
    /// Where records go in and come out.
    pub ledger: Option<Ledger>,
    /// How often.
    pub trials: Trials,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// What ends the run at once.
    pub stop: Vec<StopCondition>,
    /// What is refused.
    pub guards: Guards,
    /// Image of the containers that are put beside a target to shape its traffic.
    #[serde(default = "default_tools_image")]
    pub tools_image: String,
    /// Service account that runs the experiments of Litmus.
    #[serde(
        default = "default_litmus_account",
        skip_serializing_if = "is_default_litmus_account"
    )]
    pub litmus_account: String,
    /// Where Prometheus answers, when the file says so (else the lab's own, or `--prometheus`).
    pub prometheus_url: Option<String>,
}

/// The name that Litmus' own instructions give it.
#[must_use]
pub(super) fn default_litmus_account() -> String {
    "litmus-admin".to_owned()
}

fn is_default_litmus_account(name: &str) -> bool {
    name == default_litmus_account()
}

/// An image with tc, nft, iptables and bash.
#[must_use]
pub(super) fn default_tools_image() -> String {
    "docker.io/nicolaka/netshoot:v0.13".to_owned()
}

/// The claim and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The sentence.
    pub text: String,
    /// Where it was made (document, runbook, contract).
    pub source: Option<String>,
}

/// The workload under test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Namespace.
    pub namespace: String,
    /// What it is.
    pub workload: Workload,
}

/// Kind of workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Workload {
    /// Kubeflow `SparkApplication` (`sparkoperator.k8s.io/v1beta2`); roles `driver` and `executor`.
    SparkApplication {
        /// Name.
        name: String,
    },
    /// `apps/v1` Deployment.
    Deployment {
        /// Name.
        name: String,
    },
    /// `apps/v1` `StatefulSet`.
    StatefulSet {
        /// Name.
        name: String,
    },
    /// `batch/v1` Job.
    Job {
        /// Name.
        name: String,
    },
    /// Every pod with these labels.
    Labels {
        /// Exact matches, all of them.
        labels: Vec<(String, String)>,
    },
}

/// Manifests applied before the baseline and removed after the run, when they were not there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setup {
    /// Paths, relative to the experiment file.
    pub manifests: Vec<String>,
    /// Changes to their objects before they are created.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<SetupPatch>,
    /// Only when the target is not there: a target of one's own is broken where it stands, and nothing is put beside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unless_target_exists: bool,
    /// Leave them in place afterwards.
    pub keep: bool,
}

/// A JSON merge patch (RFC 7386) to one object of the setup manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupPatch {
    /// Kind of the object.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The patch.
    pub merge: serde_json::Value,
}

/// All probes hold, each for its hold time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SteadyState {
    /// The conditions.
    pub probes: Vec<Probe>,
}

/// One condition, sampled or watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Unique within the experiment.
    pub name: String,
    /// What is looked at and what makes it good.
    pub check: Check,
    /// Sampling period; meaningless for watched probes (pods, resource).
    #[serde(with = "duration_millis")]
    pub interval: Duration,
    /// How long one sample may take before it counts as bad.
    #[serde(with = "duration_millis")]
    pub timeout: Duration,
    /// How long it must stay good before it counts as holding (confirms; never moves the instant).
    #[serde(with = "duration_millis")]
    pub hold: Duration,
}

/// What a probe looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Check {
    /// Number of ready pods of the target, by watch.
    Pods {
        /// Only this role.
        role: Option<Role>,
        /// Condition on the number of ready pods.
        ready: Comparison,
    },
    /// A field of the target's own object (or another), by watch.
    Resource {
        /// `group/version`; `None` means the target's own object.
        api_version: Option<String>,
        /// Kind; `None` means the target's own.
        resource_kind: Option<String>,
        /// Name; `None` means the target's own.
        name: Option<String>,
        /// Dotted path such as `status.applicationState.state`.
        field: String,
        /// Expected value, as text.
        equals: String,
    },
    /// A `PromQL` query; good when it returns at least one series and EVERY value satisfies the condition.
    Promql {
        /// Query.
        query: String,
        /// Condition on each value.
        is: Comparison,
    },
    /// An HTTP request from the runner.
    Http {
        /// URL; `{podIP}` is replaced by the address of the target's pod of `role`.
        url: String,
        /// Expected status code.
        status: u16,
        /// Text that the body must contain.
        body_contains: Option<String>,
        /// Role whose pod address replaces `{podIP}`.
        role: Option<Role>,
    },
    /// A metric scraped directly from a pod's metrics endpoint, through the API server's pod network or address.
    Metrics {
        /// Role of the pod.
        role: Option<Role>,
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// Metric name (exact), optionally with `{label="value"}` matchers.
        metric: String,
        /// Condition on the value (every matching series).
        is: Comparison,
    },
    /// A line in the log of the target's pods, written since the pod became a member.
    Log {
        /// Role of the pod.
        role: Option<Role>,
        /// Text that the line must contain.
        contains: String,
    },
    /// A program on the runner's machine; good when it exits with `exit_code`.
    Command {
        /// Program and arguments.
        run: Vec<String>,
        /// Expected exit code.
        exit_code: i32,
    },
    /// The ledger's sink committed a batch within this long.
    Progress {
        /// Longest acceptable age of the last observed commit.
        #[serde(with = "duration_millis")]
        within: Duration,
    },
}

impl Check {
    /// True for probes that follow a watch and therefore have no sampling period.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        matches!(self, Self::Pods { .. } | Self::Resource { .. })
    }

    /// Whether it looks at a field of the target's own object.
    #[must_use]
    pub fn is_own_object(&self) -> bool {
        matches!(
            self,
            Self::Resource {
                api_version: None,
                resource_kind: None,
                name: None,
                ..
            }
        )
    }
}

/// `>= 2`, `== 0`, `< 1.5` ...
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Operator.
    pub operator: Operator,
    /// Right-hand side.
    pub value: f64,
}

impl Comparison {
    /// Whether `left` satisfies the condition. NaN satisfies nothing.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "counts and states are compared exactly on purpose")]
    pub fn holds(self, left: f64) -> bool {
        if left.is_nan() {
            return false;
        }
        match self.operator {
            Operator::Equal => left == self.value,
            Operator::NotEqual => left != self.value,
            Operator::Less => left < self.value,
            Operator::LessOrEqual => left <= self.value,
            Operator::Greater => left > self.value,
            Operator::GreaterOrEqual => left >= self.value,
        }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operator = match self.operator {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
        };
        write!(formatter, "{operator} {}", self.value)
    }
}

/// Comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// The limits under test. At least one is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slos {
    /// Recovery time.
    pub rto: Option<RtoSlo>,
    /// Age of the oldest lost record at the fault, in seconds.
    pub rpo_seconds: Option<Limit>,
    /// Lost records.
    pub lost: Option<Limit>,
    /// Duplicated records.
    pub duplicated: Option<Limit>,
    /// Lowest acceptable share of good time between fault and settle, 0 to 1.
    pub availability: Option<f64>,
    /// Conditions that must hold during or after.
    pub assertions: Vec<Assertion>,
    /// Limits that are about all trials together. The ones above are judged in each trial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over_trials: Vec<TrialsSlo>,
}

impl Slos {
    /// Every limit on the recovery time, of each trial or of all together.
    pub fn rto_limits(&self) -> impl Iterator<Item = Limit> {
        let over = self.over_trials.iter().filter_map(|slo| match slo.about {
            About::Rto { .. } => Some(slo.limit),
            About::Rpo | About::Lost | About::Duplicated | About::Recovered => None,
        });
        self.rto.map(|rto| rto.limit).into_iter().chain(over)
    }

    /// Where recovery time starts: with the claim's word, or with the fault.
    #[must_use]
    pub fn rto_from(&self) -> RtoStart {
        let over = self.over_trials.iter().find_map(|slo| match slo.about {
            About::Rto { from } => Some(from),
            About::Rpo | About::Lost | About::Duplicated | About::Recovered => None,
        });
        self.rto.map(|rto| rto.from).or(over).unwrap_or_default()
    }
}

/// A limit that is about all trials together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrialsSlo {
    /// What is limited.
    pub about: About,
    /// Limit in one trial: seconds or records. For [`About::Recovered`] how long recovery is watched.
    pub limit: Limit,
    /// What is said of the trials.
    pub over: Over,
}

/// What a limit over all trials is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "measure", rename_all = "camelCase")]
pub enum About {
    /// Recovery time.
    Rto {
        /// Where it starts.
        from: RtoStart,
    },
    /// Age of the oldest lost record at the fault, seconds.
    Rpo,
    /// Lost records.
    Lost,
    /// Duplicated records.
    Duplicated,
    /// Whether service was restored while it was watched.
    Recovered,
}

/// What a limit says of all trials together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "statistic", rename_all = "camelCase")]
pub enum Over {
    /// The largest value of the trials that were run. Says nothing of trials that were not.
    Max,
    /// At least this share of all trials that could be run is within the limit: for a time, its quantile is.
    Share {
        /// Strictly between 0 and 1.
        share: f64,
        /// How sure the verdict has to be, strictly between 0 and 1.
        confidence: f64,
    },
}

/// An upper limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The number.
    pub max: f64,
    /// `true` for `<`, `false` for `<=`.
    pub strict: bool,
}

/// Limit on the recovery time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RtoSlo {
    /// Limit in seconds.
    pub limit: Limit,
    /// Where the clock starts.
    pub from: RtoStart,
}

/// Where recovery time starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RtoStart {
    /// When the fault took effect (default: a deaf probe cannot improve it).
    #[default]
    Fault,
    /// At the first symptom.
    Impact,
}

/// A probe used as an SLO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assertion {
    /// The condition; its name is the claim's name.
    pub probe: Probe,
    /// When it must hold.
    pub when: When,
}

/// When an assertion is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// In every sample between injection and recovery.
    During,
    /// In every sample of the settle step.
    After,
}

/// Where numbered records go in and come out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Pods that can read the volume (labels, all must match); the first ready one is used. Empty when nothing lies in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reader: Vec<(String, String)>,
    /// Container of that pod.
    pub container: Option<String>,
    /// The producer's own log of acknowledged records: lines `first_id last_id at_ms acked_ms`. A path or a URL.
    pub acknowledged: String,
    /// Where the records come out. A path or a URL.
    pub sink: String,
    /// How the sink says what is committed.
    #[serde(default, skip_serializing_if = "SinkFormat::is_default")]
    pub format: SinkFormat,
    /// Field of a sink record that carries the number.
    pub id_field: String,
    /// Field of a sink record that carries its key, when the order within a key is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_field: Option<String>,
    /// Checkpoint folder (`offsets/`, `commits/`). A path or a URL; none when progress is not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// How object stores are reached.
    #[serde(default, skip_serializing_if = "Storage::is_default")]
    pub storage: Storage,
    /// The producer's clock is said to be within so much of the runner's. None: it is measured in the reader's pod.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub clock_within: Option<Duration>,
    /// How often commits are looked for.
    #[serde(with = "duration_millis")]
    pub interval: Duration,
    /// How long the audit waits for acknowledged records to arrive before they count as lost.
    #[serde(with = "duration_millis")]
    pub drain: Duration,
}

impl Ledger {
    /// Is anything of it read by commands in the reader's pod, its clock included?
    #[must_use]
    pub fn uses_pod(&self) -> bool {
        !self.reader.is_empty()
    }
}

/// How often the fault is injected, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trials {
    /// Number of trials with the fault; with `until_decided` the most.
    pub count: u32,
    /// Pause between two trials.
    #[serde(with = "duration_millis")]
    pub cooldown: Duration,
    /// Look at the verdict after each trial, by a rule that stays valid however often one looks, and stop when it is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub until_decided: bool,
    /// Begin no further trial after this long.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub max_time: Option<Duration>,
    /// Inject at a random phase of a period of this length, counted from a commit of the ledger when there is one.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub phase: Option<Duration>,
    /// Trials without the fault, in between.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub control: u32,
    /// Run all trials, also when the verdict cannot change any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub run_all: bool,
}

impl Trials {
    /// So many trials, with a pause between two of them, and nothing else.
    #[must_use]
    pub fn fixed(count: u32, cooldown: Duration) -> Self {
        Self {
            count,
            cooldown,
            until_decided: false,
            max_time: None,
            phase: None,
            control: 0,
            run_all: false,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Setup manifests applied and the target present.
    #[serde(with = "duration_millis")]
    pub setup: Duration,
    /// Steady state before the fault.
    #[serde(with = "duration_millis")]
    pub baseline: Duration,
    /// From the fault to service restored.
    #[serde(with = "duration_millis")]
    pub recovery: Duration,
    /// Observation after recovery (flaps, assertions `after`, catching up).
    #[serde(with = "duration_millis")]
    pub settle: Duration,
}

/// Ends the run at once, faults reverted first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopCondition {
    /// Stop when this probe is bad (for `hold`).
    pub probe: Probe,
    /// An error budget: stop when the probe was bad for longer than this in all since the injection, not for `hold` at a time.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub budget: Option<Duration>,
}

/// Refusals, on by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guards {
    /// Namespaces (with `*` at the end as wildcard) that are never touched.
    pub protected_namespaces: Vec<String>,
    /// Largest share of a role's pods that one fault may hit, in percent; a single-pod role may be hit when `mode` is `one` or `all`.
    pub max_percent: u8,
    /// How long a fault outlives a runner that died, before the cluster itself removes it.
    #[serde(with = "duration_millis")]
    pub deadline: Duration,
    /// How long taking one thing back may take, before it is reported as left.
    #[serde(with = "duration_millis", default = "default_revert")]
    pub revert: Duration,
}

/// How long taking one thing back may take, unless the file says otherwise.
#[must_use]
pub fn default_revert() -> Duration {
    Duration::from_mins(1)
}
