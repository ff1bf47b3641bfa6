//! The catalogue of faults, as data: what to break, on whom, how many, and how it is put back.
//!
//! Pure: may depend on [`crate::model`] only. The touching half (`inject`) interprets it.

mod chaos_mesh;
mod chaos_mesh_flow;
mod chaos_mesh_forms;
mod kinds;
mod litmus;
mod undo;

pub use chaos_mesh::{ChaosMeshObject, chaos_mesh_object, chaos_mesh_plurals, is_one_shot};
pub use chaos_mesh_forms::{FILE_CALLS, HttpEffect, HttpSide, JvmEffect, RETURN_KEY, errno, form_words};
pub use kinds::{Amount, Direction, FaultKind, Life, ObjectRef, Peer, Signal, StorageLoss};
pub use litmus::{LitmusEffect, LitmusExperiment, litmus_experiment};
pub use undo::{Claim, Inside, Undo};

use crate::model::{PodName, Role};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Who performs the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Injector {
    /// chaosrun itself, through the Kubernetes API.
    Direct,
    /// Chaos Mesh, through its custom resources.
    ChaosMesh,
    /// Litmus, through its ChaosEngine.
    Litmus,
}

impl Injector {
    /// The word in files and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::ChaosMesh => "chaos-mesh",
            Self::Litmus => "litmus",
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
    /// How long the effect is kept up, for faults that last; none for those that are over in an instant.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// A lasting fault may end with its victim: that the system replaced it counts as its recovery. Else such a trial says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_replaced: bool,
}

/// What a fault was planned for: a pod, or a container in it; for a fault on another object, that object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultTarget {
    /// The exact pod, or the exact object of `kind`.
    #[serde(flatten)]
    pub pod: PodName,
    /// Kind of the object when it is no pod, such as `Node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
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

/// As [`duration_millis`], for a duration that may be missing.
pub mod optional_millis {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    /// Writes milliseconds, or null.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration_millis::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads milliseconds, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}
