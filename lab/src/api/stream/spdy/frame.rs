//! SPDY/3.1 frames and their wire form.
//!
//! Pure: bytes in, bytes out. Header blocks are compressed with one zlib stream per direction for the life of the
//! connection, primed with the dictionary of the SPDY/3 specification, so encoder and decoder carry state.
//! Source: "SPDY Protocol - Draft 3.1", sections 2.2 (framing), 2.6 (control frames), 2.6.10 (header block).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Length of a frame header.
pub(crate) const HEADER_LENGTH: usize = 8;
/// The largest payload that is accepted; peers send at most some ten kilobytes.
pub(crate) const MAX_PAYLOAD: usize = 1 << 20;
/// The largest header block after decompression: a bomb must not be unpacked.
const MAX_HEADER_BLOCK: usize = 64 << 10;
/// The largest payload that is put into one data frame.
pub(crate) const DATA_CHUNK: usize = 32 << 10;

/// Last frame of this direction of the stream.
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The setting that says how much may be sent before the first window update.
pub(crate) const SETTING_INITIAL_WINDOW_SIZE: u32 = 7;

/// Name and value, in order.
pub(crate) type Headers = Vec<(String, String)>;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Opens a stream.
    SynStream {
        /// Odd from clients.
        stream: u32,
        /// 0 is the highest of 8.
        priority: u8,
        /// The opener sends nothing more.
        fin: bool,
        /// Lower-case names.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream: u32,
        /// The accepter sends nothing.
        fin: bool,
        /// Lower-case names.
        headers: Headers,
    },
    /// Ends a stream at once, in both directions.
    RstStream {
        /// The stream.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// Connection settings, as pairs of id and value.
    Settings(Vec<(u32, u32)>),
    /// To be answered with the same id when it came from the peer.
    Ping(u32),
    /// No new streams.
    GoAway {
        /// The last stream that was accepted.
        last_stream: u32,
        /// Why.
        status: u32,
    },
    /// More headers.
    Headers {
        /// The stream.
        stream: u32,
        /// The sender sends nothing more.
        fin: bool,
        /// Lower-case names.
        headers: Headers,
    },
    /// More may be sent.
    WindowUpdate {
        /// The stream; 0 for the connection.
        stream: u32,
        /// So many bytes more.
        delta: u32,
    },
    /// Payload.
    Data {
        /// The stream.
        stream: u32,
        /// The sender sends nothing more.
        fin: bool,
        /// The bytes.
        payload: Bytes,
    },
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// Longer than is accepted.
    #[error("frame of {0} bytes is too large")]
    TooLarge(usize),
    /// Ends before its content does.
    #[error("frame ends within {0}")]
    Truncated(&'static str),
    /// Another protocol version.
    #[error("protocol version {0}, only 3 is spoken")]
    Version(u16),
    /// No such frame type.
    #[error("unknown control frame type {0}")]
    UnknownType(u16),
    /// The header block cannot be unpacked.
    #[error("header block cannot be unpacked: {0}")]
    Compression(String),
    /// A header is not text.
    #[error("header block is not UTF-8")]
    NotText,
}

/// The dictionary that both sides prime their compressors with: 1423 bytes, Adler-32 0xe3c6a7c2.
fn dictionary() -> Vec<u8> {
    const NAMES: &[&str] = &[
        "options",
        "head",
        "post",
        "put",
        "delete",
        "trace",
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "accept-ranges",
        "age",
        "allow",
        "authorization",
        "cache-control",
        "connection",
        "content-base",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "date",
        "etag",
        "expect",
        "expires",
        "from",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "last-modified",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "referer",
        "retry-after",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "method",
        "get",
        "status",
        "200 OK",
        "version",
        "HTTP/1.1",
        "url",
        "public",
        "set-cookie",
        "keep-alive",
        "origin",
    ];
    const TAIL: &str = concat!(
        "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
        "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
        "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
        "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
        "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
        "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
    );
    let mut bytes = Vec::with_capacity(1423);
    for name in NAMES {
        put_text(&mut bytes, name);
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

fn put_text(into: &mut Vec<u8>, text: &str) {
    // No header of ours comes near four gigabytes; a text that did would be cut by `MAX_HEADER_BLOCK` at the peer.
    into.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    into.extend_from_slice(text.as_bytes());
}

/// Writes frames.
pub(crate) struct Encoder {
    zlib: Compress,
}

impl Encoder {
    /// A fresh compression state.
    pub(crate) fn new() -> Result<Self, FrameError> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary())
            .map_err(|error| FrameError::Compression(error.to_string()))?;
        Ok(Self { zlib })
    }

    /// The bytes of a frame.
    pub(crate) fn encode(&mut self, frame: &Frame) -> Result<Bytes, FrameError> {
        let mut payload = BytesMut::new();
        let (kind, flags) = match frame {
            Frame::Data { stream, fin, payload } => {
                let mut out = BytesMut::with_capacity(HEADER_LENGTH + payload.len());
                out.put_u32(stream & 0x7fff_ffff);
                put_flags_and_length(&mut out, u8::from(*fin) * FLAG_FIN, payload.len())?;
                out.extend_from_slice(payload);
                return Ok(out.freeze());
            }
            Frame::SynStream {
                stream,
                priority,
                fin,
                headers,
            } => {
                payload.put_u32(*stream);
                payload.put_u32(0);
                payload.put_u8((priority & 7) << 5);
                payload.put_u8(0);
                payload.extend_from_slice(&self.compress(headers)?);
                (SYN_STREAM, u8::from(*fin) * FLAG_FIN)
            }
            Frame::SynReply { stream, fin, headers } => {
                payload.put_u32(*stream);
                payload.extend_from_slice(&self.compress(headers)?);
                (SYN_REPLY, u8::from(*fin) * FLAG_FIN)
            }
            Frame::Headers { stream, fin, headers } => {
                payload.put_u32(*stream);
                payload.extend_from_slice(&self.compress(headers)?);
                (HEADERS, u8::from(*fin) * FLAG_FIN)
            }
            Frame::RstStream { stream, status } => {
                payload.put_u32(*stream);
                payload.put_u32(*status);
                (RST_STREAM, 0)
            }
            Frame::Settings(settings) => {
                payload.put_u32(u32::try_from(settings.len()).unwrap_or(u32::MAX));
                for (id, value) in settings {
                    payload.put_u32(id & 0x00ff_ffff);
                    payload.put_u32(*value);
                }
                (SETTINGS, 0)
            }
            Frame::Ping(id) => {
                payload.put_u32(*id);
                (PING, 0)
            }
            Frame::GoAway { last_stream, status } => {
                payload.put_u32(*last_stream);
                payload.put_u32(*status);
                (GOAWAY, 0)
            }
            Frame::WindowUpdate { stream, delta } => {
                payload.put_u32(*stream);
                payload.put_u32(*delta);
                (WINDOW_UPDATE, 0)
            }
        };
        let mut out = BytesMut::with_capacity(HEADER_LENGTH + payload.len());
        out.put_u16(0x8003);
        out.put_u16(kind);
        put_flags_and_length(&mut out, flags, payload.len())?;
        out.extend_from_slice(&payload);
        Ok(out.freeze())
    }

    fn compress(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
        for (name, value) in headers {
            put_text(&mut plain, name);
            put_text(&mut plain, value);
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let start = self.zlib.total_in();
        loop {
            let done = usize::try_from(self.zlib.total_in() - start).unwrap_or(usize::MAX);
            let rest = plain.get(done..).unwrap_or_default();
            self.zlib
                .compress_vec(rest, &mut packed, FlushCompress::Sync)
                .map_err(|error| FrameError::Compression(error.to_string()))?;
            // The flush is complete when everything went in and room was left over.
            let all_in = self.zlib.total_in() - start == plain.len() as u64;
            if all_in && packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(1024);
        }
    }
}

fn put_flags_and_length(out: &mut BytesMut, flags: u8, length: usize) -> Result<(), FrameError> {
    let length = u32::try_from(length)
        .ok()
        .filter(|length| *length < 1 << 24)
        .ok_or(FrameError::TooLarge(length))?;
    out.put_u32(u32::from(flags) << 24 | length);
    Ok(())
}

/// The length of the payload that follows this frame header.
pub(crate) fn payload_length(header: [u8; HEADER_LENGTH]) -> Result<usize, FrameError> {
    let [_, _, _, _, _, high, middle, low] = header;
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if length > MAX_PAYLOAD {
        Err(FrameError::TooLarge(length))
    } else {
        Ok(length)
    }
}

/// Reads frames.
pub(crate) struct Decoder {
    zlib: Decompress,
}

impl Decoder {
    /// A fresh decompression state.
    pub(crate) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }

    /// The frame with this header and payload.
    pub(crate) fn decode(&mut self, header: [u8; HEADER_LENGTH], mut payload: Bytes) -> Result<Frame, FrameError> {
        let mut start = header.as_slice();
        let word = start.get_u32();
        let flags = start.get_u8();
        let fin = flags & FLAG_FIN != 0;
        if word & 0x8000_0000 == 0 {
            return Ok(Frame::Data {
                stream: word,
                fin,
                payload,
            });
        }
        let version = u16::try_from(word >> 16 & 0x7fff).unwrap_or_default();
        if version != 3 {
            return Err(FrameError::Version(version));
        }
        let number = |payload: &mut Bytes, what| payload.try_get_u32().map_err(|_| FrameError::Truncated(what));
        let kind = u16::try_from(word & 0xffff).unwrap_or_default();
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut payload, "SYN_STREAM")? & 0x7fff_ffff;
                number(&mut payload, "SYN_STREAM")?;
                let priority = payload.try_get_u8().map_err(|_| FrameError::Truncated("SYN_STREAM"))? >> 5;
                payload.try_get_u8().map_err(|_| FrameError::Truncated("SYN_STREAM"))?;
                Frame::SynStream {
                    stream,
                    priority,
                    fin,
                    headers: self.decompress(&payload)?,
                }
            }
            SYN_REPLY => {
                let stream = number(&mut payload, "SYN_REPLY")? & 0x7fff_ffff;
                Frame::SynReply {
                    stream,
                    fin,
                    headers: self.decompress(&payload)?,
                }
            }
            HEADERS => {
                let stream = number(&mut payload, "HEADERS")? & 0x7fff_ffff;
                Frame::Headers {
                    stream,
                    fin,
                    headers: self.decompress(&payload)?,
                }
            }
            RST_STREAM => Frame::RstStream {
                stream: number(&mut payload, "RST_STREAM")? & 0x7fff_ffff,
                status: number(&mut payload, "RST_STREAM")?,
            },
            SETTINGS => {
                let count = number(&mut payload, "SETTINGS")?;
                let mut settings = Vec::new();
                for _ in 0..count {
                    let id = number(&mut payload, "SETTINGS")? & 0x00ff_ffff;
                    settings.push((id, number(&mut payload, "SETTINGS")?));
                }
                Frame::Settings(settings)
            }
            PING => Frame::Ping(number(&mut payload, "PING")?),
            GOAWAY => Frame::GoAway {
                last_stream: number(&mut payload, "GOAWAY")? & 0x7fff_ffff,
                status: number(&mut payload, "GOAWAY")?,
            },
            WINDOW_UPDATE => Frame::WindowUpdate {
                stream: number(&mut payload, "WINDOW_UPDATE")? & 0x7fff_ffff,
                delta: number(&mut payload, "WINDOW_UPDATE")? & 0x7fff_ffff,
            },
            other => return Err(FrameError::UnknownType(other)),
        })
    }

    fn decompress(&mut self, packed: &[u8]) -> Result<Headers, FrameError> {
        let failed = |error: String| FrameError::Compression(error);
        let mut plain: Vec<u8> = Vec::with_capacity(1024);
        let mut rest = packed;
        loop {
            let before_in = self.zlib.total_in();
            let before_out = plain.len();
            match self.zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => {
                    return Err(failed("the compressed stream ended".to_owned()));
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&dictionary())
                        .map_err(|error| failed(error.to_string()))?;
                }
                Err(error) => return Err(failed(error.to_string())),
            }
            let consumed = usize::try_from(self.zlib.total_in() - before_in).unwrap_or(usize::MAX);
            rest = rest.get(consumed..).unwrap_or_default();
            if plain.len() > MAX_HEADER_BLOCK {
                return Err(failed(format!("more than {MAX_HEADER_BLOCK} bytes")));
            }
            if rest.is_empty() && plain.len() < plain.capacity() {
                return parse_headers(Bytes::from(plain));
            }
            if consumed == 0 && plain.len() == before_out && plain.len() < plain.capacity() {
                return Err(failed("no progress".to_owned()));
            }
            plain.reserve(4096);
        }
    }
}

fn parse_headers(mut block: Bytes) -> Result<Headers, FrameError> {
    let cut = |_| FrameError::Truncated("a header block");
    let count = block.try_get_u32().map_err(cut)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || {
            let length = usize::try_from(block.try_get_u32().map_err(cut)?).unwrap_or(usize::MAX);
            if length > block.remaining() {
                return Err(FrameError::Truncated("a header"));
            }
            String::from_utf8(block.split_to(length).to_vec()).map_err(|_| FrameError::NotText)
        };
        headers.push((text()?, text()?));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(bytes: &Bytes) -> ([u8; HEADER_LENGTH], Bytes) {
        let header: [u8; HEADER_LENGTH] = bytes[..HEADER_LENGTH].try_into().unwrap();
        assert_eq!(payload_length(header).unwrap(), bytes.len() - HEADER_LENGTH);
        (header, bytes.slice(HEADER_LENGTH..))
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        let bytes = dictionary();
        assert_eq!(bytes.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &bytes {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn the_wire_form_of_control_frames_is_the_specified_one() {
        let mut encoder = Encoder::new().unwrap();
        assert_eq!(
            encoder.encode(&Frame::Ping(1)).unwrap().as_ref(),
            [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]
        );
        assert_eq!(
            encoder
                .encode(&Frame::RstStream { stream: 5, status: 1 })
                .unwrap()
                .as_ref(),
            [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 1]
        );
        assert_eq!(
            encoder
                .encode(&Frame::Data {
                    stream: 3,
                    fin: true,
                    payload: Bytes::from_static(b"hi")
                })
                .unwrap()
                .as_ref(),
            [0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i']
        );
    }

    #[test]
    fn a_header_block_that_unpacks_to_a_bomb_is_refused() {
        let mut encoder = Encoder::new().unwrap();
        let frame = Frame::SynReply {
            stream: 1,
            fin: false,
            headers: vec![("a".to_owned(), "x".repeat(1 << 20))],
        };
        let (header, payload) = split(&encoder.encode(&frame).unwrap());
        assert!(matches!(
            Decoder::new().decode(header, payload),
            Err(FrameError::Compression(_))
        ));
    }

    #[test]
    fn cut_frames_are_refused() {
        let mut encoder = Encoder::new().unwrap();
        let bytes = encoder.encode(&Frame::WindowUpdate { stream: 1, delta: 2 }).unwrap();
        let (header, payload) = split(&bytes);
        assert_eq!(
            Decoder::new().decode(header, payload.slice(..6)),
            Err(FrameError::Truncated("WINDOW_UPDATE"))
        );
    }

    fn headers() -> impl Strategy<Value = Headers> {
        prop::collection::vec(("[a-z-]{1,12}", "[ -~]{0,40}"), 0..6)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let stream = 0u32..=0x7fff_ffff;
        prop_oneof![
            (stream.clone(), 0u8..8, any::<bool>(), headers()).prop_map(|(stream, priority, fin, headers)| {
                Frame::SynStream {
                    stream,
                    priority,
                    fin,
                    headers,
                }
            }),
            (stream.clone(), any::<bool>(), headers())
                .prop_map(|(stream, fin, headers)| { Frame::SynReply { stream, fin, headers } }),
            (stream.clone(), any::<bool>(), headers())
                .prop_map(|(stream, fin, headers)| { Frame::Headers { stream, fin, headers } }),
            (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            prop::collection::vec((0u32..0x00ff_ffff, any::<u32>()), 0..4).prop_map(Frame::Settings),
            any::<u32>().prop_map(Frame::Ping),
            (stream.clone(), any::<u32>()).prop_map(|(last_stream, status)| Frame::GoAway { last_stream, status }),
            (stream.clone(), 0u32..=0x7fff_ffff).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (stream, any::<bool>(), prop::collection::vec(any::<u8>(), 0..100)).prop_map(|(stream, fin, payload)| {
                Frame::Data {
                    stream,
                    fin,
                    payload: payload.into(),
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_sequence_of_frames_survives_one_connection(frames in prop::collection::vec(frame(), 1..20)) {
            let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
            for frame in frames {
                let (header, payload) = split(&encoder.encode(&frame).unwrap());
                prop_assert_eq!(decoder.decode(header, payload).unwrap(), frame);
            }
        }

        #[test]
        fn any_bytes_give_a_frame_or_an_error(header in any::<[u8; 8]>(), payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let data = header[0] & 0x80 == 0;
            prop_assert!(!data || Decoder::new().decode(header, payload.into()).is_ok());
        }
    }
}
