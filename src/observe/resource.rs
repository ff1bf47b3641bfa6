//! The target's own object and the others that probes name: one LIST and one WATCH for each kind.

use crate::cluster::WatchMessage;
use crate::evidence::{Event, Seen};
use crate::model::Mono;
use crate::world::{RecordError, Recorder};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// One object that somebody asks about.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    /// Its name.
    pub(crate) name: String,
    /// `target`, or the name of the probe that follows it.
    pub(crate) subject: String,
    /// Dotted paths of the fields that are asked for.
    pub(crate) fields: Vec<String>,
}

/// Turns the watch on one kind into events about the followed objects, with just the fields that somebody asks for.
pub(crate) struct ResourceObserver {
    pub(crate) recorder: Recorder,
    /// Plural, for gap messages.
    pub(crate) kind: String,
    pub(crate) followed: Vec<Followed>,
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
        // What was there before a list and is in none of its pages is gone.
        let mut before: BTreeMap<String, DynamicObject> = BTreeMap::new();
        let uid = |object: &DynamicObject| object.uid().unwrap_or_default();
        while let Some(message) = messages.recv().await {
            match message {
                WatchMessage::Listed {
                    at,
                    page,
                    last,
                    gap_from,
                    objects,
                    room,
                } => {
                    let not_before = gap_from.as_ref().map(|(from, _)| *from);
                    if let Some((from, why)) = gap_from.filter(|_| page == 0) {
                        self.gap(from, at, false, &why)?;
                    }
                    if page == 0 {
                        before.append(&mut present);
                    }
                    for object in objects.into_iter().filter(|object| self.follows(object)) {
                        before.remove(&uid(&object));
                        self.seen(Seen::Listed, at, not_before, &object)?;
                        present.insert(uid(&object), object);
                    }
                    if last {
                        for object in std::mem::take(&mut before).values() {
                            self.seen(Seen::Vanished, at, not_before, object)?;
                        }
                    }
                    drop(room);
                }
                WatchMessage::Added(at, object) if self.follows(&object) => {
                    self.seen(Seen::Added, at, None, &object)?;
                    present.insert(uid(&object), object);
                }
                WatchMessage::Modified(at, object) if self.follows(&object) => {
                    self.seen(Seen::Modified, at, None, &object)?;
                    present.insert(uid(&object), object);
                }
                WatchMessage::Deleted(at, object) if self.follows(&object) => {
                    self.seen(Seen::Deleted, at, None, &object)?;
                    present.remove(&uid(&object));
                }
                WatchMessage::Added(..) | WatchMessage::Modified(..) | WatchMessage::Deleted(..) => {}
                WatchMessage::Broken { from, why } => {
                    for followed in &self.followed {
                        self.recorder.record(Event::WatchBroken {
                            kind: self.kind.clone(),
                            subject: Some(followed.subject.clone()),
                            from,
                            why: why.clone(),
                        })?;
                    }
                }
                WatchMessage::Resumed { from, to, why } => self.gap(from, to, true, &why)?,
            }
        }
        Ok(())
    }

    fn follows(&self, object: &DynamicObject) -> bool {
        let name = object.metadata.name.as_ref();
        self.followed.iter().any(|followed| Some(&followed.name) == name)
    }

    fn gap(&self, from: Mono, to: Mono, resumed: bool, why: &str) -> Result<(), RecordError> {
        for followed in &self.followed {
            self.recorder.record(Event::WatchGap {
                kind: self.kind.clone(),
                subject: Some(followed.subject.clone()),
                from,
                to,
                resumed,
                why: why.to_owned(),
            })?;
        }
        Ok(())
    }

    fn seen(&self, seen: Seen, at: Mono, not_before: Option<Mono>, object: &DynamicObject) -> Result<(), RecordError> {
        let name = object.metadata.name.as_ref();
        let document = serde_json::to_value(object).unwrap_or_default();
        let version = object.metadata.resource_version.as_ref();
        for followed in self.followed.iter().filter(|followed| Some(&followed.name) == name) {
            let fields = followed
                .fields
                .iter()
                .filter_map(|field| Some((field.clone(), field_text(&document, field)?)))
                .collect();
            self.recorder.record(Event::ResourceSeen {
                subject: followed.subject.clone(),
                seen,
                at,
                not_before,
                uid: object.uid().unwrap_or_default(),
                resource_version: version.and_then(|text| text.parse().ok()),
                fields,
            })?;
        }
        Ok(())
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
