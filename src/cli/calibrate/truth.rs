//! The workload's own stamps, and the outage that they tell of.

use crate::calibration::Method;
use serde::Deserialize;
use std::path::Path;

/// One stamp.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stamp {
    pub(super) event: String,
    pub(super) monotonic_ns: i64,
}

/// Every stamp in a workload's folder, in order. What cannot be read is left out: a process may have died while it wrote.
pub(super) fn read(folder: &Path) -> Vec<Stamp> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    let mut stamps: Vec<Stamp> = texts
        .flat_map(|text| {
            let stamps = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            stamps.collect::<Vec<Stamp>>()
        })
        .collect();
    stamps.sort_by_key(|stamp| stamp.monotonic_ns);
    stamps
}

/// A length in seconds, known within plus or minus `error`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Truth {
    pub(super) seconds: f64,
    pub(super) error: f64,
}

/// The first outage that began at `from` (nanoseconds) or later, as far as it concerns a probe:
///
/// - it begins with the stamp `terminating` (a process was told to end) or `bad` (a switch was seen to be gone);
/// - it ends, for whoever asks the service, with `good` (it serves again) or `back` (the switch was seen to be there again); for
///   Prometheus with `back`; for whoever reads the commit log with `committed`; for whoever watches the pod between `telling`
///   and `told` (or `noting` and `noted`), the send and the answer of the call by which the workload told the API server.
pub(super) fn outage(stamps: &[Stamp], from: i64, method: Method, probe: &str) -> Option<Truth> {
    let after = |events: &[&str], at: i64| {
        let found = stamps
            .iter()
            .find(|stamp| stamp.monotonic_ns >= at && events.contains(&stamp.event.as_str()));
        found.map(|stamp| stamp.monotonic_ns)
    };
    let begin = after(&["terminating", "bad"], from)?;
    let (first, last): (&[&str], &[&str]) = match (method, probe) {
        (Method::Watch, "resource") => (&["noting"], &["noted"]),
        (Method::Watch, _) => (&["telling"], &["told"]),
        (Method::Ledger, _) => (&["committed"], &["committed"]),
        (Method::Prometheus, _) => (&["back"], &["back"]),
        (Method::Scrape, _) => (&["good", "back"], &["good", "back"]),
    };
    // What a process tells before its own end is no return.
    let back = after(&["good", "back"], begin)?;
    let lower = after(first, back)?;
    let upper = after(last, lower)?;
    Some(Truth {
        seconds: f64::midpoint(seconds(lower - begin), seconds(upper - begin)),
        error: seconds(upper - lower) / 2.0,
    })
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of an hour stay below 2^53")]
fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(events: &[(&str, i64)]) -> Vec<Stamp> {
        events
            .iter()
            .map(|(event, milliseconds)| Stamp {
                event: (*event).to_owned(),
                monotonic_ns: milliseconds * 1_000_000,
            })
            .collect()
    }

    fn near(found: Option<Truth>, seconds: f64, error: f64) {
        let found = found.unwrap();
        assert!(
            (found.seconds - seconds).abs() < 1e-9 && (found.error - error).abs() < 1e-9,
            "{found:?}"
        );
    }

    #[test]
    fn what_the_dying_process_tells_is_not_taken_for_the_return() {
        let told = stamps(&[
            ("good", 10),
            ("telling", 12),
            ("told", 14),
            ("terminating", 1000),
            ("noting", 1001),
            ("noted", 1003),
            ("telling", 1003),
            ("told", 1006),
            ("start", 1200),
            ("good", 3000),
            ("noting", 3001),
            ("noted", 3005),
            ("telling", 3005),
            ("told", 3007),
            ("terminating", 9000),
        ]);
        near(outage(&told, 900_000_000, Method::Scrape, "http"), 2.0, 0.0);
        near(outage(&told, 900_000_000, Method::Watch, "pods"), 2.006, 0.001);
        near(outage(&told, 900_000_000, Method::Watch, "resource"), 2.003, 0.002);
        assert_eq!(outage(&told, 8_000_000_000, Method::Watch, "pods"), None);
    }

    #[test]
    fn a_switch_that_came_back_is_over_for_the_data_with_the_first_commit() {
        let told = stamps(&[
            ("good", 0),
            ("committed", 1),
            ("bad", 500),
            ("good", 700),
            ("committed", 703),
        ]);
        near(outage(&told, 100_000_000, Method::Ledger, "progress"), 0.203, 0.0);
        near(outage(&told, 100_000_000, Method::Prometheus, "promql"), 0.2, 0.0);
    }

    #[test]
    fn a_service_is_back_a_moment_after_what_it_depends_on() {
        let told = stamps(&[
            ("terminating", 100),
            ("bad", 101),
            ("good", 900),
            ("back", 901),
            ("committed", 902),
        ]);
        near(outage(&told, 0, Method::Prometheus, "promql"), 0.801, 0.0);
        near(outage(&told, 0, Method::Ledger, "progress"), 0.802, 0.0);
    }
}
