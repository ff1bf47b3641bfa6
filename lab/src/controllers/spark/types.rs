//! The parts of a `SparkApplication` (`sparkoperator.k8s.io/v1beta2`) that the controller reads and writes.
//!
//! Pure data, may depend on serde only. Central types: [`SparkApplicationSpec`] and [`Status`]. Reading is lenient: a
//! field that the controller does not know is kept in the stored object and ignored here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// API group of the Kubeflow Spark Operator.
pub(crate) const GROUP: &str = "sparkoperator.k8s.io";
/// API version.
pub(crate) const VERSION: &str = "v1beta2";
/// Label on driver and executors: name of the `SparkApplication`.
pub(crate) const LABEL_APP_NAME: &str = "sparkoperator.k8s.io/app-name";
/// Label on driver and executors: a new UUID with each submission.
pub(crate) const LABEL_SUBMISSION_ID: &str = "sparkoperator.k8s.io/submission-id";
/// Label on driver and executors that the admission hook selects.
pub(crate) const LABEL_LAUNCHED: &str = "sparkoperator.k8s.io/launched-by-spark-operator";
/// Label that the admission hook leaves behind.
pub(crate) const LABEL_MUTATED: &str = "sparkoperator.k8s.io/mutated-by-spark-operator";
/// Spark's own label: `driver` or `executor`.
pub(crate) const LABEL_ROLE: &str = "spark-role";
/// Spark's own label: the application id, new with each run.
pub(crate) const LABEL_SELECTOR: &str = "spark-app-selector";
/// Name of the container in a driver pod.
pub(crate) const DRIVER_CONTAINER: &str = "spark-kubernetes-driver";
/// Name of the container in an executor pod.
pub(crate) const EXECUTOR_CONTAINER: &str = "spark-kubernetes-executor";

/// `spec` of a `SparkApplication`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SparkApplicationSpec {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) mode: Option<String>,
    pub(crate) proxy_user: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) image_pull_policy: Option<String>,
    pub(crate) image_pull_secrets: Vec<String>,
    pub(crate) spark_version: Option<String>,
    pub(crate) main_class: Option<String>,
    pub(crate) main_application_file: Option<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) spark_conf: BTreeMap<String, String>,
    pub(crate) hadoop_conf: BTreeMap<String, String>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) memory_overhead_factor: Option<String>,
    pub(crate) volumes: Vec<Value>,
    pub(crate) restart_policy: RestartPolicy,
    pub(crate) suspend: Option<bool>,
    pub(crate) time_to_live_seconds: Option<i64>,
    pub(crate) dynamic_allocation: Option<DynamicAllocation>,
    pub(crate) deps: Dependencies,
    pub(crate) driver: RoleSpec,
    pub(crate) executor: RoleSpec,
}

/// `spec.deps`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Dependencies {
    pub(crate) jars: Vec<String>,
    pub(crate) files: Vec<String>,
    pub(crate) py_files: Vec<String>,
    pub(crate) archives: Vec<String>,
    pub(crate) packages: Vec<String>,
    pub(crate) exclude_packages: Vec<String>,
    pub(crate) repositories: Vec<String>,
}

/// `spec.dynamicAllocation`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DynamicAllocation {
    pub(crate) enabled: bool,
    pub(crate) initial_executors: Option<i64>,
    pub(crate) min_executors: Option<i64>,
    pub(crate) max_executors: Option<i64>,
    pub(crate) shuffle_tracking_enabled: Option<bool>,
    pub(crate) shuffle_tracking_timeout: Option<i64>,
}

/// `spec.restartPolicy.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum RestartType {
    /// No restart whatever happened (also the meaning of an absent policy).
    #[default]
    Never,
    /// Restart after a failed run, within the budget.
    OnFailure,
    /// Restart after any end, without limit.
    Always,
}

/// `spec.restartPolicy`; intervals in seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RestartPolicy {
    #[serde(rename = "type")]
    pub(crate) kind: RestartType,
    pub(crate) on_failure_retries: Option<i64>,
    pub(crate) on_failure_retry_interval: Option<i64>,
    pub(crate) on_submission_failure_retries: Option<i64>,
    pub(crate) on_submission_failure_retry_interval: Option<i64>,
}

/// `spec.driver` and `spec.executor`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RoleSpec {
    pub(crate) image: Option<String>,
    pub(crate) cores: Option<i64>,
    pub(crate) core_request: Option<String>,
    pub(crate) core_limit: Option<String>,
    pub(crate) memory: Option<String>,
    pub(crate) memory_overhead: Option<String>,
    pub(crate) java_options: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) env_vars: BTreeMap<String, String>,
    pub(crate) env: Vec<Value>,
    pub(crate) env_from: Vec<Value>,
    pub(crate) ports: Vec<Value>,
    pub(crate) volume_mounts: Vec<Value>,
    pub(crate) tolerations: Vec<Value>,
    pub(crate) affinity: Option<Value>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) priority_class_name: Option<String>,
    pub(crate) scheduler_name: Option<String>,
    pub(crate) termination_grace_period_seconds: Option<i64>,
    pub(crate) sidecars: Vec<Value>,
    pub(crate) init_containers: Vec<Value>,
    pub(crate) lifecycle: Option<Value>,
    pub(crate) security_context: Option<Value>,
    pub(crate) pod_security_context: Option<Value>,
    pub(crate) host_network: Option<bool>,
    pub(crate) host_aliases: Vec<Value>,
    pub(crate) dns_config: Option<Value>,
    pub(crate) share_process_namespace: Option<bool>,
    pub(crate) config_maps: Vec<NamePath>,
    pub(crate) secrets: Vec<NamePath>,
    pub(crate) template: Option<Value>,
    // driver only
    pub(crate) service_account: Option<String>,
    pub(crate) kubernetes_master: Option<String>,
    pub(crate) pod_name: Option<String>,
    // executor only
    pub(crate) instances: Option<i64>,
    pub(crate) delete_on_termination: Option<bool>,
}

/// A `ConfigMap` or Secret and where it is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NamePath {
    pub(crate) name: String,
    pub(crate) path: String,
}

/// `status.applicationState.state`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum State {
    /// Just created.
    #[default]
    #[serde(rename = "")]
    New,
    /// Submitted; the driver pod is pending or was not seen yet.
    Submitted,
    /// `spark-submit` ended with an error.
    SubmissionFailed,
    /// The driver pod's phase is Running.
    Running,
    /// The run ended badly; a retry is considered.
    Failing,
    /// The run ended well; a rerun is considered.
    Succeeding,
    /// Waits until the objects of the last run are gone, then submits.
    PendingRerun,
    /// The spec was edited; the run is being removed.
    Invalidating,
    /// `suspend: true` was set; the run is being removed.
    Suspending,
    /// Suspended.
    Suspended,
    /// `suspend: false` was set; submits.
    Resuming,
    /// Ended well, for good.
    Completed,
    /// Ended badly, for good.
    Failed,
    /// The driver pod's phase is Unknown.
    Unknown,
}

impl State {
    /// Whether only an edit of the spec brings it back.
    pub(crate) const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// `status.applicationState`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ApplicationState {
    pub(crate) state: State,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) error_message: String,
}

/// `status.driverInfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DriverInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) pod_name: String,
    #[serde(rename = "webUIServiceName", skip_serializing_if = "String::is_empty")]
    pub(crate) web_ui_service_name: String,
    #[serde(rename = "webUIPort", skip_serializing_if = "Option::is_none")]
    pub(crate) web_ui_port: Option<i32>,
    #[serde(rename = "webUIAddress", skip_serializing_if = "String::is_empty")]
    pub(crate) web_ui_address: String,
}

/// `status.executorState` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ExecutorState {
    /// Pod phase Pending.
    Pending,
    /// Pod phase Running.
    Running,
    /// Pod phase Succeeded, or gone after the application completed.
    Completed,
    /// Pod phase Failed.
    Failed,
    /// Gone while the application was running, or phase Unknown.
    Unknown,
}

impl ExecutorState {
    /// Whether the executor will never run again.
    pub(crate) const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// `status` of a `SparkApplication`. All times have a resolution of one second, as `metav1.Time` has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) application_state: ApplicationState,
    pub(crate) driver_info: DriverInfo,
    #[serde(skip_serializing_if = "i64_is_zero")]
    pub(crate) execution_attempts: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) executor_state: BTreeMap<String, ExecutorState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_submission_attempt_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) spark_application_id: String,
    #[serde(skip_serializing_if = "i64_is_zero")]
    pub(crate) submission_attempts: i64,
    #[serde(rename = "submissionID", skip_serializing_if = "String::is_empty")]
    pub(crate) submission_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) termination_time: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn i64_is_zero(value: &i64) -> bool {
    *value == 0
}
