//! Misbehaviour that can be asked for, to test what a client does then. Pure but for the look at one ConfigMap.
//!
//! A switch is an annotation `double.chaosrun.dev/<switch>` of the experiment, or a key of the ConfigMap
//! `chaosrun-double-switches` in namespace `chaos-mesh`, which holds for every experiment; the annotation wins. What can be
//! done to the real thing is no switch: scale the controller-manager to 0, take a daemon away, delete the target.
//!
//! | switch | value | effect |
//! |---|---|---|
//! | `applyErrors` | n | the first n attempts to apply each record fail |
//! | `applyNever` | true | applying never succeeds; kinds that wait are stuck in `Not Injected/Wait` |
//! | `recoverError` | true | recovering never succeeds: deletion hangs |
//! | `recoverSilently` | true | recovering does nothing and says nothing, as a failed cancel of stress: deletion hangs, and force helps |
//! | `partial` | n | all records from the n-th on fail to apply, the first n succeed |
//! | `loseEvents` | true | no Event is written |
//! | `conditionsBefore263` | true | AllInjected and AllRecovered are True while nothing is selected |
//! | `lateExpiry` | duration | the end of `spec.duration` is noticed so much later |
//! | `restless` | duration | a second writer touches the status so often: whoever writes what it has read is answered 409 |

use std::time::Duration;

use serde_json::Value;

use super::presence::{NAMESPACE, Presence};
use crate::api::object::str_at;

/// What the names of the annotations begin with.
const PREFIX: &str = "double.chaosrun.dev/";
const CONFIG_MAP: &str = "chaosrun-double-switches";

/// The switches that hold for one experiment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Switches {
    pub apply_errors: usize,
    pub apply_never: bool,
    pub recover_error: bool,
    pub recover_silently: bool,
    pub partial: Option<usize>,
    pub lose_events: bool,
    pub conditions_before_263: bool,
    pub late_expiry: Duration,
    pub restless: Option<Duration>,
}

impl Switches {
    /// Reads them anew, so that they can be changed while an experiment runs.
    pub(super) fn of(object: &Value, presence: &Presence) -> Self {
        let everywhere = presence.core_object("configmaps", NAMESPACE, CONFIG_MAP);
        Self::read(object, everywhere.as_ref().map(|stored| &stored.value))
    }

    fn read(object: &Value, config_map: Option<&Value>) -> Self {
        let annotations = object.pointer("/metadata/annotations");
        let value = |name: &str| {
            annotations
                .and_then(|annotations| annotations.get(format!("{PREFIX}{name}")))
                .and_then(Value::as_str)
                .or_else(|| config_map.and_then(|map| str_at(map, &format!("/data/{name}"))))
        };
        let time = |name: &str| {
            let duration = super::duration::parse(value(name)?).ok()?;
            Duration::try_from(duration).ok()
        };
        let is_on = |name: &str| value(name) == Some("true");
        Self {
            apply_errors: value("applyErrors").and_then(|text| text.parse().ok()).unwrap_or(0),
            apply_never: is_on("applyNever"),
            recover_error: is_on("recoverError"),
            recover_silently: is_on("recoverSilently"),
            partial: value("partial").and_then(|text| text.parse().ok()),
            lose_events: is_on("loseEvents"),
            conditions_before_263: is_on("conditionsBefore263"),
            late_expiry: time("lateExpiry").unwrap_or_default(),
            restless: time("restless"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_annotation_wins_over_the_config_map() {
        let map = json!({"data": {"applyErrors": "3", "recoverError": "true", "lateExpiry": "2s"}});
        let object = json!({"metadata": {"annotations": {"double.chaosrun.dev/applyErrors": "1"}}});
        let read = Switches::read(&object, Some(&map));
        assert_eq!(
            (read.apply_errors, read.recover_error, read.late_expiry),
            (1, true, Duration::from_secs(2))
        );
        assert_eq!(Switches::read(&json!({}), None), Switches::default());
    }
}
