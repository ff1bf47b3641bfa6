//! From paths and methods to verbs on resources.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use super::object::{i64_at, name, set, str_at, uid};
use super::registry::ResourceType;
use super::selectors::{FieldSelector, LabelSelector};
use super::server::ApiServer;
use super::status::{ApiError, bytes_response, json_response, success};
use super::store::{ObjectKey, Stored};
use super::watch::{self, Filter, Start, WatchRequest};
use super::writes::{DeleteOptions, Part, WriteOptions};

/// Largest accepted body, as in Kubernetes.
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// How objects are to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Render {
    /// As they are.
    Plain,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// Metadata only.
    Partial,
}

impl Render {
    fn from_accept(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("*/*");
        for part in accept.split(',') {
            let media = part.split(';').next().unwrap_or_default().trim();
            if !matches!(
                media,
                "*/*" | "application/*" | "application/json" | "application/yaml" | ""
            ) {
                continue;
            }
            if part.contains("as=Table") && part.contains("v=v1") && !part.contains("v=v1beta1") {
                return Ok(Self::Table);
            }
            if part.contains("as=PartialObjectMetadata") && !part.contains("v=v1beta1") {
                return Ok(Self::Partial);
            }
            if !part.contains("as=") {
                return Ok(Self::Plain);
            }
        }
        Err(ApiError::not_acceptable())
    }

    /// Whether the serialized object of the store can be sent as it is.
    pub(crate) fn is_plain(self) -> bool {
        self == Self::Plain
    }

    /// Kind of a bookmark when it is not that of the resource.
    pub(crate) fn bookmark_kind(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Table => Some("Table"),
            Self::Partial => Some("PartialObjectMetadata"),
        }
    }

    /// An object inside a watch event.
    pub(crate) fn event_object(self, resource: &ResourceType, object: &Stored) -> Bytes {
        match self {
            Self::Plain => shown(resource, object),
            Self::Table => Bytes::from(
                super::table::to_table(resource, &[&object.value], jiff::Timestamp::now())
                    .to_string(),
            ),
            Self::Partial => Bytes::from(partial(&object.value).to_string()),
        }
    }

    fn response(self, code: StatusCode, resource: &ResourceType, object: &Stored) -> Response {
        bytes_response(code, self.event_object(resource, object))
    }
}

/// The object in the version that was asked for: versions share their storage.
fn shown(resource: &ResourceType, object: &Stored) -> Bytes {
    let api_version = resource.api_version();
    if str_at(&object.value, "/apiVersion") == Some(api_version.as_str())
        || object.value.get("kind").is_none()
    {
        return object.json();
    }
    let mut converted = object.value.clone();
    set(&mut converted, "/apiVersion", api_version);
    Bytes::from(converted.to_string())
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")})
}

/// A request for a resource.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) resource: Arc<ResourceType>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    pub(crate) query: Query,
    pub(crate) render: Render,
}

impl Target {
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(
            self.namespace.as_deref().unwrap_or_default(),
            self.name.as_deref().unwrap_or_default(),
        )
    }

    fn filter(&self) -> Result<Filter, ApiError> {
        let labels = self
            .query
            .get("labelSelector")
            .map_or_else(|| Ok(LabelSelector::default()), LabelSelector::parse);
        let mut fields = self
            .query
            .get("fieldSelector")
            .unwrap_or_default()
            .to_owned();
        if let Some(name) = &self.name {
            fields = format!("{fields},metadata.name={name}");
        }
        Ok(Filter {
            namespace: self.namespace.clone(),
            labels: labels.map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(&fields, &self.resource)?,
        })
    }

    fn write_options(&self, part: Part, headers: &HeaderMap) -> WriteOptions {
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("unknown");
        let manager = self
            .query
            .get("fieldManager")
            .filter(|manager| !manager.is_empty());
        WriteOptions {
            dry_run: self.query.get("dryRun").is_some(),
            manager: manager
                .unwrap_or_else(|| agent.split('/').next().unwrap_or(agent))
                .to_owned(),
            part,
            subresource: match (part, self.subresource.as_deref()) {
                (Part::Status, _) => Some("status"),
                (_, Some("scale")) => Some("scale"),
                _ => None,
            },
        }
    }
}

/// The query string, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(
            &format!("/?{}", query.unwrap_or_default())
                .parse()
                .unwrap_or_default(),
        );
        Self(
            query
                .map(|pairs| pairs.0.into_iter().collect())
                .unwrap_or_default(),
        )
    }

    pub(crate) fn get<'a>(&'a self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(String::as_str)
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1" | "True" | ""))
    }
}

/// Splits a path as Kubernetes does. `None`: not the path of a resource.
fn parse_path(
    server: &ApiServer,
    path: &str,
) -> Option<(
    Arc<ResourceType>,
    Option<String>,
    Option<String>,
    Option<String>,
)> {
    let mut parts = path
        .trim_matches('/')
        .split('/')
        .map(decoded)
        .collect::<Vec<_>>()
        .into_iter();
    let (group, version) = match parts.next()?.as_str() {
        "api" => (String::new(), parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let mut rest: Vec<String> = parts.collect();
    let mut namespace = None;
    let is_namespaced = rest.first().is_some_and(|first| first == "namespaces")
        && rest.len() >= 3
        && !(rest.len() == 3
            && matches!(rest.get(2).map(String::as_str), Some("status" | "finalize")));
    if is_namespaced {
        namespace = rest.get(1).cloned();
        rest.drain(..2);
    }
    let mut rest = rest.into_iter();
    let resource = server.registry().get(&group, &version, &rest.next()?)?;
    let name = rest.next();
    let subresource = rest.next();
    Some((resource, namespace, name, subresource))
}

fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut input = part.bytes();
    while let Some(byte) = input.next() {
        let hex = if byte == b'%' {
            let pair = [
                input.next().unwrap_or_default(),
                input.next().unwrap_or_default(),
            ];
            std::str::from_utf8(&pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        } else {
            None
        };
        bytes.push(hex.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Serves every path below `/api` and `/apis` that names a resource.
pub(crate) async fn resources(State(server): State<Arc<ApiServer>>, request: Request) -> Response {
    match route(&server, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn route(server: &Arc<ApiServer>, request: Request) -> Result<Response, ApiError> {
    let Some((resource, namespace, name, subresource)) = parse_path(server, request.uri().path())
    else {
        return Err(ApiError::no_such_path());
    };
    if resource.namespaced != namespace.is_some() && (!resource.namespaced || name.is_some()) {
        return Err(ApiError::no_such_path());
    }
    let query = Query::parse(request.uri().query());
    let render = Render::from_accept(request.headers())?;
    let target = Target {
        resource,
        namespace,
        name,
        subresource,
        query,
        render,
    };
    account(server, &target, &request);
    match target.subresource.clone() {
        Some(subresource) => serve_subresource(server, target, &subresource, request).await,
        None if target.name.is_some() => named(server, target, request).await,
        None => collection(server, target, request).await,
    }
}

fn account(server: &ApiServer, target: &Target, request: &Request) {
    let watch = target.query.is_true("watch");
    let verb = match *request.method() {
        Method::GET if watch => "watch",
        Method::GET if target.name.is_some() => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_some() => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    };
    let resource = match &target.subresource {
        Some(subresource) => format!("{}/{subresource}", target.resource.plural),
        None => target.resource.plural.clone(),
    };
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

async fn collection(
    server: &Arc<ApiServer>,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
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
            let stored = server.create_object(
                &target.resource,
                target.namespace.as_deref(),
                body,
                &options,
            )?;
            Ok(target
                .render
                .response(StatusCode::CREATED, &target.resource, &stored))
        }
        _ if target.resource.create_only => Err(ApiError::method_not_allowed()),
        Method::GET if target.query.is_true("watch") => start_watch(server, target, request).await,
        Method::GET => list(server, &target),
        Method::DELETE => delete_collection(server, &target, request).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn named(
    server: &Arc<ApiServer>,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    if target.resource.create_only {
        return Err(ApiError::method_not_allowed());
    }
    match *request.method() {
        Method::GET if target.query.is_true("watch") => start_watch(server, target, request).await,
        Method::GET => {
            let stored = server.existing(&target.resource, &target.key())?;
            Ok(target
                .render
                .response(StatusCode::OK, &target.resource, &stored))
        }
        Method::PUT => {
            let options = target.write_options(Part::Main, request.headers());
            let body = read_object(request).await?;
            put(server, &target, &body, &options)
        }
        Method::PATCH => patch(server, &target, Part::Main, request).await,
        Method::DELETE => {
            let options = delete_options(&target, request).await?;
            let deleted = server.delete_object(&target.resource, &target.key(), &options)?;
            if !deleted.gone || returns_object(&target.resource) {
                return Ok(target.render.response(
                    StatusCode::OK,
                    &target.resource,
                    &deleted.object,
                ));
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

fn put(
    server: &ApiServer,
    target: &Target,
    body: &Value,
    options: &WriteOptions,
) -> Result<Response, ApiError> {
    let resource = &target.resource;
    let creates = matches!(
        resource.plural.as_str(),
        "leases" | "endpoints" | "events" | "limitranges" | "resourcequotas"
    );
    if creates
        && server
            .store()
            .get(&resource.storage, &target.key())
            .is_none()
    {
        let mut body = body.clone();
        super::object::set_default(
            &mut body,
            "/metadata/name",
            target.name.clone().unwrap_or_default(),
        );
        let stored = server.create_object(resource, target.namespace.as_deref(), body, options)?;
        return Ok(target
            .render
            .response(StatusCode::CREATED, resource, &stored));
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

/// Which kind of patch a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

async fn patch(
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
    let change = |existing: &Value| patched(kind, resource, existing, &body);
    let stored = server.change_object(resource, &key, &options, &change)?;
    Ok(target.render.response(StatusCode::OK, resource, &stored))
}

async fn read_patch(
    target: &Target,
    part: Part,
    request: Request,
) -> Result<(PatchKind, WriteOptions, Value), ApiError> {
    let options = target.write_options(part, request.headers());
    let kind = match media_type(request.headers()).as_str() {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" if target.resource.custom.is_none() => {
            PatchKind::Strategic
        }
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
    let bytes = read_bytes(request).await?;
    let body = if kind == PatchKind::Apply {
        decode_yaml(&bytes)?
    } else {
        decode_json(&bytes)?
    };
    Ok((kind, options, body))
}

fn patched(
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

fn apply(
    server: &ApiServer,
    target: &Target,
    body: &Value,
    options: &WriteOptions,
) -> Result<Response, ApiError> {
    let resource = &target.resource;
    let force = target.query.is_true("force");
    let key = target.key();
    if options.part == Part::Main && server.store().get(&resource.storage, &key).is_none() {
        let mut fresh = super::apply::apply(None, body, &options.manager, force, resource)?;
        super::object::set_default(&mut fresh, "/metadata/name", key.name.clone());
        match server.create_object(resource, target.namespace.as_deref(), fresh, options) {
            Ok(stored) => {
                return Ok(target
                    .render
                    .response(StatusCode::CREATED, resource, &stored));
            }
            // Created by someone else in between: apply onto that.
            Err(error) if error.reason == "AlreadyExists" => {}
            Err(error) => return Err(error),
        }
    }
    let change = |existing: &Value| {
        super::apply::apply(Some(existing), body, &options.manager, force, resource)
    };
    let stored = server.change_object(resource, &key, options, &change)?;
    Ok(target.render.response(StatusCode::OK, resource, &stored))
}

async fn serve_subresource(
    server: &Arc<ApiServer>,
    target: Target,
    subresource: &str,
    request: Request,
) -> Result<Response, ApiError> {
    if !target.resource.has(subresource) {
        return Err(ApiError::no_such_path());
    }
    match (subresource, request.method().clone()) {
        ("status", Method::GET) => {
            let stored = server.existing(&target.resource, &target.key())?;
            Ok(target
                .render
                .response(StatusCode::OK, &target.resource, &stored))
        }
        ("status", Method::PUT) => {
            let options = target.write_options(Part::Status, request.headers());
            let body = read_object(request).await?;
            let stored =
                server.change_object(&target.resource, &target.key(), &options, &|_| {
                    Ok(body.clone())
                })?;
            Ok(target
                .render
                .response(StatusCode::OK, &target.resource, &stored))
        }
        ("status", Method::PATCH) => patch(server, &target, Part::Status, request).await,
        ("scale", _) => scale(server, &target, request).await,
        ("log" | "exec" | "attach" | "portforward", _) => {
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
        ("ephemeralcontainers" | "resize", Method::GET) => {
            let stored = server.existing(&target.resource, &target.key())?;
            Ok(target
                .render
                .response(StatusCode::OK, &target.resource, &stored))
        }
        ("ephemeralcontainers" | "resize", Method::PUT) => {
            let options = target.write_options(Part::Internal, request.headers());
            let body = read_object(request).await?;
            let change = |existing: &Value| Ok(only_containers(existing, &body));
            let stored =
                server.change_object(&target.resource, &target.key(), &options, &change)?;
            Ok(target
                .render
                .response(StatusCode::OK, &target.resource, &stored))
        }
        ("ephemeralcontainers" | "resize", Method::PATCH) => {
            let (kind, options, body) = read_patch(&target, Part::Internal, request).await?;
            let change = |existing: &Value| {
                let wanted = patched(kind, &target.resource, existing, &body)?;
                Ok(only_containers(existing, &wanted))
            };
            let stored =
                server.change_object(&target.resource, &target.key(), &options, &change)?;
            Ok(target
                .render
                .response(StatusCode::OK, &target.resource, &stored))
        }
        ("finalize", Method::PUT) => {
            let options = target.write_options(Part::Internal, request.headers());
            let body = read_object(request).await?;
            let change = |existing: &Value| {
                let mut next = existing.clone();
                super::object::copy(&body, &mut next, "/spec/finalizers");
                Ok(next)
            };
            let stored =
                server.change_object(&target.resource, &target.key(), &options, &change)?;
            Ok(target
                .render
                .response(StatusCode::OK, &target.resource, &stored))
        }
        ("token", Method::POST) => {
            super::auth::issue_token(server, &target.key(), read_object(request).await?)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn only_containers(existing: &Value, wanted: &Value) -> Value {
    let mut next = existing.clone();
    super::object::copy(wanted, &mut next, "/spec/ephemeralContainers");
    super::object::copy(wanted, &mut next, "/spec/containers");
    super::object::copy(wanted, &mut next, "/metadata/resourceVersion");
    next
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

async fn scale(
    server: &Arc<ApiServer>,
    target: &Target,
    request: Request,
) -> Result<Response, ApiError> {
    let Some(paths) = target.resource.scale_paths() else {
        return Err(ApiError::no_such_path());
    };
    let key = target.key();
    let shown = |object: &Value| {
        let selector = paths
            .selector
            .as_deref()
            .and_then(|pointer| object.pointer(pointer));
        let selector = match selector {
            Some(Value::String(text)) => text.clone(),
            Some(map) if target.resource.plural == "replicationcontrollers" => {
                LabelSelector::from_map(map).to_query()
            }
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
            let cause = super::status::Cause::invalid(
                "spec.replicas",
                &json!(replicas),
                "must be greater than or equal to 0",
            );
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
            let options = target.write_options(Part::Main, request.headers());
            let body = read_object(request).await?;
            server.change_object(&target.resource, &key, &options, &|existing| {
                replaced(existing, &body)
            })?
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

fn list(server: &ApiServer, target: &Target) -> Result<Response, ApiError> {
    let filter = target.filter()?;
    let mut listing = server
        .store()
        .list(&target.resource.storage, target.namespace.as_deref());
    listing
        .objects
        .retain(|object| filter.matches(&object.value));
    let page = page(server, target, listing)?;
    let resource = &target.resource;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = page.token {
        set(&mut metadata, "/continue", token);
        set(&mut metadata, "/remainingItemCount", page.remaining);
    }
    if target.render == Render::Table {
        let objects: Vec<&Value> = page.objects.iter().map(|object| &object.value).collect();
        let mut table = super::table::to_table(resource, &objects, jiff::Timestamp::now());
        set(&mut table, "/metadata", metadata);
        return Ok(json_response(StatusCode::OK, &table));
    }
    let (kind, api_version) = match target.render {
        Render::Partial => (
            "PartialObjectMetadataList".to_owned(),
            "meta.k8s.io/v1".to_owned(),
        ),
        _ => (resource.list_kind.clone(), resource.api_version()),
    };
    let mut body = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        json!(kind),
        json!(api_version)
    )
    .into_bytes();
    for (index, object) in page.objects.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&target.render.event_object(resource, object));
    }
    body.extend_from_slice(b"]}");
    Ok(bytes_response(StatusCode::OK, body))
}

struct Page {
    objects: Vec<Arc<Stored>>,
    revision: u64,
    token: Option<String>,
    remaining: usize,
}

/// Cuts a page out of a listing. The token holds the revision of the first page and the last key shown.
fn page(
    server: &ApiServer,
    target: &Target,
    listing: super::store::Listing,
) -> Result<Page, ApiError> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut objects = listing.objects;
    let mut revision = listing.revision;
    if let Some(token) = target
        .query
        .get("continue")
        .filter(|token| !token.is_empty())
    {
        let bad = || ApiError::bad_request("continue key is not valid: illegal base64 data");
        let decoded: Value = engine
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(bad)?;
        revision = decoded.get("rv").and_then(Value::as_u64).ok_or_else(bad)?;
        server.store().check_page(revision).map_err(|_| {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
            )
        })?;
        let last = ObjectKey::new(
            str_at(&decoded, "/ns").unwrap_or_default(),
            str_at(&decoded, "/name").unwrap_or_default(),
        );
        objects.retain(|object| key_of(&object.value) > last);
    }
    let limit = target
        .query
        .get("limit")
        .and_then(|limit| limit.parse::<usize>().ok())
        .unwrap_or(0);
    let mut token = None;
    let mut remaining = 0;
    if limit > 0 && objects.len() > limit {
        remaining = objects.len() - limit;
        objects.truncate(limit);
        if let Some(last) = objects.last() {
            let key = key_of(&last.value);
            token = Some(engine.encode(
                json!({"rv": revision, "ns": key.namespace, "name": key.name}).to_string(),
            ));
        }
    }
    Ok(Page {
        objects,
        revision,
        token,
        remaining,
    })
}

fn key_of(object: &Value) -> ObjectKey {
    ObjectKey::new(super::object::namespace(object), name(object))
}

async fn start_watch(
    server: &Arc<ApiServer>,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let revision = match target.query.get("resourceVersion") {
        None | Some("" | "0") => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            ApiError::bad_request(format!(
                "invalid resource version: strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        })?),
    };
    let bookmarks = target.query.is_true("allowWatchBookmarks");
    let initial = target.query.get("sendInitialEvents");
    let start = match (initial, revision) {
        (Some("true"), _) => Start::Existing {
            bookmark: bookmarks,
        },
        (Some(_), None) => Start::After(server.store().revision()),
        (None, None) => Start::Existing { bookmark: false },
        (_, Some(revision)) => Start::After(revision),
    };
    let seconds = target
        .query
        .get("timeoutSeconds")
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|one| *one > 0);
    let watch = WatchRequest {
        filter: target.filter()?,
        start,
        bookmarks,
        timeout: Duration::from_secs(seconds.unwrap_or(3000)),
        render: target.render,
        resource: target.resource.clone(),
    };
    let events = watch::events(server.clone(), watch)?;
    let upgrade = request
        .headers()
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    if !upgrade {
        return Ok(watch::chunked(events));
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = axum::extract::ws::WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(upgrade.on_upgrade(move |socket| watch::over_websocket(socket, events)))
}

async fn delete_options(target: &Target, request: Request) -> Result<DeleteOptions, ApiError> {
    let bytes = read_bytes_with_type(request).await?;
    let body = if bytes.0.is_empty() {
        json!({})
    } else {
        decode(&bytes.1, &bytes.0)?
    };
    let query = &target.query;
    let propagation =
        str_at(&body, "/propagationPolicy").or_else(|| query.get("propagationPolicy"));
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
        grace_period_seconds: i64_at(&body, "/gracePeriodSeconds").or_else(|| {
            query
                .get("gracePeriodSeconds")
                .and_then(|text| text.parse().ok())
        }),
        propagation_policy: propagation.or(orphan).map(str::to_owned),
        uid: str_at(&body, "/preconditions/uid").map(str::to_owned),
        resource_version: str_at(&body, "/preconditions/resourceVersion").map(str::to_owned),
        dry_run: query.get("dryRun").is_some()
            || !super::object::array_at(&body, "/dryRun").is_empty(),
    })
}

async fn delete_collection(
    server: &ApiServer,
    target: &Target,
    request: Request,
) -> Result<Response, ApiError> {
    let filter = target.filter()?;
    let options = delete_options(target, request).await?;
    let listing = server
        .store()
        .list(&target.resource.storage, target.namespace.as_deref());
    let mut deleted = Vec::new();
    for object in listing
        .objects
        .iter()
        .filter(|object| filter.matches(&object.value))
    {
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

fn media_type(headers: &HeaderMap) -> String {
    let found = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    found
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

async fn read_bytes(request: Request) -> Result<Bytes, ApiError> {
    Ok(read_bytes_with_type(request).await?.0)
}

async fn read_bytes_with_type(request: Request) -> Result<(Bytes, String), ApiError> {
    let media = media_type(request.headers());
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if declared
        .and_then(|text| text.parse::<usize>().ok())
        .is_some_and(|length| length > BODY_LIMIT)
    {
        return Err(ApiError::too_large(BODY_LIMIT));
    }
    let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT);
    let bytes = tokio::time::timeout(Duration::from_secs(60), body)
        .await
        .map_err(|_| ApiError::bad_request("timed out after 60 s waiting for the request body"))?
        .map_err(|error| {
            if error.to_string().contains("length limit") {
                ApiError::too_large(BODY_LIMIT)
            } else {
                ApiError::bad_request(format!("cannot read the request body: {error}"))
            }
        })?;
    Ok((bytes, media))
}

pub(crate) async fn read_object(request: Request) -> Result<Value, ApiError> {
    let (bytes, media) = read_bytes_with_type(request).await?;
    decode(&media, &bytes)
}

fn decode(media: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    match media {
        "application/json" | "" | "*/*" => decode_json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => decode_yaml(bytes),
        _ => Err(ApiError::unsupported_media_type(
            "application/json, application/yaml",
        )),
    }
}

fn decode_json(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::bad_request(format!(
            "the request body could not be parsed as JSON: {error}"
        ))
    })
}

fn decode_yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| ApiError::bad_request(error.to_string()))?;
    serde_yaml::from_str(text).map_err(|error| {
        ApiError::bad_request(format!(
            "the request body could not be parsed as YAML: {error}"
        ))
    })
}
