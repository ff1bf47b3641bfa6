//! Who took over from a broken pod, and when: by UID, owner and role.

use crate::model::{Mono, PodFacts};
use crate::timeline::{Change, Moment, PodTrack, TargetFacts, Timeline, TrialFacts};
use std::collections::BTreeSet;

/// The life of one replacement. What was never seen is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Replacement {
    /// Name of the pod that took over; empty when nothing did.
    pub(crate) pod: String,
    pub(crate) created: Option<Moment>,
    pub(crate) scheduled: Option<Moment>,
    pub(crate) started: Option<Moment>,
    pub(crate) ready: Option<Moment>,
    /// The same pod went on with a new container.
    pub(crate) in_place: bool,
    /// The old pod is still there, as it was: nothing had to take over.
    pub(crate) unharmed: bool,
}

/// One replacement per proven target, in the order of the targets. No pod replaces two.
pub(crate) fn replacements(timeline: &Timeline, trial: &TrialFacts, until: Mono) -> Vec<Replacement> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    trial
        .targets()
        .filter(|target| target.effect.is_some())
        .map(|target| replacement(timeline, target, until, &mut taken))
        .collect()
}

fn replacement(timeline: &Timeline, target: &TargetFacts, until: Mono, taken: &mut BTreeSet<String>) -> Replacement {
    let Some((effect, _)) = &target.effect else {
        return Replacement::default();
    };
    let since = target.requested.unwrap_or(effect.lower).min(effect.lower);
    let old = timeline.pods.get(&target.target.pod.uid);
    if let Some(old) = old
        && let Some(found) = restart(timeline, target, old, since, until)
    {
        return found;
    }
    let facts = old.map(|old| &old.facts);
    let successor = timeline.pods.seen_since(since).find(|track| {
        let appeared = track.history.first().map(|(_, receipt)| receipt.at);
        track.facts.pod.uid != target.target.pod.uid
            && !taken.contains(&track.facts.pod.uid)
            && appeared.is_some_and(|at| at >= since && at <= until)
            && facts.is_some_and(|old| succeeds(old, &track.facts))
    });
    let Some(track) = successor else {
        return Replacement {
            unharmed: old
                .is_some_and(|old| !old.gone && old.facts.deletion_at.is_none() && old.facts.phase == "Running"),
            ..Replacement::default()
        };
    };
    taken.insert(track.facts.pod.uid.clone());
    let first = |wanted: &Change| {
        track
            .history
            .iter()
            .find(|(change, receipt)| change == wanted && receipt.at <= until)
            .map(|(_, receipt)| timeline.place(*receipt))
    };
    let mut found = Replacement {
        pod: track.facts.pod.name.clone(),
        created: first(&Change::Created),
        scheduled: first(&Change::Scheduled),
        started: first(&Change::Started),
        ready: first(&Change::Ready),
        in_place: false,
        unharmed: false,
    };
    order(&mut found);
    found
}

/// Same owner, or the same named role in another (or the same) run of the application: an executor's owner is its driver, and
/// a new driver is a new owner.
fn succeeds(old: &PodFacts, new: &PodFacts) -> bool {
    let owner = |facts: &PodFacts| facts.owner.as_ref().map(|owner| owner.uid.clone());
    let same_owner = owner(old).is_some() && owner(old) == owner(new);
    let same_role = old.role == new.role;
    let named_role = old.role.as_ref().is_some_and(|role| role.0 != "any");
    // A driver and its executors may share an owner, so that a named role always has to agree.
    same_role && (same_owner || named_role)
}

/// The container came back inside the same pod.
fn restart(
    timeline: &Timeline,
    target: &TargetFacts,
    track: &PodTrack,
    since: Mono,
    until: Mono,
) -> Option<Replacement> {
    let after = track
        .history
        .iter()
        .filter(|(_, receipt)| receipt.at >= since && receipt.at <= until);
    let wanted = target.target.container.as_deref();
    let (_, started) = after.clone().find(|(change, _)| {
        matches!(change, Change::Restarted { container, .. } if wanted.is_none_or(|wanted| wanted == container))
    })?;
    let ready = after
        .clone()
        .find(|(change, receipt)| *change == Change::Ready && receipt.at >= started.at);
    let mut found = Replacement {
        pod: track.facts.pod.name.clone(),
        started: Some(timeline.place(*started)),
        ready: ready.map(|(_, receipt)| timeline.place(*receipt)),
        in_place: true,
        ..Replacement::default()
    };
    order(&mut found);
    Some(found)
}

/// created <= scheduled <= started <= ready, whatever the bounds of the single events say.
fn order(found: &mut Replacement) {
    let mut floor = Mono(i64::MIN);
    for moment in [
        &mut found.created,
        &mut found.scheduled,
        &mut found.started,
        &mut found.ready,
    ]
    .into_iter()
    .flatten()
    {
        *moment = moment.not_before(floor);
        floor = moment.within.lower;
    }
}

/// The first reaction of the system to the fault: a target seen unready, ending, gone or restarted, or a replacement created.
pub(crate) fn reaction(timeline: &Timeline, trial: &TrialFacts, found: &[Replacement]) -> Option<Moment> {
    let requested = trial.requested()?;
    let seen = trial.targets().filter_map(|target| {
        let track = timeline.pods.get(&target.target.pod.uid)?;
        track
            .history
            .iter()
            .find(|(change, receipt)| {
                receipt.at >= requested
                    && matches!(
                        change,
                        Change::Unready | Change::Terminating | Change::Gone | Change::Restarted { .. }
                    )
            })
            .map(|(_, receipt)| timeline.place(*receipt))
    });
    let created = found.iter().filter_map(|found| found.created);
    seen.chain(created)
        .reduce(Moment::earlier)
        .map(|moment| moment.not_before(requested))
}
