//! The double of Litmus: the life of an engine, its oddities, and faults that are really there. Needs root, runc, iproute2, nftables and
//! kubectl.

use std::path::Path;
use std::time::Duration;

use crate::controllers_support::until_for;
use chaosrun_lab::backend::{ExecRequest, PodRef};
use chaosrun_lab::lifecycle::Lab;
use chaosrun_lab::standard::{configuration, controllers};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const PATIENCE: Duration = Duration::from_secs(30);

struct Double {
    lab: Lab,
}

impl Double {
    async fn open(test: &str) -> Self {
        crate::controllers_support::log();
        let program = Path::new(env!("CARGO_BIN_EXE_chaosrun-lab"));
        let config = configuration(&format!("t-{test}-{}", std::process::id()), program);
        let lab = match Box::pin(Lab::start(config, controllers())).await {
            Ok(lab) => lab,
            Err(error) => panic!("these tests need root, runc, iproute2 and nftables: {error}"),
        };
        let double = Self { lab };
        double.apply("lab-litmus-double.yaml");
        for name in ["web", "other"] {
            let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", "while :; do sleep 5; done"]}]}});
            double
                .pods()
                .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
                .await
                .unwrap();
        }
        for name in ["web", "other"] {
            until_for(PATIENCE, "a pod that runs", || async {
                let pod = double.pods().get(name).await.unwrap();
                let phase = pod.status.and_then(|status| status.phase);
                if phase.as_deref() == Some("Running") {
                    Ok(())
                } else {
                    Err(format!("{phase:?}"))
                }
            })
            .await;
        }
        double
    }

    fn apply(&self, manifest: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../kind-config")
            .join(manifest);
        let done = std::process::Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.lab.info().kubeconfig)
            .args(["apply", "-f"])
            .arg(path)
            .output()
            .expect("this test needs kubectl on the PATH");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.lab.client(), "default")
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("litmuschaos.io", "v1alpha1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, &format!("{}s", kind.to_lowercase()));
        Api::namespaced_with(self.lab.client(), "default", &resource)
    }

    /// Starts an experiment with these variables.
    async fn engine(&self, name: &str, experiment: &str, env: &[(&str, &str)]) -> String {
        let env: Vec<Value> = env
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let spec = json!({"engineState": "active", "appinfo": {"appns": "default"}, "chaosServiceAccount": "litmus-admin",
            "experiments": [{"name": experiment, "spec": {"components": {"env": env}}}]});
        self.create(name, &spec).await
    }

    async fn create(&self, name: &str, spec: &Value) -> String {
        let object = json!({"apiVersion": "litmuschaos.io/v1alpha1", "kind": "ChaosEngine", "metadata": {"name": name}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let made = self
            .api("ChaosEngine")
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        made.metadata.uid.unwrap()
    }

    async fn read(&self, kind: &str, name: &str) -> Value {
        let found = self.api(kind).get_opt(name).await.unwrap();
        found.map_or(Value::Null, |found| serde_json::to_value(found).unwrap())
    }

    async fn wait(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        until_for(PATIENCE, what, || async {
            let object = self.read(kind, name).await;
            if holds(&object) {
                Ok(object)
            } else {
                Err(format!("{object:#}"))
            }
        })
        .await
    }

    async fn set_state(&self, name: &str, state: &str) {
        let patch = Patch::Merge(json!({"spec": {"engineState": state}}));
        self.api("ChaosEngine")
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn labelled(&self, uid: &str) -> usize {
        let parameters = ListParams::default().labels(&format!("chaosUID={uid}"));
        self.pods().list(&parameters).await.unwrap().items.len()
    }

    /// Processes that the double started in a pod.
    async fn stressors(&self, pod: &str) -> usize {
        let uid = self.pods().get(pod).await.unwrap().metadata.uid.unwrap();
        let reference = PodRef {
            namespace: "default".to_owned(),
            name: pod.to_owned(),
            uid,
        };
        let command = [
            "sh",
            "-c",
            "grep -l LITMUS_DOUBLE /proc/[0-9]*/environ 2>/dev/null; true",
        ];
        let request = ExecRequest {
            command: command.map(str::to_owned).into(),
            stdin: false,
            tty: false,
        };
        let backend = self.lab.server().backend().unwrap();
        let mut session = backend.exec(reference, "c".to_owned(), request).await.unwrap();
        let mut text = String::new();
        session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        text.lines().count()
    }
}

fn status(engine: &Value) -> &str {
    engine["status"]["engineStatus"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_waits_for_its_resources_runs_is_stopped_and_starts_again() {
    let double = Double::open("litmus-life").await;
    let uid = double
        .engine(
            "hog",
            "pod-cpu-hog",
            &[
                ("TARGET_PODS", "web"),
                ("CPU_CORES", "1"),
                ("TOTAL_CHAOS_DURATION", "120"),
            ],
        )
        .await;
    // Neither experiment nor service account: it stays as it is, and only an event says why.
    let engine = double
        .wait("ChaosEngine", "hog", "taken up", |engine| {
            status(engine) == "initialized"
        })
        .await;
    assert_eq!(
        engine["metadata"]["finalizers"],
        json!(["chaosengine.litmuschaos.io/finalizer"])
    );
    let events: Api<Event> = Api::namespaced(double.lab.client(), "default");
    until_for(PATIENCE, "a complaint", || async {
        let listed = events
            .list(&ListParams::default().fields("involvedObject.name=hog,type=Warning"))
            .await
            .unwrap();
        let message = listed
            .items
            .first()
            .and_then(|event| event.message.clone())
            .unwrap_or_default();
        if message.starts_with("(chaos start) Unable to get chaos resources") {
            Ok(())
        } else {
            Err(message)
        }
    })
    .await;
    assert_eq!(double.labelled(&uid).await, 0, "nothing was started");

    double.apply("lab-litmus-double-experiments.yaml");
    let result = double
        .wait("ChaosResult", "hog-pod-cpu-hog", "injected", |result| {
            result["metadata"]["annotations"]["pod/web"] == "injected"
        })
        .await;
    assert_eq!(result["metadata"]["labels"]["chaosUID"], uid.as_str());
    assert_eq!(result["status"]["experimentStatus"]["verdict"], "Awaited");
    assert!(double.stressors("web").await > 0);
    assert_eq!(double.stressors("other").await, 0);
    assert_eq!(double.labelled(&uid).await, 2, "runner and experiment");
    let engine = double
        .wait("ChaosEngine", "hog", "running", |engine| {
            engine["status"]["experiments"][0]["status"] == "Running"
        })
        .await;
    assert_eq!(engine["status"]["experiments"][0]["verdict"], "Awaited");
    // Written again and again without a change: whoever holds a copy gets a conflict.
    double
        .wait("ChaosEngine", "hog", "written again", |later| {
            later["metadata"]["resourceVersion"] != engine["metadata"]["resourceVersion"]
        })
        .await;
    let mut stale: DynamicObject = serde_json::from_value(engine).unwrap();
    stale.data["spec"]["engineState"] = json!("stop");
    let refused = double
        .api("ChaosEngine")
        .replace("hog", &PostParams::default(), &stale)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 409),
        "{refused}"
    );

    double.set_state("hog", "stop").await;
    let engine = double
        .wait("ChaosEngine", "hog", "stopped", |engine| status(engine) == "stopped")
        .await;
    assert_eq!(engine["status"]["experiments"][0]["status"], "Forcefully Aborted");
    assert_eq!(engine["status"]["experiments"][0]["verdict"], "Stopped");
    assert_eq!(double.labelled(&uid).await, 0);
    assert_eq!(double.stressors("web").await, 0);
    let result = double.read("ChaosResult", "hog-pod-cpu-hog").await;
    assert_eq!(result["status"]["experimentStatus"]["phase"], "Stopped");
    // The mark has moved.
    assert_eq!(result["metadata"]["annotations"]["pod/web"], Value::Null);
    assert_eq!(result["status"]["history"]["targets"][0]["name"], "web");
    double
        .wait("ChaosEngine", "hog", "let go", |engine| {
            engine["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
        })
        .await;

    // Active again: from the beginning, under the same names.
    double.set_state("hog", "active").await;
    double
        .wait("ChaosResult", "hog-pod-cpu-hog", "injected again", |result| {
            result["metadata"]["annotations"]["pod/web"] == "injected"
        })
        .await;
    double
        .api("ChaosEngine")
        .delete("hog", &DeleteParams::default())
        .await
        .unwrap();
    double.wait("ChaosEngine", "hog", "gone", Value::is_null).await;
    assert_eq!(double.stressors("web").await, 0);
    assert_eq!(double.labelled(&uid).await, 0);
    // Nobody owns a result.
    assert_ne!(double.read("ChaosResult", "hog-pod-cpu-hog").await, Value::Null);
    double.lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_ends_with_the_verdict_that_litmus_would_give() {
    let double = Double::open("litmus-verdicts").await;
    double.apply("lab-litmus-double-experiments.yaml");

    let half = json!({"engineState": "active", "appinfo": {"appns": "default", "applabel": "app=web"},
        "chaosServiceAccount": "litmus-admin", "experiments": [{"name": "pod-delete"}]});
    double.create("half", &half).await;
    let engine = double
        .wait("ChaosEngine", "half", "rejected", |engine| status(engine) == "stopped")
        .await;
    assert_eq!(engine["spec"]["engineState"], "stop");
    assert_eq!(engine["status"]["experiments"], Value::Null);

    let uid = double
        .engine(
            "loss",
            "pod-network-loss",
            &[("TARGET_PODS", "web"), ("TOTAL_CHAOS_DURATION", "1")],
        )
        .await;
    let engine = double
        .wait("ChaosEngine", "loss", "completed", |engine| {
            status(engine) == "completed"
        })
        .await;
    // Its end looks like a stop.
    assert_eq!(engine["spec"]["engineState"], "stop");
    let result = double.read("ChaosResult", "loss-pod-network-loss").await;
    assert_eq!(engine["status"]["experiments"][0]["verdict"], "Pass", "{result:#}");
    assert_eq!(
        result["status"]["experimentStatus"],
        json!({"phase": "Completed", "verdict": "Pass", "probeSuccessPercentage": "100"})
    );
    assert_eq!(result["status"]["history"]["passedRuns"], 1);
    assert_eq!(
        result["status"]["history"]["targets"],
        json!([{"name": "web", "kind": "pod", "chaosStatus": "reverted"}])
    );
    // Retained, and at an end.
    until_for(PATIENCE, "the end of the pods", || async {
        let parameters = ListParams::default().labels(&format!("chaosUID={uid}"));
        let pods = double.pods().list(&parameters).await.unwrap().items;
        let phases: Vec<String> = pods.into_iter().filter_map(|pod| pod.status?.phase).collect();
        if phases == ["Succeeded", "Succeeded"] {
            Ok(())
        } else {
            Err(format!("{phases:?}"))
        }
    })
    .await;

    for (name, experiment, target, code) in [
        ("nobody", "pod-cpu-hog", "missing", "TARGET_SELECTION_ERROR"),
        ("unknown", "pod-network-latency", "web", "HELPER_ERROR"),
    ] {
        double.engine(name, experiment, &[("TARGET_PODS", target)]).await;
        let engine = double
            .wait("ChaosEngine", name, "completed", |engine| status(engine) == "completed")
            .await;
        assert_eq!(engine["status"]["experiments"][0]["verdict"], "Error", "{name}");
        let result = double.read("ChaosResult", &format!("{name}-{experiment}")).await;
        assert_eq!(
            result["status"]["experimentStatus"]["errorOutput"]["errorCode"], code,
            "{name}"
        );
    }

    // A partition heeds the label, and neither TARGET_PODS nor an announcement.
    let partition = [
        ("TARGETS", "KIND:default:[app=web]"),
        ("TARGET_PODS", "other"),
        ("DESTINATION_IPS", "10.9.0.7"),
        ("TOTAL_CHAOS_DURATION", "60"),
    ];
    let uid = double.engine("cut", "pod-network-partition", &partition).await;
    let policies: Api<NetworkPolicy> = Api::namespaced(double.lab.client(), "default");
    let ours = ListParams::default().labels(&format!("chaosUID={uid}"));
    let policy = until_for(PATIENCE, "the policy", || async {
        let listed = policies.list(&ours).await.unwrap();
        listed.items.into_iter().next().ok_or_else(|| "none".to_owned())
    })
    .await;
    let spec = serde_json::to_value(policy.spec).unwrap();
    assert_eq!(spec["podSelector"], json!({"matchLabels": {"app": "web"}}));
    assert_eq!(spec["egress"][0]["to"][0]["ipBlock"]["except"], json!(["10.9.0.7/32"]));
    double
        .api("ChaosEngine")
        .delete("cut", &DeleteParams::default())
        .await
        .unwrap();
    double.wait("ChaosEngine", "cut", "gone", Value::is_null).await;
    assert_eq!(policies.list(&ours).await.unwrap().items.len(), 0);

    // One interval as long as the whole is one kill.
    let before = double.pods().get("web").await.unwrap().metadata.uid;
    let once = [
        ("TARGET_PODS", "web"),
        ("FORCE", "true"),
        ("TOTAL_CHAOS_DURATION", "1"),
        ("CHAOS_INTERVAL", "1"),
    ];
    double.engine("kill", "pod-delete", &once).await;
    double
        .wait("ChaosEngine", "kill", "completed", |engine| {
            status(engine) == "completed"
        })
        .await;
    let after = double
        .pods()
        .get_opt("web")
        .await
        .unwrap()
        .and_then(|pod| pod.metadata.uid);
    assert_ne!(before, after);
    let result = double.read("ChaosResult", "kill-pod-delete").await;
    assert_eq!(result["status"]["experimentStatus"]["verdict"], "Pass");
    double.lab.stop().await.unwrap();
}
