//! One sample of each kind of probe that has to ask.

use super::pods::{LivePod, PodIndex};
use crate::cluster::Cluster;
use crate::evidence::Outcome;
use crate::experiment::{Check, Comparison};
use crate::model::Role;
use crate::prometheus::Prometheus;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What one sample said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Good, bad, no data.
    pub(crate) outcome: Outcome,
    /// The value that was compared.
    pub(crate) value: Option<f64>,
    /// How much older than the request the state may be that was seen (age of a Prometheus sample).
    pub(crate) age: Duration,
}

impl Answer {
    fn good() -> Self {
        Self {
            outcome: Outcome::Good,
            value: None,
            age: Duration::ZERO,
        }
    }

    pub(crate) fn bad(why: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Bad { why: why.into() },
            value: None,
            age: Duration::ZERO,
        }
    }

    pub(crate) fn no_data(why: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::NoData { why: why.into() },
            value: None,
            age: Duration::ZERO,
        }
    }
}

/// What the checks need from their surroundings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checker {
    pub(crate) cluster: Cluster,
    pub(crate) pods: PodIndex,
    pub(crate) prometheus: Option<Prometheus>,
    pub(crate) http: reqwest::Client,
    /// Pods in whose log the wanted line was found already.
    pub(crate) logged: Arc<Mutex<BTreeSet<String>>>,
}

impl Checker {
    /// Takes one sample. The caller limits the time.
    pub(crate) async fn sample(&self, check: &Check) -> Answer {
        match check {
            Check::Promql { query, is } => self.promql(query, *is).await,
            Check::Http {
                url,
                status,
                body_contains,
                role,
            } => self.http(url, *status, body_contains.as_deref(), role.as_ref()).await,
            Check::Metrics {
                role,
                port,
                path,
                metric,
                is,
            } => self.metrics(role.as_ref(), *port, path, metric, *is).await,
            Check::Log { role, contains } => self.log(role.as_ref(), contains).await,
            Check::Command { run, exit_code } => command(run, *exit_code).await,
            Check::Pods { .. } | Check::Resource { .. } | Check::Progress { .. } => {
                Answer::no_data("this probe is derived from a watch or the ledger and is never sampled")
            }
        }
    }

    /// The pod that a probe asks: the newest one that has not ended.
    fn target(&self, role: Option<&Role>) -> Result<LivePod, Answer> {
        match self.pods.member(role) {
            Some(pod) => Ok(pod),
            None if self.pods.is_listed() => Err(Answer::bad("the target has no running pod")),
            None => Err(Answer::no_data("the target's pods are not known yet")),
        }
    }

    async fn promql(&self, query: &str, is: Comparison) -> Answer {
        let Some(prometheus) = &self.prometheus else {
            return Answer::no_data("no Prometheus is configured");
        };
        match prometheus.evaluate(query, is).await {
            Ok(evaluation) => Answer {
                outcome: evaluation.outcome,
                value: evaluation.value,
                age: evaluation.age,
            },
            // Prometheus not answering says nothing about the system under test.
            Err(error) => Answer::no_data(error.to_string()),
        }
    }

    async fn http(&self, url: &str, status: u16, body_contains: Option<&str>, role: Option<&Role>) -> Answer {
        let mut url = url.to_owned();
        if url.contains("{podIP}") {
            let pod = match self.target(role) {
                Ok(pod) => pod,
                Err(answer) => return answer,
            };
            let Some(ip) = pod.ip else {
                return Answer::bad(format!("pod {} has no address yet", pod.facts.pod.name));
            };
            url = url.replace("{podIP}", &ip);
        }
        let response = match self.http.get(&url).send().await {
            Ok(response) => response,
            Err(error) => return Answer::bad(root_cause(&error)),
        };
        let code = response.status().as_u16();
        if code != status {
            return Answer::bad(format!("status {code}, wanted {status}"));
        }
        match body_contains {
            None => Answer::good(),
            Some(text) => match response.text().await {
                Ok(body) if body.contains(text) => Answer::good(),
                Ok(_body) => Answer::bad(format!("the body does not contain {text:?}")),
                Err(error) => Answer::bad(root_cause(&error)),
            },
        }
    }

    async fn metrics(&self, role: Option<&Role>, port: u16, path: &str, metric: &str, is: Comparison) -> Answer {
        let pod = match self.target(role) {
            Ok(pod) => pod,
            Err(answer) => return answer,
        };
        let name = &pod.facts.pod;
        match self.scrape(&name.namespace, &name.name, port, path).await {
            Err(why) => Answer::bad(format!("cannot scrape pod {}: {why}", name.name)),
            Ok(text) => {
                let values = metric_values(&text, metric);
                if values.is_empty() {
                    return Answer::bad(format!("pod {} exposes no metric {metric}", name.name));
                }
                match values.iter().find(|value| !is.holds(**value)) {
                    Some(value) => Answer {
                        value: Some(*value),
                        ..Answer::bad(format!("{metric} is {value}, wanted {is}"))
                    },
                    None => Answer {
                        value: values.first().copied(),
                        ..Answer::good()
                    },
                }
            }
        }
    }

    /// GET through the API server's port-forward, which reaches pods from outside the cluster network as well.
    async fn scrape(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String, String> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client(), namespace);
        let mut forwarder = api.portforward(pod, &[port]).await.map_err(|error| error.to_string())?;
        let stream = forwarder.take_stream(port).ok_or("the port was not forwarded")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, http_body_util::Empty<bytes::Bytes>>(
            hyper_util::rt::TokioIo::new(stream),
        )
        .await
        .map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get(path)
            .header(http::header::HOST, format!("{pod}:{port}"))
            .body(http_body_util::Empty::new())
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!("status {}", response.status()));
            }
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
        };
        let result = exchange.await;
        connection.abort();
        forwarder.abort();
        result
    }

    async fn log(&self, role: Option<&Role>, contains: &str) -> Answer {
        let pod = match self.target(role) {
            Ok(pod) => pod,
            Err(answer) => return answer,
        };
        let name = &pod.facts.pod;
        let known = |uid: &str| self.logged.lock().unwrap_or_else(PoisonError::into_inner).contains(uid);
        if known(&name.uid) {
            return Answer::good();
        }
        let api: Api<Pod> = Api::namespaced(self.cluster.client(), &name.namespace);
        let params = LogParams {
            container: pod.template.containers.first().cloned(),
            tail_lines: Some(5000),
            ..LogParams::default()
        };
        match self
            .cluster
            .call(
                format!("read the log of pod {}", name.name),
                api.logs(&name.name, &params),
            )
            .await
        {
            Ok(log) if log.lines().any(|line| line.contains(contains)) => {
                self.logged
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name.uid.clone());
                Answer::good()
            }
            Ok(_log) => Answer::bad(format!("no line with {contains:?} in the log of pod {}", name.name)),
            Err(error) => Answer::bad(error.to_string()),
        }
    }
}

async fn command(run: &[String], exit_code: i32) -> Answer {
    let Some((program, arguments)) = run.split_first() else {
        return Answer::no_data("the command is empty");
    };
    let started = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    match started {
        Ok(status) if status.code() == Some(exit_code) => Answer::good(),
        Ok(status) => Answer::bad(format!("{program}: {status}, wanted exit code {exit_code}")),
        Err(error) => Answer::no_data(format!("cannot start {program}: {error}")),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Values of a metric in the Prometheus text format. `name` alone matches every series of that name;
/// `name{label="value",..}` only those that carry all of these labels.
fn metric_values(text: &str, metric: &str) -> Vec<f64> {
    let (name, matchers) = match metric.split_once('{') {
        Some((name, labels)) => (name.trim(), label_pairs(labels.trim_end().trim_end_matches('}'))),
        None => (metric.trim(), Vec::new()),
    };
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once('}')?,
                None if rest.starts_with([' ', '\t']) => ("", rest),
                None => return None,
            };
            let held = label_pairs(labels);
            if !matchers.iter().all(|wanted| held.contains(wanted)) {
                return None;
            }
            value.split_whitespace().next()?.parse().ok()
        })
        .collect()
}

fn label_pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once("=\"") {
        let Some((value, next)) = after.split_once('"') else {
            break;
        };
        pairs.push((key.trim_matches([',', ' ']).to_owned(), value.to_owned()));
        rest = next;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_matched_by_whole_name_and_labels() {
        let text = "# HELP a x\na{b=\"1\",c=\"x y\"} 2\na{b=\"2\"} 3 1700000000\nab 4\na 5\n";
        assert_eq!(metric_values(text, "a"), [2.0, 3.0, 5.0]);
        assert_eq!(metric_values(text, "a{b=\"2\"}"), [3.0]);
        assert_eq!(metric_values(text, "a{c=\"x y\",b=\"1\"}"), [2.0]);
        assert_eq!(metric_values(text, "missing"), Vec::<f64>::new());
    }
}
