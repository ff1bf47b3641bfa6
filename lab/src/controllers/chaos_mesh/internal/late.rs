//! Packets that are late, broken, doubled or slow, on kernels that have no discipline for it: held by the lab's double of netem.
//!
//! Depends on `shaper`, and on `node`'s faults through [`Shared`]. Each entry of a PodNetworkChaos leads what it means into a
//! queue of its own, whose process ends with it. Differences to netem: no correlation, no reorder, and of two entries for the
//! same packet only the first works, those with peers before those without. Central function: [`replace`]; the rest is text.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::rules::{is_pure_loss, peers, percent};
use crate::api::object::{array_at, i64_at, str_at};
use crate::controllers::chaos_mesh::worker::Key;
use crate::controllers::chaos_mesh::{Shared, duration};
use crate::node::faults::Intruder;
use crate::shaper::{ATTENDED_ARGUMENT, Netem, READY};

/// The chain in the pod's mangle table.
const CHAIN: &str = "CHAOS-MESH-DOUBLE";
/// Queues below this are for others, such as the lab's `tc`.
const FIRST_QUEUE: u16 = 1024;

/// The processes that hold packets, by pod.
#[derive(Default)]
pub(in crate::controllers::chaos_mesh) struct Holders {
    by_pod: Mutex<HashMap<Key, Vec<Intruder>>>,
    /// Counts up, so that what is new never waits for a queue that the old still has.
    queues: AtomicU16,
}

impl Holders {
    fn next_queue(&self) -> u16 {
        FIRST_QUEUE | (self.queues.fetch_add(1, Ordering::Relaxed) % FIRST_QUEUE)
    }

    /// Forgets a pod, which ends its processes.
    pub(super) fn forget(&self, key: &Key) -> Vec<Intruder> {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        by_pod.remove(key).unwrap_or_default()
    }

    fn knows(&self, key: &Key) -> bool {
        let by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        by_pod.contains_key(key)
    }

    fn put(&self, key: &Key, intruders: Vec<Intruder>) {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        by_pod.insert(key.clone(), intruders);
    }
}

/// What happens to which packets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    netem: Netem,
    /// Share of packets that are sent twice.
    duplicate: f64,
    /// What `iptables` matches, one for each peer.
    matches: Vec<String>,
}

/// Replaces everything that is held for one pod.
pub(super) async fn replace(shared: &Shared, key: &Key, pod_uid: &str, wanted: &[Wanted]) -> Result<(), String> {
    if wanted.is_empty() && !shared.holders.knows(key) {
        return Ok(());
    }
    let mut started = Vec::new();
    let mut lines = String::new();
    let gateway = if wanted.iter().any(|one| one.duplicate > 0.0) {
        gateway(shared, pod_uid).await?
    } else {
        String::new()
    };
    for one in wanted {
        let queue = shared.holders.next_queue();
        let mut arguments = vec![ATTENDED_ARGUMENT.to_owned(), queue.to_string()];
        arguments.extend(one.netem.arguments());
        let holder = shared.faults.attend(pod_uid, &arguments, READY).await;
        started.push(holder.map_err(|error| error.chain())?);
        lines.push_str(&rules(one, queue, &gateway));
    }
    // The chain is emptied by being named, and filled in the same transaction.
    let script = format!("*mangle\n:{CHAIN} - [0:0]\n{lines}COMMIT\n");
    tool(shared, pod_uid, "iptables-restore", &["-w", "-n"], Some(&script)).await?;
    let jump = |action: &'static str| ["-w", "-t", "mangle", action, "POSTROUTING", "-j", CHAIN];
    if tool(shared, pod_uid, "iptables", &jump("-C"), None).await.is_err() {
        tool(shared, pod_uid, "iptables", &jump("-A"), None).await?;
    }
    let before = shared.holders.forget(key);
    if !started.is_empty() {
        shared.holders.put(key, started);
    }
    for holder in before {
        // It lets go what it still holds, and ends in any case.
        drop(holder.end().await);
    }
    Ok(())
}

async fn tool(
    shared: &Shared,
    pod_uid: &str,
    program: &str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String, String> {
    let done = shared.faults.network_tool(pod_uid, program, arguments, input).await;
    done.map_err(|error| error.chain())
}

/// Where the pod sends what is not for itself; copies go there, too.
async fn gateway(shared: &Shared, pod_uid: &str) -> Result<String, String> {
    let routes = tool(shared, pod_uid, "ip", &["route", "show", "default"], None).await?;
    let mut words = routes.split_whitespace().skip_while(|word| *word != "via").skip(1);
    words
        .next()
        .map(str::to_owned)
        .ok_or_else(|| "the pod has no default route".to_owned())
}

/// The lines of one entry: a copy by chance, then everything into its queue. Nobody there means that packets pass.
fn rules(wanted: &Wanted, queue: u16, gateway: &str) -> String {
    let mut lines = String::new();
    for matches in &wanted.matches {
        if wanted.duplicate > 0.0 {
            lines.push_str(&format!(
                "-A {CHAIN} {matches} -m statistic --mode random --probability {:.6} -j TEE --gateway {gateway}\n",
                wanted.duplicate
            ));
        }
    }
    for matches in &wanted.matches {
        lines.push_str(&format!(
            "-A {CHAIN} {matches} -j NFQUEUE --queue-num {queue} --queue-bypass\n"
        ));
    }
    lines
}

/// What the entries of a PodNetworkChaos want of packets, but for what is only lost.
pub(super) fn wanted(object: &Value) -> Result<Vec<Wanted>, String> {
    let entries = array_at(object, "/spec/tcs")
        .iter()
        .filter(|entry| !is_pure_loss(entry));
    let (mut some, everybody): (Vec<&Value>, Vec<&Value>) = entries.partition(|entry| entry.get("ipset").is_some());
    some.extend(everybody);
    some.into_iter()
        .map(|entry| {
            Ok(Wanted {
                netem: netem(entry)?,
                duplicate: share(entry, "duplicate")?,
                matches: matches(object, entry),
            })
        })
        .collect()
}

fn netem(entry: &Value) -> Result<Netem, String> {
    if entry.pointer("/delay/reorder").is_some() {
        return Err(super::refusal(
            "this kernel has no netem, and its double does not reorder",
        ));
    }
    let time = |pointer: &str| -> Result<Duration, String> {
        let Some(text) = str_at(entry, pointer) else {
            return Ok(Duration::ZERO);
        };
        let parsed = duration::parse(text).map_err(|why| format!("unable to set tcs: {why}"))?;
        Duration::try_from(parsed).map_err(|_| format!("unable to set tcs: Illegal \"latency\" {text}"))
    };
    let rate = match str_at(entry, "/bandwidth/rate").or_else(|| str_at(entry, "/rate/rate")) {
        Some(text) => bytes_in_a_second(text).ok_or_else(|| format!("unable to set tcs: Illegal \"rate\" {text}"))?,
        None => 0,
    };
    Ok(Netem {
        delay: time("/delay/latency")?,
        jitter: time("/delay/jitter")?,
        loss: share(entry, "loss")?,
        corrupt: share(entry, "corrupt")?,
        rate,
    })
}

/// A percentage as a share of 1; above a hundred `tc` refuses it.
fn share(entry: &Value, kind: &str) -> Result<f64, String> {
    let Some(text) = str_at(entry, &format!("/{kind}/{kind}")) else {
        return Ok(0.0);
    };
    match percent(text)? {
        share if (0.0..=100.0).contains(&share) => Ok(share / 100.0),
        _ => Err(format!("unable to set tcs: Illegal \"{kind} percent\" {text}")),
    }
}

/// `1mbit`, `100kbps`: bits, or with `bps` bytes.
fn bytes_in_a_second(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let (prefix, bits) = match unit.strip_suffix("bps") {
        Some(prefix) => (prefix, 8),
        None => (unit.strip_suffix("bit")?, 1),
    };
    let factor: u64 = match prefix {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        _ => return None,
    };
    let bits = number.parse::<u64>().ok()?.checked_mul(factor)?.checked_mul(bits)?;
    Some(bits / 8).filter(|bytes| *bytes > 0)
}

/// What leaves by the device for the peers; without peers everything.
fn matches(object: &Value, entry: &Value) -> Vec<String> {
    let device = str_at(entry, "/device").unwrap_or("eth0");
    let Some(set) = str_at(entry, "/ipset") else {
        return vec![format!("-o {device}")];
    };
    let mut found = Vec::new();
    for peer in peers(object, &[set], str_at(entry, "/source").unwrap_or_default()) {
        let cidr = str_at(peer, "/cidr").unwrap_or("0.0.0.0/0");
        match i64_at(peer, "/port").unwrap_or(0) {
            0 => found.push(format!("-o {device} -d {cidr}")),
            port => found
                .extend(["tcp", "udp"].map(|protocol| format!("-o {device} -d {cidr} -p {protocol} --dport {port}"))),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_with_peers_comes_first_and_has_a_match_for_each() {
        let object = json!({"spec": {
            "ipsets": [{"name": "s", "source": "a/x", "cidrAndPorts": [{"cidr": "10.0.0.1/32", "port": 0}, {"cidr": "10.0.0.2/32", "port": 80}]}],
            "tcs": [
                {"source": "a/y", "device": "eth0", "type": "bandwidth", "bandwidth": {"rate": "1mbps"}},
                {"source": "a/x", "device": "eth0", "type": "netem", "ipset": "s", "delay": {"latency": "1.5ms"}, "duplicate": {"duplicate": "25"}},
                {"source": "a/z", "device": "eth0", "type": "netem", "loss": {"loss": "25"}},
            ],
        }});
        let all = wanted(&object).unwrap();
        assert_eq!(all.len(), 2, "a pure loss is not for here");
        assert_eq!(all[0].netem.delay, Duration::from_micros(1500));
        assert_eq!(all[1].netem.rate, 1_000_000);
        assert_eq!(
            rules(&all[0], 1024, "10.0.0.254").lines().collect::<Vec<_>>(),
            [
                "-A CHAOS-MESH-DOUBLE -o eth0 -d 10.0.0.1/32 -m statistic --mode random --probability 0.250000 -j TEE --gateway 10.0.0.254",
                "-A CHAOS-MESH-DOUBLE -o eth0 -d 10.0.0.2/32 -p tcp --dport 80 -m statistic --mode random --probability 0.250000 -j TEE --gateway 10.0.0.254",
                "-A CHAOS-MESH-DOUBLE -o eth0 -d 10.0.0.2/32 -p udp --dport 80 -m statistic --mode random --probability 0.250000 -j TEE --gateway 10.0.0.254",
                "-A CHAOS-MESH-DOUBLE -o eth0 -d 10.0.0.1/32 -j NFQUEUE --queue-num 1024 --queue-bypass",
                "-A CHAOS-MESH-DOUBLE -o eth0 -d 10.0.0.2/32 -p tcp --dport 80 -j NFQUEUE --queue-num 1024 --queue-bypass",
                "-A CHAOS-MESH-DOUBLE -o eth0 -d 10.0.0.2/32 -p udp --dport 80 -j NFQUEUE --queue-num 1024 --queue-bypass",
            ]
        );
    }

    #[test]
    fn rates_are_bits_or_bytes_and_what_is_not_offered_is_refused() {
        for (text, bytes) in [
            ("8bit", Some(1)),
            ("1kbps", Some(1000)),
            ("1mbit", Some(125_000)),
            ("fast", None),
            ("1", None),
        ] {
            assert_eq!(bytes_in_a_second(text), bytes, "{text}");
        }
        let refused = |part: Value| wanted(&json!({"spec": {"tcs": [part]}})).unwrap_err();
        let reorder =
            refused(json!({"type": "netem", "delay": {"latency": "1ms", "reorder": {"reorder": "5", "gap": 1}}}));
        assert!(reorder.contains("does not reorder"), "{reorder}");
        let corrupt = refused(json!({"type": "netem", "corrupt": {"corrupt": "120"}}));
        assert!(corrupt.contains("Illegal"), "{corrupt}");
    }

    #[test]
    fn queues_start_again_without_leaving_their_range() {
        let holders = Holders::default();
        let queues: Vec<u16> = (0..=FIRST_QUEUE).map(|_| holders.next_queue()).collect();
        assert!(
            queues
                .iter()
                .all(|queue| (FIRST_QUEUE..2 * FIRST_QUEUE).contains(queue))
        );
        assert_eq!(queues.first(), queues.last());
    }
}
