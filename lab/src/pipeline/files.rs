//! Checkpoint and sink on disk, in the layout of Spark's Structured Streaming.
//!
//! `offsets/N` is written before batch N runs, `commits/N` after the sink has it; the sink's `_spark_metadata/N` says
//! which part files count; every tenth log file is compacted. May depend on the file system only. Central types:
//! [`CompactLog`], [`Checkpoint`]. Contract: a reader sees a whole file or none, and a file that exists is never
//! replaced: two drivers on one checkpoint end in an error, not in a mix.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::protocol::Part;

/// Every tenth file of a log holds all entries so far.
const COMPACT_INTERVAL: u64 = 10;
/// So many batches stay in `offsets` and `commits`.
const BATCHES_KEPT: u64 = 100;
/// The version line of all logs.
const VERSION_LINE: &str = "v1";

/// Why a checkpoint or sink could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} was written by someone else: several drivers use this checkpoint", path.display())]
    Concurrent { path: PathBuf },
    #[error("{} is not a log of version {VERSION_LINE}", path.display())]
    Version { path: PathBuf },
    #[error("{} holds a line that is no entry", path.display())]
    Entry { path: PathBuf, source: serde_json::Error },
}

impl FileError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A log of numbered files with JSON lines, of which every tenth is compacted.
#[derive(Debug, Clone)]
pub(crate) struct CompactLog {
    folder: PathBuf,
}

impl CompactLog {
    pub(crate) fn open(folder: PathBuf) -> Result<Self, FileError> {
        fs::create_dir_all(&folder).map_err(FileError::io("create", &folder))?;
        Ok(Self { folder })
    }

    /// Highest batch in the log.
    pub(crate) fn latest(&self) -> Result<Option<u64>, FileError> {
        Ok(self.files()?.keys().next_back().copied())
    }

    /// Batch number to file, compacted or not.
    fn files(&self) -> Result<BTreeMap<u64, PathBuf>, FileError> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.folder).map_err(FileError::io("list", &self.folder))? {
            let path = entry.map_err(FileError::io("list", &self.folder))?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(".compact").unwrap_or(name).parse().ok());
            if let Some(number) = number {
                files.insert(number, path);
            }
        }
        Ok(files)
    }

    /// All lines that count, oldest first: the latest compacted file and what follows it.
    pub(crate) fn lines(&self) -> Result<Vec<String>, FileError> {
        let files = self.files()?;
        let start = files
            .iter()
            .rev()
            .find(|(_, path)| path.extension().is_some_and(|extension| extension == "compact"))
            .map_or(0, |(number, _)| *number);
        let mut lines = Vec::new();
        for path in files.range(start..).map(|(_, path)| path) {
            lines.extend(read_log(path)?);
        }
        Ok(lines)
    }

    /// Adds batch `number`.
    pub(crate) fn append(&self, number: u64, lines: Vec<String>) -> Result<(), FileError> {
        let compacts = (number + 1).is_multiple_of(COMPACT_INTERVAL);
        let (name, lines) = if compacts {
            let mut all = self.lines()?;
            all.extend(lines);
            (format!("{number}.compact"), all)
        } else {
            (number.to_string(), lines)
        };
        let mut text = String::from(VERSION_LINE);
        for line in lines {
            text.push('\n');
            text.push_str(&line);
        }
        write_once(&self.folder.join(name), &text)
    }
}

/// One entry of the file source's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) timestamp: i64,
    pub(crate) batch_id: u64,
}

/// The checkpoint folder.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    folder: PathBuf,
    source: CompactLog,
}

impl Checkpoint {
    pub(crate) fn open(folder: &Path) -> Result<Self, FileError> {
        for name in ["offsets", "commits"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(FileError::io("create", &path))?;
        }
        let metadata = folder.join("metadata");
        if !metadata.exists() {
            write_once(&metadata, &json!({"id": uuid::Uuid::new_v4().to_string()}).to_string())?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            source: CompactLog::open(folder.join("sources/0"))?,
        })
    }

    /// Highest planned batch.
    pub(crate) fn planned(&self) -> Result<Option<u64>, FileError> {
        highest(&self.folder.join("offsets"))
    }

    /// Highest committed batch.
    pub(crate) fn committed(&self) -> Result<Option<u64>, FileError> {
        highest(&self.folder.join("commits"))
    }

    /// Every input file that was ever given to a batch.
    pub(crate) fn source_files(&self) -> Result<Vec<SourceFile>, FileError> {
        self.source
            .lines()?
            .iter()
            .map(|line| {
                serde_json::from_str(line).map_err(|source| FileError::Entry {
                    path: self.folder.join("sources/0"),
                    source,
                })
            })
            .collect()
    }

    /// Gives files to a batch. Comes before [`Self::plan`]: a crash between the two makes the next run plan the same.
    pub(crate) fn assign(&self, batch: u64, files: &[SourceFile]) -> Result<(), FileError> {
        self.source
            .append(batch, files.iter().map(|file| json!(file).to_string()).collect())
    }

    /// Promises batch `batch`: from now on a restart runs it again with exactly the same files.
    pub(crate) fn plan(&self, batch: u64, now_ms: i64) -> Result<(), FileError> {
        let head = json!({"batchWatermarkMs": 0, "batchTimestampMs": now_ms, "conf": {}});
        let offset = json!({"logOffset": batch});
        write_once(
            &self.folder.join("offsets").join(batch.to_string()),
            &format!("{VERSION_LINE}\n{head}\n{offset}"),
        )?;
        self.forget("offsets", batch)
    }

    /// Notes that the sink has batch `batch`.
    pub(crate) fn commit(&self, batch: u64) -> Result<(), FileError> {
        let line = json!({"nextBatchWatermarkMs": 0});
        write_once(
            &self.folder.join("commits").join(batch.to_string()),
            &format!("{VERSION_LINE}\n{line}"),
        )?;
        self.forget("commits", batch)
    }

    fn forget(&self, log: &str, batch: u64) -> Result<(), FileError> {
        let Some(old) = batch.checked_sub(BATCHES_KEPT) else {
            return Ok(());
        };
        let path = self.folder.join(log).join(old.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

/// The line of a part file in the sink's manifest.
pub(crate) fn manifest_line(part: &Part) -> String {
    json!({
        "path": format!("file://{}", part.path.display()),
        "size": part.size,
        "isDir": false,
        "modificationTime": part.modification_time_ms,
        "blockReplication": 1,
        "blockSize": 33_554_432,
        "action": "add",
    })
    .to_string()
}

/// Files in the input folder, oldest first. Hidden ones do not count.
pub(crate) fn list_input(folder: &Path) -> Result<Vec<(String, i64)>, FileError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(FileError::io("list", folder))? {
        let entry = entry.map_err(FileError::io("list", folder))?;
        let name = entry.file_name();
        let hidden = name
            .to_str()
            .is_none_or(|name| name.starts_with('.') || name.starts_with('_'));
        // A file that is gone since the listing is no error.
        if let (false, Ok(metadata)) = (hidden, entry.metadata())
            && metadata.is_file()
        {
            files.push((format!("file://{}", entry.path().display()), modified_ms(&metadata)));
        }
    }
    files.sort_by(|left, right| (left.1, &left.0).cmp(&(right.1, &right.0)));
    Ok(files)
}

/// Milliseconds since the epoch of the last change.
pub(crate) fn modified_ms(metadata: &fs::Metadata) -> i64 {
    use std::os::unix::fs::MetadataExt;
    metadata
        .mtime()
        .saturating_mul(1000)
        .saturating_add(metadata.mtime_nsec() / 1_000_000)
}

fn highest(folder: &Path) -> Result<Option<u64>, FileError> {
    let mut highest = None;
    for entry in fs::read_dir(folder).map_err(FileError::io("list", folder))? {
        let entry = entry.map_err(FileError::io("list", folder))?;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        highest = highest.max(number);
    }
    Ok(highest)
}

fn read_log(path: &Path) -> Result<Vec<String>, FileError> {
    let text = fs::read_to_string(path).map_err(FileError::io("read", path))?;
    let mut lines = text.lines();
    if lines.next() != Some(VERSION_LINE) {
        return Err(FileError::Version { path: path.to_owned() });
    }
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Temporary name, then a rename that refuses to replace.
fn write_once(path: &Path, text: &str) -> Result<(), FileError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4()));
    fs::write(&temporary, text).map_err(FileError::io("write", &temporary))?;
    let renamed = rustix::fs::renameat_with(
        rustix::fs::CWD,
        &temporary,
        rustix::fs::CWD,
        path,
        rustix::fs::RenameFlags::NOREPLACE,
    );
    match renamed {
        Ok(()) => Ok(()),
        Err(error) => {
            // The error below matters more than a leftover with a hidden name.
            drop(fs::remove_file(&temporary));
            if error == rustix::io::Errno::EXIST {
                Err(FileError::Concurrent { path: path.to_owned() })
            } else {
                Err(FileError::io("put in place", path)(error.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_back_across_compactions() {
        let folder = tempfile::tempdir().unwrap();
        let log = CompactLog::open(folder.path().join("log")).unwrap();
        for batch in 0..23 {
            log.append(batch, vec![format!("{{\"n\":{batch}}}")]).unwrap();
        }
        let expected: Vec<String> = (0..23).map(|batch| format!("{{\"n\":{batch}}}")).collect();
        assert_eq!(log.lines().unwrap(), expected);
        assert_eq!(log.latest().unwrap(), Some(22));
        assert!(folder.path().join("log/9.compact").exists() && folder.path().join("log/19.compact").exists());
        assert!(!folder.path().join("log/9").exists());
    }

    #[test]
    fn a_batch_that_exists_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let log = CompactLog::open(folder.path().to_owned()).unwrap();
        log.append(0, vec!["first".into()]).unwrap();
        assert!(matches!(
            log.append(0, vec!["second".into()]),
            Err(FileError::Concurrent { .. })
        ));
        assert_eq!(log.lines().unwrap(), ["first"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_log_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0"), "v2\nx").unwrap();
        let log = CompactLog::open(folder.path().to_owned()).unwrap();
        assert!(matches!(log.lines(), Err(FileError::Version { .. })));
    }

    #[test]
    fn planned_and_committed_are_the_highest_plain_numbers_and_a_hundred_stay() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(
            (checkpoint.planned().unwrap(), checkpoint.committed().unwrap()),
            (None, None)
        );
        for batch in 0..103 {
            checkpoint.plan(batch, 5).unwrap();
            checkpoint.commit(batch).unwrap();
        }
        checkpoint.plan(103, 5).unwrap();
        fs::write(folder.path().join("commits/.999.crc"), "").unwrap();
        assert_eq!(
            (checkpoint.planned().unwrap(), checkpoint.committed().unwrap()),
            (Some(103), Some(102))
        );
        assert!(!folder.path().join("offsets/3").exists() && folder.path().join("offsets/4").exists());
        let text = fs::read_to_string(folder.path().join("offsets/103")).unwrap();
        assert!(
            text.starts_with("v1\n{\"batchWatermarkMs\":0,\"batchTimestampMs\":5,"),
            "{text}"
        );
        assert!(text.ends_with("\n{\"logOffset\":103}"), "{text}");
    }

    #[test]
    fn input_is_listed_oldest_first_without_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for (name, second) in [("b.json", 20), ("a.json", 30), (".c.json", 1), ("_d", 1)] {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        let names: Vec<String> = list_input(folder.path())
            .unwrap()
            .into_iter()
            .map(|(path, _)| path.rsplit('/').next().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["b.json", "a.json"]);
    }
}
