//! Custom resource definitions: what the server fills in, and their removal together with all their objects.

use serde_json::{Value, json};

use super::object::{add_finalizer, array_at, bool_at, is_deleting, name, now, set, set_default, str_at};
use super::registry::ResourceType;
use super::server::ApiServer;
use super::status::{ApiError, Cause};
use super::store::ObjectKey;
use super::writes::{DeleteOptions, WriteOptions};

/// Storage key of the definitions.
pub(crate) const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Keeps a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Name of the definition whose objects are stored under this key: `group/plural` is `plural.group`.
pub(crate) fn definition_of(storage: &str) -> String {
    storage
        .split_once('/')
        .map(|(group, plural)| format!("{plural}.{group}"))
        .unwrap_or_default()
}

/// Names, finalizer and status of a definition. Status comes at once here; clients wait for `Established`.
pub(crate) fn defaults(object: &mut Value) {
    let kind = str_at(object, "/spec/names/kind").unwrap_or_default().to_owned();
    set_default(object, "/spec/names/singular", kind.to_lowercase());
    set_default(object, "/spec/names/listKind", format!("{kind}List"));
    set_default(object, "/spec/conversion", json!({"strategy": "None"}));
    if object.get("status").is_some() || is_deleting(object) {
        return;
    }
    add_finalizer(object, CLEANUP);
    let stored: Vec<Value> = array_at(object, "/spec/versions")
        .iter()
        .filter(|version| bool_at(version, "/storage"))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now(), "reason": reason, "message": message});
    let names = object.pointer("/spec/names").cloned().unwrap_or_default();
    set(
        object,
        "/status",
        json!({
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
            "acceptedNames": names, "storedVersions": stored,
        }),
    );
}

/// What is wrong with a definition.
pub(crate) fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for field in ["group", "scope", "names/plural", "names/kind"] {
        if !super::object::is_set(object, &format!("/spec/{field}")) {
            causes.push(Cause::required(format!("spec.{}", field.replace('/', ".")), ""));
        }
    }
    let expected = format!(
        "{}.{}",
        str_at(object, "/spec/names/plural").unwrap_or_default(),
        str_at(object, "/spec/group").unwrap_or_default()
    );
    if name(object) != expected {
        causes.push(Cause::invalid(
            "metadata.name",
            &json!(name(object)),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let versions = array_at(object, "/spec/versions");
    if versions.iter().filter(|version| bool_at(version, "/storage")).count() != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &json!([]),
            "must have exactly one version marked as storage version",
        ));
    }
    for (index, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            causes.push(Cause::required(
                format!("spec.versions[{index}].schema.openAPIV3Schema"),
                "schemas are required",
            ));
        }
    }
    causes
}

impl ApiServer {
    /// Deletes all objects of a definition that is going away, and then lets it go.
    pub(crate) fn remove_instances(&self, resource: &ResourceType, definition: &Value) -> Result<(), ApiError> {
        let storage = format!(
            "{}/{}",
            str_at(definition, "/spec/group").unwrap_or_default(),
            str_at(definition, "/spec/names/plural").unwrap_or_default()
        );
        let key = ObjectKey::new("", name(definition));
        if let Some(kind) = self.registry().by_storage(&storage) {
            for object in self.store().list(&storage, None).objects {
                if is_deleting(&object.value) {
                    continue;
                }
                let instance = ObjectKey::new(super::object::namespace(&object.value), name(&object.value));
                match self.delete_object(&kind, &instance, &DeleteOptions::default()) {
                    Err(error) if error.reason != "NotFound" => return Err(error),
                    _ => {}
                }
            }
            if !self.store().list(&storage, None).objects.is_empty() {
                return Ok(());
            }
        }
        super::gc::drop_finalizer(self, resource, &key, CLEANUP)
    }

    /// Adds a definition on behalf of the server itself (controllers bring their own kinds along).
    pub fn install_definition(&self, definition: Value) -> Result<(), ApiError> {
        let Some(resource) = self
            .registry()
            .get("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        else {
            return Ok(());
        };
        match self.create_object(&resource, None, definition, &WriteOptions::internal()) {
            Err(error) if error.reason != "AlreadyExists" => Err(error),
            _ => Ok(()),
        }
    }
}
