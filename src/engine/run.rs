//! A run: several experiments, one event log, and a revert that happens whatever way an experiment ends.

use super::error::EngineError;
use super::experiment::{Body, revert};
use crate::cluster::{Cluster, Manifest};
use crate::evidence::{Event, InstrumentSummary, Step};
use crate::experiment::Experiment;
use crate::fault::Undo;
use crate::world::{Recorder, Signalled};
use tokio::sync::watch;

/// An experiment with its manifests read.
pub(crate) struct Loaded {
    /// Path of the file.
    pub(crate) file: String,
    /// The experiment.
    pub(crate) experiment: Experiment,
    /// Its setup manifests, in order.
    pub(crate) manifests: Vec<Manifest>,
}

/// What to run.
pub(crate) struct RunRequest {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) experiments: Vec<Loaded>,
    pub(crate) run: String,
    pub(crate) seed: u64,
    pub(crate) prometheus_url: Option<String>,
    pub(crate) signals: watch::Receiver<Option<Signalled>>,
    /// What the last calibration found, for the report to quote.
    pub(crate) instrument: Option<InstrumentSummary>,
}

/// How it went, as far as the log does not say it.
pub(crate) struct RunOutcome {
    /// Reverts that did not succeed.
    pub(crate) left: Vec<Undo>,
    /// Experiments that ended early: name and why.
    pub(crate) errors: Vec<(String, EngineError)>,
}

/// Runs everything. After a signal, a broken log or a lost cluster the remaining experiments are not started.
///
/// # Errors
/// Only when the log cannot be written at all.
pub(crate) async fn run(request: RunRequest) -> Result<RunOutcome, EngineError> {
    let recorder = request.recorder;
    let started_at = recorder.clock().wall();
    recorder.record(Event::RunStarted {
        id: request.run.clone(),
        seed: request.seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: request.cluster.info().clone(),
        started_at: started_at.to_string(),
    })?;
    if let Some(summary) = request.instrument {
        recorder.record(Event::InstrumentCalibrated { summary })?;
    }
    let mut errors = Vec::new();
    let mut longest = crate::experiment::default_revert();
    for (index, loaded) in request.experiments.into_iter().enumerate() {
        let name = loaded.experiment.name.clone();
        let limit = loaded.experiment.guards.revert;
        longest = if index == 0 { limit } else { longest.max(limit) };
        recorder.begin_experiment(&loaded.experiment);
        recorder.record(Event::ExperimentStarted {
            index,
            file: loaded.file,
            experiment: Box::new(loaded.experiment.clone()),
        })?;
        let body = Body {
            cluster: request.cluster.clone(),
            recorder: recorder.clone(),
            experiment: loaded.experiment,
            manifests: loaded.manifests,
            prometheus_url: request.prometheus_url.clone(),
            prometheus: None,
            signals: request.signals.clone(),
            run: request.run.clone(),
            seed: request.seed,
        };
        // A task of its own: a panic ends there, and the revert below still runs.
        let result = match tokio::spawn(body.run()).await {
            Ok(result) => result,
            Err(panic) => Err(EngineError::Internal(panic.to_string())),
        };
        let at = recorder.clock().now();
        // A broken log must not keep us from reverting.
        drop(recorder.record(Event::StepStarted {
            step: Step::Teardown,
            at,
        }));
        let left = revert(&request.cluster, &recorder, limit, |_| true).await;
        let error = result.as_ref().err().map(ToString::to_string);
        drop(recorder.record(Event::ExperimentEnded { index, error }));
        let fatal = matches!(
            result,
            Err(EngineError::Signal(_) | EngineError::Stopped(_) | EngineError::Record(_) | EngineError::Cluster(_))
        );
        if let Err(error) = result {
            errors.push((name, error));
        }
        if fatal || !left.is_empty() {
            break;
        }
    }
    let left = revert(&request.cluster, &recorder, longest, |_| true).await;
    recorder.record(Event::RunEnded {
        at: recorder.clock().now(),
        left: left.clone(),
    })?;
    Ok(RunOutcome { left, errors })
}
