//! The pods of the target's namespace, by one LIST and one WATCH.

use super::facts::pod_facts;
use super::target::Membership;
use crate::cluster::{Cluster, WatchMessage};
use crate::evidence::{Event, Seen};
use crate::model::{ContainerState, Mono, PodFacts};
use crate::world::{RecordError, Recorder};
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// A pod as it is now (or was when it went away).
#[derive(Debug, Clone)]
pub(crate) struct LivePod {
    /// Facts, shared with the live timeline.
    pub(crate) facts: Arc<PodFacts>,
    /// Address.
    pub(crate) ip: Option<String>,
    /// What it shares with the other pods of its template.
    pub(crate) template: Arc<Template>,
    /// When it was seen to be gone.
    pub(crate) gone: Option<Mono>,
    /// Receipt of the last word on it.
    pub(crate) at: Mono,
}

/// What the pods of one template have in common, kept once for all of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Names of the containers, in order.
    pub(crate) containers: Vec<String>,
    /// Images of the containers.
    pub(crate) images: Vec<String>,
}

impl LivePod {
    /// Ready, and not on its way out.
    pub(crate) fn serves(&self) -> bool {
        self.gone.is_none() && self.facts.ready && self.facts.deletion_at.is_none()
    }

    /// Ended for good, or gone.
    pub(crate) fn ended(&self) -> bool {
        self.gone.is_some() || matches!(self.facts.phase.as_str(), "Failed" | "Succeeded")
    }

    /// Facts of one container (the first one when not named).
    pub(crate) fn container(&self, name: Option<&str>) -> Option<&crate::model::ContainerFacts> {
        let wanted = name.or_else(|| self.template.containers.first().map(String::as_str))?;
        self.facts.containers.iter().find(|container| container.name == wanted)
    }

    /// Has the named container ended since it had this runtime id?
    pub(crate) fn container_ended(&self, name: Option<&str>, id: Option<&str>, restarts: i32) -> bool {
        if self.ended() {
            return true;
        }
        self.container(name).is_some_and(|container| {
            container.restarts > restarts
                || id.is_some_and(|id| !container.container_id.is_empty() && container.container_id != id)
                || matches!(container.state, ContainerState::Terminated { .. })
        })
    }
}

/// The present pods, shared with whoever has to pick one. Members of the target and pods that read the ledger.
#[derive(Clone)]
pub(crate) struct PodIndex {
    pods: Arc<Mutex<BTreeMap<String, LivePod>>>,
    changed: Arc<watch::Sender<u64>>,
    /// The first list is in: before, that a pod is not known says nothing.
    listed: Arc<AtomicBool>,
}

impl PodIndex {
    pub(crate) fn new() -> Self {
        Self {
            pods: Arc::default(),
            changed: Arc::new(watch::channel(0).0),
            listed: Arc::default(),
        }
    }

    fn update<T>(&self, change: impl FnOnce(&mut BTreeMap<String, LivePod>) -> T) -> T {
        let result = change(&mut self.pods.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
        result
    }

    /// Whether the first list is in.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// Wakes up at every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// One pod.
    pub(crate) fn get(&self, uid: &str) -> Option<LivePod> {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .cloned()
    }

    /// What `read` makes of the pods that are still there. Only what it returns is copied: there may be thousands.
    fn read<T>(&self, read: impl FnOnce(&mut dyn Iterator<Item = &LivePod>) -> T) -> T {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        read(&mut pods.values().filter(|pod| pod.gone.is_none()))
    }

    /// Every pod that is still there, in order of name.
    pub(crate) fn present(&self) -> Vec<LivePod> {
        let mut present: Vec<LivePod> = self.read(|pods| pods.cloned().collect());
        present.sort_by(|a, b| a.facts.pod.cmp(&b.facts.pod));
        present
    }

    /// The newest member of a role that has neither ended nor been asked to go.
    pub(crate) fn member(&self, role: Option<&crate::model::Role>) -> Option<LivePod> {
        self.read(|pods| {
            pods.filter(|pod| pod.facts.member && (role.is_none() || pod.facts.role.as_ref() == role))
                .filter(|pod| pod.facts.deletion_at.is_none() && !pod.ended())
                .max_by_key(|pod| (&pod.facts.created_at, &pod.facts.pod))
                .cloned()
        })
    }

    /// A ready pod with all of these labels: the first by name.
    pub(crate) fn ready_with(&self, labels: &[(String, String)]) -> Option<LivePod> {
        self.read(|pods| {
            pods.filter(|pod| pod.serves())
                .filter(|pod| {
                    labels
                        .iter()
                        .all(|(key, value)| pod.template.labels.get(key) == Some(value))
                })
                .min_by_key(|pod| &pod.facts.pod)
                .cloned()
        })
    }
}

/// Turns watch messages into events and keeps the index.
pub(crate) struct PodObserver {
    pub(crate) cluster: Cluster,
    pub(crate) recorder: Recorder,
    pub(crate) membership: Membership,
    pub(crate) index: PodIndex,
    /// Labels of the ledger's reader pods, which are kept in the index too.
    pub(crate) reader: Option<Vec<(String, String)>>,
    /// UIDs in the pages so far of the list that is coming in.
    pub(crate) listed: HashSet<String>,
    /// Template of the pod before: the next one often has the same.
    pub(crate) template: Option<Arc<Template>>,
}

impl PodObserver {
    /// Runs until the watch ends.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<WatchMessage<Pod>>) -> Result<(), RecordError> {
        while let Some(message) = messages.recv().await {
            match message {
                WatchMessage::Listed {
                    at,
                    page,
                    last,
                    gap_from,
                    objects,
                    room,
                } => {
                    if page == 0 {
                        self.listed.clear();
                        self.gap(at, gap_from.as_ref())?;
                    }
                    let not_before = gap_from.map(|(from, _)| from);
                    self.page(at, not_before, objects).await?;
                    if last {
                        self.vanish(at, not_before)?;
                    }
                    drop(room);
                }
                WatchMessage::Added(at, pod) => self.seen(Seen::Added, at, None, &pod).await?,
                WatchMessage::Modified(at, pod) => {
                    self.seen(Seen::Modified, at, None, &pod).await?;
                }
                WatchMessage::Deleted(at, pod) => self.seen(Seen::Deleted, at, None, &pod).await?,
                WatchMessage::Broken { from, why } => {
                    self.recorder.record(Event::WatchBroken {
                        kind: "pods".to_owned(),
                        subject: None,
                        from,
                        why,
                    })?;
                }
                WatchMessage::Resumed { from, to, why } => {
                    self.recorder.record(Event::WatchGap {
                        kind: "pods".to_owned(),
                        subject: None,
                        from,
                        to,
                        resumed: true,
                        why,
                    })?;
                }
            }
        }
        Ok(())
    }

    fn gap(&self, at: Mono, gap_from: Option<&(Mono, String)>) -> Result<(), RecordError> {
        let Some((from, why)) = gap_from else { return Ok(()) };
        self.recorder.record(Event::WatchGap {
            kind: "pods".to_owned(),
            subject: None,
            from: *from,
            to: at,
            resumed: false,
            why: why.clone(),
        })
    }

    async fn page(&mut self, at: Mono, not_before: Option<Mono>, pods: Vec<Pod>) -> Result<(), RecordError> {
        for pod in pods {
            self.seen(Seen::Listed, at, not_before, &pod).await?;
            self.listed.extend(pod.metadata.uid);
        }
        Ok(())
    }

    /// The list is complete: what was in none of its pages is gone.
    fn vanish(&mut self, at: Mono, not_before: Option<Mono>) -> Result<(), RecordError> {
        let listed = std::mem::take(&mut self.listed);
        let missing: Vec<Arc<PodFacts>> = self.index.read(|pods| {
            pods.filter(|pod| !listed.contains(&pod.facts.pod.uid))
                .map(|pod| Arc::clone(&pod.facts))
                .collect()
        });
        for facts in missing {
            self.index.update(|pods| {
                if let Some(held) = pods.get_mut(&facts.pod.uid) {
                    held.gone = Some(at);
                    held.at = at;
                }
            });
            self.recorder.record(Event::PodSeen {
                seen: Seen::Vanished,
                at,
                not_before,
                pod: facts,
            })?;
        }
        self.index.listed.store(true, Ordering::Release);
        Ok(())
    }

    async fn seen(&mut self, seen: Seen, at: Mono, not_before: Option<Mono>, pod: &Pod) -> Result<(), RecordError> {
        let labels = pod.metadata.labels.as_ref();
        let selected = self.membership.target.selects(pod);
        let reads = self.reader.as_ref().is_some_and(|reader| {
            reader
                .iter()
                .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        });
        if !selected && !reads {
            return Ok(());
        }
        let member = selected && self.membership.is_member(&self.cluster, pod).await;
        let role = if selected {
            self.membership.target.role(pod)
        } else {
            None
        };
        let generation = self.membership.target.generation(pod);
        let facts = Arc::new(pod_facts(pod, role, member, generation));
        let live = LivePod {
            gone: (seen == Seen::Deleted).then_some(at),
            ..live_pod(pod, Arc::clone(&facts), at, &mut self.template)
        };
        self.index.update(|pods| {
            // Pods that are gone are kept a while for whoever waits for their end, but not without bound.
            if pods.len() > 20_000 {
                pods.retain(|_, pod| pod.gone.is_none());
            }
            pods.insert(facts.pod.uid.clone(), live);
        });
        if selected {
            self.recorder.record(Event::PodSeen {
                seen,
                at,
                not_before,
                pod: facts,
            })?;
        }
        Ok(())
    }
}

fn live_pod(pod: &Pod, facts: Arc<PodFacts>, at: Mono, before: &mut Option<Arc<Template>>) -> LivePod {
    let spec = pod.spec.as_ref();
    let of_containers = |read: fn(&k8s_openapi::api::core::v1::Container) -> Option<String>| {
        spec.map(|spec| spec.containers.iter().filter_map(read).collect())
            .unwrap_or_default()
    };
    let template = Template {
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        containers: of_containers(|held| Some(held.name.clone())),
        images: of_containers(|held| held.image.clone()),
    };
    let template = match before {
        Some(same) if **same == template => Arc::clone(same),
        _ => Arc::clone(before.insert(Arc::new(template))),
    };
    LivePod {
        ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
        template,
        gone: None,
        at,
        facts,
    }
}

/// The target's pods right now, by one LIST.
///
/// # Errors
/// When the cluster cannot be asked.
pub(crate) async fn list_members(
    cluster: &Cluster,
    target: super::target::ResolvedTarget,
) -> Result<Vec<LivePod>, crate::cluster::ClusterError> {
    let api: kube::Api<Pod> = kube::Api::namespaced(cluster.client(), &target.namespace);
    let parameters = kube::api::ListParams::default().labels(&target.selector);
    let attempted = format!("list pods in namespace {}", target.namespace);
    let pods = cluster.call(attempted, api.list(&parameters)).await?;
    let mut membership = Membership::new(target);
    let mut members = Vec::new();
    let mut template = None;
    for pod in &pods.items {
        if membership.is_member(cluster, pod).await {
            let facts = pod_facts(
                pod,
                membership.target.role(pod),
                true,
                membership.target.generation(pod),
            );
            members.push(live_pod(pod, Arc::new(facts), Mono::default(), &mut template));
        }
    }
    Ok(members)
}
