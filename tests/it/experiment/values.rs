//! What valid files mean.

use super::{VALID, read, root, scenarios};
use chaosrun::experiment::{Check, Comparison, Experiment, Limit, Operator, RtoStart, Workload, parse};
use chaosrun::fault::{FaultKind, Mode, Signal};
use std::time::Duration;

fn scenario(name: &str) -> Experiment {
    let source = std::fs::read(root().join("scenarios").join(name)).unwrap();
    let mut loaded = parse(name, &source, &|_| None)
        .map_err(|problems| problems.render(false))
        .unwrap();
    assert_eq!(loaded.len(), 1);
    loaded.remove(0).experiment
}

#[test]
fn the_shipped_scenarios_are_valid_without_a_warning_and_their_manifests_are_there() {
    for path in scenarios() {
        let name = path.display().to_string();
        let source = std::fs::read(&path).unwrap();
        let loaded = parse(&name, &source, &|_| None)
            .map_err(|problems| problems.render(false))
            .unwrap();
        for one in loaded {
            assert!(one.warnings(&name, &source).is_none(), "{name}");
            assert_eq!(Some(one.experiment.name.as_str()), path.file_stem().unwrap().to_str());
            for manifest in &one.experiment.setup.manifests {
                assert!(path.parent().unwrap().join(manifest).is_file(), "{name}: {manifest}");
            }
        }
    }
}

#[test]
fn the_driver_kill_tests_what_the_claim_says() {
    let experiment = scenario("driver-kill.yaml");
    assert_eq!(
        experiment.target.workload,
        Workload::SparkApplication {
            name: "spark-streaming-pipeline".to_owned()
        }
    );
    assert_eq!(experiment.target.namespace, "spark-pipeline");
    let rto = experiment.slos.rto.unwrap();
    assert_eq!(
        (rto.limit, rto.from),
        (
            Limit {
                max: 120.0,
                strict: true
            },
            RtoStart::Fault
        )
    );
    assert_eq!(
        experiment.slos.rpo_seconds,
        Some(Limit {
            max: 10.0,
            strict: true
        })
    );
    assert_eq!(
        experiment.slos.lost,
        Some(Limit {
            max: 0.0,
            strict: false
        })
    );
    let [fault] = experiment.faults.as_slice() else {
        panic!("one fault")
    };
    assert_eq!(fault.kind, FaultKind::PodKill { grace_seconds: 0 });
    assert_eq!(
        (fault.role.as_ref().map(|role| role.0.as_str()), fault.mode),
        (Some("driver"), Mode::One)
    );
    // A recovery at the very limit must still be seen.
    assert!(experiment.timeouts.recovery > Duration::from_mins(2));
    assert!(
        experiment
            .steady_state
            .probes
            .iter()
            .any(|probe| matches!(probe.check, Check::Progress { .. }))
    );
}

#[test]
fn the_refuted_scenario_differs_from_the_claim_by_a_patch_of_the_restart_policy() {
    let experiment = scenario("refuted/driver-never-restarts.yaml");
    let [patch] = experiment.setup.patches.as_slice() else {
        panic!("one patch")
    };
    assert_eq!(
        (patch.kind.as_str(), patch.name.as_str()),
        ("SparkApplication", "spark-streaming-pipeline")
    );
    assert_eq!(patch.merge["spec"]["restartPolicy"]["type"], "Never");
    assert!(patch.merge["spec"]["restartPolicy"]["onFailureRetries"].is_null());
}

#[test]
fn the_crash_is_a_signal_into_the_drivers_container() {
    let experiment = scenario("driver-crash.yaml");
    let kind = &experiment.faults[0].kind;
    assert_eq!(
        kind,
        &FaultKind::ContainerKill {
            container: Some("spark-kubernetes-driver".to_owned()),
            signal: Signal::Kill
        }
    );
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let experiment = read(VALID).unwrap().remove(0).experiment;
    assert_eq!(experiment.trials.count, 1);
    assert_eq!(experiment.timeouts.baseline, Duration::from_mins(5));
    assert_eq!(experiment.timeouts.recovery, Duration::from_secs(75));
    assert_eq!(experiment.timeouts.settle, Duration::from_secs(15));
    assert_eq!(experiment.guards.max_percent, 50);
    assert_eq!(experiment.guards.deadline, Duration::from_mins(2));
    assert!(
        experiment
            .guards
            .protected_namespaces
            .iter()
            .any(|held| held == "kube-*")
    );
    let probe = &experiment.steady_state.probes[0];
    assert_eq!(
        (probe.interval, probe.timeout, probe.hold),
        (Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3))
    );
    let fault = &experiment.faults[0];
    assert_eq!(
        (fault.mode, fault.after, &fault.kind),
        (Mode::One, Duration::ZERO, &FaultKind::PodKill { grace_seconds: 0 })
    );
}

#[test]
fn every_probe_fault_and_limit_can_be_written() {
    let text = r#"
apiVersion: chaosrun.dev/v1
kind: Experiment
metadata: {name: everything, description: all of it}
claim: {text: "It comes back", source: runbook 7}
target: {namespace: shop, sparkApplication: stream}
setup: {manifests: [stream.yaml], keep: true}
ledger: {reader: {app: ledger}, container: main, acknowledged: /a, sink: /s, idField: number, checkpoint: /c, interval: 50ms, drain: 30s}
prometheus: {url: "https://prometheus.example:9090/base"}
steadyState:
  probes:
  - {name: pods, pods: {role: executor, ready: "!= 0"}, hold: 500ms}
  - {name: own, resource: {field: status.applicationState.state, equals: RUNNING}}
  - {name: other, resource: {apiVersion: v1, kind: Service, name: front, field: spec.type, equals: ClusterIP}}
  - {name: promql, promql: {query: 'sum(up{job="shop"}) == bool 1', is: 1}, interval: 500ms, timeout: 1s}
  - {name: http, http: {url: "http://{podIP}:4040/", status: 204, bodyContains: ok, role: driver}}
  - {name: metrics, metrics: {role: driver, port: 4040, path: /metrics/prometheus/, metric: 'm{a="b"}', is: "> 0"}}
  - {name: log, log: {role: driver, contains: started}}
  - {name: command, command: {run: [curl, -f, "http://shop.example"], exitCode: 1}}
  - {name: progress, progress: {within: 10s}}
faults:
- {name: a, podKill: {role: driver, gracePeriod: 30s}, mode: one, injector: direct}
- {name: b, containerKill: {role: executor, container: main, signal: SEGV, labels: {app: x}}, mode: {percent: 34}, after: 1m30s}
- {name: c, podKill: {}, mode: {fixed: 1}}
- {name: d, podKill: {role: executor}, mode: all}
- {name: e, podEvict: {role: executor, gracePeriod: 10s}, repeat: {times: 2, every: 5s}}
- {name: f, processPause: {role: driver}, duration: 5s}
- {name: g, memoryStress: {role: executor, size: 256Mi}, duration: 5s, injector: chaos-mesh}
- {name: h, memoryStress: {role: executor, size: 120%}, duration: 5s}
- {name: i, cpuStress: {workers: 2, load: 50%}, duration: 5s}
- {name: j, diskFill: {path: /data, size: 1.5Gi, container: main}, duration: 5s}
- {name: k, storageLoss: {path: /data/checkpoint/, how: unreadable}, duration: 5s}
- {name: l, networkPartition: {role: executor, peer: {role: driver}, direction: to, ports: [7078]}, duration: 5s}
- {name: m, networkPartition: {peer: {cidr: 10.9.0.0/16}, ports: [9000]}, duration: 5s, injector: chaos-mesh}
- {name: nn, networkPartition: {role: driver, peer: {labels: {app: store}, namespace: other}}, duration: 5s}
- {name: o, networkLoss: {percent: 25%}, duration: 5s}
- {name: p, networkDelay: {latency: 100ms, jitter: 10ms}, duration: 5s}
- {name: q, networkBandwidth: {rate: 1mbit}, duration: 5s}
- {name: r, dnsFailure: {}, duration: 5s}
- {name: s, nodeCordon: {role: executor}, duration: 5s}
- {name: t, nodeDrain: {role: executor, gracePeriod: 5s}, duration: 5s}
- {name: u, scale: {apiVersion: apps/v1, kind: Deployment, name: front, replicas: 0}, duration: 5s}
- {name: v, deleteResource: {}, duration: 5s}
- {name: w, chaosMesh: {role: driver, kind: IOChaos, spec: {action: latency, delay: 100ms, volumePath: /data}}, duration: 5s}
- {name: x, litmus: {role: driver, experiment: pod-io-stress, env: {FILESYSTEM_UTILIZATION_PERCENTAGE: "10"}}, duration: 5s}
- {name: z, networkDelay: {latency: 100ms}, duration: 5s, injector: litmus}
- {name: aa, ioDelay: {role: driver, path: /data/, latency: 100ms, methods: [read, write], percent: 50%}, duration: 5s}
- {name: ab, ioError: {path: /data, errno: EIO, container: main}, duration: 5s, injector: chaos-mesh}
- {name: ac, ioError: {path: /data, errno: 28}, duration: 5s}
- {name: ad, clockSkew: {offset: -1h30m}, duration: 5s}
- {name: ae, httpFault: {port: 8080, path: /api/*, method: GET, status: 503}, duration: 5s}
- {name: af, httpFault: {port: 8080, side: request, abort: true}, duration: 5s}
- {name: ag, httpFault: {port: 8080, latency: 2s}, duration: 5s}
- {name: ah, jvmFault: {class: shop.Cart, method: add, latency: 250ms}, duration: 5s}
- {name: ai, jvmFault: {class: shop.Cart, method: add, exception: 'java.io.IOException("x")'}, duration: 5s}
- {name: aj, jvmFault: {class: shop.Cart, method: add, returnValue: "9"}, duration: 5s}
- {name: ak, jvmFault: {gc: true}, duration: 5s}
- {name: al, jvmFault: {stress: {cpu: 2}}, duration: 5s}
- {name: am, jvmFault: {stress: {memory: stack}}, duration: 5s}
- {name: ao, networkLoss: {percent: 25}, duration: 5s}
- {name: an, chaosMesh: {kind: Schedule, spec: {schedule: "@every 10s", type: PodChaos, podChaos: {action: pod-kill}}}, duration: 5s}
slos:
  rto: "<= 1m30s"
  rtoFrom: impact
  rpo: 10s
  lost: 0
  duplicated: "< 5"
  availability: ">= 99.5%"
  assertions:
  - {when: during, probe: {name: site, http: {url: "http://shop.example"}}}
  - {when: after, probe: {name: site after, http: {url: "http://shop.example"}}}
trials: {count: 3, cooldown: 5s}
timeouts: {setup: 1m, baseline: 2m, recovery: 2m, settle: 30s}
stop:
- {name: others suffer, promql: {query: 'sum(errors)', is: "< 100"}}
guards: {protectedNamespaces: [], maxPercent: 100, deadline: 10m}
tools: {image: "tools.example/net:1"}
litmus: {serviceAccount: chaos}
"#;
    let loaded = read(text).map_err(|problems| problems.render(false)).unwrap().remove(0);
    let experiment = loaded.experiment;
    insta::assert_json_snapshot!(experiment);
}

#[test]
fn a_plain_number_of_pods_means_exactly_that_many() {
    let experiment = read(VALID.replace("\">= 3\"", "3")).unwrap().remove(0).experiment;
    let Check::Pods { ready, .. } = &experiment.steady_state.probes[0].check else {
        panic!("pods")
    };
    assert_eq!(
        ready,
        &Comparison {
            operator: Operator::Equal,
            value: 3.0
        }
    );
}

#[test]
fn variables_come_from_the_caller_first_and_then_from_the_default() {
    let text = VALID
        .replace("namespace: shop", "namespace: \"${NAMESPACE:-shop}\"")
        .replace("It comes back", "in ${LIMIT:-60s} for $${5}")
        .replace("< 60s", "< ${LIMIT:-60s}")
        .replace("podKill: {}", "podKill: {}, mode: {fixed: \"${COUNT:-1}\"}");
    let lookup = |name: &str| match name {
        "LIMIT" => Some("90s".to_owned()),
        "COUNT" => Some("2".to_owned()),
        _ => None,
    };
    let loaded = parse("example.yaml", text.as_bytes(), &lookup)
        .map_err(|problems| problems.render(false))
        .unwrap();
    let experiment = &loaded[0].experiment;
    assert_eq!(experiment.target.namespace, "shop");
    assert_eq!(experiment.claim.text, "in 90s for ${5}");
    assert_eq!(
        experiment.slos.rto.unwrap().limit,
        Limit {
            max: 90.0,
            strict: true
        }
    );
    assert_eq!(experiment.faults[0].mode, Mode::Fixed(2));
    let names: Vec<&str> = loaded[0].variables.iter().map(String::as_str).collect();
    assert_eq!(names, ["COUNT", "LIMIT", "NAMESPACE"]);
}

#[test]
fn a_variable_may_be_empty() {
    let text = VALID.replace("It comes back", "It comes back${SUFFIX:-}");
    assert_eq!(read(text).unwrap()[0].experiment.claim.text, "It comes back");
}

#[test]
fn several_documents_are_several_experiments_and_empty_ones_do_not_count() {
    let second = VALID.replace("name: example", "name: second");
    let text = format!("---\n{VALID}---\n# nothing\n---\n{second}...\n");
    let names: Vec<String> = read(text)
        .unwrap()
        .into_iter()
        .map(|loaded| loaded.experiment.name)
        .collect();
    assert_eq!(names, ["example", "second"]);
}

#[test]
fn an_experiment_survives_the_event_log() {
    let experiment = scenario("driver-kill.yaml");
    let text = serde_json::to_string(&experiment).unwrap();
    assert_eq!(serde_json::from_str::<Experiment>(&text).unwrap(), experiment);
}

fn with_ledger(ledger: &str) -> Result<Experiment, String> {
    let source = format!("{VALID}\nledger: {{{ledger}}}\n");
    let mut loaded = parse("example.yaml", source.as_bytes(), &|_| None).map_err(|problems| problems.render(false))?;
    Ok(loaded.remove(0).experiment)
}

#[test]
fn a_ledger_of_paths_is_in_the_log_what_it_always_was() {
    let experiment = with_ledger("reader: {app: ledger}, acknowledged: /a, sink: /s, checkpoint: /c").unwrap();
    let text = serde_json::to_string(&experiment.ledger).unwrap();
    let known = r#"{"reader":[["app","ledger"]],"container":null,"acknowledged":"/a","sink":"/s","idField":"id","checkpoint":"/c","interval":100,"drain":60000}"#;
    assert_eq!(text, known);
    let read: chaosrun::experiment::Ledger = serde_json::from_str(known).unwrap();
    assert_eq!(Some(read), experiment.ledger);
}

#[test]
fn a_ledger_of_urls_survives_the_log() {
    let experiment = with_ledger(
        "acknowledged: \"s3://bucket/acked/\", sink: \"s3://bucket/out\", checkpoint: \"s3://bucket/checkpoint\", keyField: user, \
         clockWithin: 50ms, storage: {endpoint: \"http://minio:9000\", allowHttp: true, region: eu}",
    )
    .unwrap();
    let ledger = experiment.ledger.unwrap();
    assert_eq!(ledger.interval, Duration::from_secs(1));
    assert_eq!(ledger.clock_within, Some(Duration::from_millis(50)));
    assert!(!ledger.uses_pod() && ledger.storage.allow_http);
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(
        serde_json::from_str::<chaosrun::experiment::Ledger>(&text).unwrap(),
        ledger
    );
    // What cannot be listed holds lines.
    let http = with_ledger("acknowledged: \"https://x/a\", sink: \"https://x/s\", clockWithin: 50ms").unwrap();
    assert_eq!(http.ledger.unwrap().format, chaosrun::experiment::SinkFormat::JsonLines);
}

#[test]
fn a_build_without_kafka_says_so_before_anything_is_touched() {
    let result = with_ledger("acknowledged: \"kafka://a:9092/acked\", sink: \"kafka://a:9092/out\", clockWithin: 50ms");
    if chaosrun::experiment::READS_KAFKA {
        assert!(result.is_ok());
    } else {
        let text = result.unwrap_err();
        assert!(
            text.contains("error[ledger-url]: this build of chaosrun cannot read Kafka topics"),
            "{text}"
        );
        assert!(text.contains("--features kafka"), "{text}");
    }
}
