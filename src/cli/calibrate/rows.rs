//! From a lane's event log to rows: the same timeline and the same measures that make the report.

use super::plan::LanePlan;
use super::truth::{Stamp, Wanted, outage};
use crate::calibration::{From, Method, Null, Recovery, Seconds};
use crate::evidence::{Event, Record};
use crate::experiment::{Check, Experiment};
use crate::measure::{self, TrialMeasures};
use crate::model::{Bounded, Measured};
use crate::timeline::{Restoration, Timeline};

/// What a lane's log gives.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Vec<Recovery>,
    pub(super) nulls: Vec<Null>,
    pub(super) dropped: Vec<String>,
}

/// The experiment as if it had only this probe: every probe is calibrated by itself.
fn only(experiment: &Experiment, probe: &str) -> Experiment {
    let mut experiment = experiment.clone();
    experiment.steady_state.probes.retain(|held| held.name == probe);
    let by_ledger = |check: &Check| matches!(check, Check::Progress { .. });
    if !experiment.steady_state.probes.iter().any(|held| by_ledger(&held.check)) {
        experiment.ledger = None;
    }
    experiment
}

/// Reads the log of a lane. `stamps` gives those of experiment number `index`; `origin_ns` is the zero of the log's clock.
pub(super) fn rows(records: &[Record], plan: &LanePlan, origin_ns: i64, stamps: impl Fn(usize) -> Vec<Stamp>) -> Found {
    let mut found = Found::default();
    for index in 0..plan.experiments() {
        let title = plan.title(index);
        let chapter = chapter(records, &title);
        let Some(Event::ExperimentStarted { experiment, .. }) = chapter.first().map(|record| &record.event) else {
            found.dropped.push(format!("{title}: it was not begun"));
            continue;
        };
        let ended = chapter.iter().find_map(|record| match &record.event {
            Event::ExperimentEnded { error, .. } => error.clone(),
            _ => None,
        });
        let stamps = stamps(index);
        for (method, probe, _) in plan.target.probes() {
            let experiment = only(experiment, probe);
            let mut timeline = Timeline::new(&experiment);
            for record in chapter {
                timeline.apply(&record.event);
            }
            let about = format!("{title}, {probe}");
            let Some(facts) = timeline.trials().first() else {
                found
                    .dropped
                    .push(format!("{about}: {}", ended.as_deref().unwrap_or("no trial was begun")));
                continue;
            };
            let measures = measure::trial(&experiment, &timeline, facts, None);
            let at = facts.end.as_ref().map_or(timeline.now(), |(_, at)| *at);
            let restoration = timeline.restoration(facts, at);
            let Some(length) = plan.outages.get(index).and_then(|outage| outage.length) else {
                match null(&restoration) {
                    Some(alarm) => found.nulls.push(Null {
                        kind: plan.target.kind,
                        method,
                        probe: probe.to_owned(),
                        experiment: title.clone(),
                        alarm,
                    }),
                    None => found.dropped.push(format!("{about}: nothing can be said")),
                }
                continue;
            };
            let Some(requested) = facts.requested() else {
                let why = ended.as_deref().unwrap_or("nothing was broken");
                found.dropped.push(format!("{about}: {why}"));
                continue;
            };
            let unseen = matches!(&restoration, Restoration::Back(back) if back.impact.is_none());
            for from in [From::Fault, From::Impact] {
                // Data that does not flow is a symptom only after the time that the probe grants, and an annotation only when its
                // object is gone: other definitions, which the stamps do not tell of.
                if from == From::Impact && (method == Method::Ledger || probe == "resource") {
                    continue;
                }
                let wanted = Wanted {
                    from: origin_ns + requested.0 * 1000,
                    method,
                    probe,
                    deletes: plan.target.deletes(),
                    symptom: from == From::Impact,
                };
                let Some(truth) = outage(&stamps, wanted) else {
                    found.dropped.push(format!("{about}: the workload stamped no outage"));
                    break;
                };
                let (measured, reason) = said(&measures, from);
                found.rows.push(Recovery {
                    kind: plan.target.kind,
                    method,
                    probe: probe.to_owned(),
                    from,
                    experiment: title.clone(),
                    planned: length,
                    truth: truth.seconds,
                    true_error: truth.error,
                    measured,
                    reason,
                    unseen,
                });
            }
        }
    }
    found
}

/// The records of one experiment.
fn chapter<'a>(records: &'a [Record], title: &str) -> &'a [Record] {
    let begins = |record: &Record| matches!(&record.event, Event::ExperimentStarted { experiment, .. } if experiment.name == title);
    let Some(begin) = records.iter().position(begins) else {
        return &[];
    };
    let rest = records.get(begin..).unwrap_or_default();
    let end = rest
        .iter()
        .position(|record| matches!(record.event, Event::ExperimentEnded { .. }))
        .map_or(rest.len(), |end| end + 1);
    rest.get(..end).unwrap_or_default()
}

/// Whether something was seen although there was nothing; none when nobody looked.
fn null(restoration: &Restoration) -> Option<bool> {
    match restoration {
        Restoration::Back(back) => Some(back.impact.is_some()),
        Restoration::NotYet { impact, .. } => Some(impact.is_some()),
        Restoration::NoData { .. } => None,
    }
}

fn said(measures: &TrialMeasures, from: From) -> (Option<Seconds>, Option<String>) {
    let measured: &Measured<Bounded> = match from {
        From::Fault => &measures.rto_from_fault,
        From::Impact => &measures.rto_from_impact,
    };
    match measured {
        Ok(bounded) => {
            let seconds = Seconds {
                lower: bounded.lower,
                value: bounded.value,
                upper: bounded.upper,
            };
            (Some(seconds), None)
        }
        Err(why) => (None, Some(why.to_string())),
    }
}
