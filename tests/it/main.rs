//! chaosrun as its users see it, without a cluster.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod compare;
mod experiment;
