//! Sampled probes: a fixed schedule, several questions in flight, answers in the order they were asked.

use super::checks::{Answer, Checker};
use crate::evidence::Event;
use crate::experiment::{Check, Probe};
use crate::model::Mono;
use crate::world::{RecordError, Recorder};
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// More questions in flight than this, and the next one is skipped (and said to be).
const IN_FLIGHT: usize = 32;
/// Sent this much later than planned: the runner was stalled, and says so.
const STALL: Duration = Duration::from_millis(250);

/// Samples one probe until cancelled. Open loop: a slow answer does not delay the next question, so an outage is sampled as
/// densely as good times are.
///
/// # Errors
/// When the log cannot be written.
pub(crate) async fn sample(
    probe: Probe,
    checker: Checker,
    recorder: Recorder,
    cancel: CancellationToken,
) -> Result<(), RecordError> {
    let clock = recorder.clock();
    let mut due = clock.now();
    let mut flying = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            Some(event) = flying.next(), if !flying.is_empty() => recorder.record(event)?,
            () = clock.sleep_until(due), if flying.len() < IN_FLIGHT => {
                let scheduled = due;
                let now = clock.now();
                if now.since(scheduled) > STALL {
                    recorder.record(Event::RunnerStalled { from: scheduled, to: now })?;
                    due = now;
                }
                due = due.plus(probe.interval);
                let probe = probe.clone();
                let checker = checker.clone();
                flying.push_back(async move {
                    let sent = clock.now();
                    let limit = probe.timeout;
                    let answer = tokio::time::timeout(limit, checker.sample(&probe.check)).await;
                    let answer = answer.unwrap_or_else(|_elapsed| unanswered(&probe.check, limit));
                    finish(&probe, scheduled, sent, clock.now(), answer)
                });
            }
        }
    }
}

/// An endpoint that does not answer is down; a Prometheus that does not answer says nothing about the system under test.
fn unanswered(check: &Check, limit: Duration) -> Answer {
    let why = format!("no answer within {} s", limit.as_secs_f64());
    match check {
        Check::Promql { .. } => Answer::no_data(why),
        _ => Answer::bad(why),
    }
}

fn finish(probe: &Probe, scheduled: Mono, sent: Mono, received: Mono, answer: Answer) -> Event {
    Event::ProbeSample {
        probe: probe.name.clone(),
        scheduled,
        sent,
        received,
        known_from: (!answer.age.is_zero()).then(|| sent.minus(answer.age)),
        outcome: answer.outcome,
        value: answer.value,
    }
}
