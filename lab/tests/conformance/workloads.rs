//! Controllers, generation, scale, and evictions that respect disruption budgets.

use serde_json::{Value, json};

use crate::harness::{MERGE, Target, condition, conformance, names, text};

fn deployment(replicas: i64) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": "busybox:1.36", "command": ["sleep", "600"]}],
                },
            },
        },
    })
}

fn available(object: &Value, replicas: i64) -> bool {
    object["status"]["availableReplicas"].as_i64().unwrap_or(0) == replicas
        && object["status"]["replicas"].as_i64().unwrap_or(0) == replicas
}

#[test]
fn generation_counts_changes_of_the_spec_alone() {
    conformance(async |target| {
        let one = target.group_path("apps/v1", "deployments/web");
        let created = target
            .create(&target.group_path("apps/v1", "deployments"), &deployment(0))
            .await;
        assert_eq!(created["metadata"]["generation"], 1);
        let (_, labelled) = target
            .patch(MERGE, &one, &json!({"metadata": {"labels": {"a": "b"}}}))
            .await;
        assert_eq!(labelled["metadata"]["generation"], 1);
        let (_, changed) = target
            .patch(MERGE, &one, &json!({"spec": {"minReadySeconds": 1}}))
            .await;
        assert_eq!(changed["metadata"]["generation"], 2);
        target
            .until_object(&one, "the controller saw it", |object| {
                object["status"]["observedGeneration"] == 2
            })
            .await;
    });
}

#[test]
fn a_deployment_replaces_a_pod_that_is_deleted() {
    conformance(async |target| {
        let one = target.group_path("apps/v1", "deployments/web");
        target
            .create(&target.group_path("apps/v1", "deployments"), &deployment(2))
            .await;
        target
            .until_object(&one, "two pods are available", |object| available(object, 2))
            .await;
        let selector = target.path("pods?labelSelector=app%3Dweb");
        let before = target.read(&selector).await;
        let victim = text(&before, "/items/0/metadata/name").to_owned();
        let uid = text(&before, "/items/0/metadata/uid").to_owned();
        assert_eq!(text(&before, "/items/0/metadata/ownerReferences/0/kind"), "ReplicaSet");
        target.delete(&target.path(&format!("pods/{victim}"))).await;
        target
            .until("a replacement is ready", async || {
                let pods = target.read(&selector).await;
                let ready = |pod: &&Value| condition(pod, "Ready") == Some("True") && pod["metadata"]["uid"] != *uid;
                pods["items"].as_array().unwrap().iter().filter(ready).count() == 2
            })
            .await;
        target
            .until_object(&one, "the deployment says so", |found| {
                available(found, 2) && condition(found, "Available") == Some("True")
            })
            .await;
    });
}

#[test]
fn the_scale_subresource_reads_and_writes_replicas() {
    conformance(async |target| {
        let one = target.group_path("apps/v1", "deployments/web");
        target
            .create(&target.group_path("apps/v1", "deployments"), &deployment(1))
            .await;
        target
            .until_object(&one, "one pod is available", |object| available(object, 1))
            .await;
        let scale = target.read(&format!("{one}/scale")).await;
        assert_eq!(
            (&scale["kind"], &scale["spec"]["replicas"]),
            (&json!("Scale"), &json!(1))
        );
        assert_eq!(scale["status"]["selector"], "app=web");
        let (code, answer) = target
            .patch(MERGE, &format!("{one}/scale"), &json!({"spec": {"replicas": 0}}))
            .await;
        assert_eq!((code, &answer["kind"]), (200, &json!("Scale")), "{answer}");
        target
            .until_object(&one, "no pod is left", |object| available(object, 0))
            .await;
        target
            .until("the pods are gone", async || {
                names(&target.read(&target.path("pods?labelSelector=app%3Dweb")).await).is_empty()
            })
            .await;
        assert_eq!(target.read(&one).await["spec"]["replicas"], 0);
    });
}

async fn evict(target: &Target, pod: &str) -> (u16, Value) {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    target.post(&target.path(&format!("pods/{pod}/eviction")), &body).await
}

#[test]
fn an_eviction_waits_for_the_disruption_budget() {
    conformance(async |target| {
        let budget = target.group_path("policy/v1", "poddisruptionbudgets/web");
        target
            .create(&target.group_path("apps/v1", "deployments"), &deployment(2))
            .await;
        let one = target.group_path("apps/v1", "deployments/web");
        target
            .until_object(&one, "two pods are available", |object| available(object, 2))
            .await;
        let body = json!({"metadata": {"name": "web"}, "spec":
            {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
        target
            .create(&target.group_path("policy/v1", "poddisruptionbudgets"), &body)
            .await;
        target
            .until_object(&budget, "the budget is counted", |budget| {
                budget["status"]["currentHealthy"] == 2
            })
            .await;
        let pods = target.read(&target.path("pods?labelSelector=app%3Dweb")).await;
        let pod = text(&pods, "/items/0/metadata/name");
        let (code, status) = evict(target, pod).await;
        assert_eq!((code, &status["reason"]), (429, &json!("TooManyRequests")), "{status}");
        assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
        assert_eq!(
            target.read(&target.path(&format!("pods/{pod}"))).await["metadata"].get("deletionTimestamp"),
            None
        );
        target
            .patch(MERGE, &budget, &json!({"spec": {"minAvailable": 1}}))
            .await;
        target
            .until_object(&budget, "one may go", |budget| {
                budget["status"]["disruptionsAllowed"] == 1
            })
            .await;
        let (code, status) = evict(target, pod).await;
        assert_eq!(code, 201, "{status}");
        target.until_gone(&target.path(&format!("pods/{pod}"))).await;
    });
}

#[test]
fn an_eviction_of_a_pod_without_budget_deletes_it() {
    conformance(async |target| {
        target.running(&Target::shell("p", "sleep 600")).await;
        assert_eq!(evict(target, "p").await.0, 201);
        target.until_gone(&target.path("pods/p")).await;
        assert_eq!(evict(target, "p").await.0, 404);
    });
}

#[test]
fn a_job_completes() {
    conformance(async |target| {
        let body = json!({"metadata": {"name": "j"}, "spec": {"completions": 2, "parallelism": 2, "template":
            {"spec": {"restartPolicy": "Never", "containers":
                [{"name": "main", "image": "busybox:1.36", "command": ["true"]}]}}}});
        target.create(&target.group_path("batch/v1", "jobs"), &body).await;
        let done = target
            .until_object(&target.group_path("batch/v1", "jobs/j"), "the job is complete", |job| {
                condition(job, "Complete") == Some("True")
            })
            .await;
        assert_eq!(done["status"]["succeeded"], 2);
    });
}

#[test]
fn a_service_gets_an_address_and_endpoints() {
    conformance(async |target| {
        let body = json!({"metadata": {"name": "web"}, "spec":
            {"selector": {"app": "p"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        let service = target.create(&target.path("services"), &body).await;
        assert!(text(&service, "/spec/clusterIP").contains('.') || text(&service, "/spec/clusterIP").contains(':'));
        assert_eq!(service["spec"]["ports"][0]["protocol"], "TCP");
        let pod = target.running(&Target::shell("p", "sleep 600")).await;
        let ready = target
            .until_object(&target.path("endpoints/web"), "the pod is an endpoint", |endpoints| {
                endpoints["subsets"][0]["addresses"][0]["ip"].is_string()
            })
            .await;
        assert_eq!(ready["subsets"][0]["addresses"][0]["ip"], pod["status"]["podIP"]);
        assert_eq!(ready["subsets"][0]["ports"][0]["port"], 8080);
    });
}
