//! What all controllers share: caches, writes, events.
//!
//! Central types: [`Context`] (handed to every controller) and [`Informers`] (where a controller says what wakes it,
//! before anything runs).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::events::EventRecorder;
use super::runtime::{Cache, Change, Informer, Key, Namespaced, Objects, Queue, informer};

/// The last known state of every kind that some controller reads.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) services: Cache<Service>,
    pub(crate) endpoints: Cache<Endpoints>,
    pub(crate) endpoint_slices: Cache<EndpointSlice>,
    pub(crate) volume_claims: Cache<PersistentVolumeClaim>,
    pub(crate) replica_sets: Cache<ReplicaSet>,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) stateful_sets: Cache<StatefulSet>,
    pub(crate) daemon_sets: Cache<DaemonSet>,
    pub(crate) jobs: Cache<Job>,
    pub(crate) cron_jobs: Cache<CronJob>,
    pub(crate) disruption_budgets: Cache<PodDisruptionBudget>,
}

/// The watches behind the caches.
pub(crate) struct Informers {
    pub(crate) pods: Informer<Pod>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) services: Informer<Service>,
    pub(crate) endpoints: Informer<Endpoints>,
    pub(crate) endpoint_slices: Informer<EndpointSlice>,
    pub(crate) volume_claims: Informer<PersistentVolumeClaim>,
    pub(crate) replica_sets: Informer<ReplicaSet>,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) stateful_sets: Informer<StatefulSet>,
    pub(crate) daemon_sets: Informer<DaemonSet>,
    pub(crate) jobs: Informer<Job>,
    pub(crate) cron_jobs: Informer<CronJob>,
    pub(crate) disruption_budgets: Informer<PodDisruptionBudget>,
}

/// Makes the caches and the watches that fill them.
pub(crate) fn informers() -> (Caches, Informers) {
    let (pods, pods_informer) = informer();
    let (nodes, nodes_informer) = informer();
    let (services, services_informer) = informer();
    let (endpoints, endpoints_informer) = informer();
    let (endpoint_slices, endpoint_slices_informer) = informer();
    let (volume_claims, volume_claims_informer) = informer();
    let (replica_sets, replica_sets_informer) = informer();
    let (deployments, deployments_informer) = informer();
    let (stateful_sets, stateful_sets_informer) = informer();
    let (daemon_sets, daemon_sets_informer) = informer();
    let (jobs, jobs_informer) = informer();
    let (cron_jobs, cron_jobs_informer) = informer();
    let (disruption_budgets, disruption_budgets_informer) = informer();
    let caches = Caches {
        pods,
        nodes,
        services,
        endpoints,
        endpoint_slices,
        volume_claims,
        replica_sets,
        deployments,
        stateful_sets,
        daemon_sets,
        jobs,
        cron_jobs,
        disruption_budgets,
    };
    let informers = Informers {
        pods: pods_informer,
        nodes: nodes_informer,
        services: services_informer,
        endpoints: endpoints_informer,
        endpoint_slices: endpoint_slices_informer,
        volume_claims: volume_claims_informer,
        replica_sets: replica_sets_informer,
        deployments: deployments_informer,
        stateful_sets: stateful_sets_informer,
        daemon_sets: daemon_sets_informer,
        jobs: jobs_informer,
        cron_jobs: cron_jobs_informer,
        disruption_budgets: disruption_budgets_informer,
    };
    (caches, informers)
}

impl Informers {
    /// Starts every watch as a task of its own.
    pub(crate) fn spawn(self, tasks: &mut JoinSet<()>, client: &kube::Client, stop: &CancellationToken) {
        tasks.spawn(self.pods.run(client.clone(), stop.clone()));
        tasks.spawn(self.nodes.run(client.clone(), stop.clone()));
        tasks.spawn(self.services.run(client.clone(), stop.clone()));
        tasks.spawn(self.endpoints.run(client.clone(), stop.clone()));
        tasks.spawn(self.endpoint_slices.run(client.clone(), stop.clone()));
        tasks.spawn(self.volume_claims.run(client.clone(), stop.clone()));
        tasks.spawn(self.replica_sets.run(client.clone(), stop.clone()));
        tasks.spawn(self.deployments.run(client.clone(), stop.clone()));
        tasks.spawn(self.stateful_sets.run(client.clone(), stop.clone()));
        tasks.spawn(self.daemon_sets.run(client.clone(), stop.clone()));
        tasks.spawn(self.jobs.run(client.clone(), stop.clone()));
        tasks.spawn(self.cron_jobs.run(client.clone(), stop.clone()));
        tasks.spawn(self.disruption_budgets.run(client.clone(), stop.clone()));
    }
}

impl Caches {
    /// Waits until every cache is filled for the first time; `false` when a watch ended before.
    pub(crate) async fn ready(&self) -> bool {
        let core = futures::join!(
            self.pods.ready(),
            self.nodes.ready(),
            self.services.ready(),
            self.endpoints.ready(),
            self.endpoint_slices.ready(),
            self.volume_claims.ready(),
        );
        let workloads = futures::join!(
            self.replica_sets.ready(),
            self.deployments.ready(),
            self.stateful_sets.ready(),
            self.daemon_sets.ready(),
            self.jobs.ready(),
            self.cron_jobs.ready(),
            self.disruption_budgets.ready(),
        );
        core == (true, true, true, true, true, true) && workloads == (true, true, true, true, true, true, true)
    }
}

/// Handed to every controller.
#[derive(Clone)]
pub(crate) struct Context {
    /// Reads.
    pub(crate) caches: Caches,
    /// Writes.
    pub(crate) objects: Objects,
    /// Words for people.
    pub(crate) events: EventRecorder,
}

/// Wakes a controller with the keys that a function makes out of a change.
pub(crate) fn wake<K, F>(informer: &mut Informer<K>, queue: &Arc<Queue>, keys: F)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    F: Fn(&Change<K>) -> Vec<Key> + Send + Sync + 'static,
{
    let queue = Arc::clone(queue);
    informer.on_change(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
}

/// Wakes a controller when an object of its own kind changes.
pub(crate) fn wake_on_self<K>(informer: &mut Informer<K>, queue: &Arc<Queue>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    wake(informer, queue, |change| {
        change.latest().map(|object| Key::of(&**object)).into_iter().collect()
    });
}

/// Wakes an object when something that it owns changes, or an orphan that its selector may adopt.
pub(crate) fn wake_on_selected<O, K>(
    informer: &mut Informer<O>,
    queue: &Arc<Queue>,
    owners: Cache<K>,
    selector: fn(&K) -> Option<&LabelSelector>,
) where
    O: Namespaced,
    K: Namespaced,
{
    wake_on_owned::<_, K, _>(informer, queue, move |orphan| {
        let meta = orphan.meta();
        let all = owners.in_namespace(meta.namespace.as_deref().unwrap_or_default());
        all.iter()
            .filter(|owner| super::meta::selects(selector(owner), meta.labels.as_ref()))
            .map(|owner| Key::of(&**owner))
            .collect()
    });
}

/// Wakes a controller when something that its objects control changes; `orphan` names those that might adopt.
pub(crate) fn wake_on_owned<O, K, F>(informer: &mut Informer<O>, queue: &Arc<Queue>, orphan: F)
where
    O: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    K: Resource<DynamicType = ()>,
    F: Fn(&O) -> Vec<Key> + Send + Sync + 'static,
{
    wake(informer, queue, move |change| {
        let mut keys = Vec::new();
        for object in change.states() {
            let meta = object.meta();
            if let Some(owner) = super::meta::owner_name_of_kind::<K>(meta) {
                keys.push(Key::new(meta.namespace.clone().unwrap_or_default(), owner));
            }
        }
        if let Some(new) = &change.new
            && super::meta::controller_of(new.meta()).is_none()
        {
            keys.extend(orphan(new));
        }
        keys
    });
}
