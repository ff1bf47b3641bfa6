//! What an object must satisfy to be stored.

use serde_json::Value;

/// DNS-1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 characters.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let edge = |character: Option<char>| {
        character.is_some_and(|one| one.is_ascii_lowercase() || one.is_ascii_digit())
    };
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text
            .chars()
            .all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-')
}

/// DNS-1123 subdomain: labels of any length joined by dots, at most 253 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        let edge = |character: Option<char>| {
            character.is_some_and(|one| one.is_ascii_lowercase() || one.is_ascii_digit())
        };
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part
                .chars()
                .all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-')
    };
    text.len() <= 253 && !text.is_empty() && text.split('.').all(label)
}

/// `(prefix/)?name`, as label keys, annotation keys and finalizers are.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            if !is_dns_subdomain(prefix) {
                return false;
            }
            name
        }
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

/// Empty, or at most 63 characters of `[A-Za-z0-9._-]` that begin and end with a letter or digit.
pub(crate) fn is_label_value(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let edge = |character: Option<char>| character.is_some_and(|one| one.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || matches!(one, '-' | '_' | '.'))
}

use super::registry::ResourceType;
use super::status::{ApiError, Cause};

/// Checks a new object.
pub(crate) fn on_create(resource: &ResourceType, object: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    let name = super::object::name(object);
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if !is_dns_subdomain(name) && !resource.group.starts_with("rbac.") {
        causes.push(Cause::invalid(
            "metadata.name",
            &Value::from(name),
            SUBDOMAIN,
        ));
    }
    finish(resource, name, causes)
}

/// Checks a new state of an object.
pub(crate) fn on_update(
    _resource: &ResourceType,
    _old: &Value,
    _new: &Value,
) -> Result<(), ApiError> {
    Ok(())
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn finish(resource: &ResourceType, name: &str, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, name, causes))
    }
}
