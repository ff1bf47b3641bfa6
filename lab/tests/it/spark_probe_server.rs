//! The probe server's stamps are the truth that instruments are checked against, so they are checked themselves.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

fn monotonic_seconds() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn start(folder: &Path, port: u16, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_chaosrun-lab"))
        .args([
            "lab-internal",
            "pipeline",
            "probe-server",
            "--ready-after",
            "0.7",
            "--stamp",
        ])
        .arg(folder)
        .args(["--port", &port.to_string()])
        .args(more)
        .spawn()
        .unwrap()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn get_ready(port: u16) -> Option<u16> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// Event name to seconds of `CLOCK_MONOTONIC`.
fn stamps(folder: &Path) -> Vec<(String, f64)> {
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| {
            let stamp: Value = serde_json::from_str(line).unwrap();
            (
                stamp["event"].as_str().unwrap().to_owned(),
                stamp["monotonicNs"].as_i64().unwrap() as f64 / 1e9,
            )
        })
        .collect()
}

fn observe(more: &[&str]) -> (Vec<(String, f64)>, f64, bool) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut child = start(folder.path(), port, more);
    let begun = Instant::now();
    let mut refused_politely = false;
    let ready_at = loop {
        assert!(begun.elapsed() < Duration::from_secs(20), "never ready");
        match get_ready(port) {
            Some(200) => break monotonic_seconds(),
            Some(503) => refused_politely = true,
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    (stamps(folder.path()), ready_at, refused_politely)
}

#[test]
fn it_is_ready_when_it_says_so_and_not_before() {
    let (stamps, observed, refused_politely) = observe(&[]);
    let at = |name: &str| stamps.iter().find(|(event, _)| event == name).unwrap().1;
    assert!(refused_politely, "it answers 503 until it is ready");
    assert!((at("ready") - at("start") - 0.7).abs() < 0.05, "{stamps:?}");
    assert!(
        at("served") >= at("ready") && observed >= at("served"),
        "{stamps:?} {observed}"
    );
    assert!(observed - at("ready") < 0.25, "{stamps:?} {observed}");
}

#[test]
fn it_can_refuse_connections_until_it_is_ready() {
    let (stamps, _, refused_politely) = observe(&["--listen-late"]);
    let at = |name: &str| stamps.iter().find(|(event, _)| event == name).unwrap().1;
    assert!(!refused_politely);
    assert!((at("listening") - at("start") - 0.7).abs() < 0.1, "{stamps:?}");
}
