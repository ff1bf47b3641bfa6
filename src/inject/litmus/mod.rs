//! Faults through Litmus: a ChaosEngine of its own for every fault, with the exact pods that chaosrun chose.
//!
//! May depend on what `inject` may. Contract: the target itself counts before any status, and a status counts only when it belongs to
//! this very engine (`specs/litmus.md`, sections 6 and 10); every way in which Litmus can end without a fault ends here in a reason.
//! Rooms: `prepare` (what must be there, and the engine's spec), `fire` (the engine and the proofs), `follow` (reads what Litmus says),
//! `status` (what that means; pure).

mod fire;
mod follow;
mod prepare;
mod status;

pub(super) use fire::fire;
pub(super) use prepare::{Plan, prepare};

/// `group/version` of its kinds.
const API_VERSION: &str = "litmuschaos.io/v1alpha1";
