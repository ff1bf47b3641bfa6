//! NetworkChaos: what each pod's rules are, written into its PodNetworkChaos. Which rules those are in the kernel: `internal`.
//!
//! Upstream's ways are kept: addresses are those of the pods at the time of injection and never follow a replacement; traffic to
//! a cluster IP is translated outside of the pod, so only the other end's rules see it; names are resolved once.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use super::{Target, commit, existing_pod, pod_of};
use crate::api::object::{array_at, name, str_at};
use crate::controllers::chaos_mesh::Shared;
use crate::controllers::chaos_mesh::kinds::POD_NETWORK;
use crate::controllers::chaos_mesh::records::{Phase, Record};

/// The other side's key in the records.
const TARGET_SIDE: &str = ".Target";
/// What may be in the part of a netem discipline.
const NETEM: [&str; 5] = ["delay", "loss", "duplicate", "corrupt", "rate"];

type Entries = Vec<(&'static str, Value)>;

/// One side of a cut, as the rules of the other side name it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Peers {
    Everybody,
    /// Address or range, and a port; 0 is any.
    These(BTreeSet<(String, u16)>),
}

pub(super) async fn apply(
    shared: &Shared,
    target: &Target<'_>,
    record: &Record,
    instances: &mut Map<String, Value>,
) -> Result<Phase, String> {
    let pod = existing_pod(shared, record).await?;
    let spec = target.spec();
    let sources = Peers::These(addresses(shared, target, ".").await?);
    let mut targets = addresses(shared, target, TARGET_SIDE).await?;
    let external = array_at(spec, "/externalTargets");
    for one in external.iter().filter_map(Value::as_str) {
        targets.extend(resolve(one).await?);
    }
    let targets = if spec.get("target").is_none() && external.is_empty() {
        Peers::Everybody
    } else {
        Peers::These(targets)
    };
    let mut entries = Entries::new();
    // A pod can be on both sides, and has one object.
    for side in target.all.iter().filter(|one| one.id == record.id) {
        let is_target = side.selector_key == TARGET_SIDE;
        let peers = if is_target { &sources } else { &targets };
        entries.extend(rules(target, is_target, peers)?);
    }
    let source = target.source();
    commit(shared, POD_NETWORK, &pod, record, (&source, entries), instances).await?;
    Ok(Phase::Applying)
}

/// Addresses of the pods on one side, as far as they are there.
async fn addresses(shared: &Shared, target: &Target<'_>, side: &str) -> Result<BTreeSet<(String, u16)>, String> {
    let mut found = BTreeSet::new();
    for record in target.all.iter().filter(|record| record.selector_key == side) {
        let pod = pod_of(shared, record).await?;
        if let Some(address) = pod.as_ref().and_then(|pod| str_at(pod, "/status/podIP")) {
            found.insert((format!("{address}/32"), 0));
        }
    }
    Ok(found)
}

/// An address, a range or a name, each with or without a port.
async fn resolve(text: &str) -> Result<Vec<(String, u16)>, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let port = port
                .parse::<u16>()
                .map_err(|_| format!("parse port of external target {text}: invalid syntax"))?;
            (host, port)
        }
        None => (text, 0),
    };
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(vec![(format!("{address}/32"), port)]);
    }
    if let Some((address, length)) = host.split_once('/') {
        let fits = address.parse::<Ipv4Addr>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= 32);
        return if fits {
            Ok(vec![(host.to_owned(), port)])
        } else {
            Err(format!("invalid CIDR address: {host}"))
        };
    }
    let found = tokio::net::lookup_host((host, 0))
        .await
        .map_err(|error| format!("lookup {host}: {error}"))?;
    Ok(found
        .filter_map(|address| match address.ip() {
            IpAddr::V4(address) => Some((format!("{address}/32"), port)),
            IpAddr::V6(_) => None,
        })
        .collect())
}

/// What one pod gets, on one side.
fn rules(target: &Target<'_>, is_target: bool, peers: &Peers) -> Result<Entries, String> {
    let spec = target.spec();
    let direction = str_at(spec, "/direction").unwrap_or("to");
    let (to, from) = (matches!(direction, "to" | "both"), matches!(direction, "from" | "both"));
    // At the other end everything is the other way round.
    let (out, into) = if is_target { (from, to) } else { (to, from) };
    let source = target.source();
    let set = format!("{}-{}", name(target.object), if is_target { "src" } else { "tgt" });
    let mut entries = Entries::new();
    let sets = match peers {
        Peers::Everybody => Vec::new(),
        Peers::These(these) => {
            let listed: Vec<Value> = these
                .iter()
                .map(|(cidr, port)| json!({"cidr": cidr, "port": port}))
                .collect();
            entries.push((
                "ipsets",
                json!({"name": set, "source": source, "ipsetType": "hash:net,port", "cidrAndPorts": listed}),
            ));
            vec![set.clone()]
        }
    };
    if str_at(spec, "/action") == Some("partition") {
        for (wanted, hook) in [(out, "output"), (into, "input")] {
            if wanted {
                let rule = json!({
                    "name": format!("{hook}/{set}"), "source": source, "direction": hook, "ipsets": sets,
                    "target": "DROP", "device": device(spec, is_target),
                });
                entries.push(("iptables", rule));
            }
        }
        return Ok(entries);
    }
    // Disciplines shape what is sent, so only the sending end has one.
    if !out {
        return Ok(Entries::new());
    }
    let mut control = json!({"source": source, "device": device(spec, is_target)});
    if let Some(set) = sets.first() {
        crate::api::object::set(&mut control, "/ipset", set.clone());
    }
    if str_at(spec, "/action") == Some("bandwidth") {
        let Some(bandwidth) = spec.get("bandwidth") else {
            return Err("runtime error: invalid memory address or nil pointer dereference".to_owned());
        };
        crate::api::object::set(&mut control, "/type", "bandwidth");
        crate::api::object::set(&mut control, "/bandwidth", bandwidth.clone());
    } else {
        crate::api::object::set(&mut control, "/type", "netem");
        for part in NETEM {
            if let Some(value) = spec.get(part) {
                crate::api::object::set(&mut control, &format!("/{part}"), value.clone());
            }
        }
    }
    entries.push(("tcs", control));
    Ok(entries)
}

/// The interface, without what follows an `@`.
fn device(spec: &Value, is_target: bool) -> String {
    let field = if is_target { "/targetDevice" } else { "/device" };
    let device = str_at(spec, field)
        .filter(|device| !device.is_empty())
        .unwrap_or("eth0");
    device.split('@').next().unwrap_or(device).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::chaos_mesh::kinds::Experiment;
    use crate::controllers::chaos_mesh::switches::Switches;

    fn entries(spec: Value, is_target: bool) -> Vec<String> {
        let object = json!({"metadata": {"name": "x", "namespace": "shop"}, "spec": spec});
        let switches = Switches::default();
        let target = Target {
            kind: Experiment::Network,
            object: &object,
            all: &[],
            index: 0,
            switches: &switches,
        };
        let peers = Peers::These(BTreeSet::from([("10.0.0.1/32".to_owned(), 0)]));
        let found = rules(&target, is_target, &peers).unwrap();
        found
            .into_iter()
            .map(|(list, entry)| format!("{list} {}", str_at(&entry, "/direction").unwrap_or_default()))
            .collect()
    }

    #[test]
    fn both_ends_of_a_partition_have_rules_the_other_way_round() {
        let cut = |direction: &str| json!({"action": "partition", "direction": direction});
        assert_eq!(entries(cut("to"), false), ["ipsets ", "iptables output"]);
        assert_eq!(entries(cut("to"), true), ["ipsets ", "iptables input"]);
        assert_eq!(entries(cut("from"), true), ["ipsets ", "iptables output"]);
        assert_eq!(
            entries(cut("both"), false),
            ["ipsets ", "iptables output", "iptables input"]
        );
    }

    #[test]
    fn only_the_sending_end_is_shaped() {
        let loss = json!({"action": "loss", "direction": "to", "loss": {"loss": "25"}});
        assert_eq!(entries(loss.clone(), false), ["ipsets ", "tcs "]);
        assert!(entries(loss, true).is_empty());
    }

    #[tokio::test]
    async fn external_targets_are_addresses_and_ranges_with_or_without_a_port() {
        let one = |cidr: &str, port| vec![(cidr.to_owned(), port)];
        assert_eq!(resolve("203.0.113.7:443").await.unwrap(), one("203.0.113.7/32", 443));
        assert_eq!(resolve("198.51.100.0/24").await.unwrap(), one("198.51.100.0/24", 0));
        assert!(resolve("198.51.100.0/33").await.is_err());
        assert!(resolve("1.2.3.4:many").await.is_err());
    }
}
