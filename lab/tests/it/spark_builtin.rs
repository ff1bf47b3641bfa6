//! The built-in pipeline in a real lab: real processes, real kills, the ledger audited afterwards.

use std::time::Duration;

use crate::spark_support::{APPLICATION, DRIVER, NAMESPACE, stage, until};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn restart_policy(policy: &Value) -> impl Fn(&mut Value) + '_ {
    move |object| {
        if object["kind"] == "SparkApplication" {
            object["spec"]["restartPolicy"] = policy.clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_driver_executor_and_producer_lose_and_repeat_nothing() {
    let stage = stage("kills").await;
    let policy = json!({"type": "OnFailure", "onFailureRetries": 5, "onFailureRetryInterval": 1});
    stage.apply("builtin-pipeline.yaml", restart_policy(&policy)).await;
    let data = stage.data().await;
    stage.committed(&data, 2, SOON).await;
    until("two executors run", SOON, || async {
        stage.executors().await.len() == 2
    })
    .await;
    assert_eq!(stage.status().await["executorState"].as_object().unwrap().len(), 2);

    // Driver, by force: no SIGTERM, the pod object is gone at once.
    let first = stage.driver_uid().await;
    stage
        .pods()
        .delete(DRIVER, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("another driver pod runs under the same name", SOON, || async {
        let uid = stage.driver_uid().await;
        uid.is_some() && uid != first && stage.state_is("RUNNING").await
    })
    .await;
    let before = crate::spark_support::last_commit(&data).unwrap();
    stage.committed(&data, before + 2, SOON).await;
    assert_eq!(stage.status().await["executionAttempts"], 2);

    // Driver, by delete: SIGTERM, exit 143.
    let second = stage.driver_uid().await;
    stage.pods().delete(DRIVER, &DeleteParams::default()).await.unwrap();
    until("a third driver pod runs", SOON, || async {
        let uid = stage.driver_uid().await;
        uid.is_some() && uid != second && stage.state_is("RUNNING").await
    })
    .await;
    let before = crate::spark_support::last_commit(&data).unwrap();
    stage.committed(&data, before + 2, SOON).await;

    // An executor: replaced by the driver, under the next number.
    until("two executors run", SOON, || async {
        stage.executors().await.len() == 2
    })
    .await;
    let victims = stage.executors().await;
    let victim = victims.iter().next().unwrap();
    stage
        .pods()
        .delete(victim, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("another executor took its place", SOON, || async {
        let now = stage.executors().await;
        now.len() == 2 && !now.contains(victim)
    })
    .await;

    // The producer: goes on with the next number.
    let ledgers = ListParams::default().labels("app.kubernetes.io/name=ledger");
    for pod in stage.pods().list(&ledgers).await.unwrap() {
        let name = pod.metadata.name.unwrap();
        stage
            .pods()
            .delete(&name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
    let before = crate::spark_support::last_commit(&data).unwrap();
    stage.committed(&data, before + 3, SOON).await;

    let audit = stage.audit(&data, SOON).await;
    assert!(audit.produced > 200, "{audit:?}");
    assert_eq!((audit.lost, audit.duplicated), (0, 0), "{audit:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_restart_policy_a_killed_driver_stays_dead() {
    let stage = stage("never").await;
    stage
        .apply("builtin-pipeline.yaml", restart_policy(&json!({"type": "Never"})))
        .await;
    let data = stage.data().await;
    stage.committed(&data, 1, SOON).await;
    stage
        .pods()
        .delete(DRIVER, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("the application has failed for good", SOON, || stage.state_is("FAILED")).await;
    until("its executors are gone", SOON, || async {
        stage.executors().await.is_empty()
    })
    .await;
    let last = crate::spark_support::last_commit(&data);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        crate::spark_support::last_commit(&data),
        last,
        "somebody commits for {NAMESPACE}/{APPLICATION}"
    );
    assert!(stage.driver_uid().await.is_none());
    stage.stop().await;
}
