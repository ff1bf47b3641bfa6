//! Experiment files: what is valid, what is explained, and that nothing a file holds can bring the reader down.

mod explained;
mod hostile;
mod properties;
mod schema;
mod values;

use chaosrun::experiment::{Loaded, Problems, parse};
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads a text without variables.
fn read(source: impl AsRef<[u8]>) -> Result<Vec<Loaded>, Problems> {
    parse("example.yaml", source.as_ref(), &|_| None)
}

/// The problems of a text that must have some, as plain text.
fn explained(source: impl AsRef<[u8]>) -> String {
    read(source).unwrap_err().render(false)
}

/// Codes of all problems, in the order in which they are shown.
fn codes(source: impl AsRef<[u8]>) -> Vec<&'static str> {
    match read(source) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(|(_, problem)| problem.code).collect(),
    }
}

fn files_in(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} holds no file");
    files
}

fn scenarios() -> Vec<PathBuf> {
    let mut files = files_in("scenarios");
    files.extend(files_in("scenarios/refuted"));
    files
}

/// A small experiment; `{}` of the parts can be replaced.
const VALID: &str = r#"apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: example}
claim: {text: "It comes back"}
target: {namespace: shop, deployment: web}
steadyState:
  probes:
  - {name: ready, pods: {ready: ">= 3"}}
faults:
- {name: kill, podKill: {}}
slos: {rto: "< 60s"}
"#;
