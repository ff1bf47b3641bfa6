//! Faults on pods themselves: kill, eviction, a signal into a container. One-shots: the system itself has to recover.

use super::shot::{Called, Miss, PROOF_LIMIT, Proof, count, shoot};
use super::stage::Stage;
use crate::cluster::{Failed, Session};
use crate::fault::{FaultKind, FaultSpec, FaultTarget, Signal};
use crate::model::{ContainerState, Interval, Mono};
use crate::observe::LivePod;
use crate::world::{Armed, RecordError};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, EvictParams, Preconditions};
use std::sync::OnceLock;
use std::time::Duration;

/// Signals every process of the container but its init and this shell; when there is none, or the init outlives them, the
/// init itself. (Within its own pid namespace an init cannot be killed by SIGKILL, see `pid_namespaces(7)`: images whose
/// program IS the init need SIGTERM or a pod kill, and the missing proof of effect will say so.) It waits for its cue, so that
/// the time that the container's runtime takes to start it is no part of the fault.
const KILL_SCRIPT: &str = r#"
signal=$1; hit=0
read -r _ && echo ready
read -r cue || exit 1
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  [ "$pid" = 1 ] && continue
  [ "$pid" = $$ ] && continue
  kill -s "$signal" "$pid" 2>/dev/null && hit=1
done
if [ $hit = 1 ]; then echo sent; sleep 0.3; kill -s "$signal" 1; else kill -s "$signal" 1; echo sent; fi
echo done
"#;
/// How long the script may take to start, and to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Fires at every target at once.
pub(super) async fn fire(stage: &Stage, armed: &Armed) -> Result<usize, RecordError> {
    let spec = armed.spec();
    count(armed.targets().iter().map(|target| fire_at(stage, spec, target))).await
}

async fn fire_at(stage: &Stage, spec: &FaultSpec, target: &FaultTarget) -> Result<bool, RecordError> {
    let restarts = restarts(stage, target);
    let sent = OnceLock::new();
    let call = async {
        match &spec.kind {
            FaultKind::PodEvict { grace_seconds } => evict(stage, target, *grace_seconds).await,
            FaultKind::ContainerKill { signal, .. } => send_signal(stage, target, *signal, &sent).await,
            FaultKind::PodKill { grace_seconds } => delete(stage, target, *grace_seconds).await,
            other => Err(Miss::definite(format!("{} is no fault on a pod", other.word()))),
        }
    };
    let grace = match spec.kind {
        FaultKind::PodKill { grace_seconds } => Duration::from_secs(grace_seconds.into()),
        // The pod's own; the default of Kubernetes is 30 s, and five minutes are what a node drain is usually given.
        FaultKind::PodEvict { grace_seconds } => Duration::from_secs(grace_seconds.unwrap_or(300).into()),
        _ => Duration::ZERO,
    };
    let sent = &sent;
    shoot(stage, spec, target, call, |requested| async move {
        let proof = effect_seen(stage, spec, target, restarts, requested, PROOF_LIMIT + grace).await?;
        // As with a graceful deletion, a signal takes effect when it is sent, and is proven by the end of what it was sent to.
        Ok(match sent.get() {
            Some(sent) if sent.upper <= proof.effect.upper => Proof { effect: *sent, ..proof },
            _ => proof,
        })
    })
    .await
}

/// Restarts of the target's container so far.
pub(super) fn restarts(stage: &Stage, target: &FaultTarget) -> i32 {
    let pod = stage.pods.get(&target.pod.uid);
    pod.and_then(|pod| pod.container(target.container.as_deref()).map(|held| held.restarts))
        .unwrap_or(0)
}

/// The UID makes sure that a replacement under the same name is never hit.
fn only(target: &FaultTarget) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions {
        uid: Some(target.pod.uid.clone()),
        resource_version: None,
    })
}

async fn delete(stage: &Stage, target: &FaultTarget, grace_seconds: u32) -> Result<Called, Miss> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client(), &target.pod.namespace);
    let parameters = only(target).grace_period(grace_seconds);
    let attempted = format!("delete pod {}/{}", target.pod.namespace, target.pod.name);
    stage
        .cluster
        .call(attempted, api.delete(&target.pod.name, &parameters))
        .await?;
    Ok(Called::Accepted)
}

async fn evict(stage: &Stage, target: &FaultTarget, grace_seconds: Option<u32>) -> Result<Called, Miss> {
    evict_pod(
        stage,
        &target.pod.namespace,
        &target.pod.name,
        Some(target),
        grace_seconds,
    )
    .await?;
    Ok(Called::Accepted)
}

/// Asks for an eviction, which a disruption budget may refuse (429).
pub(super) async fn evict_pod(
    stage: &Stage,
    namespace: &str,
    name: &str,
    only_target: Option<&FaultTarget>,
    grace_seconds: Option<u32>,
) -> Result<(), Miss> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client(), namespace);
    let mut options = only_target.map(only).unwrap_or_default();
    options.grace_period_seconds = grace_seconds;
    let parameters = EvictParams {
        delete_options: Some(options),
        post_options: kube::api::PostParams::default(),
    };
    let attempted = format!("evict pod {namespace}/{name}");
    match stage.cluster.call(attempted, api.evict(name, &parameters)).await {
        Ok(_) => Ok(()),
        // A node is emptied of it all the same.
        Err(error) if error.failed == Failed::NotFound && only_target.is_none() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Starts the script, then gives it its cue. Notes when the signal was sent: between the cue and the word that it was; nothing when
/// the container was gone before it could say so.
async fn send_signal(
    stage: &Stage,
    target: &FaultTarget,
    signal: Signal,
    sent: &OnceLock<Interval>,
) -> Result<Called, Miss> {
    let command = ["sh", "-c", KILL_SCRIPT, "sh", signal.name()].map(str::to_owned);
    let clock = stage.recorder.clock();
    let mut session = Session::open(
        &stage.cluster,
        &target.pod.namespace,
        &target.pod.name,
        target.container.as_deref(),
        &command,
    )
    .await?;
    session.ask("ready?", KILL_LIMIT).await?;
    let lower = clock.now();
    // The session may end with the container: that is no failure, and the proof decides.
    match session.ask("go", KILL_LIMIT).await {
        Ok(_) => {
            let upper = clock.now();
            sent.get_or_init(|| Interval { lower, upper });
            // The script is not cut off before its end.
            drop(session.ask("done?", KILL_LIMIT).await);
        }
        Err(error) => tracing::debug!(%error, "the kill script was cut off"),
    }
    Ok(Called::Accepted)
}

/// The first sign of the effect, as an interval from the request to its receipt.
async fn effect_seen(
    stage: &Stage,
    spec: &FaultSpec,
    target: &FaultTarget,
    restarts: i32,
    requested: Mono,
    limit: Duration,
) -> Result<Proof, String> {
    let mut changes = stage.pods.changes();
    // A graceful delete takes effect when the cluster begins to end the pod: that is the earlier, stricter start of the
    // recovery clock. It is proven only once the pod has really ended.
    let mut began: Option<Mono> = None;
    let deleted = !matches!(spec.kind, FaultKind::ContainerKill { .. });
    let wait = async {
        loop {
            changes.mark_unchanged();
            if let Some(pod) = stage.pods.get(&target.pod.uid) {
                if began.is_none() && pod.facts.deletion_at.is_some() {
                    began = Some(pod.at);
                }
                let seen = if deleted {
                    pod_ended(target, &pod)
                } else {
                    container_ended(target, restarts, &pod)
                };
                if let Some(text) = seen {
                    let upper = began.filter(|_| deleted).unwrap_or(pod.at).max(requested);
                    return Proof {
                        effect: Interval {
                            lower: requested,
                            upper,
                        },
                        text,
                    };
                }
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::time::timeout(limit, wait).await.map_err(|_elapsed| match &spec.kind {
        FaultKind::ContainerKill { signal, .. } => format!(
            "no end or restart of the container was seen after SIG{}; an init process ignores signals from inside its \
             container unless it handles them",
            signal.name()
        ),
        _ => "the pod did not go away".to_owned(),
    })
}

/// The end of a pod, in words.
pub(super) fn pod_ended(target: &FaultTarget, pod: &LivePod) -> Option<String> {
    let uid = &target.pod.uid;
    if pod.gone.is_some() {
        Some(format!("pod UID {uid} is gone"))
    } else if pod.facts.deletion_at.is_some() && pod.ended() {
        Some(format!("pod UID {uid} ended in phase {}", pod.facts.phase))
    } else {
        None
    }
}

/// The end of a container, in words.
pub(super) fn container_ended(target: &FaultTarget, restarts: i32, pod: &LivePod) -> Option<String> {
    let name = target.container.as_deref();
    if !pod.container_ended(name, target.container_id.as_deref(), restarts) {
        return None;
    }
    let word = name.unwrap_or_default();
    Some(match pod.container(name).map(|container| &container.state) {
        Some(ContainerState::Terminated { exit_code, reason }) => {
            format!("container {word} ended with exit code {exit_code} ({reason})")
        }
        _ if pod.gone.is_some() => format!("pod UID {} is gone", target.pod.uid),
        _ => format!("container {word} has a new id"),
    })
}
