//! The micro-batch loop: plan, process, publish, commit; and where to go on after a crash.
//!
//! Depends on [`super::files`] and [`super::pool`]. Central type: [`Engine`]. Contract: the order on disk is
//! `sources/0/N`, `offsets/N`, part files, `_spark_metadata/N`, `commits/N`; a crash between any two of them loses
//! nothing and repeats nothing for readers of the manifest.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::files::{Checkpoint, CompactLog, FileError, SourceFile, list_input, manifest_line};
use super::metrics::Metrics;
use super::pool::{Pool, TaskFailed};

/// Why the query ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryFailed {
    #[error("cannot use the checkpoint or the sink")]
    File(#[from] FileError),
    #[error("cannot process batch {batch}")]
    Task { batch: u64, source: TaskFailed },
}

/// What the query reads and writes.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) trigger: Duration,
    pub(crate) max_files: usize,
    /// Partitions of a batch.
    pub(crate) parallelism: usize,
}

/// A running query.
pub(crate) struct Engine {
    query: Query,
    checkpoint: Checkpoint,
    manifest: CompactLog,
    metrics: Arc<Metrics>,
    /// Paths of all input files that were given to a batch.
    seen: HashSet<String>,
    /// The next batch to run.
    next: u64,
    /// Files of the next batch, when an earlier run gave it some.
    assigned: Vec<SourceFile>,
    /// The next batch is in `offsets` already.
    planned: bool,
}

impl Engine {
    /// Reads where the last run stopped.
    pub(crate) fn open(query: Query, checkpoint: &std::path::Path, metrics: Arc<Metrics>) -> Result<Self, QueryFailed> {
        let checkpoint = Checkpoint::open(checkpoint)?;
        let manifest = CompactLog::open(query.output.join("_spark_metadata"))?;
        let next = checkpoint.committed()?.map_or(0, |batch| batch + 1);
        let planned = checkpoint.planned()?.is_some_and(|batch| batch >= next);
        let files = checkpoint.source_files()?;
        let assigned: Vec<SourceFile> = files.iter().filter(|file| file.batch_id == next).cloned().collect();
        let seen = files.into_iter().map(|file| file.path).collect();
        tracing::info!(next, planned, files = assigned.len(), "starting the query");
        Ok(Self {
            query,
            checkpoint,
            manifest,
            metrics,
            seen,
            next,
            assigned,
            planned,
        })
    }

    /// Runs batches until something fails.
    pub(crate) async fn run(&mut self, pool: &mut Pool) -> Result<std::convert::Infallible, QueryFailed> {
        let mut last = Instant::now();
        // As Spark's processing time trigger: a batch that took too long is followed at once by the next.
        let mut ticks = tokio::time::interval(self.query.trigger);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            if self.assigned.is_empty() && !self.planned && !self.take_input()? {
                continue;
            }
            let begun = Instant::now();
            let records = self.batch(pool).await.inspect_err(|_| self.metrics.batch_failed())?;
            self.metrics.batch(records, begun.elapsed(), last.elapsed());
            last = begun;
        }
    }

    /// Gives new input files to the next batch; says whether there were any.
    fn take_input(&mut self) -> Result<bool, QueryFailed> {
        let files: Vec<SourceFile> = list_input(&self.query.input)?
            .into_iter()
            .filter(|(path, _)| !self.seen.contains(path))
            .take(self.query.max_files.max(1))
            .map(|(path, timestamp)| SourceFile {
                path,
                timestamp,
                batch_id: self.next,
            })
            .collect();
        if files.is_empty() {
            return Ok(false);
        }
        self.checkpoint.assign(self.next, &files)?;
        self.seen.extend(files.iter().map(|file| file.path.clone()));
        self.assigned = files;
        Ok(true)
    }

    /// Runs the next batch; gives its number of records.
    async fn batch(&mut self, pool: &mut Pool) -> Result<u64, QueryFailed> {
        let batch = self.next;
        if !self.planned {
            self.checkpoint.plan(batch, jiff::Timestamp::now().as_millisecond())?;
            self.planned = true;
        }
        let mut records = 0;
        // The sink may have the batch already: a crash after the manifest and before the commit.
        if self.manifest.latest()?.is_none_or(|latest| latest < batch) {
            let files: Vec<PathBuf> = self
                .assigned
                .iter()
                .map(|file| PathBuf::from(file.path.strip_prefix("file://").unwrap_or(&file.path)))
                .collect();
            let size = files.len().div_ceil(self.query.parallelism.max(1)).max(1);
            let partitions = files.chunks(size).map(<[PathBuf]>::to_vec).collect();
            let parts = pool
                .run(partitions, &self.query.output)
                .await
                .map_err(|source| QueryFailed::Task { batch, source })?;
            records = parts.iter().map(|part| part.records).sum();
            self.manifest.append(batch, parts.iter().map(manifest_line).collect())?;
        }
        self.checkpoint.commit(batch)?;
        tracing::info!(batch, records, "committed");
        self.next += 1;
        self.planned = false;
        self.assigned.clear();
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::protocol::{Part, ToDriver, ToExecutor};
    use futures::{SinkExt, StreamExt};

    /// An executor in this process that copies nothing and claims one record a file.
    async fn fake_executor(address: std::net::SocketAddr) {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut lines = tokio_util::codec::Framed::new(stream, crate::pipeline::protocol::codec());
        lines
            .send(r#"{"kind":"register","executorId":"1"}"#.to_owned())
            .await
            .unwrap();
        while let Some(Ok(line)) = lines.next().await {
            let ToExecutor::Run { task, files, output } = serde_json::from_str(&line).unwrap();
            let part = Part {
                path: output,
                size: 1,
                modification_time_ms: 1,
                records: files.len() as u64,
            };
            lines
                .send(serde_json::to_string(&ToDriver::Done { task, part }).unwrap())
                .await
                .unwrap();
        }
    }

    async fn pool() -> (Pool, Arc<Metrics>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new("a", "q", "id", "name"));
        let pool = Pool::start(listener, metrics.clone());
        tokio::spawn(fake_executor(address));
        (pool, metrics)
    }

    fn engine(folder: &std::path::Path, metrics: Arc<Metrics>) -> Engine {
        std::fs::create_dir_all(folder.join("in")).unwrap();
        let query = Query {
            input: folder.join("in"),
            output: folder.join("out"),
            trigger: Duration::from_millis(10),
            max_files: 2,
            parallelism: 2,
        };
        Engine::open(query, &folder.join("checkpoint"), metrics).unwrap()
    }

    fn manifest_files(folder: &std::path::Path) -> usize {
        CompactLog::open(folder.join("out/_spark_metadata"))
            .unwrap()
            .lines()
            .unwrap()
            .len()
    }

    #[tokio::test]
    async fn a_crash_between_any_two_steps_neither_loses_nor_repeats_a_file() {
        // What is on disk at the crash: nothing, sources, + offsets, + manifest, + commit.
        for crashed_after in 0..=4 {
            let folder = tempfile::tempdir().unwrap();
            let (mut pool, metrics) = pool().await;
            let mut first = engine(folder.path(), metrics.clone());
            for name in ["1", "2", "3"] {
                std::fs::write(folder.path().join("in").join(name), "{}\n").unwrap();
            }
            if crashed_after >= 1 {
                assert!(first.take_input().unwrap());
            }
            if crashed_after >= 2 {
                first.checkpoint.plan(0, 1).unwrap();
            }
            if crashed_after >= 3 {
                let part = |name: &str| {
                    let path = folder.path().join("out").join(name);
                    manifest_line(&Part {
                        path,
                        size: 1,
                        modification_time_ms: 1,
                        records: 1,
                    })
                };
                first.manifest.append(0, vec![part("x"), part("y")]).unwrap();
            }
            if crashed_after >= 4 {
                first.checkpoint.commit(0).unwrap();
            }
            drop(first);
            let mut again = engine(folder.path(), metrics);
            let ran = tokio::time::timeout(Duration::from_millis(500), again.run(&mut pool)).await;
            assert!(ran.is_err(), "crash after step {crashed_after}: {ran:?}");
            // Two files in batch 0, one in batch 1, one part a file.
            assert_eq!(again.next, 2, "crash after step {crashed_after}");
            assert_eq!(manifest_files(folder.path()), 3, "crash after step {crashed_after}");
            assert_eq!(again.checkpoint.source_files().unwrap().len(), 3);
        }
    }
}
