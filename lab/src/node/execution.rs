//! Further processes in a running container: exec sessions, exec probes, hooks. Depends on `runc`.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::process::Signal;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::error::NodeError;
use super::runc::{Runc, Started};
use super::state::Instance;
use crate::backend::{ExecRequest, ExecSession};

/// Output of a probe that is kept for its message.
const KEPT_BYTES: usize = 10 * 1024;

/// The description of a further process.
fn description(instance: &Instance, command: &[String], terminal: bool) -> serde_json::Value {
    let mut process = (*instance.description).clone();
    if let Some(map) = process.as_object_mut() {
        map.insert("args".to_owned(), command.into());
        map.insert("terminal".to_owned(), terminal.into());
        if terminal && let Some(serde_json::Value::Array(environment)) = map.get_mut("env") {
            environment.push("TERM=xterm".into());
        }
    }
    process
}

/// Runs a command to its end; returns its exit code and the beginning of what it printed.
pub(crate) async fn command_output(
    runc: &Runc,
    instance: &Instance,
    command: &[String],
    patience: Duration,
) -> Result<(i32, String), NodeError> {
    let Started {
        process,
        stdout,
        stderr,
        ..
    } = runc
        .exec(&instance.id, &description(instance, command, false), false)
        .await?;
    let collect = async {
        let mut output = Vec::new();
        // Both pipes are drained together: a full one would block the process.
        let both = tokio::join!(drain(stdout), drain(stderr));
        output.extend(both.0);
        output.extend(both.1);
        (process.wait().await, output)
    };
    if let Ok((exit, output)) = tokio::time::timeout(patience, collect).await {
        return Ok((exit.code, String::from_utf8_lossy(&output).trim().to_owned()));
    }
    process.signal(Signal::KILL);
    Err(NodeError::Pod(format!(
        "command {command:?} timed out after {} s",
        patience.as_secs_f32()
    )))
}

async fn drain(mut source: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = source.read(&mut buffer).await {
        if kept.len() < KEPT_BYTES {
            kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
    }
    kept
}

/// Starts a process for a client of the API.
pub(crate) async fn session(runc: &Runc, instance: &Instance, request: &ExecRequest) -> Result<ExecSession, NodeError> {
    let process = description(instance, &request.command, request.tty);
    let (sender, exit) = oneshot::channel();
    if request.tty {
        let (process, terminal) = runc.exec_on_terminal(&instance.id, &process).await?;
        let terminal = Arc::new(terminal_descriptor(terminal)?);
        let (resize, sizes) = mpsc::channel(4);
        tokio::spawn(apply_sizes(Arc::clone(&terminal), sizes));
        tokio::spawn(async move { sender.send(Ok(process.wait().await.code)) });
        return Ok(ExecSession {
            stdin: request
                .stdin
                .then(|| Box::pin(Terminal(Arc::clone(&terminal))) as crate::backend::Input),
            stdout: Some(Box::pin(Terminal(terminal))),
            stderr: None,
            resize: Some(resize),
            exit,
        });
    }
    let started = runc.exec(&instance.id, &process, request.stdin).await?;
    let process = started.process;
    tokio::spawn(async move { sender.send(Ok(process.wait().await.code)) });
    Ok(ExecSession {
        stdin: started.stdin.map(|stdin| Box::pin(stdin) as crate::backend::Input),
        stdout: Some(Box::pin(started.stdout)),
        stderr: Some(Box::pin(started.stderr)),
        resize: None,
        exit,
    })
}

fn terminal_descriptor(terminal: OwnedFd) -> Result<AsyncFd<OwnedFd>, NodeError> {
    let flags = rustix::fs::fcntl_getfl(&terminal).map_err(NodeError::errno("read the flags of", "the terminal"))?;
    rustix::fs::fcntl_setfl(&terminal, flags | rustix::fs::OFlags::NONBLOCK)
        .map_err(NodeError::errno("set the flags of", "the terminal"))?;
    super::descriptor::watch(terminal).map_err(NodeError::io("watch", "the terminal"))
}

async fn apply_sizes(terminal: Arc<AsyncFd<OwnedFd>>, mut sizes: mpsc::Receiver<(u16, u16)>) {
    while let Some((columns, rows)) = sizes.recv().await {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if let Err(error) = rustix::termios::tcsetwinsize(terminal.get_ref(), size) {
            tracing::debug!(%error, "terminal size not set");
        }
    }
}

/// Our side of a terminal.
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let mut bytes = [0_u8; 4096];
            let room = buffer.remaining().min(bytes.len());
            let slice = bytes.get_mut(..room).unwrap_or_default();
            match guard.try_io(|inner| rustix::io::read(inner.get_ref().as_fd(), &mut *slice).map_err(Into::into)) {
                Ok(Ok(read)) => {
                    buffer.put_slice(slice.get(..read).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                }
                // The other side is closed: this is how a terminal says end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|inner| rustix::io::write(inner.get_ref().as_fd(), bytes).map_err(Into::into)) {
                Ok(outcome) => return Poll::Ready(outcome),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // Control-D: a terminal has no other way to end its input.
        rustix::io::write(self.0.get_ref().as_fd(), &[4]).ok();
        Poll::Ready(Ok(()))
    }
}
