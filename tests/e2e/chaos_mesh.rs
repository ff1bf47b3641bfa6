//! The Chaos Mesh injector against the lab's double of Chaos Mesh, which really injects. Not against Chaos Mesh itself.

use crate::support::file;
use crate::support::lab::Lab;
use crate::support::shop::Shop;
use serde_json::{Value, json};
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
    let fault = format!("- {{name: it, {fault}, injector: chaos-mesh}}");
    crate::support::shop::experiment(name, &fault, "< 40s", "maxPercent: 100")
}

fn run(shop: &Shop, name: &str, fault: &str) -> (Option<i32>, String, Value) {
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &experiment(name, fault));
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    (run.code, run.text, report)
}

/// Objects of Chaos Mesh that are still there.
pub(crate) fn chaos(shop: &Shop) -> Vec<String> {
    let mut found = Vec::new();
    for plural in ["podchaos", "networkchaos", "stresschaos", "dnschaos", "timechaos"] {
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
        (
            "delay",
            "networkDelay: {latency: 100ms}, duration: 2s",
            "Injected (NetworkChaos)",
        ),
        ("names", "dnsFailure: {}, duration: 2s", "Injected (DNSChaos)"),
    ] {
        shop.ready();
        let (code, text, report) = run(&shop, name, fault);
        assert_eq!(code, Some(0), "{name}: {text}");
        let seen = report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string();
        assert!(seen.contains(proof), "{name}: {seen}");
        assert_eq!(chaos(&shop), Vec::<String>::new(), "after {name}");
        assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after {name}");
    }

    // What the double cannot do is no pass: the complaint is Chaos Mesh's own.
    shop.ready();
    let (code, text, report) = run(
        &shop,
        "time",
        "chaosMesh: {kind: TimeChaos, spec: {timeOffset: -10m}}, duration: 2s",
    );
    assert_eq!(code, Some(2), "{text}");
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    assert!(why.contains("not injected by the double"), "{why}");
    assert_eq!(chaos(&shop), Vec::<String>::new(), "after time");

    // No controller-manager, no webhook: told before anything is touched.
    scale_manager(&shop, 0);
    let (code, text, _) = run(&shop, "webhook", "podKill: {}");
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("controller-manager is not ready"), "{text}");
}

/// Scales the controller-manager of the double, and waits for it.
fn scale_manager(shop: &Shop, replicas: u32) {
    let replicas_word = replicas.to_string();
    let deployment = [
        "-n",
        "chaos-mesh",
        "scale",
        "deployment",
        "chaos-controller-manager",
        "--replicas",
    ];
    shop.kubectl(&[&deployment[..], &[replicas_word.as_str()]].concat());
    shop.lab.wait("the controller-manager", Duration::from_secs(20), || {
        let path =
            "/api/v1/namespaces/chaos-mesh/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dcontroller-manager";
        let pods = shop.lab.api("GET", path, None).1;
        let ready = |pod: &&Value| pod["status"]["conditions"].to_string().contains("\"Ready\"") && is_ready(pod);
        let ready = pods["items"].as_array().unwrap().iter().filter(ready).count();
        ready == replicas as usize && (replicas > 0 || pods["items"] == json!([]))
    });
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|held| {
        held.iter()
            .any(|held| held["type"] == "Ready" && held["status"] == "True")
    })
}

/// Lets the daemons of the double run on every node, or on none.
fn daemons(shop: &Shop, everywhere: bool) {
    let selector = if everywhere { "null" } else { r#"{"no": "node"}"# };
    let patch = format!(r#"{{"spec": {{"template": {{"spec": {{"nodeSelector": {selector}}}}}}}}}"#);
    shop.kubectl(&[
        "-n",
        "chaos-mesh",
        "patch",
        "daemonset",
        "chaos-daemon",
        "--type=merge",
        "-p",
        &patch,
    ]);
    shop.lab.wait("the daemons", Duration::from_secs(20), || {
        let path = "/api/v1/namespaces/chaos-mesh/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dchaos-daemon";
        let pods = shop.lab.api("GET", path, None).1;
        let pods = pods["items"].as_array().unwrap();
        if everywhere {
            pods.iter().filter(|pod| is_ready(pod)).count() == 3
        } else {
            pods.is_empty()
        }
    });
}

/// Sets the switches of the double.
pub(crate) fn switches(shop: &Shop, data: &Value) {
    let path = "/api/v1/namespaces/chaos-mesh/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "chaosrun-double-switches"}, "data": data});
    shop.lab
        .api("DELETE", &format!("{path}/chaosrun-double-switches"), None);
    shop.create(path, &map);
}

/// A run with a short patience for what does not go.
fn impatient(name: &str, fault: &str) -> String {
    experiment(name, fault)
        .replace("guards: {", "guards: {revert: 4s, ")
        .replace("recovery: 45s", "recovery: 12s")
        .replace("'< 40s'", "'< 10s'")
}

fn clean(shop: &Shop, more: &[&str]) -> (Option<i32>, String) {
    let mut arguments = vec!["clean", "--yes", "--timeout", "4"];
    arguments.extend(more);
    let clean = shop.lab.command(&arguments).output().unwrap();
    (clean.status.code(), crate::support::texts(&clean))
}

/// Runs to the proof, does something to Chaos Mesh, and waits for the end.
fn disturbed(shop: &Shop, name: &str, fault: &str, disturb: impl FnOnce()) -> (Option<i32>, String) {
    let (child, _) = shop.broken(name, &impatient(name, fault), |_| {});
    disturb();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), crate::support::texts(&output))
}

#[test]
fn what_chaos_mesh_does_not_take_back_is_said_and_cleaned_when_it_can_be() {
    let shop = Shop::open("mesh-stuck");
    shop.store();
    install(&shop.lab);
    let before = shop.settled_machine();

    // A daemon that goes in mid-fault: nobody ends the fault, and the object hangs on its finalizer.
    let fault = "cpuStress: {workers: 1, load: 20%}, duration: 6s";
    let (code, text) = disturbed(&shop, "daemon", fault, || daemons(&shop, false));
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("held by its finalizer chaos-mesh/records"), "{text}");
    assert!(text.contains("cannot find daemonIP on node"), "{text}");
    let (code, text) = clean(&shop, &[]);
    assert_eq!(code, Some(4), "{text}");
    daemons(&shop, true);
    let (code, text) = clean(&shop, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(chaos(&shop), Vec::<String>::new());
    shop.same(&before, "after the daemons came back");

    // A controller-manager that goes in mid-fault: the webhook refuses even to let go.
    let fault = "networkLoss: {percent: 5%}, duration: 3s";
    let (code, text) = disturbed(&shop, "manager", fault, || scale_manager(&shop, 0));
    assert_eq!(code, Some(4), "{text}");
    let (code, text) = clean(&shop, &["--force"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("chaos-mesh-mutation, chaos-mesh-validation"), "{text}");
    scale_manager(&shop, 1);
    let (code, text) = clean(&shop, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(chaos(&shop), Vec::<String>::new());
    shop.same(&before, "after the controller-manager came back");

    // A recovery that always fails: force lets go of the object, and says what to do about the pod.
    let fault = "networkLoss: {percent: 5%}, duration: 2s";
    let (code, text) = disturbed(&shop, "recover", fault, || {
        switches(&shop, &json!({"recoverError": "true"}));
    });
    assert_eq!(code, Some(4), "{text}");
    let (code, text) = clean(&shop, &["--force"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(
        text.contains("removed by force") && text.contains("delete shop/web-"),
        "{text}"
    );
    assert_eq!(chaos(&shop), Vec::<String>::new());
    let (code, text) = clean(&shop, &[]);
    assert_eq!(code, Some(0), "{text}");
    switches(&shop, &json!({}));
    shop.kubectl(&["-n", "shop", "delete", "pods", "-l", "app=web", "--now"]);
    shop.ready();
    shop.same(&before, "after the pods were deleted as it was said");
}

#[test]
fn what_chaos_mesh_reports_too_late_in_part_or_not_at_all_makes_no_pass() {
    let shop = Shop::open("mesh-odd");
    shop.store();
    install(&shop.lab);
    let before = shop.settled_machine();
    let cpu = "cpuStress: {workers: 1, load: 20%}, duration: 2s";
    for (name, data, fault, code, says) in [
        ("slow", json!({"applyErrors": "3"}), cpu.to_owned(), 0, ""),
        ("silent", json!({"loseEvents": "true"}), cpu.to_owned(), 0, ""),
        ("old", json!({"conditionsBefore263": "true"}), cpu.to_owned(), 0, ""),
        ("restless", json!({"restless": "50ms"}), cpu.to_owned(), 0, ""),
        (
            "never",
            json!({"applyNever": "true"}),
            cpu.to_owned(),
            2,
            "not injected within",
        ),
        (
            "part",
            json!({"partial": "1"}),
            format!("{cpu}, mode: all"),
            2,
            "not injected within",
        ),
    ] {
        shop.ready();
        switches(&shop, &data);
        let (found, text, report) = run(&shop, name, &fault);
        assert_eq!(found, Some(code), "{name}: {text}");
        let why = report["experiments"][0]["claims"][0]["why"].to_string();
        assert!(why.contains(says), "{name}: {why}");
        assert_eq!(chaos(&shop), Vec::<String>::new(), "after {name}");
        shop.same(&before, name);
    }
    switches(&shop, &json!({}));
    // A node without a daemon is seen before anything is touched.
    daemons(&shop, false);
    let (code, text, _) = run(&shop, "no-daemon", cpu);
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("no daemon of Chaos Mesh is ready on node"), "{text}");
    // What needs none goes on.
    let (code, text, _) = run(&shop, "kill-without-daemon", "podKill: {}");
    assert_eq!(code, Some(0), "{text}");
}

/// One word switches the injector; what is measured stays the same.
#[test]
fn direct_and_chaos_mesh_measure_the_same() {
    let lab = Lab::up("compare");
    install(&lab);
    crate::support::compare::direct_and(&lab, "chaos-mesh", |_| {});
}

/// What only the direct injector was compared with above, and the double's packets that are really late.
#[test]
fn scenarios_that_slow_something_down_pass_by_chaos_mesh() {
    let lab = Lab::up("slower");
    install(&lab);
    for scenario in ["network-delay", "cpu-stress"] {
        let path = format!("scenarios/{scenario}.yaml");
        let arguments = [
            path.as_str(),
            "--var",
            "MANIFEST=../kind-config/builtin-pipeline.yaml",
            "--var",
            "INJECTOR=chaos-mesh",
            "--var",
            "DURATION=4s",
        ];
        let run = lab.run(&arguments);
        assert_eq!(run.code, Some(0), "{scenario}: {}", run.text);
        let report = run.report(lab.folder());
        let trial = &report["experiments"][0]["trials"][0];
        assert_eq!(trial["faults"][0]["injector"], "chaos-mesh");
        assert_eq!(trial["ledger"]["lost"], 0);
    }
}
