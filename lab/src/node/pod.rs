//! One pod from its appearance on the node to its disappearance. Depends on all of the smaller rooms of `node`.
//!
//! Central type: [`PodRuntime`]. One task per pod ([`PodRuntime::run`]) owns the API side: it writes the status and,
//! at the end, removes the object. A second one, the body, owns the processes. Contract for the order that watchers
//! see: address before any container starts; `deletionTimestamp`, then the final phase with every exit code, then the
//! deletion.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::agent::NodeAgentConfig;
use super::cgroup::Cgroups;
use super::container;
use super::error::NodeError;
use super::events::Recorder;
use super::name_trouble::NameTroubles;
use super::network::{AddressPool, PodNetwork};
use super::runc::Runc;
use super::state::{ContainerState, Life, PodState, Slot};
use super::volumes;

/// A pod's default grace period.
const GRACE_SECONDS: i64 = 30;
/// How long the API may take for one write before it is tried again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What all pods of an agent share.
pub(crate) struct Context {
    pub client: Client,
    pub config: NodeAgentConfig,
    pub cgroups: Cgroups,
    pub runc: Runc,
    pub addresses: AddressPool,
    pub recorder: Recorder,
    pub name_troubles: NameTroubles,
    pub cpus: i64,
    pub memory: i64,
}

/// What is asked of the containers of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Go on.
    No,
    /// End by the deadline.
    By(Instant),
    /// End at once.
    Now,
}

/// Returns when the containers are asked to end.
pub(crate) async fn stop_requested(stop: &mut watch::Receiver<Stop>) {
    drop(stop.wait_for(|stop| *stop != Stop::No).await);
}

/// What the API says about a pod.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub pod: Arc<Pod>,
    /// The object is gone.
    pub deleted: bool,
}

/// One pod on this node.
pub(crate) struct PodRuntime {
    pub context: Arc<Context>,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Volumes, logs and files of this pod, on disk.
    pub folder: PathBuf,
    /// Memory-backed volumes of this pod.
    pub memory_folder: PathBuf,
    pub stop: watch::Sender<Stop>,
    pub stop_sidecars: watch::Sender<Stop>,
    /// Wakes up at every new version of the object.
    pub pod_changed: watch::Sender<()>,
    /// Log pumps and the removal of ended instances.
    pub leftovers: TaskTracker,
    pod: Mutex<Arc<Pod>>,
    state: Mutex<PodState>,
    changed: Notify,
    pushed: watch::Sender<u64>,
}

impl PodRuntime {
    pub(crate) fn new(context: Arc<Context>, pod: Arc<Pod>) -> Arc<Self> {
        let uid = pod.uid().unwrap_or_default();
        let folder = context.config.data_folder.join("pods").join(&uid);
        let memory_folder = context.config.state_folder.join("memory").join(&uid);
        let state = initial_state(&context, &pod);
        Arc::new(Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid,
            folder,
            memory_folder,
            stop: watch::channel(Stop::No).0,
            stop_sidecars: watch::channel(Stop::No).0,
            pod_changed: watch::channel(()).0,
            leftovers: TaskTracker::new(),
            pod: Mutex::new(pod),
            state: Mutex::new(state),
            changed: Notify::new(),
            pushed: watch::channel(0).0,
            context,
        })
    }

    /// The newest version of the object.
    pub(crate) fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known about the pod. Never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, PodState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and has the status written.
    pub(crate) fn update(&self, change: impl FnOnce(&mut PodState)) {
        let mut state = self.state();
        change(&mut state);
        state.version += 1;
        drop(state);
        self.changed.notify_one();
    }

    /// Changes one container, and has the status written.
    pub(crate) fn update_container(&self, slot: Slot, change: impl FnOnce(&mut ContainerState)) {
        self.update(|state| {
            if let Some(container) = state.container_mut(slot) {
                change(container);
            }
        });
    }

    /// Waits until the API has everything that is known now, or the pod is to end at once.
    pub(crate) async fn flushed(&self) {
        let version = self.state().version;
        let mut pushed = self.pushed.subscribe();
        let mut stop = self.stop.subscribe();
        // The senders live as long as self, so waiting cannot fail.
        let written = async { drop(pushed.wait_for(|pushed| *pushed >= version).await) };
        let pointless = async { drop(stop.wait_for(|stop| *stop == Stop::Now).await) };
        tokio::select! {
            () = written => {}
            () = pointless => {}
        }
    }

    /// The control group above all of the pod's containers.
    pub(crate) fn control_group(&self) -> String {
        format!("{}/{}", self.context.config.control_group, self.uid)
    }

    /// Restart policy, with its default.
    pub(crate) fn restart_policy(&self) -> String {
        self.pod()
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.clone())
            .unwrap_or_else(|| "Always".to_owned())
    }

    /// The pod's own grace period.
    pub(crate) fn grace(&self) -> Duration {
        let seconds = self
            .pod()
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(GRACE_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Runs the pod until its object is gone.
    pub(crate) async fn run(self: Arc<Self>, mut updates: watch::Receiver<Update>) {
        let mut body = tokio::spawn(super::body::run(Arc::clone(&self)));
        let mut last = Value::Null;
        let mut ended = false;
        self.react(&updates.borrow_and_update().clone());
        loop {
            let deadline = self.active_deadline();
            tokio::select! {
                changed = updates.changed() => {
                    if changed.is_err() { break }
                    let update = updates.borrow_and_update().clone();
                    self.react(&update);
                }
                () = self.changed.notified() => {}
                outcome = &mut body, if !ended => {
                    if let Err(error) = outcome {
                        tracing::error!(pod = %self.name, %error, "the pod's task failed");
                        self.stop.send_replace(Stop::Now);
                    }
                    ended = true;
                    self.conclude();
                }
                () = sleep_until(deadline), if !ended => self.exceed_deadline(),
            }
            let gone = updates.borrow().deleted;
            let written = !gone && self.push(&mut last).await;
            if ended && (gone || written) {
                break;
            }
        }
        if !ended && let Err(error) = body.await {
            tracing::error!(pod = %self.name, %error, "the pod's task failed");
        }
        self.end(updates).await;
    }

    /// After the last process: remove what belongs to processes, then the object, then the files.
    async fn end(&self, mut updates: watch::Receiver<Update>) {
        let teardown = self.tear_down();
        let removal = async {
            loop {
                let update = updates.borrow_and_update().clone();
                if update.deleted {
                    return;
                }
                if update.pod.metadata.deletion_timestamp.is_some() {
                    self.delete_object().await;
                }
                if updates.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(removal, teardown);
        if self.folder.exists()
            && let Err(error) = tokio::fs::remove_dir_all(&self.folder).await
        {
            tracing::warn!(folder = %self.folder.display(), %error, "pod folder not removed");
        }
    }

    /// Takes over what the API says.
    fn react(&self, update: &Update) {
        *self.pod.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&update.pod);
        self.pod_changed.send_replace(());
        let wanted = if update.deleted {
            Stop::Now
        } else if update.pod.metadata.deletion_timestamp.is_some() {
            match update
                .pod
                .metadata
                .deletion_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
            {
                Some(0) => Stop::Now,
                Some(seconds) => Stop::By(Instant::now() + Duration::from_secs(seconds)),
                None => Stop::By(Instant::now() + self.grace()),
            }
        } else {
            return;
        };
        self.request_stop(wanted);
    }

    /// Never later than asked before.
    pub(crate) fn request_stop(&self, wanted: Stop) {
        self.stop.send_if_modified(|stop| {
            let sooner = match (*stop, wanted) {
                (_, Stop::No) | (Stop::Now, _) => false,
                (Stop::No, _) | (Stop::By(_), Stop::Now) => true,
                (Stop::By(old), Stop::By(new)) => new < old,
            };
            if sooner {
                *stop = wanted;
            }
            sooner
        });
    }

    fn active_deadline(&self) -> Option<Instant> {
        let seconds = self.pod().spec.as_ref().and_then(|spec| spec.active_deadline_seconds)?;
        let state = self.state();
        if state.verdict.is_some() {
            return None;
        }
        let elapsed = Duration::try_from(Timestamp::now().duration_since(state.start_time?)).unwrap_or_default();
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(elapsed);
        Some(Instant::now() + left)
    }

    fn exceed_deadline(&self) {
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.context
            .recorder
            .normal(&self.pod(), None, "DeadlineExceeded", message.clone());
        self.update(|state| state.verdict = Some(("DeadlineExceeded".to_owned(), message)));
        self.request_stop(Stop::By(Instant::now() + self.grace()));
    }

    /// The body has ended: every container gets its final state.
    fn conclude(&self) {
        let stopped = *self.stop.borrow() != Stop::No;
        self.update(|state| {
            state.finished = true;
            if !stopped {
                return;
            }
            let before = state.init.iter_mut().chain(&mut state.main);
            for container in before.chain(&mut state.ephemeral) {
                if let Life::Waiting { .. } = container.life {
                    container.life = Life::Terminated(container.last.take().unwrap_or_else(never_started));
                }
            }
        });
    }

    /// Writes the status when it differs from what was written last. False: it has to be tried again.
    async fn push(&self, last: &mut Value) -> bool {
        let pod = self.pod();
        let (version, status) = {
            let mut state = self.state();
            (state.version, state.status(&pod))
        };
        if status == *last {
            self.pushed.send_replace(version);
            return true;
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let patch = serde_json::json!({ "metadata": { "uid": self.uid }, "status": status });
        let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let write = api.patch_status(&self.name, &parameters, &patch);
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(_)) => {
                *last = status;
                self.pushed.send_replace(version);
                true
            }
            Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => {
                tracing::debug!(pod = %self.name, code = answer.code, "the pod is no longer the one that runs here");
                self.pushed.send_replace(version);
                true
            }
            outcome => {
                let reason = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer within {} s", WRITE_TIMEOUT.as_secs()),
                };
                tracing::warn!(pod = %self.name, reason, "status not written, trying again");
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.changed.notify_one();
                false
            }
        }
    }

    /// Removes the object, which must be the very one that ran here.
    async fn delete_object(&self) {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
        delete_now(&api, &self.name, &self.uid).await;
    }

    /// Removes all that belongs to processes: control groups, memory, the network.
    async fn tear_down(&self) {
        self.leftovers.close();
        self.leftovers.wait().await;
        let group = self.control_group();
        if let Err(error) = self.context.cgroups.kill(&group, Duration::from_secs(10)).await {
            tracing::warn!(pod = %self.name, error = %error.chain(), "processes left");
        }
        if let Err(error) = self.context.cgroups.remove(&group) {
            tracing::warn!(pod = %self.name, error = %error.chain(), "control group left");
        }
        let network = self.state().network.take();
        if let Some(network) = network {
            network.remove().await;
            self.context.name_troubles.forget(network.address);
            self.context
                .addresses
                .give_back(&self.context.config.network, network.address);
        }
        if let Err(error) = unmount_memory(&self.memory_folder) {
            tracing::warn!(pod = %self.name, error = %error.chain(), "memory-backed volumes left");
        }
    }

    /// Creates the pod's network and shows the address.
    pub(crate) async fn create_network(&self) -> Result<(), NodeError> {
        let host_network = self
            .pod()
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_network == Some(true));
        let context = &self.context;
        if host_network {
            self.update(|state| state.pod_address = state.host_address);
            return Ok(());
        }
        let address = context.addresses.take(&context.config.network)?;
        match PodNetwork::create(&context.config.network, address, &self.uid).await {
            Ok(network) => {
                self.update(|state| {
                    state.network = Some(network);
                    state.pod_address = Some(address);
                });
                Ok(())
            }
            Err(error) => {
                context.addresses.give_back(&context.config.network, address);
                Err(error)
            }
        }
    }

    /// Prepares the pod's volumes.
    pub(crate) async fn prepare_volumes(
        &self,
    ) -> Result<std::collections::BTreeMap<String, volumes::Prepared>, NodeError> {
        let pod = self.pod();
        volumes::prepare(&self.volume_source(&pod)).await
    }

    /// What volumes are made from.
    pub(crate) fn volume_source<'a>(&'a self, pod: &'a Pod) -> volumes::Source<'a> {
        let state = self.state();
        volumes::Source {
            client: &self.context.client,
            pod,
            folder: &self.folder,
            memory_folder: &self.memory_folder,
            pod_address: state.pod_address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
            host_address: state.host_address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
            authority: &self.context.config.authority,
        }
    }
}

/// Deletes a pod object without grace, if it is still the same.
pub(crate) async fn delete_now(api: &Api<Pod>, name: &str, uid: &str) {
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    for attempt in 0..5_u32 {
        match tokio::time::timeout(WRITE_TIMEOUT, api.delete(name, &parameters)).await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => return,
            Ok(Err(error)) => tracing::warn!(pod = name, %error, "pod object not deleted"),
            Err(_) => tracing::warn!(pod = name, "pod object not deleted: no answer"),
        }
        tokio::time::sleep(Duration::from_millis(100) * 2_u32.pow(attempt)).await;
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn never_started() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        finished_at: Some(Time(Timestamp::now())),
        ..ContainerStateTerminated::default()
    }
}

fn initial_state(context: &Context, pod: &Pod) -> PodState {
    let spec = pod.spec.as_ref();
    let init: Vec<ContainerState> = spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .map(|c| {
            ContainerState::new(
                &c.name,
                c.image.as_deref().unwrap_or_default(),
                container::is_sidecar(c),
                "PodInitializing",
            )
        })
        .collect();
    let reason = if init.is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    let main = spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|c| ContainerState::new(&c.name, c.image.as_deref().unwrap_or_default(), false, reason))
        .collect();
    let node = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    PodState {
        init,
        main,
        start_time: Some(Timestamp::now()),
        host_address: Some(context.config.node_address(node)),
        ..PodState::default()
    }
}

/// Unmounts the memory-backed volumes of a pod.
fn unmount_memory(folder: &std::path::Path) -> Result<(), NodeError> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let path = entry.path();
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)
            .map_err(NodeError::errno("unmount", &path))?;
    }
    std::fs::remove_dir_all(folder).map_err(NodeError::io("remove", folder))
}
