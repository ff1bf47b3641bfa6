//! The environment of a container: `env`, `envFrom`, references to fields and resources, and `$(VAR)`.
//! Depends on kube for config maps and secrets.
//!
//! Contract: what a kubelet would pass, except the legacy variables of other services.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret};
use kube::api::Api;
use kube::{Client, ResourceExt};

use super::error::NodeError;
use super::image::Image;
use super::quantity;

/// What the environment of a container depends on beside the pod.
pub(crate) struct Surroundings<'a> {
    pub client: &'a Client,
    pub pod: &'a Pod,
    pub pod_address: Ipv4Addr,
    pub host_address: Ipv4Addr,
    pub kubernetes_service: Ipv4Addr,
    /// Stand-ins for missing limits, as with a kubelet.
    pub node_cpus: i64,
    pub node_memory: i64,
}

/// All variables of a container, in order, each name once.
pub(crate) async fn variables(
    around: &Surroundings<'_>,
    container: &Container,
    image: Option<&Image>,
) -> Result<Vec<(String, String)>, NodeError> {
    let mut all = Variables::default();
    all.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    all.set("HOSTNAME", &hostname(around.pod));
    for (name, value) in image.iter().flat_map(|image| &image.environment) {
        all.set(name, value);
    }
    all.set("KUBERNETES_SERVICE_HOST", &around.kubernetes_service.to_string());
    all.set("KUBERNETES_SERVICE_PORT", "443");
    all.set("KUBERNETES_SERVICE_PORT_HTTPS", "443");
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in from_objects(around, container).await? {
        all.set(&name, &value);
        own.insert(name, value);
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => reference(around, container, source).await?,
            (Some(text), None) => Some(expand(text, &own)),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            all.set(&variable.name, &value);
            own.insert(variable.name.clone(), value);
        }
    }
    Ok(all.0)
}

/// Variables in order of first appearance.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}

/// The pod's host name.
pub(crate) fn hostname(pod: &Pod) -> String {
    let wanted = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty());
    let name = wanted.unwrap_or_else(|| pod.name_any());
    // A host name has at most 63 characters; a kubelet cuts in the same way.
    name.chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

/// `envFrom`.
async fn from_objects(around: &Surroundings<'_>, container: &Container) -> Result<Vec<(String, String)>, NodeError> {
    let mut found = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let data = if let Some(reference) = &source.config_map_ref {
            config_map(around, &reference.name, reference.optional.unwrap_or(false)).await?
        } else if let Some(reference) = &source.secret_ref {
            secret(around, &reference.name, reference.optional.unwrap_or(false)).await?
        } else {
            None
        };
        found.extend(
            data.into_iter()
                .flatten()
                .map(|(key, value)| (format!("{prefix}{key}"), value)),
        );
    }
    Ok(found)
}

async fn reference(
    around: &Surroundings<'_>,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, NodeError> {
    if let Some(field) = &source.field_ref {
        return field_value(around.pod, &field.field_path, around.pod_address, around.host_address).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(around, container, resource).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional.unwrap_or(false);
        let data = config_map(around, &key.name, optional).await?;
        return pick(data, &key.key, optional, "ConfigMap", &key.name);
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional.unwrap_or(false);
        let data = secret(around, &key.name, optional).await?;
        return pick(data, &key.key, optional, "Secret", &key.name);
    }
    Err(NodeError::Pod(
        "an environment variable refers to something that the lab does not know".to_owned(),
    ))
}

fn pick(
    data: Option<BTreeMap<String, String>>,
    key: &str,
    optional: bool,
    kind: &str,
    name: &str,
) -> Result<Option<String>, NodeError> {
    match data.and_then(|mut data| data.remove(key)) {
        Some(value) => Ok(Some(value)),
        None if optional => Ok(None),
        None => Err(NodeError::Pod(format!("couldn't find key {key} in {kind} {name}"))),
    }
}

async fn config_map(
    around: &Surroundings<'_>,
    name: &str,
    optional: bool,
) -> Result<Option<BTreeMap<String, String>>, NodeError> {
    let api: Api<ConfigMap> = Api::namespaced(around.client.clone(), &around.pod.namespace().unwrap_or_default());
    match api
        .get_opt(name)
        .await
        .map_err(NodeError::api(format!("read config map {name}")))?
    {
        Some(map) => Ok(Some(map.data.unwrap_or_default())),
        None if optional => Ok(None),
        None => Err(NodeError::Pod(format!("configmap \"{name}\" not found"))),
    }
}

async fn secret(
    around: &Surroundings<'_>,
    name: &str,
    optional: bool,
) -> Result<Option<BTreeMap<String, String>>, NodeError> {
    let api: Api<Secret> = Api::namespaced(around.client.clone(), &around.pod.namespace().unwrap_or_default());
    match api
        .get_opt(name)
        .await
        .map_err(NodeError::api(format!("read secret {name}")))?
    {
        Some(secret) => Ok(Some(
            secret
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
                .collect(),
        )),
        None if optional => Ok(None),
        None => Err(NodeError::Pod(format!("secret \"{name}\" not found"))),
    }
}

/// The value of a `fieldRef`; also used for downward API volumes, which know whole maps too.
pub(crate) fn field_value(
    pod: &Pod,
    path: &str,
    pod_address: Ipv4Addr,
    host_address: Ipv4Addr,
) -> Result<String, NodeError> {
    let spec = pod.spec.as_ref();
    let quoted = |map: &BTreeMap<String, String>| {
        map.iter()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => quoted(pod.labels()),
        "metadata.annotations" => quoted(pod.annotations()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => service_account(pod),
        "status.podIP" | "status.podIPs" => pod_address.to_string(),
        "status.hostIP" | "status.hostIPs" => host_address.to_string(),
        other => {
            let key = |prefix: &str| other.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
            if let Some(key) = key("metadata.labels") {
                pod.labels().get(key).cloned().unwrap_or_default()
            } else if let Some(key) = key("metadata.annotations") {
                pod.annotations().get(key).cloned().unwrap_or_default()
            } else {
                return Err(NodeError::Pod(format!("field path {other} is not supported")));
            }
        }
    })
}

/// The service account a pod runs as.
pub(crate) fn service_account(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| {
        spec.service_account_name
            .clone()
            .or_else(|| spec.service_account.clone())
    })
    .filter(|name| !name.is_empty())
    .unwrap_or_else(|| "default".to_owned())
}

fn resource_value(
    around: &Surroundings<'_>,
    container: &Container,
    field: &ResourceFieldSelector,
) -> Result<String, NodeError> {
    let unknown = || NodeError::Pod(format!("resource {} is not supported", field.resource));
    let container = match &field.container_name {
        Some(name) => around
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|container| &container.name == name)
            .ok_or_else(unknown)?,
        None => container,
    };
    let (kind, resource) = field.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let value = match kind {
        "limits" => limits.and_then(|map| map.get(resource)),
        "requests" => requests
            .and_then(|map| map.get(resource))
            .or_else(|| limits.and_then(|map| map.get(resource))),
        _ => return Err(unknown()),
    };
    let value = match (value.map(quantity::milli), resource) {
        (Some(Some(milli)), _) => milli,
        (Some(None), _) => return Err(unknown()),
        (None, "cpu") if kind == "limits" => i128::from(around.node_cpus) * 1000,
        (None, "memory") if kind == "limits" => i128::from(around.node_memory) * 1000,
        (None, _) => 0,
    };
    let divisor = field
        .divisor
        .as_ref()
        .and_then(quantity::milli)
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1000);
    Ok((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

/// Replaces `$(NAME)` by its value; unknown names stay, `$$` is one dollar sign.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, remaining)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            if let Some(value) = variables.get(name) {
                result.push_str(value);
            } else {
                result.push_str("$(");
                result.push_str(name);
                result.push(')');
            }
            rest = remaining;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_follows_the_kubelet() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(NONE)", "$(NONE)"),
            ("$A $( $", "$A $( $"),
            ("$(B)", "$(A)"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }

    #[test]
    fn fields_are_found_by_path() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a.b/c": "x"}},
            "spec": {"containers": [], "nodeName": "lab-1"}
        }))
        .unwrap();
        let value = |path: &str| field_value(&pod, path, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)).ok();
        assert_eq!(value("metadata.labels['a.b/c']").as_deref(), Some("x"));
        assert_eq!(value("status.podIP").as_deref(), Some("10.0.0.1"));
        assert_eq!(value("spec.serviceAccountName").as_deref(), Some("default"));
        assert_eq!(value("metadata.labels").as_deref(), Some("a.b/c=\"x\""));
        assert_eq!(value("spec.nothing"), None);
    }
}
