//! The controllers that make a cluster out of a store: scheduler, workloads, endpoints, disruption budgets.
//!
//! May depend on `kube` and tokio, and on `lifecycle` and `node` only for the types with which a lab is put together;
//! talks to the API server as any client would and to nothing else, so the same code would run against another
//! Kubernetes. Central types: [`ControllersConfig`], [`ControllersHandle`]; start with
//! [`spawn_all`].
//!
//! Contract: event-driven (a change is acted on within milliseconds, since recovery times are what is measured);
//! identity by UID and controller reference; the semantics of Kubernetes 1.33 where a page of its documentation or
//! its source says something. Pure decisions are apart from the writes, so they are tested without a server.

pub mod chaos_mesh;
mod context;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod events;
mod job;
pub mod litmus;
mod meta;
mod node_care;
mod pods;
pub mod prometheus;
mod replica_set;
mod runtime;
mod scheduler;
pub mod spark;
mod stateful_set;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::context::{Caches, Context, Informers, informers};
use self::events::EventRecorder;
use self::runtime::{Objects, Queue, Reconcile, work};
use crate::lifecycle::Controller;

/// What the controllers must know of the lab.
#[derive(Debug, Clone, Default)]
pub struct ControllersConfig {
    /// Where pods reach the API server; published as the endpoints of Service `kubernetes` in `default`.
    pub api_address: Option<SocketAddr>,
    /// Deploy Prometheus into the lab.
    pub prometheus: Option<prometheus::PrometheusConfig>,
}

/// The running controllers.
pub struct ControllersHandle {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// A controller that ended by itself, which none should.
#[derive(Debug, thiserror::Error)]
#[error("the controllers did not stop within {seconds} s")]
pub struct StopError {
    seconds: u64,
}

/// How long controllers may take to let go of a request in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl ControllersHandle {
    /// The token that stops the controllers when cancelled.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until all controllers have ended, which they do only when stopped. Dropping this future stops them.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// Stops all controllers and waits for them.
    pub async fn stop(mut self) -> Result<(), StopError> {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(STOP_TIMEOUT, all).await.map_err(|_| StopError {
            seconds: STOP_TIMEOUT.as_secs(),
        })
    }
}

/// Starts every controller as tasks of the present runtime. They begin to act when their caches are filled.
#[must_use]
pub fn spawn_all(client: kube::Client, config: &ControllersConfig) -> ControllersHandle {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (caches, mut informers) = informers();
    let (recorder, writer) = EventRecorder::new(client.clone(), stop.clone());
    tasks.spawn(writer);
    let context = Context {
        caches: caches.clone(),
        objects: Objects::new(client.clone()),
        events: recorder,
    };
    let mut starter = Starter {
        context,
        informers: &mut informers,
        tasks: &mut tasks,
        stop: &stop,
    };
    starter.start("default-scheduler", scheduler::Scheduler::new);
    starter.start("replicaset-controller", replica_set::ReplicaSetController::new);
    starter.start("deployment-controller", deployment::DeploymentController::new);
    starter.start("job-controller", job::JobController::new);
    starter.start("statefulset-controller", stateful_set::StatefulSetController::new);
    starter.start("daemonset-controller", daemon_set::DaemonSetController::new);
    starter.start("cronjob-controller", cron_job::CronJobController::new);
    starter.start("pod-garbage-collector", node_care::PodCollector::new);
    starter.start("node-controller", |context, informers, queue| {
        node_care::CordonTainter::new(context, informers, queue, client.clone())
    });
    starter.start("disruption-controller", disruption::DisruptionController::new);
    starter.start("endpoint-controller", |context, informers, queue| {
        endpoints::EndpointsController::new(context, informers, queue, config.api_address)
    });
    informers.spawn(&mut tasks, &client, &stop);
    if let Some(settings) = config.prometheus.clone() {
        tasks.spawn(async move {
            if let Err(error) = prometheus::deploy(&client, &settings).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "prometheus is not deployed");
            }
        });
    }
    ControllersHandle { tasks, stop }
}

/// All controllers as one that [`crate::lifecycle::Lab::start`] takes; `prometheus` deploys Prometheus as well (its
/// image must be in the lab's image table, see [`prometheus::image`]).
#[must_use]
pub fn in_lab(prometheus: Option<prometheus::PrometheusConfig>) -> Controller {
    Box::new(|client, info| {
        Box::pin(async move {
            let address = info
                .pod_api_url
                .strip_prefix("https://")
                .and_then(|address| address.parse().ok());
            spawn_all(
                client,
                &ControllersConfig {
                    api_address: address,
                    prometheus,
                },
            )
            .ended()
            .await;
        })
    })
}

struct Starter<'a> {
    context: Context,
    informers: &'a mut Informers,
    tasks: &'a mut JoinSet<()>,
    stop: &'a CancellationToken,
}

impl Starter<'_> {
    fn start<R: Reconcile>(
        &mut self,
        component: &'static str,
        controller: impl FnOnce(Context, &mut Informers, &Arc<Queue>) -> R,
    ) {
        let queue = Arc::new(Queue::default());
        let context = Context {
            events: self.context.events.for_component(component),
            ..self.context.clone()
        };
        let caches = context.caches.clone();
        let reconciler = Arc::new(controller(context, self.informers, &queue));
        self.tasks
            .spawn(work_when_ready(caches, reconciler, queue, self.stop.clone()));
    }
}

async fn work_when_ready<R: Reconcile>(caches: Caches, reconciler: Arc<R>, queue: Arc<Queue>, stop: CancellationToken) {
    let ready = tokio::select! {
        () = stop.cancelled() => return,
        ready = caches.ready() => ready,
    };
    if ready {
        tracing::debug!(controller = R::NAME, "caches are filled, working");
        work(reconciler, queue, stop).await;
    }
}
