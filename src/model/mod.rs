//! The nouns of chaosrun: instants and intervals, pods, targets, verdicts.
//!
//! Pure: may depend on serde, schemars and jiff only; no clock, no I/O, no randomness. Everything else may depend on it.

mod pod;
mod time;
mod verdict;

pub use pod::{ContainerFacts, ContainerState, Owner, PodFacts, PodName, Role};
pub use time::{Bounded, Interval, Measured, Mono, WhyNot};
pub use verdict::Verdict;

/// The label that every object made by chaosrun carries, with the value [`MANAGED_BY_VALUE`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY_VALUE: &str = "chaosrun";
/// Label with the id of the run that made an object.
pub const RUN_LABEL: &str = "chaosrun.dev/run";
/// Label with the name of the experiment that made an object.
pub const EXPERIMENT_LABEL: &str = "chaosrun.dev/experiment";
/// Label of an object that is not chaosrun's and that a fault changed; what it was stands in [`RESTORE_ANNOTATION`].
pub const FAULTED_LABEL: &str = "chaosrun.dev/faulted";
/// Annotation with the JSON merge patch that puts a changed object back.
pub const RESTORE_ANNOTATION: &str = "chaosrun.dev/restore";
/// Label that tells what an object is for: `guard`, `lock`, `journal`, `record`, `fault` or `setup`.
pub const PURPOSE_LABEL: &str = "chaosrun.dev/purpose";
