//! Faults as a person writes them. Doc comments are what an editor shows.

use super::fault_forms::{ClockSkewFile, HttpFaultFile, IoDelayFile, IoErrorFile, JvmFaultFile};
use super::file::{AmountText, DurationText, ModeFile, PercentText, RateText};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One fault: a name and exactly one of the keys that name a kind of fault.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FaultFile {
    /// Unique within the experiment.
    pub(super) name: String,
    /// Delete pods.
    pub(super) pod_kill: Option<PodKillFile>,
    /// Evict pods: a deletion that disruption budgets may refuse, and then the refusal is reported.
    pub(super) pod_evict: Option<PodEvictFile>,
    /// Send a signal into a container, by exec.
    pub(super) container_kill: Option<ContainerKillFile>,
    /// Stop every process of a container (SIGSTOP) and continue them at the end.
    pub(super) process_pause: Option<ProcessPauseFile>,
    /// Take memory inside a container, in its own control group. Past the limit the kernel kills the container (OOMKilled).
    pub(super) memory_stress: Option<MemoryStressFile>,
    /// Take processor time inside a container.
    pub(super) cpu_stress: Option<CpuStressFile>,
    /// Fill the filesystem of a folder with a file, and remove the file at the end.
    pub(super) disk_fill: Option<DiskFillFile>,
    /// A file or folder of a container is lost, and put back at the end.
    pub(super) storage_loss: Option<StorageLossFile>,
    /// No traffic between the chosen pods and the other side.
    pub(super) network_partition: Option<NetworkPartitionFile>,
    /// A share of the packets that the chosen pods send is lost.
    pub(super) network_loss: Option<NetworkLossFile>,
    /// What the chosen pods send arrives later.
    pub(super) network_delay: Option<NetworkDelayFile>,
    /// What the chosen pods send is limited to a rate.
    pub(super) network_bandwidth: Option<NetworkBandwidthFile>,
    /// Names can no longer be resolved in the chosen pods.
    pub(super) dns_failure: Option<DnsFailureFile>,
    /// The nodes of the chosen pods take no new pods.
    pub(super) node_cordon: Option<NodeCordonFile>,
    /// The nodes of the chosen pods take no new pods, and the pods of the target's namespace on them are evicted.
    pub(super) node_drain: Option<NodeDrainFile>,
    /// Scale a workload, and scale it back at the end. Without apiVersion, kind and name it is the target's own.
    pub(super) scale: Option<ScaleFile>,
    /// Delete an object, and make it again at the end. Without apiVersion, kind and name it is the target's own.
    pub(super) delete_resource: Option<DeleteResourceFile>,
    /// Give the target's pod template an image that cannot be pulled, and its own image back at the end.
    pub(super) image_pull_failure: Option<ImagePullFailureFile>,
    /// Calls on files of a volume take longer. Only by Chaos Mesh.
    pub(super) io_delay: Option<IoDelayFile>,
    /// Calls on files of a volume fail. Only by Chaos Mesh.
    pub(super) io_error: Option<IoErrorFile>,
    /// The clock of a container's program is wrong. Only by Chaos Mesh.
    pub(super) clock_skew: Option<ClockSkewFile>,
    /// HTTP requests or responses are changed. Only by Chaos Mesh.
    pub(super) http_fault: Option<HttpFaultFile>,
    /// Something happens inside a Java program. Only by Chaos Mesh.
    pub(super) jvm_fault: Option<JvmFaultFile>,
    /// Any kind of Chaos Mesh, also a Schedule or a Workflow, with its own words. The pods are chosen by chaosrun.
    pub(super) chaos_mesh: Option<ChaosMeshFile>,
    /// Any experiment of Litmus that acts on pods, with its own variables. The pods are chosen by chaosrun.
    pub(super) litmus: Option<LitmusFile>,
    /// How many: one (default), all, {fixed: 2} or {percent: 50}. Percentages round down.
    pub(super) mode: Option<ModeFile>,
    /// How long the effect is kept up; then it is taken back. Needed by every fault that lasts, refused by those that are over at
    /// once (podKill, podEvict, containerKill).
    pub(super) duration: Option<DurationText>,
    /// The fault may end with its victim: that the system replaced (or restarted) it while the fault should have lasted counts as its
    /// recovery. Default false: such a trial is inconclusive, because the fault was not kept up for its duration.
    pub(super) may_be_replaced: Option<bool>,
    /// Who does it: `direct` (default: the Kubernetes API alone, nothing is installed), `chaos-mesh` (default where nobody else can do it)
    /// or `litmus`.
    #[schemars(extend("enum" = ["direct", "chaos-mesh", "litmus", null]))]
    pub(super) injector: Option<String>,
    /// Offset from the start of the injection (default 0s).
    pub(super) after: Option<DurationText>,
    /// Do it several times (default: once).
    pub(super) repeat: Option<RepeatFile>,
}

/// A fault that is done several times; each time the targets are chosen anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RepeatFile {
    /// How often.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) times: u32,
    /// From the begin of one to the begin of the next.
    pub(super) every: DurationText,
}

/// Which pods of the target a fault may choose among.
pub(super) trait Selecting {
    /// Only this role.
    fn role(&self) -> Option<&String>;
    /// Only pods with these labels as well.
    fn labels(&self) -> Option<&BTreeMap<String, String>>;
}

macro_rules! selecting {
    ($($name:ident)*) => {
        $(impl Selecting for $name {
            fn role(&self) -> Option<&String> {
                self.role.as_ref()
            }

            fn labels(&self) -> Option<&BTreeMap<String, String>> {
                self.labels.as_ref()
            }
        })*
    };
}

selecting! {
    PodKillFile PodEvictFile ContainerKillFile ProcessPauseFile MemoryStressFile CpuStressFile DiskFillFile StorageLossFile NetworkPartitionFile NetworkLossFile NetworkDelayFile NetworkBandwidthFile DnsFailureFile NodeCordonFile NodeDrainFile ChaosMeshFile LitmusFile IoDelayFile IoErrorFile ClockSkewFile HttpFaultFile JvmFaultFile
}

/// The other side of a network fault: pods by role or labels, or an address range.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PeerFile {
    /// Pods of this role of the target.
    pub(super) role: Option<String>,
    /// Pods with these labels.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Namespace of those pods (default: the target's).
    pub(super) namespace: Option<String>,
    /// An IPv4 range outside of the cluster, such as a checkpoint store's. Pods are named by role or labels.
    #[schemars(extend("examples" = ["10.9.0.0/16"]))]
    pub(super) cidr: Option<String>,
}

/// Delete pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodKillFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Whole seconds of grace (default 0s: the pod object goes at once, as with a lost node).
    pub(super) grace_period: Option<DurationText>,
}

/// Evict pods: a deletion that disruption budgets may refuse, and then the refusal is reported.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodEvictFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Whole seconds of grace (default: the pod's own).
    pub(super) grace_period: Option<DurationText>,
}

/// Send a signal into a container, by exec.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContainerKillFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// Signal (default KILL). A container whose program is its own init ignores KILL from inside; use TERM there.
    #[schemars(extend("enum" = ["KILL", "TERM", "INT", "SEGV", "ABRT", null]))]
    pub(super) signal: Option<String>,
}

/// Stop every process of a container (SIGSTOP) and continue them at the end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProcessPauseFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
}

/// Take memory inside a container, in its own control group. Past the limit the kernel kills the container (OOMKilled).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MemoryStressFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// How much: bytes on top of what is used (256Mi), or up to which share of the memory limit (90%; 120% goes past it).
    pub(super) size: AmountText,
}

/// Take processor time inside a container.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CpuStressFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// Number of busy processes (default 1).
    #[schemars(range(min = 1, max = 1024))]
    pub(super) workers: Option<u32>,
    /// How busy each of them is (default 100%).
    pub(super) load: Option<PercentText>,
}

/// Fill the filesystem of a folder with a file, and remove the file at the end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DiskFillFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// A folder inside the container.
    pub(super) path: String,
    /// How much is written (1Gi), or up to which share of the filesystem (95%).
    pub(super) size: AmountText,
}

/// A file or folder of a container is lost, and put back at the end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StorageLossFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// The path inside the container.
    pub(super) path: String,
    /// `removed` (moved aside; the default) or `unreadable` (permissions taken away; root reads it all the same).
    #[schemars(extend("enum" = ["removed", "unreadable", null]))]
    pub(super) how: Option<String>,
}

/// No traffic between the chosen pods and the other side.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetworkPartitionFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// The other side (default: everybody).
    pub(super) peer: Option<PeerFile>,
    /// `to` (what the chosen pods send to it), `from` (what it sends to them) or `both` (default).
    #[schemars(extend("enum" = ["to", "from", "both", null]))]
    pub(super) direction: Option<String>,
    /// Only these TCP ports of the receiving side (default: all).
    #[serde(default)]
    pub(super) ports: Vec<u16>,
}

/// A share of the packets that the chosen pods send is lost.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetworkLossFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// How many of them.
    pub(super) percent: PercentText,
}

/// What the chosen pods send arrives later.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetworkDelayFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// By so much.
    pub(super) latency: DurationText,
    /// More or less by so much (default 0ms).
    pub(super) jitter: Option<DurationText>,
}

/// What the chosen pods send is limited to a rate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetworkBandwidthFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// The rate.
    pub(super) rate: RateText,
}

/// Names can no longer be resolved in the chosen pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DnsFailureFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// The nodes of the chosen pods take no new pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NodeCordonFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// The nodes of the chosen pods take no new pods, and the pods of the target's namespace on them are evicted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NodeDrainFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Whole seconds of grace (default: the pods' own).
    pub(super) grace_period: Option<DurationText>,
}

/// Scale a workload, and scale it back at the end. Without apiVersion, kind and name it is the target's own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ScaleFile {
    /// Such as `apps/v1`.
    pub(super) api_version: Option<String>,
    /// Such as `Deployment`.
    pub(super) kind: Option<String>,
    /// Name.
    pub(super) name: Option<String>,
    /// Namespace (default: the target's).
    pub(super) namespace: Option<String>,
    /// To so many replicas.
    #[schemars(range(min = 0, max = 100_000))]
    pub(super) replicas: u32,
}

/// Delete an object, and make it again at the end. Without apiVersion, kind and name it is the target's own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeleteResourceFile {
    /// Such as `sparkoperator.k8s.io/v1beta2`.
    pub(super) api_version: Option<String>,
    /// Such as `SparkApplication`.
    pub(super) kind: Option<String>,
    /// Name.
    pub(super) name: Option<String>,
    /// Namespace (default: the target's).
    pub(super) namespace: Option<String>,
}

/// Give the target's pod template an image that cannot be pulled, and its own image back at the end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ImagePullFailureFile {
    /// Container (default: the first one of the template).
    pub(super) container: Option<String>,
}

/// Any kind of Chaos Mesh, also a Schedule or a Workflow, with its own words. The pods are chosen by chaosrun.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ChaosMeshFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Such as `IOChaos`, `Schedule` or `Workflow`.
    pub(super) kind: String,
    /// Its spec without selector, mode, value and duration; they are left out of the experiments in a Schedule or a Workflow, too.
    pub(super) spec: serde_json::Map<String, serde_json::Value>,
}

/// Any experiment of Litmus that acts on pods, with its own variables. The pods are chosen by chaosrun.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LitmusFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Name of the ChaosExperiment, such as `pod-io-stress`.
    pub(super) experiment: String,
    /// Its variables without those that choose targets and times.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
}
