//! One trial: baseline -> arm -> inject -> observe -> revert -> settle.

use super::error::EngineError;
use super::guard::{self, GuardRequest};
use super::preflight::title;
use super::wait::Watched;
use crate::cluster::Cluster;
use crate::evidence::{Event, Step};
use crate::experiment::{Experiment, Workload};
use crate::fault::{FaultSpec, FaultTarget, Undo};
use crate::inject::Direct;
use crate::ledger;
use crate::model::PodFacts;
use crate::observe::{LivePod, Observers, RevisionClock, warnings};
use crate::plan::{Candidate, select};
use crate::world::{Recorder, Signalled};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a trial works with.
pub(crate) struct Trial<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) recorder: &'a Recorder,
    pub(crate) experiment: &'a Experiment,
    pub(crate) observers: &'a mut Observers,
    pub(crate) signals: &'a mut watch::Receiver<Option<Signalled>>,
    pub(crate) run: &'a str,
    pub(crate) seed: u64,
    pub(crate) number: u32,
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
        let chosen = self.choose()?;
        let ticks = CancellationToken::new();
        let _stop_ticks = ticks.clone().drop_guard();
        let clock_task = self.arm(&chosen, &ticks).await?;
        let proven = self.inject(chosen).await?;
        if proven {
            self.step(Step::Observe)?;
            let deadline = self.recorder.clock().now().plus(self.experiment.timeouts.recovery);
            self.watched(true)
                .until(deadline, crate::timeline::Timeline::recovered)
                .await?;
        }
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

    /// Says what really runs, from the pods themselves.
    fn identify(&self) -> Result<(), EngineError> {
        let pods = self.observers.pods().present();
        let members: Vec<&LivePod> = pods.iter().filter(|pod| pod.facts.member).collect();
        let images: std::collections::BTreeSet<&str> = members
            .iter()
            .flat_map(|pod| pod.images.iter().map(String::as_str))
            .collect();
        let stand_in = images.iter().any(|image| image.contains("chaosrun/pipeline"));
        let spark_version = members.iter().find_map(|pod| pod.labels.get("spark-version"));
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

    /// The exact pods for every fault, decided before anything is armed.
    fn choose(&self) -> Result<Vec<(FaultSpec, Vec<FaultTarget>)>, EngineError> {
        let candidates = candidates(&self.observers.pods().present());
        self.experiment
            .faults
            .iter()
            .map(|fault| {
                select(fault, &self.experiment.guards, &candidates, self.seed, self.number)
                    .map(|targets| (fault.clone(), targets))
                    .map_err(|refusal| EngineError::Refused(refusal.to_string()))
            })
            .collect()
    }

    async fn arm(
        &mut self,
        chosen: &[(FaultSpec, Vec<FaultTarget>)],
        ticks: &CancellationToken,
    ) -> Result<tokio::task::JoinHandle<()>, EngineError> {
        self.step(Step::Arm)?;
        let faults = chosen
            .iter()
            .map(|(spec, targets)| serde_json::json!({"fault": spec, "targets": targets}))
            .collect();
        let guard = guard::arm(GuardRequest {
            cluster: self.cluster,
            recorder: self.recorder,
            namespace: &self.experiment.target.namespace,
            run: self.run,
            experiment: &self.experiment.name,
            trial: self.number,
            deadline: self.experiment.guards.deadline,
            faults,
        })
        .await?;
        let clock = RevisionClock {
            cluster: self.cluster.clone(),
            recorder: self.recorder.clone(),
            namespace: guard.namespace,
            name: guard.name,
        };
        let task = tokio::spawn(clock.run(ticks.clone()));
        // A first tick before the fault, so that its effect has a lower bound.
        self.watched(false).pause(Duration::from_millis(300)).await?;
        Ok(task)
    }

    /// Fires each fault at its offset. True when every effect was proven.
    async fn inject(&mut self, chosen: Vec<(FaultSpec, Vec<FaultTarget>)>) -> Result<bool, EngineError> {
        self.step(Step::Inject)?;
        let started = self.recorder.clock().now();
        let injector = Direct {
            cluster: self.cluster.clone(),
            recorder: self.recorder.clone(),
            pods: self.observers.pods().clone(),
        };
        let mut in_order = chosen;
        in_order.sort_by_key(|(spec, _)| spec.after);
        let mut shots = tokio::task::JoinSet::new();
        let mut wanted = 0;
        for (spec, targets) in in_order {
            let due = started.plus(spec.after);
            self.watched(true).until(due, |_, _| None::<()>).await?;
            wanted += targets.len();
            let armed = self.recorder.arm(spec, targets, vec![Undo::Nothing])?;
            let injector = injector.clone();
            shots.spawn(async move { injector.fire(armed).await });
        }
        let mut proven = 0;
        // Calls in flight are never aborted: an aborted delete may still arrive. Each ends within its own limit.
        while let Some(shot) = shots.join_next().await {
            proven +=
                shot.map_err(|error| EngineError::Internal(format!("the injection ended unexpectedly: {error}")))??;
        }
        Ok(wanted > 0 && proven == wanted)
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
        labels: pod.labels.clone(),
        containers: pod
            .containers
            .iter()
            .map(|name| (name.clone(), id(&pod.facts, name)))
            .collect(),
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
