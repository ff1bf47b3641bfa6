//! `SparkApplications`, with the semantics of Kubeflow's Spark Operator 2.5.
//!
//! `state` decides (pure), `submission` builds what `spark-submit` is told, `webhook` adds to pods what `spark-submit`
//! cannot say, `submit` runs `spark-submit`, `builtin` creates the built-in pipeline's driver, [`SparkOperator`] is the
//! thin shell that watches, acts and writes the status.

mod builtin;
mod crd;
mod operator;
mod state;
mod submission;
mod submit;
mod types;
mod webhook;

pub use operator::{SparkOperator, SparkOperatorConfig, SparkOperatorError};
pub use submission::ApiAccess;
