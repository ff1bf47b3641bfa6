//! Request bodies in Kubernetes' protobuf encoding, which `kubectl create`, `kubectl drain` and other typed Go clients
//! send whether the server likes it or not. Only decoding: answers are always JSON, which they all accept.
//!
//! Driven by a table of field numbers (`protobuf_fields.txt`), one message per line: `name number:field:type ...` with
//! `s`tring, `i`nteger, `b`ool, b`y`tes, `f`loat, `T`ime, `M`icroTime, `D`uration, `I`ntOrString, `Q`uantity, `F`ree
//! JSON, or another message; `*` repeated, `%` map from string. Go writes fields without a value as zeros, so a zero
//! counts only where the field is a pointer in Go.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::status::ApiError;

const TABLE: &str = include_str!("protobuf_fields.txt");
const MAGIC: &[u8] = b"k8s\0";
/// Messages nest at most this deep; a crafted body must not exhaust the stack.
const DEPTH: usize = 32;

/// Fields of Go structs that are embedded: their content belongs to the object around them.
const INLINE: [&str; 5] = [
    "localObjectReference",
    "volumeSource",
    "handler",
    "persistentVolumeSource",
    "ephemeralContainerCommon",
];

/// Fields where zero or false says something.
const POINTERS: [&str; 37] = [
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "allowWatchBookmarks",
    "automountServiceAccountToken",
    "backoffLimit",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "immutable",
    "maxReplicas",
    "minReplicas",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "value",
];

struct Field {
    name: &'static str,
    shape: char,
    kind: &'static str,
}

type Messages = HashMap<&'static str, HashMap<u64, Field>>;

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let field = |text: &'static str| {
            let mut parts = text.splitn(3, ':');
            let number = parts.next()?.parse().ok()?;
            let (name, kind) = (parts.next()?, parts.next()?);
            let shape = kind
                .chars()
                .next()
                .filter(|first| matches!(first, '*' | '%'))
                .unwrap_or(' ');
            Some((
                number,
                Field {
                    name,
                    shape,
                    kind: kind.trim_start_matches(['*', '%']),
                },
            ))
        };
        TABLE
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?, words.filter_map(field).collect()))
            })
            .collect()
    })
}

fn broken(what: &str) -> ApiError {
    ApiError::bad_request(format!("the request body could not be parsed as protobuf: {what}"))
}

/// Decodes a body: the magic number and an envelope that names the kind.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    let envelope = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| broken("expected the prefix k8s"))?;
    let (mut api_version, mut kind, mut raw): (String, String, &[u8]) = (String::new(), String::new(), &[]);
    let mut reader = Reader(envelope);
    while let Some((number, item)) = reader.next()? {
        match (number, item) {
            (1, Item::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((number, item)) = meta.next()? {
                    match (number, item) {
                        (1, Item::Bytes(found)) => api_version = text(found)?,
                        (2, Item::Bytes(found)) => kind = text(found)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(found)) => raw = found,
            _ => {}
        }
    }
    let message = match kind.as_str() {
        "DeleteOptions" => "meta/v1.DeleteOptions".to_owned(),
        _ => match api_version.split_once('/') {
            None => format!("core/{api_version}.{kind}"),
            Some((group, version)) => format!("{}/{version}.{kind}", group.split('.').next().unwrap_or(group)),
        },
    };
    if !messages().contains_key(message.as_str()) {
        return Err(ApiError::unsupported_media_type("application/json, application/yaml"));
    }
    let mut object = Map::new();
    object.insert("kind".to_owned(), Value::from(kind));
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    fill(&mut object, &message, raw, DEPTH)?;
    Ok(Value::Object(object))
}

enum Item<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ApiError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(|| broken("unexpected end"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken("a number is too long"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ApiError> {
        let length = usize::try_from(length).map_err(|_| broken("a length is too large"))?;
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| broken("unexpected end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Item<'a>)>, ApiError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let item = match tag & 7 {
            0 => Item::Number(self.varint()?),
            1 => Item::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Item::Bytes(self.take(length)?)
            }
            5 => Item::Bytes(self.take(4)?),
            _ => return Err(broken("unknown wire type")),
        };
        Ok(Some((tag >> 3, item)))
    }
}

fn text(bytes: &[u8]) -> Result<String, ApiError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| broken("a string is not UTF-8"))
}

fn fill(object: &mut Map<String, Value>, message: &str, bytes: &[u8], depth: usize) -> Result<(), ApiError> {
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| broken("messages are nested too deep"))?;
    let Some(fields) = messages().get(message) else {
        return Ok(());
    };
    let mut reader = Reader(bytes);
    while let Some((number, item)) = reader.next()? {
        let Some(field) = fields.get(&number) else {
            continue;
        };
        match (field.shape, item) {
            ('%', Item::Bytes(entry)) => {
                let (key, value) = map_entry(field, entry, depth)?;
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                super::object::map_mut(map).insert(key, value);
            }
            ('*', item) => {
                if let Some(value) = convert(field, item, depth, true)? {
                    let list = object.entry(field.name).or_insert_with(|| json!([]));
                    if let Some(list) = list.as_array_mut() {
                        list.push(value);
                    }
                }
            }
            (_, Item::Bytes(inner)) if INLINE.contains(&field.name) => {
                fill(object, field.kind, inner, depth)?;
            }
            (_, item) => {
                if let Some(value) = convert(field, item, depth, false)? {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

fn map_entry(field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), ApiError> {
    let mut key = String::new();
    let mut value = None;
    let mut reader = Reader(bytes);
    while let Some((number, item)) = reader.next()? {
        match (number, item) {
            (1, Item::Bytes(found)) => key = text(found)?,
            (2, item) => value = convert(field, item, depth, true)?,
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| Value::from(""))))
}

/// One value; `None` for the zero of a field that has none. Items of lists and maps are kept whatever they are.
fn convert(field: &Field, item: Item<'_>, depth: usize, keep: bool) -> Result<Option<Value>, ApiError> {
    let keep = keep || POINTERS.contains(&field.name);
    Ok(match (field.kind, item) {
        ("i", Item::Number(number)) => {
            // Two's complement in 64 bits, also for negative 32-bit numbers.
            let number = number.cast_signed();
            (keep || number != 0).then(|| Value::from(number))
        }
        ("b", Item::Number(number)) => (keep || number != 0).then_some(Value::from(number != 0)),
        ("s", Item::Bytes(bytes)) => (keep || !bytes.is_empty()).then_some(Value::from(text(bytes)?)),
        ("y", Item::Bytes(bytes)) => Some(Value::from(base64::engine::general_purpose::STANDARD.encode(bytes))),
        ("f", Item::Bytes(bytes)) => bytes
            .try_into()
            .ok()
            .map(|bytes| Value::from(f64::from_le_bytes(bytes))),
        ("T", Item::Bytes(bytes)) => time(bytes)?.map(|at| Value::from(super::object::stamp(at))),
        ("M", Item::Bytes(bytes)) => {
            time(bytes)?.map(|at| Value::from(at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()))
        }
        ("D", Item::Bytes(bytes)) => {
            let nanoseconds = numbers(bytes)?.first().copied().unwrap_or(0);
            Some(Value::from(format!("{nanoseconds}ns")))
        }
        ("I", Item::Bytes(bytes)) => Some(int_or_string(bytes)?),
        ("Q", Item::Bytes(bytes)) => Some(Value::from(first_text(bytes)?)),
        ("F", Item::Bytes(bytes)) => serde_json::from_slice(first_bytes(bytes)?).ok(),
        (message, Item::Bytes(bytes)) => {
            let mut inner = Map::new();
            fill(&mut inner, message, bytes, depth)?;
            // `items` messages stand for plain lists in JSON.
            if message.ends_with(".ExtraValue") {
                inner.shift_remove("items")
            } else {
                Some(Value::Object(inner))
            }
        }
        (_, Item::Number(_)) => None,
    })
}

fn numbers(bytes: &[u8]) -> Result<[i64; 2], ApiError> {
    let mut found = [0; 2];
    let mut reader = Reader(bytes);
    while let Some((number, item)) = reader.next()? {
        let slot = usize::try_from(number)
            .ok()
            .and_then(|number| found.get_mut(number.wrapping_sub(1)));
        if let (Some(slot), Item::Number(value)) = (slot, item) {
            *slot = value.cast_signed();
        }
    }
    Ok(found)
}

fn time(bytes: &[u8]) -> Result<Option<jiff::Timestamp>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let [seconds, nanoseconds] = numbers(bytes)?;
    // Go's zero time is the year 1.
    if seconds <= -62_135_596_800 {
        return Ok(None);
    }
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or(0);
    jiff::Timestamp::new(seconds, nanoseconds)
        .map(Some)
        .map_err(|error| broken(&error.to_string()))
}

fn first_bytes(bytes: &[u8]) -> Result<&[u8], ApiError> {
    match Reader(bytes).next()? {
        Some((1, Item::Bytes(found))) => Ok(found),
        _ => Ok(&[]),
    }
}

fn first_text(bytes: &[u8]) -> Result<String, ApiError> {
    text(first_bytes(bytes)?)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ApiError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    let mut reader = Reader(bytes);
    while let Some((field, item)) = reader.next()? {
        match (field, item) {
            (1, Item::Number(found)) => is_text = found == 1,
            (2, Item::Number(found)) => number = found.cast_signed(),
            (3, Item::Bytes(found)) => string = text(found)?,
            _ => {}
        }
    }
    Ok(if is_text {
        Value::from(string)
    } else {
        Value::from(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `kubectl create namespace t1` sends.
    const NAMESPACE: &[u8] = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x1a\x0a\x12\x0a\x02t1\x12\0\x1a\0\"\0*\x002\x008\x00B\0\x12\0\x1a\x02\x0a\0\x1a\0\"\0";

    #[test]
    fn a_namespace_as_kubectl_sends_it() {
        let decoded = decode(NAMESPACE).unwrap();
        assert_eq!(
            decoded,
            json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "t1"}, "spec": {}, "status": {}})
        );
    }

    #[test]
    fn broken_bodies_are_errors() {
        let cut = NAMESPACE.get(..30).unwrap();
        assert_eq!(decode(cut).unwrap_err().code, 400);
        assert_eq!(decode(b"not protobuf").unwrap_err().code, 400);
        let long = b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(decode(long).unwrap_err().code, 400);
    }

    #[test]
    fn every_type_in_the_table_is_known() {
        for (message, fields) in messages() {
            for field in fields.values().filter(|field| field.kind.len() > 1) {
                let known = messages().contains_key(field.kind) || field.kind.contains("v1alpha3");
                assert!(known, "{message}.{} is a {}", field.name, field.kind);
            }
        }
    }
}
