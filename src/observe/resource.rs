//! The target's own object (or another one that a probe names), by one LIST and one WATCH with a field selector.

use crate::cluster::WatchMessage;
use crate::evidence::{Event, Seen};
use crate::model::Mono;
use crate::world::{RecordError, Recorder};
use kube::api::DynamicObject;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Turns watch messages into events with just the fields that somebody asks for.
pub(crate) struct ResourceObserver {
    pub(crate) recorder: Recorder,
    /// `target`, or the name of the probe that follows the object.
    pub(crate) subject: String,
    /// Plural, for gap messages.
    pub(crate) kind: String,
    /// Dotted paths.
    pub(crate) fields: Vec<String>,
}

impl ResourceObserver {
    /// Runs until the watch ends.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) async fn run(
        self,
        mut messages: mpsc::Receiver<WatchMessage<DynamicObject>>,
    ) -> Result<(), RecordError> {
        let mut present: BTreeMap<String, DynamicObject> = BTreeMap::new();
        while let Some(message) = messages.recv().await {
            match message {
                WatchMessage::Listed {
                    at, gap_from, objects, ..
                } => {
                    let not_before = gap_from.as_ref().map(|(from, _)| *from);
                    if let Some((from, why)) = gap_from {
                        self.recorder.record(Event::WatchGap {
                            kind: self.kind.clone(),
                            subject: Some(self.subject.clone()),
                            from,
                            to: at,
                            resumed: false,
                            why,
                        })?;
                    }
                    let mut before = std::mem::take(&mut present);
                    for object in objects {
                        before.remove(object.metadata.uid.as_deref().unwrap_or_default());
                        self.seen(Seen::Listed, at, not_before, &object)?;
                        present.insert(object.metadata.uid.clone().unwrap_or_default(), object);
                    }
                    for object in before.values() {
                        self.seen(Seen::Vanished, at, not_before, object)?;
                    }
                }
                WatchMessage::Added(at, object) => {
                    self.seen(Seen::Added, at, None, &object)?;
                    present.insert(object.metadata.uid.clone().unwrap_or_default(), object);
                }
                WatchMessage::Modified(at, object) => {
                    self.seen(Seen::Modified, at, None, &object)?;
                    present.insert(object.metadata.uid.clone().unwrap_or_default(), object);
                }
                WatchMessage::Deleted(at, object) => {
                    self.seen(Seen::Deleted, at, None, &object)?;
                    present.remove(object.metadata.uid.as_deref().unwrap_or_default());
                }
                WatchMessage::Broken { from, why } => {
                    self.recorder.record(Event::WatchBroken {
                        kind: self.kind.clone(),
                        subject: Some(self.subject.clone()),
                        from,
                        why,
                    })?;
                }
                WatchMessage::Resumed { from, to, why } => {
                    self.recorder.record(Event::WatchGap {
                        kind: self.kind.clone(),
                        subject: Some(self.subject.clone()),
                        from,
                        to,
                        resumed: true,
                        why,
                    })?;
                }
            }
        }
        Ok(())
    }

    fn seen(&self, seen: Seen, at: Mono, not_before: Option<Mono>, object: &DynamicObject) -> Result<(), RecordError> {
        let document = serde_json::to_value(object).unwrap_or_default();
        let fields = self
            .fields
            .iter()
            .filter_map(|field| Some((field.clone(), field_text(&document, field)?)))
            .collect();
        self.recorder.record(Event::ResourceSeen {
            subject: self.subject.clone(),
            seen,
            at,
            not_before,
            uid: object.metadata.uid.clone().unwrap_or_default(),
            resource_version: object
                .metadata
                .resource_version
                .as_ref()
                .and_then(|text| text.parse().ok()),
            fields,
        })
    }
}

/// The value at a dotted path as text; list elements by index.
fn field_text(document: &serde_json::Value, path: &str) -> Option<String> {
    let mut value = document;
    for part in path.split('.') {
        value = match value {
            serde_json::Value::Object(map) => map.get(part)?,
            serde_json::Value::Array(list) => list.get(part.parse::<usize>().ok()?)?,
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => {
                return None;
            }
        };
    }
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
