//! Faults through Chaos Mesh: an object of its own kinds, with the exact pods that chaosrun chose. Its status is believed as far as
//! `specs/chaos-mesh.md` says that it can be, and never for the recovery: that is measured on the target.

use super::chaos_mesh_flow;
use super::chaos_mesh_install::{Installed, survey};
use super::partition;
use super::pods::{container_ended, restarts};
use super::prepare::Detail;
use super::shot::{Called, Miss, Proof, count, shoot};
use super::stage::{GuardOwner, InjectError, Stage};
use super::traffic::{Route, open_all};
use crate::cluster::{api_of, run_in_pod};
use crate::fault::{Amount, ChaosMeshObject, FaultKind, FaultSpec, FaultTarget, RETURN_KEY, Undo, chaos_mesh_object};
use crate::model::{Interval, Mono};
use crate::observe::LivePod;
use crate::world::{Armed, RecordError};
use k8s_openapi::api::core::v1::{Container, Event as ClusterEvent, Pod};
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::{Value, json};
use std::time::Duration;

pub(super) const API_VERSION: &str = "chaos-mesh.org/v1alpha1";

/// How long the injection may take: the suggestion of `specs/chaos-mesh.md`, section 13.
const INJECTION_LIMIT: Duration = Duration::from_mins(1);
const INJECTION_LIMIT_PER_POD: Duration = Duration::from_secs(5);

/// How much longer than the fault its `duration` is: the runner deletes it, the duration is for when the runner cannot.
const DURATION_MARGIN: Duration = Duration::from_secs(30);

/// What is to be created.
pub(super) struct Plan {
    /// What to call Chaos Mesh in a proof.
    who: String,
    object: ChaosMeshObject,
    spec: Value,
    /// For a partition: a connection for each target that it must stop.
    routes: Vec<Route>,
    /// For memory stress: bytes that must be held in each container on top of these.
    held_before: Vec<u64>,
    bytes: u64,
}

pub(super) async fn prepare(
    stage: &Stage,
    spec: &FaultSpec,
    targets: &[FaultTarget],
    token: &str,
) -> Result<(Detail, Vec<Undo>), InjectError> {
    let refuse = |why: String| InjectError::Refused(format!("fault {:?}: {why}", spec.name));
    let mut object = chaos_mesh_object(&spec.kind).map_err(&refuse)?;
    let installed = Box::pin(survey(&stage.cluster, &stage.namespace, &object.plurals())).await?;
    if !installed.problems.is_empty() {
        return Err(refuse(installed.problems.join("; ")));
    }
    if matches!(spec.kind, FaultKind::JvmFault { .. }) {
        object.spec = with_return_key(object.spec, installed.return_key).map_err(&refuse)?;
    }
    let mut first_containers = Vec::new();
    for target in targets {
        let pod = read(stage, target).await?;
        reachable(&pod, &installed, &object).map_err(&refuse)?;
        mounted(&pod, target, &object).map_err(&refuse)?;
        first_containers.extend(containers_of(&pod).first().map(|first| first.name.clone()));
    }
    let names: Vec<&str> = targets.iter().map(|target| target.pod.name.as_str()).collect();
    let containers = if object.is_flow() {
        first_containers
    } else {
        targets.iter().filter_map(|target| target.container.clone()).collect()
    };
    let containers = distinct(&containers);
    if object.is_flow() && containers.len() > 1 && object.wants_containers() {
        return Err(refuse(format!(
            "the first containers of the chosen pods have different names ({}): say containerNames in its experiments",
            containers.join(", ")
        )));
    }
    let mut wanted = object.for_pods(&stage.namespace, &names, &containers);
    if let Some(duration) = spec.duration.filter(|_| !object.is_flow()) {
        // A dead-man's switch of its own, besides the guard. What a Workflow makes ends by its deadlines.
        let seconds = (duration + DURATION_MARGIN).as_secs();
        json_patch::merge(&mut wanted, &json!({"duration": format!("{seconds}s")}));
    }
    let routes = if matches!(spec.kind, FaultKind::NetworkPartition { .. }) {
        partition::survey(stage, spec, targets).await?.routes
    } else {
        Vec::new()
    };
    let (held_before, bytes) = memory_before(stage, spec, targets).await?;
    let undo = Undo::DeleteObject {
        api_version: API_VERSION.to_owned(),
        kind: object.kind.clone(),
        plural: object.plural(),
        namespace: Some(stage.namespace.clone()),
        name: token.to_owned(),
    };
    let plan = Plan {
        who: installed.who,
        object,
        spec: wanted,
        routes,
        held_before,
        bytes,
    };
    Ok((Detail::ChaosMesh(plan), vec![undo]))
}

/// For memory stress: bytes that are held in each container now, and how many must be held on top of these.
pub(super) async fn memory_before(
    stage: &Stage,
    spec: &FaultSpec,
    targets: &[FaultTarget],
) -> Result<(Vec<u64>, u64), InjectError> {
    let FaultKind::MemoryStress {
        amount: Amount::Bytes(bytes),
        ..
    } = spec.kind
    else {
        return Ok((Vec::new(), 0));
    };
    let mut before = Vec::new();
    for target in targets {
        before.push(held(stage, target).await.map_err(InjectError::Refused)?);
    }
    Ok((before, bytes))
}

/// What a method gives back, under the key that this version of Chaos Mesh knows: it would silently drop the other one.
fn with_return_key(mut spec: Value, key: Option<&str>) -> Result<Value, String> {
    let Some(value) = spec.as_object_mut().and_then(|held| held.remove(RETURN_KEY)) else {
        return Ok(spec);
    };
    let Some(key) = key else {
        return Err(
            "a returnValue stands under another key before Chaos Mesh 2.8, and which version is installed cannot be told: neither its \
             definitions nor its controller-manager may be read"
                .to_owned(),
        );
    };
    json_patch::merge(&mut spec, &json!({key: value}));
    Ok(spec)
}

async fn read(stage: &Stage, target: &FaultTarget) -> Result<Pod, InjectError> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), &target.pod.namespace);
    let name = &target.pod.name;
    Ok(stage.cluster.call(format!("read pod {name}"), pods.get(name)).await?)
}

fn containers_of(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| spec.containers.as_slice())
}

/// Each of them once, in their order.
fn distinct(names: &[String]) -> Vec<&str> {
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        if !seen.contains(&name.as_str()) {
            seen.push(name);
        }
    }
    seen
}

/// Chaos Mesh needs a daemon on the target's node (but to delete or patch a pod), and never injects into a pod of its node's network.
fn reachable(pod: &Pod, installed: &Installed, object: &ChaosMeshObject) -> Result<(), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.host_network) == Some(true) {
        return Err(format!(
            "pod {name} uses its node's network: Chaos Mesh never injects there, and its object could not be deleted again"
        ));
    }
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    if object.needs_daemon() && !installed.has_daemon(node) {
        return Err(format!(
            "no daemon of Chaos Mesh is ready on node {} of pod {name}: nothing would be injected, and its object could not be deleted \
             again; look at the DaemonSet chaos-daemon",
            node.unwrap_or_default()
        ));
    }
    Ok(())
}

/// An `IOChaos` on a folder that is no mount of the container is never injected, and cannot be deleted again.
fn mounted(pod: &Pod, target: &FaultTarget, object: &ChaosMeshObject) -> Result<(), String> {
    for (kind, spec) in object.experiments() {
        let Some(path) = spec
            .get("volumePath")
            .and_then(Value::as_str)
            .filter(|_| kind == "IOChaos")
        else {
            continue;
        };
        let named = spec.pointer("/containerNames/0").and_then(Value::as_str);
        let named = target.container.as_deref().or(named);
        let container = containers_of(pod)
            .iter()
            .find(|held| named.is_none_or(|name| held.name == name));
        let mounts: Vec<&str> = container
            .and_then(|held| held.volume_mounts.as_ref())
            .into_iter()
            .flatten()
            .map(|mount| mount.mount_path.as_str())
            .collect();
        let same = |mount: &&str| mount.trim_end_matches('/') == path.trim_end_matches('/');
        if !mounts.iter().any(same) {
            return Err(format!(
                "{path} is not where container {} of pod {} mounts a volume, and Chaos Mesh can do it on a whole mount only: its object would \
                 never be injected, and could not be deleted again; mounts: {}",
                named.or(container.map(|held| held.name.as_str())).unwrap_or_default(),
                target.pod.name,
                if mounts.is_empty() {
                    "none".to_owned()
                } else {
                    mounts.join(", ")
                }
            ));
        }
    }
    Ok(())
}

/// Creates the object and waits until every target is hit.
pub(super) async fn fire(
    stage: &Stage,
    armed: &Armed,
    token: &str,
    plan: &Plan,
    guard: &GuardOwner,
) -> Result<usize, RecordError> {
    let spec = armed.spec();
    let api = api_of(
        &stage.cluster,
        (API_VERSION, &plan.object.kind, &plan.object.plural()),
        Some(&stage.namespace),
    );
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": plan.object.kind,
        "metadata": stage.owned(token, guard),
        "spec": plan.spec,
    });
    let creating = api.clone();
    let made = async move {
        let object: DynamicObject =
            serde_json::from_value(object).map_err(|error| Miss::definite(error.to_string()))?;
        let attempted = format!("create {} {}/{token}", plan.object.kind, stage.namespace);
        match stage.cluster.create_strictly(attempted, &creating, &object).await {
            Ok(_) => Ok::<(), Miss>(()),
            // Nothing was created, and nothing will be while it is so.
            Err(error) if error.why.contains("failed calling webhook") => Err(Miss::definite(format!(
                "{error}; Chaos Mesh's controller-manager does not answer: is its Deployment ready?"
            ))),
            Err(error) => Err(error.into()),
        }
    };
    let made = futures::future::FutureExt::shared(made);
    let pods = u32::try_from(armed.targets().len()).unwrap_or(u32::MAX);
    let limit = INJECTION_LIMIT + INJECTION_LIMIT_PER_POD * pods;
    // Opened before: what stops must have been seen to pass.
    let mut opened = open_all(stage, &plan.routes).await.into_iter();
    let shots = armed.targets().iter().enumerate().map(|(index, target)| {
        let (made, api) = (made.clone(), &api);
        let traffic = opened.next();
        async move {
            let before = restarts(stage, target);
            let call = async {
                made.await?;
                Ok(Called::Accepted)
            };
            shoot(stage, spec, target, call, |requested| async move {
                if plan.object.is_flow() {
                    let follow = chaos_mesh_flow::Follow {
                        stage,
                        who: &plan.who,
                        object: &plan.object,
                        token,
                        target,
                    };
                    // Its first experiment may come late: any time before the fault would be over.
                    let limit = limit + spec.duration.unwrap_or_default();
                    return follow.injected(requested, limit).await;
                }
                let said = injected(stage, api, plan, target, token, before, (requested, limit)).await?;
                // Its word is not enough: some networks are out of its reach, and it says Injected all the same.
                if let (Some(traffic), Some(route)) = (traffic, plan.routes.get(index)) {
                    let limit = clock_limit(stage, requested, Duration::from_secs(15));
                    return partition::stopped(stage, traffic?, route, (requested, limit))
                        .await
                        .map_err(|why| format!("{why}, although {} says Injected", plan.who));
                }
                if let Some(held_before) = plan.held_before.get(index) {
                    return memory_held(stage, target, before, (*held_before, plan.bytes), said).await;
                }
                Ok(said)
            })
            .await
        }
    });
    count(shots).await
}

/// So long from now, counted from `requested`.
fn clock_limit(stage: &Stage, requested: Mono, more: Duration) -> Duration {
    stage.recorder.clock().now().since(requested) + more
}

/// Resident memory of every process of a container.
pub(super) async fn held(stage: &Stage, target: &FaultTarget) -> Result<u64, String> {
    const SUM: &str = "sum=0; for file in /proc/[0-9]*/status; do while read -r name value _; do [ \"$name\" = VmRSS: ] && \
                       sum=$((sum + value)); done <\"$file\"; done 2>/dev/null; echo $sum";
    let command = ["sh", "-c", SUM].map(str::to_owned);
    let (namespace, name) = (&target.pod.namespace, &target.pod.name);
    let container = target.container.as_deref();
    let output = run_in_pod(
        &stage.cluster,
        namespace,
        name,
        container,
        &command,
        Duration::from_secs(10),
    )
    .await
    .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let kilobytes: u64 = text.trim().parse().map_err(|_| {
        format!(
            "the memory of pod {name} cannot be read from /proc (is there a shell?): {}",
            output.stderr
        )
    })?;
    Ok(kilobytes * 1024)
}

/// Memory that is really held, or a container that the kernel killed for it.
async fn memory_held(
    stage: &Stage,
    target: &FaultTarget,
    restarts: i32,
    (before, bytes): (u64, u64),
    said: Proof,
) -> Result<Proof, String> {
    let clock = stage.recorder.clock();
    let deadline = clock.now().plus(Duration::from_secs(20));
    let mut last = String::new();
    while clock.now() < deadline {
        if let Some(pod) = stage.pods.get(&target.pod.uid)
            && let Some(text) = container_ended(target, restarts, &pod)
        {
            return Ok(Proof {
                effect: Interval {
                    lower: said.effect.lower,
                    upper: pod.at.max(said.effect.lower),
                },
                text,
            });
        }
        match held(stage, target).await {
            Ok(now) if now.saturating_sub(before) >= bytes / 10 * 8 => {
                return Ok(Proof {
                    effect: said.effect,
                    text: format!("{}; {} bytes more are held in the container", said.text, now - before),
                });
            }
            Ok(now) => last = format!("{} bytes more are held", now.saturating_sub(before)),
            Err(why) => last = why,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!(
        "Chaos Mesh says Injected, but {bytes} bytes were not seen to be held: {last}"
    ))
}

/// The record of one target: `ns/pod` or `ns/pod/container`.
pub(super) fn record_of<'a>(object: &'a DynamicObject, target: &FaultTarget) -> Option<&'a Value> {
    let records = object.data.pointer("/status/experiment/containerRecords")?.as_array()?;
    let id = format!("{}/{}", target.pod.namespace, target.pod.name);
    records.iter().find(|record| {
        let held = record.get("id").and_then(Value::as_str).unwrap_or_default();
        record.get("selectorKey").and_then(Value::as_str).unwrap_or(".") == "."
            && (held == id || held.starts_with(&format!("{id}/")))
    })
}

/// What a one-shot did, as the pod itself shows it.
pub(super) fn shown(target: &FaultTarget, restarts: i32, pod: &LivePod) -> Option<String> {
    if target.container.is_some() {
        return container_ended(target, restarts, pod);
    }
    (pod.gone.is_some() || pod.facts.deletion_at.is_some()).then(|| format!("pod UID {} is gone", target.pod.uid))
}

async fn injected(
    stage: &Stage,
    api: &Api<DynamicObject>,
    plan: &Plan,
    target: &FaultTarget,
    token: &str,
    restarts: i32,
    (requested, limit): (Mono, Duration),
) -> Result<Proof, String> {
    let clock = stage.recorder.clock();
    let deadline = requested.plus(limit);
    let mut why = "no record of the target appeared".to_owned();
    while clock.now() < deadline {
        // What the pod itself shows counts before any status.
        if plan.object.is_one_shot()
            && let Some(pod) = stage.pods.get(&target.pod.uid)
        {
            let seen = shown(target, restarts, &pod);
            if let Some(text) = seen {
                return Ok(Proof {
                    effect: Interval {
                        lower: requested,
                        upper: pod.at.max(requested),
                    },
                    text,
                });
            }
        }
        match stage.cluster.call(format!("read {token}"), api.get(token)).await {
            Ok(object) => {
                let phase = record_of(&object, target)
                    .and_then(|record| record.get("phase"))
                    .and_then(Value::as_str);
                let count = record_of(&object, target)
                    .and_then(|record| record.get("injectedCount"))
                    .and_then(Value::as_u64);
                if phase == Some("Injected") && count.unwrap_or(0) > 0 && !plan.object.is_one_shot() {
                    let upper = clock.now();
                    let applied = applied(stage, target, token).await;
                    return Ok(Proof {
                        // Its records are written once all targets were tried: one that is not there yet proves no absence.
                        effect: Interval {
                            lower: requested,
                            upper,
                        },
                        text: format!(
                            "{} reports the target as Injected ({}){applied}",
                            plan.who, plan.object.kind
                        ),
                    });
                }
                if let Some(phase) = phase {
                    why = format!("Chaos Mesh says {phase:?}");
                }
            }
            Err(error) => why = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let complaint = complaints(stage, token).await;
    Err(format!("not injected within {} s: {why}{complaint}", limit.as_secs()))
}

/// When the controller applied it, by its own clock, as the name of its Event says it (section 4). Events may be lost.
pub(super) async fn applied(stage: &Stage, target: &FaultTarget, token: &str) -> String {
    let events: Api<ClusterEvent> = Api::namespaced(stage.cluster.client(), &stage.namespace);
    let parameters = ListParams::default().fields(&format!("involvedObject.name={token},reason=Applied"));
    let listed = stage.cluster.call("list events", events.list(&parameters)).await;
    let pod = format!("{}/{}", target.pod.namespace, target.pod.name);
    let name = listed.ok().and_then(|listed| {
        let mine = listed.items.into_iter().find(|event| {
            let annotations = event.metadata.annotations.as_ref();
            let id = annotations.and_then(|annotations| annotations.get("chaos-mesh.org/id"));
            id.is_some_and(|id| *id == pod || id.starts_with(&format!("{pod}/")))
        });
        mine.and_then(|event| event.metadata.name)
    });
    name.and_then(|name| stamp_of(&name))
        .map_or(String::new(), |stamp| format!(", applied at {stamp} by its own clock"))
}

/// `<object>.<nanoseconds since the epoch, hexadecimal>`.
fn stamp_of(event: &str) -> Option<jiff::Timestamp> {
    let (_, hex) = event.rsplit_once('.')?;
    jiff::Timestamp::from_nanosecond(i128::from(i64::from_str_radix(hex, 16).ok()?)).ok()
}

/// The newest warning about the object, in Chaos Mesh's words.
pub(super) async fn complaints(stage: &Stage, token: &str) -> String {
    let events: Api<ClusterEvent> = Api::namespaced(stage.cluster.client(), &stage.namespace);
    let parameters = ListParams::default().fields(&format!("involvedObject.name={token},type=Warning"));
    let listed = stage.cluster.call("list events", events.list(&parameters)).await;
    let newest = listed.ok().and_then(|listed| {
        listed
            .items
            .into_iter()
            .max_by_key(|event| event.metadata.name.clone())
            .and_then(|event| event.message)
    });
    newest.map_or(String::new(), |message| format!(". It complains: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_value_stands_under_the_key_of_the_version_or_is_refused() {
        let spec = json!({"action": "return", "returnValue": "9"});
        assert_eq!(with_return_key(spec.clone(), Some("returnValue")), Ok(spec.clone()));
        let old = json!({"action": "return", "value": "9"});
        assert_eq!(with_return_key(spec.clone(), Some("value")), Ok(old));
        assert!(with_return_key(spec, None).unwrap_err().contains("cannot be told"));
        let other = json!({"action": "gc"});
        assert_eq!(with_return_key(other.clone(), None), Ok(other));
    }

    #[test]
    fn a_folder_that_is_no_mount_is_refused_before_anything_is_made() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-0"}, "spec": {"containers": [
            {"name": "web", "volumeMounts": [{"name": "data", "mountPath": "/data/"}]}, {"name": "side"}]}}))
        .unwrap();
        let target = |container: Option<&str>| FaultTarget {
            pod: crate::model::PodName {
                namespace: "shop".to_owned(),
                name: "web-0".to_owned(),
                uid: "1".to_owned(),
            },
            kind: None,
            container: container.map(str::to_owned),
            container_id: None,
        };
        let io = |path: &str| ChaosMeshObject {
            kind: "IOChaos".to_owned(),
            spec: json!({"volumePath": path}),
        };
        assert_eq!(mounted(&pod, &target(Some("web")), &io("/data")), Ok(()));
        assert_eq!(mounted(&pod, &target(None), &io("/data")), Ok(()));
        let why = mounted(&pod, &target(Some("web")), &io("/data/store")).unwrap_err();
        assert!(why.contains("mounts: /data/"), "{why}");
        let why = mounted(&pod, &target(Some("side")), &io("/data")).unwrap_err();
        assert!(why.contains("container side") && why.contains("mounts: none"), "{why}");
    }

    #[test]
    fn the_name_of_an_event_is_its_time() {
        let stamp = stamp_of("chaosrun-7f3a-delay.18a1c2f0b5d3e9c1").unwrap();
        assert_eq!(stamp.as_nanosecond(), 0x18a1_c2f0_b5d3_e9c1);
        assert_eq!(stamp_of("chaosrun-7f3a"), None);
        assert_eq!(stamp_of("a.xyz"), None);
    }
}
