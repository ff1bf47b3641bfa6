//! The state machine of a `SparkApplication`: what was seen and the time of day in, new status and actions out.
//!
//! Pure: no clock, no I/O, may depend on [`super::types`] only. Central function: [`step`]. It makes at most one
//! transition, as the operator does; a changed status brings the next call. The rules are those of Kubeflow's Spark
//! Operator 2.5. Two deliberate differences: the lab requeues `PENDING_RERUN` (the operator can hang there, its issue
//! 2905), and the interval defaults of its webhook are applied here.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::types::{ExecutorState, RestartPolicy, RestartType, SparkApplicationSpec, State, Status};

/// A driver pod may be missing for so long after a submission.
pub(crate) const DRIVER_POD_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How often a wait for other objects' end is looked at again.
const RECHECK: Duration = Duration::from_millis(500);
/// What the operator's webhook fills in where the spec names no interval.
const DEFAULT_INTERVAL_SECONDS: i64 = 5;
/// Executors with higher ids are not recorded in the status.
const HIGHEST_TRACKED_EXECUTOR: u64 = 1000;

/// `status.phase` of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not started, also when absent.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended with code 0.
    Succeeded,
    /// A container ended with another code.
    Failed,
    /// The node does not answer.
    Unknown,
}

/// How the driver container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terminated {
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
}

/// The driver pod named in `status.driverInfo.podName`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DriverPod {
    pub(crate) name: String,
    pub(crate) phase: Phase,
    pub(crate) application_id: String,
    pub(crate) terminated: Option<Terminated>,
}

/// What the cluster holds for an application right now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The driver pod, terminating or not.
    pub(crate) driver: Option<DriverPod>,
    /// Executor pods of this submission: name to phase.
    pub(crate) executors: BTreeMap<String, Phase>,
    /// The UI service exists.
    pub(crate) ui_service: bool,
    /// The spec was edited in a field that needs a restart, since the last call.
    pub(crate) spec_edited: bool,
}

/// What to do in the cluster, in this order, before the status is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Delete driver pod and UI service.
    DeleteRun,
    /// Submit; the outcome goes to [`submitted`].
    Submit,
    /// Delete the `SparkApplication` (its time to live has passed).
    DeleteApplication,
}

/// An event to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The answer of [`step`].
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) status: Status,
    pub(crate) actions: Vec<Action>,
    pub(crate) notices: Vec<Notice>,
    /// Look again after so long even when nothing changes.
    pub(crate) requeue: Option<Duration>,
}

impl Decision {
    fn new(status: Status) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    fn requeue(mut self, after: Duration) -> Self {
        self.requeue = Some(after);
        self
    }

    fn to(mut self, state: State) -> Self {
        self.status.application_state.state = state;
        self
    }

    fn act(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    fn note(mut self, warning: bool, reason: &'static str, message: String) -> Self {
        self.notices.push(Notice {
            warning,
            reason,
            message,
        });
        self
    }
}

/// One transition at most. `now` should be of full precision; what is stored is cut to seconds.
pub(crate) fn step(name: &str, spec: &SparkApplicationSpec, status: &Status, seen: &Seen, now: Timestamp) -> Decision {
    let state = status.application_state.state;
    if seen.spec_edited && state != State::New && state != State::Invalidating {
        return Decision::new(status.clone()).to(State::Invalidating);
    }
    let suspend = spec.suspend.unwrap_or(false);
    if suspend && !state.is_terminal() && !matches!(state, State::Suspending | State::Suspended) {
        return Decision::new(status.clone()).to(State::Suspending).note(
            false,
            "SparkApplicationSuspending",
            format!("SparkApplication {name} is being suspended"),
        );
    }
    match state {
        State::New | State::Resuming => Decision::new(status.clone()).act(Action::Submit),
        State::Submitted | State::Running | State::Unknown => observe(status, seen, now),
        State::SubmissionFailed => after_failed_submission(name, spec, status, now),
        State::Failing => after_failure(spec, status, now),
        State::Succeeding => after_success(spec, status),
        State::PendingRerun => rerun(name, status, seen),
        State::Invalidating => invalidate(status),
        State::Suspending => suspending(name, status, seen),
        State::Suspended if suspend => Decision::new(status.clone()),
        State::Suspended => Decision::new(status.clone()).to(State::Resuming).note(
            false,
            "SparkApplicationResuming",
            format!("SparkApplication {name} is being resumed"),
        ),
        State::Completed | State::Failed => terminal(spec, status, seen, now),
    }
}

/// Notes a submission that is about to start. Called before anything is created, so that every object of the run can
/// carry the submission id.
pub(crate) fn submitting(status: &Status, submission_id: String, driver_pod: String, now: Timestamp) -> Status {
    let mut next = status.clone();
    next.submission_id = submission_id;
    next.driver_info.pod_name = driver_pod;
    next.last_submission_attempt_time = Some(whole_seconds(now));
    next.submission_attempts += 1;
    next
}

/// What the outcome of a submission makes of the status that [`submitting`] gave.
pub(crate) fn submitted(name: &str, status: &Status, outcome: Result<(), String>) -> Decision {
    let mut decision = Decision::new(status.clone());
    match outcome {
        Ok(()) => {
            decision.status.execution_attempts += 1;
            decision.status.application_state.error_message.clear();
            decision.to(State::Submitted).note(
                false,
                "SparkApplicationSubmitted",
                format!("SparkApplication {name} was submitted successfully"),
            )
        }
        Err(why) => {
            let message = format!("failed to submit SparkApplication {name}: {why}");
            decision.status.application_state.error_message = why;
            decision
                .to(State::SubmissionFailed)
                .note(true, "SparkApplicationSubmissionFailed", message)
        }
    }
}

/// Whether a retry is allowed from `status`.
pub(crate) fn may_retry(policy: &RestartPolicy, status: &Status) -> bool {
    match (status.application_state.state, policy.kind) {
        (State::Succeeding | State::Failing | State::SubmissionFailed, RestartType::Always) => true,
        (State::Failing, RestartType::OnFailure) => policy
            .on_failure_retries
            .is_some_and(|budget| status.execution_attempts <= budget),
        (State::SubmissionFailed, RestartType::OnFailure) => policy
            .on_submission_failure_retries
            .is_some_and(|budget| status.submission_attempts <= budget),
        _ => false,
    }
}

/// `interval x submissionAttempts - (now - lastSubmissionAttemptTime)`, not below 0. Counted from the last
/// submission: a driver that lived longer than the product restarts at once.
pub(crate) fn wait_before_retry(interval_seconds: i64, status: &Status, now: Timestamp) -> Duration {
    let Some(last) = status.last_submission_attempt_time else {
        return Duration::ZERO;
    };
    let whole = SignedDuration::from_secs(interval_seconds.saturating_mul(status.submission_attempts));
    Duration::try_from(whole.saturating_sub(now.duration_since(last))).unwrap_or(Duration::ZERO)
}

/// SUBMITTED, RUNNING, UNKNOWN: the driver pod's phase decides, and nothing else. A dead driver container beside a
/// living sidecar, a lost node or a hung process are not noticed, as with the operator.
fn observe(status: &Status, seen: &Seen, now: Timestamp) -> Decision {
    let mut decision = Decision::new(status.clone());
    let state = status.application_state.state;
    let Some(driver) = &seen.driver else {
        let since = status
            .last_submission_attempt_time
            .map_or(DRIVER_POD_GRACE, |last| now.duration_since(last));
        if state == State::Submitted && since < DRIVER_POD_GRACE {
            let left = Duration::try_from(DRIVER_POD_GRACE.saturating_sub(since)).unwrap_or(Duration::ZERO);
            return decision.requeue(left + Duration::from_millis(10));
        }
        "driver pod not found".clone_into(&mut decision.status.application_state.error_message);
        decision.status.termination_time = Some(whole_seconds(now));
        track_executors(&mut decision, seen, State::Failing);
        return decision.to(State::Failing);
    };
    decision.status.spark_application_id.clone_from(&driver.application_id);
    let next = match driver.phase {
        Phase::Pending => State::Submitted,
        Phase::Running => State::Running,
        Phase::Succeeded => State::Succeeding,
        Phase::Failed => State::Failing,
        Phase::Unknown => State::Unknown,
    };
    if matches!(next, State::Succeeding | State::Failing) && decision.status.termination_time.is_none() {
        decision.status.termination_time = Some(whole_seconds(now));
    }
    if next == State::Failing {
        decision.status.application_state.error_message = match &driver.terminated {
            Some(end) => {
                format!(
                    "driver container failed with ExitCode: {}, Reason: {}",
                    end.exit_code, end.reason
                )
            }
            None => "driver container status missing".to_owned(),
        };
    }
    if next != state {
        let (warning, reason, word) = match driver.phase {
            Phase::Pending => (false, "SparkDriverPending", "pending"),
            Phase::Running => (false, "SparkDriverRunning", "running"),
            Phase::Succeeded => (false, "SparkDriverCompleted", "completed"),
            Phase::Failed => (true, "SparkDriverFailed", "failed"),
            Phase::Unknown => (true, "SparkDriverUnknown", "in unknown state"),
        };
        decision = decision.note(warning, reason, format!("Driver {} is {word}", driver.name));
    }
    track_executors(&mut decision, seen, next);
    decision.to(next)
}

/// Fills `status.executorState` and records the changes.
fn track_executors(decision: &mut Decision, seen: &Seen, application: State) {
    for (name, phase) in &seen.executors {
        if executor_id(name).is_some_and(|id| id > HIGHEST_TRACKED_EXECUTOR) {
            continue;
        }
        let (state, reason, word) = match phase {
            Phase::Pending => (ExecutorState::Pending, "SparkExecutorPending", "pending"),
            Phase::Running => (ExecutorState::Running, "SparkExecutorRunning", "running"),
            Phase::Succeeded => (ExecutorState::Completed, "SparkExecutorCompleted", "completed"),
            Phase::Failed => (ExecutorState::Failed, "SparkExecutorFailed", "failed"),
            Phase::Unknown => (ExecutorState::Unknown, "SparkExecutorUnknown", "in unknown state"),
        };
        let before = decision.status.executor_state.insert(name.clone(), state);
        if before != Some(state) {
            let warning = matches!(state, ExecutorState::Failed | ExecutorState::Unknown);
            decision.notices.push(Notice {
                warning,
                reason,
                message: format!("Executor {name} is {word}"),
            });
        }
    }
    for (name, state) in &mut decision.status.executor_state {
        if !state.is_terminal() && !seen.executors.contains_key(name) {
            // Spark removes its executors when it ends well; a pod that is gone then has done its work.
            *state = if matches!(application, State::Succeeding | State::Completed) {
                ExecutorState::Completed
            } else {
                ExecutorState::Unknown
            };
        }
    }
}

fn executor_id(pod: &str) -> Option<u64> {
    pod.rsplit_once("-exec-").and_then(|(_, id)| id.parse().ok())
}

fn after_failed_submission(name: &str, spec: &SparkApplicationSpec, status: &Status, now: Timestamp) -> Decision {
    let decision = Decision::new(status.clone());
    if !may_retry(&spec.restart_policy, status) {
        let mut decision = decision.to(State::Failed).note(
            true,
            "SparkApplicationFailed",
            format!(
                "SparkApplication {name} failed: {}",
                status.application_state.error_message
            ),
        );
        decision.status.termination_time = Some(whole_seconds(now));
        return decision;
    }
    let interval = spec
        .restart_policy
        .on_submission_failure_retry_interval
        .unwrap_or(DEFAULT_INTERVAL_SECONDS);
    let wait = wait_before_retry(interval, status, now);
    if wait.is_zero() {
        decision.act(Action::Submit)
    } else {
        decision.requeue(wait)
    }
}

fn after_failure(spec: &SparkApplicationSpec, status: &Status, now: Timestamp) -> Decision {
    let decision = Decision::new(status.clone());
    if !may_retry(&spec.restart_policy, status) {
        return decision.to(State::Failed);
    }
    let interval = spec
        .restart_policy
        .on_failure_retry_interval
        .unwrap_or(DEFAULT_INTERVAL_SECONDS);
    let wait = wait_before_retry(interval, status, now);
    if !wait.is_zero() {
        return decision.requeue(wait);
    }
    Decision::new(without_run(status))
        .act(Action::DeleteRun)
        .to(State::PendingRerun)
}

fn after_success(spec: &SparkApplicationSpec, status: &Status) -> Decision {
    if may_retry(&spec.restart_policy, status) {
        return Decision::new(without_run(status))
            .act(Action::DeleteRun)
            .to(State::PendingRerun);
    }
    let mut decision = Decision::new(status.clone()).to(State::Completed);
    for state in decision.status.executor_state.values_mut() {
        if !state.is_terminal() {
            *state = ExecutorState::Completed;
        }
    }
    decision
}

/// The objects of the last run must be gone first: driver pods have the same name in every run.
fn rerun(name: &str, status: &Status, seen: &Seen) -> Decision {
    let decision = Decision::new(status.clone());
    if seen.driver.is_some() || seen.ui_service {
        return decision.act(Action::DeleteRun).requeue(RECHECK);
    }
    decision.act(Action::Submit).note(
        false,
        "SparkApplicationPendingRerun",
        format!("SparkApplication {name} is pending rerun"),
    )
}

fn invalidate(status: &Status) -> Decision {
    let mut next = without_run(status);
    next.execution_attempts = 0;
    next.submission_attempts = 0;
    Decision::new(next).act(Action::DeleteRun).to(State::PendingRerun)
}

fn suspending(name: &str, status: &Status, seen: &Seen) -> Decision {
    if seen.driver.is_some() || seen.ui_service {
        return Decision::new(status.clone()).act(Action::DeleteRun).requeue(RECHECK);
    }
    Decision::new(without_run(status)).to(State::Suspended).note(
        false,
        "SparkApplicationSuspended",
        format!("SparkApplication {name} is suspended"),
    )
}

/// COMPLETED and FAILED: late executor news, then the time to live.
fn terminal(spec: &SparkApplicationSpec, status: &Status, seen: &Seen, now: Timestamp) -> Decision {
    let mut decision = Decision::new(status.clone());
    track_executors(&mut decision, seen, status.application_state.state);
    let (Some(seconds), Some(ended)) = (spec.time_to_live_seconds, status.termination_time) else {
        return decision;
    };
    let left = SignedDuration::from_secs(seconds).saturating_sub(now.duration_since(ended));
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => decision.requeue(left),
        _ => decision.act(Action::DeleteApplication),
    }
}

/// Clears what described the last run (operator 2.5 and later); the counters stay.
fn without_run(status: &Status) -> Status {
    Status {
        execution_attempts: status.execution_attempts,
        submission_attempts: status.submission_attempts,
        last_submission_attempt_time: status.last_submission_attempt_time,
        submission_id: status.submission_id.clone(),
        // The name is needed to see when the old pod is gone; it is the same in every run.
        driver_info: super::types::DriverInfo {
            pod_name: status.driver_info.pod_name.clone(),
            ..super::types::DriverInfo::default()
        },
        ..Status::default()
    }
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
