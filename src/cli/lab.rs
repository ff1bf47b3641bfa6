//! The embedded cluster: `lab` commands, and the lab behind `--lab`.

use super::arguments::LabCommand;
use super::exit::{Exit, Failure};
use super::streams::Streams;
use crate::cluster::Cluster;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use std::path::{Path, PathBuf};

/// A lab that a command works with; taken down at the end when the command booted it.
pub(super) struct LabInUse {
    kubeconfig: PathBuf,
    temporary: Option<String>,
}

impl LabInUse {
    pub(super) async fn take(streams: &mut Streams) -> Result<Self, Failure> {
        let _ = streams;
        Err(Failure::Lab("not yet".to_owned()))
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The lab's own Prometheus: its service address is reachable from this machine.
    pub(super) async fn prometheus_url(&self, cluster: &Cluster) -> Option<String> {
        let api: Api<Service> = Api::namespaced(cluster.client(), "monitoring");
        let service = cluster
            .call_opt("find the lab's Prometheus", api.get("prometheus"))
            .await
            .ok()
            .flatten()?;
        let address = service.spec?.cluster_ip?;
        Some(format!("http://{address}:9090"))
    }

    pub(super) async fn release(self, streams: &mut Streams) -> Result<(), Failure> {
        let _ = (streams, self.temporary);
        Ok(())
    }
}

pub(super) fn lab(command: &LabCommand, streams: &mut Streams) -> Result<Exit, Failure> {
    let _ = (command, streams);
    Ok(Exit::Pass)
}
