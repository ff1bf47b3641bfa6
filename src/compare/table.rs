//! A comparison for a terminal: the outcome first, one row per measured quantity, then what a reader has to know. Fits 80 columns.

use super::judge::{Compared, Comparison, Measure, Outcome, Side, number, p_text};
use crate::report::wrap;
use crate::verdict::{decimals, fixed};
use tabled::builder::Builder;
use tabled::settings::object::{Columns, Rows};
use tabled::settings::{Alignment, Color, Style, Width};

const WIDTH: usize = 80;

/// The whole comparison as text, coloured when asked for.
#[must_use]
pub fn table(comparison: &Comparison, color: bool) -> String {
    let mut lines = Vec::new();
    if comparison.experiments.len() != 1 {
        lines.push(headline(comparison, color));
    }
    for compared in &comparison.experiments {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        section(&mut lines, compared, color);
    }
    lines.push(String::new());
    lines.push(labelled("Base", &runs(&comparison.base)));
    lines.push(labelled("New", &runs(&comparison.new)));
    lines.join("\n") + "\n"
}

fn runs(runs: &[String]) -> String {
    match runs {
        [] => "no run".to_owned(),
        [one] => format!("run {one}"),
        several => format!("{} runs: {}", several.len(), several.join(", ")),
    }
}

fn labelled(label: &str, text: &str) -> String {
    wrap(&format!("{label}: {text}"), WIDTH, 6)
}

fn headline(comparison: &Comparison, color: bool) -> String {
    if comparison.experiments.is_empty() {
        return format!("{}: there is nothing to compare", paint(comparison.outcome, color));
    }
    let counts: Vec<String> = [Outcome::Regressed, Outcome::Inconclusive, Outcome::NotRegressed]
        .into_iter()
        .filter_map(|outcome| {
            let of = comparison.experiments.iter().filter(|one| one.outcome == outcome);
            let count = of.count();
            (count > 0).then(|| format!("{count} {}", outcome.words()))
        })
        .collect();
    format!(
        "{}: {} experiments: {}",
        paint(comparison.outcome, color),
        comparison.experiments.len(),
        counts.join(", ")
    )
}

fn paint(outcome: Outcome, color: bool) -> String {
    let word = outcome.words().to_uppercase();
    if !color {
        return word;
    }
    let painted = match outcome {
        Outcome::Regressed => Color::FG_RED,
        Outcome::Inconclusive => Color::FG_YELLOW,
        Outcome::NotRegressed => Color::FG_GREEN,
    };
    painted.colorize(word)
}

fn section(lines: &mut Vec<String>, compared: &Compared, color: bool) {
    // Wrapped without colour: escape codes have no width.
    let plain = compared.outcome.words().to_uppercase();
    let sentence = wrap(&format!("{plain}: {}: {}", compared.experiment, compared.why), WIDTH, 2);
    lines.push(sentence.replacen(&plain, &paint(compared.outcome, color), 1));
    if !compared.measures.is_empty() {
        lines.push(String::new());
        lines.push(measures(&compared.measures));
        if compared
            .measures
            .iter()
            .any(|measure| measure.p.is_some() && !measure.p_exact)
        {
            lines.push("~ normal approximation, because values are equal or many".to_owned());
        }
    }
    for note in &compared.notes {
        lines.push(wrap(&format!("Note: {note}"), WIDTH, 6));
    }
}

fn measures(measures: &[Measure]) -> String {
    let mut builder = Builder::default();
    builder.push_record(["measured", "base (n)", "new (n)", "shift [interval]", "p"]);
    for measure in measures {
        let name = if measure.unit.is_empty() || measure.unit == "records" {
            measure.name.clone()
        } else {
            format!("{}, {}", measure.name, measure.unit)
        };
        builder.push_record([
            name,
            median(&measure.base),
            median(&measure.new),
            shift(measure),
            p(measure),
        ]);
    }
    let mut table = builder.build();
    table
        .with(Style::rounded())
        .modify(Columns::new(1..), Alignment::right())
        .modify(Rows::first(), Alignment::left())
        .with(Width::wrap(WIDTH).keep_words(true));
    table.to_string()
}

/// `41.2 (8, 1 never)`: the median, of how many, and how many of these never recovered.
fn median(side: &Side) -> String {
    if side.trials == 0 {
        return "no data".to_owned();
    }
    let median = side
        .median
        .map_or_else(|| "never".to_owned(), |median| number(median, median.abs() / 100.0));
    match side.never {
        0 => format!("{median} ({})", side.trials),
        never => format!("{median} ({}, {never} never)", side.trials),
    }
}

fn shift(measure: &Measure) -> String {
    let ends = measure.interval;
    let width = ends.and_then(|(lower, upper)| Some(upper? - lower?));
    let digits = decimals(width.or(measure.shift.map(f64::abs)).unwrap_or(1.0) / 10.0);
    let show = |value: f64| {
        let text = fixed(value, digits);
        if value > 0.0 { format!("+{text}") } else { text }
    };
    let shift = measure.shift.map_or_else(|| "open".to_owned(), show);
    match ends {
        Some((lower, upper)) => format!(
            "{shift} [{}, {}]",
            lower.map_or_else(|| "-inf".to_owned(), show),
            upper.map_or_else(|| "inf".to_owned(), show)
        ),
        None if measure.shift.is_none() => "-".to_owned(),
        None => format!("{shift} [too few]"),
    }
}

fn p(measure: &Measure) -> String {
    match measure.p {
        None => "-".to_owned(),
        Some(p) if measure.p_exact => p_text(p),
        Some(p) => format!("~{}", p_text(p)),
    }
}
