//! Measures an event log end to end, as `chaosrun report` does, and prints how long it took and how much memory it needed.
//!
//!     cargo run --release --example measure_log                        1,000,000 events, 100 trials, 400 pods
//!     cargo run --release --example measure_log -- 200000 1000 50      events, trials, pods
//!     cargo run --release --example measure_log -- path/to/events.jsonl
//!
//! A made log is written by another process, so that making it does not count.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program to measure with: it stops at the first problem"
)]

#[path = "../benches/support/log.rs"]
mod log;

use chaosrun::evidence::fold_log;
use chaosrun::report::{Builder, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(path) = arguments.first().filter(|first| first.parse::<u64>().is_err()) {
        return if let Some(size) = arguments.get(1) {
            make(Path::new(path), size);
        } else {
            measure(Path::new(path));
        };
    }
    let number = |index: usize, usual: &str| arguments.get(index).map_or(usual, String::as_str).to_owned();
    let size = format!("{},{},{}", number(0, "1000000"), number(1, "100"), number(2, "400"));
    let path = std::env::temp_dir().join(format!("chaosrun-measure-log-{}.jsonl", std::process::id()));
    let made = std::process::Command::new(std::env::current_exe().expect("the path of this program"))
        .arg(&path)
        .arg(size)
        .status()
        .expect("this program can be started again");
    assert!(made.success(), "the log could not be made");
    measure(&path);
    drop(std::fs::remove_file(&path));
}

fn make(path: &Path, size: &str) {
    let numbers: Vec<u32> = size.split(',').map(|part| part.parse().expect("a number")).collect();
    let [events, trials, pods] = numbers[..] else {
        panic!("wanted EVENTS,TRIALS,PODS")
    };
    let file = std::fs::File::create(path).expect("the log can be created");
    let mut out = std::io::BufWriter::new(file);
    let size = log::Size {
        events: u64::from(events),
        trials,
        pods,
    };
    log::write(size, &mut out).expect("the log can be written");
}

fn measure(path: &Path) {
    let file = std::fs::File::open(path).expect("the log can be opened");
    let bytes = file.metadata().expect("the log has a size").len();
    let started = Instant::now();
    let mut builder = Builder::new();
    let checked = fold_log(file, |event| builder.apply(&event)).expect("the log is evidence");
    let read = started.elapsed();
    let run = builder.finish(checked.head, checked.records);
    let text = json(&run);
    let all = started.elapsed();
    let trials: usize = run.experiments.iter().map(|experiment| experiment.trials.len()).sum();
    println!(
        "{} events ({:.0} MB), {trials} trials, verdict {}, report of {} bytes",
        checked.records,
        megabytes(bytes),
        run.verdict.word(),
        text.len()
    );
    println!(
        "read, checked and folded in {:.3} s, measured in {:.3} s: {:.3} s in all, {:.3} s of processor, {:.0} MB resident at most",
        read.as_secs_f64(),
        all.saturating_sub(read).as_secs_f64(),
        all.as_secs_f64(),
        processor_seconds(),
        megabytes(peak())
    );
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Largest resident memory so far, bytes, by the kernel's account.
fn peak() -> u64 {
    let status = std::fs::read_to_string(PathBuf::from("/proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

/// User and system time of all threads so far. The kernel counts in hundredths of a second.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |index: usize| {
        after
            .split(' ')
            .nth(index)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
