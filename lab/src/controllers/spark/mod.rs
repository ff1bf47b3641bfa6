//! SparkApplications, with the semantics of Kubeflow's Spark Operator 2.5.
//!
//! [`state`] decides (pure), [`submission`] builds what `spark-submit` is told, [`webhook`] adds to pods what
//! `spark-submit` cannot say, `operator` is the thin shell that watches, acts and writes the status.

mod crd;
mod state;
mod submission;
mod types;
mod webhook;
