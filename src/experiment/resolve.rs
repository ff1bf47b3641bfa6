//! From the file's words to a valid experiment, and what the words mean together.

use super::diagnostics::{Place, Problem};
use super::faults::repeated;
use super::file::{ComparisonText, DurationText, ExperimentFile, TargetFile};
use super::quantity::{comparison, duration};
use super::shape::{Places, suggestion};
use super::types::{
    Claim, Comparison, Experiment, Guards, Operator, Setup, SetupPatch, Slos, SteadyState, StopCondition, Target,
    Timeouts, Workload,
};
use crate::model::Role;
use std::collections::BTreeMap;
use std::time::Duration;

const PROTECTED: [&str; 7] = [
    "kube-*",
    "chaos-mesh",
    "litmus",
    "monitoring",
    "spark-operator",
    "istio-system",
    "cert-manager",
];

/// Collects problems while resolving one document.
pub(super) struct Resolver<'a> {
    pub(super) places: &'a Places,
    pub(super) problems: Vec<Problem>,
    roles: &'static [&'static str],
}

impl<'a> Resolver<'a> {
    pub(super) fn new(places: &'a Places) -> Self {
        Self {
            places,
            problems: Vec::new(),
            roles: &[],
        }
    }

    pub(super) fn error(&mut self, code: &'static str, place: Place, message: impl Into<String>, help: Option<&str>) {
        self.problems
            .push(Problem::error(code, place, message.into(), help.map(str::to_owned)));
    }

    pub(super) fn warn(&mut self, code: &'static str, place: Place, message: impl Into<String>, help: &str) {
        self.problems
            .push(Problem::warning(code, place, message.into(), Some(help.to_owned())));
    }

    pub(super) fn at(&self, pointer: &str) -> Place {
        self.places.value(pointer)
    }

    pub(super) fn duration(&mut self, pointer: &str, text: Option<&DurationText>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        match duration(&text.0) {
            Ok(value) => value,
            Err(why) => {
                self.error("duration", self.at(pointer), why, None);
                default
            }
        }
    }

    pub(super) fn comparison(&mut self, pointer: &str, text: &ComparisonText) -> Comparison {
        comparison(&text.0).unwrap_or_else(|why| {
            self.error("comparison", self.at(pointer), why, None);
            Comparison {
                operator: Operator::GreaterOrEqual,
                value: 0.0,
            }
        })
    }

    /// The experiment, and what is wrong with it in `problems`.
    pub(super) fn experiment(&mut self, file: ExperimentFile) -> Experiment {
        self.dns_name("/metadata/name", &file.metadata.name, 40);
        self.dns_name("/target/namespace", &file.target.namespace, 63);
        let target = self.target(&file.target);
        let ledger = file.ledger.map(|held| self.ledger(held));
        let probes = self.probes("/steadyState/probes", &file.steady_state.probes);
        if self.places.empty("/steadyState/probes") {
            let help = "without a probe nothing could be seen to break or to come back";
            self.error(
                "no-probe",
                self.at("/steadyState/probes"),
                "the steady state has no probe",
                Some(help),
            );
        }
        let mut slos = self.slos(&file.slos);
        let budgets: Vec<Option<Duration>> = (file.stop.iter().enumerate())
            .map(|(index, held)| {
                let text = held.budget.as_ref()?;
                Some(self.positive(&format!("/stop/{index}/budget"), Some(text), Duration::ZERO))
            })
            .collect();
        let stop = self
            .probes("/stop", &file.stop)
            .into_iter()
            .zip(budgets)
            .map(|(probe, budget)| StopCondition { probe, budget })
            .collect();
        let timeouts = self.timeouts(&file.timeouts, &slos);
        slos.over_trials
            .extend(self.recovered(file.slos.recovered.as_ref(), timeouts.recovery));
        let trials = self.trials(&file.trials, &slos);
        let guards = self.guards(&file.guards);
        let faults = self.faults(&file.faults, &target);
        let repeats = self.repeats(&file.faults);
        let prometheus_url = file.prometheus.map(|held| held.url);
        if let Some(url) = &prometheus_url {
            self.url("/prometheus/url", url);
        }
        let mut experiment = Experiment {
            name: file.metadata.name,
            description: file.metadata.description,
            claim: Claim {
                text: file.claim.text,
                source: file.claim.source,
            },
            target,
            setup: Setup {
                manifests: file.setup.manifests,
                patches: file
                    .setup
                    .patches
                    .into_iter()
                    .map(|patch| SetupPatch {
                        kind: patch.kind,
                        name: patch.name,
                        merge: patch.merge.into(),
                    })
                    .collect(),
                unless_target_exists: file.setup.unless_target_exists,
                keep: file.setup.keep,
            },
            steady_state: SteadyState { probes },
            faults,
            slos,
            ledger,
            trials,
            timeouts,
            stop,
            guards,
            tools_image: file.tools.image.unwrap_or_else(super::types::default_tools_image),
            litmus_account: file
                .litmus
                .service_account
                .unwrap_or_else(super::types::default_litmus_account),
            prometheus_url,
        };
        self.object_name("/litmus/serviceAccount", &experiment.litmus_account);
        self.meaning(&experiment, &repeats);
        experiment.faults = repeated(experiment.faults, &repeats);
        experiment
    }

    pub(super) fn dns_name(&mut self, pointer: &str, name: &str, longest: usize) {
        let fits = !name.is_empty()
            && name.len() <= longest
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !fits {
            let help = format!("lower-case letters, digits and dashes, at most {longest} characters");
            self.error(
                "name",
                self.at(pointer),
                format!("{name:?} is no valid name"),
                Some(&help),
            );
        }
    }

    /// Name of a Kubernetes object: a DNS-1123 subdomain.
    pub(super) fn object_name(&mut self, pointer: &str, name: &str) {
        let fits = name.len() <= 253
            && name.split('.').all(|part| {
                !part.is_empty()
                    && !part.starts_with('-')
                    && !part.ends_with('-')
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            });
        if !fits {
            self.error(
                "name",
                self.at(pointer),
                format!("{name:?} is no name of a Kubernetes object, so nothing can match"),
                Some("lower-case letters, digits, dashes and dots"),
            );
        }
    }

    /// Labels of a selector: no pod can carry a label that Kubernetes would not accept.
    pub(super) fn labels(&mut self, pointer: &str, labels: Option<&BTreeMap<String, String>>) -> Vec<(String, String)> {
        for (key, value) in labels.into_iter().flatten() {
            let (prefix, name) = key
                .rsplit_once('/')
                .map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
            if name.is_empty() || !label_word(name) || prefix.is_some_and(str::is_empty) {
                let place = self.places.key(&format!("{pointer}/{key}"));
                let help = "a label key is [prefix/]name: letters, digits, '-', '_' and '.', at most 63 characters";
                self.error(
                    "label",
                    place,
                    format!("{key:?} is no label key, so nothing can match"),
                    Some(help),
                );
            }
            if !label_word(value) {
                let place = self.at(&format!("{pointer}/{key}"));
                let help = "a label value has letters, digits, '-', '_' and '.', at most 63 characters";
                self.error(
                    "label",
                    place,
                    format!("{value:?} is no label value, so nothing can match"),
                    Some(help),
                );
            }
        }
        labels
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    pub(super) fn url(&mut self, pointer: &str, url: &str) {
        let parsed = url.replace("{podIP}", "127.0.0.1").parse::<http::Uri>();
        let fits = parsed.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        if !fits {
            self.error(
                "url",
                self.at(pointer),
                format!("{url:?} is no http or https URL"),
                None,
            );
        }
    }

    pub(super) fn positive(&mut self, pointer: &str, text: Option<&DurationText>, default: Duration) -> Duration {
        let value = self.duration(pointer, text, default);
        if value < Duration::from_millis(10) {
            self.error(
                "interval",
                self.at(pointer),
                "an interval below 10 ms cannot be kept",
                Some("use 10ms or more"),
            );
            return default;
        }
        value
    }

    /// Exactly one of several keys of a mapping; the place of the mapping otherwise.
    pub(super) fn one_of(&mut self, pointer: &str, what: &str, present: &[(&'static str, bool)]) -> bool {
        let set: Vec<&str> = present.iter().filter(|(_, set)| *set).map(|(key, _)| *key).collect();
        if set.len() == 1 {
            return true;
        }
        if set.is_empty() {
            let written = present
                .iter()
                .map(|(key, _)| *key)
                .find(|key| self.places.written(&format!("{pointer}/{key}")));
            if let Some(key) = written {
                if self.places.empty(&format!("{pointer}/{key}")) {
                    let place = self.places.key(&format!("{pointer}/{key}"));
                    let help = format!("write {key}: {{}} when there is nothing to say about it");
                    self.error("no-value", place, format!("{key} has no value"), Some(&help));
                }
                // Otherwise what is written has been complained of.
                return false;
            }
            // A key that is misspelt, or something that is no mapping, has been complained of as well.
            if self.places.misspelt_below(pointer) || !self.places.mapping(pointer) {
                return false;
            }
        }
        let all: Vec<&str> = present.iter().map(|(key, _)| *key).collect();
        let (message, place) = match set.get(1) {
            Some(second) => (
                format!("{what} has {} at once, wanted exactly one", set.join(" and ")),
                self.places.key(&format!("{pointer}/{second}")),
            ),
            // A long list is read once, in the help.
            None if all.len() > 8 => (format!("{what} does not say what it is"), self.at(pointer)),
            None => (format!("{what} has none of {}", all.join(", ")), self.at(pointer)),
        };
        let help = format!("give exactly one of {}", all.join(", "));
        self.error("exactly-one", place, message, Some(&help));
        false
    }

    fn target(&mut self, file: &TargetFile) -> Target {
        let present = [
            ("sparkApplication", file.spark_application.is_some()),
            ("deployment", file.deployment.is_some()),
            ("statefulSet", file.stateful_set.is_some()),
            ("job", file.job.is_some()),
            ("labels", file.labels.is_some()),
        ];
        self.one_of("/target", "the target", &present);
        let names = [
            ("sparkApplication", &file.spark_application),
            ("deployment", &file.deployment),
            ("statefulSet", &file.stateful_set),
            ("job", &file.job),
        ];
        for (key, name) in names {
            if let Some(name) = name {
                self.object_name(&format!("/target/{key}"), name);
            }
        }
        let workload = if let Some(name) = &file.spark_application {
            self.roles = &["driver", "executor"];
            Workload::SparkApplication { name: name.clone() }
        } else if let Some(name) = &file.deployment {
            Workload::Deployment { name: name.clone() }
        } else if let Some(name) = &file.stateful_set {
            Workload::StatefulSet { name: name.clone() }
        } else if let Some(name) = &file.job {
            Workload::Job { name: name.clone() }
        } else {
            let labels = self.labels("/target/labels", file.labels.as_ref());
            if file.labels.as_ref().is_some_and(BTreeMap::is_empty) {
                let help = "an empty selector would match every pod of the namespace";
                self.error(
                    "selector-empty",
                    self.at("/target/labels"),
                    "the target needs at least one label",
                    Some(help),
                );
            }
            Workload::Labels { labels }
        };
        Target {
            namespace: file.namespace.clone(),
            workload,
        }
    }

    pub(super) fn role(&mut self, pointer: &str, role: Option<&String>) -> Option<Role> {
        let role = role?;
        if self.roles.is_empty() {
            let help = "only a sparkApplication has roles (driver, executor); leave role out";
            self.error(
                "role",
                self.at(pointer),
                format!("this kind of target has no role {role:?}, so nothing can match"),
                Some(help),
            );
            return None;
        }
        if !self.roles.contains(&role.as_str()) {
            let help = suggestion(role, self.roles);
            self.error(
                "role",
                self.at(pointer),
                format!("no pod of the target has the role {role:?}, so nothing can match"),
                Some(&help),
            );
            return None;
        }
        Some(Role(role.clone()))
    }

    fn timeouts(&mut self, file: &super::file::TimeoutsFile, slos: &Slos) -> Timeouts {
        let limit = slos.rto_limits().map(|limit| limit.max).fold(0.0, f64::max);
        let limit = Duration::from_secs_f64(limit.clamp(0.0, 1e6));
        let recovery = (limit + limit / 4).max(Duration::from_mins(1));
        Timeouts {
            setup: self.duration("/timeouts/setup", file.setup.as_ref(), Duration::from_mins(2)),
            baseline: self.duration("/timeouts/baseline", file.baseline.as_ref(), Duration::from_mins(5)),
            recovery: self.duration("/timeouts/recovery", file.recovery.as_ref(), recovery),
            settle: self.duration("/timeouts/settle", file.settle.as_ref(), Duration::from_secs(15)),
        }
    }

    fn guards(&mut self, file: &super::file::GuardsFile) -> Guards {
        Guards {
            protected_namespaces: file
                .protected_namespaces
                .clone()
                .unwrap_or_else(|| PROTECTED.iter().map(|held| (*held).to_owned()).collect()),
            max_percent: file.max_percent.unwrap_or(50),
            deadline: self.duration("/guards/deadline", file.deadline.as_ref(), Duration::from_mins(2)),
            revert: self.duration("/guards/revert", file.revert.as_ref(), super::types::default_revert()),
        }
    }
}

/// Letters, digits, `-`, `_`, `.`; begins and ends with a letter or digit; may be empty.
fn label_word(word: &str) -> bool {
    word.len() <= 63
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && word.bytes().next().is_none_or(|byte| byte.is_ascii_alphanumeric())
        && word.bytes().last().is_none_or(|byte| byte.is_ascii_alphanumeric())
}
