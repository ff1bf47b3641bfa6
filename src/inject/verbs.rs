//! The verbs that a fault needs, in the target's namespace unless said otherwise.

use crate::cluster::{SESSION_VERBS, Verb};
use crate::experiment::{Target, Workload};
use crate::fault::{
    ChaosMeshObject, FaultKind, FaultSpec, Injector, LitmusEffect, ObjectRef, Peer, chaos_mesh_object,
    litmus_experiment,
};

/// Group and plural of an object, as far as they can be told without the cluster: Kubernetes' own plurals are regular.
fn plural_of(object: &ObjectRef) -> (String, String) {
    let group = object.api_version.split_once('/').map_or("", |(group, _)| group);
    (group.to_owned(), format!("{}s", object.kind.to_lowercase()))
}

fn own(target: &Target) -> Option<(String, String)> {
    let (group, plural) = match &target.workload {
        Workload::SparkApplication { .. } => ("sparkoperator.k8s.io", "sparkapplications"),
        Workload::Deployment { .. } => ("apps", "deployments"),
        Workload::StatefulSet { .. } => ("apps", "statefulsets"),
        Workload::Job { .. } => ("batch", "jobs"),
        Workload::Labels { .. } => return None,
    };
    Some((group.to_owned(), plural.to_owned()))
}

struct Verbs {
    namespace: String,
    verbs: Vec<Verb>,
}

impl Verbs {
    fn add(&mut self, words: &[&'static str], group: &str, resource: &str, purpose: &'static str) {
        let namespace = self.namespace.clone();
        self.add_in(&namespace, words, (group, resource), purpose);
    }

    fn add_in(
        &mut self,
        namespace: &str,
        words: &[&'static str],
        (group, resource): (&str, &str),
        purpose: &'static str,
    ) {
        self.verbs.extend(words.iter().map(|verb| Verb {
            verb,
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            purpose,
        }));
    }
}

/// Every verb that a fault needs, to be done and to be taken back.
pub(crate) fn needed_verbs(fault: &FaultSpec, target: &Target) -> Vec<Verb> {
    let mut verbs = Verbs {
        namespace: target.namespace.clone(),
        verbs: Vec::new(),
    };
    if fault.injector == Injector::ChaosMesh {
        if let Ok(object) = chaos_mesh_object(&fault.kind) {
            let purpose = "let Chaos Mesh do it";
            let words = ["get", "create", "patch", "delete"];
            verbs.add(&words, "chaos-mesh.org", &object.plural(), purpose);
            by_flow(&mut verbs, &object);
            verbs.add(&["list"], "", "events", "read what Chaos Mesh complains of");
            verbs.add(&["get"], "", "pods", "see whether Chaos Mesh can reach them");
        }
        if let FaultKind::NetworkPartition { peer, .. } = &fault.kind {
            // Its rights check asks for the right to create the fault on the other side as well.
            if let Some(Peer::Pods { namespace, .. }) = peer
                && *namespace != target.namespace
            {
                let purpose = "be allowed by Chaos Mesh to name pods there";
                verbs.add_in(namespace, &["create"], ("chaos-mesh.org", "networkchaos"), purpose);
            }
            traffic(&mut verbs, &fault.kind);
        }
        if matches!(fault.kind, FaultKind::MemoryStress { .. }) {
            verbs.add(&SESSION_VERBS, "", "pods/exec", "see whether the memory is held");
        }
        return verbs.verbs;
    }
    if fault.injector == Injector::Litmus {
        by_litmus(&mut verbs, fault);
        return verbs.verbs;
    }
    match &fault.kind {
        FaultKind::PodKill { .. } => verbs.add(&["delete"], "", "pods", "kill pods"),
        FaultKind::PodEvict { .. } => verbs.add(&["create"], "", "pods/eviction", "evict pods"),
        FaultKind::ContainerKill { .. } => verbs.add(&SESSION_VERBS, "", "pods/exec", "signal a container"),
        FaultKind::ProcessPause { .. }
        | FaultKind::MemoryStress { .. }
        | FaultKind::CpuStress { .. }
        | FaultKind::DiskFill { .. }
        | FaultKind::StorageLoss { .. } => {
            verbs.add(&SESSION_VERBS, "", "pods/exec", "run the fault in a container");
            verbs.add(&["get"], "", "pods", "read limits and volumes");
        }
        FaultKind::NetworkPartition { .. } => {
            let words = ["get", "create", "delete"];
            verbs.add(&words, "networking.k8s.io", "networkpolicies", "cut the network");
            verbs.add(&["patch", "get"], "", "pods", "mark the pods that are cut off");
            traffic(&mut verbs, &fault.kind);
        }
        FaultKind::NetworkLoss { .. }
        | FaultKind::NetworkDelay { .. }
        | FaultKind::NetworkBandwidth { .. }
        | FaultKind::DnsFailure {} => {
            verbs.add(&["patch"], "", "pods/ephemeralcontainers", "shape a pod's traffic");
            verbs.add(&["get"], "", "pods", "see whether it runs");
            verbs.add(&["get"], "", "pods/log", "read what it proves");
            verbs.add(&SESSION_VERBS, "", "pods/exec", "end it");
        }
        FaultKind::NodeCordon {} => verbs.add_in("", &["get", "patch"], ("", "nodes"), "cordon a node"),
        FaultKind::NodeDrain { .. } => {
            verbs.add_in("", &["get", "patch"], ("", "nodes"), "cordon a node");
            verbs.add(&["create"], "", "pods/eviction", "evict pods");
        }
        FaultKind::Scale { object, .. } => changed(&mut verbs, object.as_ref(), target, &["get", "patch"], "scale it"),
        FaultKind::ImagePullFailure { .. } => changed(&mut verbs, None, target, &["get", "patch"], "change its image"),
        FaultKind::DeleteResource { object } => {
            let words = ["get", "delete", "create"];
            changed(
                &mut verbs,
                object.as_ref(),
                target,
                &words,
                "delete it and make it again",
            );
        }
        // Not without an injector that can do them.
        FaultKind::ChaosMesh { .. }
        | FaultKind::Litmus { .. }
        | FaultKind::IoDelay { .. }
        | FaultKind::IoError { .. }
        | FaultKind::ClockSkew { .. }
        | FaultKind::HttpFault { .. }
        | FaultKind::JvmFault { .. } => {}
    }
    let keeps_a_record = matches!(
        fault.kind,
        FaultKind::DiskFill { .. } | FaultKind::StorageLoss { .. } | FaultKind::DeleteResource { .. }
    );
    if keeps_a_record {
        let words = ["get", "create", "delete"];
        verbs.add(&words, "", "configmaps", "keep a record of what cannot end by itself");
    }
    verbs.verbs
}

/// A Schedule or a Workflow makes experiments, with the rights of Chaos Mesh; they have to be seen, and waited for at the end.
fn by_flow(verbs: &mut Verbs, object: &ChaosMeshObject) {
    if !object.is_flow() {
        return;
    }
    let group = "chaos-mesh.org";
    // Its rights check asks about the kind in lower case, not about the plural.
    verbs.add(
        &["create"],
        group,
        &object.kind.to_lowercase(),
        "be allowed by Chaos Mesh to make it",
    );
    for plural in object.experiment_plurals() {
        let words = ["get", "list", "patch", "delete"];
        verbs.add(&words, group, &plural, "see what it makes, and take it back");
    }
    if object.kind == "Workflow" {
        verbs.add(
            &["get", "list"],
            group,
            "workflownodes",
            "see what it makes, and take it back",
        );
    }
}

/// What Litmus does itself it does with the rights of its own service account.
fn by_litmus(verbs: &mut Verbs, fault: &FaultSpec) {
    let Ok(experiment) = litmus_experiment(&fault.kind) else {
        return;
    };
    let group = "litmuschaos.io";
    let engine = ["get", "create", "patch", "delete"];
    verbs.add(&engine, group, "chaosengines", "let Litmus do it");
    verbs.add(&["get"], group, "chaosexperiments", "see whether Litmus can do it");
    let result = ["get", "list", "patch", "delete"];
    verbs.add(&result, group, "chaosresults", "read what Litmus says");
    verbs.add(&["get"], "", "serviceaccounts", "see whether Litmus can do it");
    verbs.add(&["list"], "", "events", "date what Litmus did");
    verbs.add(&["get"], "", "pods", "see whether it took effect");
    for (group, resource) in [("", "pods"), ("batch", "jobs")] {
        verbs.add(&["list", "delete"], group, resource, "remove what Litmus leaves");
    }
    match experiment.effect {
        LitmusEffect::TrafficStops => {
            let policies = "networkpolicies";
            verbs.add(
                &["list", "delete"],
                "networking.k8s.io",
                policies,
                "remove what Litmus leaves",
            );
            verbs.add(&["patch"], "", "pods", "mark the pods that are cut off");
            traffic(verbs, &fault.kind);
        }
        LitmusEffect::MemoryHeld => verbs.add(&SESSION_VERBS, "", "pods/exec", "see whether memory is held"),
        LitmusEffect::NodesDrained => {
            verbs.add_in("", &["get", "list", "patch"], ("", "nodes"), "choose and mark the node");
        }
        LitmusEffect::PodsGone | LitmusEffect::ContainersEnd | LitmusEffect::ItsWordOnly => {}
    }
}

/// A partition is proven by traffic, whoever makes it; a peer in another namespace has to be found and asked there.
fn traffic(verbs: &mut Verbs, kind: &FaultKind) {
    verbs.add(&SESSION_VERBS, "", "pods/exec", "see whether traffic passes");
    if let FaultKind::NetworkPartition {
        peer: Some(Peer::Pods { namespace, .. }),
        ..
    } = kind
        && *namespace != verbs.namespace
    {
        verbs.add_in(namespace, &["list"], ("", "pods"), "find the other side");
        verbs.add_in(
            namespace,
            &SESSION_VERBS,
            ("", "pods/exec"),
            "see whether traffic passes",
        );
    }
}

fn changed(
    verbs: &mut Verbs,
    object: Option<&ObjectRef>,
    target: &Target,
    words: &[&'static str],
    purpose: &'static str,
) {
    match object {
        Some(object) => {
            let (group, plural) = plural_of(object);
            verbs.add_in(&object.namespace, words, (&group, &plural), purpose);
        }
        None => {
            if let Some((group, plural)) = own(target) {
                verbs.add(words, &group, &plural, purpose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Mode;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn needed(kind: &str, spec: Value) -> Vec<String> {
        let fault = FaultSpec {
            name: "it".to_owned(),
            kind: FaultKind::ChaosMesh {
                resource: kind.to_owned(),
                spec,
            },
            role: None,
            labels: Vec::new(),
            mode: Mode::One,
            injector: Injector::ChaosMesh,
            after: Duration::ZERO,
            duration: Some(Duration::from_secs(5)),
            may_be_replaced: false,
        };
        let target = Target {
            namespace: "shop".to_owned(),
            workload: Workload::Deployment { name: "web".to_owned() },
        };
        let verbs = needed_verbs(&fault, &target).into_iter();
        verbs.map(|verb| format!("{} {}", verb.verb, verb.resource)).collect()
    }

    #[test]
    fn a_flow_needs_its_own_verbs_those_of_what_it_makes_and_the_singular_of_the_rights_check() {
        let schedule = json!({"schedule": "@hourly", "type": "PodChaos", "podChaos": {"action": "pod-kill"}});
        let verbs = needed("Schedule", schedule);
        for verb in [
            "create schedules",
            "delete schedules",
            "create schedule",
            "list podchaos",
            "delete podchaos",
        ] {
            assert!(verbs.iter().any(|held| held == verb), "{verb}: {verbs:?}");
        }
        assert!(!verbs.iter().any(|held| held.contains("workflow")), "{verbs:?}");
        let workflow = json!({"entry": "a", "templates": [{"name": "a", "templateType": "StressChaos", "deadline": "5s",
            "stressChaos": {"stressors": {"cpu": {"workers": 1}}}}]});
        let verbs = needed("Workflow", workflow);
        for verb in [
            "create workflows",
            "create workflow",
            "list workflownodes",
            "get workflownodes",
            "list stresschaos",
        ] {
            assert!(verbs.iter().any(|held| held == verb), "{verb}: {verbs:?}");
        }
    }
}
