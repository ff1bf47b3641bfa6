//! Problems of experiment files, each with its place, shown all at once.

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity as MietteSeverity,
};
use std::fmt::Write as _;

/// So many problems of one file are shown; what follows is counted.
const MOST_SHOWN: usize = 100;

/// Of a long line this many characters are shown, and at most so many of them before the caret.
const MOST_OF_LINE: usize = 200;
const MOST_BEFORE_CARET: usize = 120;

/// A place in a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From the start of the file.
    pub offset: usize,
    /// At least 1.
    pub length: usize,
}

impl Place {
    /// The first byte.
    pub(super) const START: Self = Self { offset: 0, length: 1 };
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The experiment cannot be run.
    Error,
    /// It can, but something is probably not meant like this.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable name, for searching.
    pub code: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    pub(super) fn error(code: &'static str, place: Place, message: String, help: Option<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message,
            place,
            help,
        }
    }

    pub(super) fn warning(code: &'static str, place: Place, message: String, help: Option<String>) -> Self {
        Self {
            code,
            severity: Severity::Warning,
            message,
            place,
            help,
        }
    }
}

/// The problems of one file or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    files: Vec<FileProblems>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileProblems {
    name: String,
    source: String,
    problems: Vec<Problem>,
}

impl Problems {
    pub(super) fn of_file(name: &str, source: &[u8], mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place.offset);
        // Of a file that is far too large only the beginning is needed to show it.
        let shown = source
            .get(..source.len().min(2 * super::located::MOST_BYTES))
            .unwrap_or_default();
        // A file must not send commands to the terminal that shows it. The replacements are as long as what they replace.
        let source = String::from_utf8_lossy(shown)
            .chars()
            .map(|held| match held {
                '\n' | '\r' | '\t' => held,
                '\u{80}'..='\u{9f}' => '\u{a0}',
                _ if held.is_control() => ' ',
                _ => held,
            })
            .collect();
        Self {
            files: vec![FileProblems {
                name: name.to_owned(),
                source,
                problems,
            }],
        }
    }

    /// Adds the problems of other files.
    pub fn extend(&mut self, other: Self) {
        self.files.extend(other.files);
    }

    /// Every problem with the name of its file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Problem)> {
        self.files
            .iter()
            .flat_map(|file| file.problems.iter().map(|problem| (file.name.as_str(), problem)))
    }

    /// As text: `file:line:column: error[code]: message`, the line, a caret and a hint; drawn with colour and lines on a
    /// terminal.
    #[must_use]
    pub fn render(&self, terminal: bool) -> String {
        let mut text = String::new();
        if self.write(terminal, &mut text).is_err() {
            text.push_str("(the rest could not be shown)\n");
        }
        text
    }

    fn write(&self, terminal: bool, text: &mut String) -> std::fmt::Result {
        for file in &self.files {
            for problem in file.problems.iter().take(MOST_SHOWN) {
                if terminal {
                    file.draw(problem, text)?;
                } else {
                    file.write(problem, text)?;
                }
            }
            let hidden = file.problems.len().saturating_sub(MOST_SHOWN);
            if hidden > 0 {
                writeln!(text, "{}: and {hidden} more", file.name)?;
            }
        }
        let count = |severity| self.iter().filter(|(_, problem)| problem.severity == severity).count();
        let plural = |count: usize, word: &str| {
            let ending = if count == 1 { "" } else { "s" };
            format!("{count} {word}{ending}")
        };
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        if errors > 0 {
            write!(text, "{}", plural(errors, "error"))?;
            if warnings > 0 {
                write!(text, ", {}", plural(warnings, "warning"))?;
            }
            text.push('\n');
        }
        Ok(())
    }
}

impl FileProblems {
    /// Line and column, both from 1, the column in characters; and the text of the line.
    fn position(&self, offset: usize) -> (usize, usize, &str) {
        let mut offset = offset.min(self.source.len());
        while !self.source.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = self.source.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        let rest = self.source.get(start..).unwrap_or_default();
        (line, column, rest.lines().next().unwrap_or_default())
    }

    fn write(&self, problem: &Problem, text: &mut String) -> std::fmt::Result {
        let (line, column, content) = self.position(problem.place.offset);
        let word = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (name, code, message) = (&self.name, problem.code, &problem.message);
        writeln!(text, "{name}:{line}:{column}: {word}[{code}]: {message}")?;
        let margin = line.to_string().len();
        // Of a very long line the part before the caret is left out, so that the caret stays in view.
        let skipped = (column - 1).saturating_sub(MOST_BEFORE_CARET);
        let shown: String = content
            .chars()
            .skip(skipped)
            .map(|held| if held == '\t' { ' ' } else { held })
            .take(MOST_OF_LINE)
            .collect();
        let before = column - 1 - skipped;
        let end = (problem.place.offset + problem.place.length).min(self.source.len());
        let marked = self.source.get(problem.place.offset..end);
        let marked = marked.map_or(1, |marked| marked.chars().count());
        let width = shown.chars().count().saturating_sub(before);
        let caret = "^".repeat(marked.clamp(1, width.max(1)));
        writeln!(text, "{:margin$} |", "")?;
        writeln!(text, "{line} | {shown}")?;
        writeln!(text, "{:margin$} | {:before$}{caret}", "", "")?;
        if let Some(help) = &problem.help {
            writeln!(text, "{:margin$} = help: {help}", "")?;
        }
        text.push('\n');
        Ok(())
    }

    fn draw(&self, problem: &Problem, text: &mut String) -> std::fmt::Result {
        let drawn = Drawn {
            file: self,
            problem,
            source: NamedSource::new(&self.name, self.source.clone()),
        };
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode());
        let mut picture = String::new();
        if handler.render_report(&mut picture, &drawn).is_ok() {
            text.push_str(&picture);
            text.push('\n');
            return Ok(());
        }
        self.write(problem, text)
    }
}

/// A problem as miette wants it.
#[derive(Debug)]
struct Drawn<'a> {
    file: &'a FileProblems,
    problem: &'a Problem,
    source: NamedSource<String>,
}

impl std::fmt::Display for Drawn<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (line, column, _) = self.file.position(self.problem.place.offset);
        write!(
            formatter,
            "{}:{line}:{column}: {}",
            self.file.name, self.problem.message
        )
    }
}

impl std::error::Error for Drawn<'_> {}

impl Diagnostic for Drawn<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(self.problem.code))
    }

    fn severity(&self) -> Option<MietteSeverity> {
        Some(match self.problem.severity {
            Severity::Error => MietteSeverity::Error,
            Severity::Warning => MietteSeverity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.problem
            .help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.problem.place;
        Some(Box::new(std::iter::once(LabeledSpan::new(
            Some("here".to_owned()),
            place.offset,
            place.length,
        ))))
    }
}
