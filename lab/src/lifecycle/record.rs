//! What a lab has created, written before it is created. Depends on serde and rustix.
//!
//! Central types: [`Record`], [`Roots`]. Contract: from a record alone everything of a lab can be found and removed,
//! also when its process was killed between any two steps. Names hold the lab's id, so nothing else is ever touched.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{LabConfig, ProcessIdentity};
use super::error::LabError;
use crate::node::LabNetwork;

const FILE: &str = "record.json";

/// Everything there is to know about a lab from outside of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the lab.
    pub name: String,
    /// The process that runs it.
    pub process: ProcessIdentity,
    /// Bridge, nftables table, namespaces and interfaces follow from it.
    pub network: LabNetwork,
    /// Control group above all pods.
    pub control_group: String,
    /// Folder of this lab for what lives as long as its processes.
    pub state_folder: PathBuf,
    /// Folder of this lab for volumes and logs.
    pub data_folder: PathBuf,
    /// A lab made `/run/netns`, so the last one removes it.
    pub made_namespace_folder: bool,
    /// Host settings that were changed: file and value before.
    pub settings: Vec<(PathBuf, String)>,
    /// Address of the API server; absent until it listens.
    pub api: Option<String>,
}

impl Record {
    /// The lab's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state_folder.join("kubeconfig")
    }

    /// The log of the lab's process.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state_folder.join("lab.log")
    }

    /// Whether the process that runs the lab is alive.
    #[must_use]
    pub fn alive(&self) -> bool {
        identity(self.process.pid) == Some(self.process)
    }

    /// Writes the record, whole or not at all.
    pub(crate) fn save(&self) -> Result<(), LabError> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        write_private(&self.state_folder.join(FILE), &text)
    }

    /// Reads the record of a lab.
    pub(crate) fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()
    }
}

/// Writes a file that only its owner can read, by rename.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), LabError> {
    use std::io::Write;
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(LabError::io("create", &fresh))?;
    file.write_all(content).map_err(LabError::io("write", &fresh))?;
    std::fs::rename(&fresh, path).map_err(LabError::io("write", path))
}

/// A living process; a zombie is none.
pub(crate) fn identity(pid: i32) -> Option<ProcessIdentity> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(ProcessIdentity { pid, started })
}

/// This process.
pub(crate) fn own_identity() -> ProcessIdentity {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    identity(pid).unwrap_or(ProcessIdentity { pid, started: 0 })
}

/// The folders above all labs.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub state: PathBuf,
    pub data: PathBuf,
}

impl Roots {
    pub(crate) fn of(config: &LabConfig) -> Self {
        Self {
            state: config.state_root.clone(),
            data: config.data_root.clone(),
        }
    }

    pub(crate) fn of_record(record: &Record) -> Self {
        let parent = |folder: &Path| folder.parent().map(Path::to_path_buf).unwrap_or_default();
        Self {
            state: parent(&record.state_folder),
            data: parent(&record.data_folder),
        }
    }

    /// All records, of living and of dead labs.
    pub(crate) fn records(&self) -> Vec<Record> {
        let Ok(entries) = std::fs::read_dir(&self.state) else {
            return Vec::new();
        };
        let mut records: Vec<Record> = entries
            .flatten()
            .filter_map(|entry| Record::load(&entry.path()))
            .collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    }

    /// The record of one lab.
    pub(crate) fn record(&self, name: &str) -> Option<Record> {
        Record::load(&self.state.join(name))
    }

    /// Keeps other processes from creating or removing labs until the lock is dropped. The folder itself is what is
    /// locked, so that no lock file is left behind.
    pub(crate) async fn lock(&self) -> Result<OwnedFd, LabError> {
        loop {
            std::fs::create_dir_all(&self.state).map_err(LabError::io("create the folder", &self.state))?;
            std::fs::set_permissions(&self.state, std::fs::Permissions::from_mode(0o755))
                .map_err(LabError::io("set the mode of", &self.state))?;
            let folder = std::fs::File::open(&self.state).map_err(LabError::io("open", &self.state))?;
            let locked = tokio::task::spawn_blocking(move || {
                rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).map(|()| folder)
            });
            let folder = locked
                .await
                .map_err(std::io::Error::other)
                .and_then(|locked| locked.map_err(Into::into))
                .map_err(LabError::io("lock", &self.state))?;
            // Whoever had the lock may have removed the folder.
            let ours = folder.metadata().map(|metadata| metadata.ino()).ok();
            let present = std::fs::metadata(&self.state).map(|metadata| metadata.ino()).ok();
            if ours.is_some() && ours == present {
                return Ok(folder.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_pid_and_start_time() {
        let own = own_identity();
        assert!(own.started > 0);
        assert_eq!(identity(own.pid), Some(own));
        assert_eq!(identity(i32::MAX), None);
    }
}
