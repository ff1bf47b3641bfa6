//! Where a ledger's data lie: a path in a pod, an object store, an HTTP server, a Kafka topic.

use serde::{Deserialize, Serialize};
use url::Url;

/// Whether this build can read Kafka topics.
pub const READS_KAFKA: bool = cfg!(feature = "kafka");

/// A place that was written down as a path or a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Path inside a pod that mounts the volume.
    Pod(String),
    /// Files, S3, GCS, Azure.
    Objects(Url),
    /// A document of an HTTP server.
    Http(Url),
    /// A topic.
    Kafka {
        /// `host:port`, separated by commas.
        brokers: String,
        /// Its name.
        topic: String,
    },
}

/// Why a text is no location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoLocation {
    /// A credential stands in it, which would end up in the evidence.
    pub secret: bool,
    /// What is wrong.
    pub why: String,
    /// What to write instead.
    pub help: &'static str,
}

const SCHEMES: &str =
    "a path inside the reader's pod, or file, s3, gs, az, abfss, http, https or kafka in front of ://";
const SECRETS: &str = "credentials come from the environment; what stands in the file ends up in the event log";

impl Location {
    /// Reads a path or a URL.
    ///
    /// # Errors
    /// [`NoLocation`].
    pub fn parse(text: &str) -> Result<Self, NoLocation> {
        let fail = |why: String, help| {
            Err(NoLocation {
                secret: false,
                why,
                help,
            })
        };
        let secret = |why: &str| {
            Err(NoLocation {
                secret: true,
                why: why.to_owned(),
                help: SECRETS,
            })
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.trim().is_empty() {
                fail("the path is empty".to_owned(), SCHEMES)
            } else {
                Ok(Self::Pod(text.to_owned()))
            };
        };
        if scheme == "kafka" {
            return kafka(rest);
        }
        let known = ["file", "s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https"];
        if !known.contains(&scheme) {
            return fail(format!("{scheme:?} is no known kind of place"), SCHEMES);
        }
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => return fail(format!("{text:?} is no URL: {error}"), SCHEMES),
        };
        if url.password().is_some() {
            return secret("the URL holds a password");
        }
        if url.query_pairs().any(|(key, _)| is_signature(&key)) {
            return secret("the URL is signed, which is as good as a password");
        }
        if let "http" | "https" = scheme {
            return Ok(Self::Http(url));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return fail(
                format!("{text:?} has a query, which an object does not"),
                "leave it out",
            );
        }
        let named = url.host_str().is_some_and(|host| !host.is_empty());
        match scheme {
            "file" if named => fail(
                format!("{text:?} names the host {:?}", url.host_str().unwrap_or_default()),
                "a file URL has three slashes: file:///data/out",
            ),
            "file" if url.path().len() < 2 => fail("the path is empty".to_owned(), "such as file:///data/out"),
            "file" => Ok(Self::Objects(url)),
            _ if !named => fail(
                format!("{text:?} names no bucket or container"),
                "such as s3://bucket/ledger/acked.log",
            ),
            _ => Ok(Self::Objects(url)),
        }
    }

    /// Read by commands in the reader's pod.
    #[must_use]
    pub fn in_pod(&self) -> bool {
        matches!(self, Self::Pod(_))
    }
}

fn is_signature(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    [
        "sig",
        "signature",
        "token",
        "access_token",
        "x-amz-signature",
        "x-goog-signature",
        "x-amz-security-token",
    ]
    .contains(&key.as_str())
}

fn kafka(rest: &str) -> Result<Location, NoLocation> {
    const HELP: &str = "such as kafka://broker-1:9092,broker-2:9092/topic";
    let fail = |why: String| {
        Err(NoLocation {
            secret: false,
            why,
            help: HELP,
        })
    };
    if rest.contains('@') {
        return Err(NoLocation {
            secret: true,
            why: "the URL holds a user".to_owned(),
            help: SECRETS,
        });
    }
    let Some((brokers, topic)) = rest.split_once('/') else {
        return fail("the URL names no topic".to_owned());
    };
    let of_topic = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if topic.is_empty() || topic.len() > 249 || !topic.chars().all(of_topic) {
        return fail(format!("{topic:?} is no name of a topic"));
    }
    for broker in brokers.split(',') {
        let fits = broker
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !fits {
            return fail(format!("{broker:?} is no broker with a port"));
        }
    }
    Ok(Location::Kafka {
        brokers: brokers.to_owned(),
        topic: topic.to_owned(),
    })
}

/// How a sink says what is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkFormat {
    /// Spark's file sink: JSON lines in the files that its `_spark_metadata` manifest names.
    #[default]
    SparkFileSink,
    /// Every complete line of every file, or every message of a topic, is a committed record.
    JsonLines,
}

impl SinkFormat {
    /// The format that is written when nothing else is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How an object store is reached. Credentials come from the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    /// Address of the service, where it is not the provider's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region (S3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Storage account (Azure), when the URL does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whether http without TLS may be spoken to the endpoint.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,
    /// Requests are not signed: for public buckets.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
}

impl Storage {
    /// Nothing beyond what the provider's own defaults are.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_in_the_pod_and_a_url_says_where_it_is() {
        assert_eq!(Location::parse("/data/out"), Ok(Location::Pod("/data/out".to_owned())));
        for text in [
            "file:///data/out",
            "s3://bucket/out",
            "gs://bucket/out/",
            "az://box/out",
            "abfss://box@account/out",
        ] {
            assert!(matches!(Location::parse(text), Ok(Location::Objects(_))), "{text}");
        }
        assert!(matches!(
            Location::parse("https://example.org/acked.log"),
            Ok(Location::Http(_))
        ));
        let topic = Location::Kafka {
            brokers: "a:9092,b:9093".to_owned(),
            topic: "orders.v1".to_owned(),
        };
        assert_eq!(Location::parse("kafka://a:9092,b:9093/orders.v1"), Ok(topic));
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_a_secret_is_called_one() {
        for text in [
            "",
            "hdfs://name/out",
            "file://host/out",
            "file:///",
            "s3:///out",
            "s3://b/o?x=1",
            "kafka://a:9092",
            "kafka://a/t",
            "kafka://a:9092/t/u",
            "http://",
        ] {
            assert!(!Location::parse(text).unwrap_err().secret, "{text}");
        }
        for text in [
            "https://me:secret@example.org/x",
            "https://example.org/x?X-Amz-Signature=1",
            "https://example.org/x?sig=1",
            "kafka://me:secret@a:9092/t",
        ] {
            assert!(Location::parse(text).unwrap_err().secret, "{text}");
        }
    }
}
