//! A pod reduced to the facts that recovery is measured from. Identity is by UID, owner and role, never by name alone.

use serde::{Deserialize, Serialize};

/// A pod's role within the target, such as `driver` or `executor`; `any` where the target has no roles.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Role(pub String);

/// Namespace, name and UID of one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// The controlling owner of a pod (or the first owner when none is marked as controller).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Kind, such as `ReplicaSet`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// State of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ContainerState {
    /// Not started, with the reason (`CrashLoopBackOff`, `ContainerCreating` ...).
    Waiting {
        /// Reason, empty when the kubelet gave none.
        reason: String,
    },
    /// Running since the stamp (whole seconds, node's clock).
    Running {
        /// RFC 3339 stamp.
        started_at: Option<String>,
    },
    /// Ended.
    Terminated {
        /// Exit code (128 + signal).
        exit_code: i32,
        /// `Error`, `Completed`, `OOMKilled` ...
        reason: String,
    },
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "ContainerFields")]
pub struct ContainerFacts {
    /// Name.
    pub name: String,
    /// Runtime id, new with each restart; empty before the first start.
    pub container_id: String,
    /// How often it was restarted inside this pod.
    pub restarts: i32,
    /// Readiness of the container.
    pub ready: bool,
    /// Present state.
    #[serde(flatten)]
    pub state: ContainerState,
}

/// What one watch event says of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "PodFields")]
pub struct PodFacts {
    /// Identity.
    #[serde(flatten)]
    pub pod: PodName,
    /// Role within the target, decided when the event was received; `None` for a bystander.
    pub role: Option<Role>,
    /// Belongs to the target's present generation by owner chain or (Spark) submission id; bystanders do not.
    pub member: bool,
    /// Controlling owner.
    pub owner: Option<Owner>,
    /// `metadata.resourceVersion` as a number, when it is one.
    pub resource_version: Option<u64>,
    /// `status.phase`.
    pub phase: String,
    /// Condition `Ready`.
    pub ready: bool,
    /// Condition `PodScheduled`.
    pub scheduled: bool,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// `metadata.creationTimestamp`, RFC 3339, whole seconds, the API server's clock.
    pub created_at: Option<String>,
    /// `metadata.deletionTimestamp` (request time plus grace period).
    pub deletion_at: Option<String>,
    /// `metadata.deletionGracePeriodSeconds`.
    pub deletion_grace_seconds: Option<i64>,
    /// `status.reason`, such as `Evicted`.
    pub reason: Option<String>,
    /// Containers.
    pub containers: Vec<ContainerFacts>,
    /// Run of the application that this pod belongs to (Spark: submission id).
    pub generation: Option<String>,
}

/// [`ContainerFacts`] as it is written. A log holds many: flattened parts would be collected first and looked at again.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerFields {
    name: String,
    container_id: String,
    restarts: i32,
    ready: bool,
    state: StateWord,
    reason: Option<String>,
    started_at: Option<String>,
    exit_code: Option<i32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum StateWord {
    Waiting,
    Running,
    Terminated,
}

impl TryFrom<ContainerFields> for ContainerFacts {
    type Error = &'static str;

    fn try_from(fields: ContainerFields) -> Result<Self, Self::Error> {
        let reason = fields.reason.ok_or("missing field `reason`");
        Ok(Self {
            name: fields.name,
            container_id: fields.container_id,
            restarts: fields.restarts,
            ready: fields.ready,
            state: match fields.state {
                StateWord::Waiting => ContainerState::Waiting { reason: reason? },
                StateWord::Running => ContainerState::Running {
                    started_at: fields.started_at,
                },
                StateWord::Terminated => ContainerState::Terminated {
                    exit_code: fields.exit_code.ok_or("missing field `exitCode`")?,
                    reason: reason?,
                },
            },
        })
    }
}

/// [`PodFacts`] as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodFields {
    namespace: String,
    name: String,
    uid: String,
    role: Option<Role>,
    member: bool,
    owner: Option<Owner>,
    resource_version: Option<u64>,
    phase: String,
    ready: bool,
    scheduled: bool,
    node: Option<String>,
    created_at: Option<String>,
    deletion_at: Option<String>,
    deletion_grace_seconds: Option<i64>,
    reason: Option<String>,
    containers: Vec<ContainerFacts>,
    generation: Option<String>,
}

impl From<PodFields> for PodFacts {
    fn from(fields: PodFields) -> Self {
        Self {
            pod: PodName {
                namespace: fields.namespace,
                name: fields.name,
                uid: fields.uid,
            },
            role: fields.role,
            member: fields.member,
            owner: fields.owner,
            resource_version: fields.resource_version,
            phase: fields.phase,
            ready: fields.ready,
            scheduled: fields.scheduled,
            node: fields.node,
            created_at: fields.created_at,
            deletion_at: fields.deletion_at,
            deletion_grace_seconds: fields.deletion_grace_seconds,
            reason: fields.reason,
            containers: fields.containers,
            generation: fields.generation,
        }
    }
}
