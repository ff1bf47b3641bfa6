//! The API of the double of Chaos Mesh: what it refuses, what it fills in, and what happens without its controller-manager.

use crate::chaos_mesh_support::{Kind, components, condition, install, lab, only, until};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

async fn scale(client: kube::Client, replicas: u32) {
    let api: Api<Deployment> = Api::namespaced(client, "chaos-mesh");
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch("chaos-controller-manager", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn post(lab: &chaosrun_lab::lifecycle::Lab, path: &str, object: &Value) -> Result<Value, kube::Error> {
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object).unwrap())
        .unwrap();
    lab.client().request::<Value>(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_that_of_chaos_mesh_and_needs_its_controller_manager() {
    let lab = lab("mesh-api").await;
    let definitions: Api<CustomResourceDefinition> = Api::all(lab.client());
    let before = definitions.list(&ListParams::default()).await.unwrap();
    let foreign = |name: &str| name.ends_with("chaos-mesh.org");
    assert!(
        !before
            .items
            .iter()
            .any(|one| foreign(one.metadata.name.as_deref().unwrap())),
        "not installed yet"
    );
    install(&lab).await;

    let network = Kind::new(&lab, "NetworkChaos", "networkchaos");
    let spec = json!({"action": "delay", "mode": "all", "selector": {}, "delay": {"latency": "10ms"}, "unknown": 1});
    // Pruned without a word, refused when asked to be strict.
    let strict = "/apis/chaos-mesh.org/v1alpha1/namespaces/default/networkchaos?fieldValidation=Strict";
    let object = serde_json::to_value(network.object("strict", &spec)).unwrap();
    let error = post(&lab, strict, &object).await.unwrap_err().to_string();
    assert!(
        error.contains("strict decoding error: unknown field \"spec.unknown\""),
        "{error}"
    );
    let created = network.create("filled", &spec).await;
    let filled = &created["spec"];
    assert!(filled.get("unknown").is_none(), "{filled}");
    assert_eq!(filled["selector"]["namespaces"], json!(["default"]));
    assert_eq!(
        (
            &filled["direction"],
            &filled["delay"]["jitter"],
            &filled["delay"]["correlation"]
        ),
        (&json!("to"), &json!("0ms"), &json!("0"))
    );
    // The schema answers 422, the webhook 403, and names fields as Go does.
    let (code, text) = network
        .refused("x", &json!({"action": "explode", "mode": "all", "selector": {}}))
        .await;
    assert_eq!(code, 422, "{text}");
    let pods = Kind::new(&lab, "PodChaos", "podchaos");
    let kill =
        |duration: &str| json!({"action": "pod-kill", "mode": "all", "selector": only("none"), "duration": duration});
    let (code, text) = pods.refused("x", &kill("5d")).await;
    assert_eq!(code, 403, "{text}");
    assert!(
        text.starts_with("admission webhook \"vpodchaos.kb.io\" denied the request: Spec.Duration"),
        "{text}"
    );
    // A spec never changes; metadata does, and does not count.
    let patch = Patch::Merge(json!({"spec": {"direction": "both"}}));
    let error = network.api.patch("filled", &PatchParams::default(), &patch).await;
    assert!(error.unwrap_err().to_string().contains("Cannot update chaos spec"));
    // Nothing matches: told by an event only, and nothing is selected.
    let quiet = network
        .wait("filled", "worked on", |object| {
            !object["status"]["conditions"].is_null()
        })
        .await;
    assert!(
        !condition(&quiet, "Selected") && !condition(&quiet, "AllRecovered"),
        "{quiet:#}"
    );
    let generation = quiet["metadata"]["generation"].as_i64().unwrap();
    assert!(generation >= 3, "a status is no subresource and counts: {generation}");
    let touched = network
        .patch("filled", json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!(touched["metadata"]["generation"], json!(generation));
    let status = "/apis/chaos-mesh.org/v1alpha1/namespaces/default/networkchaos/filled/status";
    let request = http::Request::get(status).body(Vec::new()).unwrap();
    match lab.client().request::<Value>(request).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 404),
        other => panic!("no /status here: {other:?}"),
    }

    // Without its controller-manager the webhook cannot be called, and nobody takes the finalizer off.
    scale(lab.client(), 0).await;
    components(&lab, 0, 3).await;
    let (code, text) = pods.refused("x", &kill("5s")).await;
    assert_eq!(code, 500, "{text}");
    assert!(text.contains("failed calling webhook \"mpodchaos.kb.io\""), "{text}");
    network.delete("filled").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let hanging = network.get("filled").await;
    assert_eq!(hanging["metadata"]["finalizers"], json!(["chaos-mesh/records"]));
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let error = network.api.patch("filled", &PatchParams::default(), &free).await;
    assert!(error.unwrap_err().to_string().contains("failed calling webhook"));
    scale(lab.client(), 1).await;
    network.gone("filled").await;
    until("a write is taken again", || async {
        let object = pods.object("again", &kill("5s"));
        pods.api.create(&PostParams::default(), &object).await.is_ok()
    })
    .await;
    lab.stop().await.unwrap();
}
