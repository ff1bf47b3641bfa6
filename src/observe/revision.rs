//! The cluster's revision clock.
//!
//! A watch event carries no instant of its own, but it has a resource version, and so has every write. A small write of our
//! own, answered within `[sent, received]` with version R, bounds every event: versions below R happened before `received`,
//! versions above R after `sent`. (All built-in kinds share one revision counter in etcd; from Kubernetes 1.35 on the
//! comparability of versions of one type is official, KEP-5504.) It runs only while a trial is being measured.

use crate::cluster::Cluster;
use crate::evidence::Event;
use crate::world::Recorder;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Period of the ticks: also the width of watch-based intervals.
const PERIOD: Duration = Duration::from_millis(250);

/// Ticks by patching an annotation of the run's journal object.
pub(crate) struct RevisionClock {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl RevisionClock {
    /// Ticks until cancelled. A failing write is only a missing tick: intervals get wider, nothing breaks.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let api: Api<ConfigMap> = Api::namespaced(self.cluster.client(), &self.namespace);
        let mut interval = tokio::time::interval(PERIOD);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count: u64 = 0;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = interval.tick() => {}
            }
            count += 1;
            let patch = serde_json::json!({"metadata": {"annotations": {"chaosrun.dev/tick": count.to_string()}}});
            let sent = self.recorder.clock().now();
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let call = self
                .cluster
                .call("write the revision tick", api.patch(&self.name, &parameters, &patch));
            let answer = tokio::select! {
                () = cancel.cancelled() => return,
                answer = call => answer,
            };
            let received = self.recorder.clock().now();
            let version = answer
                .ok()
                .and_then(|object| object.metadata.resource_version)
                .and_then(|text| text.parse::<u64>().ok());
            if let Some(resource_version) = version
                && self
                    .recorder
                    .record(Event::RevisionTick {
                        sent,
                        received,
                        resource_version,
                    })
                    .is_err()
            {
                return;
            }
        }
    }
}
