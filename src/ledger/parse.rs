//! Texts of the producer and of Spark's file sink, as values.

use crate::evidence::{AckedRange, SinkRun};
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

/// The producer's acknowledgement log: lines `first_id last_id at_ms acked_ms`. A torn last line (no newline yet) is left out.
pub(crate) fn acknowledged(text: &str) -> Result<Vec<AckedRange>, ParseError> {
    let complete = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    let mut ranges = Vec::new();
    for (index, line) in complete.lines().enumerate() {
        let fail = |why: &str| ParseError {
            what: "acknowledgement log".to_owned(),
            line: index + 1,
            why: format!("{why}: {line:?}"),
        };
        let mut words = line.split_whitespace();
        let mut number = |name: &str| -> Result<i64, ParseError> {
            let word = words.next().ok_or_else(|| fail(&format!("{name} is missing")))?;
            word.parse().map_err(|_| fail(&format!("{name} is not a number")))
        };
        let (first, last, at_ms, acked_ms) = (
            number("first id")?,
            number("last id")?,
            number("event time")?,
            number("acknowledgement time")?,
        );
        let (Ok(first), Ok(last)) = (u64::try_from(first), u64::try_from(last)) else {
            return Err(fail("an id is negative"));
        };
        if last < first {
            return Err(fail("the last id is below the first"));
        }
        ranges.push(AckedRange {
            first,
            last,
            at_ms,
            acked_ms,
        });
    }
    Ok(ranges)
}

/// The manifest of Spark's file sink: which files are committed, by file name, and the highest batch.
///
/// `files` are the texts of `_spark_metadata`, by name. A compact file `N.compact` carries everything up to N; plain files
/// above it add to it. Format: first line `v1`, then one JSON object a line with `path` and `action`.
pub(crate) fn manifest(files: &BTreeMap<String, String>) -> Result<(Option<u64>, BTreeSet<String>), ParseError> {
    let mut compact: Option<u64> = None;
    let mut plain: BTreeSet<u64> = BTreeSet::new();
    for name in files.keys() {
        if let Some(number) = name.strip_suffix(".compact").and_then(|stem| stem.parse::<u64>().ok()) {
            compact = compact.max(Some(number));
        } else if let Ok(number) = name.parse::<u64>() {
            plain.insert(number);
        }
    }
    let mut committed = BTreeSet::new();
    let mut read = |name: String| -> Result<(), ParseError> {
        let Some(text) = files.get(&name) else {
            return Ok(());
        };
        for (index, line) in text.lines().enumerate() {
            let fail = |why: String| ParseError {
                what: format!("sink manifest {name}"),
                line: index + 1,
                why,
            };
            if index == 0 {
                if line.trim() != "v1" {
                    return Err(fail(format!("unknown version {line:?}, only v1 is understood")));
                }
                continue;
            }
            if line.trim().is_empty() {
                continue;
            }
            let entry: serde_json::Value = serde_json::from_str(line).map_err(|error| fail(error.to_string()))?;
            let path = entry
                .get("path")
                .and_then(serde_json::Value::as_str)
                .ok_or_else(|| fail("no path".to_owned()))?;
            let file = path.rsplit('/').next().unwrap_or(path).to_owned();
            match entry.get("action").and_then(serde_json::Value::as_str) {
                Some("delete") => {
                    committed.remove(&file);
                }
                _ => {
                    committed.insert(file);
                }
            }
        }
        Ok(())
    };
    if let Some(number) = compact {
        read(format!("{number}.compact"))?;
    }
    for number in plain.range(compact.map_or(0, |number| number + 1)..) {
        read(number.to_string())?;
    }
    Ok((plain.last().copied().max(compact), committed))
}

/// Numbers of the records in a part file of JSON lines.
pub(crate) fn record_ids(file: &str, text: &str, id_field: &str, ids: &mut Vec<u64>) -> Result<(), ParseError> {
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let fail = |why: String| ParseError {
            what: format!("sink file {file}"),
            line: index + 1,
            why,
        };
        let record: serde_json::Value = serde_json::from_str(line).map_err(|error| fail(error.to_string()))?;
        let id = record
            .get(id_field)
            .and_then(serde_json::Value::as_u64)
            .ok_or_else(|| fail(format!("no whole number in the field {id_field:?}")))?;
        ids.push(id);
    }
    Ok(())
}

/// Ids as runs of neighbours that were found equally often.
pub(crate) fn runs(mut ids: Vec<u64>) -> Vec<SinkRun> {
    ids.sort_unstable();
    let mut runs: Vec<SinkRun> = Vec::new();
    let mut counted = ids.chunk_by(|a, b| a == b).filter_map(|group| {
        let times = u32::try_from(group.len()).unwrap_or(u32::MAX);
        group.first().map(|id| (*id, times))
    });
    for (id, times) in &mut counted {
        match runs.last_mut() {
            Some(run) if run.times == times && run.last + 1 == id => run.last = id,
            _ => runs.push(SinkRun {
                first: id,
                last: id,
                times,
            }),
        }
    }
    runs
}

/// Splits the output of the reading scripts: a line `==> name` opens a section.
pub(crate) fn sections(text: &str) -> BTreeMap<String, String> {
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    let mut name: Option<String> = None;
    for line in text.split_inclusive('\n') {
        if let Some(title) = line.strip_prefix("==> ") {
            let title = title.trim_end().to_owned();
            sections.entry(title.clone()).or_default();
            name = Some(title);
        } else if let Some(section) = name.as_ref().and_then(|name| sections.get_mut(name)) {
            section.push_str(line);
        }
    }
    sections
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
                acked_ms: 2003
            }
        );
        let error = acknowledged("0 9 1000 1001\n5 x 1 1\n").unwrap_err();
        assert_eq!(error.line, 2);
    }

    #[test]
    fn the_manifest_counts_a_compacted_log_and_what_came_after_it() {
        let entry = |name: &str| format!("{{\"path\":\"file:///data/out/{name}\",\"size\":1,\"action\":\"add\"}}");
        let files = BTreeMap::from([
            ("8".to_owned(), format!("v1\n{}", entry("old"))),
            ("9.compact".to_owned(), format!("v1\n{}\n{}", entry("a"), entry("b"))),
            ("10".to_owned(), format!("v1\n{}\n", entry("c"))),
            (".11.uuid.tmp".to_owned(), "v1\nhalf".to_owned()),
        ]);
        let (last, committed) = manifest(&files).unwrap();
        assert_eq!(last, Some(10));
        assert_eq!(committed.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn an_unknown_manifest_version_is_refused() {
        let files = BTreeMap::from([("0".to_owned(), "v2\n".to_owned())]);
        assert!(manifest(&files).unwrap_err().why.contains("v2"));
    }

    #[test]
    fn ids_become_runs_that_keep_their_count() {
        let found = runs(vec![3, 1, 2, 2, 4, 9]);
        let expected = [(1, 1, 1), (2, 2, 2), (3, 4, 1), (9, 9, 1)];
        assert_eq!(
            found
                .iter()
                .map(|run| (run.first, run.last, run.times))
                .collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn sections_are_split_at_their_titles() {
        let parts = sections("==> a\n1\n2\n==> b\n==> c\n3");
        assert_eq!(parts.get("a").map(String::as_str), Some("1\n2\n"));
        assert_eq!(parts.get("b").map(String::as_str), Some(""));
        assert_eq!(parts.get("c").map(String::as_str), Some("3"));
    }
}
