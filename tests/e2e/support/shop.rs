//! A lab with a small Deployment to break, and a look at everything that a fault could leave.

#![allow(dead_code, reason = "each test file uses its own part of this module")]

use super::lab::Lab;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A Deployment whose pods are ready while they can read their own file.
const DEPLOYMENT: &str = r#"{
  "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
  "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1,
      "volumes": [{"name": "data", "emptyDir": {}}],
      "containers": [{"name": "web", "image": "busybox:1.36",
        "command": ["sh", "-c", "mkdir -p /data/store /data/spare; echo x >/data/store/file; sh -c 'while :; do sleep 5; done' & trap 'exit 0' TERM; wait"],
        "resources": {"limits": {"memory": "128Mi"}},
        "readinessProbe": {"exec": {"command": ["cat", "/data/store/file"]}, "periodSeconds": 1, "failureThreshold": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}}
}"#;

/// An experiment on that Deployment: these faults (a YAML list), recovery within `slo` seconds, these guards.
pub(crate) fn experiment(name: &str, faults: &str, slo: &str, guards: &str) -> String {
    format!(
        "apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {{name: {name}}}
claim: {{text: it comes back}}
target: {{namespace: shop, deployment: web}}
steadyState: {{probes: [{{name: ready, pods: {{ready: '>= 2'}}, hold: 300ms}}]}}
faults:
{faults}
slos: {{rto: '{slo}'}}
timeouts: {{baseline: 30s, recovery: 45s, settle: 300ms}}
guards: {{{guards}}}
"
    )
}

/// A lab with the Deployment, and what it looked like before anything was broken.
pub(crate) struct Shop {
    pub(crate) lab: Lab,
}

impl Shop {
    pub(crate) fn open(name: &str) -> Self {
        let shop = Self { lab: Lab::up(name) };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        shop.create("/api/v1/namespaces", &namespace);
        let deployment: Value = serde_json::from_str(DEPLOYMENT).unwrap();
        shop.create("/apis/apps/v1/namespaces/shop/deployments", &deployment);
        shop.ready();
        shop
    }

    pub(crate) fn create(&self, path: &str, object: &Value) {
        let (code, answer) = self.lab.api("POST", path, Some(object));
        assert_eq!(code, 201, "{answer}");
    }

    pub(crate) fn ready(&self) {
        self.lab.wait("two ready pods", Duration::from_secs(30), || {
            let (_, deployment) = self
                .lab
                .api("GET", "/apis/apps/v1/namespaces/shop/deployments/web", None);
            deployment["status"]["readyReplicas"] == 2 && self.pods().len() == 2
        });
    }

    pub(crate) fn pods(&self) -> Vec<String> {
        let (_, pods) = self
            .lab
            .api("GET", "/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb", None);
        pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let output = std::process::Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.lab.kubeconfig)
            .args(arguments)
            .output()
            .expect("kubectl starts");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// What a fault could have left on objects: ours, and labels and annotations of ours on others.
    pub(crate) fn traces_of_objects(&self) -> Vec<String> {
        let mut found = self.lab.leftovers();
        for path in ["/api/v1/nodes", "/apis/apps/v1/deployments", "/api/v1/pods"] {
            let (_, list) = self.lab.api("GET", path, None);
            for item in list["items"].as_array().into_iter().flatten() {
                let metadata = item["metadata"].to_string();
                if metadata.contains("chaosrun.dev/faulted") || metadata.contains("chaosrun.dev/restore") {
                    found.push(format!("{path}: {metadata}"));
                }
                for status in item["status"]["ephemeralContainerStatuses"]
                    .as_array()
                    .into_iter()
                    .flatten()
                {
                    if status["state"]["terminated"].is_null() {
                        found.push(format!("an ephemeral container has not ended: {status}"));
                    }
                }
                if item["spec"]["unschedulable"] == true {
                    found.push(format!("{} is cordoned", item["metadata"]["name"]));
                }
            }
        }
        found
    }

    /// Marked processes and files in a pod.
    fn inside(&self, pod: &str) -> Vec<String> {
        const LOOK: &str = "grep -l CHAOSRUN_FAULT /proc/[0-9]*/environ 2>/dev/null; ls -a /data | grep chaosrun; \
                            [ -e /data/store/file ] || echo no file; echo looked";
        // kubectl now and then drops a session at its begin; then nobody has looked.
        for _ in 0..5 {
            let output = std::process::Command::new("kubectl")
                .arg("--kubeconfig")
                .arg(&self.lab.kubeconfig)
                .args(["-n", "shop", "exec", pod, "-c", "web", "--", "sh", "-c", LOOK])
                .output()
                .expect("kubectl starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.pop().as_deref() == Some("looked") {
                return lines;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        vec!["could not be looked at".to_owned()]
    }

    /// The same, and marked processes and files in the pods.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut found = self.traces_of_objects();
        // Looking into pods is dear, and whoever waits asks often.
        if !found.is_empty() {
            return found;
        }
        for pod in self.pods() {
            let inside = self.inside(&pod);
            found.extend(inside.iter().map(|line| format!("{pod}: {line}")));
        }
        found
    }

    /// A second Deployment that listens, an object to delete, and a folder to lose.
    pub(crate) fn store(&self) {
        let store = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "store", "namespace": "shop"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "store"}},
                "template": {"metadata": {"labels": {"app": "store"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                    {"name": "store", "image": "python:3", "command": ["python3", "-m", "http.server", "8080"],
                     "ports": [{"containerPort": 8080}], "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}}}});
        self.create("/apis/apps/v1/namespaces/shop/deployments", &store);
        let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "shop"},
            "data": {"color": "blue"}});
        self.create("/api/v1/namespaces/shop/configmaps", &settings);
        self.lab.wait("the store", Duration::from_secs(30), || {
            let (_, store) = self
                .lab
                .api("GET", "/apis/apps/v1/namespaces/shop/deployments/store", None);
            store["status"]["readyReplicas"] == 1
        });
    }

    /// The parts of the cluster that faults change, as far as they are the same in every run.
    pub(crate) fn state(&self) -> Vec<Value> {
        let paths = [
            ("/apis/apps/v1/namespaces/shop/deployments/web", "/spec"),
            ("/apis/apps/v1/namespaces/shop/deployments/store", "/spec"),
            ("/api/v1/namespaces/shop/configmaps/settings", "/data"),
            ("/api/v1/nodes/lab-1", "/spec/unschedulable"),
            ("/api/v1/nodes/lab-2", "/spec/unschedulable"),
            ("/api/v1/nodes/lab-3", "/spec/unschedulable"),
        ];
        let mut state = Vec::new();
        for (path, part) in paths {
            let (_, object) = self.lab.api("GET", path, None);
            // No labels and an empty set of them are the same; the number of a rollout counts on, also back to what was before.
            let map = |key: &str| {
                let mut map = object["metadata"][key].as_object().cloned().unwrap_or_default();
                map.remove("deployment.kubernetes.io/revision");
                map
            };
            state.push(json!([path, object.pointer(part), map("labels"), map("annotations")]));
        }
        state
    }

    /// What faults leave on the machine: processes in the lab's control groups, the control groups themselves, filters and shaping in
    /// the network namespaces of the lab. Names of pods and containers are left out: they are new in every run.
    pub(crate) fn machine(&self) -> Vec<String> {
        let text =
            std::fs::read_to_string(self.lab.kubeconfig.with_file_name("record.json")).expect("the lab's record");
        let record: Value = serde_json::from_str(&text).expect("JSON");
        let group = record["control_group"].as_str().expect("a control group").to_owned();
        let id = record["network"]["id"].as_str().expect("an id").to_owned();
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
            if !String::from_utf8_lossy(&read("cgroup")).contains(&group) {
                continue;
            }
            let words = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            // The probes of the kubelet, and what the shells of the test pods wait with, come and go.
            let passing = ["sleep 5", "cat /data", "runc ", "/proc/self/exe"];
            if !words.trim().is_empty() && !passing.iter().any(|passing| words.starts_with(passing)) {
                found.push(format!("process {}", words.trim()));
            }
        }
        for namespace in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = namespace.file_name().to_string_lossy().into_owned();
            if !name.contains(&id) {
                continue;
            }
            for tool in [&["nft", "list", "ruleset"][..], &["tc", "qdisc", "show"]] {
                let output = std::process::Command::new("ip")
                    .args(["netns", "exec", &name])
                    .args(tool)
                    .output();
                let text = output
                    .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                    .unwrap_or_default();
                let lines = text
                    .lines()
                    .filter(|line| !line.contains("noqueue") && !line.trim().is_empty());
                found.extend(lines.map(|line| format!("network {line}")));
            }
        }
        found.sort();
        found
    }

    /// Starts a run of this experiment, and waits until its fault is proven. The run, and where its folder is.
    pub(crate) fn broken(&self, name: &str, text: &str, change: impl FnOnce(&mut Command)) -> (Child, PathBuf) {
        self.ready();
        let path = super::file(self.lab.folder(), &format!("{name}.yaml"), text);
        let out = self.lab.folder().join(name);
        let mut command = self.lab.command(&["run", "--out"]);
        command
            .arg(&out)
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        change(&mut command);
        let child = command.spawn().unwrap();
        self.lab.wait("the fault is proven", Duration::from_secs(60), || {
            log_of(&out).contains("\"faultProven\"")
        });
        (child, out)
    }

    /// The machine once nothing is on its way in any more: what has just been started may still be about to become its program.
    pub(crate) fn settled_machine(&self) -> Vec<String> {
        let mut before = self.machine();
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.machine();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// Waits until the machine is what it was; what is on its way out may take a moment.
    pub(crate) fn same(&self, before: &[String], when: &str) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let now = self.machine();
            if now == before {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{when}: {}",
                difference(before, &now)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The event log of the only run in a folder, as far as it is written.
pub(crate) fn log_of(out: &Path) -> String {
    let folder = std::fs::read_dir(out).ok().and_then(|mut folders| folders.next());
    let log = folder
        .and_then(Result::ok)
        .map(|folder| folder.path().join("events.jsonl"));
    log.and_then(|log| std::fs::read_to_string(log).ok())
        .unwrap_or_default()
}

fn difference(before: &[String], now: &[String]) -> String {
    let mut gone = before.to_vec();
    let mut new = Vec::new();
    for line in now {
        match gone.iter().position(|held| held == line) {
            Some(at) => drop(gone.remove(at)),
            None => new.push(line.clone()),
        }
    }
    format!("new: {new:#?}\ngone: {gone:#?}")
}
