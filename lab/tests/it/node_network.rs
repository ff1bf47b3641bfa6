//! Services, names, probes, volumes, exec and connections. Needs root, runc, iproute2, nftables.

use std::time::{Duration, Instant};

use crate::node_support::{create, first, holds, lab, logs, phase, pods, reference, shell, wait_pod};
use chaosrun_lab::backend::{ExecRequest, LogOptions};
use chaosrun_lab::lifecycle::Lab;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Service};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVER: &str = "exec python3 -c '
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists(\"/tmp/ready\") or self.path == \"/\" else 503)
        self.end_headers()
        self.wfile.write(os.uname().nodename.encode())
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((\"\", 8080), H).serve_forever()
'";

async fn service(lab: &Lab, spec: Value) -> Service {
    let service: Service = serde_json::from_value(spec).unwrap();
    let api: Api<Service> = Api::namespaced(lab.client(), "default");
    api.create(&PostParams::default(), &service).await.unwrap()
}

async fn run(lab: &Lab, pod: &str, command: &[&str]) -> (i32, String) {
    let request = ExecRequest {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin: false,
        tty: false,
    };
    let backend = lab.server().backend().unwrap();
    let mut session = backend
        .exec(reference(lab, pod).await, "main".to_owned(), request)
        .await
        .unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    (session.exit.await.unwrap().unwrap(), format!("{out}{err}"))
}

/// Runs a command in a pod until it prints what is expected.
async fn eventually(lab: &Lab, pod: &str, command: &[&str], expected: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let (code, output) = run(lab, pod, command).await;
        if code == 0 && expected(&output) {
            return output;
        }
        assert!(Instant::now() < deadline, "{command:?} in {pod}: exit {code}, {output}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_found_by_name_and_leads_to_ready_pods_only() {
    let lab = lab("service").await;
    for name in ["web-1", "web-2"] {
        let mut pod = shell(name, SERVER);
        pod["metadata"]["labels"] = json!({"app": "web"});
        pod["spec"]["hostname"] = json!(name);
        pod["spec"]["subdomain"] = json!("headless");
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
        create(&lab, pod).await;
    }
    create(&lab, shell("client", "sleep 1000")).await;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let web = service(
        &lab,
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}),
    )
    .await;
    service(&lab, json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": ports}})).await;
    for name in ["web-1", "web-2", "client"] {
        wait_pod(&lab, name, "running", phase("Running")).await;
    }
    let fetch = [
        "python3",
        "-c",
        "import urllib.request as r; print(r.urlopen('http://web.default/', timeout=2).read().decode())",
    ];
    let start = Instant::now();
    let (code, refused) = run(&lab, "client", &fetch).await;
    assert!(code != 0 && refused.contains("refused"), "nothing is ready: {refused}");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "a service without endpoints must refuse at once"
    );
    assert_eq!(run(&lab, "web-1", &["touch", "/tmp/ready"]).await.0, 0);
    wait_pod(&lab, "web-1", "ready", |pod| holds(pod, "Ready")).await;
    let unready = pods(&lab).get("web-2").await.unwrap();
    assert!(!holds(&serde_json::to_value(unready).unwrap(), "Ready"));
    for _ in 0..5 {
        eventually(&lab, "client", &fetch, |output| output.trim() == "web-1").await;
    }
    assert_eq!(run(&lab, "web-2", &["touch", "/tmp/ready"]).await.0, 0);
    eventually(&lab, "client", &fetch, |output| output.trim() == "web-2").await;
    // From the pod itself through its own service, too.
    eventually(&lab, "web-1", &fetch, |output| output.trim() == "web-1").await;
    let of_pod = [
        "python3",
        "-c",
        "import urllib.request as r; print(r.urlopen('http://web-2.headless.default.svc:8080/', timeout=2).read().decode())",
    ];
    eventually(&lab, "client", &of_pod, |output| output.trim() == "web-2").await;
    let both = [
        "python3",
        "-c",
        "import socket; print(len(set(a[4][0] for a in socket.getaddrinfo('headless', 80))))",
    ];
    eventually(&lab, "client", &both, |output| output.trim() == "2").await;
    let unknown = [
        "python3",
        "-c",
        "import socket\ntry:\n  socket.getaddrinfo('nobody.default.svc.cluster.local', 80)\nexcept socket.gaierror as e: print(e.errno)",
    ];
    assert_eq!(run(&lab, "client", &unknown).await.1.trim(), "-2", "EAI_NONAME");
    // And from this machine.
    let address = format!("{}:80", web.spec.unwrap().cluster_ip.unwrap());
    let mut stream = tokio::time::timeout(Duration::from_secs(5), tokio::net::TcpStream::connect(&address))
        .await
        .unwrap()
        .unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("web-"), "{answer}");
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_the_api_with_its_service_account() {
    let lab = lab("api").await;
    let bindings: Api<RoleBinding> = Api::namespaced(lab.client(), "default");
    let binding = json!({
        "metadata": {"name": "view"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    });
    let binding = serde_json::from_value(binding).unwrap();
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let script = r#"
import json, ssl, urllib.request
base = "/var/run/secrets/kubernetes.io/serviceaccount/"
token = open(base + "token").read()
request = urllib.request.Request("https://kubernetes.default.svc/api/v1/namespaces/" + open(base + "namespace").read(),
                                 headers={"Authorization": "Bearer " + token})
context = ssl.create_default_context(cafile=base + "ca.crt")
print(json.load(urllib.request.urlopen(request, context=context, timeout=5))["metadata"]["name"])
"#;
    let mut pod = shell("p", "");
    pod["spec"]["containers"][0]["command"] = json!(["python3", "-c", script]);
    create(&lab, pod).await;
    let pod = wait_pod(&lab, "p", "ended", |pod| {
        pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
    })
    .await;
    let output = logs(&lab, "p", LogOptions::default()).await;
    assert_eq!(
        (pod["status"]["phase"].as_str(), output.as_str()),
        (Some("Succeeded"), "default")
    );
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_liveness_probe_restarts_the_container_and_a_startup_probe_holds_it_back() {
    let lab = lab("probes").await;
    let mut pod = shell("p", "touch /tmp/alive; sleep 1000");
    pod["spec"]["restartPolicy"] = json!("Always");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    let check = json!({"exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1});
    pod["spec"]["containers"][0]["livenessProbe"] = check.clone();
    pod["spec"]["containers"][0]["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/started"]}, "periodSeconds": 1, "failureThreshold": 30});
    create(&lab, pod).await;
    wait_pod(&lab, "p", "running", phase("Running")).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let held = serde_json::to_value(pods(&lab).get("p").await.unwrap()).unwrap();
    assert_eq!(
        (first(&held)["started"].as_bool(), first(&held)["ready"].as_bool()),
        (Some(false), Some(false))
    );
    assert_eq!(run(&lab, "p", &["touch", "/tmp/started"]).await.0, 0);
    wait_pod(&lab, "p", "ready", |pod| holds(pod, "Ready")).await;
    assert_eq!(run(&lab, "p", &["rm", "/tmp/alive"]).await.0, 0);
    let restarted = wait_pod(&lab, "p", "restarted", |pod| first(pod)["restartCount"] == 1).await;
    assert_eq!(first(&restarted)["lastState"]["terminated"]["exitCode"], 137);
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_share_a_claim_whose_folder_goes_with_it() {
    let lab = lab("claim").await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(lab.client(), "default");
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}]);
    for (name, script) in [
        ("writer", "echo kept > /data/file; sleep 1000"),
        ("reader", "until cat /data/file; do sleep 0.05; done"),
    ] {
        let mut pod = shell(name, script);
        pod["spec"]["volumes"] = volume.clone();
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        create(&lab, pod).await;
    }
    // The pods wait for a claim that comes later.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let claim = json!({"metadata": {"name": "shared"}, "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}});
    claims
        .create(&PostParams::default(), &serde_json::from_value(claim).unwrap())
        .await
        .unwrap();
    wait_pod(&lab, "reader", "succeeded", phase("Succeeded")).await;
    assert!(logs(&lab, "reader", LogOptions::default()).await.ends_with("kept"));
    let bound = claims.get("shared").await.unwrap();
    assert_eq!(bound.status.unwrap().phase.unwrap(), "Bound");
    let volumes: Api<PersistentVolume> = Api::all(lab.client());
    let volume = volumes.get(&bound.spec.unwrap().volume_name.unwrap()).await.unwrap();
    let folder = volume.spec.unwrap().host_path.unwrap().path;
    assert!(std::path::Path::new(&folder).join("file").exists());
    for name in ["writer", "reader"] {
        pods(&lab)
            .delete(name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
    claims.delete("shared", &DeleteParams::default()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::path::Path::new(&folder).exists() {
        assert!(Instant::now() < deadline, "the claim's folder is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_may_come_later_and_its_changes_reach_the_running_pod() {
    let lab = lab("config").await;
    let mut pod = shell("p", "cat /etc/app/key; cat /one/file; sleep 1000");
    pod["spec"]["volumes"] =
        json!([{"name": "config", "configMap": {"name": "settings", "items": [{"key": "a", "path": "key"}]}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "config", "mountPath": "/etc/app"}, {"name": "config", "mountPath": "/one/file", "subPath": "key"},
    ]);
    create(&lab, pod).await;
    wait_pod(&lab, "p", "waiting for its config map", |pod| {
        first(pod)["state"]["waiting"]["reason"] == "ContainerCreating"
    })
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(lab.client(), "default");
    let map = json!({"metadata": {"name": "settings"}, "data": {"a": "old\n", "b": "other"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap())
        .await
        .unwrap();
    wait_pod(&lab, "p", "running", phase("Running")).await;
    eventually(&lab, "p", &["cat", "/etc/app/key", "/one/file"], |output| {
        output == "old\nold\n"
    })
    .await;
    let patch = Patch::Merge(json!({"data": {"a": "new\n"}}));
    maps.patch("settings", &PatchParams::default(), &patch).await.unwrap();
    eventually(&lab, "p", &["cat", "/etc/app/key"], |output| output == "new\n").await;
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_has_input_output_exit_codes_and_a_terminal() {
    let lab = lab("exec").await;
    create(&lab, shell("p", "sleep 1000")).await;
    wait_pod(&lab, "p", "running", phase("Running")).await;
    assert_eq!(
        run(&lab, "p", &["sh", "-c", "echo out; echo err >&2; exit 3"]).await,
        (3, "out\nerr\n".to_owned())
    );
    assert_eq!(run(&lab, "p", &["sh", "-c", "kill -TERM $$"]).await.0, 143);
    let backend = lab.server().backend().unwrap();
    let pod = reference(&lab, "p").await;
    let request = |command: &[&str], stdin, tty| ExecRequest {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin,
        tty,
    };
    let missing = backend
        .exec(pod.clone(), "main".to_owned(), request(&["/no/such"], false, false))
        .await;
    assert!(missing.is_err_and(|error| error.to_string().contains("no such file")));
    let mut session = backend
        .exec(pod.clone(), "main".to_owned(), request(&["cat"], true, false))
        .await
        .unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"through").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut output = String::new();
    session.stdout.unwrap().read_to_string(&mut output).await.unwrap();
    assert_eq!((output.as_str(), session.exit.await.unwrap().unwrap()), ("through", 0));
    let mut session = backend
        .exec(
            pod,
            "main".to_owned(),
            request(&["sh", "-c", "tty; stty size; exit 5"], true, true),
        )
        .await
        .unwrap();
    session.resize.as_ref().unwrap().send((80, 24)).await.unwrap();
    let mut output = String::new();
    session
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .await
        .unwrap();
    assert!(output.contains("/dev/pts/0"), "{output}");
    assert_eq!(session.exit.await.unwrap().unwrap(), 5);
    lab.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_reach_ports_on_the_pods_loopback_too() {
    let lab = lab("connect").await;
    let listen = |address: &str| {
        format!(
            "exec python3 -c 'import socket; s=socket.create_server((\"{address}\", 7000)); c,_=s.accept(); c.sendall(b\"hello\"); c.close()'"
        )
    };
    for (name, address) in [("open", ""), ("closed", "127.0.0.1")] {
        create(&lab, shell(name, &listen(address))).await;
        wait_pod(&lab, name, "running", phase("Running")).await;
        let backend = lab.server().backend().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut stream = loop {
            match backend.connect(reference(&lab, name).await, 7000).await {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{name}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello", "{name}");
    }
    lab.stop().await.unwrap();
}
