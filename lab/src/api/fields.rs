//! What a field is: paths into objects, sets of them (`fieldsV1`), and which lists are keyed.
//!
//! Pure; depends on serde_json alone. The knowledge of the built-in types is one function, [`relation`]: it mirrors the
//! `x-kubernetes-list-type`, `-list-map-keys` and `-map-type` marks of the Kubernetes API for the kinds that the lab
//! serves. Lists that nothing is known about are atomic, and so is every list of a custom resource. The notation of
//! field sets (`f:`, `k:`, `v:`, `.`) is the one of the structured-merge-diff library that real clusters use.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// What the merge needs to know of a resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    /// The kind, for the few field names that mean different things in different kinds.
    pub(crate) kind: &'a str,
    /// Built into Kubernetes, as opposed to defined by a CRD.
    pub(crate) builtin: bool,
    /// Fields below `status` are the business of the status subresource, not of this write.
    pub(crate) ignore_status: bool,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Element {
    /// A field of a struct or map.
    Field(String),
    /// An item of an associative list: the key fields, as compact JSON with sorted keys.
    Key(String),
    /// An item of a set: the value, as JSON.
    Member(String),
}

/// A path from the root of an object.
pub(crate) type Path = Vec<Element>;

/// Sorted, so that everything below a path follows it directly.
pub(crate) type FieldSet = BTreeSet<Path>;

/// How the parts of a value relate to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// A struct or map: each field for itself.
    Granular,
    /// One value, however deep.
    Atomic,
    /// A list of objects that these fields identify; the second text is the default of a missing one.
    Keyed(&'static [(&'static str, Option<&'static str>)]),
    /// A list of distinct scalars.
    Set,
}

const NAME: &[(&str, Option<&str>)] = &[("name", None)];

/// The relation at a place, named by the field names that lead there; `[]` stands for a list item.
fn relation(shape: Shape<'_>, place: &[&str], value: &Value) -> Relation {
    let last = place.last().copied().unwrap_or_default();
    let parent = place.iter().rev().nth(1).copied().unwrap_or_default();
    let outer = place.iter().rev().nth(2).copied().unwrap_or_default();
    if value.is_array() {
        if parent == "metadata" && last == "ownerReferences" {
            return Relation::Keyed(&[("uid", None)]);
        }
        if parent == "metadata" && last == "finalizers" {
            return Relation::Set;
        }
        if !shape.builtin || shape.kind == "CustomResourceDefinition" && last != "conditions" {
            return Relation::Atomic;
        }
        return match last {
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "env"
            | "claims"
            | "schedulingGates"
            | "resourceClaims"
            | "webhooks" => Relation::Keyed(NAME),
            "imagePullSecrets" if parent == "spec" => Relation::Keyed(NAME),
            "secrets" if shape.kind == "ServiceAccount" => Relation::Keyed(NAME),
            "hostAliases" | "podIPs" => Relation::Keyed(&[("ip", None)]),
            "topologySpreadConstraints" => Relation::Keyed(&[("topologyKey", None), ("whenUnsatisfiable", None)]),
            "volumeMounts" => Relation::Keyed(&[("mountPath", None)]),
            "volumeDevices" => Relation::Keyed(&[("devicePath", None)]),
            "ports" if parent == "[]" && outer.to_ascii_lowercase().ends_with("containers") => {
                Relation::Keyed(&[("containerPort", None), ("protocol", Some("TCP"))])
            }
            "ports" if parent == "spec" && shape.kind == "Service" => {
                Relation::Keyed(&[("port", None), ("protocol", Some("TCP"))])
            }
            "conditions" if shape.kind != "Job" => Relation::Keyed(&[("type", None)]),
            "addresses" if shape.kind == "Node" => Relation::Keyed(&[("type", None)]),
            "podCIDRs" => Relation::Set,
            _ => Relation::Atomic,
        };
    }
    let atomic_item = last == "[]" && (parent == "ownerReferences" && outer == "metadata");
    let atomic_struct = shape.builtin
        && matches!(
            last,
            "selector"
                | "podSelector"
                | "namespaceSelector"
                | "labelSelector"
                | "nodeSelector"
                | "fieldRef"
                | "resourceFieldRef"
                | "configMapKeyRef"
                | "secretKeyRef"
                | "roleRef"
                | "involvedObject"
                | "regarding"
                | "targetRef"
                | "dataSource"
                | "requiredDuringSchedulingIgnoredDuringExecution"
        );
    if atomic_item || atomic_struct {
        Relation::Atomic
    } else {
        Relation::Granular
    }
}

/// Fields that are nobody's to own: identity and what the server writes.
fn is_server_field(place: &[&str]) -> bool {
    match place {
        ["apiVersion" | "kind"] => true,
        ["metadata", name] => matches!(
            *name,
            "name"
                | "namespace"
                | "generateName"
                | "uid"
                | "resourceVersion"
                | "generation"
                | "creationTimestamp"
                | "deletionTimestamp"
                | "deletionGracePeriodSeconds"
                | "managedFields"
                | "selfLink"
        ),
        _ => false,
    }
}

fn key_of(keys: &[(&str, Option<&str>)], item: &Value, place: &[&str]) -> Result<String, String> {
    let mut sorted = BTreeMap::new();
    for (name, default) in keys {
        let value = match (item.get(name), default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => json!(default),
            (None, None) => {
                return Err(format!(
                    "element of associative list .{} is missing the key field {name:?} that identifies it",
                    place.join(".").replace(".[]", "")
                ));
            }
        };
        sorted.insert(*name, value);
    }
    serde_json::to_string(&sorted).map_err(|error| error.to_string())
}

/// Every leaf of an object with its value. Items of associative lists also appear themselves, with a null value.
pub(crate) fn leaves(object: &Value, shape: Shape<'_>) -> Result<BTreeMap<Path, Value>, String> {
    let mut found = BTreeMap::new();
    collect(object, shape, &mut Vec::new(), &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn collect<'v>(
    value: &'v Value,
    shape: Shape<'_>,
    place: &mut Vec<&'v str>,
    path: &mut Path,
    found: &mut BTreeMap<Path, Value>,
) -> Result<(), String> {
    match (value, relation(shape, place, value)) {
        (Value::Object(map), Relation::Granular) if !map.is_empty() => {
            for (name, child) in map {
                place.push(name);
                let skipped = is_server_field(place) || shape.ignore_status && place.as_slice() == ["status"];
                if !skipped {
                    path.push(Element::Field(name.clone()));
                    collect(child, shape, place, path, found)?;
                    path.pop();
                }
                place.pop();
            }
        }
        (Value::Array(items), Relation::Keyed(keys)) if !items.is_empty() => {
            for item in items {
                let key = key_of(keys, item, place)?;
                place.push("[]");
                path.push(Element::Key(key));
                if found.insert(path.clone(), Value::Null).is_some() {
                    return Err(format!("duplicate entries for key {}", render(path)));
                }
                if relation(shape, place, item) == Relation::Atomic {
                    found.insert(path.clone(), item.clone());
                } else {
                    collect(item, shape, place, path, found)?;
                }
                path.pop();
                place.pop();
            }
        }
        (Value::Array(items), Relation::Set) if !items.is_empty() => {
            for item in items {
                path.push(Element::Member(item.to_string()));
                found.insert(path.clone(), item.clone());
                path.pop();
            }
        }
        // The root and `metadata` alone are no fields.
        _ if path.is_empty() || path.as_slice() == [Element::Field("metadata".to_owned())] => {}
        _ => {
            found.insert(path.clone(), value.clone());
        }
    }
    Ok(())
}

/// `applied` laid over `live`.
pub(crate) fn merge(live: Option<&Value>, applied: &Value, shape: Shape<'_>) -> Result<Value, String> {
    overlay(live, applied, shape, &mut Vec::new())
}

fn overlay<'v>(
    live: Option<&Value>,
    applied: &'v Value,
    shape: Shape<'_>,
    place: &mut Vec<&'v str>,
) -> Result<Value, String> {
    match (applied, relation(shape, place, applied)) {
        (Value::Object(map), Relation::Granular) => {
            let mut result = live.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, child) in map {
                place.push(name);
                let skipped = shape.ignore_status && place.as_slice() == ["status"];
                // A live object keeps what the server wrote; a new one starts with what was sent.
                let kept = is_server_field(place) && result.contains_key(name);
                if !skipped && !kept {
                    let merged = overlay(result.get(name), child, shape, place)?;
                    result.insert(name.clone(), merged);
                }
                place.pop();
            }
            Ok(Value::Object(result))
        }
        (Value::Array(items), Relation::Keyed(keys)) => {
            let live_items: Vec<(String, &Value)> = live
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|item| key_of(keys, item, place).ok().map(|key| (key, item)))
                .collect();
            let mut merged = Vec::new();
            for item in items {
                let key = key_of(keys, item, place)?;
                let before = live_items
                    .iter()
                    .find(|(live_key, _)| *live_key == key)
                    .map(|(_, item)| *item);
                place.push("[]");
                merged.push((key, overlay(before, item, shape, place)?));
                place.pop();
            }
            Ok(Value::Array(interleave(&live_items, merged)))
        }
        (Value::Array(items), Relation::Set) => {
            let live_items: Vec<(String, &Value)> = live
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|item| (item.to_string(), item))
                .collect();
            Ok(Value::Array(interleave(
                &live_items,
                items.iter().map(|item| (item.to_string(), item.clone())).collect(),
            )))
        }
        (whole, _) => Ok(whole.clone()),
    }
}

/// The applied order leads; live items that were not applied stay in front of what followed them.
fn interleave(live: &[(String, &Value)], applied: Vec<(String, Value)>) -> Vec<Value> {
    let applied_keys: BTreeSet<String> = applied.iter().map(|(key, _)| key.clone()).collect();
    let mut rest = live.iter().peekable();
    let mut result = Vec::new();
    for (key, value) in applied {
        while let Some((_, item)) = rest.next_if(|(live_key, _)| !applied_keys.contains(live_key)) {
            result.push((*item).clone());
        }
        rest.next_if(|(live_key, _)| *live_key == key);
        result.push(value);
    }
    result.extend(
        rest.filter(|(key, _)| !applied_keys.contains(key))
            .map(|(_, item)| (*item).clone()),
    );
    result
}

/// The index of the item that a path step names.
fn index_of(items: &[Value], step: &Element, shape: Shape<'_>, place: &[&str], list: &Value) -> Option<usize> {
    match (step, relation(shape, place, list)) {
        (Element::Key(key), Relation::Keyed(keys)) => items
            .iter()
            .position(|item| key_of(keys, item, place).is_ok_and(|found| found == *key)),
        (Element::Member(member), Relation::Set) => items.iter().position(|item| {
            let text = item.to_string();
            text == *member
        }),
        _ => None,
    }
}

/// Walks to the value at `path` and hands its parent to `act`, together with the last step.
fn with_parent<'p, R>(
    object: &mut Value,
    path: &'p [Element],
    shape: Shape<'_>,
    place: &mut Vec<&'p str>,
    act: impl FnOnce(&mut Value, &'p Element, &[&str]) -> Option<R>,
) -> Option<R> {
    let (step, rest) = path.split_first()?;
    if rest.is_empty() {
        return act(object, step, place);
    }
    match step {
        Element::Field(name) => {
            place.push(name);
            with_parent(object.get_mut(name)?, rest, shape, place, act)
        }
        Element::Key(_) | Element::Member(_) => {
            let index = index_of(object.as_array()?, step, shape, place, object)?;
            place.push("[]");
            with_parent(object.as_array_mut()?.get_mut(index)?, rest, shape, place, act)
        }
    }
}

/// Removes the value at `path`; nothing happens when it is not there.
pub(crate) fn remove(object: &mut Value, path: &[Element], shape: Shape<'_>) -> bool {
    with_parent(object, path, shape, &mut Vec::new(), |parent, step, place| match step {
        Element::Field(name) => parent.as_object_mut()?.shift_remove(name).map(|_| ()),
        Element::Key(_) | Element::Member(_) => {
            let index = index_of(parent.as_array()?, step, shape, place, parent)?;
            parent.as_array_mut()?.remove(index);
            Some(())
        }
    })
    .is_some()
}

/// Whether an empty map or list is at `path`.
pub(crate) fn is_empty_at(object: &mut Value, path: &[Element], shape: Shape<'_>) -> bool {
    with_parent(object, path, shape, &mut Vec::new(), |parent, step, place| {
        let value = match step {
            Element::Field(name) => parent.get(name)?,
            Element::Key(_) | Element::Member(_) => {
                let index = index_of(parent.as_array()?, step, shape, place, parent)?;
                parent.get(index)?
            }
        };
        Some(match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        })
    })
    .unwrap_or(false)
}

/// A path as error messages show it: `.spec.template.spec.containers[name="main"].image`.
pub(crate) fn render(path: &[Element]) -> String {
    let mut text = String::new();
    for element in path {
        match element {
            Element::Field(name) => {
                text.push('.');
                text.push_str(name);
            }
            Element::Key(key) => {
                let fields: BTreeMap<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                text.push_str(&format!("[{}]", pairs.join(",")));
            }
            Element::Member(member) => text.push_str(&format!("[={member}]")),
        }
    }
    text
}

/// The `fieldsV1` form of a set.
pub(crate) fn encode(set: &FieldSet) -> Value {
    let mut root = Map::new();
    for path in set {
        insert(&mut root, path);
    }
    Value::Object(root)
}

fn insert(node: &mut Map<String, Value>, path: &[Element]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    let name = match step {
        Element::Field(name) => format!("f:{name}"),
        Element::Key(key) => format!("k:{key}"),
        Element::Member(member) => format!("v:{member}"),
    };
    let known = node.contains_key(&name);
    let Some(child) = node.entry(name).or_insert_with(|| json!({})).as_object_mut() else {
        return;
    };
    if rest.is_empty() {
        if known {
            child.insert(".".to_owned(), json!({}));
        }
    } else {
        // Paths come sorted: an empty child that is already there was put there as a member itself.
        if known && child.is_empty() {
            child.insert(".".to_owned(), json!({}));
        }
        insert(child, rest);
    }
}

/// The set that a `fieldsV1` value says.
pub(crate) fn decode(fields: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    if let Some(map) = fields.as_object() {
        for (name, child) in map {
            read(name, child, &mut Vec::new(), &mut set);
        }
    }
    set
}

fn read(name: &str, value: &Value, path: &mut Path, set: &mut FieldSet) {
    if name == "." {
        set.insert(path.clone());
        return;
    }
    let element = match name.split_once(':') {
        Some(("f", field)) => Element::Field(field.to_owned()),
        Some(("k", key)) => {
            // Sorted again, whoever wrote it.
            let fields: BTreeMap<String, Value> = serde_json::from_str(key).unwrap_or_default();
            Element::Key(serde_json::to_string(&fields).unwrap_or_else(|_| key.to_owned()))
        }
        Some(("v", member)) => Element::Member(member.to_owned()),
        _ => return,
    };
    path.push(element);
    match value.as_object() {
        Some(children) if !children.is_empty() => {
            for (child_name, child) in children {
                read(child_name, child, path, set);
            }
        }
        _ => {
            set.insert(path.clone());
        }
    }
    path.pop();
}
