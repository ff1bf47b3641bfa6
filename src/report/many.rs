//! Many trials in few lines: what is claimed of all of them, how their values lie, and the ones that stand out.

use super::model::{ClaimReport, ExperimentReport, TrialReport};
use super::table::{labelled, line, measured};
use super::text::wrap;
use crate::model::Verdict;
use crate::verdict::{count, decimals, fixed};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Padding, Style};

/// Most trials that are named one by one.
const NAMED: usize = 10;

/// The measured value of a claim, and the bound on its quantile where there is one.
pub(super) fn with_bound(claim: &ClaimReport, measured: String) -> String {
    let Some(over) = &claim.over else { return measured };
    match over.quantile_at_most {
        Some(most) if claim.unit == "s" => format!("{measured}, p{} at most {} s", percent(over.share), fixed(most, 2)),
        Some(most) => format!("{measured}, at most {}", count(most)),
        None => measured,
    }
}

fn percent(share: Option<f64>) -> String {
    count(share.unwrap_or_default() * 100.0)
}

/// How the trials went.
pub(super) fn trials(text: &mut String, experiment: &ExperimentReport) {
    line(
        text,
        &format!(
            "Recovery in {} trials, seconds after the fault took effect:",
            experiment.trials.len()
        ),
    );
    line(text, &distribution(&experiment.trials));
    for trial in standing_out(experiment) {
        line(text, &wrap(&about(trial, experiment), 80, 4));
    }
    ledger(text, experiment);
    if let Some(worst) = of(&experiment.trials, |trial| trial.reprocessing_window.value).last() {
        labelled(
            text,
            "Replay",
            &format!("the last commit was at most {worst:.1} s old at the fault (repeated work, not loss)"),
        );
    }
    let mut notes: Vec<(&String, u32, usize)> = Vec::new();
    for trial in &experiment.trials {
        for note in &trial.notes {
            match notes.iter_mut().find(|(known, ..)| *known == note) {
                Some((.., times)) => *times += 1,
                None => notes.push((note, trial.index, 1)),
            }
        }
    }
    for (note, first, times) in notes.iter().take(NAMED) {
        let trials = if *times == 1 {
            format!("trial {first}")
        } else {
            format!("{times} trials, first in trial {first}")
        };
        labelled(text, "Note", &format!("{note} ({trials})"));
    }
}

/// The trials without the fault.
pub(super) fn controls(text: &mut String, experiment: &ExperimentReport) {
    let controls = &experiment.controls;
    if controls.is_empty() {
        return;
    }
    let watched: f64 = controls.iter().map(|control| control.watched).sum();
    let outages: Vec<String> = controls
        .iter()
        .flat_map(|control| control.outages.iter().map(move |outage| (control.index, outage)))
        .map(|(index, outage)| {
            format!(
                "{} was bad for {:.1} s in trial {index} ({})",
                outage.probe, outage.seconds, outage.why
            )
        })
        .collect();
    let said = if outages.is_empty() {
        "no outage".to_owned()
    } else {
        outages.join("; ")
    };
    let trials = if controls.len() == 1 { "trial" } else { "trials" };
    labelled(
        text,
        "Controls",
        &format!(
            "{} {trials} without the fault, watched for {watched:.0} s in all: {said}",
            controls.len()
        ),
    );
}

/// Sorted values of all trials that have one.
fn of(trials: &[TrialReport], value: impl Fn(&TrialReport) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = trials.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn distribution(trials: &[TrialReport]) -> String {
    let mut builder = Builder::default();
    builder.push_record(["", "smallest", "median", "largest", "not recovered", "not known"]);
    let values = of(trials, |trial| trial.rto.value);
    let width = trials
        .iter()
        .filter_map(|trial| Some(trial.rto.upper? - trial.rto.lower?))
        .fold(0.0, f64::max);
    let shown = |place: Option<&f64>| place.map_or("-".to_owned(), |value| fixed(*value, decimals(width)));
    let lost = trials
        .iter()
        .filter(|trial| trial.rto.value.is_none() && trial.rto.lower.is_some())
        .count();
    builder.push_record([
        "rto".to_owned(),
        shown(values.first()),
        // The lower of the two in the middle: a value that was measured, not one in between.
        shown(values.get(values.len().saturating_sub(1) / 2)),
        shown(values.last()),
        lost.to_string(),
        (trials.len() - values.len() - lost).to_string(),
    ]);
    let mut table = builder.build();
    table
        .with(Style::empty())
        .with(Padding::new(2, 1, 0, 0))
        .with(Modify::new(Columns::new(1..)).with(Alignment::right()));
    table.to_string()
}

/// Trials that are not as claimed, or did not end as planned; when there are many, the first of them.
fn standing_out(experiment: &ExperimentReport) -> impl Iterator<Item = &TrialReport> {
    experiment
        .trials
        .iter()
        .filter(|trial| trial.verdict != Verdict::Pass)
        .take(NAMED)
}

fn about(trial: &TrialReport, experiment: &ExperimentReport) -> String {
    if trial.end != "completed" {
        return format!("  trial {}: {}: {}", trial.index, trial.verdict.word(), trial.end);
    }
    let claim = trial.claims.iter().find(|claim| claim.verdict == trial.verdict);
    let of_all = claim.and_then(|held| experiment.claims.iter().find(|claim| claim.name == held.name));
    // One trial refutes no claim about a share of them.
    let word = match (of_all.is_some_and(|claim| claim.over.is_some()), trial.verdict) {
        (true, Verdict::Fail) => "beyond the limit",
        (true, Verdict::Inconclusive) => "not known",
        (_, verdict) => verdict.word(),
    };
    let why = claim.map_or_else(
        || measured(&trial.rto, "s"),
        |claim| format!("{}: {}", claim.name, claim.why),
    );
    format!("  trial {}: {word}: {why}", trial.index)
}

fn ledger(text: &mut String, experiment: &ExperimentReport) {
    let Some(last) = experiment
        .trials
        .iter()
        .rev()
        .find(|trial| trial.ledger.produced.is_some())
    else {
        let why = experiment.trials.iter().find_map(|trial| trial.ledger.reason.as_ref());
        if let Some(why) = why.filter(|why| *why != "the experiment has no ledger") {
            labelled(text, "Ledger", why);
        }
        return;
    };
    let sum = |of: fn(&TrialReport) -> Option<u64>| -> u64 { experiment.trials.iter().filter_map(of).sum() };
    labelled(
        text,
        "Ledger",
        &format!(
            "{} records acknowledged, {} committed at the end; in all trials {} lost, {} duplicated, {} late",
            last.ledger.produced.unwrap_or(0),
            last.ledger.committed.unwrap_or(0),
            sum(|trial| trial.ledger.lost),
            sum(|trial| trial.ledger.duplicated),
            sum(|trial| trial.ledger.late),
        ),
    );
}
