//! What the log says of one trial besides probes and pods: its steps, its faults, its audit, its end.

use super::moment::Moment;
use crate::evidence::{AckedRange, Event, Numbers, SinkRead, Step, TrialEnd};
use crate::fault::{FaultTarget, Undo};
use crate::model::{Interval, Mono};

/// One target of a fault, and how far the fault got.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetFacts {
    /// The pod, or the container in it.
    pub target: FaultTarget,
    /// When the call was sent.
    pub requested: Option<Mono>,
    /// Error of the call. Means "unknown", not "did not happen".
    pub error: Option<String>,
    /// When it took effect, and what was seen.
    pub effect: Option<(Interval, String)>,
    /// Why no effect was seen.
    pub not_proven: Option<String>,
}

/// One armed fault.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultFacts {
    /// Name.
    pub name: String,
    /// Injector word.
    pub injector: String,
    /// Exactly these.
    pub targets: Vec<TargetFacts>,
    /// Its effect is kept up for a while.
    pub lasting: bool,
    /// Its targets are told from other pods by a mark that they got for it.
    pub marks_pods: bool,
    /// When its effect was taken back, while the trial went on.
    pub ended: Option<Interval>,
    /// Why it was not fired.
    pub skipped: Option<String>,
}

/// What was read of producer and sink after the trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// Durable at the producer.
    pub acked: Vec<AckedRange>,
    /// When the acknowledgements were read.
    pub acked_read: Interval,
    /// Reads of the sink, in order.
    pub reads: Vec<SinkRead>,
    /// The sink had caught up.
    pub drained: bool,
    /// Which records were acknowledged, when `acked` only gives the times of blocks of them.
    pub acked_ids: Option<Numbers>,
    /// Records that the producer tried to write, when its log says so.
    pub attempted: Option<Numbers>,
    /// Records acknowledged while the sink was being read; only with `attempted`.
    pub acked_later: Option<Numbers>,
}

/// What the checkpoint said of the last commit before the fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Batch.
    pub batch: u64,
    /// Commit made within.
    pub committed: Interval,
    /// Event time of the newest record that it covers.
    pub newest_record_ms: Option<i64>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrialFacts {
    /// From 1, control trials included.
    pub trial: u32,
    /// A control trial: everything but the fault.
    pub control: bool,
    /// The phase at which the fault was to come, seconds after the begin of a period.
    pub phase: Option<f64>,
    /// Steps and when they began.
    pub steps: Vec<(Step, Mono)>,
    /// Faults, in the order in which they were armed.
    pub faults: Vec<FaultFacts>,
    /// Producer and sink, read after the trial.
    pub audit: Option<Audit>,
    /// Why they could not be read.
    pub unreadable: Option<String>,
    /// The checkpoint at the fault.
    pub checkpoint: Option<Checkpoint>,
    /// Stretches in which the runner itself was late.
    pub stalls: Vec<Interval>,
    /// A signal or stop condition.
    pub stopping: Option<(String, Mono)>,
    /// API requests and largest resident memory.
    pub cost: Option<(u64, u64)>,
    /// How and when it ended; none when the log ends first.
    pub end: Option<(TrialEnd, Mono)>,
}

impl TrialFacts {
    /// When a step began.
    #[must_use]
    pub fn step(&self, step: Step) -> Option<Mono> {
        self.steps.iter().find(|(known, _)| *known == step).map(|(_, at)| *at)
    }

    /// Every target of every fault.
    pub fn targets(&self) -> impl Iterator<Item = &TargetFacts> {
        self.faults.iter().flat_map(|fault| &fault.targets)
    }

    /// When the fault took effect: the earliest proven effect of all targets.
    #[must_use]
    pub fn effect(&self) -> Option<Moment> {
        self.targets()
            .filter_map(|target| target.effect.as_ref())
            .map(|(within, _)| Moment::midpoint(*within))
            .reduce(Moment::earlier)
    }

    /// When every proven effect had surely taken place. Recovery is looked for after this.
    #[must_use]
    pub fn effective(&self) -> Option<Mono> {
        self.targets()
            .filter_map(|target| target.effect.as_ref())
            .map(|(within, _)| within.upper)
            .max()
    }

    /// The first injection call.
    #[must_use]
    pub fn requested(&self) -> Option<Mono> {
        self.targets().filter_map(|target| target.requested).min()
    }

    /// A fault whose effect is still kept up, as far as is known. Whatever is left is taken back by the revert step.
    #[must_use]
    pub fn kept_up(&self) -> Option<&FaultFacts> {
        self.faults
            .iter()
            .find(|fault| {
                fault.lasting && fault.ended.is_none() && fault.targets.iter().any(|held| held.effect.is_some())
            })
            .filter(|_| self.step(Step::Revert).is_none())
    }

    /// When the last of the lasting faults was taken back; none when there is none, or one was not.
    #[must_use]
    pub fn faults_ended(&self) -> Option<Moment> {
        let ended: Option<Vec<Interval>> = self
            .faults
            .iter()
            .filter(|fault| fault.lasting)
            .map(|fault| fault.ended)
            .collect();
        ended?.into_iter().map(Moment::midpoint).reduce(Moment::later)
    }

    /// The facts of a fault; they begin with the first word on it.
    fn fault(&mut self, name: &str) -> Option<&mut FaultFacts> {
        if !self.faults.iter().any(|known| known.name == name) {
            self.faults.push(FaultFacts {
                name: name.to_owned(),
                injector: String::new(),
                targets: Vec::new(),
                lasting: false,
                marks_pods: false,
                ended: None,
                skipped: None,
            });
        }
        self.faults.iter_mut().find(|known| known.name == name)
    }

    fn edit(&mut self, fault: &str, target: &FaultTarget, change: impl FnOnce(&mut TargetFacts)) {
        let same =
            |known: &TargetFacts| known.target.pod.uid == target.pod.uid && known.target.container == target.container;
        let Some(fault) = self.fault(fault) else {
            return;
        };
        if !fault.targets.iter().any(same) {
            fault.targets.push(TargetFacts {
                target: target.clone(),
                requested: None,
                error: None,
                effect: None,
                not_proven: None,
            });
        }
        if let Some(known) = fault.targets.iter_mut().find(|known| same(known)) {
            change(known);
        }
    }

    /// Takes an event of this trial in; events that are not about the trial itself are left alone.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::StepStarted { step, at } => self.steps.push((*step, *at)),
            Event::PhaseChosen { phase_ms, .. } => {
                self.phase = Some(std::time::Duration::from_millis(*phase_ms).as_secs_f64());
            }
            Event::FaultArmed {
                fault,
                injector,
                targets,
                lasting,
                undo,
            } => {
                for target in targets {
                    self.edit(fault, target, |_| {});
                }
                if let Some(known) = self.faults.iter_mut().find(|known| known.name == *fault) {
                    known.injector.clone_from(injector);
                    known.lasting = *lasting;
                    known.marks_pods |= undo
                        .iter()
                        .any(|undo| matches!(undo, Undo::Restore { kind, .. } if kind == "Pod"));
                }
            }
            Event::FaultSkipped { fault, why } => {
                if let Some(known) = self.fault(fault) {
                    known.skipped = Some(why.clone());
                }
            }
            Event::FaultEnded { fault, within } => {
                if let Some(known) = self.faults.iter_mut().find(|known| known.name == *fault) {
                    known.ended = Some(*within);
                }
            }
            Event::FaultRequested { fault, target, at } => {
                self.edit(fault, target, |known| known.requested = Some(*at));
            }
            Event::FaultAnswered {
                fault, target, error, ..
            } => self.edit(fault, target, |known| known.error.clone_from(error)),
            Event::FaultProven {
                fault,
                target,
                effect,
                proof,
            } => {
                self.edit(fault, target, |known| {
                    known.effect = Some((*effect, proof.clone()));
                    known.not_proven = None;
                });
            }
            Event::FaultNotProven { fault, target, why } => {
                self.edit(fault, target, |known| known.not_proven = Some(why.clone()));
            }
            Event::LedgerAudited {
                acked,
                acked_read,
                reads,
                drained,
                acked_ids,
                attempted,
                acked_later,
            } => {
                self.audit = Some(Audit {
                    acked: acked.clone(),
                    acked_read: *acked_read,
                    reads: reads.clone(),
                    drained: *drained,
                    acked_ids: acked_ids.clone(),
                    attempted: attempted.clone(),
                    acked_later: acked_later.clone(),
                });
            }
            Event::LedgerUnreadable { why } => self.unreadable = Some(why.clone()),
            Event::CheckpointSeen {
                batch,
                committed,
                newest_record_ms,
            } => {
                self.checkpoint = Some(Checkpoint {
                    batch: *batch,
                    committed: *committed,
                    newest_record_ms: *newest_record_ms,
                });
            }
            Event::RunnerStalled { from, to } => self.stalls.push(Interval::between(*from, *to)),
            Event::Stopping { why, at } => self.stopping = Some((why.clone(), *at)),
            Event::CostCounted {
                api_requests,
                max_rss_bytes,
            } => self.cost = Some((*api_requests, *max_rss_bytes)),
            Event::TrialEnded { end, at, .. } => self.end = Some((end.clone(), *at)),
            _ => {}
        }
    }
}
