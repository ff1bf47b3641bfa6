//! One container of a pod: started, probed, stopped, and started again as its restart policy says.
//! Depends on `pod`, `workspace`, `bundle`, `probes`.
//!
//! Central function: [`run`]. Contract: it returns when this container has ended for good; its end is in the pod's
//! state before anything is cleaned up, because that instant is what gets measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, EphemeralContainer, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::NodeError;
use super::image::{Image, is_invalid};
use super::logs::Log;
use super::observer::{Complaint, Observer};
use super::pod::{PodRuntime, Stop, stop_requested};
use super::probes::{self, Action, Aim};
use super::runc::Exit;
use super::state::{Instance, Kind, Life, Slot};
use super::workspace::{self, Workspace};
use super::{bundle, environment, volumes};

/// The pod's prepared volumes by name.
pub(crate) type Volumes = BTreeMap<String, volumes::Prepared>;

/// Pause between attempts while a config map that the environment needs is missing.
const CONFIG_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// After SIGKILL; longer means that the kernel cannot end the process.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Whether an init container stays beside the main ones.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Why a container could not be started.
enum Refusal {
    /// The pod asks for something that is not there (yet).
    Config(NodeError),
    /// The runtime could not start it.
    Start(NodeError),
}

/// A started instance with what has to be removed after it.
struct Running {
    instance: Instance,
    workspace: Workspace,
    group: String,
    since: Timestamp,
}

/// What one container task works with.
pub(crate) struct Task {
    pub runtime: Arc<PodRuntime>,
    pub slot: Slot,
    volumes: Arc<Volumes>,
    stop: watch::Receiver<Stop>,
    /// Pause before the next start; the first one comes at once.
    pause: Duration,
}

/// An ephemeral container has the fields of an ordinary one, and the name of the container that it is about.
fn as_container(ephemeral: &EphemeralContainer) -> Option<Container> {
    let mut fields = serde_json::to_value(ephemeral).ok()?;
    fields.as_object_mut()?.remove("targetContainerName");
    serde_json::from_value(fields).ok()
}

/// Runs a container until it has ended for good.
pub(crate) async fn run(runtime: Arc<PodRuntime>, slot: Slot, volumes: Arc<Volumes>) {
    let sidecar = runtime
        .state()
        .container(slot)
        .is_some_and(|container| container.sidecar);
    let stop = if sidecar || slot.kind == Kind::Ephemeral {
        runtime.stop_sidecars.subscribe()
    } else {
        runtime.stop.subscribe()
    };
    let mut task = Task {
        runtime,
        slot,
        volumes,
        stop,
        pause: Duration::ZERO,
    };
    loop {
        let Some(image) = task.pull().await else {
            return;
        };
        let Some(started) = task.start_when_possible(image.as_ref()).await else {
            return;
        };
        let (code, replaced, lived) = match started {
            Ok(running) => {
                let since = running.since;
                let (code, replaced) = task.supervise(running).await;
                (
                    code,
                    replaced,
                    Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default(),
                )
            }
            Err(error) => {
                task.note_start_error(&error);
                (128, false, Duration::ZERO)
            }
        };
        if *task.stop.borrow() != Stop::No || (!replaced && !task.restarts_after(code, sidecar)) {
            return;
        }
        // Watchers see the end before the next beginning.
        task.runtime.flushed().await;
        if replaced {
            // Another image is another container to the back-off, and it is wanted whatever the restart policy says.
            task.pause = Duration::ZERO;
        } else if !task.back_off(lived).await {
            return;
        }
    }
}

/// Waits until a sidecar has started; false when the pod is to end first.
pub(crate) async fn wait_started(runtime: &Arc<PodRuntime>, slot: Slot) -> bool {
    let mut stop = runtime.stop.subscribe();
    loop {
        if runtime
            .state()
            .container(slot)
            .is_some_and(|container| matches!(container.life, Life::Running { .. }) && container.started)
        {
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
            () = stop_requested(&mut stop) => return false,
        }
    }
}

impl Task {
    fn spec(&self) -> Option<Container> {
        let pod = self.runtime.pod();
        let spec = pod.spec.as_ref()?;
        match self.slot.kind {
            Kind::Init => spec.init_containers.as_ref()?.get(self.slot.index).cloned(),
            Kind::Main => spec.containers.get(self.slot.index).cloned(),
            Kind::Ephemeral => as_container(spec.ephemeral_containers.as_ref()?.get(self.slot.index)?),
        }
    }

    pub(crate) fn warn(&self, container: &str, reason: &'static str, message: impl Into<String>) {
        self.runtime
            .context
            .recorder
            .warning(&self.runtime.pod(), Some(container), reason, message);
    }

    fn note(&self, container: &str, reason: &'static str, message: impl Into<String>) {
        self.runtime
            .context
            .recorder
            .normal(&self.runtime.pod(), Some(container), reason, message);
    }

    fn wait_state(&self, reason: &str, message: impl Into<String>) {
        let message = message.into();
        self.runtime
            .update_container(self.slot, |container| container.wait(reason, Some(message)));
    }

    /// Sleeps; false when the container is to end.
    async fn sleep(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = stop_requested(&mut self.stop) => false,
        }
    }

    /// Looks the image up. Without one and without a command there is nothing to run, now or later, but like a
    /// kubelet the lab goes on trying. `None`: the container is to end; `Some(None)`: the host's root is the image.
    async fn pull(&mut self) -> Option<Option<Image>> {
        let back_off = self.runtime.context.config.back_off;
        let mut pause = back_off.first;
        loop {
            if *self.stop.borrow() != Stop::No {
                return None;
            }
            let container = self.spec()?;
            let name = container.image.clone().unwrap_or_default();
            let found = self.runtime.context.config.images.find(&name).cloned();
            let has_command = container.command.as_ref().is_some_and(|command| !command.is_empty());
            if found.is_some() || (has_command && !is_invalid(&name)) {
                self.note(
                    &container.name,
                    "Pulled",
                    format!("Container image \"{name}\" already present on machine"),
                );
                return Some(found);
            }
            let message = if is_invalid(&name) {
                format!("failed to pull image \"{name}\": no such host")
            } else {
                format!(
                    "failed to pull image \"{name}\": the lab pulls nothing, knows no program for this image, and the container names no command"
                )
            };
            self.warn(
                &container.name,
                "Failed",
                format!("Failed to pull image \"{name}\": {message}"),
            );
            self.warn(&container.name, "Failed", "Error: ErrImagePull");
            self.wait_state("ErrImagePull", message.clone());
            self.runtime.flushed().await;
            if !self.sleep(Duration::from_millis(500)).await {
                return None;
            }
            let waiting = format!("Back-off pulling image \"{name}\": ErrImagePull: {message}");
            self.note(&container.name, "BackOff", format!("Back-off pulling image \"{name}\""));
            self.warn(&container.name, "Failed", "Error: ImagePullBackOff");
            self.wait_state("ImagePullBackOff", waiting);
            if !self.sleep(pause).await {
                return None;
            }
            pause = (pause * 2).min(back_off.longest);
        }
    }

    /// Starts an instance, waiting for configuration that is missing. `None`: the container is to end.
    async fn start_when_possible(&mut self, image: Option<&Image>) -> Option<Result<Running, NodeError>> {
        let mut pause = CONFIG_PAUSE.0;
        loop {
            if *self.stop.borrow() != Stop::No {
                return None;
            }
            let container = self.spec()?;
            match self.start(&container, image).await {
                Ok(running) => return Some(Ok(running)),
                Err(Refusal::Start(error)) => return Some(Err(error)),
                Err(Refusal::Config(error)) => {
                    let message = error.chain();
                    self.warn(&container.name, "Failed", format!("Error: {message}"));
                    self.wait_state("CreateContainerConfigError", message);
                }
            }
            if !self.sleep(pause).await {
                return None;
            }
            pause = (pause * 2).min(CONFIG_PAUSE.1);
        }
    }

    async fn start(&self, container: &Container, image: Option<&Image>) -> Result<Running, Refusal> {
        let runtime = &self.runtime;
        refuse_unsupported(container).map_err(Refusal::Config)?;
        refuse_missing_program(container, image).map_err(Refusal::Start)?;
        let variables = self.variables(container, image).await.map_err(Refusal::Config)?;
        let by_name: BTreeMap<String, String> = variables.iter().cloned().collect();
        let arguments =
            bundle::arguments(container, image, |text| environment::expand(text, &by_name)).map_err(Refusal::Config)?;
        let id = uuid::Uuid::new_v4().to_string();
        let workspace = Workspace::create(runtime, &container.name, &id).map_err(Refusal::Start)?;
        let prepared = workspace::mounts(runtime, container, &self.volumes, &variables, &workspace);
        let mounts = prepared.inspect_err(|_| workspace.remove()).map_err(Refusal::Config)?;
        let pod = runtime.pod();
        let network = runtime.state().network.as_ref().map(super::network::PodNetwork::path);
        let group = format!("{}/{id}", runtime.control_group());
        let plan = bundle::Plan {
            pod: &pod,
            container,
            image,
            environment: &variables,
            arguments,
            hostname: environment::hostname(&pod),
            network_namespace: network,
            control_group: group.clone(),
            unified: runtime.context.cgroups.is_unified(),
            layer: &workspace.layer,
            scratch: &workspace.scratch,
            mounts: &mounts,
        };
        let description = bundle::process(&plan)
            .inspect_err(|_| workspace.remove())
            .map_err(Refusal::Config)?;
        let config = bundle::config(&plan, &description);
        let path = workspace.bundle.join("config.json");
        let written = std::fs::write(&path, config.to_string()).map_err(NodeError::io("write", &path));
        let restarts = runtime
            .state()
            .container(self.slot)
            .map_or(0, |c| if c.id.is_some() { c.restarts + 1 } else { c.restarts });
        let log_path = runtime
            .folder
            .join("logs")
            .join(&container.name)
            .join(format!("{restarts}.log"));
        let started = match written.and_then(|()| Log::create(log_path)) {
            Ok(log) => {
                self.launch(container, &id, &workspace, log, description, restarts)
                    .await
            }
            Err(error) => Err(error),
        };
        match started {
            Ok((instance, since)) => Ok(Running {
                instance,
                workspace,
                group,
                since,
            }),
            Err(error) => {
                runtime.update_container(self.slot, |c| {
                    c.id = Some(id.clone());
                    c.restarts = restarts;
                });
                remove_instance(runtime, &id, &workspace, &group);
                Err(Refusal::Start(error))
            }
        }
    }

    async fn variables(
        &self,
        container: &Container,
        image: Option<&Image>,
    ) -> Result<Vec<(String, String)>, NodeError> {
        let runtime = &self.runtime;
        let pod = runtime.pod();
        let (pod_address, host_address) = {
            let state = runtime.state();
            (state.pod_address, state.host_address)
        };
        let unknown = std::net::Ipv4Addr::UNSPECIFIED;
        let around = environment::Surroundings {
            client: &runtime.context.client,
            pod: &pod,
            pod_address: pod_address.unwrap_or(unknown),
            host_address: host_address.unwrap_or(unknown),
            kubernetes_service: runtime.context.config.network.kubernetes_service(),
            node_cpus: runtime.context.cpus,
            node_memory: runtime.context.memory,
        };
        environment::variables(&around, container, image).await
    }

    /// Has runc start the process, and shows it as running.
    async fn launch(
        &self,
        container: &Container,
        id: &str,
        workspace: &Workspace,
        log: Arc<Log>,
        description: serde_json::Value,
        restarts: i32,
    ) -> Result<(Instance, Timestamp), NodeError> {
        let runtime = &self.runtime;
        let started = runtime.context.runc.run(id, &workspace.bundle).await?;
        let since = Timestamp::now();
        runtime.leftovers.spawn(finish(log.pump("stdout", started.stdout)));
        runtime.leftovers.spawn(finish(log.pump("stderr", started.stderr)));
        let instance = Instance {
            id: id.to_owned(),
            process: started.process,
            description: Arc::new(description),
        };
        let shown = instance.clone();
        runtime.update_container(self.slot, |state| {
            if let Life::Terminated(ended) = &state.life {
                state.last = Some(ended.clone());
            }
            state.life = Life::Running { since };
            state.restarts = restarts;
            state.id = Some(id.to_owned());
            state.started = container.startup_probe.is_none();
            state.ready = container.readiness_probe.is_none();
            let older = std::mem::replace(&mut state.previous_log, state.log.replace(log));
            if let Some(older) = older {
                older.discard();
            }
            state.instance = Some(shown);
            state.image = container.image.clone().unwrap_or_default();
        });
        self.note(
            &container.name,
            "Created",
            format!("Created container: {}", container.name),
        );
        self.note(
            &container.name,
            "Started",
            format!("Started container {}", container.name),
        );
        Ok((instance, since))
    }

    /// Watches over a running instance until it has ended; returns its exit code, and whether it was ended because the
    /// pod names another image now.
    async fn supervise(&mut self, running: Running) -> (i32, bool) {
        let Some(container) = self.spec() else {
            return (255, false);
        };
        let mut replaced = false;
        let (complain, mut complaints) = mpsc::channel(4);
        let mut watchers = JoinSet::new();
        self.watch_over(&container, &running.instance, &complain, &mut watchers);
        let process = running.instance.process.clone();
        let mut stop = self.stop.clone();
        tokio::select! {
            _ = process.wait() => {}
            () = stop_requested(&mut stop) => {
                watchers.abort_all();
                self.note(&container.name, "Killing", format!("Stopping container {}", container.name));
                self.stop_instance(&container, &running.instance, None).await;
            }
            () = self.image_changed(&container) => {
                watchers.abort_all();
                replaced = true;
                self.note(&container.name, "Killing", format!("Container {} definition changed, will be restarted", container.name));
                self.stop_instance(&container, &running.instance, Some(self.runtime.grace())).await;
            }
            Some(complaint) = complaints.recv() => {
                watchers.abort_all();
                let Complaint { reason, grace } = complaint;
                self.note(&container.name, "Killing", format!("Container {} {reason}, will be restarted", container.name));
                self.stop_instance(&container, &running.instance, Some(grace)).await;
            }
        }
        watchers.abort_all();
        let exit = tokio::time::timeout(KILL_PATIENCE, process.wait()).await;
        let exit = exit.unwrap_or(Exit {
            code: 255,
            signal: None,
            at: Timestamp::now(),
        });
        self.note_end(&running, exit);
        remove_instance(&self.runtime, &running.instance.id, &running.workspace, &running.group);
        (exit.code, replaced)
    }

    /// Returns when the pod names another image for this container than the one it was started from.
    async fn image_changed(&self, started: &Container) {
        let mut revised = self.runtime.pod_changed.subscribe();
        loop {
            if self.spec().is_some_and(|now| now.image != started.image) {
                return;
            }
            if revised.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Puts the end into the pod's state.
    fn note_end(&self, running: &Running, exit: Exit) {
        let out_of_memory = exit.code == 137 && self.runtime.context.cgroups.oom_kills(&running.group) > 0;
        let reason = match exit.code {
            0 => "Completed",
            _ if out_of_memory => "OOMKilled",
            _ => "Error",
        };
        let ended = ContainerStateTerminated {
            exit_code: exit.code,
            reason: Some(reason.to_owned()),
            message: running.workspace.last_words(),
            started_at: Some(Time(running.since)),
            finished_at: Some(Time(exit.at)),
            container_id: Some(format!("runc://{}", running.instance.id)),
            ..ContainerStateTerminated::default()
        };
        self.runtime.update_container(self.slot, |container| {
            container.life = Life::Terminated(ended);
            container.started = false;
            container.ready = false;
            container.instance = None;
        });
    }

    fn note_start_error(&self, error: &NodeError) {
        let now = Timestamp::now();
        let message = error.chain();
        let name = self.spec().map(|container| container.name).unwrap_or_default();
        self.warn(&name, "Failed", format!("Error: {message}"));
        self.runtime.update_container(self.slot, |container| {
            if let Life::Terminated(ended) = &container.life {
                container.last = Some(ended.clone());
            }
            container.life = Life::Terminated(ContainerStateTerminated {
                exit_code: 128,
                reason: Some("StartError".to_owned()),
                message: Some(message),
                started_at: Some(Time(Timestamp::UNIX_EPOCH)),
                finished_at: Some(Time(now)),
                container_id: container.id.as_ref().map(|id| format!("runc://{id}")),
                ..ContainerStateTerminated::default()
            });
        });
    }

    fn restarts_after(&self, code: i32, sidecar: bool) -> bool {
        match self.runtime.restart_policy().as_str() {
            _ if sidecar => true,
            _ if self.slot.kind == Kind::Ephemeral => false,
            "Never" => false,
            "OnFailure" => code != 0,
            // A pod that always restarts still wants each init container to succeed only once.
            _ => self.slot.kind != Kind::Init || code != 0,
        }
    }

    /// Waits before the next start; false when the container is to end.
    async fn back_off(&mut self, lived: Duration) -> bool {
        let limits = self.runtime.context.config.back_off;
        if lived >= limits.reset {
            self.pause = Duration::ZERO;
        }
        let pause = self.pause;
        self.pause = if pause.is_zero() {
            limits.first
        } else {
            (pause * 2).min(limits.longest)
        };
        if pause.is_zero() {
            return true;
        }
        let name = self.spec().map(|container| container.name).unwrap_or_default();
        let runtime = &self.runtime;
        let pod = format!("{}_{}({})", runtime.name, runtime.namespace, runtime.uid);
        let message = format!(
            "back-off {}s restarting failed container={name} pod={pod}",
            pause.as_secs_f32()
        );
        self.warn(
            &name,
            "BackOff",
            format!("Back-off restarting failed container {name} in pod {pod}"),
        );
        self.wait_state("CrashLoopBackOff", message);
        self.sleep(pause).await
    }

    /// preStop, SIGTERM, SIGKILL. The time is the given one, or what the pod is granted; never longer than the latter.
    async fn stop_instance(&self, container: &Container, instance: &Instance, grace: Option<Duration>) {
        let process = &instance.process;
        let mut stop = self.stop.clone();
        let own = grace.map(|grace| Instant::now() + grace);
        let deadline = tokio::spawn(async move { deadline_passed(&mut stop, own).await });
        let abort = deadline.abort_handle();
        let gentle = async {
            if let Some(hook) = container
                .lifecycle
                .as_ref()
                .and_then(|lifecycle| lifecycle.pre_stop.as_ref())
                && let Err(message) = self.hook(container, instance, hook).await
            {
                self.warn(&container.name, "FailedPreStopHook", message);
            }
            process.signal(stop_signal(container));
            process.wait().await;
        };
        tokio::select! {
            () = gentle => {}
            _ = process.wait() => {}
            _ = deadline => {
                process.signal(Signal::KILL);
                // A frozen process would not die.
                let group = format!("{}/{}", self.runtime.control_group(), instance.id);
                if tokio::time::timeout(Duration::from_millis(500), process.wait()).await.is_err()
                    && let Err(error) = self.runtime.context.cgroups.kill(&group, KILL_PATIENCE).await
                {
                    tracing::warn!(error = %error.chain(), "container not killed");
                }
            }
        }
        abort.abort();
    }

    pub(crate) async fn hook(
        &self,
        container: &Container,
        instance: &Instance,
        hook: &LifecycleHandler,
    ) -> Result<(), String> {
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        let action = hook
            .exec
            .as_ref()
            .map(Action::Exec)
            .or_else(|| hook.http_get.as_ref().map(Action::Http));
        let Some(action) = action else { return Ok(()) };
        let aim = self.aim(container, instance);
        // The grace period around the whole stop ends it earlier.
        probes::attempt(&aim, action, Duration::from_hours(1)).await
    }

    pub(crate) fn aim<'a>(&'a self, container: &'a Container, instance: &'a Instance) -> Aim<'a> {
        let address = self
            .runtime
            .state()
            .pod_address
            .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
        Aim {
            runc: &self.runtime.context.runc,
            instance,
            container,
            address,
        }
    }

    /// Starts the postStart hook and the probes of an instance.
    fn watch_over(
        &self,
        container: &Container,
        instance: &Instance,
        complain: &mpsc::Sender<Complaint>,
        watchers: &mut JoinSet<()>,
    ) {
        let observer = Observer {
            task: Self {
                runtime: Arc::clone(&self.runtime),
                slot: self.slot,
                volumes: Arc::clone(&self.volumes),
                stop: self.stop.clone(),
                pause: Duration::ZERO,
            },
            container: container.clone(),
            instance: instance.clone(),
            complain: complain.clone(),
        };
        let observer = Arc::new(observer);
        if let Some(hook) = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.clone())
        {
            let observer = Arc::clone(&observer);
            watchers.spawn(async move { observer.post_start(&hook).await });
        }
        watchers.spawn(async move { observer.probe_all().await });
    }
}

/// Says no to what the lab does not do, instead of pretending.
fn refuse_unsupported(container: &Container) -> Result<(), NodeError> {
    let all = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    if all.into_iter().flatten().any(|probe| probe.grpc.is_some()) {
        return Err(NodeError::Pod(
            "gRPC probes are not offered by the lab; use httpGet, tcpSocket or exec".to_owned(),
        ));
    }
    Ok(())
}

/// An image without files has no program but its own.
fn refuse_missing_program(container: &Container, image: Option<&Image>) -> Result<(), NodeError> {
    match container.command.as_ref().and_then(|command| command.first()) {
        Some(program) if image.is_some_and(|image| image.bare) => Err(NodeError::Pod(format!(
            "exec: \"{program}\": executable file not found in $PATH"
        ))),
        _ => Ok(()),
    }
}

/// The signal that asks a container to end.
fn stop_signal(container: &Container) -> Signal {
    match container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref())
    {
        Some("SIGINT") => Signal::INT,
        Some("SIGQUIT") => Signal::QUIT,
        Some("SIGHUP") => Signal::HUP,
        Some("SIGUSR1") => Signal::USR1,
        Some("SIGUSR2") => Signal::USR2,
        Some("SIGKILL") => Signal::KILL,
        _ => Signal::TERM,
    }
}

/// Returns when the time granted is over, however it changes meanwhile.
async fn deadline_passed(stop: &mut watch::Receiver<Stop>, own: Option<Instant>) {
    loop {
        let granted = match *stop.borrow_and_update() {
            Stop::Now => return,
            Stop::By(deadline) => Some(deadline),
            Stop::No => None,
        };
        let deadline = [own, granted].into_iter().flatten().min();
        let passed = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = passed => return,
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

async fn finish(task: tokio::task::JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::debug!(%error, "a log pump failed");
    }
}

/// Removes what an ended instance leaves, in the background: its control group, runc's record, its files.
fn remove_instance(runtime: &Arc<PodRuntime>, id: &str, workspace: &Workspace, group: &str) {
    let (id, group, context) = (id.to_owned(), group.to_owned(), Arc::clone(&runtime.context));
    let workspace = workspace.clone();
    runtime.leftovers.spawn(async move {
        if let Err(error) = context.cgroups.kill(&group, KILL_PATIENCE).await {
            tracing::warn!(error = %error.chain(), "processes left");
        }
        if let Err(error) = context.cgroups.remove(&group) {
            tracing::warn!(error = %error.chain(), "control group left");
        }
        context.runc.forget(&id);
        workspace.remove();
    });
}
