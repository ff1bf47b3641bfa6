//! The OCI description of a container (`config.json`), from the pod's. Depends on `image`, `quantity`, `cgroup`.
//!
//! The root file system is an overlay of the host's root with a fresh upper folder, mounted by runc inside of the
//! container's own mount namespace: nothing appears in the host's mount table, and nothing that the container writes
//! reaches the host. Left out on purpose: the control group mount, `oom_score_adj` and resource limits, which a
//! machine without `CAP_SYS_RESOURCE` answers with a broken pipe.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::error::NodeError;
use super::image::Image;
use super::quantity;

/// A mount of a container beyond the usual ones.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
}

/// Everything that goes into `config.json`.
pub(crate) struct Plan<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: Option<&'a Image>,
    pub environment: &'a [(String, String)],
    pub arguments: Vec<String>,
    pub hostname: String,
    /// `None`: the host's.
    pub network_namespace: Option<String>,
    pub control_group: String,
    /// One unified control group tree.
    pub unified: bool,
    /// Folder with `upper` and `work`, on a tmpfs.
    pub layer: &'a Path,
    /// Disk-backed `/tmp`.
    pub scratch: &'a Path,
    pub mounts: &'a [Mount],
}

/// What Docker and containerd grant by default.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability by its number in the kernel.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The arguments of a container: its own, or those of its image.
pub(crate) fn arguments(
    container: &Container,
    image: Option<&Image>,
    expand: impl Fn(&str) -> String,
) -> Result<Vec<String>, NodeError> {
    let given = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text)).collect::<Vec<_>>();
    let command = given(&container.command);
    let arguments = given(&container.args);
    let mut all = Vec::new();
    if image.is_some_and(|image| image.init) {
        all.extend(["tini", "-s", "--"].map(str::to_owned));
    }
    match (command.is_empty(), image) {
        (false, _) => {
            all.extend(command);
            all.extend(arguments);
        }
        (true, Some(image)) => {
            all.extend(image.entrypoint.iter().cloned());
            all.extend(if arguments.is_empty() {
                image.arguments.clone()
            } else {
                arguments
            });
        }
        (true, None) => return Err(NodeError::Pod("no command specified".to_owned())),
    }
    if all.is_empty() {
        return Err(NodeError::Pod("no command specified".to_owned()));
    }
    Ok(all)
}

/// The OCI description of the process; exec uses it with other arguments.
pub(crate) fn process(plan: &Plan<'_>) -> Result<Value, NodeError> {
    let pod_context = plan.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let context = plan.container.security_context.as_ref();
    let uid = context
        .and_then(|c| c.run_as_user)
        .or_else(|| pod_context.and_then(|c| c.run_as_user))
        .unwrap_or(0);
    let gid = context
        .and_then(|c| c.run_as_group)
        .or_else(|| pod_context.and_then(|c| c.run_as_group))
        .unwrap_or(0);
    let not_root = context
        .and_then(|c| c.run_as_non_root)
        .or_else(|| pod_context.and_then(|c| c.run_as_non_root));
    if uid == 0 && not_root == Some(true) {
        return Err(NodeError::Pod(
            "container has runAsNonRoot and image will run as root".to_owned(),
        ));
    }
    let mut groups: Vec<i64> = pod_context
        .and_then(|c| c.supplemental_groups.clone())
        .unwrap_or_default();
    groups.extend(pod_context.and_then(|c| c.fs_group));
    let capabilities = capabilities(plan.container);
    let effective: &[String] = if uid == 0 { &capabilities } else { &[] };
    let environment: Vec<String> = plan
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let folder = plan.container.working_dir.clone().filter(|folder| !folder.is_empty());
    let folder = folder.or_else(|| plan.image.and_then(|image| image.working_directory.clone()));
    Ok(json!({
        "terminal": false,
        "user": {"uid": uid, "gid": gid, "additionalGids": groups},
        "args": plan.arguments,
        "env": environment,
        "cwd": folder.unwrap_or_else(|| "/".to_owned()),
        "capabilities": {
            "bounding": capabilities, "effective": effective, "permitted": effective,
        },
        "noNewPrivileges": context.and_then(|c| c.allow_privilege_escalation) == Some(false),
    }))
}

/// The whole description.
pub(crate) fn config(plan: &Plan<'_>, process: &Value) -> Value {
    let privileged = plan.container.security_context.as_ref().and_then(|c| c.privileged) == Some(true);
    let read_only = plan
        .container
        .security_context
        .as_ref()
        .and_then(|c| c.read_only_root_filesystem)
        == Some(true);
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    if privileged {
        devices = vec![json!({"allow": true, "access": "rwm"})];
    }
    let mut resources = json!({"devices": devices, "cpu": cpu(plan.container)});
    if let (Some(memory), Some(map)) = (
        limit(plan.container, "memory").and_then(quantity::whole),
        resources.as_object_mut(),
    ) {
        map.insert("memory".to_owned(), json!({"limit": memory}));
        if plan.unified {
            // As kubelets do since 1.28: a container dies as a whole when its memory runs out.
            map.insert("unified".to_owned(), json!({"memory.oom.group": "1"}));
        }
    }
    let (masked, protected): (&[&str], &[&str]) = if privileged {
        (&[], &[])
    } else {
        (
            &[
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/sched_debug",
                "/sys/firmware",
            ],
            &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        )
    };
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
    ];
    namespaces.extend(
        plan.network_namespace
            .as_ref()
            .map(|path| json!({"type": "network", "path": path})),
    );
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs", "readonly": read_only},
        "hostname": plan.hostname,
        "mounts": mounts(plan),
        "linux": {
            "cgroupsPath": plan.control_group,
            "namespaces": namespaces,
            "resources": resources,
            "maskedPaths": masked,
            "readonlyPaths": protected,
        },
    })
}

fn mounts(plan: &Plan<'_>) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let overlay = [
        "lowerdir=/".to_owned(),
        format!("upperdir={}", plan.layer.join("upper").display()),
        format!("workdir={}", plan.layer.join("work").display()),
    ];
    let mut all = vec![json!({"destination": "/", "type": "overlay", "source": "overlay", "options": overlay})];
    // An overlay shows one file system only; what is mounted below the host's root has to be brought along.
    all.extend(
        host_file_systems()
            .into_iter()
            .map(|path| json!({"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]})),
    );
    all.extend([
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/run", "tmpfs", &["nosuid", "nodev", "mode=755", "size=65536k"]),
        json!({"destination": "/tmp", "type": "bind", "source": plan.scratch, "options": ["bind", "rw"]}),
    ]);
    for bind in plan.image.iter().flat_map(|image| &image.binds) {
        let access = if bind.writable { "rw" } else { "ro" };
        all.push(
            json!({"destination": bind.target, "type": "bind", "source": bind.source, "options": ["rbind", access]}),
        );
    }
    for mount in plan.mounts {
        let access = if mount.read_only { "ro" } else { "rw" };
        all.push(json!({"destination": mount.target, "type": "bind", "source": mount.source, "options": ["rbind", "rprivate", access]}));
    }
    all
}

/// Mount points of real file systems below the host's root (a `/home` of its own, for example).
fn host_file_systems() -> Vec<String> {
    const REAL: [&str; 8] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "virtiofs"];
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?;
            let kind = right.split(' ').next()?;
            let usable = point != "/" && !point.contains('\\') && REAL.contains(&kind) && Path::new(point).is_dir();
            let hidden = ["/proc", "/sys", "/dev", "/run", "/tmp"]
                .iter()
                .any(|root| Path::new(point).starts_with(root));
            (usable && !hidden).then(|| point.to_owned())
        })
        .collect();
    points.sort();
    points.dedup();
    points
}

/// The limit of a container for a resource.
fn limit<'a>(
    container: &'a Container,
    resource: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::api::resource::Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(resource)
}

/// Shares from the request, quota from the limit, as a kubelet computes them.
fn cpu(container: &Container) -> Value {
    let request = container
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
        .and_then(|map| map.get("cpu"));
    let limit = limit(container, "cpu");
    let request = request.or(limit).and_then(quantity::milli).unwrap_or(0);
    let shares = (request * 1024 / 1000).clamp(2, 262_144);
    match limit.and_then(quantity::milli).filter(|milli| *milli > 0) {
        Some(milli) => {
            json!({"shares": shares, "period": 100_000, "quota": (milli * 100).max(1000)})
        }
        None => json!({"shares": shares}),
    }
}

/// Default capabilities, plus what is added, minus what is dropped; never more than this process has.
fn capabilities(container: &Container) -> Vec<String> {
    let context = container.security_context.as_ref();
    let changes = context.and_then(|c| c.capabilities.as_ref());
    let listed = |list: Option<&Vec<String>>, name: &str| {
        list.is_some_and(|list| {
            list.iter()
                .map(|entry| entry.trim_start_matches("CAP_"))
                .any(|entry| entry == "ALL" || entry == name)
        })
    };
    let privileged = context.and_then(|c| c.privileged) == Some(true);
    let held = held_capabilities();
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, name)| **name != "SYS_RESOURCE" && held & (1 << number) != 0)
        .filter(|(_, name)| {
            let added = changes.is_some_and(|c| listed(c.add.as_ref(), name));
            let dropped = changes.is_some_and(|c| listed(c.drop.as_ref(), name));
            privileged || added || (DEFAULT_CAPABILITIES.contains(name) && !dropped)
        })
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

/// The bounding set of this process as a bit mask.
fn held_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(value: Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn command_replaces_the_entry_point_and_its_arguments() {
        let image = Image {
            entrypoint: vec!["run".into()],
            arguments: vec!["all".into()],
            ..Image::default()
        };
        let same = |text: &str| text.to_owned();
        let of = |value: Value, image: Option<&Image>| arguments(&container(value), image, same).ok();
        assert_eq!(of(json!({"name": "c"}), Some(&image)).unwrap(), ["run", "all"]);
        assert_eq!(
            of(json!({"name": "c", "args": ["x"]}), Some(&image)).unwrap(),
            ["run", "x"]
        );
        assert_eq!(
            of(json!({"name": "c", "command": ["y"], "args": ["x"]}), Some(&image)).unwrap(),
            ["y", "x"]
        );
        assert_eq!(of(json!({"name": "c", "command": ["y"]}), None).unwrap(), ["y"]);
        assert_eq!(of(json!({"name": "c", "args": ["y"]}), None), None);
        let with_init = Image { init: true, ..image };
        assert_eq!(
            of(json!({"name": "c", "args": ["x"]}), Some(&with_init)).unwrap(),
            ["tini", "-s", "--", "run", "x"]
        );
    }

    #[test]
    fn cpu_follows_requests_and_limits() {
        let of = |resources: Value| cpu(&container(json!({"name": "c", "resources": resources})));
        assert_eq!(of(json!({})), json!({"shares": 2}));
        assert_eq!(of(json!({"requests": {"cpu": "500m"}})), json!({"shares": 512}));
        assert_eq!(
            of(json!({"limits": {"cpu": "2"}})),
            json!({"shares": 2048, "period": 100_000, "quota": 200_000})
        );
    }

    #[test]
    fn resource_capability_is_never_granted() {
        let all = capabilities(&container(
            json!({"name": "c", "securityContext": {"privileged": true}}),
        ));
        assert!(!all.contains(&"CAP_SYS_RESOURCE".to_owned()));
        let none = capabilities(&container(
            json!({"name": "c", "securityContext": {"capabilities": {"drop": ["ALL"]}}}),
        ));
        assert!(none.is_empty());
    }
}
