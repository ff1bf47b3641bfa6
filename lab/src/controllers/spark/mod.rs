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

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::images::SparkHome;
use crate::lifecycle::{Controller, LabInfo};
use crate::node::cgroup::Cgroups;

pub use operator::{SparkOperator, SparkOperatorConfig, SparkOperatorError};
pub use submission::ApiAccess;

/// The controller as a lab starts it: with its resource definition, its admission hook, and `spark-submit` inside the
/// lab's control group. Without `spark` only the built-in pipeline can be submitted.
#[must_use]
pub fn controller(spark: Option<SparkHome>) -> Controller {
    Box::new(move |client, info| {
        Box::pin(async move {
            if let Err(error) = serve(client, info, spark.map(|home| home.folder)).await {
                tracing::error!(%error, "no SparkApplications in this lab");
            }
        })
    })
}

async fn serve(
    client: kube::Client,
    info: LabInfo,
    spark_home: Option<PathBuf>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let submissions = info.data_folder.join("spark-submissions");
    std::fs::create_dir_all(&submissions)?;
    let ca_file = submissions.join("ca.pem");
    std::fs::write(&ca_file, &info.authority)?;
    let cgroup = Cgroups::detect()?.folder(&format!("{}/spark-submit", info.control_group));
    std::fs::create_dir_all(&cgroup)?;
    let operator = SparkOperator::new(SparkOperatorConfig {
        client,
        api: ApiAccess {
            from_host: info.api_url,
            from_pods: info.pod_api_url,
            token: info.token,
            ca_file,
        },
        spark_home,
        submissions,
        cgroup: Some(cgroup),
    });
    info.server.add_admission_hook(operator.admission_hook());
    operator.install().await?;
    operator.run(CancellationToken::new()).await;
    Ok(())
}
