//! WebSocket messages with a channel number in front.
//!
//! The first byte of a binary message (or, with base64 protocols, the first digit of a text message) names a channel.
//! From version 5 on, a message on channel 255 closes the channel that its payload names.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};

/// How channels are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Binary,
    Base64,
}

impl Coding {
    /// The coding of a subprotocol.
    pub(super) fn of(protocol: &str) -> Self {
        if protocol.contains("base64") {
            Self::Base64
        } else {
            Self::Binary
        }
    }

    /// A message for a channel.
    pub(super) fn encode(self, channel: u8, payload: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut bytes = BytesMut::with_capacity(payload.len() + 1);
                bytes.put_u8(channel);
                bytes.extend_from_slice(payload);
                Message::Binary(bytes.freeze())
            }
            Self::Base64 => {
                Message::Text(format!("{}{}", char::from(b'0' + channel % 10), STANDARD.encode(payload)).into())
            }
        }
    }

    /// Channel and payload of a message; none when there is neither.
    pub(super) fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        match (self, message) {
            (Self::Binary, Message::Binary(bytes)) => {
                let channel = *bytes.first()?;
                Some((channel, bytes.slice(1..)))
            }
            // Some clients send text where bytes were agreed on.
            (Self::Binary, Message::Text(text)) => {
                let bytes: Bytes = text.into();
                let channel = *bytes.first()?;
                Some((channel, bytes.slice(1..)))
            }
            (Self::Base64, message) => {
                let bytes = message.into_data();
                let (digit, rest) = bytes.split_first()?;
                let channel = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
                Some((channel, STANDARD.decode(rest).ok()?.into()))
            }
            (Self::Binary, _) => None,
        }
    }
}

/// The channel whose payload names a channel to close.
pub(super) const CLOSE: u8 = 255;

/// The next message that carries a channel; none at the end of the connection.
pub(super) async fn receive(stream: &mut SplitStream<WebSocket>, coding: Coding) -> Option<(u8, Bytes)> {
    loop {
        match stream.next().await? {
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(message) => {
                if let Some(found) = coding.decode(message) {
                    return Some(found);
                }
            }
        }
    }
}

/// Says goodbye; the peer may be gone already.
pub(super) async fn close(mut sink: SplitSink<WebSocket, Message>) {
    let goodbye = Message::Close(Some(CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    }));
    if let Err(error) = sink.send(goodbye).await {
        tracing::trace!(%error, "WebSocket was closed already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_codings_carry_any_bytes() {
        for coding in [Coding::Binary, Coding::Base64] {
            for payload in [&b""[..], b"x", &[0, 255, 10]] {
                let message = coding.encode(2, payload);
                assert_eq!(coding.decode(message), Some((2, Bytes::copy_from_slice(payload))));
            }
        }
    }

    #[test]
    fn the_base64_coding_is_a_digit_and_base64() {
        assert_eq!(
            Coding::Base64.encode(1, b"hi").into_data(),
            Bytes::from_static(b"1aGk=")
        );
        assert_eq!(Coding::Base64.decode(Message::Text("xaGk=".into())), None);
    }
}
