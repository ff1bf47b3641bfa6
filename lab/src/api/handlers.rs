//! From paths and methods to verbs on resources.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::auth::User;
use super::authorizer::Attributes;
use super::body::{decode, read_bytes_with_type, read_object};
use super::lists::{key_of, list, start_watch};
use super::object::{i64_at, name, str_at, uid};
use super::patches::patch;
use super::registry::ResourceType;
use super::request::{Query, Render, Target, parse_path};
use super::server::ApiServer;
use super::status::{ApiError, json_response, success};
use super::subresources::serve_subresource;
use super::writes::{DeleteOptions, Part, WriteOptions};

/// Serves every path below `/api` and `/apis` that names a resource.
pub(crate) async fn resources(State(server): State<Arc<ApiServer>>, request: Request) -> Response {
    match route(&server, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn route(server: &Arc<ApiServer>, request: Request) -> Result<Response, ApiError> {
    let Some((resource, namespace, name, subresource)) = parse_path(server, request.uri().path()) else {
        return Err(ApiError::no_such_path());
    };
    if resource.namespaced != namespace.is_some() && (!resource.namespaced || name.is_some()) {
        return Err(ApiError::no_such_path());
    }
    let query = Query::parse(request.uri().query());
    let render = Render::from_accept(request.headers(), &query)?;
    let target = Target {
        resource,
        namespace,
        name,
        subresource,
        query,
        render,
    };
    let verb = verb(&target, &request);
    account(server, &target, &request, verb);
    authorize(server, &target, &request, verb)?;
    match target.subresource.clone() {
        Some(subresource) => serve_subresource(server, target, &subresource, request).await,
        None if target.name.is_some() => named(server, target, request).await,
        None => collection(server, target, request).await,
    }
}

/// What a request does, in the words of RBAC.
fn verb(target: &Target, request: &Request) -> &'static str {
    let watch = target.query.is_true("watch");
    match *request.method() {
        Method::GET if watch => "watch",
        Method::GET if target.name.is_some() => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_some() => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}

fn authorize(server: &ApiServer, target: &Target, request: &Request, verb: &str) -> Result<(), ApiError> {
    let Some(user) = request.extensions().get::<User>() else {
        return Err(ApiError::unauthorized());
    };
    // A namespace is in itself, so that a Role in it can speak of it.
    let itself = target
        .resource
        .is("", "namespaces")
        .then(|| target.name.clone())
        .flatten();
    let one = |query: &str| {
        let wanted = query
            .split(',')
            .find_map(|part| part.trim().strip_prefix("metadata.name="))?;
        Some(wanted.trim_start_matches('=').to_owned())
    };
    let named = || target.query.get("fieldSelector").and_then(one);
    let mut wanted = Attributes {
        verb: verb.to_owned(),
        group: target.resource.group.clone(),
        resource: full_name(target),
        namespace: target.namespace.clone().or(itself),
        name: target.name.clone().or_else(named),
        path: None,
    };
    server.authorize(user, &wanted)?;
    // A WebSocket opens with a GET. From 1.35 on both are asked for, before that `get` alone: who passes here passes everywhere.
    let streams = target.subresource.as_deref().is_some_and(super::stream::is_session);
    if streams && verb == "get" {
        "create".clone_into(&mut wanted.verb);
        server.authorize(user, &wanted)?;
    }
    Ok(())
}

/// The plural, with `/subresource` when there is one.
fn full_name(target: &Target) -> String {
    match &target.subresource {
        Some(subresource) => format!("{}/{subresource}", target.resource.plural),
        None => target.resource.plural.clone(),
    }
}

fn account(server: &ApiServer, target: &Target, request: &Request, verb: &str) {
    let resource = full_name(target);
    let agent = request
        .headers()
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    server.metrics().count(
        verb,
        &target.resource.group,
        &resource,
        target.namespace.as_deref().unwrap_or_default(),
        agent,
    );
}

async fn collection(server: &Arc<ApiServer>, target: Target, request: Request) -> Result<Response, ApiError> {
    match *request.method() {
        Method::POST => {
            if target.resource.namespaced && target.namespace.is_none() {
                return Err(ApiError::method_not_allowed());
            }
            if target.resource.create_only {
                return super::auth::review(server, &target, request).await;
            }
            let options = target.write_options(Part::Main, request.headers());
            let body = read_object(request).await?;
            let warnings = check_fields(&target, &body)?;
            let stored = server.create_object(&target.resource, target.namespace.as_deref(), body, &options)?;
            let response = target.render.response(StatusCode::CREATED, &target.resource, &stored);
            Ok(with_warnings(response, &warnings))
        }
        _ if target.resource.create_only => Err(ApiError::method_not_allowed()),
        Method::GET if target.query.is_true("watch") => start_watch(server, target, request).await,
        Method::GET => list(server, &target),
        Method::DELETE => delete_collection(server, &target, request).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn named(server: &Arc<ApiServer>, target: Target, request: Request) -> Result<Response, ApiError> {
    if target.resource.create_only {
        return Err(ApiError::method_not_allowed());
    }
    match *request.method() {
        Method::GET if target.query.is_true("watch") => start_watch(server, target, request).await,
        Method::GET => {
            let stored = server.existing(&target.resource, &target.key())?;
            Ok(target.render.response(StatusCode::OK, &target.resource, &stored))
        }
        Method::PUT => {
            let options = target.write_options(Part::Main, request.headers());
            let body = read_object(request).await?;
            let warnings = check_fields(&target, &body)?;
            Ok(with_warnings(put(server, &target, &body, &options)?, &warnings))
        }
        Method::PATCH => patch(server, &target, Part::Main, request).await,
        Method::DELETE => {
            let options = delete_options(&target, request).await?;
            let deleted = server.delete_object(&target.resource, &target.key(), &options)?;
            if !deleted.gone || returns_object(&target.resource) {
                return Ok(target
                    .render
                    .response(StatusCode::OK, &target.resource, &deleted.object));
            }
            let value = &deleted.object.value;
            Ok(json_response(
                StatusCode::OK,
                &success(&target.resource, name(value), uid(value)),
            ))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Fields that the kind does not have: with `fieldValidation=Strict` they are refused, with `Ignore` passed over, and else (as
/// since Kubernetes 1.25) the client is warned of them.
fn check_fields(target: &Target, body: &Value) -> Result<Vec<String>, ApiError> {
    let mode = target.query.get("fieldValidation").unwrap_or("Warn");
    if mode == "Ignore" {
        return Ok(Vec::new());
    }
    let unknown: Vec<String> = super::validation::unknown_fields(&target.resource, body)
        .iter()
        .map(|field| format!("unknown field \"{field}\""))
        .collect();
    if mode != "Strict" || unknown.is_empty() {
        return Ok(unknown);
    }
    let kind = &target.resource.kind;
    Err(ApiError::bad_request(format!(
        "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {}",
        target.resource.version,
        unknown.join(", ")
    )))
}

/// Adds `Warning` headers (RFC 7234, section 5.5), which kubectl prints.
fn with_warnings(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        // A name that cannot be in a header is not worth failing a write that was done.
        if let Ok(value) = header::HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// Kinds whose deletion answers with the object even when it is gone at once.
fn returns_object(resource: &ResourceType) -> bool {
    resource.group.is_empty()
        && matches!(
            resource.plural.as_str(),
            "pods"
                | "services"
                | "persistentvolumeclaims"
                | "persistentvolumes"
                | "serviceaccounts"
                | "podtemplates"
                | "resourcequotas"
        )
}

fn put(server: &ApiServer, target: &Target, body: &Value, options: &WriteOptions) -> Result<Response, ApiError> {
    let resource = &target.resource;
    let creates = matches!(
        resource.plural.as_str(),
        "leases" | "endpoints" | "events" | "limitranges" | "resourcequotas"
    );
    if creates && server.store().get(&resource.storage, &target.key()).is_none() {
        let mut body = body.clone();
        super::object::set_default(&mut body, "/metadata/name", target.name.clone().unwrap_or_default());
        let stored = server.create_object(resource, target.namespace.as_deref(), body, options)?;
        return Ok(target.render.response(StatusCode::CREATED, resource, &stored));
    }
    if resource.custom.is_some() && !super::object::is_set(body, "/metadata/resourceVersion") {
        server.existing(resource, &target.key())?;
        return Err(ApiError::invalid(
            resource,
            &target.key().name,
            vec![super::status::Cause::invalid(
                "metadata.resourceVersion",
                &json!(0),
                "must be specified for an update",
            )],
        ));
    }
    let stored = server.change_object(resource, &target.key(), options, &|_| Ok(body.clone()))?;
    Ok(target.render.response(StatusCode::OK, resource, &stored))
}

async fn delete_options(target: &Target, request: Request) -> Result<DeleteOptions, ApiError> {
    let bytes = read_bytes_with_type(request).await?;
    let body = if bytes.0.is_empty() {
        json!({})
    } else {
        decode(&bytes.1, &bytes.0)?
    };
    let query = &target.query;
    let propagation = str_at(&body, "/propagationPolicy").or_else(|| query.get("propagationPolicy"));
    if let Some(policy) = propagation
        && !matches!(policy, "Foreground" | "Background" | "Orphan")
    {
        return Err(ApiError::unprocessable(format!(
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{policy}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
        )));
    }
    let orphan = body
        .get("orphanDependents")
        .and_then(Value::as_bool)
        .map(|orphan| if orphan { "Orphan" } else { "Background" });
    Ok(DeleteOptions {
        grace_period_seconds: i64_at(&body, "/gracePeriodSeconds")
            .or_else(|| query.get("gracePeriodSeconds").and_then(|text| text.parse().ok())),
        propagation_policy: propagation.or(orphan).map(str::to_owned),
        uid: str_at(&body, "/preconditions/uid").map(str::to_owned),
        resource_version: str_at(&body, "/preconditions/resourceVersion").map(str::to_owned),
        dry_run: query.get("dryRun").is_some() || !super::object::array_at(&body, "/dryRun").is_empty(),
    })
}

async fn delete_collection(server: &ApiServer, target: &Target, request: Request) -> Result<Response, ApiError> {
    let filter = target.filter()?;
    let options = delete_options(target, request).await?;
    let listing = server
        .store()
        .list(&target.resource.storage, target.namespace.as_deref());
    let mut deleted = Vec::new();
    for object in listing.objects.iter().filter(|object| filter.matches(&object.value)) {
        match server.delete_object(&target.resource, &key_of(&object.value), &options) {
            Ok(one) => deleted.push(one.object.value.clone()),
            Err(error) if error.reason == "NotFound" => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": target.resource.list_kind, "apiVersion": target.resource.api_version(),
        "metadata": {"resourceVersion": server.store().revision().to_string()}, "items": deleted,
    });
    Ok(json_response(StatusCode::OK, &list))
}
