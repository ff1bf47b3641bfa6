//! `calibrate`: recoveries of known length through the real instrument, and how far it was off.
//!
//! Experiments are generated, and run by the same engine, observers and measures as those of a person, each target in a
//! namespace of its own and several side by side. The truth is what the workload stamps about itself (the lab's `known-outage`).
//! Central function: [`calibrate`].

mod lane;
mod plan;
mod rows;
mod truth;

use super::arguments::{CalibrateArguments, Global};
use super::cluster::Connected;
use super::exit::{Exit, Failure, engine_exit};
use super::run::{describe, fresh_seed, run_id};
use super::streams::Streams;
use crate::calibration::{About, Calibration, Load, table};
use crate::prometheus::Prometheus;
use crate::world::{Clock, FileError, listen, write_atomically};
use lane::{Lane, LaneOutcome};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a lab may take to bring its Prometheus up.
const PROMETHEUS_PATIENCE: Duration = Duration::from_secs(30);
/// How often progress is said where nobody watches a terminal.
const SAY: Duration = Duration::from_secs(30);

/// Calibrates and writes the file.
pub(super) async fn calibrate(
    mut global: Global,
    arguments: CalibrateArguments,
    streams: &mut Streams,
) -> Result<Exit, Failure> {
    let signals =
        listen().map_err(|error| Failure::Internal(format!("cannot install the signal handlers: {error}")))?;
    let clock = Clock::start();
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    let run = run_id(clock, seed);
    let started = clock.now();
    let date = clock.wall().to_string();
    let before = load_average();
    let folder = folder_of(&arguments.out, &run)?;
    // Its truth is stamped by processes on this machine's clock: only a lab can be calibrated against.
    global.lab = global.kubeconfig.is_none() && global.context.is_none();
    let connected = Connected::open(&global, streams).await?;
    if connected.cluster.info().kind != "lab" {
        connected.close(streams).await?;
        return Err(Failure::Usage(
            "calibrate needs the lab: the truth is stamped on the clock of this machine, which pods of another cluster do not \
             share; leave --kubeconfig and --context out"
                .to_owned(),
        ));
    }
    let prometheus_url = prometheus(&connected, clock).await;
    let count = arguments.count();
    let plans = plan::lanes(seed, count, prometheus_url.is_some());
    if prometheus_url.is_none() {
        streams
            .note("no Prometheus answers in the lab (it comes with the package prometheus): that method is left out");
    }
    let total = plans.iter().map(plan::LanePlan::experiments).sum::<usize>();
    streams.note(&format!(
        "{count} recoveries of known length in {} namespaces side by side, seed {seed}",
        plans.len()
    ));
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let parallel = plans.len();
    for plan in plans {
        let lane = Lane {
            plan,
            cluster: connected.cluster.clone(),
            clock,
            folder: folder.clone(),
            run: run.clone(),
            seed,
            prometheus_url: prometheus_url.clone(),
            signals: signals.clone(),
            done: Arc::clone(&done),
        };
        tasks.spawn(lane.run());
    }
    let outcomes = follow(tasks, &done, total, clock, streams).await;
    let cluster = connected_info(&connected);
    connected.close(streams).await?;
    let mut exits = Vec::new();
    let (mut rows, mut nulls, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for outcome in outcomes {
        let outcome = outcome?;
        for (name, error) in &outcome.errors {
            let exit = engine_exit(error);
            if matches!(exit, Exit::Interrupted | Exit::Terminated | Exit::CannotWrite) {
                exits.push(exit);
            }
            tracing::info!(name, %error, "an experiment ended early");
        }
        for undo in &outcome.left {
            exits.push(Exit::NotReverted);
            streams.note(&format!("chaosrun: could not be reverted: {}", describe(undo)));
        }
        rows.extend(outcome.rows);
        nulls.extend(outcome.nulls);
        dropped.extend(outcome.dropped);
    }
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        optimised: !cfg!(debug_assertions),
        date,
        seed,
        cluster,
        kernel: kernel(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        load: before.zip(load_average()).map(|(before, after)| Load { before, after }),
        parallel,
        took: (clock.now().since(started).as_secs_f64() * 10.0).round() / 10.0,
        folder: folder.display().to_string(),
        clock_origin_ns: clock.origin_ns(),
    };
    let calibration = Calibration::new(about, rows, nulls, dropped);
    write(&arguments.out, &calibration)?;
    streams.say(table(&calibration, &arguments.out.display().to_string()).trim_end());
    exits.push(Exit::from(calibration.verdict));
    Ok(Exit::first_of(&exits))
}

/// Where Prometheus answers; a lab that was just booted needs a moment for that. None when it does not.
async fn prometheus(connected: &Connected, clock: Clock) -> Option<String> {
    let deadline = clock.now().plus(PROMETHEUS_PATIENCE);
    loop {
        if let Some(url) = connected.prometheus_url(None).await
            && Prometheus::connect(&url).await.is_ok()
        {
            return Some(url);
        }
        if clock.now() >= deadline {
            return None;
        }
        clock.sleep_until(clock.now().plus(Duration::from_millis(500))).await;
    }
}

/// Waits for every lane and says how far they are.
async fn follow(
    mut tasks: JoinSet<Result<LaneOutcome, Failure>>,
    done: &AtomicUsize,
    total: usize,
    clock: Clock,
    streams: &mut Streams,
) -> Vec<Result<LaneOutcome, Failure>> {
    let started = clock.now();
    let mut outcomes = Vec::new();
    let mut due = started.plus(SAY);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => return outcomes,
                Some(Ok(outcome)) => outcomes.push(outcome),
                Some(Err(error)) => outcomes.push(Err(Failure::Internal(error.to_string()))),
            },
            () = clock.sleep_until(due) => {
                let seconds = clock.now().since(started).as_secs();
                streams.note(&format!(
                    "{} of {total} experiments after {}:{:02}",
                    done.load(Ordering::Relaxed), seconds / 60, seconds % 60
                ));
                due = due.plus(SAY);
            }
        }
    }
}

fn connected_info(connected: &Connected) -> String {
    let info = connected.cluster.info();
    format!("{} {}", info.kind, info.version)
}

/// A folder beside the file, absolute: it is mounted into the pods.
fn folder_of(out: &Path, run: &str) -> Result<PathBuf, Failure> {
    let beside = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = beside
        .unwrap_or_else(|| Path::new("."))
        .join(format!("calibration-{run}"));
    let failed = |source| FileError {
        attempted: "cannot create the folder",
        path: folder.clone(),
        source,
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    Ok(std::fs::canonicalize(&folder).map_err(failed)?)
}

fn write(out: &Path, calibration: &Calibration) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(calibration).map_err(|error| Failure::Internal(error.to_string()))?;
    text.push('\n');
    Ok(write_atomically(out, text.as_bytes())?)
}

/// Over the last minute; none where the kernel does not tell.
fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn kernel() -> String {
    let name = rustix::system::uname();
    format!(
        "{} {}",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy()
    )
}
