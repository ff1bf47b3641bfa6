//! What runs between a process in a container and a remote terminal, whatever the transport.
//!
//! A transport turns its wire into a [`Remote`] and calls [`run`]; the outcome comes back as the `metav1.Status` that
//! the protocol ends with. Depends on the backend seam alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::CHUNK;
use crate::backend::{ExecSession, Input, Output};

/// After the process ended, its output is waited for as long as it flows, and this long after it ceased: a background
/// process that inherited the pipe must not hold the session open.
const DRAIN: Duration = Duration::from_secs(2);

/// Output of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The far side of a session.
pub(super) struct Remote {
    /// Bytes for the process; its end closes standard input.
    pub(super) stdin: mpsc::Receiver<Bytes>,
    /// Terminal sizes, columns and rows.
    pub(super) resize: mpsc::Receiver<(u16, u16)>,
    /// What the process writes.
    pub(super) output: mpsc::Sender<(Stream, Bytes)>,
    /// The client is gone.
    pub(super) gone: CancellationToken,
}

/// Connects the two until the process ends. None when the client left first.
pub(super) async fn run(session: ExecSession, remote: Remote) -> Option<Result<i32, String>> {
    let ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let Remote {
        stdin: input,
        resize: sizes,
        output,
        gone,
    } = remote;
    // Dropped at the end, these stop with the session.
    let mut inputs = JoinSet::new();
    if let Some(stdin) = stdin {
        inputs.spawn(feed(input, stdin));
    }
    if let Some(resize) = resize {
        inputs.spawn(forward_sizes(sizes, resize));
    }
    let moved = Arc::new(AtomicU64::new(0));
    let mut outputs = JoinSet::new();
    for (stream, source) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
        if let Some(source) = source {
            outputs.spawn(drain(stream, source, output.clone(), Arc::clone(&moved)));
        }
    }
    drop(output);
    let code = tokio::select! {
        code = exit => code.unwrap_or_else(|_| Err("the container ended before the exit code was known".to_owned())),
        () = gone.cancelled() => return None,
    };
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::select! {
            done = tokio::time::timeout(DRAIN, outputs.join_next()) => match done {
                Ok(None) => break,
                Ok(Some(_)) => {}
                Err(_) if moved.load(Ordering::Relaxed) == before => break,
                Err(_) => {}
            },
            () = gone.cancelled() => return None,
        }
    }
    Some(code)
}

async fn feed(mut input: mpsc::Receiver<Bytes>, mut stdin: Input) {
    while let Some(bytes) = input.recv().await {
        let written = async {
            stdin.write_all(&bytes).await?;
            stdin.flush().await
        };
        if let Err(error) = written.await {
            // The process closed its input; what else comes is thrown away, as a pipe to a dead reader would.
            tracing::trace!(%error, "standard input is closed");
            break;
        }
    }
    if let Err(error) = stdin.shutdown().await {
        tracing::trace!(%error, "standard input was closed already");
    }
    drop(stdin);
    while input.recv().await.is_some() {}
}

async fn forward_sizes(mut sizes: mpsc::Receiver<(u16, u16)>, resize: mpsc::Sender<(u16, u16)>) {
    while let Some(size) = sizes.recv().await {
        if resize.send(size).await.is_err() {
            break;
        }
    }
    while sizes.recv().await.is_some() {}
}

async fn drain(stream: Stream, mut source: Output, output: mpsc::Sender<(Stream, Bytes)>, moved: Arc<AtomicU64>) {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        match source.read_buf(&mut buffer).await {
            // A terminal answers with an error once its process is gone; that is its end of file.
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if output.send((stream, buffer.split().freeze())).await.is_err() {
                    return;
                }
                moved.fetch_add(count as u64, Ordering::Relaxed);
                buffer.reserve(CHUNK);
            }
        }
    }
}

/// The status that ends a session.
pub(super) fn status(outcome: &Result<i32, String>) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(message) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {message}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }),
    }
}

/// A terminal size as clients send it.
pub(super) fn parse_size(bytes: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(bytes).ok()?;
    let side = |name: &str| {
        size.get(name)
            .and_then(Value::as_u64)
            .and_then(|value| u16::try_from(value).ok())
    };
    Some((side("Width")?, side("Height")?))
}
