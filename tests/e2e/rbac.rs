//! Least privilege: what `rbac` prints is enough to run the same experiment, nothing in it is idle, and `plan` names whatever is missing.

use crate::support::file;
use crate::support::lab::{Lab, Run};
use crate::support::shop::Shop;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Somebody with a service account and the Roles that `rbac` printed.
struct Runner<'a> {
    lab: &'a Lab,
    kubeconfig: PathBuf,
    roles: Vec<Value>,
}

impl<'a> Runner<'a> {
    /// Makes the account and its kubeconfig, and gives it what `rbac` prints for `experiment`.
    fn new(lab: &'a Lab, experiment: &str, variables: &[&str]) -> Self {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "runner", "namespace": "default"}});
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        let (code, answer) = lab.api("POST", accounts, Some(&account));
        assert!(code == 201 || code == 409, "{answer}");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let (code, answer) = lab.api("POST", &format!("{accounts}/runner/token"), Some(&request));
        assert_eq!(code, 201, "{answer}");
        let mut config: Value = serde_yaml::from_str(&std::fs::read_to_string(&lab.kubeconfig).unwrap()).unwrap();
        config["users"][0]["user"]["token"] = answer["status"]["token"].clone();
        let kubeconfig = file(lab.folder(), "runner.kubeconfig", &config.to_string());
        let runner = Self {
            lab,
            kubeconfig,
            roles: roles(lab, experiment, variables),
        };
        for role in &runner.roles {
            runner.grant(role);
        }
        runner
    }

    /// Makes a Role (or ClusterRole) be exactly so, and bound.
    fn grant(&self, role: &Value) {
        let cluster = role["kind"] == "ClusterRole";
        let place = match role["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{RBAC}/namespaces/{namespace}"),
            None => RBAC.to_owned(),
        };
        let (plural, bindings) = if cluster {
            ("clusterroles", "clusterrolebindings")
        } else {
            ("roles", "rolebindings")
        };
        let kind = role["kind"].as_str().unwrap();
        self.lab.api("DELETE", &format!("{place}/{plural}/chaosrun"), None);
        let (code, answer) = self.lab.api("POST", &format!("{place}/{plural}"), Some(role));
        assert_eq!(code, 201, "{answer}");
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": {"name": "chaosrun"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "chaosrun"},
            "subjects": [{"kind": "ServiceAccount", "name": "runner", "namespace": "default"}],
        });
        let (code, answer) = self.lab.api("POST", &format!("{place}/{bindings}"), Some(&binding));
        assert!(code == 201 || code == 409, "{answer}");
    }

    fn chaosrun(&self, arguments: &[&str]) -> Run {
        let output = crate::support::chaosrun(Path::new(env!("CARGO_MANIFEST_DIR")))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .output()
            .expect("chaosrun starts");
        Run::from(output)
    }

    /// `plan` without each verb in turn: refused, and it names exactly the missing one.
    fn without_each(&self, experiment: &str, variables: &[&str]) {
        let mut arguments = vec!["plan", experiment];
        arguments.extend(variables);
        let whole = self.chaosrun(&arguments);
        assert_eq!(whole.code, Some(0), "{experiment}: {}", whole.text);
        let mut removed = 0;
        for (at, role) in self.roles.iter().enumerate() {
            for (rule, resource, verb) in every_verb(role) {
                self.grant(&without(role, rule, &resource, &verb));
                let plan = self.chaosrun(&arguments);
                let (group, place) = (
                    role["rules"][rule]["apiGroups"][0].as_str().unwrap(),
                    role["metadata"]["namespace"].as_str(),
                );
                let group = if group.is_empty() {
                    String::new()
                } else {
                    format!(".{group}")
                };
                let place = place.map_or("the whole cluster".to_owned(), str::to_owned);
                let wanted = format!("missing permission: {verb} {resource}{group} in {place} ");
                assert_eq!(plan.code, Some(77), "without {verb} {resource}: {}", plan.text);
                assert!(plan.text.contains(&wanted), "{wanted:?} is not in\n{}", plan.text);
                // One right may serve several purposes; no other right is missed.
                let missed: BTreeSet<&str> = plan
                    .text
                    .lines()
                    .filter_map(|line| Some(line.split_once("missing permission: ")?.1.split_once(" (")?.0))
                    .collect();
                assert_eq!(missed.len(), 1, "{missed:?}");
                removed += 1;
            }
            self.grant(&self.roles[at]);
        }
        assert!(removed > 10, "{removed} verbs in {:?}", self.roles);
    }
}

/// The Roles that `rbac` prints.
fn roles(lab: &Lab, experiment: &str, variables: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["rbac", experiment];
    arguments.extend(variables);
    let printed = lab.command(&arguments).output().unwrap();
    assert!(printed.status.success(), "{}", crate::support::texts(&printed));
    let text = String::from_utf8(printed.stdout).unwrap();
    text.split("---\n")
        .filter(|document| document.contains("kind:"))
        .map(|document| serde_yaml::from_str(document).unwrap())
        .collect()
}

/// Each verb of a Role as (rule, resource, verb).
fn every_verb(role: &Value) -> Vec<(usize, String, String)> {
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().unwrap().iter();
        words.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut all = Vec::new();
    for (at, rule) in role["rules"].as_array().unwrap().iter().enumerate() {
        for resource in words(&rule["resources"]) {
            for verb in words(&rule["verbs"]) {
                all.push((at, resource.clone(), verb));
            }
        }
    }
    all
}

/// The Role without one verb on one resource.
fn without(role: &Value, rule: usize, resource: &str, verb: &str) -> Value {
    let mut role = role.clone();
    let mut kept = role["rules"][rule].clone();
    let rules = role["rules"].as_array_mut().unwrap();
    rules[rule]["resources"]
        .as_array_mut()
        .unwrap()
        .retain(|held| held != resource);
    if rules[rule]["resources"] == json!([]) {
        rules.remove(rule);
    }
    kept["resources"] = json!([resource]);
    kept["verbs"].as_array_mut().unwrap().retain(|held| held != verb);
    if kept["verbs"] != json!([]) {
        rules.push(kept);
    }
    role
}

const FAULTS: &str = "
- {name: kill, podKill: {}}
- {name: evict, podEvict: {}, after: 3s}
- {name: crash, containerKill: {signal: TERM}, after: 6s}
- {name: cpu, cpuStress: {workers: 1, load: 50%}, duration: 1s, after: 9s}
- {name: disk, diskFill: {path: /data, size: 1Mi}, duration: 1s, after: 12s}
- {name: cut, networkPartition: {}, duration: 1s, after: 15s}
- {name: slow, networkDelay: {latency: 50ms}, duration: 1s, after: 19s}
- {name: more, scale: {replicas: 3}, duration: 1s, after: 24s}
- {name: cordon, nodeCordon: {}, duration: 1s, after: 27s}
- {name: settings, deleteResource: {apiVersion: v1, kind: ConfigMap, name: settings}, duration: 1s, after: 30s}
";

const MESH_FAULTS: &str = "
- {name: kill, podKill: {}, injector: chaos-mesh}
- {name: cut, networkPartition: {}, duration: 2s, after: 4s, injector: chaos-mesh}
- {name: memory, memoryStress: {size: 40Mi}, duration: 2s, after: 10s, injector: chaos-mesh}
- {name: late, cpuStress: {workers: 1, load: 50%}, duration: 1s, after: 14s}
";

const LITMUS_FAULTS: &str = "
- {name: kill, podKill: {}, injector: litmus}
- {name: cut, networkPartition: {}, duration: 1s, after: 6s, injector: litmus}
- {name: memory, memoryStress: {size: 40Mi}, duration: 1s, after: 14s, injector: litmus}
- {name: drain, nodeDrain: {}, duration: 1s, after: 22s, injector: litmus}
";

/// Runs an experiment of these faults with the Role that `rbac` prints for it; returns what of the Role was never used.
fn run_with_its_role(shop: &Shop, name: &str, faults: &str) -> Vec<(String, String)> {
    let guards = "maxPercent: 100, deadline: 15s";
    let text =
        crate::support::shop::experiment(name, faults, "< 60s", guards).replace("recovery: 45s", "recovery: 60s");
    let path = file(shop.lab.folder(), &format!("{name}.yaml"), &text);
    let path = path.to_str().unwrap();
    let runner = Runner::new(&shop.lab, path, &[]);
    runner.without_each(path, &[]);
    let before = counts(&shop.lab);
    let run = runner.chaosrun(&["run", "--out", shop.lab.folder().to_str().unwrap(), path]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    assert_eq!(shop.traces(), Vec::<String>::new());
    let after = counts(&shop.lab);
    let used = |held: &(String, String)| after.get(held) > before.get(held);
    let held = runner.roles.iter().flat_map(every_verb);
    held.map(|(_, resource, verb)| (resource, verb))
        .filter(|held| !used(held))
        .collect()
}

/// How often chaosrun asked for each (resource, verb).
fn counts(lab: &Lab) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for row in lab.requests() {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        *counts.entry((word("resource"), word("verb"))).or_default() += row["count"].as_u64().unwrap();
    }
    counts
}

fn idle(words: &[(&str, &str)]) -> Vec<(String, String)> {
    words
        .iter()
        .map(|(resource, verb)| ((*resource).to_owned(), (*verb).to_owned()))
        .collect()
}

#[test]
fn what_rbac_prints_is_enough_for_every_kind_of_fault_and_nothing_in_it_is_idle() {
    let shop = Shop::open("rbac");
    shop.store();
    // A session opens by GET; newer clusters ask for both (see `cluster::access`).
    assert_eq!(
        run_with_its_role(&shop, "rights", FAULTS),
        idle(&[("pods/exec", "create")])
    );
}

#[test]
fn what_rbac_prints_is_enough_for_faults_by_chaos_mesh() {
    let shop = Shop::open("rbac-mesh");
    shop.store();
    crate::chaos_mesh::install(&shop.lab);
    // `patch` is for an object that does not go away by itself.
    let unused = run_with_its_role(&shop, "mesh-rights", MESH_FAULTS);
    let expected = idle(&[
        ("pods/exec", "create"),
        ("networkchaos", "patch"),
        ("podchaos", "patch"),
        ("stresschaos", "patch"),
    ]);
    assert_eq!(BTreeSet::from_iter(unused), BTreeSet::from_iter(expected));
}

#[test]
fn what_rbac_prints_is_enough_for_faults_by_litmus() {
    let shop = Shop::open("rbac-litmus");
    shop.store();
    crate::litmus::install(&shop.lab);
    crate::litmus::experiments(&shop.lab, "shop");
    // What removes the leavings of a Litmus that does not do so itself.
    let unused = run_with_its_role(&shop, "litmus-rights", LITMUS_FAULTS);
    let expected = idle(&[
        ("pods/exec", "create"),
        ("pods", "delete"),
        ("networkpolicies", "delete"),
    ]);
    assert_eq!(BTreeSet::from_iter(unused), BTreeSet::from_iter(expected));
}

#[test]
fn every_scenario_can_be_planned_with_its_role_and_misses_each_verb_that_is_removed() {
    let lab = Lab::up("rbac-scenarios");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for manifest in [
        "kind-config/builtin-pipeline.yaml",
        "kind-config/web-deployment.yaml",
        "kind-config/lab-chaos-mesh-double.yaml",
    ] {
        let applied = std::process::Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&lab.kubeconfig)
            .args(["apply", "-f"])
            .arg(root.join(manifest))
            .output()
            .unwrap();
        assert!(applied.status.success(), "{}", crate::support::texts(&applied));
    }
    lab.wait("the pipeline", std::time::Duration::from_secs(60), || {
        let (_, pods) = lab.api(
            "GET",
            "/api/v1/namespaces/spark-pipeline/pods?labelSelector=spark-role%3Dexecutor",
            None,
        );
        pods["items"].as_array().is_some_and(|pods| pods.len() >= 2)
    });
    let mut scenarios: Vec<PathBuf> = std::fs::read_dir(root.join("scenarios"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    scenarios.sort();
    assert!(scenarios.len() >= 10, "{scenarios:?}");
    for scenario in &scenarios {
        let text = std::fs::read_to_string(scenario).unwrap();
        let mut variables = vec!["--var", "MANIFEST=../kind-config/builtin-pipeline.yaml"];
        if text.contains("${STORE") {
            variables.extend(["--var", "STORE=10.0.0.1/32", "--var", "STORE_PORT=9000"]);
        }
        let scenario = scenario.to_str().unwrap();
        Runner::new(&lab, scenario, &variables).without_each(scenario, &variables);
        if text.contains("${INJECTOR") {
            variables.extend(["--var", "INJECTOR=chaos-mesh"]);
            if text.contains("${SIZE") {
                variables.extend(["--var", "SIZE=1200Mi"]);
            }
            Runner::new(&lab, scenario, &variables).without_each(scenario, &variables);
        }
    }
    // One of them with a ledger, metrics and logs, for real.
    let scenario = "scenarios/executor-kill.yaml";
    let variables = ["--var", "MANIFEST=../kind-config/builtin-pipeline.yaml"];
    let mut arguments = vec!["run", "--out", lab.folder().to_str().unwrap(), scenario];
    arguments.extend(variables);
    let run = Runner::new(&lab, scenario, &variables).chaosrun(&arguments);
    assert_eq!(run.code, Some(0), "{}", run.text);
}
