//! An executor: works on the partitions that its driver sends, and ends when the driver's connection closes.
//!
//! Depends on [`super::protocol`] and the file system. Contract: one part file a task, under the name that the driver
//! chose; exit code 0 when the driver is gone, 143 after SIGTERM, as Spark's executors.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

use super::files::modified_ms;
use super::protocol::{Part, ToDriver, ToExecutor, codec};
use super::{Outcome, TERMINATED, stop_signal};

/// Where the driver listens (`host:port`).
pub(crate) const DRIVER_VARIABLE: &str = "SPARK_DRIVER_URL";
/// Which executor this is.
pub(crate) const EXECUTOR_VARIABLE: &str = "SPARK_EXECUTOR_ID";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum ExecutorError {
    #[error("{0} is not set")]
    Variable(&'static str),
    #[error("cannot connect to the driver at {address}")]
    Connect { address: String, source: std::io::Error },
    #[error("no connection to the driver at {address} within {CONNECT_TIMEOUT:?}")]
    Timeout { address: String },
}

/// One numbered record; what else a line holds is not carried over, as with the schema that Spark is given.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_ms: Option<i64>,
}

pub(crate) async fn run() -> Outcome {
    let address = std::env::var(DRIVER_VARIABLE).map_err(|_| ExecutorError::Variable(DRIVER_VARIABLE))?;
    let executor_id = std::env::var(EXECUTOR_VARIABLE).map_err(|_| ExecutorError::Variable(EXECUTOR_VARIABLE))?;
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address))
        .await
        .map_err(|_| ExecutorError::Timeout {
            address: address.clone(),
        })?
        .map_err(|source| ExecutorError::Connect {
            address: address.clone(),
            source,
        })?;
    let mut lines = Framed::new(stream, codec());
    lines
        .send(serde_json::to_string(&ToDriver::Register {
            executor_id: executor_id.clone(),
        })?)
        .await?;
    tracing::info!(
        executor_id,
        address,
        "registered with the driver (built-in pipeline, not Apache Spark)"
    );
    tokio::select! {
        stopped = stop_signal() => {
            stopped?;
            Ok(TERMINATED)
        }
        () = serve(&mut lines) => {
            tracing::info!("the driver is gone");
            Ok(0)
        }
    }
}

/// Until the connection ends in any way.
async fn serve(lines: &mut Framed<TcpStream, tokio_util::codec::LinesCodec>) {
    while let Some(Ok(line)) = lines.next().await {
        let Ok(ToExecutor::Run { task, files, output }) = serde_json::from_str(&line) else {
            return;
        };
        // Off this thread, so that the end of the driver is noticed during a long task.
        let done = tokio::task::spawn_blocking(move || copy(&files, &output)).await;
        let answer = match done {
            Ok(Ok(part)) => ToDriver::Done { task, part },
            Ok(Err(error)) => ToDriver::Failed {
                task,
                why: error.to_string(),
            },
            Err(error) => ToDriver::Failed {
                task,
                why: error.to_string(),
            },
        };
        let Ok(text) = serde_json::to_string(&answer) else {
            return;
        };
        if lines.send(text).await.is_err() {
            return;
        }
    }
}

/// Writes the records of `files` to the new file `output`.
fn copy(files: &[PathBuf], output: &Path) -> std::io::Result<Part> {
    let mut writer = BufWriter::new(File::create_new(output)?);
    let mut records = 0;
    for file in files {
        for line in BufReader::new(File::open(file)?).lines() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            // A malformed line becomes a row of nulls, as in Spark's default mode.
            let record = serde_json::from_str(&line).unwrap_or(Record { id: None, at_ms: None });
            serde_json::to_writer(&mut writer, &record)?;
            writer.write_all(b"\n")?;
            records += 1;
        }
    }
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    let metadata = file.metadata()?;
    Ok(Part {
        path: output.to_owned(),
        size: metadata.len(),
        modification_time_ms: modified_ms(&metadata),
        records,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_holds_every_record_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&first, "{\"id\":1,\"at_ms\":5,\"more\":true}\n{\"id\":2,\"at_ms\":5}\n").unwrap();
        std::fs::write(&second, "broken\n").unwrap();
        let output = folder.path().join("part");
        let part = copy(&[first, second], &output).unwrap();
        assert_eq!(part.records, 3);
        let text = std::fs::read_to_string(&output).unwrap();
        assert_eq!(text, "{\"id\":1,\"at_ms\":5}\n{\"id\":2,\"at_ms\":5}\n{}\n");
        assert_eq!(part.size, text.len() as u64);
    }
}
