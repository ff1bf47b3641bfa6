//! Lists, whole or in pages, and the beginning of watches.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::object::{name, set, str_at};
use super::request::{Render, Target};
use super::server::ApiServer;
use super::status::{ApiError, bytes_response, json_response};
use super::store::{ObjectKey, Stored};
use super::watch::{self, Start, WatchRequest};

pub(crate) fn list(server: &ApiServer, target: &Target) -> Result<Response, ApiError> {
    let filter = target.filter()?;
    let mut listing = server
        .store()
        .list(&target.resource.storage, target.namespace.as_deref());
    listing.objects.retain(|object| filter.matches(&object.value));
    let page = page(server, target, listing)?;
    let resource = &target.resource;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = page.token {
        set(&mut metadata, "/continue", token);
        set(&mut metadata, "/remainingItemCount", page.remaining);
    }
    if let Render::Table(include) = target.render {
        let objects: Vec<&Value> = page.objects.iter().map(|object| &object.value).collect();
        let mut table = super::table::to_table(resource, &objects, jiff::Timestamp::now(), include);
        set(&mut table, "/metadata", metadata);
        return Ok(json_response(StatusCode::OK, &table));
    }
    let (kind, api_version) = match target.render {
        Render::Partial => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
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
fn page(server: &ApiServer, target: &Target, listing: super::store::Listing) -> Result<Page, ApiError> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut objects = listing.objects;
    let mut revision = listing.revision;
    if let Some(token) = target.query.get("continue").filter(|token| !token.is_empty()) {
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
            token = Some(engine.encode(json!({"rv": revision, "ns": key.namespace, "name": key.name}).to_string()));
        }
    }
    Ok(Page {
        objects,
        revision,
        token,
        remaining,
    })
}

pub(crate) fn key_of(object: &Value) -> ObjectKey {
    ObjectKey::new(super::object::namespace(object), name(object))
}

pub(crate) async fn start_watch(
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
        (Some("true"), _) => Start::Existing { bookmark: bookmarks },
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
    let events = watch::events(server.clone(), watch);
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
