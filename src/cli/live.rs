//! The live view: a fold over the same events as every report. On a terminal one line is kept up to date; elsewhere plain
//! lines are written when something changes.

use crate::evidence::{Event, Outcome, Step};
use crate::timeline::{ProbeState, Purpose};
use crate::world::Recorder;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

const REDRAW: Duration = Duration::from_millis(200);

/// The running view.
pub(super) struct Live {
    task: tokio::task::JoinHandle<()>,
    cancel: CancellationToken,
}

impl Live {
    /// Starts it. It writes to stderr; stdout is for the answer.
    pub(super) fn start(recorder: &Recorder, terminal: bool) -> Self {
        let cancel = CancellationToken::new();
        let view = View::new(recorder.clone(), terminal);
        // Subscribed here and not in the task: what is recorded before it first runs must be seen too.
        let task = tokio::spawn(view.run(recorder.live(), cancel.clone()));
        Self { task, cancel }
    }

    /// Shows what is still to be shown and ends.
    pub(super) async fn finish(self) {
        self.cancel.cancel();
        drop(self.task.await);
    }
}

struct View {
    recorder: Recorder,
    bar: ProgressBar,
    terminal: bool,
    step: Option<Step>,
    probes: BTreeMap<String, ProbeState>,
    committed: Option<u64>,
    /// Newest record in, newest record out.
    reached: (Option<u64>, Option<u64>),
    /// What was said of them last.
    shown: String,
}

impl View {
    fn new(recorder: Recorder, terminal: bool) -> Self {
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            recorder,
            bar,
            terminal,
            step: None,
            probes: BTreeMap::new(),
            committed: None,
            reached: (None, None),
            shown: String::new(),
        }
    }

    async fn run(mut self, mut events: Receiver<Arc<Event>>, cancel: CancellationToken) {
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Ok(event) => self.event(&event),
                    // Too slow to show everything: the log has it all.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                _ = redraw.tick() => self.status(),
                () = cancel.cancelled() => {
                    while let Ok(event) = events.try_recv() {
                        self.event(&event);
                    }
                    break;
                }
            }
        }
        self.bar.finish_and_clear();
    }

    fn line(&self, text: &str) {
        let line = format!("{:>8.1} s  {text}", self.recorder.clock().now().seconds());
        if self.terminal {
            self.bar.println(line);
        } else {
            use std::io::Write as _;
            // A closed stderr must not end a run.
            drop(writeln!(std::io::stderr(), "{line}"));
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::ExperimentStarted { experiment, file, .. } => {
                self.probes.clear();
                self.committed = None;
                self.reached = (None, None);
                self.line(&format!("{} ({file})", experiment.name));
                self.line(&format!("claim: {}", experiment.claim.text));
            }
            Event::TrialStarted { trial, control: false } => self.line(&format!("trial {trial}")),
            Event::TrialStarted { trial, control: true } => {
                self.line(&format!("trial {trial}: a control trial, nothing is broken"));
            }
            Event::PhaseChosen { phase_ms, batch, .. } => {
                let phase = std::time::Duration::from_millis(*phase_ms).as_secs_f64();
                let since = match batch {
                    Some(batch) => format!("the commit of batch {batch}"),
                    None => "the steady state".to_owned(),
                };
                self.line(&format!("injection {phase:.3} s after {since}"));
            }
            Event::TrialsStopped { why } => self.line(&format!("no further trial: {why}")),
            Event::StepStarted { step, .. } => {
                self.step = Some(*step);
                if let Some(records) = self.records().filter(|records| *records != self.shown) {
                    self.line(&format!("  {records}"));
                    self.shown = records;
                }
                self.line(&format!("{}: {}", step.word(), meaning(*step)));
            }
            Event::FaultRequested { fault, target, .. } => {
                self.line(&format!(
                    "fault {fault}: fired at pod {} ({})",
                    target.pod.name, target.pod.uid
                ));
            }
            Event::FaultProven { fault, proof, .. } => {
                self.line(&format!("fault {fault}: proven, {proof}"));
            }
            Event::FaultNotProven { fault, why, .. } => {
                self.line(&format!("fault {fault}: NOT proven, {why}"));
            }
            Event::FaultAnswered { error: Some(error), .. } => self.line(&format!("the injection call: {error}")),
            Event::WatchBroken { kind, why, .. } => {
                self.line(&format!("watch on {kind} broke ({why}); connecting again"));
            }
            Event::WatchGap {
                kind,
                from,
                to,
                resumed,
                why,
                ..
            } => {
                let effect = if *resumed {
                    "resumed without loss"
                } else {
                    "listed anew, what happened in between is merged"
                };
                let seconds = to.since(*from).as_secs_f64();
                self.line(&format!(
                    "watch on {kind} was broken for {seconds:.1} s ({why}); {effect}"
                ));
            }
            Event::LedgerSample { committed, error, .. } => {
                if let Some(error) = error {
                    self.line(&format!("ledger: {error}"));
                }
                self.committed = committed.or(self.committed);
            }
            Event::LedgerReached {
                acknowledged,
                committed,
                ..
            } => self.reached = (*acknowledged, *committed),
            Event::LedgerAudited { acked, drained, .. } => {
                let records = acked.iter().fold(0_u64, |sum, range| {
                    let listed = range.last.saturating_sub(range.first).saturating_add(1);
                    sum.saturating_add(range.block.map_or(listed, |block| block.records))
                });
                let arrived = if *drained {
                    "every one of them arrived"
                } else {
                    "not all of them arrived in time"
                };
                self.line(&format!("ledger: {records} records acknowledged, {arrived}"));
            }
            Event::LedgerUnreadable { why } => self.line(&format!("ledger: unreadable: {why}")),
            Event::RunnerStalled { from, to } => {
                self.line(&format!(
                    "the runner itself was stalled for {:.1} s",
                    to.since(*from).as_secs_f64()
                ));
            }
            Event::Stopping { why, .. } => self.line(&format!("{why}: reverting")),
            Event::Undone { error: Some(error), .. } => self.line(&format!("a revert failed: {error}")),
            _ => {}
        }
        if matches!(
            event,
            Event::ProbeSample {
                outcome: Outcome::Bad { .. },
                ..
            } | Event::PodSeen { .. }
        ) {
            self.status();
        }
    }

    /// How far the data is; none without a ledger, or before it can be read.
    fn records(&self) -> Option<String> {
        let (into, out) = self.reached;
        let number = |number: Option<u64>| number.map_or("none".to_owned(), |number| number.to_string());
        let batch = self
            .committed
            .map_or_else(String::new, |batch| format!(", batch {batch}"));
        (into.is_some() || out.is_some()).then(|| format!("records in {}, out {}{batch}", number(into), number(out)))
    }

    /// Says which probes changed, and keeps the status line.
    fn status(&mut self) {
        let now = self.recorder.clock().now();
        let Some(states) = self.recorder.timeline(|timeline| timeline.probe_states(now)) else {
            return;
        };
        let mut marks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for status in states.iter().filter(|status| status.purpose != Purpose::Stop) {
            let word = match status.state {
                ProbeState::Good => "good",
                ProbeState::Bad => "BAD",
                ProbeState::NoData => "no data",
            };
            marks.entry(word).or_default().push(status.probe.clone());
            if self.probes.get(&status.probe) == Some(&status.state) {
                continue;
            }
            let first = self.probes.insert(status.probe.clone(), status.state).is_none();
            if first && status.state == ProbeState::NoData {
                continue;
            }
            let why = if status.why.is_empty() {
                String::new()
            } else {
                format!(": {}", status.why)
            };
            self.line(&format!("  {}: {word}{why}", status.probe));
        }
        if self.terminal {
            let step = self.step.map_or("starting", Step::word);
            let records = self
                .records()
                .map_or_else(String::new, |records| format!("{records} | "));
            // What is wrong comes first: a narrow terminal cuts the end off.
            let marks: Vec<String> = marks
                .iter()
                .map(|(word, probes)| format!("{word}: {}", probes.join(", ")))
                .collect();
            self.bar.set_message(format!(
                "{:>7.1} s  {step} | {records}{}",
                now.seconds(),
                marks.join(" | ")
            ));
            self.bar.tick();
        }
    }
}

fn meaning(step: Step) -> &'static str {
    match step {
        Step::Setup => "applying manifests",
        Step::Baseline => "waiting for the steady state; nothing is touched before it holds",
        Step::Arm => "guard Job and journal in the cluster, intent on disk",
        Step::Inject => "breaking it",
        Step::Observe => "watching it recover",
        Step::Revert => "taking everything back",
        Step::Settle => "watching on, then auditing the ledger",
        Step::Teardown => "removing what the run made",
    }
}
