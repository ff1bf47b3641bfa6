//! What a reconcile can end in.

use std::time::Duration;

/// What the worker should do with a key that was reconciled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to do until something changes.
    Done,
    /// Look again after this time even if nothing changes.
    After(Duration),
}

impl Outcome {
    /// `After` for a time, `Done` for none.
    pub(crate) fn after(wait: Option<Duration>) -> Self {
        wait.map_or(Self::Done, Self::After)
    }
}

/// Why a reconcile failed. It is retried with a growing pause.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The API server refused or could not be reached.
    #[error("could not {verb} {kind} {object}")]
    Api {
        /// Verb of the request.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Namespace and name.
        object: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("no answer within {seconds} s to {verb} {kind} {object}")]
    Timeout {
        /// Verb of the request.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Namespace and name.
        object: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The object asks for something that makes no sense.
    #[error("{kind} {object}: {problem}")]
    Invalid {
        /// Kind of the object.
        kind: &'static str,
        /// Namespace and name.
        object: String,
        /// What is wrong.
        problem: String,
    },
}

impl ReconcileError {
    /// HTTP status of the answer, when there was one.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } | Self::Invalid { .. } => None,
        }
    }

    /// The object changed or vanished between the read and the write: normal, the next round sees the new state.
    pub(crate) fn is_race(&self) -> bool {
        matches!(self.code(), Some(404 | 409))
    }
}
