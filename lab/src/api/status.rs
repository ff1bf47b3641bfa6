//! Errors as the API reports them: `metav1.Status` with code, reason, details and causes.
//!
//! Clients decide by `reason` and `code` (kube-rs, client-go and fabric8 all do), so each constructor is one
//! Kubernetes reason. Depends on the registry only for names in messages.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::registry::ResourceType;

/// One wrong field, or one more reason.
#[derive(Debug, Clone)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, `DisruptionBudget` ...
    pub reason: String,
    /// What is wrong.
    pub message: String,
    /// JSON path of the field, when there is one.
    pub field: String,
}

impl Cause {
    /// A required field is missing.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self {
            reason: "FieldValueRequired".to_owned(),
            message,
            field: field.into(),
        }
    }

    /// A field has a value that it must not have.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: "FieldValueInvalid".to_owned(),
            message: format!("Invalid value: {value}: {detail}"),
            field: field.into(),
        }
    }

    /// A field has a value outside its enumeration.
    #[must_use]
    pub fn unsupported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let listed = supported
            .iter()
            .map(|one| format!("\"{one}\""))
            .collect::<Vec<_>>()
            .join(", ");
        Self {
            reason: "FieldValueNotSupported".to_owned(),
            message: format!("Unsupported value: {value}: supported values: {listed}"),
            field: field.into(),
        }
    }

    /// A field must not be touched.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            reason: "FieldValueForbidden".to_owned(),
            message: format!("Forbidden: {detail}"),
            field: field.into(),
        }
    }

    /// The same value twice where it must be unique.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate".to_owned(),
            message: format!("Duplicate value: {value}"),
            field: field.into(),
        }
    }
}

/// An error answer of the API.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason} ({code}): {message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// Name, kind, group, uid, causes, retryAfterSeconds.
    pub details: Option<Box<Value>>,
}

impl ApiError {
    fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: None,
        }
    }

    fn about(mut self, resource: &ResourceType, name: &str) -> Self {
        let mut details = json!({"name": name});
        if !resource.group.is_empty()
            && let Some(map) = details.as_object_mut()
        {
            map.insert("group".to_owned(), Value::from(resource.group.clone()));
        }
        if let Some(map) = details.as_object_mut() {
            map.insert("kind".to_owned(), Value::from(resource.plural.clone()));
        }
        self.details = Some(Box::new(details));
        self
    }

    /// No such object.
    #[must_use]
    pub fn not_found(resource: &ResourceType, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", resource.qualified_plural()),
        )
        .about(resource, name)
    }

    /// No such path.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self {
            details: Some(Box::new(json!({}))),
            ..Self::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    /// The name is taken.
    #[must_use]
    pub fn already_exists(resource: &ResourceType, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", resource.qualified_plural()),
        )
        .about(resource, name)
    }

    /// The object is not what the writer believed it to be.
    #[must_use]
    pub fn conflict(resource: &ResourceType, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                resource.qualified_plural()
            ),
        )
        .about(resource, name)
    }

    /// The resource version sent is not the present one.
    #[must_use]
    pub fn stale(resource: &ResourceType, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Fields are wrong.
    #[must_use]
    pub fn invalid(resource: &ResourceType, name: &str, causes: Vec<Cause>) -> Self {
        let listed = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect::<Vec<_>>();
        let text = match listed.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut kind = resource.kind.clone();
        if !resource.group.is_empty() {
            kind = format!("{kind}.{}", resource.group);
        }
        let mut error = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {text}"));
        let mut details = json!({"name": name, "group": resource.group, "kind": resource.kind});
        if resource.group.is_empty() {
            super::object::remove(&mut details, "/group");
        }
        error.details = Some(Box::new(details));
        error.with_causes(causes)
    }

    /// A well-formed request whose content cannot be processed.
    #[must_use]
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self {
            details: Some(Box::new(json!({}))),
            ..Self::new(422, "Invalid", message)
        }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// No or wrong credentials.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// Known, but not allowed.
    #[must_use]
    pub fn forbidden(resource: &ResourceType, name: &str, why: &str) -> Self {
        Self::new(
            403,
            "Forbidden",
            format!("{} \"{name}\" is forbidden: {why}", resource.qualified_plural()),
        )
        .about(resource, name)
    }

    /// The user has no right to do this; `why` names user, verb and place.
    #[must_use]
    pub fn not_authorized(plural: &str, group: &str, name: Option<&str>, why: &str) -> Self {
        let mut details = json!({"kind": plural});
        if let Some(map) = details.as_object_mut() {
            if !group.is_empty() {
                map.insert("group".to_owned(), Value::from(group));
            }
            if let Some(name) = name {
                map.insert("name".to_owned(), Value::from(name));
            }
        }
        let qualified = if group.is_empty() {
            plural.to_owned()
        } else {
            format!("{plural}.{group}")
        };
        let what = match (plural, name) {
            ("", _) => String::new(),
            (_, Some(name)) => format!("{qualified} \"{name}\" is "),
            (_, None) => format!("{qualified} is "),
        };
        Self {
            details: Some(Box::new(details)),
            ..Self::new(403, "Forbidden", format!("{what}forbidden: {why}"))
        }
    }

    /// The history needed for this is gone.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// Try again later.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            details: Some(Box::new(json!({"retryAfterSeconds": retry_after_seconds}))),
            ..Self::new(429, "TooManyRequests", message)
        }
    }

    /// The verb does not exist for this resource.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self {
            details: Some(Box::new(json!({}))),
            ..Self::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        }
    }

    /// None of the accepted media types can be produced.
    #[must_use]
    pub fn not_acceptable() -> Self {
        Self::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }

    /// The body's media type is not understood.
    #[must_use]
    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
        )
    }

    /// The body is too large.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// The server is at fault.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let details = json!({"causes": [{"message": message}]});
        Self {
            details: Some(Box::new(details)),
            ..Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
        }
    }

    /// What is needed is not there (yet).
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// Adds causes to the details.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        let listed: Vec<Value> = causes
            .into_iter()
            .map(|cause| {
                let mut one = json!({"reason": cause.reason, "message": cause.message});
                if !cause.field.is_empty() {
                    super::object::set(&mut one, "/field", cause.field);
                }
                one
            })
            .collect();
        let details = self.details.get_or_insert_with(|| Box::new(json!({})));
        super::object::set(details, "/causes", Value::Array(listed));
        self
    }

    /// The `metav1.Status` object.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(details) = &self.details {
            super::object::set(&mut status, "/details", Value::clone(details));
        }
        super::object::set(&mut status, "/code", self.code);
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(
            StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            &self.to_status(),
        );
        let after = self
            .details
            .as_ref()
            .and_then(|details| super::object::i64_at(details, "/retryAfterSeconds"));
        if let Some(after) = after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(after));
        }
        if self.code == 401 {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"chaosrun-lab\""),
            );
        }
        response
    }
}

/// A JSON answer.
pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response {
    bytes_response(code, value.to_string())
}

/// An answer whose JSON is serialized already.
pub(crate) fn bytes_response(code: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The `metav1.Status` that says that something was done to an object.
pub(crate) fn success(resource: &ResourceType, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name});
    if !resource.group.is_empty() {
        super::object::set(&mut details, "/group", resource.group.clone());
    }
    super::object::set(&mut details, "/kind", resource.plural.clone());
    if !uid.is_empty() {
        super::object::set(&mut details, "/uid", uid);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
