//! Reads a log of any length in little memory, and checks every line of it.
//!
//! Contract: events are handed on in the order of the log, and only after the line they stand in was checked; the first line that is
//! not what the writer wrote ends it. Lines can be checked one without the other (each states the hash of the line before), so
//! blocks of them are checked side by side; the result does not depend on it.

use super::chain::{Chain, HASH_KEY, HASH_LENGTH, LogError, Torn, genesis};
use super::line::event_of;
use super::{Event, Record};
use crate::model::Mono;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Text checked at once: enough that handing it over costs nothing, little enough that it stays in the processor's cache.
const BLOCK: usize = 512 * 1024;
/// Threads that check blocks, where there are as many processors. One reads and folds besides them.
const WORKERS: usize = 3;

/// What was read, without the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whole lines.
    pub records: usize,
    /// Hash of the last one, [`genesis`] of an empty log.
    pub head: String,
    /// What is wrong with the last line when the writer died while writing it. Its event, if whole, was handed on.
    pub torn: Option<Torn>,
    /// Length of the intact part in bytes.
    pub intact_bytes: u64,
}

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The reader failed.
    #[error("cannot read the event log")]
    Io(#[from] std::io::Error),
    /// A line is not what the writer wrote.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A line whose own hash holds. What it follows is still to be checked.
pub(super) struct Line<'a> {
    pub(super) seq: u64,
    pub(super) mono: Mono,
    pub(super) wall: Cow<'a, str>,
    pub(super) prev: Cow<'a, str>,
    pub(super) event: Event,
    pub(super) hash: &'a str,
}

/// Checks a log and hands each event on, in order. A last line without its newline is what a crash leaves: it is reported, not an
/// error.
///
/// # Errors
/// The reader's, or the first line that is not what the writer wrote and what is wrong with it. Events of the lines before it
/// have been handed on.
pub fn fold_log(mut log: impl Read, mut each: impl FnMut(Event)) -> Result<Checked, ReadError> {
    let mut place = Place::new();
    let mut rest = Vec::new();
    std::thread::scope(|scope| -> Result<(), ReadError> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
        let mut lanes: Vec<(SyncSender<Vec<u8>>, Receiver<Block>)> = Vec::new();
        let (mut sent, mut taken) = (0_usize, 0_usize);
        loop {
            let block = next_block(&mut log, &mut rest)?;
            let last = block.is_none();
            if let Some(block) = block {
                if sent == 0 && rest.is_empty() || workers < 2 {
                    // A short log, or one processor: nothing to gain.
                    place.take(check(&block), &mut each)?;
                    continue;
                }
                if lanes.len() < workers {
                    let (give, work) = sync_channel::<Vec<u8>>(1);
                    let (give_back, done) = sync_channel(1);
                    scope.spawn(move || {
                        for block in work {
                            if give_back.send(check(&block)).is_err() {
                                return;
                            }
                        }
                    });
                    lanes.push((give, done));
                }
                if let Some((give, _)) = lanes.get(sent % workers) {
                    // A worker ends only with its channel.
                    drop(give.send(block));
                }
                sent += 1;
            }
            while taken < sent && (last || sent - taken >= workers * 2) {
                if let Some(Ok(block)) = lanes.get(taken % workers).map(|(_, done)| done.recv()) {
                    place.take(block, &mut each)?;
                }
                taken += 1;
            }
            if last {
                return Ok(());
            }
        }
    })?;
    place.tail(&rest, &mut each);
    Ok(place.checked)
}

/// How far the chain was followed.
struct Place {
    checked: Checked,
}

impl Place {
    fn new() -> Self {
        Self {
            checked: Checked {
                records: 0,
                head: genesis(),
                torn: None,
                intact_bytes: 0,
            },
        }
    }

    fn take(&mut self, block: Block, each: &mut impl FnMut(Event)) -> Result<(), LogError> {
        let lines_before = self.checked.records;
        if let Some((seq, prev)) = block.first {
            follows(&prev, seq, &self.checked.head, lines_before as u64).map_err(|what| LogError {
                line: lines_before + 1,
                what,
            })?;
        }
        self.checked.records += block.events.len();
        self.checked.intact_bytes += block.bytes as u64;
        if !block.events.is_empty() {
            self.checked.head = block.head;
        }
        for event in block.events {
            each(event);
        }
        match block.wrong {
            Some(what) => Err(LogError {
                line: self.checked.records + 1,
                what,
            }),
            None => Ok(()),
        }
    }

    /// What stands behind the last newline.
    fn tail(&mut self, rest: &[u8], each: &mut impl FnMut(Event)) {
        if rest.is_empty() {
            return;
        }
        let line = self.checked.records + 1;
        let known = read_line(rest).and_then(|read| {
            follows(&read.prev, read.seq, &self.checked.head, self.checked.records as u64)?;
            Ok(read)
        });
        self.checked.torn = Some(match known {
            Ok(read) => {
                read.hash.clone_into(&mut self.checked.head);
                self.checked.records += 1;
                each(read.event);
                Torn {
                    line,
                    what: "the newline at its end is missing".to_owned(),
                }
            }
            Err(_) => Torn {
                line,
                what: format!("{} bytes of a line that was never finished", rest.len()),
            },
        });
    }
}

/// Whole lines whose hashes hold and which follow each other.
struct Block {
    events: Vec<Event>,
    /// Number and `prev` of the first line.
    first: Option<(u64, String)>,
    /// Hash of the last line.
    head: String,
    /// Length of the good lines.
    bytes: usize,
    /// What is wrong with the line after them.
    wrong: Option<String>,
}

fn check(text: &[u8]) -> Block {
    let mut block = Block {
        events: Vec::with_capacity(text.len() / 256),
        first: None,
        head: String::new(),
        bytes: 0,
        wrong: None,
    };
    let mut expected: Option<(u64, &str)> = None;
    for end in memchr::memchr_iter(b'\n', text) {
        let line = text.get(block.bytes..end).unwrap_or_default();
        let read = read_line(line).and_then(|read| {
            if let Some((seq, head)) = expected {
                follows(&read.prev, read.seq, head, seq)?;
            }
            Ok(read)
        });
        match read {
            Ok(read) => {
                if expected.is_none() {
                    block.first = Some((read.seq, read.prev.into_owned()));
                }
                expected = Some((read.seq.saturating_add(1), read.hash));
                block.events.push(read.event);
                block.bytes = end + 1;
            }
            Err(what) => {
                block.wrong = Some(what);
                break;
            }
        }
    }
    if let Some((_, head)) = expected {
        head.clone_into(&mut block.head);
    }
    block
}

/// The next block of whole lines; none when no newline is left. `rest` keeps what was read beyond it.
fn next_block(log: &mut impl Read, rest: &mut Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
    let mut block = Vec::with_capacity(rest.len() + BLOCK);
    block.append(rest);
    loop {
        // What was left over holds no newline.
        let searched = block.len();
        let read = log.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        let newline = block.get(searched..).and_then(|fresh| memchr::memrchr(b'\n', fresh));
        if let Some(newline) = newline {
            *rest = block.split_off(searched + newline + 1);
            return Ok(Some(block));
        }
        if read == 0 {
            *rest = block;
            return Ok(None);
        }
    }
}

/// Whether a line with this number, which says that it follows `prev`, may stand where it stands.
pub(super) fn follows(prev: &str, seq: u64, head: &str, due: u64) -> Result<(), String> {
    if prev != head {
        return Err("does not follow the line before it: lines are missing or moved".to_owned());
    }
    if seq != due {
        return Err(format!("has number {seq} where {due} is due"));
    }
    Ok(())
}

/// One line without its newline: its own hash holds, and it is a record.
pub(super) fn read_line(text: &[u8]) -> Result<Line<'_>, String> {
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
    if stated.as_bytes() != hex(&Sha256::digest(body.as_bytes())) {
        return Err("its content does not match its hash: it was changed".to_owned());
    }
    if let Some(line) = as_written(body, stated) {
        return Ok(line);
    }
    let record: Record = serde_json::from_str(text).map_err(|error| format!("not a record: {error}"))?;
    Ok(Line {
        seq: record.seq,
        mono: record.mono,
        wall: Cow::Owned(record.wall),
        prev: Cow::Owned(record.prev),
        event: record.event,
        hash: stated,
    })
}

/// The line in exactly the form in which [`Chain::line`] writes it; `None` sends the reader to the general way, which says the same
/// of every line that this one accepts.
fn as_written<'a>(body: &'a str, hash: &'a str) -> Option<Line<'a>> {
    let (seq, rest) = digits(body.strip_prefix("{\"seq\":")?)?;
    let (mono, rest) = digits(rest.strip_prefix(",\"mono\":")?)?;
    let (wall, rest) = rest.strip_prefix(",\"wall\":\"")?.split_once('"')?;
    let rest = rest.strip_prefix(",\"prev\":\"")?;
    let (prev, rest) = rest.split_at_checked(HASH_LENGTH)?;
    let event = rest.strip_prefix("\",\"event\":")?;
    let plain = |text: &str| text.bytes().all(|byte| byte >= b' ' && byte != b'\\' && byte != b'"');
    if !plain(wall) || !plain(prev) {
        return None;
    }
    Some(Line {
        seq: seq.parse().ok()?,
        mono: Mono(mono.parse().ok()?),
        wall: Cow::Borrowed(wall),
        prev: Cow::Borrowed(prev),
        event: event_of(event)?,
        hash,
    })
}

/// The digits that `text` begins with, as JSON writes a number (no sign: only a clock that ran backwards would need one), and the
/// rest.
fn digits(text: &str) -> Option<(&str, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(length)?;
    let plain = digits.len() == 1 || !digits.starts_with('0');
    (plain && !digits.is_empty()).then_some((digits, rest))
}

/// Lower-case hexadecimal, without a detour over the heap.
pub(super) fn hex(bytes: &[u8]) -> [u8; HASH_LENGTH] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut text = [b'0'; HASH_LENGTH];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        if let [high, low] = pair {
            *high = DIGITS.get(usize::from(byte >> 4)).copied().unwrap_or_default();
            *low = DIGITS.get(usize::from(byte & 15)).copied().unwrap_or_default();
        }
    }
    text
}

/// The hash of `bytes` as text.
pub(super) fn hash_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&hex(&Sha256::digest(bytes))).into_owned()
}

impl Checked {
    /// The chain that goes on behind what was read.
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain::at(self.records as u64, self.head.clone())
    }
}
