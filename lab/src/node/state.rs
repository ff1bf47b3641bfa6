//! What the agent knows about a pod, and the pod status that follows from it. Depends on k8s-openapi only; no I/O.
//!
//! Central types: [`PodState`], [`ContainerState`]. Contract: [`PodState::status`] is a pure function of the state, with
//! the phases and conditions of a kubelet.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::logs::Log;
use super::network::PodNetwork;
use super::runc::Process;

/// Where a container is in its life.
#[derive(Debug, Clone)]
pub(crate) enum Life {
    Waiting { reason: String, message: Option<String> },
    Running { since: Timestamp },
    Terminated(ContainerStateTerminated),
}

/// A running instance of a container.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// runc's id.
    pub id: String,
    pub process: Process,
    /// OCI description of the first process, the pattern for exec.
    pub description: Arc<Value>,
}

/// One container of a pod.
#[derive(Debug, Clone)]
pub(crate) struct ContainerState {
    pub name: String,
    pub image: String,
    /// An init container that goes on running beside the main ones.
    pub sidecar: bool,
    pub life: Life,
    pub last: Option<ContainerStateTerminated>,
    pub restarts: i32,
    pub id: Option<String>,
    /// The startup probe, if any, has succeeded.
    pub started: bool,
    /// The readiness probe, if any, succeeds.
    pub ready: bool,
    pub log: Option<Arc<Log>>,
    pub previous_log: Option<Arc<Log>>,
    pub instance: Option<Instance>,
}

impl ContainerState {
    pub(crate) fn new(name: &str, image: &str, sidecar: bool, reason: &str) -> Self {
        Self {
            name: name.to_owned(),
            image: image.to_owned(),
            sidecar,
            life: Life::Waiting {
                reason: reason.to_owned(),
                message: None,
            },
            last: None,
            restarts: 0,
            id: None,
            started: false,
            ready: false,
            log: None,
            previous_log: None,
            instance: None,
        }
    }

    /// Notes that the container waits, keeping how it last ended.
    pub(crate) fn wait(&mut self, reason: &str, message: Option<String>) {
        if let Life::Terminated(ended) = &self.life {
            self.last = Some(ended.clone());
        }
        self.life = Life::Waiting {
            reason: reason.to_owned(),
            message,
        };
    }

    /// An ephemeral container is never ready: nobody waits for it.
    fn ephemeral_status(&self) -> ContainerStatus {
        ContainerStatus {
            ready: false,
            started: None,
            ..self.status(false)
        }
    }

    fn status(&self, init: bool) -> ContainerStatus {
        let running = matches!(self.life, Life::Running { .. });
        let completed = matches!(&self.life, Life::Terminated(ended) if ended.exit_code == 0);
        let mut state = ApiState::default();
        match &self.life {
            Life::Waiting { reason, message } => {
                state.waiting = Some(ContainerStateWaiting {
                    reason: Some(reason.clone()),
                    message: message.clone(),
                });
            }
            Life::Running { since } => {
                state.running = Some(ContainerStateRunning {
                    started_at: Some(Time(*since)),
                });
            }
            Life::Terminated(ended) => state.terminated = Some(ended.clone()),
        }
        let ready = if init && !self.sidecar {
            completed
        } else {
            running && self.started && self.ready
        };
        ContainerStatus {
            name: self.name.clone(),
            image: self.image.clone(),
            image_id: format!("lab://{}", self.image),
            container_id: self.id.as_ref().map(|id| format!("runc://{id}")),
            restart_count: self.restarts,
            ready,
            started: Some(running && self.started),
            state: Some(state),
            last_state: self
                .last
                .clone()
                .map(|ended| ApiState {
                    terminated: Some(ended),
                    ..ApiState::default()
                })
                .or_else(|| Some(ApiState::default())),
            ..ContainerStatus::default()
        }
    }
}

/// Everything about one pod on its node.
#[derive(Debug, Default)]
pub(crate) struct PodState {
    /// Grows with every change; [`status`](Self::status) is worth computing again.
    pub version: u64,
    pub network: Option<PodNetwork>,
    pub pod_address: Option<std::net::Ipv4Addr>,
    pub host_address: Option<std::net::Ipv4Addr>,
    pub start_time: Option<Timestamp>,
    pub init: Vec<ContainerState>,
    pub main: Vec<ContainerState>,
    pub ephemeral: Vec<ContainerState>,
    /// All containers have ended for good.
    pub finished: bool,
    /// Reason and message of a pod that the node gave up.
    pub verdict: Option<(String, String)>,
    pub conditions: BTreeMap<&'static str, (bool, Timestamp)>,
}

/// Which of a pod's lists a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Init,
    Main,
    /// Put into a running pod; started once, and never again.
    Ephemeral,
}

/// Which container of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub kind: Kind,
    pub index: usize,
}

impl PodState {
    pub(crate) fn container(&self, slot: Slot) -> Option<&ContainerState> {
        match slot.kind {
            Kind::Init => self.init.get(slot.index),
            Kind::Main => self.main.get(slot.index),
            Kind::Ephemeral => self.ephemeral.get(slot.index),
        }
    }

    pub(crate) fn container_mut(&mut self, slot: Slot) -> Option<&mut ContainerState> {
        match slot.kind {
            Kind::Init => self.init.get_mut(slot.index),
            Kind::Main => self.main.get_mut(slot.index),
            Kind::Ephemeral => self.ephemeral.get_mut(slot.index),
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&ContainerState> {
        self.main
            .iter()
            .chain(&self.init)
            .chain(&self.ephemeral)
            .find(|container| container.name == name)
    }

    /// Every init container has done its part.
    pub(crate) fn initialized(&self) -> bool {
        self.init.iter().all(|container| match &container.life {
            Life::Terminated(ended) => ended.exit_code == 0 || container.sidecar,
            Life::Running { .. } => container.sidecar && container.started,
            Life::Waiting { .. } => container.sidecar && container.last.is_some(),
        })
    }

    fn failed_init(&self) -> bool {
        self.init.iter().any(|container| {
            !container.sidecar && matches!(&container.life, Life::Terminated(ended) if ended.exit_code != 0)
        })
    }

    /// The pod's phase, by a kubelet's rules.
    pub(crate) fn phase(&self, restart_policy: &str) -> &'static str {
        if self.verdict.is_some() {
            return if self.finished {
                "Failed"
            } else {
                self.living_phase(restart_policy)
            };
        }
        if self.finished {
            let all_good = self.initialized()
                && self
                    .main
                    .iter()
                    .all(|container| matches!(&container.life, Life::Terminated(ended) if ended.exit_code == 0));
            return if all_good { "Succeeded" } else { "Failed" };
        }
        self.living_phase(restart_policy)
    }

    /// The phase of a pod of which something may still run.
    fn living_phase(&self, restart_policy: &str) -> &'static str {
        if self.failed_init() && restart_policy == "Never" {
            return "Pending";
        }
        if !self.initialized() {
            return "Pending";
        }
        let never_ran = self
            .main
            .iter()
            .any(|container| matches!(container.life, Life::Waiting { .. }) && container.last.is_none());
        if never_ran { "Pending" } else { "Running" }
    }

    /// The status as a patch for the API.
    pub(crate) fn status(&mut self, pod: &Pod) -> Value {
        let now = Timestamp::now();
        let spec = pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        let phase = self.phase(policy);
        let main: Vec<ContainerStatus> = self.main.iter().map(|container| container.status(false)).collect();
        let init: Vec<ContainerStatus> = self.init.iter().map(|container| container.status(true)).collect();
        let ephemeral: Vec<ContainerStatus> = self.ephemeral.iter().map(ContainerState::ephemeral_status).collect();
        let terminal = matches!(phase, "Succeeded" | "Failed");
        let unready: Vec<&str> = main
            .iter()
            .filter(|status| !status.ready)
            .map(|status| status.name.as_str())
            .collect();
        let gates = spec.and_then(|spec| spec.readiness_gates.as_ref()).is_none_or(|gates| {
            gates.iter().all(|gate| {
                let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions
                    .into_iter()
                    .any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
            })
        });
        let containers_ready = !terminal && unready.is_empty();
        let why = if phase == "Succeeded" {
            "PodCompleted"
        } else if phase == "Failed" {
            "PodFailed"
        } else {
            "ContainersNotReady"
        };
        let message = (!terminal).then(|| format!("containers with unready status: [{}]", unready.join(" ")));
        let initialized = self.initialized();
        let uninitialized = (!initialized).then_some("ContainersNotInitialized");
        let gate_why = if containers_ready {
            "ReadinessGatesNotReady"
        } else {
            why
        };
        let conditions = [
            ("PodScheduled", true, None, None),
            (
                "PodReadyToStartContainers",
                self.network.is_some() || (self.pod_address.is_some() && !terminal),
                None,
                None,
            ),
            ("Initialized", initialized || phase == "Succeeded", uninitialized, None),
            ("ContainersReady", containers_ready, Some(why), message.clone()),
            ("Ready", containers_ready && gates, Some(gate_why), message),
        ];
        let conditions: Vec<Value> = conditions
            .into_iter()
            .map(|(kind, holds, reason, message)| {
                let known = self.conditions.entry(kind).or_insert((holds, now));
                if known.0 != holds {
                    *known = (holds, now);
                }
                let mut condition = json!({
                    "type": kind,
                    "status": if holds { "True" } else { "False" },
                    "lastProbeTime": null,
                    "lastTransitionTime": Time(known.1),
                    "reason": reason.filter(|_| !holds),
                    "message": message.filter(|_| !holds),
                });
                // The scheduler wrote this one with its own time.
                if let (true, Some(map)) = (kind == "PodScheduled" && scheduled(pod), condition.as_object_mut()) {
                    map.retain(|key, _| matches!(key.as_str(), "type" | "status"));
                }
                condition
            })
            .collect();
        let mut status = json!({
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": main,
            "qosClass": qos_class(pod),
            "reason": self.verdict.as_ref().map(|(reason, _)| reason),
            "message": self.verdict.as_ref().map(|(_, message)| message),
        });
        if let Some(map) = status.as_object_mut() {
            if !init.is_empty() {
                map.insert("initContainerStatuses".to_owned(), json!(init));
            }
            if !ephemeral.is_empty() {
                map.insert("ephemeralContainerStatuses".to_owned(), json!(ephemeral));
            }
            if let Some(address) = self.host_address {
                map.insert("hostIP".to_owned(), json!(address));
                map.insert("hostIPs".to_owned(), json!([{ "ip": address }]));
            }
            if let Some(address) = self.pod_address {
                map.insert("podIP".to_owned(), json!(address));
                map.insert("podIPs".to_owned(), json!([{ "ip": address }]));
            }
            if let Some(time) = self.start_time {
                map.insert("startTime".to_owned(), json!(Time(time)));
            }
        }
        status
    }
}

/// Whether the API object says already that the pod is scheduled.
fn scheduled(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "PodScheduled" && condition.status == "True")
}

/// Quality of service, from requests and limits.
fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else {
        return "BestEffort";
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.as_ref();
        let requests = resources
            .and_then(|resources| resources.requests.clone())
            .unwrap_or_default();
        let limits = resources
            .and_then(|resources| resources.limits.clone())
            .unwrap_or_default();
        any |= !requests.is_empty() || !limits.is_empty();
        for resource in ["cpu", "memory"] {
            let limit = limits.get(resource);
            guaranteed &= limit.is_some() && requests.get(resource).is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "containers": []}}))
            .unwrap()
    }

    fn container(life: Life) -> ContainerState {
        ContainerState {
            life,
            started: true,
            ready: true,
            ..ContainerState::new("c", "i", false, "x")
        }
    }

    fn ended(code: i32) -> Life {
        Life::Terminated(ContainerStateTerminated {
            exit_code: code,
            ..ContainerStateTerminated::default()
        })
    }

    fn running() -> Life {
        Life::Running {
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn phases_follow_the_containers() {
        let waiting = || Life::Waiting {
            reason: "ContainerCreating".into(),
            message: None,
        };
        let cases = [
            (vec![waiting()], false, "Pending"),
            (vec![running(), waiting()], false, "Pending"),
            (vec![running()], false, "Running"),
            (vec![running(), ended(1)], false, "Running"),
            (vec![ended(0)], true, "Succeeded"),
            (vec![ended(0), ended(137)], true, "Failed"),
        ];
        for (lives, finished, expected) in cases {
            let shown = format!("{lives:?}");
            let state = PodState {
                main: lives.into_iter().map(container).collect(),
                finished,
                ..PodState::default()
            };
            assert_eq!(state.phase("Never"), expected, "{shown}");
        }
    }

    #[test]
    fn a_crash_loop_is_running_and_not_ready() {
        let mut looping = container(ended(3));
        looping.wait("CrashLoopBackOff", None);
        let mut state = PodState {
            main: vec![looping],
            ..PodState::default()
        };
        let status = state.status(&pod("Always"));
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
        let ready = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == "Ready")
            .unwrap();
        assert_eq!(
            (ready["status"].as_str(), ready["reason"].as_str()),
            (Some("False"), Some("ContainersNotReady"))
        );
    }

    #[test]
    fn a_pod_is_ready_only_with_probe_and_gate() {
        let mut state = PodState {
            main: vec![container(running())],
            ..PodState::default()
        };
        let ready = |state: &mut PodState, pod: &Pod| {
            let status = state.status(pod);
            status["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        assert!(ready(&mut state, &pod("Always")));
        let gated: Pod = serde_json::from_value(json!({
            "metadata": {}, "spec": {"containers": [], "readinessGates": [{"conditionType": "x"}]}
        }))
        .unwrap();
        assert!(!ready(&mut state, &gated));
        state.main.iter_mut().for_each(|container| container.ready = false);
        assert!(!ready(&mut state, &pod("Always")));
    }
}
