//! Writes event logs of any length as a run would: probes at 20 and 50 ms, looks at a commit log, revision ticks, several hundred pods
//! whose status changes now and then, and trials in which one of them is lost and replaced. The same numbers give the same bytes.

use chaosrun::evidence::{AckedRange, Chain, ClusterInfo, Event, Outcome, Seen, SinkRead, SinkRun, Step, TrialEnd};
use chaosrun::experiment::{Experiment, parse};
use chaosrun::fault::{FaultTarget, Undo};
use chaosrun::model::{ContainerFacts, ContainerState, Interval, Mono, Owner, PodFacts, PodName, Role};
use std::io::Write;

/// How long a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Events in all, about.
    pub(crate) events: u64,
    /// Trials among which they are spread.
    pub(crate) trials: u32,
    /// Pods of the target.
    pub(crate) pods: u32,
}

const EXPERIMENT: &str = r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: a-long-run}
claim: {text: "A lost pod is replaced within 30 seconds, and nothing is lost"}
target: {namespace: shop, deployment: web}
ledger: {reader: {app: ledger}, acknowledged: /data/acked.log, sink: /data/out, checkpoint: /data/checkpoint, interval: 100ms}
steadyState:
  probes:
  - {name: replicas ready, pods: {ready: ">= PODS"}, hold: 1s}
  - {name: answers, http: {url: "http://shop.example/health"}, interval: 20ms, hold: 1s}
  - {name: checkout, http: {url: "http://shop.example/checkout"}, interval: 50ms, hold: 1s}
  - {name: commits flow, progress: {within: 5s}, hold: 1s}
faults:
- {name: kill one, podKill: {gracePeriod: 0s}, mode: one}
slos:
  rto: "< 30s"
  rpo: "< 10s"
  lost: 0
  availability: ">= 10%"
  assertions:
  - {when: after, probe: {name: search, http: {url: "http://shop.example/search"}, interval: 50ms}}
trials: {count: TRIALS}
"#;

/// The experiment that the log is of.
pub(crate) fn experiment(size: Size) -> Experiment {
    let text = EXPERIMENT
        .replace("PODS", &size.pods.to_string())
        .replace("TRIALS", &size.trials.to_string());
    match parse("long.yaml", text.as_bytes(), &|_| None) {
        Ok(parsed) => parsed.into_iter().next().expect("one experiment").experiment,
        Err(problems) => panic!("{}", problems.render(false)),
    }
}

/// Writes a log of about this size; gives the number of lines.
pub(crate) fn write(size: Size, out: &mut impl Write) -> std::io::Result<u64> {
    let mut writer = Writer {
        chain: Chain::new(),
        out,
        written: 0,
    };
    writer.put(
        0,
        Event::RunStarted {
            id: "20260101-000000-42ab".to_owned(),
            seed: 42,
            version: "0.1.0".to_owned(),
            cluster: ClusterInfo {
                kind: "kubernetes".to_owned(),
                version: "v1.33.0".to_owned(),
            },
            started_at: "2026-01-01T00:00:00Z".to_owned(),
        },
    )?;
    writer.put(
        1,
        Event::ExperimentStarted {
            index: 0,
            file: "scenarios/a-long-run.yaml".to_owned(),
            experiment: Box::new(experiment(size)),
        },
    )?;
    writer.put(
        2,
        Event::ClockPair {
            mono: Mono(0),
            #[expect(
                clippy::cast_precision_loss,
                reason = "milliseconds since the epoch stay far below 2^52"
            )]
            wall_ms: EPOCH as f64,
        },
    )?;
    writer.put(
        3,
        Event::ClockOffset {
            clock: "producer".to_owned(),
            lower_ms: -1.0,
            upper_ms: 1.0,
        },
    )?;
    let mut run = Run {
        writer,
        now: 1_000_000,
        random: 0x9E37_79B9_7F4A_7C15,
        names: (0..size.pods).map(|number| format!("uid-{number:08}")).collect(),
        next_pod: size.pods,
        batch: 0,
    };
    for uid in run.names.clone() {
        run.pod(Seen::Listed, &uid, true)?;
    }
    for trial in 1..=size.trials {
        let due = size.events * u64::from(trial) / u64::from(size.trials);
        run.trial(trial, due.saturating_sub(2))?;
    }
    let now = run.now;
    run.writer.put(now, Event::ExperimentEnded { index: 0, error: None })?;
    run.writer.put(
        now,
        Event::RunEnded {
            at: Mono(now),
            left: Vec::new(),
        },
    )?;
    Ok(run.writer.written)
}

const EPOCH: i64 = 1_767_225_600_000;
/// One turn of the wheel: what comes every 20 ms.
const TURN: i64 = 20_000;

struct Writer<'a, W> {
    chain: Chain,
    out: &'a mut W,
    written: u64,
}

impl<W: Write> Writer<'_, W> {
    fn put(&mut self, now: i64, event: Event) -> std::io::Result<()> {
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        let wall = format!(
            "2026-01-01T{:02}:{:02}:{:02}.{micros:06}Z",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60
        );
        let line = self
            .chain
            .line(Mono(now), &wall, &event)
            .map_err(std::io::Error::other)?;
        self.written += 1;
        self.out.write_all(line.as_bytes())
    }
}

struct Run<'a, W> {
    writer: Writer<'a, W>,
    now: i64,
    random: u64,
    names: Vec<String>,
    next_pod: u32,
    batch: u64,
}

impl<W: Write> Run<'_, W> {
    fn put(&mut self, event: Event) -> std::io::Result<()> {
        self.writer.put(self.now, event)
    }

    /// Xorshift: the same numbers everywhere.
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below.max(1) as u64).unwrap_or(0)
    }

    fn facts(&self, uid: &str, ready: bool) -> PodFacts {
        PodFacts {
            pod: name(uid),
            role: Some(Role("any".to_owned())),
            member: true,
            owner: Some(Owner {
                kind: "ReplicaSet".to_owned(),
                name: "web-6d4cf56db6".to_owned(),
                uid: "5a1e7c9e-8f1d-4d57-9c55-0d3a1f6f2b11".to_owned(),
            }),
            resource_version: u64::try_from(self.now).ok(),
            phase: if ready { "Running" } else { "Pending" }.to_owned(),
            ready,
            scheduled: true,
            node: Some("worker-17.eu-central-1.compute.internal".to_owned()),
            created_at: Some("2026-01-01T00:00:00Z".to_owned()),
            deletion_at: None,
            deletion_grace_seconds: None,
            reason: None,
            containers: vec![ContainerFacts {
                name: "web".to_owned(),
                container_id: if ready {
                    format!("containerd://{uid}")
                } else {
                    String::new()
                },
                restarts: 0,
                ready,
                state: if ready {
                    ContainerState::Running {
                        started_at: Some("2026-01-01T00:00:00Z".to_owned()),
                    }
                } else {
                    ContainerState::Waiting {
                        reason: "ContainerCreating".to_owned(),
                    }
                },
            }],
            generation: None,
        }
    }

    fn pod(&mut self, seen: Seen, uid: &str, ready: bool) -> std::io::Result<()> {
        let pod = std::sync::Arc::new(self.facts(uid, ready));
        self.put(Event::PodSeen {
            seen,
            at: Mono(self.now),
            not_before: None,
            pod,
        })
    }

    fn step(&mut self, step: Step) -> std::io::Result<()> {
        self.put(Event::StepStarted {
            step,
            at: Mono(self.now),
        })
    }

    fn sample(&mut self, probe: &str, good: bool) -> std::io::Result<()> {
        let sent = self.now + i64::try_from(self.draw(300)).unwrap_or(0);
        let received = sent + 2_000 + i64::try_from(self.draw(3_000)).unwrap_or(0);
        self.put(Event::ProbeSample {
            probe: probe.to_owned(),
            scheduled: Mono(self.now),
            sent: Mono(sent),
            received: Mono(received),
            known_from: None,
            outcome: if good {
                Outcome::Good
            } else {
                Outcome::Bad {
                    why: "connection refused".to_owned(),
                }
            },
            value: good.then_some(200.0),
        })
    }

    /// Everything that comes in 20 ms: about three events.
    fn turn(&mut self, serving: bool) -> std::io::Result<()> {
        let turn = self.now / TURN;
        self.sample("answers", serving)?;
        if turn % 5 == 0 || turn % 5 == 2 {
            self.sample("checkout", serving)?;
            self.sample("search", serving)?;
        }
        if turn % 5 == 1 {
            if serving && turn % 50 == 1 {
                self.batch += 1;
            }
            self.put(Event::LedgerSample {
                scheduled: Mono(self.now),
                sent: Mono(self.now + 50),
                received: Mono(self.now + 4_000),
                committed: self.batch.checked_sub(1),
                planned: Some(self.batch),
                error: None,
            })?;
        }
        if turn % 10 == 3 {
            self.put(Event::RevisionTick {
                sent: Mono(self.now),
                received: Mono(self.now + 1_500),
                resource_version: u64::try_from(self.now + 700).unwrap_or(0),
            })?;
        }
        if turn % 10 == 7 {
            let index = self.draw(self.names.len());
            if let Some(uid) = self.names.get(index).cloned() {
                self.pod(Seen::Modified, &uid, true)?;
            }
        }
        self.now += TURN;
        Ok(())
    }

    fn trial(&mut self, trial: u32, due: u64) -> std::io::Result<()> {
        self.put(Event::TrialStarted { trial, control: false })?;
        self.step(Step::Baseline)?;
        let begun = self.writer.written;
        let started = self.now;
        let target = FaultTarget {
            pod: name(&self.names.first().cloned().unwrap_or_default()),
            kind: None,
            container: None,
            container_id: None,
        };
        // A third of the trial before the fault, a quarter of it (at most 8 s) without service.
        let turns = due.saturating_sub(begun) / 3 + 1;
        let before = turns / 3;
        for _ in 0..before {
            self.turn(true)?;
        }
        let fault = || "kill one".to_owned();
        self.step(Step::Arm)?;
        self.put(Event::FaultArmed {
            fault: fault(),
            injector: "direct".to_owned(),
            targets: vec![target.clone()],
            undo: vec![Undo::Nothing],
            lasting: false,
        })?;
        self.step(Step::Inject)?;
        let requested = self.now;
        self.put(Event::FaultRequested {
            fault: fault(),
            target: target.clone(),
            at: Mono(requested),
        })?;
        self.now += 3_000;
        let old = self.names.remove(0);
        self.pod(Seen::Deleted, &old, true)?;
        self.put(Event::FaultProven {
            fault: fault(),
            target,
            effect: Interval::between(Mono(requested), Mono(self.now)),
            proof: format!("pod UID {old} is gone"),
        })?;
        self.step(Step::Observe)?;
        let new = format!("uid-{:08}", self.next_pod);
        self.next_pod += 1;
        self.pod(Seen::Added, &new, false)?;
        for _ in 0..(turns / 4).clamp(5, 400) {
            self.turn(false)?;
        }
        self.pod(Seen::Modified, &new, true)?;
        self.names.push(new);
        while self.writer.written + 50 < due {
            self.turn(true)?;
        }
        self.step(Step::Revert)?;
        self.step(Step::Settle)?;
        for _ in 0..10 {
            self.turn(true)?;
        }
        // A hundred records per second, also while nobody served: numbered by the time.
        let at = self.now;
        let (first, last) = (hundredths(started), hundredths(at));
        self.put(Event::LedgerAudited {
            acked: (first..=last)
                .step_by(100)
                .map(|id| AckedRange {
                    first: id,
                    last: last.min(id + 99),
                    at_ms: EPOCH + i64::try_from(id * 10).unwrap_or(0),
                    acked_ms: EPOCH + i64::try_from(id * 10).unwrap_or(0) + 5,
                    block: None,
                })
                .collect(),
            acked_read: Interval::exact(Mono(at)),
            reads: vec![SinkRead {
                during: Interval::between(Mono(at), Mono(at + 100_000)),
                last_batch: Some(self.batch),
                runs: vec![SinkRun { first, last, times: 1 }],
                packed: None,
                uncommitted_files: 0,
                reordered: None,
            }],
            drained: true,
            acked_ids: None,
            attempted: None,
            acked_later: None,
        })?;
        self.put(Event::CostCounted {
            api_requests: 40,
            max_rss_bytes: 40_000_000,
        })?;
        self.now += 200_000;
        self.put(Event::TrialEnded {
            trial,
            end: TrialEnd::Completed,
            at: Mono(self.now),
        })
    }
}

fn hundredths(at: i64) -> u64 {
    u64::try_from(at / 10_000).unwrap_or(0)
}

fn name(uid: &str) -> PodName {
    PodName {
        namespace: "shop".to_owned(),
        name: format!("web-6d4cf56db6-{uid}"),
        uid: uid.to_owned(),
    }
}
