//! Network partition by a NetworkPolicy, where the cluster's network enforces policies. It is owned by the guard Job, so the cluster
//! itself ends it; its effect is proven by a connection that worked before and does not any more.

use super::prepare::Detail;
use super::shot::{Called, Proof, count, shoot};
use super::stage::{GuardOwner, InjectError, Stage};
use super::traffic::{Route, Traffic, first_open};
use crate::cluster::mark;
use crate::fault::{Direction, FaultKind, FaultSpec, FaultTarget, Peer, Undo};
use crate::model::{FAULTED_LABEL, Interval, Mono, PodName, RUN_LABEL};
use crate::world::{Armed, RecordError};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a network may take to enforce a policy. Those that do need a second or two.
const ENFORCEMENT_LIMIT: Duration = Duration::from_secs(15);

/// What was found out before the partition is made.
pub(super) struct Plan {
    /// `spec` of the policy.
    spec: Value,
    /// The chosen pods have to be labelled, because no label tells them from others.
    label: bool,
    /// A connection for each target that the partition must stop.
    routes: Vec<Route>,
}

/// The parts of a pod that matter here.
#[derive(Clone)]
struct Seen {
    name: PodName,
    labels: BTreeMap<String, String>,
    address: String,
    ports: Vec<u16>,
    container: Option<String>,
}

fn seen(pod: Pod) -> Option<Seen> {
    let status = pod.status?;
    let running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
    let spec = pod.spec.filter(|spec| running && spec.host_network != Some(true))?;
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    Some(Seen {
        name: PodName {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
        },
        labels: pod.metadata.labels.unwrap_or_default(),
        address: status.pod_ip?,
        ports: ports
            .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|port| u16::try_from(port.container_port).ok())
            .collect(),
        container: spec.containers.first().map(|container| container.name.clone()),
    })
}

async fn running(stage: &Stage, namespace: &str) -> Result<Vec<Seen>, InjectError> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), namespace);
    let attempted = format!("list the pods of {namespace}");
    let listed = stage.cluster.call(attempted, pods.list(&ListParams::default())).await?;
    Ok(listed.items.into_iter().filter_map(seen).collect())
}

/// Both sides of a partition, and a connection between them that works now, for each target.
pub(super) struct Survey {
    chosen: Vec<Seen>,
    others: Vec<Seen>,
    around: Vec<Seen>,
    pub(super) routes: Vec<Route>,
}

impl Survey {
    /// Addresses of the other side.
    pub(super) fn addresses_of_others(&self) -> Vec<&str> {
        self.others.iter().map(|pod| pod.address.as_str()).collect()
    }
}

/// Looks at both sides before anything is fired.
///
/// # Errors
/// When a side is missing, or no traffic passes that could be seen to stop.
pub(super) async fn survey(stage: &Stage, spec: &FaultSpec, targets: &[FaultTarget]) -> Result<Survey, InjectError> {
    let FaultKind::NetworkPartition { peer, direction, ports } = &spec.kind else {
        return Err(InjectError::Refused("this is no partition".to_owned()));
    };
    let around = running(stage, &stage.namespace).await?;
    let is_target = |pod: &Seen| targets.iter().any(|target| target.pod.uid == pod.name.uid);
    let chosen: Vec<Seen> = around.iter().filter(|pod| is_target(pod)).cloned().collect();
    if chosen.len() < targets.len() {
        return Err(InjectError::Refused(format!(
            "fault {:?}: a chosen pod is not running any more, or uses its node's network, which no policy reaches",
            spec.name
        )));
    }
    let mut others: Vec<Seen> = match peer {
        Some(Peer::Pods { namespace, labels }) => {
            let pods = if *namespace == stage.namespace {
                around.clone()
            } else {
                running(stage, namespace).await?
            };
            let matches = |pod: &Seen| labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
            pods.into_iter().filter(matches).collect()
        }
        Some(Peer::Cidr(_)) => Vec::new(),
        None => around.clone(),
    };
    others.retain(|pod| !is_target(pod));
    if let (Some(other @ Peer::Pods { .. }), true) = (peer, others.is_empty()) {
        return Err(InjectError::Refused(format!(
            "fault {:?}: the other side, {other}, has no running pod",
            spec.name
        )));
    }
    if let Some(Peer::Cidr(range)) = peer
        && let Some(pod) = around.iter().find(|pod| covers(range, &pod.address))
    {
        return Err(InjectError::Refused(format!(
            "fault {:?}: {range} covers pod {} ({}): a range is for addresses outside of the cluster; name pods by their labels",
            spec.name, pod.name.name, pod.address
        )));
    }
    let mut routes = Vec::new();
    for pod in &chosen {
        let candidates = candidate_routes(pod, &others, peer.as_ref(), *direction, ports);
        routes.push(first_open(stage, &spec.name, &candidates).await?);
    }
    Ok(Survey {
        chosen,
        others,
        around,
        routes,
    })
}

pub(super) async fn prepare(
    stage: &Stage,
    spec: &FaultSpec,
    targets: &[FaultTarget],
    token: &str,
) -> Result<(Detail, Vec<Undo>), InjectError> {
    let FaultKind::NetworkPartition { peer, direction, ports } = &spec.kind else {
        return Err(InjectError::Refused("this is no partition".to_owned()));
    };
    let Survey {
        chosen,
        others,
        around,
        routes,
    } = survey(stage, spec, targets).await?;
    let selector = telling_apart(&chosen, &around);
    let label = selector.is_none();
    let selector = selector.unwrap_or_else(|| json!({"matchLabels": {FAULTED_LABEL: "true", RUN_LABEL: stage.run}}));
    let addresses: Vec<&str> = others.iter().map(|pod| pod.address.as_str()).collect();
    let policy = policy_spec(&selector, peer.as_ref(), &addresses, *direction, ports);
    let mut undo = Vec::new();
    if label {
        undo.extend(targets.iter().map(|target| Undo::Restore {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            plural: "pods".to_owned(),
            namespace: Some(target.pod.namespace.clone()),
            name: target.pod.name.clone(),
        }));
    }
    undo.push(Undo::DeleteObject {
        api_version: "networking.k8s.io/v1".to_owned(),
        kind: "NetworkPolicy".to_owned(),
        plural: "networkpolicies".to_owned(),
        namespace: Some(stage.namespace.clone()),
        name: token.to_owned(),
    });
    let plan = Plan {
        spec: policy,
        label,
        routes,
    };
    Ok((Detail::Partition(plan), undo))
}

/// Whether an IPv4 range covers an address.
fn covers(range: &str, address: &str) -> bool {
    let parse = |text: &str| text.parse::<std::net::Ipv4Addr>().ok().map(u32::from);
    let Some((network, length)) = range.split_once('/') else {
        return false;
    };
    let (Some(network), Some(address), Ok(length)) = (parse(network), parse(address), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
    network & mask == address & mask
}

/// Connections that the partition would stop, seen from one chosen pod.
fn candidate_routes(
    pod: &Seen,
    others: &[Seen],
    peer: Option<&Peer>,
    direction: Direction,
    ports: &[u16],
) -> Vec<Route> {
    let route = |from: &Seen, host: &str, port: u16| Route {
        from: from.name.clone(),
        container: from.container.clone(),
        host: host.to_owned(),
        port,
    };
    let of = |receiver: &Seen| -> Vec<u16> {
        if ports.is_empty() {
            receiver.ports.clone()
        } else {
            ports.to_vec()
        }
    };
    let mut routes = Vec::new();
    if matches!(direction, Direction::To | Direction::Both) {
        for other in others {
            routes.extend(of(other).into_iter().map(|port| route(pod, &other.address, port)));
        }
        if let Some(Peer::Cidr(range)) = peer {
            // The first address of the range: for a single address it is the one.
            let host = range.split('/').next().unwrap_or_default();
            routes.extend(ports.iter().map(|port| route(pod, host, *port)));
        }
    }
    if matches!(direction, Direction::From | Direction::Both) {
        for other in others {
            routes.extend(of(pod).into_iter().map(|port| route(other, &pod.address, port)));
        }
    }
    routes
}

/// A label selector that matches the chosen pods and no other one of their namespace: every label key that all of them have, with
/// their values. None when there is none, as with the pods of one ReplicaSet.
fn telling_apart(chosen: &[Seen], around: &[Seen]) -> Option<Value> {
    let first = chosen.first()?;
    let mut keys: Vec<(&String, BTreeSet<&String>)> = Vec::new();
    for key in first.labels.keys() {
        let values: Option<BTreeSet<&String>> = chosen.iter().map(|pod| pod.labels.get(key)).collect();
        keys.extend(values.map(|values| (key, values)));
    }
    let fits = |pod: &Seen| {
        keys.iter()
            .all(|(key, values)| pod.labels.get(*key).is_some_and(|value| values.contains(value)))
    };
    let is_chosen = |pod: &Seen| chosen.iter().any(|chosen| chosen.name.uid == pod.name.uid);
    if keys.is_empty() || around.iter().any(|pod| fits(pod) && !is_chosen(pod)) {
        return None;
    }
    let expressions: Vec<Value> = keys
        .iter()
        .map(|(key, values)| json!({"key": key, "operator": "In", "values": values}))
        .collect();
    Some(json!({"matchExpressions": expressions}))
}

/// A policy that allows everything but the traffic that is to stop. Policies can only allow, so the other side is left out of what is
/// allowed: pods by the opposite of their labels, addresses as exceptions, ports as the ranges between them.
fn policy_spec(
    selector: &Value,
    peer: Option<&Peer>,
    addresses: &[&str],
    direction: Direction,
    ports: &[u16],
) -> Value {
    let mut allowed: Vec<Value> = Vec::new();
    let everybody_else = match peer {
        None => Vec::new(),
        Some(Peer::Cidr(range)) => vec![
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": [range]}}),
            json!({"namespaceSelector": {}}),
        ],
        Some(Peer::Pods { namespace, labels }) => {
            // Some networks match pods by address as well, some do not: the pods' own addresses are excepted, and all other
            // pods are allowed by what they are not.
            let except: Vec<String> = addresses.iter().map(|address| format!("{address}/32")).collect();
            let mut peers = vec![
                json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": except}}),
                json!({"namespaceSelector": {"matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [namespace]}]}}),
            ];
            peers.extend(labels.iter().map(|(key, value)| {
                json!({
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "podSelector": {"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]},
                })
            }));
            peers
        }
    };
    let key = |ingress: bool| if ingress { "from" } else { "to" };
    let rules = |ingress: bool, allowed: &mut Vec<Value>| {
        if !everybody_else.is_empty() {
            allowed.push(json!({key(ingress): everybody_else}));
        }
        if !ports.is_empty() {
            // With the other side, everything but these ports.
            allowed.push(json!({"ports": other_ports(ports)}));
        }
        std::mem::take(allowed)
    };
    let mut types = Vec::new();
    let mut spec = json!({"podSelector": selector});
    if matches!(direction, Direction::From | Direction::Both) {
        types.push("Ingress");
        set(&mut spec, "ingress", json!(rules(true, &mut allowed)));
    }
    if matches!(direction, Direction::To | Direction::Both) {
        types.push("Egress");
        set(&mut spec, "egress", json!(rules(false, &mut allowed)));
    }
    set(&mut spec, "policyTypes", json!(types));
    spec
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(held) = object.as_object_mut() {
        held.insert(key.to_owned(), value);
    }
}

/// Every TCP port but these, as ranges, and every UDP and SCTP port.
fn other_ports(ports: &[u16]) -> Vec<Value> {
    let blocked: BTreeSet<u32> = ports.iter().map(|port| u32::from(*port)).collect();
    let mut ranges = Vec::new();
    let mut from = 1_u32;
    for port in blocked.into_iter().chain([65_536]) {
        if port > from {
            ranges.push(json!({"protocol": "TCP", "port": from, "endPort": port - 1}));
        }
        from = port + 1;
    }
    ranges.extend(["UDP", "SCTP"].map(|protocol| json!({"protocol": protocol, "port": 1, "endPort": 65_535})));
    ranges
}

/// Makes the policy and watches the traffic of every target stop.
pub(super) async fn fire(
    stage: &Stage,
    armed: &Armed,
    token: &str,
    plan: &Plan,
    guard: &GuardOwner,
) -> Result<usize, RecordError> {
    let spec = armed.spec();
    // Opened before: what stops must have been seen to pass.
    let opened = plan.routes.iter().map(|route| Traffic::open(stage, route.clone()));
    let opened = futures::future::join_all(opened).await;
    let made = async {
        if plan.label {
            for target in armed.targets() {
                label(stage, target).await?;
            }
        }
        make_policy(stage, token, plan, guard).await
    };
    let made = futures::future::FutureExt::shared(async { made.await.map_err(|error| error.to_string()) });
    let shots = armed
        .targets()
        .iter()
        .zip(&plan.routes)
        .zip(opened)
        .map(|((target, route), traffic)| {
            let made = made.clone();
            async move {
                let call = async {
                    made.await.map_err(super::shot::Miss::definite)?;
                    Ok(Called::Accepted)
                };
                shoot(stage, spec, target, call, |requested| async move {
                    let traffic = traffic.map_err(|error| error.to_string())?;
                    stopped(stage, traffic, route, (requested, ENFORCEMENT_LIMIT))
                    .await
                    .map_err(|why| {
                        format!(
                            "{why}, although the NetworkPolicy is there: the cluster's network does not enforce policies, or another \
                             policy allows this traffic"
                        )
                    })
                })
                .await
            }
        });
    count(shots).await
}

async fn label(stage: &Stage, target: &FaultTarget) -> Result<(), crate::cluster::ClusterError> {
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client(), &target.pod.namespace);
    let mut patch = mark(&stage.run, &json!({}));
    json_patch::merge(&mut patch, &json!({"metadata": {"uid": target.pod.uid}}));
    stage
        .cluster
        .call(
            format!("label pod {}/{}", target.pod.namespace, target.pod.name),
            pods.patch(&target.pod.name, &PatchParams::default(), &Patch::Merge(&patch)),
        )
        .await
        .map(drop)
}

async fn make_policy(
    stage: &Stage,
    token: &str,
    plan: &Plan,
    guard: &GuardOwner,
) -> Result<(), crate::cluster::ClusterError> {
    let attempted = format!("create NetworkPolicy {}/{token}", stage.namespace);
    let policy: NetworkPolicy = serde_json::from_value(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": stage.owned(token, guard),
        "spec": plan.spec,
    }))
    .map_err(|error| crate::cluster::ClusterError {
        attempted: attempted.clone(),
        failed: crate::cluster::Failed::Other,
        why: error.to_string(),
    })?;
    let policies: Api<NetworkPolicy> = Api::namespaced(stage.cluster.client(), &stage.namespace);
    stage
        .cluster
        .call(attempted, policies.create(&PostParams::default(), &policy))
        .await
        .map(drop)
}

/// Waits until a connection that passed before does not pass any more, twice in a row.
pub(super) async fn stopped(
    stage: &Stage,
    mut traffic: Traffic,
    route: &Route,
    (requested, limit): (Mono, Duration),
) -> Result<Proof, String> {
    let clock = stage.recorder.clock();
    let deadline = requested.plus(limit);
    let mut passed = requested;
    let mut first_stop: Option<Mono> = None;
    while clock.now() < deadline {
        let (within, open) = traffic.passes(stage).await?;
        if open {
            passed = passed.max(within.lower);
            first_stop = None;
        } else if let Some(upper) = first_stop {
            return Ok(Proof {
                effect: Interval {
                    lower: passed.max(requested),
                    upper: upper.max(requested),
                },
                text: format!("no connection from {route} any more"),
            });
        } else {
            first_stop = Some(within.upper);
        }
    }
    Err(format!(
        "connections from {route} still pass after {} s",
        limit.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, labels: &[(&str, &str)]) -> Seen {
        Seen {
            name: PodName {
                namespace: "n".to_owned(),
                name: name.to_owned(),
                uid: name.to_owned(),
            },
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            address: "10.0.0.1".to_owned(),
            ports: vec![80],
            container: None,
        }
    }

    #[test]
    fn the_selector_matches_the_chosen_pods_and_no_other() {
        let around = vec![
            pod("driver", &[("app", "a"), ("role", "driver")]),
            pod("exec-1", &[("app", "a"), ("role", "executor"), ("id", "1")]),
            pod("exec-2", &[("app", "a"), ("role", "executor"), ("id", "2")]),
        ];
        let selector = telling_apart(&around[1..2], &around).unwrap();
        assert!(
            selector
                .to_string()
                .contains(r#""key":"id","operator":"In","values":["1"]"#),
            "{selector}"
        );
        let same = vec![pod("a", &[("app", "x")]), pod("b", &[("app", "x")])];
        assert_eq!(telling_apart(&same[..1], &same), None);
    }

    #[test]
    fn all_ports_but_the_blocked_ones_stay_open() {
        let tcp: Vec<(u64, u64)> = other_ports(&[443, 80, 1])
            .iter()
            .filter(|range| range["protocol"] == "TCP")
            .map(|range| (range["port"].as_u64().unwrap(), range["endPort"].as_u64().unwrap()))
            .collect();
        assert_eq!(tcp, [(2, 79), (81, 442), (444, 65_535)]);
    }

    #[test]
    fn ranges_cover_what_they_should() {
        assert!(covers("10.9.0.0/16", "10.9.200.1"));
        assert!(!covers("10.9.0.0/16", "10.10.0.1"));
        assert!(covers("10.9.0.7/32", "10.9.0.7"));
        assert!(!covers("10.9.0.7/32", "10.9.0.8"));
        assert!(covers("0.0.0.0/0", "10.9.0.8"));
    }

    #[test]
    fn without_a_peer_nothing_is_allowed() {
        let spec = policy_spec(&json!({}), None, &[], Direction::Both, &[]);
        assert_eq!(spec["ingress"], json!([]));
        assert_eq!(spec["egress"], json!([]));
    }
}
