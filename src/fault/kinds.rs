//! The kinds of fault and their settings.

use super::chaos_mesh_forms::{HttpEffect, HttpSide, JvmEffect};
use super::duration_millis;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A signal that a container kill can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    /// SIGKILL: no handler runs.
    Kill,
    /// SIGTERM: a polite end.
    Term,
    /// SIGINT.
    Int,
    /// SIGSEGV: looks like a crash.
    Segv,
    /// SIGABRT: looks like a failed assertion.
    Abrt,
}

impl Signal {
    /// Name as `kill -s` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Segv => "SEGV",
            Self::Abrt => "ABRT",
        }
    }
}

/// How much memory or disk is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// A share in percent: of the container's memory limit, or of the filesystem's size. More than 100 goes past it.
    Percent(u32),
}

impl std::fmt::Display for Amount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(formatter, "{bytes} bytes"),
            Self::Percent(percent) => write!(formatter, "{percent} %"),
        }
    }
}

/// Which traffic is meant, as the chosen pods see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// What they send to the other side.
    To,
    /// What the other side sends to them.
    From,
    /// Both.
    Both,
}

impl Direction {
    /// The word in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::To => "to",
            Self::From => "from",
            Self::Both => "both",
        }
    }
}

/// The other side of a network fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// Pods with all of these labels.
    Pods {
        /// Their namespace.
        namespace: String,
        /// Exact matches, all of them, at least one.
        labels: Vec<(String, String)>,
    },
    /// An address range outside, such as `10.9.0.0/16`.
    Cidr(String),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pods { namespace, labels } => {
                let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(formatter, "pods with {} in {namespace}", labels.join(", "))
            }
            Self::Cidr(range) => formatter.write_str(range),
        }
    }
}

/// An object that a fault acts on, when it is not the target's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `group/version`, or `v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StorageLoss {
    /// Moved aside, so that it is not there; moved back at the end.
    Removed,
    /// Its permissions are taken away; put back at the end. A process that runs as root reads it all the same.
    Unreadable,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FaultKind {
    /// DELETE of the pod with this grace period (0: the object goes at once, as after a lost node).
    PodKill {
        /// `gracePeriodSeconds` of the delete call.
        grace_seconds: u32,
    },
    /// Eviction of the pod: a deletion that disruption budgets may refuse.
    PodEvict {
        /// `gracePeriodSeconds`; the pod's own when missing.
        grace_seconds: Option<u32>,
    },
    /// A signal to every process of one container but its init, or to the init when it is alone, sent by exec.
    ContainerKill {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// Which signal.
        signal: Signal,
    },
    /// Every process of one container is stopped (SIGSTOP), and continued at the end.
    ProcessPause {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
    },
    /// Memory is taken inside one container, in its own control group.
    MemoryStress {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// How much, on top of what the container uses (bytes), or up to which share of its limit (percent).
        amount: Amount,
    },
    /// Processor time is taken inside one container.
    CpuStress {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// Number of busy processes.
        workers: u32,
        /// Share of time in percent that each is busy.
        load: u8,
    },
    /// A file is written until the filesystem of `path` is so full.
    DiskFill {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// A folder.
        path: String,
        /// How much is written (bytes), or up to which share of the filesystem (percent).
        amount: Amount,
    },
    /// A file or folder of a container is lost for a while.
    StorageLoss {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// The path inside the container.
        path: String,
        /// How it is lost.
        how: StorageLoss,
    },
    /// No traffic between the chosen pods and the other side.
    NetworkPartition {
        /// The other side; everybody when missing.
        peer: Option<Peer>,
        /// Which way.
        direction: Direction,
        /// Only these TCP ports of the receiving side; all when empty.
        ports: Vec<u16>,
    },
    /// A share of the packets that the chosen pods send is lost.
    NetworkLoss {
        /// Percent of packets.
        percent: u8,
    },
    /// Packets that the chosen pods send arrive later.
    NetworkDelay {
        /// By so much.
        #[serde(with = "duration_millis")]
        latency: Duration,
        /// More or less by so much.
        #[serde(with = "duration_millis")]
        jitter: Duration,
    },
    /// What the chosen pods send is limited to this rate.
    NetworkBandwidth {
        /// Kilobits per second.
        kilobits: u64,
    },
    /// Names can no longer be resolved in the chosen pods.
    DnsFailure {},
    /// The nodes of the chosen pods take no new pods.
    NodeCordon {},
    /// The nodes of the chosen pods take no new pods, and the pods of the target's namespace on them are evicted.
    NodeDrain {
        /// `gracePeriodSeconds` of the evictions; the pods' own when missing.
        grace_seconds: Option<u32>,
    },
    /// A workload is scaled, and scaled back at the end.
    Scale {
        /// Which; the target's own when missing.
        object: Option<ObjectRef>,
        /// To so many.
        replicas: u32,
    },
    /// An object is deleted, and made again at the end.
    DeleteResource {
        /// Which; the target's own when missing.
        object: Option<ObjectRef>,
    },
    /// The workload is given an image that cannot be pulled, and its own image back at the end.
    ImagePullFailure {
        /// Container name; `None` means the first container of the pod template.
        container: Option<String>,
    },
    /// Calls on files take longer. Only by Chaos Mesh.
    IoDelay {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// Where the container mounts a volume.
        path: String,
        /// By so much.
        #[serde(with = "duration_millis")]
        latency: Duration,
        /// Only these calls; every one when empty.
        methods: Vec<String>,
        /// Percent of the calls.
        percent: u8,
    },
    /// Calls on files fail. Only by Chaos Mesh.
    IoError {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// Where the container mounts a volume.
        path: String,
        /// With this error.
        errno: u32,
        /// Only these calls; every one when empty.
        methods: Vec<String>,
        /// Percent of the calls.
        percent: u8,
    },
    /// The clock of a container is wrong. Only by Chaos Mesh.
    ClockSkew {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// By so many milliseconds: less than 0 is the past.
        offset_millis: i64,
    },
    /// HTTP requests or responses are changed. Only by Chaos Mesh.
    HttpFault {
        /// The pods' own port.
        port: u16,
        /// Which half of an exchange.
        side: HttpSide,
        /// Only these paths, `*` for anything; all when missing.
        path: Option<String>,
        /// Only this method; all when missing.
        method: Option<String>,
        /// What becomes of it.
        effect: HttpEffect,
    },
    /// Something happens inside a Java program. Only by Chaos Mesh.
    JvmFault {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// What.
        effect: JvmEffect,
    },
    /// An object of Chaos Mesh, with any spec; the pods are chosen by chaosrun.
    ChaosMesh {
        /// Kind, such as `IOChaos`.
        resource: String,
        /// Its `spec` without selector, mode and duration.
        spec: serde_json::Value,
    },
    /// An experiment of Litmus, with any variables; the pods are chosen by chaosrun.
    Litmus {
        /// Name of the ChaosExperiment, such as `pod-io-stress`.
        experiment: String,
        /// Its variables, without those that choose targets and times.
        env: std::collections::BTreeMap<String, String>,
    },
}

/// What a lasting fault ends with, besides its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It is in the pod's network namespace or in a folder of the pod.
    Pod,
    /// It is a process in a container, or the state of one.
    Container,
    /// The pod had to be marked to be told from others, and its replacement is not marked.
    PodIfMarked,
}

impl FaultKind {
    /// What the effect ends with; none when it outlives pods, or is over in an instant.
    #[must_use]
    pub fn life(&self, injector: super::Injector) -> Option<Life> {
        match self {
            Self::ProcessPause { .. }
            | Self::MemoryStress { .. }
            | Self::CpuStress { .. }
            | Self::IoDelay { .. }
            | Self::IoError { .. }
            | Self::ClockSkew { .. }
            | Self::JvmFault { .. } => Some(Life::Container),
            Self::NetworkLoss { .. }
            | Self::NetworkDelay { .. }
            | Self::NetworkBandwidth { .. }
            | Self::DnsFailure {}
            | Self::HttpFault { .. } => Some(Life::Pod),
            Self::NetworkPartition { .. } if injector == super::Injector::Direct => Some(Life::PodIfMarked),
            Self::NetworkPartition { .. } => Some(Life::Pod),
            Self::ChaosMesh { resource, spec } => super::chaos_mesh::life(resource, spec),
            // Its own pods go after what has the name or the label, whichever that is.
            Self::Litmus { .. } => Some(Life::Pod),
            // What is lost or full may be on a claim, which the replacement gets as well.
            Self::DiskFill { .. }
            | Self::StorageLoss { .. }
            | Self::PodKill { .. }
            | Self::PodEvict { .. }
            | Self::ContainerKill { .. }
            | Self::NodeCordon {}
            | Self::NodeDrain { .. }
            | Self::Scale { .. }
            | Self::DeleteResource { .. }
            | Self::ImagePullFailure { .. } => None,
        }
    }

    /// The key in an experiment file.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::PodKill { .. } => "podKill",
            Self::PodEvict { .. } => "podEvict",
            Self::ContainerKill { .. } => "containerKill",
            Self::ProcessPause { .. } => "processPause",
            Self::MemoryStress { .. } => "memoryStress",
            Self::CpuStress { .. } => "cpuStress",
            Self::DiskFill { .. } => "diskFill",
            Self::StorageLoss { .. } => "storageLoss",
            Self::NetworkPartition { .. } => "networkPartition",
            Self::NetworkLoss { .. } => "networkLoss",
            Self::NetworkDelay { .. } => "networkDelay",
            Self::NetworkBandwidth { .. } => "networkBandwidth",
            Self::DnsFailure {} => "dnsFailure",
            Self::NodeCordon {} => "nodeCordon",
            Self::NodeDrain { .. } => "nodeDrain",
            Self::Scale { .. } => "scale",
            Self::DeleteResource { .. } => "deleteResource",
            Self::ImagePullFailure { .. } => "imagePullFailure",
            Self::IoDelay { .. } => "ioDelay",
            Self::IoError { .. } => "ioError",
            Self::ClockSkew { .. } => "clockSkew",
            Self::HttpFault { .. } => "httpFault",
            Self::JvmFault { .. } => "jvmFault",
            Self::ChaosMesh { .. } => "chaosMesh",
            Self::Litmus { .. } => "litmus",
        }
    }

    /// The key with its article, for sentences.
    #[must_use]
    pub fn with_article(&self) -> String {
        let word = self.word();
        let article = if word.starts_with(['a', 'e', 'i', 'o']) {
            "an"
        } else {
            "a"
        };
        format!("{article} {word}")
    }

    /// Over in an instant: nothing is kept up, and the system itself has to recover.
    #[must_use]
    pub fn is_one_shot(&self) -> bool {
        matches!(
            self,
            Self::PodKill { .. } | Self::PodEvict { .. } | Self::ContainerKill { .. }
        )
    }

    /// Whether nobody but Chaos Mesh can do it, though it has a key of its own.
    #[must_use]
    pub fn only_by_chaos_mesh(&self) -> bool {
        super::chaos_mesh_forms::spec_of(self).is_some()
    }

    /// The container that it acts in: none when it does not act inside one, else the name, if one was given.
    #[must_use]
    pub fn inside(&self) -> Option<Option<&str>> {
        match self {
            Self::ContainerKill { container, .. }
            | Self::ProcessPause { container }
            | Self::MemoryStress { container, .. }
            | Self::CpuStress { container, .. }
            | Self::DiskFill { container, .. }
            | Self::StorageLoss { container, .. }
            | Self::IoDelay { container, .. }
            | Self::IoError { container, .. }
            | Self::ClockSkew { container, .. }
            | Self::JvmFault { container, .. } => Some(container.as_deref()),
            _ => None,
        }
    }

    /// The object that it acts on, when it acts on no pods: none when it acts on pods, else the object, if one was named.
    #[must_use]
    pub fn on_object(&self) -> Option<Option<&ObjectRef>> {
        match self {
            Self::Scale { object, .. } | Self::DeleteResource { object } => Some(object.as_ref()),
            Self::ImagePullFailure { .. } => Some(None),
            _ => None,
        }
    }

    /// Whether it acts on the nodes of the chosen pods.
    #[must_use]
    pub fn on_nodes(&self) -> bool {
        matches!(self, Self::NodeCordon {} | Self::NodeDrain { .. })
    }
}
