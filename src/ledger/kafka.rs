//! Topics of Kafka, read from their beginning to where they ended when reading began.
//!
//! By librdkafka, because it can read committed records only (`isolation.level`): what an aborted transaction wrote was never
//! in the sink. Nothing is committed to a group, so that no consumer is disturbed. Contract: what retention has removed before it
//! was read makes the ledger unreadable, for it could not be told from a loss.

use super::error::ReadError;
use super::lines::{Line, OnLine};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A topic that is read again and again.
pub(crate) struct Topic {
    brokers: String,
    name: String,
    patience: Duration,
    /// First offset of each partition that was not read yet.
    next: BTreeMap<i32, i64>,
    consumer: Arc<StreamConsumer>,
}

impl Topic {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub(crate) fn open(brokers: &str, name: &str) -> Result<Self, ReadError> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "chaosrun")
            // Needed by the client; never used, for partitions are assigned and nothing is committed.
            .set("group.id", "chaosrun")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "error")
            // Bounds what the client holds for us.
            .set("queued.max.messages.kbytes", "16384")
            .create()
            .map_err(|error| fail(brokers, name, &error.to_string()))?;
        Ok(Self {
            brokers: brokers.to_owned(),
            name: name.to_owned(),
            patience: PATIENCE,
            next: BTreeMap::new(),
            consumer: Arc::new(consumer),
        })
    }

    /// For tests that do not want to wait.
    #[cfg(test)]
    fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts at the beginning again.
    pub(crate) fn rewind(&mut self) {
        self.next.clear();
    }

    /// Hands on every line of every message that was not read before. Messages without a value are passed over.
    ///
    /// # Errors
    /// When a partition cannot be read up to its end, or something of it is gone.
    pub(crate) async fn read(&mut self, on_line: &mut OnLine<'_>) -> Result<(), ReadError> {
        let ends = self.ends().await?;
        let mut list = TopicPartitionList::new();
        let mut open: BTreeSet<i32> = BTreeSet::new();
        for (partition, (low, high)) in &ends {
            let next = *self.next.entry(*partition).or_insert(0);
            if *low > next {
                return Err(self.fail(&format!(
                    "retention has removed offsets {next} to {} of partition {partition}, and what is missing there could not be told \
                     from a loss; use a topic of its own for the experiment, or a longer retention",
                    low - 1
                )));
            }
            if *high < next {
                return Err(ReadError::Replaced { what: self.title() });
            }
            if *high > next {
                list.add_partition_offset(&self.name, *partition, Offset::Offset(next))
                    .map_err(|error| self.fail(&error.to_string()))?;
                open.insert(*partition);
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        self.consumer
            .assign(&list)
            .map_err(|error| self.fail(&error.to_string()))?;
        let read = self.drain(&ends, open, on_line).await;
        let unassigned = self.consumer.unassign();
        read?;
        unassigned.map_err(|error| self.fail(&error.to_string()))
    }

    async fn drain(
        &mut self,
        ends: &BTreeMap<i32, (i64, i64)>,
        mut open: BTreeSet<i32>,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), ReadError> {
        let mut what = String::new();
        let consumer = self.consumer.clone();
        while !open.is_empty() {
            let received = tokio::time::timeout(self.patience, consumer.recv()).await;
            let message = match received {
                Err(_elapsed) => {
                    let seconds = self.patience.as_secs_f64();
                    return Err(self.fail(&format!("nothing came for {seconds} s, before the end of {open:?}")));
                }
                // The end of what is committed; after it come only transactions that are still open.
                Ok(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                    continue;
                }
                Ok(Err(error)) => return Err(self.fail(&error.to_string())),
                Ok(Ok(message)) => message,
            };
            let (partition, offset) = (message.partition(), message.offset());
            if !open.contains(&partition) {
                continue;
            }
            what.clear();
            // Writing to a String cannot fail.
            let _infallible = write!(what, "topic {}, partition {partition}, offset {offset}", self.name);
            let bytes = message.payload().unwrap_or_default();
            let text = std::str::from_utf8(bytes).map_err(|_| self.fail(&format!("{what} is not UTF-8 text")))?;
            for (index, text) in text.lines().enumerate() {
                on_line(Line {
                    what: &what,
                    number: index + 1,
                    text,
                })?;
            }
            self.next.insert(partition, offset + 1);
            if ends.get(&partition).is_none_or(|(_, high)| offset + 1 >= *high) {
                open.remove(&partition);
            }
        }
        Ok(())
    }

    /// First offset and end of each partition.
    async fn ends(&self) -> Result<BTreeMap<i32, (i64, i64)>, ReadError> {
        let (consumer, name, patience) = (self.consumer.clone(), self.name.clone(), self.patience);
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = consumer.fetch_metadata(Some(&name), patience)?;
            let mut ends = BTreeMap::new();
            for topic in metadata.topics().iter().filter(|topic| topic.name() == name) {
                if let Some(error) = topic.error() {
                    return Err(KafkaError::MetadataFetch(error.into()));
                }
                for partition in topic.partitions() {
                    let ends_of_one = consumer.fetch_watermarks(&name, partition.id(), patience)?;
                    ends.insert(partition.id(), ends_of_one);
                }
            }
            Ok::<_, KafkaError>(ends)
        });
        let ends = asked
            .await
            .map_err(|error| self.fail(&error.to_string()))?
            .map_err(|error| self.fail(&error.to_string()))?;
        if ends.is_empty() {
            return Err(self.fail("there is no such topic"));
        }
        Ok(ends)
    }

    fn title(&self) -> String {
        format!("kafka://{}/{}", self.brokers, self.name)
    }

    fn fail(&self, why: &str) -> ReadError {
        fail(&self.brokers, &self.name, why)
    }
}

fn fail(brokers: &str, name: &str, why: &str) -> ReadError {
    ReadError::Place {
        what: format!("kafka://{brokers}/{name}"),
        why: why.to_owned(),
    }
}

/// Against the mock cluster of librdkafka: a double that speaks Kafka's protocol, and no Kafka.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Event;
    use crate::experiment::SinkFormat::JsonLines;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};

    type Double = MockCluster<'static, DefaultProducerContext>;

    fn double(topics: &[(&str, i32)]) -> (Double, FutureProducer) {
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).unwrap();
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .create()
            .unwrap();
        (cluster, producer)
    }

    async fn send(producer: &FutureProducer, topic: &str, partition: i32, text: &str) {
        let record: FutureRecord<'_, (), str> = FutureRecord::to(topic).partition(partition).payload(text);
        producer.send(record, Duration::from_secs(10)).await.unwrap();
    }

    async fn lines(topic: &mut Topic) -> Vec<String> {
        let mut lines = Vec::new();
        let mut take = |line: Line<'_>| {
            lines.push(line.text.to_owned());
            Ok(())
        };
        topic.read(&mut take).await.unwrap();
        lines.sort_unstable();
        lines
    }

    #[tokio::test]
    async fn a_topic_is_read_to_its_end_and_then_on_from_there() {
        let (cluster, producer) = double(&[("orders", 3)]);
        let mut topic = Topic::open(&cluster.bootstrap_servers(), "orders").unwrap();
        assert_eq!(lines(&mut topic).await, [""; 0]);
        for (partition, text) in [(0, "a"), (2, "b\nc"), (0, "d")] {
            send(&producer, "orders", partition, text).await;
        }
        assert_eq!(lines(&mut topic).await, ["a", "b", "c", "d"]);
        assert_eq!(lines(&mut topic).await, [""; 0]);
        send(&producer, "orders", 1, "e").await;
        assert_eq!(lines(&mut topic).await, ["e"]);
        topic.rewind();
        assert_eq!(lines(&mut topic).await, ["a", "b", "c", "d", "e"]);
    }

    #[tokio::test]
    async fn a_ledger_of_topics_is_counted() {
        let (cluster, producer) = double(&[("acked", 1), ("orders", 4)]);
        send(&producer, "acked", 0, "0 9 1 2").await;
        send(&producer, "acked", 0, "10 19 1 2\n").await;
        for id in (0..20).chain([7]).filter(|id| *id != 3) {
            send(&producer, "orders", id % 4, &format!("{{\"id\":{id}}}")).await;
        }
        let at = |topic: &str| format!("kafka://{}/{topic}", cluster.bootstrap_servers());
        let ledger = super::super::tests::ledger(&at("acked"), &at("orders"), JsonLines);
        let Event::LedgerAudited {
            acked, reads, drained, ..
        } = super::super::tests::audit(&ledger).await
        else {
            panic!("unreadable");
        };
        assert_eq!(acked.len(), 2);
        let runs: Vec<_> = reads[0]
            .runs
            .iter()
            .map(|run| (run.first, run.last, run.times))
            .collect();
        assert_eq!(runs, [(0, 2, 1), (4, 6, 1), (7, 7, 2), (8, 19, 1)]);
        assert!(!drained);
    }

    #[tokio::test]
    async fn a_topic_that_is_not_there_and_a_broker_that_is_not_there_are_named() {
        let (cluster, _producer) = double(&[("orders", 1)]);
        let mut take = |_: Line<'_>| Ok(());
        for (brokers, name) in [
            (cluster.bootstrap_servers(), "no-such"),
            ("127.0.0.1:9".to_owned(), "orders"),
        ] {
            let mut topic = Topic::open(&brokers, name)
                .unwrap()
                .with_patience(Duration::from_secs(3));
            let why = topic.read(&mut take).await.unwrap_err().to_string();
            assert!(
                why.contains(&format!("cannot read kafka://{brokers}/{name}: ")),
                "{why}"
            );
        }
    }

    #[tokio::test]
    async fn a_message_that_is_no_record_is_named_by_its_offset() {
        let (cluster, producer) = double(&[("acked", 1), ("orders", 1)]);
        send(&producer, "acked", 0, "0 9 1 2").await;
        send(&producer, "orders", 0, "{\"id\":1}").await;
        send(&producer, "orders", 0, "{\"id\":").await;
        let at = |topic: &str| format!("kafka://{}/{topic}", cluster.bootstrap_servers());
        let ledger = super::super::tests::ledger(&at("acked"), &at("orders"), JsonLines);
        let Event::LedgerUnreadable { why } = super::super::tests::audit(&ledger).await else {
            panic!("readable");
        };
        assert!(why.contains("topic orders, partition 0, offset 1"), "{why}");
    }
}
