//! Custom resources: definition, subresources, pruning.

use serde_json::{Value, json};

use crate::harness::{MERGE, Target, condition, conformance, unique};

/// A definition with all that it can have; gives back the group version path of its objects.
async fn define(target: &Target) -> String {
    let group = format!("g{}.chaosrun.dev", unique());
    let definition = json!({
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "shortNames": ["th"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale":
                    {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "additionalPrinterColumns": [{"name": "State", "type": "string", "jsonPath": ".status.state"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "integer", "minimum": 1},
                        "color": {"type": "string", "default": "blue"},
                        "replicas": {"type": "integer"},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    }},
                    "status": {"type": "object", "properties": {
                        "state": {"type": "string"}, "replicas": {"type": "integer"}}},
                }}},
            }],
        },
    });
    let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let path = format!("{all}/things.{group}");
    target.remove_later(&path);
    target.create(all, &definition).await;
    target
        .until_object(&path, "the definition is established", |found| {
            condition(found, "Established") == Some("True")
        })
        .await;
    let things = target.group_path(&format!("{group}/v1"), "things");
    target
        .until("the resource is served", async || target.get(&things).await.0 == 200)
        .await;
    things
}

fn thing(spec: Value) -> Value {
    json!({"kind": "Thing", "metadata": {"name": "a"}, "spec": spec})
}

async fn create(target: &Target, things: &str, spec: Value) -> (u16, Value) {
    let version = things.trim_start_matches("/apis/").split("/namespaces").next().unwrap();
    let mut body = thing(spec);
    body["apiVersion"] = json!(version);
    target.post(things, &body).await
}

#[test]
fn a_custom_resource_is_defaulted_pruned_and_validated() {
    conformance(async |target| {
        let things = define(target).await;
        let (code, created) = create(target, &things, json!({"size": 1, "unknown": 1, "free": {"any": 1}})).await;
        assert_eq!(code, 201, "{created}");
        assert_eq!(created["spec"], json!({"size": 1, "free": {"any": 1}, "color": "blue"}));
        for wrong in [json!({"size": "large"}), json!({"size": 0}), json!({"size": null})] {
            let (code, status) = target
                .patch(MERGE, &format!("{things}/a"), &json!({"spec": wrong}))
                .await;
            assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{wrong}: {status}");
            assert_eq!(status["details"]["causes"][0]["field"], "spec.size");
        }
    });
}

#[test]
fn the_status_is_written_through_its_subresource_alone() {
    conformance(async |target| {
        let things = define(target).await;
        let one = format!("{things}/a");
        let (code, created) = create(target, &things, json!({"size": 1})).await;
        assert_eq!(
            (code, &created["metadata"]["generation"]),
            (201, &json!(1)),
            "{created}"
        );
        let both = json!({"spec": {"size": 2}, "status": {"state": "made up"}});
        let (_, patched) = target.patch(MERGE, &one, &both).await;
        assert_eq!(
            (patched.get("status"), &patched["metadata"]["generation"]),
            (None, &json!(2))
        );
        let both = json!({"spec": {"size": 3}, "status": {"state": "good"}});
        let (code, patched) = target.patch(MERGE, &format!("{one}/status"), &both).await;
        assert_eq!((code, &patched["status"]["state"]), (200, &json!("good")), "{patched}");
        assert_eq!(
            (&patched["spec"]["size"], &patched["metadata"]["generation"]),
            (&json!(2), &json!(2))
        );
        assert_eq!(target.read(&format!("{one}/status")).await["status"]["state"], "good");
    });
}

#[test]
fn a_custom_resource_is_scaled_through_the_paths_of_its_definition() {
    conformance(async |target| {
        let things = define(target).await;
        create(target, &things, json!({"size": 1, "replicas": 2})).await;
        let scale = format!("{things}/a/scale");
        assert_eq!(target.read(&scale).await["spec"]["replicas"], 2);
        let (code, answer) = target.patch(MERGE, &scale, &json!({"spec": {"replicas": 5}})).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(target.read(&format!("{things}/a")).await["spec"]["replicas"], 5);
    });
}

#[test]
fn custom_resources_go_with_their_definition() {
    conformance(async |target| {
        let things = define(target).await;
        create(target, &things, json!({"size": 1})).await;
        let group = things.trim_start_matches("/apis/").split('/').next().unwrap();
        let definition = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{group}");
        assert_eq!(target.delete(&definition).await.0, 200);
        target.until_gone(&definition).await;
        target
            .until("the resource is no longer served", async || {
                target.get(&things).await.0 == 404
            })
            .await;
    });
}
