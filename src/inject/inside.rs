//! Faults inside a container of the target, by a script that is run in it: memory, processor, disk, pause, storage.
//!
//! Nothing is installed: the script needs a POSIX shell, /proc and grep in the container, and says so when they are missing. It arms
//! its own end before it begins, so that it ends whatever becomes of the runner; what it writes to a volume outlives the container,
//! and is therefore also kept in a record, from which `clean` puts it back.

use super::pods::{container_ended, restarts};
use super::prepare::Detail;
use super::shot::{Called, Miss, PROOF_LIMIT, Proof, count, shoot, unseen};
use super::stage::{InjectError, Stage};
use crate::cluster::{STOP_SCRIPT, run_in_pod, words};
use crate::fault::{Amount, Claim, FaultKind, FaultSpec, FaultTarget, Inside, StorageLoss, Undo};
use crate::model::{Interval, Mono};
use crate::world::{Armed, RecordError};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::Api;
use std::time::Duration;

const START_SCRIPT: &str = include_str!("start.sh");

/// How much longer than the fault the container's own timer runs: the runner comes first, the timer is for when it cannot.
const TIMER_MARGIN: Duration = Duration::from_secs(5);

/// What the start script is told for one target.
pub(super) struct Script {
    /// The action and its arguments.
    action: Vec<String>,
    also: Inside,
    /// The kernel is meant to kill the container.
    past_the_limit: bool,
}

pub(super) async fn prepare(
    stage: &Stage,
    spec: &FaultSpec,
    targets: &[FaultTarget],
    token: &str,
) -> Result<(Detail, Vec<Undo>), InjectError> {
    let mut scripts = Vec::new();
    let mut undos = Vec::new();
    for target in targets {
        let (script, claim) = script(stage, spec, target, token).await?;
        undos.push(Undo::Inside {
            pod: target.pod.clone(),
            container: target.container.clone().unwrap_or_default(),
            token: token.to_owned(),
            also: script.also.clone(),
            claim,
        });
        scripts.push(script);
    }
    let lasting = matches!(spec.kind, FaultKind::DiskFill { .. } | FaultKind::StorageLoss { .. });
    let undo = if lasting {
        vec![Undo::Record {
            namespace: stage.namespace.clone(),
            name: token.to_owned(),
            undos,
        }]
    } else {
        undos
    };
    Ok((Detail::Inside(scripts), undo))
}

async fn script(
    stage: &Stage,
    spec: &FaultSpec,
    target: &FaultTarget,
    token: &str,
) -> Result<(Script, Option<Claim>), InjectError> {
    let plain = |action: Vec<String>, also: Inside| Script {
        action,
        also,
        past_the_limit: false,
    };
    let word = |text: &str| text.to_owned();
    Ok(match &spec.kind {
        FaultKind::ProcessPause { .. } => (plain(vec![word("pause")], Inside::Continue), None),
        FaultKind::CpuStress { workers, load, .. } => (
            plain(
                vec![word("cpu"), workers.to_string(), load.to_string()],
                Inside::Nothing,
            ),
            None,
        ),
        FaultKind::MemoryStress { amount, .. } => (memory(stage, spec, target, *amount).await?, None),
        FaultKind::DiskFill { path, amount, .. } => {
            let file = format!("{}/.{token}", path.trim_end_matches('/'));
            let (bytes, percent) = split(*amount);
            let claim = claim_of(stage, target, path).await?;
            let action = vec![word("disk"), path.clone(), bytes, percent];
            (plain(action, Inside::RemoveFile { path: file }), claim)
        }
        FaultKind::StorageLoss { path, how, .. } => {
            let beside = format!("{path}.{token}");
            let claim = claim_of(stage, target, path).await?;
            let (action, also) = match how {
                StorageLoss::Removed => (
                    "remove",
                    Inside::MoveBack {
                        path: path.clone(),
                        aside: beside,
                    },
                ),
                StorageLoss::Unreadable => (
                    "unreadable",
                    Inside::GiveBack {
                        path: path.clone(),
                        kept: beside,
                    },
                ),
            };
            (plain(vec![word(action)], also), claim)
        }
        other => {
            return Err(InjectError::Refused(format!(
                "{} is no fault inside a container",
                other.word()
            )));
        }
    })
}

/// Bytes and percent, one of them 0.
fn split(amount: Amount) -> (String, String) {
    match amount {
        Amount::Bytes(bytes) => (bytes.to_string(), "0".to_owned()),
        Amount::Percent(percent) => ("0".to_owned(), percent.to_string()),
    }
}

async fn memory(stage: &Stage, spec: &FaultSpec, target: &FaultTarget, amount: Amount) -> Result<Script, InjectError> {
    let pod = read(stage, target).await?;
    let limit = container_of(&pod, target).and_then(memory_limit);
    let past = match (amount, limit) {
        (Amount::Percent(_), None) => {
            return Err(InjectError::Refused(format!(
                "fault {:?}: container {} of pod {} has no memory limit, so there is nothing to take a share of; give the size in \
                 bytes, such as 256Mi",
                spec.name,
                target.container.as_deref().unwrap_or_default(),
                target.pod.name
            )));
        }
        (Amount::Percent(percent), Some(_)) => percent > 100,
        (Amount::Bytes(bytes), Some(limit)) => bytes > limit,
        (Amount::Bytes(_), None) => false,
    };
    let (bytes, percent) = split(amount);
    Ok(Script {
        action: vec![
            "memory".to_owned(),
            bytes,
            limit.unwrap_or(0).to_string(),
            percent,
            if past { "yes" } else { "no" }.to_owned(),
        ],
        also: Inside::Nothing,
        past_the_limit: past,
    })
}

async fn read(stage: &Stage, target: &FaultTarget) -> Result<Pod, InjectError> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), &target.pod.namespace);
    let attempted = format!("read pod {}/{}", target.pod.namespace, target.pod.name);
    Ok(stage.cluster.call(attempted, pods.get(&target.pod.name)).await?)
}

fn container_of<'a>(pod: &'a Pod, target: &FaultTarget) -> Option<&'a Container> {
    let containers = &pod.spec.as_ref()?.containers;
    let wanted = target.container.as_deref();
    containers.iter().find(|held| Some(held.name.as_str()) == wanted)
}

fn memory_limit(container: &Container) -> Option<u64> {
    let limit = container.resources.as_ref()?.limits.as_ref()?.get("memory")?;
    bytes_of(&limit.0)
}

/// A Kubernetes quantity of memory in bytes, rounded down.
fn bytes_of(quantity: &str) -> Option<u64> {
    let end = quantity
        .find(|letter: char| !(letter.is_ascii_digit() || letter == '.'))
        .unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(end);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let decimals = decimals.get(..decimals.len().min(6))?;
    let part = match decimals {
        "" => 0,
        digits => factor.checked_mul(digits.parse().ok()?)? / 10_u64.pow(u32::try_from(digits.len()).ok()?),
    };
    whole.checked_mul(factor)?.checked_add(part)
}

/// The claim that holds a path, when it is on one.
async fn claim_of(stage: &Stage, target: &FaultTarget, path: &str) -> Result<Option<Claim>, InjectError> {
    let pod = read(stage, target).await?;
    let mounts = container_of(&pod, target).and_then(|container| container.volume_mounts.as_ref());
    let below = |mount: &str| {
        let mount = mount.trim_end_matches('/');
        path.strip_prefix(mount)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mount = mounts
        .into_iter()
        .flatten()
        .filter(|mount| below(&mount.mount_path))
        .max_by_key(|mount| mount.mount_path.len());
    let Some(mount) = mount else { return Ok(None) };
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let volume = volumes.into_iter().flatten().find(|volume| volume.name == mount.name);
    Ok(volume
        .and_then(|volume| volume.persistent_volume_claim.as_ref())
        .map(|claim| Claim {
            name: claim.claim_name.clone(),
            mount: mount.mount_path.clone(),
            sub_path: mount.sub_path.clone().unwrap_or_default(),
        }))
}

/// Fires at every target at once.
pub(super) async fn fire(stage: &Stage, armed: &Armed, token: &str, scripts: &[Script]) -> Result<usize, RecordError> {
    let spec = armed.spec();
    let shots = armed.targets().iter().zip(scripts).map(|(target, script)| async move {
        let before = restarts(stage, target);
        let call = run(stage, spec, target, token, script);
        if script.past_the_limit {
            shoot(stage, spec, target, call, |requested| async move {
                killed_by_the_kernel(stage, target, before, requested).await
            })
            .await
        } else {
            shoot(stage, spec, target, call, unseen).await
        }
    });
    count(shots).await
}

async fn run(
    stage: &Stage,
    spec: &FaultSpec,
    target: &FaultTarget,
    token: &str,
    script: &Script,
) -> Result<Called, Miss> {
    let seconds = (spec.duration.unwrap_or_default() + TIMER_MARGIN).as_secs().to_string();
    let mark = format!("CHAOSRUN_FAULT={token}");
    let mut command = [
        "env",
        &mark,
        "sh",
        "-c",
        START_SCRIPT,
        "start",
        &seconds,
        STOP_SCRIPT,
        token,
    ]
    .map(str::to_owned)
    .to_vec();
    command.extend(words(&script.also));
    command.extend(script.action.iter().cloned());
    let output = run_in_pod(
        &stage.cluster,
        &target.pod.namespace,
        &target.pod.name,
        target.container.as_deref(),
        &command,
        PROOF_LIMIT,
    )
    .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next_back().unwrap_or_default().trim();
    if let Some(proof) = line.strip_prefix("proof ") {
        return Ok(Called::Proven(proof.to_owned()));
    }
    if let Some(why) = line.strip_prefix("failed ") {
        return Err(Miss::definite(why));
    }
    if script.past_the_limit {
        // The kernel was faster than the script.
        return Ok(Called::Accepted);
    }
    Err(Miss::definite(format!(
        "the script in the container said nothing (exit code {}): {}",
        output.code.map_or("unknown".to_owned(), |code| code.to_string()),
        if output.stderr.is_empty() {
            "no error either"
        } else {
            &output.stderr
        }
    )))
}

async fn killed_by_the_kernel(
    stage: &Stage,
    target: &FaultTarget,
    restarts: i32,
    requested: Mono,
) -> Result<Proof, String> {
    let mut changes = stage.pods.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if let Some(pod) = stage.pods.get(&target.pod.uid)
                && let Some(text) = container_ended(target, restarts, &pod)
            {
                return Proof {
                    effect: Interval {
                        lower: requested,
                        upper: pod.at.max(requested),
                    },
                    text,
                };
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::time::timeout(PROOF_LIMIT, wait)
        .await
        .map_err(|_elapsed| "the container was not killed, although more memory was taken than its limit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("64Mi", Some(64 << 20)),
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(1_610_612_736)),
            ("500M", Some(500_000_000)),
            ("1024", Some(1024)),
            ("1Zi", None),
            ("", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }
}
