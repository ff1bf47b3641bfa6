//! Which exact pods a fault hits, and what the guards say of it.
//!
//! Pure: may depend on `model`, `fault` and `experiment`. The same seed and the same candidates give the same choice.

mod explain;
mod schedule;

pub use explain::{Explained, explain};
pub use schedule::{Planned, schedule};

use crate::experiment::{Experiment, Guards};
use crate::fault::{FaultSpec, FaultTarget, Mode};
use crate::model::{PodName, Role};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// A pod that may be chosen: it is a member of the target, ready, and not on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Identity.
    pub pod: PodName,
    /// Role.
    pub role: Option<Role>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Containers, in order, with their runtime ids.
    pub containers: Vec<(String, String)>,
    /// The node that it runs on.
    pub node: Option<String>,
}

/// Why nothing is injected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fault {fault:?} is refused: {why}")]
pub struct Refusal {
    /// The fault.
    pub fault: String,
    /// In words, with what to change.
    pub why: String,
}

/// Chooses the pods for one fault.
///
/// The order is by SHA-256 of seed, trial, fault and pod name: every pod is equally likely, the choice can be made again from
/// the log alone, and adding an unrelated pod does not reshuffle the others.
///
/// # Errors
/// A [`Refusal`] when too few pods match, a named container does not exist, or a guard forbids the share.
pub fn select(
    fault: &FaultSpec,
    guards: &Guards,
    candidates: &[Candidate],
    seed: u64,
    trial: u32,
) -> Result<Vec<FaultTarget>, Refusal> {
    let refuse = |why: String| Refusal {
        fault: fault.name.clone(),
        why,
    };
    let mut chosen: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| fault.role.is_none() || candidate.role == fault.role)
        .filter(|candidate| {
            fault
                .labels
                .iter()
                .all(|(key, value)| candidate.labels.get(key) == Some(value))
        })
        .collect();
    let available = chosen.len();
    let count = fault.mode.count(available).map_err(&refuse)?;
    guard_share(fault, guards, count, available).map_err(&refuse)?;
    chosen.sort_by_key(|candidate| rank(seed, trial, &fault.name, &candidate.pod));
    chosen.truncate(count);
    chosen
        .into_iter()
        .map(|candidate| {
            let (container, container_id) = match fault.kind.inside() {
                None => (None, None),
                Some(container) => {
                    let found = match container {
                        Some(name) => candidate.containers.iter().find(|(held, _)| held == name),
                        None => candidate.containers.first(),
                    };
                    let Some((name, id)) = found else {
                        let held: Vec<&str> = candidate.containers.iter().map(|(name, _)| name.as_str()).collect();
                        return Err(refuse(format!(
                            "pod {} has no container {:?}; it has {}",
                            candidate.pod.name,
                            container.unwrap_or_default(),
                            held.join(", ")
                        )));
                    };
                    (Some(name.clone()), Some(id.clone()))
                }
            };
            Ok(FaultTarget {
                pod: candidate.pod.clone(),
                kind: None,
                container,
                container_id,
            })
        })
        .collect()
}

/// A share above the limit is refused, unless the role has a single pod (a driver cannot be hit in part) or every pod was
/// asked for in words and the limit is 100.
fn guard_share(fault: &FaultSpec, guards: &Guards, count: usize, available: usize) -> Result<(), String> {
    let within = count * 100 <= available * usize::from(guards.max_percent);
    if within || (available == 1 && matches!(fault.mode, Mode::One | Mode::All | Mode::Fixed(1))) {
        return Ok(());
    }
    Err(format!(
        "it would hit {count} of {available} pods, the guard allows {} % (guards.maxPercent); choose a smaller mode or raise the guard",
        guards.max_percent
    ))
}

fn rank(seed: u64, trial: u32, fault: &str, pod: &PodName) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(trial.to_le_bytes());
    for text in [fault, &pod.namespace, &pod.name] {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    hash.finalize().into()
}

/// The protected namespace that an experiment targets, if it does: `kube-*` style patterns of its guards.
#[must_use]
pub fn protected_namespace(experiment: &Experiment) -> Option<&str> {
    protects(&experiment.guards, &experiment.target.namespace)
}

/// The pattern of the guards that protects a namespace, if one does.
#[must_use]
pub fn protects<'a>(guards: &'a Guards, namespace: &str) -> Option<&'a str> {
    guards.protected_namespaces.iter().map(String::as_str).find(|pattern| {
        pattern
            .strip_suffix('*')
            .map_or(namespace == *pattern, |prefix| namespace.starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{FaultKind, Injector};
    use std::time::Duration;

    fn candidates(count: usize) -> Vec<Candidate> {
        (0..count)
            .map(|index| Candidate {
                pod: PodName {
                    namespace: "n".to_owned(),
                    name: format!("p{index}"),
                    uid: format!("u{index}"),
                },
                role: Some(Role("any".to_owned())),
                labels: BTreeMap::new(),
                containers: vec![("main".to_owned(), format!("id{index}"))],
                node: None,
            })
            .collect()
    }

    fn fault(mode: Mode) -> FaultSpec {
        FaultSpec {
            name: "f".to_owned(),
            kind: FaultKind::PodKill { grace_seconds: 0 },
            role: None,
            labels: Vec::new(),
            mode,
            injector: Injector::Direct,
            after: Duration::ZERO,
            duration: None,
            may_be_replaced: false,
        }
    }

    fn guards(max_percent: u8) -> Guards {
        Guards {
            protected_namespaces: vec!["kube-*".to_owned()],
            max_percent,
            revert: Duration::from_mins(1),
            deadline: Duration::from_secs(60),
        }
    }

    #[test]
    fn thirty_four_percent_of_three_pods_is_one() {
        assert_eq!(
            select(&fault(Mode::Percent(34)), &guards(50), &candidates(3), 1, 1)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn a_share_that_rounds_down_to_none_is_refused() {
        let refusal = select(&fault(Mode::Percent(33)), &guards(50), &candidates(3), 1, 1).unwrap_err();
        assert!(refusal.why.contains("rounds down to none"), "{refusal}");
    }

    #[test]
    fn fewer_pods_than_asked_for_is_refused_and_never_a_smaller_fault() {
        let refusal = select(&fault(Mode::Fixed(4)), &guards(100), &candidates(3), 1, 1).unwrap_err();
        assert!(refusal.why.contains("4 pods were asked for, 3 match"), "{refusal}");
    }

    #[test]
    fn all_pods_of_many_need_a_guard_of_one_hundred() {
        assert!(select(&fault(Mode::All), &guards(99), &candidates(3), 1, 1).is_err());
        assert_eq!(
            select(&fault(Mode::All), &guards(100), &candidates(3), 1, 1)
                .unwrap()
                .len(),
            3
        );
        assert_eq!(
            select(&fault(Mode::All), &guards(50), &candidates(1), 1, 1)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn the_same_seed_picks_the_same_pods_in_any_order_and_another_seed_picks_others() {
        let mut reversed = candidates(20);
        reversed.reverse();
        let first = select(&fault(Mode::Fixed(3)), &guards(50), &candidates(20), 7, 1).unwrap();
        assert_eq!(
            first,
            select(&fault(Mode::Fixed(3)), &guards(50), &reversed, 7, 1).unwrap()
        );
        let others = (8..20).map(|seed| select(&fault(Mode::Fixed(3)), &guards(50), &candidates(20), seed, 1).unwrap());
        assert!(others.into_iter().any(|other| other != first));
    }

    #[test]
    fn a_container_that_does_not_exist_is_refused_with_the_ones_that_do() {
        let mut spec = fault(Mode::One);
        spec.kind = FaultKind::ContainerKill {
            container: Some("mian".to_owned()),
            signal: crate::fault::Signal::Kill,
        };
        let refusal = select(&spec, &guards(50), &candidates(3), 1, 1).unwrap_err();
        assert!(refusal.why.contains("no container \"mian\"; it has main"), "{refusal}");
    }
}
