//! `run`: the main job.

use super::arguments::{Format, Global, RunArguments};
use super::cluster::{Connected, override_with};
use super::exit::{Exit, Failure, engine_exit};
use super::folder::{JSON, LOG, TABLE, judge};
use super::live::Live;
use super::load;
use super::streams::Streams;
use crate::calibration::{self, Calibration};
use crate::engine::{self, EngineError, Loaded, RunOutcome, RunRequest};
use crate::evidence::{Checked, InstrumentSummary, Record, read_log};
use crate::fault::Undo;
use crate::model::RESTORE_ANNOTATION;
use crate::report;
use crate::world::{Clock, FileError, Recorder, listen, write_atomically};
use std::path::{Path, PathBuf};

/// Runs experiments and writes the run folder.
pub(super) async fn run(global: Global, arguments: RunArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let mut experiments: Vec<Loaded> = Vec::new();
    for from in load::experiments(&arguments.paths, &arguments.variables, streams)? {
        let mut loaded = load::with_manifests(from)?;
        override_with(&mut loaded.experiment, &global, arguments.trials);
        experiments.push(loaded);
    }
    let instrument = instrument(arguments.calibration.as_deref(), &arguments.out, streams)?;
    // From here on a signal must lead to an orderly end: a booted lab, a fault, a setup manifest.
    let signals =
        listen().map_err(|error| Failure::Internal(format!("cannot install the signal handlers: {error}")))?;
    let clock = Clock::start();
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let run = run_id(clock, seed);
    let folder = create_folder(&arguments.out, &run)?;
    let recorder = Recorder::create(&folder.join(LOG), clock)?;
    let connected = match Connected::open(&global, streams).await {
        Ok(connected) => connected,
        Err(failure) => {
            // Nothing was recorded: an empty run folder would only mislead.
            drop(std::fs::remove_dir_all(&folder));
            return Err(failure);
        }
    };
    let prometheus_url = connected.prometheus_url(arguments.prometheus.clone()).await;
    streams.note(&format!(
        "chaosrun {} against {} {}, seed {seed}, run {run}",
        env!("CARGO_PKG_VERSION"),
        connected.cluster.info().kind,
        connected.cluster.info().version
    ));
    let live = Live::start(&recorder, streams.err_is_terminal());
    let outcome = engine::run(RunRequest {
        cluster: connected.cluster.clone(),
        recorder: recorder.clone(),
        experiments,
        run: run.clone(),
        seed,
        prometheus_url,
        signals,
        instrument,
    })
    .await;
    live.finish().await;
    let exit = match outcome {
        Ok(outcome) => conclude(&outcome, &folder, arguments.format, streams),
        Err(error) => Err(error.into()),
    };
    let closed = connected.close(streams).await;
    let exit = exit?;
    closed?;
    Ok(exit)
}

/// What the calibration file says in short: the given one, else `calibration.json` beside the run folders, if it is there.
fn instrument(given: Option<&Path>, out: &Path, streams: &mut Streams) -> Result<Option<InstrumentSummary>, Failure> {
    let path = given.map_or_else(|| out.join("calibration.json"), Path::to_owned);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if given.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::Usage(format!(
                "cannot read the calibration {}: {error}",
                path.display()
            )));
        }
    };
    match serde_json::from_str::<Calibration>(&text) {
        Ok(calibration) if calibration.schema == calibration::SCHEMA => Ok(Some(calibration.quote())),
        read => {
            let why = read.map_or_else(
                |error| error.to_string(),
                |other| format!("its schema is {}", other.schema),
            );
            let problem = format!("{} is no calibration of this version: {why}", path.display());
            if given.is_some() {
                return Err(Failure::Usage(problem));
            }
            streams.note(&format!("{problem}; the report does not quote it"));
            Ok(None)
        }
    }
}

/// Report, table, exit code.
fn conclude(outcome: &RunOutcome, folder: &Path, format: Format, streams: &mut Streams) -> Result<Exit, Failure> {
    let verdict = write_and_show(folder, format, streams)?;
    let mut exits = vec![Exit::from(verdict)];
    for (name, error) in &outcome.errors {
        streams.note(&format!("chaosrun: {name}: {error}"));
        if let Some(hint) = error.hint() {
            streams.note(&format!("  hint: {hint}"));
        }
        exits.push(engine_exit(error));
    }
    // A signal or a stop condition is the reason for "aborted", not a second finding.
    if outcome
        .errors
        .iter()
        .any(|(_, error)| matches!(error, EngineError::Signal(_)))
    {
        exits.retain(|exit| *exit != Exit::Aborted);
    }
    if !outcome.left.is_empty() {
        exits.push(Exit::NotReverted);
        streams.note("chaosrun: could not be reverted and is still in the cluster:");
        for undo in &outcome.left {
            streams.note(&format!("  {}", describe(undo)));
        }
        streams.note("  hint: `chaosrun clean` tries again, from any machine");
    }
    Ok(Exit::first_of(&exits))
}

/// Renders everything from the event log alone, as `report` does later.
pub(super) fn write_and_show(
    folder: &Path,
    format: Format,
    streams: &mut Streams,
) -> Result<crate::model::Verdict, Failure> {
    let (run, checked) = write_report(folder)?;
    match format {
        Format::Table => {
            let shown = folder.display().to_string();
            streams.say(report::table(&run, streams.color(), &shown).trim_end());
        }
        Format::Json => streams.say(report::json(&run).trim_end()),
    }
    // Whoever notes it can later show that log and report were not rewritten together.
    streams.note(&format!(
        "evidence: {} events, head {} (`chaosrun verify --head` compares)",
        checked.records, checked.head
    ));
    Ok(run.verdict)
}

/// The records of a run folder.
pub(super) fn read_records(folder: &Path) -> Result<Vec<Record>, Failure> {
    let path = folder.join(LOG);
    let bytes = std::fs::read(&path).map_err(|source| FileError {
        attempted: "cannot read",
        path: path.clone(),
        source,
    })?;
    let log = read_log(&bytes).map_err(|error| Failure::Invalid(format!("{}: {error}", path.display())))?;
    Ok(log.records)
}

/// Writes the report of a run folder, from its log alone.
pub(super) fn write_report(folder: &Path) -> Result<(report::Run, Checked), Failure> {
    let (run, checked) = judge(&folder.join(LOG))?;
    write_atomically(&folder.join(JSON), report::json(&run).as_bytes())?;
    let shown = folder.display().to_string();
    write_atomically(&folder.join(TABLE), report::table(&run, false, &shown).as_bytes())?;
    Ok((run, checked))
}

pub(super) fn describe(undo: &Undo) -> String {
    match undo {
        Undo::Nothing => "nothing".to_owned(),
        Undo::DeleteObject {
            kind,
            namespace: Some(namespace),
            name,
            plural,
            ..
        } => {
            format!("{kind} {namespace}/{name}    (kubectl -n {namespace} delete {plural} {name})")
        }
        Undo::DeleteObject {
            kind,
            namespace: None,
            name,
            plural,
            ..
        } => {
            format!("{kind} {name}    (kubectl delete {plural} {name})")
        }
        Undo::Restore {
            kind,
            namespace,
            name,
            plural,
            ..
        } => {
            let title = match namespace {
                Some(namespace) => format!("{kind} {namespace}/{name}"),
                None => format!("{kind} {name}"),
            };
            let place = namespace
                .as_ref()
                .map_or(String::new(), |namespace| format!(" -n {namespace}"));
            format!(
                "{title}, which a fault changed    (what it was stands in its annotation {RESTORE_ANNOTATION}: kubectl{place} get \
                 {plural} {name} -o yaml)"
            )
        }
        Undo::Recreate { object, plural } => {
            let text = |pointer: &str| {
                object
                    .pointer(pointer)
                    .and_then(|held| held.as_str())
                    .unwrap_or_default()
            };
            format!(
                "{} {}/{}, which a fault deleted    (kubectl -n {} get {plural} {} tells whether it is back)",
                text("/kind"),
                text("/metadata/namespace"),
                text("/metadata/name"),
                text("/metadata/namespace"),
                text("/metadata/name"),
            )
        }
        Undo::Inside {
            pod, container, token, ..
        } => format!(
            "what fault {token} started in container {container} of pod {}/{}    (kubectl -n {} delete pod {} ends it)",
            pod.namespace, pod.name, pod.namespace, pod.name
        ),
        Undo::Record { namespace, name, undos } => {
            let parts: Vec<String> = undos.iter().map(describe).collect();
            format!(
                "record ConfigMap {namespace}/{name}: {}    (kubectl -n {namespace} get configmap {name} -o yaml)",
                parts.join("; ")
            )
        }
    }
}

fn create_folder(out: &Path, run: &str) -> Result<PathBuf, Failure> {
    let folder = out.join(run);
    std::fs::create_dir_all(&folder).map_err(|source| {
        Failure::File(FileError {
            attempted: "cannot create the folder",
            path: folder.clone(),
            source,
        })
    })?;
    Ok(folder)
}

/// A seed that fits every JSON reader.
pub(super) fn fresh_seed() -> u64 {
    u64::from(uuid::Uuid::new_v4().as_fields().0)
}

/// Sorts by time, and is a valid label value and object name.
pub(super) fn run_id(clock: Clock, seed: u64) -> String {
    let unique = uuid::Uuid::new_v4().as_fields().1;
    format!(
        "{}-{:04x}",
        clock.wall().strftime("%Y%m%d-%H%M%S"),
        unique ^ u16::try_from(seed & 0xffff).unwrap_or(0)
    )
}
