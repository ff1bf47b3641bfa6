//! One word switches the injector; what is measured stays the same.

use super::lab::Lab;

/// Runs executor kill, partition and memory stress directly and through another injector, and compares the recovery times. `after` looks
/// at what each run left.
pub(crate) fn direct_and(lab: &Lab, other: &str, after: impl Fn(&str)) {
    for (scenario, more) in [
        ("executor-kill", vec![]),
        ("network-partition", vec!["--var", "DURATION=5s"]),
        ("memory-stress", vec!["--var", "DURATION=3s", "--var", "SIZE=200Mi"]),
    ] {
        let recovery = ["direct", other].map(|injector| {
            let rto = measured(lab, scenario, injector, &more);
            after(&format!("{scenario} by {injector}"));
            rto
        });
        // Two trials of a system with timers of seconds: the same kind of recovery, not the same number.
        assert!(
            (recovery[0] - recovery[1]).abs() < 6.0,
            "{scenario}: {} s by direct, {} s by {other}",
            recovery[0],
            recovery[1]
        );
    }
}

fn measured(lab: &Lab, scenario: &str, injector: &str, more: &[&str]) -> f64 {
    let (path, word) = (format!("scenarios/{scenario}.yaml"), format!("INJECTOR={injector}"));
    let manifest = "MANIFEST=../kind-config/builtin-pipeline.yaml";
    let mut arguments = vec![path.as_str(), "--var", manifest, "--var", &word];
    arguments.extend(more);
    let run = lab.run(&arguments);
    let report = run.report(lab.folder());
    // An executor may be replaced between two batches; then the ledger was not put to the test, and its claims are undecided.
    for claim in report["experiments"][0]["claims"].as_array().unwrap() {
        let why = claim["why"].as_str().unwrap_or_default();
        let undecided = claim["name"] != "rto" && why.contains("not put to the test");
        assert!(
            claim["verdict"] == "pass" || undecided,
            "{scenario} {injector}: {claim}\n{}",
            run.text
        );
    }
    let trial = &report["experiments"][0]["trials"][0];
    assert_eq!(trial["faults"][0]["injector"], injector);
    assert_eq!(trial["ledger"]["lost"], 0);
    trial["rto"]["value"].as_f64().unwrap()
}
