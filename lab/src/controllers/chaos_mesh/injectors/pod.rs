//! PodChaos: pods killed, containers killed, pods made to fail by another image.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use rustix::process::Signal;
use serde_json::Value;

use super::{Target, existing_pod, need_daemon, pod_of};
use crate::api::object::{i64_at, name, namespace, remove, set, str_at, uid};
use crate::controllers::chaos_mesh::Shared;
use crate::controllers::chaos_mesh::records::{Phase, Record};

/// Upstream's default, which the lab knows as an image that only lives.
const PAUSE_IMAGE: &str = "gcr.io/google-containers/pause:latest";
/// Longer names of annotations lose their prefix.
const LONGEST_KEY: usize = 63;

pub(super) async fn apply(shared: &Shared, target: &Target<'_>, record: &Record) -> Result<Phase, String> {
    let pod = existing_pod(shared, record).await?;
    match str_at(target.spec(), "/action").unwrap_or_default() {
        "pod-kill" => {
            let grace = i64_at(target.spec(), "/gracePeriod").unwrap_or(0);
            let parameters = DeleteParams::default().grace_period(u32::try_from(grace).unwrap_or(0));
            let api: Api<Pod> = Api::namespaced(shared.objects.client().clone(), namespace(&pod));
            api.delete(name(&pod), &parameters)
                .await
                .map_err(|error| error.to_string())?;
        }
        "container-kill" => {
            need_daemon(shared, &pod)?;
            let container = record.container().unwrap_or_default();
            shared
                .faults
                .signal(uid(&pod), container, Signal::KILL)
                .map_err(|error| error.chain())?;
        }
        "pod-failure" => {
            let chaos = name(target.object);
            change_pod(shared, &pod, |pod| fail(pod, chaos)).await?;
        }
        other => return Err(format!("unknown action {other}")),
    }
    Ok(Phase::Injected)
}

pub(super) async fn recover(shared: &Shared, target: &Target<'_>, record: &Record) -> Result<Phase, String> {
    if str_at(target.spec(), "/action") == Some("pod-failure")
        && let Some(pod) = pod_of(shared, record).await?
    {
        let chaos = name(target.object);
        change_pod(shared, &pod, |pod| heal(pod, chaos)).await?;
    }
    Ok(Phase::NotInjected)
}

/// Replaces a pod unless somebody else was faster; then again from what is there now.
async fn change_pod(shared: &Shared, pod: &Value, change: impl Fn(&mut Value)) -> Result<(), String> {
    let api: Api<Pod> = Api::namespaced(shared.objects.client().clone(), namespace(pod));
    let mut pod = pod.clone();
    loop {
        let mut changed = pod.clone();
        change(&mut changed);
        let wanted: Pod = serde_json::from_value(changed).map_err(|error| error.to_string())?;
        match api.replace(name(&pod), &PostParams::default(), &wanted).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let now = api.get(name(&pod)).await.map_err(|error| error.to_string())?;
                pod = serde_json::to_value(&now).map_err(|error| error.to_string())?;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

const LISTS: [(&str, &str); 2] = [("containers", "normal"), ("initContainers", "init")];

/// Where the image of a container is remembered.
fn annotation(chaos: &str, container: &str, kind: &str) -> String {
    let long = format!("chaos-mesh-{chaos}-pod-failure-{container}-{kind}-image");
    if long.len() > LONGEST_KEY {
        format!("{container}-{kind}")
    } else {
        long
    }
}

fn containers<'a>(pod: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    pod.pointer_mut(&format!("/spec/{list}"))
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Swaps every image and writes down what it was; a second time changes nothing.
fn fail(pod: &mut Value, chaos: &str) {
    for (list, kind) in LISTS {
        let mut originals = Vec::new();
        for container in containers(pod, list) {
            let key = annotation(chaos, str_at(container, "/name").unwrap_or_default(), kind);
            let image = str_at(container, "/image").unwrap_or_default().to_owned();
            if image != PAUSE_IMAGE {
                originals.push((key, image));
                set(container, "/image", PAUSE_IMAGE);
            }
        }
        for (key, image) in originals {
            set(pod, &format!("/metadata/annotations/{key}"), image);
        }
    }
}

/// Puts the images back that were written down.
fn heal(pod: &mut Value, chaos: &str) {
    let annotations = pod.pointer("/metadata/annotations").cloned().unwrap_or_default();
    for (list, kind) in LISTS {
        let mut used = Vec::new();
        for container in containers(pod, list) {
            let key = annotation(chaos, str_at(container, "/name").unwrap_or_default(), kind);
            if let Some(image) = annotations.get(&key).and_then(Value::as_str) {
                set(container, "/image", image);
                used.push(key);
            }
        }
        for key in used {
            remove(pod, &format!("/metadata/annotations/{key}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_are_swapped_written_down_and_put_back() {
        let before = json!({
            "metadata": {"name": "p", "annotations": {"own": "1"}},
            "spec": {"containers": [{"name": "app", "image": "a:1"}], "initContainers": [{"name": "init", "image": "b:1"}]},
        });
        let mut pod = before.clone();
        fail(&mut pod, "chaos");
        fail(&mut pod, "chaos");
        assert_eq!(pod["spec"]["containers"][0]["image"], PAUSE_IMAGE);
        assert_eq!(
            pod["metadata"]["annotations"]["chaos-mesh-chaos-pod-failure-app-normal-image"],
            "a:1"
        );
        heal(&mut pod, "chaos");
        assert_eq!(pod, before);
        let long = "c".repeat(60);
        assert_eq!(annotation(&long, "app", "init"), "app-init");
    }
}
