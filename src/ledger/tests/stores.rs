//! Files, and the doubles of S3, GCS and Azure.

use super::doubles::{Double, Mood};
use super::{LOG, SPARK_RUNS, entry, ledger, read, records, refused, spark_sink, url, write};
use crate::evidence::Event;
use crate::experiment::SinkFormat::{JsonLines, SparkFileSink};
use crate::experiment::{Ledger, Storage};
use std::time::Duration;

fn files() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("out"), &spark_sink());
    std::fs::write(folder.path().join("acked.log"), LOG).unwrap();
    let ledger = ledger(
        &url(&folder.path().join("acked.log")),
        &url(&folder.path().join("out")),
        SparkFileSink,
    );
    (folder, ledger)
}

#[tokio::test]
async fn a_folder_of_files_is_read_by_its_manifest() {
    let (_folder, ledger) = files();
    let found = read(&ledger).await;
    assert_eq!(found.acked(), [(0, 9), (10, 19), (20, 29)]);
    assert_eq!(found.runs(), SPARK_RUNS);
    let last = found.reads.last().unwrap();
    assert_eq!((last.last_batch, last.uncommitted_files), (Some(10), 1));
    assert!(!found.drained);
}

#[tokio::test]
async fn a_missing_manifest_and_a_missing_file_say_so() {
    let (folder, ledger) = files();
    std::fs::remove_file(folder.path().join("out/part-1")).unwrap();
    assert!(refused(&ledger).await.contains("names part-1, which is not there"));
    std::fs::remove_dir_all(folder.path().join("out/_spark_metadata")).unwrap();
    assert!(refused(&ledger).await.contains("has no manifest _spark_metadata/0"));
    std::fs::remove_file(folder.path().join("acked.log")).unwrap();
    let why = refused(&ledger).await;
    assert!(why.contains("acked.log") && why.contains("there is nothing"), "{why}");
}

#[tokio::test]
async fn what_is_no_record_is_named_with_its_file_and_line() {
    for (text, line, part) in [
        ("{\"id\":1}\n{\"id\":", 2, "EOF"),
        ("{\"id\":1}\n\n{\"id\":18446744073709551616}\n", 3, "no whole number"),
        ("{\"id\":1}\n{\"number\":2}\n", 2, "\"id\""),
    ] {
        let (folder, ledger) = files();
        std::fs::write(folder.path().join("out/part-0"), text).unwrap();
        let why = refused(&ledger).await;
        assert!(
            why.contains(&format!("part-0, line {line}")) && why.contains(part),
            "{why}"
        );
    }
    let (folder, ledger) = files();
    std::fs::write(folder.path().join("out/part-0"), b"{\"id\":1}\n\xff\xfe\n").unwrap();
    assert!(refused(&ledger).await.contains("line 2: not UTF-8"));
    let (folder, ledger) = files();
    std::fs::write(folder.path().join("acked.log"), "0 9 1 2\n9 0 1 2\n").unwrap();
    assert!(
        refused(&ledger)
            .await
            .contains("acked.log, line 2: the last id is below the first")
    );
}

#[tokio::test]
async fn a_growing_sink_is_read_on_and_late_records_are_seen() {
    let (folder, mut ledger) = files();
    ledger.drain = Duration::from_secs(20);
    let out = folder.path().join("out");
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        write(
            &out,
            &[
                ("part-3", records([13])),
                ("_spark_metadata/11", format!("v1\n{}\n", entry("part-3"))),
            ],
        );
    });
    let found = read(&ledger).await;
    late.await.unwrap();
    assert!(found.drained);
    assert_eq!(found.reads.len(), 2);
    assert_eq!(super::tuples(&found.reads[0].runs), SPARK_RUNS);
    assert_eq!(found.runs(), [(0, 6, 1), (7, 7, 2), (8, 29, 1)]);
}

#[tokio::test]
async fn a_sink_that_was_rolled_back_is_counted_anew() {
    let (folder, mut ledger) = files();
    ledger.drain = Duration::from_secs(3);
    let out = folder.path().join("out");
    let rolled = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        std::fs::remove_file(out.join("_spark_metadata/10")).unwrap();
    });
    let found = read(&ledger).await;
    rolled.await.unwrap();
    assert_eq!(found.reads.last().unwrap().last_batch, Some(9));
    assert_eq!(found.runs(), [(0, 12, 1), (14, 19, 1)]);
}

#[tokio::test]
async fn lines_of_a_folder_count_once_they_are_complete_and_their_order_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[
            ("acked/1.log", "0 5 1 2\n".to_owned()),
            ("acked/2.log", "6 9 1 -\n6 7 1 2\n".to_owned()),
            ("out/a.json", records([0, 1, 2, 3, 6, 3])),
            ("out/b.json", format!("{}{}", records([4, 5, 20]), "{\"id\":7")),
            ("out/_SUCCESS", String::new()),
        ],
    );
    let mut ledger = ledger(
        &format!("{}/", url(&folder.path().join("acked"))),
        &url(&folder.path().join("out")),
        JsonLines,
    );
    ledger.key_field = Some("user".to_owned());
    let Event::LedgerAudited {
        acked,
        reads,
        attempted,
        acked_later,
        ..
    } = super::audit(&ledger).await
    else {
        panic!("unreadable");
    };
    assert_eq!(acked.len(), 2);
    assert_eq!(
        super::tuples(&reads[0].runs),
        [(0, 2, 1), (3, 3, 2), (4, 6, 1), (20, 20, 1)]
    );
    // 3 comes twice: that is a copy. No other key goes back: 4 follows 1, 5 follows 2, 20 follows 5.
    assert_eq!(reads[0].reordered, Some(0));
    assert_eq!(super::tuples(&attempted.unwrap().runs), [(6, 9, 1)]);
    assert_eq!(acked_later.unwrap().runs, []);
    std::fs::write(folder.path().join("out/0.json"), records([3, 30])).unwrap();
    let found = read(&ledger).await;
    // After 30 come 0, 3 again (a copy) and 6.
    assert_eq!(found.reads[0].reordered, Some(2));
}

fn stored(scheme: &str, double: &Double) -> Ledger {
    let mut ledger = ledger(
        &format!("{scheme}://bucket/ledger/acked.log"),
        &format!("{scheme}://bucket/out"),
        SparkFileSink,
    );
    ledger.storage = Storage {
        endpoint: Some(double.endpoint.clone()),
        account: (scheme == "az").then(|| "account".to_owned()),
        anonymous: true,
        allow_http: true,
        ..Storage::default()
    };
    ledger
}

async fn double() -> Double {
    let double = Double::start().await;
    for (name, text) in spark_sink() {
        double.put(&format!("out/{name}"), text);
    }
    double.put("out-of-the-way/part-7", "no record".to_owned());
    double.put("ledger/acked.log", LOG.to_owned());
    double
}

#[tokio::test]
async fn the_doubles_of_s3_gcs_and_azure_give_what_the_files_give() {
    let double = double().await;
    for scheme in ["s3", "s3a", "gs", "az"] {
        let found = read(&stored(scheme, &double)).await;
        assert_eq!(found.acked(), [(0, 9), (10, 19), (20, 29)], "{scheme}");
        assert_eq!(found.runs(), SPARK_RUNS, "{scheme}");
        let last = found.reads.last().unwrap();
        assert_eq!((last.last_batch, last.uncommitted_files), (Some(10), 1), "{scheme}");
    }
    // Two objects a page: the listing had several.
    assert!(double.pages() > 12, "{}", double.pages());
}

#[tokio::test]
async fn a_store_that_refuses_is_said_to_refuse() {
    let double = double().await;
    for (mood, part) in [
        (Mood::Denied, "access is denied; they come from AWS_ACCESS_KEY_ID"),
        (Mood::NoBucket, "there is no such object, bucket or container"),
    ] {
        double.mood(mood);
        let why = refused(&stored("s3", &double)).await;
        assert!(why.contains("s3://bucket/") && why.contains(part), "{why}");
    }
    let mut nowhere = stored("s3", &double);
    nowhere.storage.endpoint = Some("http://127.0.0.1:9".to_owned());
    let why = refused(&nowhere).await;
    assert!(why.contains("cannot read s3://bucket/ledger/acked.log"), "{why}");
}

#[tokio::test]
async fn a_store_that_stumbles_is_asked_again_and_one_that_only_fails_is_not_read() {
    let double = double().await;
    double.mood(Mood::FailsOnce);
    assert_eq!(read(&stored("s3", &double)).await.runs(), SPARK_RUNS);
    double.mood(Mood::Truncates);
    let found = read(&stored("s3", &double)).await;
    assert_eq!(found.runs(), SPARK_RUNS);
    double.mood(Mood::Fails);
    let why = refused(&stored("s3", &double)).await;
    assert!(why.contains("500"), "{why}");
}

#[tokio::test]
async fn an_appended_object_is_read_from_where_reading_ended() {
    let double = double().await;
    double.put("lines/a.json", records(0..20));
    let mut ledger = stored("s3", &double);
    ledger.sink = "s3://bucket/lines".to_owned();
    ledger.format = JsonLines;
    ledger.drain = Duration::from_secs(20);
    let before = double.sent();
    let (growing, whole) = (double.clone(), records(0..30));
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        growing.put("lines/a.json", whole);
    });
    let found = read(&ledger).await;
    late.await.unwrap();
    assert!(found.drained);
    assert_eq!(found.runs(), [(0, 29, 1)]);
    // The object once, the log once, and one byte twice.
    let size = (records(0..30).len() + LOG.len() + 1) as u64;
    let listings = 4 * 1200;
    assert!(
        double.sent() - before < size + listings,
        "{} of {size}",
        double.sent() - before
    );
    assert_eq!(double.bytes_of("lines/a.json"), records(0..30).len() as u64 + 1);
}
