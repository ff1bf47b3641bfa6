//! The `ledger` section: words to values, and which places go together.

use super::file::{LedgerFile, StorageFile};
use super::location::{Location, READS_KAFKA, SinkFormat, Storage};
use super::resolve::Resolver;
use super::types::Ledger;
use std::time::Duration;

impl Resolver<'_> {
    pub(super) fn ledger(&mut self, held: LedgerFile) -> Ledger {
        if self.places.empty("/ledger/reader") {
            self.error(
                "selector-empty",
                self.at("/ledger/reader"),
                "a reader needs at least one label",
                None,
            );
        }
        let acknowledged = self.location("acknowledged", Some(&held.acknowledged));
        let sink = self.location("sink", Some(&held.sink));
        let checkpoint = self.location("checkpoint", held.checkpoint.as_ref());
        let format = match held.format.as_deref() {
            Some("json-lines") => SinkFormat::JsonLines,
            Some(_) => SinkFormat::SparkFileSink,
            None if matches!(sink, Some(Location::Http(_) | Location::Kafka { .. })) => SinkFormat::JsonLines,
            None => SinkFormat::SparkFileSink,
        };
        self.formats(&held, format, sink.as_ref(), checkpoint.as_ref());
        let in_pod = |place: &Option<Location>| place.as_ref().is_some_and(Location::in_pod);
        let reader_needed = [
            ("acknowledged", &acknowledged),
            ("sink", &sink),
            ("checkpoint", &checkpoint),
        ]
        .into_iter()
        .find(|(_, place)| in_pod(place));
        if let Some((key, _)) = reader_needed
            && held.reader.is_none()
        {
            let message = format!("{key} is a path inside a pod, and there is no reader to say in which");
            let help = "reader: labels of a pod that mounts the volume; or write a URL, such as file:///data/out";
            self.error("missing-key", self.places.key("/ledger"), message, Some(help));
        }
        if held.reader.is_none() && reader_needed.is_none() && held.clock_within.is_none() {
            self.warn(
                "ledger-clock",
                self.places.key("/ledger"),
                "nothing bounds the producer's clock, so that no loss can be dated and no claim on the data be proven".to_owned(),
                "give the labels of its pod as reader (its clock is measured there), or clockWithin: 100ms if that is known",
            );
        }
        let storage = self.storage(&held.storage, &[&acknowledged, &sink, &checkpoint]);
        let default_interval = if checkpoint.as_ref().is_none_or(Location::in_pod) {
            Duration::from_millis(100)
        } else {
            Duration::from_secs(1)
        };
        Ledger {
            reader: self.labels("/ledger/reader", held.reader.as_ref()),
            container: held.container,
            acknowledged: held.acknowledged,
            sink: held.sink,
            format,
            id_field: held.id_field.unwrap_or_else(|| "id".to_owned()),
            key_field: held.key_field,
            checkpoint: held.checkpoint,
            storage,
            clock_within: held
                .clock_within
                .as_ref()
                .map(|text| self.duration("/ledger/clockWithin", Some(text), Duration::ZERO)),
            interval: self.positive("/ledger/interval", held.interval.as_ref(), default_interval),
            drain: self.duration("/ledger/drain", held.drain.as_ref(), Duration::from_mins(1)),
        }
    }

    fn location(&mut self, key: &str, text: Option<&String>) -> Option<Location> {
        let place = self.at(&format!("/ledger/{key}"));
        match Location::parse(text?) {
            Ok(Location::Kafka { .. }) if !READS_KAFKA => {
                let message = "this build of chaosrun cannot read Kafka topics";
                self.error(
                    "ledger-url",
                    place,
                    message,
                    Some("build it with: cargo build --release --features kafka"),
                );
                None
            }
            Ok(location) => Some(location),
            Err(wrong) if wrong.secret => {
                self.error("ledger-secret", place, wrong.why, Some(wrong.help));
                None
            }
            Err(wrong) => {
                self.error("ledger-url", place, wrong.why, Some(wrong.help));
                None
            }
        }
    }

    /// Which formats can be read from which places.
    fn formats(
        &mut self,
        held: &LedgerFile,
        format: SinkFormat,
        sink: Option<&Location>,
        checkpoint: Option<&Location>,
    ) {
        let files = !matches!(sink, Some(Location::Http(_) | Location::Kafka { .. }));
        if format == SinkFormat::SparkFileSink && !files {
            self.error(
                "ledger-url",
                self.at("/ledger/format"),
                "the manifest of a file sink is a folder, which can be listed in a pod or an object store only",
                Some("write format: json-lines, or the URL of the folder"),
            );
        }
        if format == SinkFormat::SparkFileSink && files && held.checkpoint.is_none() {
            self.error(
                "missing-key",
                self.places.key("/ledger"),
                "the key \"checkpoint\" is missing",
                Some("checkpoint: folder with offsets/ and commits/, next to Spark's file sink"),
            );
        }
        if let Some(Location::Http(_) | Location::Kafka { .. }) = checkpoint {
            self.error(
                "ledger-url",
                self.at("/ledger/checkpoint"),
                "a checkpoint is a folder, which can be listed in a pod or an object store only",
                Some("such as s3://bucket/checkpoint"),
            );
        }
        if let Some(Location::Pod(_)) = sink
            && format == SinkFormat::SparkFileSink
            && held.key_field.is_some()
        {
            self.warn(
                "ledger-order",
                self.at("/ledger/keyField"),
                "the order of records is not looked at in a sink that is read in a pod".to_owned(),
                "name the sink by a URL, or leave keyField out",
            );
        }
    }

    fn storage(&mut self, held: &StorageFile, places: &[&Option<Location>]) -> Storage {
        let remote = places
            .iter()
            .any(|place| matches!(place, Some(Location::Objects(url)) if url.scheme() != "file"));
        let set = held.endpoint.is_some() || held.region.is_some() || held.account.is_some();
        if !remote && (set || held.allow_http || held.anonymous) {
            self.error(
                "ledger-url",
                self.at("/ledger/storage"),
                "nothing of this ledger lies in an object store",
                Some("leave storage out, or write URLs such as s3://bucket/out"),
            );
        }
        if let Some(endpoint) = &held.endpoint {
            self.url("/ledger/storage/endpoint", endpoint);
            if endpoint.contains('@') {
                self.error(
                    "ledger-secret",
                    self.at("/ledger/storage/endpoint"),
                    "the URL holds a user",
                    Some("credentials come from the environment; what stands in the file ends up in the event log"),
                );
            }
            if endpoint.starts_with("http://") && !held.allow_http {
                self.error(
                    "ledger-url",
                    self.at("/ledger/storage/endpoint"),
                    "the endpoint speaks http without TLS",
                    Some("write https, or allowHttp: true beside it if that is meant"),
                );
            }
        }
        Storage {
            endpoint: held.endpoint.clone(),
            region: held.region.clone(),
            account: held.account.clone(),
            allow_http: held.allow_http,
            anonymous: held.anonymous,
        }
    }
}
