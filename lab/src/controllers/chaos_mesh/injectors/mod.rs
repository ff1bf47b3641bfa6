//! What each kind does to a pod, and how that is taken back. Depends on `node`'s faults through [`Shared`].
//!
//! Central functions: [`apply`], [`recover`]; central type: [`Target`]. Contract: recovering can be repeated, and something
//! that is gone counts as recovered.

mod dns;
mod network;
mod pod;
mod stress;

pub(super) use self::stress::bytes_of;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::{Map, Value, json};

use super::Shared;
use super::internal;
use super::kinds::{Experiment, Kind};
use super::records::{Phase, Record};
use super::switches::Switches;
use super::worker::Key;
use crate::api::object::{bool_at, name, namespace, str_at};

/// One record of one experiment.
pub(super) struct Target<'a> {
    pub kind: Experiment,
    pub object: &'a Value,
    pub all: &'a [Record],
    pub index: usize,
    pub switches: &'a Switches,
}

/// Why something was not done, and what phase the record is in therefore.
#[derive(Debug)]
pub(super) struct Failure {
    pub message: String,
    pub phase: Phase,
}

impl Target<'_> {
    fn record(&self) -> Option<&Record> {
        self.all.get(self.index)
    }

    fn spec(&self) -> &Value {
        self.object.get("spec").unwrap_or(&Value::Null)
    }

    /// How the objects of pods name the experiment.
    fn source(&self) -> String {
        format!("{}/{}", namespace(self.object), name(self.object))
    }

    /// Whether a switch forbids that this record is ever applied, or for now.
    fn switched_off(&self, record: &Record) -> bool {
        self.switches.apply_never
            || self.switches.partial.is_some_and(|succeed| self.index >= succeed)
            || record.failed_applies() < self.switches.apply_errors
    }
}

/// Injects one record.
pub(super) async fn apply(
    shared: &Shared,
    target: &Target<'_>,
    instances: &mut Map<String, Value>,
) -> Result<Phase, Failure> {
    let Some(record) = target.record() else {
        return Ok(Phase::NotInjected);
    };
    let stay = record.phase;
    if target.switched_off(record) {
        return Err(Failure {
            message: "rpc error: code = Unknown desc = a switch of the double forbids it".to_owned(),
            // Kinds that wait have set their rules and hear that they do not hold.
            phase: if target.kind.internal().is_some() {
                Phase::Applying
            } else {
                stay
            },
        });
    }
    let outcome = match target.kind {
        Experiment::Pod => pod::apply(shared, target, record).await,
        Experiment::Network if stay == Phase::NotInjected => network::apply(shared, target, record, instances).await,
        Experiment::Io | Experiment::Http if stay == Phase::NotInjected => {
            rule(shared, target, record, instances).await
        }
        Experiment::Network | Experiment::Io | Experiment::Http => {
            wait(shared, target, record, instances, Phase::Injected).await
        }
        Experiment::Stress => stress::apply(shared, target, record, instances).await,
        Experiment::Dns => dns::apply(shared, target, record).await,
        // Broken upstream since 2.5: it looks its own record up by a name without a namespace.
        Experiment::Kernel => Err("too few parts of namespacedname".to_owned()),
        Experiment::Time => Err(refusal("no clock of a process can be set apart from the machine's")),
        Experiment::Jvm => Err(refusal("it has no agent for Java's virtual machine")),
        Experiment::Block | Experiment::Aws | Experiment::Azure | Experiment::Gcp | Experiment::PhysicalMachine => {
            Err(refusal("it knows the API of this kind only"))
        }
    };
    outcome.map_err(|message| Failure { message, phase: stay })
}

/// Takes one record back.
pub(super) async fn recover(
    shared: &Shared,
    target: &Target<'_>,
    instances: &mut Map<String, Value>,
) -> Result<Phase, Failure> {
    let Some(record) = target.record() else {
        return Ok(Phase::NotInjected);
    };
    let stay = record.phase;
    let outcome = if target.switches.recover_error {
        Err("rpc error: code = Unknown desc = a switch of the double forbids it".to_owned())
    } else if target.switches.recover_silently {
        Ok(stay)
    } else {
        match target.kind {
            Experiment::Pod => pod::recover(shared, target, record).await,
            Experiment::Network | Experiment::Io | Experiment::Http if stay == Phase::Injected => {
                clear(shared, target, record, instances).await
            }
            Experiment::Network | Experiment::Io | Experiment::Http => {
                wait(shared, target, record, instances, Phase::NotInjected).await
            }
            Experiment::Stress => stress::recover(shared, record, instances).await,
            Experiment::Dns => dns::recover(shared, target, record).await,
            _ => Ok(Phase::NotInjected),
        }
    };
    outcome.map_err(|message| Failure { message, phase: stay })
}

/// What the double says instead of pretending.
pub(super) fn refusal(why: &str) -> String {
    format!("not injected by the double: {why}")
}

/// The pod of a record.
async fn pod_of(shared: &Shared, record: &Record) -> Result<Option<Value>, String> {
    let (namespace, name) = record.pod();
    let api: Api<Pod> = Api::namespaced(shared.objects.client().clone(), namespace);
    let found = api.get_opt(name).await.map_err(|error| error.to_string())?;
    found
        .map(|pod| serde_json::to_value(&pod).map_err(|error| error.to_string()))
        .transpose()
}

/// As [`pod_of`], where its absence is an error.
async fn existing_pod(shared: &Shared, record: &Record) -> Result<Value, String> {
    let found = pod_of(shared, record).await?;
    found.ok_or_else(|| format!("Pod \"{}\" not found", record.pod().1))
}

/// Fails unless the pod's node has a ready daemon.
pub(super) fn need_daemon(shared: &Shared, pod: &Value) -> Result<(), String> {
    let node = str_at(pod, "/spec/nodeName").unwrap_or_default();
    if shared.presence.has_daemon(node) {
        Ok(())
    } else {
        Err(format!("cannot find daemonIP on node {node}"))
    }
}

/// What upstream refuses to touch.
pub(super) fn refuse_host_network(pod: &Value, what: &str) -> Result<(), String> {
    if bool_at(pod, "/spec/hostNetwork") {
        Err(format!(
            "It's dangerous to inject {what} chaos on a pod({}/{}) with `hostNetwork`",
            namespace(pod),
            name(pod)
        ))
    } else {
        Ok(())
    }
}

/// Writes what an IOChaos or HTTPChaos wants into the object of the pod, where it will fail.
async fn rule(
    shared: &Shared,
    target: &Target<'_>,
    record: &Record,
    instances: &mut Map<String, Value>,
) -> Result<Phase, String> {
    let (Some(kind), source) = (target.kind.internal(), target.source()) else {
        return Ok(Phase::NotInjected);
    };
    let pod = existing_pod(shared, record).await?;
    let list = if target.kind == Experiment::Io {
        "actions"
    } else {
        "rules"
    };
    let entry = json!({"source": source, "type": str_at(target.spec(), "/action").unwrap_or("http")});
    commit(shared, kind, &pod, record, (&source, vec![(list, entry)]), instances).await?;
    Ok(Phase::Applying)
}

/// Writes the entries of an experiment and notes what generation has to be waited for.
async fn commit(
    shared: &Shared,
    kind: Kind,
    pod: &Value,
    record: &Record,
    (source, entries): (&str, Vec<(&'static str, Value)>),
    instances: &mut Map<String, Value>,
) -> Result<(), String> {
    let generation = internal::commit(shared, kind, pod, source, &entries).await?;
    instances.insert(record.id.clone(), json!(generation));
    Ok(())
}

/// Takes the entries of an experiment out of the object of the pod.
async fn clear(
    shared: &Shared,
    target: &Target<'_>,
    record: &Record,
    instances: &mut Map<String, Value>,
) -> Result<Phase, String> {
    let Some(kind) = target.kind.internal() else {
        return Ok(Phase::NotInjected);
    };
    let (namespace, name) = record.pod();
    let key = Key::new(namespace, name);
    match internal::clear(shared, kind, &key, &target.source()).await? {
        Some(generation) => {
            instances.insert(record.id.clone(), json!(generation));
            Ok(Phase::Recovering)
        }
        None => Ok(Phase::NotInjected),
    }
}

/// Waits until the object of the pod was acted on.
async fn wait(
    shared: &Shared,
    target: &Target<'_>,
    record: &Record,
    instances: &Map<String, Value>,
    done: Phase,
) -> Result<Phase, String> {
    let Some(kind) = target.kind.internal() else {
        return Ok(done);
    };
    let (namespace, name) = record.pod();
    let generation = instances.get(&record.id).and_then(Value::as_i64).unwrap_or(0);
    match internal::synced(shared, kind, &Key::new(namespace, name), generation).await? {
        // Gone with its pod: an HTTPChaos that is being applied never gets over that.
        None if target.kind == Experiment::Http && done == Phase::Injected => {
            Err(format!("podhttpchaos.chaos-mesh.org \"{name}\" not found"))
        }
        None => Ok(Phase::NotInjected),
        Some(true) => Ok(done),
        Some(false) => Ok(record.phase),
    }
}
