//! The driver's side of its executors' connections: who is there, and who works on what.
//!
//! Depends on [`super::protocol`] and tokio. Central type: [`Pool`]. Contract: a task whose executor vanishes goes to
//! another one and is not counted as a failure; a task that fails four times fails the batch, as in Spark.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::codec::Framed;

use super::metrics::Metrics;
use super::protocol::{Part, ToDriver, ToExecutor, codec};

/// `spark.task.maxFailures`.
const MAX_FAILURES: u32 = 4;
/// A peer that connects must say who it is within this time.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(10);

/// A partition could not be processed.
#[derive(Debug, thiserror::Error)]
#[error("a task failed {MAX_FAILURES} times, last: {why}")]
pub(crate) struct TaskFailed {
    why: String,
}

enum News {
    Joined {
        connection: u64,
        executor_id: String,
        orders: mpsc::Sender<ToExecutor>,
    },
    Said {
        connection: u64,
        message: ToDriver,
    },
    Left {
        connection: u64,
    },
}

struct Member {
    executor_id: String,
    orders: mpsc::Sender<ToExecutor>,
    task: Option<u64>,
}

struct Task {
    files: Vec<PathBuf>,
    failures: u32,
}

/// The executors that are connected.
pub(crate) struct Pool {
    news: mpsc::Receiver<News>,
    members: BTreeMap<u64, Member>,
    metrics: Arc<Metrics>,
    next_task: u64,
}

impl Pool {
    /// Accepts executors on `listener` for as long as the pool lives.
    pub(crate) fn start(listener: TcpListener, metrics: Arc<Metrics>) -> Self {
        let (sender, news) = mpsc::channel(256);
        tokio::spawn(accept(listener, sender));
        Self {
            news,
            members: BTreeMap::new(),
            metrics,
            next_task: 0,
        }
    }

    /// Waits until `count` executors are there, or at most `limit`. Spark starts its first batch the same way.
    pub(crate) async fn wait_for(&mut self, count: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.members.len() < count {
            match tokio::time::timeout_at(deadline, self.news.recv()).await {
                Ok(Some(news)) => self.note(news),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn note(&mut self, news: News) {
        match news {
            News::Joined {
                connection,
                executor_id,
                orders,
            } => {
                tracing::info!(executor = executor_id, "executor registered");
                self.metrics.executor_joined(&executor_id);
                self.members.insert(
                    connection,
                    Member {
                        executor_id,
                        orders,
                        task: None,
                    },
                );
            }
            News::Left { connection } => {
                if let Some(member) = self.members.remove(&connection) {
                    tracing::warn!(executor = member.executor_id, "lost executor");
                    self.metrics.executor_left(&member.executor_id);
                }
            }
            News::Said { connection, .. } => {
                // An answer to a batch that is over.
                if let Some(member) = self.members.get_mut(&connection) {
                    member.task = None;
                }
            }
        }
    }

    /// Processes all partitions and gives the part files; waits for executors as long as it takes.
    pub(crate) async fn run(&mut self, partitions: Vec<Vec<PathBuf>>, output: &Path) -> Result<Vec<Part>, TaskFailed> {
        let mut open: BTreeMap<u64, Task> = BTreeMap::new();
        let mut queue: VecDeque<u64> = VecDeque::new();
        let mut parts = Vec::new();
        for files in partitions {
            open.insert(self.next_task, Task { files, failures: 0 });
            queue.push_back(self.next_task);
            self.next_task += 1;
        }
        while !open.is_empty() {
            self.assign(&mut queue, &open, output);
            let Some(news) = self.news.recv().await else {
                return Err(TaskFailed {
                    why: "the driver no longer accepts executors".to_owned(),
                });
            };
            match news {
                News::Left { connection } => {
                    let task = self.members.get(&connection).and_then(|member| member.task);
                    if let Some(task) = task.filter(|task| open.contains_key(task)) {
                        queue.push_front(task);
                    }
                    self.note(News::Left { connection });
                }
                News::Said { connection, message } => {
                    if let Some(member) = self.members.get_mut(&connection) {
                        member.task = None;
                        let well = matches!(message, ToDriver::Done { .. });
                        self.metrics.task_ended(&member.executor_id, well);
                    }
                    match message {
                        ToDriver::Done { task, part } => {
                            if open.remove(&task).is_some() {
                                parts.push(part);
                            }
                        }
                        ToDriver::Failed { task, why } => {
                            if let Some(failed) = open.get_mut(&task) {
                                tracing::warn!(task, why, "task failed");
                                failed.failures += 1;
                                if failed.failures >= MAX_FAILURES {
                                    return Err(TaskFailed { why });
                                }
                                queue.push_back(task);
                            }
                        }
                        ToDriver::Register { .. } => {}
                    }
                }
                joined @ News::Joined { .. } => self.note(joined),
            }
        }
        parts.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(parts)
    }

    fn assign(&mut self, queue: &mut VecDeque<u64>, open: &BTreeMap<u64, Task>, output: &Path) {
        for member in self.members.values_mut().filter(|member| member.task.is_none()) {
            let Some(id) = queue.pop_front() else { return };
            let Some(task) = open.get(&id) else { continue };
            // A new name with each attempt: what a dead executor left behind is in no manifest.
            let output = output.join(format!("part-{id:05}-{}-c000.json", uuid::Uuid::new_v4()));
            let order = ToExecutor::Run {
                task: id,
                files: task.files.clone(),
                output,
            };
            if member.orders.try_send(order).is_ok() {
                member.task = Some(id);
                self.metrics.task_started(&member.executor_id);
            } else {
                queue.push_front(id);
            }
        }
    }
}

async fn accept(listener: TcpListener, news: mpsc::Sender<News>) {
    let mut connection = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connection += 1;
                tokio::spawn(talk(stream, connection, news.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an executor");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if news.is_closed() {
            return;
        }
    }
}

async fn talk(stream: TcpStream, connection: u64, news: mpsc::Sender<News>) {
    let mut lines = Framed::new(stream, codec());
    let Ok(Some(Ok(first))) = tokio::time::timeout(REGISTRATION_TIMEOUT, lines.next()).await else {
        return;
    };
    let Ok(ToDriver::Register { executor_id }) = serde_json::from_str(&first) else {
        return;
    };
    let (orders, mut inbox) = mpsc::channel(4);
    if news
        .send(News::Joined {
            connection,
            executor_id,
            orders,
        })
        .await
        .is_err()
    {
        return;
    }
    loop {
        tokio::select! {
            order = inbox.recv() => {
                let Some(order) = order else { return };
                let Ok(text) = serde_json::to_string(&order) else { break };
                if lines.send(text).await.is_err() { break }
            }
            line = lines.next() => {
                let Some(Ok(line)) = line else { break };
                let Ok(message) = serde_json::from_str(&line) else { break };
                if news.send(News::Said { connection, message }).await.is_err() { return }
            }
        }
    }
    // Only fails when the driver is ending.
    drop(news.send(News::Left { connection }).await);
}
