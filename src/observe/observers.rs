//! Starts and stops all observers of one experiment.

use super::checks::Checker;
use super::pods::{PodIndex, PodObserver};
use super::probes;
use super::resource::{Followed, ResourceObserver};
use super::target::{Membership, ResolvedTarget, own_kind};
use crate::cluster::{Cluster, ClusterError, watch};
use crate::experiment::{Check, Experiment, Probe};
use crate::ledger;
use crate::prometheus::Prometheus;
use crate::world::{RecordError, Recorder};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// An observer ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserveError {
    /// The cluster does not let us look.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The log cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A probe cannot be used.
    #[error("probe {probe:?}: {why}")]
    Probe {
        /// Its name.
        probe: String,
        /// Why.
        why: String,
    },
}

/// What to observe, and with what.
pub(crate) struct Wanted {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) experiment: Experiment,
    pub(crate) target: ResolvedTarget,
    pub(crate) prometheus: Option<Prometheus>,
}

/// The running observers of one experiment.
pub(crate) struct Observers {
    pods: PodIndex,
    selector: String,
    tasks: JoinSet<Result<(), ObserveError>>,
    cancel: CancellationToken,
}

impl Observers {
    /// Starts them all.
    ///
    /// # Errors
    /// When a probe cannot be used as it stands.
    pub(crate) fn start(wanted: Wanted) -> Result<Self, ObserveError> {
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let pods = PodIndex::new();
        start_pods(&wanted, &pods, &mut tasks, &cancel);
        start_resources(&wanted, &mut tasks, &cancel)?;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| ObserveError::Probe {
                probe: "http".to_owned(),
                why: error.to_string(),
            })?;
        let checker = Checker {
            cluster: wanted.cluster.clone(),
            pods: pods.clone(),
            prometheus: wanted.prometheus.clone(),
            http,
            logged: std::sync::Arc::default(),
        };
        for probe in all_probes(&wanted.experiment) {
            if probe.check.is_watched() || matches!(probe.check, Check::Progress { .. }) {
                continue;
            }
            let (probe, checker, recorder, cancel) =
                (probe.clone(), checker.clone(), wanted.recorder.clone(), cancel.clone());
            tasks.spawn(async move { Ok(probes::sample(probe, checker, recorder, cancel).await?) });
        }
        if let Some(ledger) = wanted.experiment.ledger.clone() {
            let counter = ledger::Counter {
                cluster: wanted.cluster.clone(),
                recorder: wanted.recorder.clone(),
                pods: pods.clone(),
                ledger: ledger.clone(),
            };
            let sampler = ledger::Sampler {
                cluster: wanted.cluster.clone(),
                recorder: wanted.recorder.clone(),
                pods: pods.clone(),
                ledger,
            };
            let (counting, sampling) = (cancel.clone(), cancel.clone());
            tasks.spawn(async move { Ok(counter.run(counting).await?) });
            tasks.spawn(async move { Ok(sampler.run(sampling).await?) });
        }
        Ok(Self {
            pods,
            selector: wanted.target.selector.clone(),
            tasks,
            cancel,
        })
    }

    /// Label selector of the target's pods.
    pub(crate) fn selector(&self) -> &str {
        &self.selector
    }

    /// The pods as they are now.
    pub(crate) fn pods(&self) -> &PodIndex {
        &self.pods
    }

    /// Waits until an observer fails. Never returns while all is well.
    pub(crate) async fn failed(&mut self) -> ObserveError {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Ok(Ok(()))) => {}
                Some(Err(error)) => {
                    return ObserveError::Probe {
                        probe: "observer".to_owned(),
                        why: format!("ended unexpectedly: {error}"),
                    };
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Stops them and waits for their end, for a bounded time.
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
            tracing::debug!("an observer did not end in time and is dropped");
        }
    }
}

/// Every probe of an experiment: steady state, assertions, stop conditions.
pub(crate) fn all_probes(experiment: &Experiment) -> impl Iterator<Item = &Probe> {
    let assertions = experiment.slos.assertions.iter().map(|assertion| &assertion.probe);
    let stops = experiment.stop.iter().map(|stop| &stop.probe);
    experiment.steady_state.probes.iter().chain(assertions).chain(stops)
}

type Tasks = JoinSet<Result<(), ObserveError>>;

fn start_pods(wanted: &Wanted, pods: &PodIndex, tasks: &mut Tasks, cancel: &CancellationToken) {
    let (sender, receiver) = mpsc::channel(1024);
    let namespace = wanted.target.namespace.clone();
    let api: Api<Pod> = Api::namespaced(wanted.cluster.client(), &namespace);
    let ledger = wanted.experiment.ledger.as_ref().filter(|ledger| ledger.uses_pod());
    let reader = ledger.map(|ledger| ledger.reader.clone());
    // One LIST and one WATCH must serve the target and the ledger's reader, so with a ledger the whole namespace is followed.
    let selector = match &reader {
        Some(_) => ListParams::default(),
        None => ListParams::default().labels(&wanted.target.selector),
    };
    let observer = PodObserver {
        cluster: wanted.cluster.clone(),
        recorder: wanted.recorder.clone(),
        membership: Membership::new(wanted.target.clone()),
        index: pods.clone(),
        reader,
        listed: std::collections::HashSet::new(),
        template: None,
    };
    // A pod is large, and the future of its observer holds one.
    tasks.spawn(async move { Ok(Box::pin(observer.run(receiver)).await?) });
    let (cluster, clock, cancel) = (wanted.cluster.clone(), wanted.recorder.clock(), cancel.clone());
    let what = format!("pods in namespace {namespace}");
    tasks.spawn(async move { Ok(watch(cluster, api, what, selector, clock, sender, cancel).await?) });
}

/// The target's own object, and whatever else resource probes name: one watch for each kind.
fn start_resources(wanted: &Wanted, tasks: &mut Tasks, cancel: &CancellationToken) -> Result<(), ObserveError> {
    let own = own_kind(&wanted.experiment.target);
    let mut own_fields: BTreeSet<String> = BTreeSet::new();
    let mut kinds: BTreeMap<(String, String), (ApiResource, Vec<Followed>)> = BTreeMap::new();
    let mut follow = |resource: ApiResource, followed: Followed| {
        let kind = (resource.group.clone(), resource.kind.clone());
        kinds.entry(kind).or_insert((resource, Vec::new())).1.push(followed);
    };
    if own.is_some() {
        own_fields.extend(["status.applicationState.state", "status.applicationState.errorMessage"].map(str::to_owned));
    }
    for probe in all_probes(&wanted.experiment) {
        let Check::Resource {
            api_version,
            resource_kind,
            name,
            field,
            ..
        } = &probe.check
        else {
            continue;
        };
        let unusable = |why: &str| ObserveError::Probe {
            probe: probe.name.clone(),
            why: why.to_owned(),
        };
        match (api_version, resource_kind, name) {
            (None, None, None) if own.is_some() => {
                own_fields.insert(field.clone());
            }
            (None, None, None) => {
                return Err(unusable(
                    "the target is a label selector and has no object of its own: name apiVersion, kind and name",
                ));
            }
            (Some(api_version), Some(kind), Some(name)) => {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                let followed = Followed {
                    name: name.clone(),
                    subject: probe.name.clone(),
                    fields: vec![field.clone()],
                };
                follow(
                    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)),
                    followed,
                );
            }
            _ => return Err(unusable("apiVersion, kind and name go together")),
        }
    }
    if let Some((resource, name)) = own {
        let followed = Followed {
            name,
            subject: "target".to_owned(),
            fields: own_fields.into_iter().collect(),
        };
        follow(resource, followed);
    }
    for (resource, followed) in kinds.into_values() {
        watch_kind(wanted, tasks, cancel, &resource, followed);
    }
    Ok(())
}

fn watch_kind(
    wanted: &Wanted,
    tasks: &mut Tasks,
    cancel: &CancellationToken,
    resource: &ApiResource,
    followed: Vec<Followed>,
) {
    let (sender, receiver) = mpsc::channel(256);
    let namespace = &wanted.target.namespace;
    let api: Api<DynamicObject> = Api::namespaced_with(wanted.cluster.client(), namespace, resource);
    let names: BTreeSet<&str> = followed.iter().map(|followed| followed.name.as_str()).collect();
    // A field selector takes one name; of several, the whole kind is followed and the rest passed over.
    let (selector, what) = match names.first() {
        Some(name) if names.len() == 1 => (
            ListParams::default().fields(&format!("metadata.name={name}")),
            format!("{} {namespace}/{name}", resource.kind),
        ),
        _ => (
            ListParams::default(),
            format!("{} in namespace {namespace}", resource.plural),
        ),
    };
    let observer = ResourceObserver {
        recorder: wanted.recorder.clone(),
        kind: resource.plural.clone(),
        followed,
    };
    tasks.spawn(async move { Ok(observer.run(receiver).await?) });
    let (cluster, clock, cancel) = (wanted.cluster.clone(), wanted.recorder.clock(), cancel.clone());
    tasks.spawn(async move { Ok(watch(cluster, api, what, selector, clock, sender, cancel).await?) });
}
