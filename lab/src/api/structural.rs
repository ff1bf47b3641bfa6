//! Custom resources by the schema of their definition: pruned, defaulted, validated.
//!
//! Pure: depends on causes alone. Reads the structural subset of `openAPIV3Schema`: types, `properties`,
//! `additionalProperties`, `items`, `required`, `default`, `enum`, bounds, `pattern`, `nullable`,
//! `x-kubernetes-preserve-unknown-fields`, `-embedded-resource` and `-int-or-string`. Combinators (`allOf`, `not` ...)
//! and CEL rules are not evaluated: what only they forbid is accepted.

use serde_json::{Map, Value};

use super::object::{array_at, bool_at, i64_at, str_at};
use super::status::Cause;

/// Drops what the schema does not know and fills in its defaults.
pub(crate) fn shape(schema: &Value, object: &mut Value) {
    // Identity and metadata are the server's business at the root, whatever the schema says.
    if let Some(map) = object.as_object_mut() {
        let known = ["apiVersion", "kind", "metadata"].map(|key| (key, map.get(key).cloned()));
        prune(schema, object);
        add_defaults(schema, object);
        if let Some(map) = object.as_object_mut() {
            for (key, value) in known {
                if let Some(value) = value {
                    map.insert(key.to_owned(), value);
                }
            }
        }
    }
}

fn preserves(schema: &Value) -> bool {
    bool_at(schema, "/x-kubernetes-preserve-unknown-fields") || bool_at(schema, "/x-kubernetes-embedded-resource")
}

/// The schema of a field: of its own, or of all fields of the map.
fn field_schema<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .and_then(|properties| properties.get(name))
        .or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}

fn open_map(schema: &Value) -> bool {
    schema
        .get("additionalProperties")
        .is_some_and(|schema| *schema != Value::Bool(false))
}

fn prune(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            if !preserves(schema) && !open_map(schema) && schema.get("type").is_some() {
                map.retain(|name, _| field_schema(schema, name).is_some());
            }
            for (name, child) in map {
                if let Some(inner) = field_schema(schema, name) {
                    prune(inner, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for item in items {
                    prune(inner, item);
                }
            }
        }
        _ => {}
    }
}

/// Paths of all fields that pruning would drop.
pub(crate) fn unknown_fields(schema: &Value, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_unknown(schema, object, "", &mut found);
    found
}

fn collect_unknown(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let closed = !preserves(schema) && !open_map(schema) && schema.get("type").is_some();
            for (name, child) in map {
                if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let below = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                match field_schema(schema, name) {
                    Some(inner) => collect_unknown(inner, child, &below, found),
                    None if closed => found.push(below),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(inner) = schema.get("items") {
                    collect_unknown(inner, item, &format!("{path}[{index}]"), found);
                }
            }
        }
        _ => {}
    }
}

fn add_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, inner) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                if let Some(default) = inner.get("default") {
                    let missing = map
                        .get(name)
                        .is_none_or(|found| found.is_null() && !bool_at(inner, "/nullable"));
                    if missing {
                        map.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, child) in map {
                if let Some(inner) = field_schema(schema, name) {
                    add_defaults(inner, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for item in items {
                    add_defaults(inner, item);
                }
            }
        }
        _ => {}
    }
}

/// Everything about the object that its schema forbids.
pub(crate) fn validate(schema: &Value, object: &Value, causes: &mut Vec<Cause>) {
    check(schema, object, "", causes);
}

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && bool_at(schema, "/nullable") {
        return;
    }
    if let Some(wanted) = wrong_type(schema, value) {
        let found = Value::from(type_of(value));
        causes.push(Cause::invalid(
            path,
            &found,
            &format!("{path} in body must be of type {wanted}: {found}"),
        ));
        return;
    }
    check_enum(schema, value, path, causes);
    match value {
        Value::Object(map) => check_object(schema, map, path, causes),
        Value::Array(items) => {
            check_size(
                schema,
                items.len(),
                "items",
                ("minItems", "maxItems"),
                path,
                value,
                causes,
            );
            for (index, item) in items.iter().enumerate() {
                if let Some(inner) = schema.get("items") {
                    check(inner, item, &format!("{path}[{index}]"), causes);
                }
            }
        }
        Value::String(text) => {
            let length = text.chars().count();
            check_size(
                schema,
                length,
                "chars long",
                ("minLength", "maxLength"),
                path,
                value,
                causes,
            );
            check_pattern(schema, text, path, causes);
        }
        Value::Number(_) => check_bounds(schema, value, path, causes),
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_object(schema: &Value, map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    for name in array_at(schema, "/required").iter().filter_map(Value::as_str) {
        if map.get(name).is_none() {
            causes.push(Cause::required(below(name), ""));
        }
    }
    for (name, child) in map {
        if path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(inner) = field_schema(schema, name) {
            check(inner, child, &below(name), causes);
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type that was wanted, when the value has another one.
fn wrong_type<'a>(schema: &'a Value, value: &Value) -> Option<&'a str> {
    if bool_at(schema, "/x-kubernetes-int-or-string") {
        return (!value.is_i64() && !value.is_u64() && !value.is_string()).then_some("integer or string");
    }
    let wanted = str_at(schema, "/type").filter(|wanted| !wanted.is_empty())?;
    let found = type_of(value);
    let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = found == wanted || wanted == "number" && found == "integer" || wanted == "integer" && whole;
    (!fits).then_some(wanted)
}

fn check_enum(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let allowed = array_at(schema, "/enum");
    if !allowed.is_empty() && !allowed.contains(value) {
        let words: Vec<String> = allowed
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        causes.push(Cause::unsupported(path, value, &words));
    }
}

fn check_size(
    schema: &Value,
    size: usize,
    unit: &str,
    (least, most): (&str, &str),
    path: &str,
    value: &Value,
    causes: &mut Vec<Cause>,
) {
    let limit = |key: &str| i64_at(schema, &format!("/{key}")).and_then(|limit| usize::try_from(limit).ok());
    if let Some(limit) = limit(least).filter(|limit| size < *limit) {
        causes.push(Cause::invalid(
            path,
            value,
            &format!("{path} in body should be at least {limit} {unit}"),
        ));
    }
    if let Some(limit) = limit(most).filter(|limit| size > *limit) {
        causes.push(Cause::invalid(
            path,
            value,
            &format!("{path} in body should be at most {limit} {unit}"),
        ));
    }
}

fn check_pattern(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let Some(pattern) = str_at(schema, "/pattern") else {
        return;
    };
    // A pattern that this engine cannot read forbids nothing; the definition was accepted with it.
    if regex_lite::Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text)) {
        let detail = format!("{path} in body should match '{pattern}'");
        causes.push(Cause::invalid(path, &Value::from(text), &detail));
    }
}

fn check_bounds(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(number) = value.as_f64() else { return };
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    for (key, exclusive, word) in [
        ("minimum", "exclusiveMinimum", "greater"),
        ("maximum", "exclusiveMaximum", "less"),
    ] {
        let Some(limit) = bound(key) else { continue };
        let strict = schema.get(exclusive).and_then(Value::as_bool).unwrap_or(false);
        let (inside, equal) = if key == "minimum" {
            (number > limit, number >= limit)
        } else {
            (number < limit, number <= limit)
        };
        if !(if strict { inside } else { equal }) {
            let or_equal = if strict { "" } else { " or equal" };
            let detail =
                format!("{path} in body should be {word} than{or_equal} to {limit}").replace("than to", "than");
            causes.push(Cause::invalid(path, value, &detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "color": {"type": "string", "default": "blue", "enum": ["blue", "red"]},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
            "port": {"x-kubernetes-int-or-string": true},
            "list": {"type": "array", "maxItems": 1, "items": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}}})
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({"kind": "T", "metadata": {"name": "a"}, "other": 1, "spec": {
            "size": 1, "typo": 1, "list": [{"b": 1}], "map": {"any": "x"}, "free": {"any": {"deep": 1}}}});
        shape(&schema(), &mut object);
        assert_eq!(
            object,
            json!({"kind": "T", "metadata": {"name": "a"}, "spec": {"size": 1, "color": "blue", "list": [{"a": "x"}],
                "map": {"any": "x"}, "free": {"any": {"deep": 1}}}})
        );
    }

    #[test]
    fn what_the_schema_forbids_is_named_by_its_path() {
        for (spec, field) in [
            (json!({}), "spec.size"),
            (json!({"size": "large"}), "spec.size"),
            (json!({"size": 0}), "spec.size"),
            (json!({"size": 1.5}), "spec.size"),
            (json!({"size": 1, "color": "green"}), "spec.color"),
            (json!({"size": 1, "name": "UP"}), "spec.name"),
            (json!({"size": 1, "name": "long"}), "spec.name"),
            (json!({"size": 1, "port": []}), "spec.port"),
            (json!({"size": 1, "list": [{}, {}]}), "spec.list"),
            (json!({"size": 1, "list": [{"a": 1}]}), "spec.list[0].a"),
            (json!({"size": 1, "map": {"k": 1}}), "spec.map.k"),
        ] {
            let mut causes = Vec::new();
            validate(&schema(), &json!({"spec": spec}), &mut causes);
            let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
            assert_eq!(fields, [field], "{spec}");
        }
        let mut causes = Vec::new();
        validate(
            &schema(),
            &json!({"spec": {"size": 2, "port": "http", "name": "abc"}}),
            &mut causes,
        );
        assert!(causes.is_empty());
    }
}
