//! Request accounting, so that tests can assert what a client cost.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// How often one kind of request came.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestCount {
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// Plural, with `/subresource` when there is one.
    pub resource: String,
    /// Namespace; empty for all or none.
    pub namespace: String,
    /// User agent of the client.
    pub user_agent: String,
    /// Number of requests.
    pub count: u64,
}

type Key = (String, String, String, String, String);

/// Counts since the server was made.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counts: Mutex<BTreeMap<Key, u64>>,
}

impl Metrics {
    /// Counts one request.
    pub(crate) fn count(&self, verb: &str, group: &str, resource: &str, namespace: &str, user_agent: &str) {
        let key = (
            verb.to_owned(),
            group.to_owned(),
            resource.to_owned(),
            namespace.to_owned(),
            user_agent.to_owned(),
        );
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key)
            .or_default() += 1;
    }

    /// All counts.
    pub(crate) fn snapshot(&self) -> Vec<RequestCount> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|((verb, group, resource, namespace, user_agent), count)| RequestCount {
                verb: verb.clone(),
                group: group.clone(),
                resource: resource.clone(),
                namespace: namespace.clone(),
                user_agent: user_agent.clone(),
                count: *count,
            })
            .collect()
    }

    /// The counts in Prometheus' text format.
    pub(crate) fn prometheus(&self) -> String {
        let mut text = String::from(
            "# HELP apiserver_request_total Requests by verb, resource, namespace and client.\n# TYPE apiserver_request_total counter\n",
        );
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        for one in self.snapshot() {
            let line = format!(
                "apiserver_request_total{{verb=\"{}\",group=\"{}\",resource=\"{}\",namespace=\"{}\",client=\"{}\"}} {}\n",
                escaped(&one.verb),
                escaped(&one.group),
                escaped(&one.resource),
                escaped(&one.namespace),
                escaped(&one.user_agent),
                one.count
            );
            text.push_str(&line);
        }
        text
    }
}
