//! Scheduler, `ReplicaSets`, Deployments, `StatefulSets`, Services and budgets against the real API server. Nothing runs:
//! the kubelet is a double.

use std::time::{Duration, Instant};

use crate::controllers_support::{Cluster, is_ready, template, uids, until};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Endpoints, Event, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, EvictParams, ListParams};
use serde_json::{Value, json};

fn deployment(name: &str, replicas: i32, strategy: Value, annotations: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "strategy": strategy,
        "template": template(name, annotations),
    }})
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn condition(deployment: &Deployment, kind: &str) -> Option<(String, String)> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone().unwrap_or_default()))
}

/// What `kubectl rollout status` waits for.
fn rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.replicas == wanted
            && status.available_replicas == wanted
    })
}

#[tokio::test]
async fn a_deployment_becomes_available_and_a_killed_pod_is_replaced_in_milliseconds() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Deployment>(deployment("web", 3, rolling(1, 0), json!({})))
        .await;
    let done: Deployment = cluster.object_until("web", "rolled out", rolled_out).await;
    assert_eq!(
        condition(&done, "Available"),
        Some(("True".into(), "MinimumReplicasAvailable".into()))
    );
    let progressing = ("True".to_owned(), "NewReplicaSetAvailable".to_owned());
    let done: Deployment = cluster
        .object_until("web", "progressed", |one: &Deployment| {
            condition(one, "Progressing") == Some(progressing.clone())
        })
        .await;
    assert_eq!(
        done.annotations()
            .get("deployment.kubernetes.io/revision")
            .map(String::as_str),
        Some("1")
    );
    let before = cluster.pods("app=web").await;
    let victim = before.first().unwrap();
    assert!(victim.labels().contains_key("pod-template-hash"));
    let start = Instant::now();
    cluster.delete_now::<Pod>(&victim.name_any()).await;
    let after = cluster
        .pods_until("app=web", "three ready pods, not the old one", |pods| {
            pods.iter().filter(|pod| is_ready(pod)).count() == 3 && !uids(pods).contains(&victim.uid().unwrap())
        })
        .await;
    let replaced_in = start.elapsed();
    assert_eq!(uids(&after).intersection(&uids(&before)).count(), 2);
    assert!(
        replaced_in < Duration::from_millis(500),
        "created, scheduled and ready after {replaced_in:?}"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_rolling_update_never_has_too_few_ready_pods_nor_too_many() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Deployment>(deployment("web", 3, rolling(1, 0), json!({})))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    let old = uids(&cluster.pods("app=web").await);
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    cluster.patch::<Deployment>("web", patch).await;
    until("every pod is new", || async {
        let pods = cluster.pods("app=web").await;
        let living = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .count();
        assert!(living <= 4, "surge is 1, living {living}");
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        assert!(ready >= 3, "none may be unavailable, ready {ready}");
        if living == 3 && uids(&pods).is_disjoint(&old) {
            Ok(())
        } else {
            Err(format!("{living} living"))
        }
    })
    .await;
    let done: Deployment = cluster.object_until("web", "rolled out", rolled_out).await;
    assert_eq!(
        done.annotations()
            .get("deployment.kubernetes.io/revision")
            .map(String::as_str),
        Some("2")
    );
    let sets = cluster
        .api::<ReplicaSet>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    let mut sizes: Vec<_> = sets.iter().map(|set| set.spec.as_ref().unwrap().replicas).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [Some(0), Some(3)]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_rollout_of_pods_that_never_get_ready_stops_and_keeps_the_old_ones() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Deployment>(deployment("web", 2, rolling(1, 0), json!({})))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    let patch = json!({"spec": {
        "progressDeadlineSeconds": 1,
        "template": {"metadata": {"annotations": {"double/unready": "true"}}},
    }});
    cluster.patch::<Deployment>("web", patch).await;
    let stuck: Deployment = cluster
        .object_until("web", "progress deadline exceeded", |one: &Deployment| {
            condition(one, "Progressing") == Some(("False".into(), "ProgressDeadlineExceeded".into()))
        })
        .await;
    assert_eq!(
        condition(&stuck, "Available"),
        Some(("True".into(), "MinimumReplicasAvailable".into()))
    );
    let pods = cluster.pods("app=web").await;
    assert_eq!((pods.len(), pods.iter().filter(|pod| is_ready(pod)).count()), (3, 2));
    cluster.stop().await;
}

#[tokio::test]
async fn recreate_starts_new_pods_only_when_the_old_ones_are_gone() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Deployment>(deployment("web", 2, json!({"type": "Recreate"}), json!({})))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    let old = uids(&cluster.pods("app=web").await);
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    cluster.patch::<Deployment>("web", patch).await;
    until("every pod is new", || async {
        let pods = cluster.pods("app=web").await;
        let present = uids(&pods);
        let mixed = !present.is_disjoint(&old) && !present.is_subset(&old);
        assert!(!mixed, "old and new at the same time");
        if pods.len() == 2 && present.is_disjoint(&old) {
            Ok(())
        } else {
            Err(format!("{present:?}"))
        }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_paused_deployment_is_scaled_but_not_rolled() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Deployment>(deployment("web", 1, rolling(1, 0), json!({})))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    let old = uids(&cluster.pods("app=web").await);
    let patch = json!({"spec": {
        "paused": true, "replicas": 2, "template": {"metadata": {"annotations": {"version": "2"}}},
    }});
    cluster.patch::<Deployment>("web", patch).await;
    let pods = cluster.pods_until("app=web", "two pods", |pods| pods.len() == 2).await;
    assert!(uids(&pods).is_superset(&old));
    let sets = cluster
        .api::<ReplicaSet>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert_eq!(sets.len(), 1);
    cluster
        .patch::<Deployment>("web", json!({"spec": {"paused": false}}))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    assert!(uids(&cluster.pods("app=web").await).is_disjoint(&old));
    cluster.stop().await;
}

#[tokio::test]
async fn a_deployment_scales_to_zero_and_back() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Deployment>(deployment("web", 2, rolling(1, 0), json!({})))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    cluster
        .patch::<Deployment>("web", json!({"spec": {"replicas": 0}}))
        .await;
    cluster.pods_until("app=web", "no pods", <[Pod]>::is_empty).await;
    cluster
        .patch::<Deployment>("web", json!({"spec": {"replicas": 2}}))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_replica_set_adopts_matching_orphans_and_lets_go_of_relabelled_pods() {
    let cluster = Cluster::start().await;
    let mut orphan = template("web", json!({}));
    orphan["metadata"]["name"] = json!("orphan");
    let orphan: Pod = cluster.create(orphan).await;
    let set = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", json!({})),
    }});
    cluster.create::<ReplicaSet>(set).await;
    let pods = cluster
        .pods_until("app=web", "two ready", |pods| {
            pods.iter().filter(|p| is_ready(p)).count() == 2
        })
        .await;
    assert!(uids(&pods).contains(&orphan.uid().unwrap()));
    assert_eq!(pods.len(), 2);
    cluster
        .patch::<Pod>("orphan", json!({"metadata": {"labels": {"app": "isolated"}}}))
        .await;
    cluster
        .pods_until("app=web", "two again", |pods| {
            pods.iter().filter(|p| is_ready(p)).count() == 2
        })
        .await;
    let isolated = cluster
        .object_until("orphan", "released", |pod: &Pod| pod.owner_references().is_empty())
        .await;
    assert_eq!(isolated.uid(), orphan.uid());
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_deployment_takes_its_replica_sets_and_pods_with_it() {
    let cluster = Cluster::start().await;
    cluster
        .create::<Deployment>(deployment("web", 2, rolling(1, 0), json!({})))
        .await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    cluster
        .api::<Deployment>()
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    cluster.pods_until("app=web", "no pods", <[Pod]>::is_empty).await;
    assert!(
        cluster
            .api::<ReplicaSet>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_room_comes() {
    let cluster = Cluster::start().await;
    let mut wide = template("wide", json!({}));
    wide["metadata"]["name"] = json!("wide");
    wide["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "6"}});
    cluster.create::<Pod>(wide).await;
    let pod: Pod = cluster
        .object_until("wide", "unschedulable", |pod: &Pod| {
            pod.status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .any(|condition| {
                    condition.type_ == "PodScheduled"
                        && condition.status == "False"
                        && condition.reason.as_deref() == Some("Unschedulable")
                })
        })
        .await;
    let conditions = pod.status.unwrap().conditions.unwrap();
    let message = conditions.into_iter().find_map(|condition| condition.message).unwrap();
    assert!(
        message.starts_with("0/1 nodes are available: 1 Insufficient cpu."),
        "{message}"
    );
    until("FailedScheduling is told", || async {
        let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let found = events
            .iter()
            .find(|event| event.reason.as_deref() == Some("FailedScheduling"));
        match found {
            Some(event) if event.message.as_deref() == Some(&message) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let start = Instant::now();
    cluster.add_node("node-2", "8").await;
    let placed: Pod = cluster
        .object_until("wide", "placed", |pod: &Pod| {
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
        })
        .await;
    assert_eq!(placed.spec.unwrap().node_name.as_deref(), Some("node-2"));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "not by the retry of 5 s: {:?}",
        start.elapsed()
    );
    cluster.stop().await;
}

#[tokio::test]
async fn many_pods_at_once_are_never_placed_beyond_capacity() {
    let cluster = Cluster::start().await;
    let mut manifest = deployment("web", 6, rolling(1, 0), json!({}));
    manifest["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    cluster.create::<Deployment>(manifest).await;
    cluster
        .pods_until("app=web", "four of six placed", |pods| {
            pods.iter().filter(|p| is_ready(p)).count() == 4
        })
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let pods = cluster.pods("app=web").await;
    let placed = pods
        .iter()
        .filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
    assert_eq!((pods.len(), placed.count()), (6, 4));
    cluster.stop().await;
}

fn stateful_set(replicas: i32) -> Value {
    json!({"metadata": {"name": "db"}, "spec": {
        "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": template("db", json!({})),
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        }}],
    }})
}

#[tokio::test]
async fn a_stateful_pod_comes_back_under_its_name_as_another_pod() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(2)).await;
    let pods = cluster
        .pods_until("app=db", "two ready", |pods| {
            pods.iter().filter(|p| is_ready(p)).count() == 2
        })
        .await;
    let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["db-0", "db-1"]);
    assert!(
        cluster
            .api::<PersistentVolumeClaim>()
            .get_opt("data-db-0")
            .await
            .unwrap()
            .is_some()
    );
    let old = pods.first().unwrap().uid();
    cluster.delete_now::<Pod>("db-0").await;
    let back: Pod = cluster
        .object_until("db-0", "another db-0 is ready", |pod: &Pod| {
            pod.uid() != old && is_ready(pod)
        })
        .await;
    assert_eq!(back.spec.unwrap().hostname.as_deref(), Some("db-0"));
    let status = cluster
        .object_until("db", "two ready in the status", |set: &StatefulSet| {
            set.status
                .as_ref()
                .is_some_and(|status| status.ready_replicas == Some(2))
        })
        .await
        .status
        .unwrap();
    assert_eq!(status.current_revision, status.update_revision);
    cluster
        .patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}}))
        .await;
    cluster.pods_until("app=db", "db-0 stays", |pods| pods.len() == 1).await;
    assert!(
        cluster
            .api::<PersistentVolumeClaim>()
            .get_opt("data-db-1")
            .await
            .unwrap()
            .is_some(),
        "claims stay"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_stateful_set_rolls_out_a_new_template() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(2)).await;
    let old = cluster
        .pods_until("app=db", "two ready", |pods| {
            pods.iter().filter(|p| is_ready(p)).count() == 2
        })
        .await;
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}});
    cluster.patch::<StatefulSet>("db", patch).await;
    cluster
        .pods_until("app=db", "two new ready", |pods| {
            pods.iter().filter(|pod| is_ready(pod)).count() == 2 && uids(pods).is_disjoint(&uids(&old))
        })
        .await;
    cluster
        .object_until("db", "rolled out", |set: &StatefulSet| {
            set.status.as_ref().is_some_and(|status| {
                status.current_revision == status.update_revision && status.updated_replicas == Some(2)
            })
        })
        .await;
    cluster.stop().await;
}

fn ready_addresses(slice: &EndpointSlice) -> usize {
    let ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint
            .conditions
            .as_ref()
            .is_some_and(|conditions| conditions.ready == Some(true))
    };
    slice.endpoints.iter().filter(ready).count()
}

#[tokio::test]
async fn a_service_leads_to_the_ready_pods_and_to_nothing_when_they_are_gone() {
    let cluster = Cluster::start().await;
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}],
    }});
    cluster.create::<Service>(service).await;
    cluster
        .create::<Deployment>(deployment("web", 2, rolling(1, 0), json!({})))
        .await;
    let slices = ListParams::default().labels("kubernetes.io/service-name=web");
    until("two ready addresses in the slice", || async {
        let found = cluster.api::<EndpointSlice>().list(&slices).await.unwrap().items;
        let ready: usize = found.iter().map(ready_addresses).sum();
        if found.len() == 1 && ready == 2 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
    let endpoints: Endpoints = cluster.api().get("web").await.unwrap();
    let subset = endpoints.subsets.unwrap().remove(0);
    assert_eq!(subset.addresses.unwrap().len(), 2);
    assert_eq!(subset.ports.unwrap().first().unwrap().port, 8080);
    cluster
        .patch::<Deployment>("web", json!({"spec": {"replicas": 0}}))
        .await;
    cluster
        .object_until("web", "empty endpoints", |one: &Endpoints| one.subsets.is_none())
        .await;
    cluster
        .api::<Service>()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    cluster.gone::<Endpoints>("web").await;
    until("the slice is gone", || async {
        let found = cluster.api::<EndpointSlice>().list(&slices).await.unwrap().items;
        if found.is_empty() {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_budget_lets_one_pod_go_and_refuses_the_next() {
    let cluster = Cluster::start().await;
    let mut manifest = deployment("web", 2, rolling(1, 0), json!({}));
    // Replacements never get ready, so that the budget stays used up.
    manifest["spec"]["minReadySeconds"] = json!(0);
    cluster.create::<Deployment>(manifest).await;
    cluster.object_until("web", "rolled out", rolled_out).await;
    cluster
        .create::<PodDisruptionBudget>(json!({"metadata": {"name": "web"}, "spec": {
            "maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}},
        }}))
        .await;
    cluster
        .object_until("web", "one disruption allowed", |budget: &PodDisruptionBudget| {
            budget.status.as_ref().is_some_and(|status| {
                (status.disruptions_allowed, status.expected_pods, status.desired_healthy) == (1, 2, 1)
            })
        })
        .await;
    let pods = cluster.pods("app=web").await;
    // Mark one unready by hand: the budget is used up.
    let unready = pods.first().unwrap().name_any();
    let conditions = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    cluster.patch_status::<Pod>(&unready, conditions).await;
    cluster
        .object_until("web", "no disruption allowed", |budget: &PodDisruptionBudget| {
            budget
                .status
                .as_ref()
                .is_some_and(|status| status.disruptions_allowed == 0)
        })
        .await;
    let other = pods.get(1).unwrap().name_any();
    let refused = cluster
        .api::<Pod>()
        .evict(&other, &EvictParams::default())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, kube::Error::Api(ref status) if status.code == 429),
        "{refused:?}"
    );
    cluster.stop().await;
}
