//! All Kubernetes I/O: connecting, calls with a deadline and a readable error, watches that own up to their gaps,
//! processes inside pods, manifests.
//!
//! May depend on the pure half, `world`, kube and k8s-openapi. Contract: every call ends within its deadline, and an
//! error says what was attempted, on what, and why it failed.

mod access;
mod chaos_mesh;
mod connect;
mod error;
mod exec;
mod labelled;
mod litmus;
mod manifests;
mod server_clock;
mod stuck;
mod undo;
mod watch;

pub(crate) use access::{SESSION_VERBS, Verb, missing_permissions};
pub(crate) use chaos_mesh::made_by;
pub(crate) use connect::{Cluster, ConnectOptions};
pub(crate) use error::{ClusterError, Failed};
pub(crate) use exec::{Session, run_in_pod, stream_from_pod};
pub(crate) use labelled::{UNDOS_KEY, find_labelled};
pub(crate) use manifests::{Manifest, ManifestError, parse_manifests};
pub(crate) use stuck::Means;
pub(crate) use undo::{STOP_SCRIPT, api_of, mark, undo, words};
pub(crate) use watch::{WatchMessage, watch};
