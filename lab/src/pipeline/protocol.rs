//! What driver and executors say to each other: one JSON object a line over TCP.
//!
//! Pure data. The connection is the executor's life line: when it closes, the executor ends (with code 0, as Spark's
//! executors do when their driver dies) and the driver gives its task to another.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio_util::codec::LinesCodec;

/// From executor to driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum ToDriver {
    /// First line of a connection.
    Register { executor_id: String },
    /// A partition is on disk.
    Done { task: u64, part: Part },
    /// A partition could not be written.
    Failed { task: u64, why: String },
}

/// From driver to executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum ToExecutor {
    /// Copy the records of `files` to `output`.
    Run {
        task: u64,
        files: Vec<PathBuf>,
        output: PathBuf,
    },
}

/// A part file in the sink's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) modification_time_ms: i64,
    pub(crate) records: u64,
}

/// Lines of a bounded length: whatever connects cannot make us buffer without end.
pub(crate) fn codec() -> LinesCodec {
    LinesCodec::new_with_max_length(4 << 20)
}
