//! Which resources there are: the built-in ones, and those that custom resource definitions add at run time.
//!
//! The central type is [`ResourceType`]: one resource in one version. Everything else in the API server is generic
//! over it. Depends on nothing of the server.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use super::object::{array_at, bool_at, str_at};

/// What a custom resource definition adds to a resource type.
#[derive(Debug, Clone, Default)]
pub struct CustomType {
    /// JSON pointers of `subresources.scale`: spec, status, label selector.
    pub scale: Option<ScalePaths>,
    /// `openAPIV3Schema` of this version.
    pub schema: Option<Value>,
    /// `additionalPrinterColumns` of this version.
    pub printer_columns: Vec<Value>,
    /// Name of the definition.
    pub definition: String,
}

/// Where the scale subresource finds its numbers, as JSON pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wanted replicas.
    pub spec: String,
    /// Present replicas.
    pub status: String,
    /// Label selector, when there is one (a string in custom resources, an object in built-in ones).
    pub selector: Option<String>,
}

/// One resource in one version.
#[derive(Debug, Clone)]
pub struct ResourceType {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, as `v1`.
    pub version: String,
    /// Kind, as `Pod`.
    pub kind: String,
    /// Kind of the list, as `PodList`.
    pub list_kind: String,
    /// Name in paths, as `pods`.
    pub plural: String,
    /// Singular name for people.
    pub singular: String,
    /// Short names for people.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Names of the subresources.
    pub subresources: Vec<String>,
    /// Store key: versions of the same resource (and `events` of both groups) share it.
    pub storage: Arc<str>,
    /// Can only be created (reviews); nothing is stored.
    pub create_only: bool,
    /// Whether `metadata.generation` counts.
    pub generation: bool,
    /// Present for custom resources.
    pub custom: Option<CustomType>,
}

impl ResourceType {
    /// `apiVersion` of the objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `apiVersion` that objects are stored with: events are stored in their core form.
    pub(crate) fn stored_api_version(&self) -> String {
        if &*self.storage == "/events" {
            "v1".to_owned()
        } else {
            self.api_version()
        }
    }

    /// `deployments.apps`; `pods` in the core group.
    #[must_use]
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether there is such a subresource.
    #[must_use]
    pub fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|one| one == subresource)
    }

    /// Whether this is the resource of that group and plural.
    #[must_use]
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// Verbs of the resource itself.
    #[must_use]
    pub fn verbs(&self) -> Vec<&'static str> {
        if self.create_only {
            return vec!["create"];
        }
        vec![
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]
    }

    /// Where the scale subresource reads and writes.
    #[must_use]
    pub fn scale_paths(&self) -> Option<ScalePaths> {
        match &self.custom {
            Some(custom) => custom.scale.clone(),
            None if self.has("scale") => Some(ScalePaths {
                spec: "/spec/replicas".to_owned(),
                status: "/status/replicas".to_owned(),
                selector: Some("/spec/selector".to_owned()),
            }),
            None => None,
        }
    }
}

/// All resource types by group, version and plural.
#[derive(Debug)]
pub struct Registry {
    types: RwLock<BTreeMap<(String, String, String), Arc<ResourceType>>>,
}

impl Registry {
    /// A registry with the built-in types.
    #[must_use]
    pub fn new() -> Self {
        let mut types = BTreeMap::new();
        for one in built_in() {
            types.insert(
                (one.group.clone(), one.version.clone(), one.plural.clone()),
                Arc::new(one),
            );
        }
        Self {
            types: RwLock::new(types),
        }
    }

    /// Looks a resource up by its place in the path.
    #[must_use]
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<ResourceType>> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        types
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
            .cloned()
    }

    /// Looks a resource up by the kind that manifests and owner references name.
    #[must_use]
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<Arc<ResourceType>> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        types
            .values()
            .find(|one| one.kind == kind && one.api_version() == api_version)
            .cloned()
    }

    /// Some version of the resource that is stored under this key.
    #[must_use]
    pub fn by_storage(&self, storage: &str) -> Option<Arc<ResourceType>> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        types
            .values()
            .find(|one| &*one.storage == storage && !one.create_only)
            .cloned()
    }

    /// All types, ordered by group, version and plural.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ResourceType>> {
        self.types
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Makes the served versions of a custom resource definition known and forgets versions that it no longer has.
    pub fn register_definition(&self, definition: &Value) {
        let name = super::object::name(definition);
        let served = from_definition(definition);
        let mut types = self.types.write().unwrap_or_else(PoisonError::into_inner);
        types.retain(|_, one| one.custom.as_ref().is_none_or(|custom| custom.definition != name));
        for one in served {
            types
                .entry((one.group.clone(), one.version.clone(), one.plural.clone()))
                .or_insert_with(|| Arc::new(one));
        }
    }

    /// Forgets a custom resource definition.
    pub fn unregister_definition(&self, name: &str) {
        let mut types = self.types.write().unwrap_or_else(PoisonError::into_inner);
        types.retain(|_, one| one.custom.as_ref().is_none_or(|custom| custom.definition != name));
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

fn from_definition(definition: &Value) -> Vec<ResourceType> {
    let group = str_at(definition, "/spec/group").unwrap_or_default();
    let plural = str_at(definition, "/spec/names/plural").unwrap_or_default();
    let kind = str_at(definition, "/spec/names/kind").unwrap_or_default();
    let words = |pointer: &str| -> Vec<String> {
        array_at(definition, pointer)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    array_at(definition, "/spec/versions")
        .iter()
        .filter(|version| bool_at(version, "/served"))
        .map(|version| {
            let mut subresources = Vec::new();
            if version.pointer("/subresources/status").is_some() {
                subresources.push("status".to_owned());
            }
            let scale = version.pointer("/subresources/scale").map(|scale| ScalePaths {
                spec: to_pointer(str_at(scale, "/specReplicasPath").unwrap_or_default()),
                status: to_pointer(str_at(scale, "/statusReplicasPath").unwrap_or_default()),
                selector: str_at(scale, "/labelSelectorPath").map(to_pointer),
            });
            if scale.is_some() {
                subresources.push("scale".to_owned());
            }
            ResourceType {
                group: group.to_owned(),
                version: str_at(version, "/name").unwrap_or_default().to_owned(),
                kind: kind.to_owned(),
                list_kind: str_at(definition, "/spec/names/listKind")
                    .map_or_else(|| format!("{kind}List"), str::to_owned),
                plural: plural.to_owned(),
                singular: str_at(definition, "/spec/names/singular").map_or_else(|| kind.to_lowercase(), str::to_owned),
                short_names: words("/spec/names/shortNames"),
                categories: words("/spec/names/categories"),
                namespaced: str_at(definition, "/spec/scope") == Some("Namespaced"),
                subresources,
                storage: Arc::from(format!("{group}/{plural}")),
                create_only: false,
                generation: true,
                custom: Some(CustomType {
                    scale,
                    schema: version.pointer("/schema/openAPIV3Schema").cloned(),
                    printer_columns: array_at(version, "/additionalPrinterColumns").to_vec(),
                    definition: super::object::name(definition).to_owned(),
                }),
            }
        })
        .collect()
}

/// `.spec.replicas` as the JSON pointer `/spec/replicas`.
fn to_pointer(path: &str) -> String {
    path.replace('.', "/")
}

const NAMESPACED: bool = true;
const CLUSTER: bool = false;

/// group, version, kind, plural, short names, namespaced, subresources, categories, generation
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    bool,
    &'static str,
    &'static str,
    bool,
);

const ROWS: &[Row] = &[
    ("", "v1", "Binding", "bindings", "", NAMESPACED, "", "", false),
    ("", "v1", "ConfigMap", "configmaps", "cm", NAMESPACED, "", "", false),
    ("", "v1", "Endpoints", "endpoints", "ep", NAMESPACED, "", "", false),
    ("", "v1", "Event", "events", "ev", NAMESPACED, "", "", false),
    (
        "",
        "v1",
        "LimitRange",
        "limitranges",
        "limits",
        NAMESPACED,
        "",
        "",
        false,
    ),
    (
        "",
        "v1",
        "Namespace",
        "namespaces",
        "ns",
        CLUSTER,
        "status finalize",
        "",
        false,
    ),
    ("", "v1", "Node", "nodes", "no", CLUSTER, "status proxy", "", false),
    (
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "pvc",
        NAMESPACED,
        "status",
        "",
        false,
    ),
    (
        "",
        "v1",
        "PersistentVolume",
        "persistentvolumes",
        "pv",
        CLUSTER,
        "status",
        "",
        false,
    ),
    (
        "",
        "v1",
        "Pod",
        "pods",
        "po",
        NAMESPACED,
        "status attach binding ephemeralcontainers eviction exec log portforward proxy resize",
        "all",
        false,
    ),
    ("", "v1", "PodTemplate", "podtemplates", "", NAMESPACED, "", "", true),
    (
        "",
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        "rc",
        NAMESPACED,
        "status scale",
        "all",
        true,
    ),
    (
        "",
        "v1",
        "ResourceQuota",
        "resourcequotas",
        "quota",
        NAMESPACED,
        "status",
        "",
        false,
    ),
    ("", "v1", "Secret", "secrets", "", NAMESPACED, "", "", false),
    (
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        "sa",
        NAMESPACED,
        "token",
        "",
        false,
    ),
    (
        "",
        "v1",
        "Service",
        "services",
        "svc",
        NAMESPACED,
        "status proxy",
        "all",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "",
        CLUSTER,
        "",
        "api-extensions",
        true,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "",
        CLUSTER,
        "status",
        "api-extensions",
        true,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "",
        CLUSTER,
        "",
        "api-extensions",
        true,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "",
        CLUSTER,
        "",
        "api-extensions",
        true,
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd crds",
        CLUSTER,
        "status",
        "api-extensions",
        true,
    ),
    (
        "apiregistration.k8s.io",
        "v1",
        "APIService",
        "apiservices",
        "",
        CLUSTER,
        "status",
        "api-extensions",
        false,
    ),
    (
        "apps",
        "v1",
        "ControllerRevision",
        "controllerrevisions",
        "",
        NAMESPACED,
        "",
        "",
        false,
    ),
    (
        "apps",
        "v1",
        "DaemonSet",
        "daemonsets",
        "ds",
        NAMESPACED,
        "status",
        "all",
        true,
    ),
    (
        "apps",
        "v1",
        "Deployment",
        "deployments",
        "deploy",
        NAMESPACED,
        "status scale",
        "all",
        true,
    ),
    (
        "apps",
        "v1",
        "ReplicaSet",
        "replicasets",
        "rs",
        NAMESPACED,
        "status scale",
        "all",
        true,
    ),
    (
        "apps",
        "v1",
        "StatefulSet",
        "statefulsets",
        "sts",
        NAMESPACED,
        "status scale",
        "all",
        true,
    ),
    (
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "",
        CLUSTER,
        "",
        "",
        false,
    ),
    (
        "authentication.k8s.io",
        "v1",
        "TokenReview",
        "tokenreviews",
        "",
        CLUSTER,
        "",
        "",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "",
        NAMESPACED,
        "",
        "",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "",
        CLUSTER,
        "",
        "",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "",
        CLUSTER,
        "",
        "",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "",
        CLUSTER,
        "",
        "",
        false,
    ),
    (
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "hpa",
        NAMESPACED,
        "status",
        "all",
        false,
    ),
    (
        "batch", "v1", "CronJob", "cronjobs", "cj", NAMESPACED, "status", "all", true,
    ),
    ("batch", "v1", "Job", "jobs", "", NAMESPACED, "status", "all", true),
    (
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        "",
        NAMESPACED,
        "",
        "",
        false,
    ),
    (
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "",
        NAMESPACED,
        "",
        "",
        true,
    ),
    (
        "events.k8s.io",
        "v1",
        "Event",
        "events",
        "ev",
        NAMESPACED,
        "",
        "",
        false,
    ),
    (
        "networking.k8s.io",
        "v1",
        "IngressClass",
        "ingressclasses",
        "",
        CLUSTER,
        "",
        "",
        true,
    ),
    (
        "networking.k8s.io",
        "v1",
        "Ingress",
        "ingresses",
        "ing",
        NAMESPACED,
        "status",
        "",
        true,
    ),
    (
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        "netpol",
        NAMESPACED,
        "",
        "",
        true,
    ),
    (
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "pdb",
        NAMESPACED,
        "status",
        "",
        true,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        "",
        CLUSTER,
        "",
        "",
        false,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRole",
        "clusterroles",
        "",
        CLUSTER,
        "",
        "",
        false,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "RoleBinding",
        "rolebindings",
        "",
        NAMESPACED,
        "",
        "",
        false,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "Role",
        "roles",
        "",
        NAMESPACED,
        "",
        "",
        false,
    ),
    (
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        "pc",
        CLUSTER,
        "",
        "",
        true,
    ),
    (
        "storage.k8s.io",
        "v1",
        "StorageClass",
        "storageclasses",
        "sc",
        CLUSTER,
        "",
        "",
        false,
    ),
];

fn built_in() -> Vec<ResourceType> {
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    ROWS.iter()
        .map(
            |&(group, version, kind, plural, short, namespaced, subresources, categories, generation)| {
                // Both groups show the same events.
                let storage = if plural == "events" {
                    "/events".to_owned()
                } else {
                    format!("{group}/{plural}")
                };
                ResourceType {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    kind: kind.to_owned(),
                    list_kind: format!("{kind}List"),
                    plural: plural.to_owned(),
                    singular: kind.to_lowercase(),
                    short_names: words(short),
                    categories: words(categories),
                    namespaced,
                    subresources: words(subresources),
                    storage: Arc::from(storage),
                    create_only: kind.ends_with("Review") || kind == "Binding",
                    generation,
                    custom: None,
                }
            },
        )
        .collect()
}
