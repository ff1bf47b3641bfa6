//! Schedules: an experiment or a workflow again and again. Depends on `objects`, `events`, `records`.
//!
//! Central function: [`pass`]; when is [`parse`] and [`Times`], both pure. Contract: upstream's oddities are kept: children are
//! found by label alone, and a Schedule without historyLimit deletes finished children at once.

use std::time::Duration;

use cronexpr::{Crontab, MakeTimestamp};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::{Value, json};

use super::Shared;
use super::events::Told;
use super::kinds::{Experiment, Kind, SCHEDULE, WORKFLOW, api_version};
use super::objects::ObjectError;
use super::records::{self, Phase, stamp};
use super::switches::Switches;
use super::worker::{Again, Key};
use crate::api::object::{array_at, is_deleting, name, namespace, set, str_at, uid};

const PAUSE: &str = "experiment.chaos-mesh.org/pause";
/// More missed instants than that are not even counted.
const MOST_MISSED: usize = 100;

/// When a Schedule fires.
#[derive(Debug)]
pub(super) enum Times {
    Every(Duration),
    Cron(Box<Crontab>),
    /// Cron with seconds: the seconds, and the minutes they are in.
    Seconds(Vec<u8>, Box<Crontab>),
}

/// Reads five fields, six with seconds in front, `@every 1m`, `@hourly` and their like.
pub(super) fn parse(text: &str) -> Result<Times, String> {
    let text = text.trim();
    if let Some(every) = text.strip_prefix("@every ") {
        let every = super::duration::parse(every.trim())?;
        let every = Duration::try_from(every).map_err(|_| format!("not a positive duration: {text}"))?;
        // As upstream's cron: not finer than a second.
        return Ok(Times::Every(every.max(Duration::from_secs(1))));
    }
    let standard = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    let fields: Vec<&str> = standard.split_whitespace().collect();
    let crontab = |fields: &[&str]| {
        cronexpr::parse_crontab(&format!("{} UTC", fields.join(" "))).map_err(|error| error.to_string())
    };
    match fields.as_slice() {
        [_, _, _, _, _] => Ok(Times::Cron(Box::new(crontab(&fields)?))),
        [first, rest @ ..] if rest.len() == 5 => Ok(Times::Seconds(seconds(first)?, Box::new(crontab(rest)?))),
        _ => Err(format!("expected 5 to 6 fields, found {}: {text:?}", fields.len())),
    }
}

/// `*`, `*/n`, `a`, `a,b`.
fn seconds(field: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("failed to parse seconds {field:?}");
    let number = |text: &str| text.parse::<u8>().ok().filter(|number| *number < 60).ok_or_else(bad);
    if field == "*" {
        return Ok((0..60).collect());
    }
    if let Some(step) = field.strip_prefix("*/") {
        let step = usize::from(number(step)?);
        return if step == 0 {
            Err(bad())
        } else {
            Ok((0..60).step_by(step).collect())
        };
    }
    let mut all: Vec<u8> = field.split(',').map(number).collect::<Result<_, _>>()?;
    all.sort_unstable();
    Ok(all)
}

impl Times {
    /// The first instant after this one.
    fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        let next = |crontab: &Crontab, from: Timestamp| {
            crontab
                .find_next(MakeTimestamp(from))
                .ok()
                .map(|zoned| zoned.timestamp())
        };
        match self {
            Self::Every(every) => instant.checked_add(*every).ok(),
            Self::Cron(crontab) => next(crontab, instant),
            Self::Seconds(seconds, crontab) => {
                // The minute that is running counts, too.
                let minute = Timestamp::from_second(instant.as_second().div_euclid(60) * 60).ok()?;
                let before = minute.checked_sub(jiff::SignedDuration::from_secs(1)).ok()?;
                let mut minute = next(crontab, before)?;
                loop {
                    let found = seconds.iter().find_map(|second| {
                        let at = minute
                            .checked_add(jiff::SignedDuration::from_secs(i64::from(*second)))
                            .ok()?;
                        (at > instant).then_some(at)
                    });
                    if found.is_some() {
                        return found;
                    }
                    minute = next(crontab, minute)?;
                }
            }
        }
    }

    /// The newest instant in `(last, now]`; an error when there are too many to count.
    fn missed(&self, last: Timestamp, now: Timestamp) -> Result<Option<Timestamp>, String> {
        let mut found = None;
        let mut at = last;
        for _ in 0..MOST_MISSED {
            match self.after(at).filter(|next| *next <= now) {
                Some(next) => {
                    found = Some(next);
                    at = next;
                }
                None => return Ok(found),
            }
        }
        Err(format!("too many missed start time (> {MOST_MISSED})"))
    }
}

/// One pass over one Schedule.
pub(super) async fn pass(shared: &Shared, key: Key) -> Again {
    match act(shared, &key).await {
        Ok(again) => again,
        Err(error) => {
            tracing::debug!(%key, %error, "a pass of the double over a Schedule failed, trying again");
            Again::Retry
        }
    }
}

async fn act(shared: &Shared, key: &Key) -> Result<Again, ObjectError> {
    let Some(object) = shared.objects.get(SCHEDULE, key).await? else {
        return Ok(Again::OnChange);
    };
    let Ok(times) = parse(str_at(&object, "/spec/schedule").unwrap_or_default()) else {
        return Ok(Again::OnChange);
    };
    let Some(kind) = child_kind(&object) else {
        return Ok(Again::OnChange);
    };
    if is_deleting(&object) {
        return Ok(Again::OnChange);
    }
    let labels = format!("managed-by={}", key.name);
    let children = shared.objects.list(kind, &key.namespace, &labels).await?;
    let (finished, running): (Vec<Value>, Vec<Value>) = children
        .into_iter()
        .filter(|child| !is_deleting(child))
        .partition(|child| is_finished(kind, child));
    copy_pause(shared, kind, &object, &running).await?;
    collect(shared, kind, &object, finished).await?;
    show_active(shared, key, kind, &running).await?;
    if records::is_paused(&object) {
        if kind == WORKFLOW {
            let activity = "pause a workflow schedule";
            shared
                .recorder
                .tell("schedule-pause", &object, &Told::NotSupported { activity });
        }
        return Ok(Again::OnChange);
    }
    fire(shared, key, kind, &object, &times, &running).await
}

/// What the Schedule makes.
fn child_kind(object: &Value) -> Option<Kind> {
    match str_at(object, "/spec/type")? {
        "Workflow" => Some(WORKFLOW),
        kind => Experiment::of_kind(kind).map(Experiment::kind),
    }
}

/// The time has come, or will.
async fn fire(
    shared: &Shared,
    key: &Key,
    kind: Kind,
    object: &Value,
    times: &Times,
    running: &[Value],
) -> Result<Again, ObjectError> {
    let now = Timestamp::now();
    let time = |pointer: &str| str_at(object, pointer).and_then(|text| text.parse::<Timestamp>().ok());
    let Some(last) = time("/status/time").or_else(|| time("/metadata/creationTimestamp")) else {
        return Ok(Again::OnChange);
    };
    let missed = match times.missed(last, now) {
        Ok(missed) => missed,
        Err(error) => {
            let activity = "get run time";
            shared
                .recorder
                .tell("schedule-cron", object, &Told::Failed { activity, error });
            return Ok(Again::OnChange);
        }
    };
    let Some(due) = missed else {
        let next = times
            .after(last.max(now))
            .map_or(Duration::from_secs(60), |next| until(next, now));
        return Ok(Again::After(next));
    };
    let late = object
        .pointer("/spec/startingDeadlineSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|limit| now.duration_since(due).as_secs() > limit);
    let forbid = str_at(object, "/spec/concurrencyPolicy").unwrap_or("Forbid") == "Forbid";
    if late {
        let missed = stamp(due);
        shared
            .recorder
            .tell("schedule-cron", object, &Told::MissSchedule { missed });
    } else if let Some(one) = running.first().filter(|_| forbid) {
        let running = name(one).to_owned();
        shared.recorder.tell("schedule-cron", object, &Told::Forbid { running });
    } else {
        let child = child(object, kind);
        let child_key = Key::new(namespace(&child), name(&child));
        shared.objects.create(kind, &child_key, &child).await?;
        let child = child_key.name;
        shared.recorder.tell("schedule-cron", object, &Told::Spawned { child });
    }
    shared
        .objects
        .change(SCHEDULE, key, |object| {
            set(object, "/status/time", stamp(now));
            true
        })
        .await?;
    let next = times
        .after(now)
        .map_or(Duration::from_secs(60), |next| until(next, now));
    Ok(Again::After(next))
}

fn until(next: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(next.duration_since(now)).unwrap_or_default() + Duration::from_millis(1)
}

/// A new object of what the Schedule holds.
fn child(object: &Value, kind: Kind) -> Value {
    let field = Experiment::of_kind(kind.kind).map_or("workflow", Experiment::embedded_key);
    let spec = object.pointer(&format!("/spec/{field}")).cloned().unwrap_or_default();
    owned(
        kind,
        object,
        &format!("{}-{}", name(object), suffix()),
        spec,
        json!({"managed-by": name(object)}),
    )
}

/// Five letters by chance.
pub(super) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .filter_map(|_| LETTERS.get(rand::rng().random_range(0..LETTERS.len())).copied())
        .map(char::from)
        .collect()
}

/// An object that another one owns as its controller.
pub(super) fn owned(kind: Kind, owner: &Value, name_of_it: &str, spec: Value, labels: Value) -> Value {
    json!({
        "apiVersion": api_version(), "kind": kind.kind,
        "metadata": {
            "name": name_of_it, "namespace": namespace(owner), "labels": labels,
            "ownerReferences": [{
                "apiVersion": api_version(), "kind": str_at(owner, "/kind"), "name": name(owner), "uid": uid(owner),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": spec,
    })
}

/// One-shots when everything was hit, others when they are over.
fn is_finished(kind: Kind, child: &Value) -> bool {
    let Some(experiment) = Experiment::of_kind(kind.kind) else {
        let conditions = array_at(child, "/status/conditions");
        return conditions.iter().any(|condition| {
            str_at(condition, "/type") == Some("Accomplished") && str_at(condition, "/status") == Some("True")
        });
    };
    let Some(all) = records::of(child) else { return false };
    let every = |phase: Phase| all.iter().all(|record| record.phase == phase);
    if experiment.is_one_shot(child.get("spec").unwrap_or(&Value::Null)) {
        return every(Phase::Injected);
    }
    let left = records::left(child, &Switches::default(), Timestamp::now());
    str_at(child, "/status/experiment/desiredPhase") == Some("Stop")
        && every(Phase::NotInjected)
        && left.is_some_and(|left| left.is_zero())
}

/// Children are paused and resumed with their Schedule.
async fn copy_pause(shared: &Shared, kind: Kind, object: &Value, running: &[Value]) -> Result<(), ObjectError> {
    if kind == WORKFLOW {
        return Ok(());
    }
    let paused = records::is_paused(object);
    for child in running.iter().filter(|child| records::is_paused(child) != paused) {
        let key = Key::new(namespace(child), name(child));
        shared
            .objects
            .change(kind, &key, |child| {
                let pointer = format!("/metadata/annotations/{}", PAUSE.replace('/', "~1"));
                if child.pointer("/metadata/annotations").is_none() {
                    set(child, "/metadata/annotations", json!({}));
                }
                let value = Value::from(if paused { "true" } else { "false" });
                match child.pointer_mut(&pointer) {
                    Some(found) => *found = value,
                    None => {
                        if let Some(map) = child
                            .pointer_mut("/metadata/annotations")
                            .and_then(Value::as_object_mut)
                        {
                            map.insert(PAUSE.to_owned(), value);
                        }
                    }
                }
                true
            })
            .await?;
    }
    Ok(())
}

/// Deletes the oldest finished children above the limit, which is 0 when nobody set it.
async fn collect(shared: &Shared, kind: Kind, object: &Value, mut finished: Vec<Value>) -> Result<(), ObjectError> {
    let limit = object
        .pointer("/spec/historyLimit")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let created = |child: &Value| {
        str_at(child, "/metadata/creationTimestamp")
            .unwrap_or_default()
            .to_owned()
    };
    finished.sort_by_key(created);
    let excess = finished
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    for child in finished.iter().take(excess) {
        let key = Key::new(namespace(child), name(child));
        shared.objects.delete(kind, &key, uid(child)).await?;
    }
    Ok(())
}

async fn show_active(shared: &Shared, key: &Key, kind: Kind, running: &[Value]) -> Result<(), ObjectError> {
    let active: Vec<Value> = running
        .iter()
        .map(|child| {
            json!({
                "apiVersion": api_version(), "kind": kind.kind, "name": name(child), "namespace": namespace(child),
                "uid": uid(child), "resourceVersion": str_at(child, "/metadata/resourceVersion"),
            })
        })
        .collect();
    let names = |list: &[Value]| -> Vec<String> {
        list.iter()
            .filter_map(|one| str_at(one, "/uid").map(str::to_owned))
            .collect()
    };
    shared
        .objects
        .change(SCHEDULE, key, |object| {
            let changed = names(array_at(object, "/status/active")) != names(&active);
            if changed {
                set(object, "/status/active", active.clone());
            }
            changed
        })
        .await
        .map(drop)
}

/// The Schedule that a child belongs to, by its owner.
pub(super) fn owner_of(child: &Value) -> Option<Key> {
    let owner = array_at(child, "/metadata/ownerReferences")
        .iter()
        .find(|owner| str_at(owner, "/kind") == Some(SCHEDULE.kind))?;
    Some(Key::new(namespace(child), str_at(owner, "/name")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn schedules_have_five_fields_or_seconds_or_a_word() {
        let noon = at("2026-01-01T12:00:00Z");
        for (text, next) in [
            ("@every 5m", "2026-01-01T12:05:00Z"),
            ("@hourly", "2026-01-01T13:00:00Z"),
            ("*/10 * * * *", "2026-01-01T12:10:00Z"),
            ("*/15 * * * * *", "2026-01-01T12:00:15Z"),
            ("30 1 * * * *", "2026-01-01T12:01:30Z"),
        ] {
            assert_eq!(parse(text).unwrap().after(noon), Some(at(next)), "{text}");
        }
        for text in ["often", "* * *", "@every soon", "70 * * * * *"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_newest_missed_instant_counts_and_too_many_are_an_error() {
        let times = parse("@every 10s").unwrap();
        let begun = at("2026-01-01T00:00:00Z");
        assert_eq!(times.missed(begun, at("2026-01-01T00:00:09Z")), Ok(None));
        assert_eq!(
            times.missed(begun, at("2026-01-01T00:00:25Z")),
            Ok(Some(at("2026-01-01T00:00:20Z")))
        );
        assert!(times.missed(begun, at("2026-01-01T01:00:00Z")).is_err());
    }
}
