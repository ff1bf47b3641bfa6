//! What can go wrong on a node. Depends on nothing; every message names what was attempted on what.

use std::path::{Path, PathBuf};

/// An error of the node agent.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A system tool could not be started or failed.
    #[error("`{command}` failed: {message}")]
    Command {
        /// The command line.
        command: String,
        /// Its standard error, or why it could not run.
        message: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A request to the API failed.
    #[error("cannot {action}")]
    Api {
        /// What was attempted.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The machine lacks something that pods need.
    #[error("{what}; {hint}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The pod asks for something that is wrong or not offered.
    #[error("{0}")]
    Pod(String),
}

impl NodeError {
    /// For `map_err` on file operations.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err` on system calls that return an errno.
    pub(crate) fn errno(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source: source.into(),
        }
    }

    /// For `map_err` on API calls.
    pub(crate) fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api {
            action,
            source: Box::new(source),
        }
    }

    /// The message with the messages of all its causes.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
