//! A lab for end-to-end tests: real processes, booted and taken down by the program itself.

#![allow(dead_code, reason = "each test file uses its own part of this module")]

use super::{chaosrun, texts};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A running lab. Taken down when dropped, also when the test failed.
pub(crate) struct Lab {
    name: String,
    pub kubeconfig: PathBuf,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Boots one with its own name.
    pub(crate) fn up(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let folder = tempfile::tempdir().expect("a folder");
        let up = chaosrun(folder.path())
            .args(["lab", "up", "--name", &name])
            .output()
            .expect("chaosrun starts");
        assert!(
            up.status.success(),
            "lab up failed (root, runc, nftables and iproute2 are needed; `make test` installs them)\n{}",
            texts(&up)
        );
        let env = chaosrun(folder.path())
            .args(["lab", "env", "--name", &name])
            .output()
            .expect("chaosrun starts");
        let line = String::from_utf8_lossy(&env.stdout).into_owned();
        let kubeconfig = line
            .trim()
            .trim_start_matches("export KUBECONFIG=")
            .trim_matches(['"', '\''])
            .into();
        Self {
            name,
            kubeconfig,
            folder,
        }
    }

    /// Where runs of this test go.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command against this lab, started in the repository's root so that scenarios are found.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = chaosrun(Path::new(env!("CARGO_MANIFEST_DIR")));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command
    }

    /// Runs an experiment against this lab; the run folder goes to [`Lab::folder`].
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let output = self
            .command(&["run", "--out"])
            .arg(self.folder())
            .args(arguments)
            .output()
            .expect("chaosrun starts");
        Run::from(output)
    }

    /// kubectl-like GET against the API, as JSON.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> (u16, serde_json::Value) {
        let config: serde_json::Value =
            serde_yaml::from_str(&std::fs::read_to_string(&self.kubeconfig).expect("the kubeconfig")).expect("YAML");
        let server = config["clusters"][0]["cluster"]["server"]
            .as_str()
            .expect("a server")
            .to_owned();
        let token = config["users"][0]["user"]["token"]
            .as_str()
            .expect("a token")
            .to_owned();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let client = reqwest::Client::builder()
                .tls_danger_accept_invalid_certs(true)
                .build()
                .expect("a client");
            let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
            let mut request = client.request(method, format!("{server}{path}")).bearer_auth(token);
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await.expect("the lab answers");
            let code = response.status().as_u16();
            (code, response.json().await.unwrap_or_default())
        })
    }

    /// Lets the API server drop every connection, and come back after 3 s.
    pub(crate) fn restart_api(&self) {
        let restart = chaosrun(self.folder.path())
            .args(["lab", "restart-api", "--name", &self.name])
            .output()
            .expect("chaosrun starts");
        assert!(restart.status.success(), "{}", texts(&restart));
        // The signal is on its way: what is asked in this moment may still be answered.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.answers() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn answers(&self) -> bool {
        let config: serde_json::Value =
            serde_yaml::from_str(&std::fs::read_to_string(&self.kubeconfig).expect("the kubeconfig")).expect("YAML");
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("a server");
        std::net::TcpStream::connect(server.trim_start_matches("https://")).is_ok()
    }

    /// What chaosrun asked of the API server: each row has verb, group, resource, namespace, userAgent, count.
    pub(crate) fn requests(&self) -> Vec<serde_json::Value> {
        let (code, answer) = self.api("GET", "/lab/requests", None);
        assert_eq!(code, 200, "{answer}");
        let rows = answer.as_array().or_else(|| answer["requests"].as_array());
        let of_chaosrun = |row: &&serde_json::Value| {
            let agent = row["userAgent"].as_str().unwrap_or_default();
            agent.starts_with("chaosrun/")
        };
        rows.expect("a list of counts")
            .iter()
            .filter(of_chaosrun)
            .cloned()
            .collect()
    }

    /// Everything in the cluster that carries chaosrun's label, as `kind namespace/name`.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, path) in [
            ("Job", "/apis/batch/v1/jobs"),
            ("ConfigMap", "/api/v1/configmaps"),
            ("Lease", "/apis/coordination.k8s.io/v1/leases"),
            ("NetworkPolicy", "/apis/networking.k8s.io/v1/networkpolicies"),
            ("Pod", "/api/v1/pods"),
        ] {
            let selector = "?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dchaosrun";
            let (code, list) = self.api("GET", &format!("{path}{selector}"), None);
            assert_eq!(code, 200, "{list}");
            for item in list["items"].as_array().into_iter().flatten() {
                let metadata = &item["metadata"];
                if metadata["labels"]["chaosrun.dev/purpose"] == "setup" {
                    continue;
                }
                found.push(format!("{kind} {}/{}", metadata["namespace"], metadata["name"]));
            }
        }
        found
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait(&self, what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = chaosrun(self.folder.path())
            .args(["lab", "down", "--name", &self.name])
            .output();
        if let Ok(down) = down
            && !down.status.success()
        {
            eprintln!("lab down failed\n{}", texts(&down));
        }
    }
}

/// A finished run.
pub(crate) struct Run {
    pub output: Output,
    pub code: Option<i32>,
    pub text: String,
    pub folder: Option<PathBuf>,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = texts(&output);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let _ = err;
        Self {
            code: output.status.code(),
            text,
            folder: None,
            output,
        }
    }
}

impl Run {
    /// The newest report under `out`.
    pub(crate) fn report(&self, out: &Path) -> serde_json::Value {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(out)
            .expect("the run folders")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("report.json").is_file())
            .collect();
        folders.sort_by_key(|folder| {
            std::fs::metadata(folder.join("report.json"))
                .and_then(|held| held.modified())
                .ok()
        });
        let folder = folders
            .last()
            .unwrap_or_else(|| panic!("no report was written\n{}", self.text));
        serde_json::from_slice(&std::fs::read(folder.join("report.json")).expect("report.json")).expect("JSON")
    }
}
