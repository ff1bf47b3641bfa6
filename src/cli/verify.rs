//! `verify`: every number again from the event log, the chain checked, and both compared with what the run folder says.

use super::arguments::{VerifyArguments, VerifyFormat};
use super::exit::{Exit, Failure};
use super::folder::{JSON, LOG, TABLE};
use super::streams::Streams;
use crate::evidence::{Checked, ReadError, fold_log};
use crate::report::{Builder, Difference, Run, differences_of_json, differences_of_table};
use serde::Serialize;
use std::path::Path;

/// Findings that are printed; how many there are is always said.
const SHOWN: usize = 20;

/// What came out, as `--format json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    schema: &'static str,
    holds: bool,
    /// Hash of the log's last line; none when the chain is broken.
    head: Option<String>,
    /// Lines of the log up to its end or to the first one that is not what the writer wrote.
    records: usize,
    /// Version of chaosrun that wrote the log.
    written_by: String,
    /// Version that recomputed.
    verified_by: &'static str,
    /// What does not hold.
    findings: Vec<Difference>,
    /// What is not wrong, but should be known.
    notes: Vec<String>,
}

/// Verifies a run folder.
///
/// # Errors
/// A folder that is no run folder, or a file that cannot be read.
pub(super) fn verify(arguments: &VerifyArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let verified = examine(&arguments.folder, arguments.head.as_deref())?;
    match arguments.format {
        VerifyFormat::Table => streams.say(told(&verified, &arguments.folder).trim_end()),
        VerifyFormat::Json => {
            let text = serde_json::to_string_pretty(&verified).map_err(|error| Failure::Internal(error.to_string()))?;
            streams.say(&text);
        }
    }
    Ok(if verified.holds { Exit::Pass } else { Exit::Fail })
}

fn examine(folder: &Path, noted: Option<&str>) -> Result<Verified, Failure> {
    let json = content(folder, JSON)?;
    let table = content(folder, TABLE)?;
    let log = folder.join(LOG);
    let mut verified = Verified {
        schema: "chaosrun.verified/v1",
        holds: false,
        head: None,
        records: 0,
        written_by: String::new(),
        verified_by: env!("CARGO_PKG_VERSION"),
        findings: Vec::new(),
        notes: Vec::new(),
    };
    let file = match std::fs::File::open(&log) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && json.is_none() && table.is_none() => {
            return Err(Failure::Usage(format!(
                "{} is no run folder: it holds no {LOG}",
                folder.display()
            )));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            verified.find(LOG, String::new(), "is missing: nothing stands behind the report");
            return Ok(verified);
        }
        Err(error) => return Err(unreadable(&log, &error)),
    };
    let mut builder = Builder::new();
    let read = fold_log(file, |event| {
        builder.apply(&event);
        verified.records += 1;
    });
    match read {
        Ok(checked) => {
            let run = builder.finish(checked.head.clone(), checked.records);
            verified.written_by.clone_from(&run.run.version);
            verified.log(&checked, &run, noted);
            verified.reports(json.as_deref(), table.as_deref(), &run);
        }
        Err(ReadError::Io(error)) => return Err(unreadable(&log, &error)),
        Err(ReadError::Log(error)) => {
            verified.written_by = builder.finish(String::new(), 0).run.version;
            verified.find(LOG, format!("line {}", error.line), &error.what);
            verified
                .notes
                .push("the numbers were not compared: they cannot be recomputed from a log that is broken".to_owned());
        }
    }
    verified.holds = verified.findings.is_empty();
    verified.other_version();
    Ok(verified)
}

impl Verified {
    fn find(&mut self, file: &'static str, at: String, what: &str) {
        self.findings.push(Difference {
            file,
            at,
            stated: None,
            computed: None,
            what: what.to_owned(),
        });
    }

    fn log(&mut self, checked: &Checked, run: &Run, noted: Option<&str>) {
        if let Some(torn) = &checked.torn {
            self.find(LOG, format!("line {}", torn.line), &torn.what);
        }
        if let Some(noted) = noted.filter(|noted| !noted.eq_ignore_ascii_case(&checked.head)) {
            let what = format!("the noted hash is {noted}, the log's is {}", checked.head);
            self.findings.push(Difference {
                file: LOG,
                at: "last line".to_owned(),
                stated: Some(checked.head.clone()),
                computed: Some(noted.to_owned()),
                what,
            });
        }
        if !run.run.complete {
            self.notes
                .push("the run did not come to an orderly end: its log stops early, and its report says so".to_owned());
        }
        self.head = Some(checked.head.clone());
    }

    fn reports(&mut self, json: Option<&[u8]>, table: Option<&[u8]>, run: &Run) {
        let again = "is missing; `chaosrun report` makes it again";
        match json {
            Some(stated) => self.findings.extend(differences_of_json(stated, run)),
            None => self.find(JSON, String::new(), again),
        }
        match table {
            Some(stated) => self.findings.extend(differences_of_table(stated, run)),
            None => self.find(TABLE, String::new(), again),
        }
    }

    /// Another version may rightly give other numbers; the chain does not depend on it.
    fn other_version(&mut self) {
        let (written, present) = (&self.written_by, self.verified_by);
        if !written.is_empty() && written != present {
            self.notes.push(format!(
                "the log was written by chaosrun {written}, this is {present}: the chain is judged alike, but recomputed numbers \
                 and their form may differ between versions; verify with chaosrun {written} before calling a difference a forgery"
            ));
        }
    }
}

fn told(verified: &Verified, folder: &Path) -> String {
    let mut text = String::new();
    let count = verified.findings.len();
    if verified.holds {
        text.push_str(&format!(
            "HOLDS: {}: {} events, an unbroken chain, and every number recomputed from it\n",
            folder.display(),
            verified.records
        ));
    } else {
        let noun = if count == 1 { "difference" } else { "differences" };
        text.push_str(&format!("DOES NOT HOLD: {}: {count} {noun}\n", folder.display()));
    }
    for found in verified.findings.iter().take(SHOWN) {
        let at = if found.at.is_empty() {
            String::new()
        } else {
            format!(" {}", found.at)
        };
        text.push_str(&format!("  {}{at}: {}\n", found.file, found.what));
    }
    if count > SHOWN {
        text.push_str(&format!(
            "  and {} more (--format json shows them all)\n",
            count - SHOWN
        ));
    }
    for note in &verified.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    if let Some(head) = &verified.head {
        text.push_str(&format!("head: {head}\n"));
        if verified.holds {
            text.push_str(
                "A chain does not show that log and report were rewritten together. Note the head elsewhere (a commit, a ticket), and \
                 compare with --head.\n",
            );
        }
    }
    text
}

/// A file of the folder, none when it is not there.
fn content(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let path = folder.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
