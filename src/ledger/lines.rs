//! Chunks of bytes as complete lines. Holds one line at a time, whatever the size of the file.

use super::parse::ParseError;

/// Longest line that is taken; a record or an acknowledgement is far shorter.
const LONGEST: usize = 1024 * 1024;

/// Takes one line, without its end.
pub(crate) type OnLine<'a> = dyn FnMut(Line<'_>) -> Result<(), ParseError> + Send + 'a;

/// One complete line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Of which text.
    pub(crate) what: &'a str,
    /// From 1.
    pub(crate) number: usize,
    /// UTF-8, checked.
    pub(crate) text: &'a str,
}

impl Line<'_> {
    pub(crate) fn fail(&self, why: impl Into<String>) -> ParseError {
        ParseError {
            what: self.what.to_owned(),
            line: self.number,
            why: why.into(),
        }
    }
}

/// How far a growing text was read: always at the start of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Bytes of complete lines.
    pub(crate) offset: u64,
    /// Complete lines.
    pub(crate) lines: usize,
}

/// Splits what comes after a cursor.
#[derive(Debug)]
pub(crate) struct Splitter<'a> {
    what: &'a str,
    held: Vec<u8>,
}

impl<'a> Splitter<'a> {
    pub(crate) fn new(what: &'a str) -> Self {
        Self { what, held: Vec::new() }
    }

    /// Takes a chunk and moves the cursor over every line that it completes.
    ///
    /// # Errors
    /// A line that is not UTF-8 or far too long, or what `on_line` says.
    pub(crate) fn push(
        &mut self,
        chunk: &[u8],
        cursor: &mut Cursor,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), ParseError> {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            if self.held.is_empty() {
                self.line(line, cursor, on_line)?;
            } else {
                self.held.extend_from_slice(line);
                let held = std::mem::take(&mut self.held);
                self.line(&held, cursor, on_line)?;
                self.held = held;
                self.held.clear();
            }
            rest = after.get(1..).unwrap_or_default();
        }
        self.held.extend_from_slice(rest);
        if self.held.len() > LONGEST {
            return Err(self.error(cursor, format!("longer than {LONGEST} bytes")));
        }
        Ok(())
    }

    /// Takes what is left as the last line: for files that are complete.
    ///
    /// # Errors
    /// As [`Splitter::push`].
    pub(crate) fn finish(&mut self, cursor: &mut Cursor, on_line: &mut OnLine<'_>) -> Result<(), ParseError> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(());
        }
        self.line(&held, cursor, on_line)
    }

    fn line(&self, bytes: &[u8], cursor: &mut Cursor, on_line: &mut OnLine<'_>) -> Result<(), ParseError> {
        if bytes.len() > LONGEST {
            return Err(self.error(cursor, format!("longer than {LONGEST} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| self.error(cursor, "not UTF-8 text".to_owned()))?;
        on_line(Line {
            what: self.what,
            number: cursor.lines + 1,
            text,
        })?;
        cursor.lines += 1;
        cursor.offset += bytes.len() as u64 + 1;
        Ok(())
    }

    fn error(&self, cursor: &Cursor, why: String) -> ParseError {
        ParseError {
            what: self.what.to_owned(),
            line: cursor.lines + 1,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> (Vec<String>, Cursor) {
        let (mut lines, mut cursor) = (Vec::new(), Cursor::default());
        let mut splitter = Splitter::new("text");
        for chunk in chunks {
            let mut take = |line: Line<'_>| {
                lines.push(line.text.to_owned());
                Ok(())
            };
            splitter.push(chunk, &mut cursor, &mut take).unwrap();
        }
        (lines, cursor)
    }

    #[test]
    fn lines_are_the_same_however_the_chunks_fall() {
        let text = "one\n\nthree \u{e9}\nhalf".as_bytes();
        let expected = (
            vec!["one".to_owned(), String::new(), "three \u{e9}".to_owned()],
            Cursor { offset: 14, lines: 3 },
        );
        for size in 1..=text.len() {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(split(&chunks), expected, "{size}");
        }
    }

    #[test]
    fn a_line_without_end_and_one_that_is_no_text_are_refused() {
        let mut cursor = Cursor::default();
        let mut take = |_: Line<'_>| Ok(());
        let mut splitter = Splitter::new("text");
        let mut grows = || splitter.push(&vec![b'x'; 600_000], &mut cursor, &mut take);
        grows().unwrap();
        assert!(grows().unwrap_err().why.contains("longer"));
        let error = Splitter::new("text").push(b"ok\n\xff\n", &mut Cursor::default(), &mut take);
        assert_eq!(error.unwrap_err().line, 2);
    }
}
