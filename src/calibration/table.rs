//! The calibration for a terminal. Fits 80 columns.

use super::document::{Calibration, Numbers};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Padding, Style};

const WIDTH: usize = 80;

/// The whole calibration as text; `file` is where the rest is.
#[must_use]
pub fn table(calibration: &Calibration, file: &str) -> String {
    let mut text = format!(
        "{}: {} recoveries of known length, errors in milliseconds\n\n",
        calibration.verdict.word().to_uppercase(),
        calibration.recoveries
    );
    let mut builder = Builder::new();
    builder.push_record(["", "n", "bias", "median", "p95", "p99", "max", "width", "inside"]);
    for summary in &calibration.methods {
        builder.push_record(line(summary.method.word(), &summary.from_fault));
        for kind in &summary.by_kind {
            let title = format!("  {}, {}", kind.kind.word(), kind.probe);
            builder.push_record(line(&title, &kind.from_fault));
        }
        if let Some(numbers) = &summary.from_impact {
            builder.push_record(line("  all, from the first symptom", numbers));
        }
    }
    if calibration.methods.is_empty() {
        return text + "nothing was measured\n" + &tail(calibration, file);
    }
    let mut table = builder.build();
    table
        .with(Style::empty())
        .with(Padding::new(0, 1, 0, 0))
        .with(Modify::new(Columns::new(1..)).with(Alignment::right()));
    for row in table.to_string().lines() {
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.push('\n');
    for limit in &calibration.limits {
        let shown = |value: f64| {
            if limit.name.ends_with("error") {
                format!("{} ms", milliseconds(value))
            } else if limit.operator == ">=" {
                format!("{:.1} %", value * 100.0)
            } else {
                format!("{value}")
            }
        };
        let word = if limit.kept { "kept" } else { "NOT KEPT" };
        text.push_str(&format!(
            "{:<9} {} {} {} (found {})\n",
            word,
            limit.name,
            limit.operator,
            shown(limit.limit),
            shown(limit.found)
        ));
    }
    for summary in &calibration.methods {
        let numbers = &summary.from_fault;
        if let Some(longest) = numbers.longest_unseen {
            text.push_str(&format!(
                "{}: {} of {} outages went unseen, the longest took {longest:.3} s\n",
                summary.method.word(),
                numbers.unseen,
                numbers.recoveries
            ));
        }
    }
    text.push_str(&tail(calibration, file));
    text
}

/// What was dropped, and what it was made with.
fn tail(calibration: &Calibration, file: &str) -> String {
    let about = &calibration.about;
    let mut text = String::new();
    for dropped in calibration.dropped.iter().take(5) {
        // The file has all of it.
        let line: String = format!("dropped   {dropped}").chars().take(WIDTH).collect();
        text.push_str(&format!("{line}\n"));
    }
    let more = calibration.dropped.len().saturating_sub(5);
    if more > 0 {
        text.push_str(&format!("dropped   and {more} more\n"));
    }
    let load = about.load.map_or_else(String::new, |load| {
        format!("load {:.2} before and {:.2} after, ", load.before, load.after)
    });
    let build = if about.optimised {
        ""
    } else {
        ", built WITHOUT optimisation"
    };
    text.push_str(&format!(
        "\nchaosrun {}{build}, seed {}\nagainst {} on {}, {} processors\n{load}{} targets side by side, {:.0} s\n",
        about.version, about.seed, about.cluster, about.kernel, about.cores, about.parallel, about.took
    ));
    text.push_str(&format!("Logs and stamps  {}\nCalibration      {file}\n", about.folder));
    text
}

fn line(title: &str, numbers: &Numbers) -> Vec<String> {
    let mut cells = vec![title.to_owned(), numbers.recoveries.to_string()];
    cells.extend(
        [
            numbers.bias,
            numbers.median_abs_error,
            numbers.p95_abs_error,
            numbers.p99_abs_error,
            numbers.max_abs_error,
            numbers.mean_width,
        ]
        .map(milliseconds),
    );
    cells.push(format!("{:.1}%", numbers.coverage() * 100.0));
    cells
}

fn milliseconds(seconds: f64) -> String {
    let value = seconds * 1e3;
    if value.abs() < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::tests::{about, row};
    use super::super::document::{Calibration, Method};
    use super::table;

    #[test]
    fn it_fits_eighty_columns_and_says_what_is_not_kept() {
        let mut rows: Vec<_> = (0..30).map(|number| row(Method::Watch, number, 0.02)).collect();
        rows.extend((0..30).map(|number| row(Method::Prometheus, number, -3.0)));
        let text = table(
            &Calibration::new(about(), rows, Vec::new(), Vec::new()),
            "calibration.json",
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.starts_with("FAIL: 30 recoveries"), "{text}");
        assert!(
            text.contains("NOT KEPT  watch: median error <= 10.0 ms (found 20.0 ms)"),
            "{text}"
        );
        assert!(
            text.contains("NOT KEPT  Prometheus: coverage >= 99.0 % (found 0.0 %)"),
            "{text}"
        );
    }
}
