//! Prometheus by query, with the age of the samples taken into account.
//!
//! May depend on the pure half, reqwest and prometheus-http-query. Contract: a value older than two scrape intervals is no
//! data, however healthy it looks; the instant of an answer reaches back to the oldest sample it was computed from.

use crate::evidence::Outcome;
use crate::experiment::Comparison;
use crate::timeline::promql_outcome;
use prometheus_http_query::Client;
use prometheus_http_query::response::Data;
use promql_parser::parser::Expr;
use std::time::Duration;

/// A Prometheus that answers.
#[derive(Clone)]
pub(crate) struct Prometheus {
    client: Client,
    url: String,
    scrape_interval: Duration,
}

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
    /// Connects and reads the scrape interval of the slowest target.
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
        let targets = client.targets(None).await.map_err(|error| fail(error_text(&error)))?;
        let scrape_interval = targets
            .active()
            .iter()
            .map(|target| Duration::try_from(*target.scrape_interval()).unwrap_or_default())
            .max()
            .filter(|interval| !interval.is_zero())
            .unwrap_or(Duration::from_secs(60));
        Ok(Self {
            client,
            url: url.to_owned(),
            scrape_interval,
        })
    }

    /// Scrape interval of the slowest target.
    pub(crate) fn scrape_interval(&self) -> Duration {
        self.scrape_interval
    }

    /// Evaluates a query now: every series must satisfy the condition, no series is no data.
    ///
    /// # Errors
    /// When Prometheus does not answer or refuses the query.
    pub(crate) async fn evaluate(&self, query: &str, condition: Comparison) -> Result<Evaluation, PrometheusError> {
        let values = self.values(query).await?;
        let (age, missing) = self.oldest_sample(query).await?;
        let limit = self.scrape_interval * 2 + Duration::from_secs(1);
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
        let age = if missing {
            age.max(self.scrape_interval * 2)
        } else {
            age
        };
        Ok(Evaluation {
            outcome: promql_outcome(&values, condition),
            value: worst,
            age,
        })
    }

    async fn values(&self, query: &str) -> Result<Vec<f64>, PrometheusError> {
        let fail = |why: String| PrometheusError {
            url: self.url.clone(),
            why,
        };
        let answer = self
            .client
            .query(query)
            .get()
            .await
            .map_err(|error| fail(error_text(&error)))?;
        Ok(match answer.data() {
            Data::Vector(series) => series.iter().map(|series| series.sample().value()).collect(),
            Data::Scalar(sample) => vec![sample.value()],
            Data::Matrix(series) => series
                .iter()
                .filter_map(|series| series.samples().last())
                .map(prometheus_http_query::response::Sample::value)
                .collect(),
        })
    }

    /// Age of the oldest sample that any selector of the query finds (zero for constants), and whether a selector finds none.
    async fn oldest_sample(&self, query: &str) -> Result<(Duration, bool), PrometheusError> {
        let Ok(expression) = promql_parser::parser::parse(query) else {
            return Ok((Duration::ZERO, true));
        };
        let mut selectors = Vec::new();
        collect_selectors(&expression, &mut selectors);
        let mut oldest = 0.0_f64;
        let mut missing = false;
        for selector in selectors {
            let ages = self.values(&format!("max(time() - timestamp({selector}))")).await?;
            missing |= ages.is_empty();
            oldest = ages.into_iter().fold(oldest, f64::max);
        }
        Ok((Duration::try_from_secs_f64(oldest).unwrap_or_default(), missing))
    }
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
        let expression = promql_parser::parser::parse("sum(rate(a{b=\"c\"}[1m])) / max(d) or absent(e)").unwrap();
        let mut selectors = Vec::new();
        collect_selectors(&expression, &mut selectors);
        assert_eq!(selectors, ["a{b=\"c\"}", "d", "e"]);
    }
}
