//! Apache Spark itself in a lab: its own scheduler makes the executors through the lab's API.
//!
//! Needs what `scripts/install-spark.sh` installs; where it is missing the test fails and says so.

use std::time::Duration;

use crate::spark_support::{DRIVER, last_commit, stage, until};
use kube::api::{DeleteParams, ListParams};
use serde_json::Value;

/// A JVM starts in seconds on an idle machine; tests share theirs.
const START: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_spark_recovers_from_killed_executor_and_driver_without_loss() {
    let spark = chaosrun_lab::images::find_spark();
    assert!(
        spark.is_some(),
        "Apache Spark or Java is missing: run scripts/install-spark.sh"
    );
    let stage = stage("real").await;
    // The shipped file, with a wait that does not depend on how long the first part of this test takes.
    let shorter = |object: &mut Value| {
        if object["kind"] == "SparkApplication" {
            object["spec"]["restartPolicy"]["onFailureRetryInterval"] = 2.into();
        }
    };
    stage.apply("spark-pipeline.yaml", shorter).await;
    let data = stage.data().await;
    stage.committed(&data, 2, START).await;

    // They are Spark's: its labels, its names, owned by the driver.
    until("two executors run", START, || async {
        stage.executors().await.len() == 2
    })
    .await;
    let driver = stage.pods().get(DRIVER).await.unwrap();
    let labels = driver.metadata.labels.clone().unwrap();
    assert_eq!(
        Some(&labels["spark-version"]),
        spark.as_ref().map(|spark| &spark.version)
    );
    let list = ListParams::default().labels(&format!(
        "spark-role=executor,spark-app-selector={}",
        labels["spark-app-selector"]
    ));
    for executor in stage.pods().list(&list).await.unwrap() {
        let owners = executor.metadata.owner_references.unwrap();
        assert_eq!(owners.len(), 1);
        assert_eq!(Some(&owners[0].uid), driver.metadata.uid.as_ref());
    }

    let victims = stage.executors().await;
    let victim = victims.iter().next().unwrap();
    stage.pods().delete(victim, &DeleteParams::default()).await.unwrap();
    until("Spark replaced the executor", START, || async {
        let now = stage.executors().await;
        now.len() == 2 && !now.contains(victim)
    })
    .await;
    let before = last_commit(&data).unwrap();
    stage.committed(&data, before + 2, START).await;

    let first = stage.driver_uid().await;
    stage
        .pods()
        .delete(DRIVER, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("another driver pod runs under the same name", START, || async {
        let uid = stage.driver_uid().await;
        uid.is_some() && uid != first && stage.state_is("RUNNING").await
    })
    .await;
    let before = last_commit(&data).unwrap();
    stage.committed(&data, before + 2, START).await;
    assert_eq!(stage.status().await["executionAttempts"], 2);

    let audit = stage.audit(&data, START).await;
    assert!(audit.produced > 500, "{audit:?}");
    assert_eq!((audit.lost, audit.duplicated), (0, 0), "{audit:?}");
    stage.stop().await;
}
