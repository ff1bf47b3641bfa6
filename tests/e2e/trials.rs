//! Many trials in a real lab: a quantile proven and a quantile refuted, control trials in between, and the phase of the injection.

use crate::support::file;
use crate::support::lab::Run;
use crate::support::shop::Shop;
use serde_json::Value;

/// Kills one of two pods; `parts` are the limits and the trials.
fn run(shop: &Shop, name: &str, parts: &str) -> (Run, Value) {
    let text = format!(
        "apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {{name: {name}}}
claim: {{text: a lost pod is replaced}}
target: {{namespace: shop, deployment: web}}
steadyState: {{probes: [{{name: ready, pods: {{ready: '>= 2'}}, hold: 200ms}}]}}
faults:
- {{name: kill, podKill: {{gracePeriod: 0s}}}}
timeouts: {{baseline: 30s, recovery: 45s, settle: 200ms}}
{parts}
"
    );
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &text);
    let run = shop.lab.run(&[path.to_str().unwrap(), "--seed", "11"]);
    let report = run.report(shop.lab.folder());
    (run, report["experiments"][0].clone())
}

#[test]
fn a_quantile_is_proven_by_trials_at_random_phases_with_control_trials_between() {
    let shop = Shop::open("quantile");
    let parts = "slos: {rto: {p50: 8s, max: 12s}}
trials: {count: 5, control: 1, cooldown: 100ms, phase: random-within 2s}";
    let (run, experiment) = run(&shop, "quantile", parts);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let trials = experiment["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 5);
    let control = &experiment["controls"][0];
    assert_eq!(control["end"], "completed");
    // Watched for as long as the largest limit.
    assert!(control["watched"].as_f64().unwrap() >= 12.0, "{control}");
    assert_eq!(control["outages"].as_array().unwrap().len(), 0, "{control}");
    let claim = &experiment["claims"][0];
    assert_eq!(
        (&claim["name"], &claim["over"]["rule"]),
        (&"rto p50".into(), &"binomial".into())
    );
    assert_eq!(claim["over"]["within"], 5);
    let bound = claim["over"]["quantileAtMost"].as_f64().unwrap();
    let largest = trials
        .iter()
        .map(|trial| trial["rto"]["upper"].as_f64().unwrap())
        .fold(0.0, f64::max);
    assert!(
        (bound - largest).abs() < 1e-9,
        "of 5 trials the largest bounds the median: {bound} {largest}"
    );
    // One phase in each fifth of the period, and the fault came then.
    let mut phases: Vec<f64> = trials.iter().map(|trial| trial["phase"].as_f64().unwrap()).collect();
    phases.sort_by(f64::total_cmp);
    for (part, phase) in phases.iter().enumerate() {
        let part = part as f64 * 0.4;
        assert!((part..part + 0.4).contains(phase), "{phases:?}");
    }
    assert!(run.text.contains("a control trial, nothing is broken"), "{}", run.text);
    assert_eq!(shop.traces(), Vec::<String>::new());
}

#[test]
fn trials_go_on_until_the_claim_is_decided_and_no_longer() {
    let shop = Shop::open("decided");
    let slow = r#"{"spec": {"template": {"spec": {"containers": [{"name": "web", "readinessProbe": {"initialDelaySeconds": 3}}]}}}}"#;
    shop.kubectl(&["-n", "shop", "patch", "deployment", "web", "-p", slow]);
    shop.kubectl(&["-n", "shop", "rollout", "status", "deployment", "web", "--timeout=60s"]);
    // Nobody is ready before three seconds are over.
    let parts = "slos: {rto: {p80: 2s}}
trials: {untilDecided: true, cooldown: 100ms, count: 30}";
    let (ended, experiment) = run(&shop, "refuted", parts);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    // ln(2/0.05) / ln(0.6/0.2) = 3.4: the fourth miss decides.
    assert_eq!(experiment["trials"].as_array().unwrap().len(), 4, "{}", ended.text);
    assert_eq!(experiment["claims"][0]["over"]["rule"], "e-process");
    assert!(ended.text.contains("4 trials were run, 30 at most"), "{}", ended.text);

    let parts = "slos: {rto: {p95: 20s}}
trials: {untilDecided: true, maxTime: 3s, cooldown: 100ms}";
    let (ended, experiment) = run(&shop, "time-is-up", parts);
    assert_eq!(ended.code, Some(2), "{}", ended.text);
    assert!(ended.text.contains("the time for trials is up (3 s)"), "{}", ended.text);
    let claim = &experiment["claims"][0];
    let run = claim["over"]["trials"].as_u64().unwrap();
    assert_eq!(claim["over"]["moreTrials"].as_u64(), Some(90 - run), "{claim}");
    assert_eq!(shop.traces(), Vec::<String>::new());
}
