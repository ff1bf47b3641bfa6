//! Injectors: they fire what was armed and prove its effect.
//!
//! May depend on the pure half, `world`, `cluster` and the pod index of `observe`. Contract: nothing is fired without an
//! [`Armed`] token; the instant of effect is an interval from the request to the first proof; no proof is said, not hidden.
//!
//! A fault goes through three hands: [`Stage::choose`] names the exact targets, [`Stage::prepare`] reads what it needs to know and
//! says how everything is taken back (both change nothing), and [`Stage::fire`] does it. Rooms: `pods` (kill, evict, signal),
//! `inside` (scripts in a container), `nodes`, `objects` (scale, delete, image), `partition` (network policies), `netns` (traffic
//! shaping in a pod's network namespace), `chaos_mesh`, `chaos_mesh_flow` (its Schedules and Workflows), `chaos_mesh_install` (what is installed
//! of it), `litmus`; `shot` is the one way to
//! fire at one target and to wait for the proof.

mod chaos_mesh;
mod chaos_mesh_flow;
mod chaos_mesh_install;
mod inside;
mod litmus;
mod netns;
mod nodes;
mod objects;
mod partition;
mod pods;
mod prepare;
mod shot;
mod stage;
mod traffic;
mod verbs;

pub(crate) use chaos_mesh_install::survey as survey_chaos_mesh;
pub(crate) use prepare::Prepared;
pub(crate) use stage::{GuardOwner, InjectError, Stage};
pub(crate) use verbs::needed_verbs;
