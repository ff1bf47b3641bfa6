//! The ledger of the built-in pipeline (a stand-in for Spark), read in a pod and read as files of the host.

use crate::support::lab::Lab;
use serde_json::Value;
use std::path::Path;

fn experiment(name: &str, ledger: &str) -> String {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("kind-config/builtin-pipeline.yaml");
    let manifest = manifest.display();
    format!(
        r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {{name: {name}}}
claim: {{text: "A killed driver loses nothing"}}
target: {{namespace: spark-pipeline, sparkApplication: spark-streaming-pipeline}}
setup: {{manifests: [{manifest}], unlessTargetExists: true, keep: true}}
ledger: {{{ledger}, drain: 90s}}
steadyState:
  probes:
  - {{name: driver ready, pods: {{role: driver, ready: 1}}, hold: 3s}}
  - {{name: commits flow, progress: {{within: 15s}}, hold: 3s}}
faults:
- {{name: kill driver, podKill: {{role: driver, gracePeriod: 0s}}}}
slos: {{rto: "< 120s", lost: 0}}
timeouts: {{setup: 3m, baseline: 5m, recovery: 150s, settle: 10s}}
"#
    )
}

/// The audit of the newest run, and the report of its trial.
fn audit(lab: &Lab, name: &str, ledger: &str) -> (Value, Value) {
    let file = lab.folder().join(format!("{name}.yaml"));
    std::fs::write(&file, experiment(name, ledger)).unwrap();
    let run = lab.run(&[file.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let report = run.report(lab.folder());
    let id = report["run"]["id"].as_str().unwrap();
    let events = std::fs::read_dir(lab.folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().join("events.jsonl"))
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find(|text| text.lines().next().is_some_and(|line| line.contains(id)))
        .unwrap();
    let audited = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone())
        .find(|event| event["type"] == "ledgerAudited")
        .unwrap();
    (audited, report["experiments"][0]["trials"][0].clone())
}

#[test]
fn files_of_the_host_tell_what_the_pod_tells() {
    let lab = Lab::up("ledger-files");
    let in_pod = "reader: {app.kubernetes.io/name: ledger}, acknowledged: /data/ledger/acked.log, sink: /data/out, checkpoint: /data/checkpoint";
    let (by_pod, first) = audit(&lab, "ledger-in-pod", in_pod);

    let (code, volumes) = lab.api("GET", "/api/v1/persistentvolumes", None);
    assert_eq!(code, 200);
    let claims = volumes["items"].as_array().unwrap();
    let volume = claims
        .iter()
        .find(|volume| volume["spec"]["claimRef"]["name"] == "pipeline-data")
        .unwrap();
    let path = volume["spec"]["hostPath"]["path"].as_str().unwrap();
    let as_files = format!(
        "acknowledged: \"file://{path}/ledger/acked.log\", sink: \"file://{path}/out\", checkpoint: \"file://{path}/checkpoint\", \
         keyField: at_ms, clockWithin: 5ms, interval: 200ms"
    );
    let (by_file, second) = audit(&lab, "ledger-as-files", &as_files);

    // The log goes on: what was read in the pod is its beginning, word for word.
    let (short, long) = (
        by_pod["acked"].as_array().unwrap(),
        by_file["acked"].as_array().unwrap(),
    );
    assert!(short.len() > 10 && short.len() < long.len());
    assert_eq!(short[..], long[..short.len()]);
    // Each found everything up to where it read, each record once.
    for (audited, trial) in [(&by_pod, &first), (&by_file, &second)] {
        let runs = audited["reads"].as_array().unwrap().last().unwrap()["runs"]
            .as_array()
            .unwrap();
        assert_eq!(runs.len(), 1, "{runs:?}");
        assert_eq!(
            (runs[0]["first"].as_u64(), runs[0]["times"].as_u64()),
            (Some(1), Some(1))
        );
        assert_eq!(trial["ledger"]["produced"], trial["ledger"]["committed"]);
        assert_eq!(trial["ledger"]["lost"], 0);
        assert!(trial["ledger"]["duringOutage"].as_u64().unwrap() > 0);
        assert_eq!(trial["rpo"]["secondsUpper"], 0.0);
        assert!(trial["rto"]["value"].as_f64().unwrap() > 0.0);
    }
}
