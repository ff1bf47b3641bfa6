//! The status of a Deployment. Pure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::rollout::{Limits, Sets, wanted};
use super::{DEFAULT_PROGRESS_DEADLINE, MARGIN, NO_DEADLINE};
use crate::controllers::meta::{elapsed, stamp, truth, unless_zero};
use crate::controllers::runtime::ReconcileError;

/// Adds up the `ReplicaSets` and judges progress.
pub(crate) fn status_of(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    failed: Option<&ReconcileError>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |field: &dyn Fn(&ReplicaSet) -> i32| -> i32 { sets.all().map(|set| field(set)).sum() };
    let replicas_of = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let available = sum(&|set| {
        set.status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0)
    });
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: unless_zero(sum(&replicas_of)),
        updated_replicas: unless_zero(sets.new.as_ref().map_or(0, |set| replicas_of(set))),
        ready_replicas: unless_zero(sum(&|set| {
            set.status
                .as_ref()
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0)
        })),
        available_replicas: unless_zero(available),
        unavailable_replicas: unless_zero((sets.total() - available).max(0)),
        collision_count: old.collision_count,
        terminating_replicas: old.terminating_replicas,
        conditions: None,
    };
    let mut conditions = Conditions {
        list: old.conditions.clone().unwrap_or_default(),
        now,
    };
    let unavailable = Limits::of(spec).map_or(0, |limits| limits.unavailable);
    if available >= wanted(spec) - unavailable {
        conditions.set(
            "Available",
            true,
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        );
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set("Available", false, "MinimumReplicasUnavailable", message);
    }
    progress(deployment, spec, sets, &old, &status, &mut conditions);
    failure(sets, failed, &mut conditions);
    status.conditions = Some(conditions.list);
    status
}

fn progress(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    conditions: &mut Conditions,
) {
    if !has_deadline(spec) {
        conditions.list.retain(|condition| condition.type_ != "Progressing");
        return;
    }
    let reason = conditions
        .get("Progressing")
        .and_then(|condition| condition.reason.clone())
        .unwrap_or_default();
    if spec.paused == Some(true) {
        conditions.set_unknown("Progressing", "DeploymentPaused", "Deployment is paused");
        return;
    }
    if reason == "DeploymentPaused" {
        conditions.set_unknown("Progressing", "DeploymentResumed", "Deployment is resumed");
        return;
    }
    let name = sets
        .new
        .as_ref()
        .map_or_else(|| deployment.name_any(), |set| set.name_any());
    let subject = sets.new.as_ref().map_or_else(
        || format!("Deployment \"{name}\""),
        |_| format!("ReplicaSet \"{name}\""),
    );
    if is_complete(deployment, spec, new) && sets.new.is_some() {
        let message = format!("{subject} has successfully progressed.");
        conditions.set("Progressing", true, "NewReplicaSetAvailable", &message);
    } else if has_progressed(old, new) || reason.is_empty() {
        conditions.refresh(
            "Progressing",
            "ReplicaSetUpdated",
            &format!("{subject} is progressing."),
        );
    } else if reason == "NewReplicaSetAvailable" {
        // Done once; a lost pod afterwards is not a rollout. A new template is.
        if old.updated_replicas != new.updated_replicas && new.updated_replicas.unwrap_or(0) < wanted(spec) {
            conditions.refresh(
                "Progressing",
                "ReplicaSetUpdated",
                &format!("{subject} is progressing."),
            );
        }
    } else if timed_out(spec, conditions) {
        let message = format!("{subject} has timed out progressing.");
        conditions.set("Progressing", false, "ProgressDeadlineExceeded", &message);
    }
}

fn failure(sets: &Sets, failed: Option<&ReconcileError>, conditions: &mut Conditions) {
    let own = failed
        .filter(|error| !error.is_race())
        .map(|error| std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string));
    match own.or_else(|| failure_of_sets(sets)) {
        Some(message) => conditions.set("ReplicaFailure", true, "FailedCreate", &message),
        None => conditions.list.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
}

/// Message of the last set that could not create pods.
fn failure_of_sets(sets: &Sets) -> Option<String> {
    let messages = sets.all().filter_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_deref()?;
        let failure = conditions
            .iter()
            .find(|condition| condition.type_ == "ReplicaFailure")?;
        failure.message.clone()
    });
    messages.last()
}

/// Everything new, nothing old, all available, and the spec has been seen.
pub(crate) fn is_complete(deployment: &Deployment, spec: &DeploymentSpec, status: &DeploymentStatus) -> bool {
    let wanted = unless_zero(wanted(spec));
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let old_rest = old.replicas.unwrap_or(0) - old.updated_replicas.unwrap_or(0);
    let new_rest = new.replicas.unwrap_or(0) - new.updated_replicas.unwrap_or(0);
    new.updated_replicas > old.updated_replicas
        || new_rest < old_rest
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn has_deadline(spec: &DeploymentSpec) -> bool {
    spec.progress_deadline_seconds != Some(NO_DEADLINE)
}

fn deadline(spec: &DeploymentSpec) -> Duration {
    let seconds = spec.progress_deadline_seconds.unwrap_or(DEFAULT_PROGRESS_DEADLINE);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn timed_out(spec: &DeploymentSpec, conditions: &Conditions) -> bool {
    let since = conditions
        .get("Progressing")
        .and_then(|condition| condition.last_update_time.clone());
    since.is_some_and(|since| elapsed(since.0, conditions.now) >= deadline(spec))
}

/// When a rollout that makes no progress will have failed.
pub(crate) fn progress_deadline_in(
    spec: &DeploymentSpec,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    if !has_deadline(spec) || spec.paused == Some(true) {
        return None;
    }
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Progressing")?;
    let settled = matches!(
        condition.reason.as_deref(),
        Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")
    );
    let since = condition.last_update_time.as_ref().filter(|_| !settled)?;
    Some(deadline(spec).saturating_sub(elapsed(since.0, now)) + MARGIN)
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    /// Sets a condition unless it already says so; the transition time moves only with the status.
    fn set(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        self.write(kind, truth(status), reason, message, false);
    }

    fn set_unknown(&mut self, kind: &str, reason: &str, message: &str) {
        self.write(kind, "Unknown", reason, message, false);
    }

    /// As `set` with True, but the update time moves even if it already says so: progress was made.
    fn refresh(&mut self, kind: &str, reason: &str, message: &str) {
        self.write(kind, "True", reason, message, true);
    }

    fn write(&mut self, kind: &str, status: &str, reason: &str, message: &str, always: bool) {
        let now = Some(stamp(self.now));
        let before = self.get(kind).cloned();
        let same = before.as_ref().is_some_and(|before| {
            before.status == status
                && before.reason.as_deref() == Some(reason)
                && before.message.as_deref() == Some(message)
        });
        if same && !always {
            return;
        }
        let same_status = before.as_ref().filter(|before| before.status == status);
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: now.clone(),
            last_transition_time: same_status
                .and_then(|before| before.last_transition_time.clone())
                .or(now),
        };
        match self.list.iter_mut().find(|condition| condition.type_ == kind) {
            Some(existing) => *existing = condition,
            None => self.list.push(condition),
        }
    }
}
