//! The Chaos Mesh injector against the lab's double of Chaos Mesh, which really injects. Not against Chaos Mesh itself.

use crate::support::file;
use crate::support::lab::Lab;
use crate::support::shop::Shop;
use serde_json::Value;
use std::time::Duration;

/// Installs the double, and waits until its controller-manager and its daemons are ready.
pub(crate) fn install(lab: &Lab) {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/kind-config/lab-chaos-mesh-double.yaml");
    let apply = std::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(&lab.kubeconfig)
        .args(["apply", "-f", manifest])
        .output()
        .unwrap();
    assert!(apply.status.success(), "{}", crate::support::texts(&apply));
    lab.wait("the double of Chaos Mesh", Duration::from_secs(30), || {
        let (_, manager) = lab.api(
            "GET",
            "/apis/apps/v1/namespaces/chaos-mesh/deployments/chaos-controller-manager",
            None,
        );
        let (_, daemon) = lab.api(
            "GET",
            "/apis/apps/v1/namespaces/chaos-mesh/daemonsets/chaos-daemon",
            None,
        );
        manager["status"]["readyReplicas"] == 1 && daemon["status"]["numberReady"] == 3
    });
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
- {{name: it, {fault}, injector: chaos-mesh}}
slos: {{rto: '< 40s'}}
timeouts: {{baseline: 30s, recovery: 45s, settle: 300ms}}
guards: {{maxPercent: 100}}
"
    )
}

fn run(shop: &Shop, name: &str, fault: &str) -> (Option<i32>, String, Value) {
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &experiment(name, fault));
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    (run.code, run.text, report)
}

/// Objects of Chaos Mesh that are still there.
fn chaos(shop: &Shop) -> Vec<String> {
    let mut found = Vec::new();
    for plural in ["podchaos", "networkchaos", "stresschaos"] {
        let (_, list) = shop
            .lab
            .api("GET", &format!("/apis/chaos-mesh.org/v1alpha1/{plural}"), None);
        for item in list["items"].as_array().into_iter().flatten() {
            found.push(format!("{plural} {}", item["metadata"]["name"]));
        }
    }
    found
}

#[test]
fn faults_by_chaos_mesh_are_proven_from_outside_and_leave_nothing() {
    let shop = Shop::open("mesh");
    shop.store();
    // Without it the refusal says what is missing, before anything is touched.
    let (code, text, _) = run(&shop, "absent", "podKill: {}");
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("Chaos Mesh is not installed here"), "{text}");

    install(&shop.lab);
    for (name, fault, proof) in [
        ("kill", "podKill: {gracePeriod: 0s}", "is gone"),
        ("container", "containerKill: {container: web}", "container web"),
        (
            "cut",
            "networkPartition: {peer: {labels: {app: store}}, direction: both}, mode: all, duration: 2s",
            "no connection from",
        ),
        (
            "memory",
            "memoryStress: {size: 40Mi}, duration: 2s",
            "bytes more are held",
        ),
        ("cpu", "cpuStress: {workers: 1}, duration: 2s", "Injected (StressChaos)"),
        (
            "loss",
            "networkLoss: {percent: 20%}, duration: 2s",
            "Injected (NetworkChaos)",
        ),
        (
            "rate",
            "networkBandwidth: {rate: 1mbit}, duration: 2s",
            "Injected (NetworkChaos)",
        ),
    ] {
        shop.ready();
        let (code, text, report) = run(&shop, name, fault);
        assert_eq!(code, Some(0), "{name}: {text}");
        let seen = report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string();
        assert!(seen.contains(proof), "{name}: {seen}");
        assert_eq!(chaos(&shop), Vec::<String>::new(), "after {name}");
        assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after {name}");
    }

    // What the double (and no daemon) can do is no pass: the complaint is Chaos Mesh's own.
    shop.ready();
    let (code, text, report) = run(&shop, "delay", "networkDelay: {latency: 100ms}, duration: 2s");
    assert_eq!(code, Some(2), "{text}");
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    assert!(why.contains("does not inject NetworkChaos delay"), "{why}");
    assert_eq!(chaos(&shop), Vec::<String>::new(), "after delay");

    // No controller-manager, no webhook.
    shop.kubectl(&[
        "-n",
        "chaos-mesh",
        "scale",
        "deployment",
        "chaos-controller-manager",
        "--replicas",
        "0",
    ]);
    shop.lab.wait("no controller-manager", Duration::from_secs(10), || {
        let path =
            "/api/v1/namespaces/chaos-mesh/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dcontroller-manager";
        shop.lab.api("GET", path, None).1["items"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    let (code, text, report) = run(&shop, "webhook", "podKill: {}");
    assert_eq!(code, Some(2), "{text}");
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    assert!(why.contains("failed calling webhook"), "{why}");
}

/// One word switches the injector; what is measured stays the same.
#[test]
fn direct_and_chaos_mesh_measure_the_same() {
    let lab = Lab::up("compare");
    install(&lab);
    for (scenario, more) in [
        ("executor-kill", vec![]),
        ("network-partition", vec!["--var", "DURATION=5s"]),
        ("memory-stress", vec!["--var", "DURATION=3s", "--var", "SIZE=200Mi"]),
    ] {
        let mut recovery = Vec::new();
        for injector in ["INJECTOR=direct", "INJECTOR=chaos-mesh"] {
            let path = format!("scenarios/{scenario}.yaml");
            let mut arguments = vec![
                path.as_str(),
                "--var",
                "MANIFEST=../kind-config/builtin-pipeline.yaml",
                "--var",
                injector,
            ];
            arguments.extend(&more);
            let run = lab.run(&arguments);
            assert_eq!(run.code, Some(0), "{scenario} {injector}: {}", run.text);
            let report = run.report(lab.folder());
            let trial = &report["experiments"][0]["trials"][0];
            assert_eq!(
                format!("INJECTOR={}", trial["faults"][0]["injector"].as_str().unwrap()),
                injector
            );
            assert_eq!(trial["ledger"]["lost"], 0);
            recovery.push(trial["rto"]["value"].as_f64().unwrap());
        }
        let (direct, mesh) = (recovery[0], recovery[1]);
        // Two trials of a system with timers of seconds: the same kind of recovery, not the same number.
        assert!(
            (direct - mesh).abs() < 6.0,
            "{scenario}: {direct} s by direct, {mesh} s by Chaos Mesh"
        );
    }
}
