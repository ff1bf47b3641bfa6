//! What a privileged helper of Litmus does on a node, done here for real: signals, rules in a pod's network namespace, processes in a
//! container. Everything carries the engine's UID, so that taking it back is exact and can be repeated.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::objects::Objects;
use crate::api::ApiServer;
use crate::backend::{ExecRequest, PodRef};
use crate::lifecycle::LabInfo;
use crate::node::cgroup::Cgroups;
use crate::node::command::run;
use crate::node::network::{LabNetwork, namespace_of};

/// How long a process in a container may take to say that it works.
const STRESS_LIMIT: Duration = Duration::from_secs(20);

/// Holds memory or keeps processors busy until it is ended; says "ready" when it does.
const STRESS_SCRIPT: &str = r#"
kind=$1 amount=$2 workers=$3
while [ "$workers" -gt 0 ]; do
  if [ "$kind" = memory ]; then
    { head -c "$amount" /dev/zero; sleep 86400; } 2>/dev/null | tail >/dev/null 2>&1 &
  else
    sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &
  fi
  workers=$((workers - 1))
done
sleep 0.3
echo ready
"#;
const END_SCRIPT: &str = r#"
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  [ "$pid" = $$ ] && continue
  grep -q "LITMUS_DOUBLE=$1" "$entry/environ" 2>/dev/null && kill -KILL "$pid" 2>/dev/null
done
exit 0
"#;

/// How long a process may take to appear that was being started.
const AFTERWARDS: Duration = Duration::from_millis(700);

/// Is told of an act before it is done: whoever is stopped in between takes it back all the same.
pub(super) type Keep<'a> = &'a (dyn Fn(Act) + Send + Sync);

/// Something that was done and has to be taken back.
#[derive(Clone)]
pub(super) enum Act {
    /// A policy by this name.
    Policy { namespace: String, name: String },
    /// A table of rules in a pod.
    Rules { pod: Box<Pod>, table: String },
    /// Processes in a container.
    Processes { pod: Box<Pod>, container: String },
    /// A node takes no new pods.
    Cordon { node: String },
}

/// The helpers of a lab: all of its nodes are this machine.
pub(super) struct Helper {
    server: Arc<ApiServer>,
    network: LabNetwork,
    control_group: String,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The first hexadecimal digits of a UID, for names of things.
fn short(uid: &str) -> String {
    uid.chars().filter(char::is_ascii_hexdigit).take(12).collect()
}

/// The named container, else the first one.
fn container_of(pod: &Pod, name: &str) -> String {
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    match (name, first) {
        ("", Some(first)) => first.name.clone(),
        _ => name.to_owned(),
    }
}

async fn unschedulable(objects: &Objects, node: &str, value: Value) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(objects.client.clone());
    let patch = Patch::Merge(json!({"spec": {"unschedulable": value}}));
    let patched = nodes.patch(node, &PatchParams::default(), &patch).await;
    patched.map(drop).map_err(text)
}

impl Helper {
    pub(super) fn new(info: &LabInfo) -> Self {
        Self {
            server: Arc::clone(&info.server),
            network: info.network.clone(),
            control_group: info.control_group.clone(),
        }
    }

    /// A signal to every process of a container, its init among them, from outside.
    pub(super) fn kill_container(&self, pod: &Pod, container: &str, signal: &str) -> Result<(), String> {
        let signal = match signal {
            "SIGTERM" => Signal::TERM,
            "SIGINT" => Signal::INT,
            "SIGSEGV" => Signal::SEGV,
            "SIGABRT" => Signal::ABORT,
            _ => Signal::KILL,
        };
        let container = container_of(pod, container);
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        let id = statuses
            .into_iter()
            .find(|status| status.name == container)
            .and_then(|status| {
                status
                    .container_id
                    .as_deref()?
                    .strip_prefix("runc://")
                    .map(str::to_owned)
            })
            .ok_or_else(|| format!("unable to find container {container}"))?;
        self.signal(
            &format!("{}/{}/{id}", self.control_group, pod.uid().unwrap_or_default()),
            signal,
        )
    }

    fn signal(&self, group: &str, signal: Signal) -> Result<(), String> {
        for process in Cgroups::detect().map_err(text)?.processes(group) {
            if let Some(pid) = Pid::from_raw(process) {
                // One that has ended meanwhile is what was wanted.
                kill_process(pid, signal).ok();
            }
        }
        Ok(())
    }

    /// Lets an idle pod of the double come to its end by itself.
    pub(super) fn end_politely(&self, pod: &Pod) {
        let group = format!("{}/{}", self.control_group, pod.uid().unwrap_or_default());
        if let Err(error) = self.signal(&group, Signal::TERM) {
            tracing::debug!(error, "a pod of the double goes on");
        }
    }

    /// Makes the policy of a partition.
    pub(super) async fn cut(
        &self,
        objects: &Objects,
        namespace: &str,
        spec: &Value,
        keep: Keep<'_>,
    ) -> Result<(), String> {
        let name = format!("pod-network-partition-np-{}", short(&objects.uid));
        let policy: NetworkPolicy = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace, "labels": {
                "name": name, "chaosUID": objects.uid, "app.kubernetes.io/part-of": "litmus"}},
            "spec": spec,
        }))
        .map_err(text)?;
        keep(Act::Policy {
            namespace: namespace.to_owned(),
            name,
        });
        let policies: Api<NetworkPolicy> = Api::namespaced(objects.client.clone(), namespace);
        policies
            .create(&PostParams::default(), &policy)
            .await
            .map(drop)
            .map_err(text)
    }

    /// Cordons a node.
    pub(super) async fn cordon(&self, objects: &Objects, node: &str, keep: Keep<'_>) -> Result<(), String> {
        keep(Act::Cordon { node: node.to_owned() });
        unschedulable(objects, node, json!(true)).await
    }

    /// Evicts every pod of a node but those of a DaemonSet, in all namespaces, and asks again while budgets refuse.
    pub(super) async fn drain(&self, objects: &Objects, node: &str) -> Result<(), String> {
        let all: Api<Pod> = Api::all(objects.client.clone());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        loop {
            let pods = all.list(&on_node).await.map_err(text)?.items;
            let stays = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet");
            let left: Vec<&Pod> = pods.iter().filter(|pod| !stays(pod)).collect();
            if left.is_empty() {
                return Ok(());
            }
            for pod in left.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
                let pods: Api<Pod> = Api::namespaced(objects.client.clone(), &pod.namespace().unwrap_or_default());
                match pods.evict(&pod.name_any(), &EvictParams::default()).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429) => {}
                    Err(error) => return Err(text(error)),
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Drops a share of what a pod sends.
    pub(super) async fn lose(&self, uid: &str, pod: &Pod, percent: u64, keep: Keep<'_>) -> Result<(), String> {
        let table = format!("litmus_{}", short(uid));
        // The kernel's numbers end below the modulus: everything is no share of them.
        let share = if percent < 100 {
            format!("numgen random mod 100 < {percent} ")
        } else {
            String::new()
        };
        let script = format!(
            "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain output {{\n    type filter hook output priority \
             -300; policy accept;\n    oifname \"lo\" accept\n    {share}drop\n  }}\n}}\n"
        );
        keep(Act::Rules {
            pod: Box::new(pod.clone()),
            table,
        });
        self.rules(pod, &script).await
    }

    async fn rules(&self, pod: &Pod, script: &str) -> Result<(), String> {
        let status = pod.status.as_ref();
        let address = status.and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let address = address.ok_or_else(|| format!("pod {} has no address", pod.name_any()))?;
        let namespace = namespace_of(&self.network, address, &pod.uid().unwrap_or_default());
        match run("ip", &["netns", "exec", &namespace, "nft", "-f", "-"], Some(script)).await {
            Ok(_) => Ok(()),
            // A pod that has gone has taken its rules along.
            Err(_) if !std::path::Path::new("/run/netns").join(&namespace).exists() => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Starts processes in a container: kind, bytes for each, and how many.
    pub(super) async fn stress(
        &self,
        uid: &str,
        pod: &Pod,
        container: &str,
        (kind, bytes, workers): (&str, u64, u64),
        keep: Keep<'_>,
    ) -> Result<(), String> {
        let container = container_of(pod, container);
        let mark = format!("LITMUS_DOUBLE={uid}");
        let (bytes, workers) = (bytes.to_string(), workers.to_string());
        let command = [
            "env",
            &mark,
            "sh",
            "-c",
            STRESS_SCRIPT,
            "stress",
            kind,
            &bytes,
            &workers,
        ];
        keep(Act::Processes {
            pod: Box::new(pod.clone()),
            container: container.clone(),
        });
        let answer = self.exec(pod, &container, &command).await?;
        if !answer.contains("ready") {
            return Err(format!("the stressor did not start: {answer}"));
        }
        Ok(())
    }

    /// Takes one thing back. What is gone with its pod is taken back.
    pub(super) async fn take_back(&self, objects: &Objects, act: &Act) -> Result<(), String> {
        match act {
            Act::Policy { namespace, name } => {
                let policies: Api<NetworkPolicy> = Api::namespaced(objects.client.clone(), namespace);
                match policies.delete(name, &DeleteParams::default()).await {
                    Ok(_) => Ok(()),
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    Err(error) => Err(text(error)),
                }
            }
            Act::Rules { pod, table } => {
                self.rules(pod, &format!("add table ip {table}\ndelete table ip {table}\n"))
                    .await
            }
            Act::Cordon { node } => unschedulable(objects, node, Value::Null).await,
            Act::Processes { pod, container } => {
                let command = ["sh", "-c", END_SCRIPT, "end", &objects.uid];
                drop(self.exec(pod, container, &command).await);
                // What was just being started when it was stopped comes a moment later.
                tokio::time::sleep(AFTERWARDS).await;
                drop(self.exec(pod, container, &command).await);
                Ok(())
            }
        }
    }

    async fn exec(&self, pod: &Pod, container: &str, command: &[&str]) -> Result<String, String> {
        let backend = self.server.backend().ok_or("the node agent is not there")?;
        let reference = PodRef {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        };
        let request = ExecRequest {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            stdin: false,
            tty: false,
        };
        let work = async {
            let mut session = backend
                .exec(reference, container.to_owned(), request)
                .await
                .map_err(text)?;
            let mut output = String::new();
            if let Some(stdout) = session.stdout.as_mut() {
                stdout.read_to_string(&mut output).await.map_err(text)?;
            }
            Ok(output)
        };
        tokio::time::timeout(STRESS_LIMIT, work)
            .await
            .map_err(|_elapsed| "the container did not answer in time".to_owned())?
    }
}
