//! What the words of an experiment mean together: limits that cannot be measured, selections that cannot match, times that
//! exclude each other, faults that the guards would refuse. Everything here can be said without a cluster.

use super::faults::Repeat;
use super::resolve::Resolver;
use super::types::{About, Check, Experiment, Limit, Over, When, Workload};
use crate::fault::Mode;
use crate::stats::{quantile, sequential};
use std::collections::BTreeSet;
use std::time::Duration;

impl Resolver<'_> {
    /// What only shows when the parts are seen together.
    pub(super) fn meaning(&mut self, experiment: &Experiment, repeats: &[Option<Repeat>]) {
        self.unique_names(experiment);
        self.ledger_needed(experiment);
        self.times(experiment);
        self.lasting(experiment, repeats);
        self.guarded(experiment);
        self.contradictions(experiment);
        self.limits(experiment);
        self.single_driver(experiment);
        self.setup(experiment);
    }

    /// A label selector is never missing: there may just be no pod yet.
    fn setup(&mut self, experiment: &Experiment) {
        if experiment.setup.unless_target_exists && matches!(experiment.target.workload, Workload::Labels { .. }) {
            self.error(
                "cannot-match",
                self.at("/setup/unlessTargetExists"),
                "the target is a label selector, of which nobody can say that it exists".to_owned(),
                Some("name the target by its sparkApplication, deployment, statefulSet or job, or leave this out"),
            );
        }
    }

    /// Limits that no measurement can meet.
    fn limits(&mut self, experiment: &Experiment) {
        let slos = &experiment.slos;
        let limits = [
            ("rto", slos.rto.map(|slo| slo.limit)),
            ("rpo", slos.rpo_seconds),
            ("lost", slos.lost),
            ("duplicated", slos.duplicated),
        ];
        for (key, limit) in limits {
            let Some(limit) = limit else { continue };
            // A recovery always takes some time; nothing lost is possible.
            self.possible(key, limit);
        }
        for slo in &slos.over_trials {
            let key = match slo.about {
                About::Rto { .. } => "rto",
                About::Rpo => "rpo",
                About::Lost => "lost",
                About::Duplicated => "duplicated",
                About::Recovered => continue,
            };
            self.possible(key, slo.limit);
        }
        self.enough_trials(experiment);
    }

    fn possible(&mut self, key: &str, limit: Limit) {
        if limit.max <= 0.0 && (limit.strict || key == "rto") {
            self.error(
                "cannot-hold",
                self.at(&format!("/slos/{key}")),
                format!("no measurement of {key} can be within this limit"),
                None,
            );
        }
    }

    /// A quantile that so few trials cannot prove, however well they go.
    fn enough_trials(&mut self, experiment: &Experiment) {
        let trials = &experiment.trials;
        let needed = experiment.slos.over_trials.iter().filter_map(|slo| match slo.over {
            Over::Share { share, confidence } if trials.until_decided => {
                sequential::decided_after(share, confidence, 0)
                    .ok()
                    .flatten()
                    .map(|needed| (needed, share, confidence))
            }
            Over::Share { share, confidence } => quantile::trials_needed(share, confidence, 0)
                .ok()
                .map(|needed| (needed, share, confidence)),
            Over::Max => None,
        });
        let most = needed.max_by_key(|(needed, ..)| *needed);
        if let Some((needed, share, confidence)) = most.filter(|(needed, ..)| *needed > u64::from(trials.count)) {
            let message = format!(
                "{} cannot prove anything about {} % of all trials with {} % confidence: that takes {needed}, all of them good",
                if trials.count == 1 {
                    "1 trial".to_owned()
                } else {
                    format!("{} trials", trials.count)
                },
                percent(share),
                percent(confidence),
            );
            // Few trials can still refute it.
            let place = if self.places.written("/trials") {
                self.places.key("/trials")
            } else {
                self.places.key("/slos")
            };
            self.warn(
                "too-few-trials",
                place,
                message,
                &format!("set trials.count to {needed} or more, or claim a lower quantile"),
            );
        }
    }

    /// A Spark application has exactly one driver.
    fn single_driver(&mut self, experiment: &Experiment) {
        for (index, fault) in experiment.faults.iter().enumerate() {
            if fault.role.as_ref().is_none_or(|role| role.0 != "driver") {
                continue;
            }
            let why = match fault.mode {
                Mode::Fixed(count) if count > 1 => {
                    format!("{count} drivers are asked for, an application has one")
                }
                Mode::Percent(percent) if percent < 100 => {
                    format!("{percent} % of one driver rounds down to none")
                }
                Mode::One | Mode::All | Mode::Fixed(_) | Mode::Percent(_) => continue,
            };
            self.error(
                "cannot-match",
                self.at(&format!("/faults/{index}/mode")),
                why,
                Some("write mode: one"),
            );
        }
    }

    fn unique_names(&mut self, experiment: &Experiment) {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
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
            .map(|(index, held)| (format!("/slos/assertions/{index}/probe/name"), &held.probe.name));
        let stops = experiment
            .stop
            .iter()
            .enumerate()
            .map(|(index, held)| (format!("/stop/{index}/name"), &held.probe.name));
        let mut doubled = Vec::new();
        for (pointer, name) in steady.chain(asserted).chain(stops) {
            if !name.is_empty() && !seen.insert(name) {
                doubled.push((pointer, format!("two probes are called {name:?}")));
            }
        }
        let mut faults: BTreeSet<&str> = BTreeSet::new();
        for (index, fault) in experiment.faults.iter().enumerate() {
            if !fault.name.is_empty() && !faults.insert(&fault.name) {
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
        if let Some(ledger) = &experiment.ledger {
            if ledger.checkpoint.is_none() {
                self.progress_needs(
                    experiment,
                    "progress is read from a checkpoint, and the ledger has none",
                    "add ledger.checkpoint",
                );
            }
            return;
        }
        let slos = &experiment.slos;
        let over = |about: About| slos.over_trials.iter().any(|slo| slo.about == about);
        let claims = [
            ("rpo", slos.rpo_seconds.is_some() || over(About::Rpo)),
            ("lost", slos.lost.is_some() || over(About::Lost)),
            ("duplicated", slos.duplicated.is_some() || over(About::Duplicated)),
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
        self.progress_needs(
            experiment,
            "progress is read from a ledger, and there is none",
            "add a ledger section",
        );
    }

    fn progress_needs(&mut self, experiment: &Experiment, message: &str, help: &str) {
        for (index, probe) in experiment.steady_state.probes.iter().enumerate() {
            if matches!(probe.check, Check::Progress { .. }) {
                let place = self.places.key(&format!("/steadyState/probes/{index}/progress"));
                self.error("no-ledger", place, message, Some(help));
            }
        }
    }

    fn times(&mut self, experiment: &Experiment) {
        let timeouts = &experiment.timeouts;
        for limit in experiment.slos.rto_limits() {
            if timeouts.recovery.as_secs_f64() < limit.max {
                let help = "a recovery that takes the whole limit could not be seen; make timeouts.recovery longer than the limit";
                let message = format!(
                    "recovery is watched for {} s, less than the limit of {} s",
                    timeouts.recovery.as_secs_f64(),
                    limit.max
                );
                self.error("recovery-too-short", self.at("/timeouts/recovery"), message, Some(help));
            }
            for probe in &experiment.steady_state.probes {
                let sampled = match probe.check {
                    Check::Pods { .. } | Check::Resource { .. } => continue,
                    Check::Progress { .. } => experiment
                        .ledger
                        .as_ref()
                        .map_or(Duration::ZERO, |ledger| ledger.interval),
                    _ => probe.interval,
                };
                if limit.max < sampled.as_secs_f64() {
                    let message = format!(
                        "the limit of {} s is below the sampling interval of {} s of the probe {:?}",
                        limit.max,
                        sampled.as_secs_f64(),
                        probe.name
                    );
                    let help = "such a limit cannot be measured; sample more often";
                    self.error("limit-below-resolution", self.at("/slos/rto"), message, Some(help));
                }
                let twice = 2.0 * sampled.as_secs_f64();
                if let Check::Promql { .. } = probe.check
                    && limit.max >= sampled.as_secs_f64()
                    && limit.max < twice
                {
                    let message = format!(
                        "the limit of {} s is below twice the interval of the Prometheus probe {:?}",
                        limit.max, probe.name
                    );
                    let help = "between two samples anything may have happened: such a limit cannot be measured";
                    self.error("limit-below-resolution", self.at("/slos/rto"), message, Some(help));
                } else if let Check::Promql { .. } = probe.check
                    && limit.max < 10.0
                {
                    let message = format!(
                        "the limit of {} s is checked by the Prometheus probe {:?}, which sees only scrapes",
                        limit.max, probe.name
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
        for (index, held) in experiment.slos.assertions.iter().enumerate() {
            if held.when == When::After && held.probe.hold > timeouts.settle {
                self.warn(
                    "hold-too-long",
                    self.at(&format!("/slos/assertions/{index}/probe/hold")),
                    "the hold time is longer than timeouts.settle",
                    "the assertion is judged during the settle step: make it longer, or the hold time shorter",
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
        if experiment.guards.revert < Duration::from_secs(2) {
            self.error(
                "deadline",
                self.at("/guards/revert"),
                "nothing can be taken back within less than two seconds",
                None,
            );
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

    /// Faults must be over while the trial is still watched, and before the guard ends them.
    fn lasting(&mut self, experiment: &Experiment, repeats: &[Option<Repeat>]) {
        let timeouts = &experiment.timeouts;
        for (index, fault) in experiment.faults.iter().enumerate() {
            let repeat = repeats.get(index).copied().flatten();
            let duration = fault.duration.unwrap_or_default() + repeat.map_or(Duration::ZERO, Repeat::span);
            if duration.is_zero() {
                continue;
            }
            let place = if repeat.is_some() { "repeat" } else { "duration" };
            if fault.after <= timeouts.recovery && fault.after + duration > timeouts.recovery {
                let message = format!(
                    "the fault ends {} s after the injection began, later than timeouts.recovery ({} s)",
                    (fault.after + duration).as_secs_f64(),
                    timeouts.recovery.as_secs_f64()
                );
                let help = "recovery is not judged before the fault is over: make timeouts.recovery longer";
                self.error(
                    "duration-too-long",
                    self.at(&format!("/faults/{index}/{place}")),
                    message,
                    Some(help),
                );
            }
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
                    let message = format!("{wanted} % is more than guards.maxPercent allows ({percent} %)");
                    self.error(
                        "guard-percent",
                        place,
                        message,
                        Some("choose fewer, or raise guards.maxPercent"),
                    );
                }
                Mode::All if percent < 100 && fault.role.as_ref().is_none_or(|role| role.0 != "driver") => {
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
                if labels.iter().any(|(held, other)| held == key && other != value) {
                    let place = self.at(&format!("/faults/{index}/{}/labels/{key}", fault.kind.word()));
                    let message = format!("the target has another value for the label {key:?}, so nothing can match");
                    self.error("cannot-match", place, message, None);
                }
            }
        }
    }
}

/// Without the dust of floating point.
fn percent(share: f64) -> f64 {
    (share * 1e7).round() / 1e5
}
