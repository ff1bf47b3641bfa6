//! A workload that is out for a known time and writes down when it went bad and good: what an instrument is calibrated with.
//!
//! Depends on axum, kube (as a client, from inside its pod) and [`stamps`](super::stamps). Every stamp is the cause of what can
//! be observed, and never its consequence. Two ways to be out:
//!
//! - *ended*: the process stamps `terminating` as the first thing it does about SIGTERM. The next process with the same folder
//!   of stamps is good a given time after that stamp, which it reads; how long, stands in the file `lengths` of that folder, a
//!   line of seconds for each end. It stamps `good`. With `--gate` it then tells the API, stamping `telling` before and `told`
//!   after the call, by the readiness gate [`GATE`] of its own pod; with `--note` likewise (`noting`, `noted`) by the annotation
//!   [`NOTE`]. With `--holds` a file is there while it is good.
//! - *switched* (`--switch`): it is bad while a file is missing, which it looks for every millisecond, stamping `bad` and
//!   `back`, and `saw` for the last look before `bad`. What it serves is what it saw, not the file. With `--commits` it commits a numbered batch every 100 ms while it is
//!   good, the first one at once, stamping that one as `committed`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::stamps::{Stamps, instants, monotonic_ns};
use super::{Outcome, TERMINATED, stop_signal};

/// The condition among the readiness gates of its pod.
const GATE: &str = "chaosrun.dev/serving";
/// The annotation of its pod: `yes` or `no`.
const NOTE: &str = "serving";
/// The name of the metric: 1 or 0.
const METRIC: &str = "known_outage_serving";
/// How often the switch is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// Time between two commits.
const COMMIT: Duration = Duration::from_millis(100);
/// Batches that stay in the commit log.
const KEPT: u64 = 20;
/// A process that ends waits no longer than this for the API.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct KnownOutageArguments {
    /// Folder that all processes of this workload share.
    #[arg(long)]
    stamps: PathBuf,
    /// Bad while this file is missing.
    #[arg(long)]
    switch: Option<PathBuf>,
    /// Checkpoint folder to commit batches to.
    #[arg(long, requires = "switch")]
    commits: Option<PathBuf>,
    /// This file is there while good.
    #[arg(long, conflicts_with = "switch")]
    holds: Option<PathBuf>,
    /// Tell the API server by the readiness gate when good.
    #[arg(long)]
    gate: bool,
    /// Tell the API server by an annotation when good.
    #[arg(long)]
    note: bool,
    /// Tell the API server also of the end, before it: for a container that is started again inside the same pod.
    #[arg(long)]
    farewell: bool,
    /// Port to listen on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

#[derive(Debug, thiserror::Error)]
enum KnownOutageError {
    #[error("cannot listen on port {port}")]
    Listen { port: u16, source: std::io::Error },
    #[error("cannot commit to {}", path.display())]
    Commit { path: PathBuf, source: std::io::Error },
    #[error("cannot tell the API server")]
    Tell(#[from] kube::Error),
}

/// The workload's own state, and whoever is told of it.
struct Service {
    serving: AtomicBool,
    stamps: Stamps,
    holds: Option<PathBuf>,
    pod: Option<Teller>,
}

impl Service {
    /// Good or bad from this instant on.
    fn turn(&self, serving: bool, event: &str) {
        let at = monotonic_ns();
        self.serving.store(serving, Ordering::Release);
        if let Some(path) = &self.holds {
            let held = if serving {
                std::fs::File::create(path).map(drop)
            } else {
                std::fs::remove_file(path)
            };
            if let Err(error) = held {
                tracing::warn!(path = %path.display(), %error, "the file was not changed");
            }
        }
        self.stamps.write(event, at);
    }

    fn serves(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    async fn tell(&self, serving: bool) -> Result<(), kube::Error> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let stamp = |event: &str| self.stamps.write(event, monotonic_ns());
        if pod.by_gate {
            stamp("telling");
            pod.gate(serving).await?;
            stamp("told");
        }
        if pod.by_note {
            stamp("noting");
            pod.note(serving).await?;
            stamp("noted");
        }
        Ok(())
    }
}

/// Its own pod, at the API server.
struct Teller {
    pods: Api<Pod>,
    name: String,
    by_gate: bool,
    by_note: bool,
}

impl Teller {
    async fn open(arguments: &KnownOutageArguments) -> Result<Self, kube::Error> {
        let teller = Self {
            pods: Api::default_namespaced(kube::Client::try_default().await?),
            name: std::env::var("HOSTNAME").unwrap_or_default(),
            by_gate: arguments.gate,
            by_note: arguments.note,
        };
        // The connection is made now, so that it does not count among what is stamped later.
        teller.pods.get_metadata_opt(&teller.name).await?;
        Ok(teller)
    }

    async fn gate(&self, serving: bool) -> Result<(), kube::Error> {
        let status = if serving { "True" } else { "False" };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({"type": GATE, "status": status, "lastTransitionTime": now});
        let patch = json!({"status": {"conditions": [condition]}});
        let parameters = PatchParams::default();
        self.pods
            .patch_status(&self.name, &parameters, &Patch::Strategic(patch))
            .await
            .map(drop)
    }

    async fn note(&self, serving: bool) -> Result<(), kube::Error> {
        let word = if serving { "yes" } else { "no" };
        let patch: Value = json!({"metadata": {"annotations": {NOTE: word}}});
        let parameters = PatchParams::default();
        self.pods
            .patch(&self.name, &parameters, &Patch::Merge(patch))
            .await
            .map(drop)
    }
}

pub(crate) async fn run(arguments: KnownOutageArguments) -> Outcome {
    let start_ns = monotonic_ns();
    let stamps = Stamps::open(Some(&arguments.stamps), "outage", start_ns)?;
    stamps.write("start", start_ns);
    let pod = if arguments.gate || arguments.note {
        Some(Teller::open(&arguments).await.map_err(KnownOutageError::Tell)?)
    } else {
        None
    };
    let service = Arc::new(Service {
        serving: AtomicBool::new(false),
        stamps,
        holds: arguments.holds.clone(),
        pod,
    });
    let serving = async {
        let port = arguments.port;
        let listener = TcpListener::bind(("0.0.0.0", port))
            .await
            .map_err(|source| KnownOutageError::Listen { port, source })?;
        let body = async {
            match &arguments.switch {
                None => come_back(&service, &arguments.stamps).await,
                Some(switch) => follow(&service, switch, arguments.commits.as_deref()).await,
            }
        };
        let served =
            async { Ok::<_, Box<dyn std::error::Error + Send + Sync>>(axum::serve(listener, router(&service)).await?) };
        tokio::try_join!(body, served)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    tokio::select! {
        served = serving => {
            served?;
            Ok(1)
        }
        stopped = stop_signal() => {
            stopped?;
            service.turn(false, "terminating");
            if arguments.farewell && !matches!(tokio::time::timeout(LAST_WORDS, service.tell(false)).await, Ok(Ok(()))) {
                tracing::debug!("the API server was not told of the end");
            }
            Ok(TERMINATED)
        }
    }
}

/// Good as soon as the outage that the last process began is over; at once when there was none.
async fn come_back(service: &Service, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ends = instants(folder, "terminating");
    if let Some(last) = ends.last() {
        let lengths = std::fs::read_to_string(folder.join("lengths")).unwrap_or_default();
        let length: f64 = lengths
            .lines()
            .nth(ends.len() - 1)
            .and_then(|line| line.trim().parse().ok())
            .unwrap_or(0.0);
        let gone = Duration::from_nanos(u64::try_from(monotonic_ns().saturating_sub(*last)).unwrap_or(0));
        let length = Duration::try_from_secs_f64(length).unwrap_or_default();
        tokio::time::sleep(length.saturating_sub(gone)).await;
    }
    service.turn(true, "good");
    service.tell(true).await?;
    std::future::pending().await
}

/// Good while the switch is there.
async fn follow(
    service: &Service,
    switch: &Path,
    commits: Option<&Path>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut log = commits.map(CommitLog::open).transpose()?;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = tokio::time::Instant::now();
    let mut saw = None;
    loop {
        let now = look.tick().await;
        let looked = monotonic_ns();
        let on = switch.exists();
        let turned = on != service.serves();
        if turned {
            service.turn(on, if on { "back" } else { "bad" });
            if let Some(saw) = saw.filter(|_| !on) {
                service.stamps.write("saw", saw);
            }
        }
        saw = Some(looked);
        if let Some(log) = log.as_mut()
            && on
            && (turned || now >= due)
        {
            log.commit()?;
            if turned {
                service.stamps.write("committed", monotonic_ns());
            }
            due = now + COMMIT;
        }
    }
}

/// `offsets/N` and `commits/N`, as Spark names them.
struct CommitLog {
    folder: PathBuf,
    next: u64,
}

impl CommitLog {
    fn open(folder: &Path) -> Result<Self, KnownOutageError> {
        for name in ["offsets", "commits"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(|source| KnownOutageError::Commit { path, source })?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            next: 0,
        })
    }

    fn commit(&mut self) -> Result<(), KnownOutageError> {
        for name in ["offsets", "commits"] {
            let path = self.folder.join(name).join(self.next.to_string());
            // Created empty in one call: it is there as a whole or not at all.
            std::fs::File::create(&path).map_err(|source| KnownOutageError::Commit { path, source })?;
            if let Some(old) = self.next.checked_sub(KEPT) {
                drop(std::fs::remove_file(self.folder.join(name).join(old.to_string())));
            }
        }
        self.next += 1;
        Ok(())
    }
}

fn router(service: &Arc<Service>) -> Router {
    let (asked, measured) = (Arc::clone(service), Arc::clone(service));
    let ready = move || {
        let serves = asked.serves();
        async move {
            if serves {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
            }
        }
    };
    let metrics = move || {
        let serves = measured.serves();
        async move { format!("# TYPE {METRIC} gauge\n{METRIC} {}\n", u8::from(serves)) }
    };
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(folder: &Path) -> Service {
        Service {
            serving: AtomicBool::new(false),
            stamps: Stamps::open(Some(folder), "outage", 1).unwrap(),
            holds: None,
            pod: None,
        }
    }

    #[tokio::test]
    async fn it_comes_back_the_given_time_after_the_end_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lengths"), "9\n0.25\n").unwrap();
        let before = Stamps::open(Some(folder.path()), "outage", 2).unwrap();
        let ended = monotonic_ns();
        before.write("terminating", ended - 1_000_000_000);
        before.write("terminating", ended);
        let service = service(folder.path());
        // Telling is over at once, and then it waits for ever.
        drop(tokio::time::timeout(Duration::from_secs(2), come_back(&service, folder.path())).await);
        let good = instants(folder.path(), "good");
        let length = (good.first().unwrap() - ended) as f64 / 1e9;
        assert!((0.25..0.5).contains(&length), "{length}");
    }

    #[tokio::test]
    async fn it_follows_the_switch_and_commits_while_it_is_on() {
        let folder = tempfile::tempdir().unwrap();
        let switch = folder.path().join("on");
        let service = service(folder.path());
        let work = async { follow(&service, &switch, Some(folder.path())).await.unwrap() };
        let change = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!service.serves() && !folder.path().join("commits/0").exists());
            std::fs::write(&switch, "").unwrap();
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert!(service.serves() && folder.path().join("commits/1").exists());
            std::fs::remove_file(&switch).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!service.serves());
        };
        tokio::select! {
            () = work => {}
            () = change => {}
        }
        assert_eq!(instants(folder.path(), "back").len(), 1);
        assert_eq!(instants(folder.path(), "bad").len(), 1);
        assert_eq!(instants(folder.path(), "committed").len(), 1);
    }
}
