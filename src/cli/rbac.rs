//! `rbac`: the least Roles with which experiments can be run. No cluster needed.

use super::arguments::ValidateArguments;
use super::exit::{Exit, Failure};
use super::load;
use super::streams::Streams;
use crate::cluster::Verb;
use crate::engine::needed_permissions;
use crate::fault::Injector;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Prints one Role for each namespace, and a `ClusterRole` for what is in none.
pub(super) fn rbac(arguments: &ValidateArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let mut verbs: BTreeSet<Verb> = BTreeSet::new();
    let mut setup = BTreeSet::new();
    let mut mesh = false;
    for from in load::experiments(&arguments.paths, &arguments.variables, streams)? {
        mesh |= from
            .experiment
            .faults
            .iter()
            .any(|fault| fault.injector == Injector::ChaosMesh);
        verbs.extend(needed_permissions(&from.experiment));
        setup.extend(from.experiment.setup.manifests);
    }
    if mesh {
        streams.say(
            "# Worth having besides: get customresourcedefinitions.apiextensions.k8s.io, and list deployments.apps and pods in all namespaces.\n\
             # With that the version of Chaos Mesh and a missing controller-manager or daemon are told before anything is touched.",
        );
    }
    streams.say(&roles(&verbs, &setup));
    Ok(Exit::Pass)
}

/// The Roles as YAML.
fn roles(verbs: &BTreeSet<Verb>, setup: &BTreeSet<String>) -> String {
    let mut by_namespace: BTreeMap<&str, BTreeMap<(&str, &str), BTreeSet<&str>>> = BTreeMap::new();
    for verb in verbs {
        by_namespace
            .entry(&verb.namespace)
            .or_default()
            .entry((&verb.group, &verb.resource))
            .or_default()
            .insert(verb.verb);
    }
    let mut text = String::from(
        "# What these experiments need, and nothing more. Bind it to whoever runs chaosrun; `chaosrun plan` then finds nothing missing.\n",
    );
    for manifest in setup {
        // Writing to a string cannot fail.
        writeln!(
            text,
            "# Where the target is missing, {manifest} is applied: that needs get, create and delete on each kind in it as well."
        )
        .ok();
    }
    for (namespace, resources) in by_namespace {
        let (kind, place) = if namespace.is_empty() {
            ("ClusterRole", String::new())
        } else {
            ("Role", format!("\n  namespace: {namespace}"))
        };
        write!(
            text,
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: chaosrun{place}\nrules:\n"
        )
        .ok();
        // Resources of one group with the same verbs are one rule.
        let mut rules: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
        for ((group, resource), words) in resources {
            rules
                .entry((group, words.into_iter().collect()))
                .or_default()
                .push(resource);
        }
        for ((group, words), resources) in rules {
            write!(
                text,
                "- apiGroups: [\"{group}\"]\n  resources: [{}]\n  verbs: [{}]\n",
                resources.join(", "),
                words.join(", ")
            )
            .ok();
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(verb: &'static str, group: &str, resource: &str, namespace: &str) -> Verb {
        Verb {
            verb,
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            purpose: "",
        }
    }

    #[test]
    fn verbs_become_one_role_for_each_namespace_and_one_for_the_cluster() {
        let verbs = BTreeSet::from([
            verb("list", "", "pods", "shop"),
            verb("watch", "", "pods", "shop"),
            verb("create", "", "pods/exec", "shop"),
            verb("patch", "", "nodes", ""),
            verb("delete", "batch", "jobs", "shop"),
        ]);
        insta::assert_snapshot!(roles(&verbs, &BTreeSet::from(["web.yaml".to_owned()])), @r#"
        # What these experiments need, and nothing more. Bind it to whoever runs chaosrun; `chaosrun plan` then finds nothing missing.
        # Where the target is missing, web.yaml is applied: that needs get, create and delete on each kind in it as well.
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: ClusterRole
        metadata:
          name: chaosrun
        rules:
        - apiGroups: [""]
          resources: [nodes]
          verbs: [patch]
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: Role
        metadata:
          name: chaosrun
          namespace: shop
        rules:
        - apiGroups: [""]
          resources: [pods/exec]
          verbs: [create]
        - apiGroups: [""]
          resources: [pods]
          verbs: [list, watch]
        - apiGroups: ["batch"]
          resources: [jobs]
          verbs: [delete]
        "#);
    }
}
