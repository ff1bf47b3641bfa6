//! What chaosrun left in a cluster, found by label alone, from any machine.

use super::connect::Cluster;
use super::error::{ClusterError, Failed};
use crate::fault::Undo;
use crate::model::{FAULTED_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, PURPOSE_LABEL, RUN_LABEL};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, ObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};

/// Everything in the cluster that carries chaosrun's labels.
#[derive(Debug, Default)]
pub(crate) struct Labelled {
    /// How each is taken back: what was started inside containers first, then changed objects and records, then what chaosrun
    /// made (guards first: they own the rest), setup last.
    pub(crate) undos: Vec<Undo>,
    /// Kinds that could not be listed, and why: something may hide there.
    pub(crate) unreadable: Vec<String>,
}

/// Ranks of undos, in the order in which they are done.
mod rank {
    pub(super) const INSIDE: u8 = 0;
    pub(super) const CHANGED: u8 = 1;
    pub(super) const RECORD: u8 = 2;
    pub(super) const FAULT: u8 = 3;
    pub(super) const GUARD: u8 = 4;
    pub(super) const SETUP: u8 = 5;
    pub(super) const CLUSTER_SETUP: u8 = 6;
}

/// The value of a `ConfigMap` of ours under which its undos stand.
pub(crate) const UNDOS_KEY: &str = "undos.json";

struct Search<'a> {
    cluster: &'a Cluster,
    run: Option<&'a str>,
    found: Vec<(u8, Undo)>,
    seen: std::collections::BTreeSet<Option<String>>,
    unreadable: Vec<String>,
}

/// Finds objects of every kind by label, in one namespace or all.
///
/// # Errors
/// When the kinds of the cluster cannot be discovered.
pub(crate) async fn find_labelled(
    cluster: &Cluster,
    run: Option<&str>,
    namespace: Option<&str>,
) -> Result<Labelled, ClusterError> {
    let discovery = cluster
        .call(
            "discover the kinds of the cluster",
            Discovery::new(cluster.client()).run(),
        )
        .await?;
    let mut search = Search {
        cluster,
        run,
        found: Vec::new(),
        seen: std::collections::BTreeSet::new(),
        unreadable: Vec::new(),
    };
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = match (namespace, &capabilities.scope) {
                (Some(_), Scope::Cluster) => continue,
                (Some(namespace), Scope::Namespaced) => Api::namespaced_with(cluster.client(), namespace, &resource),
                (None, _) => Api::all_with(cluster.client(), &resource),
            };
            if capabilities.supports_operation(verbs::DELETE) {
                search.made(&api, &resource, &capabilities.scope).await;
            }
            if capabilities.supports_operation(verbs::PATCH) {
                search.changed(&api, &resource).await;
            }
        }
    }
    search.found.sort_by_key(|(rank, _)| *rank);
    let mut undos: Vec<Undo> = Vec::new();
    for (_, undo) in search.found {
        if !undos.contains(&undo) {
            undos.push(undo);
        }
    }
    Ok(Labelled {
        undos,
        unreadable: search.unreadable,
    })
}

impl Search<'_> {
    async fn list(&mut self, api: &Api<DynamicObject>, resource: &ApiResource, selector: String) -> Vec<ObjectMeta> {
        let selector = match self.run {
            Some(run) => format!("{selector},{RUN_LABEL}={run}"),
            None => selector,
        };
        let parameters = ListParams::default().labels(&selector);
        let attempted = format!("list {}", resource.plural);
        match self.cluster.call(attempted, api.list_metadata(&parameters)).await {
            Ok(listed) => listed.items.into_iter().map(|object| object.metadata).collect(),
            Err(error) if matches!(error.failed, Failed::NotFound | Failed::Rejected(405)) => Vec::new(),
            Err(error) => {
                let why = error.to_string();
                if !self.unreadable.contains(&why) {
                    self.unreadable.push(why);
                }
                Vec::new()
            }
        }
    }

    /// Objects that chaosrun made.
    async fn made(&mut self, api: &Api<DynamicObject>, resource: &ApiResource, scope: &Scope) {
        let selector = format!("{MANAGED_BY_LABEL}={MANAGED_BY_VALUE}");
        for metadata in self.list(api, resource, selector).await {
            // The same object may be served by two groups (events).
            if !self.seen.insert(metadata.uid.clone()) {
                continue;
            }
            let name = metadata.name.unwrap_or_default();
            let purpose = metadata.labels.as_ref().and_then(|labels| labels.get(PURPOSE_LABEL));
            let purpose = purpose.map(String::as_str);
            if let ("ConfigMap", Some("journal" | "record"), Some(namespace)) =
                (resource.kind.as_str(), purpose, &metadata.namespace)
            {
                let is_record = purpose == Some("record");
                self.read_undos(namespace, &name, is_record).await;
                if is_record {
                    continue;
                }
            }
            let rank = match purpose {
                Some("guard" | "journal" | "lock") => rank::GUARD,
                Some("setup") if matches!(scope, Scope::Namespaced) => rank::SETUP,
                Some("setup") => rank::CLUSTER_SETUP,
                _ => rank::FAULT,
            };
            let undo = Undo::DeleteObject {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                plural: resource.plural.clone(),
                namespace: metadata.namespace,
                name,
            };
            self.found.push((rank, undo));
        }
    }

    /// What a journal or a record says.
    async fn read_undos(&mut self, namespace: &str, name: &str, is_record: bool) {
        let api: Api<ConfigMap> = Api::namespaced(self.cluster.client(), namespace);
        let attempted = format!("read ConfigMap {namespace}/{name}");
        let map = match self.cluster.call_opt(attempted.clone(), api.get(name)).await {
            Ok(Some(map)) => map,
            Ok(None) => return,
            Err(error) => {
                self.unreadable.push(error.to_string());
                return;
            }
        };
        let text = map
            .data
            .unwrap_or_default()
            .remove(UNDOS_KEY)
            .unwrap_or_else(|| "[]".to_owned());
        match serde_json::from_str::<Vec<Undo>>(&text) {
            Ok(undos) if is_record => self.found.push((
                rank::RECORD,
                Undo::Record {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    undos,
                },
            )),
            Ok(undos) => {
                let inside = undos.into_iter().filter(|undo| matches!(undo, Undo::Inside { .. }));
                self.found.extend(inside.map(|undo| (rank::INSIDE, undo)));
            }
            Err(error) => self.unreadable.push(format!(
                "cannot {attempted}: {UNDOS_KEY} is not understood ({error}); it may be of another version of chaosrun"
            )),
        }
    }

    /// Objects of others that chaosrun changed.
    async fn changed(&mut self, api: &Api<DynamicObject>, resource: &ApiResource) {
        for metadata in self.list(api, resource, FAULTED_LABEL.to_owned()).await {
            let undo = Undo::Restore {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                plural: resource.plural.clone(),
                namespace: metadata.namespace,
                name: metadata.name.unwrap_or_default(),
            };
            self.found.push((rank::CHANGED, undo));
        }
    }
}
