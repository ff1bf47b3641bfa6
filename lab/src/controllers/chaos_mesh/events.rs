//! The Events that Chaos Mesh writes about its objects. Depends on `kube`.
//!
//! Central type: [`Recorder`]. Contract: telling never fails and never holds up a pass (upstream writes them beside it, too);
//! the name of an Event is that of its object, a dot, and the nanoseconds of its instant in hexadecimal.

use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::object::{name, namespace, str_at, uid};

/// Events that wait to be written; the newest are dropped when writing is slower than that.
const BACKLOG: usize = 1024;

/// What happened, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    FinalizerInited,
    FinalizerRemoved,
    Started,
    Paused,
    TimeUp,
    Deleted,
    Applied { id: String },
    Recovered { id: String },
    Updated { field: &'static str },
    Failed { activity: &'static str, error: String },
    Spawned { child: String },
    Forbid { running: String },
    MissSchedule { missed: String },
    NotSupported { activity: &'static str },
}

impl Told {
    fn reason(&self) -> &'static str {
        match self {
            Self::FinalizerInited | Self::FinalizerRemoved => "FinalizerInited",
            Self::Started => "Started",
            Self::Paused => "Paused",
            Self::TimeUp => "TimeUp",
            Self::Deleted => "Deleted",
            Self::Applied { .. } => "Applied",
            Self::Recovered { .. } => "Recovered",
            Self::Updated { .. } => "Updated",
            Self::Failed { .. } => "Failed",
            Self::Spawned { .. } => "Spawned",
            Self::Forbid { .. } => "Forbid",
            Self::MissSchedule { .. } => "MissSchedule",
            Self::NotSupported { .. } => "NotSupported",
        }
    }

    fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. } | Self::Forbid { .. } | Self::MissSchedule { .. } | Self::NotSupported { .. }
        )
    }

    fn message(&self) -> String {
        match self {
            Self::FinalizerInited => "Finalizer has been inited".to_owned(),
            Self::FinalizerRemoved => "Finalizer has been removed".to_owned(),
            Self::Started => "Experiment has started".to_owned(),
            Self::Paused => "Experiment has been paused".to_owned(),
            Self::TimeUp => "Time up according to the duration".to_owned(),
            Self::Deleted => "Experiment has been deleted".to_owned(),
            Self::Applied { id } => format!("Successfully apply chaos for {id}"),
            Self::Recovered { id } => format!("Successfully recover chaos for {id}"),
            Self::Updated { field } => format!("Successfully update {field} of resource"),
            Self::Failed { activity, error } => format!("Failed to {activity}: {error}"),
            Self::Spawned { child } => format!("Create new object: {child}"),
            Self::Forbid { running } => format!("Forbid spawning new job because: {running} is still running"),
            Self::MissSchedule { missed } => format!("Missed scheduled time to start a job: {missed}"),
            Self::NotSupported { activity } => format!("Action is not supported: {activity}"),
        }
    }

    /// `kebab-case` of the type, and its parts.
    fn annotations(&self) -> Value {
        let kind = match self {
            Self::FinalizerRemoved => "finalizer-inited",
            other => return other.annotations_as(&kebab(other.reason())),
        };
        self.annotations_as(kind)
    }

    fn annotations_as(&self, kind: &str) -> Value {
        match self {
            Self::Applied { id } | Self::Recovered { id } => {
                json!({"chaos-mesh.org/type": kind, "chaos-mesh.org/id": id})
            }
            Self::Updated { field } => json!({"chaos-mesh.org/type": kind, "chaos-mesh.org/field": field}),
            Self::Failed { activity, error } => {
                json!({"chaos-mesh.org/type": kind, "chaos-mesh.org/activity": activity, "chaos-mesh.org/err": error})
            }
            _ => json!({"chaos-mesh.org/type": kind}),
        }
    }
}

fn kebab(reason: &str) -> String {
    let mut text = String::new();
    for letter in reason.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Takes what happened, and has it written.
#[derive(Clone)]
pub(super) struct Recorder {
    sender: mpsc::Sender<(String, Value)>,
}

impl Recorder {
    /// A recorder and the task that writes.
    pub(super) fn new(client: Client) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self { sender }, write(client, receiver))
    }

    /// Tells something about an object, as a component of the controller-manager.
    pub(super) fn tell(&self, component: &str, object: &Value, told: &Told) {
        let event = event(component, object, told, jiff::Timestamp::now());
        if self.sender.try_send((namespace(object).to_owned(), event)).is_err() {
            tracing::debug!(reason = told.reason(), "event dropped, too many at once");
        }
    }
}

fn event(component: &str, object: &Value, told: &Told, at: jiff::Timestamp) -> Value {
    let stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "metadata": {
            "name": format!("{}.{:x}", name(object), at.as_nanosecond()),
            "namespace": namespace(object),
            "annotations": told.annotations(),
        },
        "involvedObject": {
            "apiVersion": str_at(object, "/apiVersion"), "kind": str_at(object, "/kind"), "name": name(object),
            "namespace": namespace(object), "uid": uid(object),
            "resourceVersion": str_at(object, "/metadata/resourceVersion"),
        },
        "reason": told.reason(), "message": told.message(), "type": if told.is_warning() { "Warning" } else { "Normal" },
        "source": {"component": component}, "count": 1, "firstTimestamp": stamp, "lastTimestamp": stamp,
    })
}

async fn write(client: Client, mut events: mpsc::Receiver<(String, Value)>) {
    while let Some((namespace, event)) = events.recv().await {
        let Ok(event) = serde_json::from_value::<Event>(event) else {
            continue;
        };
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, "event of the double not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_after_its_nanoseconds_and_says_what_it_is_about() {
        let object = json!({"kind": "NetworkChaos", "metadata": {"name": "x", "namespace": "shop", "uid": "u"}});
        let at: jiff::Timestamp = "2026-01-01T00:00:07.5Z".parse().unwrap();
        let told = Told::Applied {
            id: "shop/cart-0".into(),
        };
        let event = event("records", &object, &told, at);
        let stamp = event["metadata"]["name"].as_str().unwrap().strip_prefix("x.").unwrap();
        assert_eq!(i128::from_str_radix(stamp, 16).unwrap(), at.as_nanosecond());
        assert_eq!(event["metadata"]["annotations"]["chaos-mesh.org/id"], "shop/cart-0");
        assert_eq!(event["source"]["component"], "records");
        let failed = Told::Failed {
            activity: "apply chaos",
            error: "no".into(),
        };
        assert_eq!(failed.message(), "Failed to apply chaos: no");
        assert_eq!(Told::TimeUp.annotations()["chaos-mesh.org/type"], "time-up");
    }
}
