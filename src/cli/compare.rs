//! `compare`: two runs (or folders of runs), or a run and what is kept of past ones in a folder.

use super::arguments::{CompareArguments, Format};
use super::exit::{Exit, Failure};
use super::streams::Streams;
use crate::compare::{self, Margin, Outcome, Rule, SCHEMA, Saved, table};
use crate::evidence::read_log;
use crate::world::{FileError, write_atomically};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How deep below a folder runs are looked for.
const DEPTH: usize = 4;

/// Compares and says so by the exit code: 1 for a slow-down of more than the margin, 2 when nothing can be said, else 0.
pub(super) fn compare(arguments: &CompareArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let rule = Rule {
        margin: arguments.margin,
        confidence: arguments.confidence,
    };
    let (base, new) = match (&arguments.store, arguments.paths.as_slice()) {
        (Some(store), [run]) if arguments.save => return save(store, run, arguments.name.as_deref(), streams),
        (Some(store), [new]) => {
            let new = runs(new)?;
            let base = chosen(store, &new, arguments.base.as_deref())?;
            let names: BTreeSet<&String> = new.iter().map(|saved| &saved.experiment).collect();
            for name in names {
                if !base.iter().any(|saved| saved.experiment == *name) {
                    let store = store.display();
                    streams.note(&format!(
                        "chaosrun: {store} holds no other run of {name}; `--save` keeps one"
                    ));
                }
            }
            (base, new)
        }
        (None, [base, new]) if !arguments.save => (runs(base)?, runs(new)?),
        (Some(_), _) => {
            let wanted =
                "with --store, give one run: `compare --store DIR NEW`, or `compare --store DIR --save RUN_DIR`";
            return Err(Failure::Usage(wanted.to_owned()));
        }
        (None, _) => {
            let wanted = "give two runs or folders of runs, `compare BASE NEW`, or one and --store";
            return Err(Failure::Usage(wanted.to_owned()));
        }
    };
    let comparison = compare::compare(&base, &new, rule);
    match arguments.format {
        Format::Table => streams.say(table(&comparison, streams.color()).trim_end()),
        Format::Json => {
            let text =
                serde_json::to_string_pretty(&comparison).map_err(|error| Failure::Internal(error.to_string()))?;
            streams.say(&text);
        }
    }
    Ok(match comparison.outcome {
        Outcome::Regressed => Exit::Fail,
        Outcome::Inconclusive => Exit::Inconclusive,
        Outcome::NotRegressed => Exit::Pass,
    })
}

/// Every experiment of a run folder, of all runs below a folder, or of a file of the store.
fn runs(path: &Path) -> Result<Vec<Saved>, Failure> {
    if path.is_file() {
        return Ok(vec![read_saved(path)?]);
    }
    let mut folders = Vec::new();
    find(path, DEPTH, &mut folders)?;
    if folders.is_empty() {
        let path = path.display();
        return Err(Failure::Usage(format!(
            "{path} is no run folder and holds none: there is no events.jsonl in it or below it"
        )));
    }
    let mut saved: Vec<Saved> = Vec::new();
    for folder in folders {
        for one in read_run(&folder)? {
            // A copy of a run is not another trial.
            if !saved.iter().any(|known| same(known, &one)) {
                saved.push(one);
            }
        }
    }
    Ok(saved)
}

fn same(a: &Saved, b: &Saved) -> bool {
    a.run == b.run && a.head == b.head && a.experiment == b.experiment
}

fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    if folder.join("events.jsonl").is_file() {
        found.push(folder.to_owned());
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in entries(folder)? {
        if entry.is_dir() {
            find(&entry, depth - 1, found)?;
        }
    }
    Ok(())
}

/// What a folder holds, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail = |error| unreadable(folder, &error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        entries.push(entry.map_err(fail)?.path());
    }
    entries.sort();
    Ok(entries)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| unreadable(path, &error))
}

/// What was named on the command line cannot be read: nothing was written, and nothing is wrong with a cluster.
fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("cannot read {}: {error}", path.display()))
}

fn read_run(folder: &Path) -> Result<Vec<Saved>, Failure> {
    let path = folder.join("events.jsonl");
    let log = read_log(&read(&path)?).map_err(|error| Failure::Invalid(format!("{}: {error}", path.display())))?;
    Ok(Saved::of(&log.records))
}

fn read_saved(path: &Path) -> Result<Saved, Failure> {
    let invalid = |why: String| Failure::Invalid(format!("{} is no saved run: {why}", path.display()));
    let saved: Saved = serde_json::from_slice(&read(path)?).map_err(|error| invalid(error.to_string()))?;
    if saved.schema != SCHEMA {
        return Err(invalid(format!("its schema is {}, wanted {SCHEMA}", saved.schema)));
    }
    let bad = saved
        .measures
        .iter()
        .flat_map(|measure| &measure.trials)
        .any(|value| value.upper.is_some_and(|upper| upper < value.lower));
    if bad {
        return Err(invalid("an upper end is below its lower end".to_owned()));
    }
    Ok(saved)
}

/// One file per experiment of the run: `DIR/<experiment>/<run>.json`. The same run gives the same bytes again.
fn save(store: &Path, run: &Path, name: Option<&str>, streams: &mut Streams) -> Result<Exit, Failure> {
    let saved = runs(run)?;
    if saved.is_empty() {
        let run = run.display();
        return Err(Failure::Usage(format!(
            "{run} holds no experiment: there is nothing to save"
        )));
    }
    for mut one in saved {
        one.name = name.map(str::to_owned);
        let folder = store.join(file_name(&one.experiment));
        std::fs::create_dir_all(&folder).map_err(|source| FileError {
            attempted: "cannot create the folder",
            path: folder.clone(),
            source,
        })?;
        let path = folder.join(format!("{}.json", file_name(&one.run)));
        let mut text = serde_json::to_string_pretty(&one).map_err(|error| Failure::Internal(error.to_string()))?;
        text.push('\n');
        write_atomically(&path, text.as_bytes())?;
        let trials = one.measures.first().map_or(0, |measure| measure.trials.len());
        streams.say(&format!(
            "{}: {trials} trials, saved to {}",
            one.experiment,
            path.display()
        ));
    }
    Ok(Exit::Pass)
}

/// A name from a log, made harmless as part of a path.
fn file_name(name: &str) -> String {
    let safe = |letter: char| {
        if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_') {
            letter
        } else {
            '_'
        }
    };
    name.chars().map(safe).collect()
}

/// For every experiment of `new`: the saved runs of this name (or id), or else the newest ones: those that carry the name of the
/// newest, or the newest alone when it has none.
fn chosen(store: &Path, new: &[Saved], base: Option<&str>) -> Result<Vec<Saved>, Failure> {
    let mut kept = Vec::new();
    for folder in entries(store)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&folder)? {
            if path.extension().is_some_and(|end| end == "json") {
                kept.push(read_saved(&path)?);
            }
        }
    }
    if let Some(base) = base
        && !kept.iter().any(|saved| is_named(saved, base))
    {
        let store = store.display();
        return Err(Failure::Usage(format!(
            "{store} holds no run with the name or id {base}"
        )));
    }
    // A run is not its own past.
    kept.retain(|saved| !new.iter().any(|new| new.run == saved.run));
    kept.retain(|saved| new.iter().any(|new| new.experiment == saved.experiment));
    let newest = |saved: &Saved| {
        kept.iter()
            .filter(|other| other.experiment == saved.experiment)
            .max_by(|a, b| (&a.started_at, &a.run).cmp(&(&b.started_at, &b.run)))
    };
    Ok(kept
        .iter()
        .filter(|saved| match base {
            Some(base) => is_named(saved, base),
            None => newest(saved)
                .is_some_and(|newest| newest.run == saved.run || (newest.name.is_some() && newest.name == saved.name)),
        })
        .cloned()
        .collect())
}

fn is_named(saved: &Saved, name: &str) -> bool {
    saved.run == name || saved.name.as_deref() == Some(name)
}

/// `2s`, `500ms`, `10%`.
pub(super) fn parse_margin(text: &str) -> Result<Margin, String> {
    match text.trim().strip_suffix('%') {
        Some(percent) => {
            let share = number(percent)? / 100.0;
            Ok(Margin::Share(share))
        }
        None => crate::experiment::parse_duration(text).map(|margin| Margin::Seconds(margin.as_secs_f64())),
    }
}

/// `95%` or `0.95`, above 50 % and below 100 %.
pub(super) fn parse_confidence(text: &str) -> Result<f64, String> {
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => number(percent)? / 100.0,
        None => number(text)?,
    };
    if share > 0.5 && share < 1.0 {
        Ok(share)
    } else {
        Err("wanted a confidence above 50% and below 100%, such as 95%".to_owned())
    }
}

fn number(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim().parse().map_err(|_| format!("{text:?} is no number"))?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(format!("{text:?} must not be below 0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_times_or_shares() {
        assert_eq!(parse_margin("2s"), Ok(Margin::Seconds(2.0)));
        assert_eq!(parse_margin("500ms"), Ok(Margin::Seconds(0.5)));
        assert_eq!(parse_margin("10%"), Ok(Margin::Share(0.1)));
        for wrong in ["", "2", "-1s", "-5%", "nan%", "inf%", "x"] {
            assert!(parse_margin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_confidence_is_between_a_half_and_one() {
        assert_eq!(parse_confidence("95%"), Ok(0.95));
        assert_eq!(parse_confidence("0.9"), Ok(0.9));
        for wrong in ["95", "100%", "50%", "0", "", "nan"] {
            assert!(parse_confidence(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_from_a_log_cannot_leave_the_store() {
        assert_eq!(file_name("../../etc/x y"), "______etc_x_y");
    }
}
