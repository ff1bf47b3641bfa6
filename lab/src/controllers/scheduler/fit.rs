//! Which nodes a pod may go to, and which of them is best. Pure.
//!
//! The filters and their messages are those of kube-scheduler's default plugins: `NodeUnschedulable`, `TaintToleration`,
//! `NodeAffinity`, `NodeResourcesFit`, `InterPodAffinity` (required terms). The score is least-allocated plus spreading of
//! pods with the same owner.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, Container, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity::milli;
use crate::controllers::meta::{controller_of, is_terminal, selects_or_all};

/// Thousandths of cpu, memory and whatever else is asked for.
pub(crate) type Resources = BTreeMap<String, i128>;

/// Where a pod should go, or why it cannot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Bind it to this node.
    Node(String),
    /// No node fits; the text is that of kube-scheduler.
    Unschedulable(String),
}

/// Picks a node for `pod`. `pods` are all pods of the cluster.
pub(crate) fn place(pod: &Pod, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Placement {
    if nodes.is_empty() {
        return Placement::Unschedulable("no nodes available to schedule pods".to_owned());
    }
    let mut by_node: HashMap<&str, Vec<&Pod>> = HashMap::new();
    for placed in pods {
        if let Some(node) = node_of(placed)
            && !is_terminal(placed)
        {
            by_node.entry(node).or_default().push(placed);
        }
    }
    let cluster = Cluster { nodes, by_node };
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(i128, &str)> = None;
    for node in nodes {
        let refused = cluster.refusals(pod, node);
        if refused.is_empty() {
            let score = cluster.score(pod, node);
            let name = node_name(node);
            if best.is_none_or(|(best_score, _)| score > best_score) {
                best = Some((score, name));
            }
        }
        for reason in refused {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    match best {
        Some((_, name)) => Placement::Node(name.to_owned()),
        None => Placement::Unschedulable(message(nodes.len(), &reasons)),
    }
}

fn message(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(reason, number)| format!("{number} {reason}"))
        .collect();
    parts.sort();
    format!(
        "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {nodes} No preemption victims \
         found for incoming pod.",
        parts.join(", ")
    )
}

struct Cluster<'a> {
    nodes: &'a [Arc<Node>],
    by_node: HashMap<&'a str, Vec<&'a Pod>>,
}

impl Cluster<'_> {
    fn on(&self, node: &Node) -> &[&Pod] {
        self.by_node.get(node_name(node)).map_or(&[], Vec::as_slice)
    }

    /// Reasons of the first filter that refuses, as kube-scheduler stops at the first plugin.
    fn refusals(&self, pod: &Pod, node: &Node) -> Vec<String> {
        let tolerations = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.tolerations.as_deref())
            .unwrap_or_default();
        if is_cordoned(node) && !tolerates(tolerations, &cordon_taint()) {
            return vec!["node(s) were unschedulable".to_owned()];
        }
        if let Some(taint) = untolerated(node, tolerations) {
            let value = taint.value.as_deref().unwrap_or_default();
            return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
        }
        if !is_node_ready(node) && !tolerates(tolerations, &not_ready_taint()) {
            return vec!["node(s) had untolerated taint {node.kubernetes.io/not-ready: }".to_owned()];
        }
        if !matches_node(pod, node) {
            return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
        }
        let missing = self.missing_resources(pod, node);
        if !missing.is_empty() {
            return missing;
        }
        self.pod_affinity_refusal(pod, node)
            .map(|reason| vec![reason.to_owned()])
            .unwrap_or_default()
    }

    fn missing_resources(&self, pod: &Pod, node: &Node) -> Vec<String> {
        let allocatable = allocatable(node);
        let mut reasons = Vec::new();
        let present = self.on(node);
        // An absent `pods` capacity means the kubelet's default of 110.
        let limit = allocatable.get("pods").copied().unwrap_or(110_000);
        if i128::try_from(present.len())
            .unwrap_or(i128::MAX)
            .saturating_add(1)
            .saturating_mul(1000)
            > limit
        {
            reasons.push("Too many pods".to_owned());
        }
        let mut used = Resources::new();
        for placed in present {
            add(&mut used, &requests(placed));
        }
        for (resource, wanted) in requests(pod) {
            let free = allocatable.get(&resource).copied().unwrap_or(0) - used.get(&resource).copied().unwrap_or(0);
            if wanted > 0 && wanted > free {
                reasons.push(format!("Insufficient {resource}"));
            }
        }
        reasons
    }

    fn pod_affinity_refusal(&self, pod: &Pod, node: &Node) -> Option<&'static str> {
        for term in anti_affinity_terms(pod) {
            if self
                .neighbours(node, &term.topology_key)
                .any(|other| term_matches(term, pod, other))
            {
                return Some("node(s) didn't match pod anti-affinity rules");
            }
        }
        for (placed_node, placed) in self.all_placed() {
            for term in anti_affinity_terms(placed) {
                if term_matches(term, placed, pod) && same_domain(placed_node, node, &term.topology_key) {
                    return Some("node(s) didn't satisfy existing pods anti-affinity rules");
                }
            }
        }
        for term in affinity_terms(pod) {
            let somewhere = self.all_placed().any(|(_, other)| term_matches(term, pod, other));
            // The first pod of a group that asks to be with itself may go anywhere.
            if !somewhere && term_matches(term, pod, pod) {
                continue;
            }
            if !self
                .neighbours(node, &term.topology_key)
                .any(|other| term_matches(term, pod, other))
            {
                return Some("node(s) didn't match pod affinity rules");
            }
        }
        None
    }

    fn all_placed(&self) -> impl Iterator<Item = (&Node, &Pod)> {
        self.nodes
            .iter()
            .flat_map(|node| self.on(node).iter().map(|pod| (&**node, *pod)))
    }

    fn neighbours<'a>(&'a self, node: &'a Node, topology_key: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.all_placed()
            .filter(move |(other, _)| same_domain(other, node, topology_key))
            .map(|(_, pod)| pod)
    }

    /// Higher is better: what stays free of cpu and memory (0 to 100), minus 100 for each pod of the same owner.
    fn score(&self, pod: &Pod, node: &Node) -> i128 {
        let allocatable = allocatable(node);
        let mut used = requests(pod);
        for placed in self.on(node) {
            add(&mut used, &requests(placed));
        }
        let mut free = 0;
        for resource in ["cpu", "memory"] {
            let capacity = allocatable.get(resource).copied().unwrap_or(0);
            let taken = used.get(resource).copied().unwrap_or(0);
            if capacity > 0 {
                free += (capacity - taken).max(0).saturating_mul(50) / capacity;
            }
        }
        let owner = controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
        let siblings = self
            .on(node)
            .iter()
            .filter(|other| owner.is_some() && controller_of(&other.metadata).map(|o| o.uid.as_str()) == owner)
            .count();
        // Among equals the emptier node wins, so that pods without requests spread as well.
        let present = i128::try_from(self.on(node).len()).unwrap_or(0);
        let siblings = i128::try_from(siblings).unwrap_or(0);
        (free - siblings.saturating_mul(100)).saturating_mul(1000) - present
    }
}

/// Name of the node that a pod is bound to.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn node_name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

/// Condition Ready is True.
pub(crate) fn is_node_ready(node: &Node) -> bool {
    node.status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn cordon_taint() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

fn not_ready_taint() -> Taint {
    Taint {
        key: "node.kubernetes.io/not-ready".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerates(tolerations, taint))
}

/// Whether one of the tolerations accepts the taint (`v1helper.TolerationsTolerateTaint`).
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let operator = toleration
            .operator
            .as_deref()
            .filter(|operator| !operator.is_empty())
            .unwrap_or("Equal");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || (key.is_empty() && operator == "Exists"))
            && (operator == "Exists" || value == taint.value.as_deref().unwrap_or_default())
    })
}

/// Whether nodeSelector and the required node affinity accept the node.
pub(crate) fn matches_node(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let no_labels = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&no_labels);
    let fits_selector = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    fits_selector
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_fits(term, node)))
}

fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term that asks for nothing matches nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| {
        node.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
    };
    let field = |key: &str| (key == "metadata.name").then(|| node_name(node));
    expressions
        .iter()
        .all(|expression| requirement_fits(expression, label(&expression.key)))
        && fields
            .iter()
            .all(|expression| requirement_fits(expression, field(&expression.key)))
}

fn requirement_fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = || value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let compare = |wanted: std::cmp::Ordering| {
        let actual = value.and_then(|value| value.parse::<i64>().ok());
        let bound = values.first().and_then(|value| value.parse::<i64>().ok());
        actual
            .zip(bound)
            .is_some_and(|(actual, bound)| actual.cmp(&bound) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

fn affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_ref()
}

fn anti_affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    affinity(pod)
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

fn affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    affinity(pod)
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// Whether a term of `holder` means `other`. A missing label selector means no pod.
fn term_matches(term: &PodAffinityTerm, holder: &Pod, other: &Pod) -> bool {
    let namespaces = term.namespaces.as_deref().unwrap_or_default();
    let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
    let in_scope = if namespaces.is_empty() && term.namespace_selector.is_none() {
        holder.metadata.namespace == other.metadata.namespace
    } else {
        // A namespace selector is taken for "all namespaces": labels of namespaces are not looked at.
        term.namespace_selector.is_some() || namespaces.iter().any(|name| name == namespace)
    };
    in_scope
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selects_or_all(selector, other.metadata.labels.as_ref()))
}

fn same_domain(one: &Node, other: &Node, topology_key: &str) -> bool {
    let domain = |node: &Node| {
        let labelled = node
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(topology_key))
            .cloned();
        // A node without the hostname label is still a host of its own.
        labelled.or_else(|| (topology_key == "kubernetes.io/hostname").then(|| node_name(node).to_owned()))
    };
    domain(one).is_some_and(|domain_of_one| domain(other) == Some(domain_of_one))
}

/// What the node offers to pods.
fn allocatable(node: &Node) -> Resources {
    let status = node.status.as_ref();
    let offered = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    offered.map(thousandths).unwrap_or_default()
}

fn thousandths(quantities: &BTreeMap<String, Quantity>) -> Resources {
    quantities
        .iter()
        .filter_map(|(name, quantity)| Some((name.clone(), milli(quantity)?)))
        .collect()
}

fn add(total: &mut Resources, more: &Resources) {
    for (resource, amount) in more {
        *total.entry(resource.clone()).or_default() += amount;
    }
}

/// What a pod asks for: the sum of its containers and sidecars, or its largest init container if that is more, plus
/// overhead (`resourcehelper.PodRequests`).
pub(crate) fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::new();
    };
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, &container_requests(container));
    }
    let mut sidecars = Resources::new();
    let mut largest_init = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        let mut needed = container_requests(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &needed);
            needed.clone_from(&sidecars);
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut largest_init, &needed);
    }
    add(&mut total, &sidecars);
    raise(&mut total, &largest_init);
    if let Some(overhead) = &spec.overhead {
        add(&mut total, &thousandths(overhead));
    }
    total
}

fn raise(total: &mut Resources, at_least: &Resources) {
    for (resource, amount) in at_least {
        let entry = total.entry(resource.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

fn container_requests(container: &Container) -> Resources {
    let Some(resources) = &container.resources else {
        return Resources::new();
    };
    // A limit without a request is a request of the same size; the API server defaults it, a bare store may not.
    let mut needed = resources.limits.as_ref().map(thousandths).unwrap_or_default();
    if let Some(requests) = &resources.requests {
        needed.extend(thousandths(requests));
    }
    needed
}
