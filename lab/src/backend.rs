//! The seam between the API server and whatever runs the pods.
//!
//! The API server calls it for `logs`, `exec`, `attach` and `port-forward`; the node agent implements it.
//! May depend on nothing but tokio: neither side knows the other.

use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// A pod as the API server names it. The UID makes sure that a same-name replacement is never meant by mistake.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// `metadata.uid` of the pod.
    pub uid: String,
}

/// What `GET pods/{name}/log` can ask for.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Go on as lines are written, until the container ends.
    pub follow: bool,
    /// The log of the container instance before this one.
    pub previous: bool,
    /// Only the last n lines.
    pub tail_lines: Option<usize>,
    /// Only lines of the last n seconds.
    pub since_seconds: Option<u64>,
    /// RFC 3339 stamp in front of each line.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<usize>,
}

/// Bytes towards a process.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// Bytes from a process.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// A process started inside a container.
pub struct ExecSession {
    /// Standard input, when it was asked for. Dropping it closes it.
    pub stdin: Option<Input>,
    /// Standard output.
    pub stdout: Option<Output>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<Output>,
    /// Terminal sizes (columns, rows) go in here, when there is a terminal.
    pub resize: Option<mpsc::Sender<(u16, u16)>>,
    /// The exit code (128 + signal for a signal), or why it could not be had.
    pub exit: oneshot::Receiver<Result<i32, String>>,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Connect standard input.
    pub stdin: bool,
    /// Allocate a terminal.
    pub tty: bool,
}

/// Why the node agent could not serve a request.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The node agent runs no such pod or container (yet, or any more).
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense for the container's present state.
    #[error("{0}")]
    BadRequest(String),
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

/// A bidirectional byte stream to a port of a pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Implemented by the node agent.
pub trait PodBackend: Send + Sync + 'static {
    /// The log of one container as a stream of chunks (whole lines).
    fn logs(
        &self,
        pod: PodRef,
        container: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, std::io::Result<Bytes>>, BackendError>>;

    /// Starts a process inside a running container.
    fn exec(
        &self,
        pod: PodRef,
        container: String,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, BackendError>>;

    /// Opens a connection to a TCP port inside the pod's network namespace (its loopback included).
    fn connect(&self, pod: PodRef, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, BackendError>>;
}
