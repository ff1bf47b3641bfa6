//! Service addresses: one nftables table per lab, rewritten as a whole whenever services or their endpoints change.
//! Depends on `directory`, `network`, `command`.
//!
//! Contract: works from pods and from the host; a service without a ready endpoint refuses at once; what the lab does
//! not know in its service range is refused, too. Connections that exist survive a rewrite (they are tracked).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use super::command::run;
use super::directory::{Directory, cluster_address, publishes_unready, target_port};
use super::error::NodeError;
use super::network::LabNetwork;

/// Changes come in bursts; one rewrite serves all of a burst.
const SETTLE: Duration = Duration::from_millis(10);

/// One port of one service address and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    address: Ipv4Addr,
    protocol: &'static str,
    port: u16,
    targets: Vec<(Ipv4Addr, u16)>,
}

/// Keeps the table current for ever.
pub(crate) async fn maintain(network: LabNetwork, api_port: u16, directory: Directory, events: impl Stream<Item = ()>) {
    let mut events = std::pin::pin!(events.ready_chunks(1024));
    let mut written = None;
    loop {
        let script = script(&network, &rules(&network, api_port, &directory));
        if written.as_ref() != Some(&script) {
            match run("nft", &["-f", "-"], Some(&script)).await {
                Ok(_) => written = Some(script),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "service table not written");
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

/// Creates the table with what every lab has, so that it exists before the first pod.
pub(crate) async fn create(network: &LabNetwork, api_port: u16) -> Result<(), NodeError> {
    let script = script(network, &[kubernetes_rule(network, api_port)]);
    run("nft", &["-f", "-"], Some(&script)).await.map(drop)
}

/// The API server's own service.
fn kubernetes_rule(network: &LabNetwork, api_port: u16) -> Rule {
    Rule {
        address: network.kubernetes_service(),
        protocol: "tcp",
        port: 443,
        targets: vec![(network.gateway(), api_port)],
    }
}

fn rules(network: &LabNetwork, api_port: u16, directory: &Directory) -> Vec<Rule> {
    let kubernetes = kubernetes_rule(network, api_port);
    let mut rules: Vec<Rule> = directory
        .services()
        .iter()
        .flat_map(|service| service_rules(service, directory))
        .collect();
    rules.retain(|rule| rule.address != kubernetes.address);
    rules.push(kubernetes);
    rules.sort();
    rules.dedup_by_key(|rule| (rule.address, rule.protocol, rule.port));
    rules
}

fn service_rules(service: &Arc<Service>, directory: &Directory) -> Vec<Rule> {
    let Some(address) = cluster_address(service) else {
        return Vec::new();
    };
    let backends = directory.backends(&service.namespace().unwrap_or_default(), &service.name_any());
    let all = publishes_unready(service);
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
                "TCP" => "tcp",
                "UDP" => "udp",
                _ => return None,
            };
            let usable = backends.iter().filter(|backend| backend.ready || all);
            let mut targets: Vec<_> = usable
                .filter_map(|backend| Some((backend.address, target_port(backend, port)?)))
                .collect();
            targets.sort_unstable();
            targets.dedup();
            Some(Rule {
                address,
                protocol,
                port: u16::try_from(port.port).ok()?,
                targets,
            })
        })
        .collect()
}

/// The whole table as one transaction.
fn script(network: &LabNetwork, rules: &[Rule]) -> String {
    let (table, bridge) = (network.table(), network.bridge());
    let (pods, services) = (network.pod_range(), network.service_range());
    let mut translate = String::new();
    let mut own = BTreeSet::new();
    for Rule {
        address,
        protocol,
        port,
        targets,
    } in rules.iter().filter(|rule| !rule.targets.is_empty())
    {
        let choice = match targets.as_slice() {
            [(target, target_port)] => format!("{target}:{target_port}"),
            many => {
                let entries: Vec<String> = many
                    .iter()
                    .enumerate()
                    .map(|(index, (target, port))| format!("{index} : {target} . {port}"))
                    .collect();
                format!("numgen random mod {} map {{ {} }}", many.len(), entries.join(", "))
            }
        };
        // Writing to a string cannot fail.
        writeln!(
            translate,
            "    ip daddr {address} {protocol} dport {port} dnat to {choice}"
        )
        .ok();
        own.extend(targets.iter().map(|(target, _)| *target));
    }
    // A pod that reaches itself through its service would see its own address as the sender.
    let own: Vec<String> = own.iter().map(|address| format!("{address} . {address}")).collect();
    let hairpin = if own.is_empty() {
        String::new()
    } else {
        format!("    ip saddr . ip daddr {{ {} }} masquerade\n", own.join(", "))
    };
    format!(
        "add table ip {table}
delete table ip {table}
table ip {table} {{
  chain services {{
{translate}  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    iifname \"{bridge}\" ip daddr {services} jump services
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip daddr {services} jump services
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
{hairpin}    ip saddr {pods} oifname != \"{bridge}\" ip daddr != {pods} masquerade
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ip daddr {services} meta l4proto tcp reject with tcp reset
    ip daddr {services} reject
  }}
  chain local {{
    type filter hook output priority 0; policy accept;
    oifname \"{bridge}\" icmp type redirect drop
    ip daddr {services} meta l4proto tcp reject with tcp reset
    ip daddr {services} reject
  }}
}}
"
    )
}
