//! A double of Litmus 3: its ChaosEngines, their life and their oddities, and faults that are really injected.
//!
//! May depend on `lifecycle` and `node` for what a helper on a node can do; talks to the API server as any client would. Nothing of it is
//! in a lab until its manifest is applied (`kind-config/lab-litmus-double.yaml`): definitions, and a Deployment that stands for the
//! chaos-operator and is a real switch: without a ready pod of it engines are neither started nor stopped, and deletions hang on the
//! finalizer. As with Litmus, a ChaosExperiment and a service account have to be in the engine's own namespace.
//!
//! Runner and experiment are real pods that idle, labelled `chaosUID`; the lab's own code does the work (`acts`). There are no helper
//! pods, the service account's rights are not asked for, and of probes only the failing is played. Injected: pod-delete, container-kill,
//! pod-network-partition, pod-network-loss, pod-memory-hog, pod-cpu-hog, node-drain; every other experiment ends as an Error that says so.
//! `engine` is the operator and the runner, `experiment` what the experiment's pod does, `selection` decides (pure), `objects` writes.

mod acts;
mod engine;
mod experiment;
mod objects;
mod selection;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};

use self::acts::Helper;
use self::engine::Life;
use self::objects::{Objects, resource};
use crate::lifecycle::{Controller, LabInfo};

/// Group of every kind.
pub(crate) const GROUP: &str = "litmuschaos.io";

/// The double as a lab starts it.
#[must_use]
pub fn controller() -> Controller {
    Box::new(move |client, info| Box::pin(serve(client, info)))
}

async fn serve(client: Client, info: LabInfo) {
    let helper = Arc::new(Helper::new(&info));
    // One watch until there is something to do.
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let config = watcher::Config::default().fields("metadata.name=chaosengines.litmuschaos.io");
    let mut events = std::pin::pin!(watcher(definitions, config).default_backoff().applied_objects());
    let mut working = false;
    while let Some(event) = events.next().await {
        if event.is_ok() && !working {
            working = true;
            tokio::spawn(work(client.clone(), Arc::clone(&helper)));
        }
    }
}

/// Every engine has a life of its own: Litmus' operator works on several at once.
async fn work(client: Client, helper: Arc<Helper>) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource("ChaosEngine"));
    let alive: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut events = std::pin::pin!(
        watcher(api, watcher::Config::default())
            .default_backoff()
            .applied_objects()
    );
    while let Some(event) = events.next().await {
        let Ok(engine) = event else { continue };
        let uid = engine.uid().unwrap_or_default();
        if !alive.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone()) {
            continue;
        }
        let life = Life {
            objects: Objects::new(client.clone(), &engine),
            helper: Arc::clone(&helper),
        };
        let alive = Arc::clone(&alive);
        tokio::spawn(async move {
            life.live().await;
            alive.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
        });
    }
}
