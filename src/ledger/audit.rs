//! The audit after a trial: what the producer knows to be durable against what the sink has committed.

use super::acked::AckLog;
use super::error::ReadError;
use super::lines::{Cursor, Line, Splitter};
use super::places::Place;
use super::pod::PodReader;
use super::sink::{Batches, Sink, read_lines};
use crate::cluster::Cluster;
use crate::evidence::{Event, SinkRead};
use crate::experiment::{Ledger, Location};
use crate::model::Interval;
use crate::observe::PodIndex;
use crate::world::{Clock, Recorder};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PAUSE: Duration = Duration::from_secs(1);

/// Reads producer and sink until every record acknowledged at the start of the audit has arrived, or `drain` is over. The
/// result is one event: the audit, or why it could not be made.
pub(crate) async fn audit(
    cluster: &Cluster,
    recorder: &Recorder,
    pods: &PodIndex,
    ledger: &Ledger,
    cancel: &CancellationToken,
) -> Event {
    let pod = PodReader {
        cluster: Some(cluster),
        pods,
        ledger,
    };
    audited(pod, recorder.clock(), cancel).await
}

/// The same, with or without a cluster: what lies in no pod needs none.
pub(crate) async fn audited(pod: PodReader<'_>, clock: Clock, cancel: &CancellationToken) -> Event {
    // Boxed: it holds the state of every kind of reader.
    let work: BoxFuture<'_, Result<Event, ReadError>> = Box::pin(try_audit(pod, clock, cancel));
    match work.await {
        Ok(event) => event,
        Err(error) => Event::LedgerUnreadable { why: error.to_string() },
    }
}

async fn try_audit(pod: PodReader<'_>, clock: Clock, cancel: &CancellationToken) -> Result<Event, ReadError> {
    let ledger = pod.ledger;
    let mut producer = Producer::open(pod)?;
    let mut sink = Sink::open(ledger, pod)?;
    let sent = clock.now();
    producer.read().await?;
    producer.log.close();
    let acked_read = Interval::between(sent, clock.now());
    let deadline = clock.now().plus(ledger.drain);
    let mut reads: Vec<SinkRead> = Vec::new();
    loop {
        let sent = clock.now();
        let batches = sink.read().await?;
        let during = Interval::between(sent, clock.now());
        let drained = producer.log.is_within(&sink.tally.counts);
        let over = clock.now() >= deadline || cancel.is_cancelled();
        // The first read tells what was late, the last one what is lost; those between add nothing.
        if reads.is_empty() || drained || over {
            reads.push(told(&mut sink, during, batches));
        }
        if drained || over {
            if producer.log.tells_attempts() {
                // After the sink: whatever is in it was attempted by now.
                producer.read().await?;
            }
            let (acked, acked_ids) = producer.log.acked();
            let (attempted, acked_later) = producer.log.attempts();
            return Ok(Event::LedgerAudited {
                acked,
                acked_read,
                reads,
                drained,
                acked_ids,
                attempted,
                acked_later,
            });
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

fn told(sink: &mut Sink<'_>, during: Interval, batches: Batches) -> SinkRead {
    let numbers = sink.tally.counts.numbers();
    SinkRead {
        during,
        last_batch: batches.last,
        runs: numbers.runs,
        packed: numbers.packed,
        uncommitted_files: batches.uncommitted_files,
        reordered: sink.tally.reordered(),
    }
}

/// The producer's log, wherever it is, read on from where reading ended.
struct Producer<'a> {
    log: AckLog,
    source: Source<'a>,
}

enum Source<'a> {
    Pod(PodReader<'a>, Cursor),
    Place(Place, BTreeMap<String, Cursor>),
    #[cfg(feature = "kafka")]
    Topic(super::kafka::Topic),
}

impl<'a> Producer<'a> {
    fn open(pod: PodReader<'a>) -> Result<Self, ReadError> {
        let ledger = pod.ledger;
        let location = Location::parse(&ledger.acknowledged).map_err(|wrong| ReadError::Other(wrong.why))?;
        let source = match &location {
            Location::Pod(_) => Source::Pod(pod, Cursor::default()),
            #[cfg(feature = "kafka")]
            Location::Kafka { brokers, topic } => Source::Topic(super::kafka::Topic::open(brokers, topic)?),
            _ => Source::Place(Place::open(&location, &ledger.storage)?, BTreeMap::new()),
        };
        Ok(Self {
            log: AckLog::default(),
            source,
        })
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let log = &mut self.log;
        let mut take = |line: Line<'_>| log.add(line);
        match &mut self.source {
            Source::Pod(pod, cursor) => {
                let path = pod.ledger.acknowledged.clone();
                let command = match cursor.offset {
                    0 => vec!["cat".to_owned(), path],
                    offset => vec!["tail".to_owned(), "-c".to_owned(), format!("+{}", offset + 1), path],
                };
                let what = "acknowledgement log";
                let mut splitter = Splitter::new(what);
                pod.stream(what, &command, &mut |chunk| splitter.push(chunk, cursor, &mut take))
                    .await
            }
            Source::Place(place, cursors) => read_lines(place, cursors, &mut take).await,
            #[cfg(feature = "kafka")]
            Source::Topic(topic) => topic.read(&mut take).await,
        }
    }
}
