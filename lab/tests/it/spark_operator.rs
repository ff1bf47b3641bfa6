//! The `SparkApplication` controller against the real API server, with the test as the kubelet.
//!
//! Needs no root: pods are objects here whose status the test writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chaosrun_lab::api::{ApiServer, ApiServerConfig, ServeHandle};
use chaosrun_lab::controllers::spark::{ApiAccess, SparkOperator, SparkOperatorConfig};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Stage {
    _server: Arc<ApiServer>,
    _serving: ServeHandle,
    client: kube::Client,
    applications: Api<DynamicObject>,
    pods: Api<Pod>,
    _folder: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An API server with the controller running, and nothing that starts pods.
async fn stage(spark_home: Option<std::path::PathBuf>) -> Stage {
    drop(rustls::crypto::ring::default_provider().install_default());
    let server = ApiServer::new(ApiServerConfig::default()).unwrap();
    let serving = server.serve(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let url = format!("https://{}", server.advertised());
    let client = server.client("spark-operator");
    let operator = SparkOperator::new(SparkOperatorConfig {
        client: client.clone(),
        api: ApiAccess {
            from_host: url.clone(),
            from_pods: url,
            token: server.admin_token().to_owned(),
            ca_file,
        },
        spark_home,
        submissions: folder.path().join("submissions"),
        cgroup: None,
    });
    server.add_admission_hook(operator.admission_hook());
    operator.install().await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(operator.run(stop.clone()));
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("sparkoperator.k8s.io", "v1beta2", "SparkApplication"),
        "sparkapplications",
    );
    Stage {
        applications: Api::namespaced_with(client.clone(), "default", &resource),
        pods: Api::namespaced(client.clone(), "default"),
        _server: server,
        _serving: serving,
        client,
        _folder: folder,
        stop,
    }
}

fn application(image: &str, restart_policy: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": {"name": "orders", "namespace": "default", "labels": {"team": "x"}},
        "spec": {
            "type": "Python", "mode": "cluster", "image": image,
            "mainApplicationFile": "local:///opt/pipeline/pipeline.py",
            "arguments": ["--trigger-seconds", "1"],
            "restartPolicy": restart_policy,
            "volumes": [{"name": "data", "emptyDir": {}}],
            "driver": {"cores": 1, "memory": "512m", "serviceAccount": "default",
                       "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
            "executor": {"cores": 1, "memory": "512m", "instances": 2},
        },
    }))
    .unwrap()
}

impl Stage {
    async fn status(&self) -> Value {
        let object = self.applications.get("orders").await.unwrap();
        object.data.get("status").cloned().unwrap_or(Value::Null)
    }

    /// Waits for a state and gives the status.
    async fn reaches(&self, state: &str, limit: Duration) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if status["applicationState"]["state"] == state {
                return status;
            }
            assert!(begun.elapsed() < limit, "no {state} within {limit:?}, status: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn set_phase(&self, pod: &str, status: Value) {
        self.pods
            .patch_status(pod, &PatchParams::default(), &Patch::Merge(json!({"status": status})))
            .await
            .unwrap();
    }

    async fn fail_driver(&self, exit_code: i32) {
        self.set_phase(
            "orders-driver",
            json!({"phase": "Failed", "containerStatuses": [{
                "name": "spark-kubernetes-driver", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": exit_code, "reason": "Error"}},
            }]}),
        )
        .await;
    }
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_driver_is_replaced_under_the_same_name_with_a_new_submission_id() {
    let stage = stage(None).await;
    let policy = json!({"type": "OnFailure", "onFailureRetries": 1, "onFailureRetryInterval": 2});
    stage
        .applications
        .create(&PostParams::default(), &application("chaosrun/pipeline:1", policy))
        .await
        .unwrap();
    let first = stage.reaches("SUBMITTED", SOON).await;
    let driver = stage.pods.get("orders-driver").await.unwrap();
    let metadata = serde_json::to_value(&driver.metadata).unwrap();
    assert_eq!(metadata["labels"]["spark-role"], "driver");
    assert_eq!(metadata["labels"]["team"], "x");
    assert_eq!(
        metadata["labels"]["sparkoperator.k8s.io/submission-id"],
        first["submissionID"]
    );
    assert_eq!(
        metadata["labels"]["sparkoperator.k8s.io/mutated-by-spark-operator"],
        "true"
    );
    assert_eq!(metadata["ownerReferences"][0]["kind"], "SparkApplication");
    let mounts = &serde_json::to_value(&driver.spec).unwrap()["containers"][0]["volumeMounts"];
    assert!(
        mounts
            .as_array()
            .unwrap()
            .iter()
            .any(|mount| mount["mountPath"] == "/data"),
        "{mounts}"
    );
    assert_eq!(first["driverInfo"]["webUIServiceName"], "orders-ui-svc");

    stage.set_phase("orders-driver", json!({"phase": "Running"})).await;
    let running = stage.reaches("RUNNING", SOON).await;
    assert_eq!(running["executionAttempts"], 1);
    assert_eq!(running["sparkApplicationId"], metadata["labels"]["spark-app-selector"]);

    stage.fail_driver(137).await;
    let failing = stage.reaches("FAILING", SOON).await;
    assert_eq!(
        failing["applicationState"]["errorMessage"],
        "driver container failed with ExitCode: 137, Reason: Error"
    );
    // The wait is 1 x 2 s from the submission; then the old pod goes and a new one comes.
    let second = stage.reaches("SUBMITTED", SOON).await;
    assert_ne!(second["submissionID"], first["submissionID"]);
    assert_eq!(second["executionAttempts"], 2);
    assert!(second.get("terminationTime").is_none() && second["applicationState"].get("errorMessage").is_none());
    let replacement = stage.pods.get("orders-driver").await.unwrap();
    assert_ne!(replacement.metadata.uid, driver.metadata.uid);

    // The budget of one retry is spent now, for the life of the object.
    stage.fail_driver(1).await;
    stage.reaches("FAILED", SOON).await;

    // An edit of the spec starts again with fresh counters.
    let edit = json!({"spec": {"executor": {"instances": 3}}});
    stage
        .applications
        .patch("orders", &PatchParams::default(), &Patch::Merge(&edit))
        .await
        .unwrap();
    let third = stage.reaches("SUBMITTED", SOON).await;
    assert_eq!(third["executionAttempts"], 1);

    let events: Api<Event> = Api::namespaced(stage.client.clone(), "default");
    let reasons: Vec<String> = events
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter_map(|event| event.reason)
        .collect();
    for expected in [
        "SparkApplicationSubmitted",
        "SparkDriverRunning",
        "SparkDriverFailed",
        "SparkApplicationPendingRerun",
    ] {
        assert!(
            reasons.iter().any(|reason| reason == expected),
            "{expected} not in {reasons:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_force_deleted_driver_fails_the_application_when_the_policy_is_never() {
    let stage = stage(None).await;
    let policy = json!({"type": "Never"});
    stage
        .applications
        .create(&PostParams::default(), &application("chaosrun/pipeline", policy))
        .await
        .unwrap();
    stage.reaches("SUBMITTED", SOON).await;
    stage.set_phase("orders-driver", json!({"phase": "Running"})).await;
    stage.reaches("RUNNING", SOON).await;
    stage
        .pods
        .delete("orders-driver", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let failed = stage.reaches("FAILED", SOON).await;
    assert_eq!(failed["applicationState"]["errorMessage"], "driver pod not found");
    assert!(failed["terminationTime"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_spark_a_submission_fails_and_says_what_is_missing() {
    let stage = stage(None).await;
    let policy = json!({"type": "Never"});
    stage
        .applications
        .create(&PostParams::default(), &application("apache/spark:4.0.1", policy))
        .await
        .unwrap();
    let failed = stage.reaches("FAILED", SOON).await;
    let message = failed["applicationState"]["errorMessage"].as_str().unwrap();
    assert!(message.contains("Apache Spark is not installed"), "{message}");
    assert!(failed.get("executionAttempts").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspend_removes_the_driver_and_resume_brings_it_back() {
    let stage = stage(None).await;
    let policy = json!({"type": "Never"});
    stage
        .applications
        .create(&PostParams::default(), &application("chaosrun/pipeline", policy))
        .await
        .unwrap();
    stage.reaches("SUBMITTED", SOON).await;
    let suspend = |on: bool| Patch::Merge(json!({"spec": {"suspend": on}}));
    stage
        .applications
        .patch("orders", &PatchParams::default(), &suspend(true))
        .await
        .unwrap();
    stage.reaches("SUSPENDED", SOON).await;
    assert!(stage.pods.get_opt("orders-driver").await.unwrap().is_none());
    let services: Api<Service> = Api::namespaced(stage.client.clone(), "default");
    assert!(services.get_opt("orders-ui-svc").await.unwrap().is_none());
    stage
        .applications
        .patch("orders", &PatchParams::default(), &suspend(false))
        .await
        .unwrap();
    let resumed = stage.reaches("SUBMITTED", SOON).await;
    assert_eq!(resumed["executionAttempts"], 2);
}
