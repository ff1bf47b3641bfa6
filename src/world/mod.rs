//! The edge: the only place that reads time, handles signals and writes files.
//!
//! May depend on the pure half and tokio. Everything that touches the world gets its clock and its recorder from here.

mod clock;
mod files;
mod recorder;
mod signals;

pub(crate) use clock::Clock;
pub(crate) use files::{FileError, write_atomically};
pub(crate) use recorder::{Armed, RecordError, Recorder};
pub(crate) use signals::{Signalled, listen};
