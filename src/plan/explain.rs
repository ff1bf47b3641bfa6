//! What a fault does, how it ends when nobody ends it, and what proves it: for `plan` and for the documentation.

use crate::fault::{
    Direction, FaultKind, FaultSpec, Injector, LitmusEffect, StorageLoss, chaos_mesh_object, form_words,
    litmus_experiment,
};

/// A fault in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What it does, and by which means.
    pub does: String,
    /// How it ends when the runner is gone.
    pub ends: String,
    /// What has to be seen for it to count.
    pub proof: String,
}

const ONE_SHOT: &str = "a one-shot: there is nothing to end, the system under test has to recover";
const KEPT: &str = "it does not end by itself: what was there is kept on the object, and `chaosrun clean` puts it back from any machine";

/// Explains a fault.
#[must_use]
pub fn explain(fault: &FaultSpec) -> Explained {
    let words = |does: String, ends: &str, proof: &str| Explained {
        does,
        ends: ends.to_owned(),
        proof: proof.to_owned(),
    };
    match fault.injector {
        Injector::ChaosMesh => return by_chaos_mesh(fault),
        Injector::Litmus => return by_litmus(fault),
        Injector::Direct => {}
    }
    let seconds = fault.duration.unwrap_or_default().as_secs();
    let timer = format!("a timer inside the container ends it {} s after it began", seconds + 5);
    let inside = |container: &Option<String>| container.clone().unwrap_or_else(|| "the first container".to_owned());
    match &fault.kind {
        FaultKind::PodKill { grace_seconds } => words(
            format!("delete with a grace period of {grace_seconds} s"),
            ONE_SHOT,
            "the pod's UID is gone",
        ),
        FaultKind::PodEvict { grace_seconds } => words(
            format!("evict with {}; a disruption budget may refuse", grace(*grace_seconds)),
            ONE_SHOT,
            "the pod's UID is gone",
        ),
        FaultKind::ContainerKill { container, signal } => words(
            format!("SIG{} inside {}, by exec", signal.name(), inside(container)),
            ONE_SHOT,
            "the container ended or has a new id",
        ),
        FaultKind::ProcessPause { container } => words(
            format!("SIGSTOP to every process of {}, by exec", inside(container)),
            &timer,
            "the processes are in state T",
        ),
        FaultKind::MemoryStress { container, amount } => words(
            format!("take {amount} of memory inside {}, by exec", inside(container)),
            &timer,
            "a process really holds the memory, or the kernel killed the container for it",
        ),
        FaultKind::CpuStress {
            container,
            workers,
            load,
        } => words(
            format!(
                "{workers} processes busy to {load} % inside {}, by exec",
                inside(container)
            ),
            &timer,
            "the processes really used processor time",
        ),
        FaultKind::DiskFill {
            container,
            path,
            amount,
        } => words(
            format!("write {amount} into {path} of {}, by exec", inside(container)),
            &format!(
                "{timer}; if the container is gone by then, `chaosrun clean` removes the file by the record in the cluster"
            ),
            "the file is there and has its size, or the filesystem is full",
        ),
        FaultKind::StorageLoss { container, path, how } => words(
            match how {
                StorageLoss::Removed => format!("move {path} of {} aside, by exec", inside(container)),
                StorageLoss::Unreadable => {
                    format!("take the permissions of {path} of {} away, by exec", inside(container))
                }
            },
            &format!(
                "{timer}; if the container is gone by then, `chaosrun clean` puts it back by the record in the cluster"
            ),
            "the path cannot be read any more",
        ),
        FaultKind::NetworkPartition { peer, direction, ports } => words(
            format!(
                "no traffic {} {}{}, by a NetworkPolicy",
                match direction {
                    Direction::To => "to",
                    Direction::From => "from",
                    Direction::Both => "to and from",
                },
                peer.as_ref().map_or("anybody".to_owned(), ToString::to_string),
                port_words(ports)
            ),
            "the policy is owned by the guard Job, and goes with it; the label that marks the chosen pods, where no label of their own does, is \
             without effect then, and stays until `chaosrun clean` or the end of the pod",
            "a connection that worked before does not work any more; a network that ignores policies is told apart",
        ),
        FaultKind::NetworkLoss { percent } => beside(
            format!("lose {percent} % of the packets that are sent"),
            seconds,
            "the kernel counts dropped packets",
        ),
        FaultKind::NetworkDelay { latency, jitter } => beside(
            format!(
                "delay what is sent by {} ms, more or less {} ms",
                latency.as_millis(),
                jitter.as_millis()
            ),
            seconds,
            "a connection takes at least half the delay longer than before",
        ),
        FaultKind::NetworkBandwidth { kilobits } => beside(
            format!("limit what is sent to {kilobits} kbit/s"),
            seconds,
            "the kernel says that the limit is in place",
        ),
        FaultKind::DnsFailure {} => beside(
            "drop what is sent to port 53".to_owned(),
            seconds,
            "a name that was resolved before is not any more",
        ),
        FaultKind::NodeCordon {} => words(
            "cordon the nodes of the chosen pods".to_owned(),
            KEPT,
            "the node is unschedulable",
        ),
        FaultKind::NodeDrain { grace_seconds } => words(
            format!(
                "cordon the nodes of the chosen pods and evict the pods of the target's namespace there, with {}",
                grace(*grace_seconds)
            ),
            KEPT,
            "the node is unschedulable and has no such pod left",
        ),
        FaultKind::Scale { object, replicas } => words(
            format!("scale {} to {replicas}", object_words(object.as_ref())),
            KEPT,
            "the workload's status says so many replicas",
        ),
        FaultKind::DeleteResource { object } => words(
            format!("delete {}", object_words(object.as_ref())),
            "it does not end by itself: the object is kept in a record in the cluster, and `chaosrun clean` makes it again from any machine",
            "the object's UID is gone",
        ),
        FaultKind::ImagePullFailure { .. } => words(
            "give the target's pod template an image that no registry has".to_owned(),
            KEPT,
            "a pod waits with ErrImagePull",
        ),
        FaultKind::ChaosMesh { resource, .. } => words(format!("a {resource}"), "never", "nothing"),
        FaultKind::IoDelay { .. }
        | FaultKind::IoError { .. }
        | FaultKind::ClockSkew { .. }
        | FaultKind::HttpFault { .. }
        | FaultKind::JvmFault { .. } => words(
            "nothing: nobody but Chaos Mesh can do it".to_owned(),
            "never",
            "nothing",
        ),
        FaultKind::Litmus { experiment, .. } => words(format!("an experiment {experiment}"), "never", "nothing"),
    }
}

fn beside(does: String, seconds: u64, proof: &str) -> Explained {
    Explained {
        does: format!("{does}, by an ephemeral container with NET_ADMIN beside each pod"),
        ends: format!(
            "the container ends itself {} s after it began; it stays in the pod's spec, ended, until the pod goes",
            seconds + 5
        ),
        proof: proof.to_owned(),
    }
}

fn by_chaos_mesh(fault: &FaultSpec) -> Explained {
    let (kind, is_flow) = match chaos_mesh_object(&fault.kind) {
        Ok(object) => (object.kind.clone(), object.is_flow()),
        Err(why) => (why, false),
    };
    if is_flow {
        return flow(&kind);
    }
    let ends = match fault.duration {
        None => ONE_SHOT.to_owned(),
        Some(duration) => format!(
            "Chaos Mesh ends it {} s after it was created, and the object is owned by the guard Job",
            duration.as_secs() + 30
        ),
    };
    let (what, proof) = match form_words(&fault.kind) {
        Some(words) => (
            format!(": {words}"),
            "Chaos Mesh says that the target is injected; nothing else is looked at",
        ),
        None => (
            String::new(),
            "Chaos Mesh says that the target is injected, and what can be seen from outside is looked at",
        ),
    };
    Explained {
        does: format!("a {kind} of Chaos Mesh for exactly the chosen pods{what}"),
        ends,
        proof: proof.to_owned(),
    }
}

fn flow(kind: &str) -> Explained {
    let by_itself = if kind == "Workflow" {
        "each of its experiments ends by its own deadline"
    } else {
        "its experiments end as they say themselves"
    };
    Explained {
        does: format!("a {kind} of Chaos Mesh, with exactly the chosen pods in each of its experiments"),
        ends: format!("the {kind} is owned by the guard Job, and what it made goes with it; {by_itself}"),
        proof: "the first experiment that it makes says that the target is injected; of one that kills, the pod itself. That its object \
                was made is not enough, and later experiments are not looked at"
            .to_owned(),
    }
}

fn by_litmus(fault: &FaultSpec) -> Explained {
    let (name, effect) = match litmus_experiment(&fault.kind) {
        Ok(experiment) => (experiment.name, experiment.effect),
        Err(why) => (why, LitmusEffect::ItsWordOnly),
    };
    let marked = if effect == LitmusEffect::TrafficStops {
        "; the label that marks the chosen pods is without effect then, and stays until `chaosrun clean` or the end of the pod"
    } else {
        ""
    };
    let ends = match fault.duration {
        None => ONE_SHOT.to_owned(),
        Some(duration) => format!(
            "Litmus ends it {} s after it began, and the ChaosEngine is owned by the guard Job; when it is deleted, Litmus' operator takes \
             the fault back{marked}",
            duration.as_secs() + 30
        ),
    };
    let proof = match effect {
        LitmusEffect::PodsGone => "the pod's UID is gone",
        LitmusEffect::ContainersEnd => "the container ended or has a new id",
        LitmusEffect::TrafficStops => "a connection that worked before does not work any more",
        LitmusEffect::MemoryHeld => "the memory is really held, or the kernel killed the container for it",
        LitmusEffect::NodesDrained => "the node is unschedulable and has no such pod left",
        LitmusEffect::ItsWordOnly => "Litmus marks the target as injected; nothing else is looked at",
    };
    Explained {
        does: format!("a ChaosEngine of Litmus with the experiment {name}, for exactly the chosen pods"),
        ends,
        proof: proof.to_owned(),
    }
}

fn grace(seconds: Option<u32>) -> String {
    match seconds {
        Some(seconds) => format!("a grace period of {seconds} s"),
        None => "the pod's own grace period".to_owned(),
    }
}

fn object_words(object: Option<&crate::fault::ObjectRef>) -> String {
    object.map_or("the target".to_owned(), |object| {
        format!("{} {}/{}", object.kind, object.namespace, object.name)
    })
}

fn port_words(ports: &[u16]) -> String {
    if ports.is_empty() {
        return String::new();
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!(", TCP ports {}", ports.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Mode;
    use serde_json::json;
    use std::time::Duration;

    fn of(kind: FaultKind) -> Explained {
        explain(&FaultSpec {
            name: "it".to_owned(),
            kind,
            role: None,
            labels: Vec::new(),
            mode: Mode::One,
            injector: Injector::ChaosMesh,
            after: Duration::ZERO,
            duration: Some(Duration::from_secs(20)),
            may_be_replaced: false,
        })
    }

    #[test]
    fn a_schedule_promises_no_end_of_chaos_meshs_own_and_a_form_says_what_it_does() {
        let schedule = of(FaultKind::ChaosMesh {
            resource: "Schedule".to_owned(),
            spec: json!({"schedule": "@hourly", "type": "PodChaos", "podChaos": {"action": "pod-kill"}}),
        });
        assert!(schedule.does.contains("in each of its experiments"), "{schedule:?}");
        assert!(!schedule.ends.contains("50 s"), "{schedule:?}");
        assert!(schedule.proof.contains("is not enough"), "{schedule:?}");
        let skew = of(FaultKind::ClockSkew {
            container: None,
            offset_millis: -600_000,
        });
        assert!(skew.does.starts_with("a TimeChaos of Chaos Mesh"), "{skew:?}");
        assert!(skew.does.contains("600000 ms behind"), "{skew:?}");
        assert!(skew.ends.contains("50 s after it was created"), "{skew:?}");
        assert!(skew.proof.contains("nothing else is looked at"), "{skew:?}");
    }
}
