//! A lab in this process. Depends on `api`, `node`, `record` and `sweep`.
//!
//! Central type: [`Lab`]. Contract: [`Lab::start`] returns when the API answers and all nodes are Ready;
//! [`Lab::stop`] leaves nothing behind. A process that dies in between leaves a record from which the next lab, or
//! `down`, removes the rest.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::mount::MountFlags;
use tokio::task::JoinHandle;

use super::config::LabConfig;
use super::error::LabError;
use super::record::{Record, Roots, own_identity, write_private};
use super::sweep::{sweep, sweep_dead};
use crate::api::{ApiServer, ApiServerConfig, ServeHandle};
use crate::node::faults::Faults;
use crate::node::network::free_octet;
use crate::node::{LabNetwork, NodeAgent, NodeAgentConfig, NodeError, check_requirements};

/// Port of the API server on the lab's network.
const API_PORT: u16 = 6443;
/// An aborted task ends at its next step.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(5);

/// What controllers may want to know about the lab they run in.
#[derive(Debug, Clone)]
pub struct LabInfo {
    /// Name of the lab.
    pub name: String,
    /// Six hexadecimal digits that are part of every name the lab creates on this machine.
    pub id: String,
    /// The host on the lab's network, where pods reach what the host offers.
    pub gateway: Ipv4Addr,
    /// URL of the API server for pods.
    pub pod_api_url: String,
    /// URL of the API server on this machine.
    pub api_url: String,
    /// Certificate authority of the API server, PEM.
    pub authority: String,
    /// The administrator's token.
    pub token: String,
    /// The lab's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Folder of the lab on disk; removed with the lab.
    pub data_folder: PathBuf,
    /// Control group above everything of the lab; processes put below it end with the lab.
    pub control_group: String,
    /// Names and addresses of the lab's network.
    pub network: LabNetwork,
    /// The API server, for admission hooks.
    pub server: Arc<ApiServer>,
    /// What breaks pods from outside.
    pub faults: Faults,
    /// The configuration's `extra`.
    pub extra: serde_json::Value,
}

/// Something that works on a lab's API for as long as the lab is up.
pub type Controller = Box<dyn FnOnce(kube::Client, LabInfo) -> BoxFuture<'static, ()> + Send>;

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    server: Arc<ApiServer>,
    serving: Option<ServeHandle>,
    addresses: Vec<SocketAddr>,
    agent: NodeAgent,
    controllers: Vec<JoinHandle<()>>,
    record: Record,
    info: LabInfo,
}

impl Lab {
    /// Boots a lab in this process.
    pub async fn start(config: LabConfig, controllers: Vec<Controller>) -> Result<Self, LabError> {
        check_name(&config.name)?;
        check_requirements()?;
        let record = claim(&config).await?;
        match Box::pin(Self::boot(&config, controllers, record.clone())).await {
            Ok(lab) => Ok(lab),
            Err(error) => {
                if let Err(left) = sweep(&record).await {
                    tracing::warn!(%left, "a lab that did not start could not be removed completely");
                }
                Err(error)
            }
        }
    }

    async fn boot(config: &LabConfig, controllers: Vec<Controller>, mut record: Record) -> Result<Self, LabError> {
        mount_layers(&record)?;
        let network = record.network.clone();
        let gateway = network.gateway();
        let server = ApiServer::new(ApiServerConfig {
            history: config.history,
            alternative_names: alternative_names(&network),
            service_cidr: network.service_subnet(),
            cluster_name: format!("lab-{}", config.name),
            ..ApiServerConfig::default()
        })?;
        let addresses = [
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::from((gateway, API_PORT)),
        ];
        let serving = server.serve(&addresses).await?;
        let agent = Box::pin(NodeAgent::start(
            server.client("chaosrun-lab-node"),
            NodeAgentConfig {
                nodes: (1..=config.nodes.max(1))
                    .map(|number| format!("lab-{number}"))
                    .collect(),
                images: config.images.clone(),
                network,
                state_folder: record.state_folder.clone(),
                data_folder: record.data_folder.clone(),
                control_group: record.control_group.clone(),
                authority: server.ca_pem().to_owned(),
                api_port: API_PORT,
                back_off: config.back_off,
                program: program(config)?,
            },
        ))
        .await?;
        server.set_backend(agent.backend());
        write_private(&record.kubeconfig(), server.kubeconfig_yaml().as_bytes())?;
        let api_url = format!("https://{}", server.advertised());
        record.api = Some(api_url.clone());
        record.save()?;
        let info = LabInfo {
            name: config.name.clone(),
            id: record.network.id.clone(),
            gateway,
            pod_api_url: format!("https://{gateway}:{API_PORT}"),
            api_url,
            authority: server.ca_pem().to_owned(),
            token: server.admin_token().to_owned(),
            kubeconfig: record.kubeconfig(),
            data_folder: record.data_folder.clone(),
            control_group: record.control_group.clone(),
            network: record.network.clone(),
            server: Arc::clone(&server),
            faults: agent.faults(),
            extra: config.extra.clone(),
        };
        let bound = serving.addresses().to_vec();
        let controllers = controllers
            .into_iter()
            .map(|controller| tokio::spawn(controller(server.client("chaosrun-lab-controllers"), info.clone())))
            .collect();
        Ok(Self {
            server,
            serving: Some(serving),
            addresses: bound,
            agent,
            controllers,
            record,
            info,
        })
    }

    /// An in-process client with all rights.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.server.client("chaosrun-lab")
    }

    /// The API server, for request counts and admission hooks.
    #[must_use]
    pub fn server(&self) -> &Arc<ApiServer> {
        &self.server
    }

    /// What there is to know about the lab.
    #[must_use]
    pub fn info(&self) -> &LabInfo {
        &self.info
    }

    /// Ends every connection to the API server, and serves again at the same addresses after a while. Objects and pods live on.
    pub async fn restart_api(&mut self, away: Duration) -> Result<(), LabError> {
        if let Some(serving) = self.serving.take() {
            serving.stop().await;
        }
        tokio::time::sleep(away).await;
        self.serving = Some(self.server.serve(&self.addresses).await?);
        Ok(())
    }

    /// Takes the lab down; returns when nothing is left of it.
    pub async fn stop(self) -> Result<(), LabError> {
        for controller in &self.controllers {
            controller.abort();
        }
        for controller in self.controllers {
            // Aborted is what it is meant to be; one that does not let go must not keep the rest from being removed.
            if tokio::time::timeout(CONTROLLER_PATIENCE, controller).await.is_err() {
                tracing::warn!("a controller did not end within {} s", CONTROLLER_PATIENCE.as_secs());
            }
        }
        self.agent.stop().await;
        if let Some(serving) = self.serving {
            serving.stop().await;
        }
        let roots = Roots::of_record(&self.record);
        let _lock = roots.lock().await?;
        sweep(&self.record).await
    }
}

/// Lower-case letters, digits and dashes: the name becomes a folder and part of a control group.
pub(crate) fn check_name(name: &str) -> Result<(), LabError> {
    let good = (1..=40).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if good {
        Ok(())
    } else {
        Err(LabError::Name(name.to_owned()))
    }
}

/// The executable that serves the hidden commands.
fn program(config: &LabConfig) -> Result<PathBuf, LabError> {
    match &config.program {
        Some(program) => Ok(program.clone()),
        None => std::env::current_exe().map_err(LabError::io("find", "this executable")),
    }
}

/// Finds free names and addresses, writes the record, and creates the bridge, all under the lock: the bridge's routes
/// are what keeps two labs from choosing the same addresses.
async fn claim(config: &LabConfig) -> Result<Record, LabError> {
    let roots = Roots::of(config);
    let _lock = roots.lock().await?;
    sweep_dead(&roots).await;
    if roots.record(&config.name).is_some() {
        return Err(LabError::Exists(config.name.clone()));
    }
    let random = uuid::Uuid::new_v4();
    let id: String = random.simple().to_string().chars().take(6).collect();
    let octet = free_octet(
        config.subnet,
        random.as_fields().3.iter().fold(0, |seed, byte| seed ^ byte),
    )
    .await?;
    let network = LabNetwork { id, octet };
    let namespace_folder = std::path::Path::new("/run/netns").exists();
    let record = Record {
        name: config.name.clone(),
        process: own_identity(),
        control_group: format!("/chaosrun-lab-{}", network.id),
        state_folder: roots.state.join(&config.name),
        data_folder: roots.data.join(&config.name),
        made_namespace_folder: !namespace_folder || roots.records().iter().any(|record| record.made_namespace_folder),
        settings: Vec::new(),
        api: None,
        network,
    };
    std::fs::create_dir_all(&record.state_folder).map_err(LabError::io("create the folder", &record.state_folder))?;
    record.save()?;
    let created = record.network.create(config.nodes.max(1)).await;
    if let Err(error) = created {
        sweep(&record).await?;
        return Err(error.into());
    }
    Ok(record)
}

/// Container layers need a file system that is not the host's root.
fn mount_layers(record: &Record) -> Result<(), LabError> {
    let folder = record.state_folder.join("layers");
    std::fs::create_dir_all(&folder).map_err(LabError::io("create the folder", &folder))?;
    rustix::mount::mount("tmpfs", &folder, "tmpfs", MountFlags::NODEV, c"mode=0700,size=50%")
        .map_err(NodeError::errno("mount a tmpfs on", &folder))?;
    Ok(())
}

/// Everything that clients may call the API server.
fn alternative_names(network: &LabNetwork) -> Vec<String> {
    [
        network.gateway().to_string(),
        network.kubernetes_service().to_string(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        "kubernetes.default.svc.cluster.local".to_owned(),
    ]
    .into()
}
