//! Two sets of saved runs, and what may be said of the difference.

use super::saved::{RECOVERY, Saved, SavedMeasure};
use crate::stats::Observed;
use crate::stats::trend::kendall;
use crate::stats::two_sample::{
    Gate, hodges_lehmann, mann_whitney, min_two_sided_p, noether_total, ranked, regression_gate_observed,
};
use crate::verdict::{count, decimals, fixed};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The power with which further trials are planned.
const POWER: f64 = 0.8;
/// More trials than anybody runs.
const AFFORDABLE: u64 = 5000;

/// How much slower is too slow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// So many seconds.
    Seconds(f64),
    /// A share of the base's median.
    Share(f64),
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// A slow-down below this does not matter.
    pub margin: Margin,
    /// Confidence of each one-sided bound, and of the two-sided interval that is shown.
    pub confidence: f64,
}

/// What may be said of one experiment, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Recovery is not slower by the margin.
    NotRegressed,
    /// Neither is shown.
    Inconclusive,
    /// Recovery is slower by more than the margin.
    Regressed,
}

impl Outcome {
    /// As it stands in reports.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NotRegressed => "not regressed",
            Self::Inconclusive => "inconclusive",
            Self::Regressed => "regressed",
        }
    }
}

/// Two sets of runs compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Name and version of the format.
    pub schema: &'static str,
    /// The worst of all experiments.
    pub outcome: Outcome,
    /// Runs of the base.
    pub base: Vec<String>,
    /// Runs that are compared with it.
    pub new: Vec<String>,
    /// By name.
    pub experiments: Vec<Compared>,
}

/// One experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Its name.
    pub experiment: String,
    /// What may be said of its recovery.
    pub outcome: Outcome,
    /// Why, as a sentence.
    pub why: String,
    /// Its recovery first, and then what else was measured; only the recovery decides. Empty when the runs cannot be compared.
    pub measures: Vec<Measure>,
    /// How many more trials would probably decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_trials: Option<More>,
    /// What a reader has to know: trials that were left out, logs that stop early, differences between the runs.
    pub notes: Vec<String>,
}

/// Further trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct More {
    /// Of the base.
    pub base: u64,
    /// Of the new one.
    pub new: u64,
}

/// One measured quantity on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measure {
    /// Its name.
    pub name: String,
    /// Its unit, empty for a share.
    pub unit: String,
    /// The base.
    pub base: Side,
    /// What is compared with it.
    pub new: Side,
    /// Hodges-Lehmann shift, new minus base; none when one side has nothing, or when the middle falls on trials that never recovered.
    pub shift: Option<f64>,
    /// Moses' interval of the shift, two-sided, over the ends of the error bars; none when there are too few trials. An end that is
    /// not bounded is null.
    pub interval: Option<(Option<f64>, Option<f64>)>,
    /// Mann-Whitney's two-sided p-value.
    pub p: Option<f64>,
    /// The p-value is exact (no ties), and not the normal approximation.
    pub p_exact: bool,
    /// The bounds that decide; only of the recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gates>,
}

/// The bounds that decide.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gates {
    /// One-sided lower bound of the shift; none when not bounded.
    pub lower: Option<f64>,
    /// One-sided upper bound of the shift; none when not bounded.
    pub upper: Option<f64>,
    /// What they are held against, seconds.
    pub margin: f64,
    /// Confidence of each.
    pub confidence: f64,
}

/// One side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Trials with a value.
    pub trials: usize,
    /// Of these, how many never recovered while they were watched.
    pub never: usize,
    /// Median; none when there is none or when it falls on a trial that never recovered.
    pub median: Option<f64>,
}

/// Compares every experiment that is on one of the sides.
#[must_use]
pub fn compare(base: &[Saved], new: &[Saved], rule: Rule) -> Comparison {
    let of = |side: &[Saved]| -> Vec<String> {
        let runs: BTreeSet<&String> = side.iter().map(|saved| &saved.run).collect();
        runs.into_iter().cloned().collect()
    };
    let names: BTreeSet<&String> = base.iter().chain(new).map(|saved| &saved.experiment).collect();
    let experiments: Vec<Compared> = names
        .into_iter()
        .map(|name| {
            let select = |side: &'_ [Saved]| -> Vec<Saved> {
                side.iter().filter(|saved| saved.experiment == *name).cloned().collect()
            };
            one(name, &select(base), &select(new), rule)
        })
        .collect();
    Comparison {
        schema: "chaosrun.comparison/v1",
        outcome: experiments
            .iter()
            .map(|compared| compared.outcome)
            .max()
            .unwrap_or(Outcome::Inconclusive),
        base: of(base),
        new: of(new),
        experiments,
    }
}

fn one(name: &str, base: &[Saved], new: &[Saved], rule: Rule) -> Compared {
    let mut compared = Compared {
        experiment: name.to_owned(),
        outcome: Outcome::Inconclusive,
        why: String::new(),
        measures: Vec::new(),
        more_trials: None,
        notes: notes(base, new),
    };
    if base.is_empty() {
        "there is no run of it on the base side".clone_into(&mut compared.why);
        return compared;
    }
    if new.is_empty() {
        "there is no run of it on the new side".clone_into(&mut compared.why);
        return compared;
    }
    let differences = differences(base, new);
    if !differences.is_empty() {
        "these are not the same experiment: the runs differ in what they measured".clone_into(&mut compared.why);
        compared.notes.splice(0..0, differences);
        return compared;
    }
    let mut measures: Vec<Measure> = kinds(base, new)
        .into_iter()
        .map(|kind| measure(kind, base, new, rule.confidence))
        .collect();
    let values = |side: &[Saved]| observed(side, RECOVERY);
    decide(&mut compared, &mut measures, &values(base), &values(new), rule);
    compared.measures = measures;
    compared
}

/// Every quantity that one of the runs measured, the recovery first.
fn kinds<'a>(base: &'a [Saved], new: &'a [Saved]) -> Vec<&'a SavedMeasure> {
    let mut kinds: Vec<&SavedMeasure> = Vec::new();
    for measure in base.iter().chain(new).flat_map(|saved| &saved.measures) {
        if !kinds.iter().any(|known| known.name == measure.name) {
            kinds.push(measure);
        }
    }
    kinds.sort_by_key(|measure| measure.name != RECOVERY);
    kinds
}

fn observed(side: &[Saved], name: &str) -> Vec<Observed> {
    side.iter()
        .filter_map(|saved| saved.measure(name))
        .flat_map(|measure| &measure.trials)
        .map(|value| match value.upper {
            Some(upper) => Observed::between(value.lower, upper),
            None => Observed::censored(value.lower),
        })
        .collect()
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn side(observed: &[Observed]) -> Side {
    let mut values = ranked(observed);
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied();
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        at(middle)
    } else {
        middle
            .checked_sub(1)
            .and_then(at)
            .zip(at(middle))
            .map(|(a, b)| f64::midpoint(a, b))
    };
    Side {
        trials: observed.len(),
        never: observed.iter().filter(|one| one.is_censored()).count(),
        median: median.and_then(finite),
    }
}

fn measure(kind: &SavedMeasure, base: &[Saved], new: &[Saved], confidence: f64) -> Measure {
    let (base, new) = (observed(base, &kind.name), observed(new, &kind.name));
    let (low, high) = (ranked(&base), ranked(&new));
    let shift = hodges_lehmann(&low, &high, confidence).ok();
    let test = mann_whitney(&low, &high).ok();
    let interval = interval(&base, &new, confidence);
    Measure {
        name: kind.name.clone(),
        unit: kind.unit.clone(),
        base: side(&base),
        new: side(&new),
        shift: shift.and_then(|shift| finite(shift.shift)),
        interval: interval.map(|(lower, upper)| (finite(lower), finite(upper))),
        p: test.map(|test| test.p_two_sided),
        p_exact: test.is_some_and(|test| test.exact),
        gate: None,
    }
}

/// Two-sided, from the ends that make it wider.
fn interval(base: &[Observed], new: &[Observed], confidence: f64) -> Option<(f64, f64)> {
    let one_sided = f64::midpoint(1.0, confidence);
    regression_gate_observed(base, new, 0.0, one_sided).ok()?.bounds
}

/// The gate on the recovery.
fn decide(compared: &mut Compared, measures: &mut [Measure], base: &[Observed], new: &[Observed], rule: Rule) {
    let (m, n) = (base.len() as u64, new.len() as u64);
    if m == 0 || n == 0 {
        let which = if m == 0 { "base" } else { "new" };
        compared.why = format!("no trial on the {which} side could be judged");
        return;
    }
    let percent = percent(rule.confidence);
    let margin = match rule.margin {
        Margin::Seconds(seconds) => seconds,
        Margin::Share(share) => match side(base).median {
            Some(median) => share * median,
            None => {
                "half of the base never recovered: a share of its median is no margin".clone_into(&mut compared.why);
                return;
            }
        },
    };
    let alpha = 1.0 - rule.confidence;
    let smallest = min_two_sided_p(m, n).unwrap_or(1.0);
    if smallest > alpha * (1.0 + 1e-9) {
        let more = further(m, n, base, new, margin, alpha);
        compared.why = format!(
            "{m} against {n} trials can never be significant at {percent} (the smallest p-value is {})",
            p_text(smallest)
        );
        plan(compared, more, m, n);
        return;
    }
    let Ok(gated) = regression_gate_observed(base, new, margin, rule.confidence) else {
        "the recovery times are not numbers".clone_into(&mut compared.why);
        return;
    };
    let (lower, upper) = gated.bounds.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    if let Some(recovery) = measures.iter_mut().find(|measure| measure.name == RECOVERY) {
        recovery.gate = Some(Gates {
            lower: finite(lower),
            upper: finite(upper),
            margin,
            confidence: rule.confidence,
        });
    }
    let margin_text = seconds(margin, margin / 100.0);
    let width = upper - lower;
    let show = |value: f64| seconds(value, width / 20.0);
    match gated.gate {
        Gate::Regressed => {
            compared.outcome = Outcome::Regressed;
            compared.why = format!(
                "recovery is slower by at least {} ({percent} confidence), more than the margin of {margin_text}",
                show(lower)
            );
        }
        Gate::NotRegressed => {
            compared.outcome = Outcome::NotRegressed;
            compared.why = if upper < 0.0 {
                format!(
                    "recovery is faster, by at least {} ({percent} confidence)",
                    show(-upper)
                )
            } else {
                format!(
                    "recovery is not slower by more than {} ({percent} confidence), less than the margin of {margin_text}",
                    show(upper)
                )
            };
        }
        Gate::Inconclusive => {
            compared.why = match (finite(lower), finite(upper)) {
                (Some(lower), Some(upper)) => format!(
                    "the shift of the recovery lies between {} and {} ({percent} confidence each), and so does the margin of \
                     {margin_text}",
                    show(lower),
                    show(upper)
                ),
                (Some(lower), None) if lower > 0.0 => format!(
                    "recovery is slower by at least {} ({percent} confidence), and the trials that never recovered leave open by how \
                     much more; the margin is {margin_text}",
                    seconds(lower, lower.abs() / 100.0)
                ),
                _ => format!("trials that never recovered leave the shift open against the margin of {margin_text}"),
            };
            let midpoints =
                |side: &[Observed]| -> Vec<Observed> { ranked(side).into_iter().map(Observed::exact).collect() };
            let sharp = !base.iter().chain(new).any(Observed::is_censored)
                && regression_gate_observed(&midpoints(base), &midpoints(new), margin, rule.confidence)
                    .is_ok_and(|sharp| sharp.gate != Gate::Inconclusive);
            if sharp {
                compared.why +=
                    "; without the error bars of the trials it would be decided: measure with a shorter probe interval";
            }
            let more = further(m, n, base, new, margin, alpha);
            plan(compared, more, m, n);
        }
    }
}

/// How many further trials would find a difference like the one that was seen, with 80 % power.
fn further(m: u64, n: u64, base: &[Observed], new: &[Observed], margin: f64, alpha: f64) -> Option<More> {
    let (old, fresh) = (ranked(base), ranked(new));
    let mut above = 0.0;
    for base in &old {
        for new in &fresh {
            let difference = new - base;
            above += if difference.is_nan() || (difference - margin).abs() < 1e-12 {
                0.5
            } else {
                f64::from(u8::from(difference > margin))
            };
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "numbers of trials stay far below 2^52")]
    let pairs = (m * n) as f64;
    let total = noether_total(above / pairs, alpha, POWER, 0.5).ok()?;
    let (mut wanted_base, mut wanted_new) = (m, n);
    let total = total.max(m + n + 2);
    if total > AFFORDABLE {
        return None;
    }
    while wanted_base + wanted_new < total || min_two_sided_p(wanted_base, wanted_new).unwrap_or(1.0) > alpha {
        if wanted_new <= wanted_base {
            wanted_new += 1;
        } else {
            wanted_base += 1;
        }
        if wanted_base + wanted_new > AFFORDABLE {
            return None;
        }
    }
    Some(More {
        base: wanted_base - m,
        new: wanted_new - n,
    })
}

fn plan(compared: &mut Compared, more: Option<More>, m: u64, n: u64) {
    compared.more_trials = more;
    compared.notes.insert(
        0,
        match more {
            Some(more) => format!(
                "about {} more trials of the base ({} in all) and {} of the new build ({} in all) would decide a difference like \
                 this one in four of five cases",
                more.base,
                m + more.base,
                more.new,
                n + more.new
            ),
            None => "no affordable number of trials would decide a difference this close to the margin".to_owned(),
        },
    );
}

/// Runs with another setting measured something else: what differs, within a side or between the sides.
fn differences(base: &[Saved], new: &[Saved]) -> Vec<String> {
    let mut found = Vec::new();
    let all: Vec<(&str, &Saved)> = base
        .iter()
        .map(|saved| ("base", saved))
        .chain(new.iter().map(|saved| ("new", saved)))
        .collect();
    let keys: BTreeSet<&String> = all.iter().flat_map(|(_, saved)| saved.setting.keys()).collect();
    for key in keys {
        let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (side, saved) in &all {
            let value = saved.setting.get(key).map_or("not set", String::as_str);
            values.entry(side).or_default().insert(value);
        }
        let distinct: BTreeSet<&str> = values.values().flatten().copied().collect();
        if distinct.len() > 1 {
            found.push(format!("{key}: {}", by_side(&values)));
        }
    }
    found
}

/// `x (base), y or z (new)`.
fn by_side(values: &BTreeMap<&str, BTreeSet<&str>>) -> String {
    let sides: Vec<String> = values
        .iter()
        .map(|(side, values)| {
            let values: Vec<&str> = values.iter().copied().collect();
            format!("{} ({side})", values.join(" or "))
        })
        .collect();
    sides.join(", ")
}

fn notes(base: &[Saved], new: &[Saved]) -> Vec<String> {
    let mut notes = Vec::new();
    for (which, side) in [("base", base), ("new", new)] {
        for saved in side {
            if !saved.complete {
                notes.push(format!(
                    "{which}: the log of run {} stops before the run ended; its finished trials are used",
                    saved.run
                ));
            }
            if let Some(note) = drift(saved) {
                notes.push(format!("{which}: {note}"));
            }
            for left_out in &saved.left_out {
                notes.push(format!(
                    "{which}: trial {} of run {} is left out: {}",
                    left_out.trial, saved.run, left_out.why
                ));
            }
        }
    }
    let of = |side: &[Saved], fact: &dyn Fn(&Saved) -> String| -> BTreeSet<String> { side.iter().map(fact).collect() };
    let mut compare = |what: &str, fact: &dyn Fn(&Saved) -> String| {
        let (base, new) = (of(base, fact), of(new, fact));
        if !base.is_empty() && !new.is_empty() && (base != new || base.len() > 1) {
            let join = |side: BTreeSet<String>| side.into_iter().collect::<Vec<_>>().join(" or ");
            notes.push(format!("{what}: {} (base), {} (new)", join(base), join(new)));
        }
    };
    let names: BTreeSet<&String> = base.iter().chain(new).flat_map(|saved| saved.limits.keys()).collect();
    for name in names {
        compare(&format!("another limit of {name}"), &|saved| {
            saved.limits.get(name).map_or("none", String::as_str).to_owned()
        });
    }
    compare("another workload", &|saved| saved.workload.clone());
    compare("another version of chaosrun", &|saved| saved.version.clone());
    compare("another version of Kubernetes", &|saved| saved.cluster.version.clone());
    notes
}

/// Trials of one run that get longer or shorter one after the other are not independent, and no interval holds for them.
fn drift(saved: &Saved) -> Option<String> {
    let times = ranked(&observed(std::slice::from_ref(saved), RECOVERY));
    let trend = kendall(&times).ok()??;
    (trend.p_value < 0.01).then(|| {
        let direction = if trend.tau > 0.0 { "longer" } else { "shorter" };
        format!(
            "the trials of run {} took {direction} one after the other (Kendall's tau {}, p {}): they are not independent, and the \
             bounds are too narrow",
            saved.run,
            fixed(trend.tau, 2),
            p_text(trend.p_value)
        )
    })
}

/// `5.4 s`, with no more digits than the uncertainty deserves.
fn seconds(value: f64, uncertainty: f64) -> String {
    format!("{} s", number(value, uncertainty))
}

pub(super) fn number(value: f64, uncertainty: f64) -> String {
    if uncertainty > 0.0 && uncertainty.is_finite() {
        let text = fixed(value, decimals(uncertainty * 10.0));
        // A limit of 2.000 s is one of 2 s.
        if text.contains('.') {
            return text.trim_end_matches('0').trim_end_matches('.').to_owned();
        }
        return text;
    }
    count(value)
}

/// A p-value with two digits that count.
pub(super) fn p_text(p: f64) -> String {
    if p < 0.0001 {
        "< 0.0001".to_owned()
    } else if p < 0.001 {
        fixed(p, 5)
    } else if p < 0.01 {
        fixed(p, 4)
    } else if p < 0.1 {
        fixed(p, 3)
    } else {
        fixed(p, 2)
    }
}

fn percent(share: f64) -> String {
    format!("{} %", count(share * 100.0))
}
