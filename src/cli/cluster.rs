//! Which cluster a command talks to: the one of the kubeconfig, or the lab.

use super::arguments::Global;
use super::exit::Failure;
use super::lab::{self, LabInUse};
use super::streams::Streams;
use crate::cluster::{Cluster, ConnectOptions};
use crate::experiment::Experiment;

/// A connected cluster, and the lab behind it when there is one.
pub(super) struct Connected {
    pub(super) cluster: Cluster,
    lab: Option<LabInUse>,
}

impl Connected {
    /// Connects; with `--lab` boots one when none is up.
    pub(super) async fn open(global: &Global, streams: &mut Streams) -> Result<Self, Failure> {
        if global.lab {
            if global.kubeconfig.is_some() || global.context.is_some() {
                return Err(Failure::Usage(
                    "--lab and --kubeconfig or --context exclude each other".to_owned(),
                ));
            }
            let lab = LabInUse::take(streams).await?;
            let options = ConnectOptions {
                kubeconfig: Some(lab.kubeconfig().to_owned()),
                context: None,
            };
            return match Cluster::connect(&options).await {
                Ok(cluster) => Ok(Self {
                    cluster,
                    lab: Some(lab),
                }),
                Err(error) => {
                    lab.release(streams).await?;
                    Err(error.into())
                }
            };
        }
        let options = ConnectOptions {
            kubeconfig: global.kubeconfig.clone(),
            context: global.context.clone(),
        };
        Ok(Self {
            cluster: Cluster::connect(&options).await?,
            lab: None,
        })
    }

    /// Where Prometheus answers. A lab brings one, also when it is reached by its kubeconfig.
    pub(super) async fn prometheus_url(&self, given: Option<String>) -> Option<String> {
        match given {
            Some(url) => Some(url),
            None if self.cluster.info().kind == "lab" => lab::prometheus_url(&self.cluster).await,
            None => None,
        }
    }

    /// Takes the lab down again when it was booted for this command.
    pub(super) async fn close(self, streams: &mut Streams) -> Result<(), Failure> {
        match self.lab {
            Some(lab) => lab.release(streams).await,
            None => Ok(()),
        }
    }
}

/// `--namespace` and `--trials` win over the file.
pub(super) fn override_with(experiment: &mut Experiment, global: &Global, trials: Option<u32>) {
    if let Some(namespace) = &global.namespace {
        experiment.target.namespace.clone_from(namespace);
    }
    if let Some(count) = trials {
        experiment.trials.count = count;
    }
}
