//! `tests/vectors/statistics.json`, every vector with its own tolerance, or the file that `CHAOSRUN_VECTORS` names. The numbers there
//! were calculated with scipy and by hand, never with this code.

pub(crate) mod formulas;
mod product;
mod properties;
mod simulation;

use serde_json::Value;

/// The committed vectors, or those of the file that the environment names.
fn vectors() -> Vec<Value> {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/statistics.json");
    let path = std::env::var("CHAOSRUN_VECTORS").unwrap_or_else(|_| committed.to_owned());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut file: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let vectors = match file["vectors"].take() {
        Value::Array(vectors) => vectors,
        other => panic!("{path}: `vectors` is {other}, not a list"),
    };
    assert!(!vectors.is_empty(), "{path} holds no vector");
    vectors
}

/// Everything that `found` says differently than `expected`, which may say less.
fn differences(expected: &Value, found: &Value, tolerance: f64, kind: &str, place: &str, list: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, expected) in expected {
                let place = format!("{place}.{key}");
                match found.get(key) {
                    Some(found) => differences(expected, found, tolerance, kind, &place, list),
                    None => list.push(format!("{place}: nothing calculates this, expected {expected}")),
                }
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                let place = format!("{place}[{index}]");
                differences(expected, found, tolerance, kind, &place, list);
            }
        }
        (Value::Number(expected), Value::Number(found)) => {
            let (wanted, is) = (expected.as_f64().unwrap(), found.as_f64().unwrap());
            let most = match kind {
                "abs" => tolerance,
                "rel" => tolerance * wanted.abs(),
                "exact" => 0.0,
                other => panic!("the tolerance kind {other} is none of abs, rel and exact"),
            };
            if (wanted - is).abs() > most {
                list.push(format!(
                    "{place}: expected {wanted}, found {is} (off by {:e}, allowed {most:e})",
                    wanted - is
                ));
            }
        }
        (expected, found) if expected == found || (is_nothing(expected) && is_nothing(found)) => {}
        (expected, found) => list.push(format!("{place}: expected {expected}, found {found}")),
    }
}

/// No value exists: null, whether said once or of each part.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(parts) => parts.values().all(is_nothing),
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn answer(method: &str, input: &Value) -> Option<Value> {
    formulas::answer(method, input).or_else(|| product::answer(method, input))
}

#[test]
fn every_vector_holds_within_its_tolerance() {
    let mut wrong = Vec::new();
    for vector in vectors() {
        let text = |name: &str| {
            vector[name]
                .as_str()
                .unwrap_or_else(|| panic!("{vector} has no {name}"))
        };
        let (id, method) = (text("id"), text("method"));
        let Some(found) = answer(method, &vector["input"]) else {
            wrong.push(format!("{id}: no code answers to the method `{method}`"));
            continue;
        };
        let tolerance = vector["tolerance"].as_f64().unwrap();
        differences(
            &vector["expected"],
            &found,
            tolerance,
            text("tolerance_kind"),
            id,
            &mut wrong,
        );
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_vector_that_is_off_by_more_than_its_tolerance_is_found() {
    let mut list = Vec::new();
    let expected: Value = serde_json::json!({ "a": [1.0, null], "b": "pass" });
    let found: Value = serde_json::json!({ "a": [1.1, 2.0], "b": "fail" });
    differences(&expected, &found, 0.05, "abs", "x", &mut list);
    assert_eq!(list.len(), 3, "{list:?}");
    assert!(answer("no such method", &Value::Null).is_none());
    let nothing = serde_json::json!({ "a": null });
    differences(&nothing, &Value::Null, 0.0, "exact", "x", &mut list);
    assert_eq!(list.len(), 3, "{list:?}");
    differences(&expected, &Value::Null, 0.0, "exact", "x", &mut list);
    assert_eq!(list.len(), 4, "{list:?}");
}
