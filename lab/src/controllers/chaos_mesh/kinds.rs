//! The kinds of Chaos Mesh: names, and what makes one differ from another. Pure data.
//!
//! Central types: [`Experiment`] for what injects something, [`Kind`] for anything that is served.

use kube::api::ApiResource;
use serde_json::Value;

use crate::api::object::str_at;

/// Group of every kind.
pub(super) const GROUP: &str = "chaos-mesh.org";
/// The only version.
pub(super) const VERSION: &str = "v1alpha1";

/// A served kind, by its name; its plural is not what any pluraliser would make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub kind: &'static str,
    pub plural: &'static str,
}

pub(super) const SCHEDULE: Kind = Kind::new("Schedule", "schedules");
pub(super) const WORKFLOW: Kind = Kind::new("Workflow", "workflows");
pub(super) const WORKFLOW_NODE: Kind = Kind::new("WorkflowNode", "workflownodes");
pub(super) const POD_NETWORK: Kind = Kind::new("PodNetworkChaos", "podnetworkchaos");
pub(super) const POD_IO: Kind = Kind::new("PodIOChaos", "podiochaos");
pub(super) const POD_HTTP: Kind = Kind::new("PodHttpChaos", "podhttpchaos");

impl Kind {
    const fn new(kind: &'static str, plural: &'static str) -> Self {
        Self { kind, plural }
    }

    /// How kube names it.
    pub(super) fn resource(self) -> ApiResource {
        ApiResource {
            group: GROUP.to_owned(),
            version: VERSION.to_owned(),
            api_version: api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// `apiVersion` of every kind.
pub(super) fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

/// A kind whose objects inject something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Experiment {
    Pod,
    Network,
    Stress,
    Io,
    Dns,
    Time,
    Http,
    Kernel,
    Jvm,
    Block,
    Aws,
    Azure,
    Gcp,
    PhysicalMachine,
}

impl Experiment {
    /// All of them.
    pub(super) const ALL: [Self; 14] = [
        Self::Pod,
        Self::Network,
        Self::Stress,
        Self::Io,
        Self::Dns,
        Self::Time,
        Self::Http,
        Self::Kernel,
        Self::Jvm,
        Self::Block,
        Self::Aws,
        Self::Azure,
        Self::Gcp,
        Self::PhysicalMachine,
    ];

    /// The one with this kind.
    pub(super) fn of_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.kind().kind == kind)
    }

    /// Its names in the API.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Pod => Kind::new("PodChaos", "podchaos"),
            Self::Network => Kind::new("NetworkChaos", "networkchaos"),
            Self::Stress => Kind::new("StressChaos", "stresschaos"),
            Self::Io => Kind::new("IOChaos", "iochaos"),
            Self::Dns => Kind::new("DNSChaos", "dnschaos"),
            Self::Time => Kind::new("TimeChaos", "timechaos"),
            Self::Http => Kind::new("HTTPChaos", "httpchaos"),
            Self::Kernel => Kind::new("KernelChaos", "kernelchaos"),
            Self::Jvm => Kind::new("JVMChaos", "jvmchaos"),
            Self::Block => Kind::new("BlockChaos", "blockchaos"),
            Self::Aws => Kind::new("AWSChaos", "awschaos"),
            Self::Azure => Kind::new("AzureChaos", "azurechaos"),
            Self::Gcp => Kind::new("GCPChaos", "gcpchaos"),
            Self::PhysicalMachine => Kind::new("PhysicalMachineChaos", "physicalmachinechaos"),
        }
    }

    /// The field that holds its spec inside a Schedule or a template of a Workflow.
    pub(super) fn embedded_key(self) -> &'static str {
        match self {
            Self::Pod => "podChaos",
            Self::Network => "networkChaos",
            Self::Stress => "stressChaos",
            Self::Io => "ioChaos",
            Self::Dns => "dnsChaos",
            Self::Time => "timeChaos",
            Self::Http => "httpChaos",
            Self::Kernel => "kernelChaos",
            Self::Jvm => "jvmChaos",
            Self::Block => "blockChaos",
            Self::Aws => "awsChaos",
            Self::Azure => "azureChaos",
            Self::Gcp => "gcpChaos",
            Self::PhysicalMachine => "physicalmachineChaos",
        }
    }

    /// Applied by way of an internal object of the pod, in two steps.
    pub(super) fn internal(self) -> Option<Kind> {
        match self {
            Self::Network => Some(POD_NETWORK),
            Self::Io => Some(POD_IO),
            Self::Http => Some(POD_HTTP),
            _ => None,
        }
    }

    /// Applied once and never taken back.
    pub(super) fn is_one_shot(self, spec: &Value) -> bool {
        self == Self::Pod && matches!(str_at(spec, "/action"), Some("pod-kill" | "container-kill"))
    }

    /// Whether a record is about a container and not a whole pod.
    pub(super) fn is_in_containers(self, spec: &Value) -> bool {
        match self {
            Self::Pod => str_at(spec, "/action") == Some("container-kill"),
            Self::Stress | Self::Io | Self::Dns | Self::Time | Self::Jvm | Self::Block => true,
            _ => false,
        }
    }

    /// Whether it is about pods at all.
    pub(super) fn selects_pods(self) -> bool {
        !matches!(self, Self::Aws | Self::Azure | Self::Gcp | Self::PhysicalMachine)
    }
}
