//! PATCH requests: which kind of patch a body is, and how it becomes a write.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::body::{decode_json, decode_yaml, media_type, read_bytes};
use super::registry::ResourceType;
use super::request::Target;
use super::server::ApiServer;
use super::status::ApiError;
use super::writes::{Part, WriteOptions};

/// Which kind of patch a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

pub(crate) async fn patch(
    server: &Arc<ApiServer>,
    target: &Target,
    part: Part,
    request: Request,
) -> Result<Response, ApiError> {
    let (kind, options, body) = read_patch(target, part, request).await?;
    let resource = &target.resource;
    let key = target.key();
    if kind == PatchKind::Apply {
        return apply(server, target, &body, &options);
    }
    let change = |existing: &Value| {
        let mut existing = existing.clone();
        super::events::to_shown(resource, &mut existing);
        patched(kind, resource, &existing, &body)
    };
    let stored = server.change_object(resource, &key, &options, &change)?;
    Ok(target.render.response(StatusCode::OK, resource, &stored))
}

pub(crate) async fn read_patch(
    target: &Target,
    part: Part,
    request: Request,
) -> Result<(PatchKind, WriteOptions, Value), ApiError> {
    let mut options = target.write_options(part, &request);
    let kind = match media_type(request.headers()).as_str() {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" if target.resource.custom.is_none() => PatchKind::Strategic,
        "application/apply-patch+yaml" => PatchKind::Apply,
        _ => {
            return Err(ApiError::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
            ));
        }
    };
    if kind == PatchKind::Apply && target.query.get("fieldManager").is_none_or(str::is_empty) {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    options.tracked |= kind == PatchKind::Apply;
    let bytes = read_bytes(request).await?;
    let body = if kind == PatchKind::Apply {
        decode_yaml(&bytes)?
    } else {
        decode_json(&bytes)?
    };
    Ok((kind, options, body))
}

pub(crate) fn patched(
    kind: PatchKind,
    resource: &ResourceType,
    existing: &Value,
    body: &Value,
) -> Result<Value, ApiError> {
    let mut next = existing.clone();
    match kind {
        PatchKind::Json => super::patch::json_patch(&mut next, body.clone())?,
        PatchKind::Merge => super::patch::merge_patch(&mut next, body),
        PatchKind::Strategic => super::patch::strategic_merge(&mut next, body)?,
        PatchKind::Apply => next = super::apply::apply(Some(existing), body, "", false, resource)?,
    }
    // A patch that does not speak of the resource version is no claim about it.
    Ok(next)
}

/// What is applied must be what the path says.
fn check_applied(resource: &ResourceType, wanted: &str, body: &Value) -> Result<(), ApiError> {
    let says = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = says("/metadata/name");
    if !name.is_empty() && name != wanted {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let version = resource.api_version();
    if says("/apiVersion") != version || says("/kind") != resource.kind {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {}, Kind={}, expected {version}, Kind={}",
            says("/apiVersion"),
            says("/kind"),
            resource.kind
        )));
    }
    Ok(())
}

fn apply(server: &ApiServer, target: &Target, body: &Value, options: &WriteOptions) -> Result<Response, ApiError> {
    let resource = &target.resource;
    let force = target.query.is_true("force");
    let key = target.key();
    check_applied(resource, &key.name, body)?;
    if options.part == Part::Main && server.store().get(&resource.storage, &key).is_none() {
        let mut fresh = super::apply::apply(None, body, &options.manager, force, resource)?;
        super::object::set_default(&mut fresh, "/metadata/name", key.name.clone());
        match server.create_object(resource, target.namespace.as_deref(), fresh, options) {
            Ok(stored) => {
                return Ok(target.render.response(StatusCode::CREATED, resource, &stored));
            }
            // Created by someone else in between: apply onto that.
            Err(error) if error.reason == "AlreadyExists" => {}
            Err(error) => return Err(error),
        }
    }
    let change = |existing: &Value| super::apply::apply(Some(existing), body, &options.manager, force, resource);
    let stored = server.change_object(resource, &key, options, &change)?;
    Ok(target.render.response(StatusCode::OK, resource, &stored))
}
