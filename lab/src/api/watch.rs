//! Watches: the history from a revision on, filtered, as chunked lines or WebSocket frames.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::registry::ResourceType;
use super::request::Render;
use super::selectors::{FieldSelector, LabelSelector};
use super::server::ApiServer;
use super::status::ApiError;
use super::store::{Change, ChangeKind, Stored};

/// What a list or a watch shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Filter {
    /// Whether an object is shown.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|wanted| super::object::namespace(object) == wanted)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

/// How a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Existing objects first, as ADDED; with a bookmark after them when `bookmark` is set.
    Existing { bookmark: bool },
    /// Only what happened after this revision.
    After(u64),
}

/// A watch about to begin.
#[derive(Debug, Clone)]
pub(crate) struct WatchRequest {
    pub(crate) resource: Arc<ResourceType>,
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
    pub(crate) render: Render,
}

struct Watcher {
    server: Arc<ApiServer>,
    request: WatchRequest,
    changed: watch::Receiver<u64>,
    cursor: u64,
    ready: VecDeque<Bytes>,
    deadline: Instant,
    next_bookmark: Instant,
    finished: bool,
}

/// The events as lines of JSON. A resource version that is too old gives one ERROR event, as on a cluster.
pub(crate) fn events(server: Arc<ApiServer>, request: WatchRequest) -> impl Stream<Item = Bytes> + Send + 'static {
    let changed = server.store().notifier(&request.resource.storage);
    let now = Instant::now();
    let mut watcher = Watcher {
        changed,
        cursor: 0,
        ready: VecDeque::new(),
        deadline: now + request.timeout,
        next_bookmark: now + server.config().bookmark_interval,
        finished: false,
        server,
        request,
    };
    watcher.begin();
    stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|line| (line, watcher))
    })
}

impl Watcher {
    fn begin(&mut self) {
        match self.request.start {
            Start::After(revision) => self.cursor = revision,
            Start::Existing { bookmark } => {
                let listing = self
                    .server
                    .store()
                    .list(&self.request.resource.storage, self.request.filter.namespace.as_deref());
                self.cursor = listing.revision;
                for object in listing.objects {
                    if self.request.filter.matches(&object.value) {
                        self.ready.push_back(self.line(ChangeKind::Added, &object));
                    }
                }
                if bookmark {
                    self.ready.push_back(self.bookmark(true));
                }
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.finished {
                return None;
            }
            self.changed.mark_unchanged();
            self.read();
            if !self.ready.is_empty() || self.finished {
                continue;
            }
            let wake = if self.request.bookmarks {
                self.deadline.min(self.next_bookmark)
            } else {
                self.deadline
            };
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() { self.finished = true },
                () = tokio::time::sleep_until(wake) => {
                    if Instant::now() >= self.deadline {
                        self.finished = true;
                    }
                    if self.request.bookmarks {
                        self.read();
                        self.ready.push_back(self.bookmark(false));
                        self.next_bookmark = Instant::now() + self.server.config().bookmark_interval;
                    }
                }
            }
        }
    }

    fn read(&mut self) {
        match self
            .server
            .store()
            .changes_after(&self.request.resource.storage, self.cursor)
        {
            Ok((changes, revision)) => {
                for change in changes {
                    if let Some(line) = self.show(&change) {
                        self.ready.push_back(line);
                    }
                }
                self.cursor = self.cursor.max(revision);
            }
            Err(too_old) => {
                let status = ApiError::expired(too_old.to_string()).to_status();
                self.ready
                    .push_back(Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status}))));
                self.finished = true;
            }
        }
    }

    /// An object that comes to match is ADDED for this watcher, one that no longer does is DELETED.
    fn show(&self, change: &Change) -> Option<Bytes> {
        let filter = &self.request.filter;
        let before = change
            .previous
            .as_ref()
            .is_some_and(|previous| filter.matches(&previous.value));
        let after = change.kind != ChangeKind::Deleted && filter.matches(&change.object.value);
        let kind = match (before, after) {
            (false, false) => return None,
            (false, true) => ChangeKind::Added,
            (true, true) => ChangeKind::Modified,
            (true, false) => ChangeKind::Deleted,
        };
        if kind == change.kind && self.request.render.shares_lines(&self.request.resource, &change.object) {
            return Some(change.line());
        }
        if kind == ChangeKind::Deleted && change.kind != ChangeKind::Deleted {
            // The watcher is told the last state that it could see, at the revision of the change.
            let mut last = change
                .previous
                .as_ref()
                .map_or(Value::Null, |previous| previous.value.clone());
            super::object::set(
                &mut last,
                "/metadata/resourceVersion",
                change.object.revision.to_string(),
            );
            return Some(self.line(kind, &Stored::detached(last)));
        }
        Some(self.line(kind, &change.object))
    }

    fn line(&self, kind: ChangeKind, object: &Stored) -> Bytes {
        let rendered = self.request.render.event_object(&self.request.resource, object);
        let mut line = Vec::with_capacity(rendered.len() + 40);
        line.extend_from_slice(b"{\"type\":\"");
        line.extend_from_slice(kind.as_str().as_bytes());
        line.extend_from_slice(b"\",\"object\":");
        line.extend_from_slice(&rendered);
        line.extend_from_slice(b"}\n");
        Bytes::from(line)
    }

    fn bookmark(&self, initial_events_end: bool) -> Bytes {
        let resource = &self.request.resource;
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_events_end {
            super::object::set(
                &mut metadata,
                "/annotations",
                json!({"k8s.io/initial-events-end": "true"}),
            );
        }
        let mut object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
        if let Some(kind) = self.request.render.bookmark_kind() {
            super::object::set(&mut object, "/kind", kind);
            super::object::set(&mut object, "/apiVersion", "meta.k8s.io/v1");
        }
        Bytes::from(format!("{}\n", json!({"type": "BOOKMARK", "object": object})))
    }
}

/// A watch as a chunked answer.
pub(crate) fn chunked(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(events.map(Ok::<_, std::convert::Infallible>)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A watch over a WebSocket: one text frame of JSON per event, closed at the end.
pub(crate) async fn over_websocket(mut socket: WebSocket, events: impl Stream<Item = Bytes> + Send + 'static) {
    let mut events = std::pin::pin!(events);
    loop {
        tokio::select! {
            event = events.next() => {
                let Some(line) = event else { break };
                let Ok(text) = std::str::from_utf8(line.trim_ascii_end()) else { break };
                if socket.send(Message::Text(text.into())).await.is_err() {
                    return;
                }
            }
            received = socket.recv() => match received {
                None | Some(Err(_) | Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
            },
        }
    }
    if let Err(error) = socket.send(Message::Close(None)).await {
        tracing::debug!(%error, "a watcher went away before its WebSocket was closed");
    }
}
