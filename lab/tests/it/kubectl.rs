//! The real kubectl against the lab: what a person types.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::node_support::lab;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1.36
        command: ["sh", "-c", "trap 'exit 0' TERM; echo started; while :; do sleep 0.2; done"]
"#;

const SERVER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: server}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: server
    image: python
    command: ["python3", "-c", "import http.server; http.server.HTTPServer(('127.0.0.1', 8000), http.server.SimpleHTTPRequestHandler).serve_forever()"]
"#;

struct Kubectl {
    config: PathBuf,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&self.config)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect(
            "this test needs kubectl on the PATH: apt-get install kubernetes-client, or a newer one from \
                 https://kubernetes.io/docs/tasks/tools",
        )
    }

    /// Runs it and gives its output; anything but success is a failed test.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}\n{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Applies what must be refused, and gives what kubectl says about it.
    /// 20 of 1.20: distributions ship old clients.
    fn minor_version(&self) -> u32 {
        let version: serde_json::Value =
            serde_json::from_str(&self.run(&["version", "--client", "-o", "json"])).unwrap();
        let minor = version["clientVersion"]["minor"].as_str().unwrap();
        minor.trim_end_matches('+').parse().unwrap()
    }

    fn try_apply(&self, arguments: &[&str], manifest: &str) -> String {
        let output = self.apply_output(arguments, manifest);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn apply(&self, arguments: &[&str], manifest: &str) -> String {
        let output = self.apply_output(arguments, manifest);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn apply_output(&self, arguments: &[&str], manifest: &str) -> Output {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

fn line_with(reader: &mut impl BufRead, wanted: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut line = String::new();
        assert!(
            reader.read_line(&mut line).unwrap() > 0,
            "the output ended before {wanted:?}"
        );
        if line.contains(wanted) {
            return line;
        }
        assert!(Instant::now() < deadline, "no line with {wanted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_does_what_people_do_with_it() {
    let lab = lab("kubectl").await;
    let kubectl = Kubectl {
        config: lab.info().kubeconfig.clone(),
    };
    let work = tokio::task::spawn_blocking(move || {
        everyday(&kubectl);
        streams(&kubectl);
    });
    let result = work.await;
    lab.stop().await.unwrap();
    result.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_told_what_is_wrong_and_who_owns_what() {
    let lab = lab("kubectl-no").await;
    let kubectl = Kubectl {
        config: lab.info().kubeconfig.clone(),
    };
    let work = tokio::task::spawn_blocking(move || {
        refusals(&kubectl);
        rights(&kubectl);
    });
    let result = work.await;
    lab.stop().await.unwrap();
    result.unwrap();
}

fn refusals(kubectl: &Kubectl) {
    let config = |data: &str| {
        // Old clients take a text that begins with a brace for JSON.
        format!("---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: owned, namespace: default}}, {data}}}")
    };
    // From 1.25 on the client asks the server to refuse what it does not know; before, it is told so and goes on.
    let typo = kubectl.apply_output(&[], &config("dat: {a: b}"));
    let said = String::from_utf8_lossy(&typo.stderr).into_owned();
    assert!(said.contains("unknown field \"dat\""), "{said}");
    assert_eq!(typo.status.success(), kubectl.minor_version() < 25);
    kubectl.apply(&["--server-side", "--field-manager=one"], &config("data: {a: b}"));
    let conflict = kubectl.try_apply(&["--server-side", "--field-manager=two"], &config("data: {a: c}"));
    assert!(
        conflict.contains("conflict with \"one\" using v1: .data.a"),
        "{conflict}"
    );
    kubectl.apply(
        &["--server-side", "--field-manager=two", "--force-conflicts"],
        &config("data: {a: c}"),
    );
    let value = ["get", "configmap", "owned", "-o", "jsonpath={.data.a}"];
    assert_eq!(kubectl.run(&value), "c");
    // From client-side to server-side apply: kubectl hands over the fields that it owned before.
    kubectl.apply(&[], &config("data: {b: x}").replace("owned", "migrated"));
    kubectl.apply(&["--server-side"], &config("data: {b: z}").replace("owned", "migrated"));
    let value = ["get", "configmap", "migrated", "-o", "jsonpath={.data.b}"];
    assert_eq!(kubectl.run(&value), "z");

    let application = "---\n{apiVersion: sparkoperator.k8s.io/v1beta2, kind: SparkApplication, \
        metadata: {name: app, namespace: default}, spec: {type: Python, mode: cluster, suspend: true, \
        image: nothing, sparkVersion: 4.0.0, mainApplicationFile: none, driver: {}, executor: {}}}";
    kubectl.apply(&[], application);
    let table = kubectl.run(&["get", "sparkapp"]);
    assert!(
        table.starts_with("NAME ") && table.contains("STATUS") && table.contains("\napp "),
        "{table}"
    );
    kubectl.run(&["delete", "sparkapp", "app"]);
    assert!(kubectl.run(&["api-resources"]).contains("sparkapp"));
}

const RIGHTS: &str = "---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: default}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: default},
  rules: [{apiGroups: [''], resources: [configmaps], verbs: [get, list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader, namespace: default},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader},
  subjects: [{kind: ServiceAccount, name: reader, namespace: default}]}
";

/// What a service account was not given, it may not; also through its own token.
fn rights(kubectl: &Kubectl) {
    kubectl.apply(&[], RIGHTS);
    let reader = "--as=system:serviceaccount:default:reader";
    for (verb, resource, namespace, may) in [
        ("list", "configmaps", "default", "yes"),
        ("list", "configmaps", "kube-system", "no"),
        ("delete", "configmaps", "default", "no"),
        ("list", "pods", "default", "no"),
    ] {
        let asked = kubectl.output(&["auth", "can-i", verb, resource, "-n", namespace, reader]);
        let said = String::from_utf8_lossy(&asked.stdout);
        assert_eq!(said.trim(), may, "{verb} {resource} in {namespace}");
    }
    assert!(kubectl.run(&["get", "configmaps", reader]).contains("owned"));
    let no = kubectl.output(&["get", "pods", reader]);
    let said = String::from_utf8_lossy(&no.stderr).into_owned();
    let wanted = "pods is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"pods\" in API group \"\" \
                  in the namespace \"default\"";
    assert!(said.contains(wanted), "{said}");
    let no = kubectl.output(&["get", "nodes", reader]);
    assert!(
        String::from_utf8_lossy(&no.stderr).contains("at the cluster scope"),
        "{no:?}"
    );
    // Nobody becomes somebody else without the right to.
    let no = kubectl.output(&["get", "--raw", "/metrics", reader]);
    assert!(!no.status.success(), "{no:?}");
    if kubectl.minor_version() >= 24 {
        let token = kubectl.run(&["create", "token", "reader"]);
        let token = format!("--token={}", token.trim());
        assert!(kubectl.run(&["get", "configmaps", &token]).contains("owned"));
        assert!(!kubectl.output(&["get", "secrets", &token]).status.success());
        let other = kubectl.output(&["get", "configmaps", &token, "--as=somebody"]);
        let said = String::from_utf8_lossy(&other.stderr).into_owned();
        assert!(said.contains("cannot impersonate resource \"users\""), "{said}");
    }
}

fn everyday(kubectl: &Kubectl) {
    assert!(kubectl.run(&["get", "nodes"]).contains("Ready"));
    assert!(kubectl.apply(&[], DEPLOYMENT).contains("deployment.apps/web created"));
    assert!(kubectl.apply(&[], DEPLOYMENT).contains("unchanged"));
    kubectl.run(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"]);
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let table = kubectl.run(&["get", "pods", "-l", "app=web", "-o", "wide"]);
    for column in ["READY", "STATUS", "RESTARTS", "IP", "NODE", "1/1", "Running"] {
        assert!(table.contains(column), "{column} is missing:\n{table}");
    }
    kubectl.run(&["scale", "deployment/web", "--replicas=3"]);
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let ready = "jsonpath={.status.readyReplicas}";
    assert_eq!(kubectl.run(&["get", "deployment", "web", "-o", ready]), "3");
    let described = kubectl.run(&["describe", "deployment", "web"]);
    assert!(
        described.contains("3 available") && described.contains("ScalingReplicaSet"),
        "{described}"
    );
    kubectl.run(&["label", "deployment", "web", "tier=front"]);
    assert!(
        kubectl
            .run(&["get", "deploy", "web", "-o", "jsonpath={.metadata.labels.tier}"])
            .contains("front")
    );
    assert!(kubectl.run(&["get", "sparkapp", "-A", "--ignore-not-found"]).is_empty());

    let mut watch = kubectl.start(&["get", "pods", "-w", "--no-headers"]);
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    line_with(&mut lines, "Running");
    kubectl.run(&["delete", "deployment", "web", "--wait=true"]);
    line_with(&mut lines, "Terminating");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let missing = kubectl.output(&["get", "deployment", "web"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("(NotFound)"));
}

fn streams(kubectl: &Kubectl) {
    assert!(kubectl.apply(&["--server-side"], SERVER).contains("serverside-applied"));
    kubectl.run(&["wait", "--for=condition=Ready", "pod/server", "--timeout=30s"]);
    assert_eq!(
        kubectl.run(&["exec", "server", "--", "sh", "-c", "echo inside"]).trim(),
        "inside"
    );
    let failed = kubectl.output(&["exec", "server", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    let mut piped = kubectl
        .command(&["exec", "-i", "server", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    piped.stdin.take().unwrap().write_all(b"through\n").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&piped.wait_with_output().unwrap().stdout),
        "through\n"
    );

    let mut forward = kubectl.start(&["port-forward", "pod/server", ":8000"]);
    let mut lines = BufReader::new(forward.stdout.take().unwrap());
    let line = line_with(&mut lines, "Forwarding from 127.0.0.1:");
    let port: u16 = line
        .split("127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    for _ in 0..3 {
        let mut connection = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        connection.write_all(b"GET /etc/hostname HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    forward.kill().unwrap();
    forward.wait().unwrap();

    let mut follow = kubectl.start(&["logs", "-f", "server"]);
    let mut log = BufReader::new(follow.stderr.take().unwrap());
    // The server's access log goes to its standard error, which is part of the container's log.
    let mut out = BufReader::new(follow.stdout.take().unwrap());
    line_with(&mut out, "GET /etc/hostname");
    kubectl.run(&["delete", "pod", "server"]);
    assert!(follow.wait().unwrap().success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
}
