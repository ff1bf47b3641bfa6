//! Every formula of `chaosrun::stats` by the name that the vectors give it: input in, everything that is known out. Where no value
//! exists the answer is null.

use chaosrun::stats::availability::Outage;
use chaosrun::stats::bootstrap;
use chaosrun::stats::clock::{Exchange, offset_bounds};
use chaosrun::stats::observation;
use chaosrun::stats::quantile::{self, Observed, QuantileBound, Rank};
use chaosrun::stats::rates::{self, RateInterval};
use chaosrun::stats::sequential::{self, Decision};
use chaosrun::stats::survival::{Time, kaplan_meier};
use chaosrun::stats::trend;
use chaosrun::stats::two_sample::{self, Gate, RankTest};
use chaosrun::stats::{Known, Undefined, availability, calibrated};
use serde_json::{Value, json};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// Every result as JSON: what does not exist is null, and so is what is not finite.
fn or_null<T>(result: Result<T, Undefined>, show: impl FnOnce(T) -> Value) -> Value {
    result.map_or(Value::Null, show)
}

fn plain(result: Result<f64, Undefined>) -> Value {
    or_null(result, |value| json!(value))
}

fn rank(result: Result<Rank, Undefined>) -> Value {
    or_null(
        result,
        |Rank {
             rank,
             achieved_confidence,
         }| { json!({ "rank": rank, "achieved_confidence": achieved_confidence }) },
    )
}

fn interval(result: Result<RateInterval, Undefined>) -> Value {
    or_null(
        result,
        |RateInterval { lower, upper }| json!({ "lower": lower, "upper": upper }),
    )
}

fn bound(result: Result<QuantileBound, Undefined>) -> Value {
    or_null(result, |found| {
        json!({
            "rank": found.rank,
            "bound": found.bound,
            "at_least": found.at_least,
            "achieved_confidence": found.achieved_confidence,
            "further_trials_if_no_failure": found.further_trials,
        })
    })
}

fn rank_test(result: Result<RankTest, Undefined>) -> Value {
    or_null(
        result,
        |test| json!({ "u_new": test.u_new, "p_two_sided": test.p_two_sided, "p_greater": test.p_greater }),
    )
}

fn times(input: &Value) -> Vec<Time> {
    let recovered = input["recovered"].as_array().unwrap().iter();
    numbers(&input["times"])
        .into_iter()
        .zip(recovered)
        .map(|(time, recovered)| Time {
            time,
            recovered: recovered.as_bool().unwrap(),
        })
        .collect()
}

/// The answer to a vector, `None` for a method that is none of these.
pub(crate) fn answer(method: &str, input: &Value) -> Option<Value> {
    let real = |name: &str| number(&input[name]);
    let count = |name: &str| {
        input[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{method}: {name} of {input} is not a count"))
    };
    let counts = || (count("successes"), count("trials"));
    let samples = || (numbers(&input["base"]), numbers(&input["new"]));
    Some(match method {
        "trials_needed" => or_null(
            quantile::trials_needed(real("quantile"), real("confidence"), count("allowed_failures")),
            |n| json!(n),
        ),
        "best_zero_failure_quantile" => {
            assert_eq!(count("failures"), 0, "this method is about none");
            plain(quantile::best_zero_failure_quantile(
                count("trials"),
                real("confidence"),
            ))
        }
        "quantile_upper_bound_rank" => rank(quantile::upper_bound_rank(
            count("n"),
            real("quantile"),
            real("confidence"),
        )),
        "quantile_lower_bound_rank" => rank(quantile::lower_bound_rank(
            count("n"),
            real("quantile"),
            real("confidence"),
        )),
        "median_ci_ranks" => or_null(quantile::median_ranks(count("n"), real("confidence")), |found| {
            json!({
                "lower_rank": found.ranks.map(|ranks| ranks.0),
                "upper_rank": found.ranks.map(|ranks| ranks.1),
                "achieved_confidence": found.achieved_confidence,
            })
        }),
        "quantile_upper_bound" | "quantile_upper_bound_intervals" | "quantile_upper_bound_censored" => {
            let observed: Vec<Observed> = if let Some(values) = input.get("values") {
                numbers(values).into_iter().map(Observed::exact).collect()
            } else if let Some(intervals) = input.get("intervals") {
                let ends = intervals.as_array().unwrap().iter().map(numbers);
                ends.map(|ends| Observed::between(ends[0], ends[1])).collect()
            } else {
                let trials = input["trials"].as_array().unwrap().iter();
                let one = |trial: &Value| {
                    let value = number(&trial["value"]);
                    if trial["censored"].as_bool().unwrap() {
                        Observed::censored(value)
                    } else {
                        Observed::exact(value)
                    }
                };
                trials.map(one).collect()
            };
            bound(quantile::quantile_upper_bound(
                &observed,
                real("quantile"),
                real("confidence"),
            ))
        }
        "dkw_epsilon" => plain(quantile::band_half_width(count("n"), real("confidence"))),
        "clopper_pearson_interval" => {
            let (s, n) = counts();
            interval(rates::clopper_pearson(s, n, real("confidence")))
        }
        "wilson_interval" => {
            let (s, n) = counts();
            interval(rates::wilson(s, n, real("confidence")))
        }
        "jeffreys_interval" => {
            let (s, n) = counts();
            interval(rates::jeffreys(s, n, real("confidence")))
        }
        "clopper_pearson_lower" => {
            let (s, n) = counts();
            plain(rates::lower_bound(s, n, real("confidence")))
        }
        "clopper_pearson_upper" => {
            let (s, n) = counts();
            plain(rates::upper_bound(s, n, real("confidence")))
        }
        "zero_event_upper_bound" => plain(rates::event_upper_bound(
            count("events"),
            count("trials"),
            real("confidence"),
        )),
        "sprt_bernoulli" => {
            let outcomes: Vec<bool> = numbers(&input["outcomes"]).iter().map(|one| *one > 0.5).collect();
            let found = sequential::ratio_test(&outcomes, real("p0_bad"), real("p1_good"), real("alpha"), real("beta"));
            or_null(found, |found| {
                let decision = match found.decision {
                    Decision::AcceptGood => "accept_p1",
                    Decision::AcceptBad => "accept_p0",
                    Decision::Continue => "continue",
                };
                json!({
                    "decision": decision,
                    "at": found.at,
                    "llr": found.log_ratio,
                    "upper": found.upper,
                    "lower": found.lower,
                })
            })
        }
        "e_value_bernoulli_one_sided" | "e_value_bernoulli_refute" => {
            let (s, n) = counts();
            or_null(sequential::e_value(s, n, real("p0"), real("p1")), |found| {
                json!({
                    "e_value": found.value,
                    "rejects_p_le_p0_at_0.05": found.rejects(0.05),
                    "rejects_p_ge_p0_at_0.05": found.rejects(0.05),
                })
            })
        }
        "confidence_sequence_beta_binomial" => {
            let (s, n) = counts();
            let found = sequential::confidence_sequence(s, n, real("alpha"), real("prior_a"), real("prior_b"));
            or_null(found, |found| json!({ "lower": found.lower, "upper": found.upper }))
        }
        "confidence_sequence_trials_needed_zero_failures" => or_null(
            sequential::confidence_sequence_trials_needed(real("p0"), real("alpha"), real("prior_a"), real("prior_b")),
            |n| json!(n),
        ),
        "extended_plan_false_pass" => or_null(
            sequential::extended_plan_false_pass(real("quantile"), real("confidence"), count("stages")),
            |plan| {
                plan.into_iter()
                    .map(|stage| {
                        json!({
                            "n": stage.trials,
                            "allowed_failures": stage.allowed_failures,
                            "cumulative_false_pass": stage.false_pass,
                        })
                    })
                    .collect()
            },
        ),
        "e_process_trials_needed" => or_null(
            sequential::e_process_trials_needed(real("p0"), real("p1"), real("alpha"), count("failures")),
            |n| json!(n),
        ),
        "kaplan_meier" => or_null(kaplan_meier(&times(input), real("confidence")), |found| {
            let table: Vec<Value> = found
                .steps
                .iter()
                .map(|step| {
                    json!({
                        "t": step.time,
                        "at_risk": step.at_risk,
                        "events": step.events,
                        "survival": step.survival,
                        "greenwood_se": step.standard_error,
                        "loglog_lower": step.limits.map(|limits| limits.0),
                        "loglog_upper": step.limits.map(|limits| limits.1),
                    })
                })
                .collect();
            let mut shown = json!({ "table": table, "median": found.quantile(0.5) });
            for percent in 1..100 {
                shown[format!("p{percent}")] = json!(found.quantile(f64::from(percent) / 100.0));
            }
            shown
        }),
        "restricted_mean" => {
            plain(kaplan_meier(&times(input), 0.95).and_then(|found| found.restricted_mean(real("horizon"))))
        }
        "bootstrap_median_exact" => or_null(
            bootstrap::median(&numbers(&input["values"]), real("confidence")),
            |found| {
                json!({
                    "pmf": found.probabilities,
                    "mean": found.mean,
                    "se": found.standard_error,
                    "percentile_lower": found.lower,
                    "percentile_upper": found.upper,
                })
            },
        ),
        "mann_whitney_exact" => {
            let (base, new) = samples();
            rank_test(two_sample::mann_whitney_exact(&base, &new))
        }
        "mann_whitney_asymptotic" => {
            let (base, new) = samples();
            let continuity = input["continuity"].as_bool().unwrap_or(true);
            rank_test(two_sample::mann_whitney_asymptotic(&base, &new, continuity))
        }
        "hodges_lehmann_moses" => {
            let (base, new) = samples();
            or_null(two_sample::hodges_lehmann(&base, &new, real("confidence")), |found| {
                json!({
                    "shift": found.shift,
                    "lower": found.interval.map(|ends| ends.0),
                    "upper": found.interval.map(|ends| ends.1),
                    "k": found.k,
                    "achieved_confidence": found.achieved_confidence,
                })
            })
        }
        "mann_whitney_min_two_sided_p" => plain(two_sample::min_two_sided_p(count("m"), count("n"))),
        "noether_total_sample_size" => or_null(
            two_sample::noether_total(
                real("p_new_greater"),
                real("alpha_two_sided"),
                real("power"),
                real("share_in_base"),
            ),
            |n| json!(n),
        ),
        "regression_gate" => {
            let (base, new) = samples();
            let found = two_sample::regression_gate(&base, &new, real("margin_s"), real("confidence_one_sided"));
            or_null(found, |found| {
                let verdict = match found.gate {
                    Gate::Regressed => "regressed",
                    Gate::NotRegressed => "no_regression",
                    Gate::Inconclusive => "inconclusive",
                };
                json!({
                    "shift": found.shift,
                    "lower": found.bounds.map(|ends| ends.0),
                    "upper": found.bounds.map(|ends| ends.1),
                    "verdict": verdict,
                })
            })
        }
        "trial_order_trend" => {
            let values = numbers(&input["rto_in_order"]);
            let found = trend::kendall(&values).ok().flatten();
            let lag = trend::lag_one(&values).ok().flatten();
            json!({
                "kendall_tau_b": found.map(|found| found.tau),
                "p_value": found.map(|found| found.p_value),
                "lag1_autocorrelation": lag,
                "effective_n": lag.map(|lag| trend::effective_trials(values.len() as u64, lag)),
            })
        }
        "error_budget_seconds" => plain(availability::error_budget_seconds(real("slo"), real("period_days"))),
        "recoveries_in_budget" => or_null(
            availability::recoveries_in_budget(real("slo"), real("period_days"), real("recovery_s")),
            |n| json!(n),
        ),
        "budget_consumed_seconds" => {
            let outages = input["outages"].as_array().unwrap().iter();
            let outages: Vec<Outage> = outages
                .map(|outage| Outage {
                    seconds: number(&outage["duration_s"]),
                    share: number(&outage["share_failed"]),
                })
                .collect();
            plain(availability::consumed_seconds(&outages))
        }
        "availability_from_mttf_mttr" => plain(availability::from_means(real("mttf_s"), real("mttr_s"))),
        "backlog_drain" => or_null(
            availability::backlog_drain(real("outage_s"), real("utilisation")),
            |drain| json!({ "drain_s": drain.drain_seconds, "caught_up_s": drain.caught_up_seconds }),
        ),
        "polling_error" => or_null(observation::polling_error(real("period_s")), |error| {
            json!({
                "instant_mean_bias": error.instant_mean_bias,
                "instant_sd": error.instant_sd,
                "instant_max": error.instant_max,
                "duration_mean_bias": error.duration_mean_bias,
                "duration_sd": error.duration_sd,
                "duration_min": error.duration_min,
                "duration_max": error.duration_max,
                "duration_abs_p95": error.duration_abs_p95,
            })
        }),
        "duration_from_truncated_seconds" => or_null(
            observation::duration_from_truncated_seconds(real("start_truncated"), real("end_truncated")),
            |(lower, upper)| json!({ "lower": lower, "upper": upper, "open": true }),
        ),
        "rate_window_bias" => or_null(
            observation::rate_window(real("window_s"), real("threshold_share_of_baseline")),
            |window| {
                json!({
                    "impact_late_s": window.impact_late,
                    "recovery_late_s": window.recovery_late,
                    "duration_bias_s": window.duration_bias,
                    "longest_invisible_outage_s": window.longest_invisible_outage,
                })
            },
        ),
        "rpo_uniform_phase" => or_null(
            observation::data_age(real("checkpoint_period_s"), real("commit_delay_s"), real("limit_s")),
            |age| {
                json!({
                    "min": age.min,
                    "mean": age.mean,
                    "p95": age.p95,
                    "worst": age.worst,
                    "share_of_phases_within_limit": age.share_within_limit,
                })
            },
        ),
        "phase_coverage" => or_null(
            observation::phase_coverage(count("trials"), real("worst_share")),
            |coverage| {
                json!({
                    "uniform_random_probability_of_a_hit": coverage.hit_probability,
                    "stratified_max_distance_to_worst_in_periods": coverage.stratified_distance,
                })
            },
        ),
        "clock_offset_bounds" => {
            let samples = input["samples"].as_array().unwrap().iter();
            let exchanges: Vec<Exchange> = samples
                .map(|sample| Exchange {
                    sent: number(&sample["sent"]),
                    received: number(&sample["received"]),
                    stamp: number(&sample["server_stamp"]),
                })
                .collect();
            or_null(offset_bounds(&exchanges, real("granularity_s")), |bounds| {
                json!({
                    "lower": bounds.map(|bounds| bounds.0),
                    "upper": bounds.map(|bounds| bounds.1),
                    "consistent": bounds.is_some(),
                })
            })
        }
        "calibration_summary" => {
            let trials = input["trials"].as_array().unwrap().iter();
            let known: Vec<Known> = trials
                .map(|trial| {
                    let (truth, lower, upper) = (
                        number(&trial["true_s"]),
                        number(&trial["lower"]),
                        number(&trial["upper"]),
                    );
                    Known {
                        true_lower: truth,
                        true_upper: truth,
                        lower,
                        upper,
                        value: f64::midpoint(lower, upper),
                    }
                })
                .collect();
            calibrated(&known, real("confidence")).map_or(Value::Null, |found| {
                json!({
                    "n": found.count,
                    "covered": found.covered,
                    "coverage_lower_bound": found.coverage_lower_bound,
                    "bias_of_midpoint": found.bias_of_midpoint,
                    "rms_error": found.rms_error_of_midpoint,
                    "max_abs_error": found.max_abs_error_of_midpoint,
                    "median_abs_error": found.median_abs_error,
                    "p95_abs_error": found.p95_abs_error,
                    "p99_abs_error": found.p99_abs_error,
                    "mean_width": found.mean_width,
                })
            })
        }
        _ => return None,
    })
}
