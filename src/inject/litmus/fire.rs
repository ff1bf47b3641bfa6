//! Creates the engine and waits for the proofs. The target itself counts before anything that Litmus says.

use super::super::chaos_mesh::held;
use super::super::nodes;
use super::super::partition;
use super::super::pods::{container_ended, pod_ended, restarts};
use super::super::shot::{Called, Miss, PROOF_LIMIT, Proof, count, poll, shoot};
use super::super::stage::{GuardOwner, Stage};
use super::super::traffic::{Traffic, open_all};
use super::API_VERSION;
use super::follow::{Follower, Seen};
use super::prepare::Plan;
use crate::cluster::{ClusterError, api_of, mark};
use crate::fault::{FaultKind, FaultTarget, LitmusEffect};
use crate::model::{FAULTED_LABEL, Interval, Mono};
use crate::world::{Armed, RecordError};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;

/// The proofs wait for Litmus; `status` says when there is nothing to wait for any more, and this is never reached before.
const LIMIT: Duration = Duration::from_secs(330);

/// Creates the engine and waits until every target is hit, or will not be.
pub(in crate::inject) async fn fire(
    stage: &Stage,
    armed: &Armed,
    token: &str,
    plan: &Plan,
    guard: &GuardOwner,
) -> Result<usize, RecordError> {
    let spec = armed.spec();
    let clock = stage.recorder.clock();
    // Opened before: what stops must have been seen to pass.
    let mut opened = open_all(stage, &plan.routes).await.into_iter();
    let made = async {
        for target in armed.targets() {
            mark_target(stage, plan, target, token).await?;
        }
        let uid = create(stage, plan, token, guard).await?;
        Ok::<_, Miss>((uid, clock.now()))
    }
    .shared();
    let (tell, seen) = watch::channel(Seen::default());
    let follower = Follower {
        stage,
        plan,
        guard,
        token,
        tell,
    };
    let follow = {
        let made = made.clone();
        async move {
            match made.await {
                Ok((uid, created)) => follower.run(uid, created).await,
                Err(_) => std::future::pending().await,
            }
        }
    };
    let shots = armed.targets().iter().enumerate().map(|(index, target)| {
        let (made, seen) = (made.clone(), seen.clone());
        let traffic = opened.next();
        async move {
            let before = restarts(stage, target);
            let call = async {
                made.await?;
                Ok(Called::Accepted)
            };
            shoot(stage, spec, target, call, |requested| async move {
                let witness = Witness {
                    stage,
                    plan,
                    target,
                    index,
                    restarts: before,
                    grace_seconds: match spec.kind {
                        FaultKind::PodKill { grace_seconds } => Some(grace_seconds),
                        _ => None,
                    },
                    requested,
                };
                let began = tokio::select! {
                    // Both at once: what was seen counts.
                    biased;
                    proof = witness.effect(traffic, seen.clone()) => proof?,
                    why = hopeless(seen.clone()) => return Err(why),
                };
                witness.completed(began).await
            })
            .await
        }
    });
    tokio::select! {
        proven = count(shots) => proven,
        never = follow => match never {},
    }
}

async fn hopeless(mut seen: watch::Receiver<Seen>) -> String {
    let why = seen
        .wait_for(|seen| seen.hopeless.is_some())
        .await
        .ok()
        .and_then(|seen| seen.hopeless.clone());
    match why {
        Some(why) => why,
        // The follower ends after the shots, not before.
        None => std::future::pending().await,
    }
}

/// Marks what Litmus chooses by a label, and what it may leave changed, with the way back.
async fn mark_target(stage: &Stage, plan: &Plan, target: &FaultTarget, token: &str) -> Result<(), ClusterError> {
    let name = &target.pod.name;
    let parameters = PatchParams::default();
    match plan.experiment.effect {
        LitmusEffect::TrafficStops => {
            let mut patch = mark(&stage.run, &json!({}));
            let only = json!({"metadata": {"uid": target.pod.uid, "labels": {FAULTED_LABEL: token}}});
            json_patch::merge(&mut patch, &only);
            let patch = Patch::Merge(patch);
            let api: Api<Pod> = Api::namespaced(stage.cluster.client(), &target.pod.namespace);
            let attempted = format!("label pod {}/{name}", target.pod.namespace);
            stage
                .cluster
                .call(attempted, api.patch(name, &parameters, &patch))
                .await
                .map(drop)
        }
        LitmusEffect::NodesDrained => {
            let patch = Patch::Merge(mark(&stage.run, &json!({"spec": {"unschedulable": null}})));
            let api: Api<Node> = Api::all(stage.cluster.client());
            let attempted = format!("mark node {name}");
            stage
                .cluster
                .call(attempted, api.patch(name, &parameters, &patch))
                .await
                .map(drop)
        }
        _ => Ok(()),
    }
}

/// Creates the engine; its UID is the label of everything that is started for it.
async fn create(stage: &Stage, plan: &Plan, token: &str, guard: &GuardOwner) -> Result<String, Miss> {
    let api = api_of(
        &stage.cluster,
        (API_VERSION, "ChaosEngine", "chaosengines"),
        Some(&stage.namespace),
    );
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "ChaosEngine",
        "metadata": stage.owned(token, guard),
        "spec": plan.spec,
    });
    let object: DynamicObject = serde_json::from_value(object).map_err(|error| Miss::definite(error.to_string()))?;
    let attempted = format!("create ChaosEngine {}/{token}", stage.namespace);
    let made = stage.cluster.create_strictly(attempted, &api, &object).await?;
    made.metadata
        .uid
        .ok_or_else(|| Miss::definite("the API server gave the ChaosEngine no UID".to_owned()))
}

/// Watches one target.
struct Witness<'a> {
    stage: &'a Stage,
    plan: &'a Plan,
    target: &'a FaultTarget,
    index: usize,
    restarts: i32,
    /// For a pod that is deleted: its grace.
    grace_seconds: Option<u32>,
    requested: Mono,
}

impl Witness<'_> {
    async fn effect(
        &self,
        traffic: Option<Result<Traffic, String>>,
        seen: watch::Receiver<Seen>,
    ) -> Result<Proof, String> {
        match self.plan.experiment.effect {
            LitmusEffect::PodsGone | LitmusEffect::ContainersEnd => Ok(self.ended().await),
            LitmusEffect::MemoryHeld => Ok(self.memory().await),
            LitmusEffect::TrafficStops => match (traffic, self.plan.routes.get(self.index)) {
                (Some(traffic), Some(route)) => {
                    partition::stopped(self.stage, traffic?, route, (self.requested, LIMIT)).await
                }
                _ => Err("there is no connection to look at".to_owned()),
            },
            LitmusEffect::NodesDrained => {
                let name = &self.target.pod.name;
                let began = poll(self.stage, self.requested, LIMIT, || {
                    nodes::effect(self.stage, name, false)
                })
                .await?;
                let done = poll(self.stage, self.requested, LIMIT, || {
                    nodes::effect(self.stage, name, true)
                })
                .await?;
                Ok(Proof {
                    effect: began.effect,
                    text: done.text,
                })
            }
            LitmusEffect::ItsWordOnly => self.said(seen).await,
        }
    }

    /// Between the last look at which it was well and the news that it is not: Litmus may need long to begin.
    async fn ended(&self) -> Proof {
        let clock = self.stage.recorder.clock();
        let pods: Api<Pod> = Api::namespaced(self.stage.cluster.client(), &self.target.pod.namespace);
        let name = &self.target.pod.name;
        let mut lower = self.requested;
        loop {
            if let Some((text, at)) = self.beginning_of_the_end() {
                let upper = at.max(self.requested);
                return Proof {
                    effect: Interval {
                        lower: lower.min(upper),
                        upper,
                    },
                    text,
                };
            }
            let asked = clock.now();
            let found = self
                .stage
                .cluster
                .call(format!("read pod {name}"), pods.get(name))
                .await;
            if found.is_ok_and(|pod| self.is_well(&pod)) {
                lower = asked;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A pod that is being deleted or a container that ended, and when that was known.
    fn beginning_of_the_end(&self) -> Option<(String, Mono)> {
        let pod = self.stage.pods.get(&self.target.pod.uid)?;
        let text = if self.plan.experiment.effect == LitmusEffect::PodsGone {
            let going = pod.gone.is_some() || pod.facts.deletion_at.is_some();
            going.then(|| format!("pod UID {} is being deleted", self.target.pod.uid))
        } else {
            container_ended(self.target, self.restarts, &pod)
        };
        text.map(|text| (text, pod.at))
    }

    /// A pod that is being deleted counts only once it has really ended, however long Litmus is done by then. The effect stays dated by the
    /// begin of the deletion.
    async fn completed(&self, began: Proof) -> Result<Proof, String> {
        if self.plan.experiment.effect != LitmusEffect::PodsGone {
            return Ok(began);
        }
        let grace = match self.grace_seconds {
            Some(grace) => Duration::from_secs(grace.into()),
            None => Duration::ZERO,
        };
        let mut changes = self.stage.pods.changes();
        let ended = async {
            loop {
                changes.mark_unchanged();
                let pod = self.stage.pods.get(&self.target.pod.uid);
                if let Some(text) = pod.and_then(|pod| pod_ended(self.target, &pod)) {
                    return text;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match tokio::time::timeout(PROOF_LIMIT + grace, ended).await {
            Ok(text) => Ok(Proof {
                effect: began.effect,
                text,
            }),
            Err(_elapsed) => Err("the pod is being deleted, but did not go away".to_owned()),
        }
    }

    fn is_well(&self, pod: &Pod) -> bool {
        if pod.metadata.uid.as_deref() != Some(&self.target.pod.uid) || pod.metadata.deletion_timestamp.is_some() {
            return false;
        }
        let Some(wanted) = &self.target.container else {
            return true;
        };
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        statuses.into_iter().any(|held| {
            let running = held.state.as_ref().is_some_and(|state| state.running.is_some());
            held.name == *wanted && held.restart_count == self.restarts && running
        })
    }

    /// Memory that is really held, or a container that the kernel killed for it.
    async fn memory(&self) -> Proof {
        let clock = self.stage.recorder.clock();
        let before = self.plan.held_before.get(self.index).copied().unwrap_or(u64::MAX);
        let mut lower = self.requested;
        loop {
            let asked = clock.now();
            let ended = self.stage.pods.get(&self.target.pod.uid);
            let ended = ended.and_then(|pod| Some((container_ended(self.target, self.restarts, &pod)?, pod.at)));
            if let Some((text, at)) = ended {
                let upper = at.max(lower);
                return Proof {
                    effect: Interval { lower, upper },
                    text,
                };
            }
            match held(self.stage, self.target).await {
                Ok(now) if now.saturating_sub(before) >= self.plan.bytes / 10 * 8 => {
                    return Proof {
                        effect: Interval {
                            lower,
                            upper: clock.now(),
                        },
                        text: format!("{} bytes more are held in the container", now - before),
                    };
                }
                Ok(_) => lower = asked,
                Err(why) => tracing::debug!(why, "the memory could not be read"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What Litmus says, dated by our own readings: between the request and the first one with the mark. Marks are written after the
    /// injection, so one that is not there yet proves nothing.
    async fn said(&self, mut seen: watch::Receiver<Seen>) -> Result<Proof, String> {
        let name = &self.target.pod.name;
        let experiment = &self.plan.experiment.name;
        let in_network = experiment.starts_with("pod-network-");
        let who = if self.stage.cluster.info().kind == "lab" {
            "the lab's DOUBLE of Litmus"
        } else {
            "Litmus"
        };
        let lower = self.requested;
        loop {
            if seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let (within, marked, announced) = {
                let seen = seen.borrow_and_update();
                (seen.within, seen.is_marked(name), seen.inject_event && in_network)
            };
            let Some((_, answered)) = within else { continue };
            if marked || announced {
                let word = if marked {
                    "marks the target as injected"
                } else {
                    "announces the injection"
                };
                return Ok(Proof {
                    effect: Interval { lower, upper: answered },
                    text: format!("{who} {word} ({experiment})"),
                });
            }
        }
    }
}
