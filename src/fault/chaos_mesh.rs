//! Faults in the words of Chaos Mesh: which kind, and which spec.
//!
//! Selector, mode and duration are the injector's: it names the exact pods. Facts: `specs/chaos-mesh.md`, section 3.

use super::kinds::{Amount, FaultKind, Peer, Signal};
use serde_json::{Value, json};

/// An object of Chaos Mesh, without selector, mode and duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChaosMeshObject {
    /// Kind, such as `NetworkChaos`. Its plural is the kind in lower case.
    pub kind: String,
    /// Spec.
    pub spec: Value,
}

impl ChaosMeshObject {
    /// The plural, for the URL. Singular and plural are the same word, which no pluraliser would guess.
    #[must_use]
    pub fn plural(&self) -> String {
        self.kind.to_lowercase()
    }

    /// Applied once, and never taken back: its success is its end.
    #[must_use]
    pub fn is_one_shot(&self) -> bool {
        let action = self.spec.get("action").and_then(Value::as_str);
        self.kind == "PodChaos" && matches!(action, Some("pod-kill" | "container-kill"))
    }

    /// Whether a daemon on the target's node does it; pods are deleted and patched by the controller-manager alone.
    #[must_use]
    pub fn needs_daemon(&self) -> bool {
        let action = self.spec.get("action").and_then(Value::as_str);
        !(self.kind == "PodChaos" && matches!(action, Some("pod-kill" | "pod-failure")))
    }

    /// Whether it acts on containers, so that `containerNames` counts.
    #[must_use]
    pub fn names_containers(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "StressChaos" | "IOChaos" | "DNSChaos" | "TimeChaos" | "JVMChaos"
        ) || self.spec.get("action").and_then(Value::as_str) == Some("container-kill")
    }
}

/// Kinds that select pods and can be told exactly which.
const KINDS: [&str; 8] = [
    "PodChaos",
    "NetworkChaos",
    "StressChaos",
    "IOChaos",
    "DNSChaos",
    "TimeChaos",
    "HTTPChaos",
    "JVMChaos",
];

/// The object that does what a fault says.
///
/// # Errors
/// Why Chaos Mesh cannot do it, for the reader of the file.
pub fn chaos_mesh_object(fault: &FaultKind) -> Result<ChaosMeshObject, String> {
    let object = |kind: &str, spec: Value| {
        Ok(ChaosMeshObject {
            kind: kind.to_owned(),
            spec,
        })
    };
    match fault {
        FaultKind::PodKill { grace_seconds } => {
            object("PodChaos", json!({"action": "pod-kill", "gracePeriod": grace_seconds}))
        }
        FaultKind::ContainerKill {
            signal: Signal::Kill, ..
        } => object("PodChaos", json!({"action": "container-kill"})),
        FaultKind::ContainerKill { signal, .. } => {
            Err(format!("Chaos Mesh kills containers by SIGKILL only, not by SIG{}", signal.name()))
        }
        FaultKind::MemoryStress { amount, .. } => match amount {
            // Bytes rounded up to whole KiB: the smallest unit that its parser knows besides the byte.
            Amount::Bytes(bytes) => object(
                "StressChaos",
                json!({"stressors": {"memory": {"workers": 1, "size": format!("{}KiB", bytes.div_ceil(1024))}}}),
            ),
            Amount::Percent(_) => Err(
                "a share of memory means the container's limit here, and not the same in Chaos Mesh: give bytes, such as 256Mi"
                    .to_owned(),
            ),
        },
        FaultKind::CpuStress { workers, load, .. } => object(
            "StressChaos",
            json!({"stressors": {"cpu": {"workers": workers, "load": load}}}),
        ),
        FaultKind::NetworkPartition { peer, direction, ports } => {
            let mut spec = json!({"action": "partition", "direction": direction.word()});
            match peer {
                Some(Peer::Pods { namespace, labels }) => {
                    if !ports.is_empty() {
                        return Err("Chaos Mesh cannot limit a partition between pods to ports".to_owned());
                    }
                    let labels: serde_json::Map<String, Value> =
                        labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
                    set(&mut spec, "target", json!({
                        "mode": "all",
                        "selector": {"namespaces": [namespace], "labelSelectors": labels, "podPhaseSelectors": ["Running"]},
                    }));
                }
                Some(Peer::Cidr(range)) if ports.is_empty() => set(&mut spec, "externalTargets", json!([range])),
                Some(Peer::Cidr(range)) => {
                    let targets: Vec<String> = ports.iter().map(|port| format!("{range}:{port}")).collect();
                    set(&mut spec, "externalTargets", json!(targets));
                }
                None if ports.is_empty() => {}
                None => return Err("Chaos Mesh limits a partition to ports only towards a cidr".to_owned()),
            }
            object("NetworkChaos", spec)
        }
        FaultKind::NetworkLoss { percent } => object(
            "NetworkChaos",
            json!({"action": "loss", "direction": "to", "loss": {"loss": percent.to_string()}}),
        ),
        FaultKind::NetworkDelay { latency, jitter } => object(
            "NetworkChaos",
            json!({"action": "delay", "direction": "to", "delay": {
                "latency": format!("{}ms", latency.as_millis()), "jitter": format!("{}ms", jitter.as_millis())}}),
        ),
        FaultKind::NetworkBandwidth { kilobits } => object(
            "NetworkChaos",
            // Before 2.7 only bytes per second ("bps") were understood; they still are.
            json!({"action": "bandwidth", "direction": "to", "bandwidth": {
                "rate": format!("{}bps", kilobits * 125), "limit": 20_971_520, "buffer": 10_000}}),
        ),
        FaultKind::DnsFailure {} => object("DNSChaos", json!({"action": "error"})),
        FaultKind::ChaosMesh { resource, spec } => {
            if resource == "KernelChaos" {
                return Err("KernelChaos cannot be applied by any Chaos Mesh from 2.5 on (its issue 4059)".to_owned());
            }
            if !KINDS.contains(&resource.as_str()) {
                return Err(format!("{resource:?} is none of {}", KINDS.join(", ")));
            }
            let ours = ["selector", "mode", "value", "duration"];
            if let Some(key) = ours.iter().find(|key| spec.get(**key).is_some()) {
                return Err(format!("{key} is chaosrun's: the pods are chosen by role, labels and mode of the fault"));
            }
            object(resource, spec.clone())
        }
        other => Err(format!("Chaos Mesh has no kind that does a {}", other.word())),
    }
}

fn set(spec: &mut Value, key: &str, value: Value) {
    if let Some(held) = spec.as_object_mut() {
        held.insert(key.to_owned(), value);
    }
}
