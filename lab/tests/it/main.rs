//! The lab from outside: its API server, node agent, controllers and workloads, and the real kubectl. One binary, so that
//! the suite links (and stores) the dependencies once. What must hold on any cluster is in `conformance`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::allow_attributes,
    reason = "a test fails by panicking; not every one of these is needed by every configuration"
)]

mod api_server;
mod chaos_mesh_api;
mod chaos_mesh_life;
mod chaos_mesh_network;
mod chaos_mesh_rights;
mod chaos_mesh_support;
mod chaos_mesh_switches;
mod chaos_mesh_workflow;
mod controllers_jobs;
mod controllers_nodes;
mod controllers_real_pods;
mod controllers_support;
mod controllers_workloads;
mod kubectl;
mod litmus_double;
mod node_lifecycle;
mod node_network;
mod node_pods;
mod node_support;
mod spark_builtin;
mod spark_manifests;
mod spark_operator;
mod spark_probe_server;
mod spark_real;
mod spark_support;
