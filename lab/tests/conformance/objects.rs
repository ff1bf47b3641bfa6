//! Objects: create, read, update, delete, and what guards them.

use serde_json::{Value, json};

use crate::harness::{MERGE, config_map, conformance, names, text};

#[test]
fn an_object_is_created_read_replaced_and_deleted() {
    conformance(async |target| {
        let (all, one) = (target.path("configmaps"), target.path("configmaps/a"));
        let created = target.create(&all, &config_map("a")).await;
        assert_eq!(created["kind"], "ConfigMap");
        assert!(!text(&created, "/metadata/uid").is_empty());
        let mut read = target.read(&one).await;
        assert_eq!(read, created);
        read["data"]["b"] = json!("2");
        let (code, replaced) = target.put(&one, &read).await;
        assert_eq!(code, 200, "{replaced}");
        assert_eq!(replaced["data"], json!({"a": "1", "b": "2"}));
        assert_ne!(
            replaced["metadata"]["resourceVersion"],
            created["metadata"]["resourceVersion"]
        );
        assert_eq!(replaced["metadata"]["uid"], created["metadata"]["uid"]);
        let (code, status) = target.delete(&one).await;
        assert_eq!((code, &status["status"]), (200, &json!("Success")));
        let (code, status) = target.get(&one).await;
        assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
        assert_eq!(status["message"], "configmaps \"a\" not found");
    });
}

#[test]
fn a_name_that_is_taken_is_refused() {
    conformance(async |target| {
        let all = target.path("configmaps");
        target.create(&all, &config_map("a")).await;
        let (code, status) = target.post(&all, &config_map("a")).await;
        assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
        assert_eq!(status["details"]["kind"], "configmaps");
    });
}

#[test]
fn a_name_that_is_no_dns_name_is_invalid() {
    conformance(async |target| {
        let (code, status) = target.post(&target.path("configmaps"), &config_map("Not_A_Name")).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
        assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
    });
}

#[test]
fn required_fields_are_required() {
    conformance(async |target| {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
        let (code, status) = target.post(&target.path("pods"), &pod).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
        assert!(
            text(&status, "/message").contains("spec.containers: Required value"),
            "{status}"
        );
    });
}

#[test]
fn generate_name_makes_names_that_differ() {
    conformance(async |target| {
        let body = json!({"metadata": {"generateName": "made-"}});
        let first = target.create(&target.path("configmaps"), &body).await;
        let second = target.create(&target.path("configmaps"), &body).await;
        assert!(text(&first, "/metadata/name").starts_with("made-"));
        assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
        assert_eq!(first["metadata"]["generateName"], "made-");
    });
}

#[test]
fn a_stale_resource_version_is_a_conflict() {
    conformance(async |target| {
        let one = target.path("configmaps/a");
        let stale = target.create(&target.path("configmaps"), &config_map("a")).await;
        target.patch(MERGE, &one, &json!({"data": {"a": "2"}})).await;
        let (code, status) = target.put(&one, &stale).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
        assert!(
            text(&status, "/message").contains("the object has been modified"),
            "{status}"
        );
        let version = &stale["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version}, "data": {"a": "3"}});
        let (code, status) = target.patch(MERGE, &one, &patch).await;
        assert_eq!(code, 409, "{status}");
        let options = json!({"preconditions": {"resourceVersion": version}});
        assert_eq!(target.delete_with(&one, &options).await.0, 409);
        let options = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
        assert_eq!(target.delete_with(&one, &options).await.0, 409);
        assert_eq!(target.read(&one).await["data"]["a"], "2");
    });
}

#[test]
fn a_write_that_changes_nothing_keeps_the_resource_version() {
    conformance(async |target| {
        let created = target.create(&target.path("configmaps"), &config_map("a")).await;
        let (_, patched) = target
            .patch(MERGE, &target.path("configmaps/a"), &json!({"data": {"a": "1"}}))
            .await;
        assert_eq!(
            patched["metadata"]["resourceVersion"],
            created["metadata"]["resourceVersion"]
        );
    });
}

#[test]
fn a_dry_run_answers_and_changes_nothing() {
    conformance(async |target| {
        let all = target.path("configmaps");
        let (code, answer) = target.post(&format!("{all}?dryRun=All"), &config_map("a")).await;
        assert_eq!(code, 201, "{answer}");
        assert!(!text(&answer, "/metadata/uid").is_empty());
        assert_eq!(target.get(&format!("{all}/a")).await.0, 404);
        target.create(&all, &config_map("a")).await;
        let patch = json!({"data": {"a": "9"}});
        let (code, answer) = target.patch(MERGE, &format!("{all}/a?dryRun=All"), &patch).await;
        assert_eq!((code, &answer["data"]["a"]), (200, &json!("9")));
        assert_eq!(target.delete(&format!("{all}/a?dryRun=All")).await.0, 200);
        assert_eq!(target.read(&format!("{all}/a")).await["data"]["a"], "1");
    });
}

#[test]
fn lists_come_in_pages() {
    conformance(async |target| {
        let all = target.path("configmaps");
        let label = json!({"set": "paged"});
        for index in 0..5 {
            let mut one = config_map(&format!("page-{index}"));
            one["metadata"]["labels"] = label.clone();
            target.create(&all, &one).await;
        }
        let query = format!("{all}?labelSelector=set%3Dpaged&limit=2");
        let first = target.read(&query).await;
        assert_eq!(names(&first), ["page-0", "page-1"]);
        let token = text(&first, "/metadata/continue").to_owned();
        let second = target.read(&format!("{query}&continue={token}")).await;
        assert_eq!(names(&second), ["page-2", "page-3"]);
        let token = text(&second, "/metadata/continue").to_owned();
        let third = target.read(&format!("{query}&continue={token}")).await;
        assert_eq!(names(&third), ["page-4"]);
        assert_eq!(third["metadata"]["continue"].as_str().unwrap_or_default(), "");
        assert_eq!(target.get(&format!("{query}&continue=nonsense")).await.0, 400);
    });
}

#[test]
fn a_collection_is_deleted_by_selector() {
    conformance(async |target| {
        let all = target.path("configmaps");
        for (name, group) in [("a", "x"), ("b", "x"), ("c", "y")] {
            let mut one = config_map(name);
            one["metadata"]["labels"] = json!({"group": group});
            target.create(&all, &one).await;
        }
        assert_eq!(target.delete(&format!("{all}?labelSelector=group%3Dx")).await.0, 200);
        let left = target.read(&format!("{all}?labelSelector=group")).await;
        assert_eq!(names(&left), ["c"]);
    });
}

#[test]
fn a_finalizer_holds_an_object_until_it_is_taken_off() {
    conformance(async |target| {
        let one = target.path("configmaps/a");
        let mut body = config_map("a");
        body["metadata"]["finalizers"] = json!(["chaosrun.dev/hold"]);
        target.create(&target.path("configmaps"), &body).await;
        assert_eq!(target.delete(&one).await.0, 200);
        let held = target.read(&one).await;
        assert!(!text(&held, "/metadata/deletionTimestamp").is_empty());
        let more = json!({"metadata": {"finalizers": ["chaosrun.dev/hold", "chaosrun.dev/late"]}});
        let (code, status) = target.patch(MERGE, &one, &more).await;
        assert_eq!(
            code, 422,
            "no finalizer may be added to what is on its way out: {status}"
        );
        let (code, _) = target
            .patch(MERGE, &one, &json!({"metadata": {"finalizers": null}}))
            .await;
        assert_eq!(code, 200);
        target.until_gone(&one).await;
    });
}

#[test]
fn a_namespace_goes_when_its_content_is_gone() {
    conformance(async |target| {
        let name = format!("{}-inner", target.namespace);
        let path = format!("/api/v1/namespaces/{name}");
        target.remove_later(&path);
        target
            .create("/api/v1/namespaces", &json!({"metadata": {"name": name}}))
            .await;
        assert_eq!(target.read(&path).await["status"]["phase"], "Active");
        let mut held = config_map("held");
        held["metadata"]["finalizers"] = json!(["chaosrun.dev/hold"]);
        target.create(&format!("{path}/configmaps"), &held).await;
        target.create(&format!("{path}/configmaps"), &config_map("free")).await;
        assert_eq!(target.delete(&path).await.0, 200);
        target
            .until_object(&path, "Terminating", |namespace| {
                namespace["status"]["phase"] == "Terminating"
            })
            .await;
        target.until_gone(&format!("{path}/configmaps/free")).await;
        let (code, status) = target.post(&format!("{path}/configmaps"), &config_map("late")).await;
        assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "{status}");
        assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
        assert_eq!(target.get(&path).await.0, 200);
        let patch = json!({"metadata": {"finalizers": null}});
        target.patch(MERGE, &format!("{path}/configmaps/held"), &patch).await;
        target.until_gone(&path).await;
    });
}

#[test]
fn an_object_cannot_be_created_in_a_namespace_that_is_not_there() {
    conformance(async |target| {
        let path = format!("/api/v1/namespaces/{}-none/configmaps", target.namespace);
        let (code, status) = target.post(&path, &config_map("a")).await;
        assert_eq!(code, 404, "{status}");
    });
}

#[test]
fn an_immutable_config_map_stays_as_it_is() {
    conformance(async |target| {
        let mut body = config_map("a");
        body["immutable"] = json!(true);
        target.create(&target.path("configmaps"), &body).await;
        let (code, status) = target
            .patch(MERGE, &target.path("configmaps/a"), &json!({"data": {"a": "2"}}))
            .await;
        assert_eq!(code, 422, "{status}");
    });
}

#[test]
fn a_table_has_columns_and_a_row_for_each_object() {
    conformance(async |target| {
        target.create(&target.path("configmaps"), &config_map("a")).await;
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let path = target.path("configmaps?fieldSelector=metadata.name%3Da");
        let headers = [(http::header::ACCEPT, accept)];
        let response = target.open(http::Method::GET, &path, &headers, None).await;
        let bytes = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        let table: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(table["kind"], "Table");
        let columns: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| text(column, "/name"))
            .collect();
        assert_eq!(columns, ["Name", "Data", "Age"]);
        let cells = &table["rows"][0]["cells"];
        assert_eq!((&cells[0], cells[1].to_string().trim_matches('"')), (&json!("a"), "1"));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    });
}

#[test]
fn the_server_says_what_it_serves() {
    conformance(async |target| {
        assert!(text(&target.read("/version").await, "/gitVersion").starts_with('v'));
        let core = target.read("/api/v1").await;
        let pods = core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "pods")
            .unwrap();
        assert_eq!((&pods["kind"], &pods["namespaced"]), (&json!("Pod"), &json!(true)));
        let groups = target.read("/apis").await;
        for wanted in ["apps", "batch", "policy", "coordination.k8s.io", "apiextensions.k8s.io"] {
            let found = groups["groups"]
                .as_array()
                .unwrap()
                .iter()
                .any(|group| group["name"] == wanted);
            assert!(found, "group {wanted}");
        }
        assert_eq!(target.get("/readyz").await.0, 200);
        let (code, status) = target.get("/api/v1/no-such-things").await;
        assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
    });
}

#[test]
fn access_can_be_reviewed() {
    conformance(async |target| {
        let review = json!({"spec": {"resourceAttributes":
            {"verb": "delete", "resource": "pods", "namespace": target.namespace}}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(target.create(path, &review).await["status"]["allowed"], true);
    });
}
