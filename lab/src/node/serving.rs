//! What the API server asks of the node: logs, exec, connections. Depends on `agent`, `logs`, `execution`.
//!
//! Central type: [`Serving`], the node's implementation of [`PodBackend`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;

use super::agent::PodTable;
use super::execution;
use super::network::PodNetwork;
use super::pod::{Context, PodRuntime};
use super::state::{ContainerState, Life};
use crate::backend::{BackendError, Duplex, ExecRequest, ExecSession, LogOptions, PodBackend, PodRef};

/// A pod on the same machine answers or refuses within microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Answers the API server.
pub(crate) struct Serving {
    context: Arc<Context>,
    pods: PodTable,
}

impl Serving {
    pub(crate) fn new(context: Arc<Context>, pods: PodTable) -> Self {
        Self { context, pods }
    }

    fn pod(&self, pod: &PodRef) -> Result<Arc<PodRuntime>, BackendError> {
        self.pods.get(&pod.uid).ok_or_else(|| {
            BackendError::NotFound(format!(
                "pod {}/{} does not run on a node of this lab",
                pod.namespace, pod.name
            ))
        })
    }

    fn read(&self, pod: &PodRef, name: &str, options: LogOptions) -> Result<LogStream, BackendError> {
        let runtime = self.pod(pod)?;
        let log = {
            let state = runtime.state();
            let container = find(state.named(name), name)?;
            if options.previous {
                container.previous_log.ok_or_else(|| {
                    BackendError::BadRequest(format!(
                        "previous terminated container \"{name}\" in pod \"{}\" not found",
                        pod.name
                    ))
                })?
            } else {
                let waiting = match &container.life {
                    Life::Waiting { reason, .. } => reason.clone(),
                    _ => String::new(),
                };
                container.log.ok_or_else(|| {
                    BackendError::BadRequest(format!(
                        "container \"{name}\" in pod \"{}\" is waiting to start: {waiting}",
                        pod.name
                    ))
                })?
            }
        };
        Ok(ReceiverStream::new(log.read(options)).boxed())
    }

    async fn execute(&self, pod: PodRef, name: String, request: ExecRequest) -> Result<ExecSession, BackendError> {
        let runtime = self.pod(&pod)?;
        let container = find(runtime.state().named(&name), &name)?;
        let instance = container.instance.ok_or_else(|| {
            BackendError::BadRequest(format!("container \"{name}\" in pod \"{}\" is not running", pod.name))
        })?;
        execution::session(&self.context.runc, &instance, &request)
            .await
            .map_err(|error| BackendError::Internal(error.chain()))
    }

    async fn dial(&self, pod: PodRef, port: u16) -> Result<Box<dyn Duplex>, BackendError> {
        let runtime = self.pod(&pod)?;
        let (address, namespace) = {
            let state = runtime.state();
            (state.pod_address, state.network.as_ref().map(PodNetwork::path))
        };
        let address =
            address.ok_or_else(|| BackendError::BadRequest(format!("pod {} has no address yet", pod.name)))?;
        let refused = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        };
        // It may listen on the pod's loopback only, which cannot be reached from out here.
        if let Some(namespace) = namespace
            && let Ok(stream) = super::loopback::connect(namespace, port).await
        {
            return Ok(Box::new(stream));
        }
        Err(BackendError::Internal(format!(
            "cannot connect to port {port} of pod {}: {refused}",
            pod.name
        )))
    }
}

fn find(container: Option<&ContainerState>, name: &str) -> Result<ContainerState, BackendError> {
    container
        .cloned()
        .ok_or_else(|| BackendError::NotFound(format!("container {name} is not in this pod")))
}

impl PodBackend for Serving {
    fn logs(
        &self,
        pod: PodRef,
        container: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<LogStream, BackendError>> {
        std::future::ready(self.read(&pod, &container, options)).boxed()
    }

    fn exec(
        &self,
        pod: PodRef,
        container: String,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, BackendError>> {
        self.execute(pod, container, request).boxed()
    }

    fn connect(&self, pod: PodRef, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, BackendError>> {
        self.dial(pod, port).boxed()
    }
}
