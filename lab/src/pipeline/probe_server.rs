//! A workload whose true instants are known: becomes ready a given time after its start and writes down when.
//!
//! For tests of measuring instruments. Its stamps ([`stamps`](super::stamps)) are
//! `start|listening|ready|served|terminating`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Args;
use tokio::net::TcpListener;

use super::stamps::{Stamps, monotonic_ns};
use super::{Outcome, TERMINATED, stop_signal};

#[derive(Args)]
pub(crate) struct ProbeServerArguments {
    /// Seconds between the start of the process and readiness.
    #[arg(long)]
    ready_after: f64,
    /// Folder for the file of stamps; none are written without it.
    #[arg(long)]
    stamp: Option<PathBuf>,
    /// Port to listen on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Refuse connections until ready, instead of answering 503.
    #[arg(long)]
    listen_late: bool,
}

#[derive(Debug, thiserror::Error)]
enum ProbeServerError {
    #[error("{seconds} is not a usable number of seconds")]
    ReadyAfter { seconds: f64 },
    #[error("cannot listen on port {port}")]
    Listen { port: u16, source: std::io::Error },
}

pub(crate) async fn run(arguments: ProbeServerArguments) -> Outcome {
    let start_ns = monotonic_ns();
    let start = tokio::time::Instant::now();
    let delay = Duration::try_from_secs_f64(arguments.ready_after).map_err(|_| ProbeServerError::ReadyAfter {
        seconds: arguments.ready_after,
    })?;
    let stamps = Arc::new(Stamps::open(arguments.stamp.as_deref(), "probe", start_ns)?);
    stamps.write("start", start_ns);
    let serving = async {
        let ready = Arc::new(AtomicBool::new(false));
        if arguments.listen_late {
            tokio::time::sleep_until(start + delay).await;
            ready.store(true, Ordering::Release);
        }
        let port = arguments.port;
        let listener = TcpListener::bind(("0.0.0.0", port))
            .await
            .map_err(|source| ProbeServerError::Listen { port, source })?;
        stamps.write("listening", monotonic_ns());
        if arguments.listen_late {
            stamps.write("ready", monotonic_ns());
        } else {
            let (ready, stamps) = (ready.clone(), stamps.clone());
            tokio::spawn(async move {
                tokio::time::sleep_until(start + delay).await;
                ready.store(true, Ordering::Release);
                stamps.write("ready", monotonic_ns());
            });
        }
        axum::serve(listener, router(ready, stamps.clone())).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    tokio::select! {
        served = serving => {
            served?;
            Ok(1)
        }
        stopped = stop_signal() => {
            stopped?;
            stamps.write("terminating", monotonic_ns());
            Ok(TERMINATED)
        }
    }
}

fn router(ready: Arc<AtomicBool>, stamps: Arc<Stamps>) -> Router {
    // Only the first success is stamped: it is what an observer with no delay would have seen.
    let served = Arc::new(AtomicBool::new(false));
    let answer = move || {
        let (ready, stamps, served) = (ready.clone(), stamps.clone(), served.clone());
        async move {
            if !ready.load(Ordering::Acquire) {
                return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
            }
            if !served.swap(true, Ordering::AcqRel) {
                stamps.write("served", monotonic_ns());
            }
            (StatusCode::OK, "ready\n")
        }
    };
    Router::new()
        .route("/ready", get(answer.clone()))
        .route("/", get(answer))
        .route("/alive", get(|| async { "ok\n" }))
}
