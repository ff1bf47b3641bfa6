//! Takes keys from a queue and reconciles them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

use super::{Key, Outcome, Queue, ReconcileError};

/// A safety net only: everything is driven by events.
const RESYNC: Duration = Duration::from_secs(30);
/// First pause after an error; doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// Longest pause after an error.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// One controller.
pub(crate) trait Reconcile: Send + Sync + 'static {
    /// Name for logs.
    const NAME: &'static str;
    /// How many keys are worked on at the same time.
    const CONCURRENCY: usize = 4;

    /// Brings the object a step nearer to what it asks for. Called again after every change.
    fn reconcile(&self, key: Key) -> impl Future<Output = Result<Outcome, ReconcileError>> + Send;

    /// All keys there are, for the resync.
    fn keys(&self) -> Vec<Key>;
}

/// Works until cancelled.
pub(crate) async fn work<R: Reconcile>(reconciler: Arc<R>, queue: Arc<Queue>, stop: CancellationToken) {
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut worker = Worker {
        running: HashMap::new(),
        failures: HashMap::new(),
        later: Later::default(),
    };
    let mut tasks: JoinSet<Result<Outcome, ReconcileError>> = JoinSet::new();
    loop {
        while tasks.len() < R::CONCURRENCY {
            let Some(key) = queue.take(|key| worker.running.values().any(|running| running == key)) else {
                break;
            };
            worker.later.forget(&key);
            let reconciler = Arc::clone(&reconciler);
            let task_key = key.clone();
            let handle = tasks.spawn(async move { reconciler.reconcile(task_key).await });
            worker.running.insert(handle.id(), key);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = queue.added() => {}
            Some(key) = worker.later.next() => queue.add(key),
            Some(ended) = tasks.join_next_with_id() => worker.ended(R::NAME, ended),
            _ = resync.tick() => reconciler.keys().into_iter().for_each(|key| queue.add(key)),
        }
    }
}

struct Worker {
    running: HashMap<Id, Key>,
    failures: HashMap<Key, u32>,
    later: Later,
}

impl Worker {
    fn ended(&mut self, name: &str, ended: Result<(Id, Result<Outcome, ReconcileError>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(key) = self.running.remove(&id) else {
            return;
        };
        match result {
            Ok(Ok(outcome)) => {
                self.failures.remove(&key);
                if let Outcome::After(wait) = outcome {
                    self.later.add(key, wait);
                }
            }
            Ok(Err(error)) => {
                let wait = self.failed(&key);
                if error.is_race() {
                    tracing::debug!(controller = name, %key, %error, "lost a race, retrying");
                } else {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(controller = name, %key, %error, cause, "reconcile failed, retrying");
                }
                self.later.add(key, wait);
            }
            // The runtime is going down.
            Err(error) if error.is_cancelled() => {}
            Err(panic) => {
                let wait = self.failed(&key);
                tracing::error!(controller = name, %key, %panic, "reconcile ended abnormally, retrying");
                self.later.add(key, wait);
            }
        }
    }

    fn failed(&mut self, key: &Key) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = FIRST_BACKOFF
            .saturating_mul(2_u32.saturating_pow(*failures))
            .min(LONGEST_BACKOFF);
        *failures = failures.saturating_add(1);
        wait
    }
}

/// Keys that come back later, each at most once.
#[derive(Default)]
struct Later {
    queue: DelayQueue<Key>,
    entries: HashMap<Key, delay_queue::Key>,
}

impl Later {
    fn add(&mut self, key: Key, wait: Duration) {
        self.forget(&key);
        let entry = self.queue.insert(key.clone(), wait);
        self.entries.insert(key, entry);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.queue.try_remove(&entry);
        }
    }

    async fn next(&mut self) -> Option<Key> {
        let key = self.queue.next().await?.into_inner();
        self.entries.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::{Key, Outcome, Queue, Reconcile, ReconcileError, work};

    struct Failing(AtomicUsize);

    impl Reconcile for Failing {
        const NAME: &'static str = "failing";
        async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(ReconcileError::Invalid {
                kind: "Thing",
                object: key.to_string(),
                problem: "always".into(),
            })
        }
        fn keys(&self) -> Vec<Key> {
            Vec::new()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_retried_with_a_growing_pause_and_never_in_a_hot_loop() {
        let reconciler = Arc::new(Failing(AtomicUsize::new(0)));
        let queue = Arc::new(Queue::default());
        let stop = CancellationToken::new();
        queue.add(Key::new("ns", "a"));
        let task = tokio::spawn(work(Arc::clone(&reconciler), queue, stop.clone()));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let early = reconciler.0.load(Ordering::SeqCst);
        assert!((3..=6).contains(&early), "10, 20, 40, 80 ms: {early} calls in 200 ms");
        tokio::time::sleep(Duration::from_mins(1)).await;
        let late = reconciler.0.load(Ordering::SeqCst);
        assert!(
            (10..=20).contains(&late),
            "the pause grows to 10 s: {late} calls in 60 s"
        );
        stop.cancel();
        task.await.unwrap();
    }
}
