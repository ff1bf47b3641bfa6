//! chaosrun as its users see it, without a cluster.

mod experiment;
