//! What the status of a ChaosEngine and its ChaosResult means for the fault. Pure; facts: `specs/litmus.md`, sections 3, 6 and 11.

use serde_json::Value;
use std::time::Duration;

/// The operator takes an engine up at once; it is missing, or does not look at the namespace, when it did not within this time.
const TAKEN_UP: Duration = Duration::from_secs(10);
/// How long runner and experiment may need to start: images are pulled.
const STARTED: Duration = Duration::from_secs(190);
/// How long the injection itself may take after that: the helper's image is pulled, too.
const INJECTED: Duration = Duration::from_secs(310);
/// After the end of an experiment its effect may still be on its way to us.
const LATE: Duration = Duration::from_secs(3);

/// What was read at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Read<'a> {
    /// The engine; none when it is gone.
    pub(super) engine: Option<&'a Value>,
    /// The result by the engine's and the experiment's name, whoever wrote it.
    pub(super) result: Option<&'a Value>,
    /// UID of the engine.
    pub(super) uid: &'a str,
    /// The newest complaint about the engine.
    pub(super) warning: Option<&'a str>,
    /// Time since the engine was created.
    pub(super) age: Duration,
    /// Time since Litmus was first seen to be at an end.
    pub(super) ended: Option<Duration>,
}

fn text<'a>(value: Option<&'a Value>, pointer: &str) -> &'a str {
    value
        .and_then(|value| value.pointer(pointer))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

impl<'a> Read<'a> {
    fn engine_status(&self) -> &'a str {
        text(self.engine, "/status/engineStatus")
    }

    fn experiment_status(&self) -> &'a str {
        text(self.engine, "/status/experiments/0/status")
    }

    /// The result, when this engine wrote it. One of an older engine stays until it is overwritten.
    pub(super) fn own_result(&self) -> Option<&'a Value> {
        self.result
            .filter(|result| text(Some(*result), "/metadata/labels/chaosUID") == self.uid)
    }

    fn verdict(&self) -> &'a str {
        text(self.own_result(), "/status/experimentStatus/verdict")
    }

    /// Litmus does nothing more for this engine.
    pub(super) fn is_at_an_end(&self) -> bool {
        matches!(self.engine_status(), "completed" | "stopped") || !matches!(self.verdict(), "" | "Awaited")
    }

    /// Whether the result says that a pod is injected: first in an annotation, later in the history.
    pub(super) fn is_marked(&self, pod: &str) -> bool {
        let Some(result) = self.own_result() else { return false };
        let annotations = result.pointer("/metadata/annotations").and_then(Value::as_object);
        let annotated = annotations
            .and_then(|annotations| annotations.get(&format!("pod/{pod}")))
            .and_then(Value::as_str);
        let mut history = result
            .pointer("/status/history/targets")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        annotated == Some("injected")
            || history.any(|target| {
                text(Some(target), "/name") == pod
                    && matches!(text(Some(target), "/chaosStatus"), "injected" | "reverted")
            })
    }

    /// How far it got, for people.
    fn progress(&self) -> String {
        match (self.engine_status(), self.experiment_status()) {
            ("", _) => "the engine was not taken up yet".to_owned(),
            (engine, "") => format!("the engine is {engine}, and no experiment has started"),
            (engine, experiment) => format!("the engine is {engine}, its experiment {experiment}"),
        }
    }

    /// Why no fault will come of it any more; none while it still may.
    pub(super) fn hopeless(&self) -> Option<String> {
        let why = self.why_hopeless()?;
        Some(match self.warning {
            Some(warning) if !why.contains(warning) => format!("{why}. It complains: {warning}"),
            _ => why,
        })
    }

    fn why_hopeless(&self) -> Option<String> {
        if self.engine.is_none() {
            return Some("the ChaosEngine is gone, and nobody saw its fault".to_owned());
        }
        let result = self.own_result();
        let phase = text(result, "/status/experimentStatus/phase");
        if phase == "Error" || self.verdict() == "Error" {
            return Some(format!("Litmus could not do it{}", failure(result)));
        }
        match self.experiment_status() {
            "ChaosExperiment Not Found" => {
                return Some("Litmus' runner found no such ChaosExperiment in the engine's namespace".to_owned());
            }
            "Skipped" => return Some("Litmus' runner skipped the experiment".to_owned()),
            _ => {}
        }
        if let Some(ended) = self.ended {
            return (ended >= LATE).then(|| self.without_effect());
        }
        match self.engine_status() {
            "" if self.age >= TAKEN_UP => Some(format!(
                "no chaos-operator took the ChaosEngine up within {} s: it is not running, or does not watch this namespace (its \
                 WATCH_NAMESPACE)",
                TAKEN_UP.as_secs()
            )),
            "initialized" if self.experiment_status().is_empty() => match self.warning {
                Some(warning) if self.age >= TAKEN_UP => {
                    Some(format!("Litmus' operator cannot start the experiment: {warning}"))
                }
                _ if self.age >= STARTED => Some(format!(
                    "Litmus' runner did not start within {} s: {}",
                    STARTED.as_secs(),
                    self.progress()
                )),
                _ => None,
            },
            _ if self.age >= INJECTED => Some(format!(
                "no effect was seen within {} s: {}",
                INJECTED.as_secs(),
                self.progress()
            )),
            _ => None,
        }
    }

    /// Litmus is at an end, and nothing was seen of the fault.
    fn without_effect(&self) -> String {
        match self.verdict() {
            "Pass" => return "Litmus says Pass, but no effect was seen on the target".to_owned(),
            "Fail" => {
                let probes = failed_probes(self.own_result());
                return format!("a probe of Litmus failed{probes}, and no effect was seen on the target");
            }
            "Stopped" => return format!("Litmus stopped the experiment{}", failure(self.own_result())),
            "Awaited" if self.engine_status() == "completed" => {
                return "Litmus says completed, but its ChaosResult still says Awaited: the experiment's pod ended before it could write"
                    .to_owned();
            }
            _ => {}
        }
        if self.engine_status() == "stopped" {
            return "Litmus stopped the ChaosEngine before the fault: somebody set engineState, or its operator rejects the engine"
                .to_owned();
        }
        match self.result {
            Some(other) => format!(
                "Litmus says completed, but the ChaosResult of that name belongs to another engine (chaosUID {}): its verdict {} is not \
                 about this fault",
                text(Some(other), "/metadata/labels/chaosUID"),
                text(Some(other), "/status/experimentStatus/verdict"),
            ),
            None => "Litmus says completed, but wrote no ChaosResult: its service account may lack rights, or the experiment never ran"
                .to_owned(),
        }
    }
}

/// Code and reason of a failure: `errorOutput` from 3.0 on, before that `failStep`.
fn failure(result: Option<&Value>) -> String {
    let code = text(result, "/status/experimentStatus/errorOutput/errorCode");
    let reason = text(result, "/status/experimentStatus/errorOutput/reason");
    let step = text(result, "/status/experimentStatus/failStep");
    match (code, reason, step) {
        ("", "", "" | "N/A") => ", and does not say why".to_owned(),
        ("", "", step) => format!(": it failed at {step:?}"),
        (code, reason, _) => format!(": {code}: {reason}"),
    }
}

/// Names of the probes that failed. Their list had another name and another shape up to 2.12.
fn failed_probes(result: Option<&Value>) -> String {
    let list = |pointer: &str| {
        result
            .and_then(|result| result.pointer(pointer))
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let new = list("/status/probeStatuses");
    let old = list("/status/probeStatus");
    let failed = |probe: &&Value| {
        text(Some(*probe), "/status/verdict") == "Failed"
            || probe.get("status").and_then(Value::as_object).is_some_and(|phases| {
                phases
                    .values()
                    .any(|phase| phase.as_str().is_some_and(|word| word.contains("Fail")))
            })
    };
    let names: Vec<&str> = new
        .iter()
        .chain(&old)
        .filter(failed)
        .map(|probe| text(Some(probe), "/name"))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" ({})", names.join(", "))
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
