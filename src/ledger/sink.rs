//! The sink, read by its commit protocol. What was read and cannot change is not read again.

use super::error::ReadError;
use super::lines::{Cursor, Line, Splitter};
use super::parse::{Committed, file_name, manifest_files};
use super::places::Place;
use super::pod::PodReader;
use super::tally::Tally;
use crate::experiment::{Ledger, Location, SinkFormat};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};

/// Manifest first, data after it: whatever the manifest names is on disk by then.
const READ_SINK: &str = r#"
cd "$1" || exit 3
echo "==> dir _spark_metadata"
for file in _spark_metadata/[0-9]*; do
  [ -f "$file" ] || continue
  echo "==> meta ${file##*/}"; cat "$file"; echo
done
for file in part-*; do
  [ -f "$file" ] || continue
  echo "==> part $file"; cat "$file"; echo
done
"#;

/// A stream commits many small files, and an object store takes its time for each: these are fetched together, and still counted in
/// order.
const SMALL: u64 = 1024 * 1024;
const AT_ONCE: usize = 8;

const METADATA: &str = "_spark_metadata";

/// What a read says beside the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batches {
    /// Highest committed batch, where the sink has batches.
    pub(crate) last: Option<u64>,
    /// Part files that no manifest names.
    pub(crate) uncommitted_files: u64,
}

/// A sink that is read again and again.
pub(crate) struct Sink<'a> {
    ledger: &'a Ledger,
    /// What it held when it was last read.
    pub(crate) tally: Tally,
    source: Source<'a>,
}

enum Source<'a> {
    Pod(PodReader<'a>),
    /// Files of a manifest, and those of them that were read.
    Files(Place, BTreeSet<String>),
    /// Growing texts, and how far they were read.
    Lines(Place, BTreeMap<String, Cursor>),
    #[cfg(feature = "kafka")]
    Topic(super::kafka::Topic),
}

impl<'a> Sink<'a> {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the place cannot be used as it stands.
    pub(crate) fn open(ledger: &'a Ledger, pod: PodReader<'a>) -> Result<Self, ReadError> {
        let location = Location::parse(&ledger.sink).map_err(|wrong| ReadError::Other(wrong.why))?;
        let source = match &location {
            Location::Pod(_) => Source::Pod(pod),
            #[cfg(feature = "kafka")]
            Location::Kafka { brokers, topic } => Source::Topic(super::kafka::Topic::open(brokers, topic)?),
            _ => {
                let place = Place::open(&location, &ledger.storage)?;
                match ledger.format {
                    SinkFormat::SparkFileSink => Source::Files(place, BTreeSet::new()),
                    SinkFormat::JsonLines => Source::Lines(place, BTreeMap::new()),
                }
            }
        };
        Ok(Self {
            ledger,
            tally: Tally::new(ledger),
            source,
        })
    }

    /// Brings the tally up to date.
    ///
    /// # Errors
    /// When the sink cannot be read whole.
    pub(crate) async fn read(&mut self) -> Result<Batches, ReadError> {
        match self.read_on().await {
            // Someone put something else in its place, or took something away: what was counted is worth nothing.
            Err(ReadError::Replaced { .. }) => {
                self.forget();
                self.read_on().await
            }
            other => other,
        }
    }

    fn forget(&mut self) {
        self.tally = Tally::new(self.ledger);
        match &mut self.source {
            Source::Pod(_) => {}
            Source::Files(_, read) => read.clear(),
            Source::Lines(_, cursors) => cursors.clear(),
            #[cfg(feature = "kafka")]
            Source::Topic(topic) => topic.rewind(),
        }
    }

    async fn read_on(&mut self) -> Result<Batches, ReadError> {
        let none = Batches {
            last: None,
            uncommitted_files: 0,
        };
        match &mut self.source {
            Source::Pod(pod) => {
                let mut tally = Tally::new(self.ledger);
                let batches = match self.ledger.format {
                    SinkFormat::SparkFileSink => {
                        // The shell gives the files by name, which is not the order of their batches.
                        tally = tally.without_order();
                        files_in_pod(pod, &self.ledger.sink, &mut tally).await?
                    }
                    SinkFormat::JsonLines => {
                        let command = ["cat".to_owned(), self.ledger.sink.clone()];
                        let (mut splitter, mut cursor) = (Splitter::new("sink"), Cursor::default());
                        let mut take = |line: Line<'_>| tally.add(line);
                        pod.stream("sink", &command, &mut |chunk| {
                            splitter.push(chunk, &mut cursor, &mut take)
                        })
                        .await?;
                        none
                    }
                };
                self.tally = tally;
                Ok(batches)
            }
            Source::Files(place, read) => read_files(place, read, &mut self.tally).await,
            Source::Lines(place, cursors) => {
                read_lines(place, cursors, &mut |line| self.tally.add(line)).await?;
                Ok(none)
            }
            #[cfg(feature = "kafka")]
            Source::Topic(topic) => {
                topic.read(&mut |line| self.tally.add(line)).await?;
                Ok(none)
            }
        }
    }
}

/// Reads on in every text of a place.
///
/// # Errors
/// When one of them cannot be read, or is not what it was.
pub(crate) async fn read_lines(
    place: &Place,
    cursors: &mut BTreeMap<String, Cursor>,
    on_line: &mut super::lines::OnLine<'_>,
) -> Result<(), ReadError> {
    let texts = place.texts().await?;
    let gone = cursors
        .keys()
        .find(|name| !texts.iter().any(|text| text.name == **name));
    if let Some(name) = gone {
        return Err(ReadError::Replaced { what: name.clone() });
    }
    for text in texts {
        let cursor = cursors.entry(text.name.clone()).or_default();
        if text.size.is_some_and(|size| size == cursor.offset) {
            continue;
        }
        place.lines(&text.name, cursor, false, on_line).await?;
    }
    Ok(())
}

/// Reads the manifest, and of the committed files those that were not read before.
async fn read_files(place: &Place, read: &mut BTreeSet<String>, tally: &mut Tally) -> Result<Batches, ReadError> {
    let metadata = place.below(METADATA).await?;
    let (last, wanted) = manifest_files(metadata.iter().map(|text| file_name(&text.name)));
    if wanted.is_empty() {
        return Err(ReadError::Other(format!(
            "{} has no manifest {METADATA}/0: nothing was ever committed there, or it is no folder of a Spark file sink",
            place.url()
        )));
    }
    let mut committed = Committed::default();
    for name in &wanted {
        let name = format!("{METADATA}/{name}");
        let mut take = |line: Line<'_>| committed.add(line);
        place.lines(&name, &mut Cursor::default(), true, &mut take).await?;
    }
    // After the manifest: whatever it names is there by now.
    let listed = place.below("").await?;
    let present: &BTreeMap<String, Option<u64>> = &listed.into_iter().map(|text| (text.name, text.size)).collect();
    let mut files: Vec<&str> = Vec::new();
    for path in committed.in_order() {
        let file = relative(path, present).ok_or_else(|| {
            ReadError::Other(format!(
                "the manifest of {} names {}, which is not there",
                place.url(),
                file_name(path)
            ))
        })?;
        files.push(file);
    }
    let known: BTreeSet<&str> = files.iter().copied().collect();
    if let Some(gone) = read.iter().find(|name| !known.contains(name.as_str())) {
        return Err(ReadError::Replaced { what: gone.clone() });
    }
    let mut new: Vec<Fetched<'_>> = Vec::new();
    for file in files.iter().copied().filter(|file| !read.contains(*file)) {
        let small = present.get(file).copied().flatten().is_some_and(|size| size <= SMALL);
        new.push(fetch(place, file, small));
    }
    let mut fetched = futures::stream::iter(new).buffered(AT_ONCE);
    let mut done = Vec::new();
    while let Some(next) = fetched.next().await {
        let (file, text) = next?;
        match text {
            Some(text) => {
                let what = place.title(file);
                for (index, text) in text.lines().enumerate() {
                    tally.add(Line {
                        what: &what,
                        number: index + 1,
                        text,
                    })?;
                }
            }
            None => {
                let mut take = |line: Line<'_>| tally.add(line);
                place.lines(file, &mut Cursor::default(), true, &mut take).await?;
            }
        }
        done.push(file.to_owned());
    }
    drop(fetched);
    read.extend(done);
    let uncommitted = present
        .keys()
        .filter(|name| file_name(name).starts_with("part-") && !known.contains(name.as_str()));
    Ok(Batches {
        last,
        uncommitted_files: uncommitted.count() as u64,
    })
}

/// A file and, when it is small, its lines.
type Fetched<'a> = BoxFuture<'a, Result<(&'a str, Option<String>), ReadError>>;

fn fetch<'a>(place: &'a Place, file: &'a str, small: bool) -> Fetched<'a> {
    Box::pin(async move {
        let text = if small { Some(whole(place, file).await?) } else { None };
        Ok((file, text))
    })
}

/// The lines of a small file.
async fn whole(place: &Place, file: &str) -> Result<String, ReadError> {
    let mut text = String::new();
    let mut take = |line: Line<'_>| {
        text.push_str(line.text);
        text.push('\n');
        Ok(())
    };
    place.lines(file, &mut Cursor::default(), true, &mut take).await?;
    Ok(text)
}

/// A manifest has the paths as the writer sees them; the longest end of one that is there is the file. (A partitioned sink has
/// folders below it.)
fn relative<'a>(path: &'a str, present: &BTreeMap<String, Option<u64>>) -> Option<&'a str> {
    let mut starts = path.match_indices('/').map(|(at, _)| at + 1);
    std::iter::once(0)
        .chain(&mut starts)
        .filter_map(|start| path.get(start..))
        .find(|end| present.contains_key(*end))
}

/// The same through a pod: one stream of the manifest and then of every file.
async fn files_in_pod(pod: &PodReader<'_>, sink: &str, tally: &mut Tally) -> Result<Batches, ReadError> {
    enum Section {
        Meta(String),
        Part { name: String, committed: bool },
        Other,
    }
    let command = ["sh", "-c", READ_SINK, "sh", sink].map(str::to_owned);
    let mut metadata: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut known: Option<(Option<u64>, BTreeSet<String>)> = None;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let (mut section, mut number, mut uncommitted) = (Section::Other, 0, 0_u64);
    let mut take = |line: Line<'_>| {
        number += 1;
        if let Some(title) = line.text.strip_prefix("==> ") {
            number = 0;
            section = if let Some(name) = title.strip_prefix("meta ") {
                metadata.insert(name.to_owned(), Vec::new());
                Section::Meta(name.to_owned())
            } else if let Some(name) = title.strip_prefix("part ") {
                if known.is_none() {
                    known = Some(committed_in(&metadata)?);
                }
                let committed = known.as_ref().is_some_and(|(_, files)| files.contains(name));
                uncommitted += u64::from(!committed);
                seen.insert(name.to_owned());
                Section::Part {
                    name: format!("sink file {name}"),
                    committed,
                }
            } else {
                Section::Other
            };
            return Ok(());
        }
        match &section {
            Section::Meta(name) => {
                if let Some(lines) = metadata.get_mut(name) {
                    lines.push(line.text.to_owned());
                }
                Ok(())
            }
            Section::Part { name, committed: true } => tally.add(Line {
                what: name,
                number,
                text: line.text,
            }),
            Section::Part { .. } | Section::Other => Ok(()),
        }
    };
    let (mut splitter, mut cursor) = (Splitter::new("sink"), Cursor::default());
    pod.stream("sink", &command, &mut |chunk| {
        splitter.push(chunk, &mut cursor, &mut take)
    })
    .await?;
    let (last, files) = match known {
        Some(known) => known,
        None => committed_in(&metadata)?,
    };
    if let Some(file) = files.iter().find(|file| !seen.contains(*file)) {
        return Err(ReadError::Other(format!(
            "the sink's manifest names {file}, which is not there"
        )));
    }
    Ok(Batches {
        last,
        uncommitted_files: uncommitted,
    })
}

/// Highest batch and names of the committed files.
fn committed_in(
    metadata: &BTreeMap<String, Vec<String>>,
) -> Result<(Option<u64>, BTreeSet<String>), super::parse::ParseError> {
    let (last, wanted) = manifest_files(metadata.keys().map(String::as_str));
    let mut committed = Committed::default();
    for name in wanted {
        let what = format!("sink manifest {name}");
        for (index, text) in metadata.get(&name).into_iter().flatten().enumerate() {
            committed.add(Line {
                what: &what,
                number: index + 1,
                text,
            })?;
        }
    }
    let names = committed.in_order().into_iter().map(|path| file_name(path).to_owned());
    Ok((last, names.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_writer_is_found_by_its_end() {
        let present = BTreeMap::from([("part-1".to_owned(), None), ("day=1/part-1".to_owned(), None)]);
        assert_eq!(
            relative("s3a://bucket/out/day=1/part-1", &present),
            Some("day=1/part-1")
        );
        assert_eq!(relative("file:///data/out/part-1", &present), Some("part-1"));
        assert_eq!(relative("part-1", &present), Some("part-1"));
        assert_eq!(relative("file:///data/out/part-2", &present), None);
    }
}
