//! What the daemon of Chaos Mesh does on a node, done here for real: rules in a pod's network namespace, processes in a container,
//! signals. Everything of an experiment in a pod carries the experiment's UID, so that recovering is exact and can be repeated.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use super::experiment::{Experiment, Record};
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
if [ "$kind" = memory ]; then
  count=0
  while [ $count -lt "$workers" ]; do
    { head -c "$amount" /dev/zero; sleep 86400; } 2>/dev/null | tail >/dev/null 2>&1 &
    count=$((count + 1))
  done
else
  count=0
  while [ $count -lt "$workers" ]; do sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & count=$((count + 1)); done
fi
sleep 0.3
echo ready
"#;
const UNSTRESS_SCRIPT: &str = r#"
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  [ "$pid" = $$ ] && continue
  grep -q "CHAOS_MESH_DOUBLE=$1" "$entry/environ" 2>/dev/null && kill -KILL "$pid" 2>/dev/null
done
exit 0
"#;

/// The daemons of a lab: all of its nodes are this machine.
pub(super) struct Daemon {
    server: Arc<ApiServer>,
    network: LabNetwork,
    control_group: String,
}

impl Daemon {
    pub(super) fn new(info: &LabInfo) -> Self {
        Self {
            server: Arc::clone(&info.server),
            network: info.network.clone(),
            control_group: info.control_group.clone(),
        }
    }

    /// Applies or recovers one record.
    pub(super) async fn act(
        &self,
        client: &kube::Client,
        experiment: &Experiment,
        pod: &Pod,
        record: &Record,
        peers: &[Pod],
        apply: bool,
    ) -> Result<(), String> {
        match (experiment.kind.as_str(), experiment.action()) {
            ("PodChaos", "pod-kill" | "container-kill") if !apply => Ok(()),
            ("PodChaos", "pod-kill") => {
                let grace = experiment.spec.get("gracePeriod").and_then(Value::as_u64).unwrap_or(0);
                let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
                let grace = u32::try_from(grace).unwrap_or(0);
                let parameters = DeleteParams::default().grace_period(grace);
                pods.delete(&pod.name_any(), &parameters)
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            ("PodChaos", "container-kill") => self.kill_container(pod, record),
            ("NetworkChaos", "partition" | "loss") => self.network_rules(experiment, pod, peers, apply).await,
            ("NetworkChaos", "bandwidth") => self.bandwidth(experiment, pod, apply).await,
            ("StressChaos", _) => self.stress(experiment, pod, record, apply).await,
            (kind, action) if apply => Err(format!(
                "the lab's double of Chaos Mesh does not inject {kind} {action}"
            )),
            _ => Ok(()),
        }
    }

    /// SIGKILL to every process of a container, its init among them, from outside.
    fn kill_container(&self, pod: &Pod, record: &Record) -> Result<(), String> {
        let container = record.container().unwrap_or_default();
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
        let group = format!("{}/{}/{id}", self.control_group, pod.uid().unwrap_or_default());
        let processes = Cgroups::detect().map_err(|error| error.to_string())?.processes(&group);
        for process in processes {
            if let Some(pid) = Pid::from_raw(process) {
                // One that has ended meanwhile is what was wanted.
                kill_process(pid, Signal::KILL).ok();
            }
        }
        Ok(())
    }

    fn namespace(&self, pod: &Pod) -> Result<String, String> {
        let address = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let address = address.ok_or_else(|| format!("pod {} has no address", pod.name_any()))?;
        Ok(namespace_of(&self.network, address, &pod.uid().unwrap_or_default()))
    }

    fn table(experiment: &Experiment) -> String {
        let short: String = experiment
            .uid
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(12)
            .collect();
        format!("chaos_{short}")
    }

    /// Drops packets in the pod's own network namespace, and at the peers', before any connection tracking is asked.
    async fn network_rules(
        &self,
        experiment: &Experiment,
        pod: &Pod,
        peers: &[Pod],
        apply: bool,
    ) -> Result<(), String> {
        let direction = experiment.spec.get("direction").and_then(Value::as_str).unwrap_or("to");
        let others = self.others(experiment, peers);
        let own: Vec<String> = pod.status.iter().filter_map(|status| status.pod_ip.clone()).collect();
        let (out, into) = (matches!(direction, "to" | "both"), matches!(direction, "from" | "both"));
        self.rules(experiment, pod, others.as_deref(), (out, into), apply)
            .await?;
        if experiment.action() != "partition" {
            return Ok(());
        }
        for peer in peers {
            // At the other end everything is the other way round. Its table is shared by all targets: it names each of them.
            let targets = self.addresses_of_targets(experiment, &own);
            self.rules(experiment, peer, Some(&targets), (into, out), apply).await?;
        }
        Ok(())
    }

    fn addresses_of_targets(&self, experiment: &Experiment, own: &[String]) -> Vec<String> {
        let mut all: Vec<String> = own.to_vec();
        let Some(pods) = self.server.registry().get("", "v1", "pods") else {
            return all;
        };
        for record in &experiment.records {
            let (namespace, name) = record.pod();
            let key = crate::api::ObjectKey::new(namespace, name);
            let stored = self.server.store().get(&pods.storage, &key);
            let address = stored.and_then(|stored| Some(stored.value.pointer("/status/podIP")?.as_str()?.to_owned()));
            all.extend(address);
        }
        all.sort();
        all.dedup();
        all
    }

    /// Addresses of the other side; none means everybody.
    fn others(&self, experiment: &Experiment, peers: &[Pod]) -> Option<Vec<String>> {
        let external = experiment.spec.get("externalTargets").and_then(Value::as_array);
        if experiment.spec.get("target").is_none() && external.is_none() {
            return None;
        }
        let addresses = peers.iter().filter_map(|peer| peer.status.as_ref()?.pod_ip.clone());
        let external = external
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned);
        Some(addresses.chain(external).collect())
    }

    async fn rules(
        &self,
        experiment: &Experiment,
        pod: &Pod,
        others: Option<&[String]>,
        (out, into): (bool, bool),
        apply: bool,
    ) -> Result<(), String> {
        let table = Self::table(experiment);
        let mut script = format!("add table ip {table}\ndelete table ip {table}\n");
        if apply {
            let share = match experiment.action() {
                "loss" => {
                    let loss = experiment
                        .spec
                        .pointer("/loss/loss")
                        .and_then(Value::as_str)
                        .unwrap_or("0");
                    let percent = loss
                        .parse::<f64>()
                        .map_err(|_| format!("tc: Illegal \"loss percent\" {loss}"))?;
                    format!(
                        "numgen random mod 1000 < {} ",
                        (percent * 10.0).clamp(0.0, 1000.0).round()
                    )
                }
                _ => String::new(),
            };
            writeln!(script, "table ip {table} {{").unwrap_or_default();
            for (wanted, hook, side) in [(out, "output", "daddr"), (into, "input", "saddr")] {
                if !wanted {
                    continue;
                }
                let device = if hook == "output" { "oifname" } else { "iifname" };
                writeln!(
                    script,
                    "  chain {hook} {{\n    type filter hook {hook} priority -300; policy accept;\n    {device} \"lo\" accept"
                )
                .unwrap_or_default();
                for rule in rules_for(others, side) {
                    writeln!(script, "    {rule}{share}drop").unwrap_or_default();
                }
                script.push_str("  }\n");
            }
            script.push_str("}\n");
        }
        let namespace = self.namespace(pod)?;
        let done = run("ip", &["netns", "exec", &namespace, "nft", "-f", "-"], Some(&script)).await;
        match done {
            Ok(_) => Ok(()),
            // A pod that has gone has taken its rules along.
            Err(_) if !std::path::Path::new("/run/netns").join(&namespace).exists() => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn bandwidth(&self, experiment: &Experiment, pod: &Pod, apply: bool) -> Result<(), String> {
        let namespace = self.namespace(pod)?;
        let mut words = vec!["netns", "exec", namespace.as_str(), "tc", "qdisc"];
        let limits = experiment.spec.get("bandwidth").cloned().unwrap_or_default();
        let rate = limits
            .get("rate")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let number = |key: &str| limits.get(key).and_then(Value::as_u64).unwrap_or(0).to_string();
        let (limit, buffer) = (number("limit"), number("buffer"));
        if apply {
            words.extend([
                "replace", "dev", "eth0", "root", "tbf", "rate", &rate, "limit", &limit, "buffer", &buffer,
            ]);
        } else {
            words.extend(["del", "dev", "eth0", "root"]);
        }
        match run("ip", &words, None).await {
            Ok(_) => Ok(()),
            Err(_) if !apply => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn stress(&self, experiment: &Experiment, pod: &Pod, record: &Record, apply: bool) -> Result<(), String> {
        if !apply {
            let command = ["sh", "-c", UNSTRESS_SCRIPT, "stress", &experiment.uid];
            // A container that is gone has taken its processes along.
            drop(self.exec(pod, record, &command).await);
            return Ok(());
        }
        let mark = format!("CHAOS_MESH_DOUBLE={}", experiment.uid);
        for kind in ["cpu", "memory"] {
            let Some(stressor) = experiment.spec.pointer(&format!("/stressors/{kind}")) else {
                continue;
            };
            let workers = stressor.get("workers").and_then(Value::as_u64).unwrap_or(0).to_string();
            let size = stressor.get("size").and_then(Value::as_str).unwrap_or("0");
            let amount = bytes_of(size)
                .ok_or_else(|| format!("unknown unit in {size}"))?
                .to_string();
            let command = [
                "env",
                &mark,
                "sh",
                "-c",
                STRESS_SCRIPT,
                "stress",
                kind,
                &amount,
                &workers,
            ];
            let answer = self.exec(pod, record, &command).await?;
            if !answer.contains("ready") {
                return Err(format!("the stressor did not start: {answer}"));
            }
        }
        Ok(())
    }

    async fn exec(&self, pod: &Pod, record: &Record, command: &[&str]) -> Result<String, String> {
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
        let container = record.container().unwrap_or_default().to_owned();
        let work = async {
            let mut session = backend
                .exec(reference, container, request)
                .await
                .map_err(|error| error.to_string())?;
            let mut text = String::new();
            if let Some(output) = session.stdout.as_mut() {
                output
                    .read_to_string(&mut text)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok(text)
        };
        tokio::time::timeout(STRESS_LIMIT, work)
            .await
            .map_err(|_elapsed| "rpc error: code = DeadlineExceeded".to_owned())?
    }
}

/// Matches for the other side: all at once for plain addresses, one each for those with a port.
fn rules_for(others: Option<&[String]>, side: &str) -> Vec<String> {
    let Some(others) = others else {
        return vec![String::new()];
    };
    let (ported, plain): (Vec<&String>, Vec<&String>) = others.iter().partition(|other| other.contains(':'));
    let mut rules = Vec::new();
    if !plain.is_empty() {
        let plain: Vec<&str> = plain.into_iter().map(String::as_str).collect();
        rules.push(format!("ip {side} {{ {} }} ", plain.join(", ")));
    }
    let port = if side == "daddr" { "dport" } else { "sport" };
    for other in ported {
        if let Some((address, number)) = other.rsplit_once(':') {
            rules.push(format!("ip {side} {address} tcp {port} {number} "));
        }
    }
    rules
}

/// `256MB`, `1GiB`, `1024KiB`, as upstream's parser takes them; a plain number is bytes.
fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit {
        "" | "b" => 1,
        "kb" | "k" => 1000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_other_sides_are_read_as_upstream_writes_them() {
        assert_eq!(bytes_of("1024KiB"), Some(1 << 20));
        assert_eq!(bytes_of("256MB"), Some(256_000_000));
        assert_eq!(bytes_of("80%"), None);
        assert_eq!(rules_for(None, "daddr"), [""]);
        let others = [
            "10.0.0.1".to_owned(),
            "10.0.0.2".to_owned(),
            "10.9.0.7/32:9000".to_owned(),
        ];
        assert_eq!(
            rules_for(Some(&others), "daddr"),
            [
                "ip daddr { 10.0.0.1, 10.0.0.2 } ",
                "ip daddr 10.9.0.7/32 tcp dport 9000 "
            ]
        );
    }
}
