//! Submission of the built-in pipeline: the objects that `spark-submit` would have created, without a JVM.
//!
//! Pure. Central function: [`objects`]. Contract: names, labels, owner and ports as Spark's, and a label that says that
//! this is the stand-in.

use serde_json::{Value, json};

use super::submission::{ApiAccess, Submission};
use super::types::DRIVER_CONTAINER;
use crate::pipeline::{DRIVER_PORT, SETTINGS_VARIABLE, Settings, UI_PORT};

/// Image of the built-in pipeline, without registry and tag.
pub(crate) const IMAGE: &str = "chaosrun/pipeline";
/// Label on everything that belongs to the stand-in.
pub(crate) const LABEL_STAND_IN: &str = "chaosrun.dev/stand-in";

/// What a submission creates, in this order.
pub(crate) struct Objects {
    pub(crate) driver: Value,
    /// To be given the driver pod's UID as owner.
    pub(crate) service: Value,
}

/// Whether an image reference means the built-in pipeline.
pub(crate) fn is_builtin(image: &str) -> bool {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    name == IMAGE || name.strip_suffix(IMAGE).is_some_and(|registry| registry.ends_with('/'))
}

/// The driver pod and its headless service. `random` makes names unique: 16 hexadecimal digits.
pub(crate) fn objects(submission: &Submission<'_>, api: &ApiAccess, random: &str) -> Result<Objects, String> {
    let spec = submission.spec;
    let image = spec.image.clone().ok_or("spec.image is missing")?;
    let application_id = format!("spark-{random}{random}");
    let prefix = format!("{}-{random}", submission.name);
    let driver_pod = submission.driver_pod();
    let mut labels = submission.pod_labels(&spec.driver);
    let mut executor_labels = submission.pod_labels(&spec.executor);
    for each in [&mut labels, &mut executor_labels] {
        each.insert(LABEL_STAND_IN.to_owned(), "built-in-pipeline".to_owned());
        each.insert("spark-version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        each.insert("spark-app-name".to_owned(), submission.name.to_owned());
    }
    labels.insert("spark-role".to_owned(), "driver".to_owned());
    labels.insert("spark-app-selector".to_owned(), application_id.clone());
    let settings = Settings {
        application_name: submission.name.to_owned(),
        application_id,
        namespace: submission.namespace.to_owned(),
        driver_pod: driver_pod.clone(),
        executor_prefix: prefix.clone(),
        executor_instances: spec
            .executor
            .instances
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(1),
        executor_image: spec.executor.image.clone().unwrap_or_else(|| image.clone()),
        executor_memory: spec.executor.memory.clone(),
        executor_labels,
        executor_annotations: spec.executor.annotations.clone(),
        service_account: spec
            .executor
            .service_account
            .clone()
            .or_else(|| spec.driver.service_account.clone()),
        api_url: Some(
            spec.driver
                .kubernetes_master
                .clone()
                .unwrap_or_else(|| api.from_pods.clone()),
        ),
        metrics_namespace: spec.spark_conf.get("spark.metrics.namespace").cloned(),
    };
    let settings_text = serde_json::to_string(&settings).map_err(|error| error.to_string())?;
    let mut args = vec!["driver".to_owned()];
    args.extend(spec.arguments.iter().cloned());
    let driver = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": driver_pod,
            "namespace": submission.namespace,
            "labels": labels,
            "annotations": spec.driver.annotations,
        },
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": spec.driver.service_account,
            "containers": [{
                "name": DRIVER_CONTAINER,
                "image": spec.driver.image.clone().unwrap_or(image),
                "args": args,
                "env": [
                    {"name": SETTINGS_VARIABLE, "value": settings_text},
                    {"name": "SPARK_APPLICATION_ID", "value": settings.application_id},
                    {"name": "SPARK_DRIVER_BIND_ADDRESS",
                     "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
                ],
                "ports": [
                    {"name": "driver-rpc-port", "containerPort": DRIVER_PORT, "protocol": "TCP"},
                    {"name": "spark-ui", "containerPort": UI_PORT, "protocol": "TCP"},
                ],
                "resources": {"requests": {"cpu": "100m"}},
            }],
        },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": format!("{prefix}-driver-svc"),
            "namespace": submission.namespace,
            "labels": {"spark-app-selector": settings.application_id},
        },
        "spec": {
            "clusterIP": "None",
            "selector": labels,
            "ports": [
                {"name": "driver-rpc-port", "port": DRIVER_PORT, "targetPort": DRIVER_PORT},
                {"name": "spark-ui", "port": UI_PORT, "targetPort": UI_PORT},
            ],
        },
    });
    Ok(Objects { driver, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_built_in_image_is_the_built_in_image() {
        for image in [
            "chaosrun/pipeline",
            "chaosrun/pipeline:1",
            "docker.io/chaosrun/pipeline:1@sha256:0",
            "r:5000/chaosrun/pipeline",
        ] {
            assert!(is_builtin(image), "{image}");
        }
        for image in [
            "apache/spark:4.0.1",
            "notchaosrun/pipeline",
            "chaosrun/pipeline2",
            "chaosrun/pipeline/x",
        ] {
            assert!(!is_builtin(image), "{image}");
        }
    }
}
