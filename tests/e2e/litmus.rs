//! The Litmus injector against the lab's double of Litmus, which really injects. Not against Litmus itself.

use crate::support::file;
use crate::support::lab::Lab;
use crate::support::shop::Shop;
use serde_json::{Value, json};
use std::time::Duration;

fn kubectl(lab: &Lab, arguments: &[&str]) {
    let done = std::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(&lab.kubeconfig)
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", crate::support::texts(&done));
}

/// Installs the double, and waits until its operator is ready.
fn install(lab: &Lab) {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/kind-config/lab-litmus-double.yaml");
    kubectl(lab, &["apply", "-f", manifest]);
    let path = "/apis/apps/v1/namespaces/litmus/deployments/chaos-operator-ce";
    lab.wait("the double of Litmus", Duration::from_secs(30), || {
        lab.api("GET", path, None).1["status"]["readyReplicas"] == 1
    });
}

/// What Litmus needs in a namespace with a target.
fn experiments(lab: &Lab, namespace: &str) {
    let manifest = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/kind-config/lab-litmus-double-experiments.yaml"
    );
    kubectl(lab, &["apply", "-n", namespace, "-f", manifest]);
}

fn experiment(name: &str, fault: &str) -> String {
    format!(
        "apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {{name: {name}}}
claim: {{text: it comes back}}
target: {{namespace: shop, deployment: web}}
steadyState: {{probes: [{{name: ready, pods: {{ready: '>= 2'}}, hold: 300ms}}]}}
faults:
- {{name: it, {fault}, injector: litmus}}
slos: {{rto: '< 40s'}}
timeouts: {{baseline: 30s, recovery: 45s, settle: 300ms}}
guards: {{maxPercent: 100}}
"
    )
}

fn run(shop: &Shop, name: &str, fault: &str) -> (Option<i32>, String, Value) {
    shop.ready();
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &experiment(name, fault));
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    (run.code, run.text, report)
}

/// What Litmus could have left: engines, results, and everything that is labelled for an engine.
fn left(lab: &Lab) -> Vec<String> {
    let labelled = "?labelSelector=chaosUID";
    let mut found = Vec::new();
    for path in [
        "/apis/litmuschaos.io/v1alpha1/chaosengines".to_owned(),
        "/apis/litmuschaos.io/v1alpha1/chaosresults".to_owned(),
        format!("/api/v1/pods{labelled}"),
        format!("/apis/batch/v1/jobs{labelled}"),
        format!("/apis/networking.k8s.io/v1/networkpolicies{labelled}"),
    ] {
        let (_, list) = lab.api("GET", &path, None);
        for item in list["items"].as_array().into_iter().flatten() {
            found.push(format!("{path} {}", item["metadata"]["name"]));
        }
    }
    found
}

/// Has the double misbehave from now on; nothing for a good one.
fn switch(shop: &Shop, word: &str) {
    let annotation = format!("chaosrun.dev/double-switch={word}");
    kubectl(
        &shop.lab,
        &[
            "-n",
            "litmus",
            "annotate",
            "--overwrite",
            "deployment",
            "chaos-operator-ce",
            &annotation,
        ],
    );
}

#[test]
fn faults_by_litmus_are_proven_from_outside_and_leave_nothing() {
    let shop = Shop::open("litmus");
    shop.store();
    // What is missing is said before anything is touched.
    let (code, text, _) = run(&shop, "absent", "podKill: {}");
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("Litmus is not installed here"), "{text}");
    install(&shop.lab);
    let (code, text, _) = run(&shop, "no-experiment", "podKill: {}");
    assert_eq!(code, Some(77), "{text}");
    assert!(
        text.contains("no ChaosExperiment pod-delete in namespace shop"),
        "{text}"
    );
    experiments(&shop.lab, "shop");
    kubectl(&shop.lab, &["-n", "shop", "delete", "serviceaccount", "litmus-admin"]);
    let (code, text, _) = run(&shop, "no-account", "podKill: {}");
    assert_eq!(code, Some(77), "{text}");
    assert!(
        text.contains("no service account litmus-admin in namespace shop"),
        "{text}"
    );
    experiments(&shop.lab, "shop");

    for (name, fault, proof) in [("kill", "podKill: {}", "is gone")] {
        let (code, text, report) = run(&shop, name, fault);
        assert_eq!(code, Some(0), "{name}: {text}");
        let seen = report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string();
        assert!(seen.contains(proof), "{name}: {seen}");
        assert_eq!(left(&shop.lab), Vec::<String>::new(), "after {name}");
        assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after {name}");
    }
}
