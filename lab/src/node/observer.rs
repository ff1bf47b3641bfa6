//! Watches over one running instance: its postStart hook, and its startup, liveness and readiness probes in their
//! order. Depends on `container` and `probes`.
//!
//! Central type: [`Observer`]. Contract: it only observes and complains; stopping is the container's task.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use tokio::sync::mpsc;

use super::container::Task;
use super::probes;
use super::state::Instance;

/// Why a running container has to be stopped.
pub(crate) struct Complaint {
    pub reason: &'static str,
    pub grace: Duration,
}

/// Watches one instance by its probes.
pub(crate) struct Observer {
    pub task: Task,
    pub container: Container,
    pub instance: Instance,
    pub complain: mpsc::Sender<Complaint>,
}

impl Observer {
    pub(crate) async fn post_start(&self, hook: &LifecycleHandler) {
        if let Err(message) = self.task.hook(&self.container, &self.instance, hook).await {
            self.task.warn(&self.container.name, "FailedPostStartHook", message);
            self.give_up("failed postStart hook", None).await;
        }
    }

    /// The startup probe first; liveness and readiness once it has succeeded.
    pub(crate) async fn probe_all(&self) {
        if let Some(probe) = &self.container.startup_probe {
            if !self.until_started(probe).await {
                return;
            }
            self.task
                .runtime
                .update_container(self.task.slot, |container| container.started = true);
        }
        let liveness = async {
            if let Some(probe) = &self.container.liveness_probe {
                self.repeat(probe, "Liveness", |healthy| !healthy).await;
                self.give_up("failed liveness probe", probe.termination_grace_period_seconds)
                    .await;
            }
        };
        let readiness = async {
            if let Some(probe) = &self.container.readiness_probe {
                let slot = self.task.slot;
                self.repeat(probe, "Readiness", |ready| {
                    let known = self
                        .task
                        .runtime
                        .state()
                        .container(slot)
                        .is_some_and(|container| container.ready);
                    if known != ready {
                        self.task
                            .runtime
                            .update_container(slot, |container| container.ready = ready);
                    }
                    false
                })
                .await;
            }
        };
        tokio::join!(liveness, readiness);
    }

    /// True when the startup probe has succeeded.
    async fn until_started(&self, probe: &Probe) -> bool {
        let mut failures = 0;
        self.initial_delay(probe).await;
        let mut ticks = ticks(probe);
        loop {
            ticks.tick().await;
            if self.once(probe, "Startup").await {
                return true;
            }
            failures += 1;
            if failures >= probe.failure_threshold.unwrap_or(3).max(1) {
                self.give_up("failed startup probe", probe.termination_grace_period_seconds)
                    .await;
                return false;
            }
        }
    }

    async fn initial_delay(&self, probe: &Probe) {
        let delay = u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(delay)).await;
    }

    /// Probes again and again. `judge` hears of each verdict, good or bad, that its threshold confirms; it ends the
    /// series by returning true.
    async fn repeat(&self, probe: &Probe, kind: &str, judge: impl Fn(bool) -> bool) {
        let (mut good, mut bad) = (0, 0);
        self.initial_delay(probe).await;
        let mut ticks = ticks(probe);
        loop {
            ticks.tick().await;
            let healthy = self.once(probe, kind).await;
            let confirmed = if healthy {
                (good, bad) = (good + 1, 0);
                good >= probe.success_threshold.unwrap_or(1)
            } else {
                (good, bad) = (0, bad + 1);
                bad >= probe.failure_threshold.unwrap_or(3).max(1)
            };
            if confirmed && judge(healthy) {
                return;
            }
        }
    }

    async fn once(&self, probe: &Probe, kind: &str) -> bool {
        let Some(action) = probes::action(probe) else {
            return true;
        };
        let patience = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
        let aim = self.task.aim(&self.container, &self.instance);
        match probes::attempt(&aim, action, patience).await {
            Ok(()) => true,
            Err(message) => {
                if self.instance.process.ended().is_none() {
                    self.task.warn(
                        &self.container.name,
                        "Unhealthy",
                        format!("{kind} probe failed: {message}"),
                    );
                }
                false
            }
        }
    }

    async fn give_up(&self, reason: &'static str, grace: Option<i64>) {
        let grace = grace
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or_else(|| self.task.runtime.grace(), Duration::from_secs);
        // Nobody listens any more when the container is ending already.
        drop(self.complain.send(Complaint { reason, grace }).await);
    }
}

fn ticks(probe: &Probe) -> tokio::time::Interval {
    let period = u64::try_from(probe.period_seconds.unwrap_or(10).max(1)).unwrap_or(10);
    let mut ticks = tokio::time::interval(Duration::from_secs(period));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
