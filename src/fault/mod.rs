//! The catalogue of faults, as data: what to break, on whom, how many, and how it is put back.
//!
//! Pure: may depend on [`crate::model`] only. The touching half (`inject`) interprets it.

use crate::model::{PodName, Role};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Who performs the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Injector {
    /// chaosrun itself, through the Kubernetes API.
    Direct,
}

impl Injector {
    /// The word in files and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
        }
    }
}

/// A signal that a container kill can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    /// SIGKILL: no handler runs.
    Kill,
    /// SIGTERM: a polite end.
    Term,
    /// SIGINT.
    Int,
    /// SIGSEGV: looks like a crash.
    Segv,
    /// SIGABRT: looks like a failed assertion.
    Abrt,
}

impl Signal {
    /// Name as `kill -s` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Segv => "SEGV",
            Self::Abrt => "ABRT",
        }
    }
}

/// What is done to each chosen pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FaultKind {
    /// DELETE of the pod with this grace period (0: the object goes at once, as after a lost node).
    PodKill {
        /// `gracePeriodSeconds` of the delete call.
        grace_seconds: u32,
    },
    /// A signal to every process of one container but its init, or to the init when it is alone, sent by exec.
    ContainerKill {
        /// Container name; `None` means the first container of the pod.
        container: Option<String>,
        /// Which signal.
        signal: Signal,
    },
}

impl FaultKind {
    /// The key in an experiment file.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::PodKill { .. } => "podKill",
            Self::ContainerKill { .. } => "containerKill",
        }
    }
}

/// How many of the candidates are hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// One.
    One,
    /// Every candidate; must be asked for.
    All,
    /// Exactly so many; fewer candidates are a refusal, never a smaller fault.
    Fixed(u32),
    /// A share of the candidates, rounded DOWN; a share that comes to none is a refusal.
    Percent(u8),
}

impl Mode {
    /// How many of `candidates` pods this mode hits, or why it cannot.
    ///
    /// # Errors
    /// A sentence when there is no candidate, a fixed number is not available, or a percentage rounds down to zero.
    pub fn count(self, candidates: usize) -> Result<usize, String> {
        if candidates == 0 {
            return Err("no pod matches the fault's selection".to_owned());
        }
        match self {
            Self::One => Ok(1),
            Self::All => Ok(candidates),
            Self::Fixed(wanted) => {
                let wanted_count = usize::try_from(wanted).unwrap_or(usize::MAX);
                if wanted_count > candidates {
                    Err(format!("{wanted} pods were asked for, {candidates} match"))
                } else {
                    Ok(wanted_count)
                }
            }
            Self::Percent(percent) => {
                let count = candidates * usize::from(percent) / 100;
                if count == 0 {
                    Err(format!("{percent} % of {candidates} pods rounds down to none"))
                } else {
                    Ok(count)
                }
            }
        }
    }
}

/// One fault of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultSpec {
    /// Unique within the experiment.
    pub name: String,
    /// What is done.
    pub kind: FaultKind,
    /// Only pods of this role of the target; `None` means every pod of the target.
    pub role: Option<Role>,
    /// Further restriction by labels (all must match).
    pub labels: Vec<(String, String)>,
    /// How many.
    pub mode: Mode,
    /// Who does it.
    pub injector: Injector,
    /// Offset from the start of the inject step.
    #[serde(with = "duration_millis")]
    pub after: Duration,
}

/// How a fault, or an object made for it, is taken back. Data, so that log, annotation and `clean` hold the same value.
/// Idempotent: "gone" and "never was" succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Undo {
    /// A one-shot: the system itself has to recover, there is nothing to take back.
    Nothing,
    /// Delete an object that chaosrun made.
    DeleteObject {
        /// `group/version`, or `v1`.
        api_version: String,
        /// Kind.
        kind: String,
        /// Plural, for the URL.
        plural: String,
        /// Namespace; `None` for a cluster-wide kind.
        namespace: Option<String>,
        /// Name; fixed before the call that creates it.
        name: String,
    },
}

/// A pod that a fault was planned for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultTarget {
    /// The exact pod.
    #[serde(flatten)]
    pub pod: PodName,
    /// Container, for faults that act inside one.
    pub container: Option<String>,
    /// Runtime id of that container when it was chosen.
    pub container_id: Option<String>,
}

/// Durations as whole milliseconds, so that an event log reads the same everywhere.
pub mod duration_millis {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    /// Writes milliseconds.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(deserializer)?))
    }
}
