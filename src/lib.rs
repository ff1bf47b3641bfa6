//! chaosrun breaks a running system on purpose, measures when service came back and which data survived, and returns a
//! verdict that anyone can check again.
//!
//! Two halves. The left half touches the world (Kubernetes, Prometheus, clocks, randomness) and writes facts to an event
//! log. The right half is pure: the same log always gives the same numbers, verdict and report. `docs/ARCHITECTURE.md`
//! shows which module may know which; a test checks it.

pub mod calibration;
pub mod compare;
pub mod evidence;
pub mod experiment;
pub mod fault;
pub mod measure;
pub mod model;
pub mod plan;
pub mod report;
pub mod stats;
pub mod timeline;
pub mod verdict;

pub mod cli;
mod cluster;
mod engine;
mod inject;
mod ledger;
mod observe;
mod prometheus;
mod world;
