//! Why an experiment could not go on, in classes that lead to exit codes.

use crate::cluster::{ClusterError, Failed};
use crate::inject::InjectError;
use crate::observe::ObserveError;
use crate::prometheus::PrometheusError;
use crate::world::{RecordError, Signalled};

/// An experiment ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Refused before anything was broken (exit 77).
    #[error("{0}")]
    Refused(String),
    /// The cluster could not be used (exit 69, or 77 when it forbids us).
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Prometheus could not be used (exit 69).
    #[error(transparent)]
    Prometheus(#[from] PrometheusError),
    /// The log could not be written (exit 73).
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A signal asked to stop (exit 130 or 143).
    #[error("stopped by {}", .0.name())]
    Signal(Signalled),
    /// A stop condition was met (exit 3).
    #[error("stop condition met: {0}")]
    Stopped(String),
    /// A defect of chaosrun (exit 70).
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<ObserveError> for EngineError {
    fn from(error: ObserveError) -> Self {
        match error {
            ObserveError::Cluster(error) => Self::Cluster(error),
            ObserveError::Record(error) => Self::Record(error),
            ObserveError::Probe { .. } => Self::Refused(error.to_string()),
        }
    }
}

impl From<InjectError> for EngineError {
    fn from(error: InjectError) -> Self {
        match error {
            InjectError::Refused(why) => Self::Refused(why),
            InjectError::Cluster(error) => Self::Cluster(error),
            InjectError::Record(error) => Self::Record(error),
        }
    }
}

impl EngineError {
    /// What to do next, when something sensible can be said.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Cluster(error) => error.hint(),
            Self::Prometheus(_) => Some("check the URL (`prometheus.url` in the experiment, or `--prometheus`)"),
            Self::Internal(_) => Some("this is a defect of chaosrun: please report it with the run folder"),
            Self::Refused(_) | Self::Record(_) | Self::Signal(_) | Self::Stopped(_) => None,
        }
    }

    /// Was nothing but permission missing?
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
            || matches!(self, Self::Cluster(error) if matches!(error.failed, Failed::Forbidden | Failed::Unauthorized))
    }
}
