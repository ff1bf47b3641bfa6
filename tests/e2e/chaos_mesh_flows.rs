//! Schedules and Workflows of Chaos Mesh, and what only Chaos Mesh can do, against the lab's double of it, which really runs the
//! former and refuses the latter. Not against Chaos Mesh itself.

use crate::chaos_mesh::{install, switches};
use crate::support::file;
use crate::support::shop::Shop;
use serde_json::{Value, json};

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
    let fault = format!("- name: it\n  duration: {duration}\n  mode: one\n  chaosMesh:{flow}");
    crate::support::shop::experiment(name, &fault, "< 40s", "maxPercent: 100, revert: 10s")
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
        "iochaos",
        "timechaos",
        "httpchaos",
        "jvmchaos",
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
    let before = shop.settled_machine();

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

    // Its node says ChaosInjected all the same, until the Workflow is over; nothing was done.
    let burns = WORKFLOW
        .replace("[lose, burn]", "[burn]")
        .replace("LOSE", "2s")
        .replace("40s", "2s");
    switches(&shop, &json!({"applyNever": "true"}));
    let (code, text, report) = run(&shop, "never", &burns, "4s");
    assert_eq!(code, Some(2), "{text}");
    let why = report["experiments"][0]["claims"][0]["why"].to_string();
    for part in ["the Workflow is over: StressChaos burn-", "says \\\"Not Injected\\\""] {
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
    let before = shop.settled_machine();
    let text = experiment("dies", &WORKFLOW.replace("LOSE", "40s"), "40s");
    let (mut child, _) = shop.broken("dies", &text, |_| {});
    child.kill().unwrap();
    child.wait().unwrap();
    let there = left(&shop);
    for plural in ["workflows", "workflownodes", "networkchaos"] {
        assert!(
            there.iter().any(|one| one.starts_with(&format!("{plural} "))),
            "{there:?}"
        );
    }

    // What does not go is found again, although its Workflow goes with the guard.
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
    let (code, text) = clean("4");
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("NetworkChaos shop/lose-"), "{text}");
    switches(&shop, &json!({}));
    let (code, text) = clean("20");
    assert_eq!(code, Some(0), "{text}");
    nothing_left(&shop, &before, "the second clean");
}

#[test]
fn what_the_double_does_not_inject_is_refused_or_inconclusive_and_can_be_cleaned() {
    let shop = Shop::open("forms");
    install(&shop.lab);
    let before = shop.settled_machine();

    // A folder that is no mount: told before anything is touched.
    shop.ready();
    let one = |name: &str, faults: &str| {
        let text = experiment(name, FLOW_MARK, "2s").replace("revert: 10s", "revert: 3s");
        let (head, rest) = text.split_once("- name: it").unwrap();
        let (_, tail) = rest.split_once(FLOW_MARK).unwrap();
        let path = file(
            shop.lab.folder(),
            &format!("{name}.yaml"),
            &format!("{head}{faults}{}", tail.trim_start()),
        );
        let run = shop.lab.run(&[path.to_str().unwrap()]);
        let report = run.report(shop.lab.folder());
        (run.code, run.text, report)
    };
    let (code, text, _) = one(
        "no-mount",
        "- {name: it, ioDelay: {path: /data/store, latency: 100ms}, duration: 2s}\n",
    );
    assert_eq!(code, Some(77), "{text}");
    for part in ["/data/store is not where container web", "mounts: /data"] {
        assert!(flat(&text).contains(part), "{text}");
    }
    nothing_left(&shop, &before, "a refusal");

    // All at once: each waits for its proof as long as the others.
    let (code, text, report) = one(
        "forms",
        "- {name: slow, ioDelay: {path: /data, latency: 100ms, methods: [read, write], percent: 50%}, duration: 2s}
- {name: broken, ioError: {path: /data, errno: ENOSPC}, duration: 2s}
- {name: clock, clockSkew: {offset: -10m}, duration: 2s}
- {name: http, httpFault: {port: 8080, path: /api/*, method: GET, status: 503}, duration: 2s}
- {name: java, jvmFault: {class: shop.Cart, method: add, returnValue: '9'}, duration: 2s}
",
    );
    let faults = &report["experiments"][0]["trials"][0]["faults"];
    assert_eq!(faults.as_array().map(Vec::len), Some(5), "{faults}");
    for fault in faults.as_array().unwrap() {
        assert!(fault.to_string().contains("not injected by the double"), "{fault}");
    }
    // As Chaos Mesh itself, the double never lets go of an IOChaos or HTTPChaos that cannot be applied (specs/chaos-mesh.md, section 5).
    assert_eq!(code, Some(4), "{text}");
    let there = left(&shop);
    let stuck = |one: &String| one.starts_with("iochaos ") || one.starts_with("httpchaos ");
    assert!(there.len() == 3 && there.iter().all(stuck), "{there:?}");
    let clean = |more: &[&str]| {
        let arguments = [&["clean", "--yes", "--timeout", "3"], more].concat();
        let output = shop.lab.command(&arguments).output().unwrap();
        (output.status.code(), crate::support::texts(&output))
    };
    let (code, text) = clean(&["--force"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(
        text.contains("removed by force") && text.contains("delete shop/web-"),
        "{text}"
    );
    let (code, text) = clean(&[]);
    assert_eq!(code, Some(0), "{text}");
    shop.kubectl(&["-n", "shop", "delete", "pods", "-l", "app=web", "--now"]);
    shop.ready();
    nothing_left(&shop, &before, "the forms");
}

/// Stands for what a fault does, where the whole fault is another one.
const FLOW_MARK: &str = " {kind: PodChaos, spec: {}}";

/// Text as it reads without the breaks of the terminal.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
