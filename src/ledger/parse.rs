//! Texts of the producer and of Spark's file sink, as values.

use super::lines::Line;
use crate::evidence::AckedRange;
use std::collections::{BTreeMap, BTreeSet};

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}, line {line}: {why}")]
pub(crate) struct ParseError {
    /// Which text.
    pub(crate) what: String,
    /// From 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) why: String,
}

/// One line of the producer's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLine {
    /// `first_id last_id at_ms acked_ms`: durable.
    Acknowledged(AckedRange),
    /// `first_id last_id at_ms -`: about to be written.
    Attempted {
        /// First id.
        first: u64,
        /// Last id.
        last: u64,
    },
}

/// Reads one line of the producer's log.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn log_line(line: &str) -> Result<LogLine, String> {
    let mut words = line.split_whitespace();
    let mut word = |name: &str| words.next().ok_or_else(|| format!("{name} is missing"));
    let number =
        |name: &str, word: &str| -> Result<i64, String> { word.parse().map_err(|_| format!("{name} is not a number")) };
    let first = number("first id", word("first id")?)?;
    let last = number("last id", word("last id")?)?;
    let at_ms = number("event time", word("event time")?)?;
    let acked = word("acknowledgement time")?;
    let acked_ms = (acked != "-")
        .then(|| number("acknowledgement time", acked))
        .transpose()?;
    let (Ok(first), Ok(last)) = (u64::try_from(first), u64::try_from(last)) else {
        return Err("an id is negative".to_owned());
    };
    if last < first {
        return Err("the last id is below the first".to_owned());
    }
    Ok(match acked_ms {
        None => LogLine::Attempted { first, last },
        Some(acked_ms) => LogLine::Acknowledged(AckedRange {
            first,
            last,
            at_ms,
            acked_ms,
            block: None,
        }),
    })
}

/// The producer's acknowledgement log in one text. A torn last line (no newline yet) is left out, and so are attempts.
pub(crate) fn acknowledged(text: &str) -> Result<Vec<AckedRange>, ParseError> {
    let complete = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    let mut ranges = Vec::new();
    for (index, line) in complete.lines().enumerate() {
        let found = log_line(line).map_err(|why| ParseError {
            what: "acknowledgement log".to_owned(),
            line: index + 1,
            why: format!("{why}: {line:?}"),
        })?;
        if let LogLine::Acknowledged(range) = found {
            ranges.push(range);
        }
    }
    Ok(ranges)
}

/// Which files of `_spark_metadata` together say what is committed, in the order in which they are to be read, and the highest
/// batch. A compact file `N.compact` carries everything up to N; plain files above it add to it. Other names mean nothing.
pub(crate) fn manifest_files<'a>(names: impl IntoIterator<Item = &'a str>) -> (Option<u64>, Vec<String>) {
    let mut compact: Option<u64> = None;
    let mut plain: BTreeSet<u64> = BTreeSet::new();
    for name in names {
        if let Some(number) = name.strip_suffix(".compact").and_then(|stem| stem.parse::<u64>().ok()) {
            compact = compact.max(Some(number));
        } else if let Ok(number) = name.parse::<u64>() {
            plain.insert(number);
        }
    }
    let compacted = compact.map(|number| format!("{number}.compact"));
    let after = plain.range(compact.map_or(0, |number| number.saturating_add(1))..);
    let files = compacted.into_iter().chain(after.map(u64::to_string)).collect();
    (plain.last().copied().max(compact), files)
}

/// The committed files of a sink: their paths as the manifest has them, with the order of their commit.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    files: BTreeMap<String, u64>,
    seen: u64,
}

impl Committed {
    /// Takes one line of a file of the manifest. Format: first line `v1`, then one JSON object a line with `path` and `action`.
    ///
    /// # Errors
    /// Another version, or a line that is none.
    pub(crate) fn add(&mut self, line: Line<'_>) -> Result<(), ParseError> {
        if line.number == 1 {
            return if line.text.trim() == "v1" {
                Ok(())
            } else {
                Err(line.fail(format!("unknown version {:?}, only v1 is understood", line.text)))
            };
        }
        if line.text.trim().is_empty() {
            return Ok(());
        }
        let entry: serde_json::Value = serde_json::from_str(line.text).map_err(|error| line.fail(error.to_string()))?;
        let path = entry
            .get("path")
            .and_then(serde_json::Value::as_str)
            .ok_or_else(|| line.fail("no path"))?;
        self.seen += 1;
        match entry.get("action").and_then(serde_json::Value::as_str) {
            Some("delete") => {
                self.files.remove(path);
            }
            _ => {
                self.files.insert(path.to_owned(), self.seen);
            }
        }
        Ok(())
    }

    /// Paths in the order of their commit.
    pub(crate) fn in_order(&self) -> Vec<&str> {
        let mut files: Vec<(&str, u64)> = self.files.iter().map(|(path, seen)| (path.as_str(), *seen)).collect();
        files.sort_unstable_by_key(|(_, seen)| *seen);
        files.into_iter().map(|(path, _)| path).collect()
    }
}

/// Last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_acknowledgement_is_left_out_and_a_broken_one_is_named() {
        let ranges = acknowledged("0 9 1000 1001\n10 19 2000 2003\n20 2").unwrap();
        assert_eq!(ranges.len(), 2);
        assert_eq!(
            ranges[1],
            AckedRange {
                first: 10,
                last: 19,
                at_ms: 2000,
                acked_ms: 2003,
                block: None
            }
        );
        let error = acknowledged("0 9 1000 1001\n5 x 1 1\n").unwrap_err();
        assert_eq!(error.line, 2);
    }

    fn manifest(files: &[(&str, String)]) -> Result<(Option<u64>, Vec<String>), ParseError> {
        let (last, wanted) = manifest_files(files.iter().map(|(name, _)| *name));
        let mut committed = Committed::default();
        for name in wanted {
            let text = &files.iter().find(|(held, _)| *held == name).unwrap().1;
            for (index, text) in text.lines().enumerate() {
                committed.add(Line {
                    what: &name,
                    number: index + 1,
                    text,
                })?;
            }
        }
        let names = committed.in_order().into_iter().map(|path| file_name(path).to_owned());
        Ok((last, names.collect()))
    }

    #[test]
    fn the_manifest_counts_a_compacted_log_and_what_came_after_it() {
        let entry = |name: &str| format!("{{\"path\":\"file:///data/out/{name}\",\"size\":1,\"action\":\"add\"}}");
        let gone = "{\"path\":\"file:///data/out/a\",\"action\":\"delete\"}";
        let files = [
            ("8", format!("v1\n{}", entry("old"))),
            ("9.compact", format!("v1\n{}\n{}", entry("b"), entry("a"))),
            ("11", format!("v1\n{}\n{gone}", entry("0"))),
            ("10", format!("v1\n{}\n", entry("c"))),
            (".11.uuid.tmp", "v1\nhalf".to_owned()),
        ];
        let (last, committed) = manifest(&files).unwrap();
        assert_eq!(last, Some(11));
        assert_eq!(committed, ["b", "c", "0"]);
    }

    #[test]
    fn an_unknown_manifest_version_and_a_torn_line_are_refused() {
        assert!(manifest(&[("0", "v2\n".to_owned())]).unwrap_err().why.contains("v2"));
        let torn = manifest(&[("0", "v1\n{\"path\":\"x".to_owned())]).unwrap_err();
        assert_eq!(torn.line, 2);
        assert_eq!(manifest_files([]), (None, Vec::new()));
        assert_eq!(manifest_files(["18446744073709551615.compact", "3"]).0, Some(u64::MAX));
    }
}
