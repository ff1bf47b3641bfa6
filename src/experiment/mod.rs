//! YAML text to a valid [`Experiment`], or to ALL of its problems at once.
//!
//! Pure: may depend on [`crate::model`], [`crate::fault`] and the guards of [`crate::plan`] only. Contract: a value of type
//! [`Experiment`] is valid; a [`Problem`] has a place, a stable code and says what to do. Rooms: `located` (YAML with places),
//! `file` and `fault_file` (the words of the file, and its JSON Schema), `shape` (the one checked against the other), `resolve`
//! and `faults` (words to values), `meaning` (what they mean together).

mod diagnostics;
mod fault_file;
mod fault_forms;
mod faults;
mod file;
mod injectors;
mod ledger;
mod limits;
mod located;
mod location;
mod meaning;
mod probes;
mod promql;
mod quantity;
mod resolve;
mod shape;
mod types;

pub use diagnostics::{Place, Problem, Problems, Severity};
pub use file::json_schema;
pub use location::{Location, NoLocation, READS_KAFKA, SinkFormat, Storage};
pub(crate) use quantity::duration as parse_duration;
pub use types::{
    About, Assertion, Check, Claim, Comparison, Experiment, Guards, Ledger, Limit, Operator, Over, Probe, RtoSlo,
    RtoStart, Setup, SetupPatch, Slos, SteadyState, StopCondition, Target, Timeouts, Trials, TrialsSlo, When, Workload,
    default_revert,
};

use std::collections::BTreeSet;

/// A valid experiment, and what is odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The experiment.
    pub experiment: Experiment,
    /// Variables that the document names.
    pub variables: BTreeSet<String>,
    warnings: Vec<Problem>,
}

impl Loaded {
    /// The warnings, if there are any, ready to be shown.
    #[must_use]
    pub fn warnings(&self, file_name: &str, source: &[u8]) -> Option<Problems> {
        (!self.warnings.is_empty()).then(|| Problems::of_file(file_name, source, self.warnings.clone()))
    }
}

/// Reads every document of a file. `lookup` gives the values of variables.
///
/// # Errors
/// All problems of all documents.
pub fn parse(file_name: &str, source: &[u8], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Loaded>, Problems> {
    let fail = |problems: Vec<Problem>| Problems::of_file(file_name, source, problems);
    let documents = located::documents(source).map_err(|problem| fail(vec![problem]))?;
    if documents.is_empty() {
        let help = Some("an experiment begins with apiVersion: chaosrun.dev/v1".to_owned());
        return Err(fail(vec![Problem::error(
            "empty",
            Place::START,
            "the file holds no document".to_owned(),
            help,
        )]));
    }
    let schema = file::filled_in_schema();
    let mut loaded: Vec<Loaded> = Vec::new();
    let mut problems = Vec::new();
    for document in &documents {
        let mut shape = shape::Shape::new(schema, lookup);
        let json = shape.document(document);
        let shape::Shape {
            problems: mut found,
            places,
            variables,
            ..
        } = shape;
        let mut resolver = resolve::Resolver::new(&places);
        let experiment = match serde_json::from_value::<file::ExperimentFile>(json) {
            Ok(file) => Some(resolver.experiment(file)),
            Err(error) => {
                // The shape check has said why already; if it has not, the two disagree, and this is better than nothing.
                if found.is_empty() {
                    found.push(Problem::error("decode", document.place, error.to_string(), None));
                }
                None
            }
        };
        found.append(&mut resolver.problems);
        if let Some(experiment) = experiment {
            if loaded.iter().any(|other| other.experiment.name == experiment.name) {
                let place = places.value("/metadata/name");
                let message = format!("two experiments of this file are called {:?}", experiment.name);
                found.push(Problem::error("duplicate-name", place, message, None));
            }
            let warnings = found
                .iter()
                .filter(|problem| problem.severity == Severity::Warning)
                .cloned()
                .collect();
            loaded.push(Loaded {
                experiment,
                variables,
                warnings,
            });
        }
        problems.append(&mut found);
    }
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(fail(problems));
    }
    Ok(loaded)
}
