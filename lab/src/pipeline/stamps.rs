//! Instants that a workload writes down about itself: the truth that measuring instruments are held against.
//!
//! Depends on nothing of this crate. A file of lines of JSON for each process, flushed one by one:
//! `{"event":"start|..","monotonicNs":n,"wallMs":n,"pod":name}`. The clock is `CLOCK_MONOTONIC`, which all processes of a
//! machine share, containers included.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// The file cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write stamps to {}", path.display())]
pub(crate) struct StampError {
    path: PathBuf,
    source: std::io::Error,
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ns() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// The file of stamps of this process.
pub(crate) struct Stamps {
    file: Option<Mutex<File>>,
}

impl Stamps {
    /// Makes the file in `folder`; without one nothing is written down.
    ///
    /// # Errors
    /// When folder or file cannot be made.
    pub(crate) fn open(folder: Option<&Path>, kind: &str, start_ns: i64) -> Result<Self, StampError> {
        let Some(folder) = folder else {
            return Ok(Self { file: None });
        };
        let failed = |source| StampError {
            path: folder.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        // The start is unique on a machine; process ids are not, across containers.
        let file = File::create(folder.join(format!("{kind}-{start_ns}.jsonl"))).map_err(failed)?;
        Ok(Self {
            file: Some(Mutex::new(file)),
        })
    }

    /// Writes down that something happened at `monotonic_ns`.
    pub(crate) fn write(&self, event: &str, monotonic_ns: i64) {
        let Some(file) = &self.file else { return };
        let line = json!({
            "event": event,
            "monotonicNs": monotonic_ns,
            "wallMs": jiff::Timestamp::now().as_millisecond(),
            "pod": std::env::var("HOSTNAME").ok(),
        });
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            tracing::error!(%error, "cannot write a stamp");
        }
    }
}

/// Every instant at which `event` happened, as the processes before this one wrote it down, in order. What cannot be read is
/// left out.
pub(crate) fn instants(folder: &Path, event: &str) -> Vec<i64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let mut found: Vec<i64> = texts
        .flat_map(|text| {
            let stamps = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let wanted = stamps.filter(|stamp| stamp.get("event").and_then(Value::as_str) == Some(event));
            wanted
                .filter_map(|stamp| stamp.get("monotonicNs")?.as_i64())
                .collect::<Vec<_>>()
        })
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_stamped_another_one_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let first = Stamps::open(Some(folder.path()), "x", 1).unwrap();
        let second = Stamps::open(Some(folder.path()), "x", 2).unwrap();
        second.write("terminating", 20);
        first.write("terminating", 10);
        first.write("good", 15);
        assert_eq!(instants(folder.path(), "terminating"), [10, 20]);
        assert!(instants(&folder.path().join("missing"), "good").is_empty());
    }
}
