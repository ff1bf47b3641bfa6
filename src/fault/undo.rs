//! How a fault, or an object made for it, is taken back. Data, so that log, record and `clean` hold the same value.

use crate::model::PodName;
use serde::{Deserialize, Serialize};

/// What is done to take something back. Idempotent: "gone" and "never was" succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Undo {
    /// A one-shot: the system itself has to recover, there is nothing to take back.
    Nothing,
    /// Delete an object that chaosrun made.
    DeleteObject {
        /// `group/version`, or `v1`.
        api_version: String,
        /// Kind.
        kind: String,
        /// Plural, for the URL.
        plural: String,
        /// Namespace; `None` for a cluster-wide kind.
        namespace: Option<String>,
        /// Name; fixed before the call that creates it.
        name: String,
    },
    /// Put an object back to what its own annotation says that it was.
    Restore {
        /// `group/version`, or `v1`.
        api_version: String,
        /// Kind.
        kind: String,
        /// Plural, for the URL.
        plural: String,
        /// Namespace; `None` for a cluster-wide kind.
        namespace: Option<String>,
        /// Name.
        name: String,
    },
    /// Make an object again that was deleted, unless there is one by that name.
    Recreate {
        /// The object as it was, without what the server sets.
        object: serde_json::Value,
        /// Plural, for the URL.
        plural: String,
    },
    /// End what was started inside a container.
    Inside {
        /// The exact pod; a replacement has nothing of it.
        pod: PodName,
        /// Container.
        container: String,
        /// Marks the processes of the fault.
        token: String,
        /// What else is to be done.
        also: Inside,
        /// The claim that holds the paths of `also`: another pod that mounts it will do when this one is gone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claim: Option<Claim>,
    },
    /// What a record in the cluster says, and then the record goes. For what cannot end by itself, so that it can be put back from
    /// any machine.
    Record {
        /// Namespace of the `ConfigMap`.
        namespace: String,
        /// Its name.
        name: String,
        /// What it says, in the order in which it is undone.
        undos: Vec<Undo>,
    },
}

/// A mounted volume claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Name of the `PersistentVolumeClaim`.
    pub name: String,
    /// Where the container mounts it.
    pub mount: String,
    /// Folder of the volume that is mounted there; empty for the whole.
    pub sub_path: String,
}

/// What is done inside a container beyond ending the marked processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "also", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Inside {
    /// Nothing.
    Nothing,
    /// Continue what was stopped.
    Continue,
    /// Ask the container's own program to end: the container was made for the fault, and takes it back when it ends.
    EndMain,
    /// Remove a file that the fault made.
    RemoveFile {
        /// Where.
        path: String,
    },
    /// Move back what was moved aside.
    MoveBack {
        /// Where it belongs.
        path: String,
        /// Where it is.
        aside: String,
    },
    /// Give back the permissions that were kept in a file.
    GiveBack {
        /// Whose.
        path: String,
        /// Where they are kept.
        kept: String,
    },
}

impl Inside {
    /// The same for a container that mounts the paths somewhere else.
    #[must_use]
    pub fn moved(&self, from: &str, to: &str) -> Self {
        let moved = |path: &String| match path.strip_prefix(from.trim_end_matches('/')) {
            Some(rest) => format!("{}{rest}", to.trim_end_matches('/')),
            None => path.clone(),
        };
        match self {
            Self::Nothing => Self::Nothing,
            Self::Continue => Self::Continue,
            Self::EndMain => Self::EndMain,
            Self::RemoveFile { path } => Self::RemoveFile { path: moved(path) },
            Self::MoveBack { path, aside } => Self::MoveBack {
                path: moved(path),
                aside: moved(aside),
            },
            Self::GiveBack { path, kept } => Self::GiveBack {
                path: moved(path),
                kept: moved(kept),
            },
        }
    }
}
