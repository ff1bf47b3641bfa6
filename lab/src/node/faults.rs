//! Breaking pods from outside: what a privileged daemon on a node could do to them. Depends on `agent`, `cgroup`, `command`.
//!
//! For doubles of chaos tools, and it knows none of them. Central type: [`Faults`]. Contract: pods are named by UID, so that
//! a replacement of the same name is never hit by mistake; what is done lives in the pod's own network namespace or in the
//! control group of a container, and therefore ends with them at the latest, also when the lab's process dies: the sweep
//! removes both.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::agent::PodTable;
use super::command::run;
use super::error::NodeError;
pub use super::name_trouble::NameTrouble;
use super::network::PodNetwork;
use super::pod::{Context, PodRuntime};
use super::state::Life;

/// The hidden arguments of the lab's executable that lead to [`intruder`](crate::intruder).
pub(crate) const INTRUDER: [&str; 2] = ["lab-internal", "intruder"];

/// How long an intruder may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Breaks the pods of one lab.
#[derive(Clone)]
pub struct Faults {
    context: Arc<Context>,
    pods: PodTable,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Faults").finish_non_exhaustive()
    }
}

/// A foreign process inside a container's control group or a pod's network. It ends when this is dropped.
#[derive(Debug)]
pub struct Intruder {
    child: Child,
    /// The process ends when it can no longer read from here.
    held: ChildStdin,
}

impl Intruder {
    /// Process id on this machine; absent once it has ended and was noticed.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it and waits until it has.
    pub async fn end(mut self) -> Result<(), NodeError> {
        // It ends its child first, which a kill would leave behind for a moment.
        drop(self.held);
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, self.child.wait()).await {
            return Ok(());
        }
        self.child
            .kill()
            .await
            .map_err(NodeError::io("end the process", "inside a container's control group"))
    }
}

impl Faults {
    pub(crate) fn new(context: Arc<Context>, pods: PodTable) -> Self {
        Self { context, pods }
    }

    fn pod(&self, uid: &str) -> Result<Arc<PodRuntime>, NodeError> {
        self.pods
            .get(uid)
            .ok_or_else(|| NodeError::Pod(format!("no pod with UID {uid} runs on a node of this lab")))
    }

    /// Whether the pod runs here at all.
    #[must_use]
    pub fn knows(&self, pod_uid: &str) -> bool {
        self.pods.get(pod_uid).is_some()
    }

    /// Sends a signal to the first process of a container, from outside, so that its own PID namespace does not shield it.
    pub fn signal(&self, pod_uid: &str, container: &str, signal: Signal) -> Result<(), NodeError> {
        let pod = self.pod(pod_uid)?;
        let instance = pod
            .state()
            .named(container)
            .and_then(|container| container.instance.clone());
        let instance = instance.ok_or_else(|| not_running(&pod, container))?;
        instance.process.signal(signal);
        Ok(())
    }

    /// Whether a container runs now.
    #[must_use]
    pub fn container_runs(&self, pod_uid: &str, container: &str) -> bool {
        self.pods.get(pod_uid).is_some_and(|pod| {
            pod.state()
                .named(container)
                .is_some_and(|container| matches!(container.life, Life::Running { .. }))
        })
    }

    /// Replaces one nftables table (family ip) in the pod's network namespace as a whole: `chains` is what stands between
    /// its braces, `None` removes it. One transaction: there is no instant without rules in between.
    pub async fn filter(&self, pod_uid: &str, table: &str, chains: Option<&str>) -> Result<(), NodeError> {
        // `add` first: deleting a table that is not there is an error.
        let mut script = format!("add table ip {table}\ndelete table ip {table}\n");
        if let Some(chains) = chains {
            script.push_str(&format!("table ip {table} {{\n{chains}\n}}\n"));
        }
        self.network_tool(pod_uid, "nft", &["-f", "-"], Some(&script))
            .await
            .map(drop)
    }

    /// Runs a tool of the host inside the pod's network namespace and returns what it prints.
    pub async fn network_tool(
        &self,
        pod_uid: &str,
        program: &str,
        arguments: &[&str],
        input: Option<&str>,
    ) -> Result<String, NodeError> {
        let pod = self.pod(pod_uid)?;
        let namespace = pod.state().network.as_ref().map(|network| network.name.clone());
        let namespace =
            namespace.ok_or_else(|| NodeError::Pod(format!("pod {}/{} has no network", pod.namespace, pod.name)))?;
        let mut all = vec!["netns", "exec", namespace.as_str(), program];
        all.extend(arguments);
        run("ip", &all, input).await
    }

    /// The pod's network namespace as a path.
    #[must_use]
    pub fn network_namespace(&self, pod_uid: &str) -> Option<String> {
        self.pods.get(pod_uid)?.state().network.as_ref().map(PodNetwork::path)
    }

    /// Has the lab's name server trouble a pod, on behalf of `owner`; `None` ends it. It ends with the pod as well.
    pub fn trouble_names(&self, pod_uid: &str, owner: &str, trouble: Option<NameTrouble>) -> Result<(), NodeError> {
        let pod = self.pod(pod_uid)?;
        let address = pod.state().network.as_ref().map(|network| network.address);
        let address =
            address.ok_or_else(|| NodeError::Pod(format!("pod {}/{} has no network", pod.namespace, pod.name)))?;
        self.context.name_troubles.set(address, owner, trouble);
        Ok(())
    }

    /// Starts the lab's intruder program inside a container's control group: it counts against the container's limits and
    /// ends with it, and its processes are seen there, but it sees the host's files. `arguments` are those of [`intruder`](crate::intruder).
    pub async fn intrude(&self, pod_uid: &str, container: &str, arguments: &[String]) -> Result<Intruder, NodeError> {
        let pod = self.pod(pod_uid)?;
        let id = {
            let state = pod.state();
            let found = state.named(container).and_then(|found| found.instance.as_ref());
            found.map(|instance| (instance.id.clone(), instance.process.id()))
        };
        let (id, pid) = id.ok_or_else(|| not_running(&pod, container))?;
        let group = format!("{}/{id}", pod.control_group());
        let program = &self.context.config.program;
        let mut child = Command::new(program)
            .args(INTRUDER)
            .args(arguments)
            .arg(format!("--pid-namespace=/proc/{pid}/ns/pid"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .env_clear()
            .kill_on_drop(true)
            .spawn()
            .map_err(NodeError::io("start", program))?;
        let started = async {
            let pid = child
                .id()
                .ok_or_else(|| NodeError::Pod("the process ended at once".to_owned()))?;
            self.context.cgroups.join(&group, pid)?;
            let mut held = child
                .stdin
                .take()
                .ok_or_else(|| NodeError::Pod("the process has no standard input".to_owned()))?;
            // It waits for this line: nothing that it does is done outside of the control group.
            held.write_all(b"go\n").await.map_err(NodeError::io(
                "write to",
                "the process in the container's control group",
            ))?;
            Ok(held)
        }
        .await;
        match started {
            Ok(held) => Ok(Intruder { child, held }),
            Err(error) => {
                drop(child.kill().await);
                Err(error)
            }
        }
    }

    /// Starts a program of the lab's executable in the pod's network namespace, and waits until it says `ready`. It sees the
    /// host's files and ends when it can no longer read from its standard input. `arguments` follow `lab-internal`.
    pub async fn attend(&self, pod_uid: &str, arguments: &[String], ready: &str) -> Result<Intruder, NodeError> {
        let pod = self.pod(pod_uid)?;
        let namespace = pod.state().network.as_ref().map(|network| network.name.clone());
        let namespace =
            namespace.ok_or_else(|| NodeError::Pod(format!("pod {}/{} has no network", pod.namespace, pod.name)))?;
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace.as_str()])
            .arg(&self.context.config.program)
            .arg("lab-internal")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .kill_on_drop(true)
            .spawn()
            .map_err(NodeError::io("start", "ip"))?;
        let what = || {
            format!(
                "{} in the network of pod {}/{}",
                arguments.join(" "),
                pod.namespace,
                pod.name
            )
        };
        let missing = || NodeError::Pod(format!("no pipes to {}", what()));
        let held = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let mut lines = BufReader::new(output).lines();
        match tokio::time::timeout(PATIENCE, lines.next_line()).await {
            Ok(Ok(Some(line))) if line == ready => Ok(Intruder { child, held }),
            _ => Err(NodeError::Pod(format!("{} did not become ready", what()))),
        }
    }

    /// Memory limits of a container in bytes, by its specification; the machine's memory where there is none.
    #[must_use]
    pub fn memory_of(&self, pod_uid: &str, container: &str) -> u64 {
        let machine = u64::try_from(self.context.memory).unwrap_or(0);
        let Some(pod) = self.pods.get(pod_uid) else {
            return machine;
        };
        let pod = pod.pod();
        let limits: Option<&BTreeMap<_, _>> = pod.spec.as_ref().and_then(|spec| {
            let found = spec.containers.iter().find(|one| one.name == container)?;
            found.resources.as_ref()?.limits.as_ref()
        });
        limits
            .and_then(|limits| limits.get("memory"))
            .and_then(super::quantity::whole)
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(machine)
    }
}

fn not_running(pod: &PodRuntime, container: &str) -> NodeError {
    NodeError::Pod(format!(
        "container {container} of pod {}/{} is not running",
        pod.namespace, pod.name
    ))
}
