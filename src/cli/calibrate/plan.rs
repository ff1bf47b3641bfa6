//! What is broken, how long, in what order and in which phase: all of it from the seed.

use crate::calibration::{Kind, Method};
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::path::Path;

/// Longest outage, in seconds.
const LONGEST: f64 = 30.0;
/// Every so many recoveries, one trial without an outage.
const NULL_EVERY: usize = 10;

/// The targets that are broken side by side. A lane breaks one after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    /// What is out.
    pub(super) kind: Kind,
    /// Its namespace, and the lane's folder.
    pub(super) name: &'static str,
    /// Share of all recoveries, in parts of [`PARTS`].
    parts: usize,
    /// The phase is random over so many milliseconds: at least the longest sampling interval.
    phase_ms: u32,
    /// Whether it needs Prometheus.
    prometheus: bool,
    /// Shortest outage, in seconds.
    shortest: f64,
}

const PARTS: usize = 60;

const TARGETS: [Target; 6] = [
    Target {
        kind: Kind::PodReplaced,
        name: "pod-replaced",
        parts: 13,
        phase_ms: 1000,
        prometheus: false,
        shortest: 0.1,
    },
    Target {
        kind: Kind::SameName,
        name: "same-name",
        parts: 13,
        phase_ms: 1000,
        prometheus: false,
        shortest: 0.1,
    },
    Target {
        kind: Kind::ContainerRestarted,
        name: "container-restarted",
        parts: 12,
        phase_ms: 1000,
        prometheus: false,
        shortest: 0.1,
    },
    Target {
        kind: Kind::MetricOnly,
        // By a fault that lasts, and none may last for less than a second.
        name: "metric-scraped",
        parts: 8,
        phase_ms: 1000,
        prometheus: false,
        shortest: 1.0,
    },
    Target {
        kind: Kind::MetricOnly,
        name: "metric-prometheus",
        parts: 6,
        phase_ms: 5000,
        prometheus: true,
        shortest: 0.1,
    },
    Target {
        kind: Kind::DataOnly,
        name: "data-only",
        parts: 8,
        phase_ms: 1000,
        prometheus: false,
        shortest: 0.1,
    },
];

/// One experiment of a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outage {
    /// Seconds; none for a trial without an outage.
    pub(super) length: Option<f64>,
    /// Pause before the fault, in milliseconds.
    phase_ms: u32,
}

/// One lane.
#[derive(Debug, Clone)]
pub(super) struct LanePlan {
    pub(super) target: Target,
    pub(super) outages: Vec<Outage>,
}

impl LanePlan {
    pub(super) fn experiments(&self) -> usize {
        self.outages.len()
    }

    /// Name of experiment number `index`.
    pub(super) fn title(&self, index: usize) -> String {
        let word = match self.outages.get(index) {
            Some(Outage { length: None, .. }) => "null-",
            _ => "",
        };
        format!("{}-{word}{:03}", self.target.name, index + 1)
    }
}

/// Every lane. The same seed and count give the same plan.
pub(super) fn lanes(seed: u64, count: usize, prometheus: bool) -> Vec<LanePlan> {
    let chosen: Vec<Target> = TARGETS
        .into_iter()
        .filter(|target| prometheus || !target.prometheus)
        .collect();
    chosen
        .into_iter()
        .enumerate()
        .map(|(index, target)| {
            // A stream of its own for each lane: one more recovery here changes nothing there.
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(index as u64 + 1);
            let recoveries = (count * target.parts).div_ceil(PARTS);
            let mut outages: Vec<Option<f64>> = lengths(target.shortest, recoveries).into_iter().map(Some).collect();
            outages.resize(recoveries + recoveries.div_ceil(NULL_EVERY), None);
            outages.shuffle(&mut random);
            let outages = outages
                .into_iter()
                .map(|length| Outage {
                    length,
                    phase_ms: random.random_range(0..target.phase_ms),
                })
                .collect();
            LanePlan { target, outages }
        })
        .collect()
}

/// Evenly spread on a logarithmic scale, both ends included.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn lengths(shortest: f64, count: usize) -> Vec<f64> {
    let steps = count.saturating_sub(1).max(1) as f64;
    (0..count)
        .map(|index| shortest * (LONGEST / shortest).powf(index as f64 / steps))
        .map(|length| (length * 1e3).round() / 1e3)
        .collect()
}

impl Target {
    pub(super) fn namespace(&self) -> String {
        format!("calibrate-{}", self.name)
    }

    /// Probes, as they stand in the experiment, with their methods.
    pub(super) fn probes(&self) -> Vec<(Method, &'static str, Value)> {
        let pods = (
            Method::Watch,
            "pods",
            json!({"pods": {"ready": "== 1"}, "hold": "300ms"}),
        );
        let http = (
            Method::Scrape,
            "http",
            json!({"http": {"url": "http://{podIP}:8080/ready"}, "interval": "50ms", "timeout": "1s", "hold": "300ms"}),
        );
        let resource = (
            Method::Watch,
            "resource",
            json!({"resource": {"apiVersion": "v1", "kind": "Pod", "name": "work-0",
                "field": "metadata.annotations.serving", "equals": "yes"}, "hold": "300ms"}),
        );
        match (self.kind, self.prometheus) {
            (Kind::PodReplaced | Kind::ContainerRestarted, _) => vec![pods, http],
            (Kind::SameName, _) => vec![pods, resource, http],
            (Kind::MetricOnly, false) => vec![(
                Method::Scrape,
                "metrics",
                json!({"metrics": {"port": 8080, "path": "/metrics", "metric": "known_outage_serving", "is": "== 1"},
                    "interval": "100ms", "timeout": "1s", "hold": "300ms"}),
            )],
            (Kind::MetricOnly, true) => vec![(
                Method::Prometheus,
                "promql",
                json!({"promql": {"query": self.query(), "is": "== 1"},
                    "interval": "500ms", "timeout": "2s", "hold": "1s"}),
            )],
            (Kind::DataOnly, _) => vec![(
                Method::Ledger,
                "progress",
                json!({"progress": {"within": "500ms"}, "hold": "300ms"}),
            )],
        }
    }

    /// Whether each recovery needs a workload of its own: a container that was restarted once is restarted late the next time.
    fn is_used_once(&self) -> bool {
        self.kind == Kind::ContainerRestarted
    }

    /// Whether the service stays and what it depends on ends, in a pod of its own.
    fn has_dependency(&self) -> bool {
        self.prometheus || self.kind == Kind::DataOnly
    }

    /// Whether its fault deletes a pod.
    pub(super) fn deletes(&self) -> bool {
        self.has_dependency() || matches!(self.kind, Kind::PodReplaced | Kind::SameName)
    }

    /// What Prometheus is asked, when it is.
    pub(super) fn query(&self) -> Option<String> {
        self.prometheus.then(|| {
            format!(
                "known_outage_serving{{namespace=\"{}\",app=\"service\"}}",
                self.namespace()
            )
        })
    }

    /// Name of the workload of experiment number `index`, and of its folder of stamps.
    pub(super) fn workload(&self, index: usize) -> String {
        if self.is_used_once() {
            format!("work-{:03}", index + 1)
        } else {
            "work".to_owned()
        }
    }

    /// What the workloads need in their namespace; `stamps` is the folder of the first of them.
    pub(super) fn surroundings(&self, stamps: &Path) -> Vec<Value> {
        let namespace = self.namespace();
        let meta = json!({"name": "known-outage", "namespace": namespace});
        let mut all = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": [
                {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "patch"]}]}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "known-outage"},
                "subjects": [{"kind": "ServiceAccount", "name": "known-outage", "namespace": namespace}]}),
        ];
        if self.has_dependency() {
            all.push(self.workload_of("service", stamps, &self.switched()));
        }
        all
    }

    /// Arguments of a service that follows the switch.
    fn switched(&self) -> Vec<&'static str> {
        let mut arguments = vec!["--switch", "/stamps/switch/on"];
        if self.kind == Kind::DataOnly {
            arguments.extend(["--commits", "/stamps/checkpoint"]);
        }
        arguments
    }

    /// The manifest of what is broken; `stamps` is its folder on this machine.
    pub(super) fn manifest(&self, name: &str, stamps: &Path) -> Value {
        let arguments = match self.kind {
            _ if self.has_dependency() => vec!["--holds", "/stamps/switch/on"],
            Kind::MetricOnly | Kind::DataOnly => self.switched(),
            Kind::PodReplaced => vec!["--gate"],
            Kind::SameName => vec!["--gate", "--note"],
            Kind::ContainerRestarted => vec!["--gate", "--farewell"],
        };
        self.workload_of(name, stamps, &arguments)
    }

    fn workload_of(&self, name: &str, stamps: &Path, arguments: &[&str]) -> Value {
        let mut words = vec!["known-outage", "--stamps", "/stamps"];
        words.extend(arguments);
        let gates = if arguments.contains(&"--gate") {
            json!([{"conditionType": "chaosrun.dev/serving"}])
        } else {
            json!([])
        };
        let labels = json!({"app": name});
        let annotations = if self.prometheus {
            json!({"prometheus.io/scrape": "true", "prometheus.io/port": "8080"})
        } else {
            json!({})
        };
        let mut spec = json!({"replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": {
                "serviceAccountName": "known-outage",
                "terminationGracePeriodSeconds": 5,
                "readinessGates": gates,
                "volumes": [{"name": "stamps", "hostPath": {"path": stamps}}],
                "containers": [{"name": "work", "image": "chaosrun/pipeline", "args": words,
                    "volumeMounts": [{"name": "stamps", "mountPath": "/stamps"}]}]}}});
        let stateful = self.kind == Kind::SameName;
        if let (true, Some(spec)) = (stateful, spec.as_object_mut()) {
            spec.insert("serviceName".to_owned(), json!(name));
        }
        let kind = if stateful { "StatefulSet" } else { "Deployment" };
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": self.namespace()}, "spec": spec})
    }

    /// The experiment as its document.
    pub(super) fn experiment(&self, title: &str, workload: &str, outage: Outage) -> Value {
        let after = format!("{}ms", outage.phase_ms);
        let gone = |name: &str, seconds: f64| {
            json!({"name": "outage", "storageLoss": {"container": "work", "path": format!("/stamps/switch/{name}"), "how": "removed"},
                "mode": "one", "duration": format!("{}ms", (seconds * 1e3).round()), "after": after})
        };
        let fault = match (outage.length, self.kind) {
            (None, _) => gone("other", 1.0),
            (Some(_), _) if self.has_dependency() => {
                json!({"name": "outage", "podKill": {"gracePeriod": "5s"}, "mode": "one", "after": after})
            }
            (Some(_), Kind::PodReplaced | Kind::SameName) => {
                json!({"name": "outage", "podKill": {"gracePeriod": "5s"}, "mode": "one", "after": after})
            }
            (Some(_), Kind::ContainerRestarted) => {
                json!({"name": "outage", "containerKill": {"container": "work", "signal": "TERM"}, "mode": "one", "after": after})
            }
            (Some(length), Kind::MetricOnly | Kind::DataOnly) => gone("on", length),
        };
        let probes: Vec<Value> = self
            .probes()
            .into_iter()
            .map(|(_, name, mut probe)| {
                if let Some(fields) = probe.as_object_mut() {
                    fields.insert("name".to_owned(), json!(name));
                }
                probe
            })
            .collect();
        let claim = match outage.length {
            Some(length) => format!("out for {length} s or a little more: {}", self.kind.word()),
            None => "nothing that the probes look at is broken".to_owned(),
        };
        let own = if self.kind == Kind::SameName {
            "statefulSet"
        } else {
            "deployment"
        };
        let mut document = json!({
            "apiVersion": "chaosrun.dev/v1", "kind": "Experiment", "metadata": {"name": title},
            "claim": {"text": claim, "source": "chaosrun calibrate"},
            "target": {"namespace": self.namespace(), own: workload},
            "setup": {"manifests": [format!("{workload}.json")], "unlessTargetExists": true, "keep": !self.is_used_once()},
            "steadyState": {"probes": probes},
            "faults": [fault],
            "slos": {"rto": "< 90s"},
            "timeouts": {"setup": "60s", "baseline": "60s", "recovery": "100s", "settle": "200ms"},
        });
        if let (Kind::DataOnly, Some(fields)) = (self.kind, document.as_object_mut()) {
            let ledger = json!({"reader": {"app": "service"}, "acknowledged": "/stamps/acked.log", "sink": "/stamps/sink",
                "checkpoint": "/stamps/checkpoint", "interval": "50ms", "drain": "1s"});
            fields.insert("ledger".to_owned(), ledger);
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_spread_evenly_from_a_tenth_of_a_second_to_thirty() {
        let lengths = lengths(0.1, 60);
        assert!((lengths[0] - 0.1).abs() < 1e-9 && (lengths[59] - 30.0).abs() < 1e-9);
        let short = lengths.iter().filter(|length| **length < 3f64.sqrt()).count();
        assert_eq!(short, 30, "half of them below the geometric mean");
    }

    #[test]
    fn the_seed_decides_order_and_phase_and_nothing_else_does() {
        let all = |seed, count| {
            lanes(seed, count, true)
                .into_iter()
                .map(|lane| lane.outages)
                .collect::<Vec<_>>()
        };
        assert_eq!(all(7, 60), all(7, 60));
        assert_ne!(all(7, 60), all(8, 60));
        let recoveries: usize = all(7, 300)
            .iter()
            .flatten()
            .filter(|outage| outage.length.is_some())
            .count();
        assert_eq!(recoveries, 300);
        assert_eq!(lanes(7, 60, false).len(), 5);
        assert_eq!(all(7, 60)[0], lanes(7, 60, false)[0].outages);
    }

    #[test]
    fn every_experiment_is_one_that_a_person_could_have_written() {
        for lane in lanes(1, 60, true) {
            let target = lane.target;
            for (index, outage) in lane.outages.iter().enumerate() {
                let workload = target.workload(index);
                let document = target.experiment(&lane.title(index), &workload, *outage);
                let parsed = crate::experiment::parse("x.yaml", document.to_string().as_bytes(), &|_| None);
                assert!(parsed.is_ok(), "{}", parsed.err().unwrap().render(false));
                let loaded = parsed.unwrap();
                assert!(
                    loaded[0].warnings("x.yaml", document.to_string().as_bytes()).is_none(),
                    "{document}"
                );
            }
        }
    }
}
