//! The internal objects of pods (PodNetworkChaos, PodIOChaos, PodHttpChaos): what all experiments together want of one pod, and
//! the work of the daemon that follows from it. Depends on `node`'s faults through [`Shared`].
//!
//! [`commit`] and [`clear`] are the side of the experiments, [`pass`] is that of the daemon. Contract: the rules of a pod are
//! replaced as a whole, from its object alone, so that experiments cannot leave each other's rules behind; the experiments
//! learn by generation and `status.failedMessage` whether what they wrote holds.

mod late;
mod rules;

pub(super) use self::late::Holders;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::Shared;
use super::injectors::{need_daemon, refusal, refuse_host_network};
use super::kinds::{Experiment, Kind, POD_HTTP, POD_IO, POD_NETWORK, api_version};
use super::objects::ObjectError;
use super::worker::{Again, Key};
use crate::api::object::{array_at, i64_at, name, namespace, set, str_at, uid};

/// The lists of entries that carry the name of their experiment.
const LISTS: [&str; 5] = ["ipsets", "iptables", "tcs", "actions", "rules"];

/// Makes `entries` all that `source` wants of a pod; the generation that has to be acted on for them to hold.
pub(super) async fn commit(
    shared: &Shared,
    kind: Kind,
    pod: &Value,
    source: &str,
    entries: &[(&'static str, Value)],
) -> Result<i64, String> {
    let key = Key::new(namespace(pod), name(pod));
    loop {
        let changed = shared
            .objects
            .change(kind, &key, |object| replace_entries(object, source, entries))
            .await
            .map_err(|error| error.to_string())?;
        let object = match changed {
            Some(object) => Some(object),
            None => {
                let mut object = empty(kind, pod);
                replace_entries(&mut object, source, entries);
                shared
                    .objects
                    .create(kind, &key, &object)
                    .await
                    .map_err(|error| error.to_string())?
            }
        };
        if let Some(object) = object {
            return Ok(i64_at(&object, "/metadata/generation").unwrap_or(0));
        }
    }
}

/// Takes away all that `source` wants; `None` when the object is gone, with its pod.
pub(super) async fn clear(shared: &Shared, kind: Kind, key: &Key, source: &str) -> Result<Option<i64>, String> {
    let changed = shared
        .objects
        .change(kind, key, |object| replace_entries(object, source, &[]))
        .await
        .map_err(|error| error.to_string())?;
    Ok(changed.map(|object| i64_at(&object, "/metadata/generation").unwrap_or(0)))
}

/// Whether a generation was acted on; `None` when the object is gone.
pub(super) async fn synced(shared: &Shared, kind: Kind, key: &Key, generation: i64) -> Result<Option<bool>, String> {
    let found = shared.objects.get(kind, key).await.map_err(|error| error.to_string())?;
    let Some(object) = found else { return Ok(None) };
    match str_at(&object, "/status/failedMessage").filter(|message| !message.is_empty()) {
        Some(message) => Err(message.to_owned()),
        None => Ok(Some(
            i64_at(&object, "/status/observedGeneration").unwrap_or(0) >= generation,
        )),
    }
}

/// One for each pod, of its name, that goes with it.
fn empty(kind: Kind, pod: &Value) -> Value {
    json!({
        "apiVersion": api_version(), "kind": kind.kind,
        "metadata": {
            "name": name(pod), "namespace": namespace(pod),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name(pod), "uid": uid(pod)}],
        },
        "spec": {},
    })
}

/// Whether that changed anything.
fn replace_entries(object: &mut Value, source: &str, entries: &[(&'static str, Value)]) -> bool {
    let before = object.get("spec").cloned();
    for list in LISTS {
        let pointer = format!("/spec/{list}");
        let mut kept: Vec<Value> = array_at(object, &pointer)
            .iter()
            .filter(|entry| str_at(entry, "/source") != Some(source))
            .cloned()
            .collect();
        let added = entries.iter().filter(|(of, _)| *of == list);
        kept.extend(added.map(|(_, entry)| entry.clone()));
        if !kept.is_empty() || object.pointer(&pointer).is_some() {
            set(object, &pointer, kept);
        }
    }
    before.as_ref() != object.get("spec")
}

/// One pass of the daemon's side over the object of one pod.
pub(super) async fn pass(shared: &Shared, kind: Kind, key: Key) -> Again {
    match act(shared, kind, &key).await {
        Ok(again) => again,
        Err(error) => {
            tracing::debug!(kind = kind.kind, %key, %error, "a pass of the double failed, trying again");
            Again::Retry
        }
    }
}

async fn act(shared: &Shared, kind: Kind, key: &Key) -> Result<Again, ObjectError> {
    let Some(object) = shared.objects.get(kind, key).await? else {
        if kind == POD_NETWORK {
            // It went with its pod, and what held the packets of that has nothing to hold any more.
            drop(shared.holders.forget(key));
        }
        return Ok(Again::OnChange);
    };
    let generation = i64_at(&object, "/metadata/generation").unwrap_or(0);
    let failed_before = str_at(&object, "/status/failedMessage").is_some_and(|message| !message.is_empty());
    if i64_at(&object, "/status/observedGeneration") == Some(generation) && !failed_before {
        return Ok(Again::OnChange);
    }
    let outcome = set_rules(shared, kind, key, &object).await;
    let message = outcome.as_ref().err().cloned().unwrap_or_default();
    shared
        .objects
        .change_status(kind, key, |object| {
            let before = object.get("status").cloned();
            set(object, "/status/observedGeneration", generation);
            set(object, "/status/failedMessage", message.clone());
            before.as_ref() != object.get("status")
        })
        .await?;
    wake_experiments(shared, kind, key).await;
    Ok(if outcome.is_ok() { Again::OnChange } else { Again::Retry })
}

/// What the daemon on the pod's node does.
async fn set_rules(shared: &Shared, kind: Kind, key: &Key, object: &Value) -> Result<(), String> {
    let pods: Api<Pod> = Api::namespaced(shared.objects.client().clone(), &key.namespace);
    let found = pods.get_opt(&key.name).await.map_err(|error| error.to_string())?;
    let Some(pod) = found else {
        return Err(format!("Pod \"{}\" not found", key.name));
    };
    let pod = serde_json::to_value(&pod).map_err(|error| error.to_string())?;
    let wanted = LISTS
        .iter()
        .any(|list| !array_at(object, &format!("/spec/{list}")).is_empty());
    if kind == POD_NETWORK {
        refuse_host_network(&pod, "network")?;
        need_daemon(shared, &pod)?;
        return rules::replace(shared, key, uid(&pod), object).await;
    }
    need_daemon(shared, &pod)?;
    match kind {
        _ if !wanted => Ok(()),
        POD_IO => Err(refusal(
            "it has no file system in user space to put in front of a volume",
        )),
        POD_HTTP => Err(refusal("it has no proxy to put in front of a port")),
        _ => Ok(()),
    }
}

/// Wakes every experiment that waits for this pod.
async fn wake_experiments(shared: &Shared, kind: Kind, key: &Key) {
    let Some(experiment) = Experiment::ALL.into_iter().find(|one| one.internal() == Some(kind)) else {
        return;
    };
    let id = format!("{}/{}", key.namespace, key.name);
    let waits = |object: &Value| {
        let instances = object.pointer("/status/instances").and_then(Value::as_object);
        instances.is_some_and(|instances| {
            instances
                .keys()
                .any(|one| *one == id || one.starts_with(&format!("{id}/")))
        })
    };
    match shared.objects.all(experiment.kind()).list(&ListParams::default()).await {
        Ok(listed) => {
            for object in &listed.items {
                let Ok(object) = serde_json::to_value(object) else {
                    continue;
                };
                if waits(&object) {
                    shared.wake(experiment.kind(), Key::new(namespace(&object), name(&object)));
                }
            }
        }
        Err(error) => tracing::warn!(%error, "experiments that wait for a pod are not woken"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_others_stay() {
        let mut object =
            json!({"spec": {"iptables": [{"source": "a/x", "name": "1"}, {"source": "a/y", "name": "2"}]}});
        let wanted = [("iptables", json!({"source": "a/x", "name": "3"}))];
        assert!(replace_entries(&mut object, "a/x", &wanted));
        let names: Vec<&str> = array_at(&object, "/spec/iptables")
            .iter()
            .filter_map(|entry| str_at(entry, "/name"))
            .collect();
        assert_eq!(names, ["2", "3"]);
        assert!(!replace_entries(&mut object, "a/x", &wanted), "the same again");
        assert!(replace_entries(&mut object, "a/x", &[]));
    }
}
