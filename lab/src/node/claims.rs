//! Binds claims to volumes that are folders of the host, and removes the folders again. Depends on kube.
//!
//! Contract: a claim without a volume gets one at once, whatever its storage class asks; a volume made here whose
//! policy is Delete goes, with its folder, when its claim goes.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::error::NodeError;

/// Marks the volumes that were made here.
const PROVISIONER: &str = "chaosrun.dev/host-folder";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Follows all claims for ever.
pub(crate) async fn bind_all(client: Client, folder: PathBuf) {
    let api: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let outcome = match event {
            Ok(watcher::Event::Apply(claim) | watcher::Event::InitApply(claim)) => bind(&client, &folder, &claim).await,
            Ok(watcher::Event::Delete(claim)) => release(&client, &claim).await,
            Ok(watcher::Event::Init | watcher::Event::InitDone) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the watch on claims was interrupted");
                Ok(())
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(error = %error.chain(), "claim not handled");
        }
    }
}

/// Gives a claim its volume.
async fn bind(client: &Client, folder: &Path, claim: &PersistentVolumeClaim) -> Result<(), NodeError> {
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if bound || claim.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let name = claim.name_any();
    let namespace = claim.namespace().unwrap_or_default();
    let spec = claim.spec.clone().unwrap_or_default();
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let chosen = spec.volume_name.clone().filter(|volume| !volume.is_empty());
    let volume_name = chosen
        .clone()
        .unwrap_or_else(|| format!("pvc-{}", claim.uid().unwrap_or_default()));
    if chosen.is_none() {
        let path = folder.join(format!("{namespace}-{name}-{}", claim.uid().unwrap_or_default()));
        create_open(&path)?;
        let volume = volume(&volume_name, &path, claim)?;
        match volumes.create(&PostParams::default(), &volume).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(NodeError::api(format!("create volume {volume_name}"))(error));
            }
        }
    }
    let phase = json!({ "status": { "phase": "Bound" } });
    volumes
        .patch_status(&volume_name, &PatchParams::default(), &Patch::Merge(&phase))
        .await
        .map_err(NodeError::api(format!("bind volume {volume_name}")))?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({ "spec": { "volumeName": volume_name } });
    claims
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(NodeError::api(format!("bind claim {name}")))?;
    let capacity = spec
        .resources
        .and_then(|resources| resources.requests)
        .unwrap_or_default();
    let status = json!({ "status": { "phase": "Bound", "accessModes": spec.access_modes, "capacity": capacity } });
    claims
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .map_err(NodeError::api(format!("bind claim {name}")))
        .map(drop)
}

fn create_open(path: &Path) -> Result<(), NodeError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).map_err(NodeError::io("create the folder", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
        .map_err(NodeError::io("set the mode of", path))
}

fn volume(name: &str, path: &Path, claim: &PersistentVolumeClaim) -> Result<PersistentVolume, NodeError> {
    let spec = claim.spec.clone().unwrap_or_default();
    let value = json!({
        "metadata": { "name": name, "annotations": { PROVISIONED_BY: PROVISIONER } },
        "spec": {
            "capacity": spec.resources.and_then(|resources| resources.requests).unwrap_or_default(),
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec.storage_class_name.unwrap_or_default(),
            "volumeMode": "Filesystem",
            "hostPath": { "path": path, "type": "DirectoryOrCreate" },
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "name": claim.name_any(), "namespace": claim.namespace(), "uid": claim.uid(),
            },
        },
    });
    serde_json::from_value(value).map_err(|error| NodeError::Pod(format!("volume {name}: {error}")))
}

/// Removes the volume of a claim that is gone.
async fn release(client: &Client, claim: &PersistentVolumeClaim) -> Result<(), NodeError> {
    let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()) else {
        return Ok(());
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let Some(volume) = volumes
        .get_opt(&name)
        .await
        .map_err(NodeError::api(format!("read volume {name}")))?
    else {
        return Ok(());
    };
    let ours = volume
        .annotations()
        .get(PROVISIONED_BY)
        .is_some_and(|by| by == PROVISIONER);
    let spec = volume.spec.unwrap_or_default();
    if !ours || spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        let phase = json!({ "status": { "phase": "Released" } });
        return volumes
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&phase))
            .await
            .map_err(NodeError::api(format!("release volume {name}")))
            .map(drop);
    }
    if let Some(host) = spec.host_path
        && let Err(error) = std::fs::remove_dir_all(&host.path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(NodeError::io("remove the folder", &host.path)(error));
    }
    volumes
        .delete(&name, &DeleteParams::default())
        .await
        .map_err(NodeError::api(format!("delete volume {name}")))
        .map(drop)
}
