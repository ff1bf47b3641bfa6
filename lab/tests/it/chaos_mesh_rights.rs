//! Rights in the double of Chaos Mesh: whoever creates an experiment needs the right to do so wherever it selects from.

use crate::chaos_mesh_support::{Kind, install, lab, only};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Config};
use serde_json::{Value, json};

/// Lets `ann` create a kind in a namespace.
async fn allow(lab: &chaosrun_lab::lifecycle::Lab, namespace: &str, resource: &str) {
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": resource},
        "rules": [{"apiGroups": ["chaos-mesh.org"], "resources": [resource], "verbs": ["create"]}],
    }))
    .unwrap();
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": resource},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": resource},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}],
    }))
    .unwrap();
    let roles: Api<Role> = Api::namespaced(lab.client(), namespace);
    roles.create(&PostParams::default(), &role).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(lab.client(), namespace);
    bindings.create(&PostParams::default(), &binding).await.unwrap();
}

/// A client over the wire: the one in this process may do everything.
async fn client_of_ann(lab: &chaosrun_lab::lifecycle::Lab) -> kube::Client {
    let text = std::fs::read_to_string(&lab.info().kubeconfig).unwrap();
    let mut file: Kubeconfig = serde_yaml::from_str(&text).unwrap();
    for user in &mut file.auth_infos {
        user.auth_info.as_mut().unwrap().impersonate = Some("ann".to_owned());
    }
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .unwrap();
    kube::Client::try_from(config).unwrap()
}

/// Code and message when `ann` creates an object in the default namespace; 201 when she may.
async fn create_as_ann(lab: &chaosrun_lab::lifecycle::Lab, plural: &str, object: &Value) -> (u16, String) {
    let path = format!("/apis/chaos-mesh.org/v1alpha1/namespaces/default/{plural}");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object).unwrap())
        .unwrap();
    match client_of_ann(lab).await.request::<Value>(request).await {
        Ok(_) => (201, String::new()),
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_selects_from_a_namespace_needs_a_right_there_also_for_peers() {
    let lab = lab("mesh-rights").await;
    install(&lab).await;
    let namespaces: Api<Namespace> = Api::all(lab.client());
    let other: Namespace = serde_json::from_value(json!({"metadata": {"name": "other"}})).unwrap();
    namespaces.create(&PostParams::default(), &other).await.unwrap();
    let kind = Kind::new(&lab, "NetworkChaos", "networkchaos");
    let cut = |name: &str| {
        let target = json!({"mode": "all", "selector": {"namespaces": ["other"]}});
        let spec = json!({"action": "partition", "mode": "all", "selector": only("none"), "target": target});
        serde_json::to_value(kind.object(name, &spec)).unwrap()
    };

    let (code, text) = create_as_ann(&lab, "networkchaos", &cut("a")).await;
    assert!(code == 403 && !text.contains("webhook"), "{code} {text}");
    allow(&lab, "default", "networkchaos").await;
    let (code, text) = create_as_ann(&lab, "networkchaos", &cut("b")).await;
    assert_eq!(
        (code, text.as_str()),
        (
            403,
            "admission webhook \"vauth.kb.io\" denied the request: ann is forbidden on namespace other"
        )
    );
    allow(&lab, "other", "networkchaos").await;
    assert_eq!(
        create_as_ann(&lab, "networkchaos", &cut("c")).await,
        (201, String::new())
    );

    // A Schedule needs the right to its kind by its name, which is not its plural.
    allow(&lab, "default", "schedules").await;
    let kill = json!({"action": "pod-kill", "mode": "all", "selector": only("none")});
    let spec = json!({"schedule": "@hourly", "type": "PodChaos", "podChaos": kill});
    let object = serde_json::to_value(Kind::new(&lab, "Schedule", "schedules").object("s", &spec)).unwrap();
    let (code, text) = create_as_ann(&lab, "schedules", &object).await;
    assert!(code == 403 && text.contains("vauth"), "{code} {text}");
    allow(&lab, "default", "schedule").await;
    assert_eq!(create_as_ann(&lab, "schedules", &object).await, (201, String::new()));

    // Without the configuration nobody asks, as after an installation with securityMode=false.
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(lab.client());
    configurations
        .delete("chaos-mesh-validation-auth", &DeleteParams::default())
        .await
        .unwrap();
    let roles: Api<Role> = Api::namespaced(lab.client(), "other");
    roles.delete("networkchaos", &DeleteParams::default()).await.unwrap();
    assert_eq!(
        create_as_ann(&lab, "networkchaos", &cut("d")).await,
        (201, String::new())
    );
    lab.stop().await.unwrap();
}
