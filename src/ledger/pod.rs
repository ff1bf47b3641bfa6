//! Commands in the pod that mounts the volume, their output taken as it comes.

use super::error::ReadError;
use super::parse::ParseError;
use super::sampler::label_text;
use crate::cluster::{Cluster, ClusterError, stream_from_pod};
use crate::experiment::Ledger;
use crate::observe::PodIndex;
use std::time::Duration;

/// How long a command may be silent, and how long it may take in all.
const SILENCE: Duration = Duration::from_secs(60);
const READ_LIMIT: Duration = Duration::from_mins(30);

/// Who reads.
#[derive(Clone, Copy)]
pub(crate) struct PodReader<'a> {
    pub(crate) cluster: Option<&'a Cluster>,
    pub(crate) pods: &'a PodIndex,
    pub(crate) ledger: &'a Ledger,
}

impl PodReader<'_> {
    /// Runs a command and hands on what it writes.
    ///
    /// # Errors
    /// When no pod can run it, it fails or is silent for too long, or `on_chunk` says so.
    pub(crate) async fn stream(
        &self,
        what: &str,
        command: &[String],
        on_chunk: &mut (dyn FnMut(&[u8]) -> Result<(), ParseError> + Send),
    ) -> Result<(), ReadError> {
        let pod = self.pods.ready_with(&self.ledger.reader);
        let (Some(pod), Some(cluster)) = (pod, self.cluster) else {
            return Err(ReadError::Other(format!(
                "cannot read the {what}: no ready pod carries the labels {}",
                label_text(&self.ledger.reader)
            )));
        };
        let name = &pod.facts.pod;
        let mut wrong: Option<ParseError> = None;
        let mut take = |chunk: &[u8]| match on_chunk(chunk) {
            Ok(()) => true,
            Err(error) => {
                wrong = Some(error);
                false
            }
        };
        let container = self.ledger.container.as_deref();
        let streamed = stream_from_pod(
            cluster,
            &name.namespace,
            &name.name,
            container,
            command,
            SILENCE,
            &mut take,
        );
        let streamed = tokio::time::timeout(READ_LIMIT, streamed).await;
        if let Some(error) = wrong {
            return Err(error.into());
        }
        let (code, stderr) = streamed.map_err(|_elapsed| {
            ClusterError::timed_out(format!("read the {what} in pod {}", name.name), READ_LIMIT)
        })??;
        if code != Some(0) {
            let code = code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
            return Err(ReadError::Other(format!(
                "cannot read the {what} in pod {}: exit code {code}: {stderr}",
                name.name
            )));
        }
        Ok(())
    }
}
