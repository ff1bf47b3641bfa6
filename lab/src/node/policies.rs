//! NetworkPolicy, enforced by one nftables table per lab, rewritten as a whole whenever policies, pods or namespaces change.
//! Depends on `network`, `command`, `error`; the compiling half is pure.
//!
//! Contract: what Kubernetes documents (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>): a pod that no
//! policy selects is open; policies add up; both ends must allow a connection; replies belong to the connection; traffic between a
//! pod and its own node is never cut. Packets of connections that exist are judged as well, in both directions, so a new policy cuts
//! them at once, as Cilium does. An address range matches pods, too, as with Calico. The lab ignores all policies, as a network
//! without support for them does, while the namespace `kube-system` carries the annotation [`IGNORE_ANNOTATION`] with the value "true".

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};

use super::command::run;
use super::directory::follow;
use super::network::LabNetwork;

/// Makes the lab's network one that does not enforce policies.
pub(crate) const IGNORE_ANNOTATION: &str = "lab.chaosrun.dev/ignore-network-policies";

/// Changes come in bursts; one rewrite serves all of a burst.
const SETTLE: Duration = Duration::from_millis(10);

type Labels = BTreeMap<String, String>;

/// What is known of pods, namespaces and policies.
pub(crate) struct Policies {
    policies: Store<NetworkPolicy>,
    pods: Store<Pod>,
    namespaces: Store<Namespace>,
}

impl Policies {
    /// Starts the watches; the stream yields whenever something may have changed.
    pub(crate) fn start(client: &Client) -> (Self, impl Stream<Item = ()> + Send + 'static) {
        let (policies, policy_events) = follow::<NetworkPolicy>(client);
        let (pods, pod_events) = follow::<Pod>(client);
        let (namespaces, namespace_events) = follow::<Namespace>(client);
        let events = futures::stream::select(policy_events, futures::stream::select(pod_events, namespace_events));
        let known = Self {
            policies,
            pods,
            namespaces,
        };
        (known, events)
    }

    fn world(&self) -> World {
        let mut world = World::default();
        for namespace in self.namespaces.state() {
            if namespace.name_any() == "kube-system" {
                let switch = namespace.annotations().get(IGNORE_ANNOTATION);
                world.ignored = switch.is_some_and(|value| value == "true");
            }
            let mut labels = namespace.labels().clone();
            // The API server sets it; nothing may select by another one.
            labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.name_any());
            world.namespaces.insert(namespace.name_any(), labels);
        }
        world.pods = self.pods.state().iter().filter_map(seen).collect();
        world.pods.sort_by(|one, other| one.address.cmp(&other.address));
        world.policies = self.policies.state();
        world
            .policies
            .sort_by_key(|policy| (policy.namespace(), policy.name_any()));
        world
    }
}

fn seen(pod: &Arc<Pod>) -> Option<Seen> {
    let status = pod.status.as_ref()?;
    let host = pod.spec.as_ref()?.host_network == Some(true);
    if host || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let containers = &pod.spec.as_ref()?.containers;
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    Some(Seen {
        namespace: pod.namespace()?,
        labels: pod.labels().clone(),
        address: status.pod_ip.clone()?,
        ports: ports
            .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
            .collect(),
    })
}

/// A pod as policies see it.
#[derive(Debug, Clone)]
struct Seen {
    namespace: String,
    labels: Labels,
    address: String,
    /// Named ports.
    ports: Vec<(String, u16)>,
}

/// Everything that policies are compiled from.
#[derive(Debug, Default)]
struct World {
    ignored: bool,
    policies: Vec<Arc<NetworkPolicy>>,
    pods: Vec<Seen>,
    namespaces: BTreeMap<String, Labels>,
}

/// Name of the table (family ip).
pub(crate) fn table(network: &LabNetwork) -> String {
    format!("{}_policies", network.table())
}

/// Keeps the table current for ever.
pub(crate) async fn maintain(network: LabNetwork, policies: Policies, events: impl Stream<Item = ()>) {
    let mut events = std::pin::pin!(events.ready_chunks(1024));
    let mut written = None;
    loop {
        let script = script(&network, &policies.world());
        if written.as_ref() != Some(&script) {
            match run("nft", &["-f", "-"], Some(&script)).await {
                Ok(_) => written = Some(script),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "network policies not written");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
        }
        if events.next().await.is_none() {
            return;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

/// Which way a rule looks at a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Ingress,
    Egress,
}

/// What the other end of a connection may be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ends {
    Anybody,
    /// Addresses, and addresses that are not among them.
    Addresses {
        within: Vec<String>,
        except: Vec<String>,
    },
}

/// One thing that is allowed: the other end, the protocol, and the receiver's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Allowed {
    ends: Ends,
    /// Protocol and range; none for everything.
    port: Option<(String, Option<(u16, u16)>)>,
}

/// The whole table as one transaction.
fn script(network: &LabNetwork, world: &World) -> String {
    let table = table(network);
    let empty = format!("add table ip {table}\ndelete table ip {table}\n");
    if world.ignored {
        return empty;
    }
    let mut chains = String::new();
    let mut into: BTreeMap<Side, Vec<String>> = BTreeMap::new();
    for pod in &world.pods {
        for side in [Side::Ingress, Side::Egress] {
            let Some(allowed) = allowed(world, pod, side) else {
                continue;
            };
            let name = chain_name(&pod.address, side);
            chain(&mut chains, &name, &allowed, side);
            into.entry(side)
                .or_default()
                .push(format!("{} : jump {name}", pod.address));
        }
    }
    if into.is_empty() {
        return empty;
    }
    let map = |side: Side, suffix: &str| {
        let entries: Vec<String> = into
            .get(&side)
            .into_iter()
            .flatten()
            .map(|entry| format!("{entry}{suffix}"))
            .collect();
        entries.join(", ")
    };
    let jump = |matcher: &str, side: Side, suffix: &str| {
        let entries = map(side, suffix);
        if entries.is_empty() {
            String::new()
        } else {
            format!("    {matcher} vmap {{ {entries} }}\n")
        }
    };
    let bridge = network.bridge();
    let gateway = network.gateway();
    // A packet of the original direction is judged by its sender's egress and its receiver's ingress, a reply by the same two with
    // both ends swapped. What a node sends itself never passes the forward hook; what a pod sends to the node (the API server, the
    // name server) comes in by the input hook, and only there.
    format!(
        "{empty}table ip {table} {{
{chains}  chain forward {{
    type filter hook forward priority 5; policy accept;
    ct direction reply goto replies
{egress}{ingress}  }}
  chain replies {{
{reply_egress}{reply_ingress}  }}
  chain input {{
    type filter hook input priority 5; policy accept;
    iifname != \"{bridge}\" accept
    ct direction reply accept
{egress}  }}
  chain output {{
    type filter hook output priority 5; policy accept;
    oifname != \"{bridge}\" accept
    ct direction original accept
    ip saddr != {gateway} accept
{reply_egress}  }}
}}
",
        egress = jump("ip saddr", Side::Egress, ""),
        ingress = jump("ip daddr", Side::Ingress, ""),
        reply_egress = jump("ip daddr", Side::Egress, "_r"),
        reply_ingress = jump("ip saddr", Side::Ingress, "_r"),
    )
}

fn chain_name(address: &str, side: Side) -> String {
    let side = match side {
        Side::Ingress => "in",
        Side::Egress => "out",
    };
    format!("{side}_{}", address.replace('.', "_"))
}

/// The chain of one pod and side, and the same for replies. A packet that is allowed returns to be judged by the other end.
fn chain(text: &mut String, name: &str, allowed: &[Allowed], side: Side) {
    for reply in [false, true] {
        let suffix = if reply { "_r" } else { "" };
        // Writing to a string cannot fail.
        writeln!(text, "  chain {name}{suffix} {{").ok();
        // The other end is the sender of what comes in and the receiver of what goes out; in a reply it is the other way round.
        let other = if (side == Side::Ingress) == reply {
            "daddr"
        } else {
            "saddr"
        };
        let port = if reply { "sport" } else { "dport" };
        for Allowed { ends, port: wanted } in allowed {
            let mut rule = String::new();
            if let Ends::Addresses { within, except } = ends {
                if within.is_empty() {
                    continue;
                }
                write!(rule, "ip {other} {{ {} }} ", within.join(", ")).ok();
                if !except.is_empty() {
                    write!(rule, "ip {other} != {{ {} }} ", except.join(", ")).ok();
                }
            }
            match wanted {
                None => {}
                Some((protocol, None)) => write!(rule, "meta l4proto {protocol} ").unwrap_or_default(),
                Some((protocol, Some((from, to)))) => {
                    write!(rule, "{protocol} {port} {from}-{to} ").unwrap_or_default();
                }
            }
            writeln!(text, "    {rule}return").ok();
        }
        writeln!(text, "    drop\n  }}").ok();
    }
}

/// What may pass a pod on one side; none when no policy isolates it there.
fn allowed(world: &World, pod: &Seen, side: Side) -> Option<Vec<Allowed>> {
    let mut isolated = false;
    let mut all = Vec::new();
    for policy in &world.policies {
        let Some(spec) = &policy.spec else { continue };
        let selected = policy.namespace().as_deref() == Some(&pod.namespace)
            && spec
                .pod_selector
                .as_ref()
                .is_none_or(|selector| matches(selector, &pod.labels));
        if !selected || !applies(policy, side) {
            continue;
        }
        isolated = true;
        match side {
            Side::Ingress => {
                for rule in spec.ingress.iter().flatten() {
                    add(
                        &mut all,
                        world,
                        pod,
                        (rule.from.as_deref(), rule.ports.as_deref(), side),
                    );
                }
            }
            Side::Egress => {
                for rule in spec.egress.iter().flatten() {
                    add(&mut all, world, pod, (rule.to.as_deref(), rule.ports.as_deref(), side));
                }
            }
        }
    }
    isolated.then_some(all)
}

/// Without `policyTypes` a policy is about ingress, and about egress when it has such rules.
fn applies(policy: &NetworkPolicy, side: Side) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    match side {
        Side::Ingress => types.is_empty() || types.iter().any(|held| held == "Ingress"),
        Side::Egress if types.is_empty() => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        Side::Egress => types.iter().any(|held| held == "Egress"),
    }
}

type Rule<'a> = (Option<&'a [NetworkPolicyPeer]>, Option<&'a [NetworkPolicyPort]>, Side);

fn add(all: &mut Vec<Allowed>, world: &World, pod: &Seen, (peers, ports, side): Rule<'_>) {
    let peers = peers.unwrap_or_default();
    let ends: Vec<(Ends, Vec<&Seen>)> = if peers.is_empty() {
        vec![(Ends::Anybody, world.pods.iter().collect())]
    } else {
        peers.iter().map(|peer| ends(world, pod, peer)).collect()
    };
    let ports = ports.unwrap_or_default();
    for (ends, pods) in ends {
        if ports.is_empty() {
            all.push(Allowed { ends, port: None });
            continue;
        }
        for port in ports {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            match &port.port {
                None => all.push(Allowed {
                    ends: ends.clone(),
                    port: Some((protocol, None)),
                }),
                Some(IntOrString::Int(from)) => {
                    let range = u16::try_from(*from)
                        .ok()
                        .zip(u16::try_from(port.end_port.unwrap_or(*from)).ok());
                    all.extend(range.map(|range| Allowed {
                        ends: ends.clone(),
                        port: Some((protocol, Some(range))),
                    }));
                }
                Some(IntOrString::String(name)) => named(all, pod, &pods, (&ends, &protocol, name, side)),
            }
        }
    }
}

/// A named port is the receiver's: the pod itself for ingress, each of the other ends for egress.
fn named(
    all: &mut Vec<Allowed>,
    pod: &Seen,
    others: &[&Seen],
    (ends, protocol, name, side): (&Ends, &str, &str, Side),
) {
    let port_of = |pod: &Seen| pod.ports.iter().find(|(known, _)| known == name).map(|(_, port)| *port);
    match side {
        Side::Ingress => all.extend(port_of(pod).map(|port| Allowed {
            ends: ends.clone(),
            port: Some((protocol.to_owned(), Some((port, port)))),
        })),
        Side::Egress => {
            for other in others {
                all.extend(port_of(other).map(|port| Allowed {
                    ends: Ends::Addresses {
                        within: vec![other.address.clone()],
                        except: Vec::new(),
                    },
                    port: Some((protocol.to_owned(), Some((port, port)))),
                }));
            }
        }
    }
}

fn ends<'a>(world: &'a World, pod: &Seen, peer: &NetworkPolicyPeer) -> (Ends, Vec<&'a Seen>) {
    if let Some(IPBlock { cidr, except }) = &peer.ip_block {
        let ends = Ends::Addresses {
            within: vec![cidr.clone()],
            except: except.clone().unwrap_or_default(),
        };
        return (ends, Vec::new());
    }
    let fits = |other: &&Seen| {
        let namespace = match &peer.namespace_selector {
            None => other.namespace == pod.namespace,
            Some(selector) => world
                .namespaces
                .get(&other.namespace)
                .is_some_and(|labels| matches(selector, labels)),
        };
        namespace
            && peer
                .pod_selector
                .as_ref()
                .is_none_or(|selector| matches(selector, &other.labels))
    };
    let pods: Vec<&Seen> = world.pods.iter().filter(fits).collect();
    let ends = Ends::Addresses {
        within: pods.iter().map(|pod| pod.address.clone()).collect(),
        except: Vec::new(),
    };
    (ends, pods)
}

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    exact.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|held| {
            let value = labels.get(&held.key);
            let listed = |value: &String| held.values.iter().flatten().any(|wanted| wanted == value);
            match held.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> LabNetwork {
        LabNetwork {
            id: "0a0b0c".to_owned(),
            octet: 77,
        }
    }

    fn pod(namespace: &str, last: u8, labels: &[(&str, &str)]) -> Seen {
        Seen {
            namespace: namespace.to_owned(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            address: format!("10.77.1.{last}"),
            ports: vec![("web".to_owned(), 8080)],
        }
    }

    fn world(policies: &[serde_json::Value]) -> World {
        let namespaces = ["shop", "other"].map(|name| {
            let labels = Labels::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
            (name.to_owned(), labels)
        });
        World {
            ignored: false,
            policies: policies
                .iter()
                .map(|spec| {
                    let object = serde_json::json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
                    Arc::new(serde_json::from_value(object).unwrap())
                })
                .collect(),
            pods: vec![
                pod("shop", 1, &[("app", "a")]),
                pod("shop", 2, &[("app", "b")]),
                pod("other", 3, &[("app", "a")]),
            ],
            namespaces: namespaces.into(),
        }
    }

    fn of(policies: &[serde_json::Value], index: usize, side: Side) -> Option<Vec<Allowed>> {
        let world = world(policies);
        allowed(&world, &world.pods[index], side)
    }

    fn addresses(allowed: &[Allowed]) -> Vec<Vec<String>> {
        allowed
            .iter()
            .map(|one| match &one.ends {
                Ends::Anybody => vec!["anybody".to_owned()],
                Ends::Addresses { within, .. } => within.clone(),
            })
            .collect()
    }

    #[test]
    fn a_pod_that_no_policy_selects_is_open() {
        let policy = serde_json::json!({"podSelector": {"matchLabels": {"app": "a"}}});
        assert_eq!(of(std::slice::from_ref(&policy), 1, Side::Ingress), None);
        assert_eq!(
            of(std::slice::from_ref(&policy), 2, Side::Ingress),
            None,
            "another namespace"
        );
        assert_eq!(of(std::slice::from_ref(&policy), 0, Side::Ingress), Some(Vec::new()));
        assert_eq!(of(&[policy], 0, Side::Egress), None, "without types and egress rules");
    }

    #[test]
    fn policies_add_up_and_selectors_of_a_peer_are_anded() {
        let policies = [
            serde_json::json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]}),
            serde_json::json!({"podSelector": {}, "ingress": [{"from": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}, "podSelector": {"matchLabels": {"app": "a"}}}]}]}),
        ];
        let allowed = of(&policies, 0, Side::Ingress).unwrap();
        assert_eq!(addresses(&allowed), [["10.77.1.2"], ["10.77.1.3"]]);
    }

    #[test]
    fn ports_are_ranges_protocols_and_names() {
        let policy = serde_json::json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [
            {"port": 80, "endPort": 90}, {"protocol": "UDP"}, {"port": "web"}]}]});
        let ports: Vec<_> = of(&[policy], 0, Side::Egress)
            .unwrap()
            .into_iter()
            .filter_map(|one| one.port)
            .collect();
        assert_eq!(ports[0], ("tcp".to_owned(), Some((80, 90))));
        assert_eq!(ports[1], ("udp".to_owned(), None));
        assert_eq!(ports[2], ("tcp".to_owned(), Some((8080, 8080))));
        assert_eq!(ports.len(), 5, "one for each pod that names the port");
    }

    #[test]
    fn an_ignoring_lab_and_a_lab_without_policies_have_no_rules() {
        let policy = serde_json::json!({"podSelector": {}});
        let mut ignoring = world(&[policy]);
        assert!(script(&network(), &ignoring).contains("drop"));
        ignoring.ignored = true;
        assert!(!script(&network(), &ignoring).contains("drop"));
        assert!(!script(&network(), &world(&[])).contains("hook"));
    }
}
