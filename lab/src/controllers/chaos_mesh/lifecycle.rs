//! The life of one experiment: five steps in one pass, each with a write of its own, in upstream's order.
//!
//! Finalizer, desired phase, conditions, records, removal of the finalizer. Conditions are written before the records are
//! worked on and therefore lag one pass behind them. Central type: [`Lifecycle`]; a pass is [`Lifecycle::pass`]. Contract:
//! each step reads the object anew; records are written once, after all of them were tried.

use std::time::Duration;

use jiff::Timestamp;
use rand::seq::SliceRandom;
use serde_json::{Map, Value, json};

use super::Shared;
use super::events::Told;
use super::injectors::{self, Target};
use super::kinds::Experiment;
use super::objects::ObjectError;
use super::records::{self, Desired, FINALIZER, Operation, Phase, Record};
use super::switches::Switches;
use super::worker::{Again, Key};
use crate::api::object::{add_finalizer, is_deleting, remove_finalizer, set, str_at};

/// Works on the experiments of one kind.
pub(super) struct Lifecycle {
    pub(super) shared: std::sync::Arc<Shared>,
    pub(super) kind: Experiment,
}

/// What the records step came to.
struct Worked {
    /// Something failed and has to be tried again.
    retry: bool,
    /// Nothing of it is injected any more.
    clean: bool,
}

impl Lifecycle {
    /// One pass over one object.
    pub(super) async fn pass(&self, key: Key) -> Again {
        match self.steps(&key).await {
            Ok(again) => again,
            Err(error) => {
                tracing::debug!(kind = self.kind.kind().kind, %key, %error, "a pass of the double failed, trying again");
                Again::Retry
            }
        }
    }

    async fn steps(&self, key: &Key) -> Result<Again, ObjectError> {
        let kind = self.kind.kind();
        let Some(object) = self.shared.objects.get(kind, key).await? else {
            return Ok(Again::OnChange);
        };
        if let Some(owner) = super::schedule::owner_of(&object) {
            self.shared.wake(super::kinds::SCHEDULE, owner);
        }
        let switches = Switches::of(&object, &self.shared.presence);
        if !is_deleting(&object) && !records::is_kept(&object) {
            self.shared
                .objects
                .change(kind, key, |object| {
                    add_finalizer(object, FINALIZER);
                    true
                })
                .await?;
            self.tell("initFinalizers", &object, &switches, Told::FinalizerInited);
            self.tell(
                "initFinalizers",
                &object,
                &switches,
                Told::Updated { field: "finalizer" },
            );
        }
        let Some((object, desired)) = self.write_desired_phase(key, &object, &switches).await? else {
            return Ok(Again::OnChange);
        };
        let Some(object) = self.write_conditions(key, object, &switches).await? else {
            return Ok(Again::OnChange);
        };
        let Some(worked) = self.work_on_records(key, &object, desired, &switches).await? else {
            return Ok(Again::OnChange);
        };
        if worked.retry {
            // The pass ends here: the annotation that forces a deletion is looked at below only.
            return Ok(Again::Retry);
        }
        if is_deleting(&object) {
            if worked.clean || records::is_forced(&object) {
                self.shared
                    .objects
                    .change(kind, key, |object| {
                        let kept = records::is_kept(object);
                        remove_finalizer(object, FINALIZER);
                        kept
                    })
                    .await?;
                self.tell("cleanFinalizer", &object, &switches, Told::FinalizerRemoved);
                self.tell(
                    "cleanFinalizer",
                    &object,
                    &switches,
                    Told::Updated { field: "finalizer" },
                );
            }
            return Ok(Again::OnChange);
        }
        Ok(self.expiry(&object, &switches, desired))
    }

    fn expiry(&self, object: &Value, switches: &Switches, desired: Desired) -> Again {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let left = records::left(object, switches, Timestamp::now())
            .filter(|_| desired != Desired::TimeUp && !self.kind.is_one_shot(spec))
            // Not a moment too early: then the pass would find that the time is not over yet.
            .map(|left| left + Duration::from_millis(1));
        let sooner = left.into_iter().chain(switches.restless).min();
        sooner.map_or(Again::OnChange, Again::After)
    }

    fn tell(&self, component: &str, object: &Value, switches: &Switches, told: Told) {
        if !switches.lose_events {
            self.shared.recorder.tell(component, object, &told);
        }
    }

    /// Writes what is wanted now; `None` when the object is gone.
    async fn write_desired_phase(
        &self,
        key: &Key,
        object: &Value,
        switches: &Switches,
    ) -> Result<Option<(Value, Desired)>, ObjectError> {
        let now = Timestamp::now();
        let wanted = |object: &Value| records::desired(self.kind, object, switches, now);
        let before = str_at(object, "/status/experiment/desiredPhase").map(str::to_owned);
        let written = self
            .shared
            .objects
            .change(self.kind.kind(), key, |object| {
                let phase = wanted(object).phase();
                let changed = str_at(object, "/status/experiment/desiredPhase") != Some(phase);
                if changed {
                    set(object, "/status/experiment/desiredPhase", phase);
                }
                changed
            })
            .await?;
        let Some(written) = written else { return Ok(None) };
        let desired = wanted(&written);
        if before.as_deref() != Some(desired.phase()) {
            let told = match desired {
                Desired::Run => Told::Started,
                Desired::Deleted => Told::Deleted,
                Desired::TimeUp => Told::TimeUp,
                Desired::Paused => Told::Paused,
            };
            self.tell("desiredphase", &written, switches, told);
            self.tell(
                "desiredphase",
                &written,
                switches,
                Told::Updated { field: "desiredPhase" },
            );
        }
        Ok(Some((written, desired)))
    }

    /// Writes the conditions as the records of before this pass make them, in random order as upstream's Go map.
    async fn write_conditions(
        &self,
        key: &Key,
        object: Value,
        switches: &Switches,
    ) -> Result<Option<Value>, ObjectError> {
        if records::shows(&object, &records::conditions(&object, switches)) {
            if switches.restless.is_some() {
                return self.shared.objects.change(self.kind.kind(), key, records::touch).await;
            }
            return Ok(Some(object));
        }
        self.shared
            .objects
            .change(self.kind.kind(), key, |object| {
                let conditions = records::conditions(object, switches);
                if records::shows(object, &conditions) {
                    return false;
                }
                let mut list: Vec<Value> = conditions
                    .iter()
                    .map(|(kind, holds)| records::condition(kind, *holds))
                    .collect();
                list.shuffle(&mut rand::rng());
                set(object, "/status/conditions", list);
                true
            })
            .await
    }

    /// Selects, applies, recovers; `None` when the object is gone.
    async fn work_on_records(
        &self,
        key: &Key,
        object: &Value,
        desired: Desired,
        switches: &Switches,
    ) -> Result<Option<Worked>, ObjectError> {
        let known = records::of(object);
        let is_new = known.is_none();
        let mut all = match known {
            Some(known) => known,
            None => match super::selection::select(self.shared.objects.client(), self.kind, object).await {
                Ok(selected) => selected,
                Err(error) => {
                    // No timed retry: only a change of the object leads to another look.
                    let activity = "select targets";
                    self.tell("records", object, switches, Told::Failed { activity, error });
                    return Ok(Some(Worked {
                        retry: false,
                        clean: true,
                    }));
                }
            },
        };
        let mut instances = object
            .pointer("/status/instances")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        let before = (all.clone(), instances.clone());
        let mut retry = false;
        for index in 0..all.len() {
            retry |= self
                .work_on(object, &mut all, index, desired, switches, &mut instances)
                .await;
        }
        if is_new || (&all, &instances) != (&before.0, &before.1) {
            let (listed, instances) = (json!(all), Value::Object(instances));
            let written = self
                .shared
                .objects
                .change(self.kind.kind(), key, |object| {
                    set(object, "/status/experiment/containerRecords", listed.clone());
                    if instances.as_object().is_some_and(|map| !map.is_empty())
                        || object.pointer("/status/instances").is_some()
                    {
                        set(object, "/status/instances", instances.clone());
                    }
                    true
                })
                .await?;
            if written.is_none() {
                return Ok(None);
            }
            self.tell("records", object, switches, Told::Updated { field: "records" });
        }
        let clean = all.iter().all(|record| record.phase == Phase::NotInjected);
        Ok(Some(Worked { retry, clean }))
    }

    /// Works on one record; whether it has to be tried again.
    async fn work_on(
        &self,
        object: &Value,
        all: &mut [Record],
        index: usize,
        desired: Desired,
        switches: &Switches,
        instances: &mut Map<String, Value>,
    ) -> bool {
        let Some(operation) = all.get(index).and_then(|record| record.next(desired)) else {
            return false;
        };
        let target = Target {
            kind: self.kind,
            object,
            all: &*all,
            index,
            switches,
        };
        let outcome = match operation {
            Operation::Apply => injectors::apply(&self.shared, &target, instances).await,
            Operation::Recover => injectors::recover(&self.shared, &target, instances).await,
        };
        let Some(record) = all.get_mut(index) else { return false };
        let (told, retry) = match outcome {
            Ok(phase) => {
                record.phase = phase;
                let done = match (operation, phase) {
                    (Operation::Apply, Phase::Injected) => Told::Applied { id: record.id.clone() },
                    (Operation::Recover, Phase::NotInjected) => Told::Recovered { id: record.id.clone() },
                    // It waits, or what it waited for is gone.
                    _ => return false,
                };
                record.note(operation, None, Timestamp::now());
                (done, false)
            }
            Err(failure) => {
                record.phase = failure.phase;
                record.note(operation, Some(&failure.message), Timestamp::now());
                let activity = match operation {
                    Operation::Apply => "apply chaos",
                    Operation::Recover => "recover chaos",
                };
                let error = failure.message;
                (Told::Failed { activity, error }, true)
            }
        };
        self.tell("records", object, switches, told);
        retry
    }
}
