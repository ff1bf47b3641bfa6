//! The published JSON Schema: current, right for the shipped scenarios, and never stricter than chaosrun itself.

use super::{VALID, root, scenarios};
use chaosrun::experiment::json_schema;
use serde_json::Value;

/// The documents of a file as JSON, read by nothing of chaosrun.
pub(super) fn as_json(source: &str) -> Vec<Value> {
    serde_yaml::from_multiple(source).unwrap()
}

#[test]
fn the_committed_schema_is_current() {
    let path = root().join("docs/schema/experiment.json");
    let current = format!("{}\n", serde_json::to_string_pretty(&json_schema()).unwrap());
    if std::env::var_os("CHAOSRUN_BLESS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == current,
        "docs/schema/experiment.json is out of date: run this test once with CHAOSRUN_BLESS=1 and commit the file"
    );
}

#[test]
fn the_shipped_scenarios_satisfy_the_schema_and_point_to_it() {
    let schema = json_schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    for path in scenarios() {
        let source = std::fs::read_to_string(&path).unwrap();
        for document in as_json(&source) {
            let problems: Vec<String> = validator
                .iter_errors(&document)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(problems.is_empty(), "{}: {problems:?}", path.display());
        }
        let first = source.lines().next().unwrap();
        let link = first.strip_prefix("# yaml-language-server: $schema=").unwrap();
        let target = path.parent().unwrap().join(link).canonicalize().unwrap();
        assert_eq!(
            target,
            root().join("docs/schema/experiment.json").canonicalize().unwrap()
        );
    }
}

#[test]
fn every_key_of_the_schema_is_described() {
    fn walk(schema: &Value, whole: &Value, place: &str, missing: &mut Vec<String>) {
        for (key, member) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let referred = member
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|held| whole.pointer(held.trim_start_matches('#')));
            let described = member
                .get("description")
                .or_else(|| referred.and_then(|held| held.get("description")));
            if described.is_none() {
                missing.push(format!("{place}/{key}"));
            }
        }
    }
    let schema = json_schema();
    let mut missing = Vec::new();
    walk(&schema, &schema, "", &mut missing);
    for (name, member) in schema["$defs"].as_object().unwrap() {
        walk(member, &schema, name, &mut missing);
    }
    // The three words of a mode explain themselves.
    missing.retain(|place| !place.starts_with("Mode"));
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_schema_refuses_what_an_editor_should_mark() {
    let validator = jsonschema::validator_for(&json_schema()).unwrap();
    let valid = |text: &str| as_json(text).iter().all(|document| validator.is_valid(document));
    assert!(valid(VALID));
    for (from, to) in [
        ("podKill", "podKil"),
        ("\"< 60s\"", "\"< one minute\""),
        ("\">= 3\"", "\">> 3\""),
        ("chaosrun.dev/v1", "chaosrun.dev/v9"),
        ("namespace: shop, ", ""),
        ("{name: kill, podKill: {}}", "{name: kill, podKill: {}, mode: some}"),
        (
            "{name: kill, podKill: {}}",
            "{name: kill, podKill: {}, mode: {percent: 101}}",
        ),
    ] {
        let wrong = VALID.replace(from, to);
        assert_ne!(wrong, VALID);
        assert!(!valid(&wrong), "{wrong}");
    }
}
