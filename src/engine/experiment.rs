//! One experiment: setup, trials, teardown.

use super::error::EngineError;
use super::guard::Owner;
use super::preflight::{check_namespace, check_permissions, find_target, needed_setup, title, uses_prometheus};
use super::trial::Trial;
use crate::cluster::{Cluster, Manifest, Means, undo};
use crate::evidence::{Event, Step, TrialEnd};
use crate::experiment::{Check, Experiment};
use crate::fault::Undo;
use crate::measure::{self, ControlMeasures};
use crate::model::Mono;
use crate::observe::{Observers, Wanted};
use crate::plan::{self, Planned};
use crate::prometheus::Prometheus;
use crate::timeline::{Audit, Timeline};
use crate::verdict::{self, ClaimVerdict};
use crate::world::{Recorder, Signalled};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What an experiment runs with. Owned, so that its body can run in a task of its own.
pub(crate) struct Body {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) experiment: Experiment,
    pub(crate) manifests: Vec<Manifest>,
    pub(crate) prometheus_url: Option<String>,
    /// Once it is connected.
    pub(crate) prometheus: Option<Prometheus>,
    pub(crate) signals: watch::Receiver<Option<Signalled>>,
    pub(crate) run: String,
    pub(crate) seed: u64,
}

impl Body {
    /// Runs to the end or to the first reason to stop. Reverting what is still open afterwards is the caller's.
    ///
    /// # Errors
    /// Why it stopped.
    pub(crate) async fn run(mut self) -> Result<(), EngineError> {
        check_namespace(&self.experiment)?;
        self.manifests = needed_setup(&self.cluster, &self.experiment, std::mem::take(&mut self.manifests)).await?;
        self.setup().await?;
        let clock = self.recorder.clock();
        let patience = if self.manifests.is_empty() {
            Duration::ZERO
        } else {
            self.experiment.timeouts.setup
        };
        let target = find_target(&self.cluster, clock, &self.experiment.target, patience).await?;
        check_permissions(&self.cluster, &self.experiment).await?;
        let prometheus = self.connect_prometheus().await?;
        let alive = CancellationToken::new();
        let _until_the_end = alive.clone().drop_guard();
        let lock = super::lock::acquire(self.owner(), &title(&self.experiment.target)).await?;
        let deadline = self.experiment.guards.deadline;
        tokio::spawn(lock.keep_alive(self.cluster.clone(), clock, deadline, alive));
        self.prometheus.clone_from(&prometheus);
        let mut observers = Observers::start(Wanted {
            cluster: self.cluster.clone(),
            recorder: self.recorder.clone(),
            experiment: self.experiment.clone(),
            target,
            prometheus,
        })?;
        let result = self.trials(&mut observers).await;
        observers.stop().await;
        result
    }

    fn owner(&self) -> Owner<'_> {
        Owner {
            cluster: &self.cluster,
            recorder: &self.recorder,
            namespace: &self.experiment.target.namespace,
            run: &self.run,
            experiment: &self.experiment.name,
            deadline: self.experiment.guards.deadline,
        }
    }

    async fn setup(&mut self) -> Result<(), EngineError> {
        if self.manifests.is_empty() {
            return Ok(());
        }
        self.recorder.record(Event::StepStarted {
            step: Step::Setup,
            at: self.recorder.clock().now(),
        })?;
        let keep = self.experiment.setup.keep;
        for manifest in &self.manifests {
            if let Some(signal) = *self.signals.borrow() {
                return Err(EngineError::Signal(signal));
            }
            let recorder = &self.recorder;
            let arm = |undo: Undo| {
                let undo = if keep { Undo::Nothing } else { undo };
                Ok::<(), EngineError>(recorder.record_durably(Event::ObjectArmed {
                    purpose: "setup".to_owned(),
                    undo,
                })?)
            };
            let namespace = &self.experiment.target.namespace;
            manifest
                .create(&self.cluster, namespace, &self.run, &self.experiment.name, arm)
                .await?;
        }
        Ok(())
    }

    async fn connect_prometheus(&self) -> Result<Option<Prometheus>, EngineError> {
        if !uses_prometheus(&self.experiment) {
            return Ok(None);
        }
        let url = self.experiment.prometheus_url.as_ref().or(self.prometheus_url.as_ref()).ok_or_else(|| {
            EngineError::Refused(
                "the experiment asks Prometheus, but no address is known; set prometheus.url in the file or give --prometheus URL".to_owned(),
            )
        })?;
        let prometheus = Prometheus::connect(url).await?;
        let mut interval = Duration::ZERO;
        for probe in &self.experiment.steady_state.probes {
            if let Check::Promql { query, .. } = &probe.check {
                interval = interval.max(prometheus.scrape_interval(query).await?);
            }
        }
        let limits = self.experiment.slos.rto_limits().map(|limit| limit.max);
        let limit = limits.fold(f64::INFINITY, f64::min);
        // A change is seen up to one scrape late at either end: below two intervals nothing can be said.
        if limit < interval.as_secs_f64() * 2.0 {
            return Err(EngineError::Refused(format!(
                "the limit of {limit} s cannot be measured by a Prometheus that scrapes every {} s: it must be at least twice that; use a probe that asks the service",
                interval.as_secs_f64()
            )));
        }
        Ok(Some(prometheus))
    }

    async fn trials(&mut self, observers: &mut Observers) -> Result<(), EngineError> {
        let planned = plan::schedule(&self.experiment, self.seed);
        let begun = self.recorder.clock().now();
        let mut judged = Judged::default();
        for (index, planned) in planned.iter().enumerate() {
            if index > 0 {
                if let Some(why) = self.enough(begun, &judged) {
                    self.recorder.record(Event::TrialsStopped { why })?;
                    break;
                }
                let cooldown = self.experiment.trials.cooldown;
                let mut watched = super::wait::Watched {
                    recorder: &self.recorder,
                    observers,
                    signals: &mut self.signals,
                    stoppable: false,
                };
                watched.pause(cooldown).await?;
            }
            let Planned { number, control, .. } = *planned;
            self.recorder.record(Event::TrialStarted { trial: number, control })?;
            let requests_before = self.cluster.requests();
            let setup_undos = self.recorder.open_undos();
            // From here to the settle step no early return: whatever happened is reverted first.
            let broken = self.trial(observers, *planned).break_and_watch().await;
            let at = self.recorder.clock().now();
            if let Err(error @ (EngineError::Signal(_) | EngineError::Stopped(_))) = &broken {
                self.recorder.record(Event::Stopping {
                    why: error.to_string(),
                    at,
                })?;
            }
            self.recorder.record(Event::StepStarted { step: Step::Revert, at })?;
            let limit = self.experiment.guards.revert;
            let left = revert(&self.cluster, &self.recorder, limit, |open| !setup_undos.contains(open)).await;
            if !left.is_empty() {
                tracing::warn!(
                    count = left.len(),
                    "something could not be reverted; it is tried again at the end"
                );
            }
            let result = match broken {
                Ok(()) => self.trial(observers, *planned).settle().await,
                Err(error) => Err(error),
            };
            // Who was told to stop asks nobody else.
            if result.is_ok() {
                self.compare_clocks().await?;
            }
            self.recorder.record(Event::CostCounted {
                api_requests: self.cluster.requests().saturating_sub(requests_before),
                max_rss_bytes: max_rss_bytes(),
            })?;
            self.recorder.record(Event::TrialEnded {
                trial: number,
                end: trial_end(&result),
                at: self.recorder.clock().now(),
            })?;
            result?;
            self.recorder
                .timeline(|timeline| judged.take_last(&self.experiment, timeline));
        }
        Ok(())
    }

    /// How far the clocks of others were off during the trial: what they stamped means that much less.
    async fn compare_clocks(&self) -> Result<(), EngineError> {
        let prometheus = match &self.prometheus {
            Some(prometheus) => prometheus.clock_offset().await,
            None => None,
        };
        for (clock, bounds) in [("apiserver", self.cluster.clock().take()), ("prometheus", prometheus)] {
            if let Some((lower_ms, upper_ms)) = bounds {
                self.recorder.record(Event::ClockOffset {
                    clock: clock.to_owned(),
                    lower_ms,
                    upper_ms,
                })?;
            }
        }
        Ok(())
    }

    /// Why no further trial is begun, if that is so. The log so far is judged as the report will judge it.
    fn enough(&self, begun: Mono, judged: &Judged) -> Option<String> {
        let limit = self.experiment.trials.max_time;
        if let Some(limit) = limit.filter(|limit| self.recorder.clock().now() >= begun.plus(*limit)) {
            return Some(format!("the time for trials is up ({} s)", limit.as_secs_f64()));
        }
        verdict::decided(&self.experiment, &judged.trials, &judged.controls)
    }

    fn trial<'a>(&'a mut self, observers: &'a mut Observers, planned: Planned) -> Trial<'a> {
        Trial {
            cluster: &self.cluster,
            recorder: &self.recorder,
            experiment: &self.experiment,
            observers,
            signals: &mut self.signals,
            run: &self.run,
            seed: self.seed,
            planned,
        }
    }
}

/// The trials so far, each judged when it ended: what they come to together is looked at before the next one.
#[derive(Default)]
struct Judged {
    trials: Vec<Vec<ClaimVerdict>>,
    controls: Vec<ControlMeasures>,
    before: Option<Audit>,
}

impl Judged {
    fn take_last(&mut self, experiment: &Experiment, timeline: &Timeline) {
        let Some(facts) = timeline.trials().last() else {
            return;
        };
        let before = self.before.as_ref();
        if facts.control {
            self.controls
                .push(measure::control(experiment, timeline, facts, before));
        } else {
            let measures = measure::trial(experiment, timeline, facts, before);
            self.trials.push(verdict::judge(experiment, Some(&measures)));
        }
        if let Some(audit) = &facts.audit {
            self.before = Some(audit.clone());
        }
    }
}

fn trial_end(result: &Result<(), EngineError>) -> TrialEnd {
    match result {
        Ok(()) => TrialEnd::Completed,
        Err(error) if error.is_refusal() => TrialEnd::Refused { why: error.to_string() },
        Err(error @ (EngineError::Signal(_) | EngineError::Stopped(_))) => TrialEnd::Aborted { why: error.to_string() },
        Err(error) => TrialEnd::Errored { why: error.to_string() },
    }
}

/// Reverts everything that the log says is open and `which` accepts, newest first; tries each, logs each, and returns what
/// is left.
pub(crate) async fn revert(
    cluster: &Cluster,
    recorder: &Recorder,
    limit: Duration,
    which: impl Fn(&Undo) -> bool,
) -> Vec<Undo> {
    let mut left = Vec::new();
    for open in recorder.open_undos().into_iter().filter(which) {
        let mut outcome = undo(cluster, &open, Means::within(limit)).await;
        if outcome.is_err() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            outcome = undo(cluster, &open, Means::within(limit)).await;
        }
        let error = outcome.err().map(|error| error.to_string());
        let failed = error.is_some();
        if let Err(error) = recorder.record(Event::Undone {
            undo: open.clone(),
            error,
        }) {
            // The revert itself matters more than its record.
            tracing::warn!(%error, "a revert could not be logged");
        }
        if failed {
            left.push(open);
        }
    }
    left
}

/// Largest resident memory of this process so far, from the kernel's own account; 0 where there is none.
fn max_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}
