//! Writes core/v1 Events about pods, the same event again as a higher count. Depends on kube only.
//!
//! Central type: [`Recorder`]. Contract: recording never blocks and never fails the caller; events that cannot be
//! written are dropped, as a kubelet drops them.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;

/// Events waiting to be written; more than this in one burst and the rest is dropped.
const BACKLOG: usize = 1024;
/// Events remembered for counting.
const REMEMBERED: usize = 4096;

/// What is known about an event before it is written.
#[derive(Debug)]
struct Entry {
    about: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
    host: String,
    at: Timestamp,
}

/// Hands events to the task that writes them.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Entry>,
}

impl Recorder {
    /// Starts the writer; it ends when the last recorder is gone.
    pub(crate) fn start(client: Client) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self { sender }, tokio::spawn(write_all(client, receiver)))
    }

    /// An event of type Normal; `container` adds the field path.
    pub(crate) fn normal(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.record(pod, container, false, reason, message.into());
    }

    /// An event of type Warning; `container` adds the field path.
    pub(crate) fn warning(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: impl Into<String>) {
        self.record(pod, container, true, reason, message.into());
    }

    fn record(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            resource_version: pod.resource_version(),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
        };
        let host = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default();
        let entry = Entry {
            about,
            warning,
            reason,
            message,
            host,
            at: Timestamp::now(),
        };
        if let Err(error) = self.sender.try_send(entry) {
            tracing::debug!(%error, reason, "event dropped");
        }
    }
}

/// Identity of an event for counting.
type Key = (String, Option<String>, &'static str, String);

async fn write_all(client: Client, mut entries: mpsc::Receiver<Entry>) {
    let mut known: HashMap<Key, (String, i32)> = HashMap::new();
    while let Some(entry) = entries.recv().await {
        if known.len() > REMEMBERED {
            known.clear();
        }
        let Some(namespace) = entry.about.namespace.clone() else {
            continue;
        };
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key: Key = (
            entry.about.uid.clone().unwrap_or_default(),
            entry.about.field_path.clone(),
            entry.reason,
            entry.message.clone(),
        );
        if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = serde_json::json!({ "count": *count, "lastTimestamp": Time(entry.at) });
            let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            if patched.is_ok() {
                continue;
            }
        }
        let name = format!(
            "{}.{}",
            entry.about.name.as_deref().unwrap_or_default(),
            uuid::Uuid::new_v4().simple().to_string().get(..16).unwrap_or_default()
        );
        match api
            .create(&PostParams::default(), &event(&name, namespace, entry))
            .await
        {
            Ok(_) => drop(known.insert(key, (name, 1))),
            Err(error) => tracing::debug!(%error, "event not written"),
        }
    }
}

fn event(name: &str, namespace: String, entry: Entry) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: entry.about,
        type_: Some(if entry.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(entry.reason.to_owned()),
        message: Some(entry.message),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(entry.host.clone()),
        }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(entry.host),
        first_timestamp: Some(Time(entry.at)),
        last_timestamp: Some(Time(entry.at)),
        count: Some(1),
        ..Event::default()
    }
}
