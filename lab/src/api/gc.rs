//! Garbage collection by owner references, as the garbage collector of Kubernetes decides it.
//!
//! Event-driven: the store notes which objects a write may have orphaned or unblocked (its owner index is exact), this
//! task looks at each of them. Namespaces and custom resource definitions that are being deleted come the same way.

use std::sync::{Arc, Weak};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::object::{
    array_at, bool_at, has_finalizer, is_deleting, namespace, remove, remove_finalizer, set, str_at, uid,
};
use super::registry::ResourceType;
use super::server::ApiServer;
use super::status::ApiError;
use super::store::{ObjectKey, Stored};
use super::writes::{DeleteOptions, WriteOptions};

/// The object waits for its blocking dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The object's dependents are to be kept.
pub(crate) const ORPHAN: &str = "orphan";

/// Runs until the server goes away.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let Some(wake) = server.upgrade().map(|server| server.store().collector()) else {
        return;
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => {}
        }
        let Some(server) = server.upgrade() else {
            return;
        };
        for (count, (storage, key)) in server.store().take_pending().into_iter().enumerate() {
            if let Err(error) = look_at(&server, &storage, &key) {
                tracing::warn!(%error, storage = &*storage, name = key.name, "garbage collection failed for an object");
            }
            // Thousands of dependents must not keep a worker thread to themselves.
            if count % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn look_at(server: &ApiServer, storage: &Arc<str>, key: &ObjectKey) -> Result<(), ApiError> {
    let Some(resource) = server.registry().by_storage(storage) else {
        return Ok(());
    };
    let Some(object) = server.store().get(storage, key) else {
        return Ok(());
    };
    let done = if resource.is("", "namespaces") {
        server.empty_namespace(&resource, &object.value)
    } else if resource.is("apiextensions.k8s.io", "customresourcedefinitions") && is_deleting(&object.value) {
        server.remove_instances(&resource, &object.value)
    } else if is_deleting(&object.value) {
        attend_deletion(server, &resource, key, &object.value)
    } else {
        collect(server, &resource, key, &object.value)
    };
    match done {
        // Somebody else deleted it first.
        Err(error) if error.reason == "NotFound" => Ok(()),
        done => done,
    }
}

/// Does for an object that is being deleted what its garbage collection finalizers ask for.
fn attend_deletion(
    server: &ApiServer,
    resource: &ResourceType,
    key: &ObjectKey,
    object: &Value,
) -> Result<(), ApiError> {
    let dependents = server.store().dependents(uid(object));
    if has_finalizer(object, ORPHAN) {
        for dependent in &dependents {
            drop_owners(server, dependent, &[uid(object).to_owned()])?;
        }
        return drop_finalizer(server, resource, key, ORPHAN);
    }
    if has_finalizer(object, FOREGROUND) {
        let blocking = |dependent: &&Arc<Stored>| {
            array_at(&dependent.value, "/metadata/ownerReferences")
                .iter()
                .any(|owner| str_at(owner, "/uid") == Some(uid(object)) && bool_at(owner, "/blockOwnerDeletion"))
        };
        if !dependents.iter().any(|dependent| blocking(&dependent)) {
            return drop_finalizer(server, resource, key, FOREGROUND);
        }
        for dependent in dependents.iter().filter(|dependent| !is_deleting(&dependent.value)) {
            enqueue(server, dependent);
        }
    }
    Ok(())
}

fn enqueue(server: &ApiServer, object: &Stored) {
    if let Some((storage, key)) = server.store().find_uid(uid(&object.value)) {
        server.store().enqueue(&storage, &key);
    }
}

/// Deletes an object when none of its owners is there any more.
fn collect(server: &ApiServer, resource: &ResourceType, key: &ObjectKey, object: &Value) -> Result<(), ApiError> {
    let mut solid = false;
    let mut gone = Vec::new();
    let mut waiting = Vec::new();
    for owner in array_at(object, "/metadata/ownerReferences") {
        let Some(owner_uid) = str_at(owner, "/uid") else {
            continue;
        };
        match present_owner(server, owner, namespace(object)) {
            None => gone.push(owner_uid.to_owned()),
            Some(found) if super::writes::waits_for_dependents(&found.value) => {
                waiting.push(owner_uid.to_owned());
            }
            Some(_) => solid = true,
        }
    }
    if gone.is_empty() && waiting.is_empty() {
        return Ok(());
    }
    if solid {
        gone.extend(waiting);
        return match server.store().get(&resource.storage, key) {
            Some(stored) => drop_owners(server, &stored, &gone),
            None => Ok(()),
        };
    }
    let dependents = server.store().dependents(uid(object));
    let foreground = !waiting.is_empty() && !dependents.is_empty();
    if foreground {
        for dependent in dependents
            .iter()
            .filter(|one| super::writes::waits_for_dependents(&one.value))
        {
            unblock(server, dependent, uid(object))?;
        }
    }
    let policy = if has_finalizer(object, ORPHAN) {
        "Orphan"
    } else if foreground || has_finalizer(object, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    let options = DeleteOptions {
        propagation_policy: Some(policy.to_owned()),
        uid: Some(uid(object).to_owned()),
        ..DeleteOptions::default()
    };
    server.delete_object(resource, key, &options).map(|_| ())
}

/// The owner that a reference means. One in another namespace, of another kind or name, is no owner.
fn present_owner(server: &ApiServer, reference: &Value, dependent_namespace: &str) -> Option<Arc<Stored>> {
    let (storage, key) = server.store().find_uid(str_at(reference, "/uid")?)?;
    if !key.namespace.is_empty() && key.namespace != dependent_namespace {
        return None;
    }
    let found = server.store().get(&storage, &key)?;
    let same_kind = str_at(reference, "/kind") == str_at(&found.value, "/kind");
    (same_kind && str_at(reference, "/name") == Some(key.name.as_str())).then_some(found)
}

fn change(server: &ApiServer, object: &Stored, edit: &dyn Fn(&mut Value)) -> Result<(), ApiError> {
    let Some((storage, key)) = server.store().find_uid(uid(&object.value)) else {
        return Ok(());
    };
    let Some(resource) = server.registry().by_storage(&storage) else {
        return Ok(());
    };
    let wanted = uid(&object.value);
    let change = |existing: &Value| {
        let mut next = existing.clone();
        if uid(existing) == wanted {
            edit(&mut next);
        }
        Ok(next)
    };
    match server.change_object(&resource, &key, &WriteOptions::internal(), &change) {
        Err(error) if error.reason != "NotFound" => Err(error),
        _ => Ok(()),
    }
}

fn drop_owners(server: &ApiServer, object: &Stored, owners: &[String]) -> Result<(), ApiError> {
    change(server, object, &|next| {
        if let Some(list) = next
            .pointer_mut("/metadata/ownerReferences")
            .and_then(Value::as_array_mut)
        {
            list.retain(|owner| !str_at(owner, "/uid").is_some_and(|uid| owners.iter().any(|one| one == uid)));
            if list.is_empty() {
                remove(next, "/metadata/ownerReferences");
            }
        }
    })
}

/// Two objects that own each other would wait for each other for ever.
fn unblock(server: &ApiServer, object: &Stored, owner: &str) -> Result<(), ApiError> {
    change(server, object, &|next| {
        let list = next
            .pointer_mut("/metadata/ownerReferences")
            .and_then(Value::as_array_mut);
        for reference in list
            .into_iter()
            .flatten()
            .filter(|one| str_at(one, "/uid") == Some(owner))
        {
            set(reference, "/blockOwnerDeletion", json!(false));
        }
    })
}

pub(crate) fn drop_finalizer(
    server: &ApiServer,
    resource: &ResourceType,
    key: &ObjectKey,
    finalizer: &str,
) -> Result<(), ApiError> {
    let change = |existing: &Value| {
        let mut next = existing.clone();
        remove_finalizer(&mut next, finalizer);
        Ok(next)
    };
    server
        .change_object(resource, key, &WriteOptions::internal(), &change)
        .map(|_| ())
}
