//! What it costs to judge a log: a million events; more and more trials, whose cost must not grow; and ten thousand pods.
//!
//!     cargo bench --bench measure                       all of it, about a minute
//!     cargo bench --bench measure -- "1000 trials"      one
//!
//! Memory is not criterion's: `cargo run --release --example measure_log` prints the peak of a process that does nothing else, and
//! `scripts/watch-10000-pods.sh` that of a run.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a program to measure with: it stops at the first problem"
)]

#[path = "support/log.rs"]
mod log;

use chaosrun::evidence::{Event, fold_log, read_log};
use chaosrun::report::{Builder, Run};
use chaosrun::timeline::Timeline;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::io::{BufWriter, Read, Seek as _, Write as _};
use std::time::Duration;

fn judge(log: impl Read) -> Run {
    let mut builder = Builder::new();
    let checked = fold_log(log, |event| builder.apply(&event)).expect("the log is evidence");
    builder.finish(checked.head, checked.records)
}

fn made(size: log::Size) -> Vec<u8> {
    let mut bytes = Vec::new();
    log::write(size, &mut bytes).expect("memory can be written");
    bytes
}

/// From a file, as a run's own report is made: the log is larger than what is held of it.
fn a_million_events(criterion: &mut Criterion) {
    let size = log::Size {
        events: 1_000_000,
        trials: 100,
        pods: 400,
    };
    let mut file = tempfile::tempfile().expect("a temporary file");
    let mut out = BufWriter::new(&file);
    let events = log::write(size, &mut out).expect("the log can be written");
    out.flush().expect("the log can be written");
    drop(out);
    let mut group = criterion.benchmark_group("log");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    group.throughput(Throughput::Elements(events));
    group.bench_function("1,000,000 events", |bencher| {
        bencher.iter(|| {
            file.rewind().expect("a file can be read again");
            black_box(judge(&file))
        });
    });
    group.finish();
}

/// The same number of events for each trial: time per trial (elements) must stay the same.
fn trials(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("trials");
    group.sample_size(10);
    for trials in [10_u32, 100, 1000] {
        let bytes = made(log::Size {
            events: u64::from(trials) * 400,
            trials,
            pods: 50,
        });
        group.throughput(Throughput::Elements(u64::from(trials)));
        group.bench_with_input(
            BenchmarkId::from_parameter(format!("{trials} trials")),
            &bytes,
            |bencher, bytes| {
                bencher.iter(|| black_box(judge(bytes.as_slice())));
            },
        );
    }
    group.finish();
}

/// What the live engine does when one of ten thousand pods changes: fold the event in, and ask whether all is well.
fn pods(criterion: &mut Criterion) {
    let size = log::Size {
        events: 0,
        trials: 1,
        pods: 10_000,
    };
    let records = read_log(&made(size)).expect("the log is evidence").records;
    let mut timeline = Timeline::new(&log::experiment(size));
    let seen: Vec<Event> = records
        .into_iter()
        .map(|record| record.event)
        .filter(|event| matches!(event, Event::PodSeen { .. }))
        .take(10_000)
        .collect();
    for event in &seen {
        timeline.apply(event);
    }
    let mut turn = seen.iter().cycle();
    criterion.bench_function("10,000 pods, one changes", |bencher| {
        bencher.iter(|| {
            if let Some(event) = turn.next() {
                timeline.apply(event);
            }
            black_box(timeline.probe_states(timeline.now()))
        });
    });
}

criterion_group!(benches, a_million_events, trials, pods);
criterion_main!(benches);
