//! Who is asking: bearer tokens, impersonation, reviews and service account tokens. Depends on `authorizer`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::authorizer::Attributes;
use super::request::Target;
use super::server::ApiServer;
use super::status::{ApiError, json_response};
use super::store::ObjectKey;

/// Someone who may use the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    /// May do everything.
    pub(crate) fn admin() -> Self {
        Self {
            name: "kubernetes-admin".to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        }
    }
}

/// Tokens and whom they stand for.
#[derive(Debug)]
pub(crate) struct Tokens {
    known: RwLock<HashMap<String, User>>,
}

impl Tokens {
    pub(crate) fn new(admin_token: &str) -> Self {
        Self {
            known: RwLock::new(HashMap::from([(admin_token.to_owned(), User::admin())])),
        }
    }

    fn find(&self, token: &str) -> Option<User> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(token)
            .cloned()
    }

    fn add(&self, token: String, user: User) {
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token, user);
    }

    /// The user of a request.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Option<User> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        self.find(token.trim())
    }
}

/// A token of 256 random bits.
pub(crate) fn random_token() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ]
}

/// Answers the review kinds: they are created, never stored.
pub(crate) async fn review(server: &Arc<ApiServer>, target: &Target, request: Request) -> Result<Response, ApiError> {
    let user = request.extensions().get::<User>().cloned().unwrap_or_else(User::admin);
    let mut body = super::body::read_object(request).await?;
    super::object::set(&mut body, "/kind", target.resource.kind.clone());
    super::object::set(&mut body, "/apiVersion", target.resource.api_version());
    let info = json!({"username": user.name, "groups": user.groups});
    let status = match target.resource.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": info}),
        "TokenReview" => {
            let token = super::object::str_at(&body, "/spec/token").unwrap_or_default();
            match server.tokens().find(token) {
                Some(found) => {
                    json!({"authenticated": true, "user": {"username": found.name, "groups": found.groups}})
                }
                None => json!({"authenticated": false, "error": "invalid bearer token"}),
            }
        }
        "SelfSubjectRulesReview" => server.rules_review(&user, super::object::str_at(&body, "/spec/namespace")),
        "SelfSubjectAccessReview" => access(server, &user, &body),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access(server, &asked_about(&body), &body),
        _ => return Err(ApiError::method_not_allowed()),
    };
    super::object::set(&mut body, "/status", status);
    Ok(json_response(StatusCode::CREATED, &body))
}

fn access(server: &ApiServer, user: &User, review: &Value) -> Value {
    let spec = review.get("spec").unwrap_or(&Value::Null);
    json!({"allowed": server.is_allowed(user, &Attributes::of_review(spec))})
}

/// The user that a review is about.
fn asked_about(review: &Value) -> User {
    let groups = super::object::array_at(review, "/spec/groups").iter();
    User {
        name: super::object::str_at(review, "/spec/user")
            .unwrap_or_default()
            .to_owned(),
        groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

/// `serviceaccounts/{name}/token`.
pub(crate) fn issue_token(server: &Arc<ApiServer>, key: &ObjectKey, mut body: Value) -> Result<Response, ApiError> {
    let Some(resource) = server.registry().get("", "v1", "serviceaccounts") else {
        return Err(ApiError::no_such_path());
    };
    server.existing(&resource, key)?;
    let seconds = super::object::i64_at(&body, "/spec/expirationSeconds").unwrap_or(3600);
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let token = server.service_account_token(&key.namespace, &key.name);
    super::object::set(&mut body, "/kind", "TokenRequest");
    super::object::set(&mut body, "/apiVersion", "authentication.k8s.io/v1");
    super::object::set(&mut body, "/metadata/name", key.name.clone());
    super::object::set(&mut body, "/metadata/namespace", key.namespace.clone());
    super::object::set(&mut body, "/spec/expirationSeconds", seconds);
    super::object::set(
        &mut body,
        "/status",
        json!({"token": token, "expirationTimestamp": super::object::stamp(until)}),
    );
    Ok(json_response(StatusCode::CREATED, &body))
}

impl ApiServer {
    /// Whom a request is to be taken for: `kubectl --as`.
    pub(crate) fn impersonated(&self, user: User, headers: &HeaderMap) -> Result<User, ApiError> {
        let Some(name) = headers.get("impersonate-user").and_then(|value| value.to_str().ok()) else {
            return Ok(user);
        };
        let groups = headers.get_all("impersonate-group").iter();
        let mut groups: Vec<String> = groups
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect();
        let mut wanted = vec![("users", name.to_owned())];
        wanted.extend(groups.iter().map(|group| ("groups", group.clone())));
        for (resource, name) in wanted {
            let attributes = Attributes {
                verb: "impersonate".to_owned(),
                resource: resource.to_owned(),
                name: Some(name),
                ..Attributes::default()
            };
            self.authorize(&user, &attributes)?;
        }
        if groups.is_empty()
            && let Some(account) = name.strip_prefix("system:serviceaccount:")
            && let Some((namespace, _)) = account.split_once(':')
        {
            groups = service_account_groups(namespace);
        }
        groups.push("system:authenticated".to_owned());
        groups.dedup();
        Ok(User {
            name: name.to_owned(),
            groups,
        })
    }

    /// A new token of a service account (what a pod finds under `/var/run/secrets/kubernetes.io/serviceaccount`).
    #[must_use]
    pub fn service_account_token(&self, namespace: &str, name: &str) -> String {
        let token = random_token();
        let user = User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: service_account_groups(namespace),
        };
        self.tokens().add(token.clone(), user);
        token
    }
}
