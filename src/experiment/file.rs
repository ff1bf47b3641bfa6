//! The file as a person writes it. These types are the one source of the JSON Schema, of the shape check and of decoding;
//! their doc comments are what an editor shows.

use super::fault_file::FaultFile;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// One chaos experiment: a claim, a target, a fault, and the limits under test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ExperimentFile {
    /// Version of this format.
    #[schemars(extend("const" = "chaosrun.dev/v1"))]
    #[expect(dead_code, reason = "a constant: the shape check has seen it")]
    pub(super) api_version: String,
    /// Always `Experiment`.
    #[schemars(extend("const" = "Experiment"))]
    #[expect(dead_code, reason = "a constant: the shape check has seen it")]
    pub(super) kind: String,
    /// Name and description.
    pub(super) metadata: Metadata,
    /// The sentence under test.
    pub(super) claim: ClaimFile,
    /// The workload that is broken.
    pub(super) target: TargetFile,
    /// Manifests that are applied first and removed afterwards.
    #[serde(default)]
    pub(super) setup: SetupFile,
    /// What must hold before anything is touched, and again for service to count as restored.
    pub(super) steady_state: SteadyStateFile,
    /// What is done, in order.
    pub(super) faults: Vec<FaultFile>,
    /// The limits. At least one.
    pub(super) slos: SlosFile,
    /// Numbered records in and out: needed for rpo, lost, duplicated and progress.
    pub(super) ledger: Option<LedgerFile>,
    /// Where Prometheus answers. In the lab its own is used when this is left out.
    pub(super) prometheus: Option<PrometheusFile>,
    /// How often.
    #[serde(default)]
    pub(super) trials: TrialsFile,
    /// How long each step may take.
    #[serde(default)]
    pub(super) timeouts: TimeoutsFile,
    /// Probes that end the run at once when they are bad for their hold time; faults are reverted first.
    #[serde(default)]
    pub(super) stop: Vec<ProbeFile>,
    /// What is refused.
    #[serde(default)]
    pub(super) guards: GuardsFile,
    /// What is put beside a target when its traffic is shaped.
    #[serde(default)]
    pub(super) tools: ToolsFile,
    /// How Litmus is used.
    #[serde(default)]
    pub(super) litmus: LitmusSettingsFile,
}

/// How Litmus is used.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LitmusSettingsFile {
    /// Service account in the target's namespace that runs the experiments (default litmus-admin).
    pub(super) service_account: Option<String>,
}

/// What is put beside a target when its traffic is shaped.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ToolsFile {
    /// Image with bash, tc, and nft or iptables (default docker.io/nicolaka/netshoot:v0.13). Runs as an ephemeral container with the
    /// capability `NET_ADMIN`.
    pub(super) image: Option<String>,
}

/// Name and description.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Metadata {
    /// Lower-case letters, digits and dashes; used in labels and file names.
    #[schemars(extend("examples" = ["driver-kill"]))]
    pub(super) name: String,
    /// What the experiment is about.
    pub(super) description: Option<String>,
}

/// The sentence under test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClaimFile {
    /// As it was promised: "pod failure: RTO under 2 minutes, no data lost".
    pub(super) text: String,
    /// Where it was promised: document, runbook, contract.
    pub(super) source: Option<String>,
}

/// The workload: a namespace and exactly one of sparkApplication, deployment, statefulSet, job, labels.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TargetFile {
    /// Namespace.
    #[schemars(extend("examples" = ["spark-pipeline"]))]
    pub(super) namespace: String,
    /// Name of a Kubeflow `SparkApplication`; its pods have the roles `driver` and `executor`.
    pub(super) spark_application: Option<String>,
    /// Name of a Deployment.
    pub(super) deployment: Option<String>,
    /// Name of a `StatefulSet`.
    pub(super) stateful_set: Option<String>,
    /// Name of a Job.
    pub(super) job: Option<String>,
    /// Every pod with all of these labels.
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// Manifests that are applied first and removed afterwards. Objects that exist already are left alone, before and after.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SetupFile {
    /// Paths, relative to this file.
    #[serde(default)]
    pub(super) manifests: Vec<String>,
    /// Changes to objects of the manifests before they are created, as JSON merge patches.
    #[serde(default)]
    pub(super) patches: Vec<PatchFile>,
    /// Apply them only when the target does not exist yet (default false).
    #[serde(default)]
    pub(super) unless_target_exists: bool,
    /// Leave them in place afterwards.
    #[serde(default)]
    pub(super) keep: bool,
}

/// A change to one object of the manifests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PatchFile {
    /// Kind of the object, such as `SparkApplication`.
    pub(super) kind: String,
    /// Its name.
    pub(super) name: String,
    /// JSON merge patch (RFC 7386): mappings are merged, everything else replaces, null removes.
    pub(super) merge: serde_json::Map<String, serde_json::Value>,
}

/// Probes that must all hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SteadyStateFile {
    /// The conditions.
    pub(super) probes: Vec<ProbeFile>,
}

/// One condition: a name and exactly one of pods, resource, promql, http, metrics, log, command, progress.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProbeFile {
    /// Unique within the experiment.
    pub(super) name: String,
    /// Number of ready pods of the target, followed by watch.
    pub(super) pods: Option<PodsFile>,
    /// A field of the target's own object or of another one, followed by watch.
    pub(super) resource: Option<ResourceFile>,
    /// A `PromQL` query; good when it returns at least one series and EVERY value satisfies `is`.
    pub(super) promql: Option<PromqlFile>,
    /// An HTTP request from this machine.
    pub(super) http: Option<HttpFile>,
    /// A metric scraped directly from a pod.
    pub(super) metrics: Option<MetricsFile>,
    /// A line in the log of the target's pod.
    pub(super) log: Option<LogFile>,
    /// A program on this machine.
    pub(super) command: Option<CommandFile>,
    /// The ledger's sink committed a batch recently.
    pub(super) progress: Option<ProgressFile>,
    /// Sampling period of probes that ask (default 1s; metrics 250ms, http 100ms). Watched probes have none.
    pub(super) interval: Option<DurationText>,
    /// How long one sample may take before it counts as bad (default 2s).
    pub(super) timeout: Option<DurationText>,
    /// How long it must stay good before it counts as holding (default 3s). Confirms recovery, never moves its instant.
    pub(super) hold: Option<DurationText>,
    /// Only under `stop`: an error budget. The run ends when the probe was bad for longer than this in all since the injection, instead of
    /// for `hold` at a time.
    pub(super) budget: Option<DurationText>,
}

/// Number of ready pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodsFile {
    /// Only this role (`SparkApplication`: driver or executor).
    pub(super) role: Option<String>,
    /// Condition on the number of ready pods, such as ">= 2"; a plain number means exactly that many.
    pub(super) ready: ComparisonText,
}

/// A field of an object. Without apiVersion, kind and name it is the target's own object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ResourceFile {
    /// Such as `apps/v1`.
    pub(super) api_version: Option<String>,
    /// Such as `Deployment`.
    pub(super) kind: Option<String>,
    /// Name.
    pub(super) name: Option<String>,
    /// Dotted path, such as `status.applicationState.state`.
    pub(super) field: String,
    /// Expected value, as text.
    pub(super) equals: String,
}

/// A `PromQL` query.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PromqlFile {
    /// Query.
    #[schemars(extend("examples" = ["sum(up{job=\"shop\"})"]))]
    pub(super) query: String,
    /// Condition on every value, such as ">= 1".
    pub(super) is: ComparisonText,
}

/// An HTTP request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HttpFile {
    /// http or https URL; `{podIP}` stands for the address of the target's pod.
    #[schemars(extend("examples" = ["http://{podIP}:8080/healthz"]))]
    pub(super) url: String,
    /// Expected status code (default 200).
    #[schemars(range(min = 100, max = 599))]
    pub(super) status: Option<u16>,
    /// Text that the body must contain.
    pub(super) body_contains: Option<String>,
    /// Role of the pod whose address replaces `{podIP}`.
    pub(super) role: Option<String>,
}

/// A metric in a pod's own metrics endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MetricsFile {
    /// Role of the pod.
    pub(super) role: Option<String>,
    /// Port.
    #[schemars(range(min = 1, max = 65535))]
    pub(super) port: u16,
    /// Path (default /metrics).
    pub(super) path: Option<String>,
    /// Metric name, with label matchers in braces if needed.
    pub(super) metric: String,
    /// Condition on every value, such as "> 0".
    pub(super) is: ComparisonText,
}

/// A line in a log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LogFile {
    /// Role of the pod.
    pub(super) role: Option<String>,
    /// Text that a line must contain.
    pub(super) contains: String,
}

/// A program on this machine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CommandFile {
    /// Program and arguments; no shell.
    #[schemars(extend("examples" = [["curl", "--fail", "http://shop.example/healthz"]]))]
    pub(super) run: Vec<String>,
    /// Expected exit code (default 0).
    pub(super) exit_code: Option<i32>,
}

/// Data progress.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProgressFile {
    /// Longest acceptable age of the last commit.
    pub(super) within: DurationText,
}

/// How many pods: `one`, `all`, or a mapping with `fixed` or `percent`.
#[derive(Debug)]
pub(super) enum ModeFile {
    Word(String),
    Fixed(u32),
    Percent(u8),
}

impl<'de> Deserialize<'de> for ModeFile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = |key: &str| value.get(key).and_then(serde_json::Value::as_u64);
        if let Some(word) = value.as_str() {
            return Ok(Self::Word(word.to_owned()));
        }
        if let Some(count) = number("fixed") {
            return u32::try_from(count).map(Self::Fixed).map_err(D::Error::custom);
        }
        let percent =
            number("percent").ok_or_else(|| D::Error::custom("wanted one, all, {fixed: n} or {percent: n}"))?;
        u8::try_from(percent).map(Self::Percent).map_err(D::Error::custom)
    }
}

impl JsonSchema for ModeFile {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = |key: &str, least: u32, most: u32| {
            serde_json::json!({"type": "object", "additionalProperties": false, "required": [key],
                "properties": {key: {"type": "integer", "minimum": least, "maximum": most}}})
        };
        json_schema!({"anyOf": [
            {"type": "string", "enum": ["one", "all"]},
            number("fixed", 1, 1_000_000),
            number("percent", 1, 100),
        ]})
    }
}

/// The limits under test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SlosFile {
    /// Recovery time, such as "< 120s" for each trial, or {p95: 120s, confidence: 95%} for all that could be run.
    pub(super) rto: Option<LimitFile>,
    /// Where the recovery clock starts: `fault` (when it took effect, the default) or `impact` (the first symptom).
    #[schemars(extend("enum" = ["fault", "impact", null]))]
    pub(super) rto_from: Option<String>,
    /// Age of the oldest lost record at the fault, such as "< 10s".
    pub(super) rpo: Option<LimitFile>,
    /// Most lost records, such as 0.
    pub(super) lost: Option<LimitFile>,
    /// Most duplicated records, such as 0.
    pub(super) duplicated: Option<LimitFile>,
    /// Share of trials in which service is restored while it is watched, such as {rate: 95%, confidence: 95%}.
    pub(super) recovered: Option<RateFile>,
    /// Least share of good time between fault and the end of the settle step, such as ">= 90%".
    pub(super) availability: Option<ShareText>,
    /// Probes that must hold during the outage or after it.
    #[serde(default)]
    pub(super) assertions: Vec<AssertionFile>,
}

/// A limit for each trial, as text; or limits over all trials, as a mapping.
#[derive(Debug)]
pub(super) enum LimitFile {
    Each(LimitText),
    Over(Box<OverTrialsFile>),
}

impl<'de> Deserialize<'de> for LimitFile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let value = serde_json::Value::deserialize(deserializer)?;
        if let Some(text) = value.as_str() {
            return Ok(Self::Each(LimitText(text.to_owned())));
        }
        serde_json::from_value(value).map(Self::Over).map_err(D::Error::custom)
    }
}

impl JsonSchema for LimitFile {
    fn schema_name() -> Cow<'static, str> {
        "LimitOfTrials".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (each, over) = (
            generator.subschema_for::<LimitText>(),
            generator.subschema_for::<OverTrialsFile>(),
        );
        json_schema!({"anyOf": [each, over]})
    }
}

/// Limits over the trials. `p95: 120s` says: in at least 95 % of all trials that could be run the value is at most 120 s. It holds
/// with the confidence given, and needs trials: 59 without a miss for p95 at 95 %.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OverTrialsFile {
    /// In each trial: the same as the plain text.
    pub(super) each: Option<LimitText>,
    /// The largest value of the trials that were run.
    pub(super) max: Option<LimitText>,
    /// Median: needs at least 5 trials at 95 %.
    pub(super) p50: Option<LimitText>,
    /// Needs at least 11 trials at 95 %.
    pub(super) p75: Option<LimitText>,
    /// Needs at least 14 trials at 95 %.
    pub(super) p80: Option<LimitText>,
    /// Needs at least 29 trials at 95 %.
    pub(super) p90: Option<LimitText>,
    /// Needs at least 59 trials at 95 %.
    pub(super) p95: Option<LimitText>,
    /// Needs at least 299 trials at 95 %.
    pub(super) p99: Option<LimitText>,
    /// Needs at least 2995 trials at 95 %.
    #[serde(rename = "p99.9")]
    pub(super) p999: Option<LimitText>,
    /// How sure the verdict on a quantile has to be (default 95%).
    pub(super) confidence: Option<ShareText>,
}

/// A share of trials.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RateFile {
    /// Least share of all trials that could be run.
    pub(super) rate: ShareText,
    /// How sure the verdict has to be (default 95%).
    pub(super) confidence: Option<ShareText>,
}

/// A probe as a limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AssertionFile {
    /// `during` (every sample between injection and recovery) or `after` (every sample of the settle step).
    #[schemars(extend("enum" = ["during", "after"]))]
    pub(super) when: String,
    /// The condition; its name is the claim's name.
    pub(super) probe: ProbeFile,
}

/// Where numbered records go in and come out. A plain path is read by exec in a pod that mounts the volume; a URL is read by this
/// machine: file, s3, gs, az, abfss, http, https, kafka.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LedgerFile {
    /// Labels of a pod that can read the volume and is not itself a target. Needed for plain paths.
    #[schemars(extend("examples" = [{"app": "ledger"}]))]
    pub(super) reader: Option<BTreeMap<String, String>>,
    /// Container of that pod (default: the first).
    pub(super) container: Option<String>,
    /// The producer's own log: lines `first_id last_id at_ms acked_ms`, or `first_id last_id at_ms -` for an attempt. Of an object
    /// store also a folder (with a slash at the end).
    #[schemars(extend("examples" = ["/data/acked.log", "s3://bucket/ledger/acked.log"]))]
    pub(super) acknowledged: String,
    /// Where the records come out: a folder of Spark's file sink, a file or folder of JSON lines, or a topic.
    #[schemars(extend("examples" = ["/data/out", "s3://bucket/out", "kafka://broker:9092/orders"]))]
    pub(super) sink: String,
    /// How the sink says what is committed: `spark-file-sink` (the default: JSON lines in the files of its `_spark_metadata` manifest) or
    /// `json-lines` (every complete line; always so for http and kafka).
    #[schemars(extend("enum" = ["spark-file-sink", "json-lines", null]))]
    pub(super) format: Option<String>,
    /// Field with the number of a record (default id).
    pub(super) id_field: Option<String>,
    /// Field with the key of a record; then records that come after a later one of their key are counted.
    pub(super) key_field: Option<String>,
    /// Checkpoint folder with `offsets/` and `commits/`. Needed with spark-file-sink, and for progress probes.
    pub(super) checkpoint: Option<String>,
    /// How object stores are reached. Credentials come from the environment, never from this file.
    #[serde(default)]
    pub(super) storage: StorageFile,
    /// The producer's clock is within so much of this machine's, such as 100ms. Without it the clock of the reader's pod is measured.
    pub(super) clock_within: Option<DurationText>,
    /// How often commits are looked for (default 100ms; 1s when the checkpoint is not in a pod).
    pub(super) interval: Option<DurationText>,
    /// How long the audit waits for acknowledged records before they count as lost (default 60s).
    pub(super) drain: Option<DurationText>,
}

/// How an object store is reached.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StorageFile {
    /// Address of the service, where it is not the provider's own (MinIO, Ceph, an emulator).
    #[schemars(extend("examples" = ["https://minio.example:9000"]))]
    pub(super) endpoint: Option<String>,
    /// Region (S3; default from the environment, else us-east-1).
    pub(super) region: Option<String>,
    /// Storage account (Azure), when the URL does not name it.
    pub(super) account: Option<String>,
    /// Speak http without TLS to the endpoint (default false).
    #[serde(default)]
    pub(super) allow_http: bool,
    /// Do not sign requests: for public buckets (default false).
    #[serde(default)]
    pub(super) anonymous: bool,
}

/// Where Prometheus answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PrometheusFile {
    /// http or https URL.
    #[schemars(extend("examples" = ["http://prometheus.example:9090"]))]
    pub(super) url: String,
}

/// How often.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TrialsFile {
    /// Number of trials with the fault (default 1; with untilDecided the most, default 1000).
    #[schemars(range(min = 1, max = 10000))]
    pub(super) count: Option<u32>,
    /// Look at the verdict after each trial and stop when it is there, by a rule that stays valid however often one looks.
    #[serde(default)]
    pub(super) until_decided: bool,
    /// Begin no further trial after this long.
    pub(super) max_time: Option<DurationText>,
    /// Pause between two trials (default 10s).
    pub(super) cooldown: Option<DurationText>,
    /// `random-within 30s`: inject at a random phase of that period, spread evenly over the trials. Use the checkpoint or trigger
    /// interval: what is lost depends on where in it the fault falls. With a ledger the phase is counted from a commit.
    #[schemars(extend("pattern" = r"^\s*random-within\s+([0-9]+(\.[0-9]+)?(ms|s|m|h))+\s*$", "examples" = ["random-within 30s"]))]
    pub(super) phase: Option<String>,
    /// Number of control trials (default 0): the same without the fault, at random places in between. An outage in one of them
    /// means that what is measured is not the fault.
    #[schemars(range(max = 10000))]
    pub(super) control: Option<u32>,
    /// Run all trials, also when the verdict cannot change any more (default false).
    #[serde(default)]
    pub(super) run_all: bool,
}

/// How long each step may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TimeoutsFile {
    /// Manifests applied and the target there (default 2m).
    pub(super) setup: Option<DurationText>,
    /// Steady state before the fault (default 5m).
    pub(super) baseline: Option<DurationText>,
    /// From the fault to service restored (default: the rto limit and a quarter, at least 60s).
    pub(super) recovery: Option<DurationText>,
    /// Observation after recovery (default 15s).
    pub(super) settle: Option<DurationText>,
}

/// What is refused.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GuardsFile {
    /// Namespaces that are never touched, `*` at the end as wildcard (default: kube-*, chaos-mesh, litmus, monitoring,
    /// spark-operator, istio-system, cert-manager).
    pub(super) protected_namespaces: Option<Vec<String>>,
    /// Largest share of a role's pods that one fault may hit, in percent (default 50). A single pod may always be hit.
    #[schemars(range(min = 1, max = 100))]
    pub(super) max_percent: Option<u8>,
    /// How long taking one thing back may take before it is reported as left (default 1m, at least 2s). It is tried four times.
    pub(super) revert: Option<DurationText>,
    /// How long a fault outlives a runner that died, before the cluster itself removes it (default 2m). A runner that lives renews it.
    pub(super) deadline: Option<DurationText>,
}

macro_rules! text_type {
    ($name:ident, $schema_name:literal, $types:tt, $description:literal, $pattern:literal, $examples:tt) => {
        #[doc = $description]
        #[derive(Debug, Clone, Deserialize)]
        #[serde(transparent)]
        pub(super) struct $name(pub(super) String);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $schema_name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": $types, "description": $description, "pattern": $pattern, "examples": $examples})
            }
        }
    };
}

text_type!(
    DurationText,
    "Duration",
    "string",
    "A span of time with its unit: 250ms, 10s, 2m, 1h30m.",
    r"^\s*([0-9]+(\.[0-9]+)?(ms|s|m|h))+\s*$",
    ["250ms", "10s", "2m"]
);
text_type!(
    ComparisonText,
    "Comparison",
    ["string", "number"],
    "A condition on a number: \">= 2\", \"== 0\", \"< 1.5\". A plain number means exactly that.",
    r"^\s*(==|!=|<=|>=|<|>)?\s*-?[0-9]+(\.[0-9]+)?\s*$",
    [">= 2", "== 0"]
);
text_type!(
    LimitText,
    "Limit",
    ["string", "number"],
    "An upper limit: \"< 120s\" or \"<= 5\". Without an operator it is <=. Times need their unit.",
    r"^\s*(<=|<)?\s*([0-9]+(\.[0-9]+)?(ms|s|m|h)?)+\s*$",
    ["< 120s", 0]
);
text_type!(
    AmountText,
    "Amount",
    "string",
    "An amount of memory or disk: 256Mi, 1Gi, 500M, or a share: 80%. A share of memory is one of the container's limit.",
    r"^\s*[0-9]+(\.[0-9]+)?\s*(Ki|Mi|Gi|Ti|k|M|G|T|%)\s*$",
    ["256Mi", "80%"]
);
text_type!(
    RateText,
    "Rate",
    "string",
    "A data rate: 500kbit, 1mbit, 1gbit.",
    r"^\s*[0-9]+\s*(kbit|mbit|gbit)\s*$",
    ["1mbit"]
);
text_type!(
    PercentText,
    "Percent",
    ["string", "number"],
    "A share in percent: 25%.",
    r"^\s*[0-9]+\s*%?\s*$",
    ["25%"]
);
text_type!(
    OffsetText,
    "Offset",
    "string",
    "How far a clock is off, with its unit: -10m (behind), 90s (ahead).",
    r"^\s*[+-]?([0-9]+(\.[0-9]+)?(ms|s|m|h))+\s*$",
    ["-10m", "90s"]
);
text_type!(
    ErrnoText,
    "Errno",
    ["string", "number"],
    "An error of the operating system, by name or number: EIO, ENOSPC, 5.",
    r"^\s*([A-Z][A-Z0-9]*|[0-9]+)\s*$",
    ["EIO", "ENOSPC"]
);
text_type!(
    ShareText,
    "Share",
    "string",
    "A lower limit on a share: \">= 90%\".",
    r"^\s*(>=)?\s*[0-9]+(\.[0-9]+)?\s*%\s*$",
    [">= 90%"]
);

/// The schema that a document is checked against once its variables are filled in.
pub(super) fn filled_in_schema() -> &'static serde_json::Value {
    static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(|| {
        let mut schema = schemars::schema_for!(ExperimentFile).to_value();
        if let Some(root) = schema.as_object_mut() {
            root.insert("title".to_owned(), "chaosrun experiment".into());
        }
        schema
    });
    &SCHEMA
}

/// The JSON Schema of an experiment file, for editors: a variable may stand wherever a single value does.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    let mut schema = filled_in_schema().clone();
    allow_variables(&mut schema);
    schema
}

/// A text with `${` in it can become anything.
const VARIABLE: &str = r"\$\{";

fn allow_variables(schema: &mut serde_json::Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    for key in ["properties", "$defs"] {
        let members = object.get_mut(key).and_then(|held| held.as_object_mut());
        for (_, member) in members.into_iter().flatten() {
            allow_variables(member);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            allow_variables(inner);
        }
    }
    let choices = object.get_mut("anyOf").and_then(|held| held.as_array_mut());
    for choice in choices.into_iter().flatten() {
        allow_variables(choice);
    }
    if let Some(serde_json::Value::String(pattern)) = object.get_mut("pattern") {
        *pattern = format!("{pattern}|{VARIABLE}");
        return;
    }
    let single = |kind: &serde_json::Value| kind == "integer" || kind == "boolean";
    let typed = object
        .get("type")
        .is_some_and(|kind| single(kind) || kind.as_array().is_some_and(|kinds| kinds.iter().any(single)));
    if !typed && !object.contains_key("enum") && !object.contains_key("const") {
        return;
    }
    // What describes the value stays outside, what limits it becomes one of two choices.
    let limits = ["type", "enum", "const", "format", "minimum", "maximum"];
    let mut plain = serde_json::Map::new();
    for key in limits {
        if let Some(held) = object.shift_remove(key) {
            plain.insert(key.to_owned(), held);
        }
    }
    let variable = serde_json::json!({"type": "string", "pattern": VARIABLE});
    object.insert("anyOf".to_owned(), serde_json::json!([plain, variable]));
}
