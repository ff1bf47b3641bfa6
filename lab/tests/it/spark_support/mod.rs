//! Shared by the tests that run a pipeline in a lab: boot, manifests, waiting, and the audit of the ledger.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test support: a test fails by panicking, and each file uses its part"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chaosrun_lab::lifecycle::Lab;
use chaosrun_lab::standard::{configuration, controllers};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::Value;

pub const NAMESPACE: &str = "spark-pipeline";
pub const APPLICATION: &str = "spark-streaming-pipeline";
pub const DRIVER: &str = "spark-streaming-pipeline-driver";

/// A lab with a pipeline in it.
pub struct Stage {
    pub lab: Lab,
    pub client: kube::Client,
}

/// Boots the shipped lab under a name of its own.
pub async fn stage(test: &str) -> Stage {
    drop(
        tracing_subscriber::fmt()
            .with_env_filter("warn,chaosrun_lab=info")
            .with_test_writer()
            .try_init(),
    );
    let program = Path::new(env!("CARGO_BIN_EXE_chaosrun-lab"));
    let config = configuration(&format!("t-{test}-{}", std::process::id()), program);
    let lab = match Lab::start(config, controllers()).await {
        Ok(lab) => lab,
        Err(error) => panic!("these tests need root, runc, iproute2 and nftables: {error}"),
    };
    let stage = Stage {
        client: lab.client(),
        lab,
    };
    let served = || async { stage.application_api().list(&ListParams::default()).await.is_ok() };
    until(
        "the SparkApplication definition is served",
        Duration::from_secs(10),
        served,
    )
    .await;
    stage
}

/// Polls until `holds`; fails with `what` after `limit`.
pub async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, holds: impl Fn() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Stage {
    /// Creates every object of a shipped manifest, after `change` had a look at it.
    pub async fn apply(&self, file: &str, change: impl Fn(&mut Value)) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kind-config").join(file);
        for document in std::fs::read_to_string(path).unwrap().split("\n---\n") {
            let mut object: Value = serde_yaml::from_str(document).unwrap();
            change(&mut object);
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            let types = object.types.clone().unwrap();
            let gvk = GroupVersionKind::try_from(&types).unwrap();
            let resource = ApiResource::from_gvk(&gvk);
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            api.create(&PostParams::default(), &object).await.unwrap();
        }
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn application_api(&self) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("sparkoperator.k8s.io", "v1beta2", "SparkApplication");
        Api::namespaced_with(self.client.clone(), NAMESPACE, &ApiResource::from_gvk(&gvk))
    }

    pub async fn status(&self) -> Value {
        let object = self.application_api().get(APPLICATION).await.unwrap();
        object.data.get("status").cloned().unwrap_or(Value::Null)
    }

    pub async fn state_is(&self, state: &str) -> bool {
        self.status().await["applicationState"]["state"] == state
    }

    pub async fn driver_uid(&self) -> Option<String> {
        self.pods()
            .get_opt(DRIVER)
            .await
            .unwrap()
            .and_then(|pod| pod.metadata.uid)
    }

    /// Names of the executors that are running and stay.
    pub async fn executors(&self) -> BTreeSet<String> {
        let list = self
            .pods()
            .list(&ListParams::default().labels("spark-role=executor"))
            .await
            .unwrap();
        list.into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"))
            .filter_map(|pod| pod.metadata.name)
            .collect()
    }

    /// The folder behind the claim `pipeline-data`.
    pub async fn data(&self) -> PathBuf {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), NAMESPACE);
        let bound = || async {
            let claim = claims.get("pipeline-data").await.unwrap();
            claim.spec.and_then(|spec| spec.volume_name).is_some()
        };
        until("the claim is bound", Duration::from_secs(10), bound).await;
        let volume = claims
            .get("pipeline-data")
            .await
            .unwrap()
            .spec
            .unwrap()
            .volume_name
            .unwrap();
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        volumes
            .get(&volume)
            .await
            .unwrap()
            .spec
            .unwrap()
            .host_path
            .unwrap()
            .path
            .into()
    }

    /// Waits until batch `number` is committed.
    pub async fn committed(&self, data: &Path, number: u64, limit: Duration) {
        until(&format!("batch {number} is committed"), limit, || async {
            last_commit(data).is_some_and(|last| last >= number)
        })
        .await;
    }

    /// Waits until the sink has everything that the producer was told is safe at this moment, and audits it.
    pub async fn audit(&self, data: &Path, limit: Duration) -> Audit {
        let acked = acked(data);
        until("the sink has caught up", limit, || async {
            let sink = sink(data);
            acked.iter().all(|id| sink.contains_key(id))
        })
        .await;
        let sink = sink(data);
        Audit {
            produced: acked.len(),
            lost: acked.iter().filter(|id| !sink.contains_key(id)).count(),
            duplicated: sink.values().filter(|count| **count > 1).count(),
        }
    }

    pub async fn stop(self) {
        let (control_group, data) = (
            self.lab.info().control_group.clone(),
            self.lab.info().data_folder.clone(),
        );
        self.lab.stop().await.unwrap();
        assert!(!data.exists(), "{} is left", data.display());
        let group = Path::new("/sys/fs/cgroup/memory").join(control_group.trim_start_matches('/'));
        assert!(!group.exists(), "{} is left", group.display());
    }
}

/// What the ledger says.
#[derive(Debug, PartialEq, Eq)]
pub struct Audit {
    pub produced: usize,
    pub lost: usize,
    pub duplicated: usize,
}

/// Highest number in `checkpoint/commits`.
pub fn last_commit(data: &Path) -> Option<u64> {
    std::fs::read_dir(data.join("checkpoint/commits"))
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .max()
}

/// Every record id that the producer was told is safe.
fn acked(data: &Path) -> BTreeSet<i64> {
    let text = std::fs::read_to_string(data.join("ledger/acked.log")).unwrap_or_default();
    let range = |line: &str| {
        let fields: Vec<i64> = line.split(' ').map(|field| field.parse().unwrap()).collect();
        fields[0]..=fields[1]
    };
    // A line that is being written does not count yet.
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap());
    whole.lines().flat_map(range).collect()
}

/// Record id to how often the sink has it, by its manifest and not by a listing.
fn sink(data: &Path) -> BTreeMap<i64, usize> {
    let mut files: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut start = 0;
    for entry in std::fs::read_dir(data.join("out/_spark_metadata"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_str().unwrap().to_owned();
        let compact = name.strip_suffix(".compact");
        let Ok(number) = compact.unwrap_or(&name).parse() else {
            continue;
        };
        if compact.is_some() {
            start = start.max(number);
        }
        files.insert(number, entry.path());
    }
    let mut records = BTreeMap::new();
    for path in files.range(start..).map(|(_, path)| path) {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("v1"));
        for line in lines.filter(|line| !line.is_empty()) {
            let entry: Value = serde_json::from_str(line).unwrap();
            assert_eq!(entry["action"], "add");
            let inside = entry["path"]
                .as_str()
                .unwrap()
                .strip_prefix("file:///data")
                .unwrap()
                .to_owned();
            let part = data.join(inside.trim_start_matches('/'));
            let text = std::fs::read_to_string(&part).unwrap();
            assert_eq!(entry["size"], text.len(), "{}", part.display());
            for record in text.lines() {
                let record: Value = serde_json::from_str(record).unwrap();
                *records.entry(record["id"].as_i64().unwrap()).or_default() += 1;
            }
        }
    }
    records
}
