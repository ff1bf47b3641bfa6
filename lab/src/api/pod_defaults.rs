//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use super::object::{array_at, array_mut, is_set, set, set_default, str_at};

/// Defaults of a pod, what admission adds to it, and its first status.
pub(crate) fn pod(object: &mut Value) {
    set_default(object, "/spec", json!({}));
    if let Some(spec) = object.get_mut("spec") {
        pod_spec(spec);
        set_default(spec, "/serviceAccountName", "default");
        if let Some(account) = spec.get("serviceAccountName").cloned() {
            set_default(spec, "/serviceAccount", account);
        }
        set_default(spec, "/enableServiceLinks", true);
        set_default(spec, "/preemptionPolicy", "PreemptLowerPriority");
        set_default(spec, "/priority", 0);
        tolerations(spec);
    }
    let class = qos_class(object);
    set_default(object, "/status", json!({"phase": "Pending"}));
    set_default(object, "/status/phase", "Pending");
    set_default(object, "/status/qosClass", class);
}

/// Defaults of a pod template that stands at a JSON pointer.
pub(crate) fn template(object: &mut Value, pointer: &str) {
    if let Some(template) = object.pointer_mut(pointer).filter(|template| template.is_object()) {
        set_default(template, "/spec", json!({}));
        if let Some(spec) = template.get_mut("spec") {
            pod_spec(spec);
        }
    }
}

/// Defaults of the containers that are put into a running pod.
pub(crate) fn ephemeral_containers(object: &mut Value) {
    for one in array_mut(object, "/spec/ephemeralContainers") {
        container(one);
    }
}

fn pod_spec(spec: &mut Value) {
    for list in ["/initContainers", "/containers", "/ephemeralContainers"] {
        for one in array_mut(spec, list) {
            container(one);
        }
    }
    for one in array_mut(spec, "/volumes") {
        volume(one);
    }
    set_default(spec, "/restartPolicy", "Always");
    set_default(spec, "/terminationGracePeriodSeconds", 30);
    set_default(spec, "/dnsPolicy", "ClusterFirst");
    set_default(spec, "/securityContext", json!({}));
    set_default(spec, "/schedulerName", "default-scheduler");
}

fn container(object: &mut Value) {
    let image = str_at(object, "/image").unwrap_or_default();
    let tag = image
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once(':'))
        .map(|(_, tag)| tag);
    let moves = matches!(tag, None | Some("latest")) && !image.contains('@');
    set_default(
        object,
        "/imagePullPolicy",
        if moves { "Always" } else { "IfNotPresent" },
    );
    set_default(object, "/terminationMessagePath", "/dev/termination-log");
    set_default(object, "/terminationMessagePolicy", "File");
    set_default(object, "/resources", json!({}));
    // What is limited and not requested is requested at the limit.
    if let Some(Value::Object(limits)) = object.pointer("/resources/limits").cloned() {
        for (resource, amount) in limits {
            let requested = object
                .pointer("/resources/requests")
                .and_then(|all| all.get(&resource))
                .is_some();
            if !requested {
                super::object::set_key(object, "/resources/requests", &resource, amount);
            }
        }
    }
    for port in array_mut(object, "/ports") {
        set_default(port, "/protocol", "TCP");
    }
    for variable in array_mut(object, "/env") {
        if variable.pointer("/valueFrom/fieldRef").is_some() {
            set_default(variable, "/valueFrom/fieldRef/apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = object.get_mut(probe).filter(|probe| probe.is_object()) {
            set_default(found, "/timeoutSeconds", 1);
            set_default(found, "/periodSeconds", 10);
            set_default(found, "/successThreshold", 1);
            set_default(found, "/failureThreshold", 3);
            http_get(found);
        }
    }
    for hook in ["/lifecycle/preStop", "/lifecycle/postStart"] {
        if let Some(found) = object.pointer_mut(hook) {
            http_get(found);
        }
    }
}

fn http_get(handler: &mut Value) {
    if handler.get("httpGet").is_some() {
        set_default(handler, "/httpGet/path", "/");
        set_default(handler, "/httpGet/scheme", "HTTP");
    }
    if handler.get("grpc").is_some() {
        set_default(handler, "/grpc/service", "");
    }
}

fn volume(object: &mut Value) {
    let has_source = object
        .as_object()
        .is_some_and(|map| map.keys().any(|key| key != "name"));
    if !has_source {
        set(object, "/emptyDir", json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if object.get(source).is_some() {
            set_default(object, &format!("/{source}/defaultMode"), 420);
        }
    }
    if object.get("hostPath").is_some() {
        set_default(object, "/hostPath/type", "");
    }
    for source in array_mut(object, "/projected/sources") {
        if source.get("serviceAccountToken").is_some() {
            set_default(source, "/serviceAccountToken/expirationSeconds", 3600);
        }
    }
    for list in ["/downwardAPI/items", "/projected/sources"] {
        for item in array_mut(object, list) {
            if item.get("fieldRef").is_some() {
                set_default(item, "/fieldRef/apiVersion", "v1");
            }
        }
    }
}

/// A node may be gone for five minutes before its pods are evicted.
fn tolerations(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = array_at(spec, "/tolerations")
            .iter()
            .any(|one| str_at(one, "/key").is_none_or(|found| found == key));
        if !tolerated {
            set_default(spec, "/tolerations", json!([]));
            if let Some(list) = spec.get_mut("tolerations").and_then(Value::as_array_mut) {
                list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
            }
        }
    }
}

fn qos_class(pod: &Value) -> &'static str {
    let containers: Vec<&Value> = array_at(pod, "/spec/containers")
        .iter()
        .chain(array_at(pod, "/spec/initContainers"))
        .collect();
    let amount = |container: &Value, list: &str, resource: &str| {
        container
            .pointer(&format!("/resources/{list}"))
            .and_then(|all| all.get(resource))
            .cloned()
    };
    let counted = ["cpu", "memory"];
    let any = containers.iter().any(|one| {
        counted
            .iter()
            .any(|resource| amount(one, "limits", resource).is_some() || amount(one, "requests", resource).is_some())
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|one| {
        counted.iter().all(|resource| {
            let limit = amount(one, "limits", resource);
            limit.is_some() && limit == amount(one, "requests", resource)
        })
    });
    if guaranteed && is_set(pod, "/spec/containers") {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
