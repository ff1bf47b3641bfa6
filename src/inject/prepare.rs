//! What a fault needs to know before it is armed, and how everything that it will do is taken back. Reads, and changes nothing.

use super::stage::{InjectError, Stage};
use super::{chaos_mesh, inside, litmus, netns, nodes, objects, partition};
use crate::fault::{FaultKind, FaultSpec, FaultTarget, Injector, Undo};

/// A fault that only has to be armed and fired.
pub(crate) struct Prepared {
    /// Number of the fault within the experiment, from 0.
    pub(crate) index: usize,
    pub(crate) spec: FaultSpec,
    pub(crate) targets: Vec<FaultTarget>,
    /// What it is called wherever it leaves a trace.
    pub(crate) token: String,
    /// How it is taken back; nothing of it has been done yet.
    pub(crate) undo: Vec<Undo>,
    pub(super) detail: Detail,
}

/// What was read for one kind of fault.
pub(super) enum Detail {
    /// Nothing is needed but the pods.
    Pods,
    /// Arguments of the start script, for each target.
    Inside(Vec<inside::Script>),
    /// Nothing is needed but the nodes.
    Nodes,
    /// The change of an object.
    Object(objects::Change),
    /// The policy and how its effect is seen.
    Partition(partition::Plan),
    /// What runs beside each target.
    Netns(netns::Plan),
    /// The object of Chaos Mesh.
    ChaosMesh(chaos_mesh::Plan),
    /// The engine of Litmus.
    Litmus(Box<litmus::Plan>),
}

impl Stage {
    /// Prepares fault number `index` of the experiment.
    ///
    /// # Errors
    /// When it cannot be done here (nothing was touched), or the cluster cannot be asked.
    pub(crate) async fn prepare(
        &self,
        index: usize,
        spec: &FaultSpec,
        targets: Vec<FaultTarget>,
    ) -> Result<Prepared, InjectError> {
        let token = self.token(index);
        let (detail, undo) = match spec.injector {
            Injector::ChaosMesh => Box::pin(chaos_mesh::prepare(self, spec, &targets, &token)).await?,
            Injector::Litmus => Box::pin(litmus::prepare(self, spec, &targets, &token)).await?,
            Injector::Direct => self.prepare_direct(spec, &targets, &token).await?,
        };
        Ok(Prepared {
            index,
            spec: spec.clone(),
            targets,
            token,
            undo,
            detail,
        })
    }

    async fn prepare_direct(
        &self,
        spec: &FaultSpec,
        targets: &[FaultTarget],
        token: &str,
    ) -> Result<(Detail, Vec<Undo>), InjectError> {
        match &spec.kind {
            FaultKind::PodKill { .. } | FaultKind::PodEvict { .. } | FaultKind::ContainerKill { .. } => {
                Ok((Detail::Pods, vec![Undo::Nothing]))
            }
            FaultKind::ProcessPause { .. }
            | FaultKind::MemoryStress { .. }
            | FaultKind::CpuStress { .. }
            | FaultKind::DiskFill { .. }
            | FaultKind::StorageLoss { .. } => inside::prepare(self, spec, targets, token).await,
            FaultKind::NodeCordon {} | FaultKind::NodeDrain { .. } => Ok((Detail::Nodes, nodes::undo(targets))),
            FaultKind::Scale { .. } | FaultKind::DeleteResource { .. } | FaultKind::ImagePullFailure { .. } => {
                objects::prepare(self, spec, targets, token).await
            }
            FaultKind::NetworkPartition { .. } => partition::prepare(self, spec, targets, token).await,
            FaultKind::NetworkLoss { .. }
            | FaultKind::NetworkDelay { .. }
            | FaultKind::NetworkBandwidth { .. }
            | FaultKind::DnsFailure {} => netns::prepare(self, spec, targets, token).await,
            FaultKind::ChaosMesh { resource, .. } => Err(InjectError::Refused(format!(
                "a {resource} is an object of Chaos Mesh: nobody else can do it"
            ))),
            FaultKind::IoDelay { .. }
            | FaultKind::IoError { .. }
            | FaultKind::ClockSkew { .. }
            | FaultKind::HttpFault { .. }
            | FaultKind::JvmFault { .. } => Err(InjectError::Refused(format!(
                "nobody but Chaos Mesh can do {}",
                spec.kind.with_article()
            ))),
            FaultKind::Litmus { experiment, .. } => Err(InjectError::Refused(format!(
                "{experiment} is an experiment of Litmus: nobody else can do it"
            ))),
        }
    }
}
