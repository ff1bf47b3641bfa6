//! The files and folders that a container instance needs around it: its bundle, its layer, `/etc/hosts` and the like.
//! Depends on `bundle`, `environment`, `volumes`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::bundle::Mount;
use super::container::Volumes;
use super::environment::{expand, hostname};
use super::error::NodeError;
use super::pod::PodRuntime;
use super::volumes::{CREDENTIALS, safe};

/// Folders of one container instance.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// `config.json` and the empty `rootfs`.
    pub bundle: PathBuf,
    /// `upper` and `work`, on the lab's tmpfs.
    pub layer: PathBuf,
    /// Disk-backed `/tmp`.
    pub scratch: PathBuf,
    /// The file behind `terminationMessagePath`.
    pub message: PathBuf,
}

impl Workspace {
    /// Creates the folders for an instance.
    pub(crate) fn create(runtime: &PodRuntime, container: &str, id: &str) -> Result<Self, NodeError> {
        use std::os::unix::fs::PermissionsExt;
        let state = &runtime.context.config.state_folder;
        let workspace = Self {
            bundle: state.join("bundles").join(id),
            layer: state.join("layers").join(id),
            scratch: runtime.folder.join("scratch").join(id),
            message: runtime.folder.join("messages").join(format!("{container}-{id}")),
        };
        for folder in [
            workspace.bundle.join("rootfs"),
            workspace.layer.join("upper"),
            workspace.layer.join("work"),
            workspace.scratch.clone(),
            runtime.folder.join("messages"),
        ] {
            std::fs::create_dir_all(&folder).map_err(NodeError::io("create the folder", &folder))?;
        }
        let mode = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(&workspace.scratch, mode)
            .map_err(NodeError::io("set the mode of", &workspace.scratch))?;
        std::fs::write(&workspace.message, b"").map_err(NodeError::io("create", &workspace.message))?;
        let mode = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&workspace.message, mode)
            .map_err(NodeError::io("set the mode of", &workspace.message))?;
        Ok(workspace)
    }

    /// What the container left as its last words.
    pub(crate) fn last_words(&self) -> Option<String> {
        let text = std::fs::read(&self.message).ok()?;
        let text = String::from_utf8_lossy(text.get(..text.len().min(4096))?).into_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Removes the instance's files; its log stays.
    pub(crate) fn remove(&self) {
        for folder in [&self.bundle, &self.layer, &self.scratch] {
            if let Err(error) = std::fs::remove_dir_all(folder)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %folder.display(), %error, "not removed");
            }
        }
    }
}

/// Writes `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod.
pub(crate) fn write_name_files(runtime: &PodRuntime) -> Result<(), NodeError> {
    let pod = runtime.pod();
    let folder = runtime.folder.join("etc");
    std::fs::create_dir_all(&folder).map_err(NodeError::io("create the folder", &folder))?;
    let address = runtime
        .state()
        .pod_address
        .map(|address| address.to_string())
        .unwrap_or_default();
    let name = hostname(&pod);
    let gateway = runtime.context.config.network.gateway().to_string();
    for (file, text) in [
        ("hostname", format!("{name}\n")),
        ("hosts", hosts(&pod, &address, &name, &runtime.namespace)),
        ("resolv.conf", resolver(&pod, &gateway, &runtime.namespace)),
    ] {
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(NodeError::io("write", &path))?;
    }
    Ok(())
}

fn hosts(pod: &Pod, address: &str, name: &str, namespace: &str) -> String {
    let spec = pod.spec.as_ref();
    let subdomain = spec
        .and_then(|spec| spec.subdomain.clone())
        .filter(|name| !name.is_empty());
    let own = match subdomain {
        Some(subdomain) => {
            format!("{address}\t{name}.{subdomain}.{namespace}.svc.cluster.local\t{name}\n")
        }
        None => format!("{address}\t{name}\n"),
    };
    let mut text = format!("127.0.0.1\tlocalhost\n{own}");
    for alias in spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        // Writing to a string cannot fail.
        writeln!(
            text,
            "{}\t{}",
            alias.ip,
            alias.hostnames.clone().unwrap_or_default().join("\t")
        )
        .ok();
    }
    text
}

fn resolver(pod: &Pod, gateway: &str, namespace: &str) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec
        .and_then(|spec| spec.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let own = spec.and_then(|spec| spec.dns_config.as_ref());
    let mut servers: Vec<String> = own.and_then(|own| own.nameservers.clone()).unwrap_or_default();
    let mut searches: Vec<String> = own.and_then(|own| own.searches.clone()).unwrap_or_default();
    let mut options = Vec::new();
    if policy == "Default" {
        return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    if policy != "None" {
        servers.insert(0, gateway.to_owned());
        let cluster = [
            format!("{namespace}.svc.cluster.local"),
            "svc.cluster.local".to_owned(),
            "cluster.local".to_owned(),
        ];
        searches.splice(0..0, cluster);
        options.push("ndots:5".to_owned());
    }
    for option in own.iter().flat_map(|own| own.options.iter().flatten()) {
        let name = option.name.clone().unwrap_or_default();
        options.push(
            option
                .value
                .as_ref()
                .map_or(name.clone(), |value| format!("{name}:{value}")),
        );
    }
    let mut text = String::new();
    for server in servers {
        writeln!(text, "nameserver {server}").ok();
    }
    if !searches.is_empty() {
        writeln!(text, "search {}", searches.join(" ")).ok();
    }
    if !options.is_empty() {
        writeln!(text, "options {}", options.join(" ")).ok();
    }
    text
}

/// The mounts of a container: its volumes (outer folders first), then the files that the node provides.
pub(crate) fn mounts(
    runtime: &PodRuntime,
    container: &Container,
    volumes: &Volumes,
    environment: &[(String, String)],
    workspace: &Workspace,
) -> Result<Vec<Mount>, NodeError> {
    let variables = environment.iter().cloned().collect();
    let mut all = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes.get(&mount.name).ok_or_else(|| {
            NodeError::Pod(format!(
                "container {} mounts volume {}, which the pod does not have",
                container.name, mount.name
            ))
        })?;
        let part = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(part), _) if !part.is_empty() => Some(part.clone()),
            (_, Some(expression)) if !expression.is_empty() => Some(expand(expression, &variables)),
            _ => None,
        };
        let source = match part {
            Some(part) => inside(&volume.path, &part, volume.read_only)?,
            None => volume.path.clone(),
        };
        all.push(Mount {
            source,
            target: mount.mount_path.clone(),
            read_only: volume.read_only || mount.read_only == Some(true),
        });
    }
    let taken = |all: &[Mount], target: &str| all.iter().any(|mount| mount.target.trim_end_matches('/') == target);
    if let Some(credentials) = volumes.get(CREDENTIALS)
        && !taken(&all, CREDENTIALS)
    {
        all.push(Mount {
            source: credentials.path.clone(),
            target: CREDENTIALS.to_owned(),
            read_only: true,
        });
    }
    all.sort_by_key(|mount| Path::new(&mount.target).components().count());
    for file in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{file}");
        if !taken(&all, &target) {
            all.push(Mount {
                source: runtime.folder.join("etc").join(file),
                target,
                read_only: false,
            });
        }
    }
    let message = container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".to_owned());
    all.push(Mount {
        source: workspace.message.clone(),
        target: message,
        read_only: false,
    });
    Ok(all)
}

/// A path inside of a volume, created as a folder when it is missing; it cannot lead out of the volume.
fn inside(volume: &Path, part: &str, read_only: bool) -> Result<PathBuf, NodeError> {
    let path = volume.join(safe(part)?);
    if !path.exists() && !read_only {
        std::fs::create_dir_all(&path).map_err(NodeError::io("create the folder", &path))?;
    }
    let real = path.canonicalize().map_err(NodeError::io("find", &path))?;
    let root = volume.canonicalize().map_err(NodeError::io("find", volume))?;
    if real.starts_with(&root) {
        Ok(real)
    } else {
        Err(NodeError::Pod(format!("subPath {part:?} leads out of its volume")))
    }
}
