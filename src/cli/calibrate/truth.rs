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

/// Which outage is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// It began at this instant (nanoseconds) or later: the fault was requested.
    pub(super) from: i64,
    /// Through whose eyes.
    pub(super) method: Method,
    /// Through which probe.
    pub(super) probe: &'a str,
    /// Whether the fault deletes a pod.
    pub(super) deletes: bool,
    /// From the first symptom, not from the fault's effect.
    pub(super) symptom: bool,
}

/// The length of the outage, by two stamps and what bounds them.
///
/// It begins
/// - for a container that is told to end: with its stamp `terminating`, the cause of everything that is seen of it;
/// - for a pod that is deleted: when the cluster accepts the deletion, which is between the request and the victim's
///   `terminating`, the first thing that it does when it is told;
/// - for a switch that is taken away: between the last look that still `saw` it and the one that found the service `bad`.
///
/// It ends
/// - for whoever asks the service, with `good` (it serves again) or `back` (the switch was seen to be there again); for
///   Prometheus with `back`; for whoever reads the commit log with `committed`;
/// - for whoever watches the pod between `telling` and `told` (or `noting` and `noted`), the send and the answer of the call by
///   which the workload told the API server.
pub(super) fn outage(stamps: &[Stamp], wanted: Wanted<'_>) -> Option<Truth> {
    let after = |events: &[&str], at: i64| {
        let found = stamps
            .iter()
            .find(|stamp| stamp.monotonic_ns >= at && events.contains(&stamp.event.as_str()));
        found.map(|stamp| (stamp.monotonic_ns, stamp.event.as_str()))
    };
    let (at, event) = after(&["terminating", "bad"], wanted.from)?;
    let saw = || {
        let before = stamps
            .iter()
            .rfind(|stamp| stamp.event == "saw" && stamp.monotonic_ns <= at);
        before.map_or(wanted.from, |stamp| stamp.monotonic_ns.max(wanted.from))
    };
    let begin = match event {
        // The service behind what ended noticed it a moment later.
        _ if wanted.symptom && wanted.method == Method::Prometheus => {
            let (bad, _) = after(&["bad"], at)?;
            (bad, bad)
        }
        "bad" => (saw(), at),
        _ if wanted.deletes => (wanted.from, at),
        _ => (at, at),
    };
    let (first, last): (&[&str], &[&str]) = match (wanted.method, wanted.probe) {
        (Method::Watch, "resource") => (&["noting"], &["noted"]),
        (Method::Watch, _) => (&["telling"], &["told"]),
        (Method::Ledger, _) => (&["committed"], &["committed"]),
        (Method::Prometheus, _) => (&["back"], &["back"]),
        (Method::Scrape, _) => (&["good", "back"], &["good", "back"]),
    };
    // What a process tells before its own end is no return.
    let (back, _) = after(&["good", "back"], at)?;
    let (lower, _) = after(first, back)?;
    let (upper, _) = after(last, lower)?;
    let (shortest, longest) = (seconds(lower - begin.1), seconds(upper - begin.0));
    Some(Truth {
        seconds: f64::midpoint(shortest, longest),
        error: (longest - shortest) / 2.0,
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

    fn of(from_ms: i64, method: Method, probe: &str) -> Wanted<'_> {
        Wanted {
            from: from_ms * 1_000_000,
            method,
            probe,
            deletes: false,
            symptom: false,
        }
    }

    #[test]
    fn what_the_dying_process_tells_is_not_taken_for_the_return() {
        let told = stamps(&[
            ("good", 10),
            ("telling", 12),
            ("told", 14),
            ("terminating", 1000),
            ("telling", 1003),
            ("told", 1006),
            ("start", 1200),
            ("good", 3000),
            ("telling", 3005),
            ("told", 3007),
            ("noting", 3007),
            ("noted", 3011),
            ("terminating", 9000),
        ]);
        near(outage(&told, of(900, Method::Scrape, "http")), 2.0, 0.0);
        near(outage(&told, of(900, Method::Watch, "pods")), 2.006, 0.001);
        near(outage(&told, of(900, Method::Watch, "resource")), 2.009, 0.002);
        assert_eq!(outage(&told, of(8000, Method::Watch, "pods")), None);
        // The cluster took the deletion somewhere between the request and the victim's stamp.
        let deleted = Wanted {
            deletes: true,
            ..of(996, Method::Watch, "pods")
        };
        near(outage(&told, deleted), 2.008, 0.003);
    }

    #[test]
    fn a_switch_went_between_two_looks_and_is_over_for_the_data_with_the_first_commit() {
        let told = stamps(&[
            ("back", 0),
            ("committed", 1),
            ("saw", 498),
            ("bad", 500),
            ("back", 700),
            ("committed", 703),
        ]);
        near(outage(&told, of(100, Method::Ledger, "progress")), 0.204, 0.001);
        near(outage(&told, of(100, Method::Scrape, "metrics")), 0.201, 0.001);
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
        let deleted = Wanted {
            deletes: true,
            ..of(98, Method::Prometheus, "promql")
        };
        near(outage(&told, deleted), 0.802, 0.001);
        let symptom = Wanted {
            symptom: true,
            ..deleted
        };
        near(outage(&told, symptom), 0.8, 0.0);
    }
}
