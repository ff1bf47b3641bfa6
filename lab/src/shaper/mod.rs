//! A double of the kernel's `sch_netem`, for kernels without it: `tc` with the same words, and packets that are really late or lost.
//!
//! Depends on `nfq` and the programs `tc` and `iptables` of the host. In the image of the network tools [`tc`] stands in front of the
//! host's own `tc`: everything is handed on to that one, and only what it refuses because the kernel has no netem is done here, by a
//! process that holds the packets of a netfilter queue. When that process is gone the queue lets everything pass.
//!
//! Doubles of chaos tools start a process of their own for a queue of their own ([`ATTENDED_ARGUMENT`]), and lead packets there
//! themselves.
//!
//! Offered as words of `tc`: `delay TIME [JITTER]`, `loss PERCENT`, on the root of a device, for what is sent. Anything else is refused, as an unknown
//! word is by `tc`, with its exit code 2.

mod hold;
mod words;

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use self::words::Call;

pub(crate) use self::hold::{READY, main as hold, main_attended as hold_attended};
pub(crate) use self::words::Netem;

/// The hidden argument after `lab-internal` that leads to [`hold`].
pub(crate) const HOLD_ARGUMENT: &str = "netem";
/// The hidden argument after `lab-internal` that leads to [`hold_attended`].
pub(crate) const ATTENDED_ARGUMENT: &str = "netem-attended";
/// Where the host's own program is looked for.
const REAL: [&str; 2] = ["/sbin/tc", "/usr/sbin/tc"];
/// What the kernel says when it has no such discipline.
const UNKNOWN: [&str; 2] = ["Specified qdisc kind is unknown", "Specified qdisc not found"];
/// The queue between the packets and the process that holds them.
const QUEUE: u16 = 7;
/// Process id of the holder, and what it counted.
const PID_FILE: &str = "/tmp/.netem.pid";
pub(super) const COUNT_FILE: &str = "/tmp/.netem.counts";
pub(super) const RULE_FILE: &str = "/tmp/.netem.rule";

/// What `tc` exits with when it refuses its arguments.
const USAGE: u8 = 2;

/// `tc` as the tools find it in their PATH.
pub(crate) fn tc(arguments: Vec<String>) -> ExitCode {
    match words::parse(&arguments) {
        Ok(Call::Show { device }) if active() => show(&device),
        Ok(Call::Delete { device }) if active() => result(remove(&device)),
        Ok(Call::Netem { device, netem }) => {
            let (code, complaint) = real(&arguments);
            if UNKNOWN.iter().any(|unknown| complaint.contains(unknown)) {
                return result(add(&device, &netem));
            }
            say(&complaint);
            ExitCode::from(code)
        }
        Ok(_) => {
            let (code, complaint) = real(&arguments);
            say(&complaint);
            ExitCode::from(code)
        }
        Err(why) => {
            say(&why);
            ExitCode::from(USAGE)
        }
    }
}

fn say(text: &str) {
    if !text.is_empty() {
        drop(writeln!(std::io::stderr(), "{}", text.trim_end()));
    }
}

fn result(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            ExitCode::from(USAGE)
        }
    }
}

/// The host's own `tc`: its exit code and what it complained of. Its output goes where ours does.
fn real(arguments: &[String]) -> (u8, String) {
    let Some(program) = REAL.iter().find(|path| Path::new(path).exists()) else {
        return (USAGE, "tc: the host has no tc; install iproute2".to_owned());
    };
    match Command::new(program).args(arguments).stdout(Stdio::inherit()).output() {
        Ok(output) => (
            output
                .status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(1),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ),
        Err(error) => (1, format!("tc: {program} does not start: {error}")),
    }
}

fn holder() -> Option<String> {
    let text = std::fs::read_to_string(PID_FILE).ok()?;
    let pid = text.trim().to_owned();
    Path::new("/proc").join(&pid).exists().then_some(pid)
}

fn active() -> bool {
    holder().is_some()
}

/// Packets that leave by the device go to the queue; nobody there means that they pass.
fn rule(device: &str, action: &str) -> Result<(), String> {
    let queue = QUEUE.to_string();
    let arguments = [
        "-w",
        "-t",
        "mangle",
        action,
        "POSTROUTING",
        "-o",
        device,
        "-j",
        "NFQUEUE",
        "--queue-num",
        &queue,
        "--queue-bypass",
    ];
    let output = Command::new("iptables")
        .args(arguments)
        .output()
        .map_err(|error| format!("netem: iptables does not start: {error}; install it"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "netem: iptables {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

fn add(device: &str, netem: &Netem) -> Result<(), String> {
    if active() {
        return Err("RTNETLINK answers: File exists".to_owned());
    }
    let program = std::env::current_exe().map_err(|error| format!("netem: {error}"))?;
    std::fs::write(RULE_FILE, netem.to_string())
        .map_err(|error| format!("netem: cannot write {RULE_FILE}: {error}"))?;
    // A file of an earlier one would be taken for the word that this one is ready.
    drop(std::fs::remove_file(COUNT_FILE));
    let child = Command::new(program)
        .args(["lab-internal", HOLD_ARGUMENT])
        .args(netem.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("netem: the holder does not start: {error}"))?;
    std::fs::write(PID_FILE, child.id().to_string())
        .map_err(|error| format!("netem: cannot write {PID_FILE}: {error}"))?;
    for _ in 0..100 {
        if Path::new(COUNT_FILE).exists() {
            return rule(device, "-A");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("netem: the kernel has no netem, and its netfilter queue cannot be used either".to_owned())
}

fn remove(device: &str) -> Result<(), String> {
    // First the rule: from here on nothing waits for the holder.
    let removed = rule(device, "-D");
    forget_empty_table();
    if let Some(pid) = holder() {
        drop(Command::new("kill").arg(&pid).status());
    }
    for file in [PID_FILE, COUNT_FILE, RULE_FILE] {
        drop(std::fs::remove_file(file));
    }
    removed
}

/// The table in which the rule was stays behind without it; whoever looks for what is left would find it.
fn forget_empty_table() {
    let listed = Command::new("nft")
        .args(["-j", "list", "table", "ip", "mangle"])
        .output();
    let empty = listed
        .is_ok_and(|output| output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("\"rule\""));
    if empty {
        drop(Command::new("nft").args(["delete", "table", "ip", "mangle"]).output());
    }
}

/// As `tc -s qdisc show` does.
fn show(device: &str) -> ExitCode {
    let netem = std::fs::read_to_string(RULE_FILE).unwrap_or_default();
    let counts = std::fs::read_to_string(COUNT_FILE).unwrap_or_default();
    let (sent, dropped) = counts.trim().split_once(' ').unwrap_or(("0", "0"));
    let text = format!(
        "qdisc netem 8001: dev {device} root refcnt 2 limit {} {netem}\n Sent 0 bytes {sent} pkt (dropped {dropped}, overlimits 0 requeues 0)\n",
        hold::LIMIT
    );
    drop(write!(std::io::stdout(), "{text}"));
    ExitCode::SUCCESS
}
