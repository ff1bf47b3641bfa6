//! The report for a terminal: the verdict first, one row per claim, the phases, the ledger, the run folder. Fits 80 columns.

use super::many;
use super::model::{ClaimReport, ExperimentReport, Run, Span, TrialReport, Value};
use super::text::wrap;
use crate::evidence::InstrumentSummary;
use crate::model::Verdict;
use crate::verdict::{count, decimals, fixed};
use std::fmt::Write as _;
use tabled::builder::Builder;
use tabled::settings::object::{Cell, Columns};
use tabled::settings::{Alignment, Color, Modify, Padding, Style, Width};

const WIDTH: usize = 80;
const LABEL: usize = 12;
/// More trials than this are summed up.
const IN_FULL: usize = 2;

/// The whole report as text. Colour only when asked for; `folder` is where the run's files are.
#[must_use]
pub fn table(run: &Run, color: bool, folder: &str) -> String {
    let mut text = String::new();
    if run.experiments.len() != 1 {
        line(&mut text, &headline(run, color));
    }
    for experiment in &run.experiments {
        if run.experiments.len() > 1 {
            text.push('\n');
        }
        section(&mut text, experiment, color);
    }
    if !run.run.left.is_empty() {
        text.push('\n');
        line(
            &mut text,
            &wrap(
                &format!(
                    "NOT REVERTED: {} objects are still in the cluster; `chaosrun clean` removes them",
                    run.run.left.len()
                ),
                WIDTH,
                2,
            ),
        );
    }
    text.push('\n');
    if let Some(summary) = &run.run.instrument {
        labelled(&mut text, "Instrument", &instrument(summary, &run.run.version));
    }
    labelled(&mut text, "Run folder", folder);
    text
}

/// How wrong the instrument was found to be, as one sentence.
fn instrument(summary: &InstrumentSummary, version: &str) -> String {
    let day = summary.date.split('T').next().unwrap_or_default();
    let methods: Vec<String> = summary
        .methods
        .iter()
        .map(|method| {
            let median = method.median_abs_error_ms;
            format!(
                "{} {median:.*} ms ({} of {} inside)",
                method.method,
                usize::from(median < 10.0),
                method.covered,
                method.recoveries
            )
        })
        .collect();
    let kept = if summary.kept {
        ""
    } else {
        ", which did NOT keep its limits"
    };
    let other = if summary.version == version {
        String::new()
    } else {
        format!(" as version {}", summary.version)
    };
    format!(
        "calibrated {day}{other} in the {} with {} known recoveries{kept}; median error, and how many stated intervals held the truth: {}",
        summary.cluster.split(' ').next().unwrap_or_default(),
        summary.recoveries,
        methods.join(", ")
    )
}

fn headline(run: &Run, color: bool) -> String {
    let verdict = paint(run.verdict, color);
    if run.experiments.is_empty() {
        return format!("{verdict}: no experiment was run");
    }
    let counts: Vec<String> = [Verdict::Aborted, Verdict::Fail, Verdict::Inconclusive, Verdict::Pass]
        .into_iter()
        .filter_map(|verdict| {
            let count = run
                .experiments
                .iter()
                .filter(|experiment| experiment.verdict == verdict)
                .count();
            (count > 0).then(|| format!("{count} {}", verdict.word()))
        })
        .collect();
    format!(
        "{verdict}: {} experiments: {}",
        run.experiments.len(),
        counts.join(", ")
    )
}

fn section(text: &mut String, experiment: &ExperimentReport, color: bool) {
    // Wrapped without colour: escape codes have no width.
    let plain = experiment.verdict.word().to_uppercase();
    let sentence = wrap(
        &format!("{plain}: {}: {}", experiment.name, reason(experiment)),
        WIDTH,
        2,
    );
    let painted = sentence.replacen(&plain, &paint(experiment.verdict, color), 1);
    line(text, &painted);
    text.push('\n');
    labelled(text, "Claim", &experiment.claim.text);
    if let Some(source) = &experiment.claim.source {
        labelled(text, "Source", source);
    }
    let workload = if experiment.stand_in {
        format!("{} (a STAND-IN: the real workload did not run)", experiment.workload)
    } else {
        experiment.workload.clone()
    };
    labelled(text, "Workload", &workload);
    faults(text, experiment);
    text.push('\n');
    line(text, &claims(&experiment.claims, color));
    let headline = reason(experiment);
    let said = |why: &str| {
        why == headline
            || experiment
                .trials
                .iter()
                .filter_map(cause)
                .any(|cause| why.contains(cause))
    };
    for claim in &experiment.claims {
        // What the first line already said is not said twice. A claim about all trials always says what it rests on.
        if (claim.verdict != Verdict::Pass || claim.over.is_some()) && !said(&claim.why) {
            let sentence = format!("{}: {}: {}", claim.name, claim.verdict.word(), claim.why);
            line(text, &wrap(&sentence, WIDTH, 2));
        }
    }
    if experiment.trials.len() > IN_FULL {
        text.push('\n');
        many::trials(text, experiment);
    } else {
        for trial in &experiment.trials {
            let mut about = String::new();
            trial_section(&mut about, trial, experiment);
            if !about.is_empty() {
                text.push('\n');
                text.push_str(&about);
            }
        }
    }
    many::controls(text, experiment);
    clocks(text, experiment);
    for note in experiment.notes.iter().filter(|note| **note != headline) {
        labelled(text, "Note", note);
    }
}

/// The sentence behind the verdict: the first claim that is as bad as the whole.
fn reason(experiment: &ExperimentReport) -> String {
    if experiment.verdict == Verdict::Pass {
        let trials = match experiment.trials.len() {
            1 => "1 trial".to_owned(),
            count => format!("{count} trials"),
        };
        return format!("every claim holds ({trials})");
    }
    if experiment.verdict == Verdict::Aborted {
        let why = experiment
            .trials
            .iter()
            .find(|trial| trial.verdict == Verdict::Aborted)
            .map(|trial| trial.end.clone())
            .or_else(|| experiment.notes.first().cloned());
        return why.unwrap_or_else(|| "the run was stopped".to_owned());
    }
    if let Some(note) = experiment.notes.first().filter(|_| experiment.trials.is_empty()) {
        return note.clone();
    }
    let early = experiment.trials.iter().find(|trial| cause(trial).is_some());
    if let Some(trial) = early.filter(|_| experiment.verdict == Verdict::Inconclusive) {
        return trial.end.clone();
    }
    experiment
        .claims
        .iter()
        .find(|claim| claim.verdict == experiment.verdict)
        .map(|claim| claim.why.clone())
        .or_else(|| experiment.notes.first().cloned())
        .unwrap_or_else(|| "a trial did not end as planned".to_owned())
}

/// Why a trial ended before its time: what stands behind `refused: ` and the like.
fn cause(trial: &TrialReport) -> Option<&str> {
    let (_, cause) = trial.end.split_once(": ")?;
    Some(cause)
}

/// Clocks that are off: their stamps in other tools do not fit to each other.
fn clocks(text: &mut String, experiment: &ExperimentReport) {
    const WORTH_TELLING_MS: f64 = 1000.0;
    for clock in &experiment.clocks {
        let name = match clock.clock.as_str() {
            "apiserver" => "API server",
            "prometheus" => "Prometheus",
            other => other,
        };
        let (Some(lower), Some(upper)) = (clock.lower_ms, clock.upper_ms) else {
            continue;
        };
        let said = if clock.stepped {
            format!("the clock of the {name} or of this machine stepped meanwhile; durations do not rest on it")
        } else if lower > WORTH_TELLING_MS {
            format!(
                "the {name}'s clock is {:.1} s ahead; durations do not rest on it",
                lower / 1e3
            )
        } else if upper < -WORTH_TELLING_MS {
            format!(
                "the {name}'s clock is {:.1} s behind; durations do not rest on it",
                -upper / 1e3
            )
        } else {
            continue;
        };
        labelled(text, "Clocks", &said);
    }
}

fn faults(text: &mut String, experiment: &ExperimentReport) {
    let Some(trial) = experiment.trials.first() else {
        return;
    };
    for fault in &trial.faults {
        let what = match (&fault.proof, &fault.not_proven) {
            (Some(proof), _) => proof.clone(),
            (None, Some(why)) => format!("NOT PROVEN: {why}"),
            (None, None) => "NOT PROVEN".to_owned(),
        };
        labelled(
            text,
            "Fault",
            &format!(
                "{} ({}) on {}: {what}",
                fault.name,
                fault.injector,
                fault.targets.join(", ")
            ),
        );
    }
}

fn claims(claims: &[ClaimReport], color: bool) -> String {
    let mut builder = Builder::default();
    builder.push_record(["claim", "measured", "limit", "verdict"]);
    for claim in claims {
        builder.push_record([
            claim.name.clone(),
            many::with_bound(claim, measured(&claim.measured, claim.unit)),
            limit(claim),
            claim.verdict.word().to_owned(),
        ]);
    }
    let mut table = builder.build();
    table.with(Style::rounded()).with(Width::wrap(WIDTH).keep_words(true));
    if color {
        for (row, claim) in claims.iter().enumerate() {
            table.with(Modify::new(Cell::new(row + 1, 3)).with(color_of(claim.verdict)));
        }
    }
    table.to_string()
}

fn limit(claim: &ClaimReport) -> String {
    let unit = if claim.unit.is_empty() {
        String::new()
    } else {
        format!(" {}", claim.unit)
    };
    format!("{} {}{unit}", claim.operator, count(claim.limit))
}

/// `41.20 s ± 0.05`: the larger side of the error bar.
pub(super) fn measured(value: &Value, unit: &str) -> String {
    let spaced = if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    match (value.value, value.lower, value.upper) {
        (Some(best), Some(lower), Some(upper)) if upper > lower => {
            let digits = if unit.is_empty() { 3 } else { decimals(upper - lower) };
            let off = (best - lower).max(upper - best);
            format!("{}{spaced} ± {}", fixed(best, digits), fixed(off, digits))
        }
        (Some(best), ..) => format!("{}{spaced}", count(best)),
        (None, Some(lower), _) => format!("> {}{spaced}", fixed(lower, 1)),
        (None, None, _) => "no data".to_owned(),
    }
}

fn trial_section(text: &mut String, trial: &TrialReport, experiment: &ExperimentReport) {
    let title = if experiment.trials.len() > 1 {
        format!("Trial {}: {}. ", trial.index, trial.verdict.word())
    } else {
        String::new()
    };
    if trial.end != "completed" && trial.end != reason(experiment) {
        line(text, &wrap(&format!("{title}{}", trial.end), WIDTH, 2));
    }
    if !trial.phases.is_empty() {
        line(text, &format!("{title}Recovery, seconds after the fault took effect:"));
        line(text, &phases(trial));
    }
    ledger(text, trial);
    if let Some(best) = trial.reprocessing_window.value {
        labelled(
            text,
            "Replay",
            &format!("the last commit was {best:.1} s old at the fault (repeated work, not loss)"),
        );
    }
    for note in &trial.notes {
        labelled(text, "Note", note);
    }
}

fn phases(trial: &TrialReport) -> String {
    let mut builder = Builder::default();
    for phase in &trial.phases {
        let Span { lower, upper, value } = phase.at;
        let digits = decimals(upper - lower);
        builder.push_record([
            phase.name.to_owned(),
            fixed(value, digits),
            format!("[{}, {}]", fixed(lower, digits), fixed(upper, digits)),
        ]);
    }
    let mut table = builder.build();
    table
        .with(Style::empty())
        .with(Padding::new(2, 1, 0, 0))
        .with(Modify::new(Columns::new(1..)).with(Alignment::right()));
    table.to_string()
}

fn ledger(text: &mut String, trial: &TrialReport) {
    let ledger = &trial.ledger;
    let (Some(produced), Some(committed)) = (ledger.produced, ledger.committed) else {
        if let Some(reason) = &ledger.reason
            && reason != "the experiment has no ledger"
            && cause(trial).is_none_or(|cause| !reason.contains(cause))
        {
            labelled(text, "Ledger", reason);
        }
        return;
    };
    let mut sentence = format!("{produced} records acknowledged, {committed} committed");
    for (count, word) in [
        (ledger.lost, "lost"),
        (ledger.duplicated, "duplicated"),
        (ledger.late, "late"),
    ] {
        // Writing to a String cannot fail.
        let _infallible = write!(sentence, ", {} {word}", count.unwrap_or(0));
    }
    for (count, word) in [
        (ledger.reordered, "reordered"),
        (ledger.unexpected, "unexpected"),
        (ledger.recovered, "recovered without acknowledgement"),
        (ledger.indeterminate, "indeterminate"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            let _infallible = write!(sentence, ", {count} {word}");
        }
    }
    if let Some(pending) = ledger.pending.filter(|pending| *pending > 0) {
        let _infallible = write!(sentence, ", {pending} not processed yet");
    }
    if let Some(during) = ledger.during_outage {
        let _infallible = write!(sentence, "; {during} acknowledged during the outage");
    }
    labelled(text, "Ledger", &sentence);
}

fn paint(verdict: Verdict, color: bool) -> String {
    let word = verdict.word().to_uppercase();
    if color { color_of(verdict).colorize(word) } else { word }
}

fn color_of(verdict: Verdict) -> Color {
    match verdict {
        Verdict::Pass => Color::FG_GREEN,
        Verdict::Inconclusive => Color::FG_YELLOW,
        Verdict::Fail => Color::FG_RED,
        Verdict::Aborted => Color::FG_MAGENTA,
    }
}

pub(super) fn labelled(text: &mut String, label: &str, value: &str) {
    let padded = format!("{label:<LABEL$}");
    let wrapped = wrap(value, WIDTH - LABEL, 0);
    for (index, part) in wrapped.lines().enumerate() {
        if index == 0 {
            line(text, &format!("{padded}{part}"));
        } else {
            line(text, &format!("{}{part}", " ".repeat(LABEL)));
        }
    }
}

pub(super) fn line(text: &mut String, value: &str) {
    for part in value.lines() {
        text.push_str(part.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use crate::evidence::{Chain, Event, InstrumentMethod, InstrumentSummary, read_log};
    use crate::model::Mono;

    #[test]
    fn a_report_quotes_the_calibration_that_stands_in_its_log() {
        let summary = InstrumentSummary {
            version: "0.0.9".to_owned(),
            date: "2026-01-02T03:04:05Z".to_owned(),
            cluster: "lab v1.33.0".to_owned(),
            kept: false,
            recoveries: 300,
            methods: vec![InstrumentMethod {
                method: "watch".to_owned(),
                recoveries: 250,
                covered: 249,
                median_abs_error_ms: 8.04,
                p99_abs_error_ms: 41.0,
                mean_width_ms: 250.0,
            }],
        };
        let event = Event::InstrumentCalibrated { summary };
        let line = Chain::new().line(Mono(0), "2026-01-02T00:00:00Z", &event).unwrap();
        let run = super::super::build(&read_log(line.as_bytes()).unwrap().records);
        let text = super::table(&run, false, "x");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            flat.contains(
                "Instrument calibrated 2026-01-02 as version 0.0.9 in the lab with 300 known recoveries, which did NOT keep its limits"
            ),
            "{text}"
        );
        assert!(flat.contains("watch 8.0 ms (249 of 250 inside)"), "{text}");
    }
}
