//! Which pods and containers an experiment means. Depends on `kube` for the lists; the decisions are pure.
//!
//! Central function: [`select`]. Contract: all parts of a selector hold together, except that named pods make all others
//! meaningless; nobody is left out for being unready, finished or about to go; the choice is random and has no seed.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde_json::Value;

use super::kinds::Experiment;
use super::records::Record;
use crate::api::object::{array_at, name, namespace, str_at};

/// What upstream says when a selector matches nothing.
const NO_POD: &str = "no pod is selected";

/// Records for everything that the experiment means now.
pub(super) async fn select(client: &Client, kind: Experiment, object: &Value) -> Result<Vec<Record>, String> {
    if !kind.selects_pods() {
        return Err(format!(
            "not injected by the double: {} is about something outside of the cluster",
            kind.kind().kind
        ));
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let own = namespace(object);
    let mut records = Vec::new();
    let mut sides = vec![(".", spec)];
    if let Some(target) = spec.get("target").filter(|_| kind == Experiment::Network) {
        sides.push((".Target", target));
    }
    for (key, side) in sides {
        let pods = chosen_pods(client, side, own).await?;
        let found: Vec<Record> = pods.iter().flat_map(|pod| records_of(kind, spec, pod, key)).collect();
        if found.is_empty() {
            return Err("no target has been selected".to_owned());
        }
        records.extend(found);
    }
    Ok(records)
}

/// The pods of one side, by its selector and its mode.
async fn chosen_pods(client: &Client, side: &Value, own: &str) -> Result<Vec<Value>, String> {
    let selector = side.get("selector").unwrap_or(&Value::Null);
    let pods = matching_pods(client, selector, own).await?;
    if pods.is_empty() {
        return Err(NO_POD.to_owned());
    }
    let mode = str_at(side, "/mode").unwrap_or_default();
    let value = str_at(side, "/value").unwrap_or_default();
    let count = count(mode, value, pods.len())?;
    if count == 0 {
        return Err(NO_POD.to_owned());
    }
    Ok(draw(pods, count))
}

/// Every pod that a selector means.
async fn matching_pods(client: &Client, selector: &Value, own: &str) -> Result<Vec<Value>, String> {
    let named = selector
        .get("pods")
        .and_then(Value::as_object)
        .filter(|pods| !pods.is_empty());
    let mut found = Vec::new();
    if let Some(named) = named {
        for (namespace, names) in named {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
                // Missing ones are passed over in silence, as upstream does.
                if let Some(pod) = api.get_opt(name).await.map_err(|error| error.to_string())? {
                    found.push(serde_json::to_value(&pod).map_err(|error| error.to_string())?);
                }
            }
        }
        return Ok(found);
    }
    let nodes = wanted_nodes(client, selector).await?;
    let listed: Vec<&str> = array_at(selector, "/namespaces")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let namespaces = if listed.is_empty() { vec![own] } else { listed };
    for namespace in namespaces {
        let spaces: Api<Namespace> = Api::all(client.clone());
        if spaces
            .get_opt(namespace)
            .await
            .map_err(|error| error.to_string())?
            .is_none()
        {
            continue;
        }
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let pods = api
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        for pod in &pods.items {
            let pod = serde_json::to_value(pod).map_err(|error| error.to_string())?;
            let node = str_at(&pod, "/spec/nodeName").unwrap_or_default();
            if nodes.as_ref().is_none_or(|nodes| nodes.contains(node)) && matches(selector, &pod) {
                found.push(pod);
            }
        }
    }
    Ok(found)
}

/// The union of named nodes and nodes by label; `None` when the selector names neither.
async fn wanted_nodes(client: &Client, selector: &Value) -> Result<Option<BTreeSet<String>>, String> {
    let named = array_at(selector, "/nodes");
    let labels = selector
        .get("nodeSelectors")
        .and_then(Value::as_object)
        .filter(|labels| !labels.is_empty());
    if named.is_empty() && labels.is_none() {
        return Ok(None);
    }
    let api: Api<Node> = Api::all(client.clone());
    let mut nodes = BTreeSet::new();
    for name in named.iter().filter_map(Value::as_str) {
        api.get(name).await.map_err(|error| error.to_string())?;
        nodes.insert(name.to_owned());
    }
    if let Some(labels) = labels {
        let labels: Vec<String> = labels
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
            .collect();
        let listed = api
            .list(&ListParams::default().labels(&labels.join(",")))
            .await
            .map_err(|error| error.to_string())?;
        nodes.extend(listed.items.into_iter().filter_map(|node| node.metadata.name));
    }
    Ok(Some(nodes))
}

/// Labels, expressions, annotations, fields and phases.
fn matches(selector: &Value, pod: &Value) -> bool {
    let equal = |wanted: &str, found: &str| {
        let wanted = selector.get(wanted).and_then(Value::as_object);
        wanted.into_iter().flatten().all(|(key, value)| {
            let found = pod.pointer(found).and_then(|map| map.get(key));
            found == Some(value)
        })
    };
    equal("labelSelectors", "/metadata/labels")
        && equal("annotationSelectors", "/metadata/annotations")
        && array_at(selector, "/expressionSelectors")
            .iter()
            .all(|expression| expression_holds(expression, pod))
        && fields_hold(selector, pod)
        && phase_fits(selector, pod)
}

fn expression_holds(expression: &Value, pod: &Value) -> bool {
    let key = str_at(expression, "/key").unwrap_or_default();
    let found = pod.pointer("/metadata/labels").and_then(|labels| labels.get(key));
    let listed = found.is_some_and(|found| array_at(expression, "/values").contains(found));
    match str_at(expression, "/operator").unwrap_or_default() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => false,
    }
}

fn fields_hold(selector: &Value, pod: &Value) -> bool {
    let fields = selector.get("fieldSelectors").and_then(Value::as_object);
    fields.into_iter().flatten().all(|(field, wanted)| {
        let pointer = format!("/{}", field.replace('.', "/"));
        str_at(pod, &pointer).unwrap_or_default() == wanted.as_str().unwrap_or_default()
    })
}

/// Several phases are alternatives; those with `!` are shut out.
fn phase_fits(selector: &Value, pod: &Value) -> bool {
    let phase = str_at(pod, "/status/phase").unwrap_or_default();
    let phases = array_at(selector, "/podPhaseSelectors")
        .iter()
        .filter_map(Value::as_str);
    let (out, wanted): (Vec<&str>, Vec<&str>) = phases.partition(|phase| phase.starts_with('!'));
    !out.iter().any(|out| out.trim_start_matches('!') == phase) && (wanted.is_empty() || wanted.contains(&phase))
}

/// How many of `matches` the mode takes.
fn count(mode: &str, value: &str, matches: usize) -> Result<usize, String> {
    let number = || {
        value
            .parse::<usize>()
            .map_err(|_| format!("strconv.Atoi: parsing \"{value}\": invalid syntax"))
    };
    let share = |percent: usize| matches.saturating_mul(percent.min(100)).div_ceil(100);
    Ok(match mode {
        "all" => matches,
        "one" => 1.min(matches),
        "fixed" => number()?.min(matches),
        "fixed-percent" => share(number()?),
        "random-max-percent" => {
            let most = number()?.min(100);
            // A percentage of 0 can be drawn: then nobody is hit.
            matches.saturating_mul(rand::rng().random_range(0..=most)) / 100
        }
        _ => return Err(format!("mode {mode} not supported")),
    })
}

fn draw(mut pods: Vec<Value>, count: usize) -> Vec<Value> {
    pods.shuffle(&mut rand::rng());
    pods.truncate(count);
    // The order of records means nothing; this one reads well.
    pods.sort_by(|a, b| (namespace(a), name(a)).cmp(&(namespace(b), name(b))));
    pods
}

/// The records of one pod: itself, or each container that is meant.
fn records_of(kind: Experiment, spec: &Value, pod: &Value, key: &str) -> Vec<Record> {
    let id = format!("{}/{}", namespace(pod), name(pod));
    if !kind.is_in_containers(spec) {
        return vec![Record::new(id, key)];
    }
    let wanted: Vec<&str> = array_at(spec, "/containerNames")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let names = array_at(pod, "/spec/containers")
        .iter()
        .filter_map(|one| str_at(one, "/name"));
    let chosen: Vec<&str> = if wanted.is_empty() {
        names.take(1).collect()
    } else {
        names.filter(|name| wanted.contains(name)).collect()
    };
    chosen
        .into_iter()
        .map(|container| Record::new(format!("{id}/{container}"), key))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": "cart"}, "annotations": {"a": "1"}},
            "spec": {"nodeName": "n", "containers": [{"name": "app"}, {"name": "side"}]},
            "status": {"phase": "Running"},
        })
    }

    #[test]
    fn all_parts_of_a_selector_hold_together() {
        let cases = [
            (json!({}), true),
            (
                json!({"labelSelectors": {"app": "cart"}, "annotationSelectors": {"a": "1"}}),
                true,
            ),
            (
                json!({"labelSelectors": {"app": "cart"}, "annotationSelectors": {"a": "2"}}),
                false,
            ),
            (json!({"fieldSelectors": {"spec.nodeName": "n"}}), true),
            (json!({"fieldSelectors": {"spec.nodeName": "m"}}), false),
            (json!({"podPhaseSelectors": ["Pending", "Running"]}), true),
            (json!({"podPhaseSelectors": ["!Running"]}), false),
            (
                json!({"expressionSelectors": [{"key": "app", "operator": "In", "values": ["cart"]}]}),
                true,
            ),
            (
                json!({"expressionSelectors": [{"key": "app", "operator": "NotIn", "values": ["cart"]}]}),
                false,
            ),
            (
                json!({"expressionSelectors": [{"key": "x", "operator": "DoesNotExist"}]}),
                true,
            ),
        ];
        for (selector, expected) in cases {
            assert_eq!(matches(&selector, &pod("p")), expected, "{selector}");
        }
    }

    #[test]
    fn modes_count_as_upstream_does() {
        for (mode, value, of, expected) in [
            ("all", "", 7, 7),
            ("one", "5", 7, 1),
            ("fixed", "9", 7, 7),
            ("fixed-percent", "1", 7, 1),
            ("fixed-percent", "50", 7, 4),
            ("random-max-percent", "0", 7, 0),
        ] {
            assert_eq!(count(mode, value, of).unwrap(), expected, "{mode} {value}");
        }
        assert!(count("fixed", "many", 7).is_err());
    }

    #[test]
    fn records_are_about_the_first_container_unless_others_are_named() {
        let ids = |spec: Value| -> Vec<String> {
            let records = records_of(Experiment::Stress, &spec, &pod("p"), ".");
            records.into_iter().map(|record| record.id).collect()
        };
        assert_eq!(ids(json!({})), ["shop/p/app"]);
        assert_eq!(ids(json!({"containerNames": ["side"]})), ["shop/p/side"]);
        assert!(ids(json!({"containerNames": ["none"]})).is_empty());
        let kill = json!({"action": "pod-kill"});
        let records = records_of(Experiment::Pod, &kill, &pod("p"), ".");
        assert_eq!(records[0].id, "shop/p");
    }
}
