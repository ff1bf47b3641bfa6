//! The columns of the built-in kinds and how their cells are made.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, human, pods, since, terminating};
use crate::api::object::{array_at, bool_at, i64_at, name, str_at};

/// Name, type, priority.
type ColumnRow = (&'static str, &'static str, i64);

/// How the rows of a kind are made.
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) columns: &'static [ColumnRow],
    pub(super) cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// The layout of a built-in kind, when it has one of its own.
pub(super) fn find(group: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|one| one.group == group && one.kind == kind)
}

const NAME: ColumnRow = ("Name", "string", 0);
const AGE: ColumnRow = ("Age", "string", 0);

const KINDS: &[Kind] = &[
    Kind {
        group: "",
        kind: "Pod",
        columns: &[
            NAME,
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            AGE,
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        cells: pods::cells,
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        columns: &[
            NAME,
            ("Ready", "string", 0),
            ("Up-to-date", "string", 0),
            ("Available", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: |object, now| {
            let mut cells = vec![
                json!(name(object)),
                json!(format!("{}/{}", count(object, "/status/readyReplicas"), wanted(object))),
                json!(count(object, "/status/updatedReplicas").to_string()),
                json!(count(object, "/status/availableReplicas").to_string()),
                json!(age(object, now)),
            ];
            cells.extend(template(object));
            cells.push(json!(label_selector(object.pointer("/spec/selector"))));
            cells
        },
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        columns: &[
            NAME,
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: |object, now| {
            let mut cells = vec![
                json!(name(object)),
                json!(wanted(object)),
                json!(count(object, "/status/replicas")),
                json!(count(object, "/status/readyReplicas")),
                json!(age(object, now)),
            ];
            cells.extend(template(object));
            cells.push(json!(label_selector(object.pointer("/spec/selector"))));
            cells
        },
    },
    Kind {
        group: "apps",
        kind: "StatefulSet",
        columns: &[
            NAME,
            ("Ready", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
        ],
        cells: |object, now| {
            let mut cells = vec![
                json!(name(object)),
                json!(format!("{}/{}", count(object, "/status/readyReplicas"), wanted(object))),
                json!(age(object, now)),
            ];
            cells.extend(template(object));
            cells
        },
    },
    Kind {
        group: "apps",
        kind: "DaemonSet",
        columns: &[
            NAME,
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            ("Up-to-date", "integer", 0),
            ("Available", "integer", 0),
            ("Node Selector", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: |object, now| {
            let mut cells = vec![
                json!(name(object)),
                json!(count(object, "/status/desiredNumberScheduled")),
                json!(count(object, "/status/currentNumberScheduled")),
                json!(count(object, "/status/numberReady")),
                json!(count(object, "/status/updatedNumberScheduled")),
                json!(count(object, "/status/numberAvailable")),
                json!(pairs(object.pointer("/spec/template/spec/nodeSelector"))),
                json!(age(object, now)),
            ];
            cells.extend(template(object));
            cells.push(json!(label_selector(object.pointer("/spec/selector"))));
            cells
        },
    },
    Kind {
        group: "batch",
        kind: "Job",
        columns: &[
            NAME,
            ("Status", "string", 0),
            ("Completions", "string", 0),
            ("Duration", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: job,
    },
    Kind {
        group: "batch",
        kind: "CronJob",
        columns: &[
            NAME,
            ("Schedule", "string", 0),
            ("Timezone", "string", 0),
            ("Suspend", "boolean", 0),
            ("Active", "integer", 0),
            ("Last Schedule", "string", 0),
            AGE,
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        cells: |object, now| {
            let last = str_at(object, "/status/lastScheduleTime");
            let template = object.pointer("/spec/jobTemplate").unwrap_or(&Value::Null);
            let mut cells = vec![
                json!(name(object)),
                json!(text(object, "/spec/schedule", "")),
                json!(text(object, "/spec/timeZone", "<none>")),
                json!(if bool_at(object, "/spec/suspend") {
                    "True"
                } else {
                    "False"
                }),
                json!(array_at(object, "/status/active").len()),
                json!(last.map_or_else(|| "<none>".to_owned(), |at| since(Some(at), now))),
                json!(age(object, now)),
            ];
            cells.extend(self::template(template));
            cells.push(json!(label_selector(template.pointer("/spec/selector"))));
            cells
        },
    },
    Kind {
        group: "",
        kind: "Service",
        columns: &[
            NAME,
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            AGE,
            ("Selector", "string", 1),
        ],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(text(object, "/spec/type", "ClusterIP")),
                json!(text(object, "/spec/clusterIP", "<none>")),
                json!(external_ip(object)),
                json!(service_ports(object)),
                json!(age(object, now)),
                json!(pairs(object.pointer("/spec/selector"))),
            ]
        },
    },
    Kind {
        group: "",
        kind: "Endpoints",
        columns: &[NAME, ("Endpoints", "string", 0), AGE],
        cells: |object, now| vec![json!(name(object)), json!(endpoints(object)), json!(age(object, now))],
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        columns: &[
            NAME,
            ("AddressType", "string", 0),
            ("Ports", "string", 0),
            ("Endpoints", "string", 0),
            AGE,
        ],
        cells: |object, now| {
            let ports = words(object, "/ports", |port| {
                i64_at(port, "/port").map(|port| port.to_string())
            });
            let addresses = words(object, "/endpoints", |one| {
                array_at(one, "/addresses")
                    .first()
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            });
            vec![
                json!(name(object)),
                json!(text(object, "/addressType", "")),
                json!(shortened(&ports, "<unset>")),
                json!(shortened(&addresses, "<unset>")),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "",
        kind: "ConfigMap",
        columns: &[NAME, ("Data", "string", 0), AGE],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(data_count(object).to_string()),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "",
        kind: "Secret",
        columns: &[NAME, ("Type", "string", 0), ("Data", "integer", 0), AGE],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(text(object, "/type", "Opaque")),
                json!(data_count(object)),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "",
        kind: "ServiceAccount",
        columns: &[NAME, ("Secrets", "string", 0), AGE],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(array_at(object, "/secrets").len().to_string()),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "",
        kind: "Namespace",
        columns: &[NAME, ("Status", "string", 0), AGE],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(text(object, "/status/phase", "Active")),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "",
        kind: "Node",
        columns: &[
            NAME,
            ("Status", "string", 0),
            ("Roles", "string", 0),
            AGE,
            ("Version", "string", 0),
            ("Internal-IP", "string", 1),
            ("External-IP", "string", 1),
            ("OS-Image", "string", 1),
            ("Kernel-Version", "string", 1),
            ("Container-Runtime", "string", 1),
        ],
        cells: node,
    },
    Kind {
        group: "",
        kind: "Event",
        columns: EVENT_COLUMNS,
        cells: event,
    },
    Kind {
        group: "events.k8s.io",
        kind: "Event",
        columns: EVENT_COLUMNS,
        cells: event,
    },
    Kind {
        group: "",
        kind: "PersistentVolumeClaim",
        columns: &[
            NAME,
            ("Status", "string", 0),
            ("Volume", "string", 0),
            ("Capacity", "string", 0),
            ("Access Modes", "string", 0),
            ("StorageClass", "string", 0),
            ("VolumeAttributesClass", "string", 0),
            AGE,
            ("VolumeMode", "string", 1),
        ],
        cells: |object, now| {
            let bound = str_at(object, "/spec/volumeName").is_some_and(|volume| !volume.is_empty());
            let phase = if terminating(object) {
                "Terminating"
            } else {
                text(object, "/status/phase", "Pending")
            };
            vec![
                json!(name(object)),
                json!(phase),
                json!(text(object, "/spec/volumeName", "")),
                json!(if bound {
                    text(object, "/status/capacity/storage", "")
                } else {
                    ""
                }),
                json!(if bound {
                    access_modes(object, "/status/accessModes")
                } else {
                    String::new()
                }),
                json!(text(object, "/spec/storageClassName", "")),
                json!(text(object, "/spec/volumeAttributesClassName", "<unset>")),
                json!(age(object, now)),
                json!(text(object, "/spec/volumeMode", "<unset>")),
            ]
        },
    },
    Kind {
        group: "",
        kind: "PersistentVolume",
        columns: &[
            NAME,
            ("Capacity", "string", 0),
            ("Access Modes", "string", 0),
            ("Reclaim Policy", "string", 0),
            ("Status", "string", 0),
            ("Claim", "string", 0),
            ("StorageClass", "string", 0),
            ("VolumeAttributesClass", "string", 0),
            ("Reason", "string", 0),
            AGE,
            ("VolumeMode", "string", 1),
        ],
        cells: |object, now| {
            let claim = match (
                str_at(object, "/spec/claimRef/namespace"),
                str_at(object, "/spec/claimRef/name"),
            ) {
                (Some(namespace), Some(claim)) => format!("{namespace}/{claim}"),
                _ => String::new(),
            };
            let phase = if terminating(object) {
                "Terminating"
            } else {
                text(object, "/status/phase", "Pending")
            };
            vec![
                json!(name(object)),
                json!(text(object, "/spec/capacity/storage", "")),
                json!(access_modes(object, "/spec/accessModes")),
                json!(text(object, "/spec/persistentVolumeReclaimPolicy", "")),
                json!(phase),
                json!(claim),
                json!(text(object, "/spec/storageClassName", "")),
                json!(text(object, "/spec/volumeAttributesClassName", "<unset>")),
                json!(text(object, "/status/reason", "")),
                json!(age(object, now)),
                json!(text(object, "/spec/volumeMode", "<unset>")),
            ]
        },
    },
    Kind {
        group: "storage.k8s.io",
        kind: "StorageClass",
        columns: &[
            NAME,
            ("Provisioner", "string", 0),
            ("ReclaimPolicy", "string", 0),
            ("VolumeBindingMode", "string", 0),
            ("AllowVolumeExpansion", "string", 0),
            AGE,
        ],
        cells: |object, now| {
            let default = str_at(
                object,
                "/metadata/annotations/storageclass.kubernetes.io~1is-default-class",
            ) == Some("true");
            vec![
                json!(format!("{}{}", name(object), if default { " (default)" } else { "" })),
                json!(text(object, "/provisioner", "")),
                json!(text(object, "/reclaimPolicy", "Delete")),
                json!(text(object, "/volumeBindingMode", "Immediate")),
                json!(bool_at(object, "/allowVolumeExpansion")),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "policy",
        kind: "PodDisruptionBudget",
        columns: &[
            NAME,
            ("Min Available", "string", 0),
            ("Max Unavailable", "string", 0),
            ("Allowed Disruptions", "integer", 0),
            AGE,
        ],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(number_or_percent(object, "/spec/minAvailable")),
                json!(number_or_percent(object, "/spec/maxUnavailable")),
                json!(count(object, "/status/disruptionsAllowed")),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        columns: &[NAME, ("Holder", "string", 0), AGE],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(text(object, "/spec/holderIdentity", "")),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        columns: &[NAME, ("Pod-Selector", "string", 0), AGE],
        cells: |object, now| {
            vec![
                json!(name(object)),
                json!(label_selector(object.pointer("/spec/podSelector"))),
                json!(age(object, now)),
            ]
        },
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        columns: CREATED_COLUMNS,
        cells: created,
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        columns: CREATED_COLUMNS,
        cells: created,
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        columns: BINDING_COLUMNS,
        cells: binding,
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        columns: BINDING_COLUMNS,
        cells: binding,
    },
    Kind {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        columns: CREATED_COLUMNS,
        cells: created,
    },
];

const CREATED_COLUMNS: &[ColumnRow] = &[NAME, ("Created At", "date", 0)];

fn created(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![
        json!(name(object)),
        json!(text(object, "/metadata/creationTimestamp", "<unknown>")),
    ]
}

const BINDING_COLUMNS: &[ColumnRow] = &[
    NAME,
    ("Role", "string", 0),
    AGE,
    ("Users", "string", 1),
    ("Groups", "string", 1),
    ("ServiceAccounts", "string", 1),
];

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text(object, "/roleRef/kind", ""),
        text(object, "/roleRef/name", "")
    );
    let subjects = |kind: &str| {
        words(object, "/subjects", |one| {
            let subject = str_at(one, "/name")?;
            match str_at(one, "/namespace") {
                _ if str_at(one, "/kind") != Some(kind) => None,
                Some(namespace) if kind == "ServiceAccount" => Some(format!("{namespace}/{subject}")),
                _ => Some(subject.to_owned()),
            }
        })
        .join(", ")
    };
    vec![
        json!(name(object)),
        json!(role),
        json!(age(object, now)),
        json!(subjects("User")),
        json!(subjects("Group")),
        json!(subjects("ServiceAccount")),
    ]
}

const EVENT_COLUMNS: &[ColumnRow] = &[
    ("Last Seen", "string", 0),
    ("Type", "string", 0),
    ("Reason", "string", 0),
    ("Object", "string", 0),
    ("Subobject", "string", 1),
    ("Source", "string", 1),
    ("Message", "string", 0),
    ("First Seen", "string", 1),
    ("Count", "string", 1),
    ("Name", "string", 1),
];

/// Events of both groups: `events.k8s.io` calls some fields differently.
fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |pointers: &[&str]| {
        pointers
            .iter()
            .find_map(|pointer| str_at(object, pointer).filter(|found| !found.is_empty()))
    };
    let first = first_of(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let last = first_of(&["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"]).or(first);
    let about = object
        .get("involvedObject")
        .or_else(|| object.get("regarding"))
        .unwrap_or(&Value::Null);
    let kind = text(about, "/kind", "").to_lowercase();
    let source = first_of(&[
        "/source/component",
        "/deprecatedSource/component",
        "/reportingComponent",
        "/reportingController",
    ])
    .unwrap_or_default();
    let host = first_of(&["/source/host", "/deprecatedSource/host"]);
    let repeated = ["/series/count", "/count", "/deprecatedCount"]
        .iter()
        .find_map(|pointer| i64_at(object, pointer));
    vec![
        json!(since(last, now)),
        json!(text(object, "/type", "")),
        json!(text(object, "/reason", "")),
        json!(format!("{kind}/{}", text(about, "/name", ""))),
        json!(text(about, "/fieldPath", "")),
        json!(host.map_or_else(|| source.to_owned(), |host| format!("{source}, {host}"))),
        json!(first_of(&["/message", "/note"]).unwrap_or_default().trim()),
        json!(since(first, now)),
        json!(repeated.unwrap_or(1).to_string()),
        json!(name(object)),
    ]
}

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let holds = |kind: &str| {
        array_at(object, "/status/conditions")
            .iter()
            .any(|one| str_at(one, "/type") == Some(kind) && str_at(one, "/status") == Some("True"))
    };
    let status = if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if terminating(object) {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let succeeded = count(object, "/status/succeeded");
    let parallelism = i64_at(object, "/spec/parallelism").unwrap_or(0);
    let completions = match i64_at(object, "/spec/completions") {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let instant = |pointer: &str| str_at(object, pointer).and_then(|found| found.parse::<Timestamp>().ok());
    let duration = instant("/status/startTime").map(|start| {
        let end = instant("/status/completionTime").unwrap_or(now);
        human(end.as_second() - start.as_second())
    });
    let mut cells = vec![
        json!(name(object)),
        json!(status),
        json!(completions),
        json!(duration.unwrap_or_default()),
        json!(age(object, now)),
    ];
    cells.extend(template(object));
    cells.push(json!(label_selector(object.pointer("/spec/selector"))));
    cells
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = array_at(object, "/status/conditions")
        .iter()
        .find(|one| str_at(one, "/type") == Some("Ready"));
    let mut status = match ready.and_then(|one| str_at(one, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if bool_at(object, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    let roles = if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    };
    let address = |kind: &str| {
        array_at(object, "/status/addresses")
            .iter()
            .find(|one| str_at(one, "/type") == Some(kind))
            .and_then(|one| str_at(one, "/address"))
            .unwrap_or("<none>")
    };
    vec![
        json!(name(object)),
        json!(status),
        json!(roles),
        json!(age(object, now)),
        json!(text(object, "/status/nodeInfo/kubeletVersion", "")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(text(object, "/status/nodeInfo/osImage", "<unknown>")),
        json!(text(object, "/status/nodeInfo/kernelVersion", "<unknown>")),
        json!(text(object, "/status/nodeInfo/containerRuntimeVersion", "<unknown>")),
    ]
}

fn text<'a>(object: &'a Value, pointer: &str, default: &'a str) -> &'a str {
    str_at(object, pointer)
        .filter(|found| !found.is_empty())
        .unwrap_or(default)
}

fn count(object: &Value, pointer: &str) -> i64 {
    i64_at(object, pointer).unwrap_or(0)
}

fn wanted(object: &Value) -> i64 {
    i64_at(object, "/spec/replicas").unwrap_or(1)
}

fn words(object: &Value, pointer: &str, word: impl Fn(&Value) -> Option<String>) -> Vec<String> {
    array_at(object, pointer).iter().filter_map(word).collect()
}

/// Containers and images of the pod template.
fn template(object: &Value) -> [Value; 2] {
    ["/name", "/image"].map(|field| {
        json!(
            words(object, "/spec/template/spec/containers", |one| str_at(one, field)
                .map(str::to_owned))
            .join(",")
        )
    })
}

fn pairs(map: Option<&Value>) -> String {
    let mut pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

fn label_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return "<none>".to_owned();
    };
    let mut parts = Vec::new();
    if selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_some_and(|map| !map.is_empty())
    {
        parts.push(pairs(selector.get("matchLabels")));
    }
    for expression in array_at(selector, "/matchExpressions") {
        let key = text(expression, "/key", "");
        let values = words(expression, "/values", |value| value.as_str().map(str::to_owned)).join(",");
        parts.push(match text(expression, "/operator", "") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}

fn data_count(object: &Value) -> usize {
    ["data", "binaryData"]
        .iter()
        .filter_map(|field| object.get(*field).and_then(Value::as_object))
        .map(serde_json::Map::len)
        .sum()
}

fn external_ip(service: &Value) -> String {
    let external = words(service, "/spec/externalIPs", |one| one.as_str().map(str::to_owned));
    match text(service, "/spec/type", "ClusterIP") {
        "ExternalName" => text(service, "/spec/externalName", "<none>").to_owned(),
        "LoadBalancer" => {
            let given = words(service, "/status/loadBalancer/ingress", |one| {
                str_at(one, "/ip")
                    .or_else(|| str_at(one, "/hostname"))
                    .map(str::to_owned)
            });
            let all: Vec<String> = given.into_iter().chain(external).collect();
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external.join(","),
    }
}

fn service_ports(service: &Value) -> String {
    let ports = words(service, "/spec/ports", |one| {
        let port = i64_at(one, "/port")?;
        let protocol = text(one, "/protocol", "TCP");
        Some(match i64_at(one, "/nodePort") {
            Some(node_port) if node_port > 0 => format!("{port}:{node_port}/{protocol}"),
            _ => format!("{port}/{protocol}"),
        })
    });
    if ports.is_empty() {
        "<none>".to_owned()
    } else {
        ports.join(",")
    }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in array_at(object, "/subsets") {
        let addresses = array_at(subset, "/addresses");
        let ports = array_at(subset, "/ports");
        for address in addresses.iter().filter_map(|one| str_at(one, "/ip")) {
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(
                ports
                    .iter()
                    .filter_map(|port| i64_at(port, "/port"))
                    .map(|port| format!("{address}:{port}")),
            );
        }
    }
    shortened(&all, "<none>")
}

/// The first three, and how many more.
fn shortened(all: &[String], none: &str) -> String {
    match all {
        [] => none.to_owned(),
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first},{second},{third} + {} more...", rest.len())
        }
        few => few.join(","),
    }
}

fn access_modes(object: &Value, pointer: &str) -> String {
    words(object, pointer, |mode| {
        Some(
            match mode.as_str()? {
                "ReadWriteOnce" => "RWO",
                "ReadOnlyMany" => "ROX",
                "ReadWriteMany" => "RWX",
                "ReadWriteOncePod" => "RWOP",
                other => other,
            }
            .to_owned(),
        )
    })
    .join(",")
}

fn number_or_percent(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(percent)) => percent.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "N/A".to_owned(),
    }
}
