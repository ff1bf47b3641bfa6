//! The lab's network: a bridge per lab, a namespace with one interface per pod. Depends on `command` and `error`.
//!
//! A pod's address is a /32 and everything it sends goes to the gateway, also what is meant for a neighbour. So all
//! traffic between pods passes the host's forward hook, where services are translated and policies enforced, without
//! the host-wide bridge netfilter settings. Forwarding is switched on for the lab's bridge only.
//!
//! Central types: [`LabNetwork`] (addresses and names), [`PodNetwork`] (one pod's interface).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::command::run;
use super::error::NodeError;

/// Addresses below this offset are for the gateway and the nodes.
const FIRST_POD: u32 = 256;
/// Pods get the lower half of the lab's /16, services the upper half.
const HALF: u32 = 1 << 15;

/// Names and addresses of one lab's network. Its id makes every name unique on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabNetwork {
    /// Six hexadecimal digits.
    pub id: String,
    /// Second octet of the lab's 10.x.0.0/16.
    pub octet: u8,
}

impl LabNetwork {
    /// Name of the bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("clab-{}", self.id)
    }

    /// Name of the nftables table (family ip).
    #[must_use]
    pub fn table(&self) -> String {
        format!("clab_{}", self.id)
    }

    /// What the names of all network namespaces of this lab begin with.
    #[must_use]
    pub fn namespace_prefix(&self) -> String {
        format!("clab{}-", self.id)
    }

    /// What the names of the host's ends of all pod interfaces begin with.
    #[must_use]
    pub fn interface_prefix(&self) -> String {
        format!("cv{}x", self.id)
    }

    fn base(&self) -> u32 {
        u32::from(Ipv4Addr::new(10, self.octet, 0, 0))
    }

    /// The host on the lab's network: API server, name server, the pods' gateway.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base() + 1)
    }

    /// Address of the n-th node.
    #[must_use]
    pub fn node_address(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::from(self.base() + 10 + u32::from(index.min(200)))
    }

    /// Range of the pods, as `10.x.0.0/17`.
    #[must_use]
    pub fn pod_range(&self) -> String {
        format!("{}/17", Ipv4Addr::from(self.base()))
    }

    /// Range of the services, as `10.x.128.0/17`.
    #[must_use]
    pub fn service_range(&self) -> String {
        format!("{}/17", Ipv4Addr::from(self.base() + HALF))
    }

    /// First address and prefix length of the services' range.
    #[must_use]
    pub fn service_subnet(&self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::from(self.base() + HALF), 17)
    }

    /// The service address of the API server, `kubernetes.default`.
    #[must_use]
    pub fn kubernetes_service(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base() + HALF + 1)
    }

    /// Creates the bridge with its addresses and routes.
    pub(crate) async fn create(&self, nodes: u8) -> Result<(), NodeError> {
        use std::fmt::Write;
        let bridge = self.bridge();
        let mut batch = format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0\naddr add {}/17 dev {bridge}\n",
            self.gateway()
        );
        for index in 0..nodes {
            // Writing to a string cannot fail.
            writeln!(batch, "addr add {}/32 dev {bridge}", self.node_address(index)).ok();
        }
        write!(
            batch,
            "link set {bridge} up\nroute add {} dev {bridge}\n",
            self.service_range()
        )
        .ok();
        run("ip", &["-batch", "-"], Some(&batch)).await?;
        set(&format!("/proc/sys/net/ipv4/conf/{bridge}/forwarding"), "1")?;
        // Without IPv6 there is no neighbour discovery to keep an idle lab awake. A kernel without IPv6 has no such file.
        drop(set(&format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"), "1"));
        Ok(())
    }

    /// Removes the bridge and whatever interface of the lab is left.
    pub(crate) async fn remove(&self) -> Result<(), NodeError> {
        for interface in interfaces()? {
            let ours = interface == self.bridge() || interface.starts_with(&self.interface_prefix());
            // An interface goes by itself soon after its namespace.
            if ours
                && let Err(error) = run("ip", &["link", "del", &interface], None).await
                && Path::new("/sys/class/net").join(&interface).exists()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes every network namespace of this lab.
    pub(crate) async fn remove_namespaces(&self) -> Result<(), NodeError> {
        for name in namespaces() {
            if name.starts_with(&self.namespace_prefix()) {
                run("ip", &["netns", "del", &name], None).await?;
            }
        }
        Ok(())
    }
}

/// A second octet whose 10.x.0.0/16 no interface and no route of this machine uses.
pub(crate) async fn free_octet(preferred: Option<u8>, seed: u8) -> Result<u8, NodeError> {
    let routes = run("ip", &["-4", "route", "show", "table", "all"], None).await?;
    let addresses = run("ip", &["-4", "-oneline", "addr"], None).await?;
    let used: BTreeSet<u8> = routes
        .split_whitespace()
        .chain(addresses.split_whitespace())
        .filter_map(|word| word.strip_prefix("10."))
        .filter_map(|rest| rest.split('.').next()?.parse().ok())
        .collect();
    if let Some(octet) = preferred {
        if used.contains(&octet) {
            return Err(NodeError::Unsupported {
                what: format!("10.{octet}.0.0/16 is in use on this machine"),
                hint: "choose another subnet, or none to let the lab find one".to_owned(),
            });
        }
        return Ok(octet);
    }
    (0..=u8::MAX)
        .map(|step| 64 + (seed.wrapping_add(step) % 128))
        .find(|octet| !used.contains(octet))
        .ok_or_else(|| NodeError::Unsupported {
            what: "none of 10.64.0.0/16 to 10.191.0.0/16 is free on this machine".to_owned(),
            hint: "take labs down that are no longer needed".to_owned(),
        })
}

/// Names of the machine's network interfaces.
fn interfaces() -> Result<Vec<String>, NodeError> {
    let folder = "/sys/class/net";
    let entries = std::fs::read_dir(folder).map_err(NodeError::io("list", folder))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// Names of the machine's network namespaces.
fn namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn set(path: &str, value: &str) -> Result<(), NodeError> {
    std::fs::write(path, value).map_err(NodeError::io("write", path))
}

/// Hands out pod addresses. One that was given back is used again as late as possible, so that nobody mistakes a new
/// pod for an old one.
#[derive(Debug, Default)]
pub(crate) struct AddressPool {
    state: Mutex<(u32, BTreeSet<u32>)>,
}

impl AddressPool {
    /// A free address.
    pub(crate) fn take(&self, network: &LabNetwork) -> Result<Ipv4Addr, NodeError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, used) = &mut *state;
        let size = HALF - FIRST_POD - 1;
        for _ in 0..size {
            *last = (*last + 1) % size;
            if used.insert(*last) {
                return Ok(Ipv4Addr::from(network.base() + FIRST_POD + *last));
            }
        }
        Err(NodeError::Pod("no pod address is free".to_owned()))
    }

    /// Gives an address back.
    pub(crate) fn give_back(&self, network: &LabNetwork, address: Ipv4Addr) {
        let offset = u32::from(address).wrapping_sub(network.base() + FIRST_POD);
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .remove(&offset);
    }
}

/// Name of the network namespace of a pod.
pub(crate) fn namespace_of(network: &LabNetwork, address: Ipv4Addr, uid: &str) -> String {
    let [_, _, third, fourth] = address.octets();
    let short: String = uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("{}{short}-{third:02x}{fourth:02x}", network.namespace_prefix())
}

/// One pod's network namespace and its address.
#[derive(Debug, Clone)]
pub(crate) struct PodNetwork {
    /// Name for `ip netns`.
    pub name: String,
    /// The host's end of the pod's interface.
    pub interface: String,
    /// The pod's address.
    pub address: Ipv4Addr,
}

impl PodNetwork {
    /// Creates the namespace, its loopback and its interface.
    pub(crate) async fn create(network: &LabNetwork, address: Ipv4Addr, uid: &str) -> Result<Self, NodeError> {
        let [_, _, third, fourth] = address.octets();
        let name = namespace_of(network, address, uid);
        let interface = format!("{}{third:02x}{fourth:02x}", network.interface_prefix());
        let [a, b, c, d] = address.octets();
        let mac = format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let pod = Self {
            name,
            interface,
            address,
        };
        let Err(error) = pod.build(network, &mac).await else {
            return Ok(pod);
        };
        // A pod that cannot be connected is tried again, under another address: half a network each time adds up.
        pod.remove().await;
        Err(error)
    }

    async fn build(&self, network: &LabNetwork, mac: &str) -> Result<(), NodeError> {
        run("ip", &["netns", "add", &self.name], None).await?;
        let outside = format!(
            "link add {interface} type veth peer name eth0 address {mac} netns {name}\nlink set {interface} master {bridge} up\nlink set {interface} type bridge_slave hairpin on\n",
            interface = self.interface,
            name = self.name,
            bridge = network.bridge()
        );
        run("ip", &["-batch", "-"], Some(&outside)).await?;
        let (address, gateway) = (self.address, network.gateway());
        let inside = format!(
            "link set lo up\nlink set eth0 up\naddr add {address}/32 dev eth0\nroute add {gateway} dev eth0 scope link\nroute add default via {gateway} dev eth0\n"
        );
        run("ip", &["-n", &self.name, "-batch", "-"], Some(&inside)).await?;
        Ok(())
    }

    /// Where the namespace can be joined.
    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Removes the interface and the namespace; what is gone already is fine.
    pub(crate) async fn remove(&self) {
        if Path::new("/sys/class/net").join(&self.interface).exists()
            && let Err(error) = run("ip", &["link", "del", &self.interface], None).await
        {
            tracing::debug!(%error, "interface not removed");
        }
        if Path::new(&self.path()).exists()
            && let Err(error) = run("ip", &["netns", "del", &self.name], None).await
        {
            tracing::warn!(%error, "network namespace not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root and iproute2.
    #[tokio::test]
    async fn a_network_that_cannot_be_built_leaves_nothing() {
        // No bridge of this name exists: the namespace and the pair of interfaces are made, and cannot be connected.
        let network = LabNetwork {
            id: format!("{:06x}", std::process::id()),
            octet: 250,
        };
        let address = Ipv4Addr::new(10, 250, 3, 9);
        let failed = PodNetwork::create(&network, address, "0123abcd").await;
        assert!(failed.is_err());
        let interface = format!("{}0309", network.interface_prefix());
        assert!(!Path::new("/sys/class/net").join(&interface).exists(), "{interface}");
        let left = std::fs::read_dir("/run/netns").map(|entries| {
            entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| name.starts_with(&network.namespace_prefix()))
                .collect::<Vec<_>>()
        });
        assert_eq!(left.unwrap_or_default(), Vec::<String>::new());
    }
}
