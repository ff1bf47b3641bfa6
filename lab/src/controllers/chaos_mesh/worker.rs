//! One worker for a kind: a watch, a queue without duplicates, and retries that come later and later.
//!
//! Central types: [`Worker`], [`Wake`]. Contract: one object of a kind at a time, as upstream runs it: a slow one delays all
//! others. A failure is tried again after 5 ms, then twice as long each time, up to a thousand seconds; a success forgets.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher;
use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};

use crate::api::object::remove;
pub(super) use crate::controllers::runtime::Key;
use crate::controllers::runtime::Queue;

/// Upstream's rate limiter: first and longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1000);
/// Pause before a watch that was refused is begun again.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// When an object wants to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// When it changes.
    OnChange,
    /// After so long, or when it changes.
    After(Duration),
    /// It failed: after a pause that grows.
    Retry,
}

/// Wakes a worker from outside.
pub(super) type Wake = Arc<Queue>;

/// The worker of one kind.
pub(super) struct Worker {
    api: Api<DynamicObject>,
    queue: Wake,
}

impl Worker {
    pub(super) fn new(api: Api<DynamicObject>, queue: Wake) -> Self {
        Self { api, queue }
    }

    /// Works for ever. `pass` does everything that there is to do for one object.
    pub(super) async fn run<F: Future<Output = Again>>(self, pass: impl Fn(Key) -> F) {
        let mut events = std::pin::pin!(watcher(self.api, watcher::Config::default()));
        let mut timers = Timers::default();
        let mut failures: HashMap<Key, u32> = HashMap::new();
        let mut seen: HashMap<Key, u64> = HashMap::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                        let key = Key::new(object.namespace().unwrap_or_default(), object.name_any());
                        let print = fingerprint(&object);
                        if seen.insert(key.clone(), print) != Some(print) {
                            self.queue.add(key);
                        }
                    }
                    Some(Ok(watcher::Event::Delete(object))) => {
                        let key = Key::new(object.namespace().unwrap_or_default(), object.name_any());
                        seen.remove(&key);
                        failures.remove(&key);
                        self.queue.add(key);
                    }
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a watch of the double was interrupted");
                        tokio::time::sleep(WATCH_PAUSE).await;
                    }
                    None => return,
                },
                () = self.queue.added() => {}
                Some(key) = timers.next() => self.queue.add(key),
            }
            while let Some(key) = self.queue.take(|_| false) {
                timers.forget(&key);
                let again = pass(key.clone()).await;
                match again {
                    Again::OnChange => {
                        failures.remove(&key);
                    }
                    Again::After(pause) => {
                        failures.remove(&key);
                        timers.add(key, pause);
                    }
                    Again::Retry => {
                        let count = failures.entry(key.clone()).or_default();
                        let pause = FIRST_PAUSE
                            .saturating_mul(2_u32.saturating_pow(*count))
                            .min(LONGEST_PAUSE);
                        *count = count.saturating_add(1);
                        timers.add(key, pause);
                    }
                }
            }
        }
    }
}

/// What a change has to touch to matter. As upstream's predicate: a record that only gained an event is no change, or every
/// failure would be tried again at once. Neither is another order of the conditions.
fn fingerprint(object: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = &object.metadata;
    meta.uid.hash(&mut hasher);
    meta.annotations.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    meta.finalizers.hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    let mut data = object.data.clone();
    let records = data.pointer_mut("/status/experiment/containerRecords");
    for record in records.and_then(Value::as_array_mut).into_iter().flatten() {
        remove(record, "/events");
    }
    let conditions = data.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    if let Some(conditions) = conditions {
        conditions.sort_by_key(ToString::to_string);
    }
    data.to_string().hash(&mut hasher);
    hasher.finish()
}

/// Keys that come back later, each at most once.
#[derive(Default)]
struct Timers {
    tasks: JoinSet<Key>,
    by_key: HashMap<Key, AbortHandle>,
}

impl Timers {
    fn add(&mut self, key: Key, pause: Duration) {
        self.forget(&key);
        let returned = key.clone();
        let handle = self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            returned
        });
        self.by_key.insert(key, handle);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(handle) = self.by_key.remove(key) {
            handle.abort();
        }
    }

    /// The next key whose time has come; waits for ever while there is none.
    async fn next(&mut self) -> Option<Key> {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(key)) => {
                    self.by_key.remove(&key);
                    return Some(key);
                }
                // Forgotten meanwhile.
                Some(Err(_)) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }
}
