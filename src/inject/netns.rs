//! Faults in the network namespace of a pod: loss, delay, bandwidth, name resolution. Done by an ephemeral container beside the target,
//! with the one capability NET_ADMIN, which ends by itself. An ephemeral container cannot be taken out of a pod again: it stays in the
//! pod's spec, ended, until the pod goes.

use super::prepare::Detail;
use super::shot::{Called, Miss, PROOF_LIMIT, Proof, count, shoot};
use super::stage::{InjectError, Stage};
use crate::fault::{FaultKind, FaultSpec, FaultTarget, Inside, Undo};
use crate::model::{Interval, Mono};
use crate::world::{Armed, RecordError};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{Api, LogParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

const SCRIPT: &str = include_str!("netns.sh");

/// How much longer than the fault the container's own timer runs: the runner comes first, the timer is for when it cannot.
const TIMER_MARGIN: Duration = Duration::from_secs(5);

/// What runs beside each target.
pub(super) struct Plan {
    /// Arguments of the script after the seconds.
    arguments: Vec<String>,
}

pub(super) async fn prepare(
    stage: &Stage,
    spec: &FaultSpec,
    targets: &[FaultTarget],
    token: &str,
) -> Result<(Detail, Vec<Undo>), InjectError> {
    let plan = Plan {
        arguments: arguments(&spec.kind)?,
    };
    // What would be refused later is refused now: Pod Security, missing rights, a pod of the node's own network.
    for target in targets {
        let parameters = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        add_container(stage, spec, target, token, &plan, &parameters).await.map_err(|miss| {
            InjectError::Refused(format!(
                "fault {:?}: {}; it needs an ephemeral container with the image {} and the capability NET_ADMIN, which the Pod Security \
                 levels baseline and restricted forbid",
                spec.name, miss.why, stage.tools_image
            ))
        })?;
    }
    let undo = targets
        .iter()
        .map(|target| Undo::Inside {
            pod: target.pod.clone(),
            container: token.to_owned(),
            token: token.to_owned(),
            also: Inside::EndMain,
            claim: None,
        })
        .collect();
    Ok((Detail::Netns(plan), undo))
}

fn arguments(kind: &FaultKind) -> Result<Vec<String>, InjectError> {
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Ok(match kind {
        FaultKind::NetworkDelay { latency, jitter } => {
            let latency_ms = latency.as_millis();
            let mut words: Vec<String> = text(&["netem", "delay"]);
            words.extend([latency_ms.to_string(), "delay".to_owned(), format!("{latency_ms}ms")]);
            if !jitter.is_zero() {
                words.push(format!("{}ms", jitter.as_millis()));
            }
            words
        }
        FaultKind::NetworkLoss { percent } => {
            let percent = percent.to_string();
            text(&["netem", "loss", &percent, "loss", &format!("{percent}%")])
        }
        // 32 KiB of burst and 400 ms of queue: enough for one full window, and late enough to be felt.
        FaultKind::NetworkBandwidth { kilobits } => text(&[
            "tbf",
            "rate",
            &format!("{kilobits}kbit"),
            "burst",
            "32kb",
            "latency",
            "400ms",
        ]),
        FaultKind::DnsFailure {} => text(&["dns"]),
        other => {
            return Err(InjectError::Refused(format!(
                "{} is no fault in a pod's network namespace",
                other.word()
            )));
        }
    })
}

fn container(stage: &Stage, spec: &FaultSpec, token: &str, plan: &Plan) -> Value {
    let seconds = (spec.duration.unwrap_or_default() + TIMER_MARGIN).as_secs().to_string();
    let mut arguments = vec![seconds];
    arguments.extend(plan.arguments.iter().cloned());
    json!({
        "name": token,
        "image": stage.tools_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["bash", "-c", SCRIPT, "netns"],
        "args": arguments,
        "env": [{"name": "CHAOSRUN_FAULT", "value": token}],
        "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}},
    })
}

async fn add_container(
    stage: &Stage,
    spec: &FaultSpec,
    target: &FaultTarget,
    token: &str,
    plan: &Plan,
    parameters: &PatchParams,
) -> Result<(), Miss> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), &target.pod.namespace);
    let patch = json!({
        "metadata": {"uid": target.pod.uid},
        "spec": {"ephemeralContainers": [container(stage, spec, token, plan)]},
    });
    let attempted = format!(
        "put an ephemeral container into pod {}/{}",
        target.pod.namespace, target.pod.name
    );
    stage
        .cluster
        .call(
            attempted,
            pods.patch_ephemeral_containers(&target.pod.name, parameters, &Patch::Strategic(&patch)),
        )
        .await?;
    Ok(())
}

/// Fires at every target at once.
pub(super) async fn fire(stage: &Stage, armed: &Armed, token: &str, plan: &Plan) -> Result<usize, RecordError> {
    let spec = armed.spec();
    let shots = armed.targets().iter().map(|target| async move {
        let call = async {
            add_container(stage, spec, target, token, plan, &PatchParams::default()).await?;
            Ok(Called::Accepted)
        };
        shoot(stage, spec, target, call, |requested| async move {
            said_so(stage, target, token, requested).await
        })
        .await
    });
    count(shots).await
}

/// Reads the container's log until it says that the effect is there. Its image may have to be pulled first.
async fn said_so(stage: &Stage, target: &FaultTarget, token: &str, requested: Mono) -> Result<Proof, String> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), &target.pod.namespace);
    let clock = stage.recorder.clock();
    let deadline = requested.plus(PROOF_LIMIT + Duration::from_mins(1));
    let parameters = LogParams {
        container: Some(token.to_owned()),
        ..LogParams::default()
    };
    let mut why = String::new();
    let mut lower = requested;
    while clock.now() < deadline {
        let asked = clock.now();
        match pods.logs(&target.pod.name, &parameters).await {
            Ok(text) => {
                if let Some(proof) = text.lines().find_map(|line| line.strip_prefix("proof ")) {
                    return Ok(Proof {
                        effect: Interval {
                            lower,
                            upper: clock.now(),
                        },
                        text: proof.to_owned(),
                    });
                }
                if let Some(reason) = text.lines().find_map(|line| line.strip_prefix("failed ")) {
                    return Err(reason.to_owned());
                }
            }
            // It has not been started.
            Err(error) => {
                lower = asked;
                why = waiting(&pods, target, token).await.unwrap_or_else(|| error.to_string());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!(
        "the ephemeral container said nothing within {} s: {why}",
        (PROOF_LIMIT + Duration::from_mins(1)).as_secs()
    ))
}

/// Why the container does not run, in the cluster's words.
async fn waiting(pods: &Api<Pod>, target: &FaultTarget, token: &str) -> Option<String> {
    let status = pods.get(&target.pod.name).await.ok()?.status?;
    let held = status
        .ephemeral_container_statuses?
        .into_iter()
        .find(|held| held.name == token)?;
    let ContainerState { waiting, .. } = held.state?;
    let waiting = waiting?;
    Some(format!(
        "{} {}",
        waiting.reason.unwrap_or_default(),
        waiting.message.unwrap_or_default()
    ))
}
