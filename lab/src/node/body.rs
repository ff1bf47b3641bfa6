//! The processes of a pod in their order: network, volumes, init containers, sidecars, main containers.
//! Depends on `container` and `pod`.
//!
//! Contract: [`run`] returns when nothing of the pod runs any more and nothing will be started again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::container::{self, Volumes};
use super::error::NodeError;
use super::pod::{PodRuntime, Stop, stop_requested};
use super::state::{ContainerState, Kind, Life, Slot};
use super::{volumes, workspace};

/// First and longest pause between two attempts at mounting.
const MOUNT_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often config maps and secrets in volumes are looked at again.
const REFRESH: Duration = Duration::from_secs(10);

/// Runs a pod's containers to their end.
pub(crate) async fn run(runtime: Arc<PodRuntime>) {
    let Some(prepared) = set_up(&runtime).await else {
        return;
    };
    let refresher = volumes::shows_objects(&runtime.pod()).then(|| tokio::spawn(refresh(Arc::clone(&runtime))));
    let ephemeral = tokio::spawn(run_ephemeral(Arc::clone(&runtime), Arc::clone(&prepared)));
    let mut sidecars = JoinSet::new();
    if initialize(&runtime, &prepared, &mut sidecars).await {
        let mut main = JoinSet::new();
        let count = runtime.state().main.len();
        for index in 0..count {
            let slot = Slot {
                kind: Kind::Main,
                index,
            };
            main.spawn(container::run(Arc::clone(&runtime), slot, Arc::clone(&prepared)));
        }
        join(&mut main).await;
    }
    let grace = match *runtime.stop.borrow() {
        Stop::Now => Stop::Now,
        Stop::By(deadline) => Stop::By(deadline.max(Instant::now() + Duration::from_secs(2))),
        Stop::No => Stop::By(Instant::now() + runtime.grace()),
    };
    runtime.stop_sidecars.send_replace(grace);
    join(&mut sidecars).await;
    if let Err(error) = ephemeral.await {
        tracing::error!(%error, "the task of the ephemeral containers failed");
    }
    if let Some(refresher) = refresher {
        refresher.abort();
    }
}

async fn join(tasks: &mut JoinSet<()>) {
    while let Some(outcome) = tasks.join_next().await {
        if let Err(error) = outcome {
            tracing::error!(%error, "a container's task failed");
        }
    }
}

/// Network, files and volumes; tried again until they succeed or the pod is to end.
async fn set_up(runtime: &Arc<PodRuntime>) -> Option<Arc<Volumes>> {
    attempt(
        runtime,
        "FailedCreatePodSandBox",
        "Failed to create pod sandbox",
        || async {
            runtime.create_network().await?;
            workspace::write_name_files(runtime)
        },
    )
    .await?;
    // Watchers learn the address before anything can use it.
    runtime.flushed().await;
    let prepared = attempt(runtime, "FailedMount", "MountVolume.SetUp failed", || {
        runtime.prepare_volumes()
    })
    .await?;
    Some(Arc::new(prepared))
}

async fn attempt<T, F>(
    runtime: &Arc<PodRuntime>,
    reason: &'static str,
    what: &str,
    mut action: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, NodeError>>,
{
    let mut stop = runtime.stop.subscribe();
    let mut pause = MOUNT_PAUSE.0;
    loop {
        if *stop.borrow() != Stop::No {
            return None;
        }
        match action().await {
            Ok(value) => return Some(value),
            Err(error) => {
                let message = format!("{what}: {}", error.chain());
                tracing::debug!(pod = %runtime.name, message, "set-up failed, trying again");
                runtime.context.recorder.warning(&runtime.pod(), None, reason, message);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop_requested(&mut stop) => return None,
        }
        pause = (pause * 2).min(MOUNT_PAUSE.1);
    }
}

/// Runs the init containers in order. False: the pod does not get to its main containers.
async fn initialize(runtime: &Arc<PodRuntime>, prepared: &Arc<Volumes>, sidecars: &mut JoinSet<()>) -> bool {
    let count = runtime.state().init.len();
    for index in 0..count {
        let slot = Slot {
            kind: Kind::Init,
            index,
        };
        let sidecar = runtime
            .state()
            .container(slot)
            .is_some_and(|container| container.sidecar);
        if sidecar {
            sidecars.spawn(container::run(Arc::clone(runtime), slot, Arc::clone(prepared)));
            if !container::wait_started(runtime, slot).await {
                return false;
            }
            continue;
        }
        container::run(Arc::clone(runtime), slot, Arc::clone(prepared)).await;
        let succeeded = runtime
            .state()
            .container(slot)
            .is_some_and(|container| matches!(&container.life, Life::Terminated(ended) if ended.exit_code == 0));
        if !succeeded {
            return false;
        }
    }
    *runtime.stop.borrow() == Stop::No
}

/// Starts every ephemeral container that is put into the pod, once. They end with the sidecars: when the others have.
async fn run_ephemeral(runtime: Arc<PodRuntime>, prepared: Arc<Volumes>) {
    let mut stop = runtime.stop_sidecars.subscribe();
    let mut changed = runtime.pod_changed.subscribe();
    let mut tasks = JoinSet::new();
    loop {
        changed.mark_unchanged();
        let pod = runtime.pod();
        let wanted = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref());
        let known = runtime.state().ephemeral.len();
        for (index, container) in wanted.unwrap_or_default().iter().enumerate().skip(known) {
            let image = container.image.as_deref().unwrap_or_default();
            let state = ContainerState::new(&container.name, image, false, "ContainerCreating");
            runtime.update(|pod| pod.ephemeral.push(state));
            let slot = Slot {
                kind: Kind::Ephemeral,
                index,
            };
            tasks.spawn(container::run(Arc::clone(&runtime), slot, Arc::clone(&prepared)));
        }
        tokio::select! {
            () = stop_requested(&mut stop) => break,
            outcome = changed.changed() => if outcome.is_err() { break },
        }
    }
    join(&mut tasks).await;
}

/// Keeps files from config maps and secrets current.
async fn refresh(runtime: Arc<PodRuntime>) {
    loop {
        tokio::time::sleep(REFRESH).await;
        let pod = runtime.pod();
        if let Err(error) = volumes::refresh(&runtime.volume_source(&pod)).await {
            tracing::debug!(pod = %runtime.name, error = %error.chain(), "volumes not refreshed");
        }
    }
}
