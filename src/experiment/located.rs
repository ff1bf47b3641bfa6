//! YAML as a tree that knows where everything stands. Limits against hostile files are set here.

use super::diagnostics::{Place, Problem};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Location, Spanned};

/// Longest file that is read. An experiment is a page; a larger file is a mistake.
pub(super) const MOST_BYTES: usize = 1024 * 1024;

/// Deepest nesting; an experiment needs nine levels, a patch in it a few more.
const MOST_NESTED: usize = 48;
/// Most values in a file, those repeated by aliases included: a few lines of aliases can stand for billions.
const MOST_NODES: usize = 50_000;
/// Most documents in a file.
const MOST_DOCUMENTS: usize = 500;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One line of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

impl Value {
    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Every document of a file.
///
/// # Errors
/// The one problem that keeps the text from being read as YAML.
pub(super) fn documents(source: &[u8]) -> Result<Vec<Node>, Problem> {
    if source.len() > MOST_BYTES {
        return Err(Problem::error(
            "file-too-large",
            Place::START,
            format!("the file has {} bytes, at most {MOST_BYTES} are read", source.len()),
            Some("an experiment is a page of YAML: is this the right file?".to_owned()),
        ));
    }
    let text = std::str::from_utf8(source).map_err(|error| {
        let place = Place {
            offset: error.valid_up_to(),
            length: 1,
        };
        Problem::error(
            "not-utf8",
            place,
            "this byte is not UTF-8 text".to_owned(),
            Some("save the file as UTF-8".to_owned()),
        )
    })?;
    // Doubled keys are handed on and reported by the shape check, so that they do not hide the other problems.
    let options = serde_yaml::options! {
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::LastWins,
        budget: serde_yaml::budget! {
            max_depth: MOST_NESTED,
            // Above the depth, so that the depth is what is reported.
            flow_nesting_limit: MOST_NESTED + 8,
            max_nodes: MOST_NODES,
            max_documents: MOST_DOCUMENTS,
        },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: MOST_NODES },
    };
    let trees: Vec<Spanned<Raw>> =
        serde_yaml::from_multiple_with_options(text, options).map_err(|error| unreadable(text, &error))?;
    Ok(trees
        .into_iter()
        .map(|tree| node(text, tree))
        .filter(|node| node.value != Value::Null)
        .collect())
}

/// Why a text cannot be read as YAML.
fn unreadable(text: &str, error: &serde_yaml::Error) -> Problem {
    use serde_yaml::Error;
    use serde_yaml::budget::BudgetBreach;
    let used = error.location();
    let error = match error.without_snippet() {
        // Where the alias is used matters to the reader, and what is wrong there.
        Error::AliasError { error, .. } => error,
        other => other,
    };
    let place = used.map_or(Place::START, |location| place_of(text, location));
    let limit = match error {
        Error::AliasReplayLimitExceeded { .. } => Some((
            format!("the aliases (*name) of this file stand for more than {MOST_NODES} values"),
            "an alias repeats what its anchor holds, and aliases of aliases multiply: write the values out",
        )),
        Error::Budget { breach, .. } => Some(match breach {
            BudgetBreach::Depth { .. } => (
                format!("the values are nested more than {MOST_NESTED} deep"),
                "an experiment needs nine levels",
            ),
            BudgetBreach::Documents { .. } => (
                format!("the file has more than {MOST_DOCUMENTS} documents"),
                "split it into several files",
            ),
            other => (
                format!("the file is larger than an experiment can be: {other:?}"),
                "is this the right file?",
            ),
        }),
        _ => None,
    };
    if let Some((message, help)) = limit {
        return Problem::error("yaml-limit", place, message, Some(help.to_owned()));
    }
    let before = text.get(..place.offset).unwrap_or_default();
    let variable = before.ends_with('$') || before.ends_with("${");
    let help = variable.then(|| "inside { } or [ ] a variable needs quotes: \"${NAME}\"".to_owned());
    Problem::error("yaml", place, without_position(&error.to_string()), help)
}

/// The parser's message without its position, which the diagnostic shows by itself.
fn without_position(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let line = match line.split_once(": ") {
        Some((position, rest)) if position.starts_with("line ") => rest,
        _ => line,
    };
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

enum Raw {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(text: &str, raw: Spanned<Raw>) -> Node {
    let place = place_of(text, raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(held) => Value::Bool(held),
        Raw::Integer(held) => Value::Integer(held),
        Raw::Float(held) => Value::Float(held),
        Raw::Text(held) => Value::Text(held),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(text, item)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key_place: place_of(text, key.referenced),
                    key: key.value,
                    value: node(text, value),
                })
                .collect(),
        ),
    };
    Node { value, place }
}

fn place_of(text: &str, location: Location) -> Place {
    let span = location.span();
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (offset, length) = match (span.byte_offset(), span.byte_len()) {
        (Some(offset), Some(length)) => (number(offset), number(length)),
        _ => (
            byte_offset(text, number(location.line()), number(location.column())),
            number(span.len()),
        ),
    };
    let offset = offset.min(text.len());
    // A mapping's span reaches over many lines; the caret is for the first.
    let rest = text.get(offset..).unwrap_or_default();
    let line_end = rest.find('\n').unwrap_or(rest.len());
    Place {
        offset,
        length: length.clamp(1, line_end.max(1)),
    }
}

/// Byte offset of a line and column (both from 1, columns in characters).
fn byte_offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = text.get(start..).unwrap_or_default();
    start
        + rest
            .chars()
            .take(column.saturating_sub(1))
            .map(char::len_utf8)
            .sum::<usize>()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a number beyond i64 is no count of anything here"
    )]
    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(i64::try_from(value).map_or(Raw::Float(value as f64), Raw::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
