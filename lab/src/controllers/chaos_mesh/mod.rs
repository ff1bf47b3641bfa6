//! A double of Chaos Mesh 2.8: its objects, their life and their oddities, and faults that are really injected.
//!
//! May depend on `lifecycle` and `node` for what a daemon on a node can do; talks to the API server as any client would. Nothing of it
//! is in a lab until its manifest is applied (`kind-config/lab-chaos-mesh-double.yaml`): definitions, and a Deployment and a `DaemonSet`
//! that stand for controller-manager and daemons. They are real switches: without a ready controller-manager creations are answered by
//! "failed calling webhook" and deletions hang on the finalizer, without a ready daemon on a node nothing is injected or recovered there.
//!
//! `experiment` decides (pure), `admission` is the webhook (pure), `acts` is what the daemon does. Kinds: PodChaos (pod-kill,
//! container-kill), NetworkChaos (partition, loss, bandwidth), StressChaos. Missing, and said so by a failed Apply: pod-failure,
//! delay, duplicate, corrupt, and every other kind; the internal Pod*Chaos objects do not exist; Schedule, Workflow and pause neither.

mod acts;
mod admission;
mod experiment;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use self::acts::Daemon;
use self::experiment::{Experiment, Record};
use crate::lifecycle::{Controller, LabInfo};

/// Group of every kind.
pub(crate) const GROUP: &str = "chaos-mesh.org";
/// Kinds that the double works on; the plural is the kind in lower case.
const KINDS: [&str; 3] = ["PodChaos", "NetworkChaos", "StressChaos"];
/// Where its own pods are, by its manifest.
const NAMESPACE: &str = "chaos-mesh";
const COMPONENT: &str = "app.kubernetes.io/component";
/// Keeps an object until its faults were taken back.
const FINALIZER: &str = "chaos-mesh/records";
/// First pause before a failed injection is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The double as a lab starts it.
#[must_use]
pub fn controller() -> Controller {
    Box::new(move |client, info| Box::pin(serve(client, info)))
}

/// What the workers share.
struct Double {
    client: Client,
    daemon: Daemon,
    /// A ready controller-manager exists.
    managed: Arc<AtomicBool>,
}

async fn serve(client: Client, info: LabInfo) {
    let managed = Arc::new(AtomicBool::new(false));
    let installed = Arc::new(AtomicBool::new(false));
    info.server
        .add_admission_hook(admission::hook(&info.server, Arc::clone(&managed)));
    let double = Arc::new(Double {
        client: client.clone(),
        daemon: Daemon::new(&info),
        managed,
    });
    // One watch until there is something to do.
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let config = watcher::Config::default().fields("metadata.name=networkchaos.chaos-mesh.org");
    let mut events = std::pin::pin!(watcher(definitions, config).default_backoff().applied_objects());
    while let Some(event) = events.next().await {
        if event.is_ok() && !installed.swap(true, Ordering::AcqRel) {
            tokio::spawn(follow_manager(Arc::clone(&double)));
            for kind in KINDS {
                tokio::spawn(work(Arc::clone(&double), kind));
            }
        }
    }
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1alpha1", kind), &kind.to_lowercase())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Keeps the switch of the controller-manager current.
async fn follow_manager(double: Arc<Double>) {
    let pods: Api<Pod> = Api::namespaced(double.client.clone(), NAMESPACE);
    let config = watcher::Config::default().labels(&format!("{COMPONENT}=controller-manager"));
    let mut ready: HashMap<String, bool> = HashMap::new();
    let mut events = std::pin::pin!(watcher(pods, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => ready.clear(),
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                ready.insert(pod.name_any(), is_ready(&pod));
            }
            Ok(watcher::Event::Delete(pod)) => {
                ready.remove(&pod.name_any());
            }
            Ok(watcher::Event::InitDone) | Err(_) => {}
        }
        double
            .managed
            .store(ready.values().any(|ready| *ready), Ordering::Release);
    }
}

/// One worker for each kind, as upstream: a slow object delays all others of its kind.
async fn work(double: Arc<Double>, kind: &'static str) {
    let api: Api<DynamicObject> = Api::all_with(double.client.clone(), &resource(kind));
    let (again, mut due) = mpsc::unbounded_channel::<(String, String)>();
    let mut pauses: HashMap<String, Duration> = HashMap::new();
    let mut events = std::pin::pin!(
        watcher(api, watcher::Config::default())
            .default_backoff()
            .applied_objects()
    );
    loop {
        let (namespace, name) = tokio::select! {
            event = events.next() => match event {
                Some(Ok(object)) => (object.namespace().unwrap_or_default(), object.name_any()),
                Some(Err(_)) => continue,
                None => return,
            },
            Some(key) = due.recv() => key,
        };
        let key = format!("{namespace}/{name}");
        let pause = match double.reconcile(kind, &namespace, &name).await {
            Ok(next) => {
                pauses.remove(&key);
                next
            }
            Err(error) => {
                tracing::debug!(kind, key, error, "the double tries again");
                let pause = pauses
                    .get(&key)
                    .map_or(FIRST_PAUSE, |pause| (*pause * 2).min(LONGEST_PAUSE));
                pauses.insert(key, pause);
                Some(pause)
            }
        };
        if let Some(pause) = pause {
            let again = again.clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                drop(again.send((namespace, name)));
            });
        }
    }
}

impl Double {
    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
    }

    /// One pass over one object; says when it wants to be called again. Conditions are written before the records are worked on, and
    /// therefore lag one pass behind them.
    async fn reconcile(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Duration>, String> {
        let api = self.api(kind, namespace);
        let Some(mut object) = api.get_opt(name).await.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        if !self.managed.load(Ordering::Acquire) {
            return Ok(Some(Duration::from_millis(500)));
        }
        let deleting = object.metadata.deletion_timestamp.is_some();
        let finalizers = object.metadata.finalizers.clone().unwrap_or_default();
        if !deleting && !finalizers.iter().any(|held| held == FINALIZER) {
            object = self
                .write(&api, name, &json!({"metadata": {"finalizers": [FINALIZER]}}))
                .await?;
            self.event(
                kind,
                &object,
                ("initFinalizers", "FinalizerInited", "Normal"),
                "Finalizer has been inited",
                None,
            )
            .await;
        }
        let experiment = Experiment::read(kind, &object);
        let desired = experiment.desired_phase(Timestamp::now());
        if experiment.phase.as_deref() != Some(desired.word()) {
            object = self
                .write(
                    &api,
                    name,
                    &json!({"status": {"experiment": {"desiredPhase": desired.word()}}}),
                )
                .await?;
            let reason = desired.reason();
            self.event(kind, &object, ("desiredphase", reason, "Normal"), reason, None)
                .await;
        }
        let experiment = Experiment::read(kind, &object);
        let conditions = experiment.conditions();
        if experiment.shown_conditions() != conditions {
            let mut list: Vec<Value> = conditions
                .iter()
                .map(|(kind, holds)| json!({"type": kind, "status": if *holds { "True" } else { "False" }}))
                .collect();
            // Upstream builds them from a Go map: their order is random.
            let turn = usize::try_from(Timestamp::now().subsec_nanosecond()).unwrap_or(0) % list.len().max(1);
            list.rotate_left(turn);
            object = self.write(&api, name, &json!({"status": {"conditions": list}})).await?;
        }
        let experiment = Experiment::read(kind, &object);
        let failed = self.records(&api, kind, &object, &experiment).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        let object = api.get_opt(name).await.map_err(|error| error.to_string())?;
        let Some(object) = object else { return Ok(None) };
        let experiment = Experiment::read(kind, &object);
        if experiment.deleting && experiment.is_over() {
            self.write(&api, name, &json!({"metadata": {"finalizers": null}}))
                .await?;
            return Ok(None);
        }
        Ok(experiment.expires_in(Timestamp::now()))
    }

    /// Works on the records: selects, applies, recovers. All of them are tried before they are written, once. Returns what failed.
    async fn records(
        &self,
        api: &Api<DynamicObject>,
        kind: &str,
        object: &DynamicObject,
        experiment: &Experiment,
    ) -> Result<Option<String>, String> {
        let name = object.name_any();
        let mut records = experiment.records.clone();
        if records.is_empty() {
            if experiment.deleting {
                return Ok(None);
            }
            records = self.select(experiment).await?;
            if records.is_empty() {
                let why = "Failed to select targets: no pod is selected";
                self.event(kind, object, ("records", "Failed", "Warning"), why, None)
                    .await;
                return Ok(None);
            }
        }
        let before = records.clone();
        let run = experiment.desired_phase(Timestamp::now()).is_run();
        let mut failed = None;
        for record in &mut records {
            let Some(step) = record.step(run, experiment) else {
                continue;
            };
            let outcome = self.act(experiment, record, step).await;
            let event = match &outcome {
                Ok(()) => step.done_reason(),
                Err(_) => "Failed",
            };
            let message = match &outcome {
                Ok(()) => format!("Successfully {} chaos for {}", step.verb(), record.id),
                Err(why) => format!("Failed to {} chaos: {why}", step.verb()),
            };
            record.note(step, outcome.as_ref().err(), experiment);
            let level = if outcome.is_ok() { "Normal" } else { "Warning" };
            self.event(kind, object, ("records", event, level), &message, Some(&record.id))
                .await;
            if let Err(why) = outcome {
                failed = Some(why);
            }
        }
        if records != before || experiment.records.is_empty() {
            let list: Vec<Value> = records.iter().map(Record::to_value).collect();
            self.write(
                api,
                &name,
                &json!({"status": {"experiment": {"containerRecords": list}}}),
            )
            .await?;
        }
        Ok(failed)
    }

    async fn act(&self, experiment: &Experiment, record: &Record, step: experiment::Step) -> Result<(), String> {
        let (namespace, name) = record.pod();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = pods.get_opt(name).await.map_err(|error| error.to_string())?;
        let Some(pod) = pod else {
            // A pod that is gone counts as recovered.
            return if step.is_apply() {
                Err(format!("pod {name} not found"))
            } else {
                Ok(())
            };
        };
        if !experiment.is_on_api() {
            let node = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default();
            self.daemon_on(&node).await?;
        }
        let peers = self.peers(experiment).await?;
        self.daemon
            .act(&self.client, experiment, &pod, record, &peers, step.is_apply())
            .await
    }

    /// Every node with a target must run a ready daemon.
    async fn daemon_on(&self, node: &str) -> Result<(), String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let parameters = ListParams::default()
            .labels(&format!("{COMPONENT}=chaos-daemon"))
            .fields(&format!("spec.nodeName={node}"));
        let listed = pods.list(&parameters).await.map_err(|error| error.to_string())?;
        if listed.items.iter().any(is_ready) {
            return Ok(());
        }
        Err(format!("cannot find daemonIP on node {node} in related Endpoints"))
    }

    async fn select(&self, experiment: &Experiment) -> Result<Vec<Record>, String> {
        let mut records = Vec::new();
        for pod in self.matching(&experiment.selector()).await? {
            records.extend(experiment.records_of(&pod, "."));
        }
        Ok(experiment.choose(records))
    }

    async fn peers(&self, experiment: &Experiment) -> Result<Vec<Pod>, String> {
        match experiment.target_selector() {
            Some(selector) => self.matching(&selector).await,
            None => Ok(Vec::new()),
        }
    }

    /// Pods that a selector names or matches.
    async fn matching(&self, selector: &experiment::Selector) -> Result<Vec<Pod>, String> {
        let mut found = Vec::new();
        for (namespace, names) in &selector.named {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            for name in names {
                found.extend(pods.get_opt(name).await.map_err(|error| error.to_string())?);
            }
        }
        if !selector.named.is_empty() {
            return Ok(found);
        }
        for namespace in &selector.namespaces {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let parameters = ListParams::default().labels(&selector.labels);
            let listed = pods.list(&parameters).await.map_err(|error| error.to_string())?;
            found.extend(listed.items.into_iter().filter(|pod| selector.fits(pod)));
        }
        Ok(found)
    }

    async fn write(&self, api: &Api<DynamicObject>, name: &str, patch: &Value) -> Result<DynamicObject, String> {
        // Status and all: experiments have no status subresource.
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(|error| error.to_string())
    }

    /// Named by the nanoseconds of its birth, in hexadecimal. May be lost, as upstream.
    async fn event(
        &self,
        kind: &str,
        object: &DynamicObject,
        (component, reason, level): (&str, &str, &str),
        message: &str,
        record: Option<&str>,
    ) {
        let now = Timestamp::now();
        let namespace = object.namespace().unwrap_or_default();
        let mut annotations = json!({"chaos-mesh.org/type": reason.to_lowercase()});
        if let (Some(id), Some(map)) = (record, annotations.as_object_mut()) {
            map.insert("chaos-mesh.org/id".to_owned(), json!(id));
        }
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {
                "name": format!("{}.{:x}", object.name_any(), now.as_nanosecond()),
                "namespace": namespace,
                "annotations": annotations,
            },
            "involvedObject": {
                "apiVersion": format!("{GROUP}/v1alpha1"), "kind": kind, "name": object.name_any(),
                "namespace": namespace, "uid": object.uid(),
            },
            "reason": reason, "message": message, "type": level, "count": 1,
            "source": {"component": component},
            "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Ok(event) = serde_json::from_value(event)
            && let Err(error) = events.create(&PostParams::default(), &event).await
        {
            tracing::debug!(%error, "an event was lost");
        }
    }
}
