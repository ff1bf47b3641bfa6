//! Who may do what: Role, ClusterRole and their bindings, evaluated as Kubernetes' RBAC authorizer does.
//!
//! May depend on the store and the registry. Central types: [`Attributes`] (what is asked for), [`Rule`]. Contract: nothing is
//! allowed that no rule allows, the group `system:masters` may do everything, and everybody who is known may ask about himself.
//! Not here: aggregated ClusterRoles, and the check that nobody grants more than he has.

use serde_json::{Value, json};

use super::auth::User;
use super::object::{array_at, name, namespace, str_at};
use super::registry::Registry;
use super::server::ApiServer;
use super::status::ApiError;
use super::store::{ObjectKey, Store};
use super::writes::WriteOptions;

const GROUP: &str = "rbac.authorization.k8s.io";

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    /// Plural, with `/subresource` when there is one.
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// A path that is no resource; then group and resource are empty.
    pub(crate) path: Option<String>,
}

impl Attributes {
    /// Those of an access review's `spec`.
    pub(crate) fn of_review(spec: &Value) -> Self {
        let text = |pointer: &str| str_at(spec, pointer).unwrap_or_default().to_owned();
        let given = |pointer: &str| {
            str_at(spec, pointer)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        if let Some(path) = given("/nonResourceAttributes/path") {
            return Self {
                verb: text("/nonResourceAttributes/verb"),
                path: Some(path),
                ..Self::default()
            };
        }
        let mut resource = text("/resourceAttributes/resource");
        if let Some(subresource) = given("/resourceAttributes/subresource") {
            resource = format!("{resource}/{subresource}");
        }
        Self {
            verb: text("/resourceAttributes/verb"),
            group: text("/resourceAttributes/group"),
            resource,
            namespace: given("/resourceAttributes/namespace"),
            name: given("/resourceAttributes/name"),
            path: None,
        }
    }

    /// Why `user` may not, in the API server's words.
    fn refusal(&self, user: &User) -> String {
        let user = &user.name;
        let verb = &self.verb;
        if let Some(path) = &self.path {
            return format!("User \"{user}\" cannot {verb} path \"{path}\"");
        }
        let place = self.namespace.as_ref().map_or_else(
            || "at the cluster scope".to_owned(),
            |namespace| format!("in the namespace \"{namespace}\""),
        );
        format!(
            "User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}",
            self.resource, self.group
        )
    }

    fn is_allowed_by(&self, rule: &Value) -> bool {
        let has = |key: &str, wanted: &str| {
            array_at(rule, key)
                .iter()
                .filter_map(Value::as_str)
                .any(|held| held == "*" || held == wanted)
        };
        if !has("/verbs", &self.verb) {
            return false;
        }
        if let Some(path) = &self.path {
            return array_at(rule, "/nonResourceURLs")
                .iter()
                .filter_map(Value::as_str)
                .any(|held| held == path || held.strip_suffix('*').is_some_and(|start| path.starts_with(start)));
        }
        // `*/scale` is that subresource of everything.
        let any_with = self
            .resource
            .split_once('/')
            .map(|(_, subresource)| format!("*/{subresource}"));
        let resource = has("/resources", &self.resource) || any_with.is_some_and(|any| has("/resources", &any));
        let names = array_at(rule, "/resourceNames");
        let named = names.is_empty()
            || names
                .iter()
                .filter_map(Value::as_str)
                .any(|held| Some(held) == self.name.as_deref());
        has("/apiGroups", &self.group) && resource && named
    }
}

impl ApiServer {
    /// Whether somebody may do something.
    pub(crate) fn is_allowed(&self, user: &User, wanted: &Attributes) -> bool {
        user.groups.iter().any(|group| group == "system:masters")
            || rules(self.store(), self.registry(), user, wanted.namespace.as_deref())
                .iter()
                .any(|rule| wanted.is_allowed_by(rule))
    }

    /// Refuses what is not allowed.
    pub(crate) fn authorize(&self, user: &User, wanted: &Attributes) -> Result<(), ApiError> {
        if self.is_allowed(user, wanted) {
            return Ok(());
        }
        let (resource, _) = wanted.resource.split_once('/').unwrap_or((&wanted.resource, ""));
        Err(ApiError::not_authorized(
            resource,
            &wanted.group,
            wanted.name.as_deref(),
            &wanted.refusal(user),
        ))
    }

    /// What somebody may do in a namespace, as a review's status.
    pub(crate) fn rules_review(&self, user: &User, namespace: Option<&str>) -> Value {
        let mut held = rules(self.store(), self.registry(), user, namespace);
        if user.groups.iter().any(|group| group == "system:masters") {
            held.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            held.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        let (paths, resources): (Vec<Value>, Vec<Value>) =
            held.into_iter().partition(|rule| rule.get("nonResourceURLs").is_some());
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    /// The roles that every cluster has, as far as manifests usually refer to them.
    pub(crate) fn bootstrap_roles(&self) -> Result<(), ApiError> {
        let (Some(roles), Some(bindings)) = (
            self.registry().get(GROUP, "v1", "clusterroles"),
            self.registry().get(GROUP, "v1", "clusterrolebindings"),
        ) else {
            return Ok(());
        };
        let all = json!([
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ]);
        let read = ["get", "list", "watch"];
        let write = [
            "get",
            "list",
            "watch",
            "create",
            "update",
            "patch",
            "delete",
            "deletecollection",
        ];
        let groups = ["", "apps", "batch", "autoscaling", "networking.k8s.io", "policy"];
        let reads = json!([{"apiGroups": groups, "resources": ["*"], "verbs": read}]);
        let writes = json!([{"apiGroups": groups, "resources": ["*"], "verbs": write}]);
        let administers = json!([
            {"apiGroups": groups, "resources": ["*"], "verbs": write},
            {"apiGroups": [GROUP], "resources": ["roles", "rolebindings"], "verbs": write},
        ]);
        let label = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        for (name, rules) in [
            ("cluster-admin", all),
            ("admin", administers),
            ("edit", writes),
            ("view", reads),
        ] {
            let role = json!({"metadata": {"name": name, "labels": label}, "rules": rules});
            self.create_object(&roles, None, role, &WriteOptions::internal())?;
        }
        let binding = json!({
            "metadata": {"name": "cluster-admin", "labels": label},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}],
        });
        self.create_object(&bindings, None, binding, &WriteOptions::internal())?;
        Ok(())
    }
}

/// What everybody may who is known at all: to ask about himself, and what there is (`system:basic-user`, `system:discovery`).
fn of_everybody() -> [Value; 2] {
    [
        json!({
            "apiGroups": ["authorization.k8s.io", "authentication.k8s.io"], "verbs": ["create"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"],
        }),
        json!({
            "verbs": ["get"],
            "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
                "/version", "/version/"],
        }),
    ]
}

/// Every rule that holds for a user in a namespace, or at the cluster scope.
fn rules(store: &Store, registry: &Registry, user: &User, namespace: Option<&str>) -> Vec<Value> {
    let mut held = of_everybody().to_vec();
    let stored = |plural: &str| {
        registry
            .get(GROUP, "v1", plural)
            .map(|resource| resource.storage.clone())
    };
    let bindings = |plural: &str, namespace: Option<&str>| {
        stored(plural).map_or_else(Vec::new, |storage| store.list(&storage, namespace).objects)
    };
    let mut all = bindings("clusterrolebindings", None);
    if namespace.is_some() {
        all.extend(bindings("rolebindings", namespace));
    }
    for binding in all {
        let binding = &binding.value;
        if !array_at(binding, "/subjects")
            .iter()
            .any(|subject| is_subject(user, subject, binding))
        {
            continue;
        }
        let (plural, place) = match str_at(binding, "/roleRef/kind") {
            Some("Role") => ("roles", super::object::namespace(binding)),
            _ => ("clusterroles", ""),
        };
        let key = ObjectKey::new(place, str_at(binding, "/roleRef/name").unwrap_or_default());
        if let Some(role) = stored(plural).and_then(|storage| store.get(&storage, &key)) {
            held.extend(array_at(&role.value, "/rules").iter().cloned());
        }
    }
    held
}

fn is_subject(user: &User, subject: &Value, binding: &Value) -> bool {
    let named = name_of(subject);
    match str_at(subject, "/kind") {
        Some("User") => user.name == named,
        Some("Group") => user.groups.iter().any(|group| group == named),
        Some("ServiceAccount") => {
            let place = str_at(subject, "/namespace").unwrap_or_else(|| namespace(binding));
            user.name == format!("system:serviceaccount:{place}:{named}")
        }
        _ => false,
    }
}

/// A subject's name is not in metadata.
fn name_of(subject: &Value) -> &str {
    str_at(subject, "/name").unwrap_or_else(|| name(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(verb: &str, group: &str, resource: &str, name: Option<&str>) -> Attributes {
        Attributes {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: Some("shop".to_owned()),
            name: name.map(str::to_owned),
            path: None,
        }
    }

    #[test]
    fn a_rule_allows_its_verbs_on_its_resources_and_a_subresource_only_by_its_own_name() {
        let rule = json!({"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get"]});
        assert!(asks("get", "", "pods", Some("a")).is_allowed_by(&rule));
        assert!(asks("get", "", "pods/log", Some("a")).is_allowed_by(&rule));
        assert!(!asks("get", "", "pods/exec", Some("a")).is_allowed_by(&rule));
        assert!(!asks("list", "", "pods", None).is_allowed_by(&rule));
        assert!(!asks("get", "apps", "pods", Some("a")).is_allowed_by(&rule));
    }

    #[test]
    fn names_limit_a_rule_and_an_unnamed_request_is_not_allowed_by_it() {
        let rule = json!({"apiGroups": [""], "resources": ["*"], "resourceNames": ["a"], "verbs": ["*"]});
        assert!(asks("delete", "", "pods", Some("a")).is_allowed_by(&rule));
        assert!(!asks("delete", "", "pods", Some("b")).is_allowed_by(&rule));
        assert!(!asks("create", "", "pods", None).is_allowed_by(&rule));
    }

    #[test]
    fn a_subresource_of_everything() {
        let rule = json!({"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["patch"]});
        assert!(asks("patch", "apps", "deployments/scale", Some("a")).is_allowed_by(&rule));
        assert!(!asks("patch", "apps", "deployments", Some("a")).is_allowed_by(&rule));
    }

    #[test]
    fn paths_are_exact_or_a_beginning() {
        let asks = |path: &str| Attributes {
            verb: "get".to_owned(),
            path: Some(path.to_owned()),
            ..Attributes::default()
        };
        let rule = json!({"nonResourceURLs": ["/metrics", "/lab/*"], "verbs": ["get"]});
        assert!(asks("/metrics").is_allowed_by(&rule));
        assert!(asks("/lab/requests").is_allowed_by(&rule));
        assert!(!asks("/metrics/more").is_allowed_by(&rule));
    }
}
