//! The objects, one revision counter for all of them, and the history that watches read.
//!
//! The central type is [`Store`]. It knows nothing of kinds: an object is JSON under a storage key, a namespace and a
//! name. Every write is compare-and-swap on the revision. Watchers keep a cursor into the bounded history of one
//! storage key and are told only that something happened, so a slow watcher costs no memory: it reads "expired" when
//! the history has moved past it, as it does on a cluster. The store also keeps the index of owners and the set of
//! objects that garbage collection must look at, because both must be exact with respect to each write.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::object::{array_at, has_finalizer, is_deleting, name, namespace, set, str_at, uid};

/// Name of an object under its storage key. Cluster-scoped objects have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// A key.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// One state of one object. Serialized at most once.
#[derive(Debug)]
pub struct Stored {
    /// The object, `metadata.resourceVersion` included.
    pub value: Value,
    /// Revision that wrote this state.
    pub revision: u64,
    json: OnceLock<Bytes>,
}

impl Stored {
    /// A state that is not in the store (the answer of a dry run).
    #[must_use]
    pub fn detached(value: Value) -> Self {
        Self {
            value,
            revision: 0,
            json: OnceLock::new(),
        }
    }

    /// The object as JSON text.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string())).clone()
    }
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A new object.
    Added,
    /// A new state.
    Modified,
    /// The object is gone; the event carries its last state.
    Deleted,
}

impl ChangeKind {
    /// As watch events spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One entry of the history.
#[derive(Debug)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The state after it (the last state for a deletion).
    pub object: Arc<Stored>,
    /// The state before it.
    pub previous: Option<Arc<Stored>>,
    json: OnceLock<Bytes>,
}

impl Change {
    /// The event as one line of JSON, shared by all watchers that want the object as it is.
    pub fn line(&self) -> Bytes {
        self.json
            .get_or_init(|| {
                let object = self.object.json();
                let mut line = Vec::with_capacity(object.len() + 40);
                line.extend_from_slice(b"{\"type\":\"");
                line.extend_from_slice(self.kind.as_str().as_bytes());
                line.extend_from_slice(b"\",\"object\":");
                line.extend_from_slice(&object);
                line.extend_from_slice(b"}\n");
                Bytes::from(line)
            })
            .clone()
    }
}

/// Why a write did not happen: the object is not (or no longer) in the expected state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the object changed between reading and writing")]
pub struct Raced;

/// The history needed for a watch or a page is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct TooOld {
    /// Revision asked for.
    pub asked: u64,
    /// Oldest revision that can still be served.
    pub oldest: u64,
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<ObjectKey, Arc<Stored>>,
    history: VecDeque<Arc<Change>>,
    /// Events after this revision are complete in `history`.
    complete_after: u64,
    revision: watch::Sender<u64>,
}

type Address = (Arc<str>, ObjectKey);

#[derive(Debug)]
struct Inner {
    revision: u64,
    compacted: u64,
    tables: HashMap<Arc<str>, Table>,
    by_uid: HashMap<String, Address>,
    dependents: HashMap<String, BTreeSet<Address>>,
    pending: BTreeSet<Address>,
}

/// All objects of the API server. Lives on when the server is stopped and started again.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    history_size: usize,
    collect: Arc<Notify>,
}

/// A consistent picture of one storage key.
#[derive(Debug)]
pub struct Listing {
    /// Objects in order of namespace and name.
    pub objects: Vec<Arc<Stored>>,
    /// Revision of the picture.
    pub revision: u64,
}

impl Store {
    /// An empty store that keeps so many events per storage key.
    #[must_use]
    pub fn new(history_size: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                // Clients treat 0 as "any", and 1 is what an empty etcd starts with.
                revision: 1,
                compacted: 0,
                tables: HashMap::new(),
                by_uid: HashMap::new(),
                dependents: HashMap::new(),
                pending: BTreeSet::new(),
            }),
            history_size: history_size.max(1),
            collect: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// The present state of one object.
    #[must_use]
    pub fn get(&self, storage: &str, key: &ObjectKey) -> Option<Arc<Stored>> {
        self.lock().tables.get(storage)?.objects.get(key).cloned()
    }

    /// All objects of a storage key, or those of one namespace.
    #[must_use]
    pub fn list(&self, storage: &str, namespace: Option<&str>) -> Listing {
        let inner = self.lock();
        let objects = inner.tables.get(storage).map(|table| match namespace {
            None => table.objects.values().cloned().collect(),
            Some(wanted) => table
                .objects
                .range(ObjectKey::new(wanted, "")..)
                .take_while(|(key, _)| key.namespace == wanted)
                .map(|(_, object)| object.clone())
                .collect(),
        });
        Listing {
            objects: objects.unwrap_or_default(),
            revision: inner.revision,
        }
    }

    /// Storage keys that hold objects in a namespace.
    #[must_use]
    pub fn storages_in(&self, namespace: &str) -> Vec<Arc<str>> {
        let inner = self.lock();
        let start = ObjectKey::new(namespace, "");
        inner
            .tables
            .iter()
            .filter(|(_, table)| {
                table
                    .objects
                    .range(start.clone()..)
                    .next()
                    .is_some_and(|(key, _)| key.namespace == namespace)
            })
            .map(|(storage, _)| storage.clone())
            .collect()
    }

    /// Writes a state. `expected` is the revision of the state that it replaces, `None` for a new object.
    pub fn put(&self, storage: &Arc<str>, mut value: Value, expected: Option<u64>) -> Result<Arc<Stored>, Raced> {
        let key = ObjectKey::new(namespace(&value), name(&value));
        let mut inner = self.lock();
        let table = inner.table(storage);
        let previous = table.objects.get(&key).cloned();
        if previous.as_ref().map(|object| object.revision) != expected {
            return Err(Raced);
        }
        inner.revision += 1;
        let revision = inner.revision;
        set(&mut value, "/metadata/resourceVersion", revision.to_string());
        let stored = Arc::new(Stored {
            value,
            revision,
            json: OnceLock::new(),
        });
        inner.reindex(storage, &key, previous.as_deref(), Some(&stored));
        let kind = if previous.is_some() {
            ChangeKind::Modified
        } else {
            ChangeKind::Added
        };
        inner.table(storage).objects.insert(key, stored.clone());
        self.record(&mut inner, storage, kind, stored.clone(), previous);
        Ok(stored)
    }

    /// Removes an object whose present revision is `expected`. `last` is the state that the event shows.
    pub fn remove(&self, storage: &Arc<str>, mut last: Value, expected: u64) -> Result<Arc<Stored>, Raced> {
        let key = ObjectKey::new(namespace(&last), name(&last));
        let mut inner = self.lock();
        let table = inner.table(storage);
        if table.objects.get(&key).map(|object| object.revision) != Some(expected) {
            return Err(Raced);
        }
        let previous = table.objects.remove(&key);
        inner.revision += 1;
        let revision = inner.revision;
        set(&mut last, "/metadata/resourceVersion", revision.to_string());
        let stored = Arc::new(Stored {
            value: last,
            revision,
            json: OnceLock::new(),
        });
        inner.reindex(storage, &key, previous.as_deref(), None);
        self.record(&mut inner, storage, ChangeKind::Deleted, stored.clone(), previous);
        Ok(stored)
    }

    fn record(
        &self,
        inner: &mut Inner,
        storage: &Arc<str>,
        kind: ChangeKind,
        object: Arc<Stored>,
        previous: Option<Arc<Stored>>,
    ) {
        let revision = inner.revision;
        let has_pending = !inner.pending.is_empty();
        let table = inner.table(storage);
        table.history.push_back(Arc::new(Change {
            kind,
            object,
            previous,
            json: OnceLock::new(),
        }));
        while table.history.len() > self.history_size {
            if let Some(oldest) = table.history.pop_front() {
                table.complete_after = oldest.object.revision;
            }
        }
        table.revision.send_replace(revision);
        if has_pending {
            self.collect.notify_one();
        }
    }

    /// Forgets all history up to now: watches that want to resume from before it, and pages begun before it, expire.
    pub fn compact(&self) {
        let mut inner = self.lock();
        inner.compacted = inner.revision;
        let revision = inner.revision;
        for table in inner.tables.values_mut() {
            table.history.clear();
            table.complete_after = revision;
            table.revision.send_replace(revision);
        }
    }

    /// Fails when a page that was begun at this revision can no longer be continued.
    pub fn check_page(&self, revision: u64) -> Result<(), TooOld> {
        let inner = self.lock();
        if revision < inner.compacted {
            return Err(TooOld {
                asked: revision,
                oldest: inner.compacted,
            });
        }
        Ok(())
    }

    /// The events of a storage key after a revision, and the revision up to which that is all.
    pub fn changes_after(&self, storage: &Arc<str>, after: u64) -> Result<(Vec<Arc<Change>>, u64), TooOld> {
        let mut inner = self.lock();
        let revision = inner.revision;
        let table = inner.table(storage);
        if after < table.complete_after {
            return Err(TooOld {
                asked: after,
                oldest: table.complete_after,
            });
        }
        // The history is in order of revision: only its tail is new.
        let start = table.history.partition_point(|change| change.object.revision <= after);
        Ok((table.history.range(start..).cloned().collect(), revision))
    }

    /// Tells when a storage key has changed.
    #[must_use]
    pub fn notifier(&self, storage: &Arc<str>) -> watch::Receiver<u64> {
        self.lock().table(storage).revision.subscribe()
    }

    /// Where the object of a UID is.
    #[must_use]
    pub fn find_uid(&self, uid: &str) -> Option<(Arc<str>, ObjectKey)> {
        self.lock().by_uid.get(uid).cloned()
    }

    /// The objects that name this UID as an owner.
    #[must_use]
    pub fn dependents(&self, owner: &str) -> Vec<Arc<Stored>> {
        let inner = self.lock();
        let addresses = inner.dependents.get(owner).into_iter().flatten();
        addresses
            .filter_map(|(storage, key)| {
                inner
                    .tables
                    .get(storage)
                    .and_then(|table| table.objects.get(key))
                    .cloned()
            })
            .collect()
    }

    /// Asks garbage collection to look at an object.
    pub fn enqueue(&self, storage: &Arc<str>, key: &ObjectKey) {
        self.lock().pending.insert((storage.clone(), key.clone()));
        self.collect.notify_one();
    }

    /// Takes what garbage collection has to look at.
    #[must_use]
    pub fn take_pending(&self) -> Vec<(Arc<str>, ObjectKey)> {
        std::mem::take(&mut self.lock().pending).into_iter().collect()
    }

    /// Wakes garbage collection when there is something to look at.
    pub(crate) fn collector(&self) -> Arc<Notify> {
        self.collect.clone()
    }
}

impl Inner {
    fn table(&mut self, storage: &Arc<str>) -> &mut Table {
        let compacted = self.compacted;
        self.tables.entry(storage.clone()).or_insert_with(|| Table {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            complete_after: compacted,
            revision: watch::Sender::new(0),
        })
    }

    fn get(&self, address: &Address) -> Option<&Arc<Stored>> {
        self.tables.get(&address.0)?.objects.get(&address.1)
    }

    /// Keeps the owner index exact and notes what garbage collection has to look at because of this write.
    fn reindex(&mut self, storage: &Arc<str>, key: &ObjectKey, before: Option<&Stored>, after: Option<&Stored>) {
        let address: Address = (storage.clone(), key.clone());
        let empty = Value::Null;
        let old = before.map_or(&empty, |stored| &stored.value);
        let new = after.map_or(&empty, |stored| &stored.value);
        for owner in owner_uids(old) {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(&address);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        for owner in owner_uids(new) {
            self.dependents
                .entry(owner.to_owned())
                .or_default()
                .insert(address.clone());
        }
        if uid(old) != uid(new) && before.is_some() {
            self.by_uid.remove(uid(old));
            if let Some(dependents) = self.dependents.get(uid(old)) {
                self.pending.extend(dependents.iter().cloned());
            }
        }
        if after.is_some() {
            self.by_uid.insert(uid(new).to_owned(), address.clone());
        }
        self.note_owners(&address, old, new);
        self.note_parent(storage, key, old, new);
    }

    fn note_owners(&mut self, address: &Address, old: &Value, new: &Value) {
        let mut look =
            is_deleting(new) && (has_finalizer(new, super::gc::FOREGROUND) || has_finalizer(new, super::gc::ORPHAN));
        for owner in owner_uids(old).chain(owner_uids(new)) {
            match self.by_uid.get(owner).cloned() {
                None => look = true,
                Some(owner_address) => {
                    let owner_deleting = self.get(&owner_address).is_some_and(|owner| is_deleting(&owner.value));
                    if owner_deleting {
                        look = true;
                        self.pending.insert(owner_address);
                    }
                }
            }
        }
        if look && !new.is_null() {
            self.pending.insert(address.clone());
        }
    }

    /// Namespaces and definitions that are being deleted wait for their content to go.
    fn note_parent(&mut self, storage: &Arc<str>, key: &ObjectKey, old: &Value, new: &Value) {
        let is_parent = matches!(&**storage, super::namespaces::STORAGE | super::crds::STORAGE);
        if is_parent && is_deleting(new) {
            self.pending.insert((storage.clone(), key.clone()));
        }
        let came_or_went = old.is_null() || new.is_null();
        if !came_or_went || is_parent {
            return;
        }
        let parents = [
            (super::namespaces::STORAGE, key.namespace.clone()),
            (super::crds::STORAGE, super::crds::definition_of(storage)),
        ];
        for (parent, name) in parents {
            let Some((parent, _)) = self.tables.get_key_value(parent) else {
                continue;
            };
            let address = (parent.clone(), ObjectKey::new("", &name));
            if self.get(&address).is_some_and(|one| is_deleting(&one.value)) {
                self.pending.insert(address);
            }
        }
    }
}

fn owner_uids(value: &Value) -> impl Iterator<Item = &str> {
    array_at(value, "/metadata/ownerReferences")
        .iter()
        .filter_map(|owner| str_at(owner, "/uid"))
}
