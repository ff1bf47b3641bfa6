//! Records to the report.

use super::model::{
    ClaimReport, ClaimText, ClockReport, ControlOutageReport, ControlReport, Cost, Evidence, ExperimentReport,
    FaultReport, LedgerReport, MissingPhase, OverReport, PhaseReport, RpoReport, Run, RunInfo, SCHEMA, Span,
    TrialReport, Value, down, finite, nearest, up,
};
use crate::evidence::{ClusterInfo, Event, Record, TrialEnd, genesis};
use crate::experiment::{Experiment, Over};
use crate::fault::Undo;
use crate::measure::{self, ControlMeasures, LedgerCounts, TrialMeasures};
use crate::model::{Measured, Verdict};
use crate::timeline::{ClockOffset, FaultFacts, Timeline, TrialFacts};
use crate::verdict::{self, ClaimVerdict, Ending, OverTrials, QuantileBound, Rule};

/// Everything of one experiment in the log.
#[derive(Debug)]
struct Chapter {
    file: String,
    experiment: Box<Experiment>,
    timeline: Timeline,
    workload: Option<(String, bool)>,
    stopped: Option<String>,
    finished: bool,
    /// Why no further trial was begun.
    enough: Option<String>,
    /// Why it ended before its time.
    error: Option<String>,
}

/// A fold over the events of a log, in order, that keeps only what the report needs: the log may be far larger than the memory.
#[derive(Debug)]
pub struct Builder {
    info: RunInfo,
    chapters: Vec<Chapter>,
    stopped: bool,
}

/// Judges a log. A log that is empty or stops early gives a report that says so.
#[must_use]
pub fn build(records: &[Record]) -> Run {
    let mut builder = Builder::new();
    for record in records {
        builder.apply(&record.event);
    }
    let head = records.last().map_or_else(genesis, |record| record.hash.clone());
    builder.finish(head, records.len())
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Before the first event.
    #[must_use]
    pub fn new() -> Self {
        Self {
            info: RunInfo {
                id: String::new(),
                started_at: String::new(),
                seed: 0,
                version: String::new(),
                cluster: ClusterInfo {
                    kind: String::new(),
                    version: String::new(),
                },
                complete: false,
                left: Vec::new(),
                instrument: None,
                evidence: Evidence {
                    head: String::new(),
                    records: 0,
                },
            },
            chapters: Vec::new(),
            stopped: false,
        }
    }

    /// Takes the next event in.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::RunStarted {
                id,
                seed,
                version,
                cluster,
                started_at,
            } => {
                self.info.id.clone_from(id);
                self.info.seed = *seed;
                self.info.version.clone_from(version);
                self.info.cluster.clone_from(cluster);
                self.info.started_at.clone_from(started_at);
            }
            Event::ExperimentStarted { file, experiment, .. } => self.chapters.push(Chapter {
                file: file.clone(),
                timeline: Timeline::new(experiment),
                experiment: experiment.clone(),
                workload: None,
                stopped: None,
                finished: false,
                enough: None,
                error: None,
            }),
            Event::InstrumentCalibrated { summary } => self.info.instrument = Some(summary.clone()),
            Event::RunEnded { left, .. } => {
                self.info.complete = true;
                self.info.left.clone_from(left);
            }
            Event::Stopping { why, .. } => {
                self.stopped = true;
                if let Some(chapter) = self.chapters.last_mut() {
                    chapter.stopped.get_or_insert_with(|| why.clone());
                }
            }
            _ => {}
        }
        if let Some(chapter) = self.chapters.last_mut().filter(|chapter| !chapter.finished) {
            chapter.timeline.apply(event);
            match event {
                Event::WorkloadIdentified { workload, stand_in } => {
                    chapter.workload = Some((workload.clone(), *stand_in));
                }
                Event::TrialsStopped { why } => chapter.enough = Some(why.clone()),
                Event::ExperimentEnded { error, .. } => {
                    chapter.finished = true;
                    chapter.error.clone_from(error);
                }
                _ => {}
            }
        }
    }

    /// The report. `head` is the hash of the log's last line, `records` the number of its lines.
    #[must_use]
    pub fn finish(mut self, head: String, records: usize) -> Run {
        self.info.evidence = Evidence { head, records };
        self.info.left.retain(|undo| *undo != Undo::Nothing);
        let experiments: Vec<ExperimentReport> = self.chapters.iter().map(chapter).collect();
        let whole = if self.stopped {
            Verdict::Aborted
        } else if experiments.is_empty() {
            Verdict::Inconclusive
        } else {
            Verdict::Pass
        };
        Run {
            schema: SCHEMA,
            run: self.info,
            verdict: Verdict::worst(experiments.iter().map(|experiment| experiment.verdict).chain([whole])),
            experiments,
        }
    }
}

fn chapter(chapter: &Chapter) -> ExperimentReport {
    let experiment = &*chapter.experiment;
    let facts = chapter.timeline.trials();
    let mut before = None;
    let mut trials = Vec::new();
    let mut controls = Vec::new();
    let mut judged = Vec::new();
    let mut ends = Vec::new();
    for trial in facts {
        ends.push(trial.end.as_ref().map(|(end, _)| end.clone()));
        if trial.control {
            controls.push(measure::control(experiment, &chapter.timeline, trial, before));
        } else {
            let measures = measure::trial(experiment, &chapter.timeline, trial, before);
            let claims = verdict::judge(experiment, Some(&measures));
            let verdict = verdict::trial(&measures, &claims);
            trials.push(trial_report(experiment, trial, &measures, &claims, verdict));
            judged.push(claims);
        }
        if let Some(audit) = &trial.audit {
            before = Some(audit);
        }
    }
    let wanted = experiment.trials.count;
    let decided = verdict::decided(experiment, &judged, &controls).is_some();
    let enough = decided || trials.len() >= usize::try_from(wanted).unwrap_or(usize::MAX);
    if judged.is_empty() {
        judged.push(verdict::judge(experiment, None));
    }
    let claims = verdict::conclude(experiment, &judged, &controls);
    let mut notes = Vec::new();
    // A trial that ended early says so itself.
    if let Some(why) = chapter.error.as_ref().filter(|_| trials.is_empty()) {
        notes.push(why.clone());
    }
    if let Some(why) = &chapter.stopped {
        notes.push(format!("stopped: {why}"));
    }
    let run = if experiment.trials.until_decided {
        format!("{} trials were run, {wanted} at most", trials.len())
    } else {
        format!("{} of {wanted} trials were run", trials.len())
    };
    if !chapter.finished {
        notes.push("the log stops before the experiment ended".to_owned());
    } else if let Some(why) = &chapter.enough {
        notes.push(format!("{run}: {why}"));
    } else if !enough {
        notes.push(run);
    }
    let missing = usize::try_from(experiment.trials.control)
        .unwrap_or(usize::MAX)
        .saturating_sub(controls.len());
    if missing > 0 && chapter.finished && !trials.is_empty() {
        notes.push(format!(
            "{} of {} control trials were run",
            controls.len(),
            experiment.trials.control
        ));
    }
    let ending = Ending {
        finished: chapter.finished,
        stopped: chapter.stopped.is_some(),
        enough,
    };
    let (workload, stand_in) = chapter
        .workload
        .clone()
        .unwrap_or_else(|| ("not identified".to_owned(), false));
    ExperimentReport {
        name: experiment.name.clone(),
        file: chapter.file.clone(),
        verdict: verdict::experiment(&claims, &ends, ending),
        workload,
        stand_in,
        claim: ClaimText {
            text: experiment.claim.text.clone(),
            source: experiment.claim.source.clone(),
        },
        claims: claims.iter().map(claim_report).collect(),
        trials_wanted: wanted,
        trials,
        controls: controls.iter().map(control_report).collect(),
        clocks: chapter.timeline.clocks().map(clock_report).collect(),
        notes,
    }
}

fn claim_report(claim: &ClaimVerdict) -> ClaimReport {
    ClaimReport {
        name: claim.name.clone(),
        limit: claim.limit.value,
        operator: claim.limit.operator,
        unit: claim.limit.unit,
        measured: Value::of(&claim.measured),
        verdict: claim.verdict,
        why: claim.why.clone(),
        trial: claim.trial,
        over: claim.over.as_ref().map(over_report),
    }
}

fn over_report(over: &OverTrials) -> OverReport {
    let (statistic, share, confidence) = match over.over {
        Over::Max => ("max", None, None),
        Over::Share { share, confidence } => ("share", Some(share), Some(confidence)),
    };
    let (quantile_at_most, quantile_not_bounded) = match over.bound {
        Some(QuantileBound::At(value)) => (Some(up(value)), None),
        Some(QuantileBound::NotBounded { at_least }) => {
            let why = format!(
                "it falls on trials that did not recover, watched for {} s",
                down(at_least)
            );
            (None, Some(why))
        }
        Some(QuantileBound::TooFewTrials) => (None, Some(format!("{} trials are too few", over.trials))),
        None => (None, None),
    };
    OverReport {
        statistic,
        share,
        confidence,
        rule: match over.rule {
            Rule::Largest => "largest",
            Rule::Binomial => "binomial",
            Rule::EProcess => "e-process",
        },
        trials: over.trials,
        within: over.within,
        beyond: over.beyond,
        undecided: over.undecided,
        share_at_least: over.share_at_least.map(|share| (share * 1e4).floor() / 1e4),
        share_at_most: over.share_at_most.map(|share| (share * 1e4).ceil() / 1e4),
        quantile_at_most,
        quantile_not_bounded,
        more_trials: over.more_trials,
    }
}

fn clock_report((clock, offset): (&str, ClockOffset)) -> ClockReport {
    ClockReport {
        clock: clock.to_owned(),
        lower_ms: finite(down(offset.lower_ms)),
        upper_ms: finite(up(offset.upper_ms)),
        stepped: offset.stepped,
    }
}

fn control_report(control: &ControlMeasures) -> ControlReport {
    ControlReport {
        index: control.trial,
        end: ended(control.end.as_ref()),
        watched: nearest(control.watched),
        outages: control
            .outages
            .iter()
            .map(|outage| ControlOutageReport {
                probe: outage.probe.clone(),
                seconds: down(outage.seconds),
                why: outage.why.clone(),
            })
            .collect(),
        ledger: ledger_report(control.ledger.as_ref()),
    }
}

fn ended(end: Option<&TrialEnd>) -> String {
    match end {
        Some(TrialEnd::Completed) => "completed".to_owned(),
        Some(TrialEnd::Refused { why }) => format!("refused: {why}"),
        Some(TrialEnd::Aborted { why }) => format!("aborted: {why}"),
        Some(TrialEnd::Errored { why }) => format!("error: {why}"),
        None => "the log stops before the trial ended".to_owned(),
    }
}

fn trial_report(
    experiment: &Experiment,
    facts: &TrialFacts,
    measures: &TrialMeasures,
    claims: &[ClaimVerdict],
    verdict: Verdict,
) -> TrialReport {
    let from = experiment.slos.rto_from();
    let mut phases = Vec::new();
    let mut missing_phases = Vec::new();
    for phase in &measures.phases {
        match &phase.at {
            Ok(at) => phases.push(PhaseReport {
                name: phase.name,
                at: Span {
                    lower: down(at.lower),
                    upper: up(at.upper),
                    value: nearest(at.value),
                },
            }),
            Err(why) => missing_phases.push(MissingPhase {
                name: phase.name,
                why: why.to_string(),
            }),
        }
    }
    let (api_requests, max_rss_bytes) = facts.cost.unzip();
    TrialReport {
        index: facts.trial,
        verdict,
        phase: facts.phase.map(nearest),
        end: ended(measures.end.as_ref()),
        spoiled: measures.spoiled.as_ref().map(ToString::to_string),
        faults: facts.faults.iter().map(fault_report).collect(),
        rto: Value::of(measures.rto(from)),
        rto_from_fault: Value::of(&measures.rto_from_fault),
        rto_from_impact: Value::of(&measures.rto_from_impact),
        phases,
        missing_phases,
        detected: Value::of(&measures.detected),
        rpo: rpo_report(measures.ledger.as_ref()),
        ledger: ledger_report(measures.ledger.as_ref()),
        reprocessing_window: Value::of(&measures.reprocessing),
        availability: Value::of(&measures.availability),
        flaps: measures.flaps,
        relapses: measures.relapses,
        claims: claims.iter().map(claim_report).collect(),
        cost: Cost {
            api_requests,
            max_rss_bytes,
        },
        notes: measures.notes.clone(),
    }
}

fn fault_report(fault: &FaultFacts) -> FaultReport {
    let unproven = fault
        .targets
        .iter()
        .find(|target| target.effect.is_none())
        .map(|target| {
            target
                .not_proven
                .clone()
                .or_else(|| target.error.clone())
                .unwrap_or_else(|| "no effect was recorded".to_owned())
        });
    let mut proofs: Vec<String> = Vec::new();
    for target in &fault.targets {
        if let Some((_, proof)) = &target.effect
            && !proofs.contains(proof)
        {
            proofs.push(proof.clone());
        }
    }
    FaultReport {
        name: fault.name.clone(),
        injector: fault.injector.clone(),
        targets: fault
            .targets
            .iter()
            .map(|target| {
                let pod = &target.target.pod;
                match &target.target.container {
                    Some(container) => format!("{}/{}/{container}", pod.namespace, pod.name),
                    None => format!("{}/{}", pod.namespace, pod.name),
                }
            })
            .collect(),
        target_uids: fault
            .targets
            .iter()
            .map(|target| target.target.pod.uid.clone())
            .collect(),
        proof: (unproven.is_none() && !proofs.is_empty()).then(|| proofs.join("; ")),
        not_proven: unproven,
    }
}

fn rpo_report(ledger: Option<&Measured<LedgerCounts>>) -> RpoReport {
    match ledger {
        Some(Ok(counts)) => {
            let seconds = Value::of(&counts.rpo_seconds);
            RpoReport {
                records: Some(counts.lost),
                seconds: seconds.value,
                seconds_lower: seconds.lower,
                seconds_upper: seconds.upper,
                reason: seconds.reason,
            }
        }
        Some(Err(why)) => RpoReport {
            reason: Some(why.to_string()),
            ..RpoReport::default()
        },
        None => RpoReport {
            reason: Some("the experiment has no ledger".to_owned()),
            ..RpoReport::default()
        },
    }
}

fn ledger_report(ledger: Option<&Measured<LedgerCounts>>) -> LedgerReport {
    match ledger {
        Some(Ok(counts)) => LedgerReport {
            attempted: counts.attempted,
            unexpected: counts.unexpected,
            recovered: counts.recovered,
            indeterminate: counts.indeterminate,
            reordered: counts.reordered,
            produced: Some(counts.produced),
            committed: Some(counts.committed),
            lost: Some(counts.lost),
            duplicated: Some(counts.duplicated),
            late: Some(counts.late),
            pending: Some(counts.pending),
            unacknowledged: Some(counts.unacknowledged),
            during_outage: counts.during_outage.clone().ok(),
            lost_after_fault: counts.lost_after_fault,
            uncommitted_files: Some(counts.uncommitted_files),
            reason: None,
        },
        Some(Err(why)) => LedgerReport {
            reason: Some(why.to_string()),
            ..LedgerReport::default()
        },
        None => LedgerReport {
            reason: Some("the experiment has no ledger".to_owned()),
            ..LedgerReport::default()
        },
    }
}
