//! Commit progress, asked like a probe: a shell in the reader pod answers each question with the highest committed and
//! planned batch. No foreign clock is involved: the state held within `[sent, received]` of the question.

use crate::cluster::{Cluster, ClusterError, Failed, Session};
use crate::evidence::Event;
use crate::experiment::Ledger;
use crate::observe::PodIndex;
use crate::world::{RecordError, Recorder};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Answers `N` with `N committed planned`, and `clock` with the pod's wall clock in milliseconds. Only shell built-ins in the
/// sampled path: ten questions a second must not disturb a small node. Names that are not plain numbers are passed over
/// (`.N.crc`, `.N.<uuid>.tmp`, `N.compact`).
const SCRIPT: &str = r#"
highest() {
  top=-
  for file in "$1"/[0-9]*; do
    name=${file##*/}
    case $name in *[!0-9]*) continue ;; esac
    [ -e "$file" ] || continue
    if [ "$top" = - ] || [ "$name" -gt "$top" ]; then top=$name; fi
  done
}
while read -r question; do
  if [ "$question" = clock ]; then date +%s%3N; continue; fi
  highest "$1/commits"; committed=$top
  highest "$1/offsets"; echo "$question $committed $top"
done
"#;

const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Samples the ledger's progress.
pub(crate) struct Sampler {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) pods: PodIndex,
    pub(crate) ledger: Ledger,
}

impl Sampler {
    /// Runs until cancelled. A session that breaks is opened again, in another pod if need be.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) async fn run(self, cancel: CancellationToken) -> Result<(), RecordError> {
        let clock = self.recorder.clock();
        let mut session: Option<Session> = None;
        let mut due = clock.now();
        let mut number: u64 = 0;
        let mut said: Option<String> = None;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = clock.sleep_until(due) => {}
            }
            let scheduled = due;
            due = due.plus(self.ledger.interval).max(clock.now());
            number += 1;
            let sent = clock.now();
            let answer = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                answer = self.ask(&mut session, number) => answer,
            };
            let received = clock.now();
            let (committed, planned, error) = match answer {
                Ok((committed, planned)) => (committed, planned, None),
                Err(error) => {
                    session = None;
                    due = due.max(clock.now().plus(Duration::from_millis(500)));
                    (None, None, Some(error.to_string()))
                }
            };
            // The same error over and over is one fact.
            if error.is_some() && error == said {
                continue;
            }
            said.clone_from(&error);
            self.recorder.record(Event::LedgerSample {
                scheduled,
                sent,
                received,
                committed,
                planned,
                error,
            })?;
        }
    }

    async fn ask(&self, held: &mut Option<Session>, number: u64) -> Result<(Option<u64>, Option<u64>), ClusterError> {
        let session = match held {
            Some(session) => session,
            None => {
                let command = ["sh", "-c", SCRIPT, "sh", &self.ledger.checkpoint];
                let mut opened = open_session(&self.cluster, &self.pods, &self.ledger, &command).await?;
                self.compare_clocks(&mut opened).await;
                held.insert(opened)
            }
        };
        let answer = session.ask(&number.to_string(), ANSWER_LIMIT).await?;
        let mut words = answer.split_whitespace();
        if words.next() != Some(number.to_string().as_str()) {
            return Err(ClusterError {
                attempted: "read the ledger's progress".to_owned(),
                failed: Failed::Other,
                why: format!("the session answered {answer:?}"),
            });
        }
        let mut batch = || words.next().and_then(|word| word.parse().ok());
        Ok((batch(), batch()))
    }

    /// Bounds the producer's clock: with local send s, receipt r and a stamp D cut to a millisecond, the offset lies in
    /// `(D - r, D + 1 - s)`; several exchanges intersect (Cristian 1989, Marzullo 1984).
    async fn compare_clocks(&self, session: &mut Session) {
        let (mut lower, mut upper) = (f64::NEG_INFINITY, f64::INFINITY);
        for _ in 0..5 {
            let sent = wall_ms(self.recorder.clock().wall());
            let Ok(answer) = session.ask("clock", ANSWER_LIMIT).await else {
                return;
            };
            let received = wall_ms(self.recorder.clock().wall());
            let Ok(stamp) = answer.trim().parse::<f64>() else {
                return;
            };
            lower = lower.max(stamp - received);
            upper = upper.min(stamp + 1.0 - sent);
        }
        // An empty intersection means that a clock stepped: no statement is better than a wrong one.
        if lower <= upper {
            let mono = self.recorder.clock().now();
            let wall = wall_ms(self.recorder.clock().wall());
            let events = [
                Event::ClockPair { mono, wall_ms: wall },
                Event::ClockOffset {
                    clock: "producer".to_owned(),
                    lower_ms: lower,
                    upper_ms: upper,
                },
            ];
            for event in events {
                if self.recorder.record(event).is_err() {
                    return;
                }
            }
        }
    }
}

/// Starts a script that answers questions, in the first ready pod that can read the ledger.
pub(super) async fn open_session(
    cluster: &Cluster,
    pods: &PodIndex,
    ledger: &Ledger,
    command: &[&str],
) -> Result<Session, ClusterError> {
    let pod = pods.ready_with(&ledger.reader).ok_or_else(|| ClusterError {
        attempted: "read the ledger's progress".to_owned(),
        failed: Failed::NotFound,
        why: format!("no ready pod carries the labels {}", label_text(&ledger.reader)),
    })?;
    let name = &pod.facts.pod;
    let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    Session::open(
        cluster,
        &name.namespace,
        &name.name,
        ledger.container.as_deref(),
        &command,
    )
    .await
}

/// Milliseconds since the epoch, with fraction.
#[expect(clippy::cast_precision_loss, reason = "microseconds since the epoch stay below 2^53")]
pub(super) fn wall_ms(wall: jiff::Timestamp) -> f64 {
    wall.as_microsecond() as f64 / 1000.0
}

/// `a=b, c=d` for messages.
pub(super) fn label_text(labels: &[(String, String)]) -> String {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(", ")
}
