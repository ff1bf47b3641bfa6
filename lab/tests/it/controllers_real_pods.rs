//! Controllers together with the node agent: pods are real processes. Needs root, runc, iproute2, nftables, and the
//! program `prometheus` for the last one.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::controllers_support::{is_ready, until_for};
use chaosrun_lab::controllers::in_lab;
use chaosrun_lab::controllers::prometheus::{self, PrometheusConfig};
use chaosrun_lab::lifecycle::{Lab, LabConfig};
use chaosrun_lab::node::ImageTable;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use serde_json::{Value, json};

/// Real processes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

async fn lab(test: &str, prometheus: Option<PrometheusConfig>) -> Lab {
    crate::controllers_support::log();
    let mut images = ImageTable::new();
    for (pattern, image) in prometheus::images(Path::new(env!("CARGO_BIN_EXE_chaosrun-lab"))) {
        images.insert(pattern, image);
    }
    let config = LabConfig {
        images,
        ..LabConfig::new(format!("c-{test}-{}", std::process::id()))
    };
    match Box::pin(Lab::start(config, vec![in_lab(prometheus)])).await {
        Ok(lab) => lab,
        Err(error) => panic!("these tests need root, runc, iproute2 and nftables: {error}"),
    }
}

async fn create<K>(lab: &Lab, object: Value)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let object: K = serde_json::from_value(object).unwrap();
    let api: Api<K> = Api::namespaced(lab.client(), "default");
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn template(app: &str, script: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", script]}],
    }})
}

async fn ready_pods(lab: &Lab, app: &str, number: usize, but_not: &[String]) -> Vec<Pod> {
    let api: Api<Pod> = Api::namespaced(lab.client(), "default");
    let selector = ListParams::default().labels(&format!("app={app}"));
    until_for(PATIENCE, &format!("{number} ready pods of {app}"), || async {
        let pods = api.list(&selector).await.unwrap().items;
        let ready: Vec<Pod> = pods
            .iter()
            .filter(|pod| is_ready(pod) && !but_not.contains(&pod.uid().unwrap()))
            .cloned()
            .collect();
        if ready.len() == number {
            Ok(ready)
        } else {
            Err(serde_json::to_string(&pods).unwrap())
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pod_of_a_deployment_is_replaced_by_a_running_one() {
    let lab = lab("deploy", None).await;
    let spec = json!({
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "exec sleep 1000"),
    });
    create::<Deployment>(&lab, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let before = ready_pods(&lab, "web", 2, &[]).await;
    let victim = before.first().unwrap();
    let start = Instant::now();
    let api: Api<Pod> = Api::namespaced(lab.client(), "default");
    api.delete(&victim.name_any(), &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let old = victim.uid().unwrap();
    let after = ready_pods(&lab, "web", 2, std::slice::from_ref(&old)).await;
    println!("replaced and ready after {:?}", start.elapsed());
    assert_ne!(after.first().unwrap().uid().unwrap(), old);
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_pod_finds_its_data_again_under_the_same_name() {
    let lab = lab("sts", None).await;
    let mut pod = template("db", "echo born >> /data/log; exec sleep 1000");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({"exec": {"command": ["test", "-s", "/data/log"]}, "periodSeconds": 1});
    let spec = json!({
        "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": pod,
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}},
        }}],
    });
    create::<StatefulSet>(&lab, json!({"metadata": {"name": "db"}, "spec": spec})).await;
    let before = ready_pods(&lab, "db", 1, &[]).await;
    let api: Api<Pod> = Api::namespaced(lab.client(), "default");
    api.delete("db-0", &DeleteParams::default()).await.unwrap();
    let after = ready_pods(&lab, "db", 1, &[before.first().unwrap().uid().unwrap()]).await;
    assert_eq!(after.first().unwrap().name_any(), "db-0");
    create::<Pod>(&lab, reader()).await;
    let done = until_for(PATIENCE, "the reader has read two births", || async {
        let pod = api.get("reader").await.unwrap();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default();
        if phase == "Succeeded" || phase == "Failed" {
            Ok(phase)
        } else {
            Err(format!("{pod:?}"))
        }
    })
    .await;
    assert_eq!(done, "Succeeded", "the claim kept what the first pod wrote");
    lab.stop().await.unwrap();
}

fn reader() -> Value {
    json!({"metadata": {"name": "reader"}, "spec": {
        "restartPolicy": "Never",
        "containers": [{
            "name": "c", "image": "busybox", "command": ["sh", "-c", "test $(wc -l < /data/log) = 2"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}],
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_first_pod_fails_succeeds_with_the_next_after_the_back_off() {
    let lab = lab("job", None).await;
    let claim = json!({"metadata": {"name": "once"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}},
    }});
    create::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(&lab, claim).await;
    let mut pod = template("once", "test -e /data/tried || { touch /data/tried; exit 9; }");
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "once"}}]);
    create::<Job>(&lab, json!({"metadata": {"name": "once"}, "spec": {"template": pod}})).await;
    let start = Instant::now();
    let api: Api<Job> = Api::namespaced(lab.client(), "default");
    let status = until_for(PATIENCE, "the job succeeds", || async {
        let status = api.get("once").await.unwrap().status.unwrap_or_default();
        let complete = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Complete");
        if complete {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    assert_eq!((status.succeeded, status.failed), (Some(1), Some(1)));
    assert!(
        start.elapsed() > Duration::from_secs(9),
        "the back-off is 10 s: {:?}",
        start.elapsed()
    );
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_an_annotated_pod_by_the_api_and_scrapes_it() {
    assert!(
        prometheus::is_installed(),
        "this test needs the Debian package prometheus"
    );
    let lab = lab(
        "prom",
        Some(PrometheusConfig {
            scrape_interval: Duration::from_secs(1),
        }),
    )
    .await;
    // Any Prometheus is a metrics endpoint: this one has an empty configuration and no discovery.
    let mut target = json!({"metadata": {"name": "target", "labels": {"app": "target", "team": "a"}, "annotations": {
        "prometheus.io/scrape": "true", "prometheus.io/port": "9191",
    }}});
    target["spec"] = json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "c", "image": "prom/prometheus",
        "args": ["--config.file=/dev/null", "--storage.tsdb.path=/tmp/data", "--web.listen-address=0.0.0.0:9191"],
    }]});
    create::<Pod>(&lab, target).await;
    let pods: Api<Pod> = Api::namespaced(lab.client(), prometheus::NAMESPACE);
    let address = until_for(PATIENCE, "prometheus is ready", || async {
        let found = pods.list(&ListParams::default()).await.unwrap().items;
        let ready = found
            .iter()
            .find(|pod| is_ready(pod))
            .and_then(|pod| pod.status.as_ref()?.pod_ip.clone());
        match (ready, found.first()) {
            (Some(address), _) => Ok(address),
            (None, None) => Err("no pod".to_owned()),
            (None, Some(pod)) => {
                let options = LogParams {
                    container: Some("prometheus".to_owned()),
                    ..LogParams::default()
                };
                let log = pods
                    .logs(&pod.name_any(), &options)
                    .await
                    .unwrap_or_else(|error| error.to_string());
                Err(format!("{}\n{log}", serde_json::to_string(&found).unwrap()))
            }
        }
    })
    .await;
    // up{namespace="default",pod="target",team="a"}
    let query = "up%7Bnamespace%3D%22default%22%2Cpod%3D%22target%22%2Cteam%3D%22a%22%7D";
    let url = format!("http://{address}:9090/api/v1/query?query={query}");
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let http = reqwest::Client::new();
    until_for(PATIENCE, "the target is up", || async {
        let answer = http.get(&url).send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if answer["data"]["result"][0]["value"][1] == "1" {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    })
    .await;
    lab.stop().await.unwrap();
}
