//! Readers against real files, HTTP servers, and doubles of object stores (each named a double: none is the real service).

mod doubles;
mod http;
mod large;
mod stores;

use super::audit::audited;
use super::pod::PodReader;
use crate::evidence::{AckedRange, Event, SinkRead, SinkRun};
use crate::experiment::{Ledger, SinkFormat, Storage};
use crate::observe::PodIndex;
use crate::world::Clock;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(super) fn ledger(acknowledged: &str, sink: &str, format: SinkFormat) -> Ledger {
    // As `main` does.
    drop(rustls::crypto::ring::default_provider().install_default());
    Ledger {
        reader: Vec::new(),
        container: None,
        acknowledged: acknowledged.to_owned(),
        sink: sink.to_owned(),
        format,
        id_field: "id".to_owned(),
        key_field: None,
        checkpoint: None,
        storage: Storage {
            anonymous: true,
            allow_http: true,
            ..Storage::default()
        },
        clock_within: None,
        interval: Duration::from_secs(1),
        drain: Duration::ZERO,
    }
}

pub(super) async fn audit(ledger: &Ledger) -> Event {
    let pods = PodIndex::new();
    let pod = PodReader {
        cluster: None,
        pods: &pods,
        ledger,
    };
    audited(pod, Clock::start(), &CancellationToken::new()).await
}

struct Audited {
    acked: Vec<AckedRange>,
    reads: Vec<SinkRead>,
    drained: bool,
}

impl Audited {
    /// Records of the last read.
    fn runs(&self) -> Vec<(u64, u64, u32)> {
        tuples(&self.reads.last().unwrap().runs)
    }

    fn acked(&self) -> Vec<(u64, u64)> {
        self.acked.iter().map(|range| (range.first, range.last)).collect()
    }
}

fn tuples(runs: &[SinkRun]) -> Vec<(u64, u64, u32)> {
    runs.iter().map(|run| (run.first, run.last, run.times)).collect()
}

async fn read(ledger: &Ledger) -> Audited {
    match audit(ledger).await {
        Event::LedgerAudited {
            acked, reads, drained, ..
        } => Audited { acked, reads, drained },
        other => panic!("{other:?}"),
    }
}

/// Why the ledger could not be read.
async fn refused(ledger: &Ledger) -> String {
    match audit(ledger).await {
        Event::LedgerUnreadable { why } => why,
        other => panic!("{other:?}"),
    }
}

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn entry(path: &str) -> String {
    format!("{{\"path\":\"s3a://bucket/out/{path}\",\"size\":1,\"isDir\":false,\"action\":\"add\"}}")
}

fn records(ids: impl IntoIterator<Item = u64>) -> String {
    ids.into_iter()
        .map(|id| format!("{{\"id\":{id},\"user\":\"u{}\"}}\n", id % 3))
        .collect()
}

/// Name and text of every file of a sink with one duplicate (7), one torn file of a killed attempt, a compacted manifest and a
/// partition in a folder. Records 0 to 29 but 13.
fn spark_sink() -> Vec<(&'static str, String)> {
    vec![
        ("_spark_metadata/8", "not read any more".to_owned()),
        (
            "_spark_metadata/9.compact",
            format!("v1\n{}\n{}", entry("part-1"), entry("part-0")),
        ),
        ("_spark_metadata/10", format!("v1\n{}\n", entry("day=2/part-2"))),
        ("_spark_metadata/.11.tmp", "v1\nhalf".to_owned()),
        ("part-0", records(10..20).replace("{\"id\":13,\"user\":\"u1\"}\n", "")),
        ("part-1", records(0..10).trim_end().to_owned()),
        ("part-9-killed", "{\"id\":1".to_owned()),
        ("day=2/part-2", records((20..30).chain([7]))),
    ]
}

const SPARK_RUNS: [(u64, u64, u32); 4] = [(0, 6, 1), (7, 7, 2), (8, 12, 1), (14, 29, 1)];

const LOG: &str = "0 9 1000 1005\n10 19 2000 2005\n20 29 3000 3005\n30 39 40";

fn write(folder: &Path, files: &[(&str, String)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}
