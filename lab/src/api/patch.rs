//! JSON patch, JSON merge patch and strategic merge patch.
//!
//! Strategic merge works from a table of list merge keys for the core types instead of from Go struct tags. Custom
//! resources know no strategic merge, as on a cluster.

use serde_json::{Map, Value};

use super::status::ApiError;

/// How a list is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListMerge {
    /// The patch's list replaces the present one.
    Atomic,
    /// Items are objects that a key tells apart.
    Key(&'static str),
    /// Items are primitives, each at most once.
    Set,
}

/// Applies a JSON patch (RFC 6902).
pub(crate) fn json_patch(target: &mut Value, patch: Value) -> Result<(), ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    json_patch::patch(target, &patch).map_err(|error| ApiError::unprocessable(error.to_string()))
}

/// Applies a JSON merge patch (RFC 7386).
pub(crate) fn merge_patch(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// Applies a strategic merge patch.
pub(crate) fn strategic_merge(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let Some(patch) = patch.as_object() else {
        return Err(ApiError::bad_request("a strategic merge patch must be an object"));
    };
    merge_objects(super::object::map_mut(target), patch, "")
}

fn list_merge(parent: &str, field: &str) -> ListMerge {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "webhooks" => ListMerge::Key("name"),
        "secrets" if parent.is_empty() => ListMerge::Key("name"),
        "ports" if parent == "spec" => ListMerge::Key("port"),
        "ports" => ListMerge::Key("containerPort"),
        "volumeMounts" => ListMerge::Key("mountPath"),
        "volumeDevices" => ListMerge::Key("devicePath"),
        "hostAliases" | "podIPs" | "hostIPs" => ListMerge::Key("ip"),
        "topologySpreadConstraints" => ListMerge::Key("topologyKey"),
        "conditions" | "addresses" => ListMerge::Key("type"),
        "ownerReferences" => ListMerge::Key("uid"),
        "taints" => ListMerge::Key("key"),
        "finalizers" | "podCIDRs" => ListMerge::Set,
        _ => ListMerge::Atomic,
    }
}

fn merge_objects(target: &mut Map<String, Value>, patch: &Map<String, Value>, parent: &str) -> Result<(), ApiError> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = patch
                .iter()
                .filter(|(key, _)| !key.starts_with('$'))
                .map(clone_entry)
                .collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(ApiError::bad_request(format!("unknown $patch directive: {other}")));
        }
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(list), Some(gone)) = (target.get_mut(field).and_then(Value::as_array_mut), value.as_array()) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        match value {
            Value::Null => {
                target.shift_remove(key);
            }
            Value::Object(inner) => {
                let slot = target.entry(key.clone()).or_insert(Value::Null);
                if inner.get("$patch").and_then(Value::as_str) == Some("delete") {
                    target.shift_remove(key);
                } else {
                    merge_objects(super::object::map_mut(slot), inner, key)?;
                }
            }
            Value::Array(items) => merge_list(target, key, items, parent)?,
            plain => {
                target.insert(key.clone(), plain.clone());
            }
        }
    }
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|key, _| kept.iter().any(|one| one.as_str() == Some(key)));
    }
    reorder(target, patch, parent);
    Ok(())
}

fn clone_entry((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn merge_list(target: &mut Map<String, Value>, field: &str, items: &[Value], parent: &str) -> Result<(), ApiError> {
    let slot = target.entry(field.to_owned()).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    let Some(list) = slot.as_array_mut() else {
        return Ok(());
    };
    let replace = |item: &Value| item.get("$patch").and_then(Value::as_str) == Some("replace");
    match list_merge(parent, field) {
        ListMerge::Atomic => *list = items.to_vec(),
        _ if items.iter().any(replace) => {
            *list = items.iter().filter(|item| !replace(item)).cloned().collect();
        }
        ListMerge::Set => {
            for item in items {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        ListMerge::Key(key) => merge_keyed(list, field, items, key)?,
    }
    Ok(())
}

fn merge_keyed(list: &mut Vec<Value>, field: &str, items: &[Value], default_key: &str) -> Result<(), ApiError> {
    for item in items {
        let Some(fields) = item.as_object() else {
            return Err(ApiError::bad_request(format!("items of {field} must be objects")));
        };
        let key = merge_key(fields, field, default_key);
        let Some(wanted) = fields.get(key) else {
            return Err(ApiError::bad_request(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let found = list.iter().position(|present| present.get(key) == Some(wanted));
        if fields.get("$patch").and_then(Value::as_str) == Some("delete") {
            list.retain(|present| present.get(key) != Some(wanted));
        } else if let Some(present) = found.and_then(|at| list.get_mut(at)) {
            merge_objects(super::object::map_mut(present), fields, field)?;
        } else {
            let mut fresh = Map::new();
            merge_objects(&mut fresh, fields, field)?;
            list.push(Value::Object(fresh));
        }
    }
    Ok(())
}

/// `ports` of a Service are told apart by `port`, those of a container by `containerPort`; items of secrets by name.
fn merge_key<'a>(item: &Map<String, Value>, field: &str, default_key: &'a str) -> &'a str {
    match field {
        "ports" if default_key == "port" && !item.contains_key("port") => "containerPort",
        _ => default_key,
    }
}

/// Obeys `$setElementOrder/<field>`: listed items come in that order, the others keep their place after them.
fn reorder(target: &mut Map<String, Value>, patch: &Map<String, Value>, parent: &str) {
    for (directive, order) in patch {
        let Some(field) = directive.strip_prefix("$setElementOrder/") else {
            continue;
        };
        let (Some(list), Some(order)) = (target.get_mut(field).and_then(Value::as_array_mut), order.as_array()) else {
            continue;
        };
        let rank = |item: &Value| match list_merge(parent, field) {
            ListMerge::Key(key) => order
                .iter()
                .position(|one| one.get(key).is_some() && one.get(key) == item.get(key)),
            _ => order.iter().position(|one| one == item),
        };
        list.sort_by_key(|item| rank(item).unwrap_or(usize::MAX));
    }
}
