//! Reading and writing fields of objects that are plain JSON.
//!
//! Every kind is a `serde_json::Value` in the store; these helpers take JSON pointers so that a missing field, a
//! wrong type and an absent parent are all simply `None`.

use serde_json::{Map, Value};

/// The string at a JSON pointer.
pub(crate) fn str_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// The integer at a JSON pointer.
pub(crate) fn i64_at(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The truth at a JSON pointer; false when absent.
pub(crate) fn bool_at(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The array at a JSON pointer; empty when absent.
pub(crate) fn array_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Whether something other than null or the empty string stands at the pointer.
pub(crate) fn is_set(value: &Value, pointer: &str) -> bool {
    match value.pointer(pointer) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

/// The object itself as a map, turned into one when it is something else.
pub(crate) fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Cannot be reached: made an object above. The leak keeps the signature free of a panic.
        _ => Box::leak(Box::default()),
    }
}

/// Writes a field; missing parents are created. Keys are separated by `/` and never contain one.
pub(crate) fn set(value: &mut Value, pointer: &str, new: impl Into<Value>) {
    let mut current = value;
    let mut keys = pointer.split('/').skip(1).peekable();
    while let Some(key) = keys.next() {
        let slot = map_mut(current).entry(key.to_owned()).or_insert(Value::Null);
        if keys.peek().is_none() {
            *slot = new.into();
            return;
        }
        current = slot;
    }
}

/// Writes a field only when it is absent or null.
pub(crate) fn set_default(value: &mut Value, pointer: &str, new: impl Into<Value>) {
    if value.pointer(pointer).is_none_or(Value::is_null) {
        set(value, pointer, new);
    }
}

/// Removes a field and gives back what stood there.
pub(crate) fn remove(value: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, key) = pointer.rsplit_once('/')?;
    value.pointer_mut(parent)?.as_object_mut()?.shift_remove(key)
}

/// Copies a field from one object to another, removing it where the source has none.
pub(crate) fn copy(from: &Value, to: &mut Value, pointer: &str) {
    match from.pointer(pointer) {
        Some(found) => set(to, pointer, found.clone()),
        None => {
            remove(to, pointer);
        }
    }
}

/// `metadata.name`, or the empty string.
pub(crate) fn name(value: &Value) -> &str {
    str_at(value, "/metadata/name").unwrap_or_default()
}

/// `metadata.namespace`, or the empty string.
pub(crate) fn namespace(value: &Value) -> &str {
    str_at(value, "/metadata/namespace").unwrap_or_default()
}

/// `metadata.uid`, or the empty string.
pub(crate) fn uid(value: &Value) -> &str {
    str_at(value, "/metadata/uid").unwrap_or_default()
}

/// Whether deletion was asked for.
pub(crate) fn is_deleting(value: &Value) -> bool {
    is_set(value, "/metadata/deletionTimestamp")
}

/// Names of the finalizers.
pub(crate) fn finalizers(value: &Value) -> impl Iterator<Item = &str> {
    array_at(value, "/metadata/finalizers").iter().filter_map(Value::as_str)
}

/// Whether a finalizer of that name stands on the object.
pub(crate) fn has_finalizer(value: &Value, finalizer: &str) -> bool {
    finalizers(value).any(|found| found == finalizer)
}

/// Takes a finalizer off; the field goes when the list is empty.
pub(crate) fn remove_finalizer(value: &mut Value, finalizer: &str) {
    if let Some(list) = value.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        list.retain(|found| found.as_str() != Some(finalizer));
        if list.is_empty() {
            remove(value, "/metadata/finalizers");
        }
    }
}

/// Puts a finalizer on, once.
pub(crate) fn add_finalizer(value: &mut Value, finalizer: &str) {
    if has_finalizer(value, finalizer) {
        return;
    }
    set_default(value, "/metadata/finalizers", Value::Array(Vec::new()));
    if let Some(list) = value.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        list.push(Value::from(finalizer));
    }
}

/// The present instant as Kubernetes writes `metav1.Time`: whole seconds, UTC.
pub(crate) fn now() -> String {
    stamp(jiff::Timestamp::now())
}

/// An instant as Kubernetes writes `metav1.Time`.
pub(crate) fn stamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The items of an array, to be changed; none when absent.
pub(crate) fn array_mut<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value
        .pointer_mut(pointer)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Writes one entry of a map; unlike in a pointer, the key may contain `/` (labels, annotations).
pub(crate) fn set_key(value: &mut Value, pointer: &str, key: &str, new: impl Into<Value>) {
    set_default(value, pointer, Value::Object(Map::new()));
    if let Some(map) = value.pointer_mut(pointer) {
        map_mut(map).insert(key.to_owned(), new.into());
    }
}
