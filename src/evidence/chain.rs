//! One JSON object per line, each carrying the hash of the line before it.
//!
//! A line is `{"seq":N,"mono":US,"wall":"..","prev":"<hex>","event":{..},"hash":"<hex>"}` and a newline. `hash` is the SHA-256
//! of the exact bytes of the line before `,"hash":`, so it covers the previous hash and everything else the line says; nothing is
//! re-serialised when a log is checked. The first line's `prev` is [`genesis`].

use super::Event;
use crate::model::Mono;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// What the genesis hash is the SHA-256 of. Names the format, so that a log of another format cannot be taken for this one.
pub const FORMAT: &str = "chaosrun.event-log/v1";

const HASH_KEY: &str = ",\"hash\":\"";
const HASH_LENGTH: usize = 64;

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
    hex(&Sha256::digest(FORMAT.as_bytes()))
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
        let hash = hex(&Sha256::digest(line.as_bytes()));
        line.push_str(HASH_KEY);
        line.push_str(&hash);
        line.push_str("\"}\n");
        self.next += 1;
        self.head = hash;
        Ok(line)
    }
}

/// Reads a log and checks its chain. A last line without its newline is what a crash leaves: it is reported, not an error.
///
/// # Errors
/// The first line that is not what the writer wrote, and what is wrong with it.
pub fn read_log(bytes: &[u8]) -> Result<Log, LogError> {
    let mut log = Log::default();
    let mut head = genesis();
    let mut rest = bytes;
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (text, remaining) = match end {
            Some(end) => (
                rest.get(..end).unwrap_or_default(),
                rest.get(end + 1..).unwrap_or_default(),
            ),
            None => (rest, &[][..]),
        };
        let record = read_line(text, log.records.len() as u64, &head);
        match (record, end.is_some()) {
            (Ok(record), whole) => {
                head.clone_from(&record.hash);
                log.records.push(record);
                if whole {
                    log.intact_bytes = bytes.len() - remaining.len();
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
        rest = remaining;
    }
    Ok(log)
}

fn read_line(text: &[u8], seq: u64, head: &str) -> Result<Record, String> {
    let text = std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned())?;
    let tail = HASH_KEY.len() + HASH_LENGTH + 2;
    let split = text
        .len()
        .checked_sub(tail)
        .filter(|split| text.is_char_boundary(*split))
        .ok_or_else(|| "too short to be a record".to_owned())?;
    let (body, tail) = text.split_at(split);
    let stated = tail
        .strip_prefix(HASH_KEY)
        .and_then(|tail| tail.strip_suffix("\"}"))
        .ok_or_else(|| "does not end in its hash".to_owned())?;
    let hash = hex(&Sha256::digest(body.as_bytes()));
    if stated != hash {
        return Err("its content does not match its hash: it was changed".to_owned());
    }
    let record: Record = serde_json::from_str(text).map_err(|error| format!("not a record: {error}"))?;
    if record.prev != head {
        return Err("does not follow the line before it: lines are missing or moved".to_owned());
    }
    if record.seq != seq {
        return Err(format!("has number {} where {seq} is due", record.seq));
    }
    Ok(record)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "{byte:02x}");
            text
        })
}
