//! The built-in streaming pipeline: a small stand-in for Apache Spark, for tests and machines without Java.
//!
//! It is a double and says so wherever it shows up; its processes, files, kills and recoveries are real. What it shares
//! with Spark is what an observer sees: a driver pod that makes its executors through the API and watches them,
//! micro-batches with the checkpoint layout `offsets/N` before and `commits/N` after, the file sink's
//! `_spark_metadata/N` manifest, labels, ports and metric names. What it does not share: the scheduler, SQL, state.
//!
//! Entry point: [`main`], reached through the lab's hidden arguments. May depend on kube (as a client, from inside a
//! pod) and on nothing else of this crate. The driver is [`driver`], files are [`files`], executors talk [`protocol`].

mod allocator;
mod driver;
mod engine;
mod executor;
mod files;
mod known_outage;
mod metrics;
mod pool;
mod probe_server;
mod protocol;
mod settings;
mod stamps;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use settings::{DRIVER_PORT, SETTINGS_VARIABLE, Settings, UI_PORT};

/// What the built-in pipeline is called where a version is shown.
pub const VERSION: &str = concat!("built-in pipeline ", env!("CARGO_PKG_VERSION"));

#[derive(Parser)]
#[command(name = "pipeline", about = "chaosrun's built-in stand-in for a streaming job")]
struct Command {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Plans batches, makes executors, commits.
    Driver(driver::DriverArguments),
    /// Works on the partitions that a driver sends.
    Executor,
    /// Becomes ready a known time after its start and writes down when.
    ProbeServer(probe_server::ProbeServerArguments),
    /// Is out for a known time and writes down when: what `chaosrun calibrate` holds the instrument against.
    KnownOutage(known_outage::KnownOutageArguments),
}

/// Runs one role until it ends; `args` start with the role's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = std::iter::once(OsString::from("pipeline")).chain(args);
    let command = match Command::try_parse_from(arguments) {
        Ok(command) => command,
        Err(error) => {
            // Help and usage errors go where clap wants them; a closed stream is no reason to fail differently.
            return match error.print() {
                Ok(()) if !error.use_stderr() => ExitCode::SUCCESS,
                _ => ExitCode::from(64),
            };
        }
    };
    start_logging();
    // Installing twice is harmless: the first one stays.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the async runtime");
            return ExitCode::from(70);
        }
    };
    let outcome = runtime.block_on(async {
        match command.role {
            Role::Driver(arguments) => driver::run(arguments).await,
            Role::Executor => executor::run().await,
            Role::ProbeServer(arguments) => probe_server::run(arguments).await,
            Role::KnownOutage(arguments) => known_outage::run(arguments).await,
        }
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!(error = %with_causes(error.as_ref()), "giving up");
            ExitCode::FAILURE
        }
    }
}

/// Exit code of a role, or why it gave up.
type Outcome = Result<u8, Box<dyn std::error::Error + Send + Sync>>;

/// Exit code after SIGTERM, as a JVM's.
const TERMINATED: u8 = 143;

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube=warn"));
    // A second call in one process (tests) keeps the first subscriber.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .try_init(),
    );
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(each) = cause {
        text.push_str(": ");
        text.push_str(&each.to_string());
        cause = each.source();
    }
    text
}

/// Ends when the process is asked to stop.
async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        result = tokio::signal::ctrl_c() => result,
    }
}
