//! NetworkChaos and DNSChaos in the double of Chaos Mesh: traffic between two pods that really stops, and what happens without a daemon.

use std::time::Duration;

use crate::chaos_mesh_support::{Kind, components, condition, events, install, lab, only, record, run, until};
use crate::node_support::{create, phase, pods, shell, wait_pod};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// Answers each line with itself.
const SERVER: &str = "exec python3 -c '
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server((\"\", 7000), Echo).serve_forever()
'";

/// One connection for ever: writes the count of echoes that came back.
fn client(server: &str) -> String {
    format!(
        "exec python3 -c '
import socket, time
connection = socket.create_connection((\"{server}\", 7000))
lines = connection.makefile(\"rw\")
count = 0
while True:
    lines.write(\"x\\n\"); lines.flush(); lines.readline()
    count += 1
    open(\"/tmp/count\", \"w\").write(str(count))
    time.sleep(0.02)
'"
    )
}

async fn count(lab: &chaosrun_lab::lifecycle::Lab) -> u64 {
    run(lab, "cart", "cat /tmp/count").await.1.trim().parse().unwrap_or(0)
}

/// Whether the established connection makes progress.
async fn flows(lab: &chaosrun_lab::lifecycle::Lab) -> bool {
    let before = count(lab).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    count(lab).await > before
}

async fn select_nodes(lab: &chaosrun_lab::lifecycle::Lab, selector: Value) {
    let api: Api<DaemonSet> = Api::namespaced(lab.client(), "chaos-mesh");
    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}}));
    api.patch("chaos-daemon", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_stops_what_is_established_and_hangs_without_a_daemon() {
    let lab = lab("mesh-net").await;
    install(&lab).await;
    create(&lab, shell("redis", SERVER)).await;
    let redis = wait_pod(&lab, "redis", "running", phase("Running")).await;
    let address = redis["status"]["podIP"].as_str().unwrap().to_owned();
    until("the server answers", || async {
        let probe = format!("python3 -c 'import socket; socket.create_connection((\"{address}\", 7000), 1)'");
        let listens = run(&lab, "redis", &probe).await;
        listens.0 == 0
    })
    .await;
    create(&lab, shell("cart", &client(&address))).await;
    wait_pod(&lab, "cart", "running", phase("Running")).await;
    until("traffic flows", || flows(&lab)).await;

    let kind = Kind::new(&lab, "NetworkChaos", "networkchaos");
    let target = json!({"mode": "all", "selector": only("redis")});
    let cut = json!({"action": "partition", "direction": "both", "mode": "all", "selector": only("cart"), "target": target, "duration": "5m"});
    let versions = kind.versions("cut").await;
    kind.create("cut", &cut).await;
    let injected = kind.injected("cut").await;
    assert_eq!(
        injected["status"]["experiment"]["containerRecords"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(!flows(&lab).await, "the established connection stops");
    let internal = Kind::new(&lab, "PodNetworkChaos", "podnetworkchaos");
    let rules = internal.get("cart").await;
    assert_eq!(rules["spec"]["iptables"][0]["source"], "default/cut");
    assert_eq!(rules["status"]["observedGeneration"], rules["metadata"]["generation"]);
    assert!(
        versions
            .all()
            .iter()
            .any(|version| version.contains("Run TFF Not Injected/Wait,Not Injected/Wait")),
        "{:?}",
        versions.all()
    );

    // Nobody can take it back without a daemon, not even by force, until somebody takes the finalizer off.
    select_nodes(&lab, json!({"no": "where"})).await;
    components(&lab, 1, 0).await;
    kind.delete("cut").await;
    let stuck = kind
        .wait("cut", "stuck", |object| {
            object.to_string().contains("cannot find daemonIP on node lab-1")
        })
        .await;
    assert_eq!(record(&stuck)["phase"], "Injected/Wait");
    let force = json!({"metadata": {"annotations": {"chaos-mesh.chaos-mesh.org/cleanFinalizer": "forced"}}});
    kind.patch("cut", force).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!kind.get("cut").await.is_null(), "the force annotation does not help");
    assert!(!events(&lab, "cut", "Failed").await.is_empty());
    kind.patch("cut", json!({"metadata": {"finalizers": null}})).await;
    kind.gone("cut").await;
    assert!(!flows(&lab).await, "the fault stays");
    select_nodes(&lab, Value::Null).await;
    let unselect = json!({"spec": {"template": {"spec": {"nodeSelector": {"no": null}}}}});
    let api: Api<DaemonSet> = Api::namespaced(lab.client(), "chaos-mesh");
    api.patch("chaos-daemon", &PatchParams::default(), &Patch::Merge(unselect))
        .await
        .unwrap();
    components(&lab, 1, 3).await;
    until("the daemon that is back clears what nobody wants any more", || {
        flows(&lab)
    })
    .await;

    // Everything lost one way, then taken back by deletion, in one pass.
    let loss = json!({"action": "loss", "mode": "all", "selector": only("cart"), "loss": {"loss": "100"}, "externalTargets": [format!("{address}:7000")]});
    kind.create("lose", &loss).await;
    kind.injected("lose").await;
    assert!(!flows(&lab).await);
    kind.delete("lose").await;
    kind.gone("lose").await;
    until("traffic flows again", || flows(&lab)).await;

    // What the kernel cannot do is no success, and deletion waits for it for ever.
    let delay = json!({"action": "delay", "mode": "all", "selector": only("cart"), "delay": {"latency": "50ms"}});
    kind.create("late", &delay).await;
    let late = kind
        .wait("late", "decided", |object| {
            condition(object, "AllInjected") || object.to_string().contains("Specified qdisc not found")
        })
        .await;
    if condition(&late, "AllInjected") {
        kind.delete("late").await;
        kind.gone("late").await;
    } else {
        assert_eq!(record(&late)["phase"], "Not Injected/Wait");
        kind.delete("late").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!kind.get("late").await.is_null(), "the dead end");
        // The way out: the object of the pod goes with the pod.
        pods(&lab)
            .delete("cart", &kube::api::DeleteParams::default().grace_period(0))
            .await
            .unwrap();
        until("the pod is gone", || async {
            pods(&lab).get_opt("cart").await.unwrap().is_none()
        })
        .await;
        kind.patch("late", json!({"metadata": {"annotations": {"touched": "1"}}}))
            .await;
        kind.gone("late").await;
    }
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_not_found_by_one_pod_and_switches_make_trouble() {
    let lab = lab("mesh-dns").await;
    install(&lab).await;
    for name in ["cart", "redis"] {
        create(&lab, shell(name, "sleep 1000")).await;
        wait_pod(&lab, name, "running", phase("Running")).await;
    }
    let look_up = "python3 -c 'import socket; print(socket.gethostbyname(\"kubernetes.default.svc.cluster.local\"))'";
    let finds = |pod: &'static str| {
        let lab = &lab;
        async move { run(lab, pod, look_up).await.0 == 0 }
    };
    until("the name is known", || finds("cart")).await;
    let kind = Kind::new(&lab, "DNSChaos", "dnschaos");
    let spec =
        json!({"action": "error", "patterns": ["kubernetes.default.*"], "mode": "all", "selector": only("cart")});
    kind.create("lost", &spec).await;
    kind.injected("lost").await;
    assert!(!finds("cart").await && finds("redis").await, "for this pod only");
    kind.delete("lost").await;
    kind.gone("lost").await;
    assert!(finds("cart").await);

    // Two failures, then success; and a recovery that never succeeds, which force does not end.
    let mut object = kind.object("rough", &spec);
    let switches = [
        ("double.chaosrun.dev/applyErrors", "2"),
        ("double.chaosrun.dev/recoverError", "true"),
    ];
    object.metadata.annotations = Some(switches.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    kind.api
        .create(&kube::api::PostParams::default(), &object)
        .await
        .unwrap();
    let rough = kind.injected("rough").await;
    let failed = record(&rough)["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["type"] == "Failed");
    assert_eq!(failed.count(), 2);
    kind.delete("rough").await;
    kind.wait("rough", "failing to recover", |object| {
        record(object).to_string().contains("\"operation\":\"Recover\"")
    })
    .await;
    assert!(!finds("cart").await, "still broken");
    kind.patch(
        "rough",
        json!({"metadata": {"annotations": {"double.chaosrun.dev/recoverError": null}}}),
    )
    .await;
    kind.gone("rough").await;
    assert!(finds("cart").await);

    // What the double cannot do it refuses, and what nobody can do upstream fails in upstream's words.
    for (kind, plural, spec, why) in [
        (
            "TimeChaos",
            "timechaos",
            json!({"timeOffset": "-10m", "mode": "all", "selector": only("cart")}),
            "not injected by the double",
        ),
        (
            "IOChaos",
            "iochaos",
            json!({"action": "latency", "delay": "1ms", "volumePath": "/data", "mode": "all", "selector": only("cart")}),
            "no file system in user space",
        ),
        (
            "KernelChaos",
            "kernelchaos",
            json!({"failKernRequest": {"failtype": 0}, "mode": "all", "selector": only("cart")}),
            "too few parts of namespacedname",
        ),
    ] {
        let kind = Kind::new(&lab, kind, plural);
        kind.create("no", &spec).await;
        kind.wait("no", why, |object| object["status"].to_string().contains(why))
            .await;
        assert!(!condition(&kind.get("no").await, "AllInjected"));
    }
    lab.stop().await.unwrap();
}
