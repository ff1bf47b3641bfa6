//! The controller itself: watches `SparkApplications` and their pods, asks [`super::state`], acts, writes the status.
//!
//! Depends on kube and on the pure parts beside it. Central type: [`SparkOperator`]. Contract: one reconciliation at a
//! time for an application, ten applications at a time; the newest object is read at each step (the operator reads a
//! cache there and can submit twice, its issue 2283: the lab does not); only the status is written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::controller::{Action as Next, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::builtin;
use super::crd::{CRD_NAME, spark_application_crd};
use super::state::{Action, Decision, DriverPod, Notice, Phase, Seen, Terminated, step, submitted, submitting};
use super::submission::{ApiAccess, Submission};
use super::submit::SparkSubmit;
use super::types::{
    DRIVER_CONTAINER, GROUP, LABEL_APP_NAME, LABEL_LAUNCHED, LABEL_ROLE, LABEL_SELECTOR, LABEL_SUBMISSION_ID,
    SparkApplicationSpec, Status, VERSION,
};
use super::webhook::{Owner, mutate_pod};
use crate::api::{AdmissionHook, Operation};

/// Port of Spark's UI.
const UI_PORT: i32 = 4040;
/// Applications that are reconciled at the same time.
const WORKERS: u16 = 10;
/// After an error of the API.
const ERROR_RETRY: Duration = Duration::from_secs(1);
/// The CRD must be served within this time.
const CRD_LIMIT: Duration = Duration::from_secs(10);

/// What the controller needs from the lab.
#[derive(Clone)]
pub struct SparkOperatorConfig {
    /// A client with all rights.
    pub client: kube::Client,
    /// Where the API server is.
    pub api: ApiAccess,
    /// A Spark distribution; without one only the built-in pipeline can be submitted.
    pub spark_home: Option<PathBuf>,
    /// Where submission logs go.
    pub submissions: PathBuf,
    /// The cgroup that `spark-submit` runs in.
    pub cgroup: Option<PathBuf>,
}

/// Why the controller could not do something. Submission failures are not errors but states.
#[derive(Debug, thiserror::Error)]
pub enum SparkOperatorError {
    /// A request to the API server failed.
    #[error("cannot {action} for SparkApplication {application}")]
    Api {
        /// What was attempted.
        action: &'static str,
        /// Namespace and name.
        application: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The resource definition could not be installed.
    #[error("cannot install the definition {CRD_NAME}")]
    Install(#[source] Box<kube::Error>),
    /// The resource definition is not served.
    #[error("the API server does not serve {CRD_NAME} within {} s", CRD_LIMIT.as_secs())]
    NotServed,
    /// An object could not be built.
    #[error("cannot build an object for SparkApplication {application}")]
    Object {
        /// Namespace and name.
        application: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// An application as the admission hook needs it.
#[derive(Clone)]
struct Known {
    uid: String,
    spec: Arc<SparkApplicationSpec>,
    /// The spec that was last acted on, without what may change without a restart.
    restart_relevant: Value,
}

/// The `SparkApplication` controller.
pub struct SparkOperator {
    config: SparkOperatorConfig,
    resource: ApiResource,
    /// By namespace and name.
    known: Mutex<BTreeMap<(String, String), Known>>,
}

/// One application in one reconciliation.
struct Application {
    namespace: String,
    name: String,
    uid: String,
    labels: BTreeMap<String, String>,
    spec: Arc<SparkApplicationSpec>,
    status: Status,
    spec_edited: bool,
    restart_relevant: Value,
}

impl Application {
    fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn api_error(&self, action: &'static str) -> impl FnOnce(kube::Error) -> SparkOperatorError {
        let application = self.title();
        move |source| SparkOperatorError::Api {
            action,
            application,
            source: Box::new(source),
        }
    }

    fn submission<'a>(&'a self, submission_id: &'a str) -> Submission<'a> {
        Submission {
            name: &self.name,
            namespace: &self.namespace,
            labels: &self.labels,
            spec: &self.spec,
            submission_id,
        }
    }

    fn owner_reference(&self) -> Value {
        json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "SparkApplication",
            "name": self.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }
}

impl SparkOperator {
    /// A controller that does nothing yet; see [`Self::install`] and [`Self::run`].
    #[must_use]
    pub fn new(config: SparkOperatorConfig) -> Arc<Self> {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(GROUP, VERSION, "SparkApplication"),
            "sparkapplications",
        );
        Arc::new(Self {
            config,
            resource,
            known: Mutex::new(BTreeMap::new()),
        })
    }

    /// The mutating webhook: to be called for every pod that is created, before it is stored.
    pub fn admit(&self, pod: &mut Value) {
        let label = |key: &str| {
            pod.get("metadata")
                .and_then(|metadata| metadata.get("labels"))
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
        };
        if label(LABEL_LAUNCHED) != Some("true") {
            return;
        }
        let Some(name) = label(LABEL_APP_NAME) else {
            return;
        };
        let namespace = pod
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            .unwrap_or("default");
        let key = (namespace.to_owned(), name.to_owned());
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        if let Some(known) = known {
            mutate_pod(
                pod,
                Owner {
                    name: &key.1,
                    uid: &known.uid,
                    spec: &known.spec,
                },
            );
        }
    }

    /// [`Self::admit`] as the API server takes it.
    #[must_use]
    pub fn admission_hook(self: &Arc<Self>) -> AdmissionHook {
        let operator = self.clone();
        Arc::new(move |resource, operation, object| {
            if resource.is("", "pods") && operation == Operation::Create {
                operator.admit(object);
            }
            Ok(())
        })
    }

    /// Installs the resource definition and waits until it is served.
    pub async fn install(&self) -> Result<(), SparkOperatorError> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.config.client.clone());
        let definition: CustomResourceDefinition =
            serde_json::from_value(spark_application_crd()).map_err(|source| SparkOperatorError::Object {
                application: CRD_NAME.to_owned(),
                source,
            })?;
        match definitions.create(&PostParams::default(), &definition).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return Err(SparkOperatorError::Install(Box::new(error))),
        }
        let served = async {
            while self.all().list(&ListParams::default().limit(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(CRD_LIMIT, served)
            .await
            .map_err(|_| SparkOperatorError::NotServed)
    }

    fn all(&self) -> Api<DynamicObject> {
        Api::all_with(self.config.client.clone(), &self.resource)
    }

    fn applications(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.config.client.clone(), namespace, &self.resource)
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.config.client.clone(), namespace)
    }

    fn services(&self, namespace: &str) -> Api<Service> {
        Api::namespaced(self.config.client.clone(), namespace)
    }

    /// Works until `stop` is cancelled. The definition must be installed.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let launched = watcher::Config::default().labels(&format!("{LABEL_LAUNCHED}=true"));
        let resource = self.resource.clone();
        let of_pod = move |pod: Pod| {
            let name = pod
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(LABEL_APP_NAME))
                .cloned();
            let namespace = pod.metadata.namespace;
            let resource = resource.clone();
            name.map(|name| ObjectRef::new_with(&name, resource).within(namespace.as_deref().unwrap_or("default")))
        };
        Controller::new_with(self.all(), watcher::Config::default(), self.resource.clone())
            .with_config(Config::default().concurrency(WORKERS))
            .watches(Api::<Pod>::all(self.config.client.clone()), launched, of_pod)
            .graceful_shutdown_on(stop.cancelled_owned())
            .run(
                |object, operator| async move { operator.reconcile(object).await },
                |object, error, _| {
                    tracing::warn!(
                        application = object.metadata.name.as_deref(),
                        %error,
                        cause = std::error::Error::source(error).map(ToString::to_string),
                        "will try again"
                    );
                    Next::requeue(ERROR_RETRY)
                },
                self,
            )
            .for_each(|_| futures::future::ready(()))
            .await;
    }

    async fn reconcile(self: Arc<Self>, object: Arc<DynamicObject>) -> Result<Next, SparkOperatorError> {
        let namespace = object
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let name = object.metadata.name.clone().unwrap_or_default();
        let key = (namespace.clone(), name.clone());
        let error = |source| SparkOperatorError::Api {
            action: "read the object",
            application: format!("{namespace}/{name}"),
            source: Box::new(source),
        };
        let fresh = match self.applications(&namespace).get_opt(&name).await.map_err(error)? {
            Some(fresh) if fresh.metadata.deletion_timestamp.is_none() => fresh,
            // What it owned is removed by garbage collection.
            _ => {
                self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                return Ok(Next::await_change());
            }
        };
        let application = match self.understand(fresh, &key) {
            Ok(application) => application,
            Err(error) => {
                tracing::warn!(application = name, %error, "a SparkApplication cannot be understood");
                return Ok(Next::await_change());
            }
        };
        let seen = self.look(&application).await?;
        let decision = step(
            &application.name,
            &application.spec,
            &application.status,
            &seen,
            jiff::Timestamp::now(),
        );
        let next = self.carry_out(&application, decision).await?;
        // Only now: an edit that could not be acted on must still be one at the next attempt.
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&key) {
            known.restart_relevant = application.restart_relevant;
        }
        Ok(next)
    }

    fn understand(&self, object: DynamicObject, key: &(String, String)) -> Result<Application, serde_json::Error> {
        let spec_value = object.data.get("spec").cloned().unwrap_or_else(|| json!({}));
        let spec: Arc<SparkApplicationSpec> = Arc::new(serde_json::from_value(spec_value.clone())?);
        let status = match object.data.get("status") {
            Some(status) if !status.is_null() => serde_json::from_value(status.clone())?,
            _ => Status::default(),
        };
        let uid = object.metadata.uid.unwrap_or_default();
        let mut restart_relevant = spec_value;
        if let Some(fields) = restart_relevant.as_object_mut() {
            fields.remove("suspend");
            fields.remove("timeToLiveSeconds");
        }
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let acted_on = all
            .get(key)
            .filter(|before| before.uid == uid)
            .map(|before| before.restart_relevant.clone());
        let spec_edited = acted_on.as_ref().is_some_and(|before| *before != restart_relevant);
        let known = Known {
            uid: uid.clone(),
            spec: spec.clone(),
            restart_relevant: acted_on.unwrap_or_else(|| restart_relevant.clone()),
        };
        all.insert(key.clone(), known);
        drop(all);
        Ok(Application {
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid,
            labels: object.metadata.labels.unwrap_or_default(),
            spec,
            status,
            spec_edited,
            restart_relevant,
        })
    }

    /// What the cluster holds for an application.
    async fn look(&self, application: &Application) -> Result<Seen, SparkOperatorError> {
        let mut seen = Seen {
            spec_edited: application.spec_edited,
            ..Seen::default()
        };
        let status = &application.status;
        if status.submission_id.is_empty() {
            return Ok(seen);
        }
        let selector = format!(
            "{LABEL_APP_NAME}={},{LABEL_SUBMISSION_ID}={}",
            application.name, status.submission_id
        );
        let pods = self
            .pods(&application.namespace)
            .list(&ListParams::default().labels(&selector))
            .await
            .map_err(application.api_error("list the pods"))?;
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let role = pod
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(LABEL_ROLE))
                .map(String::as_str);
            if name == status.driver_info.pod_name {
                seen.driver = Some(driver_pod(name, &pod));
            } else if role == Some("executor") {
                seen.executors.insert(name, phase(&pod));
            }
        }
        let service = application.submission(&status.submission_id).ui_service();
        seen.ui_service = self
            .services(&application.namespace)
            .get_metadata_opt(&service)
            .await
            .map_err(application.api_error("read the UI service"))?
            .is_some();
        Ok(seen)
    }

    async fn carry_out(&self, application: &Application, mut decision: Decision) -> Result<Next, SparkOperatorError> {
        for action in std::mem::take(&mut decision.actions) {
            match action {
                Action::DeleteRun => self.delete_run(application).await?,
                Action::DeleteApplication => {
                    ignore_missing(
                        self.applications(&application.namespace)
                            .delete(&application.name, &DeleteParams::background())
                            .await
                            .map(|_| ()),
                    )
                    .map_err(application.api_error("delete the expired object"))?;
                    return Ok(Next::await_change());
                }
                Action::Submit => {
                    let before = std::mem::take(&mut decision.notices);
                    let next = self.submit(application, &decision.status).await?;
                    decision.status = next.status;
                    decision.notices = before.into_iter().chain(next.notices).collect();
                }
            }
        }
        self.write_status(application, &decision.status).await?;
        for notice in &decision.notices {
            self.record(application, notice).await;
        }
        Ok(decision.requeue.map_or_else(Next::await_change, Next::requeue))
    }

    async fn submit(&self, application: &Application, status: &Status) -> Result<Decision, SparkOperatorError> {
        let submission_id = uuid::Uuid::new_v4().to_string();
        let submission = application.submission(&submission_id);
        let mut begun = submitting(
            status,
            submission_id.clone(),
            submission.driver_pod(),
            jiff::Timestamp::now(),
        );
        let address = self.create_ui_service(application, &submission).await?;
        begun.driver_info.web_ui_service_name = submission.ui_service();
        begun.driver_info.web_ui_port = Some(UI_PORT);
        begun.driver_info.web_ui_address = address;
        let image = application.spec.image.as_deref().unwrap_or("");
        let outcome = if builtin::is_builtin(image) {
            self.submit_builtin(application, &submission).await
        } else if let Some(spark_home) = self
            .config
            .spark_home
            .clone()
            .filter(|home| home.join("bin/spark-submit").exists())
        {
            let submit = SparkSubmit {
                spark_home,
                folder: self.config.submissions.clone(),
                cgroup: self.config.cgroup.clone(),
                api: self.config.api.clone(),
            };
            submit.run(&submission).await
        } else {
            Err(
                "Apache Spark is not installed here (see scripts/install-spark.sh); the image chaosrun/pipeline \
                 runs the built-in stand-in instead"
                    .to_owned(),
            )
        };
        Ok(submitted(&application.name, &begun, outcome))
    }

    async fn submit_builtin(&self, application: &Application, submission: &Submission<'_>) -> Result<(), String> {
        let random = format!("{:016x}", rand::random::<u64>());
        let objects = builtin::objects(submission, &self.config.api, &random)?;
        let pod: Pod = serde_json::from_value(objects.driver).map_err(|error| error.to_string())?;
        let made = self
            .pods(&application.namespace)
            .create(&PostParams::default(), &pod)
            .await
            .map_err(|error| format!("cannot create the driver pod: {error}"))?;
        let mut service = objects.service;
        if let Some(metadata) = service.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert(
                "ownerReferences".to_owned(),
                json!([{
                    "apiVersion": "v1", "kind": "Pod", "name": made.metadata.name, "uid": made.metadata.uid,
                    "controller": true, "blockOwnerDeletion": true,
                }]),
            );
        }
        let service: Service = serde_json::from_value(service).map_err(|error| error.to_string())?;
        self.services(&application.namespace)
            .create(&PostParams::default(), &service)
            .await
            .map(|_| ())
            .map_err(|error| format!("cannot create the driver service: {error}"))
    }

    /// Gives the address of the UI, when the service has one.
    async fn create_ui_service(
        &self,
        application: &Application,
        submission: &Submission<'_>,
    ) -> Result<String, SparkOperatorError> {
        let labels = json!({LABEL_APP_NAME: application.name, LABEL_SUBMISSION_ID: submission.submission_id});
        let service: Service = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": submission.ui_service(),
                "namespace": application.namespace,
                "labels": labels,
                "ownerReferences": [application.owner_reference()],
            },
            "spec": {
                "type": "ClusterIP",
                "selector": {LABEL_APP_NAME: application.name, LABEL_ROLE: "driver"},
                "ports": [{"name": "spark-driver-ui-port", "port": UI_PORT, "targetPort": UI_PORT}],
            },
        }))
        .map_err(|source| SparkOperatorError::Object {
            application: application.title(),
            source,
        })?;
        let made = match self
            .services(&application.namespace)
            .create(&PostParams::default(), &service)
            .await
        {
            Ok(made) => Some(made),
            // A submission that failed left it.
            Err(kube::Error::Api(answer)) if answer.code == 409 => self
                .services(&application.namespace)
                .get_opt(&submission.ui_service())
                .await
                .map_err(application.api_error("read the UI service"))?,
            Err(error) => return Err(application.api_error("create the UI service")(error)),
        };
        let ip = made.and_then(|service| service.spec).and_then(|spec| spec.cluster_ip);
        Ok(ip.map(|ip| format!("{ip}:{UI_PORT}")).unwrap_or_default())
    }

    async fn delete_run(&self, application: &Application) -> Result<(), SparkOperatorError> {
        let submission = application.submission(&application.status.submission_id);
        let driver = submission.driver_pod();
        ignore_missing(
            self.pods(&application.namespace)
                .delete(&driver, &DeleteParams::default())
                .await
                .map(|_| ()),
        )
        .map_err(application.api_error("delete the driver pod"))?;
        ignore_missing(
            self.services(&application.namespace)
                .delete(&submission.ui_service(), &DeleteParams::default())
                .await
                .map(|_| ()),
        )
        .map_err(application.api_error("delete the UI service"))
    }

    async fn write_status(&self, application: &Application, status: &Status) -> Result<(), SparkOperatorError> {
        let object = |source| SparkOperatorError::Object {
            application: application.title(),
            source,
        };
        let before = serde_json::to_value(&application.status).map_err(object)?;
        let after = serde_json::to_value(status).map_err(object)?;
        // A new object has no status at all: the state is written even when it is the default.
        if before == after {
            return Ok(());
        }
        let patch = json!({"status": difference(&before, &after)});
        let written = self
            .applications(&application.namespace)
            .patch_status(&application.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(|_| ());
        ignore_missing(written).map_err(application.api_error("write the status"))
    }

    /// Events are for people: one that cannot be written stops nothing.
    async fn record(&self, application: &Application, notice: &Notice) {
        let now = jiff::Timestamp::now();
        let stamp = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        let event: Result<Event, _> = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": format!("{}.{:016x}", application.name, rand::random::<u64>()),
                "namespace": application.namespace,
            },
            "involvedObject": {
                "apiVersion": format!("{GROUP}/{VERSION}"),
                "kind": "SparkApplication",
                "name": application.name,
                "namespace": application.namespace,
                "uid": application.uid,
            },
            "type": if notice.warning { "Warning" } else { "Normal" },
            "reason": notice.reason,
            "message": notice.message,
            "source": {"component": "spark-application-controller"},
            "reportingComponent": "spark-application-controller",
            "reportingInstance": "",
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
        }));
        let events: Api<Event> = Api::namespaced(self.config.client.clone(), &application.namespace);
        let outcome = match event {
            Ok(event) => events
                .create(&PostParams::default(), &event)
                .await
                .map(|_| ())
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = outcome {
            tracing::warn!(
                application = application.name,
                reason = notice.reason,
                error,
                "cannot record an event"
            );
        }
    }
}

fn ignore_missing(outcome: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        other => other,
    }
}

fn phase(pod: &Pod) -> Phase {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some("Unknown") => Phase::Unknown,
        _ => Phase::Pending,
    }
}

fn driver_pod(name: String, pod: &Pod) -> DriverPod {
    let terminated = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref())
        .and_then(|all| all.iter().find(|each| each.name == DRIVER_CONTAINER))
        .and_then(|container| container.state.as_ref())
        .and_then(|state| state.terminated.as_ref())
        .map(|end| Terminated {
            exit_code: end.exit_code,
            reason: end.reason.clone().unwrap_or_default(),
        });
    let application_id = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(LABEL_SELECTOR))
        .cloned();
    DriverPod {
        name,
        phase: phase(pod),
        application_id: application_id.unwrap_or_default(),
        terminated,
    }
}

/// A merge patch that makes `after` of `before`.
fn difference(before: &Value, after: &Value) -> Value {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else {
        return after.clone();
    };
    let mut patch = serde_json::Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(same) if same == value => {}
            Some(other) if other.is_object() && value.is_object() => {
                patch.insert(key.clone(), difference(other, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_patch_removes_what_is_gone_and_leaves_what_stays() {
        let before = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": 3});
        let after = json!({"a": 1, "b": {"c": 5}, "f": 4});
        assert_eq!(
            difference(&before, &after),
            json!({"b": {"c": 5, "d": null}, "f": 4, "e": null})
        );
        let mut patched = before.clone();
        json_patch::merge(&mut patched, &difference(&before, &after));
        assert_eq!(patched, after);
    }
}
