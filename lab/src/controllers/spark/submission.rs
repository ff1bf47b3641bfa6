//! From a `SparkApplication` to the arguments of `spark-submit`, as the operator builds them.
//!
//! Pure, depends on [`super::types`] only. Central type: [`Submission`]. Contract: the same names and labels as the
//! operator gives; what `spark-submit` cannot say is left to [`super::webhook`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::types::{LABEL_APP_NAME, LABEL_LAUNCHED, LABEL_SUBMISSION_ID, RoleSpec, SparkApplicationSpec};

/// Where the API server is, from both sides, and how to prove who asks.
#[derive(Debug, Clone)]
pub struct ApiAccess {
    /// URL for processes of the lab, such as `spark-submit`.
    pub from_host: String,
    /// URL for pods.
    pub from_pods: String,
    /// Bearer token for submissions.
    pub token: String,
    /// The certificate authority of the API server, PEM.
    pub ca_file: PathBuf,
}

/// One submission of one application.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_field_names,
    reason = "the label and the status field are called submission id"
)]
pub(crate) struct Submission<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    /// Labels of the `SparkApplication`; they are handed on to the pods.
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) spec: &'a SparkApplicationSpec,
    pub(crate) submission_id: &'a str,
}

impl Submission<'_> {
    /// Name of the driver pod: the same in every run.
    pub(crate) fn driver_pod(&self) -> String {
        self.spec
            .driver
            .pod_name
            .clone()
            .or_else(|| self.spec.spark_conf.get("spark.kubernetes.driver.pod.name").cloned())
            .unwrap_or_else(|| format!("{}-driver", self.name))
    }

    /// Name of the UI service. Names over 63 characters are not service names; the operator cuts and hashes them, the
    /// lab cuts.
    pub(crate) fn ui_service(&self) -> String {
        let base: String = self.name.chars().take(63 - "-ui-svc".len()).collect();
        format!("{base}-ui-svc")
    }

    /// Labels on driver and executors, from weak to strong.
    pub(crate) fn pod_labels(&self, role: &RoleSpec) -> BTreeMap<String, String> {
        let mut labels: BTreeMap<String, String> = self
            .labels
            .iter()
            .filter(|(key, _)| !key.starts_with("kueue.x-k8s.io/"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        labels.extend(role.labels.clone());
        labels.insert(LABEL_APP_NAME.to_owned(), self.name.to_owned());
        labels.insert(LABEL_LAUNCHED.to_owned(), "true".to_owned());
        labels.insert(LABEL_SUBMISSION_ID.to_owned(), self.submission_id.to_owned());
        labels
    }

    /// The properties. What the user wrote in `sparkConf` comes first and is overruled by the typed fields.
    pub(crate) fn properties(&self, api: &ApiAccess) -> BTreeMap<String, String> {
        let spec = self.spec;
        let mut conf: BTreeMap<String, String> = spec.spark_conf.clone();
        for (key, value) in &spec.hadoop_conf {
            conf.insert(format!("spark.hadoop.{key}"), value.clone());
        }
        let mut put = |key: &str, value: String| {
            conf.insert(key.to_owned(), value);
        };
        put("spark.kubernetes.namespace", self.namespace.to_owned());
        put("spark.kubernetes.driver.pod.name", self.driver_pod());
        put("spark.kubernetes.submission.waitAppCompletion", "false".to_owned());
        put("spark.kubernetes.submitInDriver", "true".to_owned());
        put(
            "spark.kubernetes.driver.master",
            spec.driver
                .kubernetes_master
                .clone()
                .unwrap_or_else(|| api.from_pods.clone()),
        );
        put("spark.kubernetes.authenticate.submission.oauthToken", api.token.clone());
        put(
            "spark.kubernetes.authenticate.submission.caCertFile",
            api.ca_file.display().to_string(),
        );
        optional(&mut put, "spark.kubernetes.container.image", spec.image.clone());
        optional(
            &mut put,
            "spark.kubernetes.container.image.pullPolicy",
            spec.image_pull_policy.clone(),
        );
        if !spec.image_pull_secrets.is_empty() {
            put(
                "spark.kubernetes.container.image.pullSecrets",
                spec.image_pull_secrets.join(","),
            );
        }
        optional(
            &mut put,
            "spark.kubernetes.memoryOverheadFactor",
            spec.memory_overhead_factor.clone(),
        );
        for (key, list) in [
            ("spark.jars", &spec.deps.jars),
            ("spark.files", &spec.deps.files),
            ("spark.submit.pyFiles", &spec.deps.py_files),
            ("spark.archives", &spec.deps.archives),
            ("spark.jars.packages", &spec.deps.packages),
            ("spark.jars.excludes", &spec.deps.exclude_packages),
            ("spark.jars.repositories", &spec.deps.repositories),
        ] {
            if !list.is_empty() {
                put(key, list.join(","));
            }
        }
        self.role(&mut put, "driver", &spec.driver);
        self.role(&mut put, "executor", &spec.executor);
        optional(
            &mut put,
            "spark.kubernetes.authenticate.driver.serviceAccountName",
            spec.driver.service_account.clone(),
        );
        optional(
            &mut put,
            "spark.kubernetes.authenticate.executor.serviceAccountName",
            spec.executor.service_account.clone(),
        );
        optional(
            &mut put,
            "spark.executor.instances",
            spec.executor.instances.map(|count| count.to_string()),
        );
        optional(
            &mut put,
            "spark.kubernetes.executor.deleteOnTermination",
            spec.executor.delete_on_termination.map(|on| on.to_string()),
        );
        self.dynamic_allocation(&mut put);
        conf
    }

    fn role(&self, put: &mut impl FnMut(&str, String), name: &str, role: &RoleSpec) {
        for (key, value) in self.pod_labels(role) {
            put(&format!("spark.kubernetes.{name}.label.{key}"), value);
        }
        for (key, value) in &role.annotations {
            put(&format!("spark.kubernetes.{name}.annotation.{key}"), value.clone());
        }
        for (key, value) in &role.env_vars {
            let key = if name == "driver" {
                format!("spark.kubernetes.driverEnv.{key}")
            } else {
                format!("spark.executorEnv.{key}")
            };
            put(&key, value.clone());
        }
        for secret in &role.secrets {
            put(
                &format!("spark.kubernetes.{name}.secrets.{}", secret.name),
                secret.path.clone(),
            );
        }
        optional(
            put,
            &format!("spark.{name}.cores"),
            role.cores.map(|cores| cores.to_string()),
        );
        optional(
            put,
            &format!("spark.kubernetes.{name}.request.cores"),
            role.core_request.clone(),
        );
        optional(
            put,
            &format!("spark.kubernetes.{name}.limit.cores"),
            role.core_limit.clone(),
        );
        optional(put, &format!("spark.{name}.memory"), role.memory.clone());
        optional(
            put,
            &format!("spark.{name}.memoryOverhead"),
            role.memory_overhead.clone(),
        );
        optional(
            put,
            &format!("spark.{name}.extraJavaOptions"),
            role.java_options.clone(),
        );
        optional(
            put,
            &format!("spark.kubernetes.{name}.container.image"),
            role.image.clone(),
        );
    }

    fn dynamic_allocation(&self, put: &mut impl FnMut(&str, String)) {
        let Some(dynamic) = self.spec.dynamic_allocation.as_ref().filter(|dynamic| dynamic.enabled) else {
            return;
        };
        put("spark.dynamicAllocation.enabled", "true".to_owned());
        put(
            "spark.dynamicAllocation.shuffleTracking.enabled",
            dynamic.shuffle_tracking_enabled.unwrap_or(true).to_string(),
        );
        for (key, value) in [
            ("initialExecutors", dynamic.initial_executors),
            ("minExecutors", dynamic.min_executors),
            ("maxExecutors", dynamic.max_executors),
        ] {
            optional(
                put,
                &format!("spark.dynamicAllocation.{key}"),
                value.map(|count| count.to_string()),
            );
        }
        optional(
            put,
            "spark.dynamicAllocation.shuffleTracking.timeout",
            dynamic.shuffle_tracking_timeout.map(|millis| format!("{millis}ms")),
        );
    }

    /// Arguments after `spark-submit`. The properties travel in a file, so that the token is not in the process list.
    ///
    /// # Errors
    /// When the application does not say what to run.
    pub(crate) fn arguments(&self, api: &ApiAccess, properties_file: &str) -> Result<Vec<String>, String> {
        if self.spec.mode.as_deref().is_some_and(|mode| mode != "cluster") {
            return Err(format!(
                "mode {:?} is not supported, only cluster is",
                self.spec.mode.as_deref().unwrap_or("")
            ));
        }
        let file = self
            .spec
            .main_application_file
            .as_ref()
            .ok_or("spec.mainApplicationFile is missing")?;
        let mut arguments = vec![
            "--master".to_owned(),
            format!("k8s://{}", api.from_host),
            "--deploy-mode".to_owned(),
            "cluster".to_owned(),
            "--name".to_owned(),
            self.name.to_owned(),
            "--properties-file".to_owned(),
            properties_file.to_owned(),
        ];
        if let Some(class) = &self.spec.main_class {
            arguments.extend(["--class".to_owned(), class.clone()]);
        }
        if let Some(user) = &self.spec.proxy_user {
            arguments.extend(["--proxy-user".to_owned(), user.clone()]);
        }
        arguments.push(file.clone());
        arguments.extend(self.spec.arguments.iter().cloned());
        Ok(arguments)
    }
}

/// The text of a Java properties file.
pub(crate) fn properties_text(conf: &BTreeMap<String, String>) -> String {
    conf.iter().fold(String::new(), |mut text, (key, value)| {
        text.push_str(&escape(key, true));
        text.push('=');
        text.push_str(&escape(value, false));
        text.push('\n');
        text
    })
}

fn escape(text: &str, is_key: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, each) in text.chars().enumerate() {
        match each {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' ' if is_key || index == 0 => out.push_str("\\ "),
            ':' | '=' | '#' | '!' if is_key => {
                out.push('\\');
                out.push(each);
            }
            _ => out.push(each),
        }
    }
    out
}

fn optional(put: &mut impl FnMut(&str, String), key: &str, value: Option<String>) {
    if let Some(value) = value {
        put(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> ApiAccess {
        ApiAccess {
            from_host: "https://127.0.0.1:6443".into(),
            from_pods: "https://10.0.0.1:6443".into(),
            token: "t".into(),
            ca_file: "/ca.pem".into(),
        }
    }

    fn spec() -> SparkApplicationSpec {
        serde_json::from_value(serde_json::json!({
            "type": "Python",
            "mode": "cluster",
            "image": "apache/spark:4.0.1-python3",
            "mainApplicationFile": "local:///opt/pipeline/pipeline.py",
            "arguments": ["--trigger-seconds", "1"],
            "sparkConf": {"spark.metrics.namespace": "orders", "spark.executor.instances": "9"},
            "driver": {
                "cores": 1, "memory": "512m", "serviceAccount": "spark",
                "labels": {"team": "x"}, "annotations": {"prometheus.io/scrape": "true"},
            },
            "executor": {"cores": 1, "memory": "512m", "instances": 2},
        }))
        .unwrap()
    }

    #[test]
    fn properties_and_arguments_are_the_operators() {
        let spec = spec();
        let labels = BTreeMap::from([
            ("app".into(), "orders".into()),
            ("kueue.x-k8s.io/queue-name".into(), "q".into()),
        ]);
        let submission = Submission {
            name: "orders",
            namespace: "ns",
            labels: &labels,
            spec: &spec,
            submission_id: "s-1",
        };
        insta::assert_json_snapshot!(submission.properties(&access()));
        assert_eq!(
            submission.arguments(&access(), "/f").unwrap(),
            [
                "--master",
                "k8s://https://127.0.0.1:6443",
                "--deploy-mode",
                "cluster",
                "--name",
                "orders",
                "--properties-file",
                "/f",
                "local:///opt/pipeline/pipeline.py",
                "--trigger-seconds",
                "1",
            ]
        );
    }

    #[test]
    fn an_application_that_names_nothing_to_run_is_refused_with_the_reason() {
        let spec = SparkApplicationSpec::default();
        let labels = BTreeMap::new();
        let submission = Submission {
            name: "a",
            namespace: "n",
            labels: &labels,
            spec: &spec,
            submission_id: "s",
        };
        assert_eq!(
            submission.arguments(&access(), "/f").unwrap_err(),
            "spec.mainApplicationFile is missing"
        );
    }

    #[test]
    fn property_values_survive_the_java_format() {
        let conf = BTreeMap::from([("a b".into(), " x\\y\nz=1".into())]);
        assert_eq!(properties_text(&conf), "a\\ b=\\ x\\\\y\\nz=1\n");
    }
}
