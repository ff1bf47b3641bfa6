//! `report`: the same report again, from the event log alone.

use super::arguments::ReportArguments;
use super::exit::{Exit, Failure};
use super::folder::LOG;
use super::run::write_and_show;
use super::streams::Streams;

/// Renders a run folder. The exit code is that of the command, not of the run: a rendered failure is a success here.
pub(super) fn report(arguments: &ReportArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    if !arguments.folder.join(LOG).is_file() {
        return Err(Failure::Usage(format!(
            "{} is no run folder: it holds no {LOG}",
            arguments.folder.display()
        )));
    }
    write_and_show(&arguments.folder, arguments.format, streams)?;
    Ok(Exit::Pass)
}
