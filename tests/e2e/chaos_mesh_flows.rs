//! Schedules and Workflows of Chaos Mesh, against the lab's double of it, which really runs them. Not against Chaos Mesh itself.

use crate::chaos_mesh::{install, switches};
use crate::support::file;
use crate::support::shop::Shop;
use serde_json::{Value, json};
use std::time::Duration;

const SCHEDULE: &str = "
    kind: Schedule
    spec:
      schedule: '@every 1s'
      type: PodChaos
      concurrencyPolicy: Forbid
      podChaos: {action: pod-kill}";

const WORKFLOW: &str = "
    kind: Workflow
    spec:
      entry: all
      templates:
      - {name: all, templateType: Serial, children: [lose, burn], deadline: 1m}
      - name: lose
        templateType: NetworkChaos
        deadline: LOSE
        networkChaos: {action: loss, direction: to, loss: {loss: '5'}}
      - name: burn
        templateType: StressChaos
        deadline: 40s
        stressChaos: {stressors: {cpu: {workers: 1, load: 20}}}";

fn experiment(name: &str, flow: &str, duration: &str) -> String {
    format!(
        "apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {{name: {name}}}
claim: {{text: it comes back}}
target: {{namespace: shop, deployment: web}}
steadyState: {{probes: [{{name: ready, pods: {{ready: '>= 2'}}, hold: 300ms}}]}}
faults:
- name: it
  duration: {duration}
  mode: one
  chaosMesh:{flow}
slos: {{rto: '< 40s'}}
timeouts: {{baseline: 30s, recovery: 45s, settle: 300ms}}
guards: {{maxPercent: 100, revert: 10s}}
"
    )
}

fn run(shop: &Shop, name: &str, flow: &str, duration: &str) -> (Option<i32>, String, Value) {
    shop.ready();
    let text = experiment(name, flow, duration);
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &text);
    let run = shop.lab.run(&[path.to_str().unwrap()]);
    let report = run.report(shop.lab.folder());
    (run.code, run.text, report)
}

/// Objects of Chaos Mesh of any kind that are still there.
fn left(shop: &Shop) -> Vec<String> {
    let mut found = Vec::new();
    for plural in [
        "schedules",
        "workflows",
        "workflownodes",
        "podchaos",
        "networkchaos",
        "stresschaos",
        "podnetworkchaos",
    ] {
        let path = format!("/apis/chaos-mesh.org/v1alpha1/{plural}");
        let (code, list) = shop.lab.api("GET", &path, None);
        assert_eq!(code, 200, "{list}");
        // The controller keeps one of the internal objects for each pod, as long as the pod lives; empty it does nothing.
        for item in list["items"].as_array().into_iter().flatten() {
            let rules = ["tcs", "iptables", "ipsets"];
            let busy = rules
                .iter()
                .any(|rule| item["spec"][rule].as_array().is_some_and(|held| !held.is_empty()));
            if plural != "podnetworkchaos" || busy {
                found.push(format!("{plural} {}", item["metadata"]["name"]));
            }
        }
    }
    found
}

fn nothing_left(shop: &Shop, before: &[String], when: &str) {
    assert_eq!(left(shop), Vec::<String>::new(), "after {when}");
    assert_eq!(shop.traces_of_objects(), Vec::<String>::new(), "after {when}");
    shop.same(before, when);
}

fn proof(report: &Value) -> String {
    report["experiments"][0]["trials"][0]["faults"][0]["proof"].to_string()
}

#[test]
fn schedules_and_workflows_count_by_what_they_make_and_leave_nothing() {
    let shop = Shop::open("flows");
    install(&shop.lab);
    let before = shop.machine();

    let (code, text, report) = run(&shop, "schedule", SCHEDULE, "4s");
    assert_eq!(code, Some(0), "{text}");
    let seen = proof(&report);
    for part in ["is gone, by PodChaos chaosrun-", "of the Schedule"] {
        assert!(seen.contains(part), "{seen}");
    }
    nothing_left(&shop, &before, "the schedule");

    // The second node is still at work when the fault is over.
    let (code, text, report) = run(&shop, "workflow", &WORKFLOW.replace("LOSE", "3s"), "6s");
    assert_eq!(code, Some(0), "{text}");
    let seen = proof(&report);
    for part in ["Injected by NetworkChaos lose-", "of node lose-", "of the Workflow"] {
        assert!(seen.contains(part), "{seen}");
    }
    nothing_left(&shop, &before, "the workflow");

    // Nodes say ChaosInjected all the same; the Workflow is over soon, and nothing was done.
    let short = WORKFLOW.replace("LOSE", "2s").replace("40s", "2s");
    switches(&shop, &json!({"applyNever": "true"}));
    let (code, text, report) = run(&shop, "never", &short, "4s");
    assert_eq!(code, Some(2), "{text}");
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    for part in ["not injected within", "lose-"] {
        assert!(why.contains(part), "{why}");
    }
    switches(&shop, &json!({}));
    nothing_left(&shop, &before, "the workflow that never injects");
}

#[test]
fn a_runner_that_dies_in_a_workflow_leaves_what_clean_finds() {
    let shop = Shop::open("flows-clean");
    install(&shop.lab);
    shop.ready();
    let before = shop.machine();
    let text = experiment("dies", &WORKFLOW.replace("LOSE", "50s"), "50s");
    let path = file(shop.lab.folder(), "dies.yaml", &text);
    let out = shop.lab.folder().join("dies");
    let mut child = shop
        .lab
        .command(&["run", "--out"])
        .arg(&out)
        .arg(&path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    shop.lab.wait("the fault is proven", Duration::from_secs(60), || {
        let folder = std::fs::read_dir(&out)
            .ok()
            .and_then(|mut folders| folders.next()?.ok());
        folder
            .and_then(|folder| std::fs::read_to_string(folder.path().join("events.jsonl")).ok())
            .is_some_and(|log| log.contains("\"faultProven\""))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let there = left(&shop);
    for plural in ["workflows", "workflownodes", "networkchaos"] {
        assert!(
            there.iter().any(|one| one.starts_with(&format!("{plural} "))),
            "{there:?}"
        );
    }

    // What does not go keeps its Workflow, so that it is found again.
    switches(&shop, &json!({"recoverError": "true"}));
    let clean = |seconds: &str| {
        let output = shop
            .lab
            .command(&["clean", "--yes", "--timeout", seconds])
            .output()
            .unwrap();
        (output.status.code(), crate::support::texts(&output))
    };
    let (code, text) = clean("4");
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("made by Workflow chaosrun-"), "{text}");
    assert!(left(&shop).iter().any(|one| one.starts_with("workflows ")), "{text}");
    switches(&shop, &json!({}));
    let (code, text) = clean("20");
    assert_eq!(code, Some(0), "{text}");
    nothing_left(&shop, &before, "the second clean");
}
