//! `/api`, `/apis`, `/version` and health.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::registry::ResourceType;
use super::server::ApiServer;
use super::status::{ApiError, bytes_response, json_response};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Discovery paths.
pub(crate) fn router() -> axum::Router<Arc<ApiServer>> {
    use axum::routing::get;
    axum::Router::new()
        .route("/api", get(core_versions))
        .route("/api/", get(core_versions))
        .route("/apis", get(groups))
        .route("/apis/", get(groups))
        .route("/api/v1", get(core_resources))
        .route("/api/v1/", get(core_resources))
        .route("/apis/{group}", get(group))
        .route("/apis/{group}/", get(group))
        .route("/apis/{group}/{version}", get(group_resources))
        .route("/apis/{group}/{version}/", get(group_resources))
        .route("/version", get(version))
        .route("/version/", get(version))
}

async fn version() -> Response {
    json_response(
        StatusCode::OK,
        &json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0+chaosrun-lab", "gitCommit": "",
            "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        }),
    )
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    accept.split(',').any(|part| {
        part.contains("application/json")
            && part.contains("as=APIGroupDiscoveryList")
            && part.contains("v=v2")
            && !part.contains("v=v2beta1")
    })
}

async fn core_versions(State(server): State<Arc<ApiServer>>, headers: HeaderMap) -> Response {
    if wants_aggregated(&headers) {
        return aggregated(&server, true);
    }
    json_response(
        StatusCode::OK,
        &json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server.advertised()}],
        }),
    )
}

/// Versions of each group; versions of custom resources are ordered by age of the registry's key.
fn versions(server: &ApiServer) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for resource in server.registry().all() {
        if resource.group.is_empty() {
            continue;
        }
        let versions = found.entry(resource.group.clone()).or_default();
        if !versions.contains(&resource.version) {
            versions.push(resource.version.clone());
        }
    }
    for versions in found.values_mut() {
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    }
    found
}

/// GA before beta before alpha, higher numbers first.
fn priority(version: &str) -> (u8, u64, u64) {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let rest = version.strip_prefix('v').unwrap_or(version);
    if let Some((major, minor)) = rest.split_once("beta") {
        (1, number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (0, number(major), number(minor))
    } else {
        (2, number(rest), 0)
    }
}

fn group_object(group: &str, versions: &[String]) -> Value {
    let listed: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": listed, "preferredVersion": listed.first()})
}

async fn groups(State(server): State<Arc<ApiServer>>, headers: HeaderMap) -> Response {
    if wants_aggregated(&headers) {
        return aggregated(&server, false);
    }
    let groups: Vec<Value> = versions(&server)
        .iter()
        .map(|(group, versions)| group_object(group, versions))
        .collect();
    json_response(
        StatusCode::OK,
        &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
    )
}

async fn group(State(server): State<Arc<ApiServer>>, Path(group): Path<String>) -> Response {
    match versions(&server).get(&group) {
        None => ApiError::no_such_path().into_response(),
        Some(versions) => {
            let mut found = group_object(&group, versions);
            super::object::set(&mut found, "/kind", "APIGroup");
            super::object::set(&mut found, "/apiVersion", "v1");
            json_response(StatusCode::OK, &found)
        }
    }
}

async fn core_resources(State(server): State<Arc<ApiServer>>) -> Response {
    resource_list(&server, "", "v1")
}

async fn group_resources(
    State(server): State<Arc<ApiServer>>,
    Path((group, version)): Path<(String, String)>,
) -> Response {
    resource_list(&server, &group, &version)
}

fn resource_list(server: &ApiServer, group: &str, version: &str) -> Response {
    let mut resources = Vec::new();
    for resource in server.registry().all() {
        if resource.group != group || resource.version != version {
            continue;
        }
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(),
        });
        if !resource.short_names.is_empty() {
            super::object::set(&mut entry, "/shortNames", json!(resource.short_names));
        }
        if !resource.categories.is_empty() {
            super::object::set(&mut entry, "/categories", json!(resource.categories));
        }
        resources.push(entry);
        for subresource in &resource.subresources {
            let (group, version, kind) = subresource_kind(&resource, subresource);
            let mut entry = json!({
                "name": format!("{}/{subresource}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": subresource_verbs(subresource),
            });
            if group != resource.group || version != resource.version {
                super::object::set(&mut entry, "/group", group);
                super::object::set(&mut entry, "/version", version);
            }
            resources.push(entry);
        }
    }
    if resources.is_empty() {
        return ApiError::no_such_path().into_response();
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json_response(
        StatusCode::OK,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

fn subresource_kind(resource: &ResourceType, subresource: &str) -> (String, String, String) {
    let fixed = |group: &str, version: &str, kind: &str| (group.to_owned(), version.to_owned(), kind.to_owned());
    match subresource {
        "scale" => fixed("autoscaling", "v1", "Scale"),
        "eviction" => fixed("policy", "v1", "Eviction"),
        "token" => fixed("authentication.k8s.io", "v1", "TokenRequest"),
        "binding" => fixed("", "v1", "Binding"),
        "exec" => fixed("", "v1", "PodExecOptions"),
        "attach" => fixed("", "v1", "PodAttachOptions"),
        "portforward" => fixed("", "v1", "PodPortForwardOptions"),
        "proxy" => (
            resource.group.clone(),
            resource.version.clone(),
            format!("{}ProxyOptions", resource.kind),
        ),
        _ => (resource.group.clone(), resource.version.clone(), resource.kind.clone()),
    }
}

fn subresource_verbs(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "log" => &["get"],
        "exec" | "attach" | "portforward" => &["create", "get"],
        "eviction" | "binding" | "token" => &["create"],
        "finalize" => &["update"],
        "proxy" => &["create", "delete", "get", "patch", "update"],
        _ => &["get", "patch", "update"],
    }
}

fn aggregated(server: &ApiServer, core: bool) -> Response {
    let all = server.registry().all();
    let groups: Vec<(String, Vec<String>)> = if core {
        vec![(String::new(), vec!["v1".to_owned()])]
    } else {
        versions(server).into_iter().collect()
    };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = all
                        .iter()
                        .filter(|one| one.group == *group && one.version == *version)
                        .map(|one| aggregated_resource(one))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let mut response = bytes_response(StatusCode::OK, list.to_string());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated_resource(resource: &ResourceType) -> Value {
    let kind =
        |(group, version, kind): (String, String, String)| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind((resource.group.clone(), resource.version.clone(), resource.kind.clone())),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs(),
    });
    if !resource.short_names.is_empty() {
        super::object::set(&mut entry, "/shortNames", json!(resource.short_names));
    }
    if !resource.categories.is_empty() {
        super::object::set(&mut entry, "/categories", json!(resource.categories));
    }
    if !resource.subresources.is_empty() {
        let listed: Vec<Value> = resource
            .subresources
            .iter()
            .map(|one| {
                json!({
                    "subresource": one, "responseKind": kind(subresource_kind(resource, one)),
                    "verbs": subresource_verbs(one),
                })
            })
            .collect();
        super::object::set(&mut entry, "/subresources", json!(listed));
    }
    entry
}
