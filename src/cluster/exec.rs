//! Processes inside pods: one-shot commands, and a session that is asked questions over its standard input.

use super::connect::{CALL_TIMEOUT, Cluster};
use super::error::{ClusterError, Failed};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// What a one-shot command left.
#[derive(Debug, Clone)]
pub(crate) struct ExecOutput {
    /// Exit code; `None` when the server did not say.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: Vec<u8>,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Most bytes taken from one command: an endless one must not fill the memory.
const MOST_BYTES: u64 = 512 * 1024 * 1024;

fn exit_code(status: Option<&Status>) -> Option<i32> {
    let status = status?;
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = status.details.as_ref()?.causes.as_ref()?;
    causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))?
        .message
        .as_ref()?
        .parse()
        .ok()
}

/// Runs a command in a container of a pod and waits for its end.
///
/// # Errors
/// When it cannot be started, or does not end within `limit`.
pub(crate) async fn run_in_pod(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    command: &[String],
    limit: Duration,
) -> Result<ExecOutput, ClusterError> {
    let attempted = || {
        format!(
            "run {:?} in pod {namespace}/{pod}",
            command.first().map_or("", String::as_str)
        )
    };
    let work = async {
        let mut process = open(cluster, namespace, pod, container, command, false, attempted()).await?;
        let status = process.take_status();
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read_out = async {
            match stdout {
                Some(reader) => reader.take(MOST_BYTES).read_to_end(&mut out).await.map(|_| ()),
                None => Ok(()),
            }
        };
        let read_err = async {
            match stderr {
                Some(reader) => reader.take(1024 * 1024).read_to_end(&mut err).await.map(|_| ()),
                None => Ok(()),
            }
        };
        let (read_out, read_err) = tokio::join!(read_out, read_err);
        for result in [read_out, read_err] {
            result.map_err(|error| ClusterError {
                attempted: attempted(),
                failed: Failed::Unreachable,
                why: format!("the output broke off: {error}"),
            })?;
        }
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        Ok(ExecOutput {
            code: exit_code(status.as_ref()),
            stdout: out,
            stderr: String::from_utf8_lossy(&err).trim().to_owned(),
        })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ClusterError::timed_out(attempted(), limit)),
    }
}

/// Runs a command and hands on its output as it comes, none of which is kept. `on_chunk` ends it by answering false. Answers with the
/// exit code and standard error.
///
/// # Errors
/// When it cannot be started, breaks off, or is silent for longer than `silence`.
pub(crate) async fn stream_from_pod(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    command: &[String],
    silence: Duration,
    on_chunk: &mut (dyn FnMut(&[u8]) -> bool + Send),
) -> Result<(Option<i32>, String), ClusterError> {
    let attempted = || {
        format!(
            "run {:?} in pod {namespace}/{pod}",
            command.first().map_or("", String::as_str)
        )
    };
    let broke = |error: std::io::Error| ClusterError {
        attempted: attempted(),
        failed: Failed::Unreachable,
        why: format!("the output broke off: {error}"),
    };
    let mut process = open(cluster, namespace, pod, container, command, false, attempted()).await?;
    let status = process.take_status();
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let read_out = async {
        let Some(mut stdout) = stdout else { return Ok(true) };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = tokio::time::timeout(silence, stdout.read(&mut buffer))
                .await
                .map_err(|_elapsed| ClusterError::timed_out(attempted(), silence))?
                .map_err(broke)?;
            if read == 0 {
                return Ok(true);
            }
            if !on_chunk(buffer.get(..read).unwrap_or_default()) {
                return Ok(false);
            }
        }
    };
    let read_err = async {
        let mut errors = Vec::new();
        if let Some(stderr) = stderr {
            // Beyond this it is read and dropped, so that the command does not wait for a reader.
            let mut stderr = stderr;
            (&mut stderr)
                .take(64 * 1024)
                .read_to_end(&mut errors)
                .await
                .map_err(broke)?;
            tokio::io::copy(&mut stderr, &mut tokio::io::sink())
                .await
                .map_err(broke)?;
        }
        Ok(errors)
    };
    let (mut read_out, mut read_err) = (std::pin::pin!(read_out), std::pin::pin!(read_err));
    let mut errors: Option<Vec<u8>> = None;
    let wanted: Result<bool, ClusterError> = loop {
        tokio::select! {
            wanted = &mut read_out => break wanted,
            result = &mut read_err, if errors.is_none() => {
                let result: Result<_, ClusterError> = result;
                errors = Some(result?);
            }
        }
    };
    if !wanted? {
        process.abort();
        return Ok((None, String::new()));
    }
    let errors = match errors {
        Some(errors) => errors,
        None => tokio::time::timeout(silence, read_err)
            .await
            .map_err(|_elapsed| ClusterError::timed_out(attempted(), silence))??,
    };
    let status = match status {
        Some(status) => tokio::time::timeout(silence, status).await.ok().flatten(),
        None => None,
    };
    Ok((
        exit_code(status.as_ref()),
        String::from_utf8_lossy(&errors).trim().to_owned(),
    ))
}

async fn open(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    command: &[String],
    stdin: bool,
    attempted: String,
) -> Result<AttachedProcess, ClusterError> {
    let api: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let mut params = AttachParams::default().stdin(stdin).stdout(true).stderr(true);
    params.container = container.map(str::to_owned);
    match tokio::time::timeout(CALL_TIMEOUT, api.exec(pod, command.iter().map(String::as_str), &params)).await {
        Ok(Ok(process)) => Ok(process),
        Ok(Err(error)) => Err(ClusterError::from_kube(attempted, &error)),
        Err(_elapsed) => Err(ClusterError::timed_out(attempted, CALL_TIMEOUT)),
    }
}

/// A process in a pod that answers each line of input with one line of output.
pub(crate) struct Session {
    process: AttachedProcess,
    input: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    output: BufReader<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    place: String,
}

impl Session {
    /// Starts the process.
    ///
    /// # Errors
    /// When exec is refused or the pod is not there.
    pub(crate) async fn open(
        cluster: &Cluster,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        command: &[String],
    ) -> Result<Self, ClusterError> {
        let place = format!("ask the session in pod {namespace}/{pod}");
        let attempted = format!("open a session in pod {namespace}/{pod}");
        let mut process = open(cluster, namespace, pod, container, command, true, attempted.clone()).await?;
        let missing = || ClusterError {
            attempted: attempted.clone(),
            failed: Failed::Other,
            why: "the server connected neither input nor output".to_owned(),
        };
        let input = process.stdin().ok_or_else(missing)?;
        let output = process.stdout().ok_or_else(missing)?;
        Ok(Self {
            process,
            input: Box::new(input),
            output: BufReader::new(Box::new(output)),
            place,
        })
    }

    /// Sends one line and waits for the line that answers it.
    ///
    /// # Errors
    /// When the session is gone or does not answer within `limit`; it must be opened again then.
    pub(crate) async fn ask(&mut self, question: &str, limit: Duration) -> Result<String, ClusterError> {
        let broken = |place: &str, why: String| ClusterError {
            attempted: place.to_owned(),
            failed: Failed::Unreachable,
            why,
        };
        let mut answer = String::new();
        let exchange = async {
            self.input.write_all(question.as_bytes()).await?;
            self.input.write_all(b"\n").await?;
            self.input.flush().await?;
            self.output.read_line(&mut answer).await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(0)) => Err(broken(&self.place, "the process in the pod has ended".to_owned())),
            Ok(Ok(_read)) => Ok(answer.trim_end().to_owned()),
            Ok(Err(error)) => Err(broken(&self.place, error.to_string())),
            Err(_elapsed) => Err(ClusterError::timed_out(self.place.clone(), limit)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.process.abort();
    }
}
