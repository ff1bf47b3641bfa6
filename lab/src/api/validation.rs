//! What an object must satisfy to be stored: names, labels, owner references, immutable fields, and per kind what
//! clients most often get wrong. Pods and pod templates are in `pod_validation`.

use serde_json::{Value, json};

use super::object::{array_at, finalizers, i64_at, is_deleting, is_set, name, str_at};
use super::pod_validation;
use super::registry::ResourceType;
use super::selectors::LabelSelector;
use super::status::{ApiError, Cause};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// What an immutable field answers.
pub(crate) const IMMUTABLE: &str = "field is immutable";

fn is_edge(character: Option<char>) -> bool {
    character.is_some_and(|one| one.is_ascii_lowercase() || one.is_ascii_digit())
}

fn is_dns_part(text: &str) -> bool {
    is_edge(text.chars().next())
        && is_edge(text.chars().next_back())
        && text.chars().all(|one| is_edge(Some(one)) || one == '-')
}

/// DNS-1123 label, at most 63 characters.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_part(text)
}

/// DNS-1123 subdomain: labels joined by dots, at most 253 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

/// `(prefix/)?name`, as label keys, annotation keys and finalizers are.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, _)) if !is_dns_subdomain(prefix) => return false,
        Some((_, name)) => name,
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

/// Empty, or at most 63 characters of `[A-Za-z0-9._-]` that begin and end with a letter or digit.
pub(crate) fn is_label_value(text: &str) -> bool {
    let edge = |character: Option<char>| character.is_some_and(|one| one.is_ascii_alphanumeric());
    text.is_empty()
        || (text.len() <= 63
            && edge(text.chars().next())
            && edge(text.chars().next_back())
            && text
                .chars()
                .all(|one| one.is_ascii_alphanumeric() || matches!(one, '-' | '_' | '.')))
}

/// Checks a new object.
pub(crate) fn on_create(resource: &ResourceType, object: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    check_name(resource, name(object), &mut causes);
    check_metadata(object, &mut causes);
    if resource.custom.is_none() {
        check_kind(resource, object, &mut causes);
        if resource.is("", "pods") {
            pod_validation::spec(object, "/spec", "spec", &mut causes);
        }
    }
    check_schema(resource, object, &mut causes);
    finish(resource, name(object), causes)
}

/// Checks a new state of an object.
pub(crate) fn on_update(resource: &ResourceType, old: &Value, new: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    check_metadata(new, &mut causes);
    check_new_finalizers(old, new, &mut causes);
    if resource.custom.is_none() {
        check_kind(resource, new, &mut causes);
        check_immutable(resource, old, new, &mut causes);
    }
    check_schema(resource, new, &mut causes);
    finish(resource, name(new), causes)
}

/// A custom resource must fit the schema of its definition.
fn check_schema(resource: &ResourceType, object: &Value, causes: &mut Vec<Cause>) {
    if let Some(schema) = resource.custom.as_ref().and_then(|custom| custom.schema.as_ref()) {
        super::structural::validate(schema, object, causes);
    }
}

fn finish(resource: &ResourceType, name: &str, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, name, causes))
    }
}

fn check_name(resource: &ResourceType, name: &str, causes: &mut Vec<Cause>) {
    let value = Value::from(name);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
        return;
    }
    let wrong = match (resource.group.as_str(), resource.plural.as_str()) {
        ("rbac.authorization.k8s.io", _) => (name.contains('/') || name.contains('%') || name == "." || name == "..")
            .then_some("may not contain '/' or '%'"),
        ("", "namespaces") => (!is_dns_label(name)).then_some(LABEL),
        ("", "services") => {
            let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
            (!begins || !is_dns_label(name)).then_some(LABEL_1035)
        }
        _ => (!is_dns_subdomain(name)).then_some(SUBDOMAIN),
    };
    if let Some(why) = wrong {
        causes.push(Cause::invalid("metadata.name", &value, why));
    }
}

fn check_metadata(object: &Value, causes: &mut Vec<Cause>) {
    check_labels(object.pointer("/metadata/labels"), "metadata.labels", causes);
    for (key, value) in object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if !is_qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &json!(key), QUALIFIED));
        }
        if !value.is_string() {
            causes.push(Cause::invalid("metadata.annotations", value, "must be a string"));
        }
    }
    for (index, owner) in array_at(object, "/metadata/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if !is_set(owner, &format!("/{field}")) {
                let field = format!("metadata.ownerReferences[{index}].{field}");
                causes.push(Cause::invalid(field, &json!(""), "must not be empty"));
            }
        }
    }
    let controllers = array_at(object, "/metadata/ownerReferences")
        .iter()
        .filter(|owner| super::object::bool_at(owner, "/controller"))
        .count();
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", &json!(controllers), why));
    }
    for finalizer in finalizers(object).filter(|finalizer| !is_qualified_name(finalizer)) {
        causes.push(Cause::invalid("metadata.finalizers", &json!(finalizer), QUALIFIED));
    }
}

/// Checks a map of labels that stands at a field.
pub(crate) fn check_labels(labels: Option<&Value>, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid(field, &json!(key), QUALIFIED));
        }
        if !value.as_str().is_some_and(is_label_value) {
            causes.push(Cause::invalid(field, value, LABEL_VALUE));
        }
    }
}

fn check_new_finalizers(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    if !is_deleting(old) {
        return;
    }
    let added: Vec<&str> = finalizers(new)
        .filter(|one| !super::object::has_finalizer(old, one))
        .collect();
    if !added.is_empty() {
        causes.push(Cause::forbidden(
            "metadata.finalizers",
            &format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added
                    .iter()
                    .map(|one| format!("\"{one}\""))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ));
    }
}

fn check_kind(resource: &ResourceType, object: &Value, causes: &mut Vec<Cause>) {
    match resource.plural.as_str() {
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" => {
            check_selector(object, causes);
            check_replicas(object, causes);
            pod_validation::template(object, "/spec/template", &["Always"], causes);
        }
        "replicationcontrollers" => {
            check_replicas(object, causes);
            pod_validation::template(object, "/spec/template", &["Always"], causes);
        }
        "jobs" => {
            for field in [
                "parallelism",
                "completions",
                "backoffLimit",
                "activeDeadlineSeconds",
                "ttlSecondsAfterFinished",
            ] {
                check_not_negative(object, field, causes);
            }
            pod_validation::template(object, "/spec/template", &["OnFailure", "Never"], causes);
        }
        "cronjobs" => {
            if !is_set(object, "/spec/schedule") {
                causes.push(Cause::required("spec.schedule", ""));
            }
            let template = "/spec/jobTemplate/spec/template";
            pod_validation::template(object, template, &["OnFailure", "Never"], causes);
        }
        "services" => check_service(object, causes),
        "customresourcedefinitions" => causes.extend(super::crds::validate(object)),
        "configmaps" | "secrets" => {
            for list in ["data", "binaryData"] {
                for key in object
                    .get(list)
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .map(|entry| entry.0)
                {
                    if key.is_empty()
                        || key.len() > 253
                        || !key
                            .chars()
                            .all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one))
                    {
                        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                        causes.push(Cause::invalid(format!("{list}[{key}]"), &json!(key), why));
                    }
                }
            }
        }
        _ => {}
    }
}

fn check_not_negative(object: &Value, field: &str, causes: &mut Vec<Cause>) {
    if let Some(number) = i64_at(object, &format!("/spec/{field}")).filter(|number| *number < 0) {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid(format!("spec.{field}"), &json!(number), why));
    }
}

fn check_replicas(object: &Value, causes: &mut Vec<Cause>) {
    check_not_negative(object, "replicas", causes);
}

fn check_selector(object: &Value, causes: &mut Vec<Cause>) {
    let selector = object.pointer("/spec/selector");
    let parsed = LabelSelector::from_object(selector);
    if selector.is_none_or(Value::is_null) {
        causes.push(Cause::required("spec.selector", ""));
    } else if parsed.is_everything() {
        let why = "empty selector is invalid for deployment";
        causes.push(Cause::invalid("spec.selector", &json!({}), why));
    }
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    if !parsed.matches(template) {
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &labels, why));
    }
}

fn check_service(object: &Value, causes: &mut Vec<Cause>) {
    let kind = str_at(object, "/spec/type").unwrap_or_default();
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !types.contains(&kind) {
        causes.push(Cause::unsupported("spec.type", &json!(kind), &types));
    }
    let ports = array_at(object, "/spec/ports");
    let headless = str_at(object, "/spec/clusterIP") == Some("None");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let number = i64_at(port, "/port").unwrap_or(0);
        if !(1..=65_535).contains(&number) {
            let why = "must be between 1 and 65535, inclusive";
            causes.push(Cause::invalid(format!("spec.ports[{index}].port"), &json!(number), why));
        }
        if ports.len() > 1 && !is_set(port, "/name") {
            causes.push(Cause::required(format!("spec.ports[{index}].name"), ""));
        }
    }
    check_labels(object.pointer("/spec/selector"), "spec.selector", causes);
}

fn check_immutable(resource: &ResourceType, old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let fixed: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("apps", "deployments" | "replicasets" | "daemonsets") => &["spec.selector"],
        ("batch", "jobs") => &["spec.selector", "spec.completionMode", "spec.manualSelector"],
        ("", "secrets") => &["type"],
        ("", "persistentvolumeclaims") => &["spec.accessModes", "spec.selector", "spec.volumeMode"],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &["roleRef"],
        ("storage.k8s.io", "storageclasses") => &["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"],
        ("scheduling.k8s.io", "priorityclasses") => &["value", "preemptionPolicy"],
        ("apiextensions.k8s.io", "customresourcedefinitions") => &["spec.group", "spec.scope", "spec.names.plural"],
        _ => &[],
    };
    for field in fixed {
        let pointer = format!("/{}", field.replace('.', "/"));
        if old.pointer(&pointer) != new.pointer(&pointer) {
            let value = new.pointer(&pointer).cloned().unwrap_or_default();
            causes.push(Cause::invalid(*field, &value, IMMUTABLE));
        }
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod_validation::update(old, new, causes),
        ("", "configmaps" | "secrets") => check_frozen(old, new, causes),
        ("", "services") => check_service_update(old, new, causes),
        ("apps", "statefulsets") => check_stateful_set_update(old, new, causes),
        ("batch", "jobs") => check_job_update(old, new, causes),
        _ => {}
    }
}

fn check_frozen(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    if !super::object::bool_at(old, "/immutable") {
        return;
    }
    for field in ["data", "binaryData", "immutable"] {
        if old.get(field) != new.get(field) {
            causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
        }
    }
}

fn check_service_update(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let was = str_at(old, "/spec/clusterIP").unwrap_or_default();
    let external =
        str_at(old, "/spec/type") == Some("ExternalName") || str_at(new, "/spec/type") == Some("ExternalName");
    if !was.is_empty() && !external && str_at(new, "/spec/clusterIP") != Some(was) {
        let value = new.pointer("/spec/clusterIPs").cloned().unwrap_or_default();
        causes.push(Cause::invalid("spec.clusterIPs[0]", &value, "may not change once set"));
    }
}

fn check_stateful_set_update(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        super::object::map_mut(&mut spec).retain(|key, _| !MUTABLE.contains(&key.as_str()));
        spec
    };
    if fixed(old) != fixed(new) {
        causes.push(Cause::forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

fn check_job_update(old: &Value, new: &Value, causes: &mut Vec<Cause>) {
    let indexed = str_at(new, "/spec/completionMode") == Some("Indexed");
    if !indexed && old.pointer("/spec/completions") != new.pointer("/spec/completions") {
        let value = new.pointer("/spec/completions").cloned().unwrap_or_default();
        causes.push(Cause::invalid("spec.completions", &value, IMMUTABLE));
    }
    // A suspended job that has not started may still be told where to run.
    let movable = super::object::bool_at(old, "/spec/suspend") && !is_set(old, "/status/startTime");
    if !movable && old.pointer("/spec/template") != new.pointer("/spec/template") {
        let value = new.pointer("/spec/template").cloned().unwrap_or_default();
        causes.push(Cause::invalid("spec.template", &value, IMMUTABLE));
    }
}

/// Unknown fields, for `fieldValidation=Strict`: of custom resources all that their schema does not know, of built-in ones the
/// top-level fields of kinds whose fields are few.
pub(crate) fn unknown_fields(resource: &ResourceType, object: &Value) -> Vec<String> {
    if let Some(custom) = &resource.custom {
        return custom
            .schema
            .as_ref()
            .map(|schema| super::structural::unknown_fields(schema, object))
            .unwrap_or_default();
    }
    let known: &[&str] = match resource.plural.as_str() {
        "configmaps" => &["data", "binaryData", "immutable"],
        "secrets" => &["data", "stringData", "type", "immutable"],
        "serviceaccounts" => &["secrets", "imagePullSecrets", "automountServiceAccountToken"],
        "endpoints" => &["subsets"],
        "leases" | "networkpolicies" | "ingressclasses" => &["spec"],
        "roles" => &["rules"],
        "clusterroles" => &["rules", "aggregationRule"],
        "rolebindings" | "clusterrolebindings" => &["subjects", "roleRef"],
        _ if resource.custom.is_none() && resource.has("status") => &["spec", "status"],
        _ => return Vec::new(),
    };
    let fields = object.as_object().into_iter().flatten().map(|entry| entry.0.as_str());
    fields
        .filter(|field| !matches!(*field, "kind" | "apiVersion" | "metadata") && !known.contains(field))
        .map(str::to_owned)
        .collect()
}
