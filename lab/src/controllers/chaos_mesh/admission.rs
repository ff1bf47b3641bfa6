//! The webhook of Chaos Mesh: defaults, rules across fields, and a spec that never changes. Runs in front of the store; pure but for the
//! look at the stored object.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::GROUP;
use crate::api::{AdmissionHook, ApiError, ApiServer, Operation, ResourceType};

/// The hook; it holds the server weakly, which holds the hook.
pub(super) fn hook(server: &Arc<ApiServer>, managed: Arc<AtomicBool>) -> AdmissionHook {
    let server = Arc::downgrade(server);
    Arc::new(move |resource, operation, object| {
        if resource.group != GROUP {
            return Ok(());
        }
        let kind = resource.kind.to_lowercase();
        if !managed.load(Ordering::Acquire) {
            // failurePolicy Fail: without its service the webhook refuses everything.
            return Err(ApiError::internal(format!(
                "Internal error occurred: failed calling webhook \"m{kind}.kb.io\": failed to call webhook: Post \
                 \"https://chaos-mesh-controller-manager.chaos-mesh.svc:443/mutate-chaos-mesh-org-v1alpha1-{kind}?timeout=5s\": dial tcp: \
                 connect: connection refused"
            )));
        }
        defaults(object);
        let name = object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let denied = |why: &str| {
            let why = format!("admission webhook \"v{kind}.kb.io\" denied the request: {why}");
            ApiError::forbidden(resource, &name, &why)
        };
        if operation == Operation::Update {
            let server = server.upgrade();
            let old = server.and_then(|server| stored(&server, resource, object));
            let same = old.is_none_or(|old| old.get("spec") == object.get("spec"));
            return if same {
                Ok(())
            } else {
                Err(denied("Cannot update chaos spec"))
            };
        }
        let problems = problems(&resource.kind, object.get("spec").unwrap_or(&Value::Null));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(denied(&problems.join(", ")))
        }
    })
}

fn stored(server: &ApiServer, resource: &ResourceType, object: &Value) -> Option<Value> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let key = crate::api::ObjectKey::new(text("/metadata/namespace"), text("/metadata/name"));
    server
        .store()
        .get(&resource.storage, &key)
        .map(|stored| stored.value.clone())
}

/// What the mutating webhook fills in.
fn defaults(object: &mut Value) {
    let namespace = object
        .pointer("/metadata/namespace")
        .cloned()
        .unwrap_or_else(|| json!("default"));
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    for pointer in ["/spec/selector", "/spec/target/selector"] {
        if let Some(selector) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
            selector.entry("namespaces").or_insert_with(|| json!([namespace]));
        }
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if kind == "NetworkChaos" {
        spec.entry("direction").or_insert_with(|| json!("to"));
        for part in ["delay", "loss", "duplicate", "corrupt"] {
            if let Some(held) = spec.get_mut(part).and_then(Value::as_object_mut) {
                held.entry("correlation").or_insert_with(|| json!("0"));
                if part == "delay" {
                    held.entry("jitter").or_insert_with(|| json!("0ms"));
                }
            }
        }
    }
}

/// The validating webhook's complaints, with the names of its Go fields.
fn problems(kind: &str, spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str);
    if let Some(duration) = text("/duration").filter(|text| !text.is_empty())
        && super::experiment::go_duration(duration).is_none()
    {
        found.push(format!(
            "Spec.Duration: Invalid value: \"{duration}\": parse duration field error"
        ));
    }
    let mode = text("/mode").unwrap_or_default();
    if matches!(mode, "fixed" | "fixed-percent" | "random-max-percent") {
        let most = if mode == "fixed" { u32::MAX } else { 100 };
        let fits = text("/value")
            .and_then(|value| value.parse::<u32>().ok())
            .is_some_and(|value| value >= 1 && value <= most);
        if !fits {
            found.push(format!(
                "Spec.Value: Invalid value: must be a number from 1 to {most} with {mode}"
            ));
        }
    }
    match kind {
        "PodChaos" => {
            let empty = spec
                .get("containerNames")
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty);
            if text("/action") == Some("container-kill") && empty {
                found.push(
                    "Spec.ContainerNames: Invalid value: the name of container is required on container-kill action"
                        .to_owned(),
                );
            }
        }
        "NetworkChaos" if text("/action") != Some("partition") => {
            let other_way = matches!(text("/direction"), Some("from" | "both"));
            if other_way && spec.get("target").is_none() {
                found.push("Spec.Target: Invalid value: a target is needed with direction from or both".to_owned());
            }
            if other_way && spec.get("externalTargets").is_some() {
                found.push(
                    "Spec.ExternalTargets: Invalid value: external targets cannot be used with direction from or both"
                        .to_owned(),
                );
            }
        }
        "StressChaos" => {
            let stressors = spec.get("stressors");
            let any = ["cpu", "memory"]
                .iter()
                .any(|one| stressors.is_some_and(|held| held.get(one).is_some()));
            if !any && spec.get("stressngStressors").is_none() {
                found.push("Spec.Stressors: Invalid value: missing stressors".to_owned());
            }
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_mutating_webhook() {
        let mut object = json!({"kind": "NetworkChaos", "metadata": {"namespace": "shop"}, "spec": {
            "selector": {}, "target": {"mode": "all", "selector": {"labelSelectors": {"a": "b"}}}, "delay": {"latency": "1ms"}}});
        defaults(&mut object);
        assert_eq!(object["spec"]["selector"]["namespaces"], json!(["shop"]));
        assert_eq!(object["spec"]["target"]["selector"]["namespaces"], json!(["shop"]));
        assert_eq!(object["spec"]["direction"], "to");
        assert_eq!(object["spec"]["delay"]["jitter"], "0ms");
    }

    #[test]
    fn the_rules_name_the_fields_of_go() {
        let kill = json!({"action": "container-kill", "mode": "fixed"});
        let found = problems("PodChaos", &kill);
        assert!(
            found.iter().any(|text| text.starts_with("Spec.ContainerNames")),
            "{found:?}"
        );
        assert!(found.iter().any(|text| text.starts_with("Spec.Value")), "{found:?}");
        assert!(
            problems(
                "PodChaos",
                &json!({"action": "pod-kill", "mode": "all", "duration": ""})
            )
            .is_empty()
        );
        assert!(
            !problems(
                "PodChaos",
                &json!({"action": "pod-kill", "mode": "all", "duration": "5d"})
            )
            .is_empty()
        );
        assert!(!problems("StressChaos", &json!({"mode": "all"})).is_empty());
    }
}
