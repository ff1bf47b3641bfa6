//! Schedule and Workflow of Chaos Mesh: objects that make experiments, at their time or one after the other.
//!
//! Pure; may depend on the rest of `fault`. Contract: what passes [`checked`] names no pods itself, makes at least one experiment,
//! and does not hang for ever where it can be told from the file. Facts: `specs/chaos-mesh.md`, sections 7 and 8.

use super::chaos_mesh::{KINDS, is_ours, known_kind, set};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How many finished experiments a Schedule keeps when the user does not say. Without it Chaos Mesh takes 0, and deletes each as soon as
/// it is over: then nobody sees that it was injected.
const HISTORY_LIMIT: u32 = 10;

/// More than anybody can follow.
const MOST_TEMPLATES: usize = 100;

/// Whether a kind makes experiments.
pub(super) fn is_flow(kind: &str) -> bool {
    matches!(kind, "Schedule" | "Workflow")
}

/// The key under which a Schedule or a template holds the spec of an experiment: `podChaos`, `ioChaos`, `httpChaos`.
fn embedded_key(kind: &str) -> String {
    let name = kind.trim_end_matches("Chaos");
    let capitals = name.chars().all(|letter| letter.is_ascii_uppercase());
    if capitals {
        return format!("{}Chaos", name.to_lowercase());
    }
    let mut letters = name.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    let name: String = first.into_iter().chain(letters).collect();
    format!("{name}Chaos")
}

/// Kind and spec of every experiment that a Schedule or a Workflow makes.
pub(super) fn experiments<'a>(kind: &str, spec: &'a Value) -> Vec<(&'a str, &'a Value)> {
    let of = |held: &'a Value, key: &str| {
        let kind = held.get(key).and_then(Value::as_str)?;
        Some((kind, held.get(embedded_key(kind))?))
    };
    match kind {
        "Schedule" => of(spec, "type").into_iter().collect(),
        _ => templates(spec)
            .iter()
            .filter_map(|held| of(held, "templateType"))
            .collect(),
    }
}

/// Changes the spec of every experiment that a Schedule or a Workflow makes.
pub(super) fn each_experiment(kind: &str, spec: &mut Value, change: impl Fn(&str, &mut Value)) {
    let in_one = |held: &mut Value, key: &str| {
        let Some(kind) = held.get(key).and_then(Value::as_str).map(str::to_owned) else {
            return;
        };
        if let Some(spec) = held.get_mut(embedded_key(&kind)) {
            change(&kind, spec);
        }
    };
    if kind == "Schedule" {
        in_one(spec, "type");
    } else if let Some(templates) = spec.get_mut("templates").and_then(Value::as_array_mut) {
        for template in templates {
            in_one(template, "templateType");
        }
    }
}

/// The spec as it can be used, with the defaults that chaosrun needs.
///
/// # Errors
/// What is wrong with it, for the reader of the file.
pub(super) fn checked(kind: &str, spec: &Value) -> Result<Value, String> {
    is_ours(spec, &["selector", "mode", "value"], &format!(" of a {kind}"))?;
    if kind == "Workflow" {
        workflow(spec)?;
        return Ok(spec.clone());
    }
    schedule(spec)
}

fn text<'a>(held: &'a Value, key: &str) -> Option<&'a str> {
    held.get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.trim().is_empty())
}

fn schedule(spec: &Value) -> Result<Value, String> {
    if text(spec, "schedule").is_none() {
        return Err("a Schedule needs schedule: when it fires, such as \"@every 10s\"".to_owned());
    }
    let Some(kind) = text(spec, "type") else {
        return Err("a Schedule needs type: the kind that it makes, such as PodChaos".to_owned());
    };
    if kind == "Workflow" {
        return Err("a Schedule of Workflows is not supported: give the Workflow itself, with repeat".to_owned());
    }
    known_kind(kind, "")?;
    experiment(spec, kind, "the Schedule", &["selector", "mode", "value"])?;
    match spec.get("historyLimit") {
        None => {
            let mut spec = spec.clone();
            set(&mut spec, "historyLimit", json!(HISTORY_LIMIT));
            Ok(spec)
        }
        Some(limit) if limit.as_u64().is_some_and(|limit| limit > 0) => Ok(spec.clone()),
        Some(_) => {
            Err("historyLimit must be at least 1: else what has fired is deleted before anybody sees it".to_owned())
        }
    }
}

/// The spec of an experiment in a Schedule or a template.
fn experiment(held: &Value, kind: &str, place: &str, ours: &[&str]) -> Result<(), String> {
    let key = embedded_key(kind);
    let Some(spec) = held.get(&key).filter(|spec| spec.is_object()) else {
        return Err(format!("{place} is of type {kind} and needs its spec under {key}"));
    };
    foreign(held, Some(kind), place)?;
    is_ours(spec, ours, &format!(" in {key} of {place}"))
}

/// The spec of another kind is not just ignored: Chaos Mesh refuses it.
fn foreign(held: &Value, kind: Option<&str>, place: &str) -> Result<(), String> {
    let others = KINDS
        .iter()
        .filter(|other| Some(**other) != kind)
        .map(|other| embedded_key(other));
    match others.into_iter().find(|key| held.get(key).is_some()) {
        Some(key) => Err(format!(
            "{place} is {} and has a {key} all the same",
            kind.map_or("no experiment".to_owned(), |kind| format!("of type {kind}"))
        )),
        None => Ok(()),
    }
}

fn templates(spec: &Value) -> &[Value] {
    spec.get("templates")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn children(template: &Value) -> impl Iterator<Item = &str> {
    let children = template.get("children").and_then(Value::as_array);
    children.into_iter().flatten().filter_map(Value::as_str)
}

fn workflow(spec: &Value) -> Result<(), String> {
    if templates(spec).len() > MOST_TEMPLATES {
        return Err(format!(
            "a Workflow of more than {MOST_TEMPLATES} templates is not supported"
        ));
    }
    let mut named: BTreeMap<&str, &Value> = BTreeMap::new();
    for held in templates(spec) {
        let Some(name) = text(held, "name") else {
            return Err("every template of a Workflow needs a name".to_owned());
        };
        if named.insert(name, held).is_some() {
            return Err(format!("two templates of the Workflow are called {name}"));
        }
    }
    for (name, held) in &named {
        template(name, held, &named)?;
    }
    let Some(entry) = text(spec, "entry").filter(|entry| named.contains_key(entry)) else {
        let names: Vec<&str> = named.keys().copied().collect();
        return Err(format!(
            "a Workflow needs entry: the template that it begins with, one of: {}",
            names.join(", ")
        ));
    };
    if reaches(entry, &named, &mut Vec::new(), &mut Followed::new())? {
        Ok(())
    } else {
        Err(format!(
            "the entry {entry} of the Workflow leads to no experiment, so nothing would be done"
        ))
    }
}

fn template(name: &str, held: &Value, named: &BTreeMap<&str, &Value>) -> Result<(), String> {
    let place = format!("the template {name}");
    let kind = text(held, "templateType").ok_or_else(|| format!("{place} needs a templateType"))?;
    let deadline = text(held, "deadline");
    if let Some(text) = deadline.filter(|text| !is_duration(text)) {
        return Err(format!(
            "the deadline {text:?} of {place} is no duration; write 10s or 1m30s"
        ));
    }
    match kind {
        "Serial" | "Parallel" => {
            foreign(held, None, &place)?;
            if let Some(missing) = children(held).find(|child| !named.contains_key(child)) {
                return Err(format!("{place} names the child {missing}, which is no template"));
            }
            if children(held).next().is_none() {
                return Err(format!("{place} is {kind} and needs children"));
            }
        }
        "Suspend" => {
            foreign(held, None, &place)?;
            if deadline.is_none() {
                return Err(format!("{place} waits, so it needs a deadline"));
            }
        }
        "Task" | "StatusCheck" | "Schedule" => {
            return Err(format!(
                "{place} is of type {kind}, which is not supported: Serial, Parallel, Suspend and {} are",
                KINDS.join(", ")
            ));
        }
        kind => {
            known_kind(kind, ", Serial, Parallel, Suspend")?;
            if held
                .get(embedded_key(kind))
                .and_then(|spec| spec.get("duration"))
                .is_some()
            {
                return Err(format!(
                    "{place} has a duration in its experiment: in a Workflow its deadline says how long"
                ));
            }
            experiment(held, kind, &place, &["selector", "mode", "value"])?;
            if deadline.is_none() {
                return Err(format!(
                    "{place} needs a deadline: an experiment in a Workflow ends by nothing else, and the Workflow would hang for ever"
                ));
            }
        }
    }
    Ok(())
}

/// Which templates were followed to their end, and whether an experiment was found there.
type Followed<'a> = BTreeMap<&'a str, bool>;

/// Whether a template leads to an experiment. One that leads to itself would never end.
fn reaches<'a>(
    name: &'a str,
    named: &BTreeMap<&'a str, &'a Value>,
    path: &mut Vec<&'a str>,
    followed: &mut Followed<'a>,
) -> Result<bool, String> {
    if let Some(found) = followed.get(name) {
        return Ok(*found);
    }
    if path.contains(&name) {
        return Err(format!(
            "the template {name} of the Workflow is its own child: it would never end"
        ));
    }
    let Some(held) = named.get(name) else {
        return Ok(false);
    };
    let mut found = text(held, "templateType").is_some_and(|kind| KINDS.contains(&kind));
    path.push(name);
    for child in children(held) {
        found |= reaches(child, named, path, followed)?;
    }
    path.pop();
    followed.insert(name, found);
    Ok(found)
}

/// A positive duration as Go reads it: `10s`, `1m30s`, `1.5h`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    let mut positive = false;
    while !rest.is_empty() {
        let end = rest
            .find(|held: char| !(held.is_ascii_digit() || held == '.'))
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit = ["ns", "us", "ms", "s", "m", "h"]
            .into_iter()
            .filter(|unit| after.starts_with(unit));
        // `ms` before `m`: the longest that fits.
        let Some(unit) = unit.max_by_key(|unit| unit.len()) else {
            return false;
        };
        let Ok(number) = number.parse::<f64>() else {
            return false;
        };
        positive |= number > 0.0;
        rest = after.strip_prefix(unit).unwrap_or_default();
    }
    positive
}

#[cfg(test)]
mod tests {
    use super::super::{ChaosMeshObject, FaultKind, chaos_mesh_object};
    use super::*;

    fn object(kind: &str, spec: &Value) -> Result<ChaosMeshObject, String> {
        chaos_mesh_object(&FaultKind::ChaosMesh {
            resource: kind.to_owned(),
            spec: spec.clone(),
        })
    }

    fn serial() -> Value {
        json!({"entry": "all", "templates": [
            {"name": "all", "templateType": "Serial", "children": ["lose", "burn"]},
            {"name": "lose", "templateType": "NetworkChaos", "deadline": "2s",
             "networkChaos": {"action": "loss", "direction": "to", "loss": {"loss": "5"}}},
            {"name": "burn", "templateType": "StressChaos", "deadline": "1m30s",
             "stressChaos": {"stressors": {"cpu": {"workers": 1}}}},
        ]})
    }

    #[test]
    fn a_schedule_gets_the_pods_in_its_experiment_and_keeps_what_has_fired() {
        let spec = json!({"schedule": "@every 1s", "type": "PodChaos", "podChaos": {"action": "container-kill"}});
        let object = object("Schedule", &spec).unwrap();
        assert_eq!(object.plural(), "schedules");
        assert_eq!(
            object.plurals().into_iter().collect::<Vec<_>>(),
            ["podchaos", "schedules"]
        );
        assert_eq!(
            object.for_pods("shop", &["web-0"], &["web"]),
            json!({"schedule": "@every 1s", "type": "PodChaos", "historyLimit": 10, "podChaos": {
                "action": "container-kill", "mode": "all", "selector": {"pods": {"shop": ["web-0"]}}, "containerNames": ["web"]}})
        );
    }

    #[test]
    fn a_workflow_gets_the_pods_in_each_experiment_and_nothing_else() {
        let object = object("Workflow", &serial()).unwrap();
        assert_eq!(object.plural(), "workflows");
        assert_eq!(
            object.plurals().into_iter().collect::<Vec<_>>(),
            ["networkchaos", "stresschaos", "workflownodes", "workflows"]
        );
        let spec = object.for_pods("shop", &["web-0", "web-1"], &["web"]);
        let selector = json!({"pods": {"shop": ["web-0", "web-1"]}});
        assert_eq!(spec["templates"][0], serial()["templates"][0]);
        assert_eq!(spec["templates"][1]["networkChaos"]["selector"], selector);
        assert_eq!(spec["templates"][1]["networkChaos"]["containerNames"], Value::Null);
        assert_eq!(spec["templates"][2]["stressChaos"]["selector"], selector);
        assert_eq!(spec["templates"][2]["stressChaos"]["containerNames"], json!(["web"]));
        assert!(!spec.to_string().contains("duration"));
    }

    #[test]
    fn containers_that_the_user_named_hold() {
        let spec = json!({"schedule": "@hourly", "type": "StressChaos", "historyLimit": 2,
            "stressChaos": {"containerNames": ["side"], "stressors": {"cpu": {"workers": 1}}}});
        let filled = object("Schedule", &spec)
            .unwrap()
            .for_pods("shop", &["web-0"], &["web"]);
        assert_eq!(filled["stressChaos"]["containerNames"], json!(["side"]));
        assert_eq!(filled["historyLimit"], 2);
    }

    #[test]
    fn what_would_hang_or_choose_for_itself_is_refused() {
        for (pointer, value, says) in [
            ("/entry", json!("none"), "needs entry"),
            ("/templates/0/children", json!(["lose", "away"]), "the child away"),
            ("/templates/0/children", json!([]), "needs children"),
            ("/templates/0/children", json!(["all"]), "its own child"),
            ("/templates/0/templateType", json!("Task"), "not supported"),
            ("/templates/0/templateType", json!("StatusCheck"), "not supported"),
            ("/templates/0/templateType", json!("Suspend"), "needs a deadline"),
            ("/templates/1/deadline", Value::Null, "hang for ever"),
            ("/templates/1/deadline", json!("soon"), "no duration"),
            ("/templates/1/deadline", json!("0s"), "no duration"),
            ("/templates/1/networkChaos", Value::Null, "under networkChaos"),
            ("/templates/1/networkChaos/duration", json!("5s"), "its deadline says"),
            (
                "/templates/1/networkChaos/selector",
                json!({}),
                "selector in networkChaos of the template lose",
            ),
            ("/templates/1/networkChaos/mode", json!("one"), "mode in networkChaos"),
            ("/templates/2/podChaos", json!({}), "has a podChaos all the same"),
            ("/templates/2/templateType", json!("KernelChaos"), "4059"),
            ("/templates/2/name", json!("lose"), "two templates"),
        ] {
            let mut spec = serial();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = spec.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            parent.insert(key.to_owned(), value);
            let why = object("Workflow", &spec).unwrap_err();
            assert!(why.contains(says), "{pointer}: {why}");
        }
        let good = json!({"schedule": "@every 1s", "type": "PodChaos", "podChaos": {"action": "pod-kill"}});
        for (key, value, says) in [
            ("schedule", Value::Null, "needs schedule"),
            ("type", Value::Null, "needs type"),
            ("type", json!("Workflow"), "not supported"),
            ("type", json!("IOChaos"), "under ioChaos"),
            ("historyLimit", json!(0), "at least 1"),
            ("selector", json!({}), "chaosrun's"),
            (
                "podChaos",
                json!({"action": "pod-kill", "value": "1"}),
                "value in podChaos of the Schedule",
            ),
        ] {
            let mut spec = good.clone();
            set(&mut spec, key, value);
            let why = object("Schedule", &spec).unwrap_err();
            assert!(why.contains(says), "{key}: {why}");
        }
    }

    #[test]
    fn the_key_of_an_experiment_is_as_chaos_mesh_spells_it() {
        let keys: Vec<String> = KINDS.iter().map(|kind| embedded_key(kind)).collect();
        assert_eq!(
            keys,
            [
                "podChaos",
                "networkChaos",
                "stressChaos",
                "ioChaos",
                "dnsChaos",
                "timeChaos",
                "httpChaos",
                "jvmChaos"
            ]
        );
    }

    #[test]
    fn durations_are_those_of_go() {
        for good in ["10s", "1m30s", "1.5h", "250ms"] {
            assert!(is_duration(good), "{good}");
        }
        for bad in ["", "10", "0s", "s", "1d", "-5s"] {
            assert!(!is_duration(bad), "{bad}");
        }
    }
}
