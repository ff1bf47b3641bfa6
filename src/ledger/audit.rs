//! The audit after a trial: what the producer knows to be durable against what the sink has committed.

use super::parse::{self, ParseError};
use super::sampler::label_text;
use crate::cluster::{Cluster, ClusterError, run_in_pod};
use crate::evidence::{AckedRange, Event, SinkRead, SinkRun};
use crate::experiment::Ledger;
use crate::model::Interval;
use crate::observe::PodIndex;
use crate::world::Recorder;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Manifest first, data after it: whatever the manifest names is on disk by then.
const READ_SINK: &str = r#"
cd "$1" || exit 3
echo "==> dir _spark_metadata"
for file in _spark_metadata/[0-9]*; do
  [ -f "$file" ] || continue
  echo "==> meta ${file##*/}"; cat "$file"; echo
done
for file in part-*; do
  [ -f "$file" ] || continue
  echo "==> part $file"; cat "$file"; echo
done
"#;

const READ_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("{0}")]
    Other(String),
}

/// Reads producer and sink until every record acknowledged at the start of the audit has arrived, or `drain` is over. The
/// result is one event: the audit, or why it could not be made.
pub(crate) async fn audit(
    cluster: &Cluster,
    recorder: &Recorder,
    pods: &PodIndex,
    ledger: &Ledger,
    cancel: &CancellationToken,
) -> Event {
    match try_audit(cluster, recorder, pods, ledger, cancel).await {
        Ok(event) => event,
        Err(error) => Event::LedgerUnreadable { why: error.to_string() },
    }
}

async fn try_audit(
    cluster: &Cluster,
    recorder: &Recorder,
    pods: &PodIndex,
    ledger: &Ledger,
    cancel: &CancellationToken,
) -> Result<Event, AuditError> {
    let clock = recorder.clock();
    let reader = Reader { cluster, pods, ledger };
    let sent = clock.now();
    let acked = parse::acknowledged(
        &reader
            .run("acknowledgement log", &["cat".to_owned(), ledger.acknowledged.clone()])
            .await?,
    )?;
    let acked_read = Interval::between(sent, clock.now());
    let deadline = clock.now().plus(ledger.drain);
    let mut reads: Vec<SinkRead> = Vec::new();
    loop {
        let sent = clock.now();
        let (last_batch, runs, uncommitted_files) = reader.sink().await?;
        let read = SinkRead {
            during: Interval::between(sent, clock.now()),
            last_batch,
            runs,
            uncommitted_files,
        };
        let drained = contains_all(&read.runs, &acked);
        let over = clock.now() >= deadline || cancel.is_cancelled();
        // The first read tells what was late, the last one what is lost; those between add nothing.
        if reads.len() == 2 {
            reads.pop();
        }
        reads.push(read);
        if drained || over {
            return Ok(Event::LedgerAudited {
                acked,
                acked_read,
                reads,
                drained,
            });
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

struct Reader<'a> {
    cluster: &'a Cluster,
    pods: &'a PodIndex,
    ledger: &'a Ledger,
}

impl Reader<'_> {
    async fn run(&self, what: &str, command: &[String]) -> Result<String, AuditError> {
        let pod = self.pods.ready_with(&self.ledger.reader).ok_or_else(|| {
            AuditError::Other(format!(
                "cannot read the {what}: no ready pod carries the labels {}",
                label_text(&self.ledger.reader)
            ))
        })?;
        let name = &pod.facts.pod;
        let container = self.ledger.container.as_deref();
        let output = run_in_pod(
            self.cluster,
            &name.namespace,
            &name.name,
            container,
            command,
            READ_LIMIT,
        )
        .await?;
        if output.code != Some(0) {
            let code = output
                .code
                .map_or_else(|| "unknown".to_owned(), |code| code.to_string());
            return Err(AuditError::Other(format!(
                "cannot read the {what} in pod {}: exit code {code}: {}",
                name.name, output.stderr
            )));
        }
        String::from_utf8(output.stdout).map_err(|_| AuditError::Other(format!("the {what} is not UTF-8 text")))
    }

    /// Highest committed batch, the records in committed files, and the number of files that no manifest names.
    async fn sink(&self) -> Result<(Option<u64>, Vec<SinkRun>, u64), AuditError> {
        let command = ["sh", "-c", READ_SINK, "sh", &self.ledger.sink].map(str::to_owned);
        let text = self.run("sink", &command).await?;
        let sections = parse::sections(&text);
        let named = |prefix: &str| {
            sections
                .iter()
                .filter_map(|(title, text)| Some((title.strip_prefix(prefix)?.to_owned(), text.clone())))
                .collect()
        };
        let (last_batch, committed): (_, BTreeSet<String>) = parse::manifest(&named("meta "))?;
        let parts: std::collections::BTreeMap<String, String> = named("part ");
        let mut ids = Vec::new();
        for file in &committed {
            let Some(text) = parts.get(file) else {
                return Err(AuditError::Other(format!(
                    "the sink's manifest names {file}, which is not there"
                )));
            };
            parse::record_ids(file, text, &self.ledger.id_field, &mut ids)?;
        }
        let uncommitted = parts.keys().filter(|file| !committed.contains(*file)).count();
        Ok((last_batch, parse::runs(ids), uncommitted as u64))
    }
}

/// Is every acknowledged record in the sink?
fn contains_all(runs: &[SinkRun], acked: &[AckedRange]) -> bool {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some((_, last)) if *last + 1 == run.first => *last = run.last,
            _ => merged.push((run.first, run.last)),
        }
    }
    acked.iter().all(|range| {
        let index = merged.partition_point(|(first, _)| *first <= range.first);
        index
            .checked_sub(1)
            .and_then(|index| merged.get(index))
            .is_some_and(|(_, last)| *last >= range.last)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_in_a_hole_is_missing() {
        let run = |first, last, times| SinkRun { first, last, times };
        let acked = |first, last| AckedRange {
            first,
            last,
            at_ms: 0,
            acked_ms: 0,
        };
        let runs = [run(0, 9, 1), run(10, 10, 2), run(12, 20, 1)];
        assert!(contains_all(&runs, &[acked(0, 10), acked(12, 15)]));
        assert!(!contains_all(&runs, &[acked(10, 11)]));
        assert!(!contains_all(&runs, &[acked(21, 22)]));
        assert!(contains_all(&[], &[]));
    }
}
