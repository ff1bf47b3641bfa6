//! `validate`: schema and meaning, no cluster needed.

use super::arguments::ValidateArguments;
use super::exit::{Exit, Failure};
use super::load;
use super::streams::Streams;

/// Checks every file, its setup manifests included.
pub(super) fn validate(arguments: &ValidateArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let loaded = load::experiments(&arguments.paths, &arguments.variables, streams)?;
    let mut names = Vec::new();
    for from in loaded {
        let loaded = load::with_manifests(from)?;
        names.push(format!("{}: {} is valid", loaded.file, loaded.experiment.name));
    }
    streams.say(&names.join("\n"));
    Ok(Exit::Pass)
}
