//! The driver's metrics, under the names that Spark's endpoints use.
//!
//! Depends on axum. Central type: [`Metrics`]; shared by the engine and the HTTP server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// What one executor did.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExecutorCounts {
    pub(crate) active: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
}

#[derive(Debug, Default)]
struct Numbers {
    batches: u64,
    failed_batches: u64,
    tasks_completed: u64,
    tasks_failed: u64,
    input_rate: f64,
    processing_rate: f64,
    latency_ms: u64,
    executors: BTreeMap<String, ExecutorCounts>,
}

/// Names and numbers of one driver.
#[derive(Debug)]
pub(crate) struct Metrics {
    prefix: String,
    query: String,
    application_id: String,
    application_name: String,
    numbers: Mutex<Numbers>,
}

impl Metrics {
    pub(crate) fn new(namespace: &str, query: &str, application_id: &str, application_name: &str) -> Self {
        Self {
            prefix: format!("metrics_{}_driver", sanitized(namespace)),
            query: sanitized(query),
            application_id: application_id.to_owned(),
            application_name: application_name.to_owned(),
            numbers: Mutex::new(Numbers::default()),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Numbers) -> T) -> T {
        // Numbers stay usable whatever another thread did while it held them.
        change(&mut self.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A batch was committed: records, its duration, and the time since the trigger before it.
    #[expect(clippy::cast_precision_loss, reason = "counts of one batch are far below 2^52")]
    pub(crate) fn batch(&self, records: u64, duration: std::time::Duration, since_last: std::time::Duration) {
        self.with(|numbers| {
            numbers.batches += 1;
            numbers.latency_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            numbers.processing_rate = records as f64 / duration.as_secs_f64().max(0.001);
            numbers.input_rate = records as f64 / since_last.as_secs_f64().max(0.001);
        });
    }

    pub(crate) fn batch_failed(&self) {
        self.with(|numbers| numbers.failed_batches += 1);
    }

    pub(crate) fn executor_joined(&self, id: &str) {
        self.with(|numbers| numbers.executors.insert(id.to_owned(), ExecutorCounts::default()));
    }

    pub(crate) fn executor_left(&self, id: &str) {
        self.with(|numbers| numbers.executors.remove(id));
    }

    pub(crate) fn task_started(&self, executor: &str) {
        self.with(|numbers| {
            if let Some(counts) = numbers.executors.get_mut(executor) {
                counts.active += 1;
            }
        });
    }

    pub(crate) fn task_ended(&self, executor: &str, well: bool) {
        self.with(|numbers| {
            if well {
                numbers.tasks_completed += 1;
            } else {
                numbers.tasks_failed += 1;
            }
            if let Some(counts) = numbers.executors.get_mut(executor) {
                counts.active = counts.active.saturating_sub(1);
                if well {
                    counts.completed += 1;
                } else {
                    counts.failed += 1;
                }
            }
        });
    }

    /// `/metrics/prometheus/`.
    pub(crate) fn driver_text(&self) -> String {
        self.with(|numbers| {
            let mut text = String::new();
            let streaming = format!("spark_streaming_{}", self.query);
            for (name, value) in [
                (format!("{streaming}_inputRate_total"), numbers.input_rate.to_string()),
                (
                    format!("{streaming}_processingRate_total"),
                    numbers.processing_rate.to_string(),
                ),
                (format!("{streaming}_latency"), numbers.latency_ms.to_string()),
            ] {
                for suffix in ["Number", "Value"] {
                    line(
                        &mut text,
                        &format!("{}_{name}_{suffix}", self.prefix),
                        "type=\"gauges\"",
                        &value,
                    );
                }
            }
            for (name, value) in [
                ("appStatus_jobs_succeededJobs", numbers.batches),
                ("appStatus_jobs_failedJobs", numbers.failed_batches),
                ("appStatus_tasks_completedTasks", numbers.tasks_completed),
                ("appStatus_tasks_failedTasks", numbers.tasks_failed),
            ] {
                line(
                    &mut text,
                    &format!("{}_{name}_Count", self.prefix),
                    "type=\"counters\"",
                    &value.to_string(),
                );
            }
            text
        })
    }

    /// `/metrics/executors/prometheus`.
    pub(crate) fn executors_text(&self) -> String {
        self.with(|numbers| {
            let mut text = String::new();
            line(
                &mut text,
                "spark_info",
                "version=\"built-in pipeline\", revision=\"\"",
                "1.0",
            );
            let driver = ("driver".to_owned(), ExecutorCounts::default());
            let all = std::iter::once((&driver.0, &driver.1)).chain(&numbers.executors);
            for (id, counts) in all {
                let labels = format!(
                    "application_id=\"{}\", application_name=\"{}\", executor_id=\"{id}\"",
                    self.application_id, self.application_name
                );
                let cores = u64::from(id != "driver");
                for (name, value) in [
                    ("activeTasks", counts.active),
                    ("failedTasks_total", counts.failed),
                    ("completedTasks_total", counts.completed),
                    ("totalTasks_total", counts.active + counts.failed + counts.completed),
                    ("totalCores", cores),
                    ("maxTasks", cores),
                ] {
                    line(
                        &mut text,
                        &format!("metrics_executor_{name}"),
                        &labels,
                        &value.to_string(),
                    );
                }
            }
            text
        })
    }
}

/// Serves the endpoints until dropped.
pub(crate) async fn serve(listener: tokio::net::TcpListener, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let text = |body: String| {
        (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            body,
        )
    };
    let driver = move |State(metrics): State<Arc<Metrics>>| async move { text(metrics.driver_text()).into_response() };
    let executors =
        move |State(metrics): State<Arc<Metrics>>| async move { text(metrics.executors_text()).into_response() };
    let root = || async { "built-in pipeline (a stand-in, not Apache Spark)\n" };
    let router = Router::new()
        .route("/", get(root))
        .route("/jobs/", get(root))
        .route("/metrics/prometheus", get(driver))
        .route("/metrics/prometheus/", get(driver))
        .route("/metrics/executors/prometheus", get(executors))
        .route("/metrics/executors/prometheus/", get(executors))
        .with_state(metrics);
    axum::serve(listener, router).await
}

fn line(text: &mut String, name: &str, labels: &str, value: &str) {
    for piece in [name, "{", labels, "} ", value, "\n"] {
        text.push_str(piece);
    }
}

fn sanitized(name: &str) -> String {
    name.chars()
        .map(|each| if each.is_ascii_alphanumeric() { each } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_sparks_names() {
        let metrics = Metrics::new("prod.orders", "q1", "spark-1", "orders");
        metrics.executor_joined("1");
        metrics.task_started("1");
        metrics.task_ended("1", true);
        metrics.batch(
            50,
            std::time::Duration::from_millis(100),
            std::time::Duration::from_secs(1),
        );
        let driver = metrics.driver_text();
        for expected in [
            "metrics_prod_orders_driver_spark_streaming_q1_inputRate_total_Value{type=\"gauges\"} 50\n",
            "metrics_prod_orders_driver_spark_streaming_q1_processingRate_total_Number{type=\"gauges\"} 500\n",
            "metrics_prod_orders_driver_spark_streaming_q1_latency_Value{type=\"gauges\"} 100\n",
            "metrics_prod_orders_driver_appStatus_jobs_succeededJobs_Count{type=\"counters\"} 1\n",
        ] {
            assert!(driver.contains(expected), "{expected} not in\n{driver}");
        }
        let executors = metrics.executors_text();
        assert!(executors.contains(
            "metrics_executor_completedTasks_total{application_id=\"spark-1\", application_name=\"orders\", executor_id=\"1\"} 1\n"
        ));
        metrics.executor_left("1");
        assert!(!metrics.executors_text().contains("executor_id=\"1\""));
    }
}
