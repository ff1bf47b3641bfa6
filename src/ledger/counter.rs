//! How far the records are, in and out: for whoever watches a run. The verdict rests on the audit, never on this.

use super::parse;
use super::sampler::open_session;
use crate::cluster::{Cluster, ClusterError, Session};
use crate::evidence::Event;
use crate::experiment::{Ledger, Location};
use crate::observe::PodIndex;
use crate::world::{RecordError, Recorder};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Answers `N` with `N`, the newest lines of the acknowledgement log, and the last record of each of the newest committed files.
/// Only ends of files are read, so that the cost does not grow with the sink. A manifest lists the newest files last, a
/// compacted one too. A line of text ends with a tab here, a section with a record separator.
const SCRIPT: &str = r#"
while read -r question; do
  acked=$(tail -n 2 "$1" 2>/dev/null | tr '\n' '\t')
  top=-1; newest=
  for file in "$2"/_spark_metadata/[0-9]*; do
    name=${file##*/}
    number=${name%.compact}
    case $number in *[!0-9]*) continue ;; esac
    if [ "$number" -gt "$top" ]; then top=$number; newest=$file; fi
  done
  records=
  if [ -n "$newest" ]; then
    records=$(tail -n 8 "$newest" 2>/dev/null | sed -n 's/.*"path":"\([^"]*\)".*/\1/p' | while read -r path; do
      tail -n 1 "$2/${path##*/}" 2>/dev/null
    done | tr '\n' '\t')
  fi
  printf '%s\036%s\036%s\n' "$question" "$acked" "$records"
done
"#;

/// Once a second: a person reads this.
const PERIOD: Duration = Duration::from_secs(1);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Follows the newest record in and the newest record out.
pub(crate) struct Counter {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) pods: PodIndex,
    pub(crate) ledger: Ledger,
}

impl Counter {
    /// Runs until cancelled. What cannot be read now is asked again; the sampler of commits is the one that complains.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) async fn run(self, cancel: CancellationToken) -> Result<(), RecordError> {
        let in_pod = |text: &str| Location::parse(text).is_ok_and(|location| location.in_pod());
        if !in_pod(&self.ledger.acknowledged) || !in_pod(&self.ledger.sink) {
            // Ends of files outside pods are not looked at: the audit reads them whole.
            return Ok(());
        }
        let mut session: Option<Session> = None;
        let mut known = Newest::default();
        let mut number: u64 = 0;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
            number += 1;
            let answer = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                answer = self.ask(&mut session, number) => answer,
            };
            let Ok(answer) = answer else {
                session = None;
                continue;
            };
            let next = newest(&answer, &self.ledger.id_field).or(known);
            if next != known {
                known = next;
                self.recorder.record(Event::LedgerReached {
                    at: self.recorder.clock().now(),
                    acknowledged: known.acknowledged,
                    committed: known.committed,
                })?;
            }
        }
    }

    async fn ask(&self, held: &mut Option<Session>, number: u64) -> Result<String, ClusterError> {
        let session = match held {
            Some(session) => session,
            None => {
                let command = ["sh", "-c", SCRIPT, "sh", &self.ledger.acknowledged, &self.ledger.sink];
                held.insert(open_session(&self.cluster, &self.pods, &self.ledger, &command).await?)
            }
        };
        session.ask(&number.to_string(), ANSWER_LIMIT).await
    }
}

/// Numbers of the newest records that are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Newest {
    acknowledged: Option<u64>,
    committed: Option<u64>,
}

impl Newest {
    /// A batch without records, or a file that is just being replaced, takes nothing back.
    fn or(self, before: Self) -> Self {
        Self {
            acknowledged: self.acknowledged.max(before.acknowledged),
            committed: self.committed.max(before.committed),
        }
    }
}

fn newest(answer: &str, id_field: &str) -> Newest {
    let mut sections = answer.split('\u{1e}').skip(1);
    let mut lines = || sections.next().unwrap_or_default().replace('\t', "\n");
    let acknowledged = parse::acknowledged(&lines())
        .ok()
        .and_then(|ranges| ranges.last().map(|range| range.last));
    let mut ids = Vec::new();
    let records = lines();
    for record in records.lines() {
        // A record that cannot be read is the audit's business.
        ids.extend(super::tally::record(record, id_field, None).map(|(id, _)| id));
    }
    Newest {
        acknowledged,
        committed: ids.into_iter().max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_complete_line_and_the_highest_record_count() {
        let answer = "7\u{1e}1 10 0 0\t11 20 0 0\t\u{1e}{\"id\":15}\t{\"id\":12}\t";
        let found = newest(answer, "id");
        assert_eq!((found.acknowledged, found.committed), (Some(20), Some(15)));
        // The last line is being written.
        let torn = newest("7\u{1e}1 10 0 0\t11 2\u{1e}", "id");
        assert_eq!((torn.acknowledged, torn.committed), (Some(10), None));
        assert_eq!(torn.or(found), found);
        assert_eq!(newest("", "id"), Newest::default());
    }
}
