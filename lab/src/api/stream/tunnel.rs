//! A WebSocket as a plain byte stream: what SPDY is tunnelled through.

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{CHUNK, channels};

/// The bytes of all binary messages, and bytes as binary messages. Ends when either side does.
pub(super) fn byte_stream(socket: WebSocket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(2 * CHUNK);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let (mut sink, mut stream) = socket.split();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) => {
                    if to_near.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => break,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
            }
        }
        if let Err(error) = to_near.shutdown().await {
            tracing::trace!(%error, "tunnel was closed already");
        }
    });
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while let Ok(1..) = from_near.read_buf(&mut buffer).await {
            let bytes: Bytes = buffer.split().freeze();
            if sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK);
        }
        channels::close(sink).await;
    });
    near
}
