//! A run folder: the evidence, and what is computed from it.

use super::exit::Failure;
use crate::evidence::{Checked, ReadError, fold_log};
use crate::report::{Builder, Run};
use crate::world::FileError;
use std::path::Path;

/// The log.
pub(super) const LOG: &str = "events.jsonl";
/// The numbers, for programs.
pub(super) const JSON: &str = "report.json";
/// The table.
pub(super) const TABLE: &str = "report.txt";

/// Judges a log from its file, in little memory however long it is.
///
/// # Errors
/// A file that cannot be read, or a log that is no evidence.
pub(super) fn judge(log: &Path) -> Result<(Run, Checked), Failure> {
    let failed = |source| FileError {
        attempted: "cannot read",
        path: log.to_owned(),
        source,
    };
    let file = std::fs::File::open(log).map_err(failed)?;
    let mut builder = Builder::new();
    let checked = fold_log(file, |event| builder.apply(&event)).map_err(|error| match error {
        ReadError::Io(source) => Failure::File(failed(source)),
        ReadError::Log(error) => Failure::Invalid(format!("{}: {error}", log.display())),
    })?;
    Ok((builder.finish(checked.head.clone(), checked.records), checked))
}
