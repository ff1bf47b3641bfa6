//! chaosrun end to end: against labs with real processes, and against doubles of an API server where a real one cannot be
//! made to misbehave on demand. One binary, so that the whole suite links (and stores) the clients once.

mod calibration;
mod chaos_mesh;
mod chaos_mesh_flows;
mod cluster_errors;
mod disturbed;
mod faults;
mod kill_matrix;
mod ledger;
mod litmus;
mod many_pods;
mod probes;
mod rbac;
mod refusals;
mod scenarios;
mod spark;
mod support;
mod trials;
mod watch;
