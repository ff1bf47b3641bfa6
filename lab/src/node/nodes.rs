//! The lab's nodes as API objects: Node, Ready condition, Lease. Depends on kube.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::error::NodeError;
use super::pod::Context;

/// Namespace of the leases.
const LEASES: &str = "kube-node-lease";
/// As kubelets do.
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;

/// Processors of this machine.
pub(crate) fn cpus() -> i64 {
    std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1))
}

/// Bytes of memory of this machine.
pub(crate) fn memory() -> i64 {
    i64::try_from(rustix::system::sysinfo().totalram).unwrap_or(i64::MAX)
}

/// Creates or renews all nodes and their leases.
pub(crate) async fn register(context: &Arc<Context>) -> Result<(), NodeError> {
    let api: Api<Node> = Api::all(context.client.clone());
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let leases = Namespace {
        metadata: ObjectMeta {
            name: Some(LEASES.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    existing_is_fine(namespaces.create(&PostParams::default(), &leases).await)
        .map_err(NodeError::api("create the namespace of leases"))?;
    for name in &context.config.nodes {
        let labels = BTreeMap::from(
            [
                ("kubernetes.io/hostname", name.as_str()),
                ("kubernetes.io/os", "linux"),
                ("kubernetes.io/arch", architecture()),
                ("chaosrun.dev/lab", context.config.network.id.as_str()),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        let node = Node {
            metadata,
            ..Node::default()
        };
        existing_is_fine(api.create(&PostParams::default(), &node).await)
            .map_err(NodeError::api(format!("create node {name}")))?;
        let status = Patch::Strategic(json!({ "status": status(context, name) }));
        api.patch_status(name, &PatchParams::default(), &status)
            .await
            .map_err(NodeError::api(format!("write the status of node {name}")))?;
        renew(context, name).await?;
    }
    Ok(())
}

fn existing_is_fine<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn status(context: &Context, name: &str) -> Value {
    let now = Time(Timestamp::now());
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({
            "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let resources = json!({
        "cpu": context.cpus.to_string(),
        "memory": format!("{}Ki", context.memory / 1024),
        "pods": "110",
    });
    let uname = rustix::system::uname();
    json!({
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", true, "KubeletReady", "lab node agent is ready"),
        ],
        "addresses": [
            {"type": "InternalIP", "address": context.config.node_address(name)},
            {"type": "Hostname", "address": name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {
            "kubeletVersion": concat!("v1.33.0+chaosrun-lab.", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "runc://1",
            "kernelVersion": uname.release().to_string_lossy(),
            "osImage": "Linux",
            "operatingSystem": "linux",
            "architecture": architecture(),
            "bootID": "", "machineID": "", "systemUUID": "",
        },
    })
}

async fn renew(context: &Context, name: &str) -> Result<(), NodeError> {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), LEASES);
    let now = Some(MicroTime(Timestamp::now()));
    let patch = json!({ "spec": { "renewTime": now } });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(name.to_owned()),
                    lease_duration_seconds: Some(LEASE_SECONDS),
                    renew_time: now,
                    ..LeaseSpec::default()
                }),
            };
            existing_is_fine(api.create(&PostParams::default(), &lease).await)
                .map_err(NodeError::api(format!("create the lease of node {name}")))
        }
        Err(error) => Err(NodeError::api(format!("renew the lease of node {name}"))(error)),
    }
}

/// Renews the leases for ever.
pub(crate) async fn heartbeat(context: Arc<Context>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        for name in &context.config.nodes {
            if let Err(error) = renew(&context, name).await {
                tracing::warn!(error = %error.chain(), "heartbeat failed");
            }
        }
    }
}
