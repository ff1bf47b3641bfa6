//! The pod table: identity by UID, owner and role, never by name. Bystanders (pods that are not of the target) are left out.

use super::moment::Receipt;
use crate::evidence::Seen;
use crate::model::{ContainerFacts, ContainerState, Mono, PodFacts, Role};
use std::collections::HashMap;
use std::sync::Arc;

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
    pub(crate) facts: Arc<PodFacts>,
    pub(crate) history: Vec<(Change, Receipt)>,
    pub(crate) gone: bool,
    /// No pod up to this one, in the order of first sight, was first seen later.
    seen_by: Mono,
    /// Containers and the runtime ids that they had before the present ones.
    old_ids: Vec<(String, String)>,
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
    /// In the order of first sight.
    pods: Vec<PodTrack>,
    places: HashMap<String, usize>,
    /// Run of the application that the newest driver belongs to; older pods of another run no longer serve.
    generation: Option<String>,
    last_receipt: Option<Mono>,
    /// How many serve, by role: asked for after every event, of thousands of pods.
    serving: Vec<(Option<Role>, usize)>,
}

impl PodTable {
    /// Takes a watch event in. Returns the receipt when the event concerned the target.
    pub(crate) fn apply(
        &mut self,
        seen: Seen,
        at: Mono,
        not_before: Option<Mono>,
        facts: &Arc<PodFacts>,
    ) -> Option<Receipt> {
        let known = self.places.get(&facts.pod.uid).copied();
        if !facts.member && known.is_none() {
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
        if known.is_none()
            && facts.generation.is_some()
            && facts.generation != self.generation
            && facts.role.as_ref().is_some_and(|role| role.0 == "driver")
            && !matches!(seen, Seen::Deleted | Seen::Vanished)
        {
            self.generation.clone_from(&facts.generation);
            self.count_all();
        }
        let place = known.unwrap_or_else(|| {
            self.places.insert(facts.pod.uid.clone(), self.pods.len());
            let seen_by = self.pods.last().map_or(at, |last| last.seen_by.max(at));
            self.pods.push(PodTrack {
                facts: Arc::new(PodFacts {
                    ready: false,
                    scheduled: false,
                    deletion_at: None,
                    containers: Vec::new(),
                    ..PodFacts::clone(facts)
                }),
                history: vec![(Change::Created, receipt)],
                gone: false,
                seen_by,
                old_ids: Vec::new(),
            });
            self.pods.len() - 1
        });
        let generation = self.generation.as_ref();
        if let Some(track) = self.pods.get_mut(place) {
            count(&mut self.serving, track, generation, false);
            track.take(seen, receipt, facts);
            count(&mut self.serving, track, generation, true);
        }
        Some(receipt)
    }

    fn count_all(&mut self) {
        self.serving.clear();
        for track in &self.pods {
            count(&mut self.serving, track, self.generation.as_ref(), true);
        }
    }

    /// Members of `role` (all roles when none is named) that serve.
    pub(crate) fn ready_count(&self, role: Option<&Role>) -> usize {
        self.serving
            .iter()
            .filter(|(known, _)| role.is_none() || known.as_ref() == role)
            .map(|(_, count)| count)
            .sum()
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&PodTrack> {
        self.pods.get(*self.places.get(uid)?)
    }

    /// Pods in the order in which they were first seen, without those that were seen before `since`. Perhaps a few of these too.
    pub(crate) fn seen_since(&self, since: Mono) -> impl Iterator<Item = &PodTrack> {
        let first = self.pods.partition_point(|track| track.seen_by < since);
        self.pods.iter().skip(first)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

/// Adds a pod to those that serve, or takes it from them, when it is one of them.
fn count(serving: &mut Vec<(Option<Role>, usize)>, track: &PodTrack, generation: Option<&String>, add: bool) {
    let own = track.facts.generation.as_ref();
    if !track.serves() || generation.is_some() && own.is_some() && own != generation {
        return;
    }
    match serving.iter_mut().find(|(role, _)| *role == track.facts.role) {
        Some((_, count)) if add => *count += 1,
        Some((_, count)) => *count = count.saturating_sub(1),
        None if add => serving.push((track.facts.role.clone(), 1)),
        None => {}
    }
}

impl PodTrack {
    fn take(&mut self, seen: Seen, receipt: Receipt, facts: &Arc<PodFacts>) {
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
            let ids = || {
                let present = before
                    .containers
                    .iter()
                    .map(|held| (&held.name, &held.container_id))
                    .filter(|(_, id)| !id.is_empty());
                let old = self.old_ids.iter().map(|(name, id)| (name, id));
                present.chain(old).filter(|(name, _)| **name == container.name)
            };
            if ids().next().is_some() && !ids().any(|(_, id)| *id == container.container_id) {
                changes.push(Change::Restarted {
                    container: container.name.clone(),
                    container_id: container.container_id.clone(),
                });
            }
        }
        for held in before.containers.iter().filter(|held| !held.container_id.is_empty()) {
            let stays = |new: &&ContainerFacts| new.name == held.name && new.container_id == held.container_id;
            let id = (&held.name, &held.container_id);
            if facts.containers.iter().find(stays).is_none() && !self.old_ids.iter().any(|(a, b)| (a, b) == id) {
                self.old_ids.push((held.name.clone(), held.container_id.clone()));
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
        self.facts = Arc::clone(facts);
    }
}
