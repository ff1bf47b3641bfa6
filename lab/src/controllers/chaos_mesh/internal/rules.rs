//! From a PodNetworkChaos to the rules in the kernel: nftables for what is dropped, `tc` for what is shaped.
//!
//! Upstream drops with iptables and loses, delays and limits with netem and tbf. Here a partition and a pure loss are nftables
//! rules in the pod's network namespace, in front of connection tracking, so that what is established stops, too; everything
//! else is told to the host's `tc`, and where the kernel has no such discipline to the lab's double of it: `late`. Differences: a
//! loss has no correlation, and a sender may be told of a lost datagram by an error. Text in, text out, but for [`replace`].

use serde_json::Value;

use super::late;
use crate::api::object::{array_at, i64_at, str_at};
use crate::controllers::chaos_mesh::Shared;
use crate::controllers::chaos_mesh::worker::Key;

/// What `tc` says when the kernel has no such discipline.
const UNKNOWN: [&str; 2] = ["qdisc kind is unknown", "Specified qdisc not found"];
/// Name of the table in the network namespace of a pod.
const TABLE: &str = "chaos_mesh_double";
/// Parts of a hundred percent, so that fractions of a percent count.
const WHOLE: u32 = 10_000;

/// Replaces everything that experiments want of a pod's network.
pub(super) async fn replace(shared: &Shared, key: &Key, pod_uid: &str, object: &Value) -> Result<(), String> {
    let chains = chains(object)?;
    shared
        .faults
        .filter(pod_uid, TABLE, chains.as_deref())
        .await
        .map_err(|error| error.chain())?;
    clear_devices(shared, pod_uid, object).await;
    let mut held = Vec::new();
    for command in disciplines(object)? {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        if let Err(error) = shared.faults.network_tool(pod_uid, "tc", &words, None).await {
            let words = error.chain();
            if !UNKNOWN.iter().any(|unknown| words.contains(unknown)) {
                return Err(format!("unable to set tcs: {words}"));
            }
            clear_devices(shared, pod_uid, object).await;
            held = late::wanted(object)?;
            break;
        }
    }
    late::replace(shared, key, pod_uid, &held).await
}

/// There may be none, and what was there of others is lost: upstream rebuilds all of them, too.
async fn clear_devices(shared: &Shared, pod_uid: &str, object: &Value) {
    for device in shaped_devices(object) {
        let delete = ["qdisc", "del", "dev", device, "root"];
        drop(shared.faults.network_tool(pod_uid, "tc", &delete, None).await);
    }
}

/// Every entry of the list, as one rule for each set of peers.
fn chains(object: &Value) -> Result<Option<String>, String> {
    let mut lines = [("input", String::new()), ("output", String::new())];
    for entry in array_at(object, "/spec/iptables") {
        let hook = str_at(entry, "/direction").unwrap_or("output");
        let device = str_at(entry, "/device").unwrap_or("eth0");
        let sets: Vec<&str> = array_at(entry, "/ipsets").iter().filter_map(Value::as_str).collect();
        let source = str_at(entry, "/source").unwrap_or_default();
        for (name, text) in &mut lines {
            if *name == hook {
                text.push_str(&dropped(object, hook, device, &sets, source, ""));
            }
        }
    }
    for entry in array_at(object, "/spec/tcs").iter().filter(|entry| is_pure_loss(entry)) {
        let share = share(percent(str_at(entry, "/loss/loss").unwrap_or("0"))?);
        let device = str_at(entry, "/device").unwrap_or("eth0");
        let sets: Vec<&str> = str_at(entry, "/ipset").into_iter().collect();
        let source = str_at(entry, "/source").unwrap_or_default();
        let chance = chance(share);
        for (name, text) in &mut lines {
            if *name == "output" {
                text.push_str(&dropped(object, "output", device, &sets, source, &chance));
            }
        }
    }
    if lines.iter().all(|(_, text)| text.is_empty()) {
        return Ok(None);
    }
    let text = lines
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(hook, text)| {
            format!("  chain {hook} {{\n    type filter hook {hook} priority -300; policy accept;\n{text}  }}\n")
        })
        .collect();
    Ok(Some(text))
}

/// Nothing else is asked of this discipline than to lose packets.
pub(super) fn is_pure_loss(entry: &Value) -> bool {
    str_at(entry, "/type") == Some("netem")
        && entry.get("loss").is_some()
        && ["delay", "duplicate", "corrupt", "rate"]
            .iter()
            .all(|part| entry.get(part).is_none())
}

/// Matches so many of [`WHOLE`] packets. All of them is no match: `numgen` is compared with what it can be, and not more.
fn chance(share: u32) -> String {
    if share == WHOLE {
        String::new()
    } else {
        format!("numgen random mod {WHOLE} < {share} ")
    }
}

/// A percentage in parts of [`WHOLE`]; above a hundred is all.
fn share(percent: f64) -> u32 {
    let (mut low, mut high) = (0, WHOLE);
    // A search, because a float cannot become an integer without a lossy cast.
    while low < high {
        let middle = u32::midpoint(low, high);
        if f64::from(middle) < percent * f64::from(WHOLE) / 100.0 - 1e-9 {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// As upstream reads a percentage.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    text.parse()
        .map_err(|_| format!("strconv.ParseFloat: parsing \"{text}\": invalid syntax"))
}

/// The rules that drop what comes from or goes to the peers in these sets of `source`.
fn dropped(object: &Value, hook: &str, device: &str, sets: &[&str], source: &str, chance: &str) -> String {
    let (interface, side, port) = if hook == "input" {
        ("iifname", "saddr", "sport")
    } else {
        ("oifname", "daddr", "dport")
    };
    let rule = |matches: &str| format!("    {interface} \"{device}\" {matches}{chance}drop\n");
    if sets.is_empty() {
        return rule("");
    }
    let mut text = String::new();
    for peer in peers(object, sets, source) {
        let cidr = str_at(peer, "/cidr").unwrap_or("0.0.0.0/0");
        match i64_at(peer, "/port").unwrap_or(0) {
            0 => text.push_str(&rule(&format!("ip {side} {cidr} "))),
            number => {
                for protocol in ["tcp", "udp"] {
                    text.push_str(&rule(&format!("ip {side} {cidr} {protocol} {port} {number} ")));
                }
            }
        }
    }
    text
}

pub(super) fn peers<'a>(object: &'a Value, sets: &'a [&str], source: &'a str) -> impl Iterator<Item = &'a Value> {
    array_at(object, "/spec/ipsets")
        .iter()
        .filter(move |set| {
            str_at(set, "/source") == Some(source) && str_at(set, "/name").is_some_and(|name| sets.contains(&name))
        })
        .flat_map(|set| array_at(set, "/cidrAndPorts"))
}

/// Interfaces that a discipline was or may have been put on.
fn shaped_devices(object: &Value) -> Vec<&str> {
    let mut devices: Vec<&str> = array_at(object, "/spec/tcs")
        .iter()
        .filter_map(|entry| str_at(entry, "/device"))
        .chain(["eth0"])
        .collect();
    devices.sort_unstable();
    devices.dedup();
    devices
}

/// The commands for `tc` in their order. With peers the discipline is one band of a `prio`, and filters lead into it.
fn disciplines(object: &Value) -> Result<Vec<Vec<String>>, String> {
    let mut commands = Vec::new();
    let entries: Vec<&Value> = array_at(object, "/spec/tcs")
        .iter()
        .filter(|entry| !is_pure_loss(entry))
        .collect();
    if entries.is_empty() {
        return Ok(commands);
    }
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let only_everything = entries.len() == 1 && entries.first().is_some_and(|entry| entry.get("ipset").is_none());
    for device in shaped_devices(object) {
        let of_device: Vec<&&Value> = entries
            .iter()
            .filter(|entry| str_at(entry, "/device").unwrap_or("eth0") == device)
            .collect();
        if of_device.is_empty() {
            continue;
        }
        if !only_everything {
            let bands = of_device.len() + 3;
            commands.push(words(&format!(
                "qdisc add dev {device} root handle 1: prio bands {bands} priomap 1 2 2 2 1 2 0 0 1 1 1 1 1 1 1 1"
            )));
        }
        for (index, entry) in of_device.iter().enumerate() {
            let discipline = discipline(entry)?;
            if only_everything {
                commands.push(words(&format!("qdisc add dev {device} root handle 1: {discipline}")));
                continue;
            }
            let band = index + 4;
            commands.push(words(&format!(
                "qdisc add dev {device} parent 1:{band} handle {band}0: {discipline}"
            )));
            let source = str_at(entry, "/source").unwrap_or_default();
            let sets: Vec<&str> = str_at(entry, "/ipset").into_iter().collect();
            let everywhere = if sets.is_empty() {
                vec![("0.0.0.0/0", 0)]
            } else {
                Vec::new()
            };
            let listed = peers(object, &sets, source).map(|peer| {
                (
                    str_at(peer, "/cidr").unwrap_or("0.0.0.0/0"),
                    i64_at(peer, "/port").unwrap_or(0),
                )
            });
            for (cidr, port) in everywhere.into_iter().chain(listed) {
                let port = if port == 0 {
                    String::new()
                } else {
                    format!("match ip dport {port} 0xffff ")
                };
                commands.push(words(&format!(
                    "filter add dev {device} parent 1: protocol ip u32 match ip dst {cidr} {port}flowid 1:{band}"
                )));
            }
        }
    }
    Ok(commands)
}

/// The words of one discipline.
fn discipline(entry: &Value) -> Result<String, String> {
    if str_at(entry, "/type") == Some("bandwidth") {
        let number = |field: &str| i64_at(entry, &format!("/bandwidth/{field}"));
        let mut text = format!(
            "tbf rate {} limit {} burst {}",
            str_at(entry, "/bandwidth/rate").unwrap_or_default(),
            number("limit").unwrap_or(0),
            number("buffer").unwrap_or(0)
        );
        if let (Some(peak), Some(burst)) = (number("peakrate"), number("minburst")) {
            text.push_str(&format!(" peakrate {peak} mtu {burst}"));
        }
        return Ok(text);
    }
    let part = |pointer: &str| str_at(entry, pointer).unwrap_or("0");
    let mut text = "netem".to_owned();
    if entry.get("delay").is_some() {
        text.push_str(&format!(
            " delay {} {} {}",
            part("/delay/latency"),
            part("/delay/jitter"),
            part("/delay/correlation")
        ));
    }
    for kind in ["loss", "duplicate", "corrupt"] {
        if entry.get(kind).is_some() {
            text.push_str(&format!(
                " {kind} {}% {}%",
                part(&format!("/{kind}/{kind}")),
                part(&format!("/{kind}/correlation"))
            ));
        }
    }
    if entry.pointer("/delay/reorder").is_some() {
        text.push_str(&format!(
            " reorder {}% {}% gap {}",
            part("/delay/reorder/reorder"),
            part("/delay/reorder/correlation"),
            i64_at(entry, "/delay/reorder/gap").unwrap_or(0)
        ));
    }
    if entry.get("rate").is_some() {
        text.push_str(&format!(" rate {}", part("/rate/rate")));
    }
    if text == "netem" {
        return Err("unable to set tcs: invalid netem spec: nothing is asked of it".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_partition_drops_by_address_and_port_in_its_direction() {
        let object = json!({"spec": {
            "ipsets": [{"name": "s", "source": "a/x", "cidrAndPorts": [{"cidr": "10.0.0.1/32", "port": 0}, {"cidr": "10.0.0.2/32", "port": 80}]}],
            "iptables": [
                {"source": "a/x", "direction": "output", "ipsets": ["s"], "device": "eth0"},
                {"source": "a/y", "direction": "input", "ipsets": [], "device": "eth0"},
            ],
        }});
        let text = chains(&object).unwrap().unwrap();
        assert!(text.contains("oifname \"eth0\" ip daddr 10.0.0.1/32 drop"), "{text}");
        assert!(text.contains("ip daddr 10.0.0.2/32 udp dport 80 drop"), "{text}");
        assert!(text.contains("iifname \"eth0\" drop"), "{text}");
        assert_eq!(chains(&json!({"spec": {}})).unwrap(), None);
    }

    #[test]
    fn a_share_is_exact_to_the_hundredth_of_a_percent() {
        for (text, parts) in [
            ("25", 2500),
            ("12.5", 1250),
            ("100", WHOLE),
            ("250", WHOLE),
            ("0", 0),
            ("0.01", 1),
        ] {
            assert_eq!(share(percent(text).unwrap()), parts, "{text}");
        }
        assert!(percent("many").is_err());
    }

    #[test]
    fn a_discipline_with_peers_is_a_band_with_filters() {
        let delay = json!({"source": "a/x", "device": "eth0", "type": "netem", "delay": {"latency": "10ms", "jitter": "0ms", "correlation": "0"}});
        let all = disciplines(&json!({"spec": {"tcs": [delay]}})).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(
            all[0].join(" "),
            "qdisc add dev eth0 root handle 1: netem delay 10ms 0ms 0"
        );
        let mut some = delay.clone();
        some["ipset"] = json!("s");
        let object = json!({"spec": {"tcs": [some], "ipsets": [{"name": "s", "source": "a/x", "cidrAndPorts": [{"cidr": "10.0.0.1/32", "port": 0}]}]}});
        let lines: Vec<String> = disciplines(&object).unwrap().iter().map(|one| one.join(" ")).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].contains("match ip dst 10.0.0.1/32 flowid 1:4"), "{lines:?}");
    }

    #[test]
    fn a_pure_loss_needs_no_discipline() {
        let loss =
            json!({"source": "a/x", "device": "eth0", "type": "netem", "loss": {"loss": "25", "correlation": "0"}});
        let object = json!({"spec": {"tcs": [loss]}});
        assert!(disciplines(&object).unwrap().is_empty());
        let text = chains(&object).unwrap().unwrap();
        assert!(
            text.contains("oifname \"eth0\" numgen random mod 10000 < 2500 drop"),
            "{text}"
        );
    }
}
