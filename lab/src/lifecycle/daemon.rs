//! A lab in a background process. Depends on `lab`, `record`, `sweep`.
//!
//! The background process is this executable again with hidden arguments, so whatever embeds the lab calls
//! [`multicall`] first thing in `main`. It gets its configuration on standard input and says `ready` or why not on
//! standard output; then it is on its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::config::{LabConfig, ProcessIdentity};
use super::error::LabError;
use super::lab::{Controller, Lab, check_name};
use super::record::{Record, Roots, identity, own_identity};
use super::sweep::{sweep, sweep_dead};
use crate::node::check_requirements;

/// The hidden first argument.
const INTERNAL: &str = "lab-internal";
/// A lab is up in two seconds; on a machine with every core busy it takes longer.
const UP_TIMEOUT: Duration = Duration::from_mins(1);
/// A lab that is told to end removes itself within seconds.
const DOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a restarting API server is away: longer than a client's first retries, shorter than any lease.
const AWAY: Duration = Duration::from_secs(3);

/// What `status` tells about a lab.
#[derive(Debug, Clone)]
pub struct LabStatus {
    /// Name of the lab.
    pub name: String,
    /// Its process lives.
    pub alive: bool,
    /// Its process.
    pub process: ProcessIdentity,
    /// URL of its API server; absent while it boots.
    pub api: Option<String>,
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
    /// The log of its process.
    pub log: PathBuf,
}

/// Boots a lab in the background; returns when its API answers and its nodes are Ready.
pub async fn up(config: &LabConfig) -> Result<LabStatus, LabError> {
    check_name(&config.name)?;
    check_requirements()?;
    let roots = Roots::of(config);
    {
        let _lock = roots.lock().await?;
        sweep_dead(&roots).await;
        if roots.record(&config.name).is_some() {
            return Err(LabError::Exists(config.name.clone()));
        }
    }
    let not_ready = |reason: String| LabError::NotReady {
        name: config.name.clone(),
        reason,
    };
    let program = match &config.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(LabError::io("find", "this executable"))?,
    };
    let mut child = tokio::process::Command::new(program)
        .args([INTERNAL, "serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()
        .map_err(LabError::io("start", "the lab's process"))?;
    let answer = tokio::time::timeout(UP_TIMEOUT, async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&serde_json::to_vec(config).unwrap_or_default()).await?;
        }
        let mut answer = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut answer).await?;
        }
        Ok::<_, std::io::Error>(answer)
    })
    .await;
    let outcome = match answer {
        Ok(Ok(answer)) if answer.trim() == "ready" => Ok(()),
        Ok(Ok(answer)) if answer.trim().is_empty() => Err("its process ended without a word".to_owned()),
        Ok(Ok(answer)) => Err(answer.trim().to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not ready within {} s", UP_TIMEOUT.as_secs())),
    };
    if let Err(reason) = outcome {
        drop(child.kill().await);
        let _lock = roots.lock().await?;
        sweep_dead(&roots).await;
        return Err(not_ready(reason));
    }
    // Reaps it when this process outlives it.
    tokio::spawn(async move { child.wait().await });
    roots
        .record(&config.name)
        .map(|record| describe(&record))
        .ok_or_else(|| not_ready("its record is missing".to_owned()))
}

/// Boots a lab that ends when this process does, however it ends.
pub async fn up_temporary(mut config: LabConfig) -> Result<TemporaryLab, LabError> {
    config.owner = Some(own_identity());
    let status = up(&config).await?;
    Ok(TemporaryLab { config, status })
}

/// A background lab that belongs to this process.
#[derive(Debug)]
pub struct TemporaryLab {
    config: LabConfig,
    /// What it is.
    pub status: LabStatus,
}

impl TemporaryLab {
    /// Takes it down. Without this call it goes by itself, soon after this process has ended.
    pub async fn down(self) -> Result<(), LabError> {
        down(&self.config).await
    }
}

/// Takes a lab down, alive or dead; returns when nothing of it is left.
pub async fn down(config: &LabConfig) -> Result<(), LabError> {
    check_name(&config.name)?;
    let roots = Roots::of(config);
    let record = roots
        .record(&config.name)
        .ok_or_else(|| LabError::NotUp(config.name.clone()))?;
    if record.process != own_identity() {
        end_process(record.process).await;
    }
    let _lock = roots.lock().await?;
    // A living lab has removed itself by now; this makes sure.
    match roots.record(&config.name) {
        Some(record) => sweep(&record).await,
        None => Ok(()),
    }
}

/// Asks a process to end, and ends it when it does not.
async fn end_process(process: ProcessIdentity) {
    for (signal, patience) in [(Signal::TERM, DOWN_TIMEOUT), (Signal::KILL, DOWN_TIMEOUT)] {
        let Some(pid) = Pid::from_raw(process.pid).filter(|_| identity(process.pid) == Some(process)) else {
            return;
        };
        if let Err(error) = rustix::process::kill_process(pid, signal) {
            tracing::warn!(pid = process.pid, %error, "signal not delivered");
        }
        let deadline = Instant::now() + patience;
        while identity(process.pid) == Some(process) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Makes the API server of a running lab end every connection, be away for 3 s, and serve again at the same address.
///
/// Returns at once: whoever watches sees it go and come back.
pub fn restart_api(config: &LabConfig) -> Result<(), LabError> {
    let record = Roots::of(config)
        .record(&config.name)
        .filter(|record| record.alive() && record.process != own_identity());
    let record = record.ok_or_else(|| LabError::NotUp(config.name.clone()))?;
    let not_told = |reason: String| LabError::NotReady {
        name: config.name.clone(),
        reason,
    };
    let pid = Pid::from_raw(record.process.pid).ok_or_else(|| not_told("it has no process id".to_owned()))?;
    rustix::process::kill_process(pid, Signal::HUP).map_err(|error| not_told(format!("it cannot be told: {error}")))
}

/// All labs that this machine has a record of.
#[must_use]
pub fn status(config: &LabConfig) -> Vec<LabStatus> {
    Roots::of(config).records().iter().map(describe).collect()
}

/// The shell line that points kubectl to a lab.
pub fn environment(config: &LabConfig) -> Result<String, LabError> {
    let record = Roots::of(config)
        .record(&config.name)
        .filter(|record| record.alive() && record.api.is_some());
    let record = record.ok_or_else(|| LabError::NotUp(config.name.clone()))?;
    Ok(format!("export KUBECONFIG='{}'", record.kubeconfig().display()))
}

fn describe(record: &Record) -> LabStatus {
    LabStatus {
        name: record.name.clone(),
        alive: record.alive(),
        process: record.process,
        api: record.api.clone(),
        kubeconfig: record.kubeconfig(),
        log: record.log(),
    }
}

/// Serves the lab's hidden commands. `None`: the arguments are for somebody else. Call it before anything else in
/// `main`; `controllers` are started in each lab.
pub fn multicall(
    arguments: impl IntoIterator<Item = OsString>,
    controllers: fn() -> Vec<Controller>,
) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != INTERNAL {
        return None;
    }
    let known = arguments.next().is_some_and(|command| command == "serve");
    Some(if known { serve(controllers) } else { ExitCode::from(64) })
}

/// The background process.
fn serve(controllers: fn() -> Vec<Controller>) -> ExitCode {
    // It fails only for the leader of a process group, which is detached already.
    rustix::process::setsid().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return tell(&format!("cannot start the runtime: {error}"), ExitCode::from(70));
        }
    };
    let outcome = runtime.block_on(Box::pin(async {
        let config = read_configuration()?;
        let mut stop = StopSignal::install(config.owner)?;
        let log = config.state_root.join(&config.name).join("lab.log");
        let mut lab = Lab::start(config, controllers())
            .await
            .map_err(|error| error.to_string())?;
        log_to(&log).map_err(|error| error.to_string())?;
        tell("ready", ExitCode::SUCCESS);
        close_output();
        while stop.wait().await == Wanted::ApiRestart {
            tracing::info!("the API server goes away for {} s", AWAY.as_secs());
            lab.restart_api(AWAY).await.map_err(|error| error.to_string())?;
        }
        tracing::info!("going down");
        lab.stop().await.map_err(|error| error.to_string())
    }));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => tell(&reason, ExitCode::from(70)),
    }
}

fn read_configuration() -> Result<LabConfig, String> {
    let text =
        std::io::read_to_string(std::io::stdin()).map_err(|error| format!("cannot read the configuration: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("cannot read the configuration: {error}"))
}

/// Says something to the process that started this one.
fn tell(text: &str, code: ExitCode) -> ExitCode {
    use std::io::Write;
    let mut output = std::io::stdout();
    // Nobody may be listening any more.
    drop(writeln!(output, "{text}").and_then(|()| output.flush()));
    code
}

/// Lets the process that started this one see the end of what is said to it.
fn close_output() {
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        rustix::stdio::dup2_stdout(null).ok();
    }
}

/// Sends the log to the lab's file.
fn log_to(path: &std::path::Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    rustix::stdio::dup2_stderr(&file)?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHAOSRUN_LAB_LOG").unwrap_or_else(|_| "info".into());
    // Somebody else may have installed one already.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .try_init(),
    );
    Ok(())
}

/// What the background process is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    End,
    ApiRestart,
}

/// What ends the background process (SIGTERM, SIGINT, or the end of its owner), or makes its API server restart (SIGHUP).
struct StopSignal {
    hang_up: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    owner: Option<AsyncFd<std::os::fd::OwnedFd>>,
}

impl StopSignal {
    fn install(owner: Option<ProcessIdentity>) -> Result<Self, String> {
        use tokio::signal::unix::{SignalKind, signal};
        let text = |error: std::io::Error| error.to_string();
        let owner = owner.map(watch_owner).transpose()?;
        Ok(Self {
            hang_up: signal(SignalKind::hangup()).map_err(text)?,
            terminate: signal(SignalKind::terminate()).map_err(text)?,
            interrupt: signal(SignalKind::interrupt()).map_err(text)?,
            owner,
        })
    }

    async fn wait(&mut self) -> Wanted {
        let owner_gone = async {
            match &self.owner {
                Some(owner) => drop(owner.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Wanted::End,
            _ = self.interrupt.recv() => Wanted::End,
            () = owner_gone => Wanted::End,
            _ = self.hang_up.recv() => Wanted::ApiRestart,
        }
    }
}

/// A descriptor that becomes readable when the owner ends.
fn watch_owner(owner: ProcessIdentity) -> Result<AsyncFd<std::os::fd::OwnedFd>, String> {
    let pid = Pid::from_raw(owner.pid).ok_or("the owner has no process id")?;
    let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)
        .map_err(|error| format!("the owner is gone: {error}"))?;
    if identity(owner.pid) != Some(owner) {
        return Err("the owner is gone".to_owned());
    }
    crate::node::descriptor::watch(descriptor).map_err(|error| error.to_string())
}
