//! What happens on and to nodes, and by the clock: `DaemonSets`, cordons, lost nodes, `CronJobs`. The kubelet is a
//! double.

use crate::controllers_support::{Cluster, is_ready, template, until};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::{Timestamp, ToSpan};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

async fn patch_node(cluster: &Cluster, name: &str, patch: serde_json::Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_daemon_set_has_one_pod_on_every_node_also_on_new_and_cordoned_ones() {
    let cluster = Cluster::start().await;
    let spec = json!({"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", json!({}))});
    cluster
        .create::<DaemonSet>(json!({"metadata": {"name": "agent"}, "spec": spec}))
        .await;
    cluster
        .pods_until("app=agent", "one ready pod", |pods| {
            pods.len() == 1 && pods.iter().all(is_ready)
        })
        .await;
    patch_node(&cluster, "node-1", json!({"spec": {"unschedulable": true}})).await;
    cluster.add_node("node-2", "4").await;
    let pods = cluster
        .pods_until("app=agent", "two ready pods", |pods| {
            pods.len() == 2 && pods.iter().all(is_ready)
        })
        .await;
    let mut nodes: Vec<_> = pods.iter().filter_map(node_of).collect();
    nodes.sort();
    assert_eq!(nodes, ["node-1", "node-2"]);
    let victim = pods
        .iter()
        .find(|pod| node_of(pod).as_deref() == Some("node-1"))
        .unwrap();
    cluster.delete_now::<Pod>(&victim.name_any()).await;
    cluster
        .pods_until("app=agent", "it is back on the cordoned node", |pods| {
            pods.len() == 2 && pods.iter().all(|pod| is_ready(pod) && pod.uid() != victim.uid())
        })
        .await;
    cluster
        .object_until("agent", "two of two in the status", |set: &DaemonSet| {
            set.status.as_ref().is_some_and(|status| {
                (
                    status.desired_number_scheduled,
                    status.number_ready,
                    status.number_available,
                ) == (2, 2, Some(2))
            })
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_cordoned_node_shows_a_taint_and_gets_no_new_pods_until_it_is_uncordoned() {
    let cluster = Cluster::start().await;
    patch_node(&cluster, "node-1", json!({"spec": {"unschedulable": true}})).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let tainted = |node: &Node| {
        let taints = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.clone())
            .unwrap_or_default();
        taints
            .iter()
            .any(|taint| taint.key == "node.kubernetes.io/unschedulable")
    };
    until("the taint is there", || async {
        let node = nodes.get("node-1").await.unwrap();
        if tainted(&node) {
            Ok(())
        } else {
            Err(format!("{:?}", node.spec))
        }
    })
    .await;
    let mut pod = template("late", json!({}));
    pod["metadata"]["name"] = json!("late");
    cluster.create::<Pod>(pod).await;
    let refused: Pod = cluster
        .object_until("late", "unschedulable", |pod: &Pod| {
            pod.status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .any(|condition| {
                    condition
                        .message
                        .as_deref()
                        .is_some_and(|message| message.contains("1 node(s) were unschedulable"))
                })
        })
        .await;
    assert_eq!(node_of(&refused), None);
    patch_node(&cluster, "node-1", json!({"spec": {"unschedulable": null}})).await;
    cluster
        .object_until("late", "placed", |pod: &Pod| node_of(pod).is_some())
        .await;
    assert!(!tainted(&nodes.get("node-1").await.unwrap()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_pod_on_a_node_that_is_gone_does_not_linger() {
    let cluster = Cluster::without_kubelet();
    cluster.add_node("node-1", "4").await;
    let mut pod = template("lost", json!({}));
    pod["metadata"]["name"] = json!("lost");
    cluster.create::<Pod>(pod).await;
    cluster
        .object_until("lost", "placed", |pod: &Pod| node_of(pod).is_some())
        .await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.delete("node-1", &DeleteParams::default()).await.unwrap();
    cluster
        .api::<Pod>()
        .delete("lost", &DeleteParams::default())
        .await
        .unwrap();
    cluster.gone::<Pod>("lost").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_cron_job_makes_up_for_the_last_missed_instant_and_no_other() {
    let cluster = Cluster::start().await;
    let mut pod = template("tick", json!({"double/exit": "0"}));
    pod["spec"]["restartPolicy"] = json!("Never");
    let spec = json!({
        "schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": pod}},
    });
    cluster
        .create::<CronJob>(json!({"metadata": {"name": "tick"}, "spec": spec}))
        .await;
    let three_hours_ago = Timestamp::now().checked_sub(3.hours()).unwrap();
    let last = json!({"status": {"lastScheduleTime": three_hours_ago.to_string()}});
    cluster.patch_status::<CronJob>("tick", last).await;
    let jobs = || async { cluster.api::<Job>().list(&ListParams::default()).await.unwrap().items };
    assert!(jobs().await.is_empty(), "suspended");
    cluster
        .patch::<CronJob>("tick", json!({"spec": {"suspend": false, "schedule": "0 * * * *"}}))
        .await;
    let done: CronJob = cluster
        .object_until("tick", "one job succeeded", |cron_job: &CronJob| {
            cron_job
                .status
                .as_ref()
                .is_some_and(|status| status.last_successful_time.is_some())
        })
        .await;
    let made = jobs().await;
    assert_eq!(made.len(), 1);
    let scheduled = done.status.unwrap().last_schedule_time.unwrap().0;
    assert_eq!(scheduled.as_second() % 3600, 0);
    assert!(scheduled > Timestamp::now().checked_sub(1.hour()).unwrap());
    cluster.stop().await;
}
