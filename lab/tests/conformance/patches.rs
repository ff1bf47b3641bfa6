//! The four kinds of patches.

use serde_json::{Value, json};

use crate::harness::{APPLY, JSON, MERGE, STRATEGIC, Target, config_map, conformance, text};

#[test]
fn a_merge_patch_sets_and_removes() {
    conformance(async |target| {
        target.create(&target.path("configmaps"), &config_map("a")).await;
        let patch = json!({"data": {"a": null, "b": "2"}, "metadata": {"labels": {"x": "y"}}});
        let (code, patched) = target.patch(MERGE, &target.path("configmaps/a"), &patch).await;
        assert_eq!(code, 200, "{patched}");
        assert_eq!(
            (&patched["data"], &patched["metadata"]["labels"]),
            (&json!({"b": "2"}), &json!({"x": "y"}))
        );
        assert_eq!(
            target.patch(MERGE, &target.path("configmaps/none"), &patch).await.0,
            404
        );
    });
}

#[test]
fn a_json_patch_tests_before_it_changes() {
    conformance(async |target| {
        let one = target.path("configmaps/a");
        target.create(&target.path("configmaps"), &config_map("a")).await;
        let patch =
            json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "add", "path": "/data/b", "value": "2"}]);
        let (code, patched) = target.patch(JSON, &one, &patch).await;
        assert_eq!((code, &patched["data"]), (200, &json!({"a": "1", "b": "2"})));
        let wrong = json!([{"op": "test", "path": "/data/a", "value": "9"}, {"op": "remove", "path": "/data/b"}]);
        let (code, status) = target.patch(JSON, &one, &wrong).await;
        assert_eq!(code, 422, "{status}");
        assert_eq!(target.read(&one).await["data"], json!({"a": "1", "b": "2"}));
        assert_eq!(target.patch(JSON, &one, &json!({"op": "nonsense"})).await.0, 400);
    });
}

fn deployment(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [
                    {"name": "main", "image": "busybox:1.36", "command": ["sleep", "60"], "env": [{"name": "A", "value": "1"}]},
                    {"name": "side", "image": "busybox:1.36", "command": ["sleep", "60"]},
                ]},
            },
        },
    })
}

fn container<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == name)
}

#[test]
fn a_strategic_merge_patch_merges_lists_by_key() {
    conformance(async |target| {
        target
            .create(&target.group_path("apps/v1", "deployments"), &deployment("a"))
            .await;
        let one = target.group_path("apps/v1", "deployments/a");
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "main", "env": [{"name": "B", "value": "2"}]},
            {"name": "side", "$patch": "delete"},
        ]}}}});
        let (code, patched) = target.patch(STRATEGIC, &one, &patch).await;
        assert_eq!(code, 200, "{patched}");
        assert_eq!(container(&patched, "side"), None);
        let main = container(&patched, "main").unwrap();
        assert_eq!(main["command"], json!(["sleep", "60"]));
        let mut env: Vec<&str> = main["env"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| text(one, "/name"))
            .collect();
        env.sort_unstable();
        assert_eq!(env, ["A", "B"]);
        let restart = json!({"spec": {"template": {"metadata": {"annotations": {"restartedAt": "now"}}}}});
        assert_eq!(target.patch(STRATEGIC, &one, &restart).await.0, 200);
    });
}

#[test]
fn a_patch_of_an_unknown_kind_is_refused() {
    conformance(async |target| {
        target.create(&target.path("configmaps"), &config_map("a")).await;
        let (code, status) = target
            .patch("application/json", &target.path("configmaps/a"), &json!({}))
            .await;
        assert_eq!(code, 415, "{status}");
    });
}

async fn apply(target: &Target, manager: &str, force: bool, data: &Value) -> (u16, Value) {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let path = target.path(&format!("configmaps/a?fieldManager={manager}&force={force}"));
    target.patch(APPLY, &path, &body).await
}

#[test]
fn apply_creates_and_then_updates() {
    conformance(async |target| {
        let (code, created) = apply(target, "one", false, &json!({"x": "1"})).await;
        assert_eq!(code, 201, "{created}");
        let entry = &created["metadata"]["managedFields"][0];
        assert_eq!(
            (&entry["manager"], &entry["operation"]),
            (&json!("one"), &json!("Apply"))
        );
        assert_eq!(entry["fieldsV1"], json!({"f:data": {"f:x": {}}}));
        let (code, updated) = apply(target, "one", false, &json!({"x": "2"})).await;
        assert_eq!((code, &updated["data"]), (200, &json!({"x": "2"})));
        let (_, again) = apply(target, "one", false, &json!({"x": "2"})).await;
        assert_eq!(
            again["metadata"]["resourceVersion"],
            updated["metadata"]["resourceVersion"]
        );
    });
}

#[test]
fn apply_removes_what_is_applied_no_longer() {
    conformance(async |target| {
        apply(target, "one", false, &json!({"x": "1", "y": "1"})).await;
        let patch = json!({"data": {"z": "1"}});
        target
            .patch(MERGE, &target.path("configmaps/a?fieldManager=editor"), &patch)
            .await;
        let (_, answer) = apply(target, "one", false, &json!({"y": "1"})).await;
        assert_eq!(answer["data"], json!({"y": "1", "z": "1"}));
    });
}

#[test]
fn apply_of_what_another_manager_owns_is_a_conflict_unless_forced() {
    conformance(async |target| {
        apply(target, "one", false, &json!({"x": "1"})).await;
        let (code, status) = apply(target, "two", false, &json!({"x": "2"})).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(
            (&cause["reason"], &cause["field"]),
            (&json!("FieldManagerConflict"), &json!(".data.x"))
        );
        assert!(
            text(&status, "/message").contains("conflict with \"one\" using v1: .data.x"),
            "{status}"
        );
        let (code, forced) = apply(target, "two", true, &json!({"x": "2"})).await;
        assert_eq!((code, &forced["data"]["x"]), (200, &json!("2")));
        let (_, same) = apply(target, "three", false, &json!({"x": "2"})).await;
        assert_eq!(same["data"]["x"], "2", "the same value is shared");
    });
}

#[test]
fn an_update_makes_an_owner_that_apply_conflicts_with() {
    conformance(async |target| {
        apply(target, "one", false, &json!({"x": "1"})).await;
        let patch = json!({"data": {"x": "9"}});
        target
            .patch(MERGE, &target.path("configmaps/a?fieldManager=editor"), &patch)
            .await;
        let (code, status) = apply(target, "one", false, &json!({"x": "1"})).await;
        assert_eq!(code, 409, "{status}");
        assert!(
            text(&status, "/message").contains("conflict with \"editor\""),
            "{status}"
        );
    });
}

#[test]
fn apply_needs_a_manager_and_a_matching_name() {
    conformance(async |target| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let (code, status) = target.patch(APPLY, &target.path("configmaps/a"), &body).await;
        assert_eq!(code, 400, "{status}");
        let (code, status) = target
            .patch(APPLY, &target.path("configmaps/b?fieldManager=x"), &body)
            .await;
        assert_eq!(code, 400, "{status}");
    });
}

#[test]
fn apply_merges_containers_of_two_managers() {
    conformance(async |target| {
        let path = |manager: &str| target.group_path("apps/v1", &format!("deployments/a?fieldManager={manager}"));
        let mut first = deployment("a");
        first["apiVersion"] = json!("apps/v1");
        first["kind"] = json!("Deployment");
        assert_eq!(target.patch(APPLY, &path("one"), &first).await.0, 201);
        let second = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec":
            {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": "B", "value": "2"}]}]}}}});
        let (code, merged) = target.patch(APPLY, &path("two"), &second).await;
        assert_eq!(code, 200, "{merged}");
        let main = container(&merged, "main").unwrap();
        assert_eq!(
            (main["env"].as_array().unwrap().len(), &main["image"]),
            (2, &json!("busybox:1.36"))
        );
        first["spec"]["template"]["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .pop();
        let (code, pruned) = target.patch(APPLY, &path("one"), &first).await;
        assert_eq!((code, container(&pruned, "side")), (200, None));
        assert_eq!(container(&pruned, "main").unwrap()["env"].as_array().unwrap().len(), 2);
    });
}
