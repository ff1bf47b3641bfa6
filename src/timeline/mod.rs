//! Events to a timeline: pods by UID, probes as stretches of good and bad, commits, faults, gaps.
//!
//! Pure: may depend on [`crate::model`], [`crate::fault`], [`crate::experiment`] and [`crate::evidence`]. Central type:
//! [`Timeline`], a fold over the events of ONE experiment. The engine feeds it live and asks; the report feeds it the log and asks
//! the same questions, so that both share one judgement.
//!
//! # For the live engine
//! - `Timeline::new(&experiment)`, then `timeline.apply(&event)` for every event written to the log (order between streams does
//!   not matter; within one watch it must be the watch's order).
//! - `timeline.probe_states(at) -> Vec<ProbeStatus>`: state, since, holds, why, value of every probe (steady, assertion, stop).
//! - `timeline.steady(at) -> Result<(), Vec<String>>`: the steady state holds, or one sentence per probe that does not.
//! - `timeline.recovered(at) -> Option<Recovered>`: for the newest trial, once the effect is proven.
//! - `timeline.restoration(trial, at) -> Restoration`: the same with the reasons why not yet.
//! - `timeline.stop_condition(at) -> Option<String>`, `timeline.ready_count(role)`.
//!
//! `at` is the runner's present instant: watched probes hold until an event says otherwise, sampled ones go stale after three
//! intervals and their timeout.
//!
//! # Contract
//! - Every edge is an interval. A watch event lies between the send of the last [`RevisionTick`](crate::evidence::Event) below
//!   its revision and its receipt. Without ticks the receipt of the event before it stands in, which is right but for the
//!   delivery delay. An edge of a sampled probe lies between the send of the last opposite sample and the first new answer.
//! - Silence widens; it never counts as good or bad. The hold time confirms and never moves an instant.

mod commits;
mod fold;
mod lane;
mod moment;
mod pods;
mod promql;
mod recovery;
mod trial;

pub use commits::FirstCommit;
pub(crate) use fold::ProbeLane;
pub use fold::{ClockOffset, Gap, Purpose, Timeline};
pub use lane::{Counts, ProbeState, Span};
pub use moment::Moment;
pub(crate) use pods::{Change, PodTrack};
pub use promql::promql_outcome;
pub use recovery::{ProbeStatus, Recovered, Restoration};
pub use trial::{Audit, Checkpoint, FaultFacts, TargetFacts, TrialFacts};
