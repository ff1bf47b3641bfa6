//! What Litmus needs to be there, and the engine that is to be made. Reads, and changes nothing.

use super::super::prepare::Detail;
use super::super::stage::{InjectError, Stage};
use super::super::traffic::Route;
use super::super::{chaos_mesh, partition};
use super::API_VERSION;
use crate::cluster::{ClusterError, Failed, api_of};
use crate::fault::{FaultKind, FaultSpec, FaultTarget, LitmusEffect, LitmusExperiment, Peer, Undo, litmus_experiment};
use crate::model::FAULTED_LABEL;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a one-shot experiment runs. It acts once at its begin, and would act again after each `CHAOS_INTERVAL`: the same time.
const ONE_SHOT_SECONDS: u64 = 5;
/// How much longer than the fault an experiment runs: chaosrun ends it, its own time is for when chaosrun cannot.
const DURATION_MARGIN: Duration = Duration::from_secs(30);
/// What the pods of an experiment get to take the fault back when they are told to end.
const GRACE_SECONDS: u64 = 60;

/// What is to be created, and how its effect is seen.
pub(in crate::inject) struct Plan {
    pub(super) experiment: LitmusExperiment,
    /// Spec of the engine.
    pub(super) spec: Value,
    /// For a partition: a connection for each target that it must stop.
    pub(super) routes: Vec<Route>,
    /// For memory: bytes that are held in each container before.
    pub(super) held_before: Vec<u64>,
    /// For memory: bytes that must be held on top of these.
    pub(super) bytes: u64,
}

pub(in crate::inject) async fn prepare(
    stage: &Stage,
    spec: &FaultSpec,
    targets: &[FaultTarget],
    token: &str,
) -> Result<(Detail, Vec<Undo>), InjectError> {
    let refuse = |why: String| InjectError::Refused(format!("fault {:?}: {why}", spec.name));
    let experiment = litmus_experiment(&spec.kind).map_err(&refuse)?;
    installed(stage, &experiment.name).await?.map_err(&refuse)?;
    if let FaultKind::PodKill { grace_seconds } = spec.kind
        && grace_seconds > 0
    {
        own_grace(stage, targets, grace_seconds).await?.map_err(&refuse)?;
    }
    let mut env = experiment.env.clone();
    let mut set = |name: &str, value: String| env.push((name.to_owned(), value));
    for (name, seconds) in times(spec) {
        set(name, seconds.to_string());
    }
    set("SEQUENCE", "parallel".to_owned());
    // What is measured is chaosrun's: Litmus would wait for the whole workload to be well before and after.
    set("DEFAULT_HEALTH_CHECK", "false".to_owned());
    let mut routes = Vec::new();
    let mut pin = None;
    match experiment.effect {
        LitmusEffect::NodesDrained => {
            let [node] = targets else {
                return Err(refuse(
                    "Litmus drains one node at a time: choose pods of one node (mode: one)".to_owned(),
                ));
            };
            set("TARGET_NODE", node.pod.name.clone());
            pin = Some(another_node(stage, &node.pod.name).await?.map_err(&refuse)?);
        }
        LitmusEffect::TrafficStops => {
            let survey = partition::survey(stage, spec, targets).await?;
            if let FaultKind::NetworkPartition {
                peer: Some(Peer::Pods { .. }),
                ..
            } = spec.kind
            {
                set("DESTINATION_IPS", survey.addresses_of_others().join(","));
            }
            routes = survey.routes;
            // The experiment ignores TARGET_PODS. Its policy selects by the first label of TARGETS (of APP_LABEL before 3.0), and by no
            // label it selects everybody: the chosen pods are marked, and the mark is all that is named. No kind: pods of any owner.
            let label = format!("{FAULTED_LABEL}={token}");
            set("TARGETS", format!("KIND:{}:[{label}]", stage.namespace));
            set("APP_LABEL", label);
        }
        _ => {
            let names: Vec<&str> = targets.iter().map(|target| target.pod.name.as_str()).collect();
            set("TARGET_PODS", names.join(","));
            if let Some(container) = one_container(targets).map_err(&refuse)? {
                set("TARGET_CONTAINER", container);
            }
        }
    }
    let (held_before, bytes) = chaos_mesh::memory_before(stage, spec, targets).await?;
    let env: Vec<Value> = env
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let mut components = json!({"env": env});
    let mut engine = json!({
        "engineState": "active",
        "appinfo": {"appns": stage.namespace, "applabel": "", "appkind": ""},
        "chaosServiceAccount": stage.litmus_account,
        "jobCleanUpPolicy": "retain",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
    });
    if let Some(node) = pin {
        // A drain would evict the very pods that do it.
        let selector = json!({"nodeSelector": {"kubernetes.io/hostname": node}});
        json_patch::merge(&mut components, &selector);
        json_patch::merge(&mut engine, &json!({"components": {"runner": selector}}));
    }
    let experiments = json!([{"name": experiment.name, "spec": {"components": components}}]);
    json_patch::merge(&mut engine, &json!({"experiments": experiments}));
    let plan = Plan {
        experiment,
        spec: engine,
        routes,
        held_before,
        bytes,
    };
    let undo = undo(stage, &plan, targets, token);
    Ok((Detail::Litmus(Box::new(plan)), undo))
}

/// How long the experiment runs, and when it acts again: a one-shot never does.
fn times(spec: &FaultSpec) -> Vec<(&'static str, u64)> {
    match spec.duration {
        Some(duration) => vec![("TOTAL_CHAOS_DURATION", (duration + DURATION_MARGIN).as_secs())],
        None => vec![
            ("TOTAL_CHAOS_DURATION", ONE_SHOT_SECONDS),
            ("CHAOS_INTERVAL", ONE_SHOT_SECONDS),
        ],
    }
}

/// Undone from the last to the first: the engine goes first, and what it left on marked objects after it.
fn undo(stage: &Stage, plan: &Plan, targets: &[FaultTarget], token: &str) -> Vec<Undo> {
    let marked = match plan.experiment.effect {
        LitmusEffect::TrafficStops => Some(("Pod", "pods")),
        LitmusEffect::NodesDrained => Some(("Node", "nodes")),
        _ => None,
    };
    let mut undo = Vec::new();
    if let Some((kind, plural)) = marked {
        undo.extend(targets.iter().map(|target| Undo::Restore {
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespace: Some(target.pod.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: target.pod.name.clone(),
        }));
    }
    undo.push(Undo::DeleteObject {
        api_version: API_VERSION.to_owned(),
        kind: "ChaosEngine".to_owned(),
        plural: "chaosengines".to_owned(),
        namespace: Some(stage.namespace.clone()),
        name: token.to_owned(),
    });
    undo
}

/// Litmus deletes without grace or with the pod's own, and with no other.
async fn own_grace(stage: &Stage, targets: &[FaultTarget], wanted: u32) -> Result<Result<(), String>, InjectError> {
    for target in targets {
        let (namespace, name) = (&target.pod.namespace, &target.pod.name);
        let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), namespace);
        let attempted = format!("read pod {namespace}/{name}");
        let pod = stage.cluster.call(attempted, pods.get(name)).await?;
        let own = pod
            .spec
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        if own != i64::from(wanted) {
            return Ok(Err(format!(
                "Litmus deletes pods without grace or with their own, which is {own} s for pod {name}, and not {wanted} s: make gracePeriod \
                 0s or {own}s"
            )));
        }
    }
    Ok(Ok(()))
}

/// `TARGET_CONTAINER` is one name for all targets.
fn one_container(targets: &[FaultTarget]) -> Result<Option<String>, String> {
    let mut names: Vec<&str> = targets
        .iter()
        .filter_map(|target| target.container.as_deref())
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).to_owned())),
        [one, other, ..] => Err(format!(
            "the chosen pods have different containers ({one}, {other}), and Litmus takes one name: name it by `container`"
        )),
    }
}

/// What cannot be looked at for want of rights is left for the engine to find out.
fn if_readable<T>(found: Result<Option<T>, ClusterError>, missing: String) -> Result<Result<(), String>, InjectError> {
    match found {
        Ok(Some(_)) => Ok(Ok(())),
        Ok(None) => Ok(Err(missing)),
        Err(error) if error.failed == Failed::Forbidden => Ok(Ok(())),
        Err(error) => Err(error.into()),
    }
}

/// Its kinds, the experiment and the service account, in the namespace of the target; in words what is missing.
async fn installed(stage: &Stage, experiment: &str) -> Result<Result<(), String>, InjectError> {
    let (cluster, namespace) = (&stage.cluster, &stage.namespace);
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    for plural in ["chaosengines", "chaosexperiments", "chaosresults"] {
        let name = format!("{plural}.litmuschaos.io");
        let found = cluster
            .call_opt(format!("look for the definition {name}"), definitions.get(&name))
            .await;
        let missing = format!(
            "Litmus is not installed here: there is no {name}; install its operator (the chart is litmuschaos/litmus-core), or use \
             injector: direct"
        );
        if let Err(why) = if_readable(found, missing)? {
            return Ok(Err(why));
        }
    }
    let experiments = api_of(
        cluster,
        (API_VERSION, "ChaosExperiment", "chaosexperiments"),
        Some(namespace),
    );
    let attempted = format!("look for the ChaosExperiment {namespace}/{experiment}");
    let found = cluster.call_opt(attempted, experiments.get(experiment)).await;
    let missing = format!(
        "there is no ChaosExperiment {experiment} in namespace {namespace}: install it there from chaos-charts (Litmus looks for it in the \
         engine's own namespace)"
    );
    if let Err(why) = if_readable(found, missing)? {
        return Ok(Err(why));
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), namespace);
    let account = &stage.litmus_account;
    let attempted = format!("look for the service account {namespace}/{account}");
    let found = cluster.call_opt(attempted, accounts.get(account)).await;
    if_readable(
        found,
        format!(
            "there is no service account {account} in namespace {namespace} to run the experiment: create it with the rights of \
             {experiment} (its rbac.yaml in chaos-charts), or name another one by litmus.serviceAccount"
        ),
    )
}

/// A node for the pods that drain another one.
async fn another_node(stage: &Stage, drained: &str) -> Result<Result<String, String>, InjectError> {
    let nodes: Api<Node> = Api::all(stage.cluster.client());
    let listed = stage
        .cluster
        .call("list the nodes", nodes.list(&ListParams::default()))
        .await?;
    let fit = listed.items.into_iter().find(|node| {
        let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let spec = node.spec.as_ref();
        node.metadata.name.as_deref() != Some(drained)
            && spec.is_none_or(|spec| {
                let taints = spec.taints.iter().flatten();
                spec.unschedulable != Some(true) && !taints.into_iter().any(|taint| taint.effect != "PreferNoSchedule")
            })
            && ready
                .into_iter()
                .any(|held| held.type_ == "Ready" && held.status == "True")
    });
    let host = fit.and_then(|node| node.metadata.labels?.remove("kubernetes.io/hostname"));
    Ok(host.ok_or_else(|| {
        format!("there is no other node than {drained} for the pods of Litmus that drain it, and they would evict themselves")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Injector, Mode};
    use crate::model::PodName;

    fn spec(kind: FaultKind, duration: Option<Duration>) -> FaultSpec {
        FaultSpec {
            name: "it".to_owned(),
            kind,
            role: None,
            labels: Vec::new(),
            mode: Mode::One,
            injector: Injector::Litmus,
            after: Duration::ZERO,
            duration,
            may_be_replaced: false,
        }
    }

    #[test]
    fn a_one_shot_acts_once_and_what_lasts_outlasts_its_duration() {
        let kill = times(&spec(FaultKind::PodKill { grace_seconds: 0 }, None));
        assert_eq!(kill, [("TOTAL_CHAOS_DURATION", 5), ("CHAOS_INTERVAL", 5)]);
        let loss = times(&spec(
            FaultKind::NetworkLoss { percent: 5 },
            Some(Duration::from_secs(20)),
        ));
        assert_eq!(loss, [("TOTAL_CHAOS_DURATION", 50)]);
    }

    #[test]
    fn all_targets_must_have_the_container_that_is_named() {
        let target = |container: Option<&str>| FaultTarget {
            pod: PodName {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
                uid: "u".to_owned(),
            },
            kind: None,
            container: container.map(str::to_owned),
            container_id: None,
        };
        assert_eq!(one_container(&[target(None)]), Ok(None));
        assert_eq!(
            one_container(&[target(Some("a")), target(Some("a"))]),
            Ok(Some("a".to_owned()))
        );
        let refused = one_container(&[target(Some("a")), target(Some("b"))]).unwrap_err();
        assert!(refused.contains("different containers (a, b)"), "{refused}");
    }
}
