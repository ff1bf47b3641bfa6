//! Kubernetes events: what controllers tell people (`kubectl describe`, `kubectl get events`).
//!
//! Depends on `kube` only. Central type: [`EventRecorder`]. Contract: telling never fails and never holds up a
//! reconcile; the same message about the same object counts up instead of piling up.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::meta::stamp;

/// Events that wait to be written. When writing is slower than that, the newest are dropped: they are only told.
const BACKLOG: usize = 1024;
/// Messages whose count is kept.
const REMEMBERED: usize = 4096;

/// Severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    /// Things go as they should.
    Normal,
    /// Somebody may want to look.
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Message {
    component: &'static str,
    severity: Severity,
    reason: &'static str,
    note: String,
    uid: String,
}

struct Report {
    message: Message,
    about: ObjectReference,
    at: Timestamp,
}

/// Takes events and writes them in the background.
#[derive(Clone)]
pub(crate) struct EventRecorder {
    component: &'static str,
    sender: mpsc::Sender<Report>,
}

impl EventRecorder {
    /// A recorder and the task that writes what it takes.
    pub(crate) fn new(
        client: kube::Client,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (
            Self {
                component: "lab",
                sender,
            },
            write(client, receiver, stop),
        )
    }

    /// The same recorder under the name of another component.
    pub(crate) fn for_component(&self, component: &'static str) -> Self {
        Self {
            component,
            sender: self.sender.clone(),
        }
    }

    /// Something went as it should.
    pub(crate) fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &'static str, note: String) {
        self.tell(about, Severity::Normal, reason, note);
    }

    /// Something somebody may want to look at.
    pub(crate) fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &'static str, note: String) {
        self.tell(about, Severity::Warning, reason, note);
    }

    fn tell<K: Resource<DynamicType = ()>>(&self, about: &K, severity: Severity, reason: &'static str, note: String) {
        let about = about.object_ref(&());
        let uid = about.uid.clone().unwrap_or_default();
        let message = Message {
            component: self.component,
            severity,
            reason,
            note,
            uid,
        };
        if self
            .sender
            .try_send(Report {
                message,
                about,
                at: Timestamp::now(),
            })
            .is_err()
        {
            tracing::debug!(reason, "event dropped, too many at once");
        }
    }
}

async fn write(client: kube::Client, mut reports: mpsc::Receiver<Report>, stop: CancellationToken) {
    let mut written: HashMap<Message, (String, i32)> = HashMap::new();
    loop {
        let report = tokio::select! {
            () = stop.cancelled() => return,
            report = reports.recv() => report,
        };
        let Some(report) = report else { return };
        if written.len() >= REMEMBERED {
            written.clear();
        }
        if let Err(error) = publish(&client, &mut written, report).await {
            tracing::debug!(%error, "event not written");
        }
    }
}

async fn publish(
    client: &kube::Client,
    written: &mut HashMap<Message, (String, i32)>,
    report: Report,
) -> Result<(), kube::Error> {
    let namespace = report.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Some((name, count)) = written.get_mut(&report.message) {
        let patch = serde_json::json!({"count": *count + 1, "lastTimestamp": stamp(report.at)});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                *count += 1;
                return Ok(());
            }
            // The event expired or its namespace was emptied: tell it anew.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let event = event(&namespace, &report);
    let name = event.metadata.name.clone().unwrap_or_default();
    api.create(&PostParams::default(), &event).await?;
    written.insert(report.message, (name, 1));
    Ok(())
}

fn event(namespace: &str, report: &Report) -> Event {
    let subject = report.about.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(format!("{subject}.{:x}", report.at.as_nanosecond())),
            ..ObjectMeta::default()
        },
        involved_object: report.about.clone(),
        reason: Some(report.message.reason.to_owned()),
        message: Some(report.message.note.clone()),
        type_: Some(
            match report.message.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .to_owned(),
        ),
        source: Some(EventSource {
            component: Some(report.message.component.to_owned()),
            host: None,
        }),
        reporting_component: Some(report.message.component.to_owned()),
        reporting_instance: Some(report.message.component.to_owned()),
        first_timestamp: Some(stamp(report.at)),
        last_timestamp: Some(stamp(report.at)),
        event_time: Some(MicroTime(report.at)),
        count: Some(1),
        action: None,
        related: None,
        series: None,
    }
}
