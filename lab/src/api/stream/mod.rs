//! The streaming subresources of pods: `log`, `exec`, `attach` and `portforward`.
//!
//! [`serve`] takes a request for one of them, with the pod it is about, and answers it through a
//! [`PodBackend`]. Two transports carry the interactive ones: WebSocket with channel-prefixed messages
//! ([`channels`]), and SPDY/3.1, either directly on the connection or tunnelled through a WebSocket ([`tunnel`]).
//! Protocol source: `k8s.io/apimachinery/pkg/util/remotecommand`, `portforward` and `httpstream/wsstream`.

mod channels;
mod exec;
mod log;
mod portforward;
mod process;
pub(crate) mod spdy;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, WebSocketUpgrade};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

use super::object::{array_at, name, namespace, str_at, uid};
use super::status::ApiError;
use crate::backend::{BackendError, PodBackend, PodRef};

/// How long the peer of a stream may take to open what it announced.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that are read from a process or a socket at once.
const CHUNK: usize = 32 << 10;
/// The header that negotiates what is spoken inside of SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// Whether requests for this subresource of a pod belong here.
pub(crate) fn is_stream(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward")
}

/// Whether it opens a session in which a client can act, so that reading alone is not enough of a right.
pub(crate) fn is_session(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward")
}

/// Answers a request for a streaming subresource of `pod`.
pub(crate) async fn serve(
    subresource: &str,
    pod: &Value,
    backend: Arc<dyn PodBackend>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(&request)?;
    match subresource {
        "log" => log::serve(pod, &query, backend.as_ref()).await,
        "exec" => exec::serve_exec(pod, &query, backend, request).await,
        "attach" => exec::serve_attach(pod, &query, backend, request).await,
        "portforward" => portforward::serve(pod, &query, backend, request).await,
        _ => Err(ApiError::no_such_path()),
    }
}

/// The query parameters of a request, in order, repeated ones included.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(request: &Request) -> Result<Self, ApiError> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(request.uri())
            .map(|query| Self(query.0))
            .map_err(|error| ApiError::bad_request(error.to_string()))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn text<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// Like Go reads it: present without a value, `1` and `true` are true.
    fn is_true(&self, name: &str) -> bool {
        self.all(name)
            .next()
            .is_some_and(|value| matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| ApiError::bad_request(format!("invalid value {value:?} of parameter {name}")))
            })
            .transpose()
    }
}

fn reference(pod: &Value) -> PodRef {
    PodRef {
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        uid: uid(pod).to_owned(),
    }
}

fn container_names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    array_at(pod, &format!("/spec/{list}"))
        .iter()
        .filter_map(|one| str_at(one, "/name"))
        .collect()
}

/// The container that a request means: the named one, or the only one.
fn choose_container(pod: &Value, wanted: Option<&str>) -> Result<String, ApiError> {
    let containers = container_names(pod, "containers");
    let init = container_names(pod, "initContainers");
    let ephemeral = container_names(pod, "ephemeralContainers");
    if let Some(wanted) = wanted {
        if [&containers, &init, &ephemeral]
            .into_iter()
            .flatten()
            .any(|one| *one == wanted)
        {
            return Ok(wanted.to_owned());
        }
        return Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {}",
            name(pod)
        )));
    }
    if let [only] = containers.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut message = format!(
        "a container name must be specified for pod {}, choose one of: [{}]",
        name(pod),
        containers.join(" ")
    );
    for (list, title) in [(&init, "init"), (&ephemeral, "ephemeral")] {
        if !list.is_empty() {
            message.push_str(&format!(" or one of the {title} containers: [{}]", list.join(" ")));
        }
    }
    Err(ApiError::bad_request(message))
}

fn plain_error(code: u16, reason: &str, message: String) -> ApiError {
    ApiError {
        code,
        reason: reason.to_owned(),
        message,
        details: None,
    }
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::NotFound(message) => plain_error(404, "NotFound", message),
            BackendError::BadRequest(message) => Self::bad_request(message),
            BackendError::Internal(message) => Self::internal(message),
        }
    }
}

/// How the client wants to stream.
enum Transport {
    WebSocket(Box<WebSocketUpgrade>),
    Spdy(Spdy),
}

/// A SPDY upgrade that was asked for.
struct Spdy {
    upgrade: hyper::upgrade::OnUpgrade,
    protocols: Vec<String>,
}

impl Spdy {
    /// Answers with the first of `supported` that the client offers, and hands the bare connection to `then`.
    fn accept<F>(
        self,
        supported: &'static [&'static str],
        then: impl FnOnce(&'static str, hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
    ) -> Result<Response, ApiError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(protocol) = supported
            .iter()
            .find(|one| self.protocols.iter().any(|offered| offered == **one))
        else {
            return Err(plain_error(
                403,
                "Forbidden",
                format!(
                    "unable to negotiate protocol: client supports {:?}, server accepts {supported:?}",
                    self.protocols
                ),
            ));
        };
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => then(protocol, hyper_util::rt::TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "connection could not be upgraded to SPDY"),
            }
        });
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        Ok(response)
    }
}

/// Whether a comma-separated header holds a word.
fn says(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(word))
}

/// The upgrade that the request asks for. Must be called before anything is started: without one there is no stream.
async fn transport(request: Request) -> Result<Transport, ApiError> {
    let (mut parts, _body) = request.into_parts();
    if says(&parts.headers, header::UPGRADE, "SPDY/3.1") {
        let protocols = parts
            .headers
            .get_all(STREAM_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|value| value.trim().to_owned())
            .collect();
        let upgrade = parts
            .extensions
            .remove::<hyper::upgrade::OnUpgrade>()
            .ok_or_else(|| ApiError::bad_request("this connection cannot be upgraded"))?;
        return Ok(Transport::Spdy(Spdy { upgrade, protocols }));
    }
    if !says(&parts.headers, header::UPGRADE, "websocket") {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    // A WebSocket handshake is always a GET; some clients send the method of the old protocol with it.
    if parts.method == http::Method::POST {
        parts.method = http::Method::GET;
    }
    WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map(|upgrade| Transport::WebSocket(Box::new(upgrade)))
        .map_err(|rejection| ApiError::bad_request(rejection.body_text()))
}

#[cfg(test)]
mod tests;

/// The same, with the backend of the server.
pub(crate) async fn handle(
    server: &Arc<super::server::ApiServer>,
    pod: &Value,
    subresource: &str,
    request: Request,
) -> Result<Response, ApiError> {
    match server.backend() {
        None => Err(ApiError::unavailable("no node agent is connected to this API server")),
        Some(backend) => serve(subresource, pod, backend, request).await,
    }
}
