//! One LIST and one WATCH per kind, shared by all controllers.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a controller waits for its own write to come back by watch. Only a broken watch takes that long; going on
/// afterwards is right because the next event or resync repairs what a stale picture got wrong.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// What an object was and is. Both are there for an update, one of them for a creation or a removal.
pub(crate) struct Change<K> {
    /// Last known state before.
    pub(crate) old: Option<Arc<K>>,
    /// State now; `None` when the object is gone.
    pub(crate) new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The states that are known, old first.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }

    /// The newest state that is known.
    pub(crate) fn latest(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// Pauses between attempts to watch again: 20 ms, doubling to 2 s.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(20))
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = self.0.saturating_mul(2).min(Duration::from_secs(2));
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// The reading end: the last known state of every object of one kind.
pub(crate) struct Cache<K: Resource<DynamicType = ()> + 'static> {
    store: Store<K>,
    seen: watch::Receiver<Seen>,
}

/// How far the watch has come.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The first LIST is complete.
    listed: bool,
    /// Highest resource version that was delivered.
    version: u64,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            seen: self.seen.clone(),
        }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    /// The object with this name, if the cache has it.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }

    /// The cluster-scoped object with this name, if the cache has it.
    pub(crate) fn get_cluster(&self, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name))
    }

    /// All objects of a namespace, oldest name first (a fixed order makes decisions repeatable).
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let mut found = self
            .store
            .state_filter(|object| object.meta().namespace.as_deref() == Some(namespace));
        found.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
        found
    }

    /// All objects, by namespace and name.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        let mut found = self.store.state();
        found.sort_by(|a, b| (&a.meta().namespace, &a.meta().name).cmp(&(&b.meta().namespace, &b.meta().name)));
        found
    }

    /// Waits until the first LIST is complete. `false` when the informer ended before that.
    pub(crate) async fn ready(&self) -> bool {
        // Not `Store::wait_until_ready`: of several waiters it wakes only the last one.
        self.seen.clone().wait_for(|seen| seen.listed).await.is_ok()
    }

    /// Waits until the watch has delivered this resource version.
    ///
    /// Versions are compared as numbers: they are, in the lab and in every Kubernetes on etcd, and officially
    /// comparable since 1.35.
    pub(crate) async fn caught_up_to(&self, resource_version: Option<&str>) {
        let Some(version) = resource_version.and_then(|version| version.parse::<u64>().ok()) else {
            return;
        };
        let mut seen = self.seen.clone();
        if tokio::time::timeout(CATCH_UP_TIMEOUT, seen.wait_for(|seen| seen.version >= version))
            .await
            .is_err()
        {
            tracing::debug!(kind = %K::kind(&()), version, "the watch did not deliver a written version in time");
        }
    }

    /// Waits until this very object (by UID) is gone or marked for deletion.
    pub(crate) async fn saw_deletion_of(&self, object: &K) {
        self.saw(object, |now| now.meta().deletion_timestamp.is_some()).await;
    }

    /// Waits until `holds` for this very object (by UID), or it is gone.
    pub(crate) async fn saw(&self, object: &K, holds: impl Fn(&K) -> bool) {
        let reference = ObjectRef::from_obj(object);
        let uid = object.uid();
        let settled = || {
            self.store
                .get(&reference)
                .is_none_or(|now| now.uid() != uid || holds(&now))
        };
        let mut seen = self.seen.clone();
        let wait = async {
            loop {
                seen.mark_unchanged();
                if settled() || seen.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(CATCH_UP_TIMEOUT, wait).await.is_err() {
            tracing::debug!(object = %reference, "the watch did not deliver a written change in time");
        }
    }
}

/// The writing end: watches the API server, keeps the cache, tells the listeners.
pub(crate) struct Informer<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    reader: Store<K>,
    seen: watch::Sender<Seen>,
    listeners: Vec<Listener<K>>,
}

/// Makes a cache and the informer that fills it.
pub(crate) fn informer<K: Resource<DynamicType = ()> + Clone + 'static>() -> (Cache<K>, Informer<K>) {
    let writer = Writer::<K>::default();
    let reader = writer.as_reader();
    let (sender, seen) = watch::channel(Seen::default());
    let cache = Cache {
        store: reader.clone(),
        seen,
    };
    (
        cache,
        Informer {
            writer,
            reader,
            seen: sender,
            listeners: Vec::new(),
        },
    )
}

impl<K> Informer<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    ObjectRef<K>: Hash + Eq + Send,
{
    /// Calls `listener` after each change has reached the cache. It must not block.
    pub(crate) fn on_change(&mut self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.listeners.push(Box::new(listener));
    }

    /// Watches until cancelled. Broken connections and 410 Gone are dealt with by kube's watcher: it lists again.
    pub(crate) async fn run(mut self, client: kube::Client, stop: CancellationToken) {
        // Bookmarks keep an idle watch resumable. A lab that restarts its API server is back in milliseconds: retry soon.
        let stream = watcher(Api::<K>::all(client), watcher::Config::default()).backoff(Pause::default());
        let mut stream = Box::pin(stream);
        // Objects before a re-list, to find out what vanished meanwhile: a re-list reports no deletions.
        let mut before: HashMap<ObjectRef<K>, Arc<K>> = HashMap::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    tracing::debug!(kind = %K::kind(&()), error = %error, "watch failed, it is resumed");
                }
                Some(Ok(event)) => self.take(&event, &mut before),
            }
        }
    }

    fn take(&mut self, event: &watcher::Event<K>, before: &mut HashMap<ObjectRef<K>, Arc<K>>) {
        match event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => {
                let reference = ObjectRef::from_obj(object);
                let old = self.reader.get(&reference);
                self.writer.apply_watcher_event(event);
                let change = Change {
                    old,
                    new: self.reader.get(&reference),
                };
                self.saw(object);
                self.tell(&change);
            }
            watcher::Event::Init => {
                *before = self
                    .reader
                    .state()
                    .into_iter()
                    .map(|object| (ObjectRef::from_obj(&*object), object))
                    .collect();
                self.writer.apply_watcher_event(event);
            }
            watcher::Event::InitApply(_) => self.writer.apply_watcher_event(event),
            watcher::Event::InitDone => {
                self.writer.apply_watcher_event(event);
                for new in self.reader.state() {
                    self.saw(&new);
                    let old = before.remove(&ObjectRef::from_obj(&*new));
                    self.tell(&Change { old, new: Some(new) });
                }
                for (_, old) in before.drain() {
                    self.tell(&Change {
                        old: Some(old),
                        new: None,
                    });
                }
                self.seen.send_modify(|seen| seen.listed = true);
            }
        }
    }

    fn saw(&self, object: &K) {
        let version = object
            .resource_version()
            .and_then(|version| version.parse::<u64>().ok())
            .unwrap_or(0);
        // Receivers are woken even by an older version: they may wait for something else than a version.
        self.seen.send_modify(|seen| seen.version = seen.version.max(version));
    }

    fn tell(&self, change: &Change<K>) {
        for listener in &self.listeners {
            listener(change);
        }
    }
}
