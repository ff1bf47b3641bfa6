//! Server-side apply and the bookkeeping of field owners (`metadata.managedFields`).
//!
//! Pure: values in, values out; depends on nothing but the schema knowledge in [`super::fields`]. An object is seen
//! as a set of leaf paths with a value each. Owners hold subsets of these paths. Everything that apply promises
//! follows from set algebra on paths: what an apply changes and others own is a conflict; what a manager applied
//! before, applies no longer, and nobody else owns, is removed.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::fields::{FieldSet, Path, Shape, decode, encode, leaves, merge, remove, render};
use super::registry::ResourceType;
use super::status::{ApiError, Cause};

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
struct Writer<'a> {
    /// The field manager.
    manager: &'a str,
    /// `apiVersion` of the written body.
    api_version: &'a str,
    /// `status`, `scale` ...; none for the object itself.
    subresource: Option<&'a str>,
    /// RFC 3339, seconds.
    now: &'a str,
}

/// One field that somebody else owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conflict {
    /// How the other owner wrote it, as Kubernetes words it: `"name" using v1`, with the time for updates.
    description: String,
    /// Dotted path of the field.
    field: String,
}

/// Why an apply was refused.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// Other managers own some of the fields.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The body cannot be understood as an applied object.
    #[error("{0}")]
    Invalid(String),
}

impl ApplyError {
    /// The `details.causes` of the Status that reports this error.
    fn causes(&self) -> Vec<Cause> {
        match self {
            Self::Conflicts(conflicts) => conflicts
                .iter()
                .map(|conflict| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", conflict.description),
                    field: conflict.field.clone(),
                })
                .collect(),
            Self::Invalid(_) => Vec::new(),
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        let plain = |code, reason: &str| Self {
            code,
            reason: reason.to_owned(),
            message,
            details: None,
        };
        match &error {
            ApplyError::Conflicts(_) => plain(409, "Conflict").with_causes(error.causes()),
            ApplyError::Invalid(_) => plain(400, "BadRequest"),
        }
    }
}

fn shape(resource: &ResourceType) -> Shape<'_> {
    Shape {
        kind: &resource.kind,
        builtin: resource.custom.is_none(),
        ignore_status: resource.has("status"),
    }
}

/// Server-side apply of `applied` to a resource: see [`merge_applied`].
pub(crate) fn apply(
    existing: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    resource: &ResourceType,
) -> Result<Value, ApiError> {
    let (api_version, now) = (resource.api_version(), super::object::now());
    let writer = Writer {
        manager,
        api_version: &api_version,
        subresource: None,
        now: &now,
    };
    let shape = shape(resource);
    match merge_applied(existing, applied, force, shape, &writer) {
        Err(ApplyError::Conflicts(conflicts)) if manager == CLIENT_SIDE_SUCCESSOR => {
            let before = existing
                .map(|live| last_applied_fields(live, shape))
                .unwrap_or_default();
            let rest: Vec<Conflict> = conflicts
                .into_iter()
                .filter(|one| !before.contains(&one.field))
                .collect();
            if rest.is_empty() {
                return Ok(merge_applied(existing, applied, true, shape, &writer)?);
            }
            Err(ApplyError::Conflicts(rest).into())
        }
        outcome => Ok(outcome?),
    }
}

/// `kubectl apply --server-side` takes over what `kubectl apply` without it wrote before.
const CLIENT_SIDE_SUCCESSOR: &str = "kubectl";

/// The fields that client-side apply wrote last and that still have its values, as conflicts name them.
fn last_applied_fields(live: &Value, shape: Shape<'_>) -> BTreeSet<String> {
    let applied: Option<Value> = live
        .pointer("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration")
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok());
    let (Some(Ok(applied)), Ok(present)) = (applied.map(|object| leaves(&object, shape)), leaves(live, shape)) else {
        return BTreeSet::new();
    };
    let kept = applied
        .iter()
        .filter(|(path, value)| present.get(*path) == Some(*value));
    kept.map(|(path, _)| render(path)).collect()
}

/// Notes in `metadata.managedFields` what a create, update or patch by this manager changed: see [`note_update`].
pub(crate) fn track_update(
    existing: Option<&Value>,
    updated: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    resource: &ResourceType,
) {
    let (api_version, now) = (resource.api_version(), super::object::now());
    let writer = Writer {
        manager,
        api_version: &api_version,
        subresource,
        now: &now,
    };
    let shape = Shape {
        ignore_status: resource.has("status") && subresource.is_none(),
        ..shape(resource)
    };
    note_update(existing, updated, shape, &writer);
}

/// Worded like the API server does: clients print it as it is.
fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.description, only.field
        );
    }
    let mut message = format!("Apply failed with {} conflicts:", conflicts.len());
    let mut described: Vec<&str> = Vec::new();
    for conflict in conflicts {
        if described.contains(&conflict.description.as_str()) {
            continue;
        }
        described.push(&conflict.description);
        message.push_str(&format!(" conflicts with {}:", conflict.description));
        for same in conflicts
            .iter()
            .filter(|other| other.description == conflict.description)
        {
            message.push_str(&format!("\n- {}", same.field));
        }
    }
    message
}

/// One entry of `metadata.managedFields`.
#[derive(Debug, Clone)]
struct Owner {
    manager: String,
    operation: String,
    api_version: String,
    subresource: Option<String>,
    time: String,
    set: FieldSet,
}

impl Owner {
    fn parse(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        Some(Self {
            manager: text("manager").unwrap_or_default().to_owned(),
            operation: text("operation")?.to_owned(),
            api_version: text("apiVersion").unwrap_or_default().to_owned(),
            subresource: text("subresource").filter(|name| !name.is_empty()).map(str::to_owned),
            time: text("time").unwrap_or_default().to_owned(),
            set: entry.get("fieldsV1").map(decode).unwrap_or_default(),
        })
    }

    fn to_value(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("manager".to_owned(), json!(self.manager));
        entry.insert("operation".to_owned(), json!(self.operation));
        entry.insert("apiVersion".to_owned(), json!(self.api_version));
        entry.insert("time".to_owned(), json!(self.time));
        entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
        entry.insert("fieldsV1".to_owned(), encode(&self.set));
        if let Some(subresource) = &self.subresource {
            entry.insert("subresource".to_owned(), json!(subresource));
        }
        Value::Object(entry)
    }

    fn is(&self, writer: &Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource.as_deref() == writer.subresource
            && (operation == "Apply" || self.api_version == writer.api_version)
    }

    fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if let Some(subresource) = &self.subresource {
            text.push_str(&format!(" with subresource {subresource:?}"));
        }
        text.push_str(&format!(" using {}", self.api_version));
        if self.operation == "Update" && !self.time.is_empty() {
            text.push_str(&format!(" at {}", self.time));
        }
        text
    }
}

fn owners_of(object: &Value) -> Vec<Owner> {
    object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .map(|entries| entries.iter().filter_map(Owner::parse).collect())
        .unwrap_or_default()
}

fn write_owners(object: &mut Value, owners: &[Owner]) {
    let entries: Vec<Value> = owners
        .iter()
        .filter(|owner| !owner.set.is_empty())
        .map(Owner::to_value)
        .collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }
}

/// The field set and its values, without what the server itself owns and, unless the write goes to the status
/// subresource, without the status.
fn owned_leaves(object: &Value, shape: Shape<'_>) -> Result<std::collections::BTreeMap<Path, Value>, ApplyError> {
    leaves(object, shape).map_err(ApplyError::Invalid)
}

/// Drops nulls: a manifest printed by a typed client says `creationTimestamp: null` and `status: {}`, and means
/// nothing by it.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k.clone(), without_nulls(v)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        scalar => scalar.clone(),
    }
}

/// The object after `applied` was applied to `existing` by `writer`.
///
/// With no `existing` object the result is the applied object with its owner. Server-set metadata (uid,
/// resourceVersion, generation ...) is the caller's business. When nothing changes, the result equals `existing`, the
/// time stamps of the owners included, so that the caller can see that no write is needed.
fn merge_applied(
    existing: Option<&Value>,
    applied: &Value,
    force: bool,
    shape: Shape<'_>,
    writer: &Writer<'_>,
) -> Result<Value, ApplyError> {
    if applied
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
    {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    let applied = without_nulls(applied);
    let new_set: FieldSet = owned_leaves(&applied, shape)?.into_keys().collect();
    let empty = json!({});
    let live = existing.unwrap_or(&empty);
    let live_leaves = owned_leaves(live, shape)?;
    let mut owners = owners_of(live);
    if existing.is_some() && owners.is_empty() {
        owners.push(Owner {
            manager: "before-first-apply".to_owned(),
            operation: "Update".to_owned(),
            api_version: writer.api_version.to_owned(),
            subresource: None,
            time: String::new(),
            set: live_leaves.keys().cloned().collect(),
        });
    }
    let mut merged = merge(Some(live), &applied, shape).map_err(ApplyError::Invalid)?;
    let own = owners.iter().position(|owner| owner.is(writer, "Apply"));
    let changed: BTreeSet<Path> = owned_leaves(&merged, shape)?
        .into_iter()
        .filter(|(path, value)| live_leaves.get(path) != Some(value))
        .map(|(path, _)| path)
        .collect();
    let mut conflicts = Vec::new();
    for (index, owner) in owners.iter_mut().enumerate() {
        if Some(index) == own {
            continue;
        }
        let taken: Vec<Path> = owner.set.intersection(&changed).cloned().collect();
        for path in taken {
            if force {
                owner.set.remove(&path);
            } else {
                conflicts.push(Conflict {
                    description: owner.describe(),
                    field: render(&path),
                });
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    let last_set = own
        .and_then(|index| owners.get(index))
        .map(|owner| owner.set.clone())
        .unwrap_or_default();
    let others: FieldSet = owners
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != own)
        .flat_map(|(_, owner)| owner.set.iter().cloned())
        .collect();
    prune(&mut merged, &last_set, &new_set, &others, shape);
    match own.and_then(|index| owners.get_mut(index)) {
        Some(owner) => {
            if owner.set != new_set {
                owner.set = new_set;
                writer.now.clone_into(&mut owner.time);
            }
            writer.api_version.clone_into(&mut owner.api_version);
        }
        None => owners.insert(
            0,
            Owner {
                manager: writer.manager.to_owned(),
                operation: "Apply".to_owned(),
                api_version: writer.api_version.to_owned(),
                subresource: writer.subresource.map(str::to_owned),
                time: writer.now.to_owned(),
                set: new_set,
            },
        ),
    }
    write_owners(&mut merged, &owners);
    Ok(merged)
}

/// Removes what this manager applied before, applies no longer, and nobody else owns.
fn prune(merged: &mut Value, last: &FieldSet, new: &FieldSet, others: &FieldSet, shape: Shape<'_>) {
    let kept = |path: &Path| {
        let held = |set: &FieldSet| {
            set.range(path.clone()..)
                .next()
                .is_some_and(|first| first.starts_with(path))
        };
        held(new) || held(others)
    };
    // Items of associative lists go as a whole, with what the server defaulted inside of them; so shorter paths first.
    let mut gone: Vec<&Path> = Vec::new();
    for path in last.iter().filter(|path| !kept(path)) {
        if !gone.iter().any(|shorter| path.starts_with(shorter)) {
            gone.push(path);
        }
    }
    for path in gone {
        remove(merged, path, shape);
        // A map or struct that only existed for this field goes with it, unless somebody holds something below it.
        let mut parent = path.clone();
        while parent.pop().is_some() && parent.len() > 1 {
            if kept(&parent) || !super::fields::is_empty_at(merged, &parent, shape) {
                break;
            }
            remove(merged, &parent, shape);
        }
    }
}

/// Notes in `new` what an update (any write that is no apply) by `writer` changed against `old`.
///
/// The writer owns what it added or changed, and whoever owned it before does so no more. Bodies that carry their own
/// `managedFields` replace the list first, as `kubectl` does when it turns client-side into server-side apply.
fn note_update(old: Option<&Value>, new: &mut Value, shape: Shape<'_>, writer: &Writer<'_>) {
    let sent = new.pointer("/metadata/managedFields").and_then(Value::as_array);
    let reset = sent.is_some_and(|entries| matches!(entries.as_slice(), [only] if only == &json!({})));
    let mut owners = match (old, sent) {
        (_, Some(entries)) if !entries.is_empty() => {
            if reset {
                Vec::new()
            } else {
                owners_of(new)
            }
        }
        (Some(old), _) => owners_of(old),
        (None, _) => Vec::new(),
    };
    // An object that the server accepts although a list in it has duplicate keys is simply not tracked.
    let (Ok(before), Ok(after)) = (
        old.map_or_else(|| Ok(std::collections::BTreeMap::new()), |old| leaves(old, shape)),
        leaves(new, shape),
    ) else {
        return;
    };
    let changed: FieldSet = after
        .iter()
        .filter(|(path, value)| before.get(*path) != Some(*value))
        .map(|(path, _)| path.clone())
        .collect();
    for owner in &mut owners {
        let writes = owner.is(writer, "Update");
        owner
            .set
            .retain(|path| after.contains_key(path) && (writes || !changed.contains(path)));
    }
    if !changed.is_empty() && !reset {
        match owners.iter_mut().find(|owner| owner.is(writer, "Update")) {
            Some(owner) => {
                owner.set.extend(changed);
                writer.now.clone_into(&mut owner.time);
            }
            None => owners.push(Owner {
                manager: writer.manager.to_owned(),
                operation: "Update".to_owned(),
                api_version: writer.api_version.to_owned(),
                subresource: writer.subresource.map(str::to_owned),
                time: writer.now.to_owned(),
                set: changed,
            }),
        }
    }
    write_owners(new, &owners);
}

#[cfg(test)]
mod tests;
