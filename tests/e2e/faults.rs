//! Every direct fault in a real lab: its effect is proven, its end puts everything back, and afterwards the cluster is what it was.

use crate::support::file;
use crate::support::lab::{Lab, Run};
use crate::support::shop::Shop;
use serde_json::{Value, json};
use std::time::Duration;

/// Runs one fault, and returns the run and its report.
fn break_it(shop: &Shop, name: &str, fault: &str, slo: &str) -> (Run, Value) {
    let text = experiment(name, &format!("- {{name: it, {fault}}}"), slo);
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &text);
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    (run, report)
}

fn experiment(name: &str, faults: &str, slo: &str) -> String {
    crate::support::shop::experiment(name, faults, slo, "maxPercent: 100")
}

/// What one fault has to show.
struct Expected {
    name: &'static str,
    fault: &'static str,
    /// Part of the proof.
    proof: &'static str,
    /// The outage that it makes, in seconds: at least so long.
    outage: f64,
}

fn check(shop: &Shop, expected: &Expected) {
    shop.ready();
    let (run, report) = break_it(shop, expected.name, expected.fault, "< 40s");
    assert_eq!(run.code, Some(0), "{}: {}", expected.name, run.text);
    let trial = &report["experiments"][0]["trials"][0];
    let proof = trial["faults"][0]["proof"].to_string();
    assert!(proof.contains(expected.proof), "{}: {proof}", expected.name);
    let upper = trial["rto"]["upper"].as_f64().unwrap();
    assert!(
        upper >= expected.outage,
        "{}: recovered within {upper} s, at least {} s are needed",
        expected.name,
        expected.outage
    );
    assert_eq!(shop.traces(), Vec::<String>::new(), "after {}", expected.name);
}

#[test]
fn faults_inside_a_container_are_proven_and_leave_nothing() {
    let shop = Shop::open("inside");
    for expected in [
        Expected {
            name: "cpu",
            fault: "cpuStress: {workers: 2, load: 50%}, duration: 2s",
            proof: "2 processes used",
            outage: 0.0,
        },
        Expected {
            name: "memory",
            fault: "memoryStress: {size: 60Mi}, duration: 2s",
            proof: "processes of the fault hold",
            outage: 0.0,
        },
        Expected {
            name: "share",
            fault: "memoryStress: {size: 80%}, duration: 2s",
            proof: "processes of the fault hold",
            outage: 0.0,
        },
        Expected {
            name: "oom",
            fault: "memoryStress: {size: 150%}, duration: 2s",
            proof: "exit code 137 (OOMKilled)",
            outage: 0.05,
        },
        Expected {
            name: "pause",
            fault: "processPause: {}, duration: 2s",
            proof: "in state T (stopped)",
            outage: 0.0,
        },
        Expected {
            name: "disk",
            fault: "diskFill: {path: /data, size: 5Mi}, duration: 2s",
            proof: "a file of 5242880 bytes",
            outage: 0.0,
        },
        Expected {
            name: "storage",
            fault: "storageLoss: {path: /data/store}, duration: 3s",
            proof: "/data/store is not there any more",
            outage: 3.0,
        },
    ] {
        check(&shop, &expected);
    }
}

#[test]
fn faults_on_pods_nodes_and_objects_are_proven_and_leave_nothing() {
    let shop = Shop::open("objects");
    for expected in [
        Expected {
            name: "evict",
            fault: "podEvict: {gracePeriod: 0s}",
            proof: "pod UID",
            outage: 0.05,
        },
        Expected {
            name: "cordon",
            fault: "nodeCordon: {}, duration: 2s",
            proof: "is unschedulable",
            outage: 0.0,
        },
        Expected {
            name: "drain",
            fault: "nodeDrain: {gracePeriod: 1s}, duration: 2s",
            proof: "has no pod of shop left",
            outage: 0.05,
        },
        Expected {
            name: "scale",
            fault: "scale: {replicas: 1}, duration: 3s",
            proof: "has 1 replicas",
            outage: 3.0,
        },
        Expected {
            name: "delete",
            fault: "deleteResource: {}, duration: 3s",
            proof: "is gone",
            outage: 3.0,
        },
        Expected {
            name: "image",
            fault: "imagePullFailure: {}, duration: 3s",
            proof: "waits with ErrImagePull",
            outage: 0.0,
        },
    ] {
        check(&shop, &expected);
    }
}

#[test]
fn what_cannot_be_done_is_refused_or_inconclusive_and_never_a_pass() {
    let shop = Shop::open("cannot");
    // No memory limit is named by this container's sidecar, and no path is where this one looks.
    let (run, report) = break_it(
        &shop,
        "nothing-there",
        "storageLoss: {path: /data/none}, duration: 2s",
        "< 40s",
    );
    assert_eq!(run.code, Some(2), "{}", run.text);
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    assert!(why.contains("there is no /data/none"), "{why}");
    assert_eq!(shop.traces(), Vec::<String>::new());

    // A program that is the init of its container, and cannot be stopped from inside.
    let init = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "init", "namespace": "shop", "labels": {"app": "init"}},
        "spec": {"containers": [{"name": "init", "image": "busybox:1.36", "command": ["sleep", "600"]}]}});
    shop.create("/api/v1/namespaces/shop/pods", &init);
    let text = experiment("init", "- {name: it, processPause: {}, duration: 2s}", "< 40s")
        .replace("deployment: web", "labels: {app: init}")
        .replace(">= 2", ">= 1");
    let path = file(shop.lab.folder(), "init.yaml", &text);
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    assert_eq!(run.code, Some(2), "{}", run.text);
    assert!(run.text.contains("is the init of its container"), "{}", run.text);

    // A budget that allows no disruption: the refusal is the API server's own.
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "all", "namespace": "shop"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    shop.create("/apis/policy/v1/namespaces/shop/poddisruptionbudgets", &budget);
    shop.lab.wait("the budget's status", Duration::from_secs(10), || {
        let path = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/all";
        shop.lab.api("GET", path, None).1["status"]["expectedPods"] == 2
    });
    let (run, report) = break_it(&shop, "budget", "podEvict: {}", "< 40s");
    assert_eq!(run.code, Some(2), "{}", run.text);
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    assert!(why.contains("disruption budget"), "{why}");
    assert_eq!(shop.pods().len(), 2);

    // A node that somebody else has cordoned is left alone.
    for node in ["lab-1", "lab-2", "lab-3"] {
        shop.kubectl(&["cordon", node]);
    }
    let (run, _) = break_it(&shop, "cordoned", "nodeCordon: {}, duration: 2s", "< 40s");
    assert_eq!(run.code, Some(77), "{}", run.text);
    assert!(run.text.contains("is cordoned already"), "{}", run.text);
}

#[test]
fn several_faults_come_in_sequence_in_parallel_and_repeated_each_with_its_proof() {
    let shop = Shop::open("several");
    let faults = "- {name: busy, cpuStress: {}, duration: 4s}
- {name: full, diskFill: {path: /data, size: 1Mi}, duration: 2s, after: 1s}
- {name: kill, podKill: {gracePeriod: 0s}, after: 6s, repeat: {times: 2, every: 4s}}";
    let path = file(
        shop.lab.folder(),
        "several.yaml",
        &experiment("several", faults, "< 40s"),
    );
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    assert_eq!(run.code, Some(0), "{}", run.text);
    let faults = report["experiments"][0]["trials"][0]["faults"].as_array().unwrap();
    let names: Vec<&str> = faults.iter().map(|fault| fault["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["busy", "full", "kill", "kill #2"]);
    assert!(faults.iter().all(|fault| !fault["proof"].is_null()), "{faults:?}");
    // The second time another pod is chosen: the first one is gone.
    assert_ne!(faults[2]["targets"], faults[3]["targets"]);
    assert_eq!(shop.traces(), Vec::<String>::new());

    // Nobody is left to be hit when the second one is due.
    let faults = "- {name: down, scale: {replicas: 0}, duration: 6s}
- {name: kill, podKill: {}, after: 3s}";
    let path = file(shop.lab.folder(), "nobody.yaml", &experiment("nobody", faults, "< 40s"));
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    assert_eq!(run.code, Some(2), "{}", run.text);
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    assert!(
        why.contains("kill was not fired") && why.contains("no pod matches"),
        "{why}"
    );
    shop.ready();
    assert_eq!(shop.traces(), Vec::<String>::new());
}

/// A store that listens, and a Deployment whose pods are ready while they can connect to it.
fn partitioned(name: &str) -> Shop {
    let shop = Shop { lab: Lab::up(name) };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    shop.create("/api/v1/namespaces", &namespace);
    let deployment = |name: &str, replicas: u32, container: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}}})
    };
    let store = json!({"name": "store", "image": "python:3", "command": ["python3", "-m", "http.server", "8080"],
        "ports": [{"containerPort": 8080}], "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "store", "namespace": "shop"},
        "spec": {"selector": {"app": "store"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let web = json!({"name": "web", "image": "bash:5", "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"],
        "readinessProbe": {"exec": {"command": ["timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/store/80"]},
            "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 3}});
    shop.create("/api/v1/namespaces/shop/services", &service);
    shop.create(
        "/apis/apps/v1/namespaces/shop/deployments",
        &deployment("store", 1, store),
    );
    shop.create("/apis/apps/v1/namespaces/shop/deployments", &deployment("web", 2, web));
    shop.lab.wait("two ready pods", Duration::from_secs(60), || {
        let (_, deployment) = shop
            .lab
            .api("GET", "/apis/apps/v1/namespaces/shop/deployments/web", None);
        deployment["status"]["readyReplicas"] == 2
    });
    shop
}

#[test]
fn a_partition_is_proven_by_traffic_that_stops_and_an_ignoring_network_gives_no_verdict() {
    let shop = partitioned("partition");
    let fault = |which: &str| {
        format!("networkPartition: {{peer: {{labels: {{app: store}}}}, direction: to}}, {which}, duration: 3s")
    };
    // Both pods by their labels, and one of two that no label tells apart.
    for (name, which) in [("both", "mode: all"), ("one", "mode: one")] {
        let (run, report) = break_it(&shop, name, &fault(which), "< 40s");
        assert_eq!(run.code, Some(0), "{}", run.text);
        let trial = &report["experiments"][0]["trials"][0];
        let proof = trial["faults"][0]["proof"].to_string();
        assert!(proof.contains("no connection from web-"), "{proof}");
        let (lower, upper) = (
            trial["rto"]["lower"].as_f64().unwrap(),
            trial["rto"]["upper"].as_f64().unwrap(),
        );
        assert!(lower > 2.5 && upper < 8.0, "{name}: [{lower}, {upper}]");
        assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after {name}");
    }
    // One way, on a port that nobody uses: traffic goes on, and that is seen before anything is fired.
    let unused = "networkPartition: {peer: {labels: {app: store}}, ports: [9]}, mode: all, duration: 3s";
    let (run, _) = break_it(&shop, "unused", unused, "< 40s");
    assert_eq!(run.code, Some(77), "{}", run.text);
    assert!(run.text.contains("no traffic passes"), "{}", run.text);

    shop.kubectl(&[
        "annotate",
        "namespace",
        "kube-system",
        "lab.chaosrun.dev/ignore-network-policies=true",
    ]);
    let (run, report) = break_it(&shop, "ignored", &fault("mode: all"), "< 40s");
    assert_eq!(run.code, Some(2), "{}", run.text);
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    assert!(why.contains("does not enforce policies"), "{why}");
    assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after ignored");
}

#[test]
fn traffic_is_shaped_beside_the_target_and_what_pod_security_forbids_is_refused_in_advance() {
    let shop = Shop::open("shaped");
    for expected in [
        Expected {
            name: "delay",
            fault: "networkDelay: {latency: 200ms, jitter: 10ms}, duration: 2s",
            proof: "ms under the delay",
            outage: 0.0,
        },
        Expected {
            name: "loss",
            fault: "networkLoss: {percent: 40%}, duration: 2s",
            proof: "the queue of eth0 dropped",
            outage: 0.0,
        },
        Expected {
            name: "bandwidth",
            fault: "networkBandwidth: {rate: 1mbit}, duration: 2s",
            proof: "rate 1Mbit",
            outage: 0.0,
        },
        Expected {
            name: "dns",
            fault: "dnsFailure: {}, duration: 2s",
            proof: "cannot be resolved any more",
            outage: 0.0,
        },
    ] {
        check(&shop, &expected);
    }
    // What was put beside the pods has ended, each of them.
    let (_, pods) = shop.lab.api("GET", "/api/v1/namespaces/shop/pods", None);
    let mut ended = 0;
    for pod in pods["items"].as_array().unwrap() {
        for status in pod["status"]["ephemeralContainerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
        {
            assert_eq!(status["state"]["terminated"]["exitCode"], 0, "{status}");
            ended += 1;
        }
    }
    assert_eq!(ended, 4);

    shop.kubectl(&[
        "label",
        "namespace",
        "shop",
        "pod-security.kubernetes.io/enforce=baseline",
    ]);
    let (run, _) = break_it(
        &shop,
        "forbidden",
        "networkDelay: {latency: 200ms}, duration: 2s",
        "< 40s",
    );
    assert_eq!(run.code, Some(77), "{}", run.text);
    assert!(
        run.text.contains("violates PodSecurity \"baseline:latest\""),
        "{}",
        run.text
    );
    assert!(run.text.contains("NET_ADMIN"), "{}", run.text);
}

#[test]
fn two_runs_never_share_a_target() {
    let shop = Shop::open("lease");
    let text = experiment("first", "- {name: busy, cpuStress: {}, duration: 6s}", "< 40s");
    let path = file(shop.lab.folder(), "first.yaml", &text);
    let mut first = shop
        .lab
        .command(&["run", "--out"])
        .arg(shop.lab.folder().join("first"))
        .arg(&path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    shop.lab.wait("the Lease", Duration::from_secs(20), || {
        let (_, leases) = shop
            .lab
            .api("GET", "/apis/coordination.k8s.io/v1/namespaces/shop/leases", None);
        !leases["items"].as_array().unwrap().is_empty()
    });
    let (second, _) = break_it(&shop, "second", "podKill: {}", "< 40s");
    assert_eq!(second.code, Some(77), "{}", second.text);
    assert!(
        second.text.contains("two runs would measure each other"),
        "{}",
        second.text
    );
    assert_eq!(first.wait().unwrap().code(), Some(0), "the first one was left in peace");
    assert_eq!(shop.traces(), Vec::<String>::new());
    let (third, _) = break_it(&shop, "third", "podKill: {gracePeriod: 0s}", "< 40s");
    assert_eq!(third.code, Some(0), "{}", third.text);
}

#[test]
fn a_runner_that_lives_renews_its_guard() {
    let shop = partitioned("renewed");
    let fault =
        "- {name: it, networkPartition: {peer: {labels: {app: store}}, direction: to}, mode: all, duration: 8s}";
    let text = experiment("renewed", fault, "< 40s").replace("maxPercent: 100", "maxPercent: 100, deadline: 3s");
    let path = file(shop.lab.folder(), "renewed.yaml", &text);
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    assert_eq!(run.code, Some(0), "{}", run.text);
    let lower = report["experiments"][0]["trials"][0]["rto"]["lower"].as_f64().unwrap();
    assert!(
        lower > 7.0,
        "the cluster ended the fault after {lower} s, while its runner lived"
    );
}
