//! Keeps the wanted number of executor pods, through the API, as Spark's driver does.
//!
//! Depends on kube. Central type: [`Allocator`]. Contract: executors are owned by the driver pod; a failed one is
//! deleted and replaced by the next number; a terminating one keeps its slot until it stops running. Unlike Spark, a
//! force-deleted executor is noticed from the watch at once and not by the next poll.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use super::executor::{DRIVER_VARIABLE, EXECUTOR_VARIABLE};
use super::settings::{DRIVER_PORT, Settings};

/// How often missing executors are asked for, besides on every change.
const ROUND: Duration = Duration::from_secs(1);

/// Why executors could not be managed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AllocatorError {
    #[error("cannot read the driver's own pod {pod}")]
    OwnPod { pod: String, source: kube::Error },
    #[error("cannot create executor pod {pod}")]
    Create { pod: String, source: kube::Error },
    #[error("the watch on executor pods ended")]
    WatchEnded,
}

/// The executor pods of one driver.
pub(crate) struct Allocator {
    pods: Api<Pod>,
    settings: Settings,
    driver_ip: String,
    owner: serde_json::Value,
    next_id: u64,
}

impl Allocator {
    /// Finds the driver's own pod, which will own the executors.
    pub(crate) async fn open(
        client: kube::Client,
        settings: Settings,
        driver_ip: String,
    ) -> Result<Self, AllocatorError> {
        let pods: Api<Pod> = Api::namespaced(client, &settings.namespace);
        let own = pods
            .get(&settings.driver_pod)
            .await
            .map_err(|source| AllocatorError::OwnPod {
                pod: settings.driver_pod.clone(),
                source,
            })?;
        let owner = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "name": settings.driver_pod,
            "uid": own.metadata.uid,
            "controller": true,
            "blockOwnerDeletion": false,
        });
        Ok(Self {
            pods,
            settings,
            driver_ip,
            owner,
            next_id: 1,
        })
    }

    fn selector(&self) -> String {
        format!(
            "spark-app-selector={},spark-role=executor",
            self.settings.application_id
        )
    }

    /// Creates and replaces executors until something outside fails for good.
    pub(crate) async fn run(&mut self) -> Result<std::convert::Infallible, AllocatorError> {
        let config = watcher::Config::default().labels(&self.selector());
        let mut events = Box::pin(watcher(self.pods.clone(), config).default_backoff());
        // Pod name to "holds a slot". Those that were created and not seen yet hold one, too.
        let mut slots: BTreeMap<String, bool> = BTreeMap::new();
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.try_next() => match event {
                    Ok(Some(event)) => self.note(&mut slots, event).await,
                    Ok(None) => return Err(AllocatorError::WatchEnded),
                    // The watcher comes back by itself.
                    Err(error) => tracing::warn!(%error, "watch on executor pods interrupted"),
                },
                _ = rounds.tick() => {}
            }
            let held = slots.values().filter(|held| **held).count();
            for _ in held..self.settings.executor_instances {
                let name = self.create().await?;
                slots.insert(name, true);
            }
        }
    }

    async fn note(&self, slots: &mut BTreeMap<String, bool>, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                let Some(name) = pod.metadata.name.clone() else {
                    return;
                };
                let phase = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref())
                    .unwrap_or("Pending");
                let deleting = pod.metadata.deletion_timestamp.is_some();
                let ended = matches!(phase, "Failed" | "Succeeded");
                slots.insert(name.clone(), !ended && (!deleting || phase == "Running"));
                if ended && !deleting {
                    // Gone already is as good as deleted.
                    drop(self.pods.delete(&name, &DeleteParams::background()).await);
                }
            }
            watcher::Event::Delete(pod) => {
                if let Some(name) = pod.metadata.name {
                    slots.insert(name, false);
                }
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    async fn create(&mut self) -> Result<String, AllocatorError> {
        let id = self.next_id;
        self.next_id += 1;
        let name = format!("{}-exec-{id}", self.settings.executor_prefix);
        let pod = self.pod(id, &name).map_err(|source| AllocatorError::Create {
            pod: name.clone(),
            source: kube::Error::SerdeError(source),
        })?;
        tracing::info!(pod = name, "requesting executor");
        match self.pods.create(&PostParams::default(), &pod).await {
            Ok(_) => Ok(name),
            Err(source) => Err(AllocatorError::Create { pod: name, source }),
        }
    }

    fn pod(&self, id: u64, name: &str) -> Result<Pod, serde_json::Error> {
        let settings = &self.settings;
        let mut labels = settings.executor_labels.clone();
        for (key, value) in [
            ("spark-role", "executor"),
            ("spark-app-selector", settings.application_id.as_str()),
            ("spark-app-name", settings.application_name.as_str()),
            ("spark-exec-id", id.to_string().as_str()),
            ("spark-exec-resourceprofile-id", "0"),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": settings.namespace,
                "labels": labels,
                "annotations": settings.executor_annotations,
                "ownerReferences": [self.owner],
            },
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": settings.service_account,
                "containers": [{
                    "name": "spark-kubernetes-executor",
                    "image": settings.executor_image,
                    "args": ["executor"],
                    "env": [
                        {"name": DRIVER_VARIABLE, "value": format!("{}:{DRIVER_PORT}", self.driver_ip)},
                        {"name": EXECUTOR_VARIABLE, "value": id.to_string()},
                        {"name": "SPARK_APPLICATION_ID", "value": settings.application_id},
                        {"name": "SPARK_EXECUTOR_POD_NAME",
                         "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    ],
                    "resources": resources(settings.executor_memory.as_deref()),
                }],
            },
        }))
    }

    /// At a clean stop: removes all executors.
    pub(crate) async fn remove_all(&self) {
        let list = ListParams::default().labels(&self.selector());
        if let Err(error) = self.pods.delete_collection(&DeleteParams::default(), &list).await {
            tracing::warn!(%error, "cannot remove the executors");
        }
    }
}

/// As Spark sizes its executors: the heap, and a tenth of it but at least 384 MiB beside it (`spark.executor.memoryOverhead`).
fn resources(memory: Option<&str>) -> serde_json::Value {
    let mut resources = json!({"requests": {"cpu": "100m"}});
    let mebibytes = memory.and_then(mebibytes).map(|heap| heap + (heap / 10).max(384));
    if let (Some(mebibytes), Some(map)) = (mebibytes, resources.as_object_mut()) {
        map.insert("limits".to_owned(), json!({"memory": format!("{mebibytes}Mi")}));
        // Requested is what runs really need here: a stand-in must not crowd out what it stands in for.
        map.insert("requests".to_owned(), json!({"cpu": "100m", "memory": "32Mi"}));
    }
    resources
}

/// Spark's way to write sizes: `512m`, `1g`.
fn mebibytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, factor) = match text.strip_suffix('m') {
        Some(number) => (number, 1),
        None => (text.strip_suffix('g')?, 1024),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executors_have_the_memory_that_spark_would_give_them() {
        assert_eq!(resources(Some("512m"))["limits"]["memory"], "896Mi");
        assert_eq!(resources(Some("8g"))["limits"]["memory"], "9011Mi");
        assert!(resources(None)["limits"].is_null());
        assert!(resources(Some("lots"))["limits"].is_null());
    }
}
