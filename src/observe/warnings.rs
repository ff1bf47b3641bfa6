//! What the cluster itself complains about: the newest Warning of each object of a namespace, for whoever has to find out why
//! something does not start. Nothing is measured by it.

use crate::cluster::Cluster;
use k8s_openapi::api::core::v1::Event as ClusterEvent;
use kube::api::{Api, ListParams};
use std::collections::BTreeMap;

/// Most complaints shown.
const MOST: usize = 3;
/// Most letters of one of them.
const LENGTH: usize = 240;

/// The newest complaints, as `Pod web-1: Failed to pull image ..`. Empty when there are none or they may not be read.
pub(crate) async fn warnings(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let api: Api<ClusterEvent> = Api::namespaced(cluster.client(), namespace);
    let parameters = ListParams::default().fields("type=Warning").limit(500);
    let listed = cluster
        .call(format!("list events in namespace {namespace}"), api.list(&parameters))
        .await;
    match listed {
        Ok(listed) => newest(listed.items),
        Err(error) => {
            tracing::debug!(%error, "the cluster's warnings are not known");
            Vec::new()
        }
    }
}

fn newest(events: Vec<ClusterEvent>) -> Vec<String> {
    let time = |event: &ClusterEvent| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
    };
    let mut by_object: BTreeMap<String, ClusterEvent> = BTreeMap::new();
    for event in events {
        let object = &event.involved_object;
        let title = format!(
            "{} {}",
            object.kind.as_deref().unwrap_or_default(),
            object.name.as_deref().unwrap_or_default()
        );
        if by_object.get(&title).is_none_or(|known| time(known) <= time(&event)) {
            by_object.insert(title, event);
        }
    }
    let mut all: Vec<(String, ClusterEvent)> = by_object.into_iter().collect();
    all.sort_by_key(|(_, event)| std::cmp::Reverse(time(event)));
    all.truncate(MOST);
    all.into_iter()
        .map(|(title, event)| {
            let message: String = event.message.unwrap_or_default().chars().take(LENGTH).collect();
            format!("{title}: {message}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_object_and_no_more_than_three() {
        let event = |name: &str, at: u8, message: &str| -> ClusterEvent {
            serde_json::from_value(serde_json::json!({
                "metadata": {}, "involvedObject": {"kind": "Pod", "name": name}, "message": message,
                "lastTimestamp": format!("2026-01-01T00:00:{at:02}Z")}))
            .unwrap()
        };
        let found = newest(vec![
            event("a", 1, "old"),
            event("a", 9, "new"),
            event("b", 2, "b"),
            event("c", 3, "c"),
            event("d", 4, "d"),
        ]);
        assert_eq!(found, ["Pod a: new", "Pod d: d", "Pod c: c"]);
    }
}
