//! Removes everything of a lab, from its record alone. Depends on `record` and on the node's tools.
//!
//! Contract: idempotent; what is gone already is fine; one thing that cannot be removed does not keep the rest from
//! being removed; what is left is named.

use std::path::Path;
use std::time::Duration;

use super::error::LabError;
use super::record::{Record, Roots};
use crate::node::cgroup::Cgroups;
use crate::node::command::{find_program, run};

const KILL_PATIENCE: Duration = Duration::from_secs(20);
/// Where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";

/// Removes a lab. Its own process must be gone, or be the caller.
pub(crate) async fn sweep(record: &Record) -> Result<(), LabError> {
    let mut left = Vec::new();
    let mut note = |what: &str, outcome: Result<(), String>| {
        if let Err(reason) = outcome {
            left.push(format!("{what} ({reason})"));
        }
    };
    match Cgroups::detect() {
        Ok(cgroups) => {
            note(
                "processes",
                cgroups
                    .kill(&record.control_group, KILL_PATIENCE)
                    .await
                    .map_err(|error| error.chain()),
            );
            note("control groups", remove_groups(&cgroups, &record.control_group).await);
        }
        Err(error) => note("control groups", Err(error.chain())),
    }
    note(
        "network namespaces",
        record.network.remove_namespaces().await.map_err(|error| error.chain()),
    );
    note(
        "network interfaces",
        record.network.remove().await.map_err(|error| error.chain()),
    );
    note("nftables table", remove_table(&record.network.table()).await);
    let policies = crate::node::policies::table(&record.network);
    note("nftables table of policies", remove_table(&policies).await);
    for (file, value) in &record.settings {
        note(
            "host settings",
            std::fs::write(file, value).map_err(|error| format!("{}: {error}", file.display())),
        );
    }
    for folder in [&record.state_folder, &record.data_folder] {
        note("mounts", unmount_below(folder));
    }
    // The record goes last: it is what a second attempt works from.
    note("data folder", remove_folder(&record.data_folder));
    if record.made_namespace_folder {
        remove_namespace_folder();
    }
    if left.is_empty() {
        remove_folder(&record.state_folder).map_err(|reason| LabError::Left {
            name: record.name.clone(),
            left: vec![format!("state folder ({reason})")],
        })?;
        for folder in [&record.state_folder, &record.data_folder] {
            // Fails as long as there are other labs, which is right.
            drop(folder.parent().map(std::fs::remove_dir));
        }
        return Ok(());
    }
    Err(LabError::Left {
        name: record.name.clone(),
        left,
    })
}

/// Removes the labs whose process is dead. Call it with the lock held.
pub(crate) async fn sweep_dead(roots: &Roots) {
    for record in roots.records().into_iter().filter(|record| !record.alive()) {
        tracing::info!(lab = %record.name, "removing what a dead lab left");
        if let Err(error) = sweep(&record).await {
            tracing::warn!(%error, "a dead lab could not be removed completely");
        }
    }
}

/// The kernel needs a moment after the last process of a group.
async fn remove_groups(cgroups: &Cgroups, group: &str) -> Result<(), String> {
    let mut outcome = Ok(());
    for _ in 0..50 {
        outcome = cgroups.remove(group).map_err(|error| error.chain());
        if outcome.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    outcome
}

async fn remove_table(table: &str) -> Result<(), String> {
    if find_program("nft").is_none() {
        return Ok(());
    }
    // `add` first: deleting a table that is not there is an error.
    let script = format!("add table ip {table}\ndelete table ip {table}\n");
    run("nft", &["-f", "-"], Some(&script))
        .await
        .map(drop)
        .map_err(|error| error.chain())
}

/// Unmounts everything at or below a folder.
fn unmount_below(folder: &Path) -> Result<(), String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let points: Vec<&Path> = points.filter(|point| point.starts_with(folder)).collect();
    for point in points.into_iter().rev() {
        rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH)
            .map_err(|error| format!("{}: {error}", point.display()))?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}

/// Removes the folder that `ip netns` mounts for itself, when nothing is in it.
fn remove_namespace_folder() {
    let empty = std::fs::read_dir(NAMESPACES).is_ok_and(|mut entries| entries.next().is_none());
    if empty {
        rustix::mount::unmount(NAMESPACES, rustix::mount::UnmountFlags::empty()).ok();
        // Busy means that somebody has just begun to use it.
        drop(std::fs::remove_dir(NAMESPACES));
    }
}
