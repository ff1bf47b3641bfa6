//! What an engine says and whom it means. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A kind without a label, or a label without a kind, is rejected.
pub(super) fn is_valid(engine: &Value) -> bool {
    text(engine, "/spec/appinfo/appkind").is_empty() == text(engine, "/spec/appinfo/applabel").is_empty()
}

/// The variables of the experiment's pod: of the engine, then of the ChaosExperiment, then of the engine's experiment. The last wins.
pub(super) fn environment(engine: &Value, experiment: &Value, namespace: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let kind = match text(engine, "/spec/appinfo/appkind") {
        "" => "KIND",
        kind => kind,
    };
    let spaces = match text(engine, "/spec/appinfo/appns") {
        "" => namespace,
        given => given,
    };
    let label = text(engine, "/spec/appinfo/applabel");
    all.insert("TARGETS".to_owned(), format!("{kind}:{spaces}:[{label}]"));
    for list in [
        experiment.pointer("/spec/definition/env"),
        engine.pointer("/spec/experiments/0/spec/components/env"),
    ] {
        for entry in list.and_then(Value::as_array).into_iter().flatten() {
            all.insert(text(entry, "/name").to_owned(), text(entry, "/value").to_owned());
        }
    }
    all
}

/// Whom an experiment acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Targets {
    pub(super) namespace: String,
    /// The first label; an experiment that needs one takes no other.
    pub(super) label: Option<(String, String)>,
}

impl Targets {
    pub(super) fn read(environment: &BTreeMap<String, String>) -> Self {
        let given = environment.get("TARGETS").map(String::as_str).unwrap_or_default();
        let mut parts = given.split(':');
        let namespace = parts.nth(1).unwrap_or_default().to_owned();
        let labels = parts.next().unwrap_or_default().trim_matches(['[', ']']);
        let first = labels.split(',').next().unwrap_or_default();
        let label = first
            .split_once('=')
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self { namespace, label }
    }

    /// Exactly the pods of `TARGET_PODS`; else those with the label, else any, and of those one or a share.
    pub(super) fn choose(&self, environment: &BTreeMap<String, String>, pods: &[Pod]) -> Result<Vec<Pod>, String> {
        let of = |name: &str| environment.get(name).map(String::as_str).unwrap_or_default();
        let named = of("TARGET_PODS");
        if !named.is_empty() {
            return named
                .split(',')
                .map(|name| {
                    let found = pods.iter().find(|pod| pod.name_any() == name.trim());
                    found
                        .cloned()
                        .ok_or_else(|| format!("pod doesn't exist set by TARGET_PODS ENV: {name}"))
                })
                .collect();
        }
        let mut fit: Vec<Pod> = pods
            .iter()
            .filter(|pod| {
                let labels = pod.labels();
                let wanted = self
                    .label
                    .as_ref()
                    .is_none_or(|(key, value)| labels.get(key) == Some(value));
                wanted && !labels.contains_key("chaosUID")
            })
            .cloned()
            .collect();
        let share = of("PODS_AFFECTED_PERC").parse::<usize>().unwrap_or(0).min(100);
        let count = (fit.len() * share / 100).max(1);
        fit.truncate(count);
        if fit.is_empty() {
            return Err("no target pods found".to_owned());
        }
        Ok(fit)
    }
}

/// The spec of the policy of a partition. The other side can only be named by its addresses: everything else stays open. Without a label
/// every pod of the namespace is meant.
pub(super) fn policy(environment: &BTreeMap<String, String>, targets: &Targets) -> Result<Value, String> {
    let of = |name: &str| environment.get(name).map(String::as_str).unwrap_or_default();
    for other in ["POD_SELECTOR", "NAMESPACE_SELECTOR", "PORTS", "DESTINATION_HOSTS"] {
        if !of(other).is_empty() {
            return Err(format!("the lab's double of Litmus does not know {other}"));
        }
    }
    let addresses: Vec<String> = of("DESTINATION_IPS")
        .split(',')
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .map(|address| {
            if address.contains('/') {
                address.to_owned()
            } else {
                format!("{address}/32")
            }
        })
        .collect();
    let peers = json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": addresses}}]);
    let rules = |side: &str| {
        if addresses.is_empty() {
            json!([])
        } else {
            json!([{side: peers}])
        }
    };
    let selector = match &targets.label {
        Some((key, value)) => json!({"matchLabels": {key.clone(): value}}),
        None => json!({}),
    };
    let mut spec = json!({"podSelector": selector});
    let types = match of("POLICY_TYPES") {
        "ingress" => vec![("Ingress", "ingress", "from")],
        "egress" => vec![("Egress", "egress", "to")],
        _ => vec![("Egress", "egress", "to"), ("Ingress", "ingress", "from")],
    };
    let names: Vec<&str> = types.iter().map(|(name, _, _)| *name).collect();
    json_patch::merge(&mut spec, &json!({"policyTypes": names}));
    for (_, key, side) in types {
        json_patch::merge(&mut spec, &json!({key: rules(side)}));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(appinfo: &Value, env: &Value) -> Value {
        json!({"spec": {"appinfo": appinfo, "experiments": [{"name": "e", "spec": {"components": {"env": env}}}]}})
    }

    #[test]
    fn the_last_word_on_a_variable_wins() {
        let engine = engine(
            &json!({"appns": "shop", "applabel": "app=web", "appkind": "deployment"}),
            &json!([{"name": "B", "value": "engine"}]),
        );
        let experiment = json!({"spec": {"definition": {"env": [{"name": "A", "value": "chart"}, {"name": "B", "value": "chart"}]}}});
        let environment = environment(&engine, &experiment, "other");
        assert_eq!(environment["TARGETS"], "deployment:shop:[app=web]");
        assert_eq!(environment["A"], "chart");
        assert_eq!(environment["B"], "engine");
    }

    #[test]
    fn a_kind_and_a_label_belong_together() {
        let with = |appinfo: Value| is_valid(&engine(&appinfo, &json!([])));
        assert!(with(json!({"appkind": "deployment", "applabel": "a=b"})));
        assert!(with(json!({"appns": "shop"})));
        assert!(!with(json!({"applabel": "a=b"})));
        assert!(!with(json!({"appkind": "deployment"})));
    }

    #[test]
    fn a_partition_without_a_label_means_everybody() {
        let environment = BTreeMap::from([("TARGETS".to_owned(), "KIND:shop:[]".to_owned())]);
        let targets = Targets::read(&environment);
        assert_eq!(targets.label, None);
        let spec = policy(&environment, &targets).unwrap();
        assert_eq!(spec["podSelector"], json!({}));
        assert_eq!(spec["ingress"], json!([]));
    }

    #[test]
    fn a_partition_leaves_all_addresses_open_but_those_named() {
        let environment = BTreeMap::from([
            ("TARGETS".to_owned(), "KIND:shop:[a.b/c=d]".to_owned()),
            ("DESTINATION_IPS".to_owned(), "10.0.0.1, 10.1.0.0/16".to_owned()),
            ("POLICY_TYPES".to_owned(), "egress".to_owned()),
        ]);
        let spec = policy(&environment, &Targets::read(&environment)).unwrap();
        assert_eq!(spec["podSelector"], json!({"matchLabels": {"a.b/c": "d"}}));
        assert_eq!(spec["policyTypes"], json!(["Egress"]));
        assert_eq!(
            spec.pointer("/egress/0/to/0/ipBlock/except"),
            Some(&json!(["10.0.0.1/32", "10.1.0.0/16"]))
        );
        assert_eq!(spec.get("ingress"), None);
    }
}
