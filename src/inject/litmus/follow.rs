//! Reads what Litmus says about one engine, again and again, until nobody listens any more.

use super::super::stage::{GuardOwner, Stage};
use super::API_VERSION;
use super::prepare::Plan;
use super::status::Read;
use crate::cluster::api_of;
use crate::model::Mono;
use k8s_openapi::api::core::v1::Event as ClusterEvent;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;

const PAUSE: Duration = Duration::from_millis(200);
/// Events are asked for less often: they date nothing exactly.
const PAUSE_OF_EVENTS: Duration = Duration::from_secs(1);

/// What was last read.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// When it was asked for, and when the answers were there.
    pub(super) within: Option<(Mono, Mono)>,
    /// The result by name, whoever wrote it.
    result: Option<Value>,
    uid: String,
    /// Litmus wrote `ChaosInject`: after the injection for what a helper in the network does, before it for all else.
    pub(super) inject_event: bool,
    /// Why no fault will come of it any more.
    pub(super) hopeless: Option<String>,
}

impl Seen {
    /// Whether Litmus says that a pod is injected.
    pub(super) fn is_marked(&self, pod: &str) -> bool {
        let read = Read {
            result: self.result.as_ref(),
            uid: &self.uid,
            ..Read::default()
        };
        read.is_marked(pod)
    }
}

/// One engine and where its news goes.
pub(super) struct Follower<'a> {
    pub(super) stage: &'a Stage,
    pub(super) plan: &'a Plan,
    pub(super) guard: &'a GuardOwner,
    pub(super) token: &'a str,
    pub(super) tell: watch::Sender<Seen>,
}

impl Follower<'_> {
    /// Never ends: whoever listens stops it.
    pub(super) async fn run(self, uid: String, created: Mono) -> std::convert::Infallible {
        let clock = self.stage.recorder.clock();
        let mut ended: Option<Mono> = None;
        let mut events = (false, None);
        let mut events_due = created;
        let mut adopted = false;
        loop {
            let asked = clock.now();
            if asked >= events_due {
                events = self.events(&uid).await.unwrap_or(events);
                events_due = clock.now().plus(PAUSE_OF_EVENTS);
            }
            // Unreadable for a moment: the next reading counts.
            if let (Ok(engine), Ok(result)) = (self.read("ChaosEngine", self.token).await, self.result().await) {
                let now = clock.now();
                let mut read = Read {
                    engine: engine.as_ref(),
                    result: result.as_ref(),
                    uid: &uid,
                    warning: events.1.as_deref(),
                    age: now.since(created),
                    ended: None,
                };
                if !adopted && let Some(own) = read.own_result() {
                    adopted = self.adopt(own).await;
                }
                if read.is_at_an_end() {
                    read.ended = Some(now.since(*ended.get_or_insert(now)));
                }
                let hopeless = read.hopeless();
                self.tell.send_replace(Seen {
                    within: Some((asked, now)),
                    uid: uid.clone(),
                    inject_event: events.0,
                    hopeless,
                    result,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let plural = format!("{}s", kind.to_lowercase());
        api_of(
            &self.stage.cluster,
            (API_VERSION, kind, &plural),
            Some(&self.stage.namespace),
        )
    }

    async fn read(&self, kind: &str, name: &str) -> Result<Option<Value>, ()> {
        let api = self.api(kind);
        let found = self
            .stage
            .cluster
            .call_opt(format!("read {kind} {name}"), api.get(name))
            .await;
        match found {
            Ok(found) => Ok(found.and_then(|object| serde_json::to_value(object).ok())),
            Err(error) => {
                tracing::debug!(%error, "Litmus could not be followed");
                Err(())
            }
        }
    }

    async fn result(&self) -> Result<Option<Value>, ()> {
        let name = format!("{}-{}", self.token, self.plan.experiment.name);
        self.read("ChaosResult", &name).await
    }

    /// A result has no owner and would outlive its engine: the guard becomes one.
    async fn adopt(&self, result: &Value) -> bool {
        let Some(name) = result.pointer("/metadata/name").and_then(Value::as_str) else {
            return false;
        };
        let mut ours = self.stage.owned(name, self.guard);
        if let Some(map) = ours.as_object_mut() {
            map.retain(|key, _| matches!(key.as_str(), "labels" | "ownerReferences"));
        }
        let patch = json!({"metadata": ours});
        let api = self.api("ChaosResult");
        let attempted = format!("give ChaosResult {name} an owner");
        let parameters = PatchParams::default();
        let patched = self
            .stage
            .cluster
            .call(attempted, api.patch(name, &parameters, &Patch::Merge(&patch)))
            .await;
        if let Err(error) = &patched {
            tracing::debug!(%error, "a ChaosResult was not adopted");
        }
        patched.is_ok()
    }

    /// Whether Litmus announced the injection, and its newest complaint.
    async fn events(&self, uid: &str) -> Option<(bool, Option<String>)> {
        let api: Api<ClusterEvent> = Api::namespaced(self.stage.cluster.client(), &self.stage.namespace);
        let parameters = ListParams::default().fields(&format!("involvedObject.name={}", self.token));
        let listed = self
            .stage
            .cluster
            .call("list events", api.list(&parameters))
            .await
            .ok()?;
        let mut own: Vec<ClusterEvent> = listed.items;
        own.retain(|event| event.involved_object.uid.as_deref().is_none_or(|held| held == uid));
        own.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        let injected = own.iter().any(|event| event.reason.as_deref() == Some("ChaosInject"));
        let warning = own
            .into_iter()
            .rev()
            .find(|event| event.type_.as_deref() == Some("Warning"));
        Some((injected, warning.and_then(|event| event.message)))
    }
}
