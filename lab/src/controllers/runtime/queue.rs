//! Keys that wait to be worked on, each at most once.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use kube::Resource;
use tokio::sync::Notify;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

impl Key {
    /// A key from its parts.
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            formatter.write_str(&self.name)
        } else {
            write!(formatter, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A queue of keys without duplicates. It is as long as there are objects at most, so it needs no other bound.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<Key>,
    members: HashSet<Key>,
}

impl Queue {
    /// Adds a key unless it already waits.
    pub(crate) fn add(&self, key: Key) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.members.insert(key.clone()) {
            waiting.order.push_back(key);
            self.added.notify_one();
        }
    }

    /// Takes the first key that is not `busy`; busy ones keep their place.
    pub(crate) fn take(&self, busy: impl Fn(&Key) -> bool) -> Option<Key> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let position = waiting.order.iter().position(|key| !busy(key))?;
        let key = waiting.order.remove(position)?;
        waiting.members.remove(&key);
        Some(key)
    }

    /// Waits until a key was added since the last call.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Queue};

    #[test]
    fn a_key_waits_at_most_once_and_in_order() {
        let queue = Queue::default();
        for name in ["a", "b", "a", "c", "b"] {
            queue.add(Key::new("ns", name));
        }
        let taken: Vec<String> = std::iter::from_fn(|| queue.take(|_| false))
            .map(|key| key.name)
            .collect();
        assert_eq!(taken, ["a", "b", "c"]);
    }

    #[test]
    fn a_busy_key_stays_until_it_is_free() {
        let queue = Queue::default();
        queue.add(Key::new("ns", "a"));
        queue.add(Key::new("ns", "b"));
        assert_eq!(queue.take(|key| key.name == "a"), Some(Key::new("ns", "b")));
        assert_eq!(queue.take(|key| key.name == "a"), None);
        assert_eq!(queue.take(|_| false), Some(Key::new("ns", "a")));
    }
}
