//! Checks a located tree against the JSON Schema of [`super::file`], fills in variables, and gives the same tree as JSON that
//! decodes without fail. Every deviation is collected with its place; nothing stops at the first.

use super::diagnostics::{Place, Problem};
use super::located::{Entry, Node, Value};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// Where every value and key of a document stands, by JSON pointer.
#[derive(Debug, Default)]
pub(super) struct Places {
    values: BTreeMap<String, Place>,
    keys: BTreeMap<String, Place>,
    empty: BTreeSet<String>,
}

impl Places {
    /// Place of a value; of the nearest parent when it was left out.
    pub(super) fn value(&self, pointer: &str) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.values.get(pointer) {
                return *place;
            }
            match pointer.rfind('/') {
                Some(end) => pointer = pointer.get(..end).unwrap_or_default(),
                None => return Place::START,
            }
        }
    }

    /// Whether the value is written in the file, or stands in for one that is missing.
    pub(super) fn written(&self, pointer: &str) -> bool {
        self.values.contains_key(pointer)
    }

    /// Whether nothing, an empty list or an empty mapping is written there.
    pub(super) fn empty(&self, pointer: &str) -> bool {
        self.empty.contains(pointer)
    }

    /// Whether a mapping has a key that is not known, so that what seems to be missing may be misspelt.
    pub(super) fn misspelt_below(&self, pointer: &str) -> bool {
        let inside = format!("{pointer}/");
        self.keys
            .range(inside.clone()..)
            .take_while(|(key, _)| key.starts_with(&inside))
            .any(|(key, _)| !self.values.contains_key(key))
    }

    /// Whether a mapping has any key.
    pub(super) fn mapping(&self, pointer: &str) -> bool {
        let inside = format!("{pointer}/");
        self.keys
            .range(inside.clone()..)
            .next()
            .is_some_and(|(key, _)| key.starts_with(&inside))
    }

    /// Place of a key; of its parent when there is none.
    pub(super) fn key(&self, pointer: &str) -> Place {
        self.keys.get(pointer).copied().unwrap_or_else(|| self.value(pointer))
    }
}

/// One document's check.
pub(super) struct Shape<'a> {
    schema: &'a Json,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: Vec<Problem>,
    pub(super) places: Places,
    pub(super) variables: BTreeSet<String>,
}

impl<'a> Shape<'a> {
    pub(super) fn new(schema: &'a Json, lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            schema,
            lookup,
            problems: Vec::new(),
            places: Places::default(),
            variables: BTreeSet::new(),
        }
    }

    /// Checks a document against the root of the schema.
    pub(super) fn document(&mut self, node: &Node) -> Json {
        self.check(node, self.schema, "")
    }

    fn error(&mut self, code: &'static str, place: Place, message: String, help: Option<String>) {
        self.problems.push(Problem::error(code, place, message, help));
    }

    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        while let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            let pointer = reference.trim_start_matches('#');
            match self.schema.pointer(pointer) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    fn check(&mut self, node: &Node, schema: &'a Json, pointer: &str) -> Json {
        self.places.values.insert(pointer.to_owned(), node.place);
        let empty = match &node.value {
            Value::Null => true,
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => false,
        };
        if empty {
            self.places.empty.insert(pointer.to_owned());
        }
        let schema = self.resolve(schema);
        if let Some(choices) = schema.get("anyOf").and_then(Json::as_array) {
            return self.any_of(node, choices, pointer);
        }
        let free = schema.get("type").is_none()
            || schema.get("additionalProperties") == Some(&Json::Bool(true)) && matches!(node.value, Value::Map(_));
        if free {
            return self.anything(node);
        }
        match &node.value {
            Value::Map(entries) if accepts(schema, "object") => self.map(node, entries, schema, pointer),
            Value::List(items) if accepts(schema, "array") => {
                let item_schema = schema.get("items").unwrap_or(&Json::Null);
                let items = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.check(item, item_schema, &format!("{pointer}/{index}")));
                Json::Array(items.collect())
            }
            Value::Text(text) => self.text(node, text, schema),
            Value::Null if accepts(schema, "null") => Json::Null,
            Value::Bool(held) if accepts(schema, "boolean") => Json::Bool(*held),
            Value::Integer(held) if accepts(schema, "integer") => self.number(node, *held, schema),
            // A number where a text with a number is meant: ready: 2, lost: 0.
            Value::Integer(held) if accepts(schema, "number") => Json::String(held.to_string()),
            Value::Float(held) if accepts(schema, "number") => Json::String(held.to_string()),
            Value::Integer(held) if is_duration(schema) => {
                self.error(
                    "unit-missing",
                    node.place,
                    format!("the duration {held} has no unit"),
                    Some(format!("write {held}s or {held}ms")),
                );
                Json::String(format!("{held}s"))
            }
            other => {
                let wanted = wanted(schema);
                let single = !matches!(other, Value::Map(_) | Value::List(_) | Value::Null);
                let example = schema.get("examples").and_then(|held| held.get(0));
                let help = match example {
                    Some(example) => Some(format!("write it like {example}")),
                    None if wanted == "text" && single => Some("put it in quotes".to_owned()),
                    None => None,
                };
                self.error(
                    "wrong-type",
                    node.place,
                    format!("wanted {wanted}, found {}", other.kind()),
                    help,
                );
                self.placeholder(schema)
            }
        }
    }

    /// Something of the right type, so that decoding goes on and finds more problems. Never a cause of problems of its own.
    fn placeholder(&self, schema: &'a Json) -> Json {
        let schema = self.resolve(schema);
        if let Some(first) = schema
            .get("const")
            .or_else(|| schema.get("enum").and_then(|held| held.get(0)))
            .or_else(|| schema.get("examples").and_then(|held| held.get(0)))
        {
            return first.clone();
        }
        if schema.get("anyOf").is_some() || accepts(schema, "null") {
            return Json::Null;
        }
        if accepts(schema, "string") {
            return "".into();
        }
        if accepts(schema, "integer") {
            let least = schema.get("minimum").and_then(Json::as_i64).unwrap_or(1);
            return least.max(1).into();
        }
        if accepts(schema, "boolean") {
            return false.into();
        }
        if accepts(schema, "array") {
            return Json::Array(Vec::new());
        }
        let properties = schema.get("properties").and_then(Json::as_object);
        let required = schema.get("required").and_then(Json::as_array);
        let members = required
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .filter_map(|key| Some((key.to_owned(), self.placeholder(properties?.get(key)?))))
            .collect();
        Json::Object(members)
    }

    /// A value without a schema of its own (a patch), variables filled in.
    fn anything(&mut self, node: &Node) -> Json {
        match &node.value {
            Value::Null => Json::Null,
            Value::Bool(held) => Json::from(*held),
            Value::Integer(held) => Json::from(*held),
            Value::Float(held) => Json::from(*held),
            Value::Text(text) => self.substitute(node.place, text).map_or(Json::Null, Json::String),
            Value::List(items) => Json::Array(items.iter().map(|item| self.anything(item)).collect()),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), self.anything(&entry.value)))
                    .collect(),
            ),
        }
    }

    /// Options are `anyOf [X, null]`; a mode is a word or one of two mappings.
    fn any_of(&mut self, node: &Node, choices: &'a [Json], pointer: &str) -> Json {
        let resolved: Vec<&'a Json> = choices.iter().map(|choice| self.resolve(choice)).collect();
        if node.value == Value::Null && resolved.iter().any(|choice| accepts(choice, "null")) {
            return Json::Null;
        }
        let real: Vec<&'a Json> = resolved
            .iter()
            .copied()
            .filter(|choice| choice.get("type").and_then(Json::as_str) != Some("null"))
            .collect();
        if let [only] = real.as_slice() {
            return self.check(node, only, pointer);
        }
        let fitting = match &node.value {
            Value::Map(entries) if entries.is_empty() => {
                let mut mappings = real.iter().copied().filter(|choice| accepts(choice, "object"));
                // Several mappings differ by their keys: without any key nobody knows which is meant.
                mappings.next().filter(|_| mappings.next().is_none())
            }
            Value::Map(entries) => self.fitting(entries, &real),
            Value::Text(_) => real.iter().copied().find(|choice| accepts(choice, "string")),
            Value::Integer(_) | Value::Float(_) => real.iter().copied().find(|choice| accepts(choice, "number")),
            Value::Null | Value::Bool(_) | Value::List(_) => None,
        };
        if let Some(choice) = fitting {
            return self.check(node, choice, pointer);
        }
        if matches!(&node.value, Value::Map(entries) if !entries.is_empty()) {
            // Its keys have been complained of.
            return Json::Null;
        }
        let mut wanted: Vec<String> = real.iter().map(|choice| wanted(choice)).collect();
        wanted.dedup();
        self.error(
            "wrong-type",
            node.place,
            format!("wanted {}, found {}", wanted.join(" or "), node.value.kind()),
            real.iter()
                .find_map(|choice| choice.get("examples")?.get(0))
                .map(|example| format!("write it like {example}")),
        );
        Json::Null
    }

    /// The one of several mappings that is meant, by its key.
    fn fitting(&mut self, entries: &[Entry], choices: &[&'a Json]) -> Option<&'a Json> {
        let holds = |choice: &Json, key: &str| {
            choice
                .pointer("/properties")
                .is_some_and(|held| held.get(key).is_some())
        };
        let mut found: Option<(&'a Json, &str)> = None;
        for entry in entries {
            let Some(choice) = choices.iter().copied().find(|choice| holds(choice, &entry.key)) else {
                continue;
            };
            match found {
                Some((other, first)) if !std::ptr::eq(other, choice) => {
                    let message = format!("{first} and {} at once, wanted exactly one", entry.key);
                    self.error("exactly-one", entry.key_place, message, None);
                    return None;
                }
                _ => found = Some((choice, &entry.key)),
            }
        }
        if found.is_none() {
            let known: Vec<&str> = choices
                .iter()
                .filter_map(|choice| choice.get("properties")?.as_object())
                .flat_map(|held| held.keys().map(String::as_str))
                .collect();
            for entry in entries {
                let help = suggestion(&entry.key, &known);
                let message = format!("unknown key {:?}", entry.key);
                self.error("unknown-key", entry.key_place, message, Some(help));
            }
        }
        found.map(|(choice, _)| choice)
    }

    fn map(&mut self, node: &Node, entries: &[Entry], schema: &'a Json, pointer: &str) -> Json {
        let properties = schema.get("properties").and_then(Json::as_object);
        let additional = schema.get("additionalProperties").filter(|held| held.is_object());
        let mut result = serde_json::Map::new();
        for entry in entries {
            let inner = format!("{pointer}/{}", entry.key);
            if self.places.keys.contains_key(&inner) {
                self.error(
                    "duplicate-key",
                    entry.key_place,
                    format!("the key {:?} stands here a second time", entry.key),
                    Some("keep one of the two".to_owned()),
                );
                continue;
            }
            self.places.keys.insert(inner.clone(), entry.key_place);
            let schema = properties
                .and_then(|properties| properties.get(&entry.key))
                .or(additional);
            if let Some(schema) = schema {
                let value = self.check(&entry.value, schema, &inner);
                result.insert(entry.key.clone(), value);
                continue;
            }
            let known: Vec<&str> = properties
                .map(|held| held.keys().map(String::as_str).collect())
                .unwrap_or_default();
            let help = suggestion(&entry.key, &known);
            self.error(
                "unknown-key",
                entry.key_place,
                format!("unknown key {:?}", entry.key),
                Some(help),
            );
        }
        let required = schema
            .get("required")
            .and_then(Json::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        for key in required.iter().filter_map(Json::as_str) {
            if result.contains_key(key) {
                continue;
            }
            let place = self.places.keys.get(pointer).copied().unwrap_or(node.place);
            let about = properties.and_then(|held| held.get(key)).and_then(|held| {
                let described = held.get("description");
                described.or_else(|| self.resolve(held).get("description"))
            });
            let help = about
                .and_then(Json::as_str)
                .map(|text| format!("{key}: {}", text.replace('\n', " ")));
            self.error("missing-key", place, format!("the key {key:?} is missing"), help);
            if let Some(schema) = properties.and_then(|held| held.get(key)) {
                result.insert(key.to_owned(), self.placeholder(schema));
            }
        }
        Json::Object(result)
    }

    fn number(&mut self, node: &Node, held: i64, schema: &'a Json) -> Json {
        let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
        #[expect(clippy::cast_precision_loss, reason = "bounds are small")]
        let value = held as f64;
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("between {least} and {most}"),
                (Some(least), None) => format!("at least {least}"),
                (None, Some(most)) => format!("at most {most}"),
                (None, None) => String::new(),
            };
            self.error(
                "out-of-range",
                node.place,
                format!("{held} is out of range: wanted a whole number {range}"),
                None,
            );
            return self.placeholder(schema);
        }
        Json::from(held)
    }

    fn text(&mut self, node: &Node, text: &str, schema: &'a Json) -> Json {
        let variable = text.contains("${");
        let Some(text) = self.substitute(node.place, text) else {
            return self.placeholder(schema);
        };
        if accepts(schema, "string") {
            let choices = schema.get("enum").and_then(Json::as_array);
            let constant = schema.get("const");
            let allowed: Vec<&str> = choices
                .into_iter()
                .flatten()
                .chain(constant)
                .filter_map(Json::as_str)
                .collect();
            if !allowed.is_empty() && !allowed.contains(&text.as_str()) {
                let message = match allowed.as_slice() {
                    [only] => format!("wanted {only:?}, found {text:?}"),
                    _ => format!("{text:?} is not one of {}", allowed.join(", ")),
                };
                let help = closest(&text, &allowed).filter(|_| allowed.len() > 1);
                self.error("unknown-value", node.place, message, help);
                return allowed.first().map_or(Json::Null, |first| Json::from(*first));
            }
            return Json::String(text);
        }
        // A variable may stand for a number or a boolean.
        if variable
            && accepts(schema, "integer")
            && let Ok(number) = text.parse::<i64>()
        {
            return self.number(node, number, schema);
        }
        if variable
            && accepts(schema, "boolean")
            && let Ok(held) = text.parse::<bool>()
        {
            return Json::Bool(held);
        }
        let help = (!variable && (text.parse::<f64>().is_ok() || text.parse::<bool>().is_ok()))
            .then(|| "leave the quotes out".to_owned());
        self.error(
            "wrong-type",
            node.place,
            format!("wanted {}, found the text {text:?}", wanted(schema)),
            help,
        );
        self.placeholder(schema)
    }

    /// `${NAME}`, `${NAME:-default}`; `$${` is a plain `${`. Applied to single values after parsing: a variable can never bring
    /// in structure.
    fn substitute(&mut self, place: Place, text: &str) -> Option<String> {
        let mut result = String::new();
        let mut rest = text;
        let mut complete = true;
        while let Some(start) = rest.find("${") {
            let (before, after) = rest.split_at(start);
            if let Some(before) = before.strip_suffix('$') {
                result.push_str(before);
                result.push_str("${");
                rest = after.get(2..).unwrap_or_default();
                continue;
            }
            result.push_str(before);
            let inside = after.get(2..).unwrap_or_default();
            let Some(end) = inside.find('}') else {
                self.error(
                    "variable",
                    place,
                    format!("the variable in {text:?} is not closed"),
                    Some("write ${NAME} or ${NAME:-default}".to_owned()),
                );
                return None;
            };
            let (expression, after) = inside.split_at(end);
            let (name, default) = match expression.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (expression, None),
            };
            let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !valid {
                self.error(
                    "variable",
                    place,
                    format!("{name:?} is no variable name"),
                    Some("names are letters, digits and underscores".to_owned()),
                );
                return None;
            }
            self.variables.insert(name.to_owned());
            if let Some(value) = (self.lookup)(name).or_else(|| default.map(str::to_owned)) {
                result.push_str(&value);
            } else {
                let help = format!("give it with --var {name}=VALUE, or a default: ${{{name}:-value}}");
                self.error(
                    "variable-unset",
                    place,
                    format!("the variable {name} has no value"),
                    Some(help),
                );
                complete = false;
            }
            rest = after.get(1..).unwrap_or_default();
        }
        result.push_str(rest);
        complete.then_some(result)
    }
}

fn accepts(schema: &Json, wanted: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(held)) => held == wanted,
        Some(Json::Array(held)) => held.iter().any(|held| held == wanted),
        _ => false,
    }
}

fn is_duration(schema: &Json) -> bool {
    schema
        .get("examples")
        .is_some_and(|examples| examples.to_string().contains("ms"))
}

fn wanted(schema: &Json) -> String {
    let word = |kind: &str| match kind {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        _ => "nothing",
    };
    match schema.get("type") {
        Some(Json::String(kind)) => word(kind).to_owned(),
        Some(Json::Array(kinds)) => {
            let words: Vec<&str> = kinds
                .iter()
                .filter_map(Json::as_str)
                .filter(|kind| *kind != "null")
                .map(word)
                .collect();
            words.join(" or ")
        }
        _ => "something else".to_owned(),
    }
}

/// `did you mean`, or the whole list.
pub(super) fn suggestion(found: &str, known: &[&str]) -> String {
    closest(found, known).unwrap_or_else(|| format!("known here: {}", known.join(", ")))
}

/// `did you mean`, when something known is close.
fn closest(found: &str, known: &[&str]) -> Option<String> {
    let found = found.to_lowercase();
    known
        .iter()
        .map(|held| (strsim::jaro_winkler(&held.to_lowercase(), &found), *held))
        .filter(|(score, _)| *score > 0.78)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, held)| format!("did you mean {held:?}?"))
}
