//! Server-side apply, one behaviour per test.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ApplyError, Writer, merge_applied as apply, note_update as track_update};
use crate::api::fields::{Element, FieldSet, Shape, decode, encode};
use crate::api::status::ApiError;

const POD: Shape<'static> = Shape {
    kind: "Deployment",
    builtin: true,
    ignore_status: true,
};

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "v1",
        subresource: None,
        now: "2026-01-01T00:00:00Z",
    }
}

fn applied_by(existing: Option<&Value>, body: Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
    apply(existing, &body, force, POD, &writer(manager))
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn owner_names(object: &Value) -> Vec<&str> {
    object["metadata"]["managedFields"]
        .as_array()
        .map(|entries| entries.iter().filter_map(|entry| entry["manager"].as_str()).collect())
        .unwrap_or_default()
}

#[test]
fn the_first_apply_creates_and_owns() {
    let object = applied_by(None, config(json!({"x": "1"})), "one", false).unwrap();
    assert_eq!(object["data"], json!({"x": "1"}));
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["fieldsV1"], json!({"f:data": {"f:x": {}}}));
}

#[test]
fn a_field_that_is_applied_no_longer_is_removed() {
    let first = applied_by(None, config(json!({"x": "1", "y": "2"})), "one", false).unwrap();
    let second = applied_by(Some(&first), config(json!({"y": "2"})), "one", false).unwrap();
    assert_eq!(second["data"], json!({"y": "2"}));
}

#[test]
fn a_map_goes_with_its_last_field() {
    let mut body = config(json!({"x": "1"}));
    body["metadata"]["labels"] = json!({"app": "a"});
    let first = applied_by(None, body, "one", false).unwrap();
    let second = applied_by(Some(&first), config(json!({"x": "1"})), "one", false).unwrap();
    assert_eq!(second["metadata"].get("labels"), None);
    assert_eq!(second["metadata"]["name"], "a");
}

#[test]
fn a_field_that_another_manager_applies_too_stays() {
    let first = applied_by(None, config(json!({"x": "1", "y": "2"})), "one", false).unwrap();
    let second = applied_by(Some(&first), config(json!({"x": "1"})), "two", false).unwrap();
    let third = applied_by(Some(&second), config(json!({"y": "2"})), "one", false).unwrap();
    assert_eq!(third["data"], json!({"x": "1", "y": "2"}));
    let fourth = applied_by(Some(&third), config(json!({})), "two", false).unwrap();
    assert_eq!(fourth["data"], json!({"y": "2"}));
}

#[test]
fn another_value_for_an_owned_field_is_a_conflict_with_its_cause() {
    let first = applied_by(None, config(json!({"x": "1"})), "one", false).unwrap();
    let error = applied_by(Some(&first), config(json!({"x": "2"})), "two", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"one\" using v1: .data.x"
    );
    let error = ApiError::from(error);
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        error.details.unwrap()["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\" using v1", "field": ".data.x"}])
    );
}

#[test]
fn force_takes_the_field_away() {
    let first = applied_by(None, config(json!({"x": "1", "y": "1"})), "one", false).unwrap();
    let second = applied_by(Some(&first), config(json!({"x": "2"})), "two", true).unwrap();
    assert_eq!(second["data"], json!({"x": "2", "y": "1"}));
    assert!(applied_by(Some(&second), config(json!({"x": "1", "y": "1"})), "one", false).is_err());
}

#[test]
fn the_same_value_is_shared_without_conflict() {
    let first = applied_by(None, config(json!({"x": "1"})), "one", false).unwrap();
    let second = applied_by(Some(&first), config(json!({"x": "1"})), "two", false).unwrap();
    assert_eq!(owner_names(&second).len(), 2);
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let first = applied_by(None, config(json!({"x": "1"})), "one", false).unwrap();
    let later = Writer {
        now: "2026-02-02T00:00:00Z",
        ..writer("one")
    };
    let second = apply(Some(&first), &config(json!({"x": "1"})), false, POD, &later).unwrap();
    assert_eq!(first, second);
}

#[test]
fn an_update_takes_ownership_so_that_the_next_apply_conflicts() {
    let first = applied_by(None, config(json!({"x": "1"})), "one", false).unwrap();
    let mut edited = first.clone();
    edited["data"]["x"] = json!("9");
    track_update(Some(&first), &mut edited, POD, &writer("editor"));
    assert_eq!(owner_names(&edited), vec!["editor"]);
    let error = applied_by(Some(&edited), config(json!({"x": "1"})), "one", false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("conflict with \"editor\" using v1 at 2026-01-01T00:00:00Z: .data.x"),
        "{error}"
    );
}

#[test]
fn an_object_without_owners_belongs_to_before_first_apply() {
    let error = applied_by(
        Some(&config(json!({"x": "1"}))),
        config(json!({"x": "2"})),
        "one",
        false,
    )
    .unwrap_err();
    assert!(error.to_string().contains("before-first-apply"), "{error}");
}

fn workload(containers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn containers_are_merged_by_name_and_ports_by_port_and_protocol() {
    let first = applied_by(
        None,
        workload(json!([{"name": "m", "image": "i:1", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]}])),
        "one",
        false,
    )
    .unwrap();
    let second = applied_by(
        Some(&first),
        workload(json!([{"name": "side", "image": "s"}, {"name": "m", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}], "env": [{"name": "B", "value": "2"}]}])),
        "two",
        false,
    )
    .unwrap();
    let containers = &second["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["name"], "side");
    assert_eq!(
        containers[1],
        json!({"name": "m", "image": "i:1", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]})
    );
}

#[test]
fn a_container_that_is_applied_no_longer_goes_with_its_defaults() {
    let first = applied_by(
        None,
        workload(json!([{"name": "m", "image": "i"}, {"name": "s", "image": "j"}])),
        "one",
        false,
    )
    .unwrap();
    let mut live = first.clone();
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    let second = applied_by(
        Some(&live),
        workload(json!([{"name": "m", "image": "i"}])),
        "one",
        false,
    )
    .unwrap();
    assert_eq!(
        second["spec"]["template"]["spec"]["containers"],
        json!([{"name": "m", "image": "i"}])
    );
}

#[test]
fn a_keyed_item_without_its_key_is_refused() {
    let error = applied_by(None, workload(json!([{"image": "i"}])), "one", false).unwrap_err();
    assert!(matches!(error, ApplyError::Invalid(_)), "{error}");
}

#[test]
fn lists_of_custom_resources_are_atomic() {
    let shape = Shape {
        kind: "SparkApplication",
        builtin: false,
        ignore_status: true,
    };
    let body = |ports: Value| json!({"metadata": {"name": "a"}, "spec": {"env": ports}});
    let first = apply(None, &body(json!([{"name": "A"}])), false, shape, &writer("one")).unwrap();
    let second = apply(Some(&first), &body(json!([{"name": "B"}])), true, shape, &writer("two")).unwrap();
    assert_eq!(second["spec"]["env"], json!([{"name": "B"}]));
}

#[test]
fn finalizers_are_a_set() {
    let body = |names: Value| json!({"metadata": {"name": "a", "finalizers": names}});
    let first = applied_by(None, body(json!(["x/a"])), "one", false).unwrap();
    let second = applied_by(Some(&first), body(json!(["x/b"])), "two", false).unwrap();
    assert_eq!(second["metadata"]["finalizers"], json!(["x/a", "x/b"]));
    let third = applied_by(Some(&second), body(json!([])), "two", false).unwrap();
    assert_eq!(third["metadata"]["finalizers"], json!(["x/a"]));
}

#[test]
fn owner_references_are_keyed_by_uid() {
    let body =
        |uid: &str| json!({"metadata": {"name": "a", "ownerReferences": [{"uid": uid, "kind": "Pod", "name": uid}]}});
    let first = applied_by(None, body("u1"), "one", false).unwrap();
    let second = applied_by(Some(&first), body("u2"), "two", false).unwrap();
    assert_eq!(second["metadata"]["ownerReferences"].as_array().unwrap().len(), 2);
}

#[test]
fn the_status_is_left_to_its_subresource() {
    let mut body = config(json!({"x": "1"}));
    body["status"] = json!({"phase": "made up"});
    let object = applied_by(None, body, "one", false).unwrap();
    assert_eq!(object.get("status"), None);
}

#[test]
fn a_body_may_replace_the_owners_as_kubectl_does_when_it_migrates() {
    let mut old = config(json!({"x": "1"}));
    track_update(None, &mut old, POD, &writer("kubectl-client-side-apply"));
    let mut new = old.clone();
    new["metadata"]["managedFields"] = json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:x": {}}}}]);
    track_update(Some(&old), &mut new, POD, &writer("kubectl"));
    assert_eq!(owner_names(&new), vec!["kubectl"]);
}

fn element() -> impl Strategy<Value = Element> {
    prop_oneof![
        "[a-z./]{1,6}".prop_map(Element::Field),
        "[a-z]{1,6}".prop_map(|name| Element::Key(json!({"name": name}).to_string())),
        "[a-z]{1,6}".prop_map(|member| Element::Member(json!(member).to_string())),
    ]
}

proptest! {
    #[test]
    fn field_sets_survive_their_wire_form(paths in prop::collection::btree_set(prop::collection::vec(element(), 1..5), 0..12)) {
        let set: FieldSet = paths;
        prop_assert_eq!(decode(&encode(&set)), set);
    }

    #[test]
    fn the_last_forced_apply_wins_and_withdrawing_it_leaves_the_first(
        first in prop::collection::btree_map("[a-c]", "[0-9]", 0..3),
        second in prop::collection::btree_map("[a-c]", "[0-9]", 0..3),
    ) {
        let one = applied_by(None, config(json!(first)), "one", false).unwrap();
        let two = applied_by(Some(&one), config(json!(second)), "two", true).unwrap();
        for (key, value) in &second {
            prop_assert_eq!(&two["data"][key], value);
        }
        let back = applied_by(Some(&two), config(json!(first)), "one", true).unwrap();
        for (key, value) in &first {
            prop_assert_eq!(&back["data"][key], value);
        }
    }
}
