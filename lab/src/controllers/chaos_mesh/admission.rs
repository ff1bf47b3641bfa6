//! The webhooks of Chaos Mesh in front of the lab's API server. Depends on `defaults`, `rules` and `presence`.
//!
//! Central type: [`Webhooks`]. Contract: they work while their configurations are there; without a ready controller-manager they
//! answer as an API server does whose webhook cannot be called (failurePolicy Fail).

use std::collections::BTreeSet;

use serde_json::Value;

use super::kinds::{Experiment, GROUP};
use super::presence::Presence;
use super::{defaults, rules};
use crate::api::object::array_at;
use crate::api::{Admission, AdmissionRequest, ApiError, Operation, ResourceType};

/// Kinds with webhooks, besides the experiments.
const OTHERS: [&str; 4] = ["Schedule", "Workflow", "WorkflowNode", "StatusCheck"];

/// Name of the configurations that an administrator deletes when the service is gone for good.
const MUTATION: (&str, &str) = ("mutatingwebhookconfigurations", "chaos-mesh-mutation");
const VALIDATION: (&str, &str) = ("validatingwebhookconfigurations", "chaos-mesh-validation");

/// The check of rights, which the chart leaves out with `dashboard.securityMode=false`.
const RIGHTS: (&str, &str) = ("validatingwebhookconfigurations", "chaos-mesh-validation-auth");

/// The webhooks.
pub(super) struct Webhooks {
    presence: Presence,
}

impl Webhooks {
    pub(super) fn new(presence: Presence) -> Self {
        Self { presence }
    }

    /// Whether a webhook has a say; an error when it cannot be called.
    fn is_asked(
        &self,
        resource: &ResourceType,
        (plural, name): (&str, &str),
        prefix: &str,
        path: &str,
    ) -> Result<bool, ApiError> {
        let known = Experiment::of_kind(&resource.kind).is_some() || OTHERS.contains(&resource.kind.as_str());
        if resource.group != GROUP || !known || !self.presence.has_webhook(plural, name) {
            return Ok(false);
        }
        if self.presence.has_controller() {
            return Ok(true);
        }
        let kind = resource.kind.to_lowercase();
        let name = if prefix == "vauth" {
            prefix.to_owned()
        } else {
            format!("{prefix}{kind}")
        };
        Err(ApiError::internal(format!(
            "failed calling webhook \"{name}.kb.io\": failed to call webhook: Post \
             \"https://chaos-mesh-controller-manager.chaos-mesh.svc:443/{path}-chaos-mesh-org-v1alpha1-{kind}?timeout=5s\": \
             no endpoints available for service \"chaos-mesh-controller-manager\""
        )))
    }
}

impl Webhooks {
    /// Who asks must be allowed to create the kind (by its name in lower case, whatever its plural) in every namespace that is
    /// selected from.
    fn check_rights(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError> {
        let mut namespaces = BTreeSet::new();
        selected_namespaces(object.get("spec").unwrap_or(&Value::Null), &mut namespaces);
        let kind = request.resource.kind.to_lowercase();
        let forbidden = namespaces
            .iter()
            .find(|namespace| !self.presence.may_create(request, &kind, namespace));
        forbidden.map_or(Ok(()), |namespace| {
            let why = format!("{} is forbidden on namespace {namespace}", request.user_name());
            Err(denied("vauth", &why))
        })
    }
}

impl Admission for Webhooks {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), ApiError> {
        if self.is_asked(request.resource, MUTATION, "m", "mutate")? {
            defaults::fill(&request.resource.kind, object);
        }
        Ok(())
    }

    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError> {
        let resource = request.resource;
        if self.is_asked(resource, RIGHTS, "vauth", "validate-auth")? {
            self.check_rights(request, object)?;
        }
        if !self.is_asked(resource, VALIDATION, "v", "validate")? {
            return Ok(());
        }
        let kind = resource.kind.as_str();
        let changed = request.old.is_some_and(|old| old.get("spec") != object.get("spec"));
        if request.operation == Operation::Update && changed && Experiment::of_kind(kind).is_some() {
            return Err(denied(&webhook(kind), "Cannot update chaos spec"));
        }
        let problems = rules::problems(kind, object.get("spec").unwrap_or(&Value::Null));
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(denied(&webhook(kind), one)),
            many => Err(denied(&webhook(kind), &format!("[{}]", many.join(", ")))),
        }
    }
}

fn webhook(kind: &str) -> String {
    format!("v{}", kind.to_lowercase())
}

/// Every namespace that a selector somewhere in a spec names, also the peers'.
fn selected_namespaces(spec: &Value, found: &mut BTreeSet<String>) {
    match spec {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "selector" {
                    let listed = array_at(value, "/namespaces").iter().filter_map(Value::as_str);
                    found.extend(listed.map(str::to_owned));
                    let named = value.get("pods").and_then(Value::as_object);
                    found.extend(named.into_iter().flat_map(|pods| pods.keys().cloned()));
                } else {
                    selected_namespaces(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| selected_namespaces(item, found)),
        _ => {}
    }
}

/// As an API server passes a webhook's refusal on.
fn denied(webhook: &str, why: &str) -> ApiError {
    ApiError {
        code: 403,
        reason: "Forbidden".to_owned(),
        message: format!("admission webhook \"{webhook}.kb.io\" denied the request: {why}"),
        details: None,
    }
}
