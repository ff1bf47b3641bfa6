//! The process that holds packets: takes them from the queue, loses or breaks some, and lets the others go when their time has come.
//!
//! [`main`] is started by `tc` and runs until it is killed; [`main_attended`] runs as long as somebody holds its standard input.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{ErrorKind, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nfq::{Message, Queue, Verdict};
use rand::RngExt as _;

use super::words::Netem;
use super::{COUNT_FILE, QUEUE};

/// Most packets that wait, netem's own default.
pub(super) const LIMIT: usize = 1000;
/// How often the queue is looked at; packets are late by up to so much more than they should be.
const LOOK: Duration = Duration::from_micros(500);
/// How often the counts are written down.
const NOTE: Duration = Duration::from_millis(100);

/// Length of an IPv4 header without options.
const IP_HEADER: usize = 20;
/// Says that packets may come.
pub(crate) const READY: &str = "ready";

/// A packet and when it goes. Ordered by that, then by arrival.
struct Held {
    due: Instant,
    number: u64,
    message: Message,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// Runs until it is killed, and writes down what it counted.
pub(crate) fn main(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.into_iter().collect();
    let Some(netem) = Netem::from_arguments(&arguments) else {
        return ExitCode::from(super::USAGE);
    };
    // The caller waits for this file: packets may be sent to the queue now.
    let note = |passed: u64, lost: u64| std::fs::write(COUNT_FILE, format!("{passed} {lost}\n"));
    result(hold(&netem, QUEUE, note, &AtomicBool::new(false)))
}

/// `QUEUE ARGUMENTS..`: says `ready` on standard output, and ends when standard input does.
pub(crate) fn main_attended(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let queue = arguments.next().and_then(|text| text.parse().ok());
    let arguments: Vec<String> = arguments.collect();
    let (Some(queue), Some(netem)) = (queue, Netem::from_arguments(&arguments)) else {
        return ExitCode::from(super::USAGE);
    };
    let ended = Arc::new(AtomicBool::new(false));
    let noticed = Arc::clone(&ended);
    std::thread::spawn(move || {
        let mut rest = [0; 64];
        while matches!(std::io::stdin().lock().read(&mut rest), Ok(1..)) {}
        noticed.store(true, Ordering::Release);
    });
    let mut said = false;
    let note = |_, _| {
        if std::mem::replace(&mut said, true) {
            return Ok(());
        }
        let mut output = std::io::stdout().lock();
        writeln!(output, "{READY}")?;
        output.flush()
    };
    result(hold(&netem, queue, note, &ended))
}

fn result(outcome: std::io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Holds what comes through a queue until `ended`; then everything is let go. `note` is called first when packets may come.
fn hold(
    netem: &Netem,
    number_of_queue: u16,
    mut note: impl FnMut(u64, u64) -> std::io::Result<()>,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let mut queue = Queue::open()?;
    queue.bind(number_of_queue)?;
    queue.set_fail_open(number_of_queue, true)?;
    queue.set_nonblocking(true);
    let mut random = rand::rng();
    let mut waiting: BinaryHeap<Reverse<Held>> = BinaryHeap::new();
    let (mut passed, mut lost, mut number) = (0_u64, 0_u64, 0_u64);
    // When a link of the limited rate would have sent everything so far.
    let mut free = Instant::now();
    note(0, 0)?;
    let mut noted = Instant::now();
    loop {
        match queue.recv() {
            Ok(mut message) => {
                number += 1;
                if random.random::<f64>() < netem.loss || waiting.len() >= LIMIT {
                    lost += 1;
                    message.set_verdict(Verdict::Drop);
                    queue.verdict(message)?;
                    continue;
                }
                if random.random::<f64>() < netem.corrupt {
                    turn_a_bit(message.get_payload_mut(), &mut random);
                }
                let swing = netem.jitter.mul_f64(random.random::<f64>() * 2.0);
                let delay = (netem.delay + swing).saturating_sub(netem.jitter);
                let mut due = Instant::now() + delay;
                let bytes = u64::try_from(message.get_original_len()).unwrap_or(u64::MAX);
                // A rate of 0 is no limit.
                if let Some(sending) = bytes.saturating_mul(1_000_000_000).checked_div(netem.rate) {
                    due = due.max(free) + Duration::from_nanos(sending);
                    free = due;
                }
                waiting.push(Reverse(Held { due, number, message }));
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let (now, over) = (Instant::now(), ended.load(Ordering::Acquire));
        while waiting.peek().is_some_and(|Reverse(held)| over || held.due <= now) {
            if let Some(Reverse(mut held)) = waiting.pop() {
                passed += 1;
                held.message.set_verdict(Verdict::Accept);
                queue.verdict(held.message)?;
            }
        }
        if over {
            return Ok(());
        }
        if noted.elapsed() >= NOTE {
            noted = now;
            note(passed, lost)?;
        }
        std::thread::sleep(LOOK);
    }
}

/// Behind the header of the network, or the packet would not even arrive; its checksum is wrong from then on.
fn turn_a_bit(packet: &mut [u8], random: &mut impl rand::Rng) {
    let Some(rest) = packet.get_mut(IP_HEADER..).filter(|rest| !rest.is_empty()) else {
        return;
    };
    let (at, bit) = (random.random_range(0..rest.len()), random.random_range(0..8_u32));
    if let Some(byte) = rest.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_behind_the_header_is_turned() {
        let mut packet = vec![0; IP_HEADER + 8];
        turn_a_bit(&mut packet, &mut rand::rng());
        assert!(packet.iter().take(IP_HEADER).all(|byte| *byte == 0));
        assert_eq!(packet.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        let mut header = vec![0; IP_HEADER];
        turn_a_bit(&mut header, &mut rand::rng());
        assert_eq!(header, vec![0; IP_HEADER]);
    }
}
