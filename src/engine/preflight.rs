//! What must be true before anything is touched: the namespace is not protected, the target exists, the permissions are held.

use super::error::EngineError;
use crate::cluster::{Cluster, Manifest, SESSION_VERBS, Verb, missing_permissions};
use crate::experiment::{Check, Experiment, Target, Workload};
use crate::inject;
use crate::observe::{ResolvedTarget, all_probes, own_kind, resolve};
use crate::plan::protected_namespace;
use crate::world::Clock;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use std::collections::BTreeSet;
use std::time::Duration;

/// Refuses protected namespaces.
///
/// # Errors
/// [`EngineError::Refused`].
pub(crate) fn check_namespace(experiment: &Experiment) -> Result<(), EngineError> {
    match protected_namespace(experiment) {
        None => Ok(()),
        Some(pattern) => Err(EngineError::Refused(format!(
            "namespace {} is protected (guards.protectedNamespaces has {pattern}); nothing was touched",
            experiment.target.namespace
        ))),
    }
}

/// Finds the target, waiting up to `patience` for it to appear.
///
/// # Errors
/// When the cluster cannot be asked, or the target is not there in time.
pub(crate) async fn find_target(
    cluster: &Cluster,
    clock: Clock,
    target: &Target,
    patience: Duration,
) -> Result<ResolvedTarget, EngineError> {
    let deadline = clock.now().plus(patience);
    loop {
        if let Some(found) = resolve(cluster, target).await? {
            return Ok(found);
        }
        if clock.now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    let namespace = &target.namespace;
    let known = cluster
        .call_opt(format!("look for namespace {namespace}"), namespaces.get(namespace))
        .await;
    let title = title(target);
    Err(EngineError::Refused(match known {
        Ok(None) => format!(
            "namespace {namespace} does not exist, so there is no {title}; create it or correct target.namespace"
        ),
        Ok(Some(_)) | Err(_) => format!(
            "there is no {title} in namespace {namespace}; deploy it, name its manifest in setup.manifests, or correct the target"
        ),
    }))
}

/// The manifests that have to be applied: none when the setup is for a missing target only, and the target is there.
///
/// # Errors
/// When the cluster cannot be asked, or the target is missing and no manifest makes it.
pub(crate) async fn needed_setup(
    cluster: &Cluster,
    experiment: &Experiment,
    manifests: Vec<Manifest>,
) -> Result<Vec<Manifest>, EngineError> {
    if !experiment.setup.unless_target_exists || manifests.is_empty() {
        return Ok(manifests);
    }
    let target = &experiment.target;
    if resolve(cluster, target).await?.is_some() {
        return Ok(Vec::new());
    }
    let makes = |manifest: &Manifest| {
        own_kind(target).is_none_or(|(resource, name)| manifest.is_in(&resource.kind, &target.namespace, &name))
    };
    if manifests.iter().any(makes) {
        return Ok(manifests);
    }
    Err(EngineError::Refused(format!(
        "there is no {} in namespace {}, and no manifest of the setup makes it, so nothing was touched; deploy it, or correct the target",
        title(target),
        target.namespace
    )))
}

/// `SparkApplication orders` for people.
pub(crate) fn title(target: &Target) -> String {
    match &target.workload {
        Workload::SparkApplication { name } => format!("SparkApplication {name}"),
        Workload::Deployment { name } => format!("Deployment {name}"),
        Workload::StatefulSet { name } => format!("StatefulSet {name}"),
        Workload::Job { name } => format!("Job {name}"),
        Workload::Labels { labels } => {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("pod with {}", labels.join(", "))
        }
    }
}

/// Does any probe ask Prometheus?
pub(crate) fn uses_prometheus(experiment: &Experiment) -> bool {
    all_probes(experiment).any(|probe| matches!(probe.check, Check::Promql { .. }))
}

/// Every verb that an experiment needs in its namespace.
pub(crate) fn needed_permissions(experiment: &Experiment) -> Vec<Verb> {
    let namespace = &experiment.target.namespace;
    let verb = |verb, group: &str, resource: &str, purpose| Verb {
        verb,
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.clone(),
        purpose,
    };
    let mut verbs: BTreeSet<Verb> = BTreeSet::new();
    for word in ["list", "watch"] {
        verbs.insert(verb(word, "", "pods", "observe the target"));
    }
    for word in ["get", "create", "delete"] {
        verbs.insert(verb(word, "batch", "jobs", "make the guard Job"));
        verbs.insert(verb(word, "", "configmaps", "make the journal"));
    }
    verbs.insert(verb("patch", "", "configmaps", "tick the revision clock"));
    verbs.insert(verb("patch", "batch", "jobs", "renew the guard Job"));
    for word in ["get", "create", "delete"] {
        verbs.insert(verb(word, "coordination.k8s.io", "leases", "keep other runs away"));
    }
    if let Some((resource, _)) = own_kind(&experiment.target) {
        for word in ["get", "list", "watch"] {
            verbs.insert(verb(word, &resource.group, &resource.plural, "observe the target"));
        }
    }
    if matches!(experiment.target.workload, Workload::Deployment { .. }) {
        verbs.insert(verb("get", "apps", "replicasets", "tell the target's pods from others"));
    }
    if experiment
        .ledger
        .as_ref()
        .is_some_and(crate::experiment::Ledger::uses_pod)
    {
        for word in SESSION_VERBS {
            verbs.insert(verb(word, "", "pods/exec", "read the ledger"));
        }
    }
    for probe in all_probes(experiment) {
        match &probe.check {
            Check::Metrics { .. } => {
                for word in SESSION_VERBS {
                    verbs.insert(verb(word, "", "pods/portforward", "scrape metrics"));
                }
            }
            Check::Log { .. } => {
                verbs.insert(verb("get", "", "pods/log", "read logs"));
            }
            Check::Pods { .. }
            | Check::Resource { .. }
            | Check::Promql { .. }
            | Check::Http { .. }
            | Check::Command { .. }
            | Check::Progress { .. } => {}
        }
    }
    for fault in &experiment.faults {
        verbs.extend(inject::needed_verbs(fault, &experiment.target));
    }
    verbs.into_iter().collect()
}

/// Refuses when a permission is missing, naming every one.
///
/// # Errors
/// [`EngineError::Refused`], or the cluster cannot be asked.
pub(crate) async fn check_permissions(cluster: &Cluster, experiment: &Experiment) -> Result<(), EngineError> {
    let missing = missing_permissions(cluster, &needed_permissions(experiment)).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(EngineError::Refused(format!(
        "permissions are missing: {}",
        lines.join("; ")
    )))
}
