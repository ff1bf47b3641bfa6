//! The life of a lab: start, stop, background process, and the removal of what a crash left.
//!
//! Depends on `api` and `node`. Central type: [`Lab`] (in this process); [`up`] and [`down`] do the same with a
//! background process. Rooms: `config`, `record` (what exists, written before it exists), `sweep` (removes it),
//! `lab`, `daemon`, `error`. Contract: nothing is created that is not in the record first, so `down` and the next `up`
//! can remove a lab that was killed at any point.

mod config;
mod daemon;
mod error;
mod lab;
mod record;
mod sweep;

pub use config::{LabConfig, ProcessIdentity};
pub use daemon::{LabStatus, TemporaryLab, down, environment, multicall, restart_api, status, up, up_temporary};
pub use error::LabError;
pub use lab::{Controller, Lab, LabInfo};
pub use record::Record;
