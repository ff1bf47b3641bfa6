//! Commit progress, asked like a probe: a shell in the reader pod answers each question with the highest committed and
//! planned batch. No foreign clock is involved: the state held within `[sent, received]` of the question.

use super::error::ReadError;
use super::parse::file_name;
use super::places::Place;
use crate::cluster::{Cluster, ClusterError, Failed, Session};
use crate::evidence::Event;
use crate::experiment::{Ledger, Location};
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
/// An object store across a network takes longer than a shell in a pod.
const PLACE_LIMIT: Duration = Duration::from_secs(10);

/// Where commits are looked for.
enum Source {
    Pod(Option<Session>),
    Place(Box<Place>),
    Nowhere,
}

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
        self.stated_clock()?;
        let mut source = match self.source() {
            Ok(source) => source,
            Err(error) => {
                let now = clock.now();
                return self.recorder.record(Event::LedgerSample {
                    scheduled: now,
                    sent: now,
                    received: now,
                    committed: None,
                    planned: None,
                    error: Some(error.to_string()),
                });
            }
        };
        if !matches!(source, Source::Pod(_)) && self.ledger.uses_pod() && self.ledger.clock_within.is_none() {
            self.clock_of_reader(&cancel).await;
        }
        if let Source::Nowhere = source {
            return Ok(());
        }
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
                answer = self.ask(&mut source, number) => answer,
            };
            let received = clock.now();
            let (committed, planned, error) = match answer {
                Ok((committed, planned)) => (committed, planned, None),
                Err(error) => {
                    if let Source::Pod(session) = &mut source {
                        *session = None;
                    }
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

    /// Where commits are looked for. Of a ledger whose checkpoint is in no pod, a reader still tells its clock.
    fn source(&self) -> Result<Source, ReadError> {
        let Some(checkpoint) = &self.ledger.checkpoint else {
            return Ok(Source::Nowhere);
        };
        let location = Location::parse(checkpoint).map_err(|wrong| ReadError::Other(wrong.why))?;
        Ok(match location {
            Location::Pod(_) => Source::Pod(None),
            _ => Source::Place(Box::new(Place::open(&location, &self.ledger.storage)?)),
        })
    }

    /// Compares clocks with the reader's pod, which is asked for nothing else; tried until it answers.
    async fn clock_of_reader(&self, cancel: &CancellationToken) {
        let command = ["sh", "-c", SCRIPT, "sh", "/"];
        loop {
            let opened = tokio::select! {
                () = cancel.cancelled() => return,
                opened = open_session(&self.cluster, &self.pods, &self.ledger, &command) => opened,
            };
            if let Ok(mut session) = opened {
                return self.compare_clocks(&mut session).await;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    /// What the experiment says of the producer's clock.
    fn stated_clock(&self) -> Result<(), RecordError> {
        let Some(within) = self.ledger.clock_within else {
            return Ok(());
        };
        let bound = within.as_secs_f64() * 1000.0;
        self.offset(-bound, bound)
    }

    async fn ask(&self, source: &mut Source, number: u64) -> Result<(Option<u64>, Option<u64>), ReadError> {
        let held = match source {
            Source::Pod(held) => held,
            Source::Place(place) => {
                let batches =
                    async || Ok::<_, ReadError>((highest(place, "commits").await?, highest(place, "offsets").await?));
                return match tokio::time::timeout(PLACE_LIMIT, batches()).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => Err(ReadError::Place {
                        what: place.url().to_owned(),
                        why: format!("no answer within {} s", PLACE_LIMIT.as_secs()),
                    }),
                };
            }
            Source::Nowhere => return Ok((None, None)),
        };
        let session = match held {
            Some(session) => session,
            None => {
                let checkpoint = self.ledger.checkpoint.as_deref().unwrap_or_default();
                let command = ["sh", "-c", SCRIPT, "sh", checkpoint];
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
            }
            .into());
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
            // A log that cannot be written stops the run where it matters.
            drop(self.offset(lower, upper));
        }
    }

    /// `lower <= producer's clock - runner's <= upper`, in milliseconds.
    fn offset(&self, lower_ms: f64, upper_ms: f64) -> Result<(), RecordError> {
        let mono = self.recorder.clock().now();
        let wall = wall_ms(self.recorder.clock().wall());
        self.recorder.record(Event::ClockPair { mono, wall_ms: wall })?;
        self.recorder.record(Event::ClockOffset {
            clock: "producer".to_owned(),
            lower_ms,
            upper_ms,
        })
    }
}

/// Highest batch of a folder of the checkpoint; names that are not plain numbers are passed over.
async fn highest(place: &Place, folder: &str) -> Result<Option<u64>, ReadError> {
    let texts = place.below(folder).await?;
    Ok(texts.iter().filter_map(|text| file_name(&text.name).parse().ok()).max())
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
