//! Tables for `kubectl get`: `meta.k8s.io/v1 Table`.
//!
//! The server decides which columns a kind has; `kubectl` only prints them. Pure: objects and the present instant in,
//! a table out. Rooms: [`kinds`] (the built-in kinds), [`pods`] (what the STATUS of a pod is), [`path`] (the columns
//! of custom resources). Source: `k8s.io/kubernetes/pkg/printers/internalversion`.

mod kinds;
mod path;
mod pods;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{i64_at, is_deleting, name, str_at};
use super::registry::ResourceType;

/// What each row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata.
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// From the query parameter.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    /// Columns above 0 are only shown by `-o wide`.
    priority: i64,
}

impl Column {
    fn new(name: &str, kind: &str, priority: i64) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: if name == "Name" {
                "name".to_owned()
            } else {
                String::new()
            },
            description: String::new(),
            priority,
        }
    }

    fn to_value(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format, "description": self.description,
            "priority": self.priority,
        })
    }
}

/// Objects as a table.
pub(crate) fn to_table(resource: &ResourceType, objects: &[&Value], now: Timestamp, include: IncludeObject) -> Value {
    let layout = Layout::of(resource);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": layout.cells(object, now)});
            let carried = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Object => (*object).clone(),
                IncludeObject::Metadata => json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": object.get("metadata"),
                }),
            };
            super::object::set(&mut row, "/object", carried);
            if let Some(phase @ ("Succeeded" | "Failed")) = str_at(object, "/status/phase")
                && resource.is("", "pods")
            {
                let completed = json!([{"type": "Completed", "status": "True", "reason": phase,
                    "message": "The pod has completed"}]);
                super::object::set(&mut row, "/conditions", completed);
            }
            row
        })
        .collect();
    let columns: Vec<Value> = layout.columns().iter().map(Column::to_value).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows,
    })
}

/// How the rows of a kind are made.
enum Layout {
    BuiltIn(&'static kinds::Kind),
    Custom(Vec<(Column, String)>),
    Plain,
}

impl Layout {
    fn of(resource: &ResourceType) -> Self {
        if let Some(custom) = &resource.custom {
            let columns: Vec<(Column, String)> = custom
                .printer_columns
                .iter()
                .filter_map(|column| {
                    let text = |key: &str| str_at(column, key).unwrap_or_default().to_owned();
                    Some((
                        Column {
                            name: str_at(column, "/name")?.to_owned(),
                            kind: text("/type"),
                            format: text("/format"),
                            description: text("/description"),
                            priority: i64_at(column, "/priority").unwrap_or(0),
                        },
                        text("/jsonPath"),
                    ))
                })
                .collect();
            return if columns.is_empty() {
                Self::Plain
            } else {
                Self::Custom(columns)
            };
        }
        kinds::find(&resource.group, &resource.kind).map_or(Self::Plain, Self::BuiltIn)
    }

    fn columns(&self) -> Vec<Column> {
        match self {
            Self::BuiltIn(kind) => kind
                .columns
                .iter()
                .map(|(name, kind, priority)| Column::new(name, kind, *priority))
                .collect(),
            Self::Custom(columns) => std::iter::once(Column::new("Name", "string", 0))
                .chain(columns.iter().map(|(column, _)| column.clone()))
                .collect(),
            Self::Plain => vec![Column::new("Name", "string", 0), Column::new("Age", "date", 0)],
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self {
            Self::BuiltIn(kind) => (kind.cells)(object, now),
            Self::Custom(columns) => std::iter::once(json!(name(object)))
                .chain(
                    columns
                        .iter()
                        .map(|(column, path)| custom_cell(object, column, path, now)),
                )
                .collect(),
            Self::Plain => vec![json!(name(object)), json!(age(object, now))],
        }
    }
}

fn custom_cell(object: &Value, column: &Column, path: &str, now: Timestamp) -> Value {
    let found = path::find(object, path);
    let Some(value) = found.first() else { return Value::Null };
    match (column.kind.as_str(), *value) {
        ("date", value) => value
            .as_str()
            .map_or_else(|| json!("<unknown>"), |text| json!(since(Some(text), now))),
        ("string", Value::String(text)) => json!(text),
        ("string", Value::Array(_) | Value::Object(_)) => json!(value.to_string()),
        ("string", Value::Null) => Value::Null,
        ("string", other) => json!(other.to_string()),
        ("integer" | "number" | "boolean", value) => value.clone(),
        _ => Value::Null,
    }
}

/// AGE of an object.
fn age(object: &Value, now: Timestamp) -> String {
    since(str_at(object, "/metadata/creationTimestamp"), now)
}

/// The time since an instant, as `kubectl` words it.
fn since(instant: Option<&str>, now: Timestamp) -> String {
    instant
        .and_then(|text| text.parse::<Timestamp>().ok())
        .map_or_else(|| "<unknown>".to_owned(), |at| human(now.as_second() - at.as_second()))
}

/// A duration in the two units that matter: `45s`, `3m20s`, `5h`, `2d3h`.
fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, "d", hours % 24, "h")
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if years < 8 {
        two(years, "y", days % 365, "d")
    } else {
        format!("{years}y")
    }
}

/// Whether the object is on its way out, for kinds that show it.
fn terminating(object: &Value) -> bool {
    is_deleting(object)
}

#[cfg(test)]
mod tests;
