//! The volumes of a pod as folders of the host. Depends on kube (config maps, secrets, claims, tokens).
//!
//! Central function: [`prepare`]. Contract: like a kubelet's mount step it is all or nothing and may be tried again:
//! a pod may exist before its config map does. Files of config maps and secrets are switched atomically by a symbolic
//! link, so a running container never sees a half-written update.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, PersistentVolume, PersistentVolumeClaim, Pod,
    Secret, ServiceAccount, Volume, VolumeProjection,
};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::environment::{field_value, service_account};
use super::error::NodeError;
use super::quantity;

/// Where a kubelet puts a pod's credentials.
pub(crate) const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Kubelets ask for an hour and renew; the lab asks for long enough not to have to.
const TOKEN_SECONDS: i64 = 365 * 24 * 3600;

/// What volumes depend on beside the pod.
pub(crate) struct Source<'a> {
    pub client: &'a Client,
    pub pod: &'a Pod,
    /// Folder for this pod on disk.
    pub folder: &'a Path,
    /// Folder for this pod where memory-backed volumes are mounted.
    pub memory_folder: &'a Path,
    pub pod_address: Ipv4Addr,
    pub host_address: Ipv4Addr,
    /// The API server's certificate authority, PEM.
    pub authority: &'a str,
}

/// A prepared volume.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub path: PathBuf,
    pub read_only: bool,
}

/// File name (may contain folders), content and mode.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// Prepares all volumes of the pod, by name. The credentials come under the name of their mount point.
pub(crate) async fn prepare(source: &Source<'_>) -> Result<BTreeMap<String, Prepared>, NodeError> {
    let mut prepared = BTreeMap::new();
    let spec = source.pod.spec.as_ref();
    for volume in spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        prepared.insert(volume.name.clone(), one(source, volume).await?);
    }
    let group = spec
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.fs_group);
    if let Some(group) = group.and_then(|group| u32::try_from(group).ok()) {
        for volume in spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let owned = volume.empty_dir.is_some() || volume.persistent_volume_claim.is_some();
            if let (true, Some(prepared)) = (owned, prepared.get(&volume.name)) {
                give_to_group(&prepared.path, group)?;
            }
        }
    }
    if let Some(credentials) = credentials(source).await? {
        prepared.insert(CREDENTIALS.to_owned(), credentials);
    }
    Ok(prepared)
}

/// Writes the volumes again that show API objects, for a running pod.
pub(crate) async fn refresh(source: &Source<'_>) -> Result<(), NodeError> {
    for volume in source.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if volume.config_map.is_some() || volume.secret.is_some() {
            one(source, volume).await?;
        }
    }
    Ok(())
}

/// Whether the pod has volumes that [`refresh`] would renew.
pub(crate) fn shows_objects(pod: &Pod) -> bool {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .any(|volume| volume.config_map.is_some() || volume.secret.is_some())
}

async fn one(source: &Source<'_>, volume: &Volume) -> Result<Prepared, NodeError> {
    let folder = source.folder.join("volumes").join(&volume.name);
    let written = |path: PathBuf| Prepared { path, read_only: true };
    if let Some(empty) = &volume.empty_dir {
        let path = if empty.medium.as_deref() == Some("Memory") {
            let size = empty.size_limit.as_ref().and_then(quantity::whole);
            memory(&source.memory_folder.join(&volume.name), size)?
        } else {
            create(&folder)?;
            folder
        };
        open_to_all(&path)?;
        return Ok(Prepared { path, read_only: false });
    }
    if let Some(map) = &volume.config_map {
        let optional = map.optional.unwrap_or(false);
        let mode = mode(map.default_mode, 0o644);
        let content = config_map(source, &map.name, optional).await?;
        write(
            &folder,
            &select(content, map.items.as_deref(), mode, optional, &map.name)?,
        )?;
        return Ok(written(folder));
    }
    if let Some(secret) = &volume.secret {
        let optional = secret.optional.unwrap_or(false);
        let name = secret.secret_name.clone().unwrap_or_default();
        let mode = mode(secret.default_mode, 0o644);
        let content = secret_data(source, &name, optional).await?;
        write(
            &folder,
            &select(content, secret.items.as_deref(), mode, optional, &name)?,
        )?;
        return Ok(written(folder));
    }
    if let Some(downward) = &volume.downward_api {
        let mut files = Files::new();
        downward_files(
            source,
            downward.items.iter().flatten(),
            mode(downward.default_mode, 0o644),
            &mut files,
        )?;
        write(&folder, &files)?;
        return Ok(written(folder));
    }
    if let Some(projected) = &volume.projected {
        let mut files = Files::new();
        for projection in projected.sources.iter().flatten() {
            project(source, projection, mode(projected.default_mode, 0o644), &mut files).await?;
        }
        write(&folder, &files)?;
        return Ok(written(folder));
    }
    if let Some(host) = &volume.host_path {
        return host_path(host).map(|path| Prepared { path, read_only: false });
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let path = claimed(source, &claim.claim_name).await?;
        return Ok(Prepared {
            path,
            read_only: claim.read_only == Some(true),
        });
    }
    if volume.ephemeral.is_some() {
        let name = format!("{}-{}", source.pod.name_any(), volume.name);
        return Ok(Prepared {
            path: claimed(source, &name).await?,
            read_only: false,
        });
    }
    Err(NodeError::Pod(format!(
        "volume {}: this kind of volume is not offered by the lab",
        volume.name
    )))
}

/// A file mode from the API, or the default.
fn mode(wanted: Option<i32>, default: u32) -> u32 {
    wanted.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o777
}

async fn config_map(
    source: &Source<'_>,
    name: &str,
    optional: bool,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, NodeError> {
    let api: Api<ConfigMap> = Api::namespaced(source.client.clone(), &source.pod.namespace().unwrap_or_default());
    let Some(map) = api
        .get_opt(name)
        .await
        .map_err(NodeError::api(format!("read config map {name}")))?
    else {
        return if optional {
            Ok(None)
        } else {
            Err(NodeError::Pod(format!("configmap \"{name}\" not found")))
        };
    };
    let text = map
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.into_bytes()));
    let binary = map
        .binary_data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0));
    Ok(Some(text.chain(binary).collect()))
}

async fn secret_data(
    source: &Source<'_>,
    name: &str,
    optional: bool,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, NodeError> {
    let api: Api<Secret> = Api::namespaced(source.client.clone(), &source.pod.namespace().unwrap_or_default());
    let Some(secret) = api
        .get_opt(name)
        .await
        .map_err(NodeError::api(format!("read secret {name}")))?
    else {
        return if optional {
            Ok(None)
        } else {
            Err(NodeError::Pod(format!("secret \"{name}\" not found")))
        };
    };
    Ok(Some(
        secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect(),
    ))
}

/// All keys as files, or the named ones at their paths.
fn select(
    content: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    name: &str,
) -> Result<Files, NodeError> {
    let mut content = content.unwrap_or_default();
    let Some(items) = items else {
        return Ok(content.into_iter().map(|(key, value)| (key, (value, mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match content.remove(&item.key) {
            Some(value) => {
                drop(files.insert(item.path.clone(), (value, self::mode(item.mode, mode))));
            }
            None if optional => {}
            None => {
                return Err(NodeError::Pod(format!(
                    "references non-existent key {} of {name}",
                    item.key
                )));
            }
        }
    }
    Ok(files)
}

fn downward_files<'a>(
    source: &Source<'_>,
    items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
    mode: u32,
    files: &mut Files,
) -> Result<(), NodeError> {
    for item in items {
        let Some(field) = &item.field_ref else {
            return Err(NodeError::Pod(format!(
                "{}: resourceFieldRef in a volume is not offered by the lab",
                item.path
            )));
        };
        let value = field_value(source.pod, &field.field_path, source.pod_address, source.host_address)?;
        files.insert(item.path.clone(), (value.into_bytes(), self::mode(item.mode, mode)));
    }
    Ok(())
}

async fn project(
    source: &Source<'_>,
    projection: &VolumeProjection,
    mode: u32,
    files: &mut Files,
) -> Result<(), NodeError> {
    if let Some(map) = &projection.config_map {
        let optional = map.optional.unwrap_or(false);
        let content = match config_map(source, &map.name, optional).await {
            // Every namespace of a cluster has this map; the lab knows its content also where nobody wrote it.
            Err(_) if map.name == "kube-root-ca.crt" => Some(BTreeMap::from([(
                "ca.crt".to_owned(),
                source.authority.as_bytes().to_vec(),
            )])),
            other => other?,
        };
        files.extend(select(content, map.items.as_deref(), mode, optional, &map.name)?);
    }
    if let Some(secret) = &projection.secret {
        let optional = secret.optional.unwrap_or(false);
        let content = secret_data(source, &secret.name, optional).await?;
        files.extend(select(content, secret.items.as_deref(), mode, optional, &secret.name)?);
    }
    if let Some(downward) = &projection.downward_api {
        downward_files(source, downward.items.iter().flatten(), mode, files)?;
    }
    if let Some(token) = &projection.service_account_token {
        let audience = token.audience.clone().into_iter().collect();
        if let Some(value) = request_token(source, audience).await? {
            files.insert(token.path.clone(), (value.into_bytes(), 0o644));
        }
    }
    Ok(())
}

/// A token of the pod's service account, `None` when there is no such account and it is the default one.
async fn request_token(source: &Source<'_>, audiences: Vec<String>) -> Result<Option<String>, NodeError> {
    let name = service_account(source.pod);
    let api: Api<ServiceAccount> = Api::namespaced(source.client.clone(), &source.pod.namespace().unwrap_or_default());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences,
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    match api.create_token_request(&name, &PostParams::default(), &request).await {
        Ok(answer) => Ok(answer.status.map(|status| status.token)),
        Err(kube::Error::Api(status)) if status.code == 404 && name == "default" => Ok(None),
        Err(error) => Err(NodeError::api(format!("get a token for service account {name}"))(error)),
    }
}

/// Token, authority and namespace, unless the pod declines them or brings its own.
async fn credentials(source: &Source<'_>) -> Result<Option<Prepared>, NodeError> {
    let Some(spec) = &source.pod.spec else {
        return Ok(None);
    };
    if spec.automount_service_account_token == Some(false) {
        return Ok(None);
    }
    let Some(token) = request_token(source, Vec::new()).await? else {
        return Ok(None);
    };
    let namespace = source.pod.namespace().unwrap_or_default();
    let files = Files::from([
        ("token".to_owned(), (token.into_bytes(), 0o644)),
        ("ca.crt".to_owned(), (source.authority.as_bytes().to_vec(), 0o644)),
        ("namespace".to_owned(), (namespace.into_bytes(), 0o644)),
    ]);
    let path = source.folder.join("credentials");
    write(&path, &files)?;
    Ok(Some(Prepared { path, read_only: true }))
}

fn create(path: &Path) -> Result<(), NodeError> {
    std::fs::create_dir_all(path).map_err(NodeError::io("create the folder", path))
}

fn open_to_all(path: &Path) -> Result<(), NodeError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
        .map_err(NodeError::io("set the mode of", path))
}

fn give_to_group(path: &Path, group: u32) -> Result<(), NodeError> {
    std::os::unix::fs::chown(path, None, Some(group)).map_err(NodeError::io("set the group of", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o2777))
        .map_err(NodeError::io("set the mode of", path))
}

/// Mounts a tmpfs, once.
fn memory(path: &Path, size: Option<i64>) -> Result<PathBuf, NodeError> {
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    create(path)?;
    let options = size.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(
        "tmpfs",
        path,
        "tmpfs",
        rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV,
        options.as_c_str(),
    )
    .map_err(NodeError::errno("mount a tmpfs on", path))?;
    Ok(path.to_path_buf())
}

/// A path of the host, of the type that the pod expects.
fn host_path(host: &HostPathVolumeSource) -> Result<PathBuf, NodeError> {
    let path = PathBuf::from(&host.path);
    let mismatch =
        |expected: &str| NodeError::Pod(format!("hostPath type check failed: {} is not a {expected}", host.path));
    match host.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => create(&path)?,
        "FileOrCreate" if !path.exists() => {
            std::fs::write(&path, b"").map_err(NodeError::io("create", &path))?;
        }
        "Directory" if !path.is_dir() => return Err(mismatch("directory")),
        "File" if !path.is_file() => return Err(mismatch("file")),
        // Container runtimes create a missing source as a folder.
        "" if !path.exists() => create(&path)?,
        _ => {}
    }
    Ok(path)
}

/// The host folder behind a claim; an error until the claim is bound.
async fn claimed(source: &Source<'_>, name: &str) -> Result<PathBuf, NodeError> {
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(source.client.clone(), &source.pod.namespace().unwrap_or_default());
    let claim = claims
        .get_opt(name)
        .await
        .map_err(NodeError::api(format!("read claim {name}")))?;
    let claim = claim.ok_or_else(|| NodeError::Pod(format!("persistentvolumeclaim \"{name}\" not found")))?;
    let volume = claim
        .spec
        .and_then(|spec| spec.volume_name)
        .filter(|volume| !volume.is_empty());
    let volume = volume.ok_or_else(|| NodeError::Pod(format!("persistentvolumeclaim \"{name}\" is not bound yet")))?;
    let volumes: Api<PersistentVolume> = Api::all(source.client.clone());
    let volume = volumes
        .get(&volume)
        .await
        .map_err(NodeError::api(format!("read volume {volume}")))?;
    let host = volume.spec.and_then(|spec| spec.host_path);
    let host = host.ok_or_else(|| NodeError::Pod(format!("the volume of claim {name} has no hostPath")))?;
    host_path(&host)
}

/// Writes files into a fresh folder and switches the visible links to it.
fn write(folder: &Path, files: &Files) -> Result<(), NodeError> {
    create(folder)?;
    let current = folder.join("..data");
    let old = std::fs::read_link(&current).ok();
    if old.as_ref().is_some_and(|old| same(&folder.join(old), files)) {
        return Ok(());
    }
    let version = format!("..{}", uuid::Uuid::new_v4().simple());
    for (name, (content, mode)) in files {
        let path = folder.join(&version).join(safe(name)?);
        if let Some(parent) = path.parent() {
            create(parent)?;
        }
        std::fs::write(&path, content).map_err(NodeError::io("write", &path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode))
            .map_err(NodeError::io("set the mode of", &path))?;
    }
    create(&folder.join(&version))?;
    let fresh = folder.join("..data_tmp");
    std::os::unix::fs::symlink(&version, &fresh).map_err(NodeError::io("link", &fresh))?;
    std::fs::rename(&fresh, &current).map_err(NodeError::io("switch", &current))?;
    let visible: std::collections::BTreeSet<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    for name in &visible {
        let link = folder.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), &link).map_err(NodeError::io("link", &link))?;
        }
    }
    if let Some(old) = old {
        let path = folder.join(old);
        std::fs::remove_dir_all(&path).map_err(NodeError::io("remove", &path))?;
    }
    remove_dangling(folder, &visible)
}

/// Removes links to keys that are gone.
fn remove_dangling(folder: &Path, visible: &std::collections::BTreeSet<&str>) -> Result<(), NodeError> {
    for entry in std::fs::read_dir(folder)
        .map_err(NodeError::io("list", folder))?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !visible.contains(name.as_str()) {
            std::fs::remove_file(entry.path()).map_err(NodeError::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Whether a version folder holds exactly these files.
fn same(folder: &Path, files: &Files) -> bool {
    let mut found = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&current) else {
            return false;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found += 1;
            }
        }
    }
    found == files.len()
        && files
            .iter()
            .all(|(name, (content, _))| std::fs::read(folder.join(name)).is_ok_and(|present| &present == content))
}

/// A path that stays inside of its volume.
pub(crate) fn safe(name: &str) -> Result<&Path, NodeError> {
    let path = Path::new(name);
    let inside = path
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if inside {
        Ok(path)
    } else {
        Err(NodeError::Pod(format!(
            "path {name:?} must be relative and must not contain '..'"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (text.as_bytes().to_vec(), 0o644)))
            .collect()
    }

    #[test]
    fn an_update_replaces_files_and_removes_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
        write(folder.path(), &files(&[("a", "1"), ("d/b", "2")])).unwrap();
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        write(folder.path(), &files(&[("a", "3")])).unwrap();
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        let before = std::fs::read_link(folder.path().join("..data")).unwrap();
        write(folder.path(), &files(&[("a", "3")])).unwrap();
        assert_eq!(
            std::fs::read_link(folder.path().join("..data")).unwrap(),
            before,
            "nothing to do"
        );
        assert!(std::fs::symlink_metadata(folder.path().join("d")).is_err());
    }

    #[test]
    fn a_path_cannot_leave_its_volume() {
        for bad in ["../x", "/x", "a/../../x"] {
            assert!(safe(bad).is_err(), "{bad}");
        }
        assert!(safe("a/b").is_ok());
    }
}
