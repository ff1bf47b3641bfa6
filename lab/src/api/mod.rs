//! The API server: real Kubernetes wire protocol over an in-memory store.
//!
//! May depend on [`crate::backend`] only. The central type is [`ApiServer`]. Rooms: `store` (objects, history),
//! `registry` (resource types), `server` (TLS, connections, in-process client), `handlers` (paths to verbs), `writes`
//! (what create, update, patch and delete mean), `watch`, `selectors`, `patch`, `apply`, `defaults`, `validation`,
//! `gc`, `namespaces`, `eviction`, `discovery`, `openapi`, `table`, `stream`, `structural`, `auth`, `authorizer`, `metrics`, `status`.

mod apply;
mod auth;
mod authorizer;
mod body;
mod crds;
mod defaults;
mod discovery;
mod events;
mod eviction;
mod fields;
mod gc;
mod handlers;
mod lists;
mod metrics;
mod namespaces;
pub(crate) mod object;
mod openapi;
mod patch;
mod patches;
mod pod_defaults;
mod pod_security;
mod pod_validation;
mod protobuf;
mod registry;
mod request;
mod selectors;
mod server;
mod status;
mod store;
mod stream;
mod structural;
mod subresources;
mod table;
mod validation;
mod watch;
mod writes;

pub use metrics::RequestCount;
pub use registry::{CustomType, Registry, ResourceType, ScalePaths};
pub use selectors::{FieldSelector, LabelSelector};
pub use server::{AdmissionHook, ApiServer, ApiServerConfig, ApiServerError, Operation, ServeHandle};
pub use status::{ApiError, Cause};
pub use store::{Listing, ObjectKey, Store, Stored};
