//! The webhooks of Chaos Mesh in front of the lab's API server. Depends on `defaults`, `rules` and `presence`.
//!
//! Central type: [`Webhooks`]. Contract: they work while their configurations are there; without a ready controller-manager they
//! answer as an API server does whose webhook cannot be called (failurePolicy Fail).

use serde_json::Value;

use super::kinds::{Experiment, GROUP};
use super::presence::Presence;
use super::{defaults, rules};
use crate::api::{Admission, AdmissionRequest, ApiError, Operation, ResourceType};

/// Kinds with webhooks, besides the experiments.
const OTHERS: [&str; 4] = ["Schedule", "Workflow", "WorkflowNode", "StatusCheck"];

/// Name of the configurations that an administrator deletes when the service is gone for good.
const MUTATION: (&str, &str) = ("mutatingwebhookconfigurations", "chaos-mesh-mutation");
const VALIDATION: (&str, &str) = ("validatingwebhookconfigurations", "chaos-mesh-validation");

/// Both webhooks.
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
        Err(ApiError::internal(format!(
            "failed calling webhook \"{prefix}{kind}.kb.io\": failed to call webhook: Post \
             \"https://chaos-mesh-controller-manager.chaos-mesh.svc:443/{path}-chaos-mesh-org-v1alpha1-{kind}?timeout=5s\": \
             no endpoints available for service \"chaos-mesh-controller-manager\""
        )))
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
        if !self.is_asked(resource, VALIDATION, "v", "validate")? {
            return Ok(());
        }
        let kind = resource.kind.as_str();
        let changed = request.old.is_some_and(|old| old.get("spec") != object.get("spec"));
        if request.operation == Operation::Update && changed && Experiment::of_kind(kind).is_some() {
            return Err(denied(kind, "Cannot update chaos spec"));
        }
        let problems = rules::problems(kind, object.get("spec").unwrap_or(&Value::Null));
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(denied(kind, one)),
            many => Err(denied(kind, &format!("[{}]", many.join(", ")))),
        }
    }
}

/// As an API server passes a webhook's refusal on.
fn denied(kind: &str, why: &str) -> ApiError {
    let kind = kind.to_lowercase();
    ApiError {
        code: 403,
        reason: "Forbidden".to_owned(),
        message: format!("admission webhook \"v{kind}.kb.io\" denied the request: {why}"),
        details: None,
    }
}
