//! The server half of SPDY/3.1, as far as Kubernetes streaming uses it.
//!
//! [`accept`] runs a connection over any byte stream and hands out the streams that the client opens. Depends on tokio
//! and [`frame`] alone. One task reads and one writes; all channels are bounded, so a slow consumer slows its peer.
//!
//! Flow control is the peer's choice: the library that `kubectl` and every Go client use neither sends nor heeds
//! window updates, and would hang for ever behind a 64 KiB window. So windows count only from the moment that the peer
//! sent settings with an initial window, or a window update.

mod connection;
pub(crate) mod frame;

pub(crate) use connection::{SpdyReader, SpdyStream, SpdyWriter, accept};
