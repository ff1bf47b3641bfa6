//! A watch that owns up to its gaps.
//!
//! One LIST, then one WATCH that is resumed from its last resource version; after 410 (or when there is nothing to resume
//! from) a new LIST. kube's own watcher reconnects silently, which a measurement must not: every break is a message with
//! the instants between which events may have been merged, so that the timeline can widen just that phase.

use super::connect::{CALL_TIMEOUT, Cluster};
use super::error::{ClusterError, Failed};
use crate::model::Mono;
use crate::world::Clock;
use futures::StreamExt as _;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::core::Resource;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Objects per LIST page: bounds the memory of one answer, of which there are several copies on its way to the few facts that stay.
const PAGE: u32 = 100;
/// The server ends a watch after this long, and it is resumed without loss. Below kube's own ceiling of 295 s.
const WATCH_SECONDS: u32 = 290;
/// Nothing at all, not even a bookmark, for this long: the connection is dead.
const SILENCE: Duration = Duration::from_secs(75);
/// A server that does not know the version any more says so at once. One that has said nothing for this long after it took the
/// request has accepted it, and there is nothing that was missed.
const ACCEPTED: Duration = Duration::from_secs(1);
/// Pause between two attempts to connect.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// A second at most: while the watch is down, intervals grow with it.
const RETRY_MOST: Duration = Duration::from_secs(1);

/// What a watch says.
#[derive(Debug)]
pub(crate) enum WatchMessage<K> {
    /// A page of a list of everything there is; a list that fails on its way is begun again with its first page.
    Listed {
        /// When the first page was in: every page shows what was there by then.
        at: Mono,
        /// Place of the page, from 0.
        page: usize,
        /// No page comes after this one: what was in none of them is not there.
        last: bool,
        /// Start of the gap that this list closes, and why it was. `None` for the first list.
        gap_from: Option<(Mono, String)>,
        /// The objects.
        objects: Vec<K>,
        /// Given back when the page was dealt with: only then the next one is asked for.
        room: OwnedSemaphorePermit,
    },
    /// ADDED.
    Added(Mono, K),
    /// MODIFIED.
    Modified(Mono, K),
    /// DELETED, with the last state.
    Deleted(Mono, K),
    /// The connection is lost, or no new one can be had: what happens now is not seen. A `Resumed` or a `Listed` closes it.
    Broken {
        /// Last receipt.
        from: Mono,
        /// Why it broke.
        why: String,
    },
    /// The watch broke and was resumed without loss.
    Resumed {
        /// Last receipt before the break.
        from: Mono,
        /// First receipt after.
        to: Mono,
        /// Why it broke.
        why: String,
    },
}

enum State {
    List {
        gap_from: Option<(Mono, String)>,
    },
    Watch {
        version: String,
        broken: Option<(Mono, String)>,
    },
}

/// Follows a kind until cancelled. The first LIST failing is an error for the caller (nothing can be observed); later
/// failures are retried with back-off for as long as it takes, each closed by a gap message.
///
/// # Errors
/// When the first LIST fails, or permission is withdrawn.
pub(crate) async fn watch<K>(
    cluster: Cluster,
    api: Api<K>,
    what: String,
    selector: ListParams,
    clock: Clock,
    messages: mpsc::Sender<WatchMessage<K>>,
    cancel: CancellationToken,
) -> Result<(), ClusterError>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut state = State::List { gap_from: None };
    let mut pause = RETRY_FIRST;
    let mut listed_once = false;
    let mut last_receipt = clock.now();
    loop {
        let step = async {
            match &mut state {
                State::List { gap_from } => {
                    let version = list(&cluster, &api, &what, &selector, clock, gap_from.as_ref(), &messages).await?;
                    Ok(Some(State::Watch { version, broken: None }))
                }
                State::Watch { version, broken } => {
                    let connection = Connection {
                        what: &what,
                        clock,
                        messages: &messages,
                    };
                    connection
                        .follow(&api, &selector, version, broken, &mut last_receipt)
                        .await
                        .map(|()| None)
                }
            }
        };
        let outcome: Result<_, ClusterError> = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            outcome = step => outcome,
        };
        match outcome {
            Ok(next) => {
                if messages.is_closed() {
                    return Ok(());
                }
                pause = RETRY_FIRST;
                if let Some(next) = next {
                    last_receipt = clock.now();
                    listed_once = true;
                    state = next;
                }
            }
            Err(error) if !listed_once || matches!(error.failed, Failed::Forbidden | Failed::Unauthorized) => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!(%error, "watch broke");
                let (from, why) = (last_receipt, error.why.clone());
                let known = match &state {
                    State::List { gap_from } => gap_from.is_some(),
                    State::Watch { broken, .. } => broken.is_some(),
                };
                if !known && messages.send(WatchMessage::Broken { from, why }).await.is_err() {
                    return Ok(());
                }
                state = match state {
                    State::List { gap_from } => State::List {
                        gap_from: gap_from.or(Some((last_receipt, error.why))),
                    },
                    State::Watch { broken, .. } if error.failed == Failed::Gone => State::List {
                        gap_from: broken.or(Some((last_receipt, error.why))),
                    },
                    State::Watch { version, broken } => State::Watch {
                        version,
                        broken: broken.or(Some((last_receipt, error.why))),
                    },
                };
                tokio::select! {
                    () = cancel.cancelled() => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(RETRY_MOST);
            }
        }
    }
}

/// Lists page by page, and hands each page on before it asks for the next: ten thousand objects are never held at once. Gives the
/// version of the list, from which it is watched.
async fn list<K>(
    cluster: &Cluster,
    api: &Api<K>,
    what: &str,
    selector: &ListParams,
    clock: Clock,
    gap_from: Option<&(Mono, String)>,
    messages: &mpsc::Sender<WatchMessage<K>>,
) -> Result<String, ClusterError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut params = selector.clone().limit(PAGE);
    let mut first = None;
    let one_page = Arc::new(Semaphore::new(1));
    for number in 0.. {
        // Nobody closes it.
        let Ok(room) = Arc::clone(&one_page).acquire_owned().await else {
            break;
        };
        let page = cluster.call(format!("list {what}"), api.list(&params)).await?;
        let version = page.metadata.resource_version.unwrap_or_default();
        let token = page.metadata.continue_.filter(|token| !token.is_empty());
        let message = WatchMessage::Listed {
            at: *first.get_or_insert(clock.now()),
            page: number,
            last: token.is_none(),
            gap_from: gap_from.cloned(),
            objects: page.items,
            room,
        };
        // A closed channel is noticed by the caller.
        let closed = messages.send(message).await.is_err();
        match token {
            Some(token) if !closed => params = params.continue_token(&token),
            _ => return Ok(version),
        }
    }
    Ok(String::new())
}

/// What one WATCH connection needs besides its position.
struct Connection<'a, K> {
    what: &'a str,
    clock: Clock,
    messages: &'a mpsc::Sender<WatchMessage<K>>,
}

impl<K> Connection<'_, K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    /// Follows one connection from `version`, which moves along with what was received, until the server ends it in good
    /// order (`Ok`) or it breaks (`Err`). `broken` is taken once the server has accepted the version.
    async fn follow(
        &self,
        api: &Api<K>,
        selector: &ListParams,
        version: &mut String,
        broken: &mut Option<(Mono, String)>,
        last_receipt: &mut Mono,
    ) -> Result<(), ClusterError> {
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.label_selector.clone_from(&selector.label_selector);
        params.field_selector.clone_from(&selector.field_selector);
        let attempted = || format!("watch {}", self.what);
        let opened = tokio::time::timeout(CALL_TIMEOUT, api.watch(&params, version)).await;
        let stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(ClusterError::from_kube(attempted(), &error)),
            Err(_elapsed) => return Err(ClusterError::timed_out(attempted(), CALL_TIMEOUT)),
        };
        let opened_at = self.clock.now();
        let mut stream = std::pin::pin!(stream);
        loop {
            let patience = if broken.is_some() { ACCEPTED } else { SILENCE };
            let Ok(next) = tokio::time::timeout(patience, stream.next()).await else {
                if broken.is_some() {
                    self.say_resumed(broken, self.clock.now()).await;
                    continue;
                }
                return Err(ClusterError::timed_out(attempted(), SILENCE));
            };
            let at = self.clock.now();
            let message = match next {
                None if at.since(opened_at) + Duration::from_secs(5) >= Duration::from_secs(WATCH_SECONDS.into()) => {
                    return Ok(());
                }
                None => {
                    return Err(ClusterError {
                        attempted: attempted(),
                        failed: Failed::Unreachable,
                        why: "the server closed the connection".to_owned(),
                    });
                }
                Some(Err(error)) => return Err(ClusterError::from_kube(attempted(), &error)),
                Some(Ok(WatchEvent::Error(status))) => {
                    return Err(ClusterError::from_status(attempted(), &status));
                }
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    *version = bookmark.metadata.resource_version;
                    self.say_resumed(broken, at).await;
                    *last_receipt = at;
                    continue;
                }
                Some(Ok(WatchEvent::Added(object))) => WatchMessage::Added(at, object),
                Some(Ok(WatchEvent::Modified(object))) => WatchMessage::Modified(at, object),
                Some(Ok(WatchEvent::Deleted(object))) => WatchMessage::Deleted(at, object),
            };
            self.say_resumed(broken, at).await;
            *last_receipt = at;
            if let WatchMessage::Added(_, object) | WatchMessage::Modified(_, object) | WatchMessage::Deleted(_, object) =
                &message
                && let Some(seen) = &object.meta().resource_version
            {
                version.clone_from(seen);
            }
            if self.messages.send(message).await.is_err() {
                return Ok(());
            }
        }
    }

    /// The old version was accepted: everything missed is delivered now, only late.
    async fn say_resumed(&self, broken: &mut Option<(Mono, String)>, to: Mono) {
        if let Some((from, why)) = broken.take() {
            // A closed channel is noticed at the next message.
            drop(self.messages.send(WatchMessage::Resumed { from, to, why }).await);
        }
    }
}
