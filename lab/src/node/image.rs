//! Which program stands behind an image name, because the lab pulls nothing. Depends on nothing.
//!
//! Central type: [`ImageTable`]. Contract: the last entry that matches an image wins, so whoever embeds the lab can
//! override what comes before; an image without an entry runs its `command` from the host's root, unless its registry
//! cannot exist (`is_invalid`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A host folder or file that an image brings along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBind {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where the container sees it.
    pub target: PathBuf,
    /// Whether the container may write to it.
    pub writable: bool,
}

/// What an image would have brought: its entry point, its environment, its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Program and leading arguments; used unless the container names a `command`.
    pub entrypoint: Vec<String>,
    /// Arguments used when the container names neither `command` nor `args`.
    pub arguments: Vec<String>,
    /// Environment underneath the container's own.
    pub environment: BTreeMap<String, String>,
    /// Files and folders mounted over the host's root.
    pub binds: Vec<ImageBind>,
    /// Run under `tini -s --`, which forwards signals and reaps orphans, as images with an init do.
    pub init: bool,
    /// Nothing is in it but its entry point: a container that names another command cannot start.
    #[serde(default)]
    pub bare: bool,
    /// Working directory when the container names none.
    pub working_directory: Option<String>,
}

/// Image names and what they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTable {
    entries: Vec<(String, Image)>,
}

impl ImageTable {
    /// A table that knows no image.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image. The pattern is a repository without tag or digest; `*` stands for any run of characters.
    pub fn insert(&mut self, pattern: impl Into<String>, image: Image) -> &mut Self {
        self.entries.push((pattern.into(), image));
        self
    }

    /// Adds all images of another table; they win over what is there already.
    pub fn extend(&mut self, other: &Self) {
        self.entries.extend(other.entries.iter().cloned());
    }

    /// The image behind a reference such as `registry.example/team/app:1.2@sha256:...`.
    #[must_use]
    pub fn find(&self, reference: &str) -> Option<&Image> {
        let repository = repository(reference);
        self.entries
            .iter()
            .rev()
            .find(|(pattern, _)| matches(pattern, repository))
            .map(|(_, image)| image)
    }
}

/// Whether an image names a registry that nobody can have: the top-level name `invalid` is reserved for that (RFC 2606).
#[must_use]
pub(super) fn is_invalid(reference: &str) -> bool {
    let host = reference.split('/').next().unwrap_or_default();
    let name = host.split(':').next().unwrap_or_default();
    reference.contains('/') && name.to_ascii_lowercase().ends_with(".invalid")
}

/// The reference without digest and tag. A colon before the last slash belongs to a registry's port.
fn repository(reference: &str) -> &str {
    let without_digest = reference.split_once('@').map_or(reference, |(name, _)| name);
    match without_digest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => without_digest,
    }
}

/// Glob match with `*` only.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut remaining) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return remaining.ends_with(part);
        }
        match remaining.split_once(part) {
            Some((_, after)) => remaining = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(patterns: &[&str]) -> ImageTable {
        let mut table = ImageTable::new();
        for pattern in patterns {
            table.insert(
                *pattern,
                Image {
                    entrypoint: vec![(*pattern).to_owned()],
                    ..Image::default()
                },
            );
        }
        table
    }

    #[test]
    fn tag_digest_and_registry_port_do_not_count() {
        let table = table(&["localhost:5000/app", "apache/spark"]);
        for reference in ["apache/spark", "apache/spark:4.1.2", "apache/spark:4@sha256:00"] {
            assert_eq!(
                table.find(reference).unwrap().entrypoint,
                ["apache/spark"],
                "{reference}"
            );
        }
        assert!(table.find("localhost:5000/app:1").is_some());
        assert!(table.find("localhost:5000/app").is_some());
        assert!(table.find("spark").is_none());
    }

    #[test]
    fn a_registry_that_cannot_be_is_told_from_others() {
        assert!(is_invalid("registry.invalid/app:1"));
        assert!(is_invalid("registry.invalid:5000/app"));
        assert!(!is_invalid("app.invalid"));
        assert!(!is_invalid("registry.example/app.invalid/x:1"));
    }

    #[test]
    fn stars_match_any_run_and_the_last_entry_wins() {
        let table = table(&["*/spark*", "*/spark-x", "a*b*c"]);
        assert_eq!(table.find("r.example/spark-x:1").unwrap().entrypoint, ["*/spark-x"]);
        assert_eq!(table.find("r.example/spark-y:1").unwrap().entrypoint, ["*/spark*"]);
        assert!(table.find("a1b2c").is_some());
        assert!(table.find("a1b2d").is_none());
    }
}
