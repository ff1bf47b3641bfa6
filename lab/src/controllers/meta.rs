//! Small facts about objects that every controller needs: owners, selectors, pod state, conditions, hashes.
//!
//! Pure: no clock, no network. Where Kubernetes has a rule, the name of its function is given.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::{Selector, SelectorExt};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The owner that controls the object, if any (`metav1.GetControllerOf`).
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .as_deref()
        .unwrap_or_default()
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// Whether this very owner (by UID) controls the object.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    owner.uid.is_some() && controller_of(meta).map(|reference| &reference.uid) == owner.uid.as_ref()
}

/// A reference that makes `owner` the controller (`metav1.NewControllerRef`).
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Name of the controlling owner when it is of kind `K`.
pub(crate) fn owner_name_of_kind<K: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Option<&str> {
    let owner = controller_of(meta)?;
    let group_matches = owner.api_version == K::api_version(&());
    (group_matches && owner.kind == K::kind(&())).then_some(owner.name.as_str())
}

/// A label selector that matches nothing when it is missing or malformed, and nothing when it is empty: no workload
/// may take hold of every pod in a namespace by mistake.
pub(crate) fn selects(selector: Option<&LabelSelector>, labels: Option<&BTreeMap<String, String>>) -> bool {
    let Some(selector) = selector else {
        return false;
    };
    let empty = selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    !empty && selects_or_all(selector, labels)
}

/// As [`selects`], but an empty selector matches everything (as in PDBs and affinity terms).
pub(crate) fn selects_or_all(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let none = BTreeMap::new();
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels.unwrap_or(&none)))
}

/// Whether every pair of `wanted` is among `labels`.
pub(crate) fn contains_all(labels: Option<&BTreeMap<String, String>>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Whether deletion has begun.
pub(crate) fn is_terminating(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// `status.phase`, `Pending` when it is not there yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Succeeded or Failed.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor being deleted (`controller.IsPodActive`).
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(&pod.metadata)
}

/// A condition of a pod.
pub(crate) fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_deref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Condition Ready is True (`podutil.IsPodReady`).
pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when the pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = pod_condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until the pod has been ready for `min_ready_seconds`: zero when it is available, `None` when it is not
/// even ready (`podutil.IsPodAvailable`).
pub(crate) fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    let Ok(needed) = u64::try_from(min_ready_seconds) else {
        return Some(Duration::ZERO);
    };
    if needed == 0 {
        return Some(Duration::ZERO);
    }
    let since = ready_since(pod)?;
    let ready_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(Duration::from_secs(needed).saturating_sub(ready_for))
}

/// Time passed since `since`, zero when it lies in the future.
pub(crate) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// Creation time, for ordering.
pub(crate) fn created(meta: &ObjectMeta) -> Option<Timestamp> {
    meta.creation_timestamp.as_ref().map(|Time(time)| *time)
}

/// An absolute number or a percentage of `total` (`intstr.GetScaledValueFromIntOrPercent`).
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|digits| digits.parse::<i64>().ok())
                .ok_or_else(|| format!("\"{text}\" is neither a number nor a percentage"))?;
            let hundredths = percent.saturating_mul(i64::from(total));
            let rounded = if round_up {
                hundredths.saturating_add(99).div_euclid(100)
            } else {
                hundredths / 100
            };
            i32::try_from(rounded).map_err(|_| format!("\"{text}\" of {total} is too large"))
        }
    }
}

/// A stamp as the API keeps it: whole seconds. A finer one would come back changed and look like news for ever.
pub(crate) fn stamp(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// A counter that the API leaves out when it is zero (`omitempty`).
pub(crate) fn unless_zero(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// A count as the API writes it.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A short hash of any object in the alphabet that Kubernetes uses for generated names (no vowels, so no words).
pub(crate) fn short_hash<T: Serialize>(value: &T, collisions: i32) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    // A serde_json value sorts nothing by itself, but the same typed object always writes the same bytes.
    let mut hasher = Sha256::new();
    hasher.update(serde_json::to_vec(value).unwrap_or_default());
    hasher.update(collisions.to_be_bytes());
    hasher
        .finalize()
        .iter()
        .take(10)
        .filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()))
        .map(|letter| char::from(*letter))
        .collect()
}

/// `True` or `False`, as conditions spell it.
pub(crate) fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::{scaled, short_hash};

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(scaled(&quarter, 10, true), Ok(3));
        assert_eq!(scaled(&quarter, 10, false), Ok(2));
        assert_eq!(scaled(&IntOrString::Int(4), 10, false), Ok(4));
        assert!(scaled(&IntOrString::String("many".into()), 10, false).is_err());
    }

    #[test]
    fn a_hash_depends_on_content_and_collision_count() {
        assert_eq!(short_hash(&"a", 0), short_hash(&"a", 0));
        assert_ne!(short_hash(&"a", 0), short_hash(&"b", 0));
        assert_ne!(short_hash(&"a", 0), short_hash(&"a", 1));
        assert_eq!(short_hash(&"a", 0).len(), 10);
    }
}
