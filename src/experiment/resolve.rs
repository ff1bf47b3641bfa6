//! From the file's words to a valid experiment, and what the words mean together.

use super::diagnostics::{Place, Problem};
use super::file::{
    ComparisonText, DurationText, ExperimentFile, FaultFile, LimitText, ModeFile, ProbeFile,
    SlosFile, TargetFile,
};
use super::promql;
use super::quantity::{comparison, count_limit, duration, share, time_limit};
use super::shape::{Places, suggestion};
use super::types::{
    Assertion, Check, Claim, Comparison, Experiment, Guards, Ledger, Limit, Operator, Probe,
    RtoSlo, RtoStart, Setup, SetupPatch, Slos, SteadyState, StopCondition, Target, Timeouts, Trials, When,
    Workload,
};
use crate::fault::{FaultKind, FaultSpec, Injector, Mode, Signal};
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
    places: &'a Places,
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

    fn error(
        &mut self,
        code: &'static str,
        place: Place,
        message: impl Into<String>,
        help: Option<&str>,
    ) {
        self.problems.push(Problem::error(
            code,
            place,
            message.into(),
            help.map(str::to_owned),
        ));
    }

    fn warn(&mut self, code: &'static str, place: Place, message: impl Into<String>, help: &str) {
        self.problems.push(Problem::warning(
            code,
            place,
            message.into(),
            Some(help.to_owned()),
        ));
    }

    fn at(&self, pointer: &str) -> Place {
        self.places.value(pointer)
    }

    fn duration(
        &mut self,
        pointer: &str,
        text: Option<&DurationText>,
        default: Duration,
    ) -> Duration {
        let Some(text) = text else { return default };
        match duration(&text.0) {
            Ok(value) => value,
            Err(why) => {
                self.error("duration", self.at(pointer), why, None);
                default
            }
        }
    }

    fn comparison(&mut self, pointer: &str, text: &ComparisonText) -> Comparison {
        comparison(&text.0).unwrap_or_else(|why| {
            self.error("comparison", self.at(pointer), why, None);
            Comparison {
                operator: Operator::GreaterOrEqual,
                value: 0.0,
            }
        })
    }

    fn limit(
        &mut self,
        pointer: &str,
        text: Option<&LimitText>,
        parse: fn(&str) -> Result<Limit, String>,
    ) -> Option<Limit> {
        match parse(&text?.0) {
            Ok(limit) => Some(limit),
            Err(why) => {
                self.error("limit", self.at(pointer), why, None);
                None
            }
        }
    }

    /// The experiment, and what is wrong with it in `problems`.
    pub(super) fn experiment(&mut self, file: ExperimentFile) -> Experiment {
        self.dns_name("/metadata/name", &file.metadata.name, 40);
        self.dns_name("/target/namespace", &file.target.namespace, 63);
        let target = self.target(&file.target);
        let ledger = file.ledger.map(|held| {
            if held.reader.is_empty() {
                self.error(
                    "selector-empty",
                    self.at("/ledger/reader"),
                    "a reader needs at least one label",
                    None,
                );
            }
            Ledger {
                reader: held.reader.into_iter().collect(),
                container: held.container,
                acknowledged: held.acknowledged,
                sink: held.sink,
                id_field: held.id_field.unwrap_or_else(|| "id".to_owned()),
                checkpoint: held.checkpoint,
                interval: self.positive(
                    "/ledger/interval",
                    held.interval.as_ref(),
                    Duration::from_millis(100),
                ),
                drain: self.duration(
                    "/ledger/drain",
                    held.drain.as_ref(),
                    Duration::from_secs(60),
                ),
            }
        });
        let probes = self.probes("/steadyState/probes", &file.steady_state.probes);
        if probes.is_empty() {
            let help = "without a probe nothing could be seen to break or to come back";
            self.error(
                "no-probe",
                self.at("/steadyState/probes"),
                "the steady state has no probe",
                Some(help),
            );
        }
        let slos = self.slos(&file.slos);
        let stop = self
            .probes("/stop", &file.stop)
            .into_iter()
            .map(|probe| StopCondition { probe })
            .collect();
        let timeouts = self.timeouts(&file.timeouts, &slos);
        let guards = self.guards(&file.guards);
        let faults = self.faults(&file.faults);
        let prometheus_url = file.prometheus.map(|held| held.url);
        if let Some(url) = &prometheus_url {
            self.url("/prometheus/url", url);
        }
        let experiment = Experiment {
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
                    .map(|patch| SetupPatch { kind: patch.kind, name: patch.name, merge: patch.merge.into() })
                    .collect(),
                keep: file.setup.keep,
            },
            steady_state: SteadyState { probes },
            faults,
            slos,
            ledger,
            trials: Trials {
                count: file.trials.count.unwrap_or(1),
                cooldown: self.duration(
                    "/trials/cooldown",
                    file.trials.cooldown.as_ref(),
                    Duration::from_secs(10),
                ),
            },
            timeouts,
            stop,
            guards,
            prometheus_url,
        };
        self.meaning(&experiment);
        experiment
    }

    fn dns_name(&mut self, pointer: &str, name: &str, longest: usize) {
        let fits = !name.is_empty()
            && name.len() <= longest
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !fits {
            let help =
                format!("lower-case letters, digits and dashes, at most {longest} characters");
            self.error(
                "name",
                self.at(pointer),
                format!("{name:?} is no valid name"),
                Some(&help),
            );
        }
    }

    fn url(&mut self, pointer: &str, url: &str) {
        let parsed = url.replace("{podIP}", "127.0.0.1").parse::<http::Uri>();
        let fits = parsed.is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        if !fits {
            self.error(
                "url",
                self.at(pointer),
                format!("{url:?} is no http or https URL"),
                None,
            );
        }
    }

    fn positive(
        &mut self,
        pointer: &str,
        text: Option<&DurationText>,
        default: Duration,
    ) -> Duration {
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
    fn one_of(&mut self, pointer: &str, what: &str, present: &[(&'static str, bool)]) -> bool {
        let set: Vec<&str> = present
            .iter()
            .filter(|(_, set)| *set)
            .map(|(key, _)| *key)
            .collect();
        if set.len() == 1 {
            return true;
        }
        let all: Vec<&str> = present.iter().map(|(key, _)| *key).collect();
        let (message, place) = match set.get(1) {
            Some(second) => (
                format!(
                    "{what} has {} at once, wanted exactly one",
                    set.join(" and ")
                ),
                self.places.key(&format!("{pointer}/{second}")),
            ),
            None => (
                format!("{what} has none of {}", all.join(", ")),
                self.at(pointer),
            ),
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
            let labels: Vec<_> = file
                .labels
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
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

    fn role(&mut self, pointer: &str, role: Option<&String>) -> Option<Role> {
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

    fn probes(&mut self, pointer: &str, files: &[ProbeFile]) -> Vec<Probe> {
        files
            .iter()
            .enumerate()
            .filter_map(|(index, file)| self.probe(&format!("{pointer}/{index}"), file))
            .collect()
    }

    fn probe(&mut self, pointer: &str, file: &ProbeFile) -> Option<Probe> {
        let present = [
            ("pods", file.pods.is_some()),
            ("resource", file.resource.is_some()),
            ("promql", file.promql.is_some()),
            ("http", file.http.is_some()),
            ("metrics", file.metrics.is_some()),
            ("log", file.log.is_some()),
            ("command", file.command.is_some()),
            ("progress", file.progress.is_some()),
        ];
        if file.name.trim().is_empty() {
            self.error(
                "name",
                self.at(&format!("{pointer}/name")),
                "a probe needs a name",
                None,
            );
        }
        if !self.one_of(pointer, &format!("the probe {:?}", file.name), &present) {
            return None;
        }
        let (check, default_interval) = self.check(pointer, file)?;
        let interval = self.positive(
            &format!("{pointer}/interval"),
            file.interval.as_ref(),
            default_interval,
        );
        if file.interval.is_some()
            && (check.is_watched() || matches!(check, Check::Progress { .. }))
        {
            let place = self.places.key(&format!("{pointer}/interval"));
            self.warn(
                "interval-unused",
                place,
                "this probe follows a watch or the ledger and has no sampling interval",
                "leave it out",
            );
        }
        let timeout = self.positive(
            &format!("{pointer}/timeout"),
            file.timeout.as_ref(),
            Duration::from_secs(2),
        );
        let hold = self.duration(
            &format!("{pointer}/hold"),
            file.hold.as_ref(),
            Duration::from_secs(3),
        );
        Some(Probe {
            name: file.name.clone(),
            check,
            interval,
            timeout,
            hold,
        })
    }

    fn check(&mut self, pointer: &str, file: &ProbeFile) -> Option<(Check, Duration)> {
        let second = Duration::from_secs(1);
        if let Some(held) = &file.pods {
            let role = self.role(&format!("{pointer}/pods/role"), held.role.as_ref());
            let ready = self.comparison(&format!("{pointer}/pods/ready"), &held.ready);
            if ready.operator == Operator::Less && ready.value <= 0.0 || ready.value < 0.0 {
                self.error(
                    "cannot-hold",
                    self.at(&format!("{pointer}/pods/ready")),
                    "a number of pods is never negative",
                    None,
                );
            }
            return Some((Check::Pods { role, ready }, second));
        }
        if let Some(held) = &file.resource {
            let named = [
                held.api_version.is_some(),
                held.kind.is_some(),
                held.name.is_some(),
            ];
            if named.contains(&true) && named.contains(&false) {
                let help = "give all three, or none of them for the target's own object";
                self.error(
                    "resource",
                    self.at(&format!("{pointer}/resource")),
                    "apiVersion, kind and name go together",
                    Some(help),
                );
            }
            let check = Check::Resource {
                api_version: held.api_version.clone(),
                resource_kind: held.kind.clone(),
                name: held.name.clone(),
                field: held.field.clone(),
                equals: held.equals.clone(),
            };
            return Some((check, second));
        }
        if let Some(held) = &file.promql {
            let is = self.comparison(&format!("{pointer}/promql/is"), &held.is);
            let place = self.at(&format!("{pointer}/promql/query"));
            self.problems.extend(promql::lint(&held.query, is, place));
            return Some((
                Check::Promql {
                    query: held.query.clone(),
                    is,
                },
                second,
            ));
        }
        if let Some(held) = &file.http {
            self.url(&format!("{pointer}/http/url"), &held.url);
            let role = self.role(&format!("{pointer}/http/role"), held.role.as_ref());
            let check = Check::Http {
                url: held.url.clone(),
                status: held.status.unwrap_or(200),
                body_contains: held.body_contains.clone(),
                role,
            };
            return Some((check, Duration::from_millis(100)));
        }
        if let Some(held) = &file.metrics {
            let check = Check::Metrics {
                role: self.role(&format!("{pointer}/metrics/role"), held.role.as_ref()),
                port: held.port,
                path: held.path.clone().unwrap_or_else(|| "/metrics".to_owned()),
                metric: held.metric.clone(),
                is: self.comparison(&format!("{pointer}/metrics/is"), &held.is),
            };
            return Some((check, Duration::from_millis(250)));
        }
        if let Some(held) = &file.log {
            let role = self.role(&format!("{pointer}/log/role"), held.role.as_ref());
            return Some((
                Check::Log {
                    role,
                    contains: held.contains.clone(),
                },
                second,
            ));
        }
        if let Some(held) = &file.command {
            if held.run.is_empty() {
                self.error(
                    "command",
                    self.at(&format!("{pointer}/command/run")),
                    "the command is empty",
                    None,
                );
            }
            return Some((
                Check::Command {
                    run: held.run.clone(),
                    exit_code: held.exit_code.unwrap_or(0),
                },
                second,
            ));
        }
        let held = file.progress.as_ref()?;
        let within = self.positive(
            &format!("{pointer}/progress/within"),
            Some(&held.within),
            Duration::from_secs(10),
        );
        Some((Check::Progress { within }, second))
    }

    fn slos(&mut self, file: &SlosFile) -> Slos {
        let from = match file.rto_from.as_deref() {
            Some("impact") => RtoStart::Impact,
            _ => RtoStart::Fault,
        };
        let availability = file
            .availability
            .as_ref()
            .and_then(|text| match share(&text.0) {
                Ok(value) => Some(value),
                Err(why) => {
                    self.error("limit", self.at("/slos/availability"), why, None);
                    None
                }
            });
        let assertions: Vec<Assertion> = file
            .assertions
            .iter()
            .enumerate()
            .filter_map(|(index, held)| {
                let when = if held.when == "after" {
                    When::After
                } else {
                    When::During
                };
                Some(Assertion {
                    probe: self.probe(&format!("/slos/assertions/{index}/probe"), &held.probe)?,
                    when,
                })
            })
            .collect();
        let slos = Slos {
            rto: self
                .limit("/slos/rto", file.rto.as_ref(), time_limit)
                .map(|limit| RtoSlo { limit, from }),
            rpo_seconds: self.limit("/slos/rpo", file.rpo.as_ref(), time_limit),
            lost: self.limit("/slos/lost", file.lost.as_ref(), count_limit),
            duplicated: self.limit("/slos/duplicated", file.duplicated.as_ref(), count_limit),
            availability,
            assertions,
        };
        let given = file.rto.is_some()
            || file.rpo.is_some()
            || file.lost.is_some()
            || file.duplicated.is_some()
            || file.availability.is_some()
            || !file.assertions.is_empty();
        if !given {
            let help = "give at least one of rto, rpo, lost, duplicated, availability, assertions";
            self.error(
                "no-slo",
                self.places.key("/slos"),
                "there is no limit to test",
                Some(help),
            );
        }
        slos
    }

    fn timeouts(&mut self, file: &super::file::TimeoutsFile, slos: &Slos) -> Timeouts {
        let limit = slos.rto.map_or(Duration::ZERO, |slo| {
            Duration::from_secs_f64(slo.limit.max.clamp(0.0, 1e6))
        });
        let recovery = (limit + limit / 4).max(Duration::from_secs(60));
        Timeouts {
            setup: self.duration(
                "/timeouts/setup",
                file.setup.as_ref(),
                Duration::from_secs(120),
            ),
            baseline: self.duration(
                "/timeouts/baseline",
                file.baseline.as_ref(),
                Duration::from_secs(300),
            ),
            recovery: self.duration("/timeouts/recovery", file.recovery.as_ref(), recovery),
            settle: self.duration(
                "/timeouts/settle",
                file.settle.as_ref(),
                Duration::from_secs(15),
            ),
        }
    }

    fn guards(&mut self, file: &super::file::GuardsFile) -> Guards {
        Guards {
            protected_namespaces: file
                .protected_namespaces
                .clone()
                .unwrap_or_else(|| PROTECTED.iter().map(|held| (*held).to_owned()).collect()),
            max_percent: file.max_percent.unwrap_or(50),
            deadline: self.duration(
                "/guards/deadline",
                file.deadline.as_ref(),
                Duration::from_secs(900),
            ),
        }
    }

    fn faults(&mut self, files: &[FaultFile]) -> Vec<FaultSpec> {
        if files.is_empty() {
            self.error(
                "no-fault",
                self.at("/faults"),
                "there is no fault",
                Some("give at least one podKill or containerKill"),
            );
        }
        files
            .iter()
            .enumerate()
            .filter_map(|(index, file)| self.fault(&format!("/faults/{index}"), file))
            .collect()
    }

    fn fault(&mut self, pointer: &str, file: &FaultFile) -> Option<FaultSpec> {
        let present = [
            ("podKill", file.pod_kill.is_some()),
            ("containerKill", file.container_kill.is_some()),
        ];
        if !self.one_of(pointer, &format!("the fault {:?}", file.name), &present) {
            return None;
        }
        let (kind, role, labels) = if let Some(held) = &file.pod_kill {
            let at = format!("{pointer}/podKill/gracePeriod");
            let grace = self.duration(&at, held.grace_period.as_ref(), Duration::ZERO);
            if grace.subsec_millis() != 0 {
                self.error(
                    "grace",
                    self.at(&at),
                    "Kubernetes counts grace periods in whole seconds",
                    None,
                );
            }
            let grace_seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
            let role = self.role(&format!("{pointer}/podKill/role"), held.role.as_ref());
            (FaultKind::PodKill { grace_seconds }, role, &held.labels)
        } else {
            let held = file.container_kill.as_ref()?;
            let signal = match held.signal.as_deref() {
                Some("TERM") => Signal::Term,
                Some("INT") => Signal::Int,
                Some("SEGV") => Signal::Segv,
                Some("ABRT") => Signal::Abrt,
                _ => Signal::Kill,
            };
            let role = self.role(&format!("{pointer}/containerKill/role"), held.role.as_ref());
            (
                FaultKind::ContainerKill {
                    container: held.container.clone(),
                    signal,
                },
                role,
                &held.labels,
            )
        };
        let mode = match &file.mode {
            None => Mode::One,
            Some(ModeFile::Word(word)) if word == "all" => Mode::All,
            Some(ModeFile::Word(_)) => Mode::One,
            Some(ModeFile::Fixed(count)) => Mode::Fixed(*count),
            Some(ModeFile::Percent(percent)) => Mode::Percent(*percent),
        };
        Some(FaultSpec {
            name: file.name.clone(),
            kind,
            role,
            labels: labels
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            mode,
            injector: Injector::Direct,
            after: self.duration(
                &format!("{pointer}/after"),
                file.after.as_ref(),
                Duration::ZERO,
            ),
        })
    }

    /// What only shows when the parts are seen together.
    fn meaning(&mut self, experiment: &Experiment) {
        self.unique_names(experiment);
        self.ledger_needed(experiment);
        self.times(experiment);
        self.guarded(experiment);
        self.contradictions(experiment);
    }

    fn unique_names(&mut self, experiment: &Experiment) {
        let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
        let steady = experiment
            .steady_state
            .probes
            .iter()
            .enumerate()
            .map(|(index, probe)| (format!("/steadyState/probes/{index}/name"), &probe.name));
        let asserted = experiment
            .slos
            .assertions
            .iter()
            .enumerate()
            .map(|(index, held)| {
                (
                    format!("/slos/assertions/{index}/probe/name"),
                    &held.probe.name,
                )
            });
        let stops = experiment
            .stop
            .iter()
            .enumerate()
            .map(|(index, held)| (format!("/stop/{index}/name"), &held.probe.name));
        let mut doubled = Vec::new();
        for (pointer, name) in steady.chain(asserted).chain(stops) {
            if seen.insert(name, ()).is_some() {
                doubled.push((pointer, format!("two probes are called {name:?}")));
            }
        }
        let mut faults: BTreeMap<&str, ()> = BTreeMap::new();
        for (index, fault) in experiment.faults.iter().enumerate() {
            if faults.insert(&fault.name, ()).is_some() {
                doubled.push((
                    format!("/faults/{index}/name"),
                    format!("two faults are called {:?}", fault.name),
                ));
            }
        }
        for (pointer, message) in doubled {
            self.error(
                "duplicate-name",
                self.at(&pointer),
                message,
                Some("names tell them apart in the report"),
            );
        }
    }

    fn ledger_needed(&mut self, experiment: &Experiment) {
        if experiment.ledger.is_some() {
            return;
        }
        let slos = &experiment.slos;
        let claims = [
            ("rpo", slos.rpo_seconds.is_some()),
            ("lost", slos.lost.is_some()),
            ("duplicated", slos.duplicated.is_some()),
        ];
        for (key, _) in claims.into_iter().filter(|(_, set)| *set) {
            let place = self.places.key(&format!("/slos/{key}"));
            self.error(
                "no-ledger",
                place,
                format!("{key} is measured by a ledger, and there is none"),
                Some("add a ledger section"),
            );
        }
        for (index, probe) in experiment.steady_state.probes.iter().enumerate() {
            if matches!(probe.check, Check::Progress { .. }) {
                let place = self
                    .places
                    .key(&format!("/steadyState/probes/{index}/progress"));
                self.error(
                    "no-ledger",
                    place,
                    "progress is read from a ledger, and there is none",
                    Some("add a ledger section"),
                );
            }
        }
    }

    fn times(&mut self, experiment: &Experiment) {
        let timeouts = &experiment.timeouts;
        if let Some(rto) = &experiment.slos.rto {
            if timeouts.recovery.as_secs_f64() < rto.limit.max {
                let help = "a recovery that takes the whole limit could not be seen; make timeouts.recovery longer than the limit";
                let message = format!(
                    "recovery is watched for {} s, less than the limit of {} s",
                    timeouts.recovery.as_secs_f64(),
                    rto.limit.max
                );
                self.error(
                    "recovery-too-short",
                    self.at("/timeouts/recovery"),
                    message,
                    Some(help),
                );
            }
            for (index, probe) in experiment.steady_state.probes.iter().enumerate() {
                let sampled = match probe.check {
                    Check::Pods { .. } | Check::Resource { .. } => continue,
                    Check::Progress { .. } => experiment
                        .ledger
                        .as_ref()
                        .map_or(Duration::ZERO, |ledger| ledger.interval),
                    _ => probe.interval,
                };
                if rto.limit.max < sampled.as_secs_f64() {
                    let message = format!(
                        "the limit of {} s is below the sampling interval of {} s of the probe {:?}",
                        rto.limit.max,
                        sampled.as_secs_f64(),
                        probe.name
                    );
                    let help = "such a limit cannot be measured; sample more often";
                    self.error(
                        "limit-below-resolution",
                        self.at("/slos/rto"),
                        message,
                        Some(help),
                    );
                }
                if let Check::Promql { .. } = probe.check
                    && rto.limit.max < 10.0
                {
                    let message = format!(
                        "the limit of {} s is checked by the Prometheus probe {index}, which sees only scrapes",
                        rto.limit.max
                    );
                    self.warn(
                        "limit-near-scrape",
                        self.at("/slos/rto"),
                        message,
                        "at least two scrape intervals must fit into the limit",
                    );
                }
            }
        }
        for (index, probe) in experiment.steady_state.probes.iter().enumerate() {
            let pointer = format!("/steadyState/probes/{index}/hold");
            if probe.hold > timeouts.baseline {
                self.error(
                    "hold-too-long",
                    self.at(&pointer),
                    "the hold time is longer than timeouts.baseline",
                    Some("the steady state could never be reached"),
                );
            } else if probe.hold > timeouts.recovery {
                self.error(
                    "hold-too-long",
                    self.at(&pointer),
                    "the hold time is longer than timeouts.recovery",
                    Some("recovery could never be confirmed"),
                );
            }
        }
        for (index, fault) in experiment.faults.iter().enumerate() {
            if fault.after > timeouts.recovery {
                self.error(
                    "after-too-long",
                    self.at(&format!("/faults/{index}/after")),
                    "the fault comes after timeouts.recovery",
                    None,
                );
            }
        }
        if experiment.guards.deadline < Duration::from_secs(1) {
            self.error(
                "deadline",
                self.at("/guards/deadline"),
                "the guard's deadline is below one second",
                None,
            );
        }
    }

    fn guarded(&mut self, experiment: &Experiment) {
        if let Some(pattern) = crate::plan::protected_namespace(experiment) {
            let message = format!(
                "namespace {:?} is protected by {pattern:?} and would be refused",
                experiment.target.namespace
            );
            let help = "choose another namespace, or list guards.protectedNamespaces without it";
            let message_place = self.at("/target/namespace");
            self.error("protected-namespace", message_place, message, Some(help));
        }
        for (index, fault) in experiment.faults.iter().enumerate() {
            let percent = experiment.guards.max_percent;
            let place = self.at(&format!("/faults/{index}/mode"));
            match fault.mode {
                Mode::Percent(wanted) if wanted > percent => {
                    let message =
                        format!("{wanted} % is more than guards.maxPercent allows ({percent} %)");
                    self.error(
                        "guard-percent",
                        place,
                        message,
                        Some("choose fewer, or raise guards.maxPercent"),
                    );
                }
                Mode::All
                    if percent < 100
                        && fault.role.as_ref().is_none_or(|role| role.0 != "driver") =>
                {
                    let message = format!(
                        "all pods are more than guards.maxPercent allows ({percent} %), unless there is only one"
                    );
                    self.warn(
                        "guard-percent",
                        place,
                        message,
                        "set guards.maxPercent to 100 if all of them are meant",
                    );
                }
                Mode::One | Mode::All | Mode::Fixed(_) | Mode::Percent(_) => {}
            }
        }
    }

    /// A fault's extra labels that contradict the target's own can never match.
    fn contradictions(&mut self, experiment: &Experiment) {
        let Workload::Labels { labels } = &experiment.target.workload else {
            return;
        };
        for (index, fault) in experiment.faults.iter().enumerate() {
            for (key, value) in &fault.labels {
                if labels
                    .iter()
                    .any(|(held, other)| held == key && other != value)
                {
                    let place = self.at(&format!(
                        "/faults/{index}/{}/labels/{key}",
                        fault.kind.word()
                    ));
                    let message = format!(
                        "the target has another value for the label {key:?}, so nothing can match"
                    );
                    self.error("cannot-match", place, message, None);
                }
            }
        }
    }
}
