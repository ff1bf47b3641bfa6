//! The API server over real TCP and TLS, with kube's client and with bare HTTP.

use rustls::pki_types::pem::PemObject;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chaosrun_lab::api::{ApiServer, ApiServerConfig, ServeHandle};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, Service};
use kube::api::{
    Api, DeleteParams, DynamicObject, EvictParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams,
    Preconditions, PropagationPolicy, WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

struct Lab {
    server: Arc<ApiServer>,
    handle: Option<ServeHandle>,
    address: SocketAddr,
    client: Client,
}

async fn lab_with(config: ApiServerConfig) -> Lab {
    let server = ApiServer::new(config).unwrap();
    let handle = server
        .serve(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .await
        .unwrap();
    let address = *handle.addresses().first().unwrap();
    let client = tls_client(&server).await;
    Lab {
        server,
        handle: Some(handle),
        address,
        client,
    }
}

async fn lab() -> Lab {
    lab_with(ApiServerConfig {
        bookmark_interval: Duration::from_millis(200),
        ..ApiServerConfig::default()
    })
    .await
}

async fn tls_client(server: &ApiServer) -> Client {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig_yaml()).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
        .await
        .unwrap();
    config.read_timeout = Some(Duration::from_secs(20));
    Client::try_from(config).unwrap()
}

fn http(lab: &Lab) -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    let authority = reqwest::Certificate::from_pem(lab.server.ca_pem().as_bytes()).unwrap();
    reqwest::Client::builder().tls_certs_only([authority]).build().unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "1"}})).unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "main", "image": "busybox", "env": [{"name": "A", "value": "1"}]}]},
    }))
    .unwrap()
}

fn code(error: &kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("no API error: {other:?}"),
    }
}

async fn eventually<F, T>(what: &str, mut check: F)
where
    F: AsyncFnMut() -> Option<T>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while check().await.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "waited 5 s for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn bind(lab: &Lab, name: &str) {
    let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": "node-1"}});
    let request = http::Request::post(format!("/api/v1/namespaces/default/pods/{name}/binding"))
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .unwrap();
    lab.client.request::<Value>(request).await.unwrap();
}

#[tokio::test]
async fn objects_are_created_read_updated_and_deleted() {
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let created = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    assert!(created.uid().is_some() && created.resource_version().is_some());
    assert!(created.creation_timestamp().is_some());
    let again = api.create(&PostParams::default(), &config_map("a")).await.unwrap_err();
    assert_eq!(code(&again), (409, "AlreadyExists".to_owned()));

    let mut changed = created.clone();
    changed.data.as_mut().unwrap().insert("b".to_owned(), "2".to_owned());
    let updated = api.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(updated.resource_version(), created.resource_version());
    let stale = api.replace("a", &PostParams::default(), &created).await.unwrap_err();
    assert_eq!(code(&stale), (409, "Conflict".to_owned()));
    let unchanged = api.replace("a", &PostParams::default(), &updated).await.unwrap();
    assert_eq!(
        unchanged.resource_version(),
        updated.resource_version(),
        "a write without a change is none"
    );

    let wrong = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some("x".to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    assert_eq!(code(&api.delete("a", &wrong).await.unwrap_err()).0, 409);
    api.delete(
        "a",
        &DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        },
    )
    .await
    .unwrap();
    api.get("a").await.unwrap();
    api.delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .right()
        .unwrap();
    assert_eq!(code(&api.get("a").await.unwrap_err()), (404, "NotFound".to_owned()));
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_store_nothing() {
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let generated = ConfigMap {
        metadata: ObjectMeta {
            generate_name: Some("gen-".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    let first = api.create(&PostParams::default(), &generated).await.unwrap().name_any();
    let second = api.create(&PostParams::default(), &generated).await.unwrap().name_any();
    assert!(first.starts_with("gen-") && first.len() == 9 && first != second);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&dry, &config_map("dry")).await.unwrap();
    assert_eq!(code(&api.get("dry").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec_only() {
    let lab = lab().await;
    let api: Api<Deployment> = Api::default_namespaced(lab.client.clone());
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}}},
    }))
    .unwrap();
    let created = api.create(&PostParams::default(), &deployment).await.unwrap();
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.spec.as_ref().unwrap().replicas, Some(1));
    let patch = |value: Value| Patch::Merge(value);
    let labelled = api
        .patch(
            "web",
            &PatchParams::default(),
            &patch(json!({"metadata": {"labels": {"a": "b"}}})),
        )
        .await
        .unwrap();
    assert_eq!(labelled.metadata.generation, Some(1));
    let status = api
        .patch_status(
            "web",
            &PatchParams::default(),
            &patch(json!({"status": {"replicas": 1}, "spec": {"replicas": 9}})),
        )
        .await
        .unwrap();
    assert_eq!(
        (status.metadata.generation, status.spec.unwrap().replicas),
        (Some(1), Some(1))
    );
    assert_eq!(status.status.unwrap().replicas, Some(1));
    let scaled = api
        .patch_scale("web", &PatchParams::default(), &patch(json!({"spec": {"replicas": 3}})))
        .await
        .unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(3));
    assert_eq!(
        api.get_scale("web").await.unwrap().status.unwrap().selector.as_deref(),
        Some("app=web")
    );
    let now = api.get("web").await.unwrap();
    assert_eq!(
        (now.metadata.generation, now.spec.unwrap().replicas),
        (Some(2), Some(3))
    );
    assert_eq!(now.status.unwrap().replicas, Some(1), "scaling leaves the status alone");
}

#[tokio::test]
async fn lists_select_and_page() {
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    for name in ["a", "b", "c", "d", "e"] {
        api.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let names = async |selector: &str| -> Vec<String> {
        let found = api.list(&ListParams::default().labels(selector)).await.unwrap();
        found.items.iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(names("app=a").await, ["a"]);
    assert_eq!(names("app in (a,c)").await, ["a", "c"]);
    assert_eq!(names("app,app notin (a,b),app!=c").await, ["d", "e"]);
    assert_eq!(names("!app").await, ["kube-root-ca.crt"]);
    let by_field = api
        .list(&ListParams::default().fields("metadata.name=b"))
        .await
        .unwrap();
    assert_eq!(by_field.items.len(), 1);
    let bad = api.list(&ListParams::default().fields("data.a=1")).await.unwrap_err();
    assert_eq!(code(&bad).0, 400);

    let page = ListParams::default().limit(4);
    let first = api.list(&page).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (4, Some(2)));
    let token = first.metadata.continue_.clone().unwrap();
    let rest = api.list(&page.clone().continue_token(&token)).await.unwrap();
    assert_eq!((rest.items.len(), rest.metadata.continue_), (2, None));
    lab.server.store().compact();
    api.create(&PostParams::default(), &config_map("f")).await.unwrap();
    lab.server.store().compact();
    let expired = api.list(&page.continue_token(&token)).await.unwrap_err();
    assert_eq!(code(&expired), (410, "Expired".to_owned()));
}

#[tokio::test]
async fn a_watch_resumes_and_expires() {
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let first = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    api.create(&PostParams::default(), &config_map("b")).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let from = first.resource_version().unwrap();
    let parameters = WatchParams::default().timeout(5);
    let mut events = api.watch(&parameters, &from).await.unwrap().boxed();
    let WatchEvent::Added(added) = events.try_next().await.unwrap().unwrap() else {
        panic!("expected ADDED")
    };
    assert_eq!(added.name_any(), "b");
    let WatchEvent::Deleted(deleted) = events.try_next().await.unwrap().unwrap() else {
        panic!("expected DELETED")
    };
    assert_eq!(deleted.name_any(), "a");
    assert!(deleted.resource_version().unwrap().parse::<u64>().unwrap() > from.parse().unwrap());
    let WatchEvent::Bookmark(_) = events.try_next().await.unwrap().unwrap() else {
        panic!("expected BOOKMARK")
    };

    lab.server.store().compact();
    let mut events = api.watch(&parameters, &from).await.unwrap().boxed();
    let WatchEvent::Error(status) = events.try_next().await.unwrap().unwrap() else {
        panic!("expected ERROR")
    };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(
        events.try_next().await.unwrap().is_none(),
        "the watch ends after the error"
    );
}

#[tokio::test]
async fn a_watch_shows_objects_that_come_to_match_and_cease_to() {
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let start = api
        .create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap()
        .resource_version()
        .unwrap();
    let parameters = WatchParams::default().labels("on=yes").timeout(5).disable_bookmarks();
    let mut events = api.watch(&parameters, &start).await.unwrap().boxed();
    for labels in [json!({"on": "yes"}), json!({"more": "yes"}), json!({"on": null})] {
        api.patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"labels": labels}})),
        )
        .await
        .unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
            _ => "other",
        });
    }
    assert_eq!(seen, ["ADDED", "MODIFIED", "DELETED"]);
}

#[tokio::test]
async fn a_watcher_lists_once_streams_and_survives_a_restart() {
    let mut lab = lab().await;
    for strategy in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
        let stream = watcher(api.clone(), strategy).default_backoff().applied_objects();
        let mut stream = std::pin::pin!(stream);
        let first = tokio::time::timeout(Duration::from_secs(5), stream.try_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(!first.name_any().is_empty());
        lab.handle.take().unwrap().stop().await;
        assert!(
            tokio::net::TcpStream::connect(lab.address).await.is_err(),
            "nobody listens while it is stopped"
        );
        let name = format!("during-{}", lab.server.store().revision());
        let inside: Api<ConfigMap> = Api::default_namespaced(lab.server.client("test"));
        inside.create(&PostParams::default(), &config_map(&name)).await.unwrap();
        lab.handle = Some(lab.server.serve(&[lab.address]).await.unwrap());
        let found = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                if let Ok(Some(object)) = stream.try_next().await
                    && object.name_any() == name
                {
                    return;
                }
            }
        });
        found
            .await
            .expect("the watcher sees what was created while the server was away");
    }
}

#[tokio::test]
async fn a_watch_by_websocket_sends_one_text_frame_per_event() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let url = format!(
        "ws://{}/api/v1/namespaces/default/configmaps?watch=true&labelSelector=app%3Da",
        lab.address
    );
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {}", lab.server.admin_token());
    request.headers_mut().insert("authorization", token.parse().unwrap());
    let tcp = tokio::net::TcpStream::connect(lab.address).await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(lab.server.ca_pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.status(), 101);
    api.delete("a", &DeleteParams::default()).await.unwrap();
    for expected in ["ADDED", "DELETED"] {
        let frame = socket.next().await.unwrap().unwrap();
        let event: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
        assert_eq!(event.get("type").unwrap(), expected);
    }
    lab.handle.unwrap().stop().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), socket.next())
        .await
        .unwrap();
    assert!(
        !matches!(ended, Some(Ok(ref message)) if message.is_text()),
        "stopping drops upgraded connections"
    );
}

#[tokio::test]
async fn patches_of_three_kinds() {
    let lab = lab().await;
    let api: Api<Pod> = Api::default_namespaced(lab.client.clone());
    api.create(&PostParams::default(), &pod("p")).await.unwrap();
    let strategic = json!({"spec": {"containers": [{"name": "main", "image": "busybox:2"}]}});
    let patched = api
        .patch("p", &PatchParams::default(), &Patch::Strategic(strategic))
        .await
        .unwrap();
    let container = patched.spec.unwrap().containers.into_iter().next().unwrap();
    assert_eq!(container.image.as_deref(), Some("busybox:2"));
    assert_eq!(container.env.unwrap().len(), 1, "what the patch does not name stays");
    let json_patch =
        serde_json::from_value(json!([{"op": "add", "path": "/metadata/labels/new", "value": "1"}])).unwrap();
    let patched = api
        .patch("p", &PatchParams::default(), &Patch::Json::<()>(json_patch))
        .await
        .unwrap();
    assert_eq!(patched.labels().get("new").map(String::as_str), Some("1"));
    let failing =
        serde_json::from_value(json!([{"op": "test", "path": "/metadata/labels/new", "value": "2"}])).unwrap();
    let error = api
        .patch("p", &PatchParams::default(), &Patch::Json::<()>(failing))
        .await
        .unwrap_err();
    assert_eq!(code(&error), (422, "Invalid".to_owned()));
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"x": "y"}}});
    let error = api
        .patch("p", &PatchParams::default(), &Patch::Merge(stale))
        .await
        .unwrap_err();
    assert_eq!(code(&error), (409, "Conflict".to_owned()));
    let immutable = json!({"spec": {"containers": [{"name": "main", "command": ["x"]}]}});
    let error = api
        .patch("p", &PatchParams::default(), &Patch::Strategic(immutable))
        .await
        .unwrap_err();
    assert_eq!(code(&error), (422, "Invalid".to_owned()));
}

#[tokio::test]
async fn a_pod_ends_gracefully_or_at_once() {
    let lab = lab().await;
    let api: Api<Pod> = Api::default_namespaced(lab.client.clone());
    let created = api.create(&PostParams::default(), &pod("p")).await.unwrap();
    assert_eq!(created.status.unwrap().phase.as_deref(), Some("Pending"));
    api.delete("p", &DeleteParams::default()).await.unwrap();
    assert!(
        api.get_opt("p").await.unwrap().is_none(),
        "a pod that no node runs goes at once"
    );

    api.create(&PostParams::default(), &pod("p")).await.unwrap();
    bind(&lab, "p").await;
    api.delete("p", &DeleteParams::default().grace_period(20))
        .await
        .unwrap();
    let ending = api.get("p").await.unwrap();
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(20));
    assert!(ending.metadata.deletion_timestamp.is_some());
    api.delete("p", &DeleteParams::default()).await.unwrap();
    let still = api.get("p").await.unwrap();
    assert_eq!(
        still.metadata.deletion_timestamp, ending.metadata.deletion_timestamp,
        "30 s does not lengthen 20 s"
    );
    api.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(api.get_opt("p").await.unwrap().is_none());
}

#[tokio::test]
async fn finalizers_hold_an_object_back() {
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let mut held = config_map("held");
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    api.delete("held", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert!(api.get("held").await.unwrap().metadata.deletion_timestamp.is_some());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let error = api
        .patch("held", &PatchParams::default(), &Patch::Merge(more))
        .await
        .unwrap_err();
    assert_eq!(code(&error).0, 422);
    let none = json!({"metadata": {"finalizers": null}});
    api.patch("held", &PatchParams::default(), &Patch::Merge(none))
        .await
        .unwrap();
    assert!(api.get_opt("held").await.unwrap().is_none());
}

fn owned(name: &str, owner: &ConfigMap, blocks: bool) -> ConfigMap {
    let mut object = config_map(name);
    object.metadata.owner_references = Some(vec![
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
            "blockOwnerDeletion": blocks,
        }))
        .unwrap(),
    ]);
    object
}

#[tokio::test]
async fn dependents_follow_their_owner() {
    let lab = lab().await;
    let api: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let create = async |object: &ConfigMap| api.create(&PostParams::default(), object).await.unwrap();

    let owner = create(&config_map("background")).await;
    let child = create(&owned("child", &owner, true)).await;
    create(&owned("grandchild", &child, true)).await;
    api.delete("background", &DeleteParams::background()).await.unwrap();
    eventually("child and grandchild to go", async || {
        (api.get_opt("child").await.unwrap().is_none() && api.get_opt("grandchild").await.unwrap().is_none())
            .then_some(())
    })
    .await;

    let owner = create(&config_map("foreground")).await;
    let mut child = owned("held", &owner, true);
    child.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    create(&child).await;
    api.delete("foreground", &DeleteParams::foreground()).await.unwrap();
    eventually("the child to be deleting", async || {
        api.get("held").await.unwrap().metadata.deletion_timestamp
    })
    .await;
    let waiting = api.get("foreground").await.unwrap();
    assert_eq!(
        waiting.finalizers(),
        ["foregroundDeletion"],
        "the owner waits for a blocking child"
    );
    api.patch(
        "held",
        &PatchParams::default(),
        &Patch::Merge(json!({"metadata": {"finalizers": null}})),
    )
    .await
    .unwrap();
    eventually("the owner to go", async || {
        api.get_opt("foreground").await.unwrap().is_none().then_some(())
    })
    .await;

    let owner = create(&config_map("orphaning")).await;
    create(&owned("orphan", &owner, true)).await;
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    api.delete("orphaning", &orphan).await.unwrap();
    eventually("the owner to go", async || {
        api.get_opt("orphaning").await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(api.get("orphan").await.unwrap().owner_references().is_empty());

    let mut unknown = config_map("never");
    unknown.metadata.uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
    create(&owned("lost", &unknown, false)).await;
    eventually("the child of nobody to go", async || {
        api.get_opt("lost").await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_namespace_takes_its_content_along() {
    let lab = lab().await;
    let namespaces: Api<Namespace> = Api::all(lab.client.clone());
    let missing: Api<ConfigMap> = Api::namespaced(lab.client.clone(), "gone");
    assert_eq!(
        code(
            &missing
                .create(&PostParams::default(), &config_map("a"))
                .await
                .unwrap_err()
        )
        .0,
        404
    );
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "gone"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(lab.client.clone(), "gone");
    accounts.get("default").await.unwrap();
    let mut held = config_map("held");
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    missing.create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("gone", &DeleteParams::default()).await.unwrap();
    assert_eq!(
        namespaces.get("gone").await.unwrap().status.unwrap().phase.as_deref(),
        Some("Terminating")
    );
    let refused = missing
        .create(&PostParams::default(), &config_map("late"))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), (403, "Forbidden".to_owned()));
    eventually("the content to be deleting", async || {
        missing.get("held").await.unwrap().metadata.deletion_timestamp
    })
    .await;
    missing
        .patch(
            "held",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"finalizers": null}})),
        )
        .await
        .unwrap();
    eventually("the namespace to go", async || {
        namespaces.get_opt("gone").await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn eviction_asks_the_disruption_budget() {
    let lab = lab().await;
    // kube's own client waits and tries again on 429; this one shows the answer.
    let pods: Api<Pod> = Api::default_namespaced(lab.server.client("test"));
    pods.create(&PostParams::default(), &pod("p")).await.unwrap();
    bind(&lab, "p").await;
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    pods.patch_status("p", &PatchParams::default(), &Patch::Merge(running))
        .await
        .unwrap();
    let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> = Api::default_namespaced(lab.client.clone());
    let budget = serde_json::from_value(json!({
        "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    }))
    .unwrap();
    budgets.create(&PostParams::default(), &budget).await.unwrap();
    let status = |allowed: i64| json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    budgets
        .patch_status("b", &PatchParams::default(), &Patch::Merge(status(0)))
        .await
        .unwrap();
    let refused = pods.evict("p", &EvictParams::default()).await.unwrap_err();
    assert_eq!(code(&refused), (429, "TooManyRequests".to_owned()));
    let kube::Error::Api(refused) = refused else {
        panic!("an API error")
    };
    assert_eq!(
        refused.details.as_ref().unwrap().causes.first().unwrap().reason,
        "DisruptionBudget"
    );
    assert!(pods.get("p").await.unwrap().metadata.deletion_timestamp.is_none());
    budgets
        .patch_status("b", &PatchParams::default(), &Patch::Merge(status(1)))
        .await
        .unwrap();
    pods.evict("p", &EvictParams::default()).await.unwrap();
    assert!(pods.get("p").await.unwrap().metadata.deletion_timestamp.is_some());
    assert_eq!(budgets.get("b").await.unwrap().status.unwrap().disruptions_allowed, 0);
}

#[tokio::test]
async fn custom_resources_come_and_go_with_their_definition() {
    let lab = lab().await;
    let definitions: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(lab.client.clone());
    let definition = serde_json::from_value(json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    }))
    .unwrap();
    let created = definitions.create(&PostParams::default(), &definition).await.unwrap();
    let established = created.status.unwrap().conditions.unwrap();
    assert!(
        established
            .iter()
            .any(|one| one.type_ == "Established" && one.status == "True")
    );
    let resource = kube::discovery::pinned_kind(&lab.client, &GroupVersionKind::gvk("example.com", "v1", "Widget"))
        .await
        .unwrap()
        .0;
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(lab.client.clone(), &resource);
    let widget = DynamicObject::new("w", &resource).data(json!({"spec": {"size": 1}, "status": {"x": 1}}));
    let created = widgets.create(&PostParams::default(), &widget).await.unwrap();
    assert!(
        created.data.get("status").is_none(),
        "the status is written through its subresource only"
    );
    definitions
        .delete("widgets.example.com", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the definition to go", async || {
        definitions
            .get_opt("widgets.example.com")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    assert_eq!(code(&widgets.get("w").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_right_status() {
    let lab = lab().await;
    let http = http(&lab);
    let base = format!("https://localhost:{}", lab.address.port());
    let send = async |method: &str, path: &str, media: &str, body: Vec<u8>| {
        let request = http
            .request(method.parse().unwrap(), format!("{base}{path}"))
            .bearer_auth(lab.server.admin_token())
            .header("content-type", media)
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap_or_default())
    };
    assert_eq!(
        http.get(format!("{base}/api/v1/pods")).send().await.unwrap().status(),
        401
    );
    assert_eq!(
        http.get(format!("{base}/api/v1/pods"))
            .bearer_auth("wrong")
            .send()
            .await
            .unwrap()
            .status(),
        401
    );
    assert_eq!(
        http.get(format!("{base}/readyz"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "ok"
    );
    let path = "/api/v1/namespaces/default/configmaps";
    let json = "application/json";
    assert_eq!(send("POST", path, json, b"{not json".to_vec()).await.0, 400);
    assert_eq!(
        send(
            "POST",
            path,
            json,
            br#"{"kind":"Pod","metadata":{"name":"x"}}"#.to_vec()
        )
        .await
        .0,
        400
    );
    assert_eq!(
        send(
            "POST",
            path,
            json,
            br#"{"metadata":{"name":"x","namespace":"other"}}"#.to_vec()
        )
        .await
        .0,
        400
    );
    assert_eq!(send("POST", path, json, vec![b' '; 4 * 1024 * 1024]).await.0, 413);
    assert_eq!(send("POST", path, "text/plain", b"{}".to_vec()).await.0, 415);
    assert_eq!(send("PUT", path, json, b"{}".to_vec()).await.0, 405);
    assert_eq!(send("GET", "/api/v1/nothings", json, Vec::new()).await.0, 404);
    let (status, body) = send("POST", path, json, br#"{"metadata":{"name":"Not_Valid"}}"#.to_vec()).await;
    assert_eq!(
        (status, body.pointer("/details/causes/0/field").unwrap()),
        (422, &json!("metadata.name"))
    );
    let yaml = b"metadata:\n  name: from-yaml\ndata:\n  a: 'yes'\n".to_vec();
    assert_eq!(send("POST", path, "application/yaml", yaml).await.0, 201);
    let strict = format!("{path}?fieldValidation=Strict");
    assert_eq!(
        send("POST", &strict, json, br#"{"metadata":{"name":"s"},"dta":{}}"#.to_vec())
            .await
            .0,
        400
    );
    let accept = http
        .get(format!("{base}{path}"))
        .bearer_auth(lab.server.admin_token())
        .header("accept", "application/vnd.kubernetes.protobuf,application/json")
        .send()
        .await
        .unwrap();
    assert_eq!(accept.headers().get("content-type").unwrap(), "application/json");
}

#[tokio::test]
async fn pods_are_validated_and_get_defaults() {
    let lab = lab().await;
    let api: Api<Pod> = Api::default_namespaced(lab.client.clone());
    let empty: Pod = serde_json::from_value(json!({"metadata": {"name": "e"}, "spec": {"containers": []}})).unwrap();
    let error = api.create(&PostParams::default(), &empty).await.unwrap_err();
    assert_eq!(code(&error), (422, "Invalid".to_owned()));
    let created = api.create(&PostParams::default(), &pod("p")).await.unwrap();
    let spec = created.spec.unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    assert_eq!(
        spec.containers.first().unwrap().image_pull_policy.as_deref(),
        Some("Always")
    );
    assert_eq!(created.status.unwrap().qos_class.as_deref(), Some("BestEffort"));
    let mut stranger = pod("q");
    stranger.spec.as_mut().unwrap().service_account_name = Some("nobody".to_owned());
    assert_eq!(
        code(&api.create(&PostParams::default(), &stranger).await.unwrap_err()).0,
        403
    );
    let services: Api<Service> = Api::default_namespaced(lab.client.clone());
    let service =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})).unwrap();
    let spec = services
        .create(&PostParams::default(), &service)
        .await
        .unwrap()
        .spec
        .unwrap();
    assert!(spec.cluster_ip.unwrap().starts_with("10.96."));
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
}

#[tokio::test]
async fn events_show_both_faces() {
    let lab = lab().await;
    let new: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(lab.client.clone());
    let event = serde_json::from_value(json!({
        "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "Started", "type": "Normal",
        "action": "Start", "note": "started", "reportingController": "test", "reportingInstance": "test-1",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    }))
    .unwrap();
    let created = new.create(&PostParams::default(), &event).await.unwrap();
    assert_eq!(created.note.as_deref(), Some("started"));
    let old: Api<Event> = Api::default_namespaced(lab.client.clone());
    let found = old
        .list(&ListParams::default().fields("involvedObject.name=p,reason=Started"))
        .await
        .unwrap();
    assert_eq!(found.items.first().unwrap().message.as_deref(), Some("started"));
}

#[tokio::test]
async fn requests_are_counted_per_client() {
    let lab = lab().await;
    let client = lab.server.client("counted/1.0");
    let api: Api<Pod> = Api::namespaced(client, "default");
    api.list(&ListParams::default()).await.unwrap();
    drop(api.watch(&WatchParams::default(), "0").await.unwrap());
    let counted: Vec<(String, u64)> = lab
        .server
        .requests()
        .into_iter()
        .filter(|one| one.user_agent == "counted/1.0" && one.resource == "pods" && one.namespace == "default")
        .map(|one| (one.verb, one.count))
        .collect();
    assert_eq!(counted, [("list".to_owned(), 1), ("watch".to_owned(), 1)]);
}

#[tokio::test]
async fn ten_thousand_pods_list_and_watch_quickly() {
    let lab = lab().await;
    let api: Api<Pod> = Api::default_namespaced(lab.server.client("bulk"));
    let begun = std::time::Instant::now();
    for index in 0..10_000 {
        api.create(&PostParams::default(), &pod(&format!("p-{index}")))
            .await
            .unwrap();
    }
    let created = begun.elapsed();
    let begun = std::time::Instant::now();
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 10_000);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "creating took {created:?}, listing {:?}",
        begun.elapsed()
    );
    let events = api.watch(&WatchParams::default().timeout(60), "0").await.unwrap();
    assert_eq!(events.take(10_000).count().await, 10_000);
    api.delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
}
