//! Why something of the ledger could not be read.

use super::parse::ParseError;
use crate::cluster::ClusterError;
use crate::evidence::TooScattered;

/// Says what was read and why it failed. Whatever it is, the ledger is unreadable then, and claims on it are inconclusive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// By way of a pod.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// It came, and is not what it should be.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The numbers cannot be counted.
    #[error(transparent)]
    TooScattered(#[from] TooScattered),
    /// A place outside the cluster did not answer as it should.
    #[error("cannot read {what}: {why}")]
    Place {
        /// Which object or document.
        what: String,
        /// Why.
        why: String,
    },
    /// What had been read up to some byte is something else now. Reading starts again.
    #[error("{what} was replaced while it was being read")]
    Replaced {
        /// Which object or document.
        what: String,
    },
    /// Anything else, as a sentence.
    #[error("{0}")]
    Other(String),
}
