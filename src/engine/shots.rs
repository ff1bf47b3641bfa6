//! The faults of one trial under way: each is fired, proven, kept up for its time, and ended, while the trial goes on.

use super::error::EngineError;
use super::experiment::revert;
use crate::evidence::Event;
use crate::fault::Undo;
use crate::inject::{GuardOwner, InjectError, Prepared, Stage};
use crate::model::Interval;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Whether every target of a fault was hit.
type Hit = Result<bool, InjectError>;

/// Faults that were fired and are not over.
pub(super) struct Shots {
    tasks: JoinSet<()>,
    fired: usize,
    hits: mpsc::UnboundedReceiver<Hit>,
    tell: mpsc::UnboundedSender<Hit>,
    stop: CancellationToken,
}

impl Shots {
    pub(super) fn new() -> Self {
        let (tell, hits) = mpsc::unbounded_channel();
        Self {
            tasks: JoinSet::new(),
            fired: 0,
            hits,
            tell,
            stop: CancellationToken::new(),
        }
    }

    /// Fires a fault; it is ended when it was kept up for its time.
    pub(super) fn fire(&mut self, stage: Stage, prepared: Prepared, guard: GuardOwner) {
        self.fired += 1;
        let (tell, stop) = (self.tell.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let (fault, duration, undo) = (
                prepared.spec.name.clone(),
                prepared.spec.duration,
                prepared.undo.clone(),
            );
            let wanted = prepared.targets.len();
            let hit = stage
                .fire(prepared, &guard)
                .await
                .map(|proven| wanted > 0 && proven == wanted);
            let all = matches!(hit, Ok(true));
            // Nobody asks any more: the trial is over.
            drop(tell.send(hit));
            let Some(duration) = duration.filter(|_| all) else {
                return;
            };
            let clock = stage.recorder.clock();
            tokio::select! {
                () = clock.sleep_until(clock.now().plus(duration)) => end(&stage, fault, &undo).await,
                () = stop.cancelled() => {}
            }
        });
    }

    /// Waits for the proofs of everything fired. True when every target of every fault was hit.
    ///
    /// # Errors
    /// When the log could not be written, or the record of a fault could not be kept.
    pub(super) async fn all_hit(&mut self) -> Result<bool, EngineError> {
        let mut all = self.fired > 0;
        // Calls in flight are never aborted: an aborted delete may still arrive. Each ends within its own limit.
        for _ in 0..self.fired {
            tokio::select! {
                biased;
                Some(hit) = self.hits.recv() => all &= hit?,
                Some(Err(error)) = self.tasks.join_next() => {
                    return Err(EngineError::Internal(format!("the injection ended unexpectedly: {error}")));
                }
            }
        }
        Ok(all)
    }

    /// No further fault is ended from here (the revert step does it); one that is being ended right now gets to its end.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn end(stage: &Stage, fault: String, undo: &[Undo]) {
    let clock = stage.recorder.clock();
    let began = clock.now();
    let left = revert(&stage.cluster, &stage.recorder, stage.revert, |open| {
        undo.contains(open)
    })
    .await;
    if !left.is_empty() {
        return;
    }
    let ended = Event::FaultEnded {
        fault,
        within: Interval::between(began, clock.now()),
    };
    if let Err(error) = stage.recorder.record(ended) {
        tracing::warn!(%error, "the end of a fault could not be logged");
    }
}
