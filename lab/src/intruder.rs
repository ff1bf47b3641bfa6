//! Processes that the lab's doubles put beside somebody else's: load on the processors, memory, and one that only exists.
//!
//! Depends on nothing of the lab. Entry points: [`main`] (`lab-internal intruder ..`), which waits for one line on its standard
//! input, so that it can be moved into a control group before it does anything, and ends when that input is closed; and
//! [`idle`] (`lab-internal idle`), the program of images whose containers do nothing but live. An intruder may work in another
//! PID namespace, by a child there: then the container that it troubles sees it, as it sees stress-ng.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::node::faults::INTRUDER;

/// Length of one period of work and rest of a processor worker.
const PERIOD: Duration = Duration::from_millis(50);
/// Memory is taken in pieces: a limit is met on the way, and the process can be ended in between.
const PIECE: usize = 1 << 20;

#[derive(Parser)]
#[command(
    name = "intruder",
    about = "takes processors or memory from the control group it is in"
)]
struct Arguments {
    /// Threads that are busy.
    #[arg(long, default_value_t = 0)]
    cpu_workers: usize,
    /// How busy each of them is, in percent.
    #[arg(long, default_value_t = 100)]
    cpu_load: u32,
    /// Bytes of memory to hold.
    #[arg(long, default_value_t = 0)]
    memory: usize,
    /// Value for `oom_score_adj`; a lower one than the inherited needs a privilege.
    #[arg(long, allow_hyphen_values = true, default_value_t = 0)]
    oom_score_adj: i32,
    /// Work by a child in this PID namespace.
    #[arg(long)]
    pid_namespace: Option<PathBuf>,
}

/// Takes what it is told to take until standard input ends.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let program = std::iter::once(OsString::from("intruder"));
    let Ok(arguments) = Arguments::try_parse_from(program.chain(arguments)) else {
        return ExitCode::from(64);
    };
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    if !matches!(input.read_line(&mut line), Ok(1..)) {
        return ExitCode::from(66);
    }
    if let Some(namespace) = &arguments.pid_namespace {
        return match work_elsewhere(namespace, &arguments, &mut input) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(71),
        };
    }
    if arguments.oom_score_adj != 0 {
        // Without the privilege to lower it the inherited value stays, which is no reason not to take memory.
        drop(std::fs::write(
            "/proc/self/oom_score_adj",
            arguments.oom_score_adj.to_string(),
        ));
    }
    for _ in 0..arguments.cpu_workers {
        let load = arguments.cpu_load.min(100);
        std::thread::spawn(move || work(load));
    }
    if arguments.memory > 0 {
        std::thread::spawn(move || hold(arguments.memory));
    }
    let mut rest = [0; 64];
    while matches!(input.read(&mut rest), Ok(1..)) {}
    ExitCode::SUCCESS
}

/// Has a child do the work in another PID namespace; it has ended when this returns.
fn work_elsewhere(namespace: &Path, arguments: &Arguments, input: &mut impl Read) -> std::io::Result<()> {
    let file = File::open(namespace)?;
    // Whoever moves stays where it is: it counts for children only.
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(INTRUDER)
        .arg(format!("--cpu-workers={}", arguments.cpu_workers))
        .arg(format!("--cpu-load={}", arguments.cpu_load))
        .arg(format!("--memory={}", arguments.memory))
        .arg(format!("--oom-score-adj={}", arguments.oom_score_adj))
        .stdin(Stdio::piped())
        .spawn()?;
    // Held until the end: should this process be killed, the child reads that nobody is left.
    let mut held = child.stdin.take();
    if let Some(held) = &mut held {
        held.write_all(b"go\n")?;
    }
    let mut rest = [0; 64];
    while matches!(input.read(&mut rest), Ok(1..)) {}
    child.kill()?;
    child.wait().map(drop)
}

/// Works for a share of each period.
fn work(load: u32) {
    let busy = PERIOD * load / 100;
    loop {
        let begun = Instant::now();
        while begun.elapsed() < busy {
            std::hint::spin_loop();
        }
        std::thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
    }
}

/// Writes to so many bytes, so that they are really there, and keeps them.
fn hold(bytes: usize) {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let size = left.min(PIECE);
        pieces.push(vec![0xa5; size]);
        left -= size;
    }
    loop {
        std::thread::park();
        std::hint::black_box(&pieces);
    }
}

/// Lives until it is told to end.
pub(crate) fn idle() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::from(70);
    };
    runtime.block_on(async {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            return ExitCode::from(70);
        };
        terminate.recv().await;
        ExitCode::SUCCESS
    })
}
