//! Faults in the words of Litmus: which experiment, and which of its variables.
//!
//! Pure. The targets, the duration and the sequence are the injector's: it names the exact pods. Facts: `specs/litmus.md`, section 8, and
//! litmus-go 3.31.

use super::kinds::{Amount, Direction, FaultKind, Peer};

/// What of an experiment can be seen to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LitmusEffect {
    /// The pods go.
    PodsGone,
    /// A container of each ends.
    ContainersEnd,
    /// Connections stop.
    TrafficStops,
    /// Memory is held.
    MemoryHeld,
    /// The nodes are cordoned and emptied.
    NodesDrained,
    /// Nothing that chaosrun knows how to look at: only what Litmus says.
    ItsWordOnly,
}

/// An experiment of Litmus, without targets and duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LitmusExperiment {
    /// Name of the ChaosExperiment.
    pub name: String,
    /// Its variables.
    pub env: Vec<(String, String)>,
    /// What proves it.
    pub effect: LitmusEffect,
}

/// Variables that chaosrun sets itself.
const OURS: [&str; 10] = [
    "TARGET_PODS",
    "TARGETS",
    "PODS_AFFECTED_PERC",
    "NODE_LABEL",
    "TARGET_NODE",
    "TOTAL_CHAOS_DURATION",
    "RAMP_TIME",
    "SEQUENCE",
    "INSTANCE_ID",
    "DEFAULT_HEALTH_CHECK",
];

/// The experiment that does what a fault says.
///
/// # Errors
/// Why Litmus cannot do it, for the reader of the file.
pub fn litmus_experiment(fault: &FaultKind) -> Result<LitmusExperiment, String> {
    let experiment = |name: &str, effect: LitmusEffect, env: &[(&str, String)]| {
        Ok(LitmusExperiment {
            name: name.to_owned(),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            effect,
        })
    };
    match fault {
        // Without grace, or with the pods' own: the injector sees to it that these are the same as what is wanted.
        FaultKind::PodKill { grace_seconds } => experiment(
            "pod-delete",
            LitmusEffect::PodsGone,
            &[("FORCE", (*grace_seconds == 0).to_string())],
        ),
        FaultKind::ContainerKill { signal, .. } => experiment(
            "container-kill",
            LitmusEffect::ContainersEnd,
            &[("SIGNAL", format!("SIG{}", signal.name()))],
        ),
        FaultKind::MemoryStress {
            amount: Amount::Bytes(bytes),
            ..
        } => experiment(
            "pod-memory-hog",
            LitmusEffect::MemoryHeld,
            // Its unit is the mebibyte, for each worker.
            &[
                ("MEMORY_CONSUMPTION", bytes.div_ceil(1 << 20).to_string()),
                ("NUMBER_OF_WORKERS", "1".to_owned()),
            ],
        ),
        FaultKind::MemoryStress { .. } => {
            Err("Litmus takes memory in mebibytes, not as a share of a limit: give bytes, such as 256Mi".to_owned())
        }
        FaultKind::CpuStress { workers, load, .. } => experiment(
            "pod-cpu-hog",
            LitmusEffect::ItsWordOnly,
            &[("CPU_CORES", workers.to_string()), ("CPU_LOAD", load.to_string())],
        ),
        FaultKind::DiskFill { path, amount, .. } => match amount {
            Amount::Bytes(bytes) if path.trim_end_matches('/') == "/home" => experiment(
                "disk-fill",
                LitmusEffect::ItsWordOnly,
                &[("EPHEMERAL_STORAGE_MEBIBYTES", bytes.div_ceil(1 << 20).to_string())],
            ),
            Amount::Bytes(_) => Err("Litmus fills /home of the container and no other folder".to_owned()),
            Amount::Percent(_) => Err(
                "a share means the filesystem here, and the limit of ephemeral storage in Litmus: give bytes, such as 1Gi".to_owned(),
            ),
        },
        FaultKind::NetworkPartition { peer, direction, ports } => partition(peer.as_ref(), *direction, ports),
        FaultKind::NetworkLoss { percent } => experiment(
            "pod-network-loss",
            LitmusEffect::ItsWordOnly,
            &[("NETWORK_PACKET_LOSS_PERCENTAGE", percent.to_string())],
        ),
        FaultKind::NetworkDelay { latency, jitter } => experiment(
            "pod-network-latency",
            LitmusEffect::ItsWordOnly,
            &[
                ("NETWORK_LATENCY", latency.as_millis().to_string()),
                ("JITTER", jitter.as_millis().to_string()),
            ],
        ),
        FaultKind::NodeDrain { grace_seconds: None } => experiment("node-drain", LitmusEffect::NodesDrained, &[]),
        FaultKind::NodeDrain { .. } => {
            Err("Litmus drains with the pods' own grace period and no other: leave gracePeriod out".to_owned())
        }
        FaultKind::Litmus { experiment, env } => any(experiment, env),
        other => Err(format!("Litmus has no experiment that does a {}", other.word())),
    }
}

/// The other side's addresses are not known here: the injector adds `DESTINATION_IPS`.
fn partition(peer: Option<&Peer>, direction: Direction, ports: &[u16]) -> Result<LitmusExperiment, String> {
    if !ports.is_empty() {
        // POD_SELECTOR, NAMESPACE_SELECTOR and PORTS become what its policy allows.
        return Err("the PORTS of Litmus' pod-network-partition are those that stay open: leave ports out".to_owned());
    }
    let types = match direction {
        Direction::To => "egress",
        Direction::From => "ingress",
        Direction::Both => "all",
    };
    let mut env = vec![("POLICY_TYPES".to_owned(), types.to_owned())];
    if let Some(Peer::Cidr(range)) = peer {
        env.push(("DESTINATION_IPS".to_owned(), range.clone()));
    }
    Ok(LitmusExperiment {
        name: "pod-network-partition".to_owned(),
        env,
        effect: LitmusEffect::TrafficStops,
    })
}

fn any(experiment: &str, env: &std::collections::BTreeMap<String, String>) -> Result<LitmusExperiment, String> {
    match experiment {
        "pod-delete" => return Err("say podKill with injector: litmus, which proves the deletion".to_owned()),
        "container-kill" => return Err("say containerKill with injector: litmus, which proves the kill".to_owned()),
        "pod-network-partition" => {
            // It ignores TARGET_PODS: its policy selects by the engine's label, and by no label it selects everybody.
            return Err(
                "say networkPartition with injector: litmus: this experiment does not heed the chosen pods".to_owned(),
            );
        }
        _ => {}
    }
    if !experiment.starts_with("pod-") && experiment != "disk-fill" {
        return Err(format!(
            "{experiment:?} is no experiment on pods: its targets could not be chosen by chaosrun, nor proven"
        ));
    }
    if let Some(name) = env.keys().find(|name| OURS.contains(&name.as_str())) {
        return Err(format!(
            "{name} is chaosrun's: the pods are chosen by role, labels and mode of the fault, and its time is the fault's duration"
        ));
    }
    Ok(LitmusExperiment {
        name: experiment.to_owned(),
        env: env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        effect: LitmusEffect::ItsWordOnly,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Signal;
    use std::time::Duration;

    #[test]
    fn each_fault_is_said_in_litmus_own_units() {
        let rows = [
            (FaultKind::PodKill { grace_seconds: 0 }, "pod-delete FORCE=true"),
            (FaultKind::PodKill { grace_seconds: 30 }, "pod-delete FORCE=false"),
            (
                FaultKind::ContainerKill {
                    container: None,
                    signal: Signal::Term,
                },
                "container-kill SIGNAL=SIGTERM",
            ),
            (
                FaultKind::MemoryStress {
                    container: None,
                    amount: Amount::Bytes((256 << 20) + 1),
                },
                "pod-memory-hog MEMORY_CONSUMPTION=257 NUMBER_OF_WORKERS=1",
            ),
            (
                FaultKind::DiskFill {
                    container: None,
                    path: "/home".to_owned(),
                    amount: Amount::Bytes(1 << 30),
                },
                "disk-fill EPHEMERAL_STORAGE_MEBIBYTES=1024",
            ),
            (
                FaultKind::NetworkDelay {
                    latency: Duration::from_millis(300),
                    jitter: Duration::from_millis(20),
                },
                "pod-network-latency NETWORK_LATENCY=300 JITTER=20",
            ),
            (
                FaultKind::NetworkPartition {
                    peer: Some(Peer::Cidr("10.9.0.0/16".to_owned())),
                    direction: Direction::To,
                    ports: Vec::new(),
                },
                "pod-network-partition POLICY_TYPES=egress DESTINATION_IPS=10.9.0.0/16",
            ),
        ];
        for (kind, expected) in rows {
            let experiment = litmus_experiment(&kind).unwrap();
            let env: Vec<String> = experiment
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            assert_eq!(format!("{} {}", experiment.name, env.join(" ")), expected);
        }
    }

    /// Without a label its policy would select everybody, and what it names stays open: nobody but the injector may write it.
    #[test]
    fn a_partition_is_not_passed_through() {
        let kind = FaultKind::Litmus {
            experiment: "pod-network-partition".to_owned(),
            env: std::collections::BTreeMap::new(),
        };
        assert!(
            litmus_experiment(&kind)
                .unwrap_err()
                .contains("does not heed the chosen pods")
        );
    }
}
