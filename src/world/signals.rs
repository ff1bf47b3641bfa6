//! Ctrl-C and SIGTERM: the first asks for a revert, a second one is told that the revert is under way.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Which signal asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signalled {
    /// SIGINT: exit code 130.
    Interrupt,
    /// SIGTERM: exit code 143.
    Terminate,
}

impl Signalled {
    /// Name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// Starts listening. The receiver holds the first signal that came.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn listen() -> std::io::Result<watch::Receiver<Option<Signalled>>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let signalled = tokio::select! {
                Some(()) = interrupt.recv() => Signalled::Interrupt,
                Some(()) = terminate.recv() => Signalled::Terminate,
                else => return,
            };
            let first = sender.send_if_modified(|held| {
                let first = held.is_none();
                if first {
                    *held = Some(signalled);
                }
                first
            });
            if !first {
                tracing::warn!("already stopping: faults are being reverted, please wait");
            }
        }
    });
    Ok(receiver)
}
