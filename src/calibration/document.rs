//! The file: rows, and what they add up to.

use super::limits::{self, LimitReport};
use crate::evidence::{InstrumentMethod, InstrumentSummary};
use crate::model::Verdict;
use crate::stats::{Known, calibrated};
use serde::{Deserialize, Serialize};

/// Name and version of the format.
pub const SCHEMA: &str = "chaosrun.calibration/v1";
/// Of the bound on the coverage.
const CONFIDENCE: f64 = 0.95;

/// What was out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A pod was deleted, and another one took its place.
    PodReplaced,
    /// A pod was deleted and came back under its own name.
    SameName,
    /// A container ended and was started again inside the same pod.
    ContainerRestarted,
    /// The service's metric went bad while its pod stayed ready.
    MetricOnly,
    /// Commits stopped while the pod stayed ready.
    DataOnly,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::PodReplaced,
        Self::SameName,
        Self::ContainerRestarted,
        Self::MetricOnly,
        Self::DataOnly,
    ];

    /// In words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::PodReplaced => "pod replaced",
            Self::SameName => "same-name replacement",
            Self::ContainerRestarted => "container restarted",
            Self::MetricOnly => "metric only",
            Self::DataOnly => "data only",
        }
    }
}

/// How it was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Method {
    /// By a watch of the API.
    Watch,
    /// By asking the service itself.
    Scrape,
    /// By asking Prometheus.
    Prometheus,
    /// By looking at the commit log.
    Ledger,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 4] = [Self::Watch, Self::Scrape, Self::Prometheus, Self::Ledger];

    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Scrape => "scrape",
            Self::Prometheus => "Prometheus",
            Self::Ledger => "ledger",
        }
    }
}

/// Where the recovery time starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum From {
    /// At the fault's effect, as reports do unless told otherwise.
    Fault,
    /// At the first symptom.
    Impact,
}

/// What an instrument said, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Not below this.
    pub lower: f64,
    /// Best estimate.
    pub value: f64,
    /// Not above this.
    pub upper: f64,
}

/// One known recovery, by one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// What was out.
    pub kind: Kind,
    /// How it was observed.
    pub method: Method,
    /// The probe's word in the experiment.
    pub probe: String,
    /// Where the recovery time starts.
    pub from: From,
    /// Name of the experiment, and of its folder's lane.
    pub experiment: String,
    /// Seconds that were asked of the workload.
    pub planned: f64,
    /// The truth by the workload's own stamps, in seconds.
    #[serde(rename = "true")]
    pub truth: f64,
    /// The truth is not known better than plus or minus this: half the time of the call by which the workload told the API.
    pub true_error: f64,
    /// What was measured; none when nothing could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Seconds>,
    /// Why nothing could be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// No symptom was seen: the interval says how long an outage may have gone unseen.
    pub unseen: bool,
}

impl Recovery {
    fn known(&self) -> Option<Known> {
        self.measured.map(|measured| Known {
            true_lower: self.truth - self.true_error,
            true_upper: self.truth + self.true_error,
            lower: measured.lower,
            upper: measured.upper,
            value: measured.value,
        })
    }

    /// Whether the truth is in the stated interval; none when nothing was measured.
    #[must_use]
    pub fn is_covered(&self) -> Option<bool> {
        self.known().map(|known| known.is_covered())
    }
}

/// A trial in which nothing was broken that a probe could see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Null {
    /// What the workload was made for.
    pub kind: Kind,
    /// How it was observed.
    pub method: Method,
    /// The probe's word in the experiment.
    pub probe: String,
    /// Name of the experiment.
    pub experiment: String,
    /// A symptom was seen, although there was none.
    pub alarm: bool,
}

/// Load averages of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Over a minute, when it began.
    pub before: f64,
    /// Over a minute, when it was over.
    pub after: f64,
}

/// What it was made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Version of chaosrun.
    pub version: String,
    /// Whether it was built with optimisation.
    pub optimised: bool,
    /// When it began, RFC 3339.
    pub date: String,
    /// Seed of lengths, order and phases.
    pub seed: u64,
    /// `lab`, and its Kubernetes version.
    pub cluster: String,
    /// Operating system and its release.
    pub kernel: String,
    /// Processors.
    pub cores: usize,
    /// How busy the machine was, calibration included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Targets that were broken side by side, each in its own namespace.
    pub parallel: usize,
    /// Seconds that it took.
    pub took: f64,
    /// Where the event logs and the workloads' stamps are.
    pub folder: String,
    /// `CLOCK_MONOTONIC` in nanoseconds at the zero of the event logs' clock.
    pub clock_origin_ns: i64,
}

/// The error distribution of some rows, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Numbers {
    /// Recoveries that were measured.
    pub recoveries: usize,
    /// Of these, inside the stated interval.
    pub covered: usize,
    /// Their share is at least this, at 95 % confidence.
    pub coverage_lower_bound: f64,
    /// Mean of best estimate minus truth.
    pub bias: f64,
    /// Median distance of the best estimate from the truth.
    pub median_abs_error: f64,
    /// 95 % of the distances are not larger.
    pub p95_abs_error: f64,
    /// 99 % of the distances are not larger.
    pub p99_abs_error: f64,
    /// The largest.
    pub max_abs_error: f64,
    /// Mean of upper minus lower.
    pub mean_width: f64,
    /// Recoveries of which no symptom was seen.
    pub unseen: usize,
    /// The longest of these, in truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_unseen: Option<f64>,
    /// Recoveries of which nothing could be measured.
    pub unmeasured: usize,
}

impl Numbers {
    /// The covered share.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn coverage(&self) -> f64 {
        self.covered as f64 / self.recoveries as f64
    }

    /// Of these rows; none when nothing was measured.
    #[must_use]
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a Recovery>) -> Option<Self> {
        let rows: Vec<&Recovery> = rows.into_iter().collect();
        let known: Vec<Known> = rows.iter().filter_map(|row| row.known()).collect();
        let sum = calibrated(&known, CONFIDENCE)?;
        let unseen = rows.iter().filter(|row| row.unseen && row.measured.is_some());
        Some(Self {
            recoveries: sum.count,
            covered: sum.covered,
            coverage_lower_bound: fine(sum.coverage_lower_bound),
            bias: fine(sum.bias),
            median_abs_error: fine(sum.median_abs_error),
            p95_abs_error: fine(sum.p95_abs_error),
            p99_abs_error: fine(sum.p99_abs_error),
            max_abs_error: fine(sum.max_abs_error),
            mean_width: fine(sum.mean_width),
            unseen: unseen.clone().count(),
            longest_unseen: unseen.map(|row| row.truth).reduce(f64::max),
            unmeasured: rows.len() - known.len(),
        })
    }
}

/// To a microsecond.
fn fine(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// One method, in all and by what was out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodSummary {
    /// The method.
    pub method: Method,
    /// From the fault's effect, all kinds together.
    pub from_fault: Numbers,
    /// From the first symptom, all kinds together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_impact: Option<Numbers>,
    /// From the fault's effect, by kind and probe.
    pub by_kind: Vec<KindSummary>,
}

/// One kind, by one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KindSummary {
    /// What was out.
    pub kind: Kind,
    /// The probe's word in the experiment.
    pub probe: String,
    /// From the fault's effect.
    pub from_fault: Numbers,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Calibration {
    /// [`SCHEMA`].
    pub schema: String,
    /// Pass when every limit is kept, inconclusive when there is too little to say so.
    pub verdict: Verdict,
    /// What it was made with.
    pub about: About,
    /// Known recoveries, each of them seen by one probe or several.
    pub recoveries: usize,
    /// By method.
    pub methods: Vec<MethodSummary>,
    /// The limits.
    pub limits: Vec<LimitReport>,
    /// Trials without an outage, by probe.
    pub nulls: Vec<Null>,
    /// Recoveries that were planned and did not take place, and why.
    pub dropped: Vec<String>,
    /// Every recovery, by probe.
    pub rows: Vec<Recovery>,
}

impl Calibration {
    /// Sums up.
    #[must_use]
    pub fn new(about: About, rows: Vec<Recovery>, nulls: Vec<Null>, dropped: Vec<String>) -> Self {
        let methods: Vec<MethodSummary> = Method::ALL
            .into_iter()
            .filter_map(|method| method_of(method, &rows))
            .collect();
        let limits = limits::all(&methods, &nulls);
        let experiments: std::collections::BTreeSet<(Kind, &str)> =
            rows.iter().map(|row| (row.kind, row.experiment.as_str())).collect();
        let recoveries = experiments.len();
        Self {
            schema: SCHEMA.to_owned(),
            verdict: limits::verdict(&limits, &methods, recoveries, dropped.len()),
            about,
            recoveries,
            methods,
            limits,
            nulls,
            dropped,
            rows,
        }
    }

    /// What later reports quote.
    #[must_use]
    pub fn quote(&self) -> InstrumentSummary {
        InstrumentSummary {
            version: self.about.version.clone(),
            date: self.about.date.clone(),
            cluster: self.about.cluster.clone(),
            kept: self.verdict == Verdict::Pass,
            recoveries: self.recoveries,
            methods: self
                .methods
                .iter()
                .map(|summary| InstrumentMethod {
                    method: summary.method.word().to_owned(),
                    recoveries: summary.from_fault.recoveries,
                    covered: summary.from_fault.covered,
                    median_abs_error_ms: summary.from_fault.median_abs_error * 1e3,
                    p99_abs_error_ms: summary.from_fault.p99_abs_error * 1e3,
                    mean_width_ms: summary.from_fault.mean_width * 1e3,
                })
                .collect(),
        }
    }
}

fn method_of(method: Method, rows: &[Recovery]) -> Option<MethodSummary> {
    let of = |from: From| rows.iter().filter(move |row| row.method == method && row.from == from);
    let mut groups: Vec<(Kind, &str)> = of(From::Fault).map(|row| (row.kind, row.probe.as_str())).collect();
    groups.sort_unstable();
    groups.dedup();
    let by_kind = groups
        .into_iter()
        .filter_map(|(kind, probe)| {
            let rows = of(From::Fault).filter(|row| row.kind == kind && row.probe == probe);
            Some(KindSummary {
                kind,
                probe: probe.to_owned(),
                from_fault: Numbers::of(rows)?,
            })
        })
        .collect();
    Some(MethodSummary {
        method,
        from_fault: Numbers::of(of(From::Fault))?,
        from_impact: Numbers::of(of(From::Impact)),
        by_kind,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::calibration) fn about() -> About {
        About {
            version: "0.1.0".to_owned(),
            optimised: true,
            date: "2026-01-02T03:04:05Z".to_owned(),
            seed: 7,
            cluster: "lab v1.33.0".to_owned(),
            kernel: "Linux 6.1".to_owned(),
            cores: 2,
            load: Some(Load {
                before: 0.1,
                after: 1.5,
            }),
            parallel: 6,
            took: 170.0,
            folder: "reports/calibration-x".to_owned(),
            clock_origin_ns: 1,
        }
    }

    pub(in crate::calibration) fn row(method: Method, number: usize, error: f64) -> Recovery {
        let truth = 1.0;
        Recovery {
            kind: Kind::PodReplaced,
            method,
            probe: "pods".to_owned(),
            from: From::Fault,
            experiment: format!("pod-replaced-{number}"),
            planned: 1.0,
            truth,
            true_error: 0.0,
            measured: Some(Seconds {
                lower: truth + error - 0.2,
                value: truth + error,
                upper: truth + error + 0.001,
            }),
            reason: None,
            unseen: false,
        }
    }

    fn rows(count: usize, error: f64) -> Vec<Recovery> {
        (0..count).map(|number| row(Method::Watch, number, error)).collect()
    }

    fn verdict(rows: Vec<Recovery>, nulls: Vec<Null>) -> Verdict {
        Calibration::new(about(), rows, nulls, Vec::new()).verdict
    }

    #[test]
    fn small_errors_pass_and_a_late_median_fails() {
        assert_eq!(verdict(rows(60, 0.004), Vec::new()), Verdict::Pass);
        assert_eq!(verdict(rows(60, 0.011), Vec::new()), Verdict::Fail);
    }

    #[test]
    fn a_long_tail_and_a_miss_fail() {
        let mut tail = rows(60, 0.004);
        tail.extend((60..64).map(|number| row(Method::Watch, number, 0.15)));
        assert_eq!(verdict(tail, Vec::new()), Verdict::Fail);
        let mut missed = rows(60, 0.004);
        // Too short: the truth is above the interval.
        missed.push(row(Method::Watch, 60, -0.05));
        assert_eq!(verdict(missed, Vec::new()), Verdict::Fail);
    }

    #[test]
    fn an_alarm_without_an_outage_fails() {
        let null = |alarm| Null {
            kind: Kind::DataOnly,
            method: Method::Ledger,
            probe: "progress".to_owned(),
            experiment: "null-1".to_owned(),
            alarm,
        };
        assert_eq!(verdict(rows(60, 0.0), vec![null(false)]), Verdict::Pass);
        assert_eq!(verdict(rows(60, 0.0), vec![null(true)]), Verdict::Fail);
    }

    #[test]
    fn too_few_recoveries_say_nothing() {
        assert_eq!(verdict(Vec::new(), Vec::new()), Verdict::Inconclusive);
        assert_eq!(verdict(rows(5, 0.0), Vec::new()), Verdict::Inconclusive);
        let mut unmeasured = rows(60, 0.0);
        for row in unmeasured.iter_mut().take(10) {
            row.measured = None;
        }
        assert_eq!(verdict(unmeasured, Vec::new()), Verdict::Inconclusive);
        let dropped = (0..20).map(|number| format!("{number}")).collect();
        let calibration = Calibration::new(about(), rows(60, 0.0), Vec::new(), dropped);
        assert_eq!(calibration.verdict, Verdict::Inconclusive);
    }

    #[test]
    fn an_outage_that_nobody_saw_counts_by_its_interval() {
        let unseen = |upper: f64| Recovery {
            measured: Some(Seconds {
                lower: 0.0,
                value: 0.0,
                upper,
            }),
            unseen: true,
            truth: 0.2,
            ..row(Method::Scrape, 0, 0.0)
        };
        assert_eq!(unseen(0.25).is_covered(), Some(true));
        assert_eq!(unseen(0.15).is_covered(), Some(false));
        let numbers = Numbers::of(&[unseen(0.25)]).unwrap();
        assert_eq!((numbers.unseen, numbers.longest_unseen), (1, Some(0.2)));
    }

    #[test]
    fn the_file_is_read_back_as_it_was_written() {
        let calibration = Calibration::new(about(), rows(3, 0.004), Vec::new(), vec!["x".to_owned()]);
        let text = serde_json::to_string(&calibration).unwrap();
        assert_eq!(serde_json::from_str::<Calibration>(&text).unwrap(), calibration);
    }
}
