//! Verbs needed against verbs held, by SelfSubjectAccessReview.

use super::connect::Cluster;
use super::error::ClusterError;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Verb {
    /// `get`, `list`, `watch`, `create`, `delete`, `patch`.
    pub(crate) verb: &'static str,
    /// API group, empty for core.
    pub(crate) group: String,
    /// Plural, with `/subresource` when there is one.
    pub(crate) resource: String,
    /// Namespace.
    pub(crate) namespace: String,
    /// What it is needed for.
    pub(crate) purpose: &'static str,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let group = if self.group.is_empty() {
            String::new()
        } else {
            format!(".{}", self.group)
        };
        let place = if self.namespace.is_empty() {
            "in the whole cluster".to_owned()
        } else {
            format!("in {}", self.namespace)
        };
        write!(
            formatter,
            "{} {}{group} {place} (to {})",
            self.verb, self.resource, self.purpose
        )
    }
}

/// The verbs to open a session in a pod (`exec`, `portforward`): kube opens it by WebSocket, which is a GET. Clusters before 1.35
/// therefore ask for `get` alone, later ones for `create` as well (KEP-4006); both are needed to pass on each.
pub(crate) const SESSION_VERBS: [&str; 2] = ["create", "get"];

/// Those of `needed` that the cluster says we do not hold.
///
/// # Errors
/// When the review itself cannot be made.
pub(crate) async fn missing_permissions(cluster: &Cluster, needed: &[Verb]) -> Result<Vec<Verb>, ClusterError> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client());
    let mut missing = Vec::new();
    for verb in needed {
        let (resource, subresource) = match verb.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (verb.resource.as_str(), None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(verb.group.clone()),
                    namespace: Some(verb.namespace.clone()),
                    resource: Some(resource.to_owned()),
                    subresource,
                    verb: Some(verb.verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = cluster
            .call(
                format!("ask whether we may {verb}"),
                api.create(&PostParams::default(), &review),
            )
            .await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            missing.push(verb.clone());
        }
    }
    Ok(missing)
}
