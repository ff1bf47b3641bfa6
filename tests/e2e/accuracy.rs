//! The instrument against the truth: a workload that is back after a KNOWN time, which it stamps itself.
//!
//! The probe server (a test workload of the lab) answers 503 until N seconds after its start and stamps, on the kernel's
//! monotonic clock, when it was told to end and when it was ready. The pod is deleted; the replacement is the same program.
//! Truth: ready stamp of the replacement minus the end stamp of the victim. Both come from the causing processes themselves.

use crate::support::file;
use crate::support::lab::Lab;

fn manifest(seconds: f64, stamps: &std::path::Path) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "accuracy"},
        "spec": {"replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 5,
                "volumes": [{"name": "stamps", "hostPath": {"path": stamps}}],
                "containers": [{"name": "web", "image": "chaosrun/pipeline",
                    "args": ["probe-server", "--ready-after", seconds.to_string(), "--stamp", "/stamps"],
                    "volumeMounts": [{"name": "stamps", "mountPath": "/stamps"}]}]}}},
    })
}

fn experiment(seconds: f64) -> String {
    format!(
        r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {{name: accuracy}}
claim: {{text: "back after {seconds} s"}}
target: {{namespace: accuracy, deployment: web}}
steadyState:
  probes:
    - {{name: answers, http: {{url: "http://{{podIP}}:8080/ready"}}, interval: 20ms, timeout: 1s, hold: 500ms}}
faults:
  - {{name: kill, podKill: {{gracePeriod: 5s}}, mode: one}}
slos: {{rto: "< 60s"}}
timeouts: {{baseline: 60s, recovery: 61s, settle: 500ms}}
trials: {{count: 2, cooldown: 200ms}}
"#
    )
}

#[test]
fn the_recovery_time_of_a_known_outage_is_right_within_fifty_milliseconds_at_the_median() {
    let lab = Lab::up("accuracy");
    let post = |path: &str, body: &serde_json::Value| {
        let (code, answer) = lab.api("POST", path, Some(body));
        assert_eq!(code, 201, "{answer}");
    };
    post(
        "/api/v1/namespaces",
        &serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "accuracy"}}),
    );
    let mut errors = Vec::new();
    let mut covered = Vec::new();
    for seconds in [1.0, 2.0, 5.0, 10.0] {
        let stamps = lab.folder().join(format!("stamps-{seconds}"));
        std::fs::create_dir(&stamps).unwrap();
        post(
            "/apis/apps/v1/namespaces/accuracy/deployments",
            &manifest(seconds, &stamps),
        );
        let path = file(lab.folder(), "accuracy.yaml", &experiment(seconds));
        let run = lab.run(&[path.to_str().unwrap()]);
        assert_eq!(run.code, Some(0), "{}", run.text);
        let report = run.report(lab.folder());
        let trials = report["experiments"][0]["trials"].as_array().unwrap();
        let truth = outages(&stamps);
        assert!(truth.len() >= trials.len(), "{truth:?}");
        for (trial, truth) in trials.iter().zip(&truth) {
            let (lower, upper) = (
                trial["rto"]["lower"].as_f64().unwrap(),
                trial["rto"]["upper"].as_f64().unwrap(),
            );
            let measured = trial["rto"]["value"].as_f64().unwrap();
            assert!(
                *truth > seconds && *truth < seconds + 5.0,
                "the workload was away for {truth} s, {seconds} s were set"
            );
            errors.push((measured - truth).abs());
            covered.push(lower - 0.005 <= *truth && *truth <= upper + 0.005);
        }
        let (code, _) = lab.api("DELETE", "/apis/apps/v1/namespaces/accuracy/deployments/web", None);
        assert_eq!(code, 200);
        lab.wait("the end of the pods", std::time::Duration::from_secs(20), || {
            let (_, list) = lab.api("GET", "/api/v1/namespaces/accuracy/pods", None);
            list["items"].as_array().is_some_and(Vec::is_empty)
        });
    }
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    assert!(median <= 0.050, "median error {median:.3} s of {errors:?}");
    println!(
        "median error {median:.4} s, largest {:.4} s, inside the error bar {covered:?}",
        errors[errors.len() - 1]
    );
}

/// Seconds from each end stamp to the next ready stamp.
fn outages(stamps: &std::path::Path) -> Vec<f64> {
    let mut events: Vec<(i64, String)> = Vec::new();
    for entry in std::fs::read_dir(stamps).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let stamp: serde_json::Value = serde_json::from_str(line).unwrap();
            events.push((
                stamp["monotonicNs"].as_i64().unwrap(),
                stamp["event"].as_str().unwrap().to_owned(),
            ));
        }
    }
    events.sort();
    let mut ended = None;
    let mut outages = Vec::new();
    for (at, event) in events {
        match (event.as_str(), ended) {
            ("terminating", _) => ended = Some(at),
            ("ready", Some(from)) => {
                outages.push((at - from) as f64 / 1e9);
                ended = None;
            }
            _ => {}
        }
    }
    outages
}
