//! Appends events to the log of a run, folds them into the live timeline and tells whoever waits.
//!
//! Contract: when `record` returns, the event has left the process (write(2) done), so that `kill -9` loses nothing;
//! `record_durably` also waits for the disk and is used before anything is fired. Events are totally ordered.

use crate::evidence::{Chain, Event, OpenUndos};
use crate::experiment::Experiment;
use crate::fault::{FaultSpec, FaultTarget, Undo};
use crate::timeline::Timeline;
use crate::world::Clock;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, watch};

/// The log could not be written. No log, no fault: the caller must not go on to fire anything.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot append to the event log {path}: {cause}")]
pub(crate) struct RecordError {
    path: PathBuf,
    cause: String,
}

/// A fault whose intent and revert are on disk.
#[derive(Debug)]
pub(crate) struct Armed {
    spec: FaultSpec,
    targets: Vec<FaultTarget>,
}

impl Armed {
    /// The fault.
    pub(crate) fn spec(&self) -> &FaultSpec {
        &self.spec
    }

    /// Exactly these.
    pub(crate) fn targets(&self) -> &[FaultTarget] {
        &self.targets
    }
}

struct Inner {
    file: std::fs::File,
    chain: Chain,
    /// What is still to be taken back. The events themselves are on disk: a long run has millions.
    undos: OpenUndos,
    timeline: Option<Timeline>,
    broken: Option<RecordError>,
    halt_at: Option<u64>,
    journalled: u64,
}

/// Shared handle to the log of one run.
#[derive(Clone)]
pub(crate) struct Recorder {
    inner: Arc<Mutex<Inner>>,
    path: Arc<PathBuf>,
    clock: Clock,
    changed: Arc<watch::Sender<u64>>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Recorder {
    /// Creates the log file; it must not exist yet.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(crate) fn create(path: &Path, clock: Clock) -> Result<Self, RecordError> {
        let file = std::fs::OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(path)
            .map_err(|error| RecordError {
                path: path.to_owned(),
                cause: error.to_string(),
            })?;
        let (changed, _) = watch::channel(0);
        let (live, _) = broadcast::channel(4096);
        // For the kill test: the process stands still once so many journalled events are on disk, and is killed there.
        let halt_at = std::env::var("CHAOSRUN_TEST_HALT_AT")
            .ok()
            .and_then(|text| text.parse().ok());
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner {
                file,
                chain: Chain::new(),
                undos: OpenUndos::default(),
                timeline: None,
                broken: None,
                halt_at,
                journalled: 0,
            })),
            path: Arc::new(path.to_owned()),
            clock,
            changed: Arc::new(changed),
            live,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held cannot leave a half-written line: lines are written in one call.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When the log cannot be written; the recorder stays broken from then on.
    pub(crate) fn record(&self, event: Event) -> Result<(), RecordError> {
        self.append(event, false)
    }

    /// Appends an event and waits until it is on disk.
    ///
    /// # Errors
    /// As [`Recorder::record`].
    pub(crate) fn record_durably(&self, event: Event) -> Result<(), RecordError> {
        self.append(event, true)
    }

    fn append(&self, event: Event, durably: bool) -> Result<(), RecordError> {
        let mut inner = self.lock();
        if let Some(broken) = &inner.broken {
            return Err(broken.clone());
        }
        let line = inner
            .chain
            .line(self.clock.now(), &self.clock.wall().to_string(), &event)
            .map_err(|error| error.to_string());
        let written = line.and_then(|line| {
            inner
                .file
                .write_all(line.as_bytes())
                .map_err(|error| error.to_string())?;
            if durably {
                inner.file.sync_data().map_err(|error| error.to_string())
            } else {
                Ok(())
            }
        });
        if let Err(cause) = written {
            let error = RecordError {
                path: self.path.as_ref().clone(),
                cause,
            };
            inner.broken = Some(error.clone());
            drop(inner);
            self.changed.send_modify(|count| *count += 1);
            return Err(error);
        }
        inner.journalled += u64::from(is_journalled(&event));
        if let Some(timeline) = inner.timeline.as_mut() {
            timeline.apply(&event);
        }
        let halt = inner.halt_at.is_some_and(|after| inner.journalled >= after);
        inner.undos.apply(&event);
        if halt {
            stand_still();
        }
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
        // Nobody listening is fine: the log is what counts.
        drop(self.live.send(Arc::new(event)));
        Ok(())
    }

    /// Writes down, on disk, what is about to be done to whom and how it is taken back. Only this gives an [`Armed`], and only
    /// an [`Armed`] can be fired.
    ///
    /// # Errors
    /// When the log cannot be written: then nothing may be fired.
    pub(crate) fn arm(
        &self,
        spec: FaultSpec,
        targets: Vec<FaultTarget>,
        undo: Vec<Undo>,
    ) -> Result<Armed, RecordError> {
        self.record_durably(Event::FaultArmed {
            fault: spec.name.clone(),
            injector: spec.injector.word().to_owned(),
            targets: targets.clone(),
            undo,
            lasting: spec.duration.is_some(),
        })?;
        Ok(Armed { spec, targets })
    }

    /// Starts a fresh timeline for an experiment. Events recorded from now on are folded into it.
    pub(crate) fn begin_experiment(&self, experiment: &Experiment) {
        self.lock().timeline = Some(Timeline::new(experiment));
    }

    /// Reads the live timeline; `None` before the first experiment.
    pub(crate) fn timeline<T>(&self, read: impl FnOnce(&Timeline) -> T) -> Option<T> {
        self.lock().timeline.as_ref().map(read)
    }

    /// What the log so far says is still to be taken back, last armed first.
    pub(crate) fn open_undos(&self) -> Vec<Undo> {
        self.lock().undos.open()
    }

    /// Is the log still being written?
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        self.lock().broken.clone().map_or(Ok(()), Err)
    }

    /// Wakes up whenever something was recorded.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Every event from now on, for the live view. A slow reader loses events, never the log.
    pub(crate) fn live(&self) -> broadcast::Receiver<Arc<Event>> {
        self.live.subscribe()
    }

    /// The clock of this run.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }
}

/// Steps, intents, calls and reverts: what the runner does, as against what it sees. Their order is the same in every run.
fn is_journalled(event: &Event) -> bool {
    !matches!(
        event,
        Event::ProbeSample { .. }
            | Event::PodSeen { .. }
            | Event::ResourceSeen { .. }
            | Event::WatchBroken { .. }
            | Event::WatchGap { .. }
            | Event::RevisionTick { .. }
            | Event::LedgerSample { .. }
            | Event::LedgerReached { .. }
            | Event::ClockOffset { .. }
            | Event::ClockPair { .. }
            | Event::RunnerStalled { .. }
    )
}

/// Never returns, and holds the recorder's lock on purpose: nothing else may happen any more.
fn stand_still() -> ! {
    loop {
        std::thread::park();
    }
}
