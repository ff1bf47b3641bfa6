//! The rules of Jobs, one sentence each.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{Backoff, Plan, TRACKING_FINALIZER, expires_in, plan};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn job(spec: Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({"spec": {"containers": [], "restartPolicy": "Never"}});
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "ns", "uid": "job-uid"}, "spec": spec}))
        .unwrap()
}

fn with_status(job: &Job, status: &JobStatus) -> Job {
    Job {
        status: Some(status.clone()),
        ..job.clone()
    }
}

fn pod(uid: &str, phase: &str) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "namespace": "ns", "finalizers": [TRACKING_FINALIZER]},
            "status": {"phase": phase},
        }))
        .unwrap(),
    )
}

fn ended_at(pod: &Arc<Pod>, second: i64) -> Arc<Pod> {
    let mut value = serde_json::to_value(&**pod).unwrap();
    value["status"]["containerStatuses"] = json!([{
        "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 1, "finishedAt": at(second).to_string()}},
    }]);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn untracked(pod: &Arc<Pod>) -> Arc<Pod> {
    let mut pod = (**pod).clone();
    pod.metadata.finalizers = None;
    Arc::new(pod)
}

fn first(job: &Job, pods: &[Arc<Pod>], second: i64) -> Plan {
    plan(job, pods, Backoff::default(), at(second))
}

fn conditions(status: &JobStatus) -> Vec<(String, String)> {
    status
        .conditions
        .iter()
        .flatten()
        .map(|condition| (condition.type_.clone(), condition.reason.clone().unwrap_or_default()))
        .collect()
}

fn guard() -> Job {
    job(json!({"parallelism": 0, "completions": 1, "activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 0}))
}

#[test]
fn a_guard_job_gets_a_start_time_and_never_a_pod() {
    let plan = first(&guard(), &[], 0);
    assert_eq!(plan.status.start_time.unwrap().0, at(0));
    assert!(plan.create.is_empty());
    assert_eq!(plan.look_again, Some(Duration::from_secs(30)));
    assert_eq!(
        (plan.status.active, plan.status.ready, plan.status.terminating),
        (None, Some(0), Some(0))
    );
    assert!(plan.status.conditions.is_none());
}

#[test]
fn a_guard_job_fails_when_its_deadline_passes_and_expires_at_once() {
    let started = with_status(&guard(), &first(&guard(), &[], 0).status);
    let before = first(&started, &[], 29);
    assert_eq!(
        (before.look_again, before.status.conditions),
        (Some(Duration::from_secs(1)), None)
    );
    let after = first(&started, &[], 30);
    let expected = [("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")];
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, reason)| ((*kind).to_owned(), (*reason).to_owned()))
        .collect();
    assert_eq!(conditions(&after.status), expected);
    assert!(after.create.is_empty());
    let failed = with_status(&guard(), &after.status);
    assert_eq!(expires_in(&failed, at(30)), Some(Duration::ZERO));
    assert_eq!(expires_in(&started, at(30)), None);
}

#[test]
fn raising_the_deadline_extends_a_running_guard_job() {
    let mut renewed = with_status(&guard(), &first(&guard(), &[], 0).status);
    renewed.spec.as_mut().unwrap().active_deadline_seconds = Some(90);
    let plan = first(&renewed, &[], 31);
    assert!(plan.status.conditions.is_none());
    assert_eq!(plan.look_again, Some(Duration::from_secs(59)));
}

#[test]
fn a_time_to_live_is_counted_from_the_end() {
    let mut job = guard();
    job.spec.as_mut().unwrap().ttl_seconds_after_finished = Some(100);
    let started = with_status(&job, &first(&job, &[], 0).status);
    let failed = with_status(&job, &first(&started, &[], 30).status);
    assert_eq!(expires_in(&failed, at(70)), Some(Duration::from_mins(1)));
}

#[test]
fn a_job_runs_no_more_pods_than_parallelism_and_missing_completions_allow() {
    let wide = job(json!({"parallelism": 3, "completions": 5}));
    assert_eq!(first(&wide, &[], 0).create.len(), 3);
    let narrow = job(json!({"parallelism": 10, "completions": 5}));
    assert_eq!(first(&narrow, &[], 0).create.len(), 5);
    let running = [pod("a", "Running"), pod("b", "Pending"), pod("c", "Running")];
    let shrunk = job(json!({"parallelism": 1, "completions": 5}));
    assert_eq!(first(&shrunk, &running, 0).delete.len(), 2);
}

#[test]
fn a_success_is_booked_before_the_finalizer_goes_and_counted_after() {
    let job = job(json!({"parallelism": 1, "completions": 1}));
    let done = pod("a", "Succeeded");
    let booked = first(&job, &[Arc::clone(&done)], 0);
    assert_eq!(
        booked.status.uncounted_terminated_pods.as_ref().unwrap().succeeded,
        Some(vec!["a".to_owned()])
    );
    assert_eq!(booked.untrack.len(), 1);
    assert!(
        booked.create.is_empty(),
        "the success is known although it is not counted yet"
    );
    assert_eq!(
        conditions(&booked.status).len(),
        1,
        "SuccessCriteriaMet only: {:?}",
        booked.status.conditions
    );
    let counted = first(&with_status(&job, &booked.status), &[untracked(&done)], 1);
    assert_eq!(counted.status.succeeded, Some(1));
    let kinds: Vec<String> = conditions(&counted.status).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["SuccessCriteriaMet", "Complete"]);
    assert!(counted.status.completion_time.is_some());
}

#[test]
fn failures_are_retried_after_10_20_40_seconds_until_the_limit() {
    let job = job(json!({"parallelism": 1, "completions": 1, "backoffLimit": 2}));
    let mut status = first(&job, &[], 0).status;
    let mut backoff = Backoff::default();
    let mut pods: Vec<Arc<Pod>> = Vec::new();
    let mut second = 0;
    for (name, pause) in [("a", 10), ("b", 20)] {
        pods.push(ended_at(&pod(name, "Failed"), second));
        let booked = plan(&with_status(&job, &status), &pods, backoff, at(second));
        assert_eq!(booked.create.len(), 0, "{name}: not at once");
        let wait = booked.look_again.unwrap();
        assert!(
            wait >= Duration::from_secs(pause) && wait < Duration::from_secs(pause + 1),
            "{name}: {wait:?}"
        );
        backoff = booked.backoff;
        let last = pods.pop().unwrap();
        pods.push(untracked(&last));
        second += i64::try_from(pause).unwrap();
        let retried = plan(&with_status(&job, &booked.status), &pods, backoff, at(second));
        assert_eq!(retried.create.len(), 1, "{name}: after the pause");
        status = retried.status;
    }
    pods.push(ended_at(&pod("c", "Failed"), second));
    let given_up = plan(&with_status(&job, &status), &pods, backoff, at(second));
    let reasons: Vec<_> = conditions(&given_up.status);
    assert_eq!(
        reasons,
        [("FailureTarget".to_owned(), "BackoffLimitExceeded".to_owned())]
    );
    let last = pods.pop().unwrap();
    pods.push(untracked(&last));
    let over = plan(&with_status(&job, &given_up.status), &pods, backoff, at(second));
    assert_eq!(over.status.failed, Some(3));
    assert!(conditions(&over.status).iter().any(|(kind, _)| kind == "Failed"));
}

#[test]
fn past_the_deadline_running_pods_are_deleted_and_failed_comes_when_they_are_gone() {
    let job = job(json!({"parallelism": 1, "completions": 1, "activeDeadlineSeconds": 5}));
    let running = pod("a", "Running");
    let started = with_status(&job, &first(&job, &[], 0).status);
    let late = first(&started, &[Arc::clone(&running)], 6);
    assert_eq!(late.delete.len(), 1);
    let kinds: Vec<String> = conditions(&late.status).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["FailureTarget"]);
    let mut going = (*untracked(&running)).clone();
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(36)));
    let between = first(&with_status(&job, &late.status), &[Arc::new(going)], 7);
    assert_eq!(conditions(&between.status).len(), 1, "a pod still terminates");
    assert_eq!(between.status.failed, Some(1));
    let gone = first(&with_status(&job, &between.status), &[], 8);
    let kinds: Vec<String> = conditions(&gone.status).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["FailureTarget", "Failed"]);
}

#[test]
fn a_suspended_job_runs_nothing_and_its_clock_starts_anew_on_resume() {
    let mut job = job(json!({"parallelism": 1, "completions": 1, "activeDeadlineSeconds": 5, "suspend": true}));
    let held = first(&job, &[pod("a", "Running")], 0);
    assert!(held.create.is_empty() && held.delete.len() == 1 && held.status.start_time.is_none());
    job.spec.as_mut().unwrap().suspend = Some(false);
    let resumed = first(&with_status(&job, &held.status), &[], 100);
    assert_eq!(resumed.status.start_time.unwrap().0, at(100));
    assert_eq!(resumed.create.len(), 1);
    assert_eq!(
        conditions(&JobStatus {
            conditions: resumed.status.conditions,
            ..JobStatus::default()
        })
        .len(),
        1
    );
}

#[test]
fn an_indexed_job_fills_the_missing_indexes_only() {
    let mut job = job(json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed"}));
    job.status = Some(JobStatus {
        completed_indexes: Some("0,2".into()),
        ..JobStatus::default()
    });
    let plan = first(&job, &[], 0);
    assert_eq!(plan.create, [Some(1), Some(3)]);
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("0,2"));
    assert_eq!(plan.status.succeeded, Some(2));
}
