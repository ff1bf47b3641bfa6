//! What a request asks for: the resource in its path, its query, and how the answer is to be shown.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::auth::User;
use super::object::str_at;
use super::registry::ResourceType;
use super::selectors::{FieldSelector, LabelSelector};
use super::server::ApiServer;
use super::status::{ApiError, bytes_response};
use super::store::{ObjectKey, Stored};
use super::table::IncludeObject;
use super::watch::Filter;
use super::writes::{Part, WriteOptions};

/// How objects are to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Render {
    /// As they are.
    Plain,
    /// `meta.k8s.io/v1 Table`, with so much of each object in its row.
    Table(IncludeObject),
    /// Metadata only.
    Partial,
}

impl Render {
    pub(crate) fn from_accept(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
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
                return Ok(Self::Table(IncludeObject::parse(query.get("includeObject"))));
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

    /// Whether the event can be sent as it was serialized for all watchers.
    pub(crate) fn shares_lines(self, resource: &ResourceType, object: &Stored) -> bool {
        self == Self::Plain && str_at(&object.value, "/apiVersion") == Some(resource.api_version().as_str())
    }

    /// Kind of a bookmark when it is not that of the resource.
    pub(crate) fn bookmark_kind(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Table(_) => Some("Table"),
            Self::Partial => Some("PartialObjectMetadata"),
        }
    }

    /// An object inside a watch event.
    pub(crate) fn event_object(self, resource: &ResourceType, object: &Stored) -> Bytes {
        match self {
            Self::Plain => shown(resource, object),
            Self::Table(include) => Bytes::from(
                super::table::to_table(resource, &[&object.value], jiff::Timestamp::now(), include).to_string(),
            ),
            Self::Partial => Bytes::from(partial(&object.value).to_string()),
        }
    }

    pub(crate) fn response(self, code: StatusCode, resource: &ResourceType, object: &Stored) -> Response {
        bytes_response(code, self.event_object(resource, object))
    }
}

/// The object in the version that was asked for: versions share their storage.
fn shown(resource: &ResourceType, object: &Stored) -> Bytes {
    let api_version = resource.api_version();
    if str_at(&object.value, "/apiVersion") == Some(api_version.as_str()) || object.value.get("kind").is_none() {
        return object.json();
    }
    let mut converted = object.value.clone();
    super::events::to_shown(resource, &mut converted);
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

    pub(crate) fn filter(&self) -> Result<Filter, ApiError> {
        let labels = self
            .query
            .get("labelSelector")
            .map_or_else(|| Ok(LabelSelector::default()), LabelSelector::parse);
        let mut fields = self.query.get("fieldSelector").unwrap_or_default().to_owned();
        if let Some(name) = &self.name {
            fields = format!("{fields},metadata.name={name}");
        }
        Ok(Filter {
            namespace: self.namespace.clone(),
            labels: labels.map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(&fields, &self.resource)?,
        })
    }

    pub(crate) fn write_options(&self, part: Part, request: &Request) -> WriteOptions {
        let agent = request
            .headers()
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("unknown");
        let manager = self.query.get("fieldManager").filter(|manager| !manager.is_empty());
        WriteOptions {
            dry_run: self.query.get("dryRun").is_some(),
            manager: manager
                .unwrap_or_else(|| agent.split('/').next().unwrap_or(agent))
                .to_owned(),
            part,
            tracked: part == Part::Internal,
            subresource: match (part, self.subresource.as_deref()) {
                (Part::Status, _) => Some("status"),
                (_, Some("scale")) => Some("scale"),
                _ => None,
            },
            user: request.extensions().get::<User>().cloned().unwrap_or_else(User::admin),
        }
    }
}

/// The query string, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(
            &format!("/?{}", query.unwrap_or_default()).parse().unwrap_or_default(),
        );
        Self(query.map(|pairs| pairs.0.into_iter().collect()).unwrap_or_default())
    }

    pub(crate) fn get<'a>(&'a self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(String::as_str)
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1" | "True" | ""))
    }
}

/// Resource, namespace, name and subresource.
pub(crate) type Place = (Arc<ResourceType>, Option<String>, Option<String>, Option<String>);

/// Splits a path as Kubernetes does. `None`: not the path of a resource.
pub(crate) fn parse_path(server: &ApiServer, path: &str) -> Option<Place> {
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
        && !(rest.len() == 3 && matches!(rest.get(2).map(String::as_str), Some("status" | "finalize")));
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
            let pair = [input.next().unwrap_or_default(), input.next().unwrap_or_default()];
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
