//! What containers print: one file per container instance, each line stamped, and the ways to read it back.
//! Depends on tokio and jiff.
//!
//! The files have the format that container runtimes use (`<RFC 3339 with nanoseconds> <stream> <F|P> <text>`).
//! Central type: [`Log`]. Contract: at most [`ROTATE_BYTES`] × 2 on disk per instance; a reader that follows sees every
//! line in order and ends when the instance has ended and everything is read.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, watch};

use super::error::NodeError;
use crate::backend::LogOptions;

/// A file that grew beyond this is put aside, and the one put aside before is dropped.
const ROTATE_BYTES: u64 = 25 * 1024 * 1024;
/// Longer lines are stored in parts, as container runtimes do.
const PART_BYTES: usize = 16 * 1024;
/// Readers get chunks of about this size.
const CHUNK_BYTES: usize = 64 * 1024;

/// How far a log has grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    generation: u64,
    written: u64,
    /// Streams that can still write.
    writers: usize,
}

#[derive(Debug)]
struct Current {
    file: File,
    written: u64,
    generation: u64,
}

/// The log of one container instance.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    current: Mutex<Current>,
    progress: watch::Sender<Progress>,
}

impl Log {
    /// Creates the file.
    pub(crate) fn create(path: PathBuf) -> Result<Arc<Self>, NodeError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(NodeError::io("create the folder", folder))?;
        }
        let file = File::create(&path).map_err(NodeError::io("create", &path))?;
        let current = Mutex::new(Current {
            file,
            written: 0,
            generation: 0,
        });
        let (progress, _) = watch::channel(Progress {
            generation: 0,
            written: 0,
            writers: 0,
        });
        Ok(Arc::new(Self {
            path,
            current,
            progress,
        }))
    }

    /// Removes the files of an instance that nobody can ask for any more.
    pub(crate) fn discard(&self) {
        for path in [aside(&self.path), self.path.clone()] {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::debug!(path = %path.display(), %error, "old log not removed");
            }
        }
    }

    /// Copies a stream of the container into the log until it ends.
    pub(crate) fn pump(
        self: &Arc<Self>,
        stream: &'static str,
        source: impl AsyncRead + Send + Unpin + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.progress.send_modify(|progress| progress.writers += 1);
        let log = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = log.copy(stream, source).await {
                tracing::warn!(path = %log.path.display(), %error, "log is incomplete");
            }
            log.progress
                .send_modify(|progress| progress.writers = progress.writers.saturating_sub(1));
        })
    }

    async fn copy(&self, stream: &str, mut source: impl AsyncRead + Unpin) -> std::io::Result<()> {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let read = source.read_buf(&mut buffer).await?;
            let end = read == 0;
            let stamp = Timestamp::now();
            let mut records = Vec::with_capacity(buffer.len() + 64);
            let mut rest = buffer.as_slice();
            while let Some(position) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(position);
                record(&mut records, stamp, stream, line, true);
                rest = after.get(1..).unwrap_or_default();
            }
            if rest.len() >= PART_BYTES || (end && !rest.is_empty()) {
                record(&mut records, stamp, stream, rest, false);
                rest = &[];
            }
            let kept = rest.len();
            buffer.drain(..buffer.len() - kept);
            if !records.is_empty() {
                self.append(&records)?;
            }
            if end {
                return Ok(());
            }
        }
    }

    fn append(&self, records: &[u8]) -> std::io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.written > ROTATE_BYTES {
            std::fs::rename(&self.path, aside(&self.path))?;
            current.file = File::create(&self.path)?;
            current.written = 0;
            current.generation += 1;
        }
        current.file.write_all(records)?;
        current.written += records.len() as u64;
        let (generation, written) = (current.generation, current.written);
        drop(current);
        self.progress.send_modify(|progress| {
            progress.generation = generation;
            progress.written = written;
        });
        Ok(())
    }

    /// Streams the log as whole lines.
    pub(crate) fn read(self: &Arc<Self>, options: LogOptions) -> mpsc::Receiver<std::io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(4);
        let log = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = log.send(&options, &sender).await {
                drop(sender.send(Err(error)).await);
            }
        });
        receiver
    }

    async fn send(&self, options: &LogOptions, sender: &mpsc::Sender<std::io::Result<Bytes>>) -> std::io::Result<()> {
        let mut progress = self.progress.subscribe();
        let mut seen = *progress.borrow_and_update();
        let mut cursor = Cursor::open(&self.path, options, seen.generation)?;
        loop {
            loop {
                let (back, chunk) = tokio::task::spawn_blocking(move || {
                    let chunk = cursor.next_chunk();
                    (cursor, chunk)
                })
                .await
                .map_err(std::io::Error::other)?;
                cursor = back;
                let chunk = chunk?;
                if chunk.is_empty() {
                    break;
                }
                if sender.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
            }
            if cursor.limit == Some(0) || !options.follow {
                return Ok(());
            }
            if cursor.generation < seen.generation {
                cursor.reopen(&self.path, seen.generation)?;
                continue;
            }
            if seen.writers == 0 {
                return Ok(());
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Ok(()) },
                () = sender.closed() => return Ok(()),
            }
            seen = *progress.borrow_and_update();
        }
    }
}

/// Where a full file is put.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// One stored line; lines that are too long become several records.
fn record(records: &mut Vec<u8>, stamp: Timestamp, stream: &str, line: &[u8], complete: bool) {
    let mut parts = line.chunks(PART_BYTES).peekable();
    loop {
        let part = parts.next().unwrap_or_default();
        let last = parts.peek().is_none();
        let flag = if last && complete { 'F' } else { 'P' };
        records.extend_from_slice(format!("{stamp:.9} {stream} {flag} ").as_bytes());
        records.extend_from_slice(part);
        records.push(b'\n');
        if last {
            return;
        }
    }
}

/// A position in a log, and what of it is wanted.
struct Cursor {
    file: BufReader<File>,
    /// Files to read after the present one.
    next: Option<File>,
    generation: u64,
    /// A record of which only the beginning has been written.
    partial: Vec<u8>,
    skip: usize,
    since: Option<Timestamp>,
    timestamps: bool,
    limit: Option<usize>,
    /// The text before ended without a line feed.
    in_line: bool,
}

impl Cursor {
    fn open(path: &Path, options: &LogOptions, generation: u64) -> std::io::Result<Self> {
        let since = options.since_seconds.and_then(|seconds| {
            let back = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
            Timestamp::now().checked_sub(back).ok()
        });
        let current = File::open(path)?;
        let older = File::open(aside(path)).ok();
        let skip = match options.tail_lines {
            Some(wanted) => lines(path)?
                .saturating_add(lines(&aside(path)).unwrap_or(0))
                .saturating_sub(wanted),
            None => 0,
        };
        let (first, next) = match older {
            Some(older) => (older, Some(current)),
            None => (current, None),
        };
        Ok(Self {
            file: BufReader::new(first),
            next,
            generation,
            partial: Vec::new(),
            skip,
            since,
            timestamps: options.timestamps,
            limit: options.limit_bytes,
            in_line: false,
        })
    }

    fn reopen(&mut self, path: &Path, generation: u64) -> std::io::Result<()> {
        self.file = BufReader::new(File::open(path)?);
        self.generation = generation;
        Ok(())
    }

    /// The next lines; empty when everything that is written has been read.
    fn next_chunk(&mut self) -> std::io::Result<Bytes> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_BYTES && self.limit != Some(0) {
            let mut line = std::mem::take(&mut self.partial);
            self.file.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                self.partial = line;
                match self.next.take() {
                    Some(next) => self.file = BufReader::new(next),
                    None => break,
                }
                continue;
            }
            self.render(&line, &mut chunk);
        }
        Ok(Bytes::from(chunk))
    }

    fn render(&mut self, line: &[u8], chunk: &mut Vec<u8>) {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (Some(stamp), Some(_), Some(flag), Some(text)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        let complete = flag == b"F";
        if self.skip > 0 {
            self.skip -= usize::from(complete);
            return;
        }
        if let Some(since) = self.since {
            let at = std::str::from_utf8(stamp)
                .ok()
                .and_then(|stamp| stamp.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        let start = chunk.len();
        if self.timestamps && !self.in_line {
            chunk.extend_from_slice(stamp);
            chunk.push(b' ');
        }
        self.in_line = !complete;
        chunk.extend_from_slice(if complete {
            text
        } else {
            text.strip_suffix(b"\n").unwrap_or(text)
        });
        if let Some(limit) = &mut self.limit {
            let added = chunk.len() - start;
            if added > *limit {
                chunk.truncate(start + *limit);
            }
            *limit = limit.saturating_sub(added);
        }
    }
}

/// Complete lines in a file.
fn lines(path: &Path) -> std::io::Result<usize> {
    let mut file = BufReader::with_capacity(CHUNK_BYTES, File::open(path)?);
    let mut count = 0;
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        count += usize::from(line.splitn(4, |byte| *byte == b' ').nth(2) == Some(b"F"));
        line.clear();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(log: &Arc<Log>, options: LogOptions) -> String {
        let mut receiver = log.read(options);
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn reads_back_what_was_written_also_without_a_last_line_feed() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log")).unwrap();
        let long = "x".repeat(PART_BYTES * 2 + 5);
        let written = format!("one\n\n{long}\nlast");
        log.pump("stdout", std::io::Cursor::new(written.clone().into_bytes()))
            .await
            .unwrap();
        assert_eq!(collect(&log, LogOptions::default()).await, written);
        let tail = LogOptions {
            tail_lines: Some(1),
            ..LogOptions::default()
        };
        assert_eq!(collect(&log, tail).await, format!("{long}\nlast"));
        let limited = LogOptions {
            limit_bytes: Some(6),
            ..LogOptions::default()
        };
        assert_eq!(collect(&log, limited).await, "one\n\nx");
        let stamped = collect(
            &log,
            LogOptions {
                timestamps: true,
                ..LogOptions::default()
            },
        )
        .await;
        assert_eq!(stamped.lines().count(), 4);
        assert!(
            stamped
                .lines()
                .all(|line| line.split(' ').next().unwrap().parse::<Timestamp>().is_ok())
        );
    }

    #[tokio::test]
    async fn a_follower_sees_all_lines_and_ends_with_the_instance() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log")).unwrap();
        let (mut source, theirs) = tokio::io::duplex(64);
        let pump = log.pump("stdout", theirs);
        let follower = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                collect(
                    &log,
                    LogOptions {
                        follow: true,
                        ..LogOptions::default()
                    },
                )
                .await
            }
        });
        let mut expected = String::new();
        for number in 0..500 {
            let line = format!("line {number}\n");
            tokio::io::AsyncWriteExt::write_all(&mut source, line.as_bytes())
                .await
                .unwrap();
            expected.push_str(&line);
        }
        drop(source);
        pump.await.unwrap();
        assert_eq!(follower.await.unwrap(), expected);
    }
}
