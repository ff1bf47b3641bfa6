//! Prometheus by query, with the age of the samples taken into account.
//!
//! May depend on the pure half, reqwest and prometheus-http-query. Contract: a value older than two scrape intervals is no
//! data, however healthy it looks; the instant of an answer reaches back to the oldest sample it was computed from.

use crate::evidence::Outcome;
use crate::experiment::Comparison;
use crate::stats::clock::{Exchange, offset_bounds};
use crate::timeline::promql_outcome;
use prometheus_http_query::Client;
use prometheus_http_query::response::{Data, InstantVector};
use promql_parser::parser::Expr;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A Prometheus that answers.
#[derive(Clone)]
pub(crate) struct Prometheus {
    client: Client,
    url: String,
    /// What it scrapes, as (job, instance), and how often.
    targets: Arc<BTreeMap<(String, String), Duration>>,
    /// Scrape interval behind a query, as far as it is known.
    intervals: Arc<Mutex<BTreeMap<String, Duration>>>,
}

/// Where no target says how often it is scraped: Prometheus' own default.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// A query failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot query Prometheus at {url}: {why}")]
pub(crate) struct PrometheusError {
    url: String,
    why: String,
}

/// One evaluated condition.
#[derive(Debug, Clone)]
pub(crate) struct Evaluation {
    /// Good, bad, or no data.
    pub(crate) outcome: Outcome,
    /// The value furthest from good, when there was one.
    pub(crate) value: Option<f64>,
    /// Age of the oldest sample behind it.
    pub(crate) age: Duration,
}

impl Prometheus {
    /// Connects and reads the scrape intervals of its targets.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn connect(url: &str) -> Result<Self, PrometheusError> {
        let fail = |why: String| PrometheusError {
            url: url.to_owned(),
            why,
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(10))
            .build()
            .map_err(|error| fail(error.to_string()))?;
        let client = Client::from(http, url).map_err(|error| fail(error.to_string()))?;
        let answer = client.targets(None).await.map_err(|error| fail(error_text(&error)))?;
        let mut targets: BTreeMap<(String, String), Duration> = BTreeMap::new();
        for target in answer.active() {
            let interval = Duration::try_from(*target.scrape_interval()).unwrap_or(DEFAULT_INTERVAL);
            let known = targets.entry(source(target.labels())).or_default();
            *known = interval.max(*known);
        }
        Ok(Self {
            client,
            url: url.to_owned(),
            targets: Arc::new(targets),
            intervals: Arc::default(),
        })
    }

    /// How often the slowest of the targets behind a query is scraped; as long as none is found, the slowest of all.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub(crate) async fn scrape_interval(&self, query: &str) -> Result<Duration, PrometheusError> {
        if let Some(known) = self.intervals.lock().unwrap_or_else(PoisonError::into_inner).get(query) {
            return Ok(*known);
        }
        let mut slowest = None;
        for selector in selectors(query) {
            for series in self.vector(&format!("count by (job, instance) ({selector})")).await? {
                slowest = slowest.max(self.targets.get(&source(series.metric())).copied());
            }
        }
        let Some(found) = slowest else {
            return Ok(self.targets.values().max().copied().unwrap_or(DEFAULT_INTERVAL));
        };
        let mut intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        intervals.insert(query.to_owned(), found);
        Ok(found)
    }

    /// Evaluates a query now: every series must satisfy the condition, no series is no data.
    ///
    /// # Errors
    /// When Prometheus does not answer or refuses the query.
    pub(crate) async fn evaluate(&self, query: &str, condition: Comparison) -> Result<Evaluation, PrometheusError> {
        let values = self.values(query).await?;
        let (age, missing) = self.oldest_sample(query).await?;
        let interval = self.scrape_interval(query).await?;
        let limit = interval * 2 + Duration::from_secs(1);
        let worst = values
            .iter()
            .copied()
            .find(|value| !condition.holds(*value))
            .or_else(|| values.first().copied());
        if age > limit {
            let why = format!(
                "the samples are {:.1} s old, more than two scrape intervals",
                age.as_secs_f64()
            );
            return Ok(Evaluation {
                outcome: Outcome::NoData { why },
                value: worst,
                age,
            });
        }
        // Where a selector finds nothing, the answer is about an absence, which has no stamp: a target that has come or gone is
        // noticed up to two intervals late.
        let age = if missing { age.max(interval * 2) } else { age };
        Ok(Evaluation {
            outcome: promql_outcome(&values, condition),
            value: worst,
            age,
        })
    }

    /// Bounds of `Prometheus' clock - runner's wall clock` in milliseconds, from three questions for its time; none when it does not
    /// answer, or stepped meanwhile. Measured instants do not rest on it: the age of a sample is taken on Prometheus' own clock.
    pub(crate) async fn clock_offset(&self) -> Option<(f64, f64)> {
        let now = || jiff::Timestamp::now().as_millisecond();
        let mut exchanges = Vec::new();
        for _ in 0..3 {
            let sent = now();
            let stamp = *self.values("time()").await.ok()?.first()?;
            let received = now() + 1;
            exchanges.push(Exchange {
                sent: milliseconds(sent),
                received: milliseconds(received),
                stamp: stamp * 1000.0,
            });
        }
        // It answers in milliseconds.
        offset_bounds(&exchanges, 1.0).ok().flatten()
    }

    async fn values(&self, query: &str) -> Result<Vec<f64>, PrometheusError> {
        Ok(match self.ask(query).await? {
            Data::Vector(series) => series.iter().map(|series| series.sample().value()).collect(),
            Data::Scalar(sample) => vec![sample.value()],
            Data::Matrix(series) => series
                .iter()
                .filter_map(|series| series.samples().last())
                .map(prometheus_http_query::response::Sample::value)
                .collect(),
        })
    }

    async fn vector(&self, query: &str) -> Result<Vec<InstantVector>, PrometheusError> {
        Ok(match self.ask(query).await? {
            Data::Vector(series) => series,
            Data::Scalar(_) | Data::Matrix(_) => Vec::new(),
        })
    }

    async fn ask(&self, query: &str) -> Result<Data, PrometheusError> {
        let answer = self.client.query(query).get().await;
        answer
            .map(|answer| answer.data().clone())
            .map_err(|error| PrometheusError {
                url: self.url.clone(),
                why: error_text(&error),
            })
    }

    /// Age of the oldest sample that any selector of the query finds (zero for constants), and whether a selector finds none.
    async fn oldest_sample(&self, query: &str) -> Result<(Duration, bool), PrometheusError> {
        let mut oldest = 0.0_f64;
        let mut missing = false;
        for selector in selectors(query) {
            let ages = self.values(&format!("max(time() - timestamp({selector}))")).await?;
            missing |= ages.is_empty();
            oldest = ages.into_iter().fold(oldest, f64::max);
        }
        Ok((Duration::try_from_secs_f64(oldest).unwrap_or_default(), missing))
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch stay below 2^53")]
fn milliseconds(wall: i64) -> f64 {
    wall as f64
}

fn error_text(error: &prometheus_http_query::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// A target as its series name it.
fn source(labels: &HashMap<String, String>) -> (String, String) {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    (label("job"), label("instance"))
}

/// The selectors of a query; none of one that cannot be parsed, which Prometheus will say itself.
fn selectors(query: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(expression) = promql_parser::parser::parse(query) {
        collect_selectors(&expression, &mut found);
    }
    found
}

/// The instant-vector selectors of an expression, those inside range selectors included.
fn collect_selectors(expression: &Expr, selectors: &mut Vec<String>) {
    match expression {
        Expr::Aggregate(inner) => collect_selectors(&inner.expr, selectors),
        Expr::Unary(inner) => collect_selectors(&inner.expr, selectors),
        Expr::Binary(inner) => {
            collect_selectors(&inner.lhs, selectors);
            collect_selectors(&inner.rhs, selectors);
        }
        Expr::Paren(inner) => collect_selectors(&inner.expr, selectors),
        Expr::Subquery(inner) => collect_selectors(&inner.expr, selectors),
        Expr::VectorSelector(selector) => selectors.push(selector.to_string()),
        Expr::MatrixSelector(selector) => selectors.push(selector.vs.to_string()),
        Expr::Call(call) => {
            for argument in &call.args.args {
                collect_selectors(argument, selectors);
            }
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_inside_functions_and_ranges_are_found() {
        let found = selectors("sum(rate(a{b=\"c\"}[1m])) / max(d) or absent(e)");
        assert_eq!(found, ["a{b=\"c\"}", "d", "e"]);
    }
}
