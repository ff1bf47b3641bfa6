//! Namespace life cycle: defaults in each namespace, and removal of all content before the namespace itself.

use serde_json::{Value, json};

use super::object::{is_deleting, name, namespace, str_at};
use super::registry::ResourceType;
use super::server::ApiServer;
use super::status::{ApiError, Cause};
use super::store::ObjectKey;
use super::writes::{DeleteOptions, WriteOptions};

/// Storage key of namespaces.
pub(crate) const STORAGE: &str = "/namespaces";

impl ApiServer {
    /// Namespaces and objects that every cluster has.
    pub(crate) fn bootstrap(&self) -> Result<(), ApiError> {
        let Some(namespaces) = self.registry().get("", "v1", "namespaces") else {
            return Ok(());
        };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let object = json!({"metadata": {"name": name}});
            self.create_object(&namespaces, None, object, &WriteOptions::internal())?;
        }
        let Some(services) = self.registry().get("", "v1", "services") else {
            return Ok(());
        };
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "clusterIP": super::defaults::kubernetes_service_ip(self.config()).to_string(),
                "ports": [{"name": "https", "port": 443, "targetPort": 6443}],
            },
        });
        self.create_object(&services, Some("default"), service, &WriteOptions::internal())?;
        self.bootstrap_roles()
    }

    /// Pods need a service account that exists.
    pub(crate) fn check_service_account(&self, resource: &ResourceType, object: &Value) -> Result<(), ApiError> {
        let Some(accounts) = self.registry().get("", "v1", "serviceaccounts") else {
            return Ok(());
        };
        let account = str_at(object, "/spec/serviceAccountName").unwrap_or_default();
        if !resource.is("", "pods") || account.is_empty() {
            return Ok(());
        }
        let key = ObjectKey::new(namespace(object), account);
        if self.store().get(&accounts.storage, &key).is_some() {
            return Ok(());
        }
        let why = format!(
            "error looking up service account {}/{account}: serviceaccount \"{account}\" not found",
            key.namespace
        );
        Err(ApiError::forbidden(resource, name(object), &why))
    }

    /// A pod must meet the level that its namespace enforces.
    pub(crate) fn check_pod_security(&self, resource: &ResourceType, object: &Value) -> Result<(), ApiError> {
        let Some(namespaces) = self.registry().get("", "v1", "namespaces") else {
            return Ok(());
        };
        if !resource.is("", "pods") {
            return Ok(());
        }
        let Some(stored) = self
            .store()
            .get(&namespaces.storage, &ObjectKey::new("", namespace(object)))
        else {
            return Ok(());
        };
        let labels = stored.value.pointer("/metadata/labels");
        let level = labels.and_then(|labels| labels.get(super::pod_security::ENFORCE_LABEL)?.as_str());
        let level = level.unwrap_or("privileged");
        let violations = super::pod_security::violations(level, object);
        if violations.is_empty() {
            return Ok(());
        }
        let why = format!("violates PodSecurity \"{level}:latest\": {}", violations.join(", "));
        Err(ApiError::forbidden(resource, name(object), &why))
    }

    /// New objects need a namespace that exists and is not going away.
    pub(crate) fn check_namespace(&self, resource: &ResourceType, object: &Value) -> Result<(), ApiError> {
        if !resource.namespaced {
            return Ok(());
        }
        let wanted = namespace(object);
        let Some(namespaces) = self.registry().get("", "v1", "namespaces") else {
            return Ok(());
        };
        let found = self.existing(&namespaces, &ObjectKey::new("", wanted))?;
        if is_deleting(&found.value) {
            let why = format!("unable to create new content in namespace {wanted} because it is being terminated");
            let cause = Cause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {wanted} is being terminated"),
                field: "metadata.namespace".to_owned(),
            };
            return Err(ApiError::forbidden(resource, name(object), &why).with_causes(vec![cause]));
        }
        Ok(())
    }

    /// Deletes all content of a namespace that is going away, and then the namespace.
    pub(crate) fn empty_namespace(&self, resource: &ResourceType, object: &Value) -> Result<(), ApiError> {
        if !is_deleting(object) {
            return Ok(());
        }
        let wanted = name(object);
        let options = DeleteOptions {
            propagation_policy: Some("Background".to_owned()),
            ..DeleteOptions::default()
        };
        for storage in self.store().storages_in(wanted) {
            let Some(kind) = self.registry().by_storage(&storage) else {
                continue;
            };
            for content in self.store().list(&storage, Some(wanted)).objects {
                if is_deleting(&content.value) {
                    continue;
                }
                match self.delete_object(&kind, &ObjectKey::new(wanted, name(&content.value)), &options) {
                    Err(error) if error.reason != "NotFound" => return Err(error),
                    _ => {}
                }
            }
        }
        if !self.store().storages_in(wanted).is_empty() {
            return Ok(());
        }
        let change = |existing: &Value| {
            let mut next = existing.clone();
            if let Some(finalizers) = next.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut) {
                finalizers.retain(|one| one.as_str() != Some("kubernetes"));
            }
            Ok(next)
        };
        self.change_object(
            resource,
            &ObjectKey::new("", wanted),
            &WriteOptions::internal(),
            &change,
        )
        .map(|_| ())
    }

    /// Creates what each namespace has from the start.
    pub(crate) fn fill_namespace(&self, object: &Value) -> Result<(), ApiError> {
        if is_deleting(object) {
            return Ok(());
        }
        let wanted = name(object);
        let contents = [
            ("serviceaccounts", json!({"metadata": {"name": "default"}})),
            (
                "configmaps",
                json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self.ca_pem()}}),
            ),
        ];
        for (plural, content) in contents {
            let Some(resource) = self.registry().get("", "v1", plural) else {
                continue;
            };
            match self.create_object(&resource, Some(wanted), content, &WriteOptions::internal()) {
                Err(error) if error.reason != "AlreadyExists" => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
