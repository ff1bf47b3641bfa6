//! The node agent: a small kubelet on `runc`.
//!
//! It is for running the pods of a lab as real processes of this machine. It talks to the API server only through a
//! [`kube::Client`] that it is given, and offers it [`PodBackend`](crate::backend::PodBackend). Central type:
//! [`NodeAgent`]. It needs root, runc, iproute2 and nftables; there is no mode with plain processes, see
//! [`check_requirements`].
//!
//! Rooms: `agent` (watch, table of pods), `pod` and `body` (one pod: its API side, its processes), `container`
//! (start, stop, restart), `observer` (its probes), `state` (what is known, and the status that follows), `bundle` and `workspace` (OCI
//! description, files), `runc` (processes), `execution` and `probes` (further processes in a container), `environment`,
//! `volumes`, `claims`, `image`, `logs`, `network` (bridge, namespaces), `loopback`,
//! `directory`, `services`, `names`, `name_trouble` (service addresses and names), `policies` (network policies), `cgroup`, `descriptor`, `nodes`, `events`, `serving`
//! (logs, exec, connect), `faults` (breaking pods from outside), `command`, `quantity`, `requirements`, `error`.

mod agent;
mod body;
mod bundle;
pub(crate) mod cgroup;
mod claims;
pub(crate) mod command;
mod container;
pub(crate) mod descriptor;
mod directory;
mod environment;
mod error;
mod events;
mod execution;
pub mod faults;
mod image;
mod logs;
mod loopback;
mod name_trouble;
mod names;
pub(crate) mod network;
mod nodes;
mod observer;
mod pod;
pub(crate) mod policies;
mod probes;
mod quantity;
mod requirements;
mod runc;
mod services;
mod serving;
mod state;
mod volumes;
mod workspace;

pub use agent::{BackOff, NodeAgent, NodeAgentConfig};
pub use error::NodeError;
pub use image::{Image, ImageBind, ImageTable};
pub use network::LabNetwork;
pub use requirements::check as check_requirements;
