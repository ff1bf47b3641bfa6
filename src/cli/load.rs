//! Paths to experiments: folders are expanded, every file is read and parsed, and ALL problems of all files are shown at once.

use super::arguments::Variables;
use super::exit::Failure;
use super::streams::Streams;
use crate::cluster::{Manifest, ManifestError, parse_manifests};
use crate::engine::Loaded;
use crate::experiment::{Experiment, Problems, parse};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An experiment and the file it stands in.
pub(super) struct FromFile {
    pub(super) path: PathBuf,
    pub(super) experiment: Experiment,
}

/// Reads and parses every file. Warnings go to stderr.
///
/// # Errors
/// A path that is not there (usage), or the problems of all files together.
pub(super) fn experiments(
    paths: &[PathBuf],
    variables: &Variables,
    streams: &mut Streams,
) -> Result<Vec<FromFile>, Failure> {
    let files = expand(paths)?;
    let used = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        let found = variables
            .values
            .iter()
            .rev()
            .find(|(held, _)| held == name)
            .map(|(_, value)| value.clone());
        if found.is_some() {
            used.borrow_mut().insert(name.to_owned());
        }
        found
    };
    let mut loaded = Vec::new();
    let mut problems: Option<Problems> = None;
    for path in files {
        let name = path.display().to_string();
        let source = read_bounded(&path).map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
        match parse(&name, &source, &lookup) {
            Ok(parsed) => {
                for one in parsed {
                    if let Some(warnings) = one.warnings(&name, &source) {
                        streams.note(warnings.render(streams.err_is_terminal()).trim_end());
                    }
                    loaded.push(FromFile {
                        path: path.clone(),
                        experiment: one.experiment,
                    });
                }
            }
            Err(found) => match problems.as_mut() {
                Some(held) => held.extend(found),
                None => problems = Some(found),
            },
        }
    }
    if let Some(problems) = problems {
        return Err(Failure::Invalid(
            problems.render(streams.err_is_terminal()).trim_end().to_owned(),
        ));
    }
    for (index, later) in loaded.iter().enumerate() {
        let same = |earlier: &&FromFile| earlier.experiment.name == later.experiment.name;
        // Within one file this is a problem of its own, with its line.
        if let Some(earlier) = loaded.iter().take(index).find(same) {
            return Err(Failure::Invalid(format!(
                "experiment {:?} is in {} and in {}: a report could not tell them apart; rename one (metadata.name)",
                later.experiment.name,
                earlier.path.display(),
                later.path.display()
            )));
        }
    }
    let used = used.into_inner();
    if let Some((name, _)) = variables.values.iter().find(|(name, _)| !used.contains(name)) {
        return Err(Failure::Usage(format!(
            "--var {name}=... is used by none of the files; they would run without it"
        )));
    }
    Ok(loaded)
}

/// Reads a little more than an experiment may have: enough to see that a file is too large, never all of an endless one.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut source = Vec::new();
    std::fs::File::open(path)?
        .take(2 * 1024 * 1024)
        .read_to_end(&mut source)?;
    Ok(source)
}

/// Reads the setup manifests of an experiment, relative to its file.
///
/// # Errors
/// A manifest that is not there or is no Kubernetes object.
pub(super) fn with_manifests(from: FromFile) -> Result<Loaded, Failure> {
    let folder = from.path.parent().unwrap_or_else(|| Path::new("."));
    let mut manifests: Vec<Manifest> = Vec::new();
    for relative in &from.experiment.setup.manifests {
        let path = folder.join(relative);
        let file = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|error| ManifestError {
            file: file.clone(),
            why: format!("cannot read the setup manifest of {}: {error}", from.path.display()),
        })?;
        manifests.extend(parse_manifests(&file, &text)?);
    }
    for patch in &from.experiment.setup.patches {
        let found = manifests.iter_mut().find(|held| held.is(&patch.kind, &patch.name));
        let Some(manifest) = found else {
            return Err(Failure::Manifest(ManifestError {
                file: from.path.display().to_string(),
                why: format!(
                    "setup.patches names {} {}, which is in none of the manifests",
                    patch.kind, patch.name
                ),
            }));
        };
        manifest.merge(&patch.merge).map_err(|why| ManifestError {
            file: from.path.display().to_string(),
            why: format!("the patch to {} {} cannot be applied: {why}", patch.kind, patch.name),
        })?;
    }
    Ok(Loaded {
        file: from.path.display().to_string(),
        experiment: from.experiment,
        manifests,
    })
}

fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path)
            .map_err(|error| Failure::Usage(format!("cannot find {}: {error}", path.display())))?;
        if !metadata.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path)
            .map_err(|error| Failure::Usage(format!("cannot read the folder {}: {error}", path.display())))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file() && path.extension().is_some_and(|end| end == "yaml" || end == "yml"))
            .collect();
        if found.is_empty() {
            return Err(Failure::Usage(format!(
                "the folder {} holds no .yaml file",
                path.display()
            )));
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}
