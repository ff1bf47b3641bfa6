//! What chaosrun believes when its watch fails: the lab's API server in this process is stopped, started, forgets its history,
//! or is heard no more, while a pod is replaced at instants that the test sets itself.
//!
//! Nothing runs the pods here: this test is the kubelet (a double), so that the truth is known to the millisecond.

use crate::support::{chaosrun, file, texts};
use chaosrun_lab::api::{ApiServer, ApiServerConfig, ServeHandle};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const NAMESPACE: &str = "shop";

const EXPERIMENT: &str = r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: watched}
claim: {text: "a lost pod is back within a minute"}
target: {namespace: shop, labels: {app: web}}
steadyState:
  probes:
    - {name: pods ready, pods: {ready: ">= 1"}, hold: 2s}
faults:
  - {name: kill one, podKill: {gracePeriod: 0s}, mode: one}
slos: {rto: "< 120s"}
timeouts: {baseline: 10s, recovery: 150s, settle: 1s}
guards: {deadline: 10m}
"#;

struct Stage {
    server: Arc<ApiServer>,
    serving: Option<ServeHandle>,
    address: SocketAddr,
    /// Straight into the server: works while its port is closed.
    pods: Api<Pod>,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let server = ApiServer::new(ApiServerConfig {
            // As seldom as a real one sends them: nothing here may depend on bookmarks.
            bookmark_interval: Duration::from_secs(60),
            ..ApiServerConfig::default()
        })
        .unwrap();
        let serving = server
            .serve(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
            .await
            .unwrap();
        let address = serving.addresses()[0];
        let client = server.client("kubelet-double");
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}})).unwrap();
        Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        let stage = Self {
            server,
            serving: Some(serving),
            address,
            pods: Api::namespaced(client, NAMESPACE),
            folder: tempfile::tempdir().unwrap(),
        };
        stage.create("web-1").await;
        stage.ready("web-1", true).await;
        stage
    }

    async fn create(&self, name: &str) {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "busybox:1.36"}]}});
        self.pods
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }

    /// Writes what a kubelet would, and gives the instant at which it was written.
    async fn ready(&self, name: &str, ready: bool) -> Instant {
        let word = if ready { "True" } else { "False" };
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": word}],
            "containerStatuses": [{"name": "web", "ready": ready, "restartCount": 0, "image": "busybox:1.36", "imageID": "",
                "containerID": format!("double://{name}"), "state": {"running": {}}}]}});
        self.pods
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
        Instant::now()
    }

    /// Waits until chaosrun has killed a pod.
    async fn killed(&self, name: &str, run: &mut Child) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.pods.get_opt(name).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "{name} was not killed");
            if run.try_wait().unwrap().is_some() {
                let mut said = String::new();
                std::io::Read::read_to_string(run.stderr.as_mut().unwrap(), &mut said).unwrap();
                panic!("chaosrun ended before its fault\n{said}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Instant::now()
    }

    async fn stop(&mut self) {
        self.serving.take().unwrap().stop().await;
    }

    async fn start(&mut self) {
        self.serving = Some(self.server.serve(&[self.address]).await.unwrap());
    }

    fn run(&self, server: &str) -> Child {
        let config = file(self.folder.path(), "kubeconfig", &self.server.kubeconfig_for(server));
        file(self.folder.path(), "watched.yaml", EXPERIMENT);
        chaosrun(self.folder.path())
            .args([
                "--kubeconfig",
                config.to_str().unwrap(),
                "run",
                "--out",
                "runs",
                "watched.yaml",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// How many requests chaosrun made with this verb for pods.
    fn requests(&self, verb: &str) -> u64 {
        let counts = self.server.requests();
        counts
            .iter()
            .filter(|count| count.resource == "pods" && count.verb == verb && count.user_agent.starts_with("chaosrun/"))
            .map(|count| count.count)
            .sum()
    }
}

async fn finished(run: Child) -> Output {
    tokio::task::spawn_blocking(move || run.wait_with_output().unwrap())
        .await
        .unwrap()
}

struct Judged {
    rto: (f64, f64),
    notes: String,
    flaps: bool,
}

fn judged(folder: &Path, output: &Output) -> Judged {
    assert_eq!(output.status.code(), Some(0), "{}", texts(output));
    let runs: Vec<_> = std::fs::read_dir(folder.join("runs"))
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("report.json").is_file())
        .collect();
    let text = std::fs::read_to_string(runs[0].join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let trial = &report["experiments"][0]["trials"][0];
    let notes = trial["notes"].to_string();
    Judged {
        rto: (
            trial["rto"]["lower"].as_f64().unwrap(),
            trial["rto"]["upper"].as_f64().unwrap(),
        ),
        flaps: notes.contains("did not hold"),
        notes,
    }
}

/// Seconds by which the poll for the deletion, the writes and the watch may be off.
const SLACK: f64 = 0.06;

fn assert_holds(judged: &Judged, truth: f64, widest: f64) {
    let (lower, upper) = judged.rto;
    assert!(
        lower - SLACK <= truth && truth <= upper + SLACK,
        "the truth {truth:.3} s is outside of [{lower:.3}, {upper:.3}] s; {}",
        judged.notes
    );
    assert!(
        upper - lower <= widest,
        "[{lower:.3}, {upper:.3}] s is wider than {widest} s; {}",
        judged.notes
    );
}

async fn pause(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_api_server_is_resumed_and_what_happened_meanwhile_is_counted() {
    let mut stage = Stage::new().await;
    let mut run = stage.run(&format!("https://{}", stage.address));
    let killed = stage.killed("web-1", &mut run).await;
    pause(0.5).await;
    stage.create("web-2").await;
    stage.ready("web-2", true).await;
    pause(0.7).await;
    // Ready for less than the hold time when the server goes; and it does not hold.
    stage.stop().await;
    pause(1.0).await;
    stage.ready("web-2", false).await;
    pause(1.0).await;
    let ready = stage.ready("web-2", true).await;
    pause(2.5).await;
    stage.start().await;
    let output = finished(run).await;
    let judged = judged(stage.folder.path(), &output);
    // No consistent read was possible while the server was down: the interval is as wide as that.
    assert_holds(&judged, (ready - killed).as_secs_f64(), 6.5);
    assert!(
        judged.notes.contains("the watch of pods was not connected for")
            && judged.notes.contains("resumed without loss"),
        "{}",
        judged.notes
    );
    assert!(
        judged.flaps,
        "the stretch that did not hold was not seen: {}",
        judged.notes
    );
    assert_eq!(
        stage.requests("list"),
        1,
        "a watch that can be resumed is not listed again"
    );
    let said = texts(&output);
    assert!(said.contains("watch on pods broke ("), "{said}");
    assert!(said.contains("resumed without loss"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_410_the_list_is_read_anew_and_the_loss_is_named() {
    let mut stage = Stage::new().await;
    let mut run = stage.run(&format!("https://{}", stage.address));
    let killed = stage.killed("web-1", &mut run).await;
    pause(1.0).await;
    stage.stop().await;
    stage.create("web-2").await;
    pause(1.0).await;
    let ready = stage.ready("web-2", true).await;
    pause(1.0).await;
    stage.server.store().compact();
    stage.start().await;
    let output = finished(run).await;
    let judged = judged(stage.folder.path(), &output);
    // Nothing was received between the kill and the list: the interval begins with the kill.
    assert_holds(&judged, (ready - killed).as_secs_f64(), 5.0);
    assert!(
        judged
            .notes
            .contains("what happened in between is known only by its result"),
        "{}",
        judged.notes
    );
    assert_eq!(stage.requests("list"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_disconnects_cost_no_list_and_little_accuracy() {
    let mut stage = Stage::new().await;
    let mut run = stage.run(&format!("https://{}", stage.address));
    let killed = stage.killed("web-1", &mut run).await;
    for _ in 0..4 {
        stage.stop().await;
        stage.start().await;
        pause(0.4).await;
    }
    stage.create("web-2").await;
    let ready = stage.ready("web-2", true).await;
    for _ in 0..2 {
        pause(0.4).await;
        stage.stop().await;
        stage.start().await;
    }
    let output = finished(run).await;
    let judged = judged(stage.folder.path(), &output);
    assert_holds(&judged, (ready - killed).as_secs_f64(), 1.5);
    assert_eq!(stage.requests("list"), 1);
}

/// Forwards bytes; connections made before the latest freeze stay open and carry nothing any more, as when a firewall has
/// forgotten them. A double of a bad network.
async fn freezable(to: SocketAddr) -> (SocketAddr, watch::Sender<u64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (freeze, frozen) = watch::channel(0_u64);
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let Ok(to) = TcpStream::connect(to).await else {
                continue;
            };
            let (from_read, from_write) = from.into_split();
            let (to_read, to_write) = to.into_split();
            for (mut read, mut write) in [(from_read, to_write), (to_read, from_write)] {
                let mut frozen = frozen.clone();
                frozen.mark_unchanged();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 16 * 1024];
                    loop {
                        tokio::select! {
                            _ = frozen.changed() => break,
                            count = read.read(&mut buffer) => match count {
                                Ok(count) if count > 0 => if write.write_all(&buffer[..count]).await.is_err() { return },
                                _ => return,
                            },
                        }
                    }
                    // Both ends stay open and silent.
                    std::future::pending::<()>().await;
                });
            }
        }
    });
    (address, freeze)
}

/// Takes as long as it takes to notice: a watch may rightly be silent for a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_hangs_is_noticed_and_the_time_is_right_all_the_same() {
    let stage = Stage::new().await;
    let (address, freeze) = freezable(stage.address).await;
    let mut run = stage.run(&format!("https://{address}"));
    let killed = stage.killed("web-1", &mut run).await;
    pause(0.5).await;
    freeze.send_modify(|count| *count += 1);
    // Calls in flight give up after 15 s and go on over new connections; the watch knows nothing of that.
    pause(18.0).await;
    stage.create("web-2").await;
    let ready = stage.ready("web-2", true).await;
    let output = finished(run).await;
    let judged = judged(stage.folder.path(), &output);
    assert_holds(&judged, (ready - killed).as_secs_f64(), 1.0);
    assert!(
        judged.notes.contains("the watch of pods was not connected for"),
        "{}",
        judged.notes
    );
    assert_eq!(stage.requests("list"), 1);
}
