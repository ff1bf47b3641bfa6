//! The embedded cluster: `lab` commands, and the lab behind `--lab`.

use super::arguments::LabCommand;
use super::exit::{Exit, Failure};
use super::streams::Streams;
use crate::cluster::Cluster;
use chaosrun_lab::lifecycle::{self, LabConfig, LabError, TemporaryLab};
use chaosrun_lab::standard;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use std::path::{Path, PathBuf};

/// The lab that `--lab` looks for first.
const DEFAULT: &str = "default";

/// A lab that a command works with; taken down at the end when the command booted it.
pub(super) struct LabInUse {
    kubeconfig: PathBuf,
    temporary: Option<TemporaryLab>,
}

impl LabInUse {
    /// The running default lab, or a new one that ends with this command, however it ends.
    pub(super) async fn take(streams: &mut Streams) -> Result<Self, Failure> {
        let running = lifecycle::status(&LabConfig::new(DEFAULT))
            .into_iter()
            .find(|lab| lab.name == DEFAULT && lab.alive);
        if let Some(lab) = running {
            streams.note(&format!(
                "using the lab that is up (KUBECONFIG={})",
                lab.kubeconfig.display()
            ));
            return Ok(Self {
                kubeconfig: lab.kubeconfig,
                temporary: None,
            });
        }
        streams.note("booting a lab: an embedded Kubernetes on this machine, removed again at the end");
        let temporary = lifecycle::up_temporary(configuration(&format!("tmp-{}", std::process::id()))?)
            .await
            .map_err(failure)?;
        streams.note(&format!(
            "the lab is up (KUBECONFIG={})",
            temporary.status.kubeconfig.display()
        ));
        Ok(Self {
            kubeconfig: temporary.status.kubeconfig.clone(),
            temporary: Some(temporary),
        })
    }

    /// How to reach it.
    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Takes it down when it was booted for this command.
    pub(super) async fn release(self, streams: &mut Streams) -> Result<(), Failure> {
        let Some(temporary) = self.temporary else {
            return Ok(());
        };
        temporary.down().await.map_err(failure)?;
        streams.note("the lab is down, nothing of it is left");
        Ok(())
    }
}

/// The lab's own Prometheus: its service address is reachable from this machine.
pub(super) async fn prometheus_url(cluster: &Cluster) -> Option<String> {
    let api: Api<Service> = Api::namespaced(cluster.client(), "monitoring");
    let service = cluster
        .call_opt("find the lab's Prometheus", api.get("prometheus"))
        .await
        .ok()
        .flatten()?;
    let address = service.spec?.cluster_ip?;
    Some(format!("http://{address}:9090"))
}

/// `lab up|down|status|restart-api|env`.
pub(super) fn lab(command: &LabCommand, streams: &mut Streams) -> Result<Exit, Failure> {
    match command {
        LabCommand::Up { name } => {
            let config = configuration(name)?;
            let lab = block_on(lifecycle::up(&config))?.map_err(failure)?;
            streams.say(&format!("lab {} is up at {}", lab.name, lab.api.unwrap_or_default()));
            streams.say(&format!("export KUBECONFIG='{}'", lab.kubeconfig.display()));
        }
        LabCommand::Down { name } => {
            match block_on(lifecycle::down(&LabConfig::new(name.as_str())))? {
                Ok(()) => streams.say(&format!("lab {name} is down, nothing of it is left")),
                // Twice is the same as once.
                Err(LabError::NotUp(_)) => streams.say(&format!("lab {name} is not up")),
                Err(error) => return Err(failure(error)),
            }
        }
        LabCommand::Status => {
            let labs = lifecycle::status(&LabConfig::new(DEFAULT));
            if labs.is_empty() {
                streams.say("no lab is up");
            }
            for lab in labs {
                let state = if lab.alive {
                    "up"
                } else {
                    "dead; `chaosrun lab down` removes what it left"
                };
                streams.say(&format!(
                    "{}: {state}, {}, {}",
                    lab.name,
                    lab.api.unwrap_or_default(),
                    lab.kubeconfig.display()
                ));
            }
        }
        LabCommand::RestartApi { name } => {
            lifecycle::restart_api(&LabConfig::new(name.as_str())).map_err(failure)?;
            streams.say(&format!("the API server of lab {name} is away for 3 s"));
        }
        LabCommand::Env { name } => {
            let line = lifecycle::environment(&LabConfig::new(name.as_str())).map_err(failure)?;
            streams.say(&line);
        }
    }
    Ok(Exit::Pass)
}

fn configuration(name: &str) -> Result<LabConfig, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::Internal(format!("cannot find this program's file: {error}")))?;
    Ok(standard::configuration(name, &program))
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::Internal(format!("cannot start the runtime: {error}")))?;
    Ok(runtime.block_on(work))
}

fn failure(error: LabError) -> Failure {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    Failure::Lab(text)
}
