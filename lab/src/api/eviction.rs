//! `pods/{name}/eviction`: a deletion that asks the disruption budgets first.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::object::{array_at, i64_at, name, now, set, str_at, uid};
use super::registry::ResourceType;
use super::request::Target;
use super::selectors::LabelSelector;
use super::server::ApiServer;
use super::status::{ApiError, Cause, json_response};
use super::store::{ObjectKey, Stored};
use super::writes::{DeleteOptions, WriteOptions};

/// Evicts a pod, or says 429 when a budget does not allow it now.
pub(crate) fn evict(server: &Arc<ApiServer>, target: &Target, body: &Value) -> Result<Response, ApiError> {
    let key = target.key();
    let pod = server.existing(&target.resource, &key)?;
    if name(body) != key.name && !name(body).is_empty() {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let options = DeleteOptions {
        grace_period_seconds: i64_at(body, "/deleteOptions/gracePeriodSeconds"),
        propagation_policy: str_at(body, "/deleteOptions/propagationPolicy").map(str::to_owned),
        uid: str_at(body, "/deleteOptions/preconditions/uid").map(str::to_owned),
        resource_version: str_at(body, "/deleteOptions/preconditions/resourceVersion").map(str::to_owned),
        dry_run: !array_at(body, "/deleteOptions/dryRun").is_empty() || target.query.get("dryRun").is_some(),
    };
    if !may_ignore_budgets(&pod.value) {
        spend_budget(server, &pod.value, options.dry_run)?;
    }
    server.delete_object(&target.resource, &key, &options)?;
    let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(json_response(StatusCode::CREATED, &success))
}

/// A pod that serves nothing can always go.
fn may_ignore_budgets(pod: &Value) -> bool {
    matches!(str_at(pod, "/status/phase"), Some("Succeeded" | "Failed" | "Pending")) || super::object::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    array_at(pod, "/status/conditions")
        .iter()
        .any(|condition| str_at(condition, "/type") == Some("Ready") && str_at(condition, "/status") == Some("True"))
}

fn spend_budget(server: &ApiServer, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
    let Some(budgets) = server.registry().get("policy", "v1", "poddisruptionbudgets") else {
        return Ok(());
    };
    let namespace = super::object::namespace(pod);
    let matching: Vec<Arc<Stored>> = server
        .store()
        .list(&budgets.storage, Some(namespace))
        .objects
        .into_iter()
        .filter(|budget| LabelSelector::from_object(budget.value.pointer("/spec/selector")).matches(pod))
        .collect();
    match matching.as_slice() {
        [] => Ok(()),
        [budget] => spend(server, &budgets, budget, pod, dry_run),
        _ => Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

fn spend(
    server: &ApiServer,
    budgets: &ResourceType,
    budget: &Stored,
    pod: &Value,
    dry_run: bool,
) -> Result<(), ApiError> {
    let key = ObjectKey::new(super::object::namespace(pod), name(&budget.value));
    let change = |budget: &Value| {
        let healthy = i64_at(budget, "/status/currentHealthy").unwrap_or(0);
        let desired = i64_at(budget, "/status/desiredHealthy").unwrap_or(0);
        if !is_ready(pod) {
            let always = str_at(budget, "/spec/unhealthyPodEvictionPolicy") == Some("AlwaysAllow");
            if always || (healthy >= desired && desired > 0) {
                return Ok(budget.clone());
            }
        }
        check(budget, healthy, desired)?;
        let mut next = budget.clone();
        let allowed = i64_at(budget, "/status/disruptionsAllowed").unwrap_or(0);
        set(&mut next, "/status/disruptionsAllowed", allowed - 1);
        super::object::set_key(&mut next, "/status/disruptedPods", name(pod), now());
        if allowed == 1 {
            deny_further(&mut next)?;
        }
        Ok(next)
    };
    let options = WriteOptions {
        dry_run,
        ..WriteOptions::internal()
    };
    server.change_object(budgets, &key, &options, &change)?;
    tracing::debug!(
        budget = key.name,
        pod = name(pod),
        uid = uid(pod),
        "spent one disruption"
    );
    Ok(())
}

fn deny_further(budget: &mut Value) -> Result<(), ApiError> {
    let condition = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": now(), "observedGeneration": i64_at(budget, "/status/observedGeneration"),
    });
    super::patch::strategic_merge(budget, &json!({"status": {"conditions": [condition]}}))
}

fn check(budget: &Value, healthy: i64, desired: i64) -> Result<(), ApiError> {
    let refused = |message: String, seconds: u32| {
        let cause = Cause {
            reason: "DisruptionBudget".to_owned(),
            message,
            field: String::new(),
        };
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        Err(ApiError::too_many_requests(text, seconds).with_causes(vec![cause]))
    };
    let budget_name = name(budget);
    let observed = i64_at(budget, "/status/observedGeneration").unwrap_or(0);
    if observed < i64_at(budget, "/metadata/generation").unwrap_or(0) {
        return refused(
            format!("The disruption budget {budget_name} is still being processed by the server."),
            10,
        );
    }
    if i64_at(budget, "/status/disruptionsAllowed").unwrap_or(0) <= 0 {
        return refused(
            format!("The disruption budget {budget_name} needs {desired} healthy pods and has {healthy} currently"),
            0,
        );
    }
    Ok(())
}
