//! What the mutating webhooks fill in. Pure.

use rand::RngExt;
use serde_json::{Value, json};

use super::kinds::Experiment;
use crate::api::object::{namespace, set_default};

/// Fills an object of any kind in; what is not as expected is left for the schema to refuse.
pub(super) fn fill(kind: &str, object: &mut Value) {
    let own = namespace(object).to_owned();
    if let Some(experiment) = Experiment::of_kind(kind) {
        if let Some(spec) = object.get_mut("spec") {
            fill_experiment(experiment, spec, &own);
        }
        return;
    }
    match kind {
        "Schedule" => {
            if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
                set_default(spec, "/concurrencyPolicy", "Forbid");
                fill_embedded(spec, &own);
            }
        }
        "Workflow" => {
            let templates = object.pointer_mut("/spec/templates").and_then(Value::as_array_mut);
            for template in templates.into_iter().flatten() {
                fill_embedded(template, &own);
                if let Some(schedule) = template.get_mut("schedule").filter(|schedule| schedule.is_object()) {
                    fill_embedded(schedule, &own);
                }
            }
        }
        _ => {}
    }
}

/// The specs that a Schedule or a template holds.
fn fill_embedded(holder: &mut Value, own: &str) {
    for experiment in Experiment::ALL {
        if let Some(spec) = holder.get_mut(experiment.embedded_key()) {
            fill_experiment(experiment, spec, own);
        }
    }
}

fn fill_experiment(kind: Experiment, spec: &mut Value, own: &str) {
    if !spec.is_object() {
        return;
    }
    for pointer in ["/selector", "/target/selector"] {
        if let Some(selector) = spec.pointer_mut(pointer).filter(|selector| selector.is_object()) {
            let missing = selector
                .get("namespaces")
                .is_none_or(|list| list.as_array().is_some_and(Vec::is_empty) || list.is_null());
            if missing && let Some(map) = selector.as_object_mut() {
                map.insert("namespaces".to_owned(), json!([own]));
            }
        }
    }
    match kind {
        Experiment::Network => {
            set_default(spec, "/direction", "to");
            if let Some(delay) = spec.get_mut("delay").filter(|delay| delay.is_object()) {
                set_default(delay, "/jitter", "0ms");
            }
            for pointer in ["/delay", "/delay/reorder", "/loss", "/duplicate", "/corrupt"] {
                if let Some(part) = spec.pointer_mut(pointer).filter(|part| part.is_object()) {
                    set_default(part, "/correlation", "0");
                }
            }
        }
        Experiment::Io => set_default(spec, "/percent", 100),
        Experiment::Time => {
            let empty = spec
                .get("clockIds")
                .is_none_or(|list| list.as_array().is_some_and(Vec::is_empty));
            if empty && let Some(map) = spec.as_object_mut() {
                map.insert("clockIds".to_owned(), json!(["CLOCK_REALTIME"]));
            }
        }
        Experiment::Jvm => {
            set_default(spec, "/port", 9277);
            let name: String = (0..5)
                .map(|_| char::from(b'a' + rand::rng().random_range(0..26_u8)))
                .collect();
            set_default(spec, "/name", name);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_filled_in_on_both_sides_and_in_what_is_embedded() {
        let chaos = json!({"selector": {}, "target": {"mode": "all", "selector": {"labelSelectors": {"a": "b"}}}, "delay": {"latency": "1ms"}});
        let mut object = json!({"metadata": {"namespace": "shop"}, "spec": chaos});
        fill("NetworkChaos", &mut object);
        let spec = &object["spec"];
        assert_eq!(spec["selector"]["namespaces"], json!(["shop"]));
        assert_eq!(spec["target"]["selector"]["namespaces"], json!(["shop"]));
        assert_eq!(
            (spec["direction"].as_str(), spec["delay"]["jitter"].as_str()),
            (Some("to"), Some("0ms"))
        );
        assert_eq!(spec["delay"]["correlation"], "0");
        let mut flow = json!({"metadata": {"namespace": "shop"}, "spec": {"templates": [{"networkChaos": chaos}]}});
        fill("Workflow", &mut flow);
        assert_eq!(
            flow.pointer("/spec/templates/0/networkChaos/selector/namespaces"),
            Some(&json!(["shop"]))
        );
        // Filled in once, nothing changes any more.
        let once = object.clone();
        fill("NetworkChaos", &mut object);
        assert_eq!(object, once);
    }
}
