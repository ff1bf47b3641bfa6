//! Records to the report.

use super::model::{
    ClaimReport, ClaimText, Cost, Evidence, ExperimentReport, FaultReport, LedgerReport, MissingPhase, PhaseReport,
    RpoReport, Run, RunInfo, SCHEMA, Span, TrialReport, Value,
};
use crate::evidence::{ClusterInfo, Event, Record, TrialEnd, genesis};
use crate::experiment::{Experiment, RtoStart};
use crate::fault::Undo;
use crate::measure::{self, LedgerCounts, TrialMeasures};
use crate::model::{Measured, Verdict};
use crate::timeline::{FaultFacts, Timeline, TrialFacts};
use crate::verdict::{self, ClaimVerdict};

/// Everything of one experiment in the log.
struct Chapter<'a> {
    file: &'a str,
    experiment: &'a Experiment,
    timeline: Timeline,
    workload: Option<(&'a str, bool)>,
    stopped: Option<&'a str>,
    finished: bool,
    /// Why it ended before its time.
    error: Option<&'a String>,
}

/// Judges a log. A log that is empty or stops early gives a report that says so.
#[must_use]
pub fn build(records: &[Record]) -> Run {
    let mut info = RunInfo {
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
            head: records.last().map_or_else(genesis, |record| record.hash.clone()),
            records: records.len(),
        },
    };
    let mut chapters: Vec<Chapter<'_>> = Vec::new();
    let mut stopped = false;
    for record in records {
        match &record.event {
            Event::RunStarted {
                id,
                seed,
                version,
                cluster,
                started_at,
            } => {
                info.id.clone_from(id);
                info.seed = *seed;
                info.version.clone_from(version);
                info.cluster.clone_from(cluster);
                info.started_at.clone_from(started_at);
            }
            Event::ExperimentStarted { file, experiment, .. } => chapters.push(Chapter {
                file,
                experiment,
                timeline: Timeline::new(experiment),
                workload: None,
                stopped: None,
                finished: false,
                error: None,
            }),
            Event::InstrumentCalibrated { summary } => info.instrument = Some(summary.clone()),
            Event::RunEnded { left, .. } => {
                info.complete = true;
                info.left.clone_from(left);
            }
            Event::Stopping { why, .. } => {
                stopped = true;
                if let Some(chapter) = chapters.last_mut() {
                    chapter.stopped.get_or_insert(why);
                }
            }
            _ => {}
        }
        if let Some(chapter) = chapters.last_mut().filter(|chapter| !chapter.finished) {
            chapter.timeline.apply(&record.event);
            match &record.event {
                Event::WorkloadIdentified { workload, stand_in } => {
                    chapter.workload = Some((workload, *stand_in));
                }
                Event::ExperimentEnded { error, .. } => {
                    chapter.finished = true;
                    chapter.error = error.as_ref();
                }
                _ => {}
            }
        }
    }
    let experiments: Vec<ExperimentReport> = chapters.iter().map(chapter).collect();
    let whole = if stopped {
        Verdict::Aborted
    } else if experiments.is_empty() {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    };
    info.left.retain(|undo| *undo != Undo::Nothing);
    Run {
        schema: SCHEMA,
        run: info,
        verdict: Verdict::worst(experiments.iter().map(|experiment| experiment.verdict).chain([whole])),
        experiments,
    }
}

fn chapter(chapter: &Chapter<'_>) -> ExperimentReport {
    let experiment = chapter.experiment;
    let facts = chapter.timeline.trials();
    let mut before = None;
    let mut trials = Vec::new();
    let mut judged = Vec::new();
    for trial in facts {
        let measures = measure::trial(experiment, &chapter.timeline, trial, before);
        let claims = verdict::judge(experiment, Some(&measures));
        let verdict = verdict::trial(&measures, &claims);
        trials.push(trial_report(experiment, trial, &measures, &claims, verdict));
        judged.push(claims);
        if let Some(audit) = &trial.audit {
            before = Some(audit);
        }
    }
    if judged.is_empty() {
        judged.push(verdict::judge(experiment, None));
    }
    let claims = verdict::merge(&judged);
    let verdicts: Vec<Verdict> = trials.iter().map(|trial| trial.verdict).collect();
    let wanted = experiment.trials.count;
    let mut notes = Vec::new();
    // A trial that ended early says so itself.
    if let Some(why) = chapter.error.filter(|_| trials.is_empty()) {
        notes.push(why.clone());
    }
    if let Some(why) = chapter.stopped {
        notes.push(format!("stopped: {why}"));
    }
    if !chapter.finished {
        notes.push("the log stops before the experiment ended".to_owned());
    } else if trials.len() < usize::try_from(wanted).unwrap_or(usize::MAX) {
        notes.push(format!("{} of {wanted} trials were run", trials.len()));
    }
    let (workload, stand_in) = chapter.workload.unwrap_or(("not identified", false));
    ExperimentReport {
        name: experiment.name.clone(),
        file: chapter.file.to_owned(),
        verdict: verdict::experiment(&claims, &verdicts, wanted, chapter.finished, chapter.stopped.is_some()),
        workload: workload.to_owned(),
        stand_in,
        claim: ClaimText {
            text: experiment.claim.text.clone(),
            source: experiment.claim.source.clone(),
        },
        claims: claims.iter().map(claim_report).collect(),
        trials_wanted: wanted,
        trials,
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
    }
}

fn trial_report(
    experiment: &Experiment,
    facts: &TrialFacts,
    measures: &TrialMeasures,
    claims: &[ClaimVerdict],
    verdict: Verdict,
) -> TrialReport {
    let from = experiment.slos.rto.map_or(RtoStart::Fault, |rto| rto.from);
    let mut phases = Vec::new();
    let mut missing_phases = Vec::new();
    for phase in &measures.phases {
        match &phase.at {
            Ok(at) => phases.push(PhaseReport {
                name: phase.name,
                at: Span {
                    lower: super::model::down(at.lower),
                    upper: super::model::up(at.upper),
                    value: super::model::nearest(at.value),
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
        end: match &measures.end {
            Some(TrialEnd::Completed) => "completed".to_owned(),
            Some(TrialEnd::Refused { why }) => format!("refused: {why}"),
            Some(TrialEnd::Aborted { why }) => format!("aborted: {why}"),
            Some(TrialEnd::Errored { why }) => format!("error: {why}"),
            None => "the log stops before the trial ended".to_owned(),
        },
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
