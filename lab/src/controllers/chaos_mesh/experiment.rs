//! What an experiment of Chaos Mesh says and what follows from it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Annotation that pauses an experiment.
const PAUSE: &str = "experiment.chaos-mesh.org/pause";

/// An experiment as its object says it.
#[derive(Debug, Clone)]
pub(super) struct Experiment {
    pub kind: String,
    pub namespace: String,
    pub uid: String,
    pub spec: Value,
    pub deleting: bool,
    /// `status.experiment.desiredPhase`.
    pub phase: Option<String>,
    pub records: Vec<Record>,
    paused: bool,
    created: Option<Timestamp>,
    conditions: BTreeMap<String, bool>,
}

/// What the records should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Desired {
    Run,
    Deleted,
    TimeUp,
    Paused,
}

impl Desired {
    pub(super) fn word(self) -> &'static str {
        if self == Self::Run { "Run" } else { "Stop" }
    }

    pub(super) fn is_run(self) -> bool {
        self == Self::Run
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Run => "Started",
            Self::Deleted => "Deleted",
            Self::TimeUp => "TimeUp",
            Self::Paused => "Paused",
        }
    }
}

/// What is done to a record in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Apply,
    /// The rules are in place: the second half of an apply in two steps.
    Confirm,
    Recover,
}

impl Step {
    pub(super) fn is_apply(self) -> bool {
        self != Self::Recover
    }

    pub(super) fn verb(self) -> &'static str {
        if self.is_apply() { "apply" } else { "recover" }
    }

    pub(super) fn done_reason(self) -> &'static str {
        match self {
            Self::Apply | Self::Confirm => "Applied",
            Self::Recover => "Recovered",
        }
    }
}

/// One target and how far it got.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub id: String,
    pub selector_key: String,
    pub phase: String,
    pub injected: u64,
    pub recovered: u64,
    events: Vec<Value>,
}

const NOT_INJECTED: &str = "Not Injected";
const WAIT: &str = "Not Injected/Wait";
const INJECTED: &str = "Injected";

impl Record {
    fn new(id: String, selector_key: &str) -> Self {
        Self {
            id,
            selector_key: selector_key.to_owned(),
            phase: NOT_INJECTED.to_owned(),
            injected: 0,
            recovered: 0,
            events: Vec::new(),
        }
    }

    fn read(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
        Self {
            id: text("id"),
            selector_key: text("selectorKey"),
            phase: text("phase"),
            injected: number("injectedCount"),
            recovered: number("recoveredCount"),
            events: value
                .get("events")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
        }
    }

    pub(super) fn to_value(&self) -> Value {
        json!({
            "id": self.id, "selectorKey": self.selector_key, "phase": self.phase,
            "injectedCount": self.injected, "recoveredCount": self.recovered, "events": self.events,
        })
    }

    /// Namespace and name.
    pub(super) fn pod(&self) -> (&str, &str) {
        let mut parts = self.id.split('/');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    pub(super) fn container(&self) -> Option<&str> {
        self.id.split('/').nth(2)
    }

    /// What has to be done next, if anything.
    pub(super) fn step(&self, run: bool, experiment: &Experiment) -> Option<Step> {
        match (run, self.phase.as_str()) {
            (true, NOT_INJECTED) => Some(Step::Apply),
            // A record that waits is applied to its end first, even when everything should stop: upstream's dead end.
            (_, WAIT) => Some(Step::Confirm),
            (false, INJECTED) if !experiment.is_one_shot() || experiment.deleting => Some(Step::Recover),
            _ => None,
        }
    }

    /// Writes down how a step went.
    pub(super) fn note(&mut self, step: Step, error: Option<&String>, experiment: &Experiment) {
        let operation = if step.is_apply() { "Apply" } else { "Recover" };
        let stamp = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut event = json!({"type": "Succeeded", "operation": operation, "timestamp": stamp});
        match (error, step) {
            (Some(why), _) => {
                if let Some(map) = event.as_object_mut() {
                    map.insert("type".to_owned(), json!("Failed"));
                    map.insert("message".to_owned(), json!(why));
                }
            }
            // In two steps: the rules are set, and the next pass sees that they are.
            (None, Step::Apply) if experiment.waits() => {
                WAIT.clone_into(&mut self.phase);
                return;
            }
            (None, Step::Apply | Step::Confirm) => {
                INJECTED.clone_into(&mut self.phase);
                self.injected += 1;
            }
            (None, Step::Recover) => {
                NOT_INJECTED.clone_into(&mut self.phase);
                self.recovered += 1;
            }
        }
        self.events.push(event);
        if self.events.len() > 100 {
            self.events.remove(0);
        }
    }
}

/// Which pods are meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    /// Exactly these, by namespace; then nothing else counts.
    pub named: BTreeMap<String, Vec<String>>,
    pub namespaces: Vec<String>,
    /// In the API's syntax.
    pub labels: String,
    phases: Vec<String>,
}

impl Selector {
    fn read(value: &Value, own: &str) -> Self {
        let texts = |value: Option<&Value>| -> Vec<String> {
            let list = value.and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let named = value.get("pods").and_then(Value::as_object).into_iter().flatten();
        let labels = value
            .get("labelSelectors")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let mut namespaces = texts(value.get("namespaces"));
        if namespaces.is_empty() {
            namespaces.push(own.to_owned());
        }
        Self {
            named: named
                .map(|(namespace, names)| (namespace.clone(), texts(Some(names))))
                .collect(),
            namespaces,
            labels: labels
                .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
                .collect::<Vec<_>>()
                .join(","),
            phases: texts(value.get("podPhaseSelectors")),
        }
    }

    pub(super) fn fits(&self, pod: &Pod) -> bool {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or_default();
        self.phases.is_empty() || self.phases.iter().any(|wanted| wanted == phase)
    }
}

impl Experiment {
    pub(super) fn read(kind: &str, object: &DynamicObject) -> Self {
        let at = |pointer: &str| object.data.pointer(pointer);
        let conditions = at("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let records = at("/status/experiment/containerRecords")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        Self {
            kind: kind.to_owned(),
            namespace: object.namespace().unwrap_or_default(),
            uid: object.uid().unwrap_or_default(),
            spec: at("/spec").cloned().unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            phase: at("/status/experiment/desiredPhase")
                .and_then(Value::as_str)
                .map(str::to_owned),
            records: records.map(Record::read).collect(),
            paused: object.annotations().get(PAUSE).is_some_and(|value| value == "true"),
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            conditions: conditions
                .filter_map(|condition| {
                    let kind = condition.get("type")?.as_str()?.to_owned();
                    Some((kind, condition.get("status")?.as_str()? == "True"))
                })
                .collect(),
        }
    }

    fn text(&self, key: &str) -> &str {
        self.spec.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn action(&self) -> &str {
        self.text("action")
    }

    /// Applied once, and never taken back.
    pub(super) fn is_one_shot(&self) -> bool {
        self.kind == "PodChaos" && matches!(self.action(), "pod-kill" | "container-kill")
    }

    /// Needs no daemon.
    pub(super) fn is_on_api(&self) -> bool {
        self.kind == "PodChaos" && self.action() == "pod-kill"
    }

    /// Applied in two steps.
    fn waits(&self) -> bool {
        self.kind == "NetworkChaos"
    }

    fn duration(&self) -> Option<Duration> {
        // An unparsable or empty value means no limit.
        go_duration(self.text("duration"))
    }

    /// The first rule that matches counts.
    pub(super) fn desired_phase(&self, now: Timestamp) -> Desired {
        if self.deleting {
            Desired::Deleted
        } else if self.is_one_shot() {
            Desired::Run
        } else if self.left(now).is_some_and(|left| left.is_zero()) {
            Desired::TimeUp
        } else if self.paused {
            Desired::Paused
        } else {
            Desired::Run
        }
    }

    /// Time until the duration is over; it counts from the creation of the object, in whole seconds.
    fn left(&self, now: Timestamp) -> Option<Duration> {
        let age = Duration::try_from(now.duration_since(self.created?)).unwrap_or_default();
        Some(self.duration()?.saturating_sub(age))
    }

    /// When the object has to be looked at again, while its fault runs.
    pub(super) fn expires_in(&self, now: Timestamp) -> Option<Duration> {
        if self.deleting || self.is_one_shot() {
            return None;
        }
        self.left(now).filter(|left| !left.is_zero())
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_one_shot() || self.records.iter().all(|record| record.phase == NOT_INJECTED)
    }

    /// The four conditions as the records make them (2.6.3 and later).
    pub(super) fn conditions(&self) -> BTreeMap<String, bool> {
        let all = |phase: &str| !self.records.is_empty() && self.records.iter().all(|record| record.phase == phase);
        BTreeMap::from([
            ("Selected".to_owned(), !self.records.is_empty()),
            ("AllInjected".to_owned(), all(INJECTED)),
            ("AllRecovered".to_owned(), all(NOT_INJECTED)),
            ("Paused".to_owned(), self.paused),
        ])
    }

    pub(super) fn shown_conditions(&self) -> BTreeMap<String, bool> {
        self.conditions.clone()
    }

    pub(super) fn selector(&self) -> Selector {
        Selector::read(self.spec.get("selector").unwrap_or(&Value::Null), &self.namespace)
    }

    pub(super) fn target_selector(&self) -> Option<Selector> {
        let selector = self.spec.pointer("/target/selector")?;
        Some(Selector::read(selector, &self.namespace))
    }

    /// The records that a pod gives: itself, or each of the containers that are meant.
    pub(super) fn records_of(&self, pod: &Pod, selector_key: &str) -> Vec<Record> {
        let id = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let in_containers = self.kind == "StressChaos" || self.action() == "container-kill";
        if !in_containers {
            return vec![Record::new(id, selector_key)];
        }
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let names: Vec<&str> = containers.map(|container| container.name.as_str()).collect();
        let wanted = self.spec.get("containerNames").and_then(Value::as_array);
        let chosen: Vec<&str> = match wanted.filter(|wanted| !wanted.is_empty()) {
            Some(wanted) => names
                .into_iter()
                .filter(|name| wanted.iter().any(|held| held == name))
                .collect(),
            None => names.into_iter().take(1).collect(),
        };
        chosen
            .into_iter()
            .map(|container| Record::new(format!("{id}/{container}"), selector_key))
            .collect()
    }

    /// How many of them, by mode and value. Which ones is no business of a double: the first.
    pub(super) fn choose(&self, mut records: Vec<Record>) -> Vec<Record> {
        let value: usize = self.text("value").parse().unwrap_or(0);
        let count = match self.text("mode") {
            "one" => 1,
            "fixed" => value,
            "fixed-percent" => (records.len() * value).div_ceil(100),
            _ => records.len(),
        };
        records.truncate(count);
        records
    }
}

/// A Go duration, such as `1h30m`, `300ms`; none for anything else.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.'))?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        rest = next;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(phases: &[&str]) -> Experiment {
        let records: Vec<Value> = phases
            .iter()
            .map(|phase| json!({"id": "shop/a", "selectorKey": ".", "phase": phase, "injectedCount": 0, "recoveredCount": 0}))
            .collect();
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "chaos-mesh.org/v1alpha1", "kind": "NetworkChaos",
            "metadata": {"name": "x", "namespace": "shop"},
            "spec": {"action": "partition", "mode": "all", "duration": "1m30s"},
            "status": {"experiment": {"containerRecords": records}},
        }))
        .unwrap();
        Experiment::read("NetworkChaos", &object)
    }

    /// The truth table of `specs/chaos-mesh.md`, section 4.
    #[test]
    fn conditions_follow_the_truth_table() {
        for (phases, selected, injected, recovered) in [
            (vec![], false, false, false),
            (vec!["Injected", "Injected"], true, true, false),
            (vec!["Not Injected"], true, false, true),
            (vec!["Injected", "Not Injected"], true, false, false),
            (vec!["Not Injected/Wait"], true, false, false),
        ] {
            let conditions = experiment(&phases).conditions();
            let shown = (
                conditions["Selected"],
                conditions["AllInjected"],
                conditions["AllRecovered"],
            );
            assert_eq!(shown, (selected, injected, recovered), "{phases:?}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        assert_eq!(go_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(go_duration("300ms"), Some(Duration::from_millis(300)));
        for text in ["", "30", "1d", "soon"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn network_faults_are_applied_in_two_steps_and_a_waiting_record_is_a_dead_end() {
        let experiment = experiment(&["Not Injected"]);
        let mut record = experiment.records[0].clone();
        assert_eq!(record.step(true, &experiment), Some(Step::Apply));
        record.note(Step::Apply, None, &experiment);
        assert_eq!((record.phase.as_str(), record.injected), ("Not Injected/Wait", 0));
        assert_eq!(
            record.step(false, &experiment),
            Some(Step::Confirm),
            "not recovered directly"
        );
        record.note(Step::Confirm, None, &experiment);
        assert_eq!((record.phase.as_str(), record.injected), ("Injected", 1));
        assert_eq!(record.step(false, &experiment), Some(Step::Recover));
    }
}
