//! The Litmus injector against the lab's double of Litmus, which really injects. Not against Litmus itself.

use crate::support::file;
use crate::support::lab::Lab;
use crate::support::shop::Shop;
use serde_json::Value;
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
pub(crate) fn install(lab: &Lab) {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/kind-config/lab-litmus-double.yaml");
    kubectl(lab, &["apply", "-f", manifest]);
    let path = "/apis/apps/v1/namespaces/litmus/deployments/chaos-operator-ce";
    lab.wait("the double of Litmus", Duration::from_secs(30), || {
        lab.api("GET", path, None).1["status"]["readyReplicas"] == 1
    });
}

/// What Litmus needs in a namespace with a target.
pub(crate) fn experiments(lab: &Lab, namespace: &str) {
    let manifest = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/kind-config/lab-litmus-double-experiments.yaml"
    );
    kubectl(lab, &["apply", "-n", namespace, "-f", manifest]);
}

fn experiment(name: &str, fault: &str) -> String {
    let fault = format!("- {{name: it, {fault}, injector: litmus}}");
    crate::support::shop::experiment(name, &fault, "< 40s", "maxPercent: 100")
}

fn run(shop: &Shop, name: &str, fault: &str) -> (Option<i32>, String, Value) {
    shop.ready();
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &experiment(name, fault));
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    (run.code, run.text, report)
}

/// What Litmus could have left: engines, results, and everything that is labelled for an engine.
pub(crate) fn left(lab: &Lab) -> Vec<String> {
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

    for (name, fault, proof) in [
        ("kill", "podKill: {}", "is gone"),
        ("container", "containerKill: {container: web}", "container web"),
        (
            "cut",
            "networkPartition: {peer: {labels: {app: store}}, direction: both}, mode: one, duration: 2s",
            "no connection from",
        ),
        (
            "memory",
            "memoryStress: {size: 40Mi}, duration: 2s",
            "bytes more are held",
        ),
        ("cpu", "cpuStress: {workers: 1}, duration: 2s", "injected (pod-cpu-hog)"),
        (
            "loss",
            "networkLoss: {percent: 20%}, mode: all, duration: 2s",
            "injected (pod-network-loss)",
        ),
        (
            "drain",
            "nodeDrain: {}, mode: one, duration: 2s",
            "is unschedulable and has no pod of shop left",
        ),
        (
            "any",
            "litmus: {experiment: pod-memory-hog, env: {MEMORY_CONSUMPTION: '10', NUMBER_OF_WORKERS: '1'}}, duration: 2s",
            "injected (pod-memory-hog)",
        ),
    ] {
        let (code, text, report) = run(&shop, name, fault);
        assert_eq!(code, Some(0), "{name}: {text}");
        let seen = report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string();
        assert!(seen.contains(proof), "{name}: {seen}");
        assert_eq!(left(&shop.lab), Vec::<String>::new(), "after {name}");
        assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after {name}");
    }

    // What the double cannot do is no pass: the complaint is Litmus' own.
    let (code, text, report) = run(&shop, "delay", "networkDelay: {latency: 100ms}, duration: 2s");
    assert_eq!(code, Some(2), "{text}");
    let why = why(&report);
    assert!(
        why.contains("HELPER_ERROR") && why.contains("does not inject pod-network-latency"),
        "{why}"
    );
    assert_eq!(left(&shop.lab), Vec::<String>::new(), "after delay");
}

/// Why the first claim could not be decided.
fn why(report: &Value) -> String {
    report["experiments"][0]["claims"][0]["why"].to_string()
}

#[test]
fn whatever_litmus_says_without_a_fault_is_no_pass() {
    let shop = Shop::open("litmus-misleading");
    install(&shop.lab);
    experiments(&shop.lab, "shop");
    for (word, reason) in [
        ("no-result", "wrote no ChaosResult"),
        ("awaited", "still says Awaited"),
        ("stale-result", "belongs to another engine"),
        ("error", "HELPER_POD_FAILED_ERROR: helper pod failed"),
        ("old-shape", "it failed at"),
        ("probe-failure", "a probe of Litmus failed (front-ok)"),
        ("skipped", "skipped the experiment"),
    ] {
        switch(&shop, word);
        let (code, text, report) = run(&shop, word, "podKill: {}");
        assert_eq!(code, Some(2), "{word}: {text}");
        assert_eq!(report["verdict"], "inconclusive", "{word}");
        let why = why(&report);
        assert!(why.contains(reason), "{word}: {why}");
        assert_eq!(left(&shop.lab), Vec::<String>::new(), "after {word}");
        assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after {word}");
    }

    // Nobody takes the engine up, and it goes all the same.
    switch(&shop, "none");
    kubectl(
        &shop.lab,
        &[
            "-n",
            "litmus",
            "scale",
            "deployment",
            "chaos-operator-ce",
            "--replicas",
            "0",
        ],
    );
    shop.lab.wait("no operator", Duration::from_secs(10), || {
        let path = "/api/v1/namespaces/litmus/pods";
        shop.lab.api("GET", path, None).1["items"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    let (code, text, report) = run(&shop, "no-operator", "podKill: {}");
    assert_eq!(code, Some(2), "{text}");
    let why = why(&report);
    assert!(why.contains("no chaos-operator took the ChaosEngine up"), "{why}");
    assert!(
        !left(&shop.lab).iter().any(|found| found.contains("chaosengines")),
        "{:?}",
        left(&shop.lab)
    );
}

#[test]
fn faults_by_litmus_end_when_it_is_slow_when_its_finalizer_stays_and_when_the_runner_dies() {
    let shop = Shop::open("litmus-ends");
    install(&shop.lab);
    experiments(&shop.lab, "shop");
    let loss = "networkLoss: {percent: 20%}, duration: 1s";

    switch(&shop, "slow-stop=6");
    let (code, text, _) = run(&shop, "slow", loss);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(left(&shop.lab), Vec::<String>::new(), "after a slow stop");
    assert!(!text.contains("removed its finalizer"), "{text}");

    switch(&shop, "finalizer-stays");
    shop.ready();
    let text = experiment("finalizer", loss).replace("maxPercent: 100", "maxPercent: 100, revert: 3s");
    let path = file(shop.lab.folder(), "finalizer.yaml", &text);
    let stuck = shop.lab.run(&[path.to_str().unwrap()]);
    assert_eq!(stuck.code, Some(4), "{}", stuck.text);
    assert!(
        stuck.text.contains("does not let go of its finalizer"),
        "{}",
        stuck.text
    );
    clean_by_force(&shop);
    assert_eq!(left(&shop.lab), Vec::<String>::new(), "after a finalizer that stays");

    // Killed while the fault lasts: another machine finds it by its label alone.
    switch(&shop, "none");
    killed_while_it_lasts(&shop, "cleaned", "2m");
    clean(&shop);
    assert_nothing(&shop, "after clean");

    // Nobody comes: the guard's deadline passes, and what it owns goes with it.
    killed_while_it_lasts(&shop, "left-alone", "6s");
    shop.lab.wait("the end by itself", Duration::from_secs(60), || {
        left(&shop.lab).is_empty() && shop.traces_of_objects().is_empty()
    });
    assert_nothing(&shop, "left alone");

    // The operator dies as well: its pods are ended without it, and its finalizer does not keep the engine.
    killed_while_it_lasts(&shop, "without-operator", "5m");
    kubectl(
        &shop.lab,
        &[
            "-n",
            "litmus",
            "scale",
            "deployment",
            "chaos-operator-ce",
            "--replicas",
            "0",
        ],
    );
    shop.lab.wait("no operator", Duration::from_secs(10), || {
        let path = "/api/v1/namespaces/litmus/pods";
        shop.lab.api("GET", path, None).1["items"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    clean_by_force(&shop);
    assert_nothing(&shop, "without an operator");
}

/// Starts a run, and kills the runner when processes of the fault are in the target.
fn killed_while_it_lasts(shop: &Shop, name: &str, deadline: &str) {
    shop.ready();
    let text = experiment(name, "cpuStress: {workers: 1}, mode: one, duration: 40s");
    let text = text.replace("maxPercent: 100", &format!("maxPercent: 100, deadline: {deadline}"));
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &text);
    let mut runner = shop
        .lab
        .command(&["run", "--out"])
        .arg(shop.lab.folder())
        .arg(&path)
        .spawn()
        .unwrap();
    let injected = || {
        let (_, results) = shop.lab.api("GET", "/apis/litmuschaos.io/v1alpha1/chaosresults", None);
        results["items"][0]["metadata"]["annotations"]
            .as_object()
            .is_some_and(|marks| marks.values().any(|mark| mark == "injected"))
    };
    shop.lab.wait("the injection", Duration::from_secs(30), injected);
    assert!(!stressors(shop).is_empty());
    runner.kill().unwrap();
    runner.wait().unwrap();
    assert!(left(&shop.lab).iter().any(|found| found.contains("chaosengines")));
}

/// Processes of the double in the target's pods.
fn stressors(shop: &Shop) -> String {
    let look = "grep -l LITMUS_DOUBLE= /proc/[0-9]*/environ 2>/dev/null; echo looked";
    let mut found = String::new();
    for pod in shop.pods() {
        let text = shop.kubectl(&["-n", "shop", "exec", &pod, "--", "sh", "-c", look]);
        assert!(text.contains("looked"), "{text}");
        found.push_str(text.replace("looked", "").trim());
    }
    found
}

fn assert_nothing(shop: &Shop, when: &str) {
    assert_eq!(left(&shop.lab), Vec::<String>::new(), "{when}");
    assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "{when}");
    assert_eq!(stressors(shop), "", "{when}");
}

/// What its operator keeps is reported, and goes by force alone, which says that nobody knows what remains.
fn clean_by_force(shop: &Shop) {
    for (more, says) in [
        (&[][..], "does not let go of its finalizer"),
        (&["--force"], "removed by force: the fault may remain"),
    ] {
        let arguments = [&["clean", "--yes", "--timeout", "3"], more].concat();
        let clean = shop.lab.command(&arguments).output().unwrap();
        let text = crate::support::texts(&clean);
        assert_eq!(clean.status.code(), Some(4), "{text}");
        assert!(text.contains(says), "{text}");
    }
    let clean = shop.lab.command(&["clean", "--yes"]).output().unwrap();
    assert_eq!(clean.status.code(), Some(0), "{}", crate::support::texts(&clean));
}

/// As from another machine: nothing but the cluster.
fn clean(shop: &Shop) -> String {
    let clean = shop.lab.command(&["clean", "--yes"]).output().unwrap();
    let text = crate::support::texts(&clean);
    assert_eq!(clean.status.code(), Some(0), "{text}");
    assert!(text.contains("ChaosEngine"), "{text}");
    text
}

/// One word switches the injector; what is measured stays the same.
#[test]
fn direct_and_litmus_measure_the_same() {
    let lab = Lab::up("litmus-compare");
    install(&lab);
    // The pipeline first: Litmus needs its experiments in the namespace before a run begins.
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/kind-config/builtin-pipeline.yaml");
    kubectl(&lab, &["apply", "-f", manifest]);
    experiments(&lab, "spark-pipeline");
    crate::support::compare::direct_and(&lab, "litmus", |when| {
        assert_eq!(left(&lab), Vec::<String>::new(), "{when}");
    });
}
