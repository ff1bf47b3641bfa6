//! `portforward`: connections to ports of a pod, over SPDY streams or WebSocket channels.
//!
//! With SPDY (what `kubectl` and Go clients speak, since 1.31 inside of a WebSocket) each connection is a pair of
//! streams, `error` and `data`, held together by a request id. With channels (what kube-rs speaks) the ports are fixed
//! in the request; port number i uses channels 2i for data and 2i + 1 for errors, each of which starts with the port
//! as two bytes, least significant first.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::Request;
use axum::extract::ws::WebSocket;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::channels::{self, CLOSE, Coding};
use super::spdy::{self, SpdyReader, SpdyStream, SpdyWriter};
use super::{CHUNK, OPEN_TIMEOUT, Query, Transport, reference, transport, tunnel};
use crate::api::object::str_at;
use crate::api::status::ApiError;
use crate::backend::{Duplex, PodBackend, PodRef};

/// What Go clients speak inside of SPDY.
const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// SPDY inside of a WebSocket.
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Channels in a WebSocket.
const CHANNEL_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// Ports of one WebSocket: channel numbers are one byte, and 255 means something else.
const MAX_PORTS: usize = 127;
/// Messages that wait in each direction.
const QUEUE: usize = 16;

/// `pods/{name}/portforward`.
pub(super) async fn serve(
    pod: &Value,
    query: &Query,
    backend: Arc<dyn PodBackend>,
    request: Request,
) -> Result<Response, ApiError> {
    let pod_name = reference(pod);
    if str_at(pod, "/status/phase") != Some("Running") {
        return Err(ApiError::bad_request(format!(
            "unable to forward port because pod is not running. Current status={}",
            str_at(pod, "/status/phase").unwrap_or("Unknown")
        )));
    }
    match transport(request).await? {
        Transport::Spdy(upgrade) => upgrade.accept(&[SPDY_PROTOCOL], move |_, io| forward_spdy(io, pod_name, backend)),
        Transport::WebSocket(mut upgrade) => {
            if upgrade
                .requested_protocols()
                .any(|one| one.as_bytes() == TUNNEL_PROTOCOL.as_bytes())
            {
                upgrade.set_selected_protocol(HeaderValue::from_static(TUNNEL_PROTOCOL));
                return Ok(
                    upgrade.on_upgrade(move |socket| forward_spdy(tunnel::byte_stream(socket), pod_name, backend))
                );
            }
            let ports = ports(query)?;
            let upgrade = upgrade.protocols(CHANNEL_PROTOCOLS.iter().copied());
            let coding = Coding::of(
                upgrade
                    .selected_protocol()
                    .and_then(|one| one.to_str().ok())
                    .unwrap_or_default(),
            );
            Ok(upgrade.on_upgrade(move |socket| forward_channels(socket, coding, ports, pod_name, backend)))
        }
    }
}

fn ports(query: &Query) -> Result<Vec<u16>, ApiError> {
    let ports = query
        .all("ports")
        .flat_map(|list| list.split(','))
        .map(|text| {
            text.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| ApiError::bad_request(format!("unable to parse {text:?} as a port")))
        })
        .collect::<Result<Vec<u16>, ApiError>>()?;
    match ports.len() {
        0 => Err(ApiError::bad_request("query parameter \"ports\" is required")),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(ApiError::bad_request(format!("at most {MAX_PORTS} ports"))),
    }
}

/// Worded like the kubelet words it: clients show it.
fn failure(pod: &PodRef, port: u16, error: impl std::fmt::Display) -> String {
    format!(
        "an error occurred forwarding {port} -> {port}: error forwarding port {port} to pod {}, uid : {error}",
        pod.name
    )
}

async fn forward_spdy(io: impl AsyncRead + AsyncWrite + Send + 'static, pod: PodRef, backend: Arc<dyn PodBackend>) {
    let mut opened = spdy::accept(io);
    let mut connections = JoinSet::new();
    let mut waiting: HashMap<String, SpdyStream> = HashMap::new();
    loop {
        let stream = tokio::select! {
            stream = opened.recv() => stream,
            Some(_) = connections.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        // A pair of which the second half never came must not stay for ever.
        let request = stream.header("requestid").unwrap_or_default().to_owned();
        let Some(other) = waiting.remove(&request) else {
            if waiting.len() < QUEUE * QUEUE {
                waiting.insert(request, stream);
            }
            continue;
        };
        let is_error = |stream: &SpdyStream| stream.header("streamtype") == Some("error");
        let (error, data) = if is_error(&other) {
            (other, stream)
        } else {
            (stream, other)
        };
        connections.spawn(forward_pair(error, data, pod.clone(), Arc::clone(&backend)));
    }
}

async fn forward_pair(error: SpdyStream, data: SpdyStream, pod: PodRef, backend: Arc<dyn PodBackend>) {
    let Some(port) = data.header("port").and_then(|text| text.parse().ok()) else {
        tracing::debug!(stream = data.id, "port-forward stream without a port");
        return;
    };
    let mut error_writer = error.writer;
    let connected = tokio::time::timeout(OPEN_TIMEOUT, backend.connect(pod.clone(), port)).await;
    let problem = match connected {
        Ok(Ok(connection)) => match copy_spdy(connection, data.reader, data.writer).await {
            Ok(()) => None,
            Err(error) => Some(failure(&pod, port, error)),
        },
        Ok(Err(error)) => {
            data.writer.finish().await;
            Some(failure(&pod, port, error))
        }
        Err(_) => {
            data.writer.finish().await;
            Some(failure(
                &pod,
                port,
                format!("no connection within {} s", OPEN_TIMEOUT.as_secs()),
            ))
        }
    };
    if let Some(problem) = problem
        && !error_writer.send(Bytes::from(problem)).await
    {
        tracing::trace!("the client is gone");
    }
    error_writer.finish().await;
}

/// Copies until the pod's side ended, or the client is gone. Half-closed connections go on in the other direction.
async fn copy_spdy(connection: Box<dyn Duplex>, mut reader: SpdyReader, mut writer: SpdyWriter) -> std::io::Result<()> {
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let upward = async {
        while let Some(bytes) = reader.next().await {
            to_pod.write_all(&bytes).await?;
        }
        to_pod.shutdown().await
    };
    let downward = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        loop {
            let count = tokio::select! {
                count = from_pod.read_buf(&mut buffer) => count?,
                () = writer.gone() => return Ok(None),
            };
            if count == 0 {
                return Ok::<_, std::io::Error>(Some(writer));
            }
            if !writer.send(buffer.split().freeze()).await {
                return Ok(None);
            }
            buffer.reserve(CHUNK);
        }
    };
    tokio::pin!(upward, downward);
    let ended = tokio::select! {
        ended = &mut downward => ended,
        sent = &mut upward => {
            if let Err(error) = sent {
                // The pod hung up while the client was sending; what it said before still counts.
                tracing::debug!(%error, "the pod takes no more");
            }
            downward.await
        }
    };
    if let Some(writer) = ended? {
        writer.finish().await;
    }
    Ok(())
}

async fn forward_channels(
    socket: WebSocket,
    coding: Coding,
    ports: Vec<u16>,
    pod: PodRef,
    backend: Arc<dyn PodBackend>,
) {
    let (mut sink, mut stream) = socket.split();
    let (output, mut outputs) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut inputs: Vec<Option<mpsc::Sender<Bytes>>> = Vec::new();
    let mut connections = JoinSet::new();
    for (channel, port) in (0u8..).step_by(2).zip(ports) {
        let (input, received) = mpsc::channel(QUEUE);
        inputs.push(Some(input));
        connections.spawn(forward_port(
            channel,
            port,
            received,
            output.clone(),
            pod.clone(),
            Arc::clone(&backend),
        ));
    }
    drop(output);
    let writing = async {
        while let Some((channel, bytes)) = outputs.recv().await {
            if sink.send(coding.encode(channel, &bytes)).await.is_err() {
                break;
            }
        }
        sink
    };
    let reading = async {
        while let Some((channel, bytes)) = channels::receive(&mut stream, coding).await {
            let (data, bytes) = if channel == CLOSE {
                (bytes.first().copied(), None)
            } else {
                (Some(channel), Some(bytes))
            };
            let Some(slot) = data
                .filter(|channel| channel % 2 == 0)
                .and_then(|channel| inputs.get_mut(usize::from(channel / 2)))
            else {
                continue;
            };
            match (bytes, slot.as_ref()) {
                (Some(bytes), Some(input)) => {
                    if input.send(bytes).await.is_err() {
                        *slot = None;
                    }
                }
                (None, _) => *slot = None,
                (Some(_), None) => {}
            }
        }
    };
    // Whichever ends first: all ports of the pod hung up, or the client did.
    let sink = tokio::select! {
        sink = writing => Some(sink),
        () = reading => None,
    };
    if let Some(sink) = sink {
        channels::close(sink).await;
    }
    connections.shutdown().await;
}

async fn forward_port(
    channel: u8,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<(u8, Bytes)>,
    pod: PodRef,
    backend: Arc<dyn PodBackend>,
) {
    let first = Bytes::copy_from_slice(&port.to_le_bytes());
    for channel in [channel, channel + 1] {
        if output.send((channel, first.clone())).await.is_err() {
            return;
        }
    }
    let connected = tokio::time::timeout(OPEN_TIMEOUT, backend.connect(pod.clone(), port)).await;
    let problem = match connected {
        Ok(Ok(connection)) => {
            let (mut from_pod, mut to_pod) = tokio::io::split(connection);
            let upward = async {
                while let Some(bytes) = input.recv().await {
                    to_pod.write_all(&bytes).await?;
                }
                to_pod.shutdown().await
            };
            let downward = async {
                let mut buffer = BytesMut::with_capacity(CHUNK);
                while from_pod.read_buf(&mut buffer).await? > 0 {
                    if output.send((channel, buffer.split().freeze())).await.is_err() {
                        break;
                    }
                    buffer.reserve(CHUNK);
                }
                Ok::<_, std::io::Error>(())
            };
            tokio::pin!(upward, downward);
            let ended = tokio::select! {
                ended = &mut downward => ended,
                sent = &mut upward => {
                    if let Err(error) = sent {
                        tracing::debug!(%error, "the pod takes no more");
                    }
                    downward.await
                }
            };
            ended.err().map(|error| failure(&pod, port, error))
        }
        Ok(Err(error)) => Some(failure(&pod, port, error)),
        Err(_) => Some(failure(
            &pod,
            port,
            format!("no connection within {} s", OPEN_TIMEOUT.as_secs()),
        )),
    };
    if let Some(problem) = problem
        && output.send((channel + 1, Bytes::from(problem))).await.is_err()
    {
        tracing::trace!("the client is gone");
    }
}
