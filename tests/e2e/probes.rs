//! Every kind of probe against real processes in a lab: what it says while the target is away, and what the report makes of it.
//!
//! The target is a small web server that is silent for a known time after its start. All times are the runner's own.

use crate::support::file;
use crate::support::lab::{Lab, Run};
use chaosrun::evidence::{Event, Outcome, read_log};
use chaosrun::model::Mono;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Seconds from the start of the container until it serves.
const SILENT: f64 = 3.0;

struct Stage {
    lab: Lab,
    /// Seen by the pod and by this machine.
    shared: PathBuf,
}

impl Stage {
    /// One pod that says nothing for `silent` seconds, and then serves its metrics.
    fn new(name: &str, silent: f64) -> Self {
        let lab = Lab::up(name);
        let shared = lab.folder().join("shared");
        std::fs::create_dir(&shared).unwrap();
        let script = format!(
            "rm -f /shared/serving; sleep {silent}; mkdir -p /tmp/www; echo 'app_ready{{zone=\"a\"}} 1' > /tmp/www/metrics; \
             echo \"app_stamped 1 $(date +%s)000\" >> /tmp/www/metrics; echo now serving; touch /shared/serving; cd /tmp/www; exec python3 -m http.server 8080"
        );
        let labels = json!({"app": "web"});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels, "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}},
                "spec": {"terminationGracePeriodSeconds": 1,
                    "volumes": [{"name": "shared", "hostPath": {"path": shared}}],
                    "containers": [{"name": "web", "image": "busybox:1.36", "command": ["sh", "-c", script],
                        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                        "readinessProbe": {"httpGet": {"path": "/metrics", "port": 8080}, "periodSeconds": 1}}]}}},
        });
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": labels, "ports": [{"port": 8080}]}});
        let mut kept = service.clone();
        kept["metadata"]["name"] = "kept".into();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        for (path, body) in [
            ("/api/v1/namespaces", namespace),
            ("/api/v1/namespaces/shop/services", service),
            ("/api/v1/namespaces/shop/services", kept),
            ("/apis/apps/v1/namespaces/shop/deployments", deployment),
        ] {
            let (code, answer) = lab.api("POST", path, Some(&body));
            assert_eq!(code, 201, "{answer}");
        }
        Self { lab, shared }
    }

    /// Writes an experiment on the web server and runs it.
    fn run(&self, name: &str, parts: &str, more: &[&str]) -> Run {
        let text = format!(
            "apiVersion: chaosrun.dev/v1\nkind: Experiment\nmetadata: {{name: {name}}}\nclaim: {{text: it comes back}}\n\
             target: {{namespace: shop, deployment: web}}\nfaults:\n- {{name: kill, podKill: {{gracePeriod: 0s}}}}\n{parts}"
        );
        let path = file(self.lab.folder(), &format!("{name}.yaml"), &text);
        let mut arguments = vec![path.to_str().unwrap()];
        arguments.extend(more);
        self.lab.run(&arguments)
    }

    fn trial(&self, run: &Run) -> Value {
        run.report(self.lab.folder())["experiments"][0]["trials"][0].clone()
    }

    /// Address of the lab's Prometheus, once it has scraped the pod.
    fn prometheus(&self) -> String {
        let mut url = None;
        let patience = std::time::Duration::from_secs(60);
        self.lab
            .wait("a scrape of the pod by the lab's Prometheus", patience, || {
                let path = "/api/v1/namespaces/monitoring/services/prometheus";
                let (_, service) = self.lab.api("GET", path, None);
                let Some(address) = service["spec"]["clusterIP"].as_str() else {
                    return false;
                };
                let query = format!("http://{address}:9090/api/v1/query?query=app_ready");
                url = Some(format!("http://{address}:9090"));
                fetch(&query).is_some_and(|answer| answer.contains("zone"))
            });
        url.unwrap()
    }

    /// All samples of the newest run, by probe.
    fn samples(&self, probe: &str) -> Vec<(Mono, Mono, Outcome)> {
        let mut logs: Vec<PathBuf> = std::fs::read_dir(self.lab.folder())
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.path().join("events.jsonl")))
            .filter(|path| path.is_file())
            .collect();
        logs.sort();
        let log = read_log(&std::fs::read(logs.last().unwrap()).unwrap()).unwrap();
        let of_probe = |event: Event| match event {
            Event::ProbeSample {
                probe: name,
                sent,
                received,
                outcome,
                ..
            } if name == probe => Some((sent, received, outcome)),
            _ => None,
        };
        log.records
            .into_iter()
            .filter_map(|record| of_probe(record.event))
            .collect()
    }
}

fn fetch(url: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async { reqwest::get(url).await.ok()?.text().await.ok() })
}

fn bounds(trial: &Value) -> (f64, f64) {
    (
        trial["rto"]["lower"].as_f64().unwrap(),
        trial["rto"]["upper"].as_f64().unwrap(),
    )
}

/// Bad at least once, then good to the end.
fn went_and_came(samples: &[(Mono, Mono, Outcome)]) {
    let good = |sample: &(Mono, Mono, Outcome)| matches!(sample.2, Outcome::Good);
    let bad = samples
        .iter()
        .rposition(|sample| matches!(sample.2, Outcome::Bad { .. }));
    let bad = bad.unwrap_or_else(|| panic!("never bad: {samples:?}"));
    assert!(
        bad + 1 < samples.len() && samples[bad + 1..].iter().all(good),
        "{samples:?}"
    );
    assert!(samples[..bad].iter().any(good), "never good before: {samples:?}");
}

#[test]
fn metrics_log_http_and_command_probes_see_the_outage_and_its_end() {
    let stage = Stage::new("probes", SILENT);
    let marker = stage.shared.join("serving");
    let parts = format!(
        "steadyState:
  probes:
  - {{name: scraped, metrics: {{port: 8080, path: /metrics, metric: 'app_ready{{zone=\"a\"}}', is: \"== 1\"}}, interval: 200ms, timeout: 1s, hold: 1s}}
  - {{name: logged, log: {{contains: now serving}}, interval: 200ms, timeout: 1s, hold: 1s}}
  - {{name: answers, http: {{url: \"http://{{podIP}}:8080/metrics\", bodyContains: app_ready}}, interval: 100ms, timeout: 1s, hold: 1s}}
  - {{name: marked, command: {{run: [test, -e, \"{}\"]}}, interval: 100ms, timeout: 1s, hold: 1s}}
slos: {{rto: \"< 30s\"}}
timeouts: {{baseline: 60s, recovery: 40s, settle: 1s}}
",
        marker.display()
    );
    let run = stage.run("sampled", &parts, &[]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let (lower, upper) = bounds(&stage.trial(&run));
    assert!(
        lower >= SILENT - 0.3 && upper <= SILENT + 5.0 && upper - lower <= 1.5,
        "{lower} {upper}\n{}",
        run.text
    );
    for probe in ["scraped", "logged", "answers", "marked"] {
        went_and_came(&stage.samples(probe));
    }
    // The scrape that was asked for every 200 ms is made that often, through the API server's port-forward.
    let scraped = stage.samples("scraped");
    let mut pauses: Vec<_> = scraped.windows(2).map(|pair| pair[1].0.since(pair[0].0)).collect();
    pauses.sort();
    let median = pauses[pauses.len() / 2];
    assert!(median.as_millis() <= 250, "{median:?} between two scrapes");
    // The line is in the log of the first pod, and in that of the second only once it has said it.
    let (_, pods) = stage.lab.api("GET", "/api/v1/namespaces/shop/pods", None);
    let second = pods["items"][0]["metadata"]["name"].as_str().unwrap();
    let of_the_second = format!("no line with \"now serving\" in the log of pod {second}");
    let seen = stage
        .samples("logged")
        .iter()
        .any(|sample| matches!(&sample.2, Outcome::Bad { why } if *why == of_the_second));
    assert!(seen, "{of_the_second}: never said\n{}", run.text);
    assert!(stage.lab.leftovers().is_empty());
}

#[test]
fn fields_of_the_target_and_of_other_objects_are_watched() {
    let stage = Stage::new("fields", 1.0);
    let own = "steadyState:
  probes:
  - {name: replicas, resource: {field: status.readyReplicas, equals: \"1\"}, hold: 1s}
  - {name: service, resource: {apiVersion: v1, kind: Service, name: web, field: spec.type, equals: ClusterIP}, hold: 1s}
  - {name: port, resource: {apiVersion: v1, kind: Service, name: web, field: spec.ports.0.port, equals: \"8080\"}, hold: 1s}
  - {name: other, resource: {apiVersion: v1, kind: Service, name: kept, field: spec.type, equals: ClusterIP}, hold: 1s}
slos: {rto: \"< 30s\"}
timeouts: {baseline: 60s, recovery: 40s, settle: 1s}
";
    let run = stage.run("fields", own, &[]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let (lower, upper) = bounds(&stage.trial(&run));
    assert!(lower >= 0.9 && upper <= 8.0 && upper - lower <= 1.0, "{lower} {upper}");
    // Three probes on two services, and still one list and one watch.
    let requests = stage.lab.requests();
    for verb in ["list", "watch"] {
        let counts: Vec<&Value> = requests
            .iter()
            .filter(|row| row["resource"] == "services" && row["verb"] == verb)
            .collect();
        assert!(counts.len() == 1 && counts[0]["count"] == 1, "{counts:?}");
    }
    let other = own
        .replace("ClusterIP", "LoadBalancer")
        .replace("baseline: 60s", "baseline: 4s");
    let refused = stage.run("other", &other, &[]);
    assert_eq!(refused.code, Some(77), "{}", refused.text);
    assert!(refused.text.contains("service: type is ClusterIP"), "{}", refused.text);
}

#[test]
fn prometheus_is_believed_as_far_as_its_scrapes_reach() {
    // Longer than the scrape interval of 5 s: at least one scrape falls into it.
    let stage = Stage::new("promql", 8.0);
    let url = stage.prometheus();
    let probe = |query: &str, limit: &str, baseline: &str| {
        format!(
            "steadyState:
  probes:
  - {{name: ready, promql: {{query: '{query}', is: \">= 1\"}}, interval: 500ms, timeout: 3s, hold: 1s}}
slos:
  rto: \"< {limit}\"
  assertions:
  - {{when: after, probe: {{name: answers, http: {{url: \"http://{{podIP}}:8080/metrics\"}}, interval: 50ms, timeout: 1s}}}}
timeouts: {{baseline: {baseline}, recovery: 70s, settle: 1s}}
"
        )
    };
    let sum = "sum(app_ready{namespace=\"shop\"}) or vector(0)";
    let run = stage.run("promql", &probe(sum, "60s", "60s"), &["--prometheus", &url]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let trial = stage.trial(&run);
    let (lower, upper) = bounds(&trial);
    // The truth, from the endpoint itself: the first good answer after the last bad one.
    let answers = stage.samples("answers");
    let bad = answers
        .iter()
        .rposition(|sample| matches!(sample.2, Outcome::Bad { .. }))
        .unwrap();
    let last_good = answers[..bad]
        .iter()
        .rposition(|sample| matches!(sample.2, Outcome::Good))
        .unwrap();
    let truth = answers[bad + 1].1.since(answers[last_good + 1].0).as_secs_f64();
    assert!(
        lower <= truth + 0.3 && truth - 0.3 <= upper,
        "the truth {truth} is outside of [{lower}, {upper}]\n{:?}\n{}",
        stage.samples("ready"),
        run.text
    );
    assert!(
        upper - lower >= 4.0 && upper < 30.0,
        "[{lower}, {upper}]: narrower than the pause between two scrapes"
    );

    let refused = stage.run("too-fine", &probe(sum, "8s", "60s"), &["--prometheus", &url]);
    assert_eq!(refused.code, Some(77), "{}", refused.text);
    assert!(
        refused
            .text
            .contains("cannot be measured by a Prometheus that scrapes every 5 s"),
        "{}",
        refused.text
    );

    // No series is no data, and no data is not steady.
    let silent = stage.run("silent", &probe("app_raedy", "60s", "4s"), &["--prometheus", &url]);
    assert_eq!(silent.code, Some(77), "{}", silent.text);
    assert!(silent.text.contains("no series"), "{}", silent.text);

    let dead = stage.run(
        "dead",
        &probe(sum, "60s", "60s"),
        &["--prometheus", "http://127.0.0.1:9"],
    );
    assert_eq!(dead.code, Some(69), "{}", dead.text);
    assert!(
        dead.text.contains("cannot query Prometheus at http://127.0.0.1:9"),
        "{}",
        dead.text
    );
}

#[test]
fn a_stop_condition_reverts_at_once_and_is_named() {
    let stage = Stage::new("stop", 20.0);
    let parts = "steadyState:
  probes:
  - {name: ready, pods: {ready: 1}, hold: 1s}
slos: {rto: \"< 60s\"}
stop:
- {name: nobody answers, http: {url: \"http://{podIP}:8080/metrics\"}, interval: 200ms, timeout: 1s, hold: 2s}
timeouts: {baseline: 60s, recovery: 70s, settle: 1s}
";
    let begun = std::time::Instant::now();
    let run = stage.run("stop", parts, &[]);
    assert_eq!(run.code, Some(3), "{}", run.text);
    assert!(run.text.contains("ABORTED"), "{}", run.text);
    assert!(run.text.contains("stop condition met: nobody answers"), "{}", run.text);
    let report = run.report(stage.lab.folder());
    assert_eq!(report["verdict"], "aborted");
    let trial = &report["experiments"][0]["trials"][0];
    let end = trial["end"].as_str().unwrap_or_default();
    assert!(end.contains("nobody answers"), "{end:?} does not say which\n{report}");
    // The pod is away for 20 s and nobody waits for it: 21 s of baseline at most, 2 s of hold.
    assert!(begun.elapsed().as_secs() < 40, "{:?}", begun.elapsed());
    assert!(stage.lab.leftovers().is_empty(), "{:?}", stage.lab.leftovers());
}

#[test]
fn availability_and_assertions_are_claims_of_their_own() {
    let stage = Stage::new("claims", SILENT);
    let answers = "http: {url: \"http://{podIP}:8080/metrics\"}, interval: 100ms, timeout: 1s";
    let parts = |availability: &str, when: &str| {
        format!(
            "steadyState:
  probes:
  - {{name: ready, {answers}, hold: 1s}}
slos:
  rto: \"< 30s\"
  availability: \">= {availability}\"
  assertions:
  - {{when: {when}, probe: {{name: answers, {answers}}}}}
timeouts: {{baseline: 60s, recovery: 40s, settle: 3s}}
"
        )
    };
    let holds = stage.run("holds", &parts("5%", "after"), &[]);
    assert_eq!(holds.code, Some(0), "{}", holds.text);
    let claims = |run: &Run| -> Vec<(String, String, String)> {
        let report = run.report(stage.lab.folder());
        let text = |claim: &Value, key: &str| claim[key].as_str().unwrap().to_owned();
        report["experiments"][0]["claims"]
            .as_array()
            .unwrap()
            .iter()
            .map(|claim| (text(claim, "name"), text(claim, "verdict"), text(claim, "why")))
            .collect()
    };
    let held = claims(&holds);
    assert_eq!(held.len(), 3, "{held:?}");
    assert!(held.iter().all(|claim| claim.1 == "pass"), "{held:?}");

    let refuted = stage.run("refuted", &parts("99.9%", "during"), &[]);
    assert_eq!(refuted.code, Some(1), "{}", refuted.text);
    for (name, verdict, why) in claims(&refuted) {
        let wanted = if name == "rto" { "pass" } else { "fail" };
        assert_eq!(verdict, wanted, "{name}: {why}");
        assert!(!why.is_empty());
        assert!(refuted.text.contains(&name), "{name} is missing\n{}", refuted.text);
    }
}

/// Seconds from the first bad answer of the last outage to the first good one after it, as a densely asked probe saw it.
fn outage(samples: &[(Mono, Mono, Outcome)]) -> f64 {
    let last_bad = samples
        .iter()
        .rposition(|sample| matches!(sample.2, Outcome::Bad { .. }))
        .unwrap();
    let last_good = samples[..last_bad]
        .iter()
        .rposition(|sample| matches!(sample.2, Outcome::Good))
        .unwrap();
    samples[last_bad + 1].1.since(samples[last_good + 1].0).as_secs_f64()
}

impl Stage {
    /// UIDs of the pods in the namespace that are not about to go.
    fn pods(&self) -> Vec<String> {
        let (_, pods) = self.lab.api("GET", "/api/v1/namespaces/shop/pods", None);
        let staying = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
        pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(staying)
            .map(uid)
            .collect()
    }

    /// Whether a pod of the namespace is ready.
    fn is_ready(&self) -> bool {
        let (_, pods) = self.lab.api("GET", "/api/v1/namespaces/shop/pods", None);
        let conditions = pods["items"][0]["status"]["conditions"].as_array();
        conditions.is_some_and(|held| held.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    }

    /// Runs an experiment, and does something as soon as the pod that was there before is gone.
    fn run_and_on_the_kill<T: Send>(&self, name: &str, parts: &str, then: impl FnOnce() -> T + Send) -> (Run, T) {
        self.lab
            .wait("the first pod", Duration::from_secs(20), || self.pods().len() == 1);
        let before = self.pods();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let now = self.pods();
                    if !now.is_empty() && now.iter().all(|uid| !before.contains(uid)) {
                        return Some(then());
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                None
            });
            let run = self.run(name, parts, &[]);
            over.store(true, Ordering::Relaxed);
            let done = done.join().unwrap();
            let done = done.unwrap_or_else(|| panic!("the pod was not replaced\n{}", run.text));
            (run, done)
        })
    }

    /// GET, change, PUT.
    fn change(&self, path: &str, change: impl Fn(&mut Value)) {
        self.lab
            .wait("a write without a conflict", Duration::from_secs(10), || {
                let (code, mut object) = self.lab.api("GET", path, None);
                assert_eq!(code, 200, "{object}");
                change(&mut object);
                let (code, answer) = self.lab.api("PUT", path, Some(&object));
                assert!(code == 200 || code == 409, "{code} {answer}");
                code == 200
            });
    }
}

#[test]
fn up_has_the_error_bar_of_a_scrape_and_old_or_foreign_answers_are_not_good() {
    // Discovery may take seconds, and then a scrape of the new pod must still fall into the outage.
    let stage = Stage::new("up", 14.0);
    let url = stage.prometheus();
    let parts = |query: &str, baseline: &str| {
        format!(
            "steadyState:
  probes:
  - {{name: up, promql: {{query: '{query}', is: \"== 1\"}}, interval: 500ms, timeout: 3s, hold: 1s}}
slos:
  rto: \"< 60s\"
  assertions:
  - {{when: after, probe: {{name: answers, http: {{url: \"http://{{podIP}}:8080/metrics\"}}, interval: 50ms, timeout: 1s}}}}
timeouts: {{baseline: {baseline}, recovery: 70s, settle: 1s}}
"
        )
    };
    // The address is not given: a lab's own Prometheus is found.
    let run = stage.run("up", &parts("up{namespace=\"shop\"}", "60s"), &[]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let (lower, upper) = bounds(&stage.trial(&run));
    let truth = outage(&stage.samples("answers"));
    assert!(
        lower <= truth + 0.3 && truth - 0.3 <= upper,
        "the truth {truth} is outside of [{lower}, {upper}]\n{:?}\n{}",
        stage.samples("up"),
        run.text
    );
    assert!(
        upper - lower >= 4.5 && upper < 30.0,
        "[{lower}, {upper}] does not fit to a scrape every 5 s"
    );
    let down = |sample: &(Mono, Mono, Outcome)| matches!(sample.2, Outcome::Bad { .. });
    assert!(
        stage.samples("up").iter().any(down),
        "up was never seen at 0\n{}",
        run.text
    );

    // The pod goes on to answer every scrape with the sample of its start, stamp included. Prometheus repeats it for minutes.
    let age = format!("{url}/api/v1/query?query=time()-timestamp(app_stamped)");
    stage.lab.wait("a sample of 12 s", Duration::from_secs(40), || {
        let answer: Value = serde_json::from_str(&fetch(&age).unwrap_or_default()).unwrap_or_default();
        let age = answer["data"]["result"][0]["value"][1].as_str().unwrap_or_default();
        age.parse::<f64>().is_ok_and(|age| age > 12.0)
    });
    let stale = stage.run("stale", &parts("app_stamped", "4s"), &[]);
    assert_eq!(stale.code, Some(77), "{}", stale.text);
    assert!(stale.text.contains("more than two scrape intervals"), "{}", stale.text);
    let samples = stage.samples("up");
    let silent = |sample: &(Mono, Mono, Outcome)| matches!(sample.2, Outcome::NoData { .. });
    assert!(!samples.is_empty() && samples.iter().all(silent), "{samples:?}");

    // Something answers, but it is no Prometheus.
    let (_, service) = stage.lab.api("GET", "/api/v1/namespaces/shop/services/web", None);
    let foreign = format!("http://{}:8080", service["spec"]["clusterIP"].as_str().unwrap());
    let wrong = stage.run("foreign", &parts("up", "4s"), &["--prometheus", &foreign]);
    assert_eq!(wrong.code, Some(69), "{}", wrong.text);
    assert!(
        wrong.text.contains(&format!("cannot query Prometheus at {foreign}")) && wrong.text.contains("--prometheus"),
        "{}",
        wrong.text
    );
}

#[test]
fn a_prometheus_that_is_lost_during_the_outage_gives_no_verdict() {
    let stage = Stage::new("lost", 4.0);
    stage.prometheus();
    let parts = "steadyState:
  probes:
  - {name: ready, promql: {query: 'sum(app_ready) or vector(0)', is: \">= 1\"}, interval: 500ms, timeout: 1s, hold: 1s}
slos: {rto: \"< 12s\"}
timeouts: {baseline: 60s, recovery: 16s, settle: 1s}
";
    let (run, ()) = stage.run_and_on_the_kill("lost", parts, || {
        let path = "/apis/apps/v1/namespaces/monitoring/deployments/prometheus";
        stage.change(path, |deployment| deployment["spec"]["replicas"] = 0.into());
    });
    assert_eq!(run.code, Some(2), "{}", run.text);
    let report = run.report(stage.lab.folder());
    let claim = &report["experiments"][0]["claims"][0];
    assert_eq!(claim["verdict"], "inconclusive", "{claim}");
    let why = claim["why"].as_str().unwrap();
    assert!(why.contains("ready gave no sample after the fault"), "{why}");
    assert!(
        run.text.contains("ready: no data: ") && run.text.contains("cannot query Prometheus at"),
        "{}",
        run.text
    );
    assert!(stage.lab.leftovers().is_empty(), "{:?}", stage.lab.leftovers());
}

#[test]
fn the_exit_code_of_a_command_decides() {
    let stage = Stage::new("command", 1.0);
    let marker = stage.shared.join("serving");
    let parts = |command: &str, baseline: &str| {
        format!(
            "steadyState:
  probes:
  - {{name: told, command: {{run: {command}, exitCode: 3}}, interval: 100ms, timeout: 1s, hold: 1s}}
slos: {{rto: \"< 30s\"}}
timeouts: {{baseline: {baseline}, recovery: 40s, settle: 1s}}
"
        )
    };
    let marked = format!("[sh, -c, \"test -e {} && exit 3\"]", marker.display());
    // The command knows nothing of the pod: what it says may be right before the pod is ready and can be chosen.
    stage
        .lab
        .wait("a ready pod", Duration::from_secs(30), || stage.is_ready());
    let run = stage.run("told", &parts(&marked, "60s"), &[]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let (lower, upper) = bounds(&stage.trial(&run));
    assert!(lower >= 0.7 && upper <= 6.0, "{lower} {upper}");
    went_and_came(&stage.samples("told"));

    for (name, command, why) in [
        ("succeeds", "[\"true\"]", "wanted exit code 3"),
        ("absent", "[no-such-program]", "cannot start no-such-program"),
        ("hangs", "[sleep, \"60\"]", "no answer within 1 s"),
    ] {
        let refused = stage.run(name, &parts(command, "3s"), &[]);
        assert_eq!(refused.code, Some(77), "{name}: {}", refused.text);
        assert!(refused.text.contains(why), "{name}: {}", refused.text);
        let samples = stage.samples("told");
        let good = samples.iter().any(|sample| matches!(sample.2, Outcome::Good));
        assert!(!samples.is_empty() && !good, "{name}: {samples:?}");
    }
}

#[test]
fn a_log_is_of_one_pod_also_when_the_next_one_has_its_name() {
    let stage = Stage::new("log", 1.0);
    let labels = json!({"app": "db"});
    let body = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"replicas": 1, "serviceName": "db", "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "db", "image": "busybox:1.36",
                "command": ["sh", "-c", "sleep 3; echo database open; exec sleep 3600"]}]}}},
    });
    let (code, answer) = stage
        .lab
        .api("POST", "/apis/apps/v1/namespaces/shop/statefulsets", Some(&body));
    assert_eq!(code, 201, "{answer}");
    let text = "apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: log}
claim: {text: it comes back}
target: {namespace: shop, statefulSet: db}
steadyState:
  probes:
  - {name: logged, log: {contains: database open}, interval: 100ms, timeout: 1s, hold: 1s}
faults:
- {name: kill, podKill: {gracePeriod: 0s}}
slos: {rto: \"< 30s\"}
timeouts: {baseline: 60s, recovery: 40s, settle: 1s}
";
    let path = file(stage.lab.folder(), "log.yaml", text);
    let run = stage.lab.run(&[path.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let samples = stage.samples("logged");
    went_and_came(&samples);
    let (lower, upper) = bounds(&stage.trial(&run));
    assert!(lower >= 2.7 && upper <= 9.0 && upper - lower <= 1.0, "{lower} {upper}");
    // Both pods are db-0: what the first one said is not held to the second one's credit.
    let last_good_before = samples
        .iter()
        .rposition(|sample| matches!(sample.2, Outcome::Bad { .. }))
        .and_then(|bad| {
            samples[..bad]
                .iter()
                .rposition(|sample| matches!(sample.2, Outcome::Good))
        });
    let silent = samples[last_good_before.unwrap()..]
        .iter()
        .filter(|sample| matches!(&sample.2, Outcome::Bad { why } if why.contains("in the log of pod db-0")))
        .count();
    assert!(silent >= 10, "silent in {silent} samples only: {samples:?}");
}

#[test]
fn a_custom_resource_that_says_otherwise_is_an_outage_too() {
    let stage = Stage::new("custom", 1.0);
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "lamps.probes.example"},
        "spec": {"group": "probes.example", "scope": "Namespaced",
            "names": {"kind": "Lamp", "plural": "lamps", "singular": "lamp"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    let lamp = json!({"apiVersion": "probes.example/v1", "kind": "Lamp", "metadata": {"name": "hall", "namespace": "shop"},
        "status": {"bulbs": [{"phase": "On"}]}});
    let lamps = "/apis/probes.example/v1/namespaces/shop/lamps";
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, answer) = stage.lab.api("POST", definitions, Some(&crd));
    assert_eq!(code, 201, "{answer}");
    stage.lab.wait("the new kind", Duration::from_secs(10), || {
        stage.lab.api("POST", lamps, Some(&lamp)).0 == 201
    });
    let parts = "steadyState:
  probes:
  - {name: lamp, hold: 1s, resource: {apiVersion: probes.example/v1, kind: Lamp, name: hall, field: status.bulbs.0.phase, equals: \"On\"}}
  - {name: replicas, resource: {field: status.readyReplicas, equals: \"1\"}, hold: 1s}
slos: {rto: \"< 30s\"}
timeouts: {baseline: 60s, recovery: 40s, settle: 1s}
";
    let path = format!("{lamps}/hall");
    let (run, dark) = stage.run_and_on_the_kill("custom", parts, || {
        let killed = Instant::now();
        stage.change(&path, |lamp| lamp["status"]["bulbs"][0]["phase"] = "Off".into());
        // Far longer than the pod needs: what ends the outage is the lamp.
        std::thread::sleep(Duration::from_secs(10));
        let before = killed.elapsed().as_secs_f64();
        stage.change(&path, |lamp| lamp["status"]["bulbs"][0]["phase"] = "On".into());
        (before, killed.elapsed().as_secs_f64())
    });
    assert_eq!(run.code, Some(0), "{}", run.text);
    let (lower, upper) = bounds(&stage.trial(&run));
    // The kill is seen a little late here, and a request takes its time on a busy machine.
    assert!(
        lower >= dark.0 - 0.5 && upper <= dark.1 + 1.5 && upper - lower <= 1.0,
        "[{lower}, {upper}], but the lamp was dark for {dark:?}\n{}",
        run.text
    );
}

#[test]
fn an_assertion_is_judged_in_its_own_window_and_availability_is_a_share() {
    let stage = Stage::new("windows", SILENT);
    let marker = stage.shared.join("serving");
    let parts = format!(
        "steadyState:
  probes:
  - {{name: ready, http: {{url: \"http://{{podIP}}:8080/metrics\"}}, interval: 100ms, timeout: 1s, hold: 1s}}
slos:
  rto: \"< 30s\"
  availability: \">= 10%\"
  assertions:
  - {{when: during, probe: {{name: folder stays, command: {{run: [test, -d, \"{}\"]}}, interval: 100ms, timeout: 2s}}}}
  - {{when: after, probe: {{name: no marker, command: {{run: [test, \"!\", -e, \"{}\"]}}, interval: 100ms, timeout: 2s}}}}
timeouts: {{baseline: 60s, recovery: 40s, settle: 3s}}
",
        stage.shared.display(),
        marker.display()
    );
    let run = stage.run("windows", &parts, &[]);
    assert_eq!(run.code, Some(1), "{}", run.text);
    let report = run.report(stage.lab.folder());
    assert_eq!(report["verdict"], "fail");
    let claims = report["experiments"][0]["claims"].as_array().unwrap();
    let claim = |name: &str| {
        let found = claims.iter().find(|claim| claim["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is missing: {claims:?}"))
    };
    for name in ["rto", "availability", "folder stays"] {
        assert_eq!(claim(name)["verdict"], "pass", "{}", claim(name));
    }
    let broken = claim("no marker");
    assert_eq!(broken["verdict"], "fail", "{broken}");
    let why = broken["why"].as_str().unwrap();
    // While the pod was silent there was no marker: the window of `after` begins with the end of the outage.
    let count = broken["measured"]["value"].as_f64().unwrap();
    assert!((10.0..=35.0).contains(&count), "{count} samples in 3 s of settle");
    let all = format!("no marker was violated in {count} of {count} samples");
    assert!(why.starts_with(&all) && why.contains("wanted exit code 0"), "{why}");
    assert!(
        run.text.contains("FAIL: windows: no marker was violated in"),
        "{}",
        run.text
    );
    // Bad during the outage, then good for the hold of 1 s, the revert, and the settle step of 3 s.
    let (from, to) = bounds(&stage.trial(&run));
    let availability = &claim("availability")["measured"];
    let value = |key: &str| availability[key].as_f64().unwrap();
    assert!(
        value("lower") <= 7.0 / (7.0 + from) && value("upper") >= 3.9 / (3.9 + to),
        "{availability}, with an outage of [{from}, {to}] s and then 4 to 7 good ones"
    );
    assert!(value("upper") - value("lower") <= 0.2, "{availability}");
}
