//! Connecting: kubeconfig, context, request accounting, and the deadline around every call.

use super::error::{ClusterError, Failed};
use super::server_clock::{ServerClock, milliseconds};
use crate::evidence::ClusterInfo;
use kube::api::{Api, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Which cluster to talk to.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectOptions {
    /// Path of a kubeconfig; else `KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context within it.
    pub(crate) context: Option<String>,
}

/// How long one ordinary call may take, retries included.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A connected cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: kube::Client,
    requests: Arc<AtomicU64>,
    clock: ServerClock,
    info: ClusterInfo,
}

impl Cluster {
    /// Connects and asks for the version, so that an unreachable cluster is found before anything else is done.
    ///
    /// # Errors
    /// When the configuration cannot be read or the API server does not answer.
    pub(crate) async fn connect(options: &ConnectOptions) -> Result<Self, ClusterError> {
        let mut config = load_config(options).await?;
        config.connect_timeout = Some(Duration::from_secs(5));
        // kube's own retries are silent and outlast every deadline of ours; whoever can wait (watches, reverts) tries again itself.
        config.default_retry = false;
        config.headers.push((http::header::USER_AGENT, user_agent()));
        let url = config.cluster_url.to_string();
        let attempted = format!("reach the API server at {url}");
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        let clock = ServerClock::default();
        let builder = kube::client::ClientBuilder::try_from(config)
            .map_err(|error| ClusterError::from_kube(attempted.clone(), &error))?;
        let client = builder
            .with_layer(&tower::util::MapRequestLayer::new(
                move |request: http::Request<kube::client::Body>| {
                    counter.fetch_add(1, Ordering::Relaxed);
                    request
                },
            ))
            .with_layer(&tower::util::MapFutureLayer::new({
                let clock = clock.clone();
                move |answer| dated(clock.clone(), answer)
            }))
            .build();
        let version = within(attempted, CALL_TIMEOUT, client.apiserver_version()).await?;
        let kind = if version.git_version.contains("chaosrun-lab") {
            "lab"
        } else {
            "kubernetes"
        };
        let info = ClusterInfo {
            kind: kind.to_owned(),
            version: version.git_version,
        };
        Ok(Self {
            client,
            requests,
            clock,
            info,
        })
    }

    /// The kube client, for typed APIs.
    pub(crate) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// What was connected to.
    pub(crate) fn info(&self) -> &ClusterInfo {
        &self.info
    }

    /// How far the API server's clock is off.
    pub(crate) fn clock(&self) -> &ServerClock {
        &self.clock
    }

    /// Requests sent so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Awaits a call within [`CALL_TIMEOUT`].
    pub(crate) async fn call<T>(
        &self,
        attempted: impl Into<String>,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        within(attempted.into(), CALL_TIMEOUT, call).await
    }

    /// As [`Cluster::call`], with "not found" as `None`.
    pub(crate) async fn call_opt<T>(
        &self,
        attempted: impl Into<String>,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Option<T>, ClusterError> {
        match self.call(attempted, call).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.failed == Failed::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Cluster {
    /// Creates an object of a custom kind, and refuses fields that the cluster does not know: by default it would drop them in silence.
    pub(crate) async fn create_strictly(
        &self,
        attempted: impl Into<String>,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
    ) -> Result<DynamicObject, ClusterError> {
        let attempted = attempted.into();
        let other = |why: String| ClusterError {
            attempted: attempted.clone(),
            failed: Failed::Other,
            why,
        };
        let body = serde_json::to_vec(object).map_err(|error| other(error.to_string()))?;
        let request = http::Request::post(format!("{}?fieldValidation=Strict", api.resource_url()))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| other(error.to_string()))?;
        self.call(attempted, self.client.request(request)).await
    }
}

/// Passes an answer on, and its `Date` to the clock.
async fn dated<B, E>(
    clock: ServerClock,
    answer: impl Future<Output = Result<http::Response<B>, E>>,
) -> Result<http::Response<B>, E> {
    let sent = milliseconds(jiff::Timestamp::now());
    let answer = answer.await?;
    clock.add(sent, milliseconds(jiff::Timestamp::now()), answer.headers());
    Ok(answer)
}

async fn within<T>(
    attempted: String,
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ClusterError::from_kube(attempted, &error)),
        Err(_elapsed) => Err(ClusterError::timed_out(attempted, limit)),
    }
}

fn user_agent() -> http::HeaderValue {
    http::HeaderValue::from_static(concat!("chaosrun/", env!("CARGO_PKG_VERSION")))
}

async fn load_config(options: &ConnectOptions) -> Result<kube::Config, ClusterError> {
    let other = |attempted: String, why: String| ClusterError {
        attempted,
        failed: Failed::Unreachable,
        why,
    };
    let selection = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    if let Some(path) = &options.kubeconfig {
        let attempted = format!("read the kubeconfig {}", path.display());
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| other(attempted.clone(), error.to_string()))?;
        return kube::Config::from_custom_kubeconfig(kubeconfig, &selection)
            .await
            .map_err(|error| other(attempted, error.to_string()));
    }
    let attempted = match &options.context {
        Some(context) => format!("use the kubeconfig context {context:?}"),
        None => "find a kubeconfig or a service account".to_owned(),
    };
    if options.context.is_some() {
        return kube::Config::from_kubeconfig(&selection)
            .await
            .map_err(|error| other(attempted, error.to_string()));
    }
    kube::Config::infer()
        .await
        .map_err(|error| other(attempted, error.to_string()))
}
