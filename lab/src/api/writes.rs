//! What create, update, patch and delete mean, on top of the store's compare-and-swap.
//!
//! Every change goes read, compute, write-if-unchanged, and again from the start when another writer was faster: a
//! writer that sent no resource version never sees a conflict, one that did sees it at once.

use std::sync::Arc;

use rand::RngExt;
use serde_json::{Value, json};

use super::admission::AdmissionRequest;
use super::auth::User;
use super::object::{
    add_finalizer, copy, finalizers, has_finalizer, i64_at, is_deleting, is_set, map_mut, name, now, remove,
    remove_finalizer, set, set_default, stamp, str_at, uid,
};
use super::registry::ResourceType;
use super::server::{ApiServer, Operation};
use super::status::ApiError;
use super::store::{ObjectKey, Stored};

/// Which part of an object a writer may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status.
    Main,
    /// The status.
    Status,
    /// Exactly what the change says (bindings, evictions, garbage collection).
    Internal,
}

/// How a write is to be done.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    /// Answer as if, store nothing.
    pub(crate) dry_run: bool,
    /// Field manager.
    pub(crate) manager: String,
    /// Which part may change.
    pub(crate) part: Part,
    /// The managed fields are up to date already (server-side apply keeps them itself).
    pub(crate) tracked: bool,
    /// Subresource noted in the managed fields.
    pub(crate) subresource: Option<&'static str>,
    /// Who writes.
    pub(crate) user: User,
}

impl WriteOptions {
    /// For the API server's own writes.
    pub(crate) fn internal() -> Self {
        Self {
            dry_run: false,
            manager: "chaosrun-lab".to_owned(),
            part: Part::Internal,
            tracked: true,
            subresource: None,
            user: User::admin(),
        }
    }
}

/// `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

/// What a deletion led to.
#[derive(Debug)]
pub(crate) struct Deleted {
    /// The last or the present state.
    pub(crate) object: Arc<Stored>,
    /// Whether the object is gone already.
    pub(crate) gone: bool,
}

impl ApiServer {
    /// Stores a new object.
    pub(crate) fn create_object(
        &self,
        resource: &ResourceType,
        namespace: Option<&str>,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Stored>, ApiError> {
        check_kind(resource, &object)?;
        super::events::to_stored(resource, &mut object);
        place(resource, namespace, &mut object)?;
        if is_set(&object, "/metadata/resourceVersion") {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.check_namespace(resource, &object)?;
        begin_life(resource, &mut object);
        let request = AdmissionRequest {
            resource,
            operation: Operation::Create,
            old: None,
            user: &options.user,
        };
        self.admit(&request, &mut object)?;
        let generate = str_at(&object, "/metadata/generateName").unwrap_or_default().to_owned();
        let generated = name(&object).is_empty() && !generate.is_empty();
        for _ in 0..8 {
            if generated {
                set(
                    &mut object,
                    "/metadata/name",
                    format!("{}{}", truncated(&generate), suffix()),
                );
            }
            let mut candidate = object.clone();
            super::defaults::apply(resource, &mut candidate);
            self.check_service_account(resource, &candidate)?;
            self.check_pod_security(resource, &candidate)?;
            self.allocate(resource, None, &mut candidate)?;
            super::validation::on_create(resource, &candidate)?;
            self.admit_final(&request, &candidate)?;
            if !options.tracked {
                super::apply::track_update(None, &mut candidate, &options.manager, options.subresource, resource);
            }
            let wanted = name(&candidate).to_owned();
            let key = ObjectKey::new(super::object::namespace(&candidate), &wanted);
            if self.store().get(&resource.storage, &key).is_some() {
                if generated {
                    continue;
                }
                return Err(ApiError::already_exists(resource, &wanted));
            }
            if options.dry_run {
                return Ok(Arc::new(Stored::detached(candidate)));
            }
            match self.store().put(&resource.storage, candidate, None) {
                Ok(stored) => {
                    self.after_write(resource, &stored)?;
                    return Ok(stored);
                }
                Err(_) if generated => {}
                Err(_) => return Err(ApiError::already_exists(resource, &wanted)),
            }
        }
        Err(ApiError::already_exists(resource, &generate))
    }

    /// Reads, changes and writes an object until no other writer was faster.
    pub(crate) fn change_object(
        &self,
        resource: &ResourceType,
        key: &ObjectKey,
        options: &WriteOptions,
        change: &dyn Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Stored>, ApiError> {
        loop {
            let existing = self.existing(resource, key)?;
            let wanted = change(&existing.value)?;
            if let Some(written) = self.replace(resource, key, &existing, wanted, options)? {
                return Ok(written);
            }
        }
    }

    /// One attempt at replacing a state. `None`: another writer was faster.
    fn replace(
        &self,
        resource: &ResourceType,
        key: &ObjectKey,
        existing: &Arc<Stored>,
        mut wanted: Value,
        options: &WriteOptions,
    ) -> Result<Option<Arc<Stored>>, ApiError> {
        // An internal change starts from what is stored, in whatever version that is.
        if wanted.get("apiVersion") != existing.value.get("apiVersion")
            || wanted.get("kind") != existing.value.get("kind")
        {
            check_kind(resource, &wanted)?;
        }
        super::events::to_stored(resource, &mut wanted);
        check_preconditions(resource, key, &existing.value, &wanted)?;
        let old = &existing.value;
        prepare_update(resource, old, &mut wanted, options.part);
        let request = AdmissionRequest {
            resource,
            operation: Operation::Update,
            old: Some(old),
            user: &options.user,
        };
        if options.part == Part::Main {
            self.admit(&request, &mut wanted)?;
        }
        if options.part != Part::Internal {
            super::defaults::apply(resource, &mut wanted);
            self.allocate(resource, Some(old), &mut wanted)?;
            super::validation::on_update(resource, old, &wanted)?;
        }
        if options.part == Part::Main {
            self.admit_final(&request, &wanted)?;
        }
        if resource.generation && spec_changed(resource, old, &wanted) {
            bump_generation(&mut wanted);
        }
        if !options.tracked {
            super::apply::track_update(Some(old), &mut wanted, &options.manager, options.subresource, resource);
        }
        if same_but_for_stamps(old, &wanted) {
            return Ok(Some(existing.clone()));
        }
        if options.dry_run {
            return Ok(Some(Arc::new(Stored::detached(wanted))));
        }
        let finished = is_deleting(&wanted)
            && finalizers(&wanted).next().is_none()
            && i64_at(&wanted, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0
            && namespace_is_empty(resource, &wanted);
        let written = if finished {
            self.store().remove(&resource.storage, wanted, existing.revision)
        } else {
            self.store().put(&resource.storage, wanted, Some(existing.revision))
        };
        match written {
            Err(_) => Ok(None),
            Ok(stored) if finished => {
                self.after_removal(resource, &stored);
                Ok(Some(stored))
            }
            Ok(stored) => {
                self.after_write(resource, &stored)?;
                Ok(Some(stored))
            }
        }
    }

    /// Deletes an object: at once, after its grace period, or when its finalizers are gone.
    pub(crate) fn delete_object(
        &self,
        resource: &ResourceType,
        key: &ObjectKey,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        loop {
            let existing = self.existing(resource, key)?;
            check_delete_preconditions(resource, key, &existing.value, options)?;
            let mut next = existing.value.clone();
            let grace = grace_period(resource, &existing.value, options);
            apply_propagation(&mut next, options);
            if resource.is("", "namespaces") {
                set(&mut next, "/status/phase", "Terminating");
            }
            let blocked = finalizers(&next).next().is_some() || !namespace_is_empty(resource, &next);
            if grace == 0 && !blocked {
                if options.dry_run {
                    return Ok(Deleted {
                        object: existing,
                        gone: true,
                    });
                }
                if is_deleting(&next) && resource.is("", "pods") {
                    set(&mut next, "/metadata/deletionGracePeriodSeconds", 0);
                }
                let Ok(object) = self.store().remove(&resource.storage, next, existing.revision) else {
                    continue;
                };
                self.after_removal(resource, &object);
                return Ok(Deleted { object, gone: true });
            }
            mark_deleted(&mut next, grace);
            if options.dry_run {
                return Ok(Deleted {
                    object: Arc::new(Stored::detached(next)),
                    gone: false,
                });
            }
            if next == existing.value {
                return Ok(Deleted {
                    object: existing,
                    gone: false,
                });
            }
            if let Ok(object) = self.store().put(&resource.storage, next, Some(existing.revision)) {
                return Ok(Deleted { object, gone: false });
            }
        }
    }

    /// The present state, or 404.
    pub(crate) fn existing(&self, resource: &ResourceType, key: &ObjectKey) -> Result<Arc<Stored>, ApiError> {
        self.store()
            .get(&resource.storage, key)
            .ok_or_else(|| ApiError::not_found(resource, &key.name))
    }
}

/// Kind and apiVersion in the body must be those of the path.
fn check_kind(resource: &ResourceType, object: &Value) -> Result<(), ApiError> {
    let kind = str_at(object, "/kind").unwrap_or_default();
    let version = str_at(object, "/apiVersion").unwrap_or_default();
    let api_version = resource.api_version();
    if (kind.is_empty() || kind == resource.kind) && (version.is_empty() || version == api_version) {
        return Ok(());
    }
    let message = if kind == resource.kind || kind.is_empty() {
        format!("the API version in the data ({version}) does not match the expected API version ({api_version})")
    } else {
        format!(
            "{kind} in version \"{version}\" cannot be handled as a {}: converting ({kind}) to ({}): unknown conversion",
            resource.kind, resource.kind
        )
    };
    Err(ApiError::bad_request(message))
}

/// Writes kind, apiVersion and namespace as the path says.
fn place(resource: &ResourceType, namespace: Option<&str>, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the object provided is not a JSON object"));
    }
    let map = map_mut(object);
    map.insert("kind".to_owned(), Value::from(resource.kind.clone()));
    map.insert("apiVersion".to_owned(), Value::from(resource.stored_api_version()));
    set_default(object, "/metadata", json!({}));
    match namespace {
        Some(namespace) if resource.namespaced => {
            let found = super::object::namespace(object);
            if !found.is_empty() && found != namespace {
                return Err(ApiError::bad_request(format!(
                    "the namespace of the provided object does not match the namespace sent on the request ({found} != {namespace})"
                )));
            }
            set(object, "/metadata/namespace", namespace);
        }
        _ => {
            remove(object, "/metadata/namespace");
        }
    }
    Ok(())
}

/// What the server alone decides about a new object.
fn begin_life(resource: &ResourceType, object: &mut Value) {
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "resourceVersion",
    ] {
        remove(object, &format!("/metadata/{field}"));
    }
    set(object, "/metadata/uid", uuid::Uuid::new_v4().to_string());
    set(object, "/metadata/creationTimestamp", now());
    if resource.generation {
        set(object, "/metadata/generation", 1);
    }
    if resource.has("status") {
        remove(object, "/status");
    }
}

/// `generateName` gives names of at most 63 characters.
fn truncated(prefix: &str) -> &str {
    prefix.get(..58).unwrap_or(prefix)
}

/// Five random characters without vowels and look-alikes, as Kubernetes appends.
pub(crate) fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5)
        .filter_map(|_| {
            ALPHABET
                .get(random.random_range(0..ALPHABET.len()))
                .map(|byte| char::from(*byte))
        })
        .collect()
}

fn check_preconditions(resource: &ResourceType, key: &ObjectKey, old: &Value, wanted: &Value) -> Result<(), ApiError> {
    if name(wanted) != key.name && !name(wanted).is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            name(wanted),
            key.name
        )));
    }
    if is_set(wanted, "/metadata/uid") && uid(wanted) != uid(old) {
        return Err(ApiError::conflict(
            resource,
            &key.name,
            &format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                uid(wanted),
                uid(old)
            ),
        ));
    }
    if is_set(wanted, "/metadata/resourceVersion")
        && str_at(wanted, "/metadata/resourceVersion") != str_at(old, "/metadata/resourceVersion")
    {
        return Err(ApiError::stale(resource, &key.name));
    }
    Ok(())
}

/// Puts back what this writer may not change.
fn prepare_update(resource: &ResourceType, old: &Value, wanted: &mut Value, part: Part) {
    let map = map_mut(wanted);
    map.insert("kind".to_owned(), Value::from(resource.kind.clone()));
    map.insert("apiVersion".to_owned(), Value::from(resource.stored_api_version()));
    if part == Part::Internal {
        return;
    }
    if part == Part::Status {
        let mut next = old.clone();
        copy(wanted, &mut next, "/status");
        // A custom resource's status endpoint writes nothing else; built-in kinds let metadata through.
        if resource.custom.is_none() {
            copy(wanted, &mut next, "/metadata");
            copy(old, &mut next, "/metadata/ownerReferences");
            if resource.group == "apps" {
                copy(old, &mut next, "/metadata/labels");
            }
        }
        if let Some(managed) = wanted.pointer("/metadata/managedFields").cloned() {
            set(&mut next, "/metadata/managedFields", managed);
        }
        *wanted = next;
    } else if resource.has("status") {
        copy(old, wanted, "/status");
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generateName",
    ] {
        copy(old, wanted, &format!("/metadata/{field}"));
    }
    if resource.is("", "namespaces") {
        copy(old, wanted, "/spec");
    }
}

fn spec_changed(resource: &ResourceType, old: &Value, new: &Value) -> bool {
    let rest = |value: &Value| {
        let mut rest = value.clone();
        let map = map_mut(&mut rest);
        map.shift_remove("metadata");
        if resource.custom.is_none() || resource.has("status") {
            map.shift_remove("status");
        }
        rest
    };
    rest(old) != rest(new)
}

fn bump_generation(object: &mut Value) {
    let next = i64_at(object, "/metadata/generation").unwrap_or(0) + 1;
    set(object, "/metadata/generation", next);
}

/// Whether nothing but the stamps inside the managed fields differs.
fn same_but_for_stamps(old: &Value, new: &Value) -> bool {
    if old == new {
        return true;
    }
    let plain = |value: &Value| {
        let mut value = value.clone();
        if let Some(managers) = value
            .pointer_mut("/metadata/managedFields")
            .and_then(Value::as_array_mut)
        {
            for manager in managers {
                remove(manager, "/time");
                map_mut(manager).shift_remove("time");
            }
        }
        value
    };
    plain(old) == plain(new)
}

fn check_delete_preconditions(
    resource: &ResourceType,
    key: &ObjectKey,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    if let Some(wanted) = &options.uid
        && wanted != uid(old)
    {
        return Err(ApiError::conflict(
            resource,
            &key.name,
            &format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {}",
                uid(old)
            ),
        ));
    }
    let present = str_at(old, "/metadata/resourceVersion").unwrap_or_default();
    if let Some(wanted) = &options.resource_version
        && wanted != present
    {
        return Err(ApiError::conflict(
            resource,
            &key.name,
            &format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {present}"
            ),
        ));
    }
    Ok(())
}

/// Seconds that a pod may take to end. Everything else goes at once, and so does a pod that no node runs.
fn grace_period(resource: &ResourceType, object: &Value, options: &DeleteOptions) -> i64 {
    if !resource.is("", "pods") {
        return 0;
    }
    let ended = matches!(str_at(object, "/status/phase"), Some("Succeeded" | "Failed"));
    if ended || !is_set(object, "/spec/nodeName") {
        return 0;
    }
    let wanted = options
        .grace_period_seconds
        .or_else(|| i64_at(object, "/spec/terminationGracePeriodSeconds"))
        .unwrap_or(30);
    // Negative is an old way to say "shortest".
    if wanted < 0 { 1 } else { wanted }
}

fn apply_propagation(object: &mut Value, options: &DeleteOptions) {
    match options.propagation_policy.as_deref() {
        Some("Foreground") => {
            remove_finalizer(object, super::gc::ORPHAN);
            add_finalizer(object, super::gc::FOREGROUND);
        }
        Some("Orphan") => {
            remove_finalizer(object, super::gc::FOREGROUND);
            add_finalizer(object, super::gc::ORPHAN);
        }
        Some(_) => {
            remove_finalizer(object, super::gc::FOREGROUND);
            remove_finalizer(object, super::gc::ORPHAN);
        }
        // Unsaid, what an earlier deletion chose stands.
        None => {}
    }
}

/// A namespace with the `kubernetes` finalizer in its spec may still have content.
fn namespace_is_empty(resource: &ResourceType, object: &Value) -> bool {
    !resource.is("", "namespaces") || super::object::array_at(object, "/spec/finalizers").is_empty()
}

/// Sets the deletion stamps; a second deletion can only shorten the grace period.
fn mark_deleted(object: &mut Value, grace: i64) {
    let before = i64_at(object, "/metadata/deletionGracePeriodSeconds");
    if is_deleting(object) && before.is_some_and(|before| before <= grace) {
        return;
    }
    if !is_deleting(object) && is_set(object, "/metadata/generation") {
        bump_generation(object);
    }
    let begun = str_at(object, "/metadata/deletionTimestamp").and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let begun = begun.map_or_else(jiff::Timestamp::now, |until| {
        until
            .checked_sub(jiff::SignedDuration::from_secs(before.unwrap_or(0)))
            .unwrap_or(until)
    });
    let until = begun
        .checked_add(jiff::SignedDuration::from_secs(grace))
        .unwrap_or(begun);
    set(object, "/metadata/deletionTimestamp", stamp(until));
    set(object, "/metadata/deletionGracePeriodSeconds", grace);
}

/// Whether deletion waits for dependents.
pub(crate) fn waits_for_dependents(object: &Value) -> bool {
    is_deleting(object) && has_finalizer(object, super::gc::FOREGROUND)
}
