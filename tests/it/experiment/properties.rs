//! For all texts: no crash, every place inside the file, and the schema accepts whatever chaosrun accepts.

use super::{VALID, read, scenarios};
use chaosrun::experiment::{Problems, json_schema, parse};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

static SHIPPED: LazyLock<Vec<String>> = LazyLock::new(|| {
    scenarios()
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
});

fn looked_at(problems: &Problems, length: usize) {
    for (_, problem) in problems.iter() {
        assert!(problem.place.offset <= length, "{problem:?} in {length} bytes");
        assert!(problem.place.length >= 1);
        assert!(!problem.message.is_empty());
    }
    let plain = problems.render(false);
    assert!(plain.contains("error["), "{plain}");
    assert!(!problems.render(true).is_empty());
}

fn survive(source: &[u8]) {
    if let Err(problems) = read(source) {
        looked_at(&problems, source.len());
    }
}

/// A value of a key: good ones and bad ones.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-5i64..200).prop_map(Value::from),
        (-2.0f64..200.0).prop_map(|number| json!((number * 4.0).round() / 4.0)),
        proptest::sample::select(vec![
            "one",
            "all",
            "direct",
            "driver",
            "executor",
            "KILL",
            "fault",
            "impact",
            "during",
            "after",
            "shop",
            "10s",
            "1m30s",
            "250ms",
            "1.5s",
            "0s",
            ".5s",
            "1 s",
            "< 60s",
            "<= 2m",
            "<60s",
            "60",
            ">= 2",
            "3",
            "+3",
            "1e3",
            "-1",
            "== 0",
            ">= 90%",
            "90%",
            "up",
            "http://shop.example",
            "${X:-1}",
            "${X:-10s}",
            "${X}",
            "",
            "inf",
            "NaN",
            "0x10",
        ])
        .prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
    ]
}

/// A full document in which a few values are exchanged.
fn document() -> impl Strategy<Value = Value> {
    let full = json!({
        "apiVersion": "chaosrun.dev/v1", "kind": "Experiment",
        "metadata": {"name": "example", "description": "about"},
        "claim": {"text": "It comes back", "source": "runbook"},
        "target": {"namespace": "shop", "sparkApplication": "stream"},
        "setup": {"manifests": ["a.yaml"], "patches": [{"kind": "Pod", "name": "x", "merge": {"spec": {"a": 1}}}], "keep": false},
        "ledger": {"reader": {"app": "ledger"}, "container": "main", "acknowledged": "/a", "sink": "/s", "idField": "id",
            "checkpoint": "/c", "interval": "100ms", "drain": "60s"},
        "prometheus": {"url": "http://prometheus.example"},
        "steadyState": {"probes": [
            {"name": "pods", "pods": {"role": "driver", "ready": 1}, "hold": "3s", "timeout": "2s"},
            {"name": "own", "resource": {"field": "status.state", "equals": "RUNNING"}},
            {"name": "promql", "promql": {"query": "up", "is": ">= 1"}, "interval": "1s"},
            {"name": "http", "http": {"url": "http://shop.example", "status": 200, "bodyContains": "ok"}},
            {"name": "metrics", "metrics": {"role": "driver", "port": 4040, "path": "/m", "metric": "m", "is": "> 0"}},
            {"name": "log", "log": {"role": "driver", "contains": "x"}},
            {"name": "command", "command": {"run": ["x"], "exitCode": 0}},
            {"name": "progress", "progress": {"within": "10s"}},
        ]},
        "faults": [
            {"name": "a", "podKill": {"role": "driver", "gracePeriod": "0s"}, "mode": "one", "injector": "direct", "after": "0s"},
            {"name": "b", "containerKill": {"role": "executor", "container": "c", "signal": "TERM", "labels": {"a": "b"}}, "mode": {"percent": 50}},
        ],
        "slos": {"rto": "< 120s", "rtoFrom": "fault", "rpo": "< 10s", "lost": 0, "duplicated": 0, "availability": ">= 90%",
            "assertions": [{"when": "after", "probe": {"name": "x", "pods": {"ready": "> 0"}}}]},
        "trials": {"count": 1, "cooldown": "10s"},
        "timeouts": {"setup": "3m", "baseline": "5m", "recovery": "150s", "settle": "30s"},
        "stop": [{"name": "s", "pods": {"ready": "> 0"}}],
        "guards": {"protectedNamespaces": ["kube-*"], "maxPercent": 50, "deadline": "10m"},
    });
    let mut leaves = Vec::new();
    pointers(&full, "", &mut leaves);
    proptest::collection::vec((proptest::sample::select(leaves), scalar()), 0..4).prop_map(move |changes| {
        let mut document = full.clone();
        for (pointer, value) in changes {
            if let Some(place) = document.pointer_mut(&pointer) {
                *place = value;
            }
        }
        document
    })
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(key, member)| pointers(member, &format!("{at}/{key}"), found)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), found)),
        _ => {}
    }
    found.push(at.to_owned());
}

static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&json_schema()).unwrap());

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_crash(source in proptest::collection::vec(any::<u8>(), 0..400)) {
        survive(&source);
    }

    #[test]
    fn text_of_yaml_signs_never_crashes(source in "[-:{}\\[\\],&*!|>'\"%@`#?a-c0-9 \n\t\u{feff}é🦀$]{0,200}") {
        survive(source.as_bytes());
    }

    #[test]
    fn damaged_scenarios_never_crash(
        which in any::<proptest::sample::Index>(), at in any::<proptest::sample::Index>(), gone in 0usize..40,
        put in "[-:{}\\[\\],&*'\"a-z0-9 \n$é🦀]{0,12}",
    ) {
        let text = which.get(&SHIPPED);
        let mut start = at.index(text.len());
        while !text.is_char_boundary(start) { start -= 1; }
        let mut end = (start + gone).min(text.len());
        while !text.is_char_boundary(end) { end += 1; }
        let mut damaged = text.clone();
        damaged.replace_range(start..end, &put);
        survive(damaged.as_bytes());
    }

    #[test]
    fn what_chaosrun_accepts_the_schema_accepts(document in document()) {
        let source = serde_json::to_string_pretty(&document).unwrap();
        match parse("example.json", source.as_bytes(), &|_| None) {
            Ok(_) => {
                let problems: Vec<String> =
                    VALIDATOR.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
                prop_assert!(problems.is_empty(), "{problems:?}\n{source}");
            }
            Err(problems) => {
                looked_at(&problems, source.len());
                // Schema and types agree: every refusal has a place and a reason of its own.
                prop_assert!(problems.iter().all(|(_, problem)| problem.code != "decode"), "{}\n{source}", problems.render(false));
            }
        }
    }

    #[test]
    fn one_more_problem_hides_no_other(key in "[a-z]{3,10}zz") {
        let wrong = VALID.replace(">= 3", ">> 3");
        let before = read(&wrong).unwrap_err().iter().count();
        let after = read(format!("{wrong}{key}: 1\n")).unwrap_err().iter().count();
        prop_assert_eq!(after, before + 1);
    }
}
