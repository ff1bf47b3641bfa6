//! Connections into a pod's own loopback. Depends on rustix.
//!
//! A socket belongs to the network namespace of the thread that makes it, for ever. So a short-lived thread joins the
//! pod's namespace, connects, and ends; the rest of the process never leaves its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a port of the loopback of a network namespace.
pub(crate) async fn connect(namespace: String, port: u16) -> std::io::Result<TcpStream> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("pod-loopback".to_owned())
        .spawn(move || {
            // Nobody waits any more when the client has gone.
            drop(sender.send(connect_inside(&namespace, port)));
        })?;
    let stream = receiver.await.map_err(std::io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn connect_inside(namespace: &str, port: u16) -> std::io::Result<std::net::TcpStream> {
    let file = std::fs::File::open(namespace)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    std::net::TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT_TIMEOUT)
}
