//! The records of an experiment, and everything that follows from them without touching anything: the desired phase, the
//! conditions, the next step of a record. Pure.
//!
//! Central types: [`Record`], [`Phase`], [`Desired`].

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kinds::Experiment;
use super::switches::Switches;
use crate::api::object::{array_at, finalizers, is_deleting, str_at};

/// Keeps an object until its faults were taken back.
pub(super) const FINALIZER: &str = "chaos-mesh/records";
const PAUSE: &str = "/metadata/annotations/experiment.chaos-mesh.org~1pause";
const FORCE: &str = "/metadata/annotations/chaos-mesh.chaos-mesh.org~1cleanFinalizer";
/// Events kept for each record since 2.6.5.
const MOST_EVENTS: usize = 100;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    #[serde(rename = "Not Injected")]
    NotInjected,
    #[serde(rename = "Not Injected/Wait")]
    Applying,
    #[serde(rename = "Injected")]
    Injected,
    #[serde(rename = "Injected/Wait")]
    Recovering,
}

/// What is done to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operation {
    Apply,
    Recover,
}

/// One entry in the history of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "type")]
    kind: String,
    operation: Operation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    timestamp: String,
}

/// One thing that is broken: a pod, or a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub id: String,
    pub selector_key: String,
    pub phase: Phase,
    pub injected_count: u64,
    pub recovered_count: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events: Vec<Entry>,
}

impl Record {
    pub(super) fn new(id: String, selector_key: &str) -> Self {
        Self {
            id,
            selector_key: selector_key.to_owned(),
            phase: Phase::NotInjected,
            injected_count: 0,
            recovered_count: 0,
            events: Vec::new(),
        }
    }

    /// Namespace and name of the pod.
    pub(super) fn pod(&self) -> (&str, &str) {
        let mut parts = self.id.split('/');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    /// Name of the container, when the record is about one.
    pub(super) fn container(&self) -> Option<&str> {
        self.id.split('/').nth(2)
    }

    /// What has to be done now, if anything. One that waits is brought to its end first, whatever is wanted meanwhile.
    pub(super) fn next(&self, desired: Desired) -> Option<Operation> {
        match (desired.phase(), self.phase) {
            (_, Phase::Applying) => Some(Operation::Apply),
            (_, Phase::Recovering) => Some(Operation::Recover),
            ("Run", Phase::NotInjected) => Some(Operation::Apply),
            ("Run", Phase::Injected) | (_, Phase::NotInjected) => None,
            (_, Phase::Injected) => Some(Operation::Recover),
        }
    }

    /// How often applying has failed, as far as it is remembered.
    pub(super) fn failed_applies(&self) -> usize {
        let failed = |entry: &&Entry| entry.kind == "Failed" && entry.operation == Operation::Apply;
        self.events.iter().filter(failed).count()
    }

    /// Writes down that an operation has come to its end, well or not.
    pub(super) fn note(&mut self, operation: Operation, error: Option<&str>, at: Timestamp) {
        let kind = if error.is_some() { "Failed" } else { "Succeeded" };
        if error.is_none() {
            match operation {
                Operation::Apply => self.injected_count += 1,
                Operation::Recover => self.recovered_count += 1,
            }
        }
        self.events.push(Entry {
            kind: kind.to_owned(),
            operation,
            message: error.map(str::to_owned),
            timestamp: stamp(at),
        });
        if self.events.len() > MOST_EVENTS {
            self.events.remove(0);
        }
    }
}

/// RFC 3339 with whole seconds.
pub(super) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The records in the status; `None` while nothing was ever selected.
pub(super) fn of(object: &Value) -> Option<Vec<Record>> {
    let listed = object.pointer("/status/experiment/containerRecords")?;
    serde_json::from_value(listed.clone()).ok()
}

/// What is wanted of an experiment, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Desired {
    Run,
    Deleted,
    TimeUp,
    Paused,
}

impl Desired {
    /// As the status has it.
    pub(super) fn phase(self) -> &'static str {
        match self {
            Self::Run => "Run",
            Self::Deleted | Self::TimeUp | Self::Paused => "Stop",
        }
    }
}

/// The first rule that matches counts.
pub(super) fn desired(kind: Experiment, object: &Value, switches: &Switches, now: Timestamp) -> Desired {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if is_deleting(object) {
        Desired::Deleted
    } else if kind.is_one_shot(spec) {
        Desired::Run
    } else if left(object, switches, now).is_some_and(|left| left.is_zero()) {
        Desired::TimeUp
    } else if is_paused(object) {
        Desired::Paused
    } else {
        Desired::Run
    }
}

/// The annotation, which pauses.
pub(super) fn is_paused(object: &Value) -> bool {
    str_at(object, PAUSE) == Some("true")
}

/// The annotation that lets a deletion go without recovering, as far as upstream honours it.
pub(super) fn is_forced(object: &Value) -> bool {
    str_at(object, FORCE) == Some("forced")
}

/// Whether the finalizer of the double stands on the object.
pub(super) fn is_kept(object: &Value) -> bool {
    finalizers(object).any(|one| one == FINALIZER)
}

/// Time until the duration is over. It counts from the creation, in whole seconds; an empty or unreadable one is no limit.
pub(super) fn left(object: &Value, switches: &Switches, now: Timestamp) -> Option<Duration> {
    let duration = super::duration::parse(str_at(object, "/spec/duration")?).ok()?;
    let created: Timestamp = str_at(object, "/metadata/creationTimestamp")?.parse().ok()?;
    let end = created
        .checked_add(duration)
        .ok()?
        .checked_add(switches.late_expiry)
        .ok()?;
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

/// The four conditions, by type.
pub(super) fn conditions(object: &Value, switches: &Switches) -> [(&'static str, bool); 4] {
    let records = of(object);
    let nothing = records.is_none();
    let records = records.unwrap_or_default();
    let all = |phase: Phase| !nothing && records.iter().all(|record| record.phase == phase);
    let old = nothing && switches.conditions_before_263;
    [
        ("Selected", !nothing),
        ("AllInjected", all(Phase::Injected) || old),
        ("AllRecovered", all(Phase::NotInjected) || old),
        ("Paused", is_paused(object)),
    ]
}

/// Whether the object shows these conditions, in whatever order.
pub(super) fn shows(object: &Value, conditions: &[(&'static str, bool); 4]) -> bool {
    let shown = array_at(object, "/status/conditions");
    conditions.iter().all(|(kind, holds)| {
        shown.iter().any(|condition| {
            str_at(condition, "/type") == Some(kind) && str_at(condition, "/status") == Some(truth(*holds))
        })
    })
}

/// Writes the conditions in another order, which says nothing, and is a new version all the same.
pub(super) fn touch(object: &mut Value) -> bool {
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    let Some(conditions) = conditions.filter(|conditions| conditions.len() > 1) else {
        return false;
    };
    conditions.rotate_left(1);
    true
}

/// As the API writes them.
pub(super) fn condition(kind: &str, holds: bool) -> Value {
    json!({"type": kind, "status": truth(holds)})
}

fn truth(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(phases: &[&str]) -> Value {
        let records: Vec<Value> = phases
            .iter()
            .map(|phase| json!({"id": "shop/a", "selectorKey": ".", "phase": phase, "injectedCount": 0, "recoveredCount": 0}))
            .collect();
        let mut object =
            json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"duration": "10s"}});
        if !records.is_empty() {
            object["status"] = json!({"experiment": {"containerRecords": records}});
        }
        object
    }

    fn shown(phases: &[&str], switches: &Switches) -> (bool, bool, bool) {
        let [selected, injected, recovered, _] = conditions(&experiment(phases), switches);
        (selected.1, injected.1, recovered.1)
    }

    #[test]
    fn conditions_follow_the_truth_table_of_their_version() {
        let now = Switches::default();
        for (phases, expected) in [
            (vec![], (false, false, false)),
            (vec!["Injected", "Injected"], (true, true, false)),
            (vec!["Not Injected"], (true, false, true)),
            (vec!["Injected", "Not Injected"], (true, false, false)),
            (vec!["Not Injected/Wait"], (true, false, false)),
            (vec!["Injected/Wait"], (true, false, false)),
        ] {
            assert_eq!(shown(&phases, &now), expected, "{phases:?}");
        }
        let old = Switches {
            conditions_before_263: true,
            ..Switches::default()
        };
        assert_eq!(shown(&[], &old), (false, true, true));
        assert_eq!(shown(&["Injected"], &old), (true, true, false));
    }

    #[test]
    fn a_record_that_waits_is_brought_to_its_end_first() {
        let mut record = Record::new("shop/a".into(), ".");
        assert_eq!(record.next(Desired::Run), Some(Operation::Apply));
        assert_eq!(record.next(Desired::Deleted), None);
        record.phase = Phase::Applying;
        assert_eq!(record.next(Desired::Deleted), Some(Operation::Apply), "the dead end");
        record.phase = Phase::Recovering;
        assert_eq!(record.next(Desired::Run), Some(Operation::Recover));
        record.phase = Phase::Injected;
        assert_eq!(
            (record.next(Desired::Run), record.next(Desired::TimeUp)),
            (None, Some(Operation::Recover))
        );
    }

    #[test]
    fn the_first_rule_for_the_phase_counts() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let none = Switches::default();
        let mut object = experiment(&[]);
        let decide = |object: &Value, time: &str| desired(Experiment::Network, object, &none, at(time));
        assert_eq!(decide(&object, "2026-01-01T00:00:09Z"), Desired::Run);
        assert_eq!(decide(&object, "2026-01-01T00:00:10Z"), Desired::TimeUp);
        object["metadata"]["annotations"] = json!({"experiment.chaos-mesh.org/pause": "true"});
        assert_eq!(decide(&object, "2026-01-01T00:00:09Z"), Desired::Paused);
        object["spec"]["duration"] = json!("");
        assert_eq!(decide(&object, "2027-01-01T00:00:00Z"), Desired::Paused, "no limit");
        object["spec"]["action"] = json!("pod-kill");
        let one_shot = desired(Experiment::Pod, &object, &none, at("2027-01-01T00:00:00Z"));
        assert_eq!(one_shot, Desired::Run);
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:01Z");
        assert_eq!(decide(&object, "2026-01-01T00:00:02Z"), Desired::Deleted);
    }
}
