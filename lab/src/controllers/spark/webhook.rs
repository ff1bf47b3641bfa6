//! The operator's mutating webhook as a pure function on pods: what `spark-submit` cannot express.
//!
//! Depends on [`super::types`] only. Central function: [`mutate_pod`]. Contract: called on CREATE for pods labelled
//! `sparkoperator.k8s.io/launched-by-spark-operator=true`, before the pod is stored; calling it twice changes nothing
//! more. The driver gets the `SparkApplication` as its owner. Executors do not: they belong to their driver pod, so that
//! deleting the driver removes them (operator 2.4 to 2.5.2 added the application as a second owner there, its issue
//! 2961, which left dead executors behind).

use serde_json::{Map, Value, json};

use super::types::{
    DRIVER_CONTAINER, EXECUTOR_CONTAINER, GROUP, LABEL_MUTATED, LABEL_ROLE, RoleSpec, SparkApplicationSpec, VERSION,
};

/// The application that a pod belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) spec: &'a SparkApplicationSpec,
}

/// Applies the fields of the role's spec to `pod`. Pods of another role are left alone.
pub(crate) fn mutate_pod(pod: &mut Value, owner: Owner<'_>) {
    let role = pod
        .pointer(&format!("/metadata/labels/{LABEL_ROLE}"))
        .and_then(Value::as_str)
        .unwrap_or("");
    let (role_spec, container) = match role {
        "driver" => (&owner.spec.driver, DRIVER_CONTAINER),
        "executor" => (&owner.spec.executor, EXECUTOR_CONTAINER),
        _ => return,
    };
    if role == "driver" {
        own(pod, owner);
    }
    if let Some(labels) = object_at(pod, &["metadata", "labels"]) {
        labels.insert(LABEL_MUTATED.to_owned(), json!("true"));
    }
    if let Some(spec) = object_at(pod, &["spec"]) {
        pod_fields(spec, role_spec, owner.spec);
        // Spark knows its container by name; a template may have put others in front.
        if let Some(main) = array(spec, "containers")
            .iter_mut()
            .find(|each| each.get("name").and_then(Value::as_str) == Some(container))
            .and_then(Value::as_object_mut)
        {
            container_fields(main, role_spec);
        }
        for sidecar in &role_spec.sidecars {
            push_named(array(spec, "containers"), "name", sidecar);
        }
    }
}

fn own(pod: &mut Value, owner: Owner<'_>) {
    let Some(metadata) = object_at(pod, &["metadata"]) else {
        return;
    };
    let reference = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "SparkApplication",
        "name": owner.name,
        "uid": owner.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    });
    push_named(array(metadata, "ownerReferences"), "uid", &reference);
}

fn pod_fields(spec: &mut Map<String, Value>, role: &RoleSpec, application: &SparkApplicationSpec) {
    for volume in &application.volumes {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or("");
        // Spark handles its scratch volumes itself; a volume that this role does not mount is not added.
        let mounted = role
            .volume_mounts
            .iter()
            .any(|mount| mount.get("name").and_then(Value::as_str) == Some(name));
        if mounted && !name.starts_with("spark-local-dir-") {
            push_named(array(spec, "volumes"), "name", volume);
        }
    }
    for (index, each) in role.config_maps.iter().enumerate() {
        let volume = json!({"name": format!("{}-vol-{index}", each.name), "configMap": {"name": each.name}});
        push_named(array(spec, "volumes"), "name", &volume);
    }
    for toleration in &role.tolerations {
        let list = array(spec, "tolerations");
        if !list.contains(toleration) {
            list.push(toleration.clone());
        }
    }
    for container in &role.init_containers {
        push_named(array(spec, "initContainers"), "name", container);
    }
    for alias in &role.host_aliases {
        push_named(array(spec, "hostAliases"), "ip", alias);
    }
    let selector = if role.node_selector.is_empty() {
        &application.node_selector
    } else {
        &role.node_selector
    };
    if !selector.is_empty()
        && let Some(map) = object_in(spec, "nodeSelector")
    {
        for (key, value) in selector {
            map.insert(key.clone(), json!(value));
        }
    }
    set(spec, "affinity", role.affinity.as_ref());
    set(spec, "dnsConfig", role.dns_config.as_ref());
    set(spec, "securityContext", role.pod_security_context.as_ref());
    set(
        spec,
        "priorityClassName",
        role.priority_class_name.as_ref().map(|name| json!(name)).as_ref(),
    );
    set(
        spec,
        "schedulerName",
        role.scheduler_name.as_ref().map(|name| json!(name)).as_ref(),
    );
    set(spec, "hostNetwork", role.host_network.map(|on| json!(on)).as_ref());
    set(
        spec,
        "shareProcessNamespace",
        role.share_process_namespace.map(|on| json!(on)).as_ref(),
    );
    set(
        spec,
        "terminationGracePeriodSeconds",
        role.termination_grace_period_seconds
            .map(|seconds| json!(seconds))
            .as_ref(),
    );
}

fn container_fields(container: &mut Map<String, Value>, role: &RoleSpec) {
    for mount in &role.volume_mounts {
        let is_scratch = mount
            .get("name")
            .and_then(Value::as_str)
            .is_some_and(|name| name.starts_with("spark-local-dir-"));
        if !is_scratch {
            push_named(array(container, "volumeMounts"), "mountPath", mount);
        }
    }
    for (index, each) in role.config_maps.iter().enumerate() {
        let mount = json!({"name": format!("{}-vol-{index}", each.name), "mountPath": each.path});
        push_named(array(container, "volumeMounts"), "mountPath", &mount);
    }
    for variable in &role.env {
        push_named(array(container, "env"), "name", variable);
    }
    for source in &role.env_from {
        let list = array(container, "envFrom");
        if !list.contains(source) {
            list.push(source.clone());
        }
    }
    for port in &role.ports {
        push_named(array(container, "ports"), "name", port);
    }
    set(container, "lifecycle", role.lifecycle.as_ref());
    set(container, "securityContext", role.security_context.as_ref());
    if let Some(limit) = role.core_limit.as_ref()
        && let Some(limits) = object_in(container, "resources").and_then(|resources| object_in(resources, "limits"))
    {
        limits.entry("cpu").or_insert_with(|| json!(limit));
    }
}

fn set(target: &mut Map<String, Value>, key: &str, value: Option<&Value>) {
    if let Some(value) = value {
        target.insert(key.to_owned(), value.clone());
    }
}

/// Replaces the element with the same `key`, or appends.
fn push_named(list: &mut Vec<Value>, key: &str, item: &Value) {
    let id = item.get(key);
    match list.iter_mut().find(|each| id.is_some() && each.get(key) == id) {
        Some(found) => *found = item.clone(),
        None => list.push(item.clone()),
    }
}

fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut current = value.as_object_mut()?;
    for key in path {
        current = object_in(current, key)?;
    }
    Some(current)
}

fn object_in<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let entry = map.entry(key.to_owned()).or_insert_with(|| json!({}));
    if entry.is_null() {
        *entry = json!({});
    }
    entry.as_object_mut()
}

fn array<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let entry = map.entry(key.to_owned()).or_insert_with(|| json!([]));
    if !entry.is_array() {
        *entry = json!([]);
    }
    match entry {
        Value::Array(list) => list,
        // Just made one; the branch exists for the compiler only.
        _ => unreachable!("an array was put here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SparkApplicationSpec {
        serde_json::from_value(json!({
            "type": "Python",
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "pipeline-data"}},
                {"name": "app", "configMap": {"name": "pipeline"}},
                {"name": "spark-local-dir-1", "emptyDir": {}},
            ],
            "driver": {
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "app", "mountPath": "/opt/pipeline"},
                    {"name": "spark-local-dir-1", "mountPath": "/scratch"},
                ],
                "env": [{"name": "A", "value": "1"}],
                "tolerations": [{"operator": "Exists"}],
                "nodeSelector": {"disk": "fast"},
                "sidecars": [{"name": "side", "image": "busybox"}],
                "terminationGracePeriodSeconds": 7,
            },
            "executor": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        }))
        .unwrap()
    }

    fn pod(role: &str, container: &str) -> Value {
        json!({
            "metadata": {"name": "p", "labels": {"spark-role": role}},
            "spec": {"containers": [{"name": container, "env": [{"name": "A", "value": "0"}]}]},
        })
    }

    #[test]
    fn a_driver_gets_its_owner_and_the_fields_of_its_role_and_a_second_pass_changes_nothing() {
        let spec = spec();
        let owner = Owner {
            name: "app",
            uid: "u-1",
            spec: &spec,
        };
        let mut driver = pod("driver", DRIVER_CONTAINER);
        mutate_pod(&mut driver, owner);
        insta::assert_json_snapshot!(driver);
        let once = driver.clone();
        mutate_pod(&mut driver, owner);
        assert_eq!(driver, once);
    }

    #[test]
    fn an_executor_is_not_owned_by_the_application_and_mounts_only_its_own_volumes() {
        let spec = spec();
        let mut executor = pod("executor", EXECUTOR_CONTAINER);
        mutate_pod(
            &mut executor,
            Owner {
                name: "app",
                uid: "u-1",
                spec: &spec,
            },
        );
        assert!(executor.pointer("/metadata/ownerReferences").is_none());
        assert_eq!(executor.pointer("/spec/volumes").unwrap().as_array().unwrap().len(), 1);
        assert_eq!(
            executor.pointer("/spec/containers/0/volumeMounts/0/mountPath").unwrap(),
            "/data"
        );
    }

    #[test]
    fn a_pod_of_no_spark_role_is_left_alone() {
        let spec = spec();
        let mut other = pod("", "x");
        let before = other.clone();
        mutate_pod(
            &mut other,
            Owner {
                name: "app",
                uid: "u-1",
                spec: &spec,
            },
        );
        assert_eq!(other, before);
    }
}
