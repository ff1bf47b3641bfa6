//! Shared by the tests of the double of Chaos Mesh: a lab with it, its objects as JSON, and every version that a watcher sees.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test support: a test fails by panicking, and each file uses its part"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chaosrun_lab::backend::ExecRequest;
use chaosrun_lab::lifecycle::Lab;
use chaosrun_lab::node::BackOff;
use chaosrun_lab::standard::{configuration, controllers};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::node_support::reference;

/// A lab in which the double can be installed.
pub async fn lab(test: &str) -> Lab {
    drop(
        tracing_subscriber::fmt()
            .with_env_filter("warn,chaosrun_lab=info")
            .with_test_writer()
            .try_init(),
    );
    let program = Path::new(env!("CARGO_BIN_EXE_chaosrun-lab"));
    let mut config = configuration(&format!("t-{test}-{}", std::process::id()), program);
    config.back_off = BackOff {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(4),
        reset: Duration::from_mins(10),
    };
    match Lab::start(config, controllers()).await {
        Ok(lab) => lab,
        Err(error) => panic!("these tests need root, runc, iproute2 and nftables: {error}"),
    }
}

/// Applies the manifest and waits until the double is ready.
pub async fn install(lab: &Lab) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kind-config/lab-chaos-mesh-double.yaml");
    for document in std::fs::read_to_string(path).unwrap().split("\n---\n") {
        let object: DynamicObject = serde_yaml::from_str(document).unwrap();
        let gvk = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let resource = ApiResource::from_gvk(&gvk);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(lab.client(), namespace, &resource),
            None => Api::all_with(lab.client(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    components(lab, 1, 3).await;
}

/// Waits until so many pods of both components are ready.
pub async fn components(lab: &Lab, controllers: usize, daemons: usize) {
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(lab.client(), "chaos-mesh");
    until("the components of the double", || async {
        let mut counts = Vec::new();
        for component in ["controller-manager", "chaos-daemon"] {
            let labels = format!("app.kubernetes.io/component={component}");
            let listed = pods.list(&ListParams::default().labels(&labels)).await.unwrap();
            let ready = listed.items.iter().filter(|pod| {
                let pod = serde_json::to_value(pod).unwrap();
                crate::node_support::holds(&pod, "Ready") && pod["metadata"]["deletionTimestamp"].is_null()
            });
            counts.push(ready.count());
        }
        counts == [controllers, daemons]
    })
    .await;
}

/// Polls until `holds`.
pub async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(25), "not within 25 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Objects of one kind in the default namespace.
#[derive(Clone)]
pub struct Kind {
    pub api: Api<DynamicObject>,
    kind: &'static str,
}

impl Kind {
    pub fn new(lab: &Lab, kind: &'static str, plural: &str) -> Self {
        let gvk = GroupVersionKind::gvk("chaos-mesh.org", "v1alpha1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        Self {
            api: Api::namespaced_with(lab.client(), "default", &resource),
            kind,
        }
    }

    pub fn object(&self, name: &str, spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "chaos-mesh.org/v1alpha1", "kind": self.kind,
            "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        }))
        .unwrap()
    }

    pub async fn create(&self, name: &str, spec: &Value) -> Value {
        let created = self.api.create(&PostParams::default(), &self.object(name, spec)).await;
        serde_json::to_value(created.unwrap()).unwrap()
    }

    /// With switches of the double, which are annotations.
    pub async fn create_switched(&self, name: &str, spec: &Value, switches: &[(&str, &str)]) {
        let mut object = self.object(name, spec);
        let named = switches
            .iter()
            .map(|(key, value)| (format!("double.chaosrun.dev/{key}"), (*value).to_owned()));
        object.metadata.annotations = Some(named.collect());
        self.api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// Turns a switch off again.
    pub async fn unswitch(&self, name: &str, switch: &str) {
        let key = format!("double.chaosrun.dev/{switch}");
        self.patch(name, json!({"metadata": {"annotations": {key: null}}}))
            .await;
    }

    /// Asks for a deletion without recovery.
    pub async fn force(&self, name: &str) {
        let force = json!({"metadata": {"annotations": {"chaos-mesh.chaos-mesh.org/cleanFinalizer": "forced"}}});
        self.patch(name, force).await;
    }

    /// Code and message of the refusal.
    pub async fn refused(&self, name: &str, spec: &Value) -> (u16, String) {
        match self.api.create(&PostParams::default(), &self.object(name, spec)).await {
            Err(kube::Error::Api(status)) => (status.code, status.message),
            other => panic!("not refused: {other:?}"),
        }
    }

    pub async fn get(&self, name: &str) -> Value {
        let found = self.api.get_opt(name).await.unwrap();
        found.map_or(Value::Null, |object| serde_json::to_value(object).unwrap())
    }

    pub async fn delete(&self, name: &str) {
        self.api
            .delete(name, &kube::api::DeleteParams::default())
            .await
            .unwrap();
    }

    pub async fn patch(&self, name: &str, patch: Value) -> Value {
        let patched = self
            .api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        serde_json::to_value(patched.unwrap()).unwrap()
    }

    /// Waits until the object satisfies a condition (`Null` when it is gone).
    pub async fn wait(&self, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let object = self.get(name).await;
            if condition(&object) {
                return object;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(25),
                "{name}: not {what} within 25 s: {:#}",
                object["status"]
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn injected(&self, name: &str) -> Value {
        self.wait(name, "injected", |object| {
            condition(object, "Selected") && condition(object, "AllInjected")
        })
        .await
    }

    pub async fn gone(&self, name: &str) {
        self.wait(name, "gone", Value::is_null).await;
    }

    /// Every version of one object from now on, as lines like `Run TFF- Injected`.
    pub async fn versions(&self, name: &str) -> Versions {
        let listed = self.api.list(&ListParams::default()).await.unwrap();
        let from = listed.metadata.resource_version.unwrap();
        let parameters = WatchParams::default().fields(&format!("metadata.name={name}"));
        let stream = self.api.watch(&parameters, &from).await.unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                let line = match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        version(&serde_json::to_value(object).unwrap())
                    }
                    WatchEvent::Deleted(_) => "gone".to_owned(),
                    WatchEvent::Bookmark(_) | WatchEvent::Error(_) => continue,
                };
                into.lock().unwrap().push(line);
            }
        });
        Versions(seen)
    }
}

/// What a watcher has seen.
pub struct Versions(Arc<Mutex<Vec<String>>>);

impl Versions {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Finalizer, desired phase, the conditions Selected, AllInjected, AllRecovered, and the phase of each record.
fn version(object: &Value) -> String {
    let mark = |kind: &str| match condition_of(object, kind) {
        Some(true) => 'T',
        Some(false) => 'F',
        None => '-',
    };
    let finalizer = if object["metadata"]["finalizers"] == json!(["chaos-mesh/records"]) {
        "kept"
    } else {
        "free"
    };
    let experiment = &object["status"]["experiment"];
    let phases: Vec<&str> = experiment["containerRecords"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|record| record["phase"].as_str().unwrap())
        .collect();
    format!(
        "{finalizer} {} {}{}{} {}{}",
        experiment["desiredPhase"].as_str().unwrap_or("-"),
        mark("Selected"),
        mark("AllInjected"),
        mark("AllRecovered"),
        phases.join(","),
        if object["metadata"]["deletionTimestamp"].is_null() {
            ""
        } else {
            " deleting"
        },
    )
}

fn condition_of(object: &Value, kind: &str) -> Option<bool> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some(found["status"] == "True")
}

pub fn condition(object: &Value, kind: &str) -> bool {
    condition_of(object, kind) == Some(true)
}

pub fn record(object: &Value) -> &Value {
    &object["status"]["experiment"]["containerRecords"][0]
}

/// Events about an object with a reason.
pub async fn events(lab: &Lab, name: &str, reason: &str) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(lab.client(), "default");
    let listed = api.list(&ListParams::default()).await.unwrap();
    listed
        .items
        .into_iter()
        .filter(|event| event.involved_object.name.as_deref() == Some(name) && event.reason.as_deref() == Some(reason))
        .collect()
}

/// Exit code and output of a command in a pod.
pub async fn run(lab: &Lab, pod: &str, script: &str) -> (i32, String) {
    let request = ExecRequest {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: false,
        tty: false,
    };
    let backend = lab.server().backend().unwrap();
    let mut session = backend
        .exec(reference(lab, pod).await, "main".to_owned(), request)
        .await
        .unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    (session.exit.await.unwrap().unwrap(), format!("{out}{err}"))
}

/// A selector for one pod of the default namespace.
pub fn only(pod: &str) -> Value {
    json!({"pods": {"default": [pod]}})
}
