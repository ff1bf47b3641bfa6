//! Reading and writing for one engine: plain updates without a status subresource, as all parts of Litmus do, so that conflicts happen.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

/// Where the operator is, by its manifest.
const NAMESPACE: &str = "litmus";
const OPERATOR: &str = "chaos-operator-ce";
/// Annotation of the operator's Deployment: how the double misbehaves, with a number after `=` where it needs one.
const SWITCH: &str = "chaosrun.dev/double-switch";

/// The kind as an API resource; every plural is the kind in lower case with an s.
pub(super) fn resource(kind: &str) -> ApiResource {
    let plural = format!("{}s", kind.to_lowercase());
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(super::GROUP, "v1alpha1", kind), &plural)
}

/// A stamp as Kubernetes writes them.
pub(super) fn stamp() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// One engine and the way to the API server.
pub(super) struct Objects {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Objects {
    pub(super) fn new(client: Client, engine: &DynamicObject) -> Self {
        Self {
            client,
            namespace: engine.namespace().unwrap_or_default(),
            name: engine.name_any(),
            uid: engine.uid().unwrap_or_default(),
        }
    }

    pub(super) fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind))
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The engine, while it is this one.
    pub(super) async fn engine(&self) -> Result<Option<DynamicObject>, String> {
        let found = self.api("ChaosEngine").get_opt(&self.name).await.map_err(text)?;
        Ok(found.filter(|found| found.uid().as_deref() == Some(&self.uid)))
    }

    /// Reads, changes and writes a whole object, again after each conflict. One that is gone stays gone.
    pub(super) async fn update(
        &self,
        kind: &str,
        name: &str,
        change: impl Fn(&mut DynamicObject),
    ) -> Result<(), String> {
        let api = self.api(kind);
        loop {
            let Some(mut object) = api.get_opt(name).await.map_err(text)? else {
                return Ok(());
            };
            change(&mut object);
            match api.replace(name, &PostParams::default(), &object).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return Err(text(error)),
            }
        }
    }

    /// Merges into the engine.
    pub(super) async fn write_engine(&self, part: Value) -> Result<(), String> {
        let name = self.name.clone();
        self.update("ChaosEngine", &name, |engine| {
            json_patch::merge(&mut engine.data, &part);
        })
        .await
    }

    /// How the double is to misbehave: a word, and a number where it has one.
    pub(super) async fn switch(&self) -> (String, u64) {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        let found = api.get_opt(OPERATOR).await.ok().flatten();
        let value = found
            .and_then(|found| found.annotations().get(SWITCH).cloned())
            .unwrap_or_default();
        let (word, number) = value.split_once('=').unwrap_or((&value, "0"));
        (word.to_owned(), number.parse().unwrap_or(0))
    }

    /// Waits until a pod of the operator is ready.
    pub(super) async fn operator(&self) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let parameters = ListParams::default().labels("app.kubernetes.io/component=operator");
        loop {
            let listed = pods.list(&parameters).await;
            if listed.is_ok_and(|listed| listed.items.iter().any(is_ready)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// An event about the engine. The same reason again is the same object with a higher count.
    pub(super) async fn event(&self, component: &str, level: &str, reason: &str, message: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = format!("{}.{}", self.name, reason.to_lowercase());
        let now = stamp();
        let written = match events.get_opt(&name).await {
            Ok(Some(mut event)) => {
                event.count = Some(event.count.unwrap_or(1) + 1);
                event.message = Some(message.to_owned());
                event.last_timestamp = serde_json::from_value(json!(now)).ok();
                events.replace(&name, &PostParams::default(), &event).await.map(drop)
            }
            _ => {
                let event = json!({
                    "apiVersion": "v1", "kind": "Event",
                    "metadata": {"name": name, "namespace": self.namespace},
                    "involvedObject": {"apiVersion": format!("{}/v1alpha1", super::GROUP), "kind": "ChaosEngine", "name": self.name,
                        "namespace": self.namespace, "uid": self.uid},
                    "reason": reason, "message": message, "type": level, "count": 1,
                    "source": {"component": component}, "firstTimestamp": now, "lastTimestamp": now,
                });
                match serde_json::from_value(event) {
                    Ok(event) => events.create(&PostParams::default(), &event).await.map(drop),
                    Err(_) => Ok(()),
                }
            }
        };
        if let Err(error) = written {
            tracing::debug!(%error, "an event was lost");
        }
    }

    /// A container that does nothing and ends politely, `linger` seconds after it was told to.
    fn idle(linger: u64) -> Value {
        let script = format!("trap 'sleep {linger}; exit 0' TERM; while :; do sleep 0.2; done");
        json!({"name": "idle", "image": "chaosrun/litmus-double:3.31.0", "command": ["sh", "-c", script]})
    }

    fn labels(&self) -> BTreeMap<String, String> {
        [("chaosUID", self.uid.as_str()), ("app.kubernetes.io/part-of", "litmus")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// Makes the runner on a node that `selector` allows, and waits until it runs.
    pub(super) async fn start_runner(&self, linger: u64, selector: &Value) -> Result<String, String> {
        let name = format!("{}-runner", self.name);
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": self.labels()},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 60, "nodeSelector": selector,
                "containers": [Self::idle(linger)]}});
        let pod: Pod = serde_json::from_value(pod).map_err(text)?;
        match self.pods().create(&PostParams::default(), &pod).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(text(error)),
        }
        self.running(&ListParams::default().fields(&format!("metadata.name={name}")))
            .await?;
        Ok(name)
    }

    /// Makes the experiment's Job on a node that `selector` allows, waits until its pod runs, and says its name.
    pub(super) async fn start_experiment(
        &self,
        experiment: &str,
        linger: u64,
        selector: &Value,
    ) -> Result<String, String> {
        let short: String = self.uid.chars().filter(char::is_ascii_hexdigit).take(6).collect();
        let name = format!("{experiment}-{short}");
        let mut labels = self.labels();
        labels.insert("name".to_owned(), experiment.to_owned());
        let job = json!({"apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 60, "nodeSelector": selector,
                "containers": [Self::idle(linger)]}}}});
        let job: Job = serde_json::from_value(job).map_err(text)?;
        match self.jobs().create(&PostParams::default(), &job).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(text(error)),
        }
        self.running(&ListParams::default().labels(&format!("job-name={name}")))
            .await
    }

    async fn running(&self, which: &ListParams) -> Result<String, String> {
        loop {
            let listed = self.pods().list(which).await.map_err(text)?;
            let running = listed.items.iter().find(|pod| {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                phase == Some("Running")
            });
            if let Some(pod) = running {
                return Ok(pod.name_any());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn labelled(&self) -> ListParams {
        ListParams::default().labels(&format!("chaosUID={}", self.uid))
    }

    /// Pods that were started for the engine.
    pub(super) async fn chaos_pods(&self) -> Vec<Pod> {
        let listed = self.pods().list(&self.labelled()).await;
        listed.map(|listed| listed.items).unwrap_or_default()
    }

    /// Removes all Jobs and Pods of the engine and waits for their end, as long as the operator does.
    pub(super) async fn remove_pods(&self) {
        let gone = async {
            if let Ok(jobs) = self.jobs().list(&self.labelled()).await {
                for job in jobs.items {
                    drop(self.jobs().delete(&job.name_any(), &DeleteParams::background()).await);
                }
            }
            for pod in self.chaos_pods().await {
                drop(self.pods().delete(&pod.name_any(), &DeleteParams::default()).await);
            }
            while !self.chaos_pods().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        // What is not gone by then stays: as upstream, it goes on without it.
        drop(tokio::time::timeout(Duration::from_secs(180), gone).await);
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
