//! Waiting for the live timeline to say something, with every reason to stop waiting in one place.

use super::error::EngineError;
use crate::model::Mono;
use crate::observe::Observers;
use crate::timeline::Timeline;
use crate::world::{Recorder, Signalled};
use std::time::Duration;
use tokio::sync::watch;

/// Holds depend on the passage of time, not only on events: look again this often.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What can end a wait early.
pub(crate) struct Watched<'a> {
    pub(crate) recorder: &'a Recorder,
    pub(crate) observers: &'a mut Observers,
    pub(crate) signals: &'a mut watch::Receiver<Option<Signalled>>,
    /// Whether stop conditions count yet (from the injection on).
    pub(crate) stoppable: bool,
}

impl Watched<'_> {
    /// Waits until `ready` gives a value or `deadline` has passed (`None`).
    ///
    /// # Errors
    /// A signal, a stop condition, a failed observer or a broken log.
    pub(crate) async fn until<T>(
        &mut self,
        deadline: Mono,
        mut ready: impl FnMut(&Timeline, Mono) -> Option<T>,
    ) -> Result<Option<T>, EngineError> {
        let clock = self.recorder.clock();
        let mut changes = self.recorder.changes();
        loop {
            changes.mark_unchanged();
            self.recorder.check()?;
            if let Some(signal) = *self.signals.borrow() {
                return Err(EngineError::Signal(signal));
            }
            let now = clock.now();
            let stoppable = self.stoppable;
            let (found, stop) = self
                .recorder
                .timeline(|timeline| (ready(timeline, now), timeline.stop_condition(now).filter(|_| stoppable)))
                .unwrap_or((None, None));
            if let Some(stop) = stop {
                return Err(EngineError::Stopped(stop));
            }
            if let Some(found) = found {
                return Ok(Some(found));
            }
            if now >= deadline {
                return Ok(None);
            }
            let again = deadline.min(now.plus(LOOK_AGAIN));
            tokio::select! {
                // Events come in bursts; the short sleep bounds how often the timeline is folded over.
                () = clock.sleep_until(again) => {}
                changed = self.signals.changed() => if changed.is_err() { std::future::pending::<()>().await },
                error = self.observers.failed() => return Err(error.into()),
            }
        }
    }

    /// Waits for a span of time.
    ///
    /// # Errors
    /// As [`Watched::until`].
    pub(crate) async fn pause(&mut self, span: Duration) -> Result<(), EngineError> {
        let deadline = self.recorder.clock().now().plus(span);
        self.until(deadline, |_, _| None::<()>).await.map(drop)
    }
}
