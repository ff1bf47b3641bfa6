//! The process that holds packets: takes them from the queue, loses some, and lets the others go when their time has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::process::ExitCode;
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

/// Runs until it is killed.
pub(crate) fn main(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.into_iter().collect();
    let Some(netem) = Netem::from_arguments(&arguments) else {
        return ExitCode::from(super::USAGE);
    };
    match hold(&netem) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn hold(netem: &Netem) -> std::io::Result<()> {
    let mut queue = Queue::open()?;
    queue.bind(QUEUE)?;
    queue.set_fail_open(QUEUE, true)?;
    queue.set_nonblocking(true);
    let mut random = rand::rng();
    let mut waiting: BinaryHeap<Reverse<Held>> = BinaryHeap::new();
    let (mut passed, mut lost, mut number) = (0_u64, 0_u64, 0_u64);
    // The caller waits for this file: packets may be sent to the queue now.
    std::fs::write(COUNT_FILE, "0 0\n")?;
    let mut noted = Instant::now();
    loop {
        match queue.recv() {
            Ok(mut message) => {
                number += 1;
                if random.random::<f64>() < netem.loss || waiting.len() >= LIMIT {
                    lost += 1;
                    message.set_verdict(Verdict::Drop);
                    queue.verdict(message)?;
                } else {
                    let swing = netem.jitter.mul_f64(random.random::<f64>() * 2.0);
                    let delay = (netem.delay + swing).saturating_sub(netem.jitter);
                    waiting.push(Reverse(Held {
                        due: Instant::now() + delay,
                        number,
                        message,
                    }));
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        while waiting.peek().is_some_and(|Reverse(held)| held.due <= now) {
            if let Some(Reverse(mut held)) = waiting.pop() {
                passed += 1;
                held.message.set_verdict(Verdict::Accept);
                queue.verdict(held.message)?;
            }
        }
        if noted.elapsed() >= NOTE {
            noted = now;
            std::fs::write(COUNT_FILE, format!("{passed} {lost}\n"))?;
        }
        std::thread::sleep(LOOK);
    }
}
