//! Verdicts and how they merge.

use serde::{Deserialize, Serialize};

/// What may be said of a claim. Ordered by weight: the worst one of several stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The claim holds, error bar included.
    Pass,
    /// Nothing can be said. Silence is never a pass.
    Inconclusive,
    /// The claim is refuted, error bar included.
    Fail,
    /// A stop condition or a signal ended the run; everything was reverted.
    Aborted,
}

impl Verdict {
    /// The worst of several verdicts; nothing at all is inconclusive.
    pub fn worst(verdicts: impl IntoIterator<Item = Self>) -> Self {
        verdicts.into_iter().max().unwrap_or(Self::Inconclusive)
    }

    /// Lower-case word as it stands in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
            Self::Aborted => "aborted",
        }
    }
}
