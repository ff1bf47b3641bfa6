//! What the `SparkApplication` controller tells the built-in driver, in one environment variable.
//!
//! Pure data. Central type: [`Settings`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The variable that holds [`Settings`] as JSON.
pub(crate) const SETTINGS_VARIABLE: &str = "CHAOSRUN_PIPELINE_SETTINGS";
/// Port on which the driver waits for its executors (Spark's driver-rpc-port).
pub(crate) const DRIVER_PORT: u16 = 7078;
/// Port of metrics (Spark's UI port).
pub(crate) const UI_PORT: u16 = 4040;

/// What a driver must know about itself and its executors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    /// Name of the `SparkApplication`.
    pub(crate) application_name: String,
    /// New with each run; label `spark-app-selector`.
    pub(crate) application_id: String,
    pub(crate) namespace: String,
    /// Name of the driver's own pod.
    pub(crate) driver_pod: String,
    /// Executors are named `<prefix>-exec-<n>`.
    pub(crate) executor_prefix: String,
    pub(crate) executor_instances: usize,
    pub(crate) executor_image: String,
    pub(crate) executor_memory: Option<String>,
    pub(crate) executor_labels: BTreeMap<String, String>,
    pub(crate) executor_annotations: BTreeMap<String, String>,
    pub(crate) service_account: Option<String>,
    /// Where the API server is; without it what the pod's environment says.
    pub(crate) api_url: Option<String>,
    /// `spark.metrics.namespace`; the application id without it.
    pub(crate) metrics_namespace: Option<String>,
}
