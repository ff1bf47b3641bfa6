//! What every lab has beyond API and nodes: the images it knows, the controllers, the Spark operator.
//! Depends on `images`, `controllers`, `api`.
//!
//! Central type: [`Standard`]. Contract: started after the nodes, stopped before them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::LabError;
use super::lab::LabInfo;
use crate::api::ApiServer;
use crate::controllers::spark::{ApiAccess, SparkOperator, SparkOperatorConfig};
use crate::controllers::{ControllersConfig, ControllersHandle, spawn_all};
use crate::images::{find_spark, known_images};
use crate::node::ImageTable;
use crate::node::cgroup::Cgroups;

/// The images of every lab, then those of the configuration, which win.
pub(crate) fn images(folder: &Path, own: &ImageTable) -> Result<ImageTable, LabError> {
    let program = std::env::current_exe().map_err(LabError::io("find", "this executable"))?;
    let mut images = known_images(folder, find_spark().as_ref(), &program).map_err(LabError::io("write the images' files to", folder))?;
    images.extend(own);
    Ok(images)
}

/// The running controllers.
pub(crate) struct Standard {
    controllers: ControllersHandle,
    operator: JoinHandle<()>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Standard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Standard").finish_non_exhaustive()
    }
}

impl Standard {
    /// Starts the controllers.
    pub(crate) async fn start(server: &Arc<ApiServer>, info: &LabInfo, api: SocketAddr) -> Result<Self, LabError> {
        let ca_file = info.data_folder.join("ca.crt");
        std::fs::write(&ca_file, &info.authority).map_err(LabError::io("write", &ca_file))?;
        let submissions = info.data_folder.join("submissions");
        std::fs::create_dir_all(&submissions).map_err(LabError::io("create the folder", &submissions))?;
        let cgroup = Cgroups::detect()?.create(&format!("{}/operator", info.control_group))?;
        let operator = SparkOperator::new(SparkOperatorConfig {
            client: server.client("spark-operator"),
            api: ApiAccess {
                from_host: info.api_url.clone(),
                from_pods: info.pod_api_url.clone(),
                token: info.token.clone(),
                ca_file,
            },
            spark_home: find_spark().map(|spark| spark.folder),
            submissions,
            cgroup: Some(cgroup),
        });
        server.add_admission_hook(operator.admission_hook());
        operator.install().await?;
        let stop = CancellationToken::new();
        let operator = tokio::spawn(operator.run(stop.clone()));
        let controllers = spawn_all(server.client("chaosrun-lab-controllers"), &ControllersConfig { api_address: Some(api) });
        Ok(Self { controllers, operator, stop })
    }

    /// Stops the controllers.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.operator.abort();
        // Aborted is what it is meant to be.
        drop(self.operator.await);
        if let Err(error) = self.controllers.stop().await {
            tracing::warn!(%error, "controllers not stopped");
        }
    }
}
