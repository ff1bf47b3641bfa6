//! Subresources: status, scale, eviction, binding, ephemeral containers, tokens; streams are handed on.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::body::read_object;
use super::object::{i64_at, name, set, str_at, uid};
use super::patches::{PatchKind, patch, patched, read_patch};
use super::registry::ResourceType;
use super::request::Target;
use super::selectors::LabelSelector;
use super::server::ApiServer;
use super::status::{ApiError, json_response};
use super::writes::{Part, WriteOptions};

pub(crate) async fn serve_subresource(
    server: &Arc<ApiServer>,
    target: Target,
    subresource: &str,
    request: Request,
) -> Result<Response, ApiError> {
    if !target.resource.has(subresource) {
        return Err(ApiError::no_such_path());
    }
    match (subresource, request.method().clone()) {
        ("status" | "ephemeralcontainers" | "resize", Method::GET) => {
            let stored = server.existing(&target.resource, &target.key())?;
            Ok(target.render.response(StatusCode::OK, &target.resource, &stored))
        }
        ("status", Method::PUT) => {
            let options = target.write_options(Part::Status, &request);
            let body = read_object(request).await?;
            let stored = server.change_object(&target.resource, &target.key(), &options, &|_| Ok(body.clone()))?;
            Ok(target.render.response(StatusCode::OK, &target.resource, &stored))
        }
        ("status", Method::PATCH) => patch(server, &target, Part::Status, request).await,
        ("scale", _) => scale(server, &target, request).await,
        (stream, _) if super::stream::is_stream(stream) => {
            let pod = server.existing(&target.resource, &target.key())?;
            super::stream::handle(server, &pod.value, subresource, request).await
        }
        ("eviction", Method::POST) => {
            let body = read_object(request).await?;
            super::eviction::evict(server, &target, &body)
        }
        ("binding", Method::POST) => {
            let body = read_object(request).await?;
            bind(server, &target, &body)
        }
        ("ephemeralcontainers" | "resize", Method::PUT) => {
            let options = target.write_options(Part::Internal, &request);
            let body = read_object(request).await?;
            let change = |existing: &Value| only_containers(server, &target.resource, subresource, existing, &body);
            let stored = server.change_object(&target.resource, &target.key(), &options, &change)?;
            Ok(target.render.response(StatusCode::OK, &target.resource, &stored))
        }
        ("ephemeralcontainers" | "resize", Method::PATCH) => {
            let (kind, options, body) = read_patch(&target, Part::Internal, request).await?;
            let change = |existing: &Value| {
                let wanted = patched(kind, &target.resource, existing, &body)?;
                only_containers(server, &target.resource, subresource, existing, &wanted)
            };
            let stored = server.change_object(&target.resource, &target.key(), &options, &change)?;
            Ok(target.render.response(StatusCode::OK, &target.resource, &stored))
        }
        ("finalize", Method::PUT) => {
            let options = target.write_options(Part::Internal, &request);
            let body = read_object(request).await?;
            let change = |existing: &Value| {
                let mut next = existing.clone();
                super::object::copy(&body, &mut next, "/spec/finalizers");
                Ok(next)
            };
            let stored = server.change_object(&target.resource, &target.key(), &options, &change)?;
            Ok(target.render.response(StatusCode::OK, &target.resource, &stored))
        }
        ("token", Method::POST) => super::auth::issue_token(server, &target.key(), read_object(request).await?),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The part of the pod that a subresource may change.
fn only_containers(
    server: &ApiServer,
    resource: &ResourceType,
    subresource: &str,
    existing: &Value,
    wanted: &Value,
) -> Result<Value, ApiError> {
    let mut next = existing.clone();
    super::object::copy(wanted, &mut next, "/metadata/resourceVersion");
    if subresource == "resize" {
        super::object::copy(wanted, &mut next, "/spec/containers");
        return Ok(next);
    }
    super::object::copy(wanted, &mut next, "/spec/ephemeralContainers");
    super::pod_defaults::ephemeral_containers(&mut next);
    let mut problems = Vec::new();
    super::pod_validation::ephemeral_containers(existing, &next, &mut problems);
    if problems.is_empty() {
        server.check_pod_security(resource, &next)?;
        Ok(next)
    } else {
        Err(ApiError::invalid(resource, super::object::name(existing), problems))
    }
}

fn bind(server: &ApiServer, target: &Target, body: &Value) -> Result<Response, ApiError> {
    let node = str_at(body, "/target/name").unwrap_or_default().to_owned();
    let key = target.key();
    let change = |existing: &Value| {
        if super::object::is_set(existing, "/spec/nodeName") {
            let present = str_at(existing, "/spec/nodeName").unwrap_or_default();
            return Err(ApiError::conflict(
                &target.resource,
                &key.name,
                &format!("pod {} is already assigned to node \"{present}\"", key.name),
            ));
        }
        let mut next = existing.clone();
        set(&mut next, "/spec/nodeName", node.clone());
        let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": super::object::now()});
        super::patch::strategic_merge(&mut next, &json!({"status": {"conditions": [condition]}}))?;
        Ok(next)
    };
    server.change_object(&target.resource, &key, &WriteOptions::internal(), &change)?;
    Ok(json_response(
        StatusCode::CREATED,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

async fn scale(server: &Arc<ApiServer>, target: &Target, request: Request) -> Result<Response, ApiError> {
    let Some(paths) = target.resource.scale_paths() else {
        return Err(ApiError::no_such_path());
    };
    let key = target.key();
    let shown = |object: &Value| {
        let selector = paths.selector.as_deref().and_then(|pointer| object.pointer(pointer));
        let selector = match selector {
            Some(Value::String(text)) => text.clone(),
            Some(map) if target.resource.plural == "replicationcontrollers" => LabelSelector::from_map(map).to_query(),
            found => LabelSelector::from_object(found).to_query(),
        };
        let mut status = json!({"replicas": i64_at(object, &paths.status).unwrap_or(0)});
        if !selector.is_empty() {
            set(&mut status, "/selector", selector);
        }
        let metadata = json!({
            "name": name(object), "namespace": super::object::namespace(object), "uid": uid(object),
            "resourceVersion": str_at(object, "/metadata/resourceVersion"),
            "creationTimestamp": str_at(object, "/metadata/creationTimestamp"),
        });
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": i64_at(object, &paths.spec).unwrap_or(0)}, "status": status,
        })
    };
    let replaced = |existing: &Value, scale: &Value| -> Result<Value, ApiError> {
        let replicas = i64_at(scale, "/spec/replicas").unwrap_or(0);
        if replicas < 0 {
            let cause =
                super::status::Cause::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
            return Err(ApiError::invalid(&target.resource, &key.name, vec![cause]));
        }
        let mut next = existing.clone();
        set(&mut next, &paths.spec, replicas);
        if super::object::is_set(scale, "/metadata/resourceVersion") {
            super::object::copy(scale, &mut next, "/metadata/resourceVersion");
        }
        Ok(next)
    };
    let stored = match *request.method() {
        Method::GET => server.existing(&target.resource, &key)?,
        Method::PUT => {
            let options = target.write_options(Part::Main, &request);
            let body = read_object(request).await?;
            server.change_object(&target.resource, &key, &options, &|existing| replaced(existing, &body))?
        }
        Method::PATCH => {
            let (kind, options, body) = read_patch(target, Part::Main, request).await?;
            let change = |existing: &Value| {
                let scale = shown(existing);
                let kind = if kind == PatchKind::Apply {
                    PatchKind::Merge
                } else {
                    kind
                };
                replaced(existing, &patched(kind, &target.resource, &scale, &body)?)
            };
            server.change_object(&target.resource, &key, &options, &change)?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(json_response(StatusCode::OK, &shown(&stored.value)))
}
