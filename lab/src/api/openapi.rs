//! `OpenAPI` documents: as much as `kubectl` needs to trust the server with the validation of what it sends.
//!
//! Before `create` and `apply`, `kubectl` looks in the `OpenAPI` v3 document of the group version for a PATCH of the
//! kind with a `fieldValidation` parameter; without one it validates by a schema of its own and fails for want of it.
//! So each document lists paths and parameters. Schemas are given for custom resources alone (`kubectl explain` works
//! for these); those of the built-in kinds are not. Made from the registry at each request, so definitions count at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::registry::ResourceType;
use super::server::ApiServer;
use super::status::{ApiError, json_response};

/// `/openapi/v2` and `/openapi/v3`.
pub(crate) fn router() -> axum::Router<Arc<ApiServer>> {
    use axum::routing::get;
    axum::Router::new()
        .route("/openapi/v2", get(version_two))
        .route("/openapi/v3", get(index))
        .route("/openapi/v3/", get(index))
        .route("/openapi/v3/api/{version}", get(core_document))
        .route("/openapi/v3/apis/{group}/{version}", get(group_document))
}

/// The path of a group version below the server's root.
fn root(resource: &ResourceType) -> String {
    if resource.group.is_empty() {
        format!("api/{}", resource.version)
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

async fn index(State(server): State<Arc<ApiServer>>) -> Response {
    let mut documents: BTreeMap<String, Vec<Arc<ResourceType>>> = BTreeMap::new();
    for resource in server.registry().all() {
        documents.entry(root(&resource)).or_default().push(resource);
    }
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(path, resources)| {
            // Clients cache a document by this address, so the hash changes with the content.
            let hash = Sha256::digest(document(&resources).to_string());
            let short: String = hash.iter().take(16).map(|byte| format!("{byte:02X}")).collect();
            let address = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={short}")});
            (path, address)
        })
        .collect();
    json_response(StatusCode::OK, &json!({"paths": paths}))
}

async fn core_document(
    State(server): State<Arc<ApiServer>>,
    Path(version): Path<String>,
    headers: HeaderMap,
) -> Response {
    respond(&server, "", &version, &headers)
}

async fn group_document(
    State(server): State<Arc<ApiServer>>,
    Path((group, version)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    respond(&server, &group, &version, &headers)
}

fn respond(server: &ApiServer, group: &str, version: &str, headers: &HeaderMap) -> Response {
    if !accepts_json(headers) {
        return ApiError::not_acceptable().into_response();
    }
    let resources: Vec<Arc<ResourceType>> = server
        .registry()
        .all()
        .into_iter()
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    if resources.is_empty() {
        return ApiError::no_such_path().into_response();
    }
    json_response(StatusCode::OK, &document(&resources))
}

/// The document of one group version.
fn document(resources: &[Arc<ResourceType>]) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in resources {
        let schema = schema_name(resource);
        if let Some(custom) = resource.custom.as_ref().and_then(|custom| custom.schema.as_ref()) {
            let mut found = custom.clone();
            super::object::set(
                &mut found,
                "/x-kubernetes-group-version-kind",
                json!([kind_of(resource)]),
            );
            schemas.insert(schema.clone(), found);
        }
        let known = schemas.contains_key(&schema).then_some(schema.as_str());
        let scope = if resource.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("/{}{scope}/{}", root(resource), resource.plural);
        paths.insert(collection.clone(), collection_item(resource, known));
        if resource.create_only {
            continue;
        }
        paths.insert(format!("{collection}/{{name}}"), object_item(resource, known));
        if resource.has("status") {
            paths.insert(format!("{collection}/{{name}}/status"), object_item(resource, known));
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0+chaosrun-lab"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn kind_of(resource: &ResourceType) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// Reversed group, version and kind, as the definitions of custom resources are named on a cluster.
fn schema_name(resource: &ResourceType) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version.as_str(), resource.kind.as_str()]);
    parts.join(".")
}

fn operation(resource: &ResourceType, action: &str, schema: Option<&str>, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let mut content = json!({});
    if let Some(schema) = schema {
        content = json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
    }
    json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind_of(resource),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
    })
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "pretty"];
const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force", "pretty"];
const READ: &[&str] = &["pretty"];

fn collection_item(resource: &ResourceType, schema: Option<&str>) -> Value {
    let mut item = json!({"post": operation(resource, "post", schema, WRITE)});
    if !resource.create_only {
        super::object::set(&mut item, "/get", operation(resource, "list", None, READ));
    }
    item
}

fn object_item(resource: &ResourceType, schema: Option<&str>) -> Value {
    json!({
        "get": operation(resource, "get", schema, READ),
        "put": operation(resource, "put", schema, WRITE),
        "patch": operation(resource, "patch", schema, PATCH),
        "delete": operation(resource, "delete", None, &["dryRun", "propagationPolicy"]),
    })
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else {
        return true;
    };
    accept.split(',').any(|part| {
        let media = part.split(';').next().unwrap_or_default().trim();
        matches!(media, "application/json" | "application/*" | "*/*")
    })
}

/// The older document. `kubectl` up to 1.23 asks for it, in protobuf alone, before it applies anything; later ones go by
/// version 3.
async fn version_two(headers: HeaderMap) -> Response {
    if accepts_json(&headers) {
        return json_response(
            StatusCode::OK,
            &json!({
                "swagger": "2.0",
                "info": {"title": TITLE, "version": VERSION},
                "paths": {},
                "definitions": {},
            }),
        );
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| PROTOBUF.iter().any(|media| accept.contains(media))) {
        return ([(header::CONTENT_TYPE, PROTOBUF[0])], version_two_protobuf()).into_response();
    }
    ApiError::not_acceptable().into_response()
}

const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.33.0+chaosrun-lab";
/// What is answered, and what older clients ask for: an `@` is no part of a media type, and they cannot read it themselves.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// The same as a message of `openapi.v2.Document` (gnostic's `OpenAPIv2.proto`): `swagger` is field 1, `info` field 2, and in it
/// `title` is 1 and `version` 2. A client that finds no definition of a kind leaves its validation to the server.
fn version_two_protobuf() -> Vec<u8> {
    let mut info = text_field(1, TITLE.as_bytes());
    info.extend(text_field(2, VERSION.as_bytes()));
    let mut document = text_field(1, b"2.0");
    document.extend(text_field(2, &info));
    document
}

/// A length-delimited field (wire type 2) of less than 128 bytes, so that its length is one byte.
fn text_field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(0x7f).min(0x7f);
    let mut field = vec![number << 3 | 2, length];
    field.extend(content.iter().take(usize::from(length)));
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::registry::Registry;

    #[test]
    fn every_kind_can_be_patched_with_field_validation() {
        let all: Vec<_> = Registry::new()
            .all()
            .into_iter()
            .filter(|resource| !resource.create_only)
            .collect();
        for resource in &all {
            let found = document(std::slice::from_ref(resource));
            let named = found["paths"].as_object().unwrap().values().any(|item| {
                item["patch"]["x-kubernetes-group-version-kind"] == kind_of(resource)
                    && item["patch"]["parameters"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|one| one["name"] == "fieldValidation")
            });
            assert!(named, "{}", resource.kind);
        }
        assert!(all.len() > 20);
    }

    #[tokio::test]
    async fn an_old_kubectl_is_answered_in_protobuf() {
        let mut headers = HeaderMap::new();
        assert!(accepts_json(&headers));
        headers.insert(header::ACCEPT, PROTOBUF[1].parse().unwrap());
        assert!(!accepts_json(&headers));
        let answer = version_two(headers).await;
        assert_eq!(answer.headers()[header::CONTENT_TYPE], PROTOBUF[0]);
        let bytes = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
        let wanted = [
            &b"\x0a\x032.0\x12\x22\x0a\x0aKubernetes\x12\x14"[..],
            b"v1.33.0+chaosrun-lab",
        ]
        .concat();
        assert_eq!(bytes.as_ref(), wanted);
        let mut other = HeaderMap::new();
        other.insert(header::ACCEPT, "text/html".parse().unwrap());
        assert_eq!(version_two(other).await.status(), StatusCode::NOT_ACCEPTABLE);
    }
}
