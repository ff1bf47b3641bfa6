//! Pod Security admission: the levels baseline and restricted, by the label `pod-security.kubernetes.io/enforce` of a namespace.
//!
//! Depends on the JSON helpers only; pure. The controls and their words are those of
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, as far as the lab's pods can meet or miss them: host
//! namespaces, privileged containers, capabilities, host paths, host ports; and for restricted privilege escalation, root, seccomp and
//! dropped capabilities. `AppArmor`, `SELinux`, `/proc` mounts and sysctls are not looked at.

use serde_json::Value;

use super::object::{array_at, str_at};

/// Label of a namespace with the level that its pods must meet.
pub(crate) const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";
/// What baseline lets a container add.
const ALLOWED: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "NET_BIND_SERVICE",
];

/// What of a pod a level forbids, in the words of the admission plugin; empty when it may be.
pub(crate) fn violations(level: &str, pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if matches!(level, "baseline" | "restricted") {
        baseline(pod, &mut found);
    }
    if level == "restricted" {
        restricted(pod, &mut found);
    }
    found
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| array_at(pod, &format!("/spec/{list}")))
}

/// `containers "a", "b" must ...`, for those that miss a control.
fn report(found: &mut Vec<String>, control: &str, names: &[&str], wanted: &str) {
    if names.is_empty() {
        return;
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let noun = if names.len() == 1 { "container" } else { "containers" };
    found.push(format!("{control} ({noun} {} {wanted})", quoted.join(", ")));
}

fn names_of(pod: &Value, misses: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(pod)
        .filter(|container| misses(container))
        .filter_map(|container| str_at(container, "/name"))
        .collect()
}

fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool) == Some(true)
}

fn baseline(pod: &Value, found: &mut Vec<String>) {
    let host: Vec<&str> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|key| is_true(pod, &format!("/spec/{key}")))
        .collect();
    if !host.is_empty() {
        let keys: Vec<String> = host.iter().map(|key| format!("{key}=true")).collect();
        found.push(format!("host namespaces ({})", keys.join(", ")));
    }
    let privileged = names_of(pod, |container| is_true(container, "/securityContext/privileged"));
    report(
        found,
        "privileged",
        &privileged,
        "must not set securityContext.privileged=true",
    );
    let mut added: Vec<&str> = containers(pod)
        .flat_map(|container| array_at(container, "/securityContext/capabilities/add"))
        .filter_map(Value::as_str)
        .filter(|capability| !ALLOWED.contains(capability))
        .collect();
    added.sort_unstable();
    added.dedup();
    if !added.is_empty() {
        let adding = names_of(pod, |container| {
            array_at(container, "/securityContext/capabilities/add")
                .iter()
                .filter_map(Value::as_str)
                .any(|capability| added.contains(&capability))
        });
        let quoted: Vec<String> = added.iter().map(|capability| format!("\"{capability}\"")).collect();
        let wanted = format!(
            "must not include {} in securityContext.capabilities.add",
            quoted.join(", ")
        );
        report(found, "non-default capabilities", &adding, &wanted);
    }
    let paths: Vec<String> = array_at(pod, "/spec/volumes")
        .iter()
        .filter(|volume| volume.get("hostPath").is_some_and(|path| !path.is_null()))
        .filter_map(|volume| Some(format!("\"{}\"", str_at(volume, "/name")?)))
        .collect();
    if !paths.is_empty() {
        found.push(format!("hostPath volumes (volumes {})", paths.join(", ")));
    }
    let ports = names_of(pod, |container| {
        array_at(container, "/ports").iter().any(|port| {
            port.get("hostPort")
                .and_then(Value::as_i64)
                .is_some_and(|port| port > 0)
        })
    });
    report(found, "hostPort", &ports, "uses hostPorts");
}

fn restricted(pod: &Value, found: &mut Vec<String>) {
    let escalating = names_of(pod, |container| {
        container
            .pointer("/securityContext/allowPrivilegeEscalation")
            .and_then(Value::as_bool)
            != Some(false)
    });
    let wanted = "must set securityContext.allowPrivilegeEscalation=false";
    report(found, "allowPrivilegeEscalation != false", &escalating, wanted);
    let undropped = names_of(pod, |container| {
        !array_at(container, "/securityContext/capabilities/drop")
            .iter()
            .any(|capability| capability == "ALL")
    });
    let wanted = "must set securityContext.capabilities.drop=[\"ALL\"]";
    report(found, "unrestricted capabilities", &undropped, wanted);
    let whole = |pointer: &str| pod.pointer(&format!("/spec/securityContext/{pointer}"));
    let as_root = names_of(pod, |container| {
        let own = container
            .pointer("/securityContext/runAsNonRoot")
            .or_else(|| whole("runAsNonRoot"));
        own.and_then(Value::as_bool) != Some(true)
    });
    let wanted = "must set securityContext.runAsNonRoot=true";
    report(found, "runAsNonRoot != true", &as_root, wanted);
    let unconfined = names_of(pod, |container| {
        let own = str_at(container, "/securityContext/seccompProfile/type");
        let profile = own.or_else(|| whole("seccompProfile/type").and_then(Value::as_str));
        !matches!(profile, Some("RuntimeDefault" | "Localhost"))
    });
    let wanted = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    report(found, "seccompProfile", &unconfined, wanted);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_levels_say_what_they_forbid() {
        let pod = json!({"spec": {"containers": [{"name": "c",
            "securityContext": {"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}}}]}});
        assert_eq!(violations("privileged", &pod), Vec::<String>::new());
        assert_eq!(
            violations("baseline", &pod),
            [
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)"
            ]
        );
        assert_eq!(violations("restricted", &pod).len(), 5);
        let good = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}}}]}});
        assert_eq!(violations("restricted", &good), Vec::<String>::new());
    }
}
