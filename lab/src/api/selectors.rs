//! Label and field selectors, as query strings and as `LabelSelector` objects.

use serde_json::Value;

use super::object::{array_at, str_at};
use super::registry::ResourceType;
use super::status::ApiError;

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    /// `key>5` and `key<5`.
    Compare(String, std::cmp::Ordering, i64),
}

/// All requirements must hold. The default matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                requirements.push(parse_requirement(part)?);
            }
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Reads `matchLabels` and `matchExpressions`. An absent selector matches nothing, an empty one everything.
    #[must_use]
    pub fn from_object(selector: Option<&Value>) -> Self {
        let Some(selector) = selector.filter(|value| value.is_object()) else {
            return Self {
                requirements: Vec::new(),
                nothing: true,
            };
        };
        let mut requirements = Vec::new();
        for (key, value) in selector
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            requirements.push(Requirement::In(
                key.clone(),
                vec![value.as_str().unwrap_or_default().to_owned()],
            ));
        }
        for expression in array_at(selector, "/matchExpressions") {
            let key = str_at(expression, "/key").unwrap_or_default().to_owned();
            let values: Vec<String> = array_at(expression, "/values")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            requirements.push(match str_at(expression, "/operator") {
                Some("NotIn") => Requirement::NotIn(key, values),
                Some("Exists") => Requirement::Exists(key),
                Some("DoesNotExist") => Requirement::Missing(key),
                _ => Requirement::In(key, values),
            });
        }
        Self {
            requirements,
            nothing: false,
        }
    }

    /// Reads a plain map of labels, as `Service` and `ReplicationController` have.
    #[must_use]
    pub fn from_map(labels: &Value) -> Self {
        let requirements = labels.as_object().into_iter().flatten();
        Self {
            requirements: requirements
                .map(|(key, value)| Requirement::In(key.clone(), vec![value.as_str().unwrap_or_default().to_owned()]))
                .collect(),
            nothing: false,
        }
    }

    /// Whether every object matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether the labels of an object match.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        if self.nothing {
            return false;
        }
        let label = |key: &str| {
            object
                .pointer("/metadata/labels")
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
        };
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|found| values.iter().any(|one| one == found)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|found| values.iter().all(|one| one != found)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
            Requirement::Compare(key, ordering, number) => label(key)
                .and_then(|found| found.parse::<i64>().ok())
                .is_some_and(|found| found.cmp(number) == *ordering),
        })
    }

    /// As a query string, in the order given (the scale subresource shows it).
    #[must_use]
    pub fn to_query(&self) -> String {
        let parts = self.requirements.iter().map(|requirement| match requirement {
            Requirement::In(key, values) => match values.as_slice() {
                [one] => format!("{key}={one}"),
                many => format!("{key} in ({})", many.join(",")),
            },
            Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
            Requirement::Exists(key) => key.clone(),
            Requirement::Missing(key) => format!("!{key}"),
            Requirement::Compare(key, std::cmp::Ordering::Less, number) => {
                format!("{key}<{number}")
            }
            Requirement::Compare(key, _, number) => format!("{key}>{number}"),
        });
        parts.collect::<Vec<_>>().join(",")
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
    .collect()
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let checked = |key: &str| -> Result<String, String> {
        let key = key.trim();
        if super::validation::is_qualified_name(key) {
            Ok(key.to_owned())
        } else {
            Err(format!(
                "unable to parse requirement: <nil>: Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.'"
            ))
        }
    };
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement::Missing(checked(key)?));
    }
    if let Some((left, right)) = part.split_once('(') {
        let values: Vec<String> = right
            .strip_suffix(')')
            .ok_or_else(|| format!("unable to parse requirement: found '{part}', expected: ')'"))?
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        return match left.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => Ok(Requirement::In(checked(key)?, values)),
            Some((key, "notin")) => Ok(Requirement::NotIn(checked(key)?, values)),
            _ => Err(format!(
                "unable to parse requirement: found '{left}', expected: in, notin"
            )),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(checked(key)?, vec![checked_value(value)?]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(checked(key)?, vec![checked_value(value)?]));
    }
    for (sign, ordering) in [('>', std::cmp::Ordering::Greater), ('<', std::cmp::Ordering::Less)] {
        if let Some((key, value)) = part.split_once(sign) {
            let number = value
                .trim()
                .parse()
                .map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: {value}"))?;
            return Ok(Requirement::Compare(checked(key)?, ordering, number));
        }
    }
    Ok(Requirement::Exists(checked(part)?))
}

fn checked_value(value: &str) -> Result<String, String> {
    let value = value.trim();
    if super::validation::is_label_value(value) {
        Ok(value.to_owned())
    } else {
        Err(format!(
            "unable to parse requirement: values[0]: Invalid value: \"{value}\""
        ))
    }
}

/// Requirements on fields. The default matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses `metadata.name=a,status.phase!=Running` and refuses fields that the resource cannot be selected by.
    pub fn parse(text: &str, resource: &ResourceType) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, true, value)
            } else {
                return Err(ApiError::bad_request(format!(
                    "unable to parse field selector: invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            let field = field.trim();
            if !selectable(resource, field) {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            requirements.push((field.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self { requirements })
    }

    /// Whether every object matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The name that alone can match, when there is one.
    #[must_use]
    pub fn exact_name(&self) -> Option<&str> {
        self.requirements
            .iter()
            .find(|(field, equal, _)| *equal && field == "metadata.name")
            .map(|one| one.2.as_str())
    }

    /// Whether an object matches.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements
            .iter()
            .all(|(field, equal, wanted)| (field_of(object, field) == *wanted) == *equal)
    }
}

fn field_of(object: &Value, field: &str) -> String {
    let pointer = match field {
        "reportingController" | "reportingComponent" | "source" => {
            return str_at(object, "/reportingComponent")
                .filter(|text| !text.is_empty())
                .or_else(|| str_at(object, "/source/component"))
                .unwrap_or_default()
                .to_owned();
        }
        "regarding.kind" | "regarding.name" | "regarding.namespace" | "regarding.uid" => {
            format!("/{}", field.replace("regarding", "involvedObject").replace('.', "/"))
        }
        "status.podIPs" => "/status/podIPs/0/ip".to_owned(),
        _ => format!("/{}", field.replace('.', "/")),
    };
    match object.pointer(&pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => match field {
            "spec.unschedulable" | "spec.hostNetwork" => "false".to_owned(),
            "status.successful" | "status.replicas" => "0".to_owned(),
            _ => String::new(),
        },
        Some(other) => other.to_string(),
    }
}

fn selectable(resource: &ResourceType, field: &str) -> bool {
    if field == "metadata.name" || (field == "metadata.namespace" && resource.namespaced) {
        return true;
    }
    if resource.custom.is_some() {
        return false;
    }
    let fields: &[&str] = match resource.plural.as_str() {
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        "events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.uid",
        ],
        "nodes" => &["spec.unschedulable"],
        "namespaces" => &["status.phase"],
        "secrets" => &["type"],
        "services" => &["spec.clusterIP", "spec.type"],
        "replicasets" | "replicationcontrollers" => &["status.replicas"],
        "jobs" => &["status.successful"],
        _ => &[],
    };
    fields.contains(&field)
}
