//! One trial: baseline -> arm -> inject -> observe -> revert -> settle.

use super::error::EngineError;
use super::guard::{self, Guard, Owner};
use super::preflight::title;
use super::shots::Shots;
use super::wait::Watched;
use crate::cluster::Cluster;
use crate::evidence::{Event, Step};
use crate::experiment::{Experiment, Workload};
use crate::fault::Undo;
use crate::inject::{GuardOwner, Prepared, Stage};
use crate::ledger;
use crate::model::{Interval, Mono, PodFacts};
use crate::observe::{LivePod, Observers, RevisionClock, own_kind, warnings};
use crate::plan::{Candidate, Planned};
use crate::world::{Recorder, Signalled};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long choosing the targets and arming the guard may take.
const LEAD: Duration = Duration::from_secs(1);

/// What a trial works with.
pub(crate) struct Trial<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) recorder: &'a Recorder,
    pub(crate) experiment: &'a Experiment,
    pub(crate) observers: &'a mut Observers,
    pub(crate) signals: &'a mut watch::Receiver<Option<Signalled>>,
    pub(crate) run: &'a str,
    pub(crate) seed: u64,
    pub(crate) planned: Planned,
}

impl Trial<'_> {
    fn step(&self, step: Step) -> Result<(), EngineError> {
        Ok(self.recorder.record(Event::StepStarted {
            step,
            at: self.recorder.clock().now(),
        })?)
    }

    fn watched(&mut self, stoppable: bool) -> Watched<'_> {
        Watched {
            recorder: self.recorder,
            observers: self.observers,
            signals: self.signals,
            stoppable,
        }
    }

    /// Baseline to observe. The revert is the caller's, whatever way this ends.
    ///
    /// # Errors
    /// Every way of ending before the observation is complete.
    pub(crate) async fn break_and_watch(&mut self) -> Result<(), EngineError> {
        self.baseline().await?;
        // Before it is broken: afterwards there may be nobody left to ask.
        self.identify()?;
        let due = self.phase().await?;
        if self.planned.control {
            return self.watch_unharmed().await;
        }
        let prepared = self.prepare().await?;
        let ticks = CancellationToken::new();
        let _stop_ticks = ticks.clone().drop_guard();
        let (clock_task, guard) = self.arm(&prepared, &ticks).await?;
        let mut shots = Shots::new();
        if let Some(due) = due {
            self.watched(false).until(due, |_, _| None::<()>).await?;
        }
        let watched = self.inject_and_observe(prepared, &guard, &mut shots).await;
        // What still lasts is taken back by the revert step, not by two at once.
        shots.stop().await;
        watched?;
        ticks.cancel();
        // The journal is about to be deleted: the last tick must be over.
        drop(clock_task.await);
        Ok(())
    }

    async fn baseline(&mut self) -> Result<(), EngineError> {
        self.step(Step::Baseline)?;
        let patience = self.experiment.timeouts.baseline;
        let deadline = self.recorder.clock().now().plus(patience);
        let steady = self
            .watched(false)
            .until(deadline, |timeline, now| timeline.steady(now).ok())
            .await?;
        if steady.is_some() {
            return Ok(());
        }
        let now = self.recorder.clock().now();
        let why = self
            .recorder
            .timeline(|timeline| timeline.steady(now).err())
            .flatten()
            .unwrap_or_default();
        let nobody = !self.observers.pods().present().iter().any(|pod| pod.facts.member);
        let nobody = if nobody {
            format!(" (no pod matches the target's selector {})", self.observers.selector())
        } else {
            String::new()
        };
        let complaints = warnings(self.cluster, &self.experiment.target.namespace).await;
        let complaints = if complaints.is_empty() {
            String::new()
        } else {
            format!(". The cluster complains: {}", complaints.join("; "))
        };
        Err(EngineError::Refused(format!(
            "the steady state did not hold within {} s, so nothing was broken{nobody}: {}{complaints}",
            patience.as_secs(),
            why.join("; ")
        )))
    }

    /// Chooses the instant of the injection by its phase, and waits until shortly before it: choosing the targets and arming the
    /// guard take a moment, and must not be old when the fault comes.
    async fn phase(&mut self) -> Result<Option<Mono>, EngineError> {
        let Some(phase) = self.planned.phase else {
            return Ok(None);
        };
        let clock = self.recorder.clock();
        let lead = clock.now().plus(LEAD);
        let (since, batch) = if self.experiment.ledger.is_some() {
            // A commit that is too old for this phase: the next one, then.
            let deadline = clock.now().plus(self.experiment.timeouts.baseline);
            let seen = self
                .watched(false)
                .until(deadline, |timeline, now| {
                    let (batch, made) = timeline.last_commit(now)?;
                    (made.upper.plus(phase) >= lead).then_some((made, batch))
                })
                .await?;
            let Some((made, batch)) = seen else {
                return Err(EngineError::Refused(format!(
                    "no commit of the ledger was seen within {} s, from which the phase of the injection could be counted (trials.phase)",
                    self.experiment.timeouts.baseline.as_secs()
                )));
            };
            (made, Some(batch))
        } else {
            (Interval::exact(clock.now()), None)
        };
        self.recorder.record(Event::PhaseChosen {
            phase_ms: u64::try_from(phase.as_millis()).unwrap_or(u64::MAX),
            since,
            batch,
        })?;
        let due = since.upper.plus(phase);
        self.watched(false).until(due.minus(LEAD), |_, _| None::<()>).await?;
        Ok(Some(due))
    }

    /// A control trial: for as long as the limit of the recovery time the system is only watched.
    async fn watch_unharmed(&mut self) -> Result<(), EngineError> {
        self.step(Step::Observe)?;
        let limits = self.experiment.slos.rto_limits().map(|limit| limit.max);
        let limit = limits.fold(0.0, f64::max);
        let limit = Duration::try_from_secs_f64(limit).unwrap_or_default();
        let recovery = self.experiment.timeouts.recovery;
        let span = if limit.is_zero() { recovery } else { limit.min(recovery) };
        self.watched(true).pause(span).await
    }

    /// Says what really runs, from the pods themselves.
    fn identify(&self) -> Result<(), EngineError> {
        let pods = self.observers.pods().present();
        let members: Vec<&LivePod> = pods.iter().filter(|pod| pod.facts.member).collect();
        let images: std::collections::BTreeSet<&str> = members
            .iter()
            .flat_map(|pod| pod.template.images.iter().map(String::as_str))
            .collect();
        let stand_in = images.iter().any(|image| image.contains("chaosrun/pipeline"));
        let spark_version = members.iter().find_map(|pod| pod.template.labels.get("spark-version"));
        let workload = match (&self.experiment.target.workload, stand_in, spark_version) {
            (Workload::SparkApplication { .. }, true, _) => "built-in pipeline".to_owned(),
            (Workload::SparkApplication { .. }, false, Some(version)) => {
                format!("apache-spark {version}")
            }
            _ => {
                let images: Vec<&str> = images.into_iter().collect();
                format!("{} ({})", title(&self.experiment.target), images.join(", "))
            }
        };
        self.recorder.record(Event::WorkloadIdentified { workload, stand_in })?;
        Ok(())
    }

    fn stage(&self) -> Stage {
        Stage {
            cluster: self.cluster.clone(),
            recorder: self.recorder.clone(),
            pods: self.observers.pods().clone(),
            namespace: self.experiment.target.namespace.clone(),
            own: own_kind(&self.experiment.target),
            run: self.run.to_owned(),
            experiment: self.experiment.name.clone(),
            trial: self.planned.number,
            revert: self.experiment.guards.revert,
            tools_image: self.experiment.tools_image.clone(),
            litmus_account: self.experiment.litmus_account.clone(),
        }
    }

    /// The exact targets of every fault, and how each is taken back: decided before anything is armed.
    async fn prepare(&self) -> Result<Vec<Prepared>, EngineError> {
        let stage = self.stage();
        let mut prepared = Vec::new();
        for index in 0..self.experiment.faults.len() {
            prepared.push(self.prepare_one(&stage, index).await?);
        }
        Ok(prepared)
    }

    async fn prepare_one(&self, stage: &Stage, index: usize) -> Result<Prepared, EngineError> {
        let Some(fault) = self.experiment.faults.get(index) else {
            return Err(EngineError::Internal(format!("there is no fault number {index}")));
        };
        let candidates = candidates(&self.observers.pods().present());
        let targets = stage
            .choose(fault, &self.experiment.guards, &candidates, self.seed)
            .await?;
        Ok(stage.prepare(index, fault, targets).await?)
    }

    async fn arm(
        &mut self,
        prepared: &[Prepared],
        ticks: &CancellationToken,
    ) -> Result<(tokio::task::JoinHandle<()>, GuardOwner), EngineError> {
        self.step(Step::Arm)?;
        let faults = prepared
            .iter()
            .map(|held| serde_json::json!({"fault": held.spec, "targets": held.targets}))
            .collect();
        let undos: Vec<Undo> = prepared.iter().flat_map(|held| held.undo.clone()).collect();
        let owner = Owner {
            cluster: self.cluster,
            recorder: self.recorder,
            namespace: &self.experiment.target.namespace,
            run: self.run,
            experiment: &self.experiment.name,
            deadline: self.experiment.guards.deadline,
        };
        let guard = guard::arm(owner, self.planned.number, &faults, &undos).await?;
        let renewed = guard.clone().keep_alive(
            self.cluster.clone(),
            self.recorder.clock(),
            owner.deadline,
            ticks.clone(),
        );
        tokio::spawn(renewed);
        let Guard { namespace, name, uid } = guard;
        let clock = RevisionClock {
            cluster: self.cluster.clone(),
            recorder: self.recorder.clone(),
            namespace,
            name: name.clone(),
        };
        let task = tokio::spawn(clock.run(ticks.clone()));
        // A first tick before the fault, so that its effect has a lower bound.
        self.watched(false).pause(Duration::from_millis(300)).await?;
        Ok((task, GuardOwner { name, uid }))
    }

    /// Fires each fault at its offset; when every effect was proven, watches until service is back.
    async fn inject_and_observe(
        &mut self,
        mut prepared: Vec<Prepared>,
        guard: &GuardOwner,
        shots: &mut Shots,
    ) -> Result<(), EngineError> {
        self.step(Step::Inject)?;
        let started = self.recorder.clock().now();
        let stage = self.stage();
        let mut undos: Vec<Undo> = prepared.iter().flat_map(|held| held.undo.clone()).collect();
        let mut all_fired = true;
        prepared.sort_by_key(|held| held.spec.after);
        for held in prepared {
            let due = started.plus(held.spec.after);
            self.watched(true).until(due, |_, _| None::<()>).await?;
            let held = if held.spec.after.is_zero() {
                held
            } else {
                // The pods are not the same as when the trial began.
                match self.prepare_one(&stage, held.index).await {
                    Ok(again) => {
                        undos.extend(again.undo.clone());
                        let namespace = &self.experiment.target.namespace;
                        guard::note_undos(self.cluster, namespace, &guard.name, &undos).await?;
                        again
                    }
                    Err(EngineError::Refused(why)) => {
                        let fault = held.spec.name;
                        self.recorder.record(Event::FaultSkipped { fault, why })?;
                        all_fired = false;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            };
            shots.fire(stage.clone(), held, guard.clone());
        }
        if shots.all_hit().await? && all_fired {
            self.step(Step::Observe)?;
            let deadline = self.recorder.clock().now().plus(self.experiment.timeouts.recovery);
            self.watched(true)
                .until(deadline, crate::timeline::Timeline::recovered)
                .await?;
        }
        Ok(())
    }

    /// Watches on for a while, then audits the ledger.
    ///
    /// # Errors
    /// A signal, a failed observer or a broken log.
    pub(crate) async fn settle(&mut self) -> Result<(), EngineError> {
        self.step(Step::Settle)?;
        let span = self.experiment.timeouts.settle;
        self.watched(true).pause(span).await?;
        if let Some(ledger) = &self.experiment.ledger {
            let cancel = CancellationToken::new();
            let pods = self.observers.pods().clone();
            let mut signals = self.signals.clone();
            let audit = ledger::audit(self.cluster, self.recorder, &pods, ledger, &cancel);
            let mut audit = std::pin::pin!(audit);
            let event = tokio::select! {
                event = &mut audit => event,
                _ = signals.changed() => {
                    cancel.cancel();
                    audit.await
                }
            };
            self.recorder.record(event)?;
        }
        Ok(())
    }
}

/// Serving members of the target.
pub(crate) fn candidates(pods: &[LivePod]) -> Vec<Candidate> {
    pods.iter()
        .filter(|pod| pod.facts.member && pod.serves())
        .map(candidate)
        .collect()
}

fn candidate(pod: &LivePod) -> Candidate {
    let id = |facts: &PodFacts, name: &str| {
        facts
            .containers
            .iter()
            .find(|held| held.name == name)
            .map(|held| held.container_id.clone())
            .unwrap_or_default()
    };
    Candidate {
        pod: pod.facts.pod.clone(),
        role: pod.facts.role.clone(),
        labels: pod.template.labels.clone(),
        containers: pod
            .template
            .containers
            .iter()
            .map(|name| (name.clone(), id(&pod.facts, name)))
            .collect(),
        node: pod.facts.node.clone(),
    }
}

/// Who could be hit right now, by one LIST, for `plan`. `None` when the target does not exist.
///
/// # Errors
/// When the cluster cannot be asked.
pub(crate) async fn snapshot_candidates(
    cluster: &Cluster,
    target: &crate::experiment::Target,
) -> Result<Option<Vec<Candidate>>, crate::cluster::ClusterError> {
    let Some(found) = crate::observe::resolve(cluster, target).await? else {
        return Ok(None);
    };
    let pods = crate::observe::list_members(cluster, found).await?;
    Ok(Some(candidates(&pods)))
}
