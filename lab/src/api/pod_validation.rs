//! What a pod and a pod template must satisfy.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::object::{array_at, i64_at, is_set, map_mut, str_at};
use super::status::Cause;
use super::validation::{check_labels, is_dns_label};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// Checks a pod spec that stands at a pointer; `field` is its name in messages.
pub(crate) fn spec(object: &Value, pointer: &str, field: &str, causes: &mut Vec<Cause>) {
    let empty = Value::Null;
    let spec = object.pointer(pointer).unwrap_or(&empty);
    let mut volumes = HashSet::new();
    for (index, volume) in array_at(spec, "/volumes").iter().enumerate() {
        let name = str_at(volume, "/name").unwrap_or_default();
        check_item_name(name, &format!("{field}.volumes[{index}].name"), &mut volumes, causes);
    }
    // The pods of a StatefulSet get a volume for each claim template.
    for claim in array_at(object, "/spec/volumeClaimTemplates") {
        volumes.insert(super::object::name(claim));
    }
    if array_at(spec, "/containers").is_empty() {
        causes.push(Cause::required(format!("{field}.containers"), ""));
    }
    let mut names = HashSet::new();
    for list in ["containers", "initContainers"] {
        for (index, one) in array_at(spec, &format!("/{list}")).iter().enumerate() {
            container(one, &format!("{field}.{list}[{index}]"), &volumes, &mut names, causes);
        }
    }
    let restart = str_at(spec, "/restartPolicy").unwrap_or_default();
    let policies = ["Always", "OnFailure", "Never"];
    if !policies.contains(&restart) {
        causes.push(Cause::unsupported(
            format!("{field}.restartPolicy"),
            &json!(restart),
            &policies,
        ));
    }
    if let Some(seconds) = i64_at(spec, "/activeDeadlineSeconds").filter(|seconds| *seconds < 1) {
        let why = "must be between 1 and 2147483647, inclusive";
        causes.push(Cause::invalid(
            format!("{field}.activeDeadlineSeconds"),
            &json!(seconds),
            why,
        ));
    }
}

fn check_item_name<'a>(name: &'a str, field: &str, seen: &mut HashSet<&'a str>, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(Cause::required(field, ""));
    } else if !is_dns_label(name) {
        causes.push(Cause::invalid(field, &json!(name), LABEL));
    } else if !seen.insert(name) {
        causes.push(Cause::duplicate(field, &json!(name)));
    }
}

fn container<'a>(
    container: &'a Value,
    field: &str,
    volumes: &HashSet<&str>,
    names: &mut HashSet<&'a str>,
    causes: &mut Vec<Cause>,
) {
    let name = str_at(container, "/name").unwrap_or_default();
    check_item_name(name, &format!("{field}.name"), names, causes);
    if !is_set(container, "/image") {
        causes.push(Cause::required(format!("{field}.image"), ""));
    }
    let pull = str_at(container, "/imagePullPolicy").unwrap_or_default();
    let policies = ["Always", "IfNotPresent", "Never"];
    if !policies.contains(&pull) {
        causes.push(Cause::unsupported(
            format!("{field}.imagePullPolicy"),
            &json!(pull),
            &policies,
        ));
    }
    for (index, mount) in array_at(container, "/volumeMounts").iter().enumerate() {
        let volume = str_at(mount, "/name").unwrap_or_default();
        let field = format!("{field}.volumeMounts[{index}]");
        if !volumes.contains(volume) {
            causes.push(Cause {
                reason: "FieldValueNotFound".to_owned(),
                message: format!("Not found: \"{volume}\""),
                field: format!("{field}.name"),
            });
        }
        if !is_set(mount, "/mountPath") {
            causes.push(Cause::required(format!("{field}.mountPath"), ""));
        }
    }
    for (index, port) in array_at(container, "/ports").iter().enumerate() {
        let number = i64_at(port, "/containerPort").unwrap_or(0);
        if !(1..=65_535).contains(&number) {
            let why = "must be between 1 and 65535, inclusive";
            causes.push(Cause::invalid(
                format!("{field}.ports[{index}].containerPort"),
                &json!(number),
                why,
            ));
        }
    }
    for (index, variable) in array_at(container, "/env").iter().enumerate() {
        if !is_set(variable, "/name") {
            causes.push(Cause::required(format!("{field}.env[{index}].name"), ""));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(found) = container.get(probe).and_then(Value::as_object) else {
            continue;
        };
        if !["exec", "httpGet", "tcpSocket", "grpc"]
            .iter()
            .any(|handler| found.contains_key(*handler))
        {
            causes.push(Cause::required(
                format!("{field}.{probe}"),
                "must specify a handler type",
            ));
        }
    }
}

/// Checks a pod's ephemeral containers: those that are there stay as they are, and new ones ask for nothing that needs a restart.
pub(crate) fn ephemeral_containers(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let (before, after) = (
        array_at(old, "/spec/ephemeralContainers"),
        array_at(new, "/spec/ephemeralContainers"),
    );
    let kept = before.len() <= after.len() && before.iter().zip(after).all(|(one, other)| one == other);
    if !kept {
        causes.push(Cause::forbidden(
            "spec.ephemeralContainers",
            "existing ephemeral containers may not be removed or changed",
        ));
    }
    let volumes: HashSet<&str> = array_at(new, "/spec/volumes")
        .iter()
        .filter_map(|volume| str_at(volume, "/name"))
        .collect();
    let mut names: HashSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| array_at(new, &format!("/spec/{list}")))
        .filter_map(|one| str_at(one, "/name"))
        .collect();
    for (index, one) in after.iter().enumerate() {
        let field = format!("spec.ephemeralContainers[{index}]");
        container(one, &field, &volumes, &mut names, causes);
        for key in [
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "resources",
        ] {
            let set = one
                .get(key)
                .is_some_and(|value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()));
            if set {
                causes.push(Cause::forbidden(
                    format!("{field}.{key}"),
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
        if let Some(target) = str_at(one, "/targetContainerName") {
            let known = array_at(new, "/spec/containers")
                .iter()
                .any(|held| str_at(held, "/name") == Some(target));
            if !known {
                causes.push(Cause {
                    reason: "FieldValueNotFound".to_owned(),
                    message: format!("Not found: \"{target}\""),
                    field: format!("{field}.targetContainerName"),
                });
            }
        }
    }
}

/// Checks a pod template; its restart policy must be one of those.
pub(crate) fn template(object: &Value, pointer: &str, restart: &[&str], causes: &mut Vec<Cause>) {
    let field = pointer.trim_start_matches('/').replace('/', ".");
    let labels = object.pointer(&format!("{pointer}/metadata/labels"));
    check_labels(labels, &format!("{field}.metadata.labels"), causes);
    spec(object, &format!("{pointer}/spec"), &format!("{field}.spec"), causes);
    let policy = str_at(object, &format!("{pointer}/spec/restartPolicy")).unwrap_or("Always");
    if matches!(policy, "Always" | "OnFailure" | "Never") && !restart.contains(&policy) {
        causes.push(Cause::unsupported(
            format!("{field}.spec.restartPolicy"),
            &json!(policy),
            restart,
        ));
    }
}

/// A pod's spec is fixed but for images, deadlines and more tolerations.
pub(crate) fn update(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let fixed = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        let map = map_mut(&mut spec);
        for field in [
            "activeDeadlineSeconds",
            "terminationGracePeriodSeconds",
            "tolerations",
            "schedulingGates",
        ] {
            map.shift_remove(field);
        }
        for list in ["/containers", "/initContainers"] {
            for one in super::object::array_mut(&mut spec, list) {
                map_mut(one).shift_remove("image");
                // Its default follows the image.
                map_mut(one).shift_remove("imagePullPolicy");
            }
        }
        spec
    };
    if fixed(old) != fixed(new) {
        causes.push(Cause::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
    let kept = array_at(old, "/spec/tolerations")
        .iter()
        .all(|one| array_at(new, "/spec/tolerations").contains(one));
    if !kept {
        causes.push(Cause::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}
