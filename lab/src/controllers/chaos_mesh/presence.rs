//! Which parts of the double are there: its definitions, a ready controller-manager, a ready daemon on a node.
//!
//! Depends on the store for reading only, because admission has to know at once and cannot wait for a watch. Central type:
//! [`Presence`]. They are real objects of the lab, so that taking one away is a real operation and no flag.

use std::sync::{Arc, Weak};

use serde_json::Value;
use tokio::sync::watch;

use super::kinds::{GROUP, Kind, VERSION};
use crate::api::object::{array_at, is_deleting, str_at};
use crate::api::{AdmissionRequest, ApiServer, ObjectKey};

/// Where the pods of the double are.
pub(super) const NAMESPACE: &str = "chaos-mesh";
/// Storage keys whose changes can change the presence.
const PODS: &str = "/pods";
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
const COMPONENT: &str = "/metadata/labels/app.kubernetes.io~1component";

/// A look at what there is now. Holds the server weakly, because the server holds it.
#[derive(Debug, Clone)]
pub(super) struct Presence {
    server: Weak<ApiServer>,
}

impl Presence {
    pub(super) fn new(server: &Arc<ApiServer>) -> Self {
        Self {
            server: Arc::downgrade(server),
        }
    }

    /// Whether a kind is served.
    pub(super) fn serves(&self, kind: Kind) -> bool {
        self.server
            .upgrade()
            .is_some_and(|server| server.registry().get(GROUP, VERSION, kind.plural).is_some())
    }

    fn component(&self, component: &str, accept: impl Fn(&Value) -> bool) -> bool {
        self.server.upgrade().is_some_and(|server| {
            server.store().list(PODS, Some(NAMESPACE)).objects.iter().any(|pod| {
                str_at(&pod.value, COMPONENT) == Some(component) && is_ready(&pod.value) && accept(&pod.value)
            })
        })
    }

    /// A ready controller-manager.
    pub(super) fn has_controller(&self) -> bool {
        self.component("controller-manager", |_| true)
    }

    /// A ready daemon on a node.
    pub(super) fn has_daemon(&self, node: &str) -> bool {
        self.component("chaos-daemon", |pod| str_at(pod, "/spec/nodeName") == Some(node))
    }

    /// Whether a webhook configuration stands in front of the API.
    pub(super) fn has_webhook(&self, plural: &str, name: &str) -> bool {
        self.server.upgrade().is_some_and(|server| {
            let storage = format!("admissionregistration.k8s.io/{plural}");
            server.store().get(&storage, &ObjectKey::new("", name)).is_some()
        })
    }

    /// Whether who asks may create a kind in a namespace; nobody may when the server is gone.
    pub(super) fn may_create(&self, request: &AdmissionRequest<'_>, kind: &str, namespace: &str) -> bool {
        self.server
            .upgrade()
            .is_some_and(|server| request.user_may_create(&server, (GROUP, kind), namespace))
    }

    /// One object of the core group, as it is stored.
    pub(super) fn core_object(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<crate::api::Stored>> {
        let server = self.server.upgrade()?;
        server
            .store()
            .get(&format!("/{plural}"), &ObjectKey::new(namespace, name))
    }

    /// Tells when something changed that may matter; `None` when the server is gone.
    pub(super) fn changes(&self) -> Option<Changes> {
        let server = self.server.upgrade()?;
        let notifier = |storage: &str| server.store().notifier(&Arc::from(storage));
        Some(Changes {
            pods: notifier(PODS),
            definitions: notifier(DEFINITIONS),
        })
    }
}

/// Changes since the last call; made before the first look, so that none is missed.
pub(super) struct Changes {
    pods: watch::Receiver<u64>,
    definitions: watch::Receiver<u64>,
}

impl Changes {
    /// Waits for the next one; `false` when the server is gone.
    pub(super) async fn next(&mut self) -> bool {
        tokio::select! {
            changed = self.pods.changed() => changed.is_ok(),
            changed = self.definitions.changed() => changed.is_ok(),
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = array_at(pod, "/status/conditions");
    let ready =
        |condition: &Value| str_at(condition, "/type") == Some("Ready") && str_at(condition, "/status") == Some("True");
    !is_deleting(pod) && conditions.iter().any(ready)
}
