//! `CronJobs`: Jobs on a schedule.
//!
//! May depend on the controllers' runtime; [`plan`] is pure. Central type: [`CronJobController`]. Contract: at most one
//! Job per instant of the schedule (its name is made from the instant, so two controllers could not both create it);
//! of missed instants only the last is made up for, and only within `startingDeadlineSeconds`. Schedules are UTC unless
//! `timeZone` says otherwise. Source of the rules: `pkg/controller/cronjob/cronjob_controllerv2.go` of Kubernetes 1.33.
//! Left out: `@every`.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use cronexpr::{Crontab, MakeTimestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::context::{Context, Informers, wake_on_owned, wake_on_self};
use super::meta::{controller_reference, created, elapsed, is_controlled_by, is_terminating, stamp};
use super::pods::annotate;
use super::runtime::{Key, Outcome, Queue, Reconcile, ReconcileError};

/// The instant that a Job was made for.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Looks land after an instant, not a hair before it.
const MARGIN: Duration = Duration::from_millis(5);
/// More missed instants than this are not counted one by one (Kubernetes warns from here on).
const MANY_MISSED: usize = 100;

/// Runs `CronJobs`.
pub(crate) struct CronJobController {
    context: Context,
}

impl CronJobController {
    /// A controller that wakes when `CronJobs` or their Jobs change.
    pub(crate) fn new(context: Context, informers: &mut Informers, queue: &Arc<Queue>) -> Self {
        wake_on_self(&mut informers.cron_jobs, queue);
        wake_on_owned::<_, CronJob, _>(&mut informers.jobs, queue, |_| Vec::new());
        Self { context }
    }

    async fn carry_out(&self, cron_job: &CronJob, plan: &Plan) -> Result<(), ReconcileError> {
        let Context {
            objects,
            caches,
            events,
        } = &self.context;
        for job in &plan.replace {
            objects.delete(&caches.jobs, &**job).await?;
            events.normal(cron_job, "SuccessfulDelete", format!("Deleted job {}", job.name_any()));
        }
        for job in &plan.too_old {
            objects.delete(&caches.jobs, &**job).await?;
            events.normal(cron_job, "SuccessfulDelete", format!("Deleted job {}", job.name_any()));
        }
        if let Some(job) = &plan.create {
            match objects.create(&caches.jobs, job).await {
                Ok(created) => {
                    events.normal(
                        cron_job,
                        "SuccessfulCreate",
                        format!("Created job {}", created.name_any()),
                    );
                }
                // Made by an earlier round whose status was not written.
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn jobs_of(&self, cron_job: &CronJob) -> Vec<Arc<Job>> {
        let mut jobs = self
            .context
            .caches
            .jobs
            .in_namespace(&cron_job.namespace().unwrap_or_default());
        jobs.retain(|job| is_controlled_by(&job.metadata, &cron_job.metadata));
        jobs
    }
}

impl Reconcile for CronJobController {
    const NAME: &'static str = "cronjob-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(cron_job) = caches.cron_jobs.get(&key.namespace, &key.name) else {
            return Ok(Outcome::Done);
        };
        let Some(spec) = cron_job.spec.as_ref().filter(|_| !is_terminating(&cron_job.metadata)) else {
            return Ok(Outcome::Done);
        };
        let schedule = match parse(&spec.schedule, spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(problem) => {
                let note = format!("unparseable schedule: {:?} : {problem}", spec.schedule);
                self.context.events.warning(&*cron_job, "UnparseableSchedule", note);
                return Ok(Outcome::Done);
            }
        };
        let plan = plan(&cron_job, spec, &schedule, &self.jobs_of(&cron_job), Timestamp::now());
        if let Some((reason, note)) = &plan.told {
            self.context.events.normal(&*cron_job, reason, note.clone());
        }
        self.carry_out(&cron_job, &plan).await?;
        let mut status = plan.status;
        status.active = active_references(&self.jobs_of(&cron_job));
        if cron_job.status.as_ref() != Some(&status) {
            let mut updated = (*cron_job).clone();
            updated.status = Some(status);
            self.context.objects.replace_status(&caches.cron_jobs, &updated).await?;
        }
        Ok(Outcome::after(plan.look_again))
    }

    fn keys(&self) -> Vec<Key> {
        self.context
            .caches
            .cron_jobs
            .all()
            .iter()
            .map(|cron_job| Key::of(&**cron_job))
            .collect()
    }
}

/// Reads a schedule of five fields or one of the named ones.
fn parse(schedule: &str, time_zone: Option<&str>) -> Result<Crontab, String> {
    let schedule = match schedule.trim() {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    cronexpr::parse_crontab(&format!("{schedule} {}", time_zone.unwrap_or("UTC"))).map_err(|error| error.to_string())
}

fn next_after(schedule: &Crontab, instant: Timestamp) -> Option<Timestamp> {
    schedule
        .find_next(MakeTimestamp(instant))
        .ok()
        .map(|zoned| zoned.timestamp())
}

/// What to do now.
struct Plan {
    create: Option<Job>,
    replace: Vec<Arc<Job>>,
    too_old: Vec<Arc<Job>>,
    status: CronJobStatus,
    look_again: Option<Duration>,
    told: Option<(&'static str, String)>,
}

fn condition_time(job: &Job, kind: &str) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == "True")?;
    Some(
        found
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    )
}

fn is_finished(job: &Job) -> bool {
    condition_time(job, "Complete").is_some() || condition_time(job, "Failed").is_some()
}

fn active_references(jobs: &[Arc<Job>]) -> Option<Vec<ObjectReference>> {
    let active: Vec<ObjectReference> = jobs
        .iter()
        .filter(|job| !is_finished(job))
        .map(|job| ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            name: job.metadata.name.clone(),
            namespace: job.namespace(),
            uid: job.uid(),
            resource_version: job.resource_version(),
            ..ObjectReference::default()
        })
        .collect();
    (!active.is_empty()).then_some(active)
}

/// The last instant that should have had a Job by now, and whether there were too many to look at.
fn last_missed(cron_job: &CronJob, spec: &CronJobSpec, schedule: &Crontab, now: Timestamp) -> Option<Timestamp> {
    let last = cron_job
        .status
        .as_ref()
        .and_then(|status| status.last_schedule_time.as_ref())
        .map(|time| time.0);
    let mut from = last.or_else(|| created(&cron_job.metadata))?;
    if let Some(seconds) = spec.starting_deadline_seconds {
        let reach = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        from = from.max(now.checked_sub(reach).unwrap_or(from));
    }
    let mut missed = None;
    let mut instant = from;
    for _ in 0..MANY_MISSED {
        match next_after(schedule, instant) {
            Some(next) if next <= now => {
                missed = Some(next);
                instant = next;
            }
            _ => return missed,
        }
    }
    // After a long pause: the last instant lies between now and one interval ago.
    let interval = next_after(schedule, instant)
        .map_or(Duration::ZERO, |next| elapsed(instant, next))
        .max(Duration::from_mins(1));
    let mut instant = now
        .checked_sub(interval.saturating_mul(2))
        .unwrap_or(instant)
        .max(instant);
    while let Some(next) = next_after(schedule, instant).filter(|next| *next <= now) {
        missed = Some(next);
        instant = next;
    }
    missed
}

fn plan(cron_job: &CronJob, spec: &CronJobSpec, schedule: &Crontab, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let old = cron_job.status.clone().unwrap_or_default();
    let last_success = jobs.iter().filter_map(|job| condition_time(job, "Complete")).max();
    let last_successful_time = last_success
        .map(Time)
        .into_iter()
        .chain(old.last_successful_time.clone())
        .max();
    let mut plan = Plan {
        create: None,
        replace: Vec::new(),
        too_old: too_old(spec, jobs),
        status: CronJobStatus {
            last_successful_time,
            ..old
        },
        look_again: None,
        told: None,
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    plan.look_again = next_after(schedule, now).map(|next| elapsed(now, next) + MARGIN);
    let Some(due) = last_missed(cron_job, spec, schedule, now) else {
        return plan;
    };
    let active: Vec<Arc<Job>> = jobs.iter().filter(|job| !is_finished(job)).cloned().collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            plan.told = Some((
                "JobAlreadyActive",
                "Not starting job because prior execution is running and concurrency policy is Forbid".to_owned(),
            ));
            return plan;
        }
        Some("Replace") => plan.replace = active,
        _ => {}
    }
    plan.create = Some(job_for(cron_job, spec, due));
    plan.status.last_schedule_time = Some(stamp(due));
    plan
}

/// Finished Jobs beyond the history limits, oldest first.
fn too_old(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut surplus = Vec::new();
    for (kind, limit) in [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut ended: Vec<Arc<Job>> = jobs
            .iter()
            .filter(|job| condition_time(job, kind).is_some())
            .cloned()
            .collect();
        ended.sort_by_cached_key(|job| {
            Reverse((
                job.status.as_ref().and_then(|status| status.start_time.clone()),
                job.name_any(),
            ))
        });
        surplus.extend(ended.into_iter().skip(usize::try_from(limit).unwrap_or(0)));
    }
    surplus
}

fn job_for(cron_job: &CronJob, spec: &CronJobSpec, due: Timestamp) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut job = Job {
        metadata: ObjectMeta {
            // Minutes since the epoch, as Kubernetes names them.
            name: Some(format!("{}-{}", cron_job.name_any(), due.as_second().div_euclid(60))),
            namespace: cron_job.namespace(),
            labels: template.labels,
            annotations: template.annotations,
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    };
    annotate(&mut job.metadata, SCHEDULED_AT, stamp(due).0.to_string());
    job
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use k8s_openapi::api::batch::v1::{CronJob, Job};
    use k8s_openapi::jiff::Timestamp;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    use super::{Plan, parse, plan};

    fn cron_job(more: &Value) -> CronJob {
        let mut value = json!({
            "metadata": {"name": "tick", "namespace": "ns", "uid": "u", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}}},
        });
        json_patch::merge(&mut value, more);
        serde_json::from_value(value).unwrap()
    }

    fn job(name: &str, condition: Option<&str>, started: &str) -> Arc<Job> {
        let conditions: Vec<Value> = condition
            .iter()
            .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": started}))
            .collect();
        let value = json!({
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {"template": {}},
            "status": {"startTime": started, "conditions": conditions},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn at(cron_job: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        let spec = cron_job.spec.as_ref().unwrap();
        let schedule = parse(&spec.schedule, spec.time_zone.as_deref()).unwrap();
        plan(cron_job, spec, &schedule, jobs, now.parse::<Timestamp>().unwrap())
    }

    #[test]
    fn nothing_is_due_before_the_first_instant_and_one_job_at_it() {
        let early = at(&cron_job(&json!({})), &[], "2026-01-01T00:04:59Z");
        assert!(early.create.is_none());
        assert_eq!(early.look_again, Some(Duration::from_millis(1005)));
        let due = at(&cron_job(&json!({})), &[], "2026-01-01T00:05:00Z");
        let job = due.create.unwrap();
        assert_eq!(job.name_any(), "tick-29453765");
        assert_eq!(
            due.status.last_schedule_time.unwrap().0.to_string(),
            "2026-01-01T00:05:00Z"
        );
    }

    #[test]
    fn of_many_missed_instants_only_the_last_is_made_up_for() {
        for now in ["2026-01-01T01:02:00Z", "2026-03-01T00:02:00Z"] {
            let late = at(&cron_job(&json!({})), &[], now);
            let expected = if now.starts_with("2026-01") {
                "2026-01-01T01:00:00Z"
            } else {
                "2026-03-01T00:00:00Z"
            };
            assert_eq!(late.status.last_schedule_time.unwrap().0.to_string(), expected);
        }
        let deadline = cron_job(&json!({"spec": {"startingDeadlineSeconds": 60}}));
        assert!(
            at(&deadline, &[], "2026-01-01T01:02:00Z").create.is_none(),
            "missed by more than the deadline"
        );
    }

    #[test]
    fn concurrency_policies_decide_over_a_job_that_still_runs() {
        let running = [job("old", None, "2026-01-01T00:05:00Z")];
        let status = json!({"lastScheduleTime": "2026-01-01T00:05:00Z"});
        for (policy, creates, replaces) in [("Allow", true, 0), ("Forbid", false, 0), ("Replace", true, 1)] {
            let cron_job = cron_job(&json!({"spec": {"concurrencyPolicy": policy}, "status": status}));
            let due = at(&cron_job, &running, "2026-01-01T00:10:00Z");
            assert_eq!(
                (due.create.is_some(), due.replace.len()),
                (creates, replaces),
                "{policy}"
            );
        }
    }

    #[test]
    fn a_suspended_cron_job_starts_nothing() {
        let suspended = cron_job(&json!({"spec": {"suspend": true}}));
        let due = at(&suspended, &[], "2026-01-01T00:05:00Z");
        assert!(due.create.is_none() && due.look_again.is_none());
    }

    #[test]
    fn history_beyond_the_limits_is_deleted_oldest_first() {
        let jobs: Vec<Arc<Job>> = (1..=4)
            .map(|hour| {
                job(
                    &format!("c{hour}"),
                    Some("Complete"),
                    &format!("2026-01-01T0{hour}:00:00Z"),
                )
            })
            .chain((1..=2).map(|hour| {
                job(
                    &format!("f{hour}"),
                    Some("Failed"),
                    &format!("2026-01-01T0{hour}:00:00Z"),
                )
            }))
            .collect();
        let suspended = cron_job(&json!({"spec": {"suspend": true}}));
        let gone: Vec<String> = at(&suspended, &jobs, "2026-01-01T09:00:00Z")
            .too_old
            .iter()
            .map(|job| job.name_any())
            .collect();
        assert_eq!(gone, ["c1", "f1"]);
    }

    #[test]
    fn named_schedules_and_time_zones_are_understood() {
        for (schedule, zone, next) in [
            ("@hourly", None, "2026-01-01T01:00:00Z"),
            ("0 9 * * 1-5", Some("Europe/Berlin"), "2026-01-01T08:00:00Z"),
            ("0 0 * * 0", None, "2026-01-04T00:00:00Z"),
            ("0 0 * * 7", None, "2026-01-04T00:00:00Z"),
        ] {
            let parsed = parse(schedule, zone).unwrap();
            let from: Timestamp = "2026-01-01T00:00:30Z".parse().unwrap();
            assert_eq!(
                super::next_after(&parsed, from).unwrap().to_string(),
                next,
                "{schedule}"
            );
        }
        assert!(parse("every now and then", None).is_err());
        assert!(parse("* * * * *", Some("Nowhere/Land")).is_err());
    }
}
