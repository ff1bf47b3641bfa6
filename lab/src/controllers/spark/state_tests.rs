//! Every row of the operator's transition table, restart rules and fault table.

use super::*;
use crate::controllers::spark::types::{DriverInfo, RestartPolicy};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn spec(kind: RestartType, retries: Option<i64>) -> SparkApplicationSpec {
    SparkApplicationSpec {
        restart_policy: RestartPolicy {
            kind,
            on_failure_retries: retries,
            on_failure_retry_interval: Some(30),
            on_submission_failure_retries: retries,
            on_submission_failure_retry_interval: Some(20),
        },
        ..SparkApplicationSpec::default()
    }
}

fn status(state: State) -> Status {
    let mut status = Status {
        execution_attempts: 1,
        submission_attempts: 1,
        last_submission_attempt_time: Some(at(0)),
        submission_id: "s1".into(),
        driver_info: DriverInfo {
            pod_name: "app-driver".into(),
            ..DriverInfo::default()
        },
        ..Status::default()
    };
    status.application_state.state = state;
    status
}

fn driver(phase: Phase) -> Seen {
    Seen {
        driver: Some(DriverPod {
            name: "app-driver".into(),
            phase,
            application_id: "spark-1".into(),
            terminated: None,
        }),
        ..Seen::default()
    }
}

fn failed_driver(exit_code: i32, reason: &str) -> Seen {
    let mut seen = driver(Phase::Failed);
    seen.driver.as_mut().unwrap().terminated = Some(Terminated {
        exit_code,
        reason: reason.into(),
    });
    seen
}

fn go(spec: &SparkApplicationSpec, status: &Status, seen: &Seen, second: i64) -> Decision {
    step("app", spec, status, seen, at(second))
}

fn state_of(decision: &Decision) -> State {
    decision.status.application_state.state
}

#[test]
fn a_new_application_is_submitted() {
    let decision = go(&spec(RestartType::Never, None), &Status::default(), &Seen::default(), 0);
    assert_eq!(decision.actions, [Action::Submit]);
}

#[test]
fn a_submission_counts_before_it_starts_and_an_execution_after_it_worked() {
    let begun = submitting(&Status::default(), "s1".into(), "app-driver".into(), at(3));
    assert_eq!((begun.submission_attempts, begun.execution_attempts), (1, 0));
    assert_eq!(begun.last_submission_attempt_time, Some(at(3)));
    let done = submitted("app", &begun, Ok(()));
    assert_eq!(state_of(&done), State::Submitted);
    assert_eq!(done.status.execution_attempts, 1);
    assert_eq!(done.notices.first().unwrap().reason, "SparkApplicationSubmitted");
    let broken = submitted("app", &begun, Err("exit code 1".into()));
    assert_eq!(state_of(&broken), State::SubmissionFailed);
    assert_eq!(broken.status.execution_attempts, 0);
    assert_eq!(broken.status.application_state.error_message, "exit code 1");
}

#[test]
fn the_driver_phase_alone_decides_between_submitted_running_unknown_succeeding_and_failing() {
    let spec = spec(RestartType::OnFailure, Some(5));
    for from in [State::Submitted, State::Running, State::Unknown] {
        for (phase, to) in [
            (Phase::Pending, State::Submitted),
            (Phase::Running, State::Running),
            (Phase::Succeeded, State::Succeeding),
            (Phase::Failed, State::Failing),
            (Phase::Unknown, State::Unknown),
        ] {
            let decision = go(&spec, &status(from), &driver(phase), 5);
            assert_eq!(state_of(&decision), to, "{from:?} with {phase:?}");
            assert_eq!(decision.status.spark_application_id, "spark-1");
            assert_eq!(
                decision.status.termination_time.is_some(),
                matches!(to, State::Succeeding | State::Failing)
            );
            assert_eq!(decision.notices.is_empty(), from == to, "{from:?} with {phase:?}");
        }
    }
}

#[test]
fn a_submitted_application_waits_for_ever_for_a_pending_driver() {
    let decision = go(
        &spec(RestartType::OnFailure, Some(5)),
        &status(State::Submitted),
        &driver(Phase::Pending),
        999_999,
    );
    assert_eq!(state_of(&decision), State::Submitted);
}

#[test]
fn a_missing_driver_pod_is_forgiven_for_ten_seconds_after_the_submission() {
    let spec = spec(RestartType::OnFailure, Some(5));
    let early = go(&spec, &status(State::Submitted), &Seen::default(), 9);
    assert_eq!(state_of(&early), State::Submitted);
    assert!(early.requeue.unwrap() >= Duration::from_secs(1));
    let late = go(&spec, &status(State::Submitted), &Seen::default(), 11);
    assert_eq!(state_of(&late), State::Failing);
}

#[test]
fn a_vanished_running_driver_fails_at_once() {
    let decision = go(
        &spec(RestartType::OnFailure, Some(5)),
        &status(State::Running),
        &Seen::default(),
        1,
    );
    assert_eq!(state_of(&decision), State::Failing);
    assert_eq!(decision.status.application_state.error_message, "driver pod not found");
    assert_eq!(decision.status.termination_time, Some(at(1)));
}

#[test]
fn the_error_message_names_exit_code_and_reason() {
    let spec = spec(RestartType::OnFailure, Some(5));
    for (code, reason) in [(143, "Error"), (137, "OOMKilled"), (1, "Error")] {
        let decision = go(&spec, &status(State::Running), &failed_driver(code, reason), 60);
        assert_eq!(
            decision.status.application_state.error_message,
            format!("driver container failed with ExitCode: {code}, Reason: {reason}")
        );
    }
    let evicted = go(&spec, &status(State::Running), &driver(Phase::Failed), 60);
    assert_eq!(
        evicted.status.application_state.error_message,
        "driver container status missing"
    );
}

#[test]
fn never_and_a_missing_budget_end_in_failed() {
    for spec in [spec(RestartType::Never, Some(5)), spec(RestartType::OnFailure, None)] {
        let decision = go(&spec, &status(State::Failing), &driver(Phase::Failed), 600);
        assert_eq!(state_of(&decision), State::Failed);
        assert!(decision.actions.is_empty());
    }
}

#[test]
fn five_retries_are_five_for_the_life_of_the_object() {
    let spec = spec(RestartType::OnFailure, Some(5));
    for attempts in 1..=7 {
        let mut status = status(State::Failing);
        status.execution_attempts = attempts;
        let decision = go(&spec, &status, &driver(Phase::Failed), 1_000_000);
        let expected = if attempts <= 5 {
            State::PendingRerun
        } else {
            State::Failed
        };
        assert_eq!(state_of(&decision), expected, "failure {attempts}");
    }
}

#[test]
fn always_restarts_without_limit() {
    let spec = spec(RestartType::Always, Some(1));
    let mut failing = status(State::Failing);
    failing.execution_attempts = 100;
    failing.submission_attempts = 100;
    assert_eq!(
        state_of(&go(&spec, &failing, &driver(Phase::Failed), 10_000)),
        State::PendingRerun
    );
    assert_eq!(
        state_of(&go(&spec, &status(State::Succeeding), &driver(Phase::Succeeded), 1)),
        State::PendingRerun
    );
}

#[test]
fn the_wait_counts_from_the_submission_and_grows_with_each_one() {
    for (attempts, uptime, wait) in [
        (1, 0, 30),
        (1, 10, 20),
        (1, 30, 0),
        (1, 7200, 0),
        (2, 10, 50),
        (5, 0, 150),
    ] {
        let mut status = status(State::Failing);
        status.submission_attempts = attempts;
        assert_eq!(
            wait_before_retry(30, &status, at(uptime)),
            Duration::from_secs(wait),
            "{attempts} {uptime}"
        );
    }
}

#[test]
fn a_crash_loop_waits_30_60_90_120_150_seconds_and_then_fails() {
    let spec = spec(RestartType::OnFailure, Some(5));
    let mut waits = Vec::new();
    let mut second = 0;
    let mut now = status(State::Running);
    for _ in 0..6 {
        let failing = go(&spec, &now, &failed_driver(1, "Error"), second).status;
        let decision = go(&spec, &failing, &failed_driver(1, "Error"), second);
        let Some(wait) = decision.requeue else {
            assert_eq!(state_of(&decision), State::Failed);
            assert_eq!(waits, [30, 60, 90, 120, 150]);
            return;
        };
        waits.push(wait.as_secs());
        second += i64::try_from(wait.as_secs()).unwrap();
        let rerun = go(&spec, &failing, &failed_driver(1, "Error"), second);
        assert_eq!(state_of(&rerun), State::PendingRerun);
        let begun = submitting(&rerun.status, "next".into(), "app-driver".into(), at(second));
        now = submitted("app", &begun, Ok(())).status;
    }
    panic!("never failed for good: {waits:?}");
}

#[test]
fn a_rerun_clears_what_described_the_last_run_and_keeps_the_counters() {
    let mut failing = status(State::Failing);
    failing.termination_time = Some(at(50));
    failing.spark_application_id = "spark-1".into();
    failing.application_state.error_message = "x".into();
    failing
        .executor_state
        .insert("app-1-exec-1".into(), ExecutorState::Failed);
    let decision = go(
        &spec(RestartType::OnFailure, Some(5)),
        &failing,
        &driver(Phase::Failed),
        60,
    );
    assert_eq!(decision.actions, [Action::DeleteRun]);
    let next = decision.status;
    assert_eq!((next.execution_attempts, next.submission_attempts), (1, 1));
    assert!(next.termination_time.is_none() && next.executor_state.is_empty());
    assert!(next.spark_application_id.is_empty() && next.application_state.error_message.is_empty());
}

#[test]
fn pending_rerun_waits_for_the_old_driver_and_the_old_service_to_be_gone() {
    let spec = spec(RestartType::OnFailure, Some(5));
    let pending = status(State::PendingRerun);
    let held = go(&spec, &pending, &driver(Phase::Running), 60);
    assert!(!held.actions.contains(&Action::Submit) && held.requeue.is_some());
    let service = Seen {
        ui_service: true,
        ..Seen::default()
    };
    assert!(!go(&spec, &pending, &service, 60).actions.contains(&Action::Submit));
    let free = go(&spec, &pending, &Seen::default(), 60);
    assert_eq!(free.actions, [Action::Submit]);
    assert_eq!(free.notices.first().unwrap().reason, "SparkApplicationPendingRerun");
}

#[test]
fn exit_zero_completes_and_is_not_restarted_on_failure() {
    let spec = spec(RestartType::OnFailure, Some(5));
    let succeeding = go(&spec, &status(State::Running), &driver(Phase::Succeeded), 60);
    assert_eq!(state_of(&succeeding), State::Succeeding);
    assert_eq!(
        state_of(&go(&spec, &succeeding.status, &driver(Phase::Succeeded), 60)),
        State::Completed
    );
}

#[test]
fn a_failed_submission_is_retried_with_its_own_interval_and_budget() {
    let spec = spec(RestartType::OnFailure, Some(2));
    let mut failed = status(State::SubmissionFailed);
    assert_eq!(
        go(&spec, &failed, &Seen::default(), 5).requeue,
        Some(Duration::from_secs(15))
    );
    assert_eq!(go(&spec, &failed, &Seen::default(), 20).actions, [Action::Submit]);
    failed.submission_attempts = 2;
    assert_eq!(
        go(&spec, &failed, &Seen::default(), 20).requeue,
        Some(Duration::from_secs(20))
    );
    failed.submission_attempts = 3;
    let spent = go(&spec, &failed, &Seen::default(), 20);
    assert_eq!(state_of(&spent), State::Failed);
    assert_eq!(spent.notices.first().unwrap().reason, "SparkApplicationFailed");
}

#[test]
fn an_edit_of_the_spec_restarts_from_any_state_with_fresh_counters() {
    let spec = spec(RestartType::Never, None);
    let edited = Seen {
        spec_edited: true,
        ..Seen::default()
    };
    for from in [
        State::Submitted,
        State::Running,
        State::Failing,
        State::Completed,
        State::Failed,
        State::Suspended,
    ] {
        let decision = go(&spec, &status(from), &edited, 60);
        assert_eq!(state_of(&decision), State::Invalidating, "{from:?}");
    }
    let decision = go(&spec, &status(State::Invalidating), &driver(Phase::Running), 60);
    assert_eq!(state_of(&decision), State::PendingRerun);
    assert_eq!(decision.actions, [Action::DeleteRun]);
    assert_eq!(
        (decision.status.execution_attempts, decision.status.submission_attempts),
        (0, 0)
    );
}

#[test]
fn suspend_removes_the_run_and_resume_submits_again_with_the_counters_kept() {
    let mut spec = spec(RestartType::Never, None);
    spec.suspend = Some(true);
    let suspending = go(&spec, &status(State::Running), &driver(Phase::Running), 60);
    assert_eq!(state_of(&suspending), State::Suspending);
    let held = go(&spec, &suspending.status, &driver(Phase::Running), 61);
    assert_eq!(held.actions, [Action::DeleteRun]);
    let suspended = go(&spec, &suspending.status, &Seen::default(), 62);
    assert_eq!(state_of(&suspended), State::Suspended);
    assert_eq!(
        go(&spec, &suspended.status, &Seen::default(), 63).status,
        suspended.status
    );
    spec.suspend = Some(false);
    let resuming = go(&spec, &suspended.status, &Seen::default(), 64);
    assert_eq!(state_of(&resuming), State::Resuming);
    let submit = go(&spec, &resuming.status, &Seen::default(), 64);
    assert_eq!(submit.actions, [Action::Submit]);
    assert_eq!(submit.status.execution_attempts, 1);
}

#[test]
fn a_terminal_application_is_not_suspended() {
    let mut spec = spec(RestartType::Never, None);
    spec.suspend = Some(true);
    assert_eq!(
        state_of(&go(&spec, &status(State::Failed), &Seen::default(), 60)),
        State::Failed
    );
}

#[test]
fn the_time_to_live_counts_from_the_termination() {
    let mut spec = spec(RestartType::Never, None);
    spec.time_to_live_seconds = Some(100);
    let mut done = status(State::Completed);
    done.termination_time = Some(at(0));
    assert_eq!(
        go(&spec, &done, &Seen::default(), 40).requeue,
        Some(Duration::from_mins(1))
    );
    assert_eq!(
        go(&spec, &done, &Seen::default(), 100).actions,
        [Action::DeleteApplication]
    );
}

#[test]
fn executors_are_tracked_by_phase_and_a_vanished_one_is_unknown_while_running() {
    let spec = spec(RestartType::OnFailure, Some(5));
    let mut seen = driver(Phase::Running);
    seen.executors.insert("app-ab-exec-1".into(), Phase::Running);
    seen.executors.insert("app-ab-exec-2".into(), Phase::Failed);
    seen.executors.insert("app-ab-exec-1001".into(), Phase::Running);
    let decision = go(&spec, &status(State::Running), &seen, 60);
    assert_eq!(
        decision.status.executor_state.get("app-ab-exec-1"),
        Some(&ExecutorState::Running)
    );
    assert_eq!(
        decision.status.executor_state.get("app-ab-exec-2"),
        Some(&ExecutorState::Failed)
    );
    assert!(!decision.status.executor_state.contains_key("app-ab-exec-1001"));
    assert_eq!(decision.notices.len(), 2);
    let gone = go(&spec, &decision.status, &driver(Phase::Running), 61);
    assert_eq!(
        gone.status.executor_state.get("app-ab-exec-1"),
        Some(&ExecutorState::Unknown)
    );
    assert_eq!(
        gone.status.executor_state.get("app-ab-exec-2"),
        Some(&ExecutorState::Failed)
    );
    let ended = go(&spec, &decision.status, &driver(Phase::Succeeded), 61);
    assert_eq!(
        ended.status.executor_state.get("app-ab-exec-1"),
        Some(&ExecutorState::Completed)
    );
}

#[test]
fn status_uses_the_operators_field_names() {
    let mut status = status(State::SubmissionFailed);
    status.driver_info.web_ui_service_name = "app-ui-svc".into();
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["applicationState"]["state"], "SUBMISSION_FAILED");
    assert_eq!(json["submissionID"], "s1");
    assert_eq!(json["driverInfo"]["webUIServiceName"], "app-ui-svc");
    assert_eq!(json["lastSubmissionAttemptTime"], "2023-11-14T22:13:20Z");
    let empty: Status = serde_json::from_value(serde_json::json!({})).unwrap();
    assert_eq!(empty.application_state.state, State::New);
}
