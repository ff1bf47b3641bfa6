//! The main job against the real thing: Apache Spark in the lab, its driver killed.

use crate::support::lab::Lab;

#[test]
fn the_driver_of_a_real_spark_job_is_killed_and_the_claim_holds() {
    let lab = Lab::up("spark");
    let run = lab.run(&["scenarios/driver-kill.yaml"]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let report = run.report(lab.folder());
    let experiment = &report["experiments"][0];
    let workload = experiment["workload"].as_str().unwrap_or_default();
    assert!(
        workload.starts_with("apache-spark "),
        "{workload} (is Spark installed? `make test` does it)"
    );
    let trial = &experiment["trials"][0];
    let (lower, upper) = (
        trial["rto"]["lower"].as_f64().unwrap(),
        trial["rto"]["upper"].as_f64().unwrap(),
    );
    assert!(upper - lower <= 0.5, "the error bar is {} s wide", upper - lower);
    assert!(upper < 120.0, "{upper}");
    assert!(trial["ledger"]["produced"].as_u64().unwrap() > 0);
    assert_eq!(trial["ledger"]["lost"], 0);
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
}

/// A scenario against real Spark, with a proof that says `proof`.
fn passes(scenario: &str, proof: &str) {
    let lab = Lab::up(scenario);
    let run = lab.run(&[&format!("scenarios/{scenario}.yaml")]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let report = run.report(lab.folder());
    let experiment = &report["experiments"][0];
    let workload = experiment["workload"].as_str().unwrap_or_default();
    assert!(workload.starts_with("apache-spark "), "{workload}");
    let trial = &experiment["trials"][0];
    let seen = trial["faults"][0]["proof"].to_string();
    assert!(seen.contains(proof), "{seen}");
    assert_eq!(trial["ledger"]["lost"], 0);
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
}

#[test]
fn real_spark_survives_a_network_partition() {
    passes("network-partition", "no connection from");
}

#[test]
fn real_spark_survives_an_executor_that_runs_out_of_memory() {
    passes("memory-stress", "OOMKilled");
}
