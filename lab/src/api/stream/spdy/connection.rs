//! One SPDY connection: a reading task, a writing task, and the streams between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use super::frame::{
    DATA_CHUNK, Decoder, Encoder, Frame, HEADER_LENGTH, Headers, SETTING_INITIAL_WINDOW_SIZE, payload_length,
};

/// Frames that wait for the writing task.
const OUTGOING: usize = 32;
/// Chunks that wait in one stream for its consumer.
const INCOMING: usize = 16;
/// Streams that one connection may have at a time: a browser behind a port-forward opens dozens.
const MAX_STREAMS: usize = 1024;
/// The window before the peer says otherwise.
const DEFAULT_WINDOW: i64 = 64 << 10;

/// RST_STREAM: the peer broke the protocol.
const PROTOCOL_ERROR: u32 = 1;
/// RST_STREAM: no such stream.
const INVALID_STREAM: u32 = 2;
/// RST_STREAM: no more streams now.
const REFUSED_STREAM: u32 = 3;
/// RST_STREAM: not wanted any more.
const CANCEL: u32 = 5;

/// How much may still be sent.
struct Windows {
    enabled: bool,
    initial: i64,
    connection: i64,
    /// Streams of which this side's half is open.
    streams: HashMap<u32, i64>,
    /// The connection is over.
    closed: bool,
}

struct Flow {
    windows: Mutex<Windows>,
    changed: Notify,
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, act: impl FnOnce(&mut Windows)) {
        act(&mut self.lock());
        self.changed.notify_waiters();
    }

    fn is_enabled(&self) -> bool {
        self.lock().enabled
    }

    /// Waits until something may be sent on the stream and takes up to `wanted` bytes; none when it was reset.
    async fn take(&self, stream: u32, wanted: usize) -> Option<usize> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut windows = self.lock();
                if windows.closed {
                    return None;
                }
                let (enabled, connection) = (windows.enabled, windows.connection);
                let window = windows.streams.get_mut(&stream)?;
                let limit = if enabled { (*window).min(connection) } else { i64::MAX };
                if limit > 0 {
                    let granted = wanted.min(usize::try_from(limit).unwrap_or(usize::MAX));
                    let spent = i64::try_from(granted).unwrap_or(i64::MAX);
                    // What goes out before the peer speaks of windows counts too, once it does.
                    *window = window.saturating_sub(spent);
                    windows.connection = windows.connection.saturating_sub(spent);
                    return Some(granted);
                }
            }
            changed.await;
        }
    }
}

/// A stream that the client opened.
pub(crate) struct SpdyStream {
    /// Number of the stream.
    pub(crate) id: u32,
    /// Headers of the opening frame, names in lower case.
    pub(crate) headers: Headers,
    /// What the client sends.
    pub(crate) reader: SpdyReader,
    /// Towards the client.
    pub(crate) writer: SpdyWriter,
}

impl SpdyStream {
    /// A header of the opening frame.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The receiving half of a stream.
pub(crate) struct SpdyReader {
    id: u32,
    chunks: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Frame>,
    flow: Arc<Flow>,
}

impl SpdyReader {
    /// The next bytes; none at the end of the client's half, or of the connection.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.recv().await?;
        if self.flow.is_enabled() {
            let delta = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            // A connection that is gone shows at the next read.
            for stream in [self.id, 0] {
                if self.outgoing.send(Frame::WindowUpdate { stream, delta }).await.is_err() {
                    break;
                }
            }
        }
        Some(chunk)
    }
}

/// The sending half of a stream. Dropped without [`SpdyWriter::finish`] it resets the stream.
pub(crate) struct SpdyWriter {
    id: u32,
    outgoing: mpsc::Sender<Frame>,
    flow: Arc<Flow>,
    finished: bool,
}

impl SpdyWriter {
    /// Sends bytes; false when the stream or the connection is gone.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let Some(granted) = self.flow.take(self.id, bytes.len().min(DATA_CHUNK)).await else {
                return false;
            };
            let payload = bytes.split_to(granted);
            if self
                .outgoing
                .send(Frame::Data {
                    stream: self.id,
                    fin: false,
                    payload,
                })
                .await
                .is_err()
            {
                return false;
            }
        }
        true
    }

    /// Waits until nobody listens any more: the stream was reset, or the connection is gone.
    pub(crate) async fn gone(&self) {
        loop {
            let changed = self.flow.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let windows = self.flow.lock();
                if windows.closed || !windows.streams.contains_key(&self.id) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Ends this half of the stream.
    pub(crate) async fn finish(mut self) {
        self.finished = true;
        let open = self.flow.lock().streams.remove(&self.id).is_some();
        if open {
            let last = Frame::Data {
                stream: self.id,
                fin: true,
                payload: Bytes::new(),
            };
            if self.outgoing.send(last).await.is_err() {
                tracing::trace!(stream = self.id, "connection was gone before the stream ended");
            }
        }
    }
}

impl Drop for SpdyWriter {
    fn drop(&mut self) {
        if self.finished || self.flow.lock().streams.remove(&self.id).is_none() {
            return;
        }
        // Best effort: without room in the queue the peer learns it when the connection ends.
        if self
            .outgoing
            .try_send(Frame::RstStream {
                stream: self.id,
                status: CANCEL,
            })
            .is_err()
        {
            tracing::trace!(stream = self.id, "stream dropped without a reset");
        }
    }
}

/// Serves a connection in the background and hands out the streams that the client opens, in order. The receiver ends
/// with the connection; the connection ends when the receiver and all streams are dropped and the client goes.
pub(crate) fn accept<IO>(io: IO) -> mpsc::Receiver<SpdyStream>
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (opened_sender, opened) = mpsc::channel(INCOMING);
    let (outgoing, frames) = mpsc::channel(OUTGOING);
    let flow = Arc::new(Flow {
        windows: Mutex::new(Windows {
            enabled: false,
            initial: DEFAULT_WINDOW,
            connection: DEFAULT_WINDOW,
            streams: HashMap::new(),
            closed: false,
        }),
        changed: Notify::new(),
    });
    tokio::spawn(write_frames(write, frames));
    tokio::spawn(async move {
        let mut connection = Connection {
            decoder: Decoder::new(),
            incoming: HashMap::new(),
            last: 0,
            opened: opened_sender,
            outgoing,
            flow,
        };
        if let Err(error) = connection.read_frames(read).await {
            tracing::debug!(%error, "SPDY connection ended");
        }
        connection.flow.change(|windows| windows.closed = true);
    });
    opened
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) {
    let mut encoder = match Encoder::new() {
        Ok(encoder) => encoder,
        Err(error) => {
            tracing::warn!(%error, "SPDY header compression cannot be set up");
            return;
        }
    };
    while let Some(frame) = frames.recv().await {
        let written = match encoder.encode(&frame) {
            Ok(bytes) => io.write_all(&bytes).await,
            Err(error) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = match written {
            Ok(()) if frames.is_empty() => io.flush().await,
            other => other,
        } {
            tracing::debug!(%error, "SPDY connection cannot be written to");
            return;
        }
    }
    if let Err(error) = io.shutdown().await {
        tracing::trace!(%error, "SPDY connection was closed already");
    }
}

struct Connection {
    decoder: Decoder,
    /// Streams of which the client's half is open.
    incoming: HashMap<u32, mpsc::Sender<Bytes>>,
    last: u32,
    opened: mpsc::Sender<SpdyStream>,
    outgoing: mpsc::Sender<Frame>,
    flow: Arc<Flow>,
}

impl Connection {
    async fn read_frames(&mut self, mut io: impl AsyncRead + Unpin) -> std::io::Result<()> {
        loop {
            let mut header = [0; HEADER_LENGTH];
            match io.read_exact(&mut header).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let length = payload_length(header).map_err(std::io::Error::other)?;
            let mut payload = BytesMut::zeroed(length);
            io.read_exact(&mut payload).await?;
            let frame = match self.decoder.decode(header, payload.freeze()) {
                Ok(frame) => frame,
                // The specification wants unknown control frames ignored.
                Err(super::frame::FrameError::UnknownType(kind)) => {
                    tracing::debug!(kind, "unknown SPDY control frame ignored");
                    continue;
                }
                Err(error) => {
                    self.send(Frame::GoAway {
                        last_stream: self.last,
                        status: PROTOCOL_ERROR,
                    })
                    .await?;
                    return Err(std::io::Error::other(error));
                }
            };
            self.handle(frame).await?;
        }
    }

    async fn send(&self, frame: Frame) -> std::io::Result<()> {
        self.outgoing
            .send(frame)
            .await
            .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    async fn handle(&mut self, frame: Frame) -> std::io::Result<()> {
        match frame {
            Frame::SynStream {
                stream, fin, headers, ..
            } => self.open(stream, fin, headers).await?,
            Frame::Data { stream, fin, payload } => {
                match self.incoming.get(&stream) {
                    // A consumer that went away wants no more; the bytes are dropped, as after a shutdown.
                    Some(chunks) if !payload.is_empty() && chunks.send(payload).await.is_err() => {
                        self.incoming.remove(&stream);
                    }
                    Some(_) => {}
                    None if stream > self.last => {
                        self.send(Frame::RstStream {
                            stream,
                            status: INVALID_STREAM,
                        })
                        .await?;
                    }
                    None => {}
                }
                if fin {
                    self.incoming.remove(&stream);
                }
            }
            Frame::RstStream { stream, .. } => {
                self.incoming.remove(&stream);
                self.flow.change(|windows| {
                    windows.streams.remove(&stream);
                });
            }
            // Only the client's pings have odd numbers; an even one would be the answer to ours.
            Frame::Ping(id) if id % 2 == 1 => self.send(Frame::Ping(id)).await?,
            Frame::Settings(settings) => {
                for (_, value) in settings
                    .into_iter()
                    .filter(|(id, _)| *id == SETTING_INITIAL_WINDOW_SIZE)
                {
                    self.flow.change(|windows| {
                        let difference = i64::from(value) - windows.initial;
                        windows.enabled = true;
                        windows.initial = i64::from(value);
                        for window in windows.streams.values_mut() {
                            *window = window.saturating_add(difference);
                        }
                    });
                }
            }
            Frame::WindowUpdate { stream, delta } => self.flow.change(|windows| {
                windows.enabled = true;
                let window = if stream == 0 {
                    Some(&mut windows.connection)
                } else {
                    windows.streams.get_mut(&stream)
                };
                if let Some(window) = window {
                    *window = window.saturating_add(i64::from(delta));
                }
            }),
            Frame::GoAway { .. } | Frame::Ping(_) | Frame::SynReply { .. } | Frame::Headers { .. } => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> std::io::Result<()> {
        if id.is_multiple_of(2) || id <= self.last {
            return self
                .send(Frame::RstStream {
                    stream: id,
                    status: PROTOCOL_ERROR,
                })
                .await;
        }
        self.last = id;
        self.incoming.retain(|_, chunks| !chunks.is_closed());
        if self.incoming.len() >= MAX_STREAMS {
            return self
                .send(Frame::RstStream {
                    stream: id,
                    status: REFUSED_STREAM,
                })
                .await;
        }
        let (sender, chunks) = mpsc::channel(INCOMING);
        if !fin {
            self.incoming.insert(id, sender);
        }
        self.flow.change(|windows| {
            let initial = windows.initial;
            windows.streams.insert(id, initial);
        });
        self.send(Frame::SynReply {
            stream: id,
            fin: false,
            headers: Vec::new(),
        })
        .await?;
        let stream = SpdyStream {
            id,
            headers,
            reader: SpdyReader {
                id,
                chunks,
                outgoing: self.outgoing.clone(),
                flow: Arc::clone(&self.flow),
            },
            writer: SpdyWriter {
                id,
                outgoing: self.outgoing.clone(),
                flow: Arc::clone(&self.flow),
                finished: false,
            },
        };
        self.opened
            .send(stream)
            .await
            .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::DuplexStream;

    use super::*;

    struct Client {
        io: DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            let bytes = self.encoder.encode(&frame).unwrap();
            self.io.write_all(&bytes).await.unwrap();
        }

        async fn receive(&mut self) -> Frame {
            let read = async {
                let mut header = [0; HEADER_LENGTH];
                self.io.read_exact(&mut header).await.unwrap();
                let mut payload = BytesMut::zeroed(payload_length(header).unwrap());
                self.io.read_exact(&mut payload).await.unwrap();
                self.decoder.decode(header, payload.freeze()).unwrap()
            };
            tokio::time::timeout(Duration::from_secs(5), read)
                .await
                .expect("a frame within 5 s")
        }

        async fn open(&mut self, stream: u32) {
            let headers = vec![("streamtype".to_owned(), "data".to_owned())];
            self.send(Frame::SynStream {
                stream,
                priority: 0,
                fin: false,
                headers,
            })
            .await;
            assert_eq!(
                self.receive().await,
                Frame::SynReply {
                    stream,
                    fin: false,
                    headers: Vec::new()
                }
            );
        }
    }

    fn connect() -> (Client, mpsc::Receiver<SpdyStream>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        (
            Client {
                io: near,
                encoder: Encoder::new().unwrap(),
                decoder: Decoder::new(),
            },
            accept(far),
        )
    }

    #[tokio::test]
    async fn a_stream_carries_bytes_both_ways_and_ends_half_by_half() {
        let (mut client, mut opened) = connect();
        client.open(1).await;
        let mut stream = opened.recv().await.unwrap();
        assert_eq!(stream.header("StreamType"), Some("data"));
        client
            .send(Frame::Data {
                stream: 1,
                fin: true,
                payload: Bytes::from_static(b"in"),
            })
            .await;
        assert_eq!(stream.reader.next().await.unwrap(), "in");
        assert_eq!(stream.reader.next().await, None);
        assert!(stream.writer.send(Bytes::from_static(b"out")).await);
        stream.writer.finish().await;
        assert_eq!(
            client.receive().await,
            Frame::Data {
                stream: 1,
                fin: false,
                payload: Bytes::from_static(b"out")
            }
        );
        assert_eq!(
            client.receive().await,
            Frame::Data {
                stream: 1,
                fin: true,
                payload: Bytes::new()
            }
        );
    }

    #[tokio::test]
    async fn a_ping_comes_back() {
        let (mut client, _opened) = connect();
        client.send(Frame::Ping(7)).await;
        assert_eq!(client.receive().await, Frame::Ping(7));
    }

    #[tokio::test]
    async fn a_stream_with_a_used_or_even_number_is_reset() {
        let (mut client, _opened) = connect();
        client.open(3).await;
        for stream in [2, 3] {
            client
                .send(Frame::SynStream {
                    stream,
                    priority: 0,
                    fin: false,
                    headers: Vec::new(),
                })
                .await;
            assert_eq!(
                client.receive().await,
                Frame::RstStream {
                    stream,
                    status: PROTOCOL_ERROR
                }
            );
        }
    }

    #[tokio::test]
    async fn a_peer_that_speaks_of_windows_is_not_sent_more_than_they_allow() {
        let (mut client, mut opened) = connect();
        client
            .send(Frame::Settings(vec![(SETTING_INITIAL_WINDOW_SIZE, 4)]))
            .await;
        client.open(1).await;
        let mut stream = opened.recv().await.unwrap();
        let sending = tokio::spawn(async move { stream.writer.send(Bytes::from_static(b"0123456789")).await });
        assert_eq!(
            client.receive().await,
            Frame::Data {
                stream: 1,
                fin: false,
                payload: Bytes::from_static(b"0123")
            }
        );
        assert!(!sending.is_finished());
        client.send(Frame::WindowUpdate { stream: 1, delta: 100 }).await;
        assert_eq!(
            client.receive().await,
            Frame::Data {
                stream: 1,
                fin: false,
                payload: Bytes::from_static(b"456789")
            }
        );
        assert!(sending.await.unwrap());
    }

    #[tokio::test]
    async fn a_peer_that_never_speaks_of_windows_gets_everything() {
        let (mut client, mut opened) = connect();
        client.open(1).await;
        let mut stream = opened.recv().await.unwrap();
        let sending = tokio::spawn(async move { stream.writer.send(Bytes::from(vec![7; 300_000])).await });
        let mut received = 0;
        while received < 300_000 {
            if let Frame::Data { payload, .. } = client.receive().await {
                received += payload.len();
            }
        }
        assert!(sending.await.unwrap());
    }

    #[tokio::test]
    async fn a_reset_by_the_peer_ends_both_halves() {
        let (mut client, mut opened) = connect();
        client.open(1).await;
        let mut stream = opened.recv().await.unwrap();
        client
            .send(Frame::RstStream {
                stream: 1,
                status: CANCEL,
            })
            .await;
        assert_eq!(stream.reader.next().await, None);
        assert!(!stream.writer.send(Bytes::from_static(b"x")).await);
    }

    #[tokio::test]
    async fn a_dropped_writer_resets_the_stream() {
        let (mut client, mut opened) = connect();
        client.open(1).await;
        drop(opened.recv().await.unwrap());
        assert_eq!(
            client.receive().await,
            Frame::RstStream {
                stream: 1,
                status: CANCEL
            }
        );
    }
}
