//! One target: its namespace, its experiments one after the other, its event log, its rows.

use super::plan::LanePlan;
use super::rows::{self, Found};
use super::truth;
use crate::calibration::{Null, Recovery};
use crate::cli::exit::Failure;
use crate::cli::load::{FromFile, with_manifests};
use crate::cli::run::{read_records, write_report};
use crate::cluster::{Cluster, ClusterError, parse_manifests};
use crate::engine::{self, EngineError, Loaded, RunRequest};
use crate::evidence::{Event, Outcome};
use crate::experiment::{Comparison, Operator, parse};
use crate::fault::Undo;
use crate::prometheus::Prometheus;
use crate::world::{Clock, FileError, Recorder, Signalled};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// How long Prometheus may take to find the service.
const SERIES_PATIENCE: Duration = Duration::from_secs(60);

/// What a lane runs with.
pub(super) struct Lane {
    pub(super) plan: LanePlan,
    pub(super) cluster: Cluster,
    pub(super) clock: Clock,
    /// Of the whole calibration.
    pub(super) folder: PathBuf,
    pub(super) run: String,
    pub(super) seed: u64,
    pub(super) prometheus_url: Option<String>,
    pub(super) signals: watch::Receiver<Option<Signalled>>,
    /// Experiments that ended, of all lanes.
    pub(super) done: Arc<AtomicUsize>,
}

/// How it went.
pub(super) struct LaneOutcome {
    pub(super) rows: Vec<Recovery>,
    pub(super) nulls: Vec<Null>,
    pub(super) dropped: Vec<String>,
    pub(super) left: Vec<Undo>,
    pub(super) errors: Vec<(String, EngineError)>,
}

impl Lane {
    /// Runs every experiment of the lane.
    pub(super) async fn run(self) -> Result<LaneOutcome, Failure> {
        let folder = self.folder.join(self.plan.target.name);
        let experiments = self.prepare(&folder)?;
        let recorder = Recorder::create(&folder.join("events.jsonl"), self.clock)?;
        let run = format!("{}-{}", self.run, self.plan.target.name);
        self.surround(&run, &folder).await?;
        self.wait_for_series().await;
        let counting = tokio::spawn(count(recorder.live(), Arc::clone(&self.done)));
        let outcome = engine::run(RunRequest {
            cluster: self.cluster.clone(),
            recorder,
            experiments,
            run,
            seed: self.seed,
            prometheus_url: self.prometheus_url.clone(),
            signals: self.signals.clone(),
            instrument: None,
        })
        .await;
        counting.abort();
        self.leave().await;
        let outcome = outcome?;
        write_report(&folder)?;
        let records = read_records(&folder)?;
        let Found { rows, nulls, dropped } = rows::rows(&records, &self.plan, self.clock.origin_ns(), |index| {
            truth::read(&stamps(&folder, &self.plan.target.workload(index)))
        });
        Ok(LaneOutcome {
            rows,
            nulls,
            dropped,
            left: outcome.left,
            errors: outcome.errors,
        })
    }

    /// Writes everything that the lane works with into its folder, and reads the experiments back from there.
    fn prepare(&self, folder: &Path) -> Result<Vec<Loaded>, Failure> {
        let target = self.plan.target;
        create(folder)?;
        let mut documents = Vec::new();
        for (index, outage) in self.plan.outages.iter().enumerate() {
            let workload = target.workload(index);
            let stamps = stamps(folder, &workload);
            create(&stamps.join("switch"))?;
            create(&stamps.join("sink"))?;
            for name in ["switch/on", "switch/other", "acked.log"] {
                write(&stamps.join(name), "")?;
            }
            // A workload reads the line of its last end. Only some experiments of the lane make it end.
            let own: Vec<f64> = (0..self.plan.experiments())
                .filter(|other| target.workload(*other) == workload)
                .filter_map(|other| self.plan.outages.get(other)?.length)
                .collect();
            let lengths: String = own.iter().map(|length| format!("{length}\n")).collect();
            write(&stamps.join("lengths"), &lengths)?;
            let manifest = target.manifest(&workload, &stamps);
            write(&folder.join(format!("{workload}.json")), &manifest.to_string())?;
            documents.push(target.experiment(&self.plan.title(index), &workload, *outage));
        }
        let path = folder.join("experiments.yaml");
        // JSON is YAML.
        let text: String = documents.iter().map(|document| format!("---\n{document}\n")).collect();
        write(&path, &text)?;
        let name = path.display().to_string();
        let parsed =
            parse(&name, text.as_bytes(), &|_| None).map_err(|problems| Failure::Internal(problems.render(false)))?;
        let load = |experiment| {
            with_manifests(FromFile {
                path: path.clone(),
                experiment,
            })
        };
        parsed.into_iter().map(|one| load(one.experiment)).collect()
    }

    /// Makes the namespace and what the workload needs in it.
    async fn surround(&self, run: &str, folder: &Path) -> Result<(), Failure> {
        let target = self.plan.target;
        let documents: String = target
            .surroundings(&stamps(folder, &target.workload(0)))
            .iter()
            .map(|document| format!("---\n{document}\n"))
            .collect();
        for manifest in parse_manifests(target.name, &documents)? {
            let armed = |_undo: Undo| Ok::<(), ClusterError>(());
            manifest
                .create(&self.cluster, &target.namespace(), run, "calibrate", armed)
                .await?;
        }
        Ok(())
    }

    /// Prometheus finds a new target a while after it was made, and only then knows how often it is scraped.
    async fn wait_for_series(&self) {
        let (Some(query), Some(url)) = (self.plan.target.query(), &self.prometheus_url) else {
            return;
        };
        let deadline = self.clock.now().plus(SERIES_PATIENCE);
        let any = Comparison {
            operator: Operator::GreaterOrEqual,
            value: 0.0,
        };
        while self.clock.now() < deadline && self.signals.borrow().is_none() {
            if let Ok(prometheus) = Prometheus::connect(url).await
                && let Ok(answer) = prometheus.evaluate(&query, any).await
                && answer.outcome == Outcome::Good
            {
                return;
            }
            self.clock
                .sleep_until(self.clock.now().plus(Duration::from_millis(500)))
                .await;
        }
    }

    /// Takes the namespace away, and with it whatever is in it.
    async fn leave(&self) {
        let namespace = self.plan.target.namespace();
        let api: Api<Namespace> = Api::all(self.cluster.client());
        let attempted = format!("delete namespace {namespace}");
        let gone = self
            .cluster
            .call(attempted, api.delete(&namespace, &DeleteParams::default()))
            .await;
        if let Err(error) = gone {
            tracing::warn!(%error, "the namespace of a calibration is left");
        }
    }
}

fn stamps(folder: &Path, workload: &str) -> PathBuf {
    folder.join("stamps").join(workload)
}

fn create(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|source| {
        Failure::File(FileError {
            attempted: "cannot create the folder",
            path: folder.to_owned(),
            source,
        })
    })
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|source| {
        Failure::File(FileError {
            attempted: "cannot write",
            path: path.to_owned(),
            source,
        })
    })
}

/// Counts experiments as they end.
async fn count(mut events: broadcast::Receiver<Arc<Event>>, done: Arc<AtomicUsize>) {
    loop {
        match events.recv().await {
            Ok(event) if matches!(*event, Event::ExperimentEnded { .. }) => {
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
