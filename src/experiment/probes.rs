//! Probes: from the file's words to conditions that can hold.

use super::file::ProbeFile;
use super::promql;
use super::resolve::Resolver;
use super::types::{Check, Comparison, Operator, Probe};
use std::time::Duration;

impl Resolver<'_> {
    pub(super) fn probes(&mut self, pointer: &str, files: &[ProbeFile]) -> Vec<Probe> {
        files
            .iter()
            .enumerate()
            .map(|(index, file)| self.probe(&format!("{pointer}/{index}"), file))
            .collect()
    }

    /// A probe that cannot be understood keeps its place in the list, so that the problems of the others are shown in theirs.
    pub(super) fn probe(&mut self, pointer: &str, file: &ProbeFile) -> Probe {
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
        if file.name.trim().is_empty() && self.places.written(&format!("{pointer}/name")) {
            self.error(
                "name",
                self.at(&format!("{pointer}/name")),
                "a probe needs a name",
                None,
            );
        }
        self.one_of(pointer, &format!("the probe {:?}", file.name), &present);
        let (check, default_interval) = self.check(pointer, file).unwrap_or_else(|| {
            let ready = Comparison {
                operator: Operator::GreaterOrEqual,
                value: 0.0,
            };
            (Check::Pods { role: None, ready }, Duration::from_secs(1))
        });
        if file.budget.is_some() && !pointer.starts_with("/stop/") {
            let place = self.places.key(&format!("{pointer}/budget"));
            let help = "put the probe under stop, or take the budget out";
            self.error(
                "budget",
                place,
                "an error budget ends a run: it belongs under stop",
                Some(help),
            );
        }
        let interval = self.positive(&format!("{pointer}/interval"), file.interval.as_ref(), default_interval);
        if file.interval.is_some() && (check.is_watched() || matches!(check, Check::Progress { .. })) {
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
        let hold = self.duration(&format!("{pointer}/hold"), file.hold.as_ref(), Duration::from_secs(3));
        Probe {
            name: file.name.clone(),
            check,
            interval,
            timeout,
            hold,
        }
    }

    fn check(&mut self, pointer: &str, file: &ProbeFile) -> Option<(Check, Duration)> {
        let second = Duration::from_secs(1);
        if let Some(held) = &file.pods {
            let role = self.role(&format!("{pointer}/pods/role"), held.role.as_ref());
            let ready = self.comparison(&format!("{pointer}/pods/ready"), &held.ready);
            let driver = role.as_ref().is_some_and(|role| role.0 == "driver");
            if let Some(why) = impossible_count(ready, driver) {
                let place = self.at(&format!("{pointer}/pods/ready"));
                self.error("cannot-hold", place, why, None);
            }
            return Some((Check::Pods { role, ready }, second));
        }
        if let Some(held) = &file.resource {
            let named = [held.api_version.is_some(), held.kind.is_some(), held.name.is_some()];
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
            if role.is_some() && !held.url.contains("{podIP}") {
                let place = self.places.key(&format!("{pointer}/http/role"));
                let help = "write {podIP} in the url where the pod's address belongs, or leave role out";
                self.warn(
                    "role-unused",
                    place,
                    "the url does not name the pod, so its role means nothing",
                    help,
                );
            }
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
}

/// Why no number of ready pods satisfies the condition.
fn impossible_count(ready: Comparison, single: bool) -> Option<&'static str> {
    let Comparison { operator, value } = ready;
    if value < 0.0
        && !matches!(
            operator,
            Operator::NotEqual | Operator::Greater | Operator::GreaterOrEqual
        )
        || operator == Operator::Less && value <= 0.0
    {
        return Some("a number of pods is never negative, so this cannot hold");
    }
    if operator == Operator::Equal && value.fract() != 0.0 {
        return Some("a number of pods is whole, so this cannot hold");
    }
    let more_than_one = match operator {
        Operator::Equal | Operator::GreaterOrEqual => value > 1.0,
        Operator::Greater => value >= 1.0,
        Operator::NotEqual | Operator::Less | Operator::LessOrEqual => false,
    };
    (single && more_than_one).then_some("an application has one driver, so this cannot hold")
}
