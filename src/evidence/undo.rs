//! What a log says is still to be taken back.

use super::Event;
use crate::fault::Undo;

/// Everything that was armed and not successfully undone, last armed first. Works on any prefix of a log: what was armed may or
/// may not have been done, and undoing what never was succeeds. An `Undone` that carries an error leaves its undo open.
pub fn open_undos<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<Undo> {
    let mut open: Vec<Undo> = Vec::new();
    let arm = |open: &mut Vec<Undo>, undo: &Undo| {
        // The same object armed again is still one object; it keeps its first place, so that what depends on it goes first.
        if *undo != Undo::Nothing && !open.contains(undo) {
            open.push(undo.clone());
        }
    };
    for event in events {
        if let Event::FaultArmed { undo, .. } = event {
            for undo in undo {
                arm(&mut open, undo);
            }
        } else if let Event::ObjectArmed { undo, .. } = event {
            arm(&mut open, undo);
        } else if let Event::Undone { undo, error: None } = event {
            open.retain(|armed| armed != undo);
        }
    }
    open.reverse();
    open
}
