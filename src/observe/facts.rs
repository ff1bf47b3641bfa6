//! A pod object reduced to [`PodFacts`].

use crate::model::{ContainerFacts, ContainerState, Owner, PodFacts, PodName, Role};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

pub(crate) fn pod_facts(pod: &Pod, role: Option<Role>, member: bool, generation: Option<String>) -> PodFacts {
    let metadata = &pod.metadata;
    let status = pod.status.as_ref();
    let condition = |name: &str| {
        status
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|held| held.type_ == name && held.status == "True")
            })
    };
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .or_else(|| owners.first());
    PodFacts {
        pod: PodName {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        },
        role,
        member,
        owner: owner.map(|owner| Owner {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }),
        resource_version: metadata.resource_version.as_ref().and_then(|text| text.parse().ok()),
        phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
        ready: condition("Ready"),
        scheduled: condition("PodScheduled"),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        created_at: metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()),
        deletion_at: metadata.deletion_timestamp.as_ref().map(|time| time.0.to_string()),
        deletion_grace_seconds: metadata.deletion_grace_period_seconds,
        reason: status.and_then(|status| status.reason.clone()),
        containers: status
            .and_then(|status| status.container_statuses.as_ref())
            .map(|statuses| statuses.iter().map(container_facts).collect())
            .unwrap_or_default(),
        generation,
    }
}

fn container_facts(status: &ContainerStatus) -> ContainerFacts {
    let state = status.state.as_ref();
    let state = if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        ContainerState::Terminated {
            exit_code: ended.exit_code,
            reason: ended.reason.clone().unwrap_or_default(),
        }
    } else if let Some(running) = state.and_then(|state| state.running.as_ref()) {
        ContainerState::Running {
            started_at: running.started_at.as_ref().map(|time| time.0.to_string()),
        }
    } else {
        let waiting = state.and_then(|state| state.waiting.as_ref());
        ContainerState::Waiting {
            reason: waiting.and_then(|waiting| waiting.reason.clone()).unwrap_or_default(),
        }
    };
    ContainerFacts {
        name: status.name.clone(),
        container_id: status.container_id.clone().unwrap_or_default(),
        restarts: status.restart_count,
        ready: status.ready,
        state,
    }
}
