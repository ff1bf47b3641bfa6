//! Follows a Schedule or a Workflow of Chaos Mesh to the experiments that it makes, and to what they do to a target.
//!
//! May depend on what `inject` may. Contract: that a Workflow's node says ChaosInjected means only that an object was made, so it proves
//! nothing; a record of the target in that object does, and for a one-shot the pod itself. Facts: `specs/chaos-mesh.md`, sections 7 and 8.

use super::chaos_mesh::{API_VERSION, applied, complaints, record_of, shown};
use super::pods::restarts;
use super::shot::Proof;
use super::stage::Stage;
use crate::cluster::{ClusterError, api_of, made_by};
use crate::fault::{ChaosMeshObject, FaultTarget, is_one_shot};
use crate::model::{Interval, Mono};
use kube::api::{DynamicObject, ListParams};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// What ends with a Workflow may have been done shortly before, and is seen a little later.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// One target of a Schedule or a Workflow.
pub(super) struct Follow<'a> {
    pub(super) stage: &'a Stage,
    /// What to call Chaos Mesh in a proof.
    pub(super) who: &'a str,
    pub(super) object: &'a ChaosMeshObject,
    /// Name of the Schedule or Workflow.
    pub(super) token: &'a str,
    pub(super) target: &'a FaultTarget,
}

/// An experiment that was made.
struct Child {
    kind: String,
    object: DynamicObject,
}

/// What the children say of the target.
#[derive(Default)]
struct Seen {
    /// By a lasting one: in words.
    injected: Option<String>,
    /// Name of that one.
    by: String,
    /// By a one-shot: in words, and the container that it ends.
    shot: Option<(String, Option<String>)>,
    /// Of those that did not.
    phases: Vec<String>,
}

impl Follow<'_> {
    /// Waits until an experiment that it made has hit the target.
    pub(super) async fn injected(&self, requested: Mono, limit: Duration) -> Result<Proof, String> {
        let clock = self.stage.recorder.clock();
        let mut deadline = requested.plus(limit);
        let mut why = format!("the {} made no experiment", self.object.kind);
        let (mut lower, mut any, mut over) = (requested, false, false);
        let mut shot: Option<(String, Option<String>)> = None;
        let before = restarts(self.stage, self.target);
        let mut names = Vec::new();
        while clock.now() < deadline {
            let asked = clock.now();
            match self.children().await {
                Ok(children) => {
                    any |= !children.is_empty();
                    if !any {
                        // Nothing was made yet when it was asked, so nothing was done.
                        lower = asked.max(lower);
                    }
                    for child in &children {
                        let name = child.name().to_owned();
                        if !names.contains(&name) {
                            names.push(name);
                        }
                    }
                    let seen = self.look(&children);
                    if let Some(text) = seen.injected {
                        let upper = clock.now();
                        let stamp = applied(self.stage, self.target, &seen.by).await;
                        return Ok(Proof {
                            effect: Interval { lower, upper },
                            text: format!("{} reports the target as Injected by {text}{stamp}", self.who),
                        });
                    }
                    shot = seen.shot.or(shot);
                    if !seen.phases.is_empty() {
                        why = seen.phases.join(", ");
                    }
                }
                Err(error) => why = error.to_string(),
            }
            if let Some((text, container)) = &shot
                && let Some(proof) = self.shown(container.as_deref(), before, lower)
            {
                return Ok(Proof {
                    text: format!("{}, by {text}", proof.text),
                    ..proof
                });
            }
            if !over && self.accomplished().await {
                over = true;
                why = format!("the Workflow is over: {why}");
                deadline = deadline.min(clock.now().plus(AFTERWARDS));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let nodes = self.nodes().await;
        let mut complaint = complaints(self.stage, self.token).await;
        for name in &names {
            complaint.push_str(&complaints(self.stage, name).await);
        }
        let waited = clock.now().since(requested).as_secs();
        Err(format!("not injected within {waited} s: {why}{nodes}{complaint}"))
    }

    /// What the pod shows of a one-shot.
    fn shown(&self, container: Option<&str>, before: i32, lower: Mono) -> Option<Proof> {
        let mut target = self.target.clone();
        target.container = container.map(str::to_owned);
        let pod = self.stage.pods.get(&target.pod.uid)?;
        shown(&target, before, &pod).map(|text| Proof {
            effect: Interval {
                lower,
                upper: pod.at.max(lower),
            },
            text,
        })
    }

    async fn children(&self) -> Result<Vec<Child>, ClusterError> {
        let mut children = Vec::new();
        let kinds: BTreeSet<&str> = self.object.experiments().into_iter().map(|(kind, _)| kind).collect();
        for kind in kinds {
            for object in self.list(&kind.to_lowercase()).await? {
                let kind = kind.to_owned();
                children.push(Child { kind, object });
            }
        }
        Ok(children)
    }

    async fn list(&self, plural: &str) -> Result<Vec<DynamicObject>, ClusterError> {
        let stage = self.stage;
        let api = api_of(&stage.cluster, (API_VERSION, plural, plural), Some(&stage.namespace));
        let parameters = ListParams::default().labels(&made_by(&self.object.kind, self.token));
        let attempted = format!("list {plural} in {}", stage.namespace);
        Ok(stage.cluster.call(attempted, api.list(&parameters)).await?.items)
    }

    fn look(&self, children: &[Child]) -> Seen {
        let mut seen = Seen::default();
        for child in children {
            let title = child.title(&self.object.kind);
            let Some(record) = record_of(&child.object, self.target) else {
                seen.phases.push(format!("{title} has no record of the target"));
                continue;
            };
            let phase = record.get("phase").and_then(Value::as_str).unwrap_or_default();
            let count = record.get("injectedCount").and_then(Value::as_u64).unwrap_or(0);
            if phase != "Injected" || count == 0 {
                seen.phases.push(format!("{title} says {phase:?}"));
                continue;
            }
            if is_one_shot(&child.kind, child.spec()) {
                let container = child.spec().pointer("/containerNames/0").and_then(Value::as_str);
                seen.shot = Some((title, container.map(str::to_owned)));
            } else {
                child.name().clone_into(&mut seen.by);
                seen.injected = Some(title);
                return seen;
            }
        }
        seen
    }

    /// A Workflow that has come to its end makes nothing more. How it ended its condition does not say.
    async fn accomplished(&self) -> bool {
        if self.object.kind != "Workflow" {
            return false;
        }
        let stage = self.stage;
        let api = api_of(
            &stage.cluster,
            (API_VERSION, "Workflow", "workflows"),
            Some(&stage.namespace),
        );
        let read = stage
            .cluster
            .call_opt(format!("read {}", self.token), api.get(self.token))
            .await;
        matches!(read, Ok(Some(workflow)) if holds(&workflow, "Accomplished"))
    }

    /// What the nodes of a Workflow say, for a reader who wonders why nothing was injected.
    async fn nodes(&self) -> String {
        if self.object.kind != "Workflow" {
            return String::new();
        }
        let nodes = self.list("workflownodes").await.unwrap_or_default();
        let told = nodes.iter().filter_map(|node| {
            let kind = node.data.pointer("/spec/type")?.as_str()?;
            let conditions = ["ChaosInjected", "DeadlineExceed", "Aborted", "Accomplished"];
            let holding: Vec<&str> = conditions.into_iter().filter(|held| holds(node, held)).collect();
            (kind.ends_with("Chaos") && !holding.is_empty()).then(|| {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                format!("; node {name} ({kind}) has the conditions {}", holding.join(", "))
            })
        });
        let told: String = told.collect();
        if told.contains("ChaosInjected") {
            format!("{told} (ChaosInjected means only that an object was made)")
        } else {
            told
        }
    }
}

impl Child {
    fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    fn spec(&self) -> &Value {
        self.object.data.get("spec").unwrap_or(&Value::Null)
    }

    /// Its kind and name, and the node of a Workflow that it belongs to.
    fn title(&self, parent: &str) -> String {
        let labels = self.object.metadata.labels.as_ref();
        let node = labels.and_then(|labels| labels.get("chaos-mesh.org/controlled-by"));
        match node {
            Some(node) => format!("{} {} of node {node} of the {parent}", self.kind, self.name()),
            None => format!("{} {} of the {parent}", self.kind, self.name()),
        }
    }
}

fn holds(object: &DynamicObject, kind: &str) -> bool {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|held| held["type"] == kind && held["status"] == "True")
}
