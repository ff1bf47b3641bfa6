//! What else may happen while a fault is under way: its victim is replaced, the namespace goes, the API server restarts, the clock of
//! the runner steps, Chaos Mesh loses its daemons. The verdict is never a pass that nobody can vouch for, and nothing is left.

use crate::support::file;
use crate::support::lab::Run;
use crate::support::shop::{Shop, log_of};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

/// A run under way, whose fault is proven.
struct Broken<'a> {
    shop: &'a Shop,
    child: Child,
    out: PathBuf,
}

fn experiment(name: &str, fault: &str) -> String {
    let fault = format!("- {{name: it, {fault}}}");
    crate::support::shop::experiment(name, &fault, "< 40s", "maxPercent: 100, deadline: 30s")
}

impl<'a> Broken<'a> {
    /// Starts a run, and waits until the fault is proven.
    fn start(shop: &'a Shop, name: &str, fault: &str, change: impl FnOnce(&mut Command)) -> Self {
        let (child, out) = shop.broken(name, &experiment(name, fault), change);
        Self { shop, child, out }
    }

    fn log(&self) -> String {
        log_of(&self.out)
    }

    fn victim(&self) -> String {
        let log = self.log();
        let proven = log
            .lines()
            .find(|line| line.contains("\"faultProven\""))
            .unwrap()
            .to_owned();
        let record: Value = serde_json::from_str(&proven).unwrap();
        record["event"]["target"]["name"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of the run.
    fn end(self) -> (Run, Value) {
        let run = Run::from(self.child.wait_with_output().unwrap());
        let report = run.report(&self.out);
        // Pods that are on their way out are gone soon.
        self.shop.lab.wait("nothing is left", Duration::from_secs(20), || {
            self.shop.lab.leftovers().is_empty()
        });
        (run, report)
    }
}

fn why(report: &Value) -> String {
    report["experiments"][0]["claims"][0]["why"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_victim_that_is_replaced_in_mid_fault_makes_no_pass_unless_it_may_be() {
    let shop = Shop::open("replaced");
    shop.store();
    for (name, fault) in [
        ("busy", "cpuStress: {workers: 1}"),
        ("slow", "networkDelay: {latency: 50ms}"),
        ("cut", "networkPartition: {peer: {labels: {app: store}}}"),
    ] {
        let broken = Broken::start(&shop, name, &format!("{fault}, duration: 8s"), |_| {});
        shop.kubectl(&["-n", "shop", "delete", "pod", &broken.victim(), "--now", "--wait=false"]);
        let (run, report) = broken.end();
        assert_eq!(run.code, Some(2), "{name}: {}", run.text);
        assert!(why(&report).contains("was replaced"), "{name}: {}", why(&report));
        assert_eq!(shop.traces(), Vec::<String>::new(), "after {name}");
    }
    let fault = "cpuStress: {workers: 1}, duration: 8s, mayBeReplaced: true";
    let broken = Broken::start(&shop, "may", fault, |_| {});
    shop.kubectl(&["-n", "shop", "delete", "pod", &broken.victim(), "--now", "--wait=false"]);
    let (run, _) = broken.end();
    assert_eq!(run.code, Some(0), "{}", run.text);
}

#[test]
fn a_namespace_that_goes_in_mid_fault_makes_no_pass_and_leaves_nothing() {
    let shop = Shop::open("no-namespace");
    shop.store();
    let fault = "networkPartition: {peer: {labels: {app: store}}}, mode: all, duration: 6s";
    let broken = Broken::start(&shop, "gone", fault, |_| {});
    shop.kubectl(&["delete", "namespace", "shop", "--wait=false"]);
    let (run, report) = broken.end();
    assert!(matches!(run.code, Some(1 | 2)), "{}", run.text);
    assert_ne!(report["verdict"], "pass");
    assert_eq!(shop.lab.leftovers(), Vec::<String>::new());
    shop.lab.wait("the namespace is gone", Duration::from_secs(40), || {
        shop.lab.api("GET", "/api/v1/namespaces/shop", None).0 == 404
    });
    // Whoever comes later finds nothing to clean.
    let clean = shop.lab.command(&["clean", "--yes"]).output().unwrap();
    assert_eq!(clean.status.code(), Some(0), "{}", crate::support::texts(&clean));
}

#[test]
fn an_api_server_that_restarts_in_mid_fault_is_survived_and_nothing_is_left() {
    let shop = Shop::open("restarted");
    shop.store();
    for (name, fault) in [
        // It is away when the fault is due to end.
        (
            "cut",
            "networkPartition: {peer: {labels: {app: store}}}, mode: all, duration: 2s",
        ),
        ("memory", "memoryStress: {size: 40Mi}, duration: 6s"),
        (
            "scale",
            "scale: {apiVersion: apps/v1, kind: Deployment, name: store, replicas: 2}, duration: 2s",
        ),
    ] {
        let broken = Broken::start(&shop, name, fault, |_| {});
        shop.lab.restart_api();
        let (run, report) = broken.end();
        // Nobody could see the pods while it was away: a pass is possible only where nothing depended on that.
        assert!(matches!(run.code, Some(0 | 2)), "{name}: {}", run.text);
        if run.code == Some(0) {
            let rto = report["experiments"][0]["trials"][0]["rto"]["upper"].as_f64().unwrap();
            assert!(rto < 40.0, "{name}: {rto}");
        }
        assert_eq!(shop.traces(), Vec::<String>::new(), "after {name}");
    }
}

#[test]
fn a_step_of_the_runners_clock_changes_nothing_that_is_measured() {
    let shop = Shop::open("stepped");
    let library = std::fs::read_dir("/usr/lib")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|path| path.exists())
        .expect("this test needs Debian's libfaketime: apt-get install libfaketime");
    let clock = file(shop.lab.folder(), "clock", "+86400s\n");
    let broken = Broken::start(&shop, "stepped", "podKill: {gracePeriod: 0s}", |command| {
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            // What a step of the clock leaves alone on any machine.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    });
    std::fs::write(&clock, "-7200s\n").unwrap();
    let (run, report) = broken.end();
    assert_eq!(run.code, Some(0), "{}", run.text);
    let rto = &report["experiments"][0]["trials"][0]["rto"];
    let (lower, upper) = (rto["lower"].as_f64().unwrap(), rto["upper"].as_f64().unwrap());
    assert!((0.0..30.0).contains(&lower) && upper < 30.0, "{rto}");
    assert_eq!(shop.traces(), Vec::<String>::new());
    // The clock of the program was really another one.
    let started: jiff::Timestamp = report["run"]["startedAt"].as_str().unwrap().parse().unwrap();
    let ahead = started.duration_since(jiff::Timestamp::now());
    assert!(ahead.as_hours() >= 23, "{}", report["run"]);
}
