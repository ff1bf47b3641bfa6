//! Faults through the Kubernetes API alone: nothing is installed in the cluster.

use crate::cluster::{Cluster, ClusterError, Failed, Verb, run_in_pod};
use crate::evidence::Event;
use crate::fault::{FaultKind, FaultSpec, FaultTarget, Signal};
use crate::model::{Interval, Mono};
use crate::observe::{LivePod, PodIndex};
use crate::world::{Armed, RecordError, Recorder};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};
use std::time::Duration;

/// How long an effect may take to show, on top of a grace period.
const PROOF_LIMIT: Duration = Duration::from_secs(30);

/// Signals every process of the container but its init and this shell; when there is none, or the init outlives them, the
/// init itself. (Within its own pid namespace an init cannot be killed by SIGKILL, see `pid_namespaces(7)`: images whose
/// program IS the init need SIGTERM or a pod kill, and the missing proof of effect will say so.)
const KILL_SCRIPT: &str = r#"
signal=$1; hit=0
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  [ "$pid" = 1 ] && continue
  [ "$pid" = $$ ] && continue
  kill -s "$signal" "$pid" 2>/dev/null && hit=1
done
[ $hit = 1 ] && sleep 0.3
kill -s "$signal" 1
"#;

/// The direct injector.
#[derive(Clone)]
pub(crate) struct Direct {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) pods: PodIndex,
}

/// The verbs that a fault needs.
pub(crate) fn needed_verbs(fault: &FaultSpec, namespace: &str) -> Vec<Verb> {
    let verb = |verb, resource: &str, purpose| Verb {
        verb,
        group: String::new(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        purpose,
    };
    match &fault.kind {
        FaultKind::PodKill { .. } => vec![verb("delete", "pods", "kill pods")],
        FaultKind::ContainerKill { .. } => vec![verb("create", "pods/exec", "signal a container")],
    }
}

/// What a target was like when it was hit.
struct Before {
    restarts: i32,
}

impl Direct {
    /// Fires at every target at once and waits for the proofs. Returns how many were proven.
    ///
    /// # Errors
    /// When the log cannot be written. A failing call is not an error here: its outcome is unknown, and the proof decides.
    pub(crate) async fn fire(&self, armed: Armed) -> Result<usize, RecordError> {
        let spec = armed.spec();
        let shots = armed.targets().iter().map(|target| self.fire_at(spec, target));
        let mut proven = 0;
        for shot in futures::future::join_all(shots).await {
            proven += usize::from(shot?);
        }
        Ok(proven)
    }

    async fn fire_at(&self, spec: &FaultSpec, target: &FaultTarget) -> Result<bool, RecordError> {
        let clock = self.recorder.clock();
        let before = Before {
            restarts: self
                .pods
                .get(&target.pod.uid)
                .and_then(|pod| pod.container(target.container.as_deref()).map(|held| held.restarts))
                .unwrap_or(0),
        };
        let requested = clock.now();
        self.recorder.record(Event::FaultRequested {
            fault: spec.name.clone(),
            target: target.clone(),
            at: requested,
        })?;
        let call = async {
            match &spec.kind {
                FaultKind::PodKill { grace_seconds } => self.delete_pod(target, *grace_seconds).await,
                FaultKind::ContainerKill { signal, .. } => self.signal(target, *signal).await,
            }
        };
        let grace = match spec.kind {
            FaultKind::PodKill { grace_seconds } => Duration::from_secs(grace_seconds.into()),
            FaultKind::ContainerKill { .. } => Duration::ZERO,
        };
        let limit = PROOF_LIMIT + grace;
        let answer = async {
            let error = call.await.err();
            let event = Event::FaultAnswered {
                fault: spec.name.clone(),
                target: target.clone(),
                at: clock.now(),
                error: error.as_ref().map(ToString::to_string),
            };
            self.recorder.record(event)?;
            // A definite no cannot have had an effect; anything else is unknown and worth waiting for.
            Ok::<bool, RecordError>(!matches!(
                error.map(|error| error.failed),
                Some(
                    Failed::Forbidden
                        | Failed::NotFound
                        | Failed::Conflict
                        | Failed::Rejected(_)
                        | Failed::Unauthorized
                )
            ))
        };
        // The effect is often seen before the answer is in.
        let proof = self.wait_for_effect(spec, target, &before, requested, limit);
        let mut proof = std::pin::pin!(proof);
        let mut answer = std::pin::pin!(answer);
        let mut answered = false;
        let seen = tokio::select! {
            seen = &mut proof => seen,
            possible = &mut answer => {
                answered = true;
                if possible? { proof.await } else { None }
            }
        };
        if !answered {
            // A call in flight is never aborted: it may still arrive. It ends within its own limit.
            answer.await?;
        }
        match seen {
            Some((effect, proof)) => {
                let event = Event::FaultProven {
                    fault: spec.name.clone(),
                    target: target.clone(),
                    effect,
                    proof,
                };
                self.recorder.record(event)?;
                Ok(true)
            }
            None => {
                let why = match &spec.kind {
                    FaultKind::PodKill { .. } => "the pod did not go away".to_owned(),
                    FaultKind::ContainerKill { signal, .. } => format!(
                        "no end or restart of the container was seen after SIG{}; an init process ignores signals from inside its \
                         container unless it handles them",
                        signal.name()
                    ),
                };
                let event = Event::FaultNotProven {
                    fault: spec.name.clone(),
                    target: target.clone(),
                    why,
                };
                self.recorder.record(event)?;
                Ok(false)
            }
        }
    }

    async fn delete_pod(&self, target: &FaultTarget, grace_seconds: u32) -> Result<(), ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client(), &target.pod.namespace);
        // The UID makes sure that a replacement under the same name is never hit.
        let parameters = DeleteParams::default()
            .grace_period(grace_seconds)
            .preconditions(Preconditions {
                uid: Some(target.pod.uid.clone()),
                resource_version: None,
            });
        let attempted = format!("delete pod {}/{}", target.pod.namespace, target.pod.name);
        self.cluster
            .call(attempted, api.delete(&target.pod.name, &parameters))
            .await
            .map(drop)
    }

    async fn signal(&self, target: &FaultTarget, signal: Signal) -> Result<(), ClusterError> {
        let command = ["sh", "-c", KILL_SCRIPT, "sh", signal.name()].map(str::to_owned);
        let limit = Duration::from_secs(10);
        let (namespace, pod) = (&target.pod.namespace, &target.pod.name);
        let output = run_in_pod(
            &self.cluster,
            namespace,
            pod,
            target.container.as_deref(),
            &command,
            limit,
        )
        .await?;
        tracing::debug!(code = output.code, stderr = output.stderr, "the kill script ended");
        Ok(())
    }

    /// The first sign of the effect, as an interval from the request to its receipt.
    async fn wait_for_effect(
        &self,
        spec: &FaultSpec,
        target: &FaultTarget,
        before: &Before,
        requested: Mono,
        limit: Duration,
    ) -> Option<(Interval, String)> {
        let mut changes = self.pods.changes();
        // A graceful delete takes effect when the cluster begins to end the pod: that is the earlier, stricter start of the
        // recovery clock. It is proven only once the pod has really ended.
        let mut began: Option<Mono> = None;
        let wait = async {
            loop {
                changes.mark_unchanged();
                if let Some(pod) = self.pods.get(&target.pod.uid) {
                    if began.is_none() && pod.facts.deletion_at.is_some() {
                        began = Some(pod.at);
                    }
                    if let Some(proof) = effect(spec, target, before, &pod) {
                        let upper = began
                            .filter(|_| matches!(spec.kind, FaultKind::PodKill { .. }))
                            .unwrap_or(pod.at);
                        return Some((
                            Interval {
                                lower: requested,
                                upper: upper.max(requested),
                            },
                            proof,
                        ));
                    }
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.ok().flatten()
    }
}

fn effect(spec: &FaultSpec, target: &FaultTarget, before: &Before, pod: &LivePod) -> Option<String> {
    let uid = &target.pod.uid;
    match &spec.kind {
        FaultKind::PodKill { .. } => {
            if pod.gone.is_some() {
                Some(format!("pod UID {uid} is gone"))
            } else if pod.facts.deletion_at.is_some() && pod.ended() {
                Some(format!("pod UID {uid} ended in phase {}", pod.facts.phase))
            } else {
                None
            }
        }
        FaultKind::ContainerKill { .. } => {
            let name = target.container.as_deref();
            if !pod.container_ended(name, target.container_id.as_deref(), before.restarts) {
                return None;
            }
            let container = pod.container(name);
            Some(match container.map(|container| &container.state) {
                Some(crate::model::ContainerState::Terminated { exit_code, reason }) => {
                    format!(
                        "container {} ended with exit code {exit_code} ({reason})",
                        name.unwrap_or_default()
                    )
                }
                _ if pod.gone.is_some() => format!("pod UID {uid} is gone"),
                _ => format!("container {} has a new id", name.unwrap_or_default()),
            })
        }
    }
}
