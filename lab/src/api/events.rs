//! Events have two faces, `v1` and `events.k8s.io/v1`, over the same stored objects. Stored is `v1`.

use serde_json::Value;

use super::object::{map_mut, remove, set};
use super::registry::ResourceType;

/// Fields that are only named differently: `events.k8s.io/v1`, then `v1`.
const RENAMED: [(&str, &str); 7] = [
    ("/regarding", "/involvedObject"),
    ("/note", "/message"),
    ("/reportingController", "/reportingComponent"),
    ("/deprecatedSource", "/source"),
    ("/deprecatedFirstTimestamp", "/firstTimestamp"),
    ("/deprecatedLastTimestamp", "/lastTimestamp"),
    ("/deprecatedCount", "/count"),
];

fn is_new_face(resource: &ResourceType) -> bool {
    resource.group == "events.k8s.io"
}

fn rename(from: &Value, to: &mut Value, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    for (old, new) in pairs {
        if let Some(moved) = from.pointer(old).cloned() {
            remove(to, old);
            set(to, new, moved);
        }
    }
}

/// An object as it is stored.
pub(crate) fn to_stored(resource: &ResourceType, object: &mut Value) {
    if !is_new_face(resource) {
        return;
    }
    let from = object.clone();
    rename(&from, object, RENAMED.into_iter());
    map_mut(object).insert("apiVersion".to_owned(), Value::from("v1"));
}

/// A stored object as this resource shows it.
pub(crate) fn to_shown(resource: &ResourceType, object: &mut Value) {
    map_mut(object).insert("apiVersion".to_owned(), Value::from(resource.api_version()));
    if !is_new_face(resource) {
        return;
    }
    let from = object.clone();
    rename(&from, object, RENAMED.into_iter().map(|(new, old)| (old, new)));
}
