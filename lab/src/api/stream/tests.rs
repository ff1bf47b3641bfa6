//! The streaming subresources over real sockets, with real clients.
//!
//! [`LocalProcesses`] is a double of the node agent: its "containers" are processes of this machine.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, LogParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::backend::{BackendError, Duplex, ExecRequest, ExecSession, LogOptions, PodBackend, PodRef};

struct LocalProcesses;

impl PodBackend for LocalProcesses {
    fn logs(
        &self,
        _pod: PodRef,
        container: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, std::io::Result<Bytes>>, BackendError>> {
        Box::pin(async move {
            let first = Bytes::from(format!("{container} {:?}\n", options.tail_lines));
            let later = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(Bytes::from_static(b"later\n"))
            });
            Ok(futures::stream::iter([Ok(first)]).chain(later).boxed())
        })
    }

    fn exec(
        &self,
        _pod: PodRef,
        _container: String,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, BackendError>> {
        Box::pin(async move {
            let (program, arguments) = request.command.split_first().unwrap();
            let mut child = tokio::process::Command::new(program)
                .args(arguments)
                .stdin(if request.stdin { Stdio::piped() } else { Stdio::null() })
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| BackendError::Internal(error.to_string()))?;
            let stdin = child.stdin.take().map(|stdin| Box::pin(stdin) as crate::backend::Input);
            let stdout = child.stdout.take().map(|out| Box::pin(out) as crate::backend::Output);
            let stderr = child.stderr.take().map(|out| Box::pin(out) as crate::backend::Output);
            let (done, exit) = tokio::sync::oneshot::channel();
            tokio::spawn(async move { done.send(Ok(child.wait().await.unwrap().code().unwrap_or(137))) });
            Ok(ExecSession {
                stdin,
                stdout,
                stderr,
                resize: None,
                exit,
            })
        })
    }

    fn connect(&self, _pod: PodRef, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, BackendError>> {
        Box::pin(async move {
            let stream = TcpStream::connect(("127.0.0.1", port))
                .await
                .map_err(|error| BackendError::Internal(error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}

fn pod(name: &str) -> Value {
    let containers = if name == "two" {
        json!([{"name": "a"}, {"name": "b"}])
    } else {
        json!([{"name": "main"}])
    };
    json!({"metadata": {"name": name, "namespace": "ns", "uid": "u"}, "spec": {"containers": containers},
        "status": {"phase": "Running"}})
}

async fn handle(
    Path((_, name, subresource)): Path<(String, String, String)>,
    State(backend): State<Arc<dyn PodBackend>>,
    request: Request,
) -> Response {
    super::serve(&subresource, &pod(&name), backend, request)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn server() -> u16 {
    let backend: Arc<dyn PodBackend> = Arc::new(LocalProcesses);
    let router = axum::Router::new()
        .route("/api/v1/namespaces/{namespace}/pods/{name}/{subresource}", any(handle))
        .with_state(backend);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .with_upgrades()
                    .await
            });
        }
    });
    port
}

async fn pods() -> Api<Pod> {
    let address = format!("http://127.0.0.1:{}", server().await);
    let mut config = kube::Config::new(address.parse().unwrap());
    config.read_timeout = Some(Duration::from_secs(20));
    Api::namespaced(kube::Client::try_from(config).unwrap(), "ns")
}

/// A server that sends back what it gets, and ends when its client does.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    port
}

#[tokio::test]
async fn logs_come_as_they_are_written() {
    let params = LogParams {
        follow: true,
        tail_lines: Some(3),
        ..LogParams::default()
    };
    let mut lines = pods().await.log_stream("one", &params).await.unwrap();
    let mut text = String::new();
    futures::AsyncReadExt::read_to_string(&mut lines, &mut text)
        .await
        .unwrap();
    assert_eq!(text, "main Some(3)\nlater\n");
}

#[tokio::test]
async fn the_container_must_be_named_when_there_are_several() {
    let kube::Error::Api(status) = pods().await.logs("two", &LogParams::default()).await.unwrap_err() else {
        panic!("an API error")
    };
    assert_eq!(status.code, 400);
    assert_eq!(
        status.message,
        "a container name must be specified for pod two, choose one of: [a b]"
    );
    let wrong = LogParams {
        container: Some("c".to_owned()),
        ..LogParams::default()
    };
    let error = pods().await.logs("two", &wrong).await.unwrap_err();
    assert!(
        error.to_string().contains("container c is not valid for pod two"),
        "{error}"
    );
}

#[tokio::test]
async fn exec_gives_output_and_the_exit_code() {
    let mut process = pods()
        .await
        .exec(
            "one",
            ["sh", "-c", "echo out; echo err >&2; exit 137"],
            &AttachParams::default().stderr(true),
        )
        .await
        .unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let status = process.take_status().unwrap();
    stdout.read_to_string(&mut out).await.unwrap();
    stderr.read_to_string(&mut err).await.unwrap();
    let status = status.await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.unwrap().causes.unwrap();
    assert_eq!(
        (causes[0].reason.as_deref(), causes[0].message.as_deref()),
        (Some("ExitCode"), Some("137"))
    );
}

#[tokio::test]
async fn closing_standard_input_ends_a_process_that_reads_it() {
    let mut process = pods()
        .await
        .exec("one", ["cat"], &AttachParams::default().stdin(true))
        .await
        .unwrap();
    let mut stdin = process.stdin().unwrap();
    let mut stdout = process.stdout().unwrap();
    let status = process.take_status().unwrap();
    stdin.write_all(b"through").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut out = String::new();
    tokio::time::timeout(Duration::from_secs(10), stdout.read_to_string(&mut out))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(out, "through");
    assert_eq!(status.await.unwrap().status.as_deref(), Some("Success"));
}

#[tokio::test]
async fn a_large_output_arrives_whole() {
    let mut process = pods()
        .await
        .exec(
            "one",
            ["sh", "-c", "head -c 3000000 /dev/zero"],
            &AttachParams::default(),
        )
        .await
        .unwrap();
    let mut out = Vec::new();
    process.stdout().unwrap().read_to_end(&mut out).await.unwrap();
    assert_eq!(out.len(), 3_000_000);
}

#[tokio::test]
async fn a_program_that_is_missing_is_reported_on_the_error_channel() {
    let mut process = pods()
        .await
        .exec("one", ["/no/such/program"], &AttachParams::default())
        .await
        .unwrap();
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("InternalError"));
}

#[tokio::test]
async fn a_background_process_that_keeps_the_output_open_does_not_hold_the_session() {
    let started = std::time::Instant::now();
    let mut process = pods()
        .await
        .exec("one", ["sh", "-c", "sleep 30 & echo done"], &AttachParams::default())
        .await
        .unwrap();
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn attach_follows_the_output() {
    let mut attached = pods()
        .await
        .attach("one", &AttachParams::default().stderr(false))
        .await
        .unwrap();
    let mut out = String::new();
    attached.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "main Some(0)\nlater\n");
}

#[tokio::test]
async fn older_channel_protocols_are_spoken_too() {
    let port = server().await;
    for (protocol, hello) in [
        ("channel.k8s.io", &b"\x01hi\n"[..]),
        ("base64.channel.k8s.io", b"1aGkK"),
    ] {
        let url = format!("ws://127.0.0.1:{port}/api/v1/namespaces/ns/pods/one/exec?stdout=1&command=echo&command=hi");
        let mut request = url.into_client_request().unwrap();
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol.parse().unwrap());
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        let messages: Vec<Message> = socket.try_collect().await.unwrap();
        assert_eq!(messages[0].clone().into_data().as_ref(), hello);
    }
}

#[tokio::test]
async fn a_request_without_upgrade_is_refused() {
    let mut stream = TcpStream::connect(("127.0.0.1", server().await)).await.unwrap();
    let request = "GET /api/v1/namespaces/ns/pods/one/exec?stdout=1&command=true HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("Upgrade request required"),
        "{answer}"
    );
}

#[tokio::test]
async fn kube_port_forward_reaches_the_port() {
    let port = echo().await;
    let mut forward = pods().await.portforward("one", &[port]).await.unwrap();
    let mut stream = forward.take_stream(port).unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_an_error_on_its_channel() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut forward = pods().await.portforward("one", &[unused]).await.unwrap();
    let error = forward.take_error(unused).unwrap().await.unwrap();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn spdy_in_a_websocket_forwards_ports_as_kubectl_does() {
    use super::spdy::frame::{Decoder, Encoder, Frame, HEADER_LENGTH, payload_length};
    let (port, target) = (server().await, echo().await);
    let url = format!("ws://127.0.0.1:{port}/api/v1/namespaces/ns/pods/one/portforward");
    let mut request = url.into_client_request().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io".parse().unwrap());
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
    let headers = |kind: &str| {
        vec![
            ("streamtype".to_owned(), kind.to_owned()),
            ("port".to_owned(), target.to_string()),
            ("requestid".to_owned(), "0".to_owned()),
        ]
    };
    for frame in [
        Frame::SynStream {
            stream: 1,
            priority: 0,
            fin: true,
            headers: headers("error"),
        },
        Frame::SynStream {
            stream: 3,
            priority: 0,
            fin: false,
            headers: headers("data"),
        },
        Frame::Data {
            stream: 3,
            fin: true,
            payload: Bytes::from_static(b"ping"),
        },
    ] {
        socket
            .send(Message::Binary(encoder.encode(&frame).unwrap()))
            .await
            .unwrap();
    }
    let mut bytes = bytes::BytesMut::new();
    let mut frames = Vec::new();
    while frames
        .iter()
        .filter(|frame| matches!(frame, Frame::Data { fin: true, .. }))
        .count()
        < 2
    {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        bytes.extend_from_slice(&message.into_data());
        while bytes.len() >= HEADER_LENGTH {
            let header: [u8; HEADER_LENGTH] = bytes[..HEADER_LENGTH].try_into().unwrap();
            let length = payload_length(header).unwrap();
            if bytes.len() < HEADER_LENGTH + length {
                break;
            }
            let frame = bytes.split_to(HEADER_LENGTH + length).freeze().slice(HEADER_LENGTH..);
            frames.push(decoder.decode(header, frame).unwrap());
        }
    }
    assert!(
        frames.contains(&Frame::Data {
            stream: 3,
            fin: false,
            payload: Bytes::from_static(b"ping")
        }),
        "{frames:?}"
    );
    assert!(
        frames.contains(&Frame::Data {
            stream: 1,
            fin: true,
            payload: Bytes::new()
        }),
        "{frames:?}"
    );
}
