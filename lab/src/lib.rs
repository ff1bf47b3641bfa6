//! A small Kubernetes in one process, for chaos experiments where there is no cluster.
//!
//! Real wire protocol, real processes, real faults. This crate imports nothing of chaosrun and knows nothing of
//! experiments. Parts: [`backend`] (the seam), `api` (store and API server), `node` (runs pods with runc),
//! `controllers` (Deployments, Jobs, `SparkApplication`s ...), `pipeline` (the built-in stand-in workload), `shaper` (a double of netem), `intruder`
//! (processes that take processors or memory from others),
//! `lifecycle` (up, down, status, and the removal of what a crash left).

pub mod api;
pub mod backend;
pub mod controllers;
pub mod images;
mod intruder;
pub mod lifecycle;
pub mod node;
pub mod pipeline;
mod shaper;
pub mod standard;
