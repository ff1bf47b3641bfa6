//! DNSChaos: names that are not found, or found at random addresses, for one pod.
//!
//! Upstream redirects the pod to a name server of its own; here the lab's name server does it for the pod's address. As upstream
//! only questions for addresses are concerned, and the daemon is needed on the node.

use super::{Target, existing_pod, need_daemon, pod_of};
use crate::api::object::{array_at, str_at, uid};
use crate::controllers::chaos_mesh::Shared;
use crate::controllers::chaos_mesh::records::{Phase, Record};
use crate::node::faults::NameTrouble;

pub(super) async fn apply(shared: &Shared, target: &Target<'_>, record: &Record) -> Result<Phase, String> {
    let pod = existing_pod(shared, record).await?;
    need_daemon(shared, &pod)?;
    let patterns = array_at(target.spec(), "/patterns")
        .iter()
        .filter_map(|pattern| pattern.as_str().map(str::to_owned))
        .collect();
    let trouble = NameTrouble {
        patterns,
        random: str_at(target.spec(), "/action") == Some("random"),
    };
    shared
        .faults
        .trouble_names(uid(&pod), uid(target.object), Some(trouble))
        .map_err(|error| error.chain())?;
    Ok(Phase::Injected)
}

pub(super) async fn recover(shared: &Shared, target: &Target<'_>, record: &Record) -> Result<Phase, String> {
    if let Some(pod) = pod_of(shared, record).await?
        && shared.faults.knows(uid(&pod))
    {
        need_daemon(shared, &pod)?;
        shared
            .faults
            .trouble_names(uid(&pod), uid(target.object), None)
            .map_err(|error| error.chain())?;
    }
    Ok(Phase::NotInjected)
}
