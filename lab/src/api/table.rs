//! Tables for `kubectl get`.

use serde_json::{Value, json};

use super::registry::ResourceType;

/// Objects as a `meta.k8s.io/v1 Table`.
pub(crate) fn to_table(
    _resource: &ResourceType,
    objects: &[&Value],
    now: jiff::Timestamp,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let created = super::object::str_at(object, "/metadata/creationTimestamp").unwrap_or_default();
            let age = created.parse::<jiff::Timestamp>().map_or(0, |at| now.as_second() - at.as_second());
            json!({
                "cells": [super::object::name(object), format!("{age}s")],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")},
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            {"name": "Age", "type": "string", "format": "", "description": "", "priority": 0},
        ],
        "rows": rows,
    })
}
