//! What a Job needs next. Pure: Job, pods and time in; status and deeds out.
//!
//! Source of the rules: `pkg/controller/job/job_controller.go` (syncJob, manageJob, trackJobStatusAndRemoveFinalizers)
//! and `backoff_utils.go` of Kubernetes 1.33.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::MARGIN;
use crate::controllers::meta::{
    count, elapsed, is_active, is_ready, is_terminal, is_terminating, phase, stamp, unless_zero,
};
use crate::controllers::pods::{PodName, annotate, annotation, label, pod_from_template};
use crate::controllers::replica_set::least_useful;

/// Keeps a pod of a Job until it has been counted.
pub(crate) const TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Label and annotation of a pod of an Indexed Job.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Pause after the first failure; doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest pause between failures.
const LONGEST_BACKOFF: Duration = Duration::from_mins(10);

/// Failures since the last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
    last_failure: Option<Timestamp>,
}

impl Backoff {
    fn remaining(self, now: Timestamp) -> Duration {
        let (Some(last), Some(exponent)) = (self.last_failure, self.failures.checked_sub(1)) else {
            return Duration::ZERO;
        };
        let pause = FIRST_BACKOFF
            .saturating_mul(2_u32.saturating_pow(exponent))
            .min(LONGEST_BACKOFF);
        pause.saturating_sub(elapsed(last, now))
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// The new status.
    pub(crate) status: JobStatus,
    /// Completion indexes of pods to create; `None` for a Job that is not indexed.
    pub(crate) create: Vec<Option<i32>>,
    /// Pods to delete.
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Pods that have been counted and may go.
    pub(crate) untrack: Vec<Arc<Pod>>,
    /// Failures in a row, for next time.
    pub(crate) backoff: Backoff,
    /// When to look again even if nothing changes.
    pub(crate) look_again: Option<Duration>,
}

/// Something to tell about the Job.
pub(crate) struct Told {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) note: String,
}

/// Whether the pod still waits to be counted.
pub(crate) fn has_tracking_finalizer(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|name| name == TRACKING_FINALIZER)
}

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status
        .conditions
        .as_deref()
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == "True")
}

fn finished(status: &JobStatus) -> Option<&JobCondition> {
    condition(status, "Complete").or_else(|| condition(status, "Failed"))
}

/// How long a finished Job still lives: zero when it must go now, `None` for one that runs. One without a time to
/// live is never looked at again.
pub(crate) fn expires_in(job: &Job, now: Timestamp) -> Option<Duration> {
    let finished = finished(job.status.as_ref()?)?;
    let lives = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let already_going = is_terminating(&job.metadata);
    let (Some(seconds), Some(Time(since)), false) = (lives, &finished.last_transition_time, already_going) else {
        return Some(Duration::from_hours(1));
    };
    let total = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Some(total.saturating_sub(elapsed(*since, now)))
}

/// Why a Job ends.
struct Ending {
    failed: bool,
    reason: String,
    message: String,
}

impl Ending {
    fn failed(reason: &str, message: &str) -> Self {
        Self {
            failed: true,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }
}

/// The books: what has ended, what has been counted.
struct Books {
    succeeded: i32,
    failed: i32,
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    completed_indexes: BTreeSet<i32>,
    untrack: Vec<Arc<Pod>>,
    backoff: Backoff,
}

impl Books {
    fn total_succeeded(&self) -> i32 {
        self.succeeded.saturating_add(count(self.uncounted_succeeded.len()))
    }

    fn total_failed(&self) -> i32 {
        self.failed.saturating_add(count(self.uncounted_failed.len()))
    }

    fn all_counted(&self) -> bool {
        self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty()
    }
}

/// Decides what the Job needs now.
pub(crate) fn plan(job: &Job, pods: &[Arc<Pod>], backoff: Backoff, now: Timestamp) -> Plan {
    let old = job.status.clone().unwrap_or_default();
    let Some(spec) = &job.spec else {
        return Plan {
            status: old,
            create: Vec::new(),
            delete: Vec::new(),
            untrack: Vec::new(),
            backoff,
            look_again: None,
        };
    };
    let suspended = spec.suspend == Some(true);
    let mut status = old.clone();
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(stamp(now));
    }

    let mut books = open_books(&old, spec, pods, backoff, now);
    let active: Vec<Arc<Pod>> = pods
        .iter()
        .filter(|pod| is_active(pod) && !books.knows(pod))
        .cloned()
        .collect();
    let terminating = pods
        .iter()
        .filter(|pod| is_terminating(&pod.metadata) && !is_terminal(pod))
        .count();

    let mut ending = planned_ending(&old, spec, pods, &books, &status, now);
    let mut look_again = deadline(spec, &status, now).filter(|_| ending.is_none() && !suspended);
    let mut create = Vec::new();
    let mut delete = Vec::new();
    if let Some(ending) = &ending {
        delete.clone_from(&active);
        // Every pod that still ran counts as failed when the Job has failed.
        if ending.failed {
            for pod in active.iter().filter(|pod| has_tracking_finalizer(pod)) {
                books.uncounted_failed.extend(pod.uid());
                books.untrack.push(Arc::clone(pod));
            }
        }
    } else if suspended {
        delete.clone_from(&active);
    } else if is_terminating(&job.metadata) {
        // Garbage collection takes the pods.
    } else {
        let wanted = wanted_active(spec, &books, active.len());
        let waiting = if waits_for_end_of_failed_pods(spec) {
            terminating
        } else {
            0
        };
        if active.len() > wanted {
            delete = least_useful(&active, active.len() - wanted);
        } else if active.len() + waiting < wanted {
            let pause = books.backoff.remaining(now);
            if pause.is_zero() {
                create = new_pods(spec, &books, &active, wanted - active.len() - waiting);
            } else {
                look_again = look_again.into_iter().chain([pause + MARGIN]).min();
            }
        }
        let left = active.len() - delete.len() + create.len();
        ending = completion(spec, &books, left);
    }

    // The status tells what will be true when the deeds are done, as Kubernetes' does.
    let active_after = (active.len() + create.len()).saturating_sub(delete.len());
    let deleted_ready = delete.iter().filter(|pod| is_ready(pod)).count();
    let ready = active
        .iter()
        .filter(|pod| is_ready(pod))
        .count()
        .saturating_sub(deleted_ready);
    let terminating_after = terminating + delete.len();
    status.active = unless_zero(count(active_after));
    status.ready = Some(count(ready));
    status.terminating = Some(count(terminating_after));
    status.succeeded = unless_zero(books.succeeded);
    status.failed = unless_zero(books.failed);
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        succeeded: list_unless_empty(&books.uncounted_succeeded),
        failed: list_unless_empty(&books.uncounted_failed),
    });
    if is_indexed(spec) {
        status.completed_indexes = Some(ranges(&books.completed_indexes)).filter(|ranges| !ranges.is_empty());
    }
    let mut conditions = old.conditions.clone().unwrap_or_default();
    if let Some(ending) = &ending {
        end(
            &mut conditions,
            &mut status,
            ending,
            books.all_counted() && terminating_after == 0,
            now,
        );
    } else {
        suspend(&mut conditions, &mut status, suspended, now);
    }
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    Plan {
        status,
        create,
        delete,
        untrack: books.untrack,
        backoff: books.backoff,
        look_again,
    }
}

impl Books {
    fn knows(&self, pod: &Pod) -> bool {
        pod.uid()
            .is_some_and(|uid| self.uncounted_failed.contains(&uid) || self.uncounted_succeeded.contains(&uid))
    }
}

fn list_unless_empty(uids: &BTreeSet<String>) -> Option<Vec<String>> {
    (!uids.is_empty()).then(|| uids.iter().cloned().collect())
}

/// Moves what lost its finalizer to the counters and takes up what has ended since.
fn open_books(old: &JobStatus, spec: &JobSpec, pods: &[Arc<Pod>], backoff: Backoff, now: Timestamp) -> Books {
    let uncounted = old.uncounted_terminated_pods.clone().unwrap_or_default();
    let mut books = Books {
        succeeded: old.succeeded.unwrap_or(0),
        failed: old.failed.unwrap_or(0),
        uncounted_succeeded: BTreeSet::new(),
        uncounted_failed: BTreeSet::new(),
        completed_indexes: parse_ranges(old.completed_indexes.as_deref().unwrap_or_default()),
        untrack: Vec::new(),
        backoff,
    };
    let tracked = |uid: &str| {
        pods.iter()
            .find(|pod| pod.metadata.uid.as_deref() == Some(uid))
            .filter(|pod| has_tracking_finalizer(pod))
    };
    for uid in uncounted.succeeded.into_iter().flatten() {
        if let Some(pod) = tracked(&uid) {
            books.untrack.push(Arc::clone(pod));
            books.uncounted_succeeded.insert(uid);
        } else if !is_indexed(spec) {
            books.succeeded = books.succeeded.saturating_add(1);
        }
    }
    for uid in uncounted.failed.into_iter().flatten() {
        if let Some(pod) = tracked(&uid) {
            books.untrack.push(Arc::clone(pod));
            books.uncounted_failed.insert(uid);
        } else {
            books.failed = books.failed.saturating_add(1);
        }
    }
    let mut new_failures = Vec::new();
    let mut last_success = None;
    for pod in pods.iter().filter(|pod| has_tracking_finalizer(pod)) {
        let Some(uid) = pod.uid() else { continue };
        if books.knows(pod) {
            continue;
        }
        if phase(pod) == "Succeeded" {
            last_success = last_success.max(Some(finish_time(pod, now)));
            match index_of(pod).filter(|_| is_indexed(spec)) {
                Some(index) if in_range(spec, index) => {
                    books.completed_indexes.insert(index);
                    books.untrack.push(Arc::clone(pod));
                }
                Some(_) => books.untrack.push(Arc::clone(pod)),
                None => {
                    books.uncounted_succeeded.insert(uid);
                    books.untrack.push(Arc::clone(pod));
                }
            }
        } else if has_failed(pod, spec) {
            new_failures.push(finish_time(pod, now));
            books.uncounted_failed.insert(uid);
            books.untrack.push(Arc::clone(pod));
        }
    }
    if is_indexed(spec) {
        books.succeeded = count(books.completed_indexes.len());
    }
    if last_success.is_some() {
        books.backoff = Backoff::default();
    }
    for failure in new_failures {
        if last_success.is_none_or(|success| failure > success) {
            books.backoff.failures = books.backoff.failures.saturating_add(1);
            books.backoff.last_failure = books.backoff.last_failure.max(Some(failure));
        }
    }
    books
}

/// A pod counts as failed when it ended so, or is deleted before it succeeded (unless only ended pods count).
fn has_failed(pod: &Pod, spec: &JobSpec) -> bool {
    phase(pod) == "Failed" || (is_terminating(&pod.metadata) && !waits_for_end_of_failed_pods(spec))
}

fn waits_for_end_of_failed_pods(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// When the last container ended, or the deletion was asked for.
fn finish_time(pod: &Pod, now: Timestamp) -> Timestamp {
    let status = pod.status.as_ref();
    let ends = status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
        .iter();
    let latest = ends
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max();
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| {
        let grace =
            Duration::from_secs(u64::try_from(pod.metadata.deletion_grace_period_seconds.unwrap_or(0)).unwrap_or(0));
        time.0.checked_sub(grace).unwrap_or(time.0)
    });
    latest.or(deleted).unwrap_or(now)
}

/// The failure that the Job is in or has now run into.
fn planned_ending(
    old: &JobStatus,
    spec: &JobSpec,
    pods: &[Arc<Pod>],
    books: &Books,
    status: &JobStatus,
    now: Timestamp,
) -> Option<Ending> {
    for (kind, failed) in [("FailureTarget", true), ("SuccessCriteriaMet", false)] {
        if let Some(decided) = condition(old, kind) {
            return Some(Ending {
                failed,
                reason: decided.reason.clone().unwrap_or_default(),
                message: decided.message.clone().unwrap_or_default(),
            });
        }
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if books.total_failed() > limit || restarted_too_often(spec, pods, limit) {
        return Some(Ending::failed(
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        ));
    }
    let suspended = spec.suspend == Some(true);
    if !suspended && deadline(spec, status, now).is_some_and(|left| left.is_zero()) {
        return Some(Ending::failed(
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
        ));
    }
    None
}

/// Time left until the deadline; zero when it has passed, `None` without one.
fn deadline(spec: &JobSpec, status: &JobStatus, now: Timestamp) -> Option<Duration> {
    let allowed = Duration::from_secs(u64::try_from(spec.active_deadline_seconds?).unwrap_or(0));
    let Time(start) = status.start_time.as_ref()?;
    Some(allowed.saturating_sub(elapsed(*start, now)))
}

/// With restartPolicy `OnFailure` it is container restarts that count.
fn restarted_too_often(spec: &JobSpec, pods: &[Arc<Pod>], limit: i32) -> bool {
    let policy = spec
        .template
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i32 = pods
        .iter()
        .filter(|pod| matches!(phase(pod), "Running" | "Pending"))
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| {
            status
                .init_container_statuses
                .iter()
                .chain(&status.container_statuses)
                .flatten()
        })
        .map(|container| container.restart_count)
        .fold(0, i32::saturating_add);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// How many pods should run.
fn wanted_active(spec: &JobSpec, books: &Books, active: usize) -> usize {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let Some(completions) = spec.completions else {
        // Without a number of completions the first success means: start no more, let the others end.
        return if books.total_succeeded() > 0 {
            active
        } else {
            parallelism
        };
    };
    let missing = usize::try_from(completions.saturating_sub(books.total_succeeded())).unwrap_or(0);
    missing.min(parallelism)
}

fn completion(spec: &JobSpec, books: &Books, active: usize) -> Option<Ending> {
    let complete = active == 0
        && match spec.completions {
            Some(completions) => books.total_succeeded() >= completions,
            None => books.total_succeeded() > 0,
        };
    complete.then(|| Ending {
        failed: false,
        reason: "CompletionsReached".to_owned(),
        message: "Reached expected number of succeeded pods".to_owned(),
    })
}

/// Adds the interim condition, and the final one when every pod has ended and been counted.
fn end(conditions: &mut Vec<JobCondition>, status: &mut JobStatus, ending: &Ending, all_ended: bool, now: Timestamp) {
    let (interim, last) = if ending.failed {
        ("FailureTarget", "Failed")
    } else {
        ("SuccessCriteriaMet", "Complete")
    };
    let mut add = |kind: &str| {
        if !conditions.iter().any(|condition| condition.type_ == kind) {
            conditions.push(JobCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                reason: Some(ending.reason.clone()),
                message: Some(ending.message.clone()),
                last_probe_time: Some(stamp(now)),
                last_transition_time: Some(stamp(now)),
            });
        }
    };
    add(interim);
    if all_ended {
        add(last);
        if !ending.failed {
            status.completion_time = Some(stamp(now));
        }
    }
}

/// Keeps the Suspended condition and the start time, which begins anew when a Job is resumed.
fn suspend(conditions: &mut Vec<JobCondition>, status: &mut JobStatus, suspended: bool, now: Timestamp) {
    let known = conditions.iter().position(|condition| condition.type_ == "Suspended");
    let was = known
        .and_then(|index| conditions.get(index))
        .is_some_and(|condition| condition.status == "True");
    if suspended == was {
        return;
    }
    status.start_time = (!suspended).then(|| stamp(now));
    let (truth, reason, message) = if suspended {
        ("True", "JobSuspended", "Job suspended")
    } else {
        ("False", "JobResumed", "Job resumed")
    };
    conditions.retain(|condition| condition.type_ != "Suspended");
    conditions.push(JobCondition {
        type_: "Suspended".to_owned(),
        status: truth.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(stamp(now)),
        last_transition_time: Some(stamp(now)),
    });
}

/// The conditions that a new status adds, as events.
pub(crate) fn tell_of(job: &Job, new: &JobStatus) -> Vec<Told> {
    let old = job.status.clone().unwrap_or_default();
    let fresh = new.conditions.iter().flatten().filter(|condition| {
        !old.conditions
            .iter()
            .flatten()
            .any(|o| o.type_ == condition.type_ && o.status == condition.status)
    });
    fresh
        .filter_map(|condition| {
            let note = condition.message.clone().unwrap_or_default();
            let (warning, reason, note) = match (condition.type_.as_str(), condition.reason.as_deref()) {
                ("Complete", _) => (false, "Completed", "Job completed".to_owned()),
                ("Failed", Some("DeadlineExceeded")) => (true, "DeadlineExceeded", note),
                ("Failed", _) => (true, "BackoffLimitExceeded", note),
                ("Suspended", Some("JobSuspended")) => (false, "Suspended", note),
                ("Suspended", _) => (false, "Resumed", note),
                _ => return None,
            };
            Some(Told { warning, reason, note })
        })
        .collect()
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn in_range(spec: &JobSpec, index: i32) -> bool {
    index >= 0 && spec.completions.is_some_and(|completions| index < completions)
}

fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

fn new_pods(spec: &JobSpec, books: &Books, active: &[Arc<Pod>], number: usize) -> Vec<Option<i32>> {
    if !is_indexed(spec) {
        return vec![None; number];
    }
    let running: BTreeSet<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
    (0..spec.completions.unwrap_or(0))
        .filter(|index| !running.contains(index) && !books.completed_indexes.contains(index))
        .take(number)
        .map(Some)
        .collect()
}

/// A pod for the Job.
pub(crate) fn job_pod(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let job_name = job.name_any();
    let prefix = index.map_or_else(|| format!("{job_name}-"), |index| format!("{job_name}-{index}-"));
    let mut pod = pod_from_template(job, &template, PodName::Generated(prefix));
    pod.metadata
        .finalizers
        .get_or_insert_with(Vec::new)
        .push(TRACKING_FINALIZER.to_owned());
    let Some(index) = index else { return pod };
    annotate(&mut pod.metadata, INDEX, index.to_string());
    label(&mut pod.metadata, INDEX, index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{job_name}-{index}"));
        let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        for container in containers {
            container.env.get_or_insert_with(Vec::new).push(EnvVar {
                name: "JOB_COMPLETION_INDEX".to_owned(),
                value: None,
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: None,
                        field_path: format!("metadata.labels['{INDEX}']"),
                    }),
                    ..EnvVarSource::default()
                }),
            });
        }
    }
    pod
}

/// `0,2-4`, as `status.completedIndexes` is written.
fn ranges(indexes: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match parts.last_mut() {
            Some((_, end)) if end.saturating_add(1) == index => *end = index,
            _ => parts.push((index, index)),
        }
    }
    let written: Vec<String> = parts
        .into_iter()
        .map(|(start, end)| {
            if start == end {
                start.to_string()
            } else {
                format!("{start}-{end}")
            }
        })
        .collect();
    written.join(",")
}

fn parse_ranges(text: &str) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (start, end) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(start), Ok(end)) = (start.parse::<i32>(), end.parse::<i32>()) {
            indexes.extend(start..=end);
        }
    }
    indexes
}
