//! Vectors about instants, records and verdicts, put through the code that a run uses: timeline, measure, verdict.

use super::formulas::numbers;
use crate::dsl::{EPOCH_MS, Log, at, between, experiment, good_unless, http, pod, silent};
use crate::ledger_cases::streaming;
use chaosrun::evidence::{AckedRange, Event, Outcome, Seen, SinkRead, SinkRun, TrialEnd};
use chaosrun::experiment::RtoSlo;
use chaosrun::measure::TrialMeasures;
use chaosrun::model::{Bounded, Interval, Mono, Verdict, WhyNot};
use chaosrun::stats::observation::counter_restored;
use chaosrun::stats::records::{Attempt, Classes, classify};
use chaosrun::timeline::{ProbeState, Span, Timeline};
use chaosrun::verdict::{judge, quantile_verdict};
use serde_json::{Value, json};
use std::time::Duration;

/// The answer to a vector, `None` for a method that is none of these.
pub(crate) fn answer(method: &str, input: &Value) -> Option<Value> {
    Some(match method {
        "recovery_instant_from_samples" => recovery(input, false),
        // The user's view: the state at s is that of a request SENT at s, whenever its answer came. The timeline keeps both stamps
        // and takes the answer's for its upper ends, which is never narrower; here it is shown the instant of sending twice.
        "recovery_instant_from_requests" => recovery(input, true),
        "duration_interval" => duration(input),
        "restored_from_counter_samples" => restored(input),
        "ledger_classify" => ledger(input),
        "rpo_seconds" => rpo(input),
        "verdict_single" => json!(single(input).word()),
        "verdict_quantile" => of_quantile(input),
        _ => return None,
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

struct Sample {
    sent: Mono,
    received: Mono,
    good: Option<bool>,
}

fn recovery(input: &Value, by_request: bool) -> Value {
    let samples: Vec<Sample> = input["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| Sample {
            sent: at(number(&sample["start"])),
            received: at(number(&sample["end"])),
            good: sample["ok"].as_bool(),
        })
        .collect();
    let confirm = usize::try_from(input["confirm"].as_u64().unwrap()).unwrap();
    let wanted = experiment("vector", vec![http()], 60.0);
    let mut timeline = Timeline::new(&wanted);
    let log = Log::of(&wanted);
    for event in &log.events {
        timeline.apply(event);
    }
    for sample in &samples {
        let outcome: Outcome = sample.good.map_or_else(silent, |good| good_unless(!good));
        timeline.apply(&Event::ProbeSample {
            probe: http().name,
            scheduled: sample.sent,
            sent: sample.sent,
            received: if by_request { sample.sent } else { sample.received },
            known_from: None,
            outcome,
            value: None,
        });
    }
    let spans = timeline.spans(&http().name);
    let ends = |within: Interval| json!([within.lower.seconds(), within.upper.seconds()]);
    let Some(outage) = spans.iter().position(|span| span.state == ProbeState::Bad) else {
        return json!({ "impact": null, "restored": null, "duration": null, "confirmed_at": null });
    };
    let impact = spans[outage].entered.within;
    // Good samples of a stretch: a shorter run than `confirm` is a flap.
    let goods = |span: &Span, next: Option<&Span>| -> Vec<&Sample> {
        let from = span.entered.within.lower;
        let until = next.map(|next| next.entered.within.lower);
        samples
            .iter()
            .filter(|sample| sample.good == Some(true))
            .filter(|sample| sample.sent > from && until.is_none_or(|until| sample.sent <= until))
            .collect()
    };
    let back = spans
        .iter()
        .enumerate()
        .skip(outage)
        .filter(|(_, span)| span.state == ProbeState::Good)
        .find_map(|(index, span)| {
            let goods = goods(span, spans.get(index + 1));
            (goods.len() >= confirm).then(|| (span.entered.within, goods[confirm - 1].received))
        });
    let Some((restored, confirmed)) = back else {
        let known = spans
            .iter()
            .rev()
            .find(|span| span.state == ProbeState::Bad)
            .map(|span| span.last_known)
            .unwrap();
        let least = Interval::exact(known).since(impact).lower;
        return json!({
            "impact": ends(impact),
            "restored": [known.seconds(), null],
            "duration": [least, null],
            "confirmed_at": null,
        });
    };
    let Bounded { lower, upper, .. } = restored.since(impact);
    json!({
        "impact": ends(impact),
        "restored": ends(restored),
        "duration": [lower, upper],
        "confirmed_at": confirmed.seconds(),
    })
}

fn duration(input: &Value) -> Value {
    let ends = |name: &str| {
        let ends = numbers(&input[name]);
        between(ends[0], ends[1])
    };
    let Bounded { lower, upper, .. } = ends("to").since(ends("from"));
    json!([lower, upper])
}

fn restored(input: &Value) -> Value {
    let samples = input["samples"].as_array().unwrap().iter().map(numbers);
    let samples: Vec<(f64, f64)> = samples.map(|sample| (sample[0], sample[1])).collect();
    let restored = counter_restored(&samples, number(&input["scrape_duration_s"])).unwrap();
    json!({ "restored": restored.map(|(lower, upper)| [lower, upper]) })
}

fn attempts(input: &Value) -> Vec<Attempt> {
    input["attempted"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| Attempt {
            id: attempt["id"].as_u64().unwrap(),
            time: number(&attempt["t"]),
            acknowledged: attempt["acked"].as_bool().unwrap(),
        })
        .collect()
}

fn ledger(input: &Value) -> Value {
    let attempts = attempts(input);
    let reads: Vec<(f64, Vec<u64>)> = input["sink_reads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|read| {
            let ids = read["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap());
            (number(&read["t"]), ids.collect())
        })
        .collect();
    let fault = number(&input["fault_time"]);
    let only_ids: Vec<Vec<u64>> = reads.iter().map(|(_, ids)| ids.clone()).collect();
    let classes = classify(&attempts, &only_ids, fault).unwrap();
    agrees_with_a_run(&attempts, &reads, fault, &classes);
    json!({
        "attempted": classes.attempted,
        "acknowledged": classes.acknowledged,
        "ok": classes.ok,
        "lost": classes.lost,
        "recovered": classes.recovered,
        "unexpected": classes.unexpected,
        "duplicated": classes.duplicated,
        "late": classes.late,
        "order_inversions": classes.inversions,
        "indeterminate_absent": classes.indeterminate,
        "rpo_records": classes.lost.len(),
        "lost_acked_before_fault": classes.lost_before_fault,
        "rpo_seconds": classes.rpo_seconds,
        "lost_after_fault": classes.lost_after_fault,
    })
}

/// The same records through the audit of a run: it counts over ranges what [`classify`] lists by name.
fn agrees_with_a_run(attempts: &[Attempt], reads: &[(f64, Vec<u64>)], fault: f64, classes: &Classes) {
    let wanted = streaming("vector", 60.0);
    let stamp = |seconds: f64| EPOCH_MS + (seconds * 1000.0).round() as i64;
    let acked = attempts.iter().filter(|attempt| attempt.acknowledged);
    let acked: Vec<AckedRange> = acked
        .map(|attempt| AckedRange {
            first: attempt.id,
            last: attempt.id,
            at_ms: stamp(attempt.time),
            acked_ms: stamp(attempt.time) + 5,
            block: None,
        })
        .collect();
    let end = reads.last().unwrap().0;
    let reads = reads
        .iter()
        .map(|(seconds, ids)| SinkRead {
            during: between(*seconds, seconds + 0.1),
            last_batch: Some(1),
            runs: ids
                .iter()
                .map(|id| SinkRun {
                    first: *id,
                    last: *id,
                    times: 1,
                })
                .collect(),
            packed: None,
            uncommitted_files: 0,
            reordered: None,
        })
        .collect();
    let log = Log::of(&wanted)
        .clocks()
        .pod(Seen::Listed, fault - 40.0, pod("a"))
        .fault(&["a"], fault, fault)
        .pod(Seen::Deleted, fault, pod("a"))
        .event(Event::LedgerAudited {
            acked,
            acked_read: between(end - 5.0, end - 4.0),
            reads,
            drained: true,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        })
        .end(end + 1.0, end + 2.0);
    let mut timeline = Timeline::new(&wanted);
    for event in &log.events {
        timeline.apply(event);
    }
    let trial = &timeline.trials()[0];
    let measures = chaosrun::measure::trial(&wanted, &timeline, trial, None);
    let counts = measures.ledger.unwrap().unwrap();
    assert_eq!(counts.produced, classes.acknowledged);
    assert_eq!(counts.lost, classes.lost.len() as u64);
    let acknowledged: Vec<u64> = attempts.iter().filter(|a| a.acknowledged).map(|a| a.id).collect();
    // A run also asks whether the record was acknowledged when the earlier read began.
    let late = classes.late.iter().filter(|id| acknowledged.contains(id)).count();
    assert!(counts.late <= late as u64, "{} late of {late}", counts.late);
    let excess: u64 = classes.duplicated.values().map(|times| times - 1).sum();
    assert_eq!(counts.duplicated, excess);
    let unacknowledged = classes.recovered.len() + classes.unexpected.len();
    assert_eq!(counts.unacknowledged, unacknowledged as u64);
    let rpo = counts.rpo_seconds.unwrap();
    // The producer's clock is known to a millisecond on both sides, and its stamps are whole milliseconds.
    assert!(
        rpo.lower - 1e-6 <= classes.rpo_seconds && classes.rpo_seconds <= rpo.upper + 1e-6,
        "{} is not in {rpo:?}",
        classes.rpo_seconds
    );
}

fn rpo(input: &Value) -> Value {
    let lost = numbers(&input["lost_event_times"]);
    let attempts: Vec<Attempt> = (0..)
        .zip(&lost)
        .map(|(id, time)| Attempt {
            id,
            time: *time,
            acknowledged: true,
        })
        .collect();
    let classes = classify(&attempts, &[Vec::new()], number(&input["fault_time"])).unwrap();
    json!({ "rpo_records": classes.lost.len(), "rpo_seconds": classes.rpo_seconds })
}

/// A trial as it would have been measured, with everything else in order.
fn measured(input: &Value) -> TrialMeasures {
    let unmeasured = || WhyNot::NoData {
        why: "not part of the vector".to_owned(),
    };
    let ends = input["rto"].as_array().unwrap();
    let rto = if input["samples"].as_u64() == Some(0) {
        Err(WhyNot::NoData {
            why: "no sample".to_owned(),
        })
    } else {
        match (ends[0].as_f64(), ends[1].as_f64()) {
            (Some(lower), Some(upper)) => Ok(Bounded::new(lower, upper)),
            (Some(observed_seconds), None) => Err(WhyNot::NotRecovered {
                observed_seconds,
                why: "still bad".to_owned(),
            }),
            _ => Err(unmeasured()),
        }
    };
    let proven = input["fault_proven"].as_bool().unwrap();
    TrialMeasures {
        trial: 1,
        spoiled: (!proven).then(|| WhyNot::FaultNotProven {
            why: "no effect was recorded".to_owned(),
        }),
        end: Some(TrialEnd::Completed),
        rto_from_fault: rto,
        rto_from_impact: Err(unmeasured()),
        phases: Vec::new(),
        detected: Err(unmeasured()),
        ledger: None,
        reprocessing: Err(unmeasured()),
        availability: Err(unmeasured()),
        assertions: Vec::new(),
        flaps: 0,
        relapses: 0,
        notes: Vec::new(),
    }
}

fn single(input: &Value) -> Verdict {
    let mut probe = http();
    probe.interval = Duration::from_millis(1);
    let mut wanted = experiment("vector", vec![probe], number(&input["limit"]));
    let strict = match input["op"].as_str().unwrap() {
        "<" => true,
        "<=" => false,
        other => panic!("a recovery time has no limit {other}"),
    };
    wanted.slos.rto = wanted.slos.rto.map(|mut slo: RtoSlo| {
        slo.limit.strict = strict;
        slo
    });
    judge(&wanted, Some(&measured(input)))[0].verdict
}

fn of_quantile(input: &Value) -> Value {
    let count = |name: &str| input[name].as_u64().unwrap();
    let found = quantile_verdict(
        count("within"),
        count("trials"),
        count("undecided"),
        number(&input["quantile"]),
        number(&input["confidence"]),
    );
    json!({
        "verdict": found.verdict.word(),
        "lower_bound": found.lower_bound,
        "upper_bound": found.upper_bound,
        "further_trials_if_no_failure": found.more_trials_needed,
    })
}
