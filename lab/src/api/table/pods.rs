//! READY, STATUS and RESTARTS of pods, as `kubectl get pods` shows them.
//!
//! STATUS is no field: it is worked out from the phase, the conditions and the states of all containers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, since};
use crate::api::object::{array_at, bool_at, i64_at, is_deleting, name, str_at};

/// What a pod's row says about its containers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) ready: usize,
    pub(super) total: usize,
    pub(super) status: String,
    pub(super) restarts: i64,
    /// When the last restarted container had ended.
    pub(super) last_restart: Option<String>,
}

/// The row of a pod.
pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match &summary.last_restart {
        Some(at) if summary.restarts > 0 => format!("{} ({} ago)", summary.restarts, since(Some(at), now)),
        _ => summary.restarts.to_string(),
    };
    let or_none = |pointer: &str| {
        str_at(pod, pointer)
            .filter(|text| !text.is_empty())
            .unwrap_or("<none>")
            .to_owned()
    };
    vec![
        json!(name(pod)),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.status),
        json!(restarts),
        json!(age(pod, now)),
        json!(or_none("/status/podIP")),
        json!(or_none("/spec/nodeName")),
        json!(or_none("/status/nominatedNodeName")),
        json!(readiness_gates(pod)),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = array_at(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates
        .iter()
        .filter(|gate| str_at(gate, "/conditionType").is_some_and(|kind| condition(pod, kind) == Some("True")))
        .count();
    format!("{met}/{}", gates.len())
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a str> {
    array_at(pod, "/status/conditions")
        .iter()
        .find(|one| str_at(one, "/type") == Some(kind))
        .and_then(|one| str_at(one, "/status"))
}

/// An init container that keeps running beside the others.
fn is_sidecar(pod: &Value, container: &str) -> bool {
    array_at(pod, "/spec/initContainers")
        .iter()
        .any(|one| str_at(one, "/name") == Some(container) && str_at(one, "/restartPolicy") == Some("Always"))
}

fn ended(state: &Value) -> String {
    match str_at(state, "/terminated/reason") {
        Some(reason) if !reason.is_empty() => reason.to_owned(),
        _ => match i64_at(state, "/terminated/signal") {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => format!("ExitCode:{}", i64_at(state, "/terminated/exitCode").unwrap_or(0)),
        },
    }
}

/// Works out what the row says.
pub(super) fn summarize(pod: &Value) -> Summary {
    let phase = str_at(pod, "/status/phase").unwrap_or_default();
    let pod_reason = str_at(pod, "/status/reason").unwrap_or_default();
    let mut status = if pod_reason.is_empty() { phase } else { pod_reason }.to_owned();
    let scheduled = array_at(pod, "/status/conditions")
        .iter()
        .find(|one| str_at(one, "/type") == Some("PodScheduled"));
    if scheduled.and_then(|one| str_at(one, "/reason")) == Some("SchedulingGated") {
        "SchedulingGated".clone_into(&mut status);
    }
    let sidecars = array_at(pod, "/spec/initContainers")
        .iter()
        .filter(|one| str_at(one, "/restartPolicy") == Some("Always"))
        .count();
    let mut summary = Summary {
        ready: 0,
        total: array_at(pod, "/spec/containers").len() + sidecars,
        status,
        restarts: 0,
        last_restart: None,
    };
    let initializing = summarize_init(pod, &mut summary);
    if !initializing || condition(pod, "Initialized") == Some("True") {
        summarize_containers(pod, &mut summary);
    }
    if is_deleting(pod) {
        if pod_reason == "NodeLost" {
            "Unknown".clone_into(&mut summary.status);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut summary.status);
        }
    }
    summary
}

fn note_restart(summary: &mut Summary, status: &Value) {
    summary.restarts += i64_at(status, "/restartCount").unwrap_or(0);
    if let Some(at) = str_at(status, "/lastState/terminated/finishedAt")
        && summary.last_restart.as_deref().is_none_or(|last| last < at)
    {
        summary.last_restart = Some(at.to_owned());
    }
}

/// The init containers; whether one of them is still what the pod waits for.
fn summarize_init(pod: &Value, summary: &mut Summary) -> bool {
    let total = array_at(pod, "/spec/initContainers").len();
    for (index, container) in array_at(pod, "/status/initContainerStatuses").iter().enumerate() {
        note_restart(summary, container);
        let state = container.get("state").unwrap_or(&Value::Null);
        let sidecar = is_sidecar(pod, str_at(container, "/name").unwrap_or_default());
        let terminated = state.get("terminated").is_some();
        if terminated && i64_at(state, "/terminated/exitCode") == Some(0) {
            continue;
        }
        if sidecar && bool_at(container, "/started") {
            summary.ready += usize::from(bool_at(container, "/ready"));
            continue;
        }
        summary.status = match str_at(state, "/waiting/reason") {
            _ if terminated => format!("Init:{}", ended(state)),
            Some(reason) if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{total}"),
        };
        return true;
    }
    false
}

fn summarize_containers(pod: &Value, summary: &mut Summary) {
    // Init containers count only while they run; sidecars always.
    summary.restarts = 0;
    summary.last_restart = None;
    for container in array_at(pod, "/status/initContainerStatuses") {
        if is_sidecar(pod, str_at(container, "/name").unwrap_or_default()) {
            note_restart(summary, container);
        }
    }
    let mut running = false;
    for container in array_at(pod, "/status/containerStatuses").iter().rev() {
        note_restart(summary, container);
        let state = container.get("state").unwrap_or(&Value::Null);
        let waiting = str_at(state, "/waiting/reason").filter(|reason| !reason.is_empty());
        if let Some(reason) = waiting {
            reason.clone_into(&mut summary.status);
        } else if state.get("terminated").is_some() {
            summary.status = ended(state);
        } else if bool_at(container, "/ready") && state.get("running").is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.status == "Completed" && running {
        let ready = condition(pod, "Ready") == Some("True");
        if ready { "Running" } else { "NotReady" }.clone_into(&mut summary.status);
    }
}
