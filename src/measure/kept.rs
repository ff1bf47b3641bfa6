//! Whether a fault that should last really lasted: what ends with a pod, or with a container, ends when that is replaced.

use crate::experiment::Experiment;
use crate::fault::{FaultKind, FaultSpec, Life};
use crate::model::{ContainerState, Mono};
use crate::timeline::{Change, FaultFacts, PodTrack, TargetFacts, Timeline, TrialFacts};

/// The first fault whose victim was replaced while it should have lasted, as a sentence. A fault that says so in its file may end
/// with its victim.
pub(crate) fn cut_short(
    experiment: &Experiment,
    timeline: &Timeline,
    facts: &TrialFacts,
    until: Mono,
) -> Option<String> {
    experiment.faults.iter().find_map(|spec| {
        let fault = facts.faults.iter().find(|fault| fault.name == spec.name)?;
        let life = life(spec, fault)?;
        let end = fault.ended.map_or(until, |ended| ended.lower);
        fault
            .targets
            .iter()
            .filter(|target| target.target.kind.is_none() && !killed_too(experiment, facts, target))
            .find_map(|target| cut(timeline, spec, target, life, end))
    })
}

/// What a fault ends with, unless it may.
fn life(spec: &FaultSpec, fault: &FaultFacts) -> Option<Life> {
    if !fault.lasting || spec.may_be_replaced {
        return None;
    }
    match spec.kind.life(spec.injector)? {
        // A policy that selects by the target's own labels holds for the replacement as well.
        Life::PodIfMarked => fault.marks_pods.then_some(Life::Pod),
        life => Some(life),
    }
}

fn cut(timeline: &Timeline, spec: &FaultSpec, target: &TargetFacts, life: Life, end: Mono) -> Option<String> {
    let (effect, _) = target.effect.as_ref()?;
    let track = timeline.pods.get(&target.target.pod.uid)?;
    // Being killed for its memory is what this fault is for.
    let for_memory = matches!(spec.kind, FaultKind::MemoryStress { .. });
    if for_memory && killed_for_memory(track) {
        return None;
    }
    let (change, at) = track.history.iter().find_map(|(change, receipt)| {
        let at = timeline.place(*receipt).within.upper;
        let ends = match change {
            Change::Gone => true,
            Change::Restarted { container, .. } => {
                life == Life::Container
                    && !for_memory
                    && target.target.container.as_ref().is_none_or(|held| held == container)
            }
            _ => false,
        };
        (ends && at > effect.upper && at < end).then_some((change, at))
    })?;
    let what = match change {
        Change::Restarted { container, .. } => format!("container {container} of pod {}", track.facts.pod.name),
        _ => format!("pod {}", track.facts.pod.name),
    };
    let lasted = at.since(effect.upper).as_secs_f64();
    let wanted = spec.duration.unwrap_or_default().as_secs_f64();
    Some(format!(
        "{} was not kept up: {what} was replaced {lasted:.1} s into its {wanted:.1} s, and the fault ended with it; if that is how \
         the system is meant to recover, say mayBeReplaced: true in the fault",
        spec.name
    ))
}

/// Another fault of the same experiment was there to kill this pod: what became of it was wanted.
fn killed_too(experiment: &Experiment, facts: &TrialFacts, target: &TargetFacts) -> bool {
    let kills = |name: &str| {
        let spec = experiment.faults.iter().find(|spec| spec.name == name);
        spec.is_some_and(|spec| spec.kind.is_one_shot())
    };
    let uid = &target.target.pod.uid;
    let killers = facts.faults.iter().filter(|fault| kills(&fault.name));
    killers
        .flat_map(|fault| &fault.targets)
        .any(|held| held.target.pod.uid == *uid && held.requested.is_some())
}

fn killed_for_memory(track: &PodTrack) -> bool {
    track.facts.phase == "Failed"
        || track.facts.containers.iter().any(
            |container| matches!(&container.state, ContainerState::Terminated { reason, .. } if reason == "OOMKilled"),
        )
}
