//! Jobs against the real API server: the guard Job first, since chaosrun's dead-man's switch stands on it.

use std::time::{Duration, Instant};

use crate::controllers_support::{Cluster, template};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

fn job(name: &str, spec: Value, annotations: Value) -> Value {
    let mut spec = spec;
    spec["template"] = template(name, annotations);
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    json!({"metadata": {"name": name}, "spec": spec})
}

fn guard(name: &str, deadline: i64) -> Value {
    let spec = json!({"parallelism": 0, "activeDeadlineSeconds": deadline, "ttlSecondsAfterFinished": 0});
    job(name, spec, json!({}))
}

fn has(job: &Job, kind: &str, reason: &str) -> bool {
    job.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| {
            condition.type_ == kind && condition.status == "True" && condition.reason.as_deref() == Some(reason)
        })
}

async fn owned_by(cluster: &Cluster, job: &Job, name: &str) -> ConfigMap {
    cluster
        .create(json!({"metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": job.name_any(), "uid": job.uid()},
        ]}}))
        .await
}

#[tokio::test]
async fn a_guard_job_and_all_it_owns_vanish_at_the_deadline_and_no_pod_is_ever_made() {
    let cluster = Cluster::start().await;
    let created: Job = cluster.create(guard("guard", 2)).await;
    let start = Instant::now();
    owned_by(&cluster, &created, "fault").await;
    let started: Job = cluster
        .object_until("guard", "startTime is set", |job: &Job| {
            job.status.as_ref().is_some_and(|status| status.start_time.is_some())
        })
        .await;
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "startTime after {:?}",
        start.elapsed()
    );
    assert!(started.status.unwrap().conditions.is_none());
    cluster.gone::<Job>("guard").await;
    let lived = start.elapsed();
    // startTime is a whole second in the past, so the deadline may come up to one second early; never late.
    assert!(
        lived > Duration::from_millis(950) && lived < Duration::from_millis(2500),
        "lived {lived:?}"
    );
    cluster.gone::<ConfigMap>("fault").await;
    assert!(
        start.elapsed() < lived + Duration::from_secs(1),
        "the fault goes with its guard"
    );
    let pods = cluster.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    assert!(pods.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn raising_the_deadline_keeps_a_guard_job_alive() {
    let cluster = Cluster::start().await;
    let created: Job = cluster.create(guard("guard", 2)).await;
    let start = Instant::now();
    owned_by(&cluster, &created, "fault").await;
    for renewed in 3..=5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster
            .patch::<Job>("guard", json!({"spec": {"activeDeadlineSeconds": renewed}}))
            .await;
    }
    assert!(cluster.api::<Job>().get_opt("guard").await.unwrap().is_some());
    tokio::time::sleep(Duration::from_millis(2950).saturating_sub(start.elapsed())).await;
    assert!(
        cluster.api::<ConfigMap>().get_opt("fault").await.unwrap().is_some(),
        "past the first deadline"
    );
    cluster.gone::<Job>("guard").await;
    let lived = start.elapsed();
    assert!(
        lived > Duration::from_millis(3950) && lived < Duration::from_millis(5500),
        "lived {lived:?}"
    );
    cluster.gone::<ConfigMap>("fault").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_guard_job_without_a_time_to_live_stays_as_failed_with_deadline_exceeded() {
    let cluster = Cluster::start().await;
    let mut manifest = guard("guard", 1);
    manifest["spec"]["ttlSecondsAfterFinished"] = Value::Null;
    cluster.create::<Job>(manifest).await;
    let failed: Job = cluster
        .object_until("guard", "Failed", |job: &Job| has(job, "Failed", "DeadlineExceeded"))
        .await;
    assert!(has(&failed, "FailureTarget", "DeadlineExceeded"));
    let status = failed.status.unwrap();
    assert_eq!(
        (status.active, status.failed, status.completion_time),
        (None, None, None)
    );
    cluster.stop().await;
}

#[tokio::test]
async fn deleting_a_guard_job_reverts_its_faults() {
    let cluster = Cluster::start().await;
    let created: Job = cluster.create(guard("guard", 600)).await;
    owned_by(&cluster, &created, "fault").await;
    cluster
        .api::<Job>()
        .delete("guard", &DeleteParams::background())
        .await
        .unwrap();
    cluster.gone::<ConfigMap>("fault").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_runs_to_completion_and_counts_its_pods() {
    let cluster = Cluster::start().await;
    let spec = json!({"parallelism": 2, "completions": 3});
    cluster
        .create::<Job>(job("work", spec, json!({"double/exit": "0"})))
        .await;
    let done: Job = cluster
        .object_until("work", "Complete", |job: &Job| {
            has(job, "Complete", "CompletionsReached")
        })
        .await;
    assert!(has(&done, "SuccessCriteriaMet", "CompletionsReached"));
    let status = done.status.unwrap();
    assert_eq!(
        (status.succeeded, status.failed, status.active, status.ready),
        (Some(3), None, None, Some(0))
    );
    assert!(status.completion_time.is_some());
    let pods = cluster.pods("app=work").await;
    assert_eq!(pods.len(), 3);
    assert!(
        pods.iter().all(|pod| pod.finalizers().is_empty()),
        "counted pods are free to go"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_that_fails_once_too_often_has_reached_its_backoff_limit() {
    let cluster = Cluster::start().await;
    let spec = json!({"backoffLimit": 0});
    cluster
        .create::<Job>(job("work", spec, json!({"double/exit": "3"})))
        .await;
    let failed: Job = cluster
        .object_until("work", "Failed", |job: &Job| has(job, "Failed", "BackoffLimitExceeded"))
        .await;
    assert_eq!(failed.status.unwrap().failed, Some(1));
    assert_eq!(cluster.pods("app=work").await.len(), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_pod_of_a_job_counts_as_failed_and_is_not_lost() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Job>(job("work", json!({"backoffLimit": 3}), json!({})))
        .await;
    let pods = cluster
        .pods_until("app=work", "one runs", |pods| {
            pods.iter().any(|pod| {
                pod.status
                    .as_ref()
                    .is_some_and(|status| status.phase.as_deref() == Some("Running"))
            })
        })
        .await;
    cluster.delete_now::<Pod>(&pods.first().unwrap().name_any()).await;
    let job: Job = cluster
        .object_until("work", "failed: 1", |job: &Job| {
            job.status
                .as_ref()
                .is_some_and(|status| status.failed == Some(1) && status.active.is_none())
        })
        .await;
    assert!(!has(&job, "Failed", "BackoffLimitExceeded"));
    cluster
        .pods_until(
            "app=work",
            "the killed pod is gone, its finalizer did not hold it",
            <[k8s_openapi::api::core::v1::Pod]>::is_empty,
        )
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_deadline_removes_running_pods() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Job>(job("work", json!({"activeDeadlineSeconds": 1}), json!({})))
        .await;
    cluster.pods_until("app=work", "one pod", |pods| pods.len() == 1).await;
    let failed: Job = cluster
        .object_until("work", "Failed", |job: &Job| has(job, "Failed", "DeadlineExceeded"))
        .await;
    assert_eq!(failed.status.unwrap().failed, Some(1));
    assert!(cluster.pods("app=work").await.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_job_leaves_no_pods_behind() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Job>(job("work", json!({"parallelism": 2, "completions": 2}), json!({})))
        .await;
    cluster.pods_until("app=work", "two pods", |pods| pods.len() == 2).await;
    cluster
        .api::<Job>()
        .delete("work", &DeleteParams::background())
        .await
        .unwrap();
    cluster
        .pods_until("app=work", "none left", <[k8s_openapi::api::core::v1::Pod]>::is_empty)
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_suspended_job_has_no_pods_until_it_is_resumed() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Job>(job("work", json!({"suspend": true}), json!({})))
        .await;
    cluster
        .object_until("work", "Suspended", |job: &Job| has(job, "Suspended", "JobSuspended"))
        .await;
    assert!(cluster.pods("app=work").await.is_empty());
    cluster.patch::<Job>("work", json!({"spec": {"suspend": false}})).await;
    cluster.pods_until("app=work", "one pod", |pods| pods.len() == 1).await;
    cluster.stop().await;
}
