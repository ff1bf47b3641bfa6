//! The process's output: answers on stdout, everything else on stderr, colour only where it is wanted.

use super::arguments::Color;
use super::exit::Failure;
use std::io::{IsTerminal as _, Write};

/// Where output goes.
pub struct Streams {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    out_is_terminal: bool,
    err_is_terminal: bool,
    color: bool,
}

impl Streams {
    /// The process's own streams.
    #[must_use]
    pub fn process() -> Self {
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let (out_is_terminal, err_is_terminal) = (out.is_terminal(), err.is_terminal());
        Self {
            out: Box::new(out),
            err: Box::new(err),
            out_is_terminal,
            err_is_terminal,
            color: false,
        }
    }

    pub(super) fn choose_color(&mut self, color: Color) {
        self.color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => self.out_is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
    }

    /// Whether the answer may be coloured.
    pub(super) fn color(&self) -> bool {
        self.color
    }

    /// Whether a person watches stderr.
    pub(super) fn err_is_terminal(&self) -> bool {
        self.err_is_terminal
    }

    /// The answer. A closed pipe ends the output, not the run.
    pub(super) fn say(&mut self, text: &str) {
        drop(writeln!(self.out, "{text}").and_then(|()| self.out.flush()));
    }

    /// Everything that is not the answer.
    pub(super) fn note(&mut self, text: &str) {
        drop(writeln!(self.err, "{text}").and_then(|()| self.err.flush()));
    }

    /// A failure: what was tried, why it failed, what to do next.
    pub(super) fn complain(&mut self, failure: &Failure) {
        self.note(&format!("chaosrun: {failure}"));
        if let Some(hint) = failure.hint() {
            self.note(&format!("  hint: {hint}"));
        }
    }
}
