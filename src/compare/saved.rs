//! What a run leaves behind for later comparisons.

use crate::evidence::{ClusterInfo, Event, Record};
use crate::experiment::{Experiment, RtoStart};
use crate::report::{ExperimentReport, TrialReport, Value, build};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name and version of the format.
pub const SCHEMA: &str = "chaosrun.saved/v1";

/// The name under which every trial's recovery time is kept, whether the experiment claims one or not.
pub(super) const RECOVERY: &str = "recovery";

/// One experiment of one run: its trials' measured values and what they depend on. Small and stable, so that it can be kept in a
/// repository; the log it was made from is named by its hash and not contained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Saved {
    /// [`SCHEMA`].
    pub schema: String,
    /// A name that a person gave it (a build, a release); runs of one name belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The experiment.
    pub experiment: String,
    /// Id of the run.
    pub run: String,
    /// When the run started, RFC 3339.
    pub started_at: String,
    /// Version of chaosrun that ran it.
    pub version: String,
    /// Against what.
    pub cluster: ClusterInfo,
    /// Hash of the last line of its event log.
    pub head: String,
    /// How many lines stand behind the numbers.
    pub records: usize,
    /// The log is whole: the run ended in an orderly way.
    pub complete: bool,
    /// What really ran, with its image or version. A new build is what one compares, so it may differ.
    pub workload: String,
    /// What the numbers depend on, as path and value. Two runs with another setting measured something else.
    pub setting: BTreeMap<String, String>,
    /// The limits that were claimed. Other limits do not change what was measured.
    pub limits: BTreeMap<String, String>,
    /// What was measured, in the order of the report.
    pub measures: Vec<SavedMeasure>,
    /// Trials that say nothing, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// One measured quantity in every trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedMeasure {
    /// Its name.
    pub name: String,
    /// Its unit, empty for a share.
    pub unit: String,
    /// One per trial in which it was measured.
    pub trials: Vec<SavedValue>,
}

/// A value with its error bar.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedValue {
    /// Number of the trial.
    pub trial: u32,
    /// The truth is not below this; how long was watched when it never ended.
    pub lower: f64,
    /// The truth is not above this; none when it never ended.
    pub upper: Option<f64>,
}

/// A trial that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeftOut {
    /// Number of the trial.
    pub trial: u32,
    /// Why.
    pub why: String,
}

impl Saved {
    /// One per experiment of a log, in its order. Everything is recomputed from the records; no report is read.
    #[must_use]
    pub fn of(records: &[Record]) -> Vec<Self> {
        let run = build(records);
        let experiments = records.iter().filter_map(|record| match &record.event {
            Event::ExperimentStarted { experiment, .. } => Some(experiment.as_ref()),
            _ => None,
        });
        run.experiments
            .iter()
            .zip(experiments)
            .map(|(report, experiment)| Self {
                schema: SCHEMA.to_owned(),
                name: None,
                experiment: report.name.clone(),
                run: run.run.id.clone(),
                started_at: run.run.started_at.clone(),
                version: run.run.version.clone(),
                cluster: run.run.cluster.clone(),
                head: run.run.evidence.head.clone(),
                records: run.run.evidence.records,
                complete: run.run.complete,
                workload: report.workload.clone(),
                setting: setting(experiment, report, &run.run.cluster),
                limits: limits(report),
                measures: measures(report),
                left_out: left_out(report),
            })
            .collect()
    }

    /// The measure of this name.
    pub(super) fn measure(&self, name: &str) -> Option<&SavedMeasure> {
        self.measures.iter().find(|measure| measure.name == name)
    }
}

/// Whether anything of the trial may be used: its numbers stand, whatever the verdict. What a stop condition ended was watched until
/// then, and that is a lower bound.
fn usable(trial: &TrialReport) -> Result<(), String> {
    if let Some(why) = &trial.spoiled {
        return Err(why.clone());
    }
    if trial.rto.lower.is_none() {
        let why = trial.rto.reason.clone();
        return Err(why.unwrap_or_else(|| "its recovery was not measured".to_owned()));
    }
    Ok(())
}

fn left_out(report: &ExperimentReport) -> Vec<LeftOut> {
    report
        .trials
        .iter()
        .filter_map(|trial| {
            let why = usable(trial).err()?;
            Some(LeftOut {
                trial: trial.index,
                why,
            })
        })
        .collect()
}

fn saved(trial: u32, value: &Value) -> Option<SavedValue> {
    Some(SavedValue {
        trial,
        lower: value.lower?,
        upper: value.upper,
    })
}

/// The recovery first, then every other claim that has a number.
fn measures(report: &ExperimentReport) -> Vec<SavedMeasure> {
    let usable: Vec<&TrialReport> = report.trials.iter().filter(|trial| usable(trial).is_ok()).collect();
    let mut measures = vec![SavedMeasure {
        name: RECOVERY.to_owned(),
        unit: "s".to_owned(),
        trials: usable
            .iter()
            .filter_map(|trial| saved(trial.index, &trial.rto))
            .collect(),
    }];
    for claim in &report.claims {
        // The recovery is there already; violations of an assertion depend on how long a trial was watched.
        if claim.name.starts_with("rto") || claim.unit == "violations" {
            continue;
        }
        let value = |trial: &&TrialReport| {
            let judged = trial.claims.iter().find(|judged| judged.name == claim.name)?;
            saved(trial.index, &judged.measured)
        };
        measures.push(SavedMeasure {
            name: claim.name.clone(),
            unit: claim.unit.to_owned(),
            trials: usable.iter().filter_map(value).collect(),
        });
    }
    measures
}

fn limits(report: &ExperimentReport) -> BTreeMap<String, String> {
    let shown = |claim: &crate::report::ClaimReport| {
        let limit = crate::verdict::count(claim.limit);
        format!("{} {limit} {}", claim.operator, claim.unit)
            .trim_end()
            .to_owned()
    };
    report
        .claims
        .iter()
        .map(|claim| (claim.name.clone(), shown(claim)))
        .collect()
}

/// Everything that decides what is measured, one line per fact, so that a difference can be named.
fn setting(experiment: &Experiment, report: &ExperimentReport, cluster: &ClusterInfo) -> BTreeMap<String, String> {
    let mut setting = BTreeMap::new();
    let from = match experiment.slos.rto.map_or(RtoStart::Fault, |rto| rto.from) {
        RtoStart::Fault => "the fault",
        RtoStart::Impact => "the first symptom",
    };
    let stand_in = if report.stand_in { "a stand-in" } else { "the real one" };
    setting.insert("recovery counted from".to_owned(), from.to_owned());
    setting.insert("workload".to_owned(), stand_in.to_owned());
    setting.insert("cluster".to_owned(), cluster.kind.clone());
    let ledger = if experiment.ledger.is_some() { "yes" } else { "none" };
    setting.insert("ledger".to_owned(), ledger.to_owned());
    let json = |part: Result<serde_json::Value, _>| part.unwrap_or_default();
    flatten("target", &json(serde_json::to_value(&experiment.target)), &mut setting);
    for (index, fault) in experiment.faults.iter().enumerate() {
        let path = format!("fault {} ({})", index + 1, fault.name);
        flatten(&path, &json(serde_json::to_value(fault)), &mut setting);
    }
    for probe in &experiment.steady_state.probes {
        let path = format!("probe {}", probe.name);
        flatten(&path, &json(serde_json::to_value(&probe.check)), &mut setting);
    }
    setting
}

/// `faults.0.kind.graceSeconds: 0` and the like. What is not set is left out.
fn flatten(path: &str, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    use serde_json::Value as Json;
    match value {
        Json::Null => {}
        Json::Object(fields) => {
            for (key, value) in fields {
                flatten(&format!("{path}.{key}"), value, into);
            }
        }
        Json::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                flatten(&format!("{path}.{index}"), value, into);
            }
        }
        Json::String(text) => {
            into.insert(path.to_owned(), text.clone());
        }
        Json::Bool(_) | Json::Number(_) => {
            into.insert(path.to_owned(), value.to_string());
        }
    }
}
