//! What an API server and its cluster must do, one behaviour per test.
//!
//! Runs against a lab of its own, or unchanged against the cluster that the kubeconfig named in
//! `CHAOSRUN_TEST_KUBECONFIG` points to, so that the lab can be held against a real cluster. Each test works in a
//! namespace of its own and removes it. Pods use the image `busybox:1.36`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod customs;
mod harness;
mod objects;
mod owners;
mod patches;
mod pods;
mod selectors;
mod watches;
mod workloads;
