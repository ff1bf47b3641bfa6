//! What a lab is made from. Depends on `node` for images and back-off; plain data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::node::{BackOff, ImageTable};

/// Where running labs keep their record and kubeconfig; `CHAOSRUN_LAB_STATE` moves it.
const STATE_ROOT: &str = "/run/chaosrun-lab";
/// Where labs keep volumes and logs; `CHAOSRUN_LAB_DATA` moves it.
const DATA_ROOT: &str = "/var/tmp/chaosrun-lab";

/// A process by its id and the time it started, because ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

/// How a lab is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabConfig {
    /// Name; several labs run side by side under different names.
    pub name: String,
    /// Number of nodes, all of them this machine.
    pub nodes: u8,
    /// What image names mean.
    pub images: ImageTable,
    /// Second octet of the lab's 10.x.0.0/16; a free one when absent.
    pub subnet: Option<u8>,
    /// Events kept per resource for watches that resume.
    pub history: usize,
    /// Pauses between container restarts.
    pub back_off: BackOff,
    /// Folder of all labs' records.
    pub state_root: PathBuf,
    /// Folder of all labs' volumes and logs.
    pub data_root: PathBuf,
    /// The lab ends by itself when this process does.
    pub owner: Option<ProcessIdentity>,
    /// The executable that serves the hidden commands; the running one when absent.
    pub program: Option<PathBuf>,
    /// What whoever embeds the lab wants to hand to its controllers, untouched by the lab.
    pub extra: serde_json::Value,
}

impl LabConfig {
    /// A lab with three nodes and defaults.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let root =
            |variable: &str, default: &str| std::env::var_os(variable).map_or_else(|| default.into(), PathBuf::from);
        Self {
            name: name.into(),
            nodes: 3,
            images: ImageTable::new(),
            subnet: None,
            history: 10_000,
            back_off: BackOff::default(),
            state_root: root("CHAOSRUN_LAB_STATE", STATE_ROOT),
            data_root: root("CHAOSRUN_LAB_DATA", DATA_ROOT),
            owner: None,
            program: None,
            extra: serde_json::Value::Null,
        }
    }
}
