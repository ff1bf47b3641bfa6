//! StressChaos: processes inside the control group of the target's container, so that its limits count.
//!
//! Upstream runs stress-ng and a program of its own for memory; here both are the lab's intruder. A stressor that the kernel
//! kills for want of memory is not started again, and the status goes on saying Injected, as upstream's does.

use std::sync::PoisonError;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Target, existing_pod, need_daemon, pod_of};
use crate::api::object::{i64_at, str_at, uid};
use crate::controllers::chaos_mesh::Shared;
use crate::controllers::chaos_mesh::records::{Phase, Record, stamp};
use crate::node::faults::Intruder;

pub(super) async fn apply(
    shared: &Shared,
    target: &Target<'_>,
    record: &Record,
    instances: &mut Map<String, Value>,
) -> Result<Phase, String> {
    let pod = existing_pod(shared, record).await?;
    need_daemon(shared, &pod)?;
    let container = record.container().unwrap_or_default();
    let Some(stressors) = target.spec().get("stressors") else {
        // Upstream's handler dies of a nil pointer where only stressngStressors is set.
        return Err("runtime error: invalid memory address or nil pointer dereference".to_owned());
    };
    let whole = shared.faults.memory_of(uid(&pod), container);
    let mut instance = json!({});
    for (kind, id_field, time_field) in [
        ("cpu", "/uid", "/startTime"),
        ("memory", "/memoryUid", "/memoryStartTime"),
    ] {
        let Some(stressor) = stressors.get(kind) else { continue };
        let arguments = match kind {
            "cpu" => cpu_arguments(stressor),
            _ => memory_arguments(stressor, whole)?,
        };
        let intruder = shared
            .faults
            .intrude(uid(&pod), container, &arguments)
            .await
            .map_err(|error| error.chain())?;
        let id = uuid::Uuid::new_v4().to_string();
        shared
            .intruders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), intruder);
        crate::api::object::set(&mut instance, id_field, id);
        crate::api::object::set(&mut instance, time_field, stamp(Timestamp::now()));
    }
    instances.insert(record.id.clone(), instance);
    Ok(Phase::Injected)
}

pub(super) async fn recover(
    shared: &Shared,
    record: &Record,
    instances: &mut Map<String, Value>,
) -> Result<Phase, String> {
    if let Some(pod) = pod_of(shared, record).await? {
        need_daemon(shared, &pod)?;
    }
    let instance = instances.get(&record.id).cloned().unwrap_or_default();
    for field in ["/uid", "/memoryUid"] {
        let Some(id) = str_at(&instance, field) else { continue };
        let intruder: Option<Intruder> = shared
            .intruders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        if let Some(intruder) = intruder {
            intruder.end().await.map_err(|error| error.chain())?;
        }
    }
    instances.remove(&record.id);
    Ok(Phase::NotInjected)
}

fn cpu_arguments(stressor: &Value) -> Vec<String> {
    let workers = i64_at(stressor, "/workers").unwrap_or(0).max(0);
    let load = i64_at(stressor, "/load").unwrap_or(100);
    vec![format!("--cpu-workers={workers}"), format!("--cpu-load={load}")]
}

/// Without workers there is no load, and upstream says Injected all the same.
fn memory_arguments(stressor: &Value, whole: u64) -> Result<Vec<String>, String> {
    let workers = i64_at(stressor, "/workers").unwrap_or(0);
    let size = str_at(stressor, "/size").unwrap_or("100%");
    let bytes = if workers > 0 { bytes_of(size, whole)? } else { 0 };
    let adjust = i64_at(stressor, "/oomScoreAdj").unwrap_or(0);
    Ok(vec![format!("--memory={bytes}"), format!("--oom-score-adj={adjust}")])
}

/// `256MB`, `1GiB`, `50%`; units are powers of 1024 as in upstream's parser, a plain number is bytes.
pub(in crate::controllers::chaos_mesh) fn bytes_of(size: &str, whole: u64) -> Result<u64, String> {
    let text = size.trim().to_ascii_lowercase();
    let invalid = || format!("invalid size {size}");
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.trim().parse().map_err(|_| invalid())?;
        if percent > 100 {
            return Err(invalid());
        }
        return Ok(whole / 100 * percent);
    }
    let end = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).ok_or_else(invalid)?;
    let power = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let (whole_part, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole_part: u64 = whole_part.parse().map_err(|_| invalid())?;
    let factor = 1024_u64.pow(power);
    let digits = fraction.get(..fraction.len().min(3)).unwrap_or("0");
    let part: u64 = digits.parse().map_err(|_| invalid())?;
    let scale = 10_u64.pow(u32::try_from(digits.len()).unwrap_or(0));
    whole_part
        .checked_mul(factor)
        .and_then(|bytes| bytes.checked_add(factor / scale * part))
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_upstream_reads_them() {
        for (text, bytes) in [
            ("256MB", 256 << 20),
            ("1GiB", 1 << 30),
            ("1.5g", (1 << 30) + (1 << 29)),
            ("512", 512),
            ("50%", 500),
        ] {
            let found = bytes_of(text, 1000).unwrap();
            assert!(found.abs_diff(bytes) < 2048, "{text}: {found}");
        }
        for text in ["many", "101%", "1XB", ""] {
            assert!(bytes_of(text, 1000).is_err(), "{text}");
        }
    }
}
