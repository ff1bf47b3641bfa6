//! The events that make up most of a log, read without a detour.
//!
//! An enum with a tag inside is read by collecting its fields first and looking at them again, several times as slowly. Samples and
//! sightings are nearly all of a long log: they are read straight into their fields. Whatever is not read here is read the general
//! way; a test demands that both agree on every event.

use super::{Event, Outcome, Seen};
use crate::model::{Mono, PodFacts};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProbeSample {
    probe: String,
    scheduled: Mono,
    sent: Mono,
    received: Mono,
    #[serde(default)]
    known_from: Option<Mono>,
    outcome: OutcomeWord,
    why: Option<String>,
    value: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum OutcomeWord {
    Good,
    Bad,
    NoData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSeen {
    seen: Seen,
    at: Mono,
    not_before: Option<Mono>,
    pod: Arc<PodFacts>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSeen {
    subject: String,
    seen: Seen,
    at: Mono,
    not_before: Option<Mono>,
    uid: String,
    #[serde(default)]
    resource_version: Option<u64>,
    fields: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RevisionTick {
    sent: Mono,
    received: Mono,
    resource_version: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LedgerSample {
    scheduled: Mono,
    sent: Mono,
    received: Mono,
    committed: Option<u64>,
    planned: Option<u64>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct LedgerReached {
    at: Mono,
    acknowledged: Option<u64>,
    committed: Option<u64>,
}

/// The event, when it is one of the common ones in the form in which it is written; any other the general way. `None` when it is
/// no event.
pub(super) fn event_of(text: &str) -> Option<Event> {
    common(text).or_else(|| serde_json::from_str(text).ok())
}

fn common(text: &str) -> Option<Event> {
    let (word, _) = text.strip_prefix("{\"type\":\"")?.split_once('"')?;
    Some(match word {
        "probeSample" => {
            let sample: ProbeSample = read(text)?;
            Event::ProbeSample {
                probe: sample.probe,
                scheduled: sample.scheduled,
                sent: sample.sent,
                received: sample.received,
                known_from: sample.known_from,
                outcome: match sample.outcome {
                    OutcomeWord::Good => Outcome::Good,
                    OutcomeWord::Bad => Outcome::Bad { why: sample.why? },
                    OutcomeWord::NoData => Outcome::NoData { why: sample.why? },
                },
                value: sample.value,
            }
        }
        "podSeen" => {
            let PodSeen {
                seen,
                at,
                not_before,
                pod,
            } = read(text)?;
            Event::PodSeen {
                seen,
                at,
                not_before,
                pod,
            }
        }
        "resourceSeen" => {
            let seen: ResourceSeen = read(text)?;
            Event::ResourceSeen {
                subject: seen.subject,
                seen: seen.seen,
                at: seen.at,
                not_before: seen.not_before,
                uid: seen.uid,
                resource_version: seen.resource_version,
                fields: seen.fields,
            }
        }
        "revisionTick" => {
            let RevisionTick {
                sent,
                received,
                resource_version,
            } = read(text)?;
            Event::RevisionTick {
                sent,
                received,
                resource_version,
            }
        }
        "ledgerSample" => {
            let sample: LedgerSample = read(text)?;
            Event::LedgerSample {
                scheduled: sample.scheduled,
                sent: sample.sent,
                received: sample.received,
                committed: sample.committed,
                planned: sample.planned,
                error: sample.error,
            }
        }
        "ledgerReached" => {
            let LedgerReached {
                at,
                acknowledged,
                committed,
            } = read(text)?;
            Event::LedgerReached {
                at,
                acknowledged,
                committed,
            }
        }
        _ => return None,
    })
}

fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_events_are_read_as_the_general_way_reads_them() {
        let events = [
            r#"{"type":"probeSample","probe":"a","scheduled":1,"sent":2,"received":3,"outcome":"good","value":200.0}"#,
            r#"{"type":"probeSample","probe":"ä\"","scheduled":1,"sent":2,"received":3,"knownFrom":-1,"outcome":"bad","why":"x\n","value":null}"#,
            r#"{"type":"probeSample","probe":"a","scheduled":1,"sent":2,"received":3,"outcome":"noData","why":"timeout"}"#,
            r#"{"type":"podSeen","seen":"added","at":4,"notBefore":null,"pod":{"namespace":"n","name":"p","uid":"u","role":"driver","member":true,"owner":{"kind":"Job","name":"j","uid":"o"},"resourceVersion":7,"phase":"Running","ready":true,"scheduled":true,"node":"n1","createdAt":"c","deletionAt":null,"deletionGraceSeconds":30,"reason":null,"containers":[{"name":"c","containerId":"i","restarts":1,"ready":true,"state":"running","startedAt":"s"},{"name":"d","containerId":"","restarts":0,"ready":false,"state":"waiting","reason":"CrashLoopBackOff"},{"name":"e","containerId":"k","restarts":0,"ready":false,"state":"terminated","exitCode":137,"reason":"OOMKilled"}],"generation":"g"}}"#,
            r#"{"type":"resourceSeen","subject":"target","seen":"listed","at":4,"notBefore":3,"uid":"u","fields":{"status.state":"x"}}"#,
            r#"{"type":"revisionTick","sent":1,"received":2,"resourceVersion":99}"#,
            r#"{"type":"ledgerSample","scheduled":1,"sent":1,"received":2,"committed":3,"planned":null,"error":"e"}"#,
            r#"{"type":"ledgerReached","at":1,"acknowledged":2,"committed":null}"#,
        ];
        for text in events {
            let general: Event = serde_json::from_str(text).unwrap();
            assert_eq!(common(text), Some(general), "{text}");
        }
    }

    #[test]
    fn what_is_no_event_is_left_to_the_general_way_to_complain_about() {
        for text in [
            r#"{"type":"probeSample","probe":"a","scheduled":1,"sent":2,"received":3,"outcome":"bad","value":1}"#,
            r#"{"type":"probeSample"}"#,
            r#"{"type":"podSeen","seen":"added","at":4,"pod":{}}"#,
            r#"{"type":"ledgerReached","at":1} ,"x":1"#,
            r#"{"type":"nothing"}"#,
            "",
        ] {
            assert_eq!(common(text), None, "{text}");
            assert!(serde_json::from_str::<Event>(text).is_err(), "{text}");
        }
    }
}
