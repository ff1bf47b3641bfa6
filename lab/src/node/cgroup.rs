//! Control groups of the lab: where they are, who is in them, whether memory ran out, and their removal.
//! Depends on [`error`](super::error) only. `runc` creates them; this module reads, kills and removes.
//!
//! Knows both layouts: version 1 with one tree per controller (also with an unused version 2 tree beside it), and
//! version 2. Central type: [`Cgroups`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::NodeError;

/// The control group trees of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    /// Mount point of every tree.
    roots: Vec<PathBuf>,
    /// Mount point of the memory controller.
    memory: PathBuf,
    /// One unified tree.
    unified: bool,
}

impl Cgroups {
    /// Reads the layout from the mount table.
    pub(crate) fn detect() -> Result<Self, NodeError> {
        let table = "/proc/self/mountinfo";
        let text = std::fs::read_to_string(table).map_err(NodeError::io("read", table))?;
        Self::parse(&text).ok_or_else(|| NodeError::Unsupported {
            what: "no control groups are mounted".to_owned(),
            hint: "mount them below /sys/fs/cgroup (any init system does)".to_owned(),
        })
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut roots = Vec::new();
        let mut memory = None;
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut fields = right.split(' ');
            let kind = fields.next().unwrap_or_default();
            let options = fields.nth(1).unwrap_or_default();
            match kind {
                "cgroup" => {
                    if options.split(',').any(|option| option == "memory") {
                        memory = Some(point.clone());
                    }
                    roots.push(point);
                }
                "cgroup2" => {
                    unified = Some(point.clone());
                    roots.push(point);
                }
                _ => {}
            }
        }
        match (memory, unified) {
            (Some(memory), _) => Some(Self {
                roots,
                memory,
                unified: false,
            }),
            (None, Some(point)) => Some(Self {
                roots,
                memory: point,
                unified: true,
            }),
            (None, None) => None,
        }
    }

    /// Whether this machine has only the version 2 tree.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    /// How often the kernel killed a process of this group because its memory limit was reached.
    pub(crate) fn oom_kills(&self, group: &str) -> u64 {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let path = below(&self.memory, group).join(file);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == "oom_kill")
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The folder through which a process joins a group, in one tree: that is enough for it to be found and ended.
    pub(crate) fn folder(&self, group: &str) -> PathBuf {
        below(&self.memory, group)
    }

    /// Puts a process into the group, in every tree that has it.
    pub(crate) fn join(&self, group: &str, pid: u32) -> Result<(), NodeError> {
        for root in &self.roots {
            let folder = below(root, group);
            if folder.is_dir() {
                let file = folder.join("cgroup.procs");
                std::fs::write(&file, pid.to_string()).map_err(NodeError::io("write", &file))?;
            }
        }
        Ok(())
    }

    /// Every process in the group or below it, as this process sees them.
    pub(crate) fn processes(&self, group: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for root in &self.roots {
            for folder in tree(&below(root, group)) {
                let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                // 0 stands for a process outside of this pid namespace.
                found.extend(
                    text.lines()
                        .filter_map(|line| line.parse::<i32>().ok())
                        .filter(|pid| *pid > 0),
                );
            }
        }
        found
    }

    /// Kills everything in the group, frozen processes included, and waits until it is empty.
    pub(crate) async fn kill(&self, group: &str, patience: Duration) -> Result<(), NodeError> {
        let deadline = Instant::now() + patience;
        loop {
            let processes = self.processes(group);
            if processes.is_empty() {
                return Ok(());
            }
            self.thaw(group);
            for process in &processes {
                if let Some(pid) = rustix::process::Pid::from_raw(*process) {
                    // Gone meanwhile is what is wanted.
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            if Instant::now() > deadline {
                return Err(NodeError::Command {
                    command: format!("kill everything in control group {group}"),
                    message: format!(
                        "{} processes still there after {} s",
                        processes.len(),
                        patience.as_secs()
                    ),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A frozen process does not die from SIGKILL in version 1.
    fn thaw(&self, group: &str) {
        for root in &self.roots {
            for folder in tree(&below(root, group)) {
                let state = folder.join("freezer.state");
                if state.exists() {
                    drop(std::fs::write(state, "THAWED"));
                }
            }
        }
    }

    /// Removes the group and all below it, in every tree. They must be empty of processes.
    pub(crate) fn remove(&self, group: &str) -> Result<(), NodeError> {
        let mut problem = None;
        for root in &self.roots {
            let mut folders = tree(&below(root, group));
            folders.reverse();
            for folder in folders {
                if let Err(error) = std::fs::remove_dir(&folder)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    problem = Some(NodeError::io("remove the control group", &folder)(error));
                }
            }
        }
        problem.map_or(Ok(()), Err)
    }
}

/// Where a group (an absolute path inside its tree) is in the file system.
fn below(root: &Path, group: &str) -> PathBuf {
    root.join(group.trim_start_matches('/'))
}

/// The folder and all folders below it, parents first.
fn tree(folder: &Path) -> Vec<PathBuf> {
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut found = vec![folder.to_path_buf()];
    let mut next = 0;
    while let Some(current) = found.get(next).cloned() {
        next += 1;
        let Ok(entries) = std::fs::read_dir(&current) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_layout_uses_the_memory_tree() {
        let cgroups = Cgroups::parse(HYBRID).unwrap();
        assert!(!cgroups.is_unified());
        assert_eq!(cgroups.memory, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(cgroups.roots.len(), 3);
    }

    #[test]
    fn unified_layout_uses_the_one_tree() {
        let cgroups =
            Cgroups::parse("30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n").unwrap();
        assert!(cgroups.is_unified());
        assert_eq!(cgroups.memory, Path::new("/sys/fs/cgroup"));
        assert!(Cgroups::parse("").is_none());
    }
}
