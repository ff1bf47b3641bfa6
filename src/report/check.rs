//! Does a written report say what its event log says? Field by field, and byte by byte where the fields agree.
//!
//! Pure. Central type: [`Difference`]. Contract: no difference is found exactly when the text is the one that [`super::json`] (or
//! [`super::table`]) makes of the run; what is found names the place and both values.

use super::json::json;
use super::model::Run;
use super::table::table;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// One place where a file does not say what the log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// File of the run folder.
    pub file: &'static str,
    /// JSON pointer of the field, or line and column.
    pub at: String,
    /// What stands there; none when nothing does.
    pub stated: Option<String>,
    /// What the log gives; none when nothing should be there.
    pub computed: Option<String>,
    /// The difference as a sentence.
    pub what: String,
}

/// Compares the bytes of `report.json` with what `run` is written as.
#[must_use]
pub fn differences_of_json(stated: &[u8], run: &Run) -> Vec<Difference> {
    const FILE: &str = "report.json";
    let computed = json(run);
    if stated == computed.as_bytes() {
        return Vec::new();
    }
    let Ok(text) = std::str::from_utf8(stated) else {
        return vec![first_byte(FILE, stated, computed.as_bytes(), "it is not UTF-8")];
    };
    let (stated_value, computed_value) = match (serde_json::from_str(text), serde_json::from_str::<Value>(&computed)) {
        (Ok(stated), Ok(computed)) => (stated, computed),
        (Err(error), _) | (_, Err(error)) => {
            let mut difference = first_byte(FILE, stated, computed.as_bytes(), "");
            difference.what = format!("it is not JSON: {error}; {}", difference.what);
            return vec![difference];
        }
    };
    let mut found = Vec::new();
    compare(&mut found, FILE, &mut String::new(), &stated_value, &computed_value);
    if found.is_empty() {
        let why = "every field says what the log says, but it is not written as chaosrun writes it";
        found.push(first_byte(FILE, stated, computed.as_bytes(), why));
    }
    found
}

/// Compares the bytes of `report.txt` with the table of `run`. The path in its last line says where the folder was when it was
/// written, which the log does not know: it may be any.
#[must_use]
pub fn differences_of_table(stated: &[u8], run: &Run) -> Vec<Difference> {
    const LABEL: &str = "\nRun folder ";
    let text = String::from_utf8_lossy(stated);
    let folder = text.rsplit_once(LABEL).map_or(String::new(), |(_, folder)| {
        folder.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    let computed = table(run, false, &folder);
    if stated == computed.as_bytes() {
        Vec::new()
    } else {
        vec![first_byte("report.txt", stated, computed.as_bytes(), "")]
    }
}

fn compare(found: &mut Vec<Difference>, file: &'static str, at: &mut String, stated: &Value, computed: &Value) {
    match (stated, computed) {
        (Value::Object(left), Value::Object(right)) => {
            let mut seen = BTreeSet::new();
            for key in left.keys().chain(right.keys()) {
                if seen.insert(key) {
                    let part = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
                    one(found, file, at, &part, left.get(key), right.get(key));
                }
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            for index in 0..left.len().max(right.len()) {
                one(found, file, at, &format!("/{index}"), left.get(index), right.get(index));
            }
        }
        _ if stated == computed => {}
        _ => found.push(difference(file, at, Some(stated), Some(computed))),
    }
}

fn one(
    found: &mut Vec<Difference>,
    file: &'static str,
    at: &mut String,
    part: &str,
    stated: Option<&Value>,
    computed: Option<&Value>,
) {
    let length = at.len();
    at.push_str(part);
    match (stated, computed) {
        (Some(stated), Some(computed)) => compare(found, file, at, stated, computed),
        _ => found.push(difference(file, at, stated, computed)),
    }
    at.truncate(length);
}

fn difference(file: &'static str, at: &str, stated: Option<&Value>, computed: Option<&Value>) -> Difference {
    let (stated, computed) = (stated.map(ToString::to_string), computed.map(ToString::to_string));
    let what = match (&stated, &computed) {
        (Some(stated), Some(computed)) => format!("says {}, the log gives {}", short(stated), short(computed)),
        (Some(stated), None) => format!("says {}, where the log gives nothing", short(stated)),
        (None, Some(computed)) => format!("is missing, the log gives {}", short(computed)),
        (None, None) => String::new(),
    };
    Difference {
        file,
        at: at.to_owned(),
        stated,
        computed,
        what,
    }
}

/// The first byte that differs, with a little of what follows.
fn first_byte(file: &'static str, stated: &[u8], computed: &[u8], why: &str) -> Difference {
    let same = stated.iter().zip(computed).take_while(|(a, b)| a == b).count();
    let before = stated.get(..same).unwrap_or_default();
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    let excerpt = |bytes: &[u8]| {
        let rest = bytes.get(same..).unwrap_or_default();
        let end = rest
            .iter()
            .skip(1)
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |end| end + 1);
        let rest = rest.get(..end.min(40)).unwrap_or_default();
        (!rest.is_empty()).then(|| format!("{:?}", String::from_utf8_lossy(rest)))
    };
    let (stated, computed) = (excerpt(stated), excerpt(computed));
    let nothing = || "nothing".to_owned();
    let mut what = format!(
        "{} stands where the log gives {}",
        stated.clone().unwrap_or_else(nothing),
        computed.clone().unwrap_or_else(nothing)
    );
    if !why.is_empty() {
        what = format!("{why}: {what}");
    }
    Difference {
        file,
        at: format!("line {line}, column {column}"),
        stated,
        computed,
        what,
    }
}

fn short(text: &str) -> String {
    const MOST: usize = 120;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    format!("{}...", text.chars().take(MOST).collect::<String>())
}
