//! The pod table: identity by UID, owner and role, never by name. Bystanders (pods that are not of the target) are left out.

use super::moment::Receipt;
use crate::evidence::Seen;
use crate::model::{ContainerState, Mono, PodFacts, Role};
use std::collections::{BTreeMap, BTreeSet};

/// Something that happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Created,
    Scheduled,
    Started,
    Ready,
    Unready,
    Terminating,
    Gone,
    /// A container runs under a new runtime id inside the same pod.
    Restarted {
        container: String,
        container_id: String,
    },
}

/// One pod of the target.
#[derive(Debug, Clone)]
pub(crate) struct PodTrack {
    pub(crate) facts: PodFacts,
    pub(crate) history: Vec<(Change, Receipt)>,
    pub(crate) gone: bool,
    /// Order of first sight.
    pub(crate) order: usize,
    /// Runtime ids seen so far, by container.
    container_ids: BTreeMap<String, BTreeSet<String>>,
}

impl PodTrack {
    /// Serves: ready, and nobody has asked it to go.
    fn serves(&self) -> bool {
        serves(&self.facts) && !self.gone
    }
}

fn serves(facts: &PodFacts) -> bool {
    facts.member
        && facts.ready
        && facts.deletion_at.is_none()
        && !matches!(facts.phase.as_str(), "Failed" | "Succeeded")
}

fn started(facts: &PodFacts) -> bool {
    facts
        .containers
        .iter()
        .any(|container| matches!(container.state, ContainerState::Running { .. }))
}

/// Every pod that is or was a member of the target.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodTable {
    pods: BTreeMap<String, PodTrack>,
    /// Run of the application that the newest driver belongs to; older pods of another run no longer serve.
    generation: Option<String>,
    last_receipt: Option<Mono>,
}

impl PodTable {
    /// Takes a watch event in. Returns the receipt when the event concerned the target.
    pub(crate) fn apply(
        &mut self,
        seen: Seen,
        at: Mono,
        not_before: Option<Mono>,
        facts: &PodFacts,
    ) -> Option<Receipt> {
        let known = self.pods.contains_key(&facts.pod.uid);
        if !facts.member && !known {
            return None;
        }
        let merged = matches!(seen, Seen::Listed | Seen::Vanished);
        // A `Deleted` event of the watch carries the revision of the deletion; what a list merged has no revision of its own.
        let receipt = Receipt {
            at,
            not_before,
            revision: facts.resource_version.filter(|_| !merged),
            after: self.last_receipt,
        };
        if self.last_receipt.is_none_or(|last| last < at) {
            self.last_receipt = Some(at);
        }
        if !known
            && facts.generation.is_some()
            && facts.role.as_ref().is_some_and(|role| role.0 == "driver")
            && !matches!(seen, Seen::Deleted | Seen::Vanished)
        {
            self.generation.clone_from(&facts.generation);
        }
        let order = self.pods.len();
        let track = self.pods.entry(facts.pod.uid.clone()).or_insert_with(|| PodTrack {
            facts: PodFacts {
                ready: false,
                scheduled: false,
                deletion_at: None,
                containers: Vec::new(),
                ..facts.clone()
            },
            history: vec![(Change::Created, receipt)],
            gone: false,
            order,
            container_ids: BTreeMap::new(),
        });
        track.take(seen, receipt, facts);
        Some(receipt)
    }

    /// Members of `role` (all roles when none is named) that serve.
    pub(crate) fn ready_count(&self, role: Option<&Role>) -> usize {
        self.pods
            .values()
            .filter(|track| track.serves())
            .filter(|track| role.is_none() || track.facts.role.as_ref() == role)
            .filter(|track| {
                self.generation.is_none()
                    || track.facts.generation.is_none()
                    || track.facts.generation == self.generation
            })
            .count()
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&PodTrack> {
        self.pods.get(uid)
    }

    /// Pods in the order in which they were first seen.
    pub(crate) fn in_order(&self) -> Vec<&PodTrack> {
        let mut pods: Vec<&PodTrack> = self.pods.values().collect();
        pods.sort_by_key(|track| track.order);
        pods
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

impl PodTrack {
    fn take(&mut self, seen: Seen, receipt: Receipt, facts: &PodFacts) {
        let before = &self.facts;
        let mut changes = Vec::new();
        if facts.scheduled && !before.scheduled {
            changes.push(Change::Scheduled);
        }
        if started(facts) && !self.history.iter().any(|(change, _)| *change == Change::Started) {
            changes.push(Change::Started);
        }
        for container in &facts.containers {
            if container.container_id.is_empty() {
                continue;
            }
            let ids = self.container_ids.entry(container.name.clone()).or_default();
            let restarted = !ids.is_empty() && !ids.contains(&container.container_id);
            ids.insert(container.container_id.clone());
            if restarted {
                changes.push(Change::Restarted {
                    container: container.name.clone(),
                    container_id: container.container_id.clone(),
                });
            }
        }
        let was_ready = before.ready;
        if facts.deletion_at.is_some() && before.deletion_at.is_none() {
            changes.push(Change::Terminating);
        }
        let gone = matches!(seen, Seen::Deleted | Seen::Vanished);
        if was_ready && (!facts.ready || gone) {
            changes.push(Change::Unready);
        } else if !was_ready && facts.ready && !gone {
            changes.push(Change::Ready);
        }
        if gone && !self.gone {
            changes.push(Change::Gone);
        }
        self.gone = gone;
        self.history.extend(changes.into_iter().map(|change| (change, receipt)));
        self.facts = facts.clone();
    }
}
