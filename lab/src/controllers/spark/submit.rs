//! Runs the real `spark-submit` as a process of the lab.
//!
//! Depends on [`super::submission`]. Central type: [`SparkSubmit`]. Contract: one process group with a time limit,
//! inside the lab's cgroup (so that whoever cleans up after a crash finds it), with none of the user's Spark or
//! Kubernetes configuration; its log is kept, the file with the token is not.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::submission::{ApiAccess, Submission, properties_text};

/// A submission needs 4 to 5 s of CPU; a loaded machine may take much longer.
const LIMIT: Duration = Duration::from_mins(3);
/// Of the log that goes into the status.
const MESSAGE_LENGTH: usize = 600;
/// Keeps fabric8 away from the user's kubeconfig, and the JVM's start cheap: it lives for seconds.
const JVM_OPTIONS: &str = "-Dkubernetes.auth.tryKubeConfig=false -Dkubernetes.auth.tryServiceAccount=false \
                           -XX:TieredStopAtLevel=1 -XX:+UseSerialGC";

/// How submissions are run.
#[derive(Debug, Clone)]
pub(crate) struct SparkSubmit {
    /// A Spark distribution.
    pub(crate) spark_home: PathBuf,
    /// Where logs go, one folder a submission.
    pub(crate) folder: PathBuf,
    /// The cgroup that processes join.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) api: ApiAccess,
}

impl SparkSubmit {
    /// Submits and waits for `spark-submit` to end; the driver pod exists then. The error is for the status.
    pub(crate) async fn run(&self, submission: &Submission<'_>) -> Result<(), String> {
        let folder = self.folder.join(format!(
            "{}.{}.{}",
            submission.namespace, submission.name, submission.submission_id
        ));
        let conf = folder.join("conf");
        let properties = folder.join("spark.properties");
        let log = folder.join("spark-submit.log");
        self.prepare(submission, &conf, &properties)
            .map_err(|error| format!("cannot write {}: {error}", folder.display()))?;
        let arguments = submission.arguments(&self.api, &properties.display().to_string())?;
        let outcome = self.process(&arguments, &folder, &conf, &log).await;
        // It holds a token, and was read.
        if let Err(error) = std::fs::remove_file(&properties) {
            tracing::warn!(%error, "cannot remove the properties of a submission");
        }
        outcome
    }

    fn prepare(&self, submission: &Submission<'_>, conf: &Path, properties: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(conf)?;
        let mut values = submission.properties(&self.api);
        for (role, spec) in [
            ("driver", &submission.spec.driver),
            ("executor", &submission.spec.executor),
        ] {
            if let Some(template) = &spec.template {
                let file = conf.join(format!("{role}-template.yaml"));
                std::fs::write(&file, template.to_string())?;
                values.insert(
                    format!("spark.kubernetes.{role}.podTemplateFile"),
                    file.display().to_string(),
                );
            }
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(properties)?;
        file.write_all(properties_text(&values).as_bytes())
    }

    async fn process(&self, arguments: &[String], folder: &Path, conf: &Path, log: &Path) -> Result<(), String> {
        let failed = |what: &str| format!("cannot {what}, see {}", log.display());
        let output = std::fs::File::create(log).map_err(|error| format!("cannot create {}: {error}", log.display()))?;
        let errors = output
            .try_clone()
            .map_err(|error| format!("{}: {error}", failed("open the log twice")))?;
        let program = self.spark_home.join("bin/spark-submit");
        // The shell joins the cgroup before it becomes spark-submit, so that no process is ever outside.
        let script =
            r#"if [ -n "$CHAOSRUN_CGROUP" ]; then echo $$ >"$CHAOSRUN_CGROUP/cgroup.procs" || exit 70; fi; exec "$@""#;
        let mut command = tokio::process::Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(script)
            .arg("spark-submit")
            .arg(&program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", folder)
            .env("SPARK_HOME", &self.spark_home)
            .env("SPARK_CONF_DIR", conf)
            .env("SPARK_SUBMIT_OPTS", JVM_OPTIONS)
            .env("SPARK_USER", "spark")
            .env(
                "CHAOSRUN_CGROUP",
                self.cgroup.as_deref().unwrap_or_else(|| Path::new("")),
            )
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true);
        if let Ok(java_home) = std::env::var("JAVA_HOME") {
            command.env("JAVA_HOME", java_home);
        }
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let group = child.id();
        let status = if let Ok(waited) = tokio::time::timeout(LIMIT, child.wait()).await {
            waited.map_err(|error| format!("cannot wait for spark-submit: {error}"))?
        } else {
            kill_group(group);
            return Err(format!(
                "spark-submit did not end within {} s, see {}",
                LIMIT.as_secs(),
                log.display()
            ));
        };
        if status.success() {
            return Ok(());
        }
        let text = tokio::fs::read_to_string(log).await.unwrap_or_default();
        Err(format!(
            "failed to run spark-submit: {status}: {} (log: {})",
            cause_in(&text),
            log.display()
        ))
    }
}

/// Ends the process group that a submission leads; it may be gone already.
fn kill_group(group: Option<u32>) {
    let pid = group
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL)
    {
        tracing::warn!(%error, "cannot kill spark-submit");
    }
}

/// The line of a log that says why: the last cause, else the last exception, else the last line.
fn cause_in(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines()
        .rev()
        .find(|line| line.starts_with("Caused by:"))
        .or_else(|| {
            lines()
                .rev()
                .find(|line| line.contains("Exception") && !line.starts_with("at "))
        })
        .or_else(|| lines().next_back())
        .unwrap_or("no output");
    line.chars().take(MESSAGE_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_in_a_log() {
        let log = "INFO x\nException in thread \"main\" java.io.IOException: a\n\tat b\nCaused by: c: already exists\n\tat d\nINFO bye\n";
        assert_eq!(cause_in(log), "Caused by: c: already exists");
        assert_eq!(cause_in("Error: x\n\n"), "Error: x");
        assert_eq!(cause_in(""), "no output");
    }

    fn fake(script: &str) -> (tempfile::TempDir, SparkSubmit) {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let program = bin.join("spark-submit");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let submit = SparkSubmit {
            spark_home: folder.path().to_owned(),
            folder: folder.path().join("submissions"),
            cgroup: None,
            api: ApiAccess {
                from_host: "https://127.0.0.1:1".into(),
                from_pods: "https://10.0.0.1:1".into(),
                token: "secret".into(),
                ca_file: "/ca.pem".into(),
            },
        };
        (folder, submit)
    }

    async fn submit_with(script: &str) -> (Result<(), String>, tempfile::TempDir) {
        let (folder, submit) = fake(script);
        let spec = serde_json::from_value(serde_json::json!({"mainApplicationFile": "local:///a.py"})).unwrap();
        let labels = std::collections::BTreeMap::new();
        let submission = Submission {
            name: "a",
            namespace: "n",
            labels: &labels,
            spec: &spec,
            submission_id: "s",
        };
        (submit.run(&submission).await, folder)
    }

    #[tokio::test]
    async fn a_failed_submission_tells_why_and_the_token_does_not_stay() {
        let (outcome, folder) =
            submit_with("grep -q secret \"$8\" || exit 9; echo 'Caused by: pods already exists' >&2; exit 1").await;
        let why = outcome.unwrap_err();
        assert!(
            why.contains("exit status: 1") && why.contains("pods already exists"),
            "{why}"
        );
        assert!(folder.path().join("submissions/n.a.s/spark-submit.log").exists());
        assert!(!folder.path().join("submissions/n.a.s/spark.properties").exists());
    }

    #[tokio::test]
    async fn a_submission_sees_no_configuration_of_the_user() {
        let (outcome, _folder) =
            submit_with("[ -z \"$KUBECONFIG\" ] && [ \"$HOME\" != /root ] && [ -d \"$SPARK_CONF_DIR\" ]").await;
        outcome.unwrap();
    }
}
