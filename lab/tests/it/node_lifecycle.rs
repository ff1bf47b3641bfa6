//! The life of a lab: nothing is left of it, however it ends. Needs root, runc, iproute2, nftables.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::node_support::{config, create, lab, phase, shell, wait_pod};
use chaosrun_lab::lifecycle::{LabConfig, ProcessIdentity, Record, down, status, up};
use chaosrun_lab::standard::controllers;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

fn background(test: &str) -> LabConfig {
    LabConfig {
        program: Some(env!("CARGO_BIN_EXE_chaosrun-lab").into()),
        ..config(test)
    }
}

fn record(config: &LabConfig) -> Record {
    let path = config.state_root.join(&config.name).join("record.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

async fn client(config: &LabConfig) -> kube::Client {
    let path = config.state_root.join(&config.name).join("kubeconfig");
    let file = kube::config::Kubeconfig::read_from(path).unwrap();
    let loaded = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
        .await
        .unwrap();
    kube::Client::try_from(loaded).unwrap()
}

fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything on this machine that names the lab. Other labs may come and go meanwhile, so its own id is looked for.
fn traces(record: &Record, marker: &str) -> Vec<String> {
    let id = &record.network.id;
    let mut found = Vec::new();
    for command in [
        "ip -oneline link",
        "ip -oneline addr",
        "ip route show table all",
        "ip netns",
        "nft list tables",
        "cat /proc/self/mountinfo",
    ] {
        let text = output(command);
        let hits = text
            .lines()
            .filter(|line| line.contains(id) || line.contains(&*record.state_folder.to_string_lossy()));
        found.extend(hits.map(|line| format!("{command}: {line}")));
    }
    let groups = output("find /sys/fs/cgroup -type d -name 'chaosrun-lab-*'");
    found.extend(groups.lines().filter(|line| line.contains(id)).map(str::to_owned));
    if runs(marker) {
        found.push(format!("a process with {marker}"));
    }
    for folder in [&record.state_folder, &record.data_folder] {
        if folder.exists() {
            found.push(folder.display().to_string());
        }
    }
    found
}

/// Whether a process with this in its arguments is there.
fn runs(marker: &str) -> bool {
    output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").contains(marker)
}

/// A pod with something of everything: memory volume, claim, network, log, a deaf process.
async fn busy_pod(client: &kube::Client, marker: &str) {
    let mut pod = shell("busy", &format!("trap '' TERM; while :; do sleep {marker}; done"));
    pod["spec"]["volumes"] = json!([{"name": "memory", "emptyDir": {"medium": "Memory"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "memory", "mountPath": "/m"}]);
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while api
        .get("busy")
        .await
        .unwrap()
        .status
        .and_then(|status| status.phase)
        .as_deref()
        != Some("Running")
    {
        assert!(Instant::now() < deadline, "the pod does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A container runs from the moment that runc lets it go; its program is what it says a moment later.
    while !runs(marker) {
        assert!(Instant::now() < deadline, "the program of the pod does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_lab_that_is_taken_down() {
    let config = background("down");
    let start = Instant::now();
    let lab = up(&config).await.expect("root, runc, iproute2 and nftables are needed");
    println!("up after {:?}", start.elapsed());
    assert!(lab.alive && lab.api.is_some());
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&lab.kubeconfig).unwrap()) & 0o777,
        0o600
    );
    assert!(status(&config).iter().any(|other| other.name == config.name));
    let marker = format!("98{}.5", std::process::id());
    busy_pod(&client(&config).await, &marker).await;
    let record = record(&config);
    assert!(
        traces(&record, &marker).len() > 8,
        "the test must see a living lab: {:?}",
        traces(&record, &marker)
    );
    let start = Instant::now();
    down(&config).await.unwrap();
    println!("down after {:?}", start.elapsed());
    assert_eq!(traces(&record, &marker), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_lab_that_was_killed_and_then_taken_down() {
    // Folders of its own: any other lab that boots meanwhile would remove what the dead one left.
    let folder = tempfile::tempdir().unwrap();
    let config = LabConfig {
        state_root: folder.path().join("state"),
        data_root: folder.path().join("data"),
        ..background("kill")
    };
    let lab = up(&config).await.expect("root, runc, iproute2 and nftables are needed");
    let marker = format!("97{}.5", std::process::id());
    busy_pod(&client(&config).await, &marker).await;
    let record = record(&config);
    kill(lab.process);
    assert!(
        traces(&record, &marker).iter().any(|trace| trace.contains("a process")),
        "pods outlive a killed lab"
    );
    down(&config).await.unwrap();
    assert_eq!(traces(&record, &marker), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_lab_removes_what_a_killed_one_left() {
    let config = background("stale");
    let lab = up(&config).await.expect("root, runc, iproute2 and nftables are needed");
    let marker = format!("96{}.5", std::process::id());
    busy_pod(&client(&config).await, &marker).await;
    let old = record(&config);
    kill(lab.process);
    up(&config).await.unwrap();
    let new = record(&config);
    assert_ne!(old.network.id, new.network.id);
    let left: Vec<String> = traces(&old, &marker)
        .into_iter()
        .filter(|trace| !Path::new(trace).exists() && !trace.contains("layers"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    down(&config).await.unwrap();
    assert_eq!(traces(&new, &marker), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_lab_goes_when_its_owner_is_killed() {
    let mut owner = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(owner.id()).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let started = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(19)
        .unwrap()
        .parse()
        .unwrap();
    let config = LabConfig {
        owner: Some(ProcessIdentity { pid, started }),
        ..background("owner")
    };
    up(&config).await.expect("root, runc, iproute2 and nftables are needed");
    let marker = format!("95{}.5", std::process::id());
    busy_pod(&client(&config).await, &marker).await;
    let record = record(&config);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !traces(&record, &marker).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", traces(&record, &marker));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_labs_run_side_by_side_with_their_own_addresses_and_pods() {
    let (one, two) = tokio::join!(lab("one"), lab("two"));
    assert_ne!(one.info().gateway, two.info().gateway);
    for lab in [&one, &two] {
        create(lab, shell("p", "sleep 1000")).await;
    }
    let a = wait_pod(&one, "p", "running", phase("Running")).await;
    let b = wait_pod(&two, "p", "running", phase("Running")).await;
    assert_ne!(a["status"]["podIP"], b["status"]["podIP"]);
    one.stop().await.unwrap();
    let still = wait_pod(&two, "p", "running", phase("Running")).await;
    assert_eq!(still["status"]["containerStatuses"], b["status"]["containerStatuses"]);
    two.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_or_impossible_is_refused() {
    let config = config("name");
    let lab = chaosrun_lab::lifecycle::Lab::start(config.clone(), controllers())
        .await
        .expect("root, runc, iproute2 and nftables are needed");
    let again = up(&config).await.unwrap_err().to_string();
    assert!(again.contains("is up already"), "{again}");
    let bad = up(&LabConfig::new("../x")).await.unwrap_err().to_string();
    assert!(bad.contains("must consist of"), "{bad}");
    lab.stop().await.unwrap();
    assert!(down(&config).await.unwrap_err().to_string().contains("is not up"));
}

fn kill(process: ProcessIdentity) {
    let pid = rustix::process::Pid::from_raw(process.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}
