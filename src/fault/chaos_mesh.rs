//! Faults in the words of Chaos Mesh: which kind, and which spec.
//!
//! Selector, mode and duration are the injector's: it names the exact pods. Pure; may depend on the rest of `fault`. What is special
//! about a Schedule and a Workflow stands in `chaos_mesh_flow`. Facts: `specs/chaos-mesh.md`, section 3.

use super::chaos_mesh_flow as flow;
use super::chaos_mesh_forms as forms;
use super::kinds::{Amount, FaultKind, Life, Peer, Signal};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// An object of Chaos Mesh, without selector, mode and duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChaosMeshObject {
    /// Kind, such as `NetworkChaos`, `Schedule` or `Workflow`.
    pub kind: String,
    /// Spec.
    pub spec: Value,
}

impl ChaosMeshObject {
    /// The plural, for the URL. Of an experiment, singular and plural are the same word, which no pluraliser would guess.
    #[must_use]
    pub fn plural(&self) -> String {
        plural_of(&self.kind)
    }

    /// It does nothing itself, but makes experiments: a Schedule or a Workflow.
    #[must_use]
    pub fn is_flow(&self) -> bool {
        flow::is_flow(&self.kind)
    }

    /// Kind and spec of every experiment in it: of what it makes, or of itself.
    #[must_use]
    pub fn experiments(&self) -> Vec<(&str, &Value)> {
        if self.is_flow() {
            flow::experiments(&self.kind, &self.spec)
        } else {
            vec![(self.kind.as_str(), &self.spec)]
        }
    }

    /// Plurals of the experiments in it.
    #[must_use]
    pub fn experiment_plurals(&self) -> BTreeSet<String> {
        self.experiments()
            .into_iter()
            .map(|(kind, _)| plural_of(kind))
            .collect()
    }

    /// Plurals of everything that has to be served for it.
    #[must_use]
    pub fn plurals(&self) -> BTreeSet<String> {
        let mut plurals = self.experiment_plurals();
        plurals.insert(self.plural());
        if self.kind == "Workflow" {
            plurals.insert("workflownodes".to_owned());
        }
        plurals
    }

    /// Applied once, and never taken back: its success is its end.
    #[must_use]
    pub fn is_one_shot(&self) -> bool {
        is_one_shot(&self.kind, &self.spec)
    }

    /// Whether a daemon on the target's node does it; pods are deleted and patched by the controller-manager alone.
    #[must_use]
    pub fn needs_daemon(&self) -> bool {
        let by_controller = |(kind, spec): &(&str, &Value)| {
            *kind == "PodChaos" && matches!(action(spec), Some("pod-kill" | "pod-failure"))
        };
        !self.experiments().iter().all(by_controller)
    }

    /// Whether containers have to be named in it that the user did not name.
    #[must_use]
    pub fn wants_containers(&self) -> bool {
        let wants =
            |(kind, spec): &(&str, &Value)| names_containers(kind, spec) && spec.get("containerNames").is_none();
        self.experiments().iter().any(wants)
    }

    /// The spec for exactly these pods; and for these containers, where the kind acts on containers. In a Schedule or a Workflow they
    /// are written into every experiment, and there the containers that the user named hold.
    #[must_use]
    pub fn for_pods(&self, namespace: &str, pods: &[&str], containers: &[&str]) -> Value {
        let chosen = json!({"mode": "all", "selector": {"pods": {namespace: pods}}});
        let mut wanted = self.spec.clone();
        if self.is_flow() {
            flow::each_experiment(&self.kind, &mut wanted, |kind, spec| {
                merge(spec, &chosen);
                if names_containers(kind, spec) && spec.get("containerNames").is_none() && !containers.is_empty() {
                    set(spec, "containerNames", json!(containers));
                }
            });
        } else {
            merge(&mut wanted, &chosen);
            if names_containers(&self.kind, &wanted) && !containers.is_empty() {
                set(&mut wanted, "containerNames", json!(containers));
            }
        }
        wanted
    }
}

fn plural_of(kind: &str) -> String {
    match kind {
        "Schedule" => "schedules".to_owned(),
        "Workflow" => "workflows".to_owned(),
        experiment => experiment.to_lowercase(),
    }
}

fn action(spec: &Value) -> Option<&str> {
    spec.get("action").and_then(Value::as_str)
}

/// Whether an experiment is applied once, and never taken back.
#[must_use]
pub fn is_one_shot(kind: &str, spec: &Value) -> bool {
    kind == "PodChaos" && matches!(action(spec), Some("pod-kill" | "container-kill"))
}

/// Whether an experiment acts on containers, so that `containerNames` counts.
fn names_containers(kind: &str, spec: &Value) -> bool {
    matches!(kind, "StressChaos" | "IOChaos" | "DNSChaos" | "TimeChaos" | "JVMChaos")
        || action(spec) == Some("container-kill")
}

/// What ends an object's effect besides its own end: of several, whatever is ended soonest.
pub(super) fn life(kind: &str, spec: &Value) -> Option<Life> {
    let object = ChaosMeshObject {
        kind: kind.to_owned(),
        spec: spec.clone(),
    };
    let kinds: BTreeSet<&str> = object.experiments().into_iter().map(|(kind, _)| kind).collect();
    if kinds.contains("PodChaos") {
        // Its victims are meant to be replaced.
        return None;
    }
    let in_container = ["StressChaos", "TimeChaos", "JVMChaos", "IOChaos"];
    let ends_with_container = kinds.iter().any(|kind| in_container.contains(kind));
    Some(if ends_with_container {
        Life::Container
    } else {
        Life::Pod
    })
}

/// Kinds that select pods and can be told exactly which.
pub(super) const KINDS: [&str; 8] = [
    "PodChaos",
    "NetworkChaos",
    "StressChaos",
    "IOChaos",
    "DNSChaos",
    "TimeChaos",
    "HTTPChaos",
    "JVMChaos",
];

/// Plurals of all of them.
#[must_use]
pub fn chaos_mesh_plurals() -> BTreeSet<String> {
    KINDS.iter().map(|kind| plural_of(kind)).collect()
}

/// Whether a kind can be told exactly which pods.
///
/// # Errors
/// Why not, for the reader of the file.
pub(super) fn known_kind(kind: &str, also: &str) -> Result<(), String> {
    if kind == "KernelChaos" {
        return Err("KernelChaos cannot be applied by any Chaos Mesh from 2.5 on (its issue 4059)".to_owned());
    }
    if KINDS.contains(&kind) {
        Ok(())
    } else {
        Err(format!("{kind:?} is none of {}{also}", KINDS.join(", ")))
    }
}

/// That none of `keys` was written.
///
/// # Errors
/// Which one was, for the reader of the file.
pub(super) fn is_ours(spec: &Value, keys: &[&str], place: &str) -> Result<(), String> {
    match keys.iter().find(|key| spec.get(**key).is_some()) {
        Some(key) => Err(format!(
            "{key}{place} is chaosrun's: the pods are chosen by role, labels and mode of the fault"
        )),
        None => Ok(()),
    }
}

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
            if flow::is_flow(resource) {
                return object(resource, flow::checked(resource, spec)?);
            }
            known_kind(resource, ", Schedule, Workflow")?;
            is_ours(spec, &["selector", "mode", "value", "duration"], "")?;
            object(resource, spec.clone())
        }
        other => forms::spec_of(other).map_or_else(
            || Err(format!("Chaos Mesh has no kind that does a {}", other.word())),
            |(kind, spec)| object(kind, spec),
        ),
    }
}

/// Adds the members of one object to another.
fn merge(spec: &mut Value, more: &Value) {
    if let (Some(held), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        held.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

pub(super) fn set(spec: &mut Value, key: &str, value: Value) {
    if let Some(held) = spec.as_object_mut() {
        held.insert(key.to_owned(), value);
    }
}
