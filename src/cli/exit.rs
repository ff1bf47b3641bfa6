//! Exit codes, and the failures that lead to them.

use crate::cluster::{ClusterError, Failed, ManifestError};
use crate::engine::EngineError;
use crate::model::Verdict;
use crate::world::{FileError, RecordError, Signalled};

/// Exit codes, from sysexits where they exist. A tool failure never looks like a system failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every claim holds.
    Pass = 0,
    /// A claim is refuted.
    Fail = 1,
    /// Nothing can be said.
    Inconclusive = 2,
    /// Aborted by a stop condition, reverted.
    Aborted = 3,
    /// A fault could not be reverted: the worst.
    NotReverted = 4,
    /// Wrong usage.
    Usage = 64,
    /// Invalid experiment.
    Invalid = 65,
    /// Cluster or Prometheus unreachable.
    Unreachable = 69,
    /// A defect of chaosrun.
    Internal = 70,
    /// Report or log cannot be written.
    CannotWrite = 73,
    /// Refused before anything was touched: permissions, guards, steady state.
    Refused = 77,
    /// Ctrl-C; reverted first.
    Interrupted = 130,
    /// SIGTERM; reverted first.
    Terminated = 143,
}

impl Exit {
    /// Which of several codes a process ends with: the first in this list. What is left in the cluster comes first, then who
    /// stopped us, then broken tools, then what was found out.
    pub const PRECEDENCE: [Self; 13] = [
        Self::NotReverted,
        Self::Terminated,
        Self::Interrupted,
        Self::Aborted,
        Self::Internal,
        Self::CannotWrite,
        Self::Usage,
        Self::Invalid,
        Self::Fail,
        Self::Unreachable,
        Self::Refused,
        Self::Inconclusive,
        Self::Pass,
    ];

    /// The code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The one that wins over the others.
    #[must_use]
    pub fn first_of(exits: &[Self]) -> Self {
        Self::PRECEDENCE
            .into_iter()
            .find(|exit| exits.contains(exit))
            .unwrap_or(Self::Pass)
    }
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Fail => Self::Fail,
            Verdict::Inconclusive => Self::Inconclusive,
            Verdict::Aborted => Self::Aborted,
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Wrong usage beyond what clap finds.
    #[error("{0}")]
    Usage(String),
    /// Experiment files with problems, already rendered.
    #[error("{0}")]
    Invalid(String),
    /// A manifest that cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file.
    #[error("{error}: {cause}", error = .0, cause = .0.source)]
    File(#[from] FileError),
    /// The log.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The embedded cluster could not be had.
    #[error("cannot use the lab: {0}")]
    Lab(String),
    /// A defect.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Failure {
    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Invalid(_) | Self::Manifest(_) => Exit::Invalid,
            Self::Cluster(error) => cluster_exit(error),
            Self::Engine(error) => engine_exit(error),
            Self::File(_) | Self::Record(_) => Exit::CannotWrite,
            Self::Lab(_) => Exit::Unreachable,
            Self::Internal(_) => Exit::Internal,
        }
    }

    /// What to do next.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Cluster(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::Internal(_) => Some("this is a defect of chaosrun: please report it with the command line"),
            Self::Usage(_) | Self::Invalid(_) | Self::Manifest(_) | Self::File(_) | Self::Record(_) | Self::Lab(_) => {
                None
            }
        }
    }
}

/// Exit code of an experiment that ended early.
pub(super) fn engine_exit(error: &EngineError) -> Exit {
    match error {
        EngineError::Refused(_) => Exit::Refused,
        EngineError::Cluster(error) => cluster_exit(error),
        EngineError::Prometheus(_) => Exit::Unreachable,
        EngineError::Record(_) => Exit::CannotWrite,
        EngineError::Signal(Signalled::Interrupt) => Exit::Interrupted,
        EngineError::Signal(Signalled::Terminate) => Exit::Terminated,
        EngineError::Stopped(_) => Exit::Aborted,
        EngineError::Internal(_) => Exit::Internal,
    }
}

fn cluster_exit(error: &ClusterError) -> Exit {
    match error.failed {
        Failed::Forbidden | Failed::Unauthorized => Exit::Refused,
        Failed::Rejected(_) => Exit::Invalid,
        Failed::Unreachable
        | Failed::TimedOut(_)
        | Failed::NotFound
        | Failed::Conflict
        | Failed::Gone
        | Failed::Throttled
        | Failed::Server(_)
        | Failed::Other => Exit::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_in_the_cluster_wins_over_everything() {
        assert_eq!(
            Exit::first_of(&[Exit::Pass, Exit::Fail, Exit::NotReverted, Exit::Interrupted]),
            Exit::NotReverted
        );
    }

    #[test]
    fn a_refuted_claim_is_not_hidden_by_a_refusal_elsewhere() {
        assert_eq!(Exit::first_of(&[Exit::Refused, Exit::Fail, Exit::Pass]), Exit::Fail);
    }

    #[test]
    fn every_code_has_its_place_in_the_precedence() {
        let mut codes: Vec<u8> = Exit::PRECEDENCE.iter().map(|exit| exit.code()).collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 1, 2, 3, 4, 64, 65, 69, 70, 73, 77, 130, 143]);
    }
}
