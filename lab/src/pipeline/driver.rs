//! The driver: starts everything and decides with which exit code it ends.
//!
//! Depends on the other modules of the pipeline. Contract: exit 143 after SIGTERM (executors removed first), 1 when the
//! query or the executors' management fails for good.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;

use super::allocator::Allocator;
use super::engine::{Engine, Query};
use super::metrics::{self, Metrics};
use super::pool::Pool;
use super::settings::{DRIVER_PORT, SETTINGS_VARIABLE, Settings, UI_PORT};
use super::{Outcome, TERMINATED, stop_signal};

/// `spark.scheduler.maxRegisteredResourcesWaitingTime`.
const EXECUTORS_WAIT: Duration = Duration::from_secs(30);
/// A clean stop takes no longer than this.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The same arguments as the sample `pipeline.py`.
#[derive(Args)]
pub(crate) struct DriverArguments {
    /// Folder of JSON files to read.
    #[arg(long, default_value = "/data/in")]
    input: PathBuf,
    /// Folder of the sink.
    #[arg(long, default_value = "/data/out")]
    output: PathBuf,
    /// Folder of the checkpoint.
    #[arg(long, default_value = "/data/checkpoint")]
    checkpoint: PathBuf,
    /// Name of the query in metrics.
    #[arg(long, default_value = "records")]
    query_name: String,
    /// Seconds between two batches.
    #[arg(long, default_value_t = 1.0)]
    trigger_seconds: f64,
    /// Files a batch takes at most.
    #[arg(long, default_value_t = 40)]
    max_files: usize,
}

#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error("{SETTINGS_VARIABLE} is not set: only a SparkApplication starts this driver")]
    NoSettings,
    #[error("{SETTINGS_VARIABLE} cannot be understood")]
    Settings(#[source] serde_json::Error),
    #[error("cannot reach the API server from this pod")]
    Api(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot listen on port {port}")]
    Listen { port: u16, source: std::io::Error },
    #[error("{seconds} is not a usable number of seconds between batches")]
    Trigger { seconds: f64 },
    #[error("cannot create the input folder {}", path.display())]
    Input { path: PathBuf, source: std::io::Error },
}

pub(crate) async fn run(arguments: DriverArguments) -> Outcome {
    let text = std::env::var(SETTINGS_VARIABLE).map_err(|_| DriverError::NoSettings)?;
    let settings: Settings = serde_json::from_str(&text).map_err(DriverError::Settings)?;
    tracing::info!(
        application = settings.application_name,
        id = settings.application_id,
        "built-in pipeline driver (a stand-in, not Apache Spark)"
    );
    let trigger = Duration::try_from_secs_f64(arguments.trigger_seconds)
        .ok()
        .filter(|trigger| *trigger >= Duration::from_millis(10))
        .ok_or(DriverError::Trigger {
            seconds: arguments.trigger_seconds,
        })?;
    std::fs::create_dir_all(&arguments.input).map_err(|source| DriverError::Input {
        path: arguments.input.clone(),
        source,
    })?;
    let namespace = settings
        .metrics_namespace
        .as_deref()
        .unwrap_or(&settings.application_id);
    let metrics = Arc::new(Metrics::new(
        namespace,
        &arguments.query_name,
        &settings.application_id,
        &settings.application_name,
    ));
    let ui = listen(UI_PORT).await?;
    let mut pool = Pool::start(listen(DRIVER_PORT).await?, metrics.clone());
    let address = std::env::var("SPARK_DRIVER_BIND_ADDRESS").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let instances = settings.executor_instances;
    let mut allocator = Allocator::open(client(&settings)?, settings, address).await?;
    let query = Query {
        input: arguments.input,
        output: arguments.output,
        trigger,
        max_files: arguments.max_files,
        parallelism: instances,
    };
    let work = async {
        // 0.8 of the executors must be there, as in Spark on Kubernetes.
        pool.wait_for((instances * 4).div_ceil(5), EXECUTORS_WAIT).await;
        Engine::open(query, &arguments.checkpoint, metrics.clone())?
            .run(&mut pool)
            .await
    };
    tokio::select! {
        failed = work => Err(failed.map_or_else(Into::into, |never| match never {})),
        failed = allocator.run() => Err(failed.map_or_else(Into::into, |never| match never {})),
        served = metrics::serve(ui, metrics.clone()) => {
            served?;
            Ok(1)
        }
        stopped = stop_signal() => {
            stopped?;
            tracing::info!("stopping");
            if tokio::time::timeout(STOP_LIMIT, allocator.remove_all()).await.is_err() {
                tracing::warn!("executors not removed within {STOP_LIMIT:?}");
            }
            Ok(TERMINATED)
        }
    }
}

async fn listen(port: u16) -> Result<TcpListener, DriverError> {
    TcpListener::bind(("0.0.0.0", port))
        .await
        .map_err(|source| DriverError::Listen { port, source })
}

/// A client with the pod's service account.
fn client(settings: &Settings) -> Result<kube::Client, DriverError> {
    let mut config = kube::Config::incluster().map_err(|error| DriverError::Api(error.into()))?;
    if let Some(url) = &settings.api_url {
        config.cluster_url = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| DriverError::Api(error.into()))?;
    }
    kube::Client::try_from(config).map_err(|error| DriverError::Api(error.into()))
}
