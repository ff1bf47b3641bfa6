//! Injectors: they fire what was armed and prove its effect.
//!
//! May depend on the pure half, `world`, `cluster` and the pod index of `observe`. Contract: nothing is fired without an
//! [`Armed`] token; the instant of effect is an interval from the request to the first proof; no proof is said, not hidden.

mod direct;

pub(crate) use direct::{Direct, needed_verbs};
