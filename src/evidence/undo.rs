//! What a log says is still to be taken back.

use super::Event;
use crate::fault::Undo;

/// Everything that was armed and not successfully undone, last armed first. Works on any prefix of a log: what was armed may or
/// may not have been done, and undoing what never was succeeds. An `Undone` that carries an error leaves its undo open.
pub fn open_undos<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<Undo> {
    let mut undos = OpenUndos::default();
    for event in events {
        undos.apply(event);
    }
    undos.open()
}

/// The same as a fold, so that whoever writes a log need not keep it.
#[derive(Debug, Clone, Default)]
pub struct OpenUndos {
    armed: Vec<Undo>,
}

impl OpenUndos {
    /// Takes the next event in.
    pub fn apply(&mut self, event: &Event) {
        if let Event::FaultArmed { undo, .. } = event {
            for undo in undo {
                self.arm(undo);
            }
        } else if let Event::ObjectArmed { undo, .. } = event {
            self.arm(undo);
        } else if let Event::Undone { undo, error: None } = event {
            self.armed.retain(|armed| armed != undo);
        }
    }

    fn arm(&mut self, undo: &Undo) {
        // The same object armed again is still one object; it keeps its first place, so that what depends on it goes first.
        if *undo != Undo::Nothing && !self.armed.contains(undo) {
            self.armed.push(undo.clone());
        }
    }

    /// What is open now, last armed first.
    #[must_use]
    pub fn open(&self) -> Vec<Undo> {
        self.armed.iter().rev().cloned().collect()
    }
}
