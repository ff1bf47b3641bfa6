//! `exec` and `attach` over WebSocket channels or SPDY streams.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::ws::WebSocket;
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::channels::{self, CLOSE, Coding};
use super::process::{self, Remote, Stream};
use super::spdy::{self, SpdyReader, SpdyWriter};
use super::{OPEN_TIMEOUT, Query, Transport, choose_container, reference, transport};
use crate::api::object::str_at;
use crate::api::status::ApiError;
use crate::backend::{BackendError, ExecRequest, ExecSession, LogOptions, PodBackend};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Subprotocols, best first. The empty one stands for a client that names none.
const WEBSOCKET_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// What is spoken inside of SPDY. Version 4 reports the exit code; all older ones only text.
const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io"];
/// How long a client may take to read the last message and hang up before the connection is dropped.
const LINGER: Duration = Duration::from_secs(5);
/// Messages that wait in each direction.
const QUEUE: usize = 16;

/// What the request wants connected.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, ApiError> {
        let tty = query.is_true("tty");
        let wanted = Self {
            stdin: query.is_true("stdin"),
            stdout: query.is_true("stdout"),
            stderr: query.is_true("stderr") && !tty,
            tty,
        };
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err(ApiError::bad_request(
                "you must specify at least one of stdin, stdout, stderr",
            ))
        }
    }

    /// Streams that a SPDY client opens: the error stream is always among them.
    fn stream_count(self) -> usize {
        1 + [self.stdin, self.stdout, self.stderr, self.tty]
            .into_iter()
            .filter(|one| *one)
            .count()
    }
}

/// What the transport is connected to: a process, or why there is none.
type Session = Result<ExecSession, String>;

/// `pods/{name}/exec`.
pub(super) async fn serve_exec(
    pod: &Value,
    query: &Query,
    backend: Arc<dyn PodBackend>,
    request: Request,
) -> Result<Response, ApiError> {
    let container = choose_container(pod, query.text("container"))?;
    let wanted = Wanted::of(query)?;
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(ApiError::bad_request(
            "you must specify at least one command for the container",
        ));
    }
    if let Some(phase @ ("Succeeded" | "Failed")) = str_at(pod, "/status/phase") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let transport = transport(request).await?;
    let what = ExecRequest {
        command,
        stdin: wanted.stdin,
        tty: wanted.tty,
    };
    let session = match backend.exec(reference(pod), container, what).await {
        Ok(session) => Ok(session),
        // The node reports these after the upgrade, on the error channel: the container is there, the program is not.
        Err(BackendError::Internal(message)) => Err(message),
        Err(error) => return Err(error.into()),
    };
    answer(transport, session, wanted)
}

/// `pods/{name}/attach`: follows the container's output from now on. Its input is not connected.
pub(super) async fn serve_attach(
    pod: &Value,
    query: &Query,
    backend: Arc<dyn PodBackend>,
    request: Request,
) -> Result<Response, ApiError> {
    let container = choose_container(pod, query.text("container"))?;
    let wanted = Wanted::of(query)?;
    if wanted.stdin {
        return Err(ApiError::bad_request(
            "this server attaches to the output of containers only, not to their input",
        ));
    }
    let transport = transport(request).await?;
    let options = LogOptions {
        follow: true,
        tail_lines: Some(0),
        ..LogOptions::default()
    };
    let chunks = backend.logs(reference(pod), container, options).await?;
    let (done, exit) = oneshot::channel();
    // The process outlives the attachment, so the attachment ends well whenever its output does.
    let output = tokio_util::io::StreamReader::new(chunks.chain(futures::stream::once(async move {
        if done.send(Ok(0)).is_err() {
            tracing::trace!("the attached client is gone");
        }
        Ok(Bytes::new())
    })));
    let session = ExecSession {
        stdin: None,
        stdout: Some(Box::pin(output)),
        stderr: None,
        resize: None,
        exit,
    };
    answer(transport, Ok(session), wanted)
}

fn answer(transport: Transport, session: Session, wanted: Wanted) -> Result<Response, ApiError> {
    match transport {
        Transport::WebSocket(upgrade) => {
            let upgrade = upgrade.protocols(WEBSOCKET_PROTOCOLS.iter().copied());
            let protocol = upgrade
                .selected_protocol()
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            Ok(upgrade.on_upgrade(move |socket| over_websocket(socket, protocol, session, wanted)))
        }
        Transport::Spdy(upgrade) => upgrade.accept(SPDY_PROTOCOLS, move |_, io| over_spdy(io, session, wanted)),
    }
}

async fn over_websocket(socket: WebSocket, protocol: String, session: Session, wanted: Wanted) {
    let coding = Coding::of(&protocol);
    let (mut sink, mut stream) = socket.split();
    let (input, stdin) = mpsc::channel(QUEUE);
    let (sizes, resize) = mpsc::channel(QUEUE);
    let (output, mut outputs) = mpsc::channel::<(Stream, Bytes)>(QUEUE);
    let gone = CancellationToken::new();
    let left = gone.clone();
    let reading = tokio::spawn(async move {
        let mut input = Some(input);
        while let Some((channel, payload)) = channels::receive(&mut stream, coding).await {
            match channel {
                STDIN => {
                    if let Some(input) = &input
                        && !payload.is_empty()
                        && input.send(payload).await.is_err()
                    {
                        tracing::trace!("standard input is not connected");
                    }
                }
                RESIZE => {
                    if let Some(size) = process::parse_size(&payload)
                        && sizes.send(size).await.is_err()
                    {
                        tracing::trace!("there is no terminal to resize");
                    }
                }
                CLOSE if payload.first() == Some(&STDIN) => input = None,
                _ => {}
            }
        }
        left.cancel();
    });
    let writing = async {
        while let Some((stream, bytes)) = outputs.recv().await {
            let channel = match stream {
                Stream::Stdout if wanted.stdout => STDOUT,
                Stream::Stderr if wanted.stderr => STDERR,
                Stream::Stdout | Stream::Stderr => continue,
            };
            if sink.send(coding.encode(channel, &bytes)).await.is_err() {
                gone.cancel();
                break;
            }
        }
        sink
    };
    let remote = Remote {
        stdin,
        resize,
        output,
        gone: gone.clone(),
    };
    let (outcome, mut sink) = tokio::join!(outcome(session, remote), writing);
    if let Some(outcome) = outcome {
        if let Some(last) = last_words(&protocol, &outcome)
            && let Err(error) = sink.send(coding.encode(ERROR, last.as_bytes())).await
        {
            tracing::trace!(%error, "the client did not wait for the exit code");
        }
        channels::close(sink).await;
        // The client answers the goodbye; the connection stays until then, so that it can read everything.
        if tokio::time::timeout(LINGER, gone.cancelled()).await.is_err() {
            tracing::trace!("the client did not hang up");
        }
    }
    reading.abort();
}

async fn outcome(session: Session, remote: Remote) -> Option<Result<i32, String>> {
    match session {
        Ok(session) => process::run(session, remote).await,
        Err(message) => Some(Err(message)),
    }
}

/// What goes to the error channel. Protocols before version 4 know no status, only the text of an error.
fn last_words(protocol: &str, outcome: &Result<i32, String>) -> Option<String> {
    let status = process::status(outcome);
    if protocol.starts_with("v4.") || protocol.starts_with("v5.") {
        return Some(status.to_string());
    }
    str_at(&status, "/message").map(str::to_owned)
}

/// The streams of a SPDY client.
#[derive(Default)]
struct Streams {
    error: Option<SpdyWriter>,
    stdin: Option<SpdyReader>,
    stdout: Option<SpdyWriter>,
    stderr: Option<SpdyWriter>,
    resize: Option<SpdyReader>,
    /// Halves that carry nothing; dropped too early they would reset their streams.
    unused: Vec<SpdyWriter>,
}

impl Streams {
    async fn collect(opened: &mut mpsc::Receiver<spdy::SpdyStream>, count: usize) -> Option<Self> {
        let mut streams = Self::default();
        for _ in 0..count {
            let stream = opened.recv().await?;
            let kind = stream.header("streamtype").unwrap_or_default().to_owned();
            match kind.as_str() {
                "error" => streams.error = Some(stream.writer),
                "stdout" => streams.stdout = Some(stream.writer),
                "stderr" => streams.stderr = Some(stream.writer),
                "stdin" => {
                    streams.stdin = Some(stream.reader);
                    streams.unused.push(stream.writer);
                }
                "resize" => {
                    streams.resize = Some(stream.reader);
                    streams.unused.push(stream.writer);
                }
                other => tracing::debug!(kind = other, "stream of unknown type"),
            }
        }
        Some(streams)
    }
}

async fn over_spdy(io: impl AsyncRead + AsyncWrite + Send + 'static, session: Session, wanted: Wanted) {
    let mut opened = spdy::accept(io);
    let collected = tokio::time::timeout(OPEN_TIMEOUT, Streams::collect(&mut opened, wanted.stream_count()));
    let Ok(Some(mut streams)) = collected.await else {
        tracing::debug!("the client did not open the streams that it announced within 30 s");
        return;
    };
    let Some(error) = streams.error.take() else {
        return;
    };
    let (input, stdin) = mpsc::channel(QUEUE);
    let (sizes, resize) = mpsc::channel(QUEUE);
    let (output, mut outputs) = mpsc::channel::<(Stream, Bytes)>(QUEUE);
    let gone = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(mut reader) = streams.stdin.take() {
        tasks.spawn(async move {
            while let Some(bytes) = reader.next().await {
                if input.send(bytes).await.is_err() {
                    break;
                }
            }
        });
    }
    if let Some(mut reader) = streams.resize.take() {
        tasks.spawn(async move {
            while let Some(bytes) = reader.next().await {
                for line in bytes.split(|byte| *byte == b'\n') {
                    if let Some(size) = process::parse_size(line)
                        && sizes.send(size).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
    }
    let writing = async {
        while let Some((stream, bytes)) = outputs.recv().await {
            let writer = match stream {
                Stream::Stdout => streams.stdout.as_mut(),
                Stream::Stderr => streams.stderr.as_mut(),
            };
            if let Some(writer) = writer
                && !writer.send(bytes).await
            {
                gone.cancel();
                return;
            }
        }
    };
    let left = gone.clone();
    let watching = async {
        error.gone().await;
        left.cancel();
        std::future::pending::<()>().await;
    };
    let remote = Remote {
        stdin,
        resize,
        output,
        gone: gone.clone(),
    };
    let result = tokio::select! {
        (result, ()) = async { tokio::join!(outcome(session, remote), writing) } => result,
        () = watching => None,
    };
    let Some(result) = result else { return };
    let mut error = error;
    let last = Bytes::from(process::status(&result).to_string());
    if !error.send(last).await {
        tracing::trace!("the client did not wait for the exit code");
    }
    for writer in [Some(error), streams.stdout.take(), streams.stderr.take()]
        .into_iter()
        .flatten()
    {
        writer.finish().await;
    }
    for writer in streams.unused.drain(..) {
        writer.finish().await;
    }
    // The client hangs up once it has read everything.
    let hang_up = async { while opened.recv().await.is_some() {} };
    if tokio::time::timeout(LINGER, hang_up).await.is_err() {
        tracing::trace!("the client did not hang up");
    }
}
