//! Garbage collection by owner, and the guard Job that is built on it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{MERGE, Target, config_map, conformance, names, text};

fn owned(name: &str, owner: &Value, kind: &str, api_version: &str) -> Value {
    let mut one = config_map(name);
    one["metadata"]["ownerReferences"] = json!([{
        "apiVersion": api_version, "kind": kind, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": true,
    }]);
    one
}

async fn pair(target: &Target) {
    let all = target.path("configmaps");
    let owner = target.create(&all, &config_map("owner")).await;
    target
        .create(&all, &owned("dependent", &owner, "ConfigMap", "v1"))
        .await;
}

#[test]
fn background_deletion_takes_dependents_afterwards() {
    conformance(async |target| {
        pair(target).await;
        let options = json!({"propagationPolicy": "Background"});
        assert_eq!(
            target.delete_with(&target.path("configmaps/owner"), &options).await.0,
            200
        );
        assert_eq!(target.get(&target.path("configmaps/owner")).await.0, 404);
        target.until_gone(&target.path("configmaps/dependent")).await;
    });
}

#[test]
fn foreground_deletion_waits_for_dependents() {
    conformance(async |target| {
        let all = target.path("configmaps");
        let owner = target.create(&all, &config_map("owner")).await;
        let mut dependent = owned("dependent", &owner, "ConfigMap", "v1");
        dependent["metadata"]["finalizers"] = json!(["chaosrun.dev/hold"]);
        target.create(&all, &dependent).await;
        let options = json!({"propagationPolicy": "Foreground"});
        assert_eq!(
            target.delete_with(&target.path("configmaps/owner"), &options).await.0,
            200
        );
        let leaving = |object: &Value| object["metadata"]["deletionTimestamp"].is_string();
        let waiting = target
            .until_object(&target.path("configmaps/owner"), "the owner waits", leaving)
            .await;
        assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        target
            .until_object(
                &target.path("configmaps/dependent"),
                "the dependent is deleted",
                leaving,
            )
            .await;
        assert_eq!(target.get(&target.path("configmaps/owner")).await.0, 200);
        let patch = json!({"metadata": {"finalizers": null}});
        target.patch(MERGE, &target.path("configmaps/dependent"), &patch).await;
        target.until_gone(&target.path("configmaps/dependent")).await;
        target.until_gone(&target.path("configmaps/owner")).await;
    });
}

#[test]
fn orphaning_deletion_leaves_dependents_without_owner() {
    conformance(async |target| {
        pair(target).await;
        let options = json!({"propagationPolicy": "Orphan"});
        assert_eq!(
            target.delete_with(&target.path("configmaps/owner"), &options).await.0,
            200
        );
        target.until_gone(&target.path("configmaps/owner")).await;
        target
            .until_object(
                &target.path("configmaps/dependent"),
                "the dependent is free",
                |object| {
                    object["metadata"]["ownerReferences"]
                        .as_array()
                        .is_none_or(Vec::is_empty)
                },
            )
            .await;
    });
}

#[test]
fn an_object_whose_owner_never_was_is_collected() {
    conformance(async |target| {
        let ghost = json!({"metadata": {"name": "ghost", "uid": "00000000-0000-4000-8000-000000000000"}});
        target
            .create(&target.path("configmaps"), &owned("lost", &ghost, "ConfigMap", "v1"))
            .await;
        target.until_gone(&target.path("configmaps/lost")).await;
    });
}

#[test]
fn an_object_with_another_owner_left_stays() {
    conformance(async |target| {
        let all = target.path("configmaps");
        let first = target.create(&all, &config_map("first")).await;
        let second = target.create(&all, &config_map("second")).await;
        let mut shared = owned("shared", &first, "ConfigMap", "v1");
        let other = owned("x", &second, "ConfigMap", "v1")["metadata"]["ownerReferences"][0].clone();
        shared["metadata"]["ownerReferences"]
            .as_array_mut()
            .unwrap()
            .push(other);
        target.create(&all, &shared).await;
        target.create(&all, &owned("single", &first, "ConfigMap", "v1")).await;
        target
            .delete_with(
                &target.path("configmaps/first"),
                &json!({"propagationPolicy": "Background"}),
            )
            .await;
        target.until_gone(&target.path("configmaps/single")).await;
        let kept = target
            .until_object(&target.path("configmaps/shared"), "one owner is left", |object| {
                object["metadata"]["ownerReferences"]
                    .as_array()
                    .is_some_and(|owners| owners.len() == 1)
            })
            .await;
        assert_eq!(text(&kept, "/metadata/ownerReferences/0/name"), "second");
    });
}

fn guard(deadline: i64) -> Value {
    json!({
        "metadata": {"name": "guard"},
        "spec": {
            "parallelism": 0, "activeDeadlineSeconds": deadline, "ttlSecondsAfterFinished": 0, "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "containers":
                [{"name": "never", "image": "busybox:1.36", "command": ["true"]}]}},
        },
    })
}

#[test]
fn a_guard_job_ends_at_its_deadline_and_takes_what_it_owns_along() {
    conformance(async |target| {
        let begun = Instant::now();
        let job = target.create(&target.group_path("batch/v1", "jobs"), &guard(3)).await;
        target
            .create(&target.path("configmaps"), &owned("fault", &job, "Job", "batch/v1"))
            .await;
        target.until_gone(&target.group_path("batch/v1", "jobs/guard")).await;
        assert!(
            begun.elapsed() > Duration::from_secs(2),
            "gone after {:?}",
            begun.elapsed()
        );
        target.until_gone(&target.path("configmaps/fault")).await;
        assert!(
            names(&target.read(&target.path("pods")).await).is_empty(),
            "it never runs a pod"
        );
    });
}

#[test]
fn a_guard_job_is_renewed_by_raising_its_deadline() {
    conformance(async |target| {
        let path = target.group_path("batch/v1", "jobs/guard");
        let begun = Instant::now();
        let job = target.create(&target.group_path("batch/v1", "jobs"), &guard(4)).await;
        target
            .create(&target.path("configmaps"), &owned("fault", &job, "Job", "batch/v1"))
            .await;
        let (code, answer) = target
            .patch(MERGE, &path, &json!({"spec": {"activeDeadlineSeconds": 10}}))
            .await;
        assert_eq!(code, 200, "{answer}");
        tokio::time::sleep(Duration::from_secs(7).saturating_sub(begun.elapsed())).await;
        assert_eq!(target.get(&path).await.0, 200, "alive after its first deadline");
        target.until_gone(&path).await;
        assert!(
            begun.elapsed() > Duration::from_secs(9),
            "gone after {:?}",
            begun.elapsed()
        );
        target.until_gone(&target.path("configmaps/fault")).await;
    });
}
