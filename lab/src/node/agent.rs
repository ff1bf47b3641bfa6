//! The node agent: registers the lab's nodes, watches pods once for all of them, and runs the ones bound to them.
//! Depends on the other rooms of `node`.
//!
//! Central type: [`NodeAgent`]. Contract: a pod is known by its UID; [`NodeAgent::stop`] returns when no process, no
//! control group, no interface and no mount of a pod is left.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::cgroup::Cgroups;
use super::directory::Directory;
use super::error::NodeError;
use super::events::Recorder;
use super::image::ImageTable;
use super::name_trouble::NameTroubles;
use super::names::NameServer;
use super::network::{AddressPool, LabNetwork};
use super::pod::{Context, PodRuntime, Stop, Update, delete_now};
use super::policies::{self, Policies};
use super::runc::{Runc, become_subreaper};
use super::{claims, nodes, requirements, services};

/// Pauses between restarts of a container that keeps ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BackOff {
    /// Before the second restart (the first one comes at once); each further pause is twice as long.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
    /// After so long a run the count starts again.
    pub reset: Duration,
}

impl Default for BackOff {
    /// What kubelets do: 10 s, 20 s ... 300 s, forgotten after 10 minutes.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            longest: Duration::from_mins(5),
            reset: Duration::from_mins(10),
        }
    }
}

/// What a node agent is made of.
#[derive(Debug, Clone)]
pub struct NodeAgentConfig {
    /// Names of the nodes, all of them this machine.
    pub nodes: Vec<String>,
    /// What image names mean.
    pub images: ImageTable,
    /// Names and addresses.
    pub network: LabNetwork,
    /// Folder for what lives as long as processes do; layers, bundles and runc's state are below it.
    pub state_folder: PathBuf,
    /// Folder on disk for volumes and logs.
    pub data_folder: PathBuf,
    /// The control group above all pods of this lab.
    pub control_group: String,
    /// Certificate authority of the API server, PEM.
    pub authority: String,
    /// Where the API server listens on the lab's network.
    pub api_port: u16,
    /// Pauses between restarts.
    pub back_off: BackOff,
    /// The executable that serves the lab's hidden commands.
    pub program: PathBuf,
}

impl NodeAgentConfig {
    /// Address of a node by its name.
    pub(crate) fn node_address(&self, node: &str) -> Ipv4Addr {
        let index = self.nodes.iter().position(|name| name == node).unwrap_or(0);
        self.network.node_address(u8::try_from(index).unwrap_or(u8::MAX))
    }
}

/// One pod's connection to the watch.
struct Known {
    updates: watch::Sender<Update>,
    runtime: Arc<PodRuntime>,
}

type Pods = Arc<Mutex<HashMap<String, Known>>>;

/// Runs the pods of a lab.
pub struct NodeAgent {
    context: Arc<Context>,
    pods: Pods,
    workers: TaskTracker,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for NodeAgent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NodeAgent")
            .field("config", &self.context.config)
            .finish_non_exhaustive()
    }
}

impl NodeAgent {
    /// Checks the machine, registers the nodes and starts to run pods. The lab's bridge must exist.
    pub async fn start(client: Client, config: NodeAgentConfig) -> Result<Self, NodeError> {
        requirements::check()?;
        become_subreaper()?;
        let state = &config.state_folder;
        let folders = ["runc", "scratch", "bundles", "layers", "memory"].map(|name| state.join(name));
        for folder in folders.iter().chain([&config.data_folder]) {
            std::fs::create_dir_all(folder).map_err(NodeError::io("create the folder", folder))?;
        }
        let (recorder, writer) = Recorder::start(client.clone());
        let context = Arc::new(Context {
            client: client.clone(),
            cgroups: Cgroups::detect()?,
            runc: Runc::new(state.join("runc"), state.join("scratch")),
            addresses: AddressPool::default(),
            recorder,
            name_troubles: NameTroubles::default(),
            cpus: nodes::cpus(),
            memory: nodes::memory(),
            config,
        });
        services::create(&context.config.network, context.config.api_port).await?;
        let names = NameServer::bind(context.config.network.gateway()).await?;
        let (directory, changes) = Directory::start(&client);
        let (known_policies, policy_changes) = Policies::start(&client);
        nodes::register(&context).await?;
        let pods: Pods = Arc::default();
        let workers = TaskTracker::new();
        let tasks = vec![
            writer,
            tokio::spawn(nodes::heartbeat(Arc::clone(&context))),
            tokio::spawn(claims::bind_all(
                client.clone(),
                context.config.data_folder.join("claims"),
            )),
            tokio::spawn(names.serve(directory.clone(), context.name_troubles.clone())),
            tokio::spawn(services::maintain(
                context.config.network.clone(),
                context.config.api_port,
                directory,
                changes,
            )),
            tokio::spawn(policies::maintain(
                context.config.network.clone(),
                known_policies,
                policy_changes,
            )),
            tokio::spawn(follow(Arc::clone(&context), Arc::clone(&pods), workers.clone())),
        ];
        Ok(Self {
            context,
            pods,
            workers,
            tasks,
        })
    }

    /// The interface that the API server needs for logs, exec and port forwarding.
    #[must_use]
    pub fn backend(&self) -> Arc<dyn crate::backend::PodBackend> {
        Arc::new(super::serving::Serving::new(
            Arc::clone(&self.context),
            PodTable(Arc::clone(&self.pods)),
        ))
    }

    /// What breaks pods from outside.
    #[must_use]
    pub fn faults(&self) -> super::faults::Faults {
        super::faults::Faults::new(Arc::clone(&self.context), PodTable(Arc::clone(&self.pods)))
    }

    /// Ends all pods at once and removes everything that belongs to them.
    pub async fn stop(self) {
        for task in &self.tasks {
            task.abort();
        }
        // An aborted task may be in the middle of an event: one that came after the marks below would take them back,
        // and the pod would wait for ever for a deletion that nobody reports any more.
        for task in self.tasks {
            drop(task.await);
        }
        for known in self.pods.lock().unwrap_or_else(PoisonError::into_inner).values() {
            known.updates.send_modify(|update| update.deleted = true);
        }
        self.workers.close();
        self.workers.wait().await;
    }
}

/// Finds pods for the API server.
#[derive(Clone)]
pub(crate) struct PodTable(Pods);

impl PodTable {
    /// A pod by its UID.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<PodRuntime>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .map(|known| Arc::clone(&known.runtime))
    }
}

/// Follows the pods of all nodes.
async fn follow(context: Arc<Context>, pods: Pods, workers: TaskTracker) {
    let api: Api<Pod> = Api::all(context.client.clone());
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.uid());
                apply(&context, &pods, &workers, pod);
            }
            Ok(watcher::Event::InitDone) => {
                for (uid, known) in pods.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    if !listed.contains(uid) {
                        known.updates.send_modify(|update| update.deleted = true);
                    }
                }
            }
            Ok(watcher::Event::Apply(pod)) => apply(&context, &pods, &workers, pod),
            Ok(watcher::Event::Delete(pod)) => {
                let uid = pod.uid().unwrap_or_default();
                if let Some(known) = pods.lock().unwrap_or_else(PoisonError::into_inner).get(&uid) {
                    known.updates.send_replace(Update {
                        pod: Arc::new(pod),
                        deleted: true,
                    });
                }
            }
            Err(error) => tracing::warn!(%error, "the watch on pods was interrupted"),
        }
    }
}

/// Starts a pod that is new here, or tells its task what changed.
fn apply(context: &Arc<Context>, pods: &Pods, workers: &TaskTracker, pod: Pod) {
    let Some(uid) = pod.uid() else { return };
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default();
    if !context.config.nodes.iter().any(|name| name == node) {
        return;
    }
    let mut table = pods.lock().unwrap_or_else(PoisonError::into_inner);
    let pod = Arc::new(pod);
    if let Some(known) = table.get(&uid) {
        known.updates.send_replace(Update { pod, deleted: false });
        return;
    }
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default();
    let ended = matches!(phase, "Succeeded" | "Failed");
    if pod.metadata.deletion_timestamp.is_some() {
        // Nothing of it runs here, so nothing has to end before it goes.
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
        workers.spawn(async move { delete_now(&api, &pod.name_any(), &uid).await });
        return;
    }
    if ended {
        return;
    }
    let runtime = PodRuntime::new(Arc::clone(context), Arc::clone(&pod));
    let (updates, receiver) = watch::channel(Update { pod, deleted: false });
    table.insert(
        uid.clone(),
        Known {
            updates,
            runtime: Arc::clone(&runtime),
        },
    );
    let pods = Arc::clone(pods);
    workers.spawn(async move {
        let worker = tokio::spawn(Arc::clone(&runtime).run(receiver));
        if let Err(error) = worker.await {
            tracing::error!(pod = %runtime.name, %error, "a pod's task failed");
            runtime.request_stop(Stop::Now);
        }
        pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    });
}
