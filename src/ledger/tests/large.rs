//! Memory is bounded by how the records lie, not by how many there are. The number of records can be raised by
//! `CHAOSRUN_LEDGER_RECORDS` (see docs/ledger.md).

use super::{ledger, url};
use crate::evidence::{Event, IdCounts};
use crate::experiment::SinkFormat::JsonLines;
use std::io::Write as _;

fn records(default: u64) -> u64 {
    std::env::var("CHAOSRUN_LEDGER_RECORDS").map_or(default, |text| text.parse().unwrap())
}

/// A permutation of `0..count` that leaves no two neighbours together: its step has no factor in common with any count below.
fn scattered(index: u64, count: u64) -> u64 {
    const STEP: u64 = 2_147_483_647;
    u64::try_from(u128::from(index) * u128::from(STEP) % u128::from(count)).unwrap()
}

#[test]
fn scattered_records_and_copies_of_every_one_cost_bits() {
    let count = records(5_000_000);
    let mut counts = IdCounts::default();
    // Every third record is missing, every fifth is there three times: the worst case, in which no two neighbours are alike.
    for index in 0..count {
        let id = scattered(index, count);
        if !id.is_multiple_of(3) {
            for _ in 0..if id.is_multiple_of(5) { 3 } else { 1 } {
                counts.add(id).unwrap();
            }
        }
    }
    // One bit for each number, and one more for each of two planes of copies; a container of 65,536 costs what a bitmap does.
    let bound = 3 * (count.div_ceil(65_536) * (8192 + 64) + 96);
    assert!(counts.bytes() <= bound, "{} of {bound}", counts.bytes());
    let multiples = |of: u64| count.div_ceil(of);
    assert_eq!(counts.distinct(), count - multiples(3));
    let copies = 2 * (multiples(5) - multiples(15));
    assert_eq!(counts.copies(), counts.distinct() + copies);
    let packed = counts.numbers().packed.unwrap();
    let packed_bytes: usize = packed.planes.iter().map(String::len).sum();
    assert!(packed_bytes as u64 <= 3 * (count / 8 * 4 / 3 + 4096), "{packed_bytes}");
}

/// The whole way: files on disk, the audit, the event, the numbers of the report.
#[tokio::test]
async fn a_large_ledger_of_files_is_audited_in_bounded_memory() {
    let count = records(320_000);
    let folder =
        tempfile::tempdir_in(std::env::var_os("CHAOSRUN_LEDGER_FOLDER").unwrap_or_else(|| std::env::temp_dir().into()))
            .unwrap();
    let (files, per_file) = (16_u64, count / 16);
    std::fs::create_dir(folder.path().join("out")).unwrap();
    let create = |name: &str| std::io::BufWriter::new(std::fs::File::create(folder.path().join(name)).unwrap());
    let mut log = create("acked.log");
    for file in 0..files {
        let mut out = create(&format!("out/part-{file}.json"));
        for index in file * per_file..(file + 1) * per_file {
            let id = scattered(index, files * per_file);
            writeln!(log, "{index} {index} {} {}", 1000 + index / 100, 1005 + index / 100).unwrap();
            if !id.is_multiple_of(1000) {
                writeln!(out, "{{\"id\":{id}}}").unwrap();
            }
        }
        out.flush().unwrap();
    }
    log.flush().unwrap();
    let held = peak();
    let ledger = ledger(
        &url(&folder.path().join("acked.log")),
        &url(&folder.path().join("out")),
        JsonLines,
    );
    let started = jiff::Timestamp::now();
    let event = super::audit(&ledger).await;
    let seconds = jiff::Timestamp::now().duration_since(started).as_secs_f64();
    let line = serde_json::to_string(&event).unwrap();
    println!(
        "{} records: {seconds:.1} s, peak {} -> {} MiB resident, event {} MiB",
        files * per_file,
        held >> 10,
        peak() >> 10,
        line.len() >> 20
    );
    let Event::LedgerAudited { acked, reads, .. } = event else {
        panic!("{event:?}")
    };
    let distinct: u64 = match &reads[0].packed {
        Some(packed) => packed.open().unwrap().distinct(),
        None => reads[0].runs.iter().map(|run| run.last - run.first + 1).sum(),
    };
    let count = files * per_file;
    assert_eq!(distinct, count - count.div_ceil(1000));
    assert!(acked.len() <= 200_000);
    // Text of the records, many times over, would not fit into this.
    assert!(line.len() as u64 <= 40_000_000 + count, "{}", line.len());
}

/// Largest resident memory of this process so far, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
