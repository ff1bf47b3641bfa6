//! Faults: from the file's words to values, and what can be said of each without a cluster.

use super::fault_file::{FaultFile, PeerFile, Selecting};
use super::file::{AmountText, DurationText, ModeFile, PercentText};
use super::injectors::{injector_word, own_injector};
use super::quantity::{amount, bit_rate, duration, percent};
use super::resolve::Resolver;
use super::types::{Target, Workload};
use crate::fault::{Amount, Direction, FaultKind, FaultSpec, Injector, Mode, ObjectRef, Peer, Signal, StorageLoss};
use crate::model::Role;
use std::time::Duration;

/// What a fault does, and to which pods.
pub(super) struct Selection {
    kind: FaultKind,
    role: Option<Role>,
    labels: Vec<(String, String)>,
}

/// The optional parts that name an object.
struct Named<'a> {
    api_version: Option<&'a String>,
    kind: Option<&'a String>,
    namespace: Option<&'a String>,
    name: Option<&'a String>,
}

impl Resolver<'_> {
    pub(super) fn faults(&mut self, files: &[FaultFile], target: &Target) -> Vec<FaultSpec> {
        if self.places.empty("/faults") {
            self.error(
                "no-fault",
                self.at("/faults"),
                "there is no fault",
                Some("give at least one, such as podKill or networkPartition"),
            );
        }
        files
            .iter()
            .enumerate()
            .map(|(index, file)| self.fault(&format!("/faults/{index}"), file, target))
            .collect()
    }

    pub(super) fn repeats(&mut self, files: &[FaultFile]) -> Vec<Option<Repeat>> {
        let mut repeats = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let Some(held) = &file.repeat else {
                repeats.push(None);
                continue;
            };
            let at = format!("/faults/{index}/repeat/every");
            let every = self.duration(&at, Some(&held.every), Duration::from_secs(10));
            let lasts = file
                .duration
                .as_ref()
                .and_then(|text| duration(&text.0).ok())
                .unwrap_or_default();
            if every < Duration::from_secs(1) || every <= lasts {
                let help = "each must be over before the next one begins, and a second apart";
                let message = "the repetitions of this fault would overlap";
                self.error("repeat", self.at(&at), message, Some(help));
            }
            repeats.push(Some(Repeat {
                times: held.times,
                every,
            }));
        }
        repeats
    }

    /// A fault that cannot be understood keeps its place in the list, so that the problems of the others are shown in theirs.
    fn fault(&mut self, pointer: &str, file: &FaultFile, target: &Target) -> FaultSpec {
        if file.name.trim().is_empty() && self.places.written(&format!("{pointer}/name")) {
            self.error(
                "name",
                self.at(&format!("{pointer}/name")),
                "a fault needs a name",
                None,
            );
        }
        self.one_of(pointer, &format!("the fault {:?}", file.name), &present(file));
        let selection = self
            .on_pods(pointer, file)
            .or_else(|| self.inside(pointer, file))
            .or_else(|| self.on_network(pointer, file, target))
            .or_else(|| self.by_chaos_mesh_only(pointer, file))
            .or_else(|| self.on_objects(pointer, file, target))
            .unwrap_or(Selection {
                kind: FaultKind::PodKill { grace_seconds: 0 },
                role: None,
                labels: Vec::new(),
            });
        let mode = match &file.mode {
            Some(ModeFile::Word(word)) if word == "all" => Mode::All,
            None | Some(ModeFile::Word(_)) => Mode::One,
            Some(ModeFile::Fixed(count)) => Mode::Fixed(*count),
            Some(ModeFile::Percent(percent)) => Mode::Percent(*percent),
        };
        let own = own_injector(&selection.kind);
        let injector = own.or_else(|| injector_word(file)).unwrap_or(Injector::Direct);
        self.injector(pointer, file, &selection.kind, injector);
        FaultSpec {
            name: file.name.clone(),
            duration: self.lasts(pointer, file, &selection.kind),
            kind: selection.kind,
            role: selection.role,
            labels: selection.labels,
            mode,
            injector,
            may_be_replaced: file.may_be_replaced.unwrap_or_default(),
            after: self.duration(&format!("{pointer}/after"), file.after.as_ref(), Duration::ZERO),
        }
    }

    /// The duration, where there must be one, and nowhere else.
    fn lasts(&mut self, pointer: &str, file: &FaultFile, kind: &FaultKind) -> Option<Duration> {
        let at = format!("{pointer}/duration");
        if kind.is_one_shot() {
            if file.may_be_replaced == Some(true) {
                self.error(
                    "duration",
                    self.at(&format!("{pointer}/mayBeReplaced")),
                    format!(
                        "{} is over at once: its victim is meant to be replaced",
                        kind.with_article()
                    ),
                    Some("leave it out"),
                );
            }
            if file.duration.is_some() {
                self.error(
                    "duration",
                    self.at(&at),
                    format!("{} is over at once and has no duration", kind.with_article()),
                    Some("leave it out"),
                );
            }
            return None;
        }
        let Some(text) = &file.duration else {
            if self.places.written(&format!("{pointer}/{}", kind.word())) {
                self.error(
                    "duration",
                    self.places.key(&format!("{pointer}/{}", kind.word())),
                    format!("{} lasts, so it needs a duration", kind.with_article()),
                    Some("say how long beside it, such as duration: 30s"),
                );
            }
            return Some(Duration::from_secs(30));
        };
        let duration = self.duration(&at, Some(text), Duration::from_secs(30));
        if duration < Duration::from_secs(1) {
            self.error(
                "duration",
                self.at(&at),
                "a fault that lasts must last for a second",
                None,
            );
        }
        Some(duration)
    }

    fn on_pods(&mut self, pointer: &str, file: &FaultFile) -> Option<Selection> {
        if let Some(held) = &file.pod_kill {
            let grace_seconds =
                self.whole_seconds(&format!("{pointer}/podKill/gracePeriod"), held.grace_period.as_ref());
            let kind = FaultKind::PodKill {
                grace_seconds: grace_seconds.unwrap_or(0),
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.pod_evict {
            let at = format!("{pointer}/podEvict/gracePeriod");
            let grace_seconds = self.whole_seconds(&at, held.grace_period.as_ref());
            return Some(self.selection(pointer, FaultKind::PodEvict { grace_seconds }, held));
        }
        if let Some(held) = &file.node_cordon {
            return Some(self.selection(pointer, FaultKind::NodeCordon {}, held));
        }
        if let Some(held) = &file.node_drain {
            let at = format!("{pointer}/nodeDrain/gracePeriod");
            let grace_seconds = self.whole_seconds(&at, held.grace_period.as_ref());
            return Some(self.selection(pointer, FaultKind::NodeDrain { grace_seconds }, held));
        }
        if let Some(held) = &file.chaos_mesh {
            let kind = FaultKind::ChaosMesh {
                resource: held.kind.clone(),
                spec: serde_json::Value::Object(held.spec.clone()),
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.litmus {
            let kind = FaultKind::Litmus {
                experiment: held.experiment.clone(),
                env: held.env.clone(),
            };
            return Some(self.selection(pointer, kind, held));
        }
        None
    }

    fn inside(&mut self, pointer: &str, file: &FaultFile) -> Option<Selection> {
        if let Some(held) = &file.container_kill {
            let signal = match held.signal.as_deref() {
                Some("TERM") => Signal::Term,
                Some("INT") => Signal::Int,
                Some("SEGV") => Signal::Segv,
                Some("ABRT") => Signal::Abrt,
                _ => Signal::Kill,
            };
            let container = held.container.clone();
            return Some(self.selection(pointer, FaultKind::ContainerKill { container, signal }, held));
        }
        if let Some(held) = &file.process_pause {
            let container = held.container.clone();
            return Some(self.selection(pointer, FaultKind::ProcessPause { container }, held));
        }
        if let Some(held) = &file.memory_stress {
            let kind = FaultKind::MemoryStress {
                container: held.container.clone(),
                amount: self.amount(&format!("{pointer}/memoryStress/size"), &held.size),
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.cpu_stress {
            let load = held.load.as_ref();
            let kind = FaultKind::CpuStress {
                container: held.container.clone(),
                workers: held.workers.unwrap_or(1),
                load: load.map_or(100, |text| self.percent(&format!("{pointer}/cpuStress/load"), text)),
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.disk_fill {
            self.absolute(&format!("{pointer}/diskFill/path"), &held.path);
            let at = format!("{pointer}/diskFill/size");
            let amount = self.amount(&at, &held.size);
            if matches!(amount, Amount::Percent(percent) if percent > 100) {
                self.error("amount", self.at(&at), "a filesystem is full at 100 %", None);
            }
            let kind = FaultKind::DiskFill {
                container: held.container.clone(),
                path: held.path.clone(),
                amount,
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.storage_loss {
            self.absolute(&format!("{pointer}/storageLoss/path"), &held.path);
            let kind = FaultKind::StorageLoss {
                container: held.container.clone(),
                path: held.path.trim_end_matches('/').to_owned(),
                how: match held.how.as_deref() {
                    Some("unreadable") => StorageLoss::Unreadable,
                    _ => StorageLoss::Removed,
                },
            };
            return Some(self.selection(pointer, kind, held));
        }
        None
    }

    fn on_network(&mut self, pointer: &str, file: &FaultFile, target: &Target) -> Option<Selection> {
        if let Some(held) = &file.network_partition {
            let at = format!("{pointer}/networkPartition/peer");
            let kind = FaultKind::NetworkPartition {
                peer: held.peer.as_ref().and_then(|peer| self.peer(&at, peer, target)),
                direction: match held.direction.as_deref() {
                    Some("to") => Direction::To,
                    Some("from") => Direction::From,
                    _ => Direction::Both,
                },
                ports: held.ports.clone(),
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.network_loss {
            let percent = self.percent(&format!("{pointer}/networkLoss/percent"), &held.percent);
            return Some(self.selection(pointer, FaultKind::NetworkLoss { percent }, held));
        }
        if let Some(held) = &file.network_delay {
            let at = format!("{pointer}/networkDelay");
            let latency = self.duration(&format!("{at}/latency"), Some(&held.latency), Duration::ZERO);
            let jitter = self.duration(&format!("{at}/jitter"), held.jitter.as_ref(), Duration::ZERO);
            if latency < Duration::from_millis(1) {
                let place = self.at(&format!("{at}/latency"));
                self.error("latency", place, "a delay below 1 ms could not be told from none", None);
            }
            if jitter > latency {
                let place = self.at(&format!("{at}/jitter"));
                self.error("latency", place, "the jitter is larger than the latency", None);
            }
            return Some(self.selection(pointer, FaultKind::NetworkDelay { latency, jitter }, held));
        }
        if let Some(held) = &file.network_bandwidth {
            let kilobits = bit_rate(&held.rate.0).unwrap_or_else(|why| {
                let place = self.at(&format!("{pointer}/networkBandwidth/rate"));
                self.error("rate", place, why, None);
                1
            });
            return Some(self.selection(pointer, FaultKind::NetworkBandwidth { kilobits }, held));
        }
        if let Some(held) = &file.dns_failure {
            return Some(self.selection(pointer, FaultKind::DnsFailure {}, held));
        }
        None
    }

    fn on_objects(&mut self, pointer: &str, file: &FaultFile, target: &Target) -> Option<Selection> {
        let kind = if let Some(held) = &file.scale {
            let named = Named {
                api_version: held.api_version.as_ref(),
                kind: held.kind.as_ref(),
                namespace: held.namespace.as_ref(),
                name: held.name.as_ref(),
            };
            FaultKind::Scale {
                object: self.object(&format!("{pointer}/scale"), &named, target),
                replicas: held.replicas,
            }
        } else if let Some(held) = &file.delete_resource {
            let named = Named {
                api_version: held.api_version.as_ref(),
                kind: held.kind.as_ref(),
                namespace: held.namespace.as_ref(),
                name: held.name.as_ref(),
            };
            FaultKind::DeleteResource {
                object: self.object(&format!("{pointer}/deleteResource"), &named, target),
            }
        } else {
            FaultKind::ImagePullFailure {
                container: file.image_pull_failure.as_ref()?.container.clone(),
            }
        };
        self.has_object(pointer, &kind, target);
        Some(Selection {
            kind,
            role: None,
            labels: Vec::new(),
        })
    }

    /// A fault on the target's own object needs one that can suffer it.
    fn has_object(&mut self, pointer: &str, kind: &FaultKind, target: &Target) {
        if kind.on_object() != Some(None) {
            return;
        }
        let scalable = matches!(
            target.workload,
            Workload::Deployment { .. } | Workload::StatefulSet { .. }
        );
        let fits = match kind {
            FaultKind::DeleteResource { .. } => !matches!(target.workload, Workload::Labels { .. }),
            _ => scalable,
        };
        if !fits {
            let help = match kind {
                FaultKind::ImagePullFailure { .. } => "the target must be a deployment or a statefulSet",
                _ => "name an object by apiVersion, kind and name",
            };
            self.error(
                "cannot-match",
                self.places.key(&format!("{pointer}/{}", kind.word())),
                format!("this kind of target has nothing that {} could change", kind.word()),
                Some(help),
            );
        }
    }

    fn object(&mut self, pointer: &str, named: &Named<'_>, target: &Target) -> Option<ObjectRef> {
        match (named.api_version, named.kind, named.name) {
            (None, None, None) => {
                if named.namespace.is_some() {
                    let place = self.at(&format!("{pointer}/namespace"));
                    let help = "give apiVersion, kind and name as well, or leave it out";
                    self.error("object", place, "a namespace without an object", Some(help));
                }
                None
            }
            (Some(api_version), Some(kind), Some(name)) => {
                self.object_name(&format!("{pointer}/name"), name);
                if let Some(namespace) = named.namespace {
                    self.dns_name(&format!("{pointer}/namespace"), namespace, 63);
                }
                Some(ObjectRef {
                    api_version: api_version.clone(),
                    kind: kind.clone(),
                    namespace: named.namespace.unwrap_or(&target.namespace).clone(),
                    name: name.clone(),
                })
            }
            _ => {
                let help = "give all three, or none for the target's own object";
                let place = self.places.key(pointer);
                self.error("object", place, "apiVersion, kind and name belong together", Some(help));
                None
            }
        }
    }

    fn peer(&mut self, pointer: &str, file: &PeerFile, target: &Target) -> Option<Peer> {
        let present = [
            ("role", file.role.is_some()),
            ("labels", file.labels.is_some()),
            ("cidr", file.cidr.is_some()),
        ];
        if !self.one_of(pointer, "the peer", &present) {
            return None;
        }
        if let Some(range) = &file.cidr {
            if !is_range(range) {
                let help = "write an IPv4 address and a length: 10.9.0.0/16, or 10.9.0.7/32 for one address";
                let place = self.at(&format!("{pointer}/cidr"));
                self.error("cidr", place, format!("{range:?} is no address range"), Some(help));
            }
            return Some(Peer::Cidr(range.clone()));
        }
        let namespace = file.namespace.clone().unwrap_or_else(|| target.namespace.clone());
        self.dns_name(&format!("{pointer}/namespace"), &namespace, 63);
        if file.role.is_some() {
            let role = self.role(&format!("{pointer}/role"), file.role.as_ref())?;
            let Workload::SparkApplication { name } = &target.workload else {
                return None;
            };
            // Spark's scheduler sets the one, its operator the other; see specs/spark-on-kubernetes.md, 1.6.
            let labels = vec![
                ("spark-role".to_owned(), role.0),
                ("sparkoperator.k8s.io/app-name".to_owned(), name.clone()),
            ];
            return Some(Peer::Pods { namespace, labels });
        }
        let labels = self.labels(&format!("{pointer}/labels"), file.labels.as_ref());
        if labels.is_empty() {
            let place = self.at(&format!("{pointer}/labels"));
            let help = "leave the peer out when everybody is meant";
            self.error("selector-empty", place, "a peer needs at least one label", Some(help));
        }
        Some(Peer::Pods { namespace, labels })
    }

    pub(super) fn selection(&mut self, pointer: &str, kind: FaultKind, held: &impl Selecting) -> Selection {
        let pointer = format!("{pointer}/{}", kind.word());
        Selection {
            kind,
            role: self.role(&format!("{pointer}/role"), held.role()),
            labels: self.labels(&format!("{pointer}/labels"), held.labels()),
        }
    }

    fn whole_seconds(&mut self, pointer: &str, text: Option<&DurationText>) -> Option<u32> {
        let grace = self.duration(pointer, Some(text?), Duration::ZERO);
        if grace.subsec_millis() != 0 {
            self.error(
                "grace",
                self.at(pointer),
                "Kubernetes counts grace periods in whole seconds",
                None,
            );
        }
        Some(u32::try_from(grace.as_secs()).unwrap_or(u32::MAX))
    }

    fn amount(&mut self, pointer: &str, text: &AmountText) -> Amount {
        amount(&text.0).unwrap_or_else(|why| {
            self.error("amount", self.at(pointer), why, None);
            Amount::Bytes(1)
        })
    }

    pub(super) fn percent(&mut self, pointer: &str, text: &PercentText) -> u8 {
        percent(&text.0).unwrap_or_else(|why| {
            self.error("percent", self.at(pointer), why, None);
            100
        })
    }

    fn absolute(&mut self, pointer: &str, path: &str) {
        let plain =
            path.starts_with('/') && !path.trim_matches('/').is_empty() && !path.split('/').any(|part| part == "..");
        if !plain {
            let message = format!("{path:?} is no path that can be lost: it must be absolute, and not the root");
            self.error("path", self.at(pointer), message, None);
        }
    }
}

/// A repeated fault as the faults that it stands for: each has a name and an offset of its own, and chooses its targets anew.
pub(super) fn repeated(faults: Vec<FaultSpec>, repeats: &[Option<Repeat>]) -> Vec<FaultSpec> {
    let mut all = Vec::new();
    for (index, fault) in faults.into_iter().enumerate() {
        let repeat = repeats.get(index).copied().flatten().unwrap_or(Repeat {
            times: 1,
            every: Duration::ZERO,
        });
        for number in 1..=repeat.times {
            let mut one = fault.clone();
            if number > 1 {
                one.name = format!("{} #{number}", fault.name);
            }
            one.after = fault.after + repeat.every * (number - 1);
            all.push(one);
        }
    }
    all
}

/// How often a fault is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeat {
    times: u32,
    every: Duration,
}

impl Repeat {
    /// From the first to the last.
    pub(super) fn span(self) -> Duration {
        self.every * self.times.saturating_sub(1)
    }
}

fn present(file: &FaultFile) -> [(&'static str, bool); 25] {
    [
        ("podKill", file.pod_kill.is_some()),
        ("podEvict", file.pod_evict.is_some()),
        ("containerKill", file.container_kill.is_some()),
        ("processPause", file.process_pause.is_some()),
        ("memoryStress", file.memory_stress.is_some()),
        ("cpuStress", file.cpu_stress.is_some()),
        ("diskFill", file.disk_fill.is_some()),
        ("storageLoss", file.storage_loss.is_some()),
        ("networkPartition", file.network_partition.is_some()),
        ("networkLoss", file.network_loss.is_some()),
        ("networkDelay", file.network_delay.is_some()),
        ("networkBandwidth", file.network_bandwidth.is_some()),
        ("dnsFailure", file.dns_failure.is_some()),
        ("nodeCordon", file.node_cordon.is_some()),
        ("nodeDrain", file.node_drain.is_some()),
        ("scale", file.scale.is_some()),
        ("deleteResource", file.delete_resource.is_some()),
        ("imagePullFailure", file.image_pull_failure.is_some()),
        ("ioDelay", file.io_delay.is_some()),
        ("ioError", file.io_error.is_some()),
        ("clockSkew", file.clock_skew.is_some()),
        ("httpFault", file.http_fault.is_some()),
        ("jvmFault", file.jvm_fault.is_some()),
        ("chaosMesh", file.chaos_mesh.is_some()),
        ("litmus", file.litmus.is_some()),
    ]
}

/// An IPv4 address and a prefix length.
fn is_range(text: &str) -> bool {
    let number = |text: &str, most: u16| {
        let digits = !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits && text.parse::<u16>().is_ok_and(|value| value <= most)
    };
    text.split_once('/').is_some_and(|(address, length)| {
        let octets: Vec<&str> = address.split('.').collect();
        octets.len() == 4 && octets.iter().all(|octet| number(octet, 255)) && number(length, 32)
    })
}
