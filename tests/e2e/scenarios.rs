//! Every shipped scenario, end to end in a real lab. Spark is replaced by the built-in pipeline here (a stand-in, and the
//! reports say so); `tests/e2e/spark.rs` runs the real one.

use crate::support::lab::{Lab, Run};
use serde_json::Value;

const BUILTIN: [&str; 2] = ["--var", "MANIFEST=../kind-config/builtin-pipeline.yaml"];

fn run(lab: &Lab, scenario: &str, more: &[&str]) -> (Run, Value) {
    let mut arguments = vec![scenario];
    arguments.extend(more);
    let run = lab.run(&arguments);
    let report = run.report(lab.folder());
    (run, report)
}

fn assert_contract(report: &Value) {
    assert_eq!(report["schema"], "chaosrun.report/v1");
    for field in ["id", "startedAt", "seed", "version", "cluster"] {
        assert!(!report["run"][field].is_null(), "run.{field} is missing");
    }
    assert_eq!(report["run"]["cluster"]["kind"], "lab");
    let experiment = &report["experiments"][0];
    for field in ["name", "verdict", "workload", "claims", "trials"] {
        assert!(!experiment[field].is_null(), "experiments[0].{field} is missing");
    }
    let trial = &experiment["trials"][0];
    for field in ["index", "verdict", "faults", "rto", "phases", "cost"] {
        assert!(!trial[field].is_null(), "trials[0].{field} is missing");
    }
}

#[test]
fn driver_kill_passes_with_the_built_in_pipeline_and_says_that_it_is_a_stand_in() {
    let lab = Lab::up("driver-kill");
    let (run, report) = run(&lab, "scenarios/driver-kill.yaml", &BUILTIN);
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert_contract(&report);
    assert_eq!(report["verdict"], "pass");
    let experiment = &report["experiments"][0];
    assert_eq!(experiment["workload"], "built-in pipeline");
    let trial = &experiment["trials"][0];
    let (lower, upper) = (
        trial["rto"]["lower"].as_f64().unwrap(),
        trial["rto"]["upper"].as_f64().unwrap(),
    );
    assert!(upper - lower <= 0.5, "the error bar is {} s wide", upper - lower);
    assert!(trial["ledger"]["produced"].as_u64().unwrap() > 0);
    assert_eq!(trial["ledger"]["lost"], 0);
    assert!(run.text.contains("STAND-IN"), "{}", run.text);
    // Whoever watches sees how far the data is, and that it goes on.
    let reached: Vec<(u64, u64)> = run.text.lines().filter_map(records).collect();
    // Two lines in a row may show the same batch; none goes back, and in the end more is through.
    let grows = |pair: &[(u64, u64)]| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1;
    assert!(reached.windows(2).all(grows), "{reached:?}");
    let (first, last) = (reached.first().unwrap(), reached.last().unwrap());
    assert!(first.0 < last.0 && first.1 < last.1, "{reached:?}\n{}", run.text);
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
    let (code, _) = lab.api("GET", "/api/v1/namespaces/spark-pipeline", None);
    assert_eq!(code, 404, "the setup was removed again");
}

/// `records in 1600, out 1575, batch 7`
fn records(line: &str) -> Option<(u64, u64)> {
    let (into, rest) = line.split_once("records in ")?.1.split_once(", out ")?;
    Some((into.parse().ok()?, rest.split_once(',')?.0.parse().ok()?))
}

#[test]
fn executor_kill_passes() {
    let lab = Lab::up("executor-kill");
    let (run, report) = run(&lab, "scenarios/executor-kill.yaml", &BUILTIN);
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert_contract(&report);
}

#[test]
fn driver_crash_passes_and_proves_the_exit_code() {
    let lab = Lab::up("driver-crash");
    let (run, report) = run(&lab, "scenarios/driver-crash.yaml", &BUILTIN);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let proof = report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string();
    assert!(proof.contains("exit code") && !proof.contains("exit code 0"), "{proof}");
}

#[test]
fn deployment_pod_kill_passes_without_spark() {
    let lab = Lab::up("deployment");
    let (run, report) = run(&lab, "scenarios/deployment-pod-kill.yaml", &[]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert_contract(&report);
}

/// Runs a scenario of a lasting fault and expects it to pass, with a proof that says `proof`.
fn passes(scenario: &str, proof: &str, more: &[&str]) -> Value {
    let lab = Lab::up(scenario);
    let mut arguments = BUILTIN.to_vec();
    arguments.extend(["--var", "DURATION=5s"]);
    arguments.extend(more);
    let (run, report) = run(&lab, &format!("scenarios/{scenario}.yaml"), &arguments);
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert_contract(&report);
    let fault = report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string();
    assert!(fault.contains(proof), "{fault}");
    assert_eq!(report["experiments"][0]["trials"][0]["ledger"]["lost"], 0);
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
    report
}

#[test]
fn network_partition_passes_and_traffic_really_stopped() {
    passes("network-partition", "no connection from", &[]);
}

#[test]
fn network_delay_passes_and_connections_really_took_longer() {
    passes("network-delay", "ms under the delay", &[]);
}

#[test]
fn memory_stress_passes_and_the_kernel_really_killed_the_executor() {
    passes("memory-stress", "OOMKilled", &[]);
}

#[test]
fn cpu_stress_passes_and_processors_were_really_used() {
    passes("cpu-stress", "% of one processor", &[]);
}

#[test]
fn node_drain_passes_and_the_node_is_really_empty() {
    passes("node-drain", "has no pod of spark-pipeline left", &[]);
}

#[test]
fn storage_loss_passes_and_the_checkpoint_was_really_gone() {
    passes("storage-loss", "/data/checkpoint is not there any more", &[]);
}

#[test]
fn checkpoint_store_unreachable_passes_and_the_store_could_really_not_be_reached() {
    // A store outside of the cluster: this process, as the pods reach it.
    let store = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = format!("STORE_PORT={}", store.local_addr().unwrap().port());
    std::thread::spawn(move || store.incoming().for_each(drop));
    let lab = Lab::up("store");
    let (_, nodes) = lab.api("GET", "/api/v1/nodes/lab-1", None);
    let node = nodes["status"]["addresses"][0]["address"].as_str().unwrap();
    let gateway = format!("{}.1", node.rsplit_once('.').unwrap().0);
    let store = format!("STORE={gateway}/32");
    crate::chaos_mesh::install(&lab);
    for injector in ["INJECTOR=direct", "INJECTOR=chaos-mesh"] {
        let mut arguments = BUILTIN.to_vec();
        arguments.extend([
            "--var",
            "DURATION=5s",
            "--var",
            &store,
            "--var",
            &port,
            "--var",
            injector,
        ]);
        let (run, report) = run(&lab, "scenarios/checkpoint-store-unreachable.yaml", &arguments);
        assert_eq!(run.code, Some(0), "{injector}: {}", run.text);
        let proof = report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string();
        assert!(proof.contains(&format!("to {gateway}:")), "{injector}: {proof}");
    }
}

#[test]
fn a_driver_that_never_restarts_refutes_the_claim_and_says_why() {
    let lab = Lab::up("refuted");
    let (run, report) = run(
        &lab,
        "scenarios/refuted/driver-never-restarts.yaml",
        &["--var", "MANIFEST=../../kind-config/builtin-pipeline.yaml"],
    );
    assert_eq!(run.code, Some(1), "{}", run.text);
    assert_eq!(report["verdict"], "fail");
    // Said although nothing of it was left to be asked at the end.
    assert_eq!(report["experiments"][0]["workload"], "built-in pipeline");
    let why = report["experiments"][0]["claims"][0]["why"]
        .as_str()
        .unwrap_or_default();
    assert!(why.contains("not restored"), "{why}");
}

#[test]
fn one_run_makes_one_list_and_one_watch_per_kind_and_namespace() {
    let lab = Lab::up("requests");
    let (run, _) = run(&lab, "scenarios/deployment-pod-kill.yaml", &[]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let mine = lab.requests();
    assert!(!mine.is_empty());
    for row in mine {
        let verb = row["verb"].as_str().unwrap_or_default();
        if verb == "list" || verb == "watch" {
            assert!(row["count"].as_u64().unwrap() <= 1, "{row}");
        }
    }
}
