//! One JSON object per line, each carrying the hash of the line before it.
//!
//! A line is `{"seq":N,"mono":US,"wall":"..","prev":"<hex>","event":{..},"hash":"<hex>"}` and a newline. `hash` is the SHA-256
//! of the exact bytes of the line before `,"hash":`, so it covers the previous hash and everything else the line says; nothing is
//! re-serialised when a log is checked. The first line's `prev` is [`genesis`].

use super::Event;
use super::reader::{follows, hash_of, read_line};
use crate::model::Mono;
use serde::{Deserialize, Serialize};

/// What the genesis hash is the SHA-256 of. Names the format, so that a log of another format cannot be taken for this one.
pub const FORMAT: &str = "chaosrun.event-log/v1";

pub(super) const HASH_KEY: &str = ",\"hash\":\"";
pub(super) const HASH_LENGTH: usize = 64;

/// One line of the event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position in the log, from 0.
    pub seq: u64,
    /// When the line was written. For people; measurements use the instants inside the event.
    pub mono: Mono,
    /// The same on the wall clock, RFC 3339.
    pub wall: String,
    /// Hash of the line before, [`genesis`] for the first.
    pub prev: String,
    /// The fact.
    pub event: Event,
    /// Hash of this line.
    pub hash: String,
}

/// A log that was read and whose chain holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// Every whole line, in order.
    pub records: Vec<Record>,
    /// What is wrong with the last line when the writer died while writing it. Its fact, if whole, is among the records.
    pub torn: Option<Torn>,
    /// Length of the intact part in bytes: what a writer that goes on must cut the file to.
    pub intact_bytes: usize,
}

/// A last line that was not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Line number, from 1.
    pub line: usize,
    /// What is there.
    pub what: String,
}

/// Why a log is not evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event log line {line}: {what}")]
pub struct LogError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// `prev` of the first line: the SHA-256 of [`FORMAT`].
#[must_use]
pub fn genesis() -> String {
    hash_of(FORMAT.as_bytes())
}

/// Writes lines: takes events and stamps, gives bytes. Pure; flushing them to disk is the caller's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    next: u64,
    head: String,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// A chain at its genesis.
    #[must_use]
    pub fn new() -> Self {
        Self {
            next: 0,
            head: genesis(),
        }
    }

    /// Goes on after the last record of a log that was read (as `clean` does after a crash).
    #[must_use]
    pub fn resume(records: &[Record]) -> Self {
        records.last().map_or_else(Self::new, |last| Self {
            next: last.seq + 1,
            head: last.hash.clone(),
        })
    }

    /// Goes on after `next` lines, the last of which has this hash.
    pub(super) fn at(next: u64, head: String) -> Self {
        Self { next, head }
    }

    /// Hash of the last line.
    #[must_use]
    pub fn head(&self) -> &str {
        &self.head
    }

    /// The next line, newline included. The chain has moved on when this returns: a line that could not be written ends the log.
    ///
    /// # Errors
    /// When the event cannot be written as JSON.
    pub fn line(&mut self, mono: Mono, wall: &str, event: &Event) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            seq: u64,
            mono: Mono,
            wall: &'a str,
            prev: &'a str,
            event: &'a Event,
        }
        let mut line = serde_json::to_string(&Body {
            seq: self.next,
            mono,
            wall,
            prev: &self.head,
            event,
        })?;
        // The closing brace moves behind the hash.
        line.pop();
        let hash = hash_of(line.as_bytes());
        line.push_str(HASH_KEY);
        line.push_str(&hash);
        line.push_str("\"}\n");
        self.next += 1;
        self.head = hash;
        Ok(line)
    }
}

/// Reads a log and checks its chain. A last line without its newline is what a crash leaves: it is reported, not an error. Keeps
/// every record; [`super::fold_log`] needs only what its caller keeps.
///
/// # Errors
/// The first line that is not what the writer wrote, and what is wrong with it.
pub fn read_log(bytes: &[u8]) -> Result<Log, LogError> {
    let mut log = Log::default();
    let mut head = genesis();
    let mut start = 0;
    let mut line = 0;
    while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
        line += 1;
        let newline = memchr::memchr(b'\n', rest);
        let text = rest.get(..newline.unwrap_or(rest.len())).unwrap_or_default();
        let due = log.records.len() as u64;
        let read = read_line(text).and_then(|read| {
            follows(&read.prev, read.seq, &head, due)?;
            Ok(read)
        });
        match (read, newline.is_some()) {
            (Ok(read), whole) => {
                read.hash.clone_into(&mut head);
                log.records.push(Record {
                    seq: read.seq,
                    mono: read.mono,
                    wall: read.wall.into_owned(),
                    prev: read.prev.into_owned(),
                    event: read.event,
                    hash: head.clone(),
                });
                if whole {
                    log.intact_bytes = start + text.len() + 1;
                } else {
                    log.torn = Some(Torn {
                        line,
                        what: "the newline at its end is missing".to_owned(),
                    });
                }
            }
            (Err(what), true) => return Err(LogError { line, what }),
            (Err(_), false) => {
                log.torn = Some(Torn {
                    line,
                    what: format!("{} bytes of a line that was never finished", text.len()),
                });
            }
        }
        start += text.len() + 1;
    }
    Ok(log)
}
