//! What can go wrong with a lab as a whole. Depends on the errors of its parts.

use std::path::PathBuf;

use crate::api::ApiServerError;
use crate::node::NodeError;

/// An error of the lab's life cycle.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The node agent could not be started, or the machine cannot run pods.
    #[error("{}", .0.chain())]
    Node(NodeError),
    /// The API server could not be started.
    #[error(transparent)]
    Api(#[from] ApiServerError),
    /// The name cannot be used.
    #[error("lab name {0:?} must consist of 1 to 40 lower-case letters, digits and '-'")]
    Name(String),
    /// A lab of this name is up already.
    #[error("lab {0} is up already; take it down first, or choose another name")]
    Exists(String),
    /// There is no such lab.
    #[error("lab {0} is not up")]
    NotUp(String),
    /// The background process ended or did not get ready.
    #[error("lab {name} did not come up: {reason}")]
    NotReady {
        /// Name of the lab.
        name: String,
        /// What it said last.
        reason: String,
    },
    /// Something of a lab could not be removed.
    #[error("lab {name} is down, but these are left: {}", .left.join("; "))]
    Left {
        /// Name of the lab.
        name: String,
        /// What is left and why.
        left: Vec<String>,
    },
}

impl From<NodeError> for LabError {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl LabError {
    /// For `map_err` on file operations.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
