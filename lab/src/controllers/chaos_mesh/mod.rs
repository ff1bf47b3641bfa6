//! A double of Chaos Mesh 2.8.3: its objects, their life and their oddities, and faults that are really injected.
//!
//! It is not Chaos Mesh; its behaviour was written down from that project's sources and is rebuilt here. May depend on
//! `lifecycle`, on `node`'s faults and on `shaper`; talks to the API server as any client would, and is its webhooks by
//! [`Admission`](crate::api::Admission). Nothing of it is in a lab until `kind-config/lab-chaos-mesh-double.yaml` is applied:
//! definitions, webhook configurations, and the pods that stand for controller-manager and daemons. These are real switches:
//! without a ready controller-manager writes are answered by "failed calling webhook" and deletions hang on the finalizer,
//! without a ready daemon on a node nothing is injected or recovered there. Further misbehaviour: `switches`.
//!
//! Rooms: `kinds` (names), `admission`, `defaults` and `rules` (the webhooks), `presence` (which parts are there), `worker`
//! (queue and retries), `lifecycle` and `records` (one pass over one experiment), `selection`, `injectors` (what breaks), `internal`
//! (the objects of pods, where rules are set), `schedule` and `workflow`, `events`, `objects`, `duration`, `switches`.
//!
//! Injected for real: PodChaos; NetworkChaos, by the kernel or by the lab's double of netem; StressChaos; DNSChaos.
//! Refused by a failed Apply that says so: IOChaos, TimeChaos, HTTPChaos, JVMChaos, KernelChaos (upstream's own error) and
//! everything outside of the cluster. Not there: StatusCheck and Task nodes of workflows, namespace filters.

mod admission;
mod defaults;
mod duration;
mod events;
mod injectors;
mod internal;
mod kinds;
mod lifecycle;
mod objects;
mod presence;
mod records;
mod rules;
mod schedule;
mod selection;
mod switches;
mod worker;
mod workflow;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use self::events::Recorder;
use self::kinds::{Experiment, Kind, POD_HTTP, POD_IO, POD_NETWORK, SCHEDULE, WORKFLOW, WORKFLOW_NODE};
use self::objects::Objects;
use self::presence::Presence;
use self::worker::{Key, Wake, Worker};
use crate::lifecycle::{Controller, LabInfo};
use crate::node::faults::{Faults, Intruder};

/// What all workers share. It outlives the controller-manager: the processes are the daemons'.
struct Shared {
    objects: Objects,
    presence: Presence,
    recorder: Recorder,
    faults: Faults,
    /// Stressors that run, by the id that the status has.
    intruders: Mutex<HashMap<String, Intruder>>,
    /// What holds the packets of pods.
    holders: internal::Holders,
    wakes: Mutex<HashMap<&'static str, Wake>>,
}

impl Shared {
    /// Has a worker look at an object.
    fn wake(&self, kind: Kind, key: Key) {
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = wakes.get(kind.plural) {
            wake.add(key);
        }
    }

    fn new_wake(&self, kind: Kind) -> Wake {
        let wake = Wake::default();
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.insert(kind.plural, Arc::clone(&wake));
        wake
    }
}

/// The double as a lab starts it.
#[must_use]
pub fn controller() -> Controller {
    Box::new(move |client, info| Box::pin(serve(client, info)))
}

async fn serve(client: kube::Client, info: LabInfo) {
    let presence = Presence::new(&info.server);
    let Some(mut changes) = presence.changes() else { return };
    info.server
        .add_admission(Arc::new(admission::Webhooks::new(presence.clone())));
    let (recorder, writer) = Recorder::new(client.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(writer);
    let shared = Arc::new(Shared {
        objects: Objects::new(client),
        presence: presence.clone(),
        recorder,
        faults: info.faults,
        intruders: Mutex::default(),
        holders: internal::Holders::default(),
        wakes: Mutex::default(),
    });
    let mut manager: Option<Manager> = None;
    loop {
        let wanted = presence.serves(Experiment::Pod.kind()) && presence.has_controller();
        if wanted {
            // Definitions may come after the controller-manager: each time some are added its workers are.
            manager
                .get_or_insert_with(|| {
                    tracing::info!("the double of Chaos Mesh works");
                    Manager::default()
                })
                .start_missing(&shared);
        } else if manager.take().is_some() {
            // As if its process had died: whatever it was at is cut off.
            tracing::info!("the double of Chaos Mesh rests");
        }
        if !changes.next().await {
            return;
        }
    }
}

/// The workers of a controller-manager, one for each kind that is served. They end when this is dropped.
#[derive(Default)]
struct Manager {
    workers: JoinSet<()>,
    started: HashSet<&'static str>,
}

impl Manager {
    fn start_missing(&mut self, shared: &Arc<Shared>) {
        for experiment in Experiment::ALL {
            let lifecycle = lifecycle::Lifecycle {
                shared: Arc::clone(shared),
                kind: experiment,
            };
            self.start(shared, experiment.kind(), move |worker| async move {
                worker.run(|key| lifecycle.pass(key)).await;
            });
        }
        for kind in [POD_NETWORK, POD_IO, POD_HTTP] {
            let of = Arc::clone(shared);
            self.start(shared, kind, move |worker| async move {
                worker.run(|key| internal::pass(&of, kind, key)).await;
            });
        }
        let of = Arc::clone(shared);
        self.start(shared, SCHEDULE, move |worker| async move {
            worker.run(|key| schedule::pass(&of, key)).await;
        });
        let of = Arc::clone(shared);
        self.start(shared, WORKFLOW, move |worker| async move {
            worker.run(|key| workflow::pass(&of, key)).await;
        });
        let of = Arc::clone(shared);
        self.start(shared, WORKFLOW_NODE, move |worker| async move {
            worker.run(|key| workflow::pass_node(&of, key)).await;
        });
    }

    /// Starts a worker unless it works already or has nothing to watch.
    fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        shared: &Arc<Shared>,
        kind: Kind,
        run: impl FnOnce(Worker) -> F,
    ) {
        if shared.presence.serves(kind) && self.started.insert(kind.plural) {
            let worker = Worker::new(shared.objects.all(kind), shared.new_wake(kind));
            self.workers.spawn(run(worker));
        }
    }
}
