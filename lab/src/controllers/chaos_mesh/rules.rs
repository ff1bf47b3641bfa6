//! What the validating webhooks refuse: rules across the fields of a spec, named by the fields of upstream's Go types. Pure.

use serde_json::Value;

use super::duration;
use super::injectors::bytes_of;
use super::kinds::Experiment;
use crate::api::object::{array_at, i64_at, is_set, str_at};

/// Verbs that an HTTPChaos may name.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE",
];
const RATE_UNITS: [&str; 10] = [
    "bit", "kbit", "mbit", "gbit", "tbit", "bps", "kbps", "mbps", "gbps", "tbps",
];

/// Everything that is wrong with a spec of this kind.
pub(super) fn problems(kind: &str, spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match Experiment::of_kind(kind) {
        Some(experiment) => check_experiment(experiment, spec, "Spec", &mut found),
        None if kind == "Schedule" => check_schedule(spec, &mut found),
        None if kind == "Workflow" => check_workflow(spec, &mut found),
        None => {}
    }
    found
}

fn invalid(path: &str, value: &str, why: &str) -> String {
    format!("{path}: Invalid value: \"{value}\": {why}")
}

fn check_experiment(kind: Experiment, spec: &Value, path: &str, found: &mut Vec<String>) {
    // TimeChaos forgets to look at its duration.
    if kind != Experiment::Time {
        check_duration(spec, "/duration", &format!("{path}.Duration"), found);
    }
    check_mode(spec, path, found);
    match kind {
        Experiment::Pod
            if str_at(spec, "/action") == Some("container-kill") && array_at(spec, "/containerNames").is_empty() =>
        {
            let why = "the name of container is required on container-kill action";
            found.push(invalid(&format!("{path}.ContainerNames"), "", why));
        }
        Experiment::Network => check_network(spec, path, found),
        Experiment::Stress => check_stress(spec, path, found),
        Experiment::Io if str_at(spec, "/action") == Some("fault") && i64_at(spec, "/errno").unwrap_or(0) == 0 => {
            found.push(invalid(
                &format!("{path}.Errno"),
                "0",
                "action fault: errno 0 is not supported",
            ));
        }
        Experiment::Time => {
            if let Some(offset) = str_at(spec, "/timeOffset")
                && let Err(why) = duration::parse(offset)
            {
                found.push(invalid(&format!("{path}.TimeOffset"), offset, &why));
            }
        }
        Experiment::Http => check_http(spec, path, found),
        Experiment::Jvm => check_jvm(spec, path, found),
        _ => {}
    }
}

/// An empty one passes, and means no limit.
fn check_duration(spec: &Value, pointer: &str, path: &str, found: &mut Vec<String>) {
    if let Some(text) = str_at(spec, pointer).filter(|text| !text.is_empty())
        && let Err(why) = duration::parse(text)
    {
        found.push(invalid(path, text, &format!("parse duration field error: {why}")));
    }
}

fn check_mode(spec: &Value, path: &str, found: &mut Vec<String>) {
    let mode = str_at(spec, "/mode").unwrap_or_default();
    let most = match mode {
        "fixed" => i64::MAX,
        "fixed-percent" | "random-max-percent" => 100,
        _ => return,
    };
    let value = str_at(spec, "/value").unwrap_or_default();
    let path = format!("{path}.Value");
    match value.parse::<i64>() {
        Err(_) => found.push(invalid(
            &path,
            value,
            &format!("parse value field error: strconv.Atoi: parsing \"{value}\": invalid syntax"),
        )),
        Ok(number) if number <= 0 => found.push(invalid(
            &path,
            value,
            &format!("value must be greater than 0 with mode:{mode}"),
        )),
        Ok(number) if number > most => found.push(invalid(
            &path,
            value,
            &format!("value of {value} is invalid, Must be (0,100] with mode:{mode}"),
        )),
        Ok(_) => {}
    }
}

fn check_network(spec: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(target) = spec.get("target") {
        check_mode(target, &format!("{path}.Target"), found);
    }
    for (pointer, field) in [("/bandwidth/rate", "Bandwidth.Rate"), ("/rate/rate", "Rate.Rate")] {
        if let Some(rate) = str_at(spec, pointer)
            && !is_rate(rate)
        {
            found.push(invalid(&format!("{path}.{field}"), rate, "invalid unit"));
        }
    }
    for (pointer, field) in [("/delay/latency", "Delay.Latency"), ("/delay/jitter", "Delay.Jitter")] {
        if let Some(text) = str_at(spec, pointer)
            && let Err(why) = duration::parse(text)
        {
            found.push(invalid(&format!("{path}.{field}"), text, &why));
        }
    }
    for part in ["loss", "duplicate", "corrupt", "delay"] {
        for field in [part, "correlation"] {
            if let Some(text) = str_at(spec, &format!("/{part}/{field}"))
                && text.parse::<f32>().is_err()
            {
                let why = format!("strconv.ParseFloat: parsing \"{text}\": invalid syntax");
                found.push(invalid(
                    &format!("{path}.{}.{}", capital(part), capital(field)),
                    text,
                    &why,
                ));
            }
        }
    }
    let direction = str_at(spec, "/direction").unwrap_or("to");
    if str_at(spec, "/action") == Some("partition") || direction == "to" {
        return;
    }
    if spec.get("target").is_none() {
        let why = format!("`target` is required with direction {direction}");
        found.push(invalid(&format!("{path}.Target"), "null", &why));
    }
    if !array_at(spec, "/externalTargets").is_empty() {
        let why = format!("external targets cannot be used with `{direction}` direction in netem action yet");
        found.push(invalid(&format!("{path}.ExternalTargets"), direction, &why));
    }
}

fn is_rate(text: &str) -> bool {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    match text.split_at_checked(end) {
        Some((number, unit)) => !number.is_empty() && RATE_UNITS.contains(&unit.to_ascii_lowercase().as_str()),
        None => false,
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

fn check_stress(spec: &Value, path: &str, found: &mut Vec<String>) {
    let Some(stressors) = spec.get("stressors") else {
        if !is_set(spec, "/stressngStressors") {
            found.push(invalid(&format!("{path}.Stressors"), "null", "missing stressors"));
        }
        return;
    };
    if stressors.get("cpu").is_none() && stressors.get("memory").is_none() {
        found.push(invalid(&format!("{path}.Stressors"), "null", "missing stressors"));
    }
    if let Some(size) = str_at(stressors, "/memory/size").filter(|size| !size.is_empty())
        && let Err(why) = bytes_of(size, 100)
    {
        found.push(invalid(
            &format!("{path}.Stressors.MemoryStressor.Size"),
            size,
            &format!("incorrect bytes format: {why}"),
        ));
    }
}

fn check_http(spec: &Value, path: &str, found: &mut Vec<String>) {
    let port = i64_at(spec, "/port").unwrap_or(0);
    if port <= 0 {
        found.push(invalid(
            &format!("{path}.Port"),
            &port.to_string(),
            "port must be greater than 0",
        ));
    }
    if let Some(method) = str_at(spec, "/method")
        && str_at(spec, "/target") == Some("Request")
        && !METHODS.contains(&method)
    {
        found.push(invalid(&format!("{path}.Method"), method, "method is not supported"));
    }
    check_duration(spec, "/delay", &format!("{path}.Delay"), found);
}

fn check_jvm(spec: &Value, path: &str, found: &mut Vec<String>) {
    let action = str_at(spec, "/action").unwrap_or_default();
    let mut need = |held: bool, field: &str, why: &str| {
        if !held {
            found.push(invalid(&format!("{path}.{field}"), "", why));
        }
    };
    match action {
        "latency" | "return" | "exception" => {
            need(is_set(spec, "/class"), "Class", "class not provided");
            need(is_set(spec, "/method"), "Method", "method not provided");
            match action {
                "latency" => need(
                    i64_at(spec, "/latency").is_some_and(|ms| ms > 0),
                    "Latency",
                    "latency not provided",
                ),
                "return" => need(is_set(spec, "/returnValue"), "ReturnValue", "return value not provided"),
                _ => need(is_set(spec, "/exception"), "ThrowException", "exception not provided"),
            }
        }
        "stress" => {
            let (cpu, memory) = (i64_at(spec, "/cpuCount").unwrap_or(0) > 0, is_set(spec, "/memType"));
            need(
                cpu != memory,
                "CPUCount",
                "exactly one of cpuCount and memType must be provided",
            );
        }
        "ruleData" => need(is_set(spec, "/ruleData"), "RuleData", "rule data not provided"),
        "mysql" => {
            let version = str_at(spec, "/mysqlConnectorVersion").unwrap_or_default();
            need(
                matches!(version, "5" | "8"),
                "MySQLConnectorVersion",
                "MySQL connector version must be 5 or 8",
            );
            let effect = is_set(spec, "/exception") || i64_at(spec, "/latency").is_some_and(|ms| ms > 0);
            need(effect, "ThrowException", "must set one of exception or latency");
        }
        _ => {}
    }
}

fn check_schedule(spec: &Value, found: &mut Vec<String>) {
    let text = str_at(spec, "/schedule").unwrap_or_default();
    if let Err(why) = super::schedule::parse(text) {
        found.push(invalid(
            "Spec.Schedule",
            text,
            &format!("parse schedule field error: {why}"),
        ));
    }
    let kind = str_at(spec, "/type").unwrap_or_default();
    if let Some(experiment) = Experiment::of_kind(kind)
        && let Some(embedded) = spec.get(experiment.embedded_key())
    {
        check_experiment(experiment, embedded, &format!("Spec.{kind}"), found);
    }
}

fn check_workflow(spec: &Value, found: &mut Vec<String>) {
    let templates = array_at(spec, "/templates");
    let names: Vec<&str> = templates.iter().filter_map(|one| str_at(one, "/name")).collect();
    let entry = str_at(spec, "/entry").unwrap_or_default();
    if !names.contains(&entry) {
        found.push(invalid(
            "Spec.Entry",
            entry,
            "can not find a template with name equals to entry",
        ));
    }
    for (index, template) in templates.iter().enumerate() {
        let path = format!("Spec.Templates[{index}]");
        let name = str_at(template, "/name").unwrap_or_default();
        if names.iter().filter(|one| **one == name).count() > 1 {
            found.push(invalid(&format!("{path}.Name"), name, "template name must be unique"));
        }
        check_template(template, &path, &names, found);
    }
}

fn check_template(template: &Value, path: &str, names: &[&str], found: &mut Vec<String>) {
    let kind = str_at(template, "/templateType").unwrap_or_default();
    for child in array_at(template, "/children").iter().filter_map(Value::as_str) {
        if !names.contains(&child) {
            found.push(invalid(
                &format!("{path}.Children"),
                child,
                "can not find a template with this name",
            ));
        }
    }
    let deadline = str_at(template, "/deadline").filter(|deadline| !deadline.is_empty());
    if kind == "Suspend" && deadline.is_none() {
        found.push(invalid(
            &format!("{path}.Deadline"),
            "",
            "deadline in Suspend template must be set",
        ));
    }
    check_duration(template, "/deadline", &format!("{path}.Deadline"), found);
    for experiment in Experiment::ALL {
        let Some(embedded) = template.get(experiment.embedded_key()) else {
            if experiment.kind().kind == kind {
                found.push(invalid(
                    &format!("{path}.{kind}"),
                    "null",
                    "the spec of this type is missing",
                ));
            }
            continue;
        };
        if experiment.kind().kind != kind {
            let why = format!("does not belong to a template of type {kind}");
            found.push(invalid(&format!("{path}.{}", experiment.kind().kind), "", &why));
            continue;
        }
        if is_set(embedded, "/duration") {
            let why = "should not define duration in chaos when using Workflow, use Template#Deadline instead.";
            found.push(invalid(
                &format!("{path}.{kind}.Duration"),
                str_at(embedded, "/duration").unwrap_or_default(),
                why,
            ));
        }
        check_experiment(experiment, embedded, &format!("{path}.{kind}"), found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_rule_refuses_with_the_name_of_its_go_field() {
        let cases = [
            (
                "PodChaos",
                json!({"action": "container-kill", "mode": "all"}),
                "Spec.ContainerNames",
            ),
            (
                "PodChaos",
                json!({"action": "pod-kill", "mode": "all", "duration": "5d"}),
                "Spec.Duration",
            ),
            (
                "PodChaos",
                json!({"action": "pod-kill", "mode": "fixed-percent", "value": "101"}),
                "Spec.Value",
            ),
            (
                "NetworkChaos",
                json!({"action": "delay", "mode": "all", "direction": "both"}),
                "Spec.Target",
            ),
            (
                "NetworkChaos",
                json!({"action": "bandwidth", "mode": "all", "bandwidth": {"rate": "1mb"}}),
                "Spec.Bandwidth.Rate",
            ),
            (
                "NetworkChaos",
                json!({"action": "loss", "mode": "all", "loss": {"loss": "x"}}),
                "Spec.Loss.Loss",
            ),
            ("StressChaos", json!({"mode": "all", "stressors": {}}), "Spec.Stressors"),
            (
                "StressChaos",
                json!({"mode": "all", "stressors": {"memory": {"workers": 1, "size": "1XB"}}}),
                "Size",
            ),
            ("IOChaos", json!({"action": "fault", "mode": "all"}), "Spec.Errno"),
            (
                "TimeChaos",
                json!({"timeOffset": "1d", "mode": "all"}),
                "Spec.TimeOffset",
            ),
            ("HTTPChaos", json!({"port": 0, "mode": "all"}), "Spec.Port"),
            (
                "JVMChaos",
                json!({"action": "gc", "mode": "fixed", "value": "0"}),
                "Spec.Value",
            ),
            (
                "Schedule",
                json!({"schedule": "often", "type": "PodChaos"}),
                "Spec.Schedule",
            ),
            (
                "Workflow",
                json!({"entry": "a", "templates": [{"name": "b", "templateType": "Serial"}]}),
                "Spec.Entry",
            ),
        ];
        for (kind, spec, field) in cases {
            let found = problems(kind, &spec);
            assert!(found.len() == 1 && found[0].contains(field), "{kind} {spec}: {found:?}");
        }
    }

    #[test]
    fn what_upstream_forgets_to_check_passes() {
        for (kind, spec) in [
            (
                "TimeChaos",
                json!({"timeOffset": "-10m", "mode": "all", "duration": "soon"}),
            ),
            ("PodChaos", json!({"action": "pod-kill", "mode": "all", "duration": ""})),
            ("NetworkChaos", json!({"action": "delay", "mode": "all"})),
            (
                "NetworkChaos",
                json!({"action": "partition", "mode": "all", "direction": "both"}),
            ),
            (
                "StressChaos",
                json!({"mode": "all", "stressors": {"cpu": {"workers": 0}}}),
            ),
        ] {
            assert!(problems(kind, &spec).is_empty(), "{kind}: {:?}", problems(kind, &spec));
        }
    }

    #[test]
    fn a_chaos_in_a_workflow_has_a_deadline_and_no_duration() {
        let chaos = json!({"action": "pod-kill", "mode": "all", "duration": "5s"});
        let spec = json!({"entry": "a", "templates": [{"name": "a", "templateType": "PodChaos", "podChaos": chaos}]});
        let found = problems("Workflow", &spec);
        assert!(found.len() == 1 && found[0].contains("Deadline instead"), "{found:?}");
    }
}
