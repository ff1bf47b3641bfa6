//! What the end-to-end tests share: running the program, and a scripted API server (a double, and called one).

#![allow(dead_code, reason = "each test file uses its own part of this module")]

pub(crate) mod compare;
pub(crate) mod lab;
pub(crate) mod shop;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A smallest experiment on a Deployment.
pub(crate) const DEPLOYMENT_EXPERIMENT: &str = r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: web}
claim: {text: "a lost pod is back within 30 seconds"}
target: {namespace: shop, deployment: web}
steadyState:
  probes:
    - {name: pods ready, pods: {ready: ">= 1"}, hold: 1s}
faults:
  - {name: kill one, podKill: {gracePeriod: 0s}, mode: one}
slos: {rto: "< 30s"}
timeouts: {baseline: 3s, recovery: 40s, settle: 1s}
"#;

/// The program under test.
pub(crate) fn chaosrun(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaosrun"));
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_remove("KUBECONFIG")
        .env_remove("CHAOSRUN_LOG");
    command
}

/// Runs it and waits.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    chaosrun(folder).args(arguments).output().expect("chaosrun starts")
}

/// Text of both streams, for messages.
pub(crate) fn texts(output: &Output) -> String {
    format!(
        "exit {:?}\n--- stdout\n{}\n--- stderr\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Writes a file into a folder and gives its path.
pub(crate) fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the file is written");
    path
}

/// A kubeconfig for a plain HTTP server on loopback.
pub(crate) fn kubeconfig(folder: &Path, port: u16) -> PathBuf {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: double\n\
         clusters: [{{name: double, cluster: {{server: \"http://127.0.0.1:{port}\"}}}}]\n\
         users: [{{name: double, user: {{}}}}]\n\
         contexts: [{{name: double, context: {{cluster: double, user: double}}}}]\n"
    );
    file(folder, "kubeconfig.yaml", &text)
}

/// What the scripted API server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    /// Every request but `/version` gets this status.
    Always(u16),
    /// Requests but `/version` are never answered.
    Hangs,
    /// Even `/version` is never answered.
    Deaf,
}

/// A double of an API server. It answers from a script, on a thread of its own.
pub(crate) struct ApiDouble {
    pub port: u16,
    _stop: tokio_stop::Stop,
}

mod tokio_stop {
    /// Ends the server's thread when dropped.
    pub(super) struct Stop(
        pub Option<tokio::sync::oneshot::Sender<()>>,
        pub Option<std::thread::JoinHandle<()>>,
    );

    impl Drop for Stop {
        fn drop(&mut self) {
            if let Some(sender) = self.0.take() {
                let _ = sender.send(());
            }
            if let Some(thread) = self.1.take() {
                let _ = thread.join();
            }
        }
    }
}

impl ApiDouble {
    /// Starts it on a free port.
    pub(crate) fn start(script: Script) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let port = listener.local_addr().expect("an address").port();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let router = axum::Router::new().fallback(move |uri: axum::http::Uri| answer(script, uri));
                let server = axum::serve(listener, router);
                tokio::select! {
                    result = async { server.await } => result.expect("the double serves"),
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        Self {
            port,
            _stop: tokio_stop::Stop(Some(stop), Some(thread)),
        }
    }
}

async fn answer(script: Script, uri: axum::http::Uri) -> (axum::http::StatusCode, axum::Json<serde_json::Value>) {
    use axum::http::StatusCode;
    let version = serde_json::json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0+double", "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "",
    });
    match script {
        Script::Deaf => std::future::pending().await,
        _ if uri.path() == "/version" => (StatusCode::OK, axum::Json(version)),
        Script::Hangs => std::future::pending().await,
        Script::Always(code) => {
            let reason = match code {
                403 => "Forbidden",
                429 => "TooManyRequests",
                _ => "InternalError",
            };
            let status = serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                "message": format!("the double says {code}"),
            });
            (StatusCode::from_u16(code).expect("a status"), axum::Json(status))
        }
    }
}
