//! Which Chaos Mesh is installed, and what of it is missing: asked before anything is armed, and shown by `plan`.
//!
//! What may not be read is not known, and no obstacle: the least Role has no rights outside of the target's namespace. Facts:
//! `specs/chaos-mesh.md` sections 9, 11 and 13.

use crate::cluster::{Cluster, ClusterError, Failed};
use crate::fault::RETURN_KEY;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use serde_json::Value;
use std::collections::BTreeSet;

const COMPONENT: &str = "app.kubernetes.io/component";
const INJECT_ANNOTATION: &str = "chaos-mesh.org/inject";

/// Up to 2.7 the value that a method gives back stood under the same key as the one of `mode`.
const OLD_RETURN_KEY: &str = "value";

/// What is known of the installation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Installed {
    /// What to call it: the lab has a double only.
    pub(crate) who: String,
    /// Nodes on which a daemon is ready; none when the pods may not be listed.
    pub(crate) daemons: Option<BTreeSet<String>>,
    /// Why nothing can be done through it.
    pub(crate) problems: Vec<String>,
    /// The key under which a `JVMChaos` holds what a method gives back, as far as the version is known.
    pub(crate) return_key: Option<&'static str>,
    /// What could not be looked at.
    pub(crate) unknown: Vec<&'static str>,
}

impl Installed {
    /// One line for `plan`.
    pub(crate) fn line(&self) -> String {
        let daemons = self.daemons.as_ref().map_or(String::new(), |nodes| {
            let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
            format!(
                ", a daemon is ready on {}",
                if nodes.is_empty() {
                    "no node".to_owned()
                } else {
                    nodes.join(", ")
                }
            )
        });
        let unknown = if self.unknown.is_empty() {
            String::new()
        } else {
            format!(" (not known, for want of rights: {})", self.unknown.join(", "))
        };
        format!("{}{daemons}{unknown}", self.who)
    }

    /// Whether a daemon works on a node, as far as is known.
    pub(crate) fn has_daemon(&self, node: Option<&str>) -> bool {
        match (&self.daemons, node) {
            (Some(daemons), Some(node)) => daemons.contains(node),
            _ => true,
        }
    }
}

/// A call that may be forbidden.
fn allowed<T>(result: Result<T, ClusterError>) -> Result<Option<T>, ClusterError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.failed == Failed::Forbidden => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks at the installation, for experiments in `namespace` that need these kinds.
///
/// # Errors
/// When the cluster cannot be asked.
pub(crate) async fn survey(
    cluster: &Cluster,
    namespace: &str,
    kinds: &BTreeSet<String>,
) -> Result<Installed, ClusterError> {
    let mut found = Installed::default();
    let version = definitions(cluster, kinds, &mut found).await?;
    let exact = controller(cluster, namespace, &mut found).await?;
    found.daemons = daemons(cluster, &mut found).await?;
    found.return_key = found.return_key.or_else(|| exact.as_deref().and_then(return_key_of));
    let version = exact.or(version).map_or(String::new(), |version| format!(" {version}"));
    found.who = if cluster.info().kind == "lab" {
        format!("the lab's DOUBLE of Chaos Mesh{version}")
    } else {
        format!("Chaos Mesh{version}")
    };
    Ok(found)
}

/// Whether each kind is served, and which version that speaks of.
async fn definitions(
    cluster: &Cluster,
    kinds: &BTreeSet<String>,
    found: &mut Installed,
) -> Result<Option<String>, ClusterError> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let mut wanted: BTreeSet<String> = ["networkchaos", "jvmchaos", "podchaos"].map(str::to_owned).into();
    wanted.extend(kinds.iter().cloned());
    let mut schemas = std::collections::BTreeMap::new();
    for plural in wanted {
        let name = format!("{plural}.chaos-mesh.org");
        let Some(definition) = allowed(
            cluster
                .call_opt(format!("look for the definition {name}"), api.get(&name))
                .await,
        )?
        else {
            found.unknown.push("its definitions");
            return Ok(None);
        };
        if definition.is_none() && kinds.contains(&plural) {
            found.problems.push(format!(
                "Chaos Mesh is not installed here, or has no {plural}: install it (its chart is chaos-mesh/chaos-mesh), or use \
                 injector: direct"
            ));
        }
        if let Some(definition) = definition {
            schemas.insert(plural, serde_json::to_value(definition.spec).unwrap_or_default());
        }
    }
    if let Some(why) = schemas.get("podchaos").and_then(too_old) {
        found.problems.push(why);
    }
    found.return_key = schemas.get("jvmchaos").map(|held| {
        if has_field(held, RETURN_KEY) {
            RETURN_KEY
        } else {
            OLD_RETURN_KEY
        }
    });
    Ok(version_of(schemas.get("networkchaos"), schemas.get("jvmchaos")).map(str::to_owned))
}

fn has_field(definition: &Value, field: &str) -> bool {
    let versions = definition.get("versions").and_then(Value::as_array);
    versions.into_iter().flatten().any(|version| {
        version
            .pointer(&format!("/schema/openAPIV3Schema/properties/spec/properties/{field}"))
            .is_some()
    })
}

/// Up to 1.x the schedule stood inside each experiment, and was mandatory in some.
fn too_old(podchaos: &Value) -> Option<String> {
    has_field(podchaos, "scheduler").then(|| {
        "Chaos Mesh 1.x is installed (PodChaos has spec.scheduler): chaosrun needs 2.5 or newer, and definitions that an old \
         version left behind have to be replaced"
            .to_owned()
    })
}

/// The key of a version such as `2.7.1`, when there is no definition to look at.
fn return_key_of(version: &str) -> Option<&'static str> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(if (major, minor) >= (2, 8) {
        RETURN_KEY
    } else {
        OLD_RETURN_KEY
    })
}

/// The version that two definitions speak of (section 11).
fn version_of(networkchaos: Option<&Value>, jvmchaos: Option<&Value>) -> Option<&'static str> {
    let networkchaos = networkchaos?;
    Some(
        if jvmchaos.is_some_and(|definition| has_field(definition, "returnValue")) {
            "2.8 or newer"
        } else if has_field(networkchaos, "rate") {
            "2.7"
        } else {
            "2.6 or older"
        },
    )
}

/// Whether its controller-manager is ready and looks at this namespace; its version by its image.
async fn controller(cluster: &Cluster, namespace: &str, found: &mut Installed) -> Result<Option<String>, ClusterError> {
    let api: Api<Deployment> = Api::all(cluster.client());
    let managers = ListParams::default().labels(&format!(
        "{COMPONENT}=controller-manager,app.kubernetes.io/name=chaos-mesh"
    ));
    let listed = cluster
        .call("look for Chaos Mesh's controller-manager", api.list(&managers))
        .await;
    let Some(listed) = allowed(listed)? else {
        found.unknown.push("its controller-manager");
        return Ok(None);
    };
    let Some(manager) = listed.items.into_iter().next() else {
        found
            .problems
            .push("Chaos Mesh has no controller-manager here: nobody would do what its objects say".to_owned());
        return Ok(None);
    };
    let ready = manager
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0);
    let place = format!(
        "{}/{}",
        manager.metadata.namespace.as_deref().unwrap_or_default(),
        manager.metadata.name.as_deref().unwrap_or_default()
    );
    if ready == 0 {
        found.problems.push(format!(
            "Chaos Mesh's controller-manager is not ready (Deployment {place}): every creation would end in \"failed calling webhook\""
        ));
    }
    let container = manager
        .spec
        .and_then(|spec| spec.template.spec)
        .and_then(|spec| spec.containers.into_iter().next());
    let Some(container) = container else {
        return Ok(None);
    };
    let set = |name: &str| {
        let env = container.env.iter().flatten().find(|env| env.name == name);
        env.and_then(|env| env.value.clone()).unwrap_or_default()
    };
    let own = set("TARGET_NAMESPACE");
    if set("CLUSTER_SCOPED") == "false" && !own.is_empty() && own != namespace {
        found.problems.push(format!(
            "Chaos Mesh looks at namespace {own} only (its TARGET_NAMESPACE): objects in {namespace} would never be acted on"
        ));
    }
    if set("ENABLE_FILTER_NAMESPACE") == "true" {
        filtered(cluster, namespace, found).await?;
    }
    let tag = container
        .image
        .as_deref()
        .and_then(|image| image.rsplit_once(':'))
        .map(|(_, tag)| tag);
    let digits = tag
        .map(|tag| tag.trim_start_matches('v'))
        .filter(|tag| tag.starts_with(|first: char| first.is_ascii_digit()));
    Ok(digits.map(str::to_owned))
}

/// Chaos Mesh can be told to act only in namespaces that say so.
async fn filtered(cluster: &Cluster, namespace: &str, found: &mut Installed) -> Result<(), ClusterError> {
    let api: Api<Namespace> = Api::all(cluster.client());
    let read = cluster
        .call_opt(format!("read namespace {namespace}"), api.get(namespace))
        .await;
    let Some(read) = allowed(read)? else {
        found.unknown.push("the annotations of the namespace");
        return Ok(());
    };
    let annotations = read.and_then(|read| read.metadata.annotations).unwrap_or_default();
    if annotations
        .get(INJECT_ANNOTATION)
        .is_none_or(|value| value != "enabled")
    {
        found.problems.push(format!(
            "Chaos Mesh acts only in namespaces with the annotation {INJECT_ANNOTATION}: enabled, and {namespace} has none"
        ));
    }
    Ok(())
}

async fn daemons(cluster: &Cluster, found: &mut Installed) -> Result<Option<BTreeSet<String>>, ClusterError> {
    let api: Api<Pod> = Api::all(cluster.client());
    let selector = ListParams::default().labels(&format!("{COMPONENT}=chaos-daemon"));
    let listed = cluster.call("look for Chaos Mesh's daemons", api.list(&selector)).await;
    let Some(listed) = allowed(listed)? else {
        found.unknown.push("its daemons");
        return Ok(None);
    };
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        pod.metadata.deletion_timestamp.is_none()
            && conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let nodes = listed
        .items
        .into_iter()
        .filter(is_ready)
        .filter_map(|pod| pod.spec?.node_name);
    Ok(Some(nodes.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(field: &str) -> Value {
        json!({"versions": [{"name": "v1alpha1", "schema": {"openAPIV3Schema": {"properties": {"spec": {"properties": {field: {}}}}}}}]})
    }

    #[test]
    fn the_version_is_told_by_what_the_definitions_know() {
        let (plain, rate, value) = (definition("action"), definition("rate"), definition("returnValue"));
        assert_eq!(version_of(Some(&plain), Some(&plain)), Some("2.6 or older"));
        assert_eq!(version_of(Some(&rate), Some(&plain)), Some("2.7"));
        assert_eq!(version_of(Some(&rate), Some(&value)), Some("2.8 or newer"));
        assert_eq!(version_of(None, None), None);
        assert!(too_old(&definition("scheduler")).is_some());
    }

    #[test]
    fn what_a_method_gives_back_stands_under_the_key_of_the_version() {
        for (version, key) in [
            ("2.8.0", Some("returnValue")),
            ("3.0.1-rc.1", Some("returnValue")),
            ("2.7.3", Some("value")),
            ("latest", None),
            ("2", None),
        ] {
            assert_eq!(return_key_of(version), key, "{version}");
        }
    }

    #[test]
    fn a_node_without_a_daemon_is_told_only_where_the_daemons_are_known() {
        let mut installed = Installed::default();
        assert!(installed.has_daemon(Some("a")));
        installed.daemons = Some(BTreeSet::from(["b".to_owned()]));
        assert!(!installed.has_daemon(Some("a")));
        assert!(installed.has_daemon(Some("b")));
    }
}
