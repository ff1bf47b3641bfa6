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
    kind.force("cut").await;
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

    // What can never be applied is no success, and deletion waits for it for ever.
    let absurd = json!({"action": "netem", "mode": "all", "selector": only("cart"), "delay": {"latency": "50ms"}, "loss": {"loss": "120"}});
    kind.create("absurd", &absurd).await;
    let stuck = kind
        .wait("absurd", "refused", |object| {
            object.to_string().contains("unable to set tcs")
        })
        .await;
    assert_eq!(record(&stuck)["phase"], "Not Injected/Wait");
    kind.delete("absurd").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!kind.get("absurd").await.is_null(), "the dead end");
    // The way out: the object of the pod goes with the pod.
    pods(&lab)
        .delete("cart", &kube::api::DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("the pod is gone", || async {
        pods(&lab).get_opt("cart").await.unwrap().is_none()
    })
    .await;
    kind.patch("absurd", json!({"metadata": {"annotations": {"touched": "1"}}}))
        .await;
    kind.gone("absurd").await;
    lab.stop().await.unwrap();
}

/// The shortest of some round trips to an echo server on a new connection, in milliseconds.
async fn round_trip(lab: &chaosrun_lab::lifecycle::Lab, address: &str) -> f64 {
    let script = format!(
        "python3 -c '
import socket, time
connection = socket.create_connection((\"{address}\", 7000), 10)
lines = connection.makefile(\"rw\")
times = []
for _ in range(4):
    begun = time.monotonic()
    lines.write(\"x\\n\"); lines.flush(); lines.readline()
    times.append(time.monotonic() - begun)
print(min(times) * 1000)
'"
    );
    let (code, text) = run(lab, "cart", &script).await;
    assert_eq!(code, 0, "{text}");
    text.trim().parse().unwrap()
}

/// Writes a line for each datagram that it gets.
const LISTENER: &str = "exec python3 -c '
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind((\"\", 7001))
while True:
    # First the datagram: an open file may be removed meanwhile.
    line = listener.recv(100).decode(\"latin1\") + \"\\n\"
    with open(\"/tmp/got\", \"a\") as got:
        got.write(line)
'";

/// How many datagrams arrive when ten are sent.
async fn arrivals(lab: &chaosrun_lab::lifecycle::Lab, address: &str) -> usize {
    let script = format!(
        "python3 -c '
import socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(10):
    sender.sendto(b\"datagram\", (\"{address}\", 7001))
'"
    );
    assert_eq!(run(lab, "cart", &script).await, (0, String::new()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let got = run(lab, "list", "cat /tmp/got 2>/dev/null; rm -f /tmp/got").await.1;
    got.lines().filter(|line| *line == "datagram").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_are_late_doubled_and_broken_for_the_peers_that_are_meant() {
    let lab = lab("mesh-late").await;
    install(&lab).await;
    let mut addresses = Vec::new();
    for (name, script) in [
        ("redis", SERVER),
        ("pay", SERVER),
        ("list", LISTENER),
        ("cart", "sleep 1000"),
    ] {
        create(&lab, shell(name, script)).await;
        let pod = wait_pod(&lab, name, "running", phase("Running")).await;
        addresses.push(pod["status"]["podIP"].as_str().unwrap().to_owned());
    }
    let (redis, pay, list) = (addresses[0].as_str(), addresses[1].as_str(), addresses[2].as_str());
    for address in [redis, pay] {
        until("the server answers", || async {
            let probe = format!("python3 -c 'import socket; socket.create_connection((\"{address}\", 7000), 1)'");
            run(&lab, "cart", &probe).await.0 == 0
        })
        .await;
    }
    until("datagrams arrive", || async { arrivals(&lab, list).await == 10 }).await;

    let kind = Kind::new(&lab, "NetworkChaos", "networkchaos");
    let late = json!({"action": "delay", "mode": "all", "selector": only("cart"), "delay": {"latency": "400ms"},
        "target": {"mode": "all", "selector": only("redis")}});
    kind.create("late", &late).await;
    kind.injected("late").await;
    let slow = round_trip(&lab, redis).await;
    assert!(slow >= 400.0, "{slow} ms");
    let other = round_trip(&lab, pay).await;
    assert!(other < 400.0, "nobody else is late: {other} ms");
    // A second one beside it, for everybody else.
    let more = json!({"action": "delay", "mode": "all", "selector": only("cart"), "delay": {"latency": "200ms", "jitter": "10ms"}});
    kind.create("more", &more).await;
    kind.injected("more").await;
    let (slow, other) = (round_trip(&lab, redis).await, round_trip(&lab, pay).await);
    assert!(slow >= 400.0 && other >= 190.0, "{slow} ms and {other} ms");
    for name in ["late", "more"] {
        kind.delete(name).await;
        kind.gone(name).await;
    }
    let well = round_trip(&lab, redis).await;
    assert!(well < 400.0, "{well} ms");

    let spoilt = |action: &str| {
        let mut spec = json!({"action": action, "mode": "all", "selector": only("cart"),
            "target": {"mode": "all", "selector": only("list")}});
        spec[action] = json!({action: "100"});
        spec
    };
    // Connection tracking on the way may take the first one and its copy for a clash, and drop one of them.
    for (action, expected) in [("duplicate", 19..=20), ("corrupt", 0..=0)] {
        kind.create(action, &spoilt(action)).await;
        kind.injected(action).await;
        until(&format!("{action} counts"), || async {
            expected.contains(&arrivals(&lab, list).await)
        })
        .await;
        kind.delete(action).await;
        kind.gone(action).await;
        until(&format!("all arrive after {action}"), || async {
            arrivals(&lab, list).await == 10
        })
        .await;
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
    kind.create_switched("rough", &spec, &[("applyErrors", "2"), ("recoverError", "true")])
        .await;
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
    kind.force("rough").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!kind.get("rough").await.is_null(), "force does not help");
    kind.unswitch("rough", "recoverError").await;
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
