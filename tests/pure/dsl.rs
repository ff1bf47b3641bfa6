//! A small language to write event logs in. Instants are seconds; the cluster's resource version counts milliseconds, so that an
//! event committed at second 100 has version 100000.

use chaosrun::evidence::{
    AckedRange, Chain, ClusterInfo, Event, Outcome, Record, Seen, SinkRead, SinkRun, Step, TrialEnd, read_log,
};
use chaosrun::experiment::{
    Assertion, Check, Claim, Comparison, Experiment, Guards, Ledger, Limit, Operator, Probe, RtoSlo, RtoStart, Setup,
    SinkFormat, Slos, SteadyState, Storage, Target, Timeouts, Trials, When, Workload,
};
use chaosrun::fault::{FaultKind, FaultSpec, FaultTarget, Injector, Mode, Undo};
use chaosrun::model::{ContainerFacts, ContainerState, Interval, Mono, Owner, PodFacts, PodName, Role};
use chaosrun::report::{Run, build};
use std::time::Duration;

/// Wall clock of the runner at monotonic zero, ms since the epoch.
pub(crate) const EPOCH_MS: i64 = 1_767_225_600_000;

pub(crate) fn at(seconds: f64) -> Mono {
    Mono((seconds * 1e6).round() as i64)
}

pub(crate) fn between(lower: f64, upper: f64) -> Interval {
    Interval {
        lower: at(lower),
        upper: at(upper),
    }
}

pub(crate) fn compare(operator: Operator, value: f64) -> Comparison {
    Comparison { operator, value }
}

pub(crate) fn at_least(value: f64) -> Comparison {
    compare(Operator::GreaterOrEqual, value)
}

pub(crate) fn probe(name: &str, check: Check) -> Probe {
    Probe {
        name: name.to_owned(),
        check,
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(1),
        hold: Duration::from_secs(2),
    }
}

pub(crate) fn pods_ready(count: f64) -> Probe {
    probe(
        "pods ready",
        Check::Pods {
            role: None,
            ready: at_least(count),
        },
    )
}

pub(crate) fn http() -> Probe {
    probe(
        "endpoint",
        Check::Http {
            url: "http://{podIP}:8080/".to_owned(),
            status: 200,
            body_contains: None,
            role: None,
        },
    )
}

pub(crate) fn promql(name: &str, is: Comparison) -> Probe {
    probe(
        name,
        Check::Promql {
            query: "up".to_owned(),
            is,
        },
    )
}

pub(crate) fn assertion(probe: Probe, when: When) -> Assertion {
    Assertion { probe, when }
}

pub(crate) fn at_most(max: f64) -> Limit {
    Limit { max, strict: false }
}

pub(crate) fn ledger() -> Ledger {
    Ledger {
        reader: vec![("app".to_owned(), "producer".to_owned())],
        container: None,
        acknowledged: "/data/acked".to_owned(),
        sink: "/data/out".to_owned(),
        format: SinkFormat::SparkFileSink,
        id_field: "id".to_owned(),
        key_field: None,
        checkpoint: Some("/data/checkpoint".to_owned()),
        storage: Storage::default(),
        clock_within: None,
        interval: Duration::from_millis(100),
        drain: Duration::from_mins(1),
    }
}

/// A Deployment `shop`, one of its pods killed, recovery within `limit` seconds.
pub(crate) fn experiment(name: &str, probes: Vec<Probe>, limit: f64) -> Experiment {
    Experiment {
        name: name.to_owned(),
        description: None,
        claim: Claim {
            text: "the shop recovers from the loss of a pod".to_owned(),
            source: Some("runbook 7".to_owned()),
        },
        target: Target {
            namespace: "shop".to_owned(),
            workload: Workload::Deployment {
                name: "shop".to_owned(),
            },
        },
        setup: Setup {
            patches: Vec::new(),
            manifests: Vec::new(),
            unless_target_exists: false,
            keep: false,
        },
        steady_state: SteadyState { probes },
        faults: vec![FaultSpec {
            name: "kill".to_owned(),
            kind: FaultKind::PodKill { grace_seconds: 0 },
            role: None,
            labels: Vec::new(),
            mode: Mode::One,
            injector: Injector::Direct,
            after: Duration::ZERO,
            duration: None,
            may_be_replaced: false,
        }],
        slos: Slos {
            rto: Some(RtoSlo {
                limit: Limit {
                    max: limit,
                    strict: true,
                },
                from: RtoStart::Fault,
            }),
            rpo_seconds: None,
            lost: None,
            duplicated: None,
            availability: None,
            assertions: Vec::new(),
            over_trials: Vec::new(),
        },
        ledger: None,
        trials: Trials::fixed(1, Duration::ZERO),
        timeouts: Timeouts {
            setup: Duration::from_mins(1),
            baseline: Duration::from_mins(1),
            recovery: Duration::from_mins(5),
            settle: Duration::from_secs(10),
        },
        stop: Vec::new(),
        guards: Guards {
            protected_namespaces: vec!["kube-*".to_owned()],
            max_percent: 100,
            deadline: Duration::from_mins(5),
            revert: Duration::from_mins(1),
        },
        tools_image: "docker.io/nicolaka/netshoot:v0.13".to_owned(),
        litmus_account: "litmus-admin".to_owned(),
        prometheus_url: None,
    }
}

pub(crate) fn target(uid: &str) -> FaultTarget {
    FaultTarget {
        pod: PodName {
            namespace: "shop".to_owned(),
            name: format!("shop-{uid}"),
            uid: uid.to_owned(),
        },
        kind: None,
        container: None,
        container_id: None,
    }
}

/// A running, ready member of the Deployment's replica set. Change what matters.
pub(crate) fn pod(uid: &str) -> PodFacts {
    PodFacts {
        pod: target(uid).pod,
        role: Some(Role("any".to_owned())),
        member: true,
        owner: Some(owner("rs-1")),
        resource_version: None,
        phase: "Running".to_owned(),
        ready: true,
        scheduled: true,
        node: Some("node-1".to_owned()),
        created_at: Some("2026-01-01T00:00:00Z".to_owned()),
        deletion_at: None,
        deletion_grace_seconds: None,
        reason: None,
        containers: vec![ContainerFacts {
            name: "main".to_owned(),
            container_id: format!("runc://{uid}-0"),
            restarts: 0,
            ready: true,
            state: ContainerState::Running { started_at: None },
        }],
        generation: None,
    }
}

/// The same, but not ready: no containers yet.
pub(crate) fn pending(uid: &str) -> PodFacts {
    PodFacts {
        phase: "Pending".to_owned(),
        ready: false,
        scheduled: false,
        node: None,
        containers: Vec::new(),
        ..pod(uid)
    }
}

pub(crate) fn owner(uid: &str) -> Owner {
    Owner {
        kind: "ReplicaSet".to_owned(),
        name: uid.to_owned(),
        uid: uid.to_owned(),
    }
}

/// Delay between commit and receipt of a watch event.
pub(crate) const DELIVERY: f64 = 0.002;

/// An event log in the making.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) events: Vec<Event>,
}

impl Log {
    /// Up to the baseline step at second 50.
    pub(crate) fn of(experiment: &Experiment) -> Self {
        let log = Self {
            events: vec![
                Event::RunStarted {
                    id: "r-test".to_owned(),
                    seed: 42,
                    version: "0.1.0".to_owned(),
                    cluster: ClusterInfo {
                        kind: "lab".to_owned(),
                        version: "v1.33.0".to_owned(),
                    },
                    started_at: "2026-01-01T00:00:00Z".to_owned(),
                },
                Event::ExperimentStarted {
                    index: 0,
                    file: format!("scenarios/{}.yaml", experiment.name),
                    experiment: Box::new(experiment.clone()),
                },
                Event::WorkloadIdentified {
                    workload: "deployment shop".to_owned(),
                    stand_in: false,
                },
            ],
        };
        log.trial(1, 50.0)
    }

    pub(crate) fn trial(self, trial: u32, from: f64) -> Self {
        self.event(Event::TrialStarted { trial, control: false })
            .step(Step::Baseline, from)
    }

    pub(crate) fn event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    pub(crate) fn step(self, step: Step, seconds: f64) -> Self {
        self.event(Event::StepStarted { step, at: at(seconds) })
    }

    /// Consistent reads of the resource version, 5 ms each.
    pub(crate) fn ticks(mut self, from: f64, to: f64, period: f64) -> Self {
        let mut sent = from;
        while sent < to {
            self.events.push(Event::RevisionTick {
                sent: at(sent),
                received: at(sent + 0.005),
                resource_version: ((sent + 0.0025) * 1000.0) as u64,
            });
            sent += period;
        }
        self
    }

    /// A watch event committed at `seconds`.
    pub(crate) fn pod(self, seen: Seen, seconds: f64, facts: PodFacts) -> Self {
        let version = (seconds * 1000.0).round() as u64;
        self.event(Event::PodSeen {
            seen,
            at: at(seconds + DELIVERY),
            not_before: None,
            pod: std::sync::Arc::new(PodFacts {
                resource_version: Some(version),
                ..facts
            }),
        })
    }

    /// Armed, requested and proven on pods `uids`, between `lower` and `upper`.
    pub(crate) fn fault(self, uids: &[&str], lower: f64, upper: f64) -> Self {
        let mut log = self
            .step(Step::Arm, lower - 0.5)
            .armed(uids)
            .step(Step::Inject, lower - 0.1);
        for uid in uids {
            log = log.requested(uid, lower).event(Event::FaultProven {
                fault: "kill".to_owned(),
                target: target(uid),
                effect: between(lower, upper),
                proof: format!("pod UID {uid} is gone"),
            });
        }
        log.step(Step::Observe, upper)
    }

    pub(crate) fn armed(self, uids: &[&str]) -> Self {
        let lasting = self.events.iter().any(|event| {
            matches!(event, Event::ExperimentStarted { experiment, .. }
                if experiment.faults.iter().any(|fault| fault.duration.is_some()))
        });
        self.event(Event::FaultArmed {
            fault: "kill".to_owned(),
            injector: "direct".to_owned(),
            targets: uids.iter().map(|uid| target(uid)).collect(),
            undo: vec![Undo::Nothing],
            lasting,
        })
    }

    pub(crate) fn requested(self, uid: &str, seconds: f64) -> Self {
        self.event(Event::FaultRequested {
            fault: "kill".to_owned(),
            target: target(uid),
            at: at(seconds),
        })
    }

    /// Samples of a probe on an open-loop schedule, each answered after 4 ms.
    pub(crate) fn samples(
        mut self,
        name: &str,
        from: f64,
        to: f64,
        period: f64,
        outcome: impl Fn(f64) -> Outcome,
    ) -> Self {
        let mut number = 0_u32;
        loop {
            let sent = from + f64::from(number) * period;
            if sent > to {
                return self;
            }
            self.events.push(Event::ProbeSample {
                known_from: None,
                probe: name.to_owned(),
                scheduled: at(sent),
                sent: at(sent),
                received: at(sent + 0.004),
                outcome: outcome(sent),
                value: None,
            });
            number += 1;
        }
    }

    /// Looks at the commit log every 100 ms, each answered after 4 ms.
    pub(crate) fn commits(mut self, from: f64, to: f64, made: &[f64]) -> Self {
        let mut number = 0_u32;
        loop {
            let sent = from + f64::from(number) * 0.1;
            if sent > to {
                return self;
            }
            let count = made.iter().filter(|commit| **commit <= sent).count() as u64;
            self.events.push(Event::LedgerSample {
                scheduled: at(sent),
                sent: at(sent),
                received: at(sent + 0.004),
                committed: count.checked_sub(1),
                planned: Some(count),
                error: None,
            });
            number += 1;
        }
    }

    /// The producer's clock is the runner's.
    pub(crate) fn clocks(self) -> Self {
        self.event(Event::ClockPair {
            mono: Mono(0),
            wall_ms: EPOCH_MS as f64,
        })
        .event(Event::ClockOffset {
            clock: "producer".to_owned(),
            lower_ms: -1.0,
            upper_ms: 1.0,
        })
    }

    /// Revert, settle and the orderly end of everything.
    pub(crate) fn end(self, revert: f64, end: f64) -> Self {
        self.step(Step::Revert, revert)
            .step(Step::Settle, revert + 0.1)
            .close(TrialEnd::Completed, end)
    }

    pub(crate) fn close(self, end: TrialEnd, seconds: f64) -> Self {
        self.event(Event::TrialEnded {
            trial: 1,
            end,
            at: at(seconds),
        })
        .finish(seconds)
    }

    /// One of several trials is over.
    pub(crate) fn ended(self, trial: u32, seconds: f64) -> Self {
        self.event(Event::TrialEnded {
            trial,
            end: TrialEnd::Completed,
            at: at(seconds),
        })
    }

    pub(crate) fn finish(self, seconds: f64) -> Self {
        self.event(Event::ExperimentEnded { index: 0, error: None })
            .event(Event::RunEnded {
                at: at(seconds + 0.1),
                left: Vec::new(),
            })
    }

    /// The log's bytes.
    pub(crate) fn text(&self) -> String {
        let mut chain = Chain::new();
        self.events
            .iter()
            .map(|event| chain.line(Mono(0), "2026-01-01T00:00:00Z", event).unwrap())
            .collect()
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        read_log(self.text().as_bytes()).unwrap().records
    }

    pub(crate) fn judge(&self) -> Run {
        build(&self.records())
    }
}

pub(crate) fn good_unless(bad: bool) -> Outcome {
    if bad {
        Outcome::Bad {
            why: "connection refused".to_owned(),
        }
    } else {
        Outcome::Good
    }
}

pub(crate) fn silent() -> Outcome {
    Outcome::NoData {
        why: "Prometheus did not answer".to_owned(),
    }
}

/// Ten records per second, event time and acknowledgement 5 ms apart; ids count tenths of a second.
pub(crate) fn acked(from: f64, to: f64) -> Vec<AckedRange> {
    let (first, last) = ((from * 10.0).round() as u64, (to * 10.0).round() as u64);
    (first..=last)
        .map(|id| AckedRange {
            first: id,
            last: id,
            at_ms: EPOCH_MS + id as i64 * 100,
            acked_ms: EPOCH_MS + id as i64 * 100 + 5,
            block: None,
        })
        .collect()
}

pub(crate) fn read(seconds: f64, batch: u64, runs: &[(u64, u64, u32)]) -> SinkRead {
    SinkRead {
        during: between(seconds, seconds + 0.2),
        last_batch: Some(batch),
        runs: runs
            .iter()
            .map(|(first, last, times)| SinkRun {
                first: *first,
                last: *last,
                times: *times,
            })
            .collect(),
        packed: None,
        uncommitted_files: 0,
        reordered: None,
    }
}
