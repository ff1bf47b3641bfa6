//! Probes and lifecycle hooks: a command in the container, an HTTP request, a TCP connection.
//! Depends on `execution` and hyper.
//!
//! Central function: [`attempt`]. Contract: it ends within the given time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::execution::command_output;
use super::runc::Runc;
use super::state::Instance;

/// What to try.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action<'a> {
    Exec(&'a ExecAction),
    Http(&'a HTTPGetAction),
    Tcp(&'a TCPSocketAction),
}

/// The action of a probe; `None` for kinds that the lab does not offer.
pub(crate) fn action(probe: &Probe) -> Option<Action<'_>> {
    probe
        .exec
        .as_ref()
        .map(Action::Exec)
        .or_else(|| probe.http_get.as_ref().map(Action::Http))
        .or_else(|| probe.tcp_socket.as_ref().map(Action::Tcp))
}

/// Where an action is aimed at.
pub(crate) struct Aim<'a> {
    pub runc: &'a Runc,
    pub instance: &'a Instance,
    pub container: &'a Container,
    pub address: Ipv4Addr,
}

/// Tries once; the error is what a kubelet would put into its event.
pub(crate) async fn attempt(aim: &Aim<'_>, action: Action<'_>, patience: Duration) -> Result<(), String> {
    match action {
        Action::Exec(exec) => {
            let command = exec.command.clone().unwrap_or_default();
            match command_output(aim.runc, aim.instance, &command, patience).await {
                Ok((0, _)) => Ok(()),
                Ok((code, output)) => Err(format!("command {command:?} exited with {code}: {output}")),
                Err(error) => Err(error.chain()),
            }
        }
        Action::Http(get) => tokio::time::timeout(patience, request(aim, get))
            .await
            .unwrap_or_else(|_| Err(no_answer(patience))),
        Action::Tcp(tcp) => {
            let target = target(aim, tcp.host.as_deref(), &tcp.port)?;
            match tokio::time::timeout(patience, TcpStream::connect(&target)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("dial tcp {target}: {error}")),
                Err(_) => Err(format!("dial tcp {target}: {}", no_answer(patience))),
            }
        }
    }
}

fn no_answer(patience: Duration) -> String {
    format!("no answer within {} s", patience.as_secs_f32())
}

fn target(aim: &Aim<'_>, host: Option<&str>, port: &IntOrString) -> Result<String, String> {
    let port = match port {
        IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("invalid port {number}"))?,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                named_port(aim.container, name).ok_or_else(|| format!("the container has no port named {name}"))?
            }
        },
    };
    Ok(match host.filter(|host| !host.is_empty()) {
        Some(host) => format!("{host}:{port}"),
        None => SocketAddrV4::new(aim.address, port).to_string(),
    })
}

fn named_port(container: &Container, name: &str) -> Option<u16> {
    let port = container
        .ports
        .iter()
        .flatten()
        .find(|port| port.name.as_deref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}

async fn request(aim: &Aim<'_>, get: &HTTPGetAction) -> Result<(), String> {
    if get
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
    {
        return Err("probes over HTTPS are not offered by the lab; use HTTP, tcpSocket or exec".to_owned());
    }
    let target = target(aim, get.host.as_deref(), &get.port)?;
    let path = get.path.as_deref().filter(|path| path.starts_with('/')).unwrap_or("/");
    let url = format!("http://{target}{path}");
    let fail = |error: &dyn std::fmt::Display| format!("Get \"{url}\": {error}");
    let stream = TcpStream::connect(&target).await.map_err(|error| fail(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| fail(&error))?;
    let driver = tokio::spawn(connection);
    let mut builder = http::Request::get(path)
        .header("connection", "close")
        .header("user-agent", "kube-probe/1.33");
    let mut host = target.clone();
    for header in get.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host") {
            host.clone_from(&header.value);
        } else {
            builder = builder.header(&header.name, &header.value);
        }
    }
    let request = builder
        .header("host", host)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| fail(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| fail(&error));
    let outcome = match answer {
        Ok(answer) if (200..400).contains(&answer.status().as_u16()) => Ok(()),
        Ok(answer) => {
            let status = answer.status().as_u16();
            // Read on so that the server does not see a broken connection.
            drop(
                http_body_util::Limited::new(answer.into_body(), 10 * 1024)
                    .collect()
                    .await,
            );
            Err(format!("HTTP probe failed with statuscode: {status}"))
        }
        Err(error) => Err(error),
    };
    driver.abort();
    outcome
}
