//! Workflows of the double: what runs after or beside what, each node as an object of its own. Depends on `objects` and `events`.
//!
//! Central functions: [`pass`] for a Workflow, [`pass_node`] for a node. Nodes: Serial, Parallel, Suspend, Schedule, and every kind
//! of experiment. There is no Task, no StatusCheck and no conditional branch: a node of these is told to have failed by an Event,
//! and waits for its deadline. Contract, as upstream: a node of an experiment never becomes Accomplished and ends by its deadline
//! or by abortion, so that without a deadline the Workflow hangs; ChaosInjected says only that the object was created.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Shared;
use super::events::Told;
use super::kinds::{Experiment, GROUP, Kind, SCHEDULE, WORKFLOW, WORKFLOW_NODE};
use super::objects::ObjectError;
use super::records::stamp;
use super::schedule::{owned, suffix};
use super::worker::{Again, Key};
use crate::api::object::{array_at, is_deleting, name, namespace, set, str_at, uid};

const ABORT: &str = "/metadata/annotations/workflow.chaos-mesh.org~1abort";
const OF_WORKFLOW: &str = "chaos-mesh.org/workflow";
const OF_PARENT: &str = "chaos-mesh.org/controlled-by";
/// How often it is looked whether a deleted experiment is gone.
const GOING: Duration = Duration::from_millis(200);

/// How a node comes to its end before everything in it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Deadline,
    Abort,
}

impl End {
    /// The condition and its reason, for the node itself or as its parent's.
    fn condition(self, is_parents: bool) -> (&'static str, &'static str) {
        match (self, is_parents) {
            (Self::Deadline, false) => ("DeadlineExceed", "NodeDeadlineExceed"),
            (Self::Deadline, true) => ("DeadlineExceed", "ParentNodeDeadlineExceed"),
            (Self::Abort, false) => ("Aborted", "WorkflowAborted"),
            (Self::Abort, true) => ("Aborted", "ParentNodeAborted"),
        }
    }
}

/// One pass over one Workflow.
pub(super) async fn pass(shared: &Shared, key: Key) -> Again {
    ended(act(shared, &key).await, &key)
}

/// One pass over one node.
pub(super) async fn pass_node(shared: &Shared, key: Key) -> Again {
    ended(act_node(shared, &key).await, &key)
}

fn ended(outcome: Result<Again, ObjectError>, key: &Key) -> Again {
    outcome.unwrap_or_else(|error| {
        tracing::debug!(%key, %error, "a pass of the double over a Workflow failed, trying again");
        Again::Retry
    })
}

async fn act(shared: &Shared, key: &Key) -> Result<Again, ObjectError> {
    let Some(flow) = shared
        .objects
        .get(WORKFLOW, key)
        .await?
        .filter(|flow| !is_deleting(flow))
    else {
        return Ok(Again::OnChange);
    };
    if let Some(owner) = super::schedule::owner_of(&flow) {
        shared.wake(SCHEDULE, owner);
    }
    let entry = match children(shared, WORKFLOW_NODE, &flow).await?.into_iter().next() {
        Some(entry) => entry,
        None => match spawn(shared, &flow, &flow, str_at(&flow, "/spec/entry").unwrap_or_default()).await? {
            Some(entry) => entry,
            None => return Ok(Again::OnChange),
        },
    };
    if is_aborted(&flow) {
        let labels = format!("{OF_WORKFLOW}={}", key.name);
        for node in shared.objects.list(WORKFLOW_NODE, &key.namespace, &labels).await? {
            shared.wake(WORKFLOW_NODE, key_of(&node));
        }
    }
    let (now, over) = (stamp(Timestamp::now()), is_finished(&entry));
    shared
        .objects
        .change_status(WORKFLOW, key, |flow| {
            let before = flow.get("status").cloned();
            set(flow, "/status/entryNode", name(&entry));
            if str_at(flow, "/status/startTime").is_none() {
                set(flow, "/status/startTime", now.clone());
            }
            if over && str_at(flow, "/status/endTime").is_none() {
                set(flow, "/status/endTime", now.clone());
            }
            put_condition(flow, "Scheduled", true, "");
            // However the entry has ended: only the nodes tell an abortion or a deadline from success.
            put_condition(flow, "Accomplished", over, "");
            before.as_ref() != flow.get("status")
        })
        .await?;
    Ok(Again::OnChange)
}

async fn act_node(shared: &Shared, key: &Key) -> Result<Again, ObjectError> {
    let found = shared.objects.get(WORKFLOW_NODE, key).await?;
    let Some(node) = found.filter(|node| !is_deleting(node)) else {
        return Ok(Again::OnChange);
    };
    let flow_key = Key::new(
        namespace(&node),
        str_at(&node, "/spec/workflowName").unwrap_or_default(),
    );
    let Some(flow) = shared.objects.get(WORKFLOW, &flow_key).await? else {
        return Ok(Again::OnChange);
    };
    let deadline = str_at(&node, "/spec/deadline").and_then(|text| text.parse::<Timestamp>().ok());
    let left =
        deadline.map(|deadline| Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default());
    let Some(node) = look_at_the_end(shared, key, node, left, is_aborted(&flow)).await? else {
        return Ok(Again::OnChange);
    };
    let again = match str_at(&node, "/spec/type").unwrap_or_default() {
        "Serial" | "Parallel" => work_on_children(shared, &flow, &node).await?,
        "Suspend" => Again::OnChange,
        kind => match object_kind(kind) {
            Some((kind, field)) => work_on_object(shared, &node, kind, field).await?,
            None => {
                if !is_finished(&node) {
                    let error = format!("the double has no nodes of type {kind}");
                    let activity = "run a node of a workflow";
                    shared
                        .recorder
                        .tell("workflow", &node, &Told::Failed { activity, error });
                }
                Again::OnChange
            }
        },
    };
    // Whoever made this node looks at it again.
    let parent = Key::new(namespace(&node), label(&node, OF_PARENT));
    let is_entry = array_at(&node, "/metadata/ownerReferences")
        .iter()
        .any(|owner| str_at(owner, "/kind") == Some(WORKFLOW.kind));
    shared.wake(if is_entry { WORKFLOW } else { WORKFLOW_NODE }, parent);
    Ok(match (again, left) {
        (Again::OnChange, Some(left)) if !is_finished(&node) => Again::After(left + Duration::from_millis(1)),
        (again, _) => again,
    })
}

/// The kind of object that a node makes, and the field that holds its spec.
fn object_kind(kind: &str) -> Option<(Kind, &'static str)> {
    if kind == SCHEDULE.kind {
        return Some((SCHEDULE, "schedule"));
    }
    Experiment::of_kind(kind).map(|experiment| (experiment.kind(), experiment.embedded_key()))
}

/// Writes whether the node has come to its end from outside; `None` when it is gone.
async fn look_at_the_end(
    shared: &Shared,
    key: &Key,
    node: Value,
    left: Option<Duration>,
    aborted: bool,
) -> Result<Option<Value>, ObjectError> {
    let end = match left {
        _ if is_finished(&node) => return Ok(Some(node)),
        _ if aborted => Some(End::Abort),
        Some(left) if left.is_zero() => Some(End::Deadline),
        _ => None,
    };
    let ongoing = if left.is_some() {
        "NodeDeadlineNotExceed"
    } else {
        "NodeDeadlineOmitted"
    };
    shared
        .objects
        .change_status(WORKFLOW_NODE, key, |node| match end {
            Some(end) => {
                let (kind, reason) = end.condition(false);
                put_condition(node, kind, true, reason)
            }
            None if is_finished(node) => false,
            None => {
                put_condition(node, "DeadlineExceed", false, ongoing) | put_condition(node, "Accomplished", false, "")
            }
        })
        .await
}

/// A Serial makes one child after the other, a Parallel all at once; the end of either is that of its children.
async fn work_on_children(shared: &Shared, flow: &Value, node: &Value) -> Result<Again, ObjectError> {
    let wanted: Vec<&str> = array_at(node, "/spec/children")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let (done, active): (Vec<Value>, Vec<Value>) = children(shared, WORKFLOW_NODE, node)
        .await?
        .into_iter()
        .partition(is_finished);
    let end = end_of(node);
    if let Some(end) = end {
        let (kind, reason) = end.condition(true);
        for child in &active {
            let changed = shared
                .objects
                .change_status(WORKFLOW_NODE, &key_of(child), |child| {
                    put_condition(child, kind, true, reason)
                })
                .await?;
            drop(changed);
        }
    }
    let made: Vec<&str> = done
        .iter()
        .chain(&active)
        .filter_map(|child| str_at(child, "/spec/templateName"))
        .collect();
    if end.is_none() {
        let is_serial = str_at(node, "/spec/type") == Some("Serial");
        let next: Vec<&str> = if is_serial {
            let next = wanted.get(made.len()).filter(|_| active.is_empty());
            next.into_iter().copied().collect()
        } else {
            missing(&wanted, &made)
        };
        for template in next {
            spawn(shared, flow, node, template).await?;
        }
    }
    let all_done = end.is_none() && done.len() == wanted.len();
    let names = |list: &[Value]| -> Vec<Value> { list.iter().map(|child| json!({"name": name(child)})).collect() };
    let (done, active) = (names(&done), names(&active));
    shared
        .objects
        .change_status(WORKFLOW_NODE, &key_of(node), |node| {
            let before = node.get("status").cloned();
            set(node, "/status/activeChildren", active.clone());
            set(node, "/status/finishedChildren", done.clone());
            if all_done {
                put_condition(node, "Accomplished", true, "NodeAccomplished");
            }
            before.as_ref() != node.get("status")
        })
        .await?;
    Ok(Again::OnChange)
}

/// What is wanted and not yet made; a name may be wanted twice.
fn missing<'a>(wanted: &[&'a str], made: &[&str]) -> Vec<&'a str> {
    let mut made = made.to_vec();
    let is_made = |name: &str, made: &mut Vec<&str>| {
        let found = made.iter().position(|one| *one == name);
        found.map(|index| made.swap_remove(index)).is_some()
    };
    wanted
        .iter()
        .copied()
        .filter(|name| !is_made(name, &mut made))
        .collect()
}

/// Makes the object of the node, and deletes it when the node has ended.
async fn work_on_object(shared: &Shared, node: &Value, kind: Kind, field: &str) -> Result<Again, ObjectError> {
    let key = key_of(node);
    let made = children(shared, kind, node).await?;
    if is_finished(node) {
        for object in &made {
            shared.objects.delete(kind, &key_of(object), uid(object)).await?;
        }
        if !made.is_empty() {
            return Ok(Again::After(GOING));
        }
        write_injected(shared, &key, false, "ChaosCRDeleted", None).await?;
        return Ok(Again::OnChange);
    }
    if !made.is_empty() {
        return Ok(Again::OnChange);
    }
    let spec = node.pointer(&format!("/spec/{field}")).cloned().unwrap_or_default();
    let object = owned(
        kind,
        node,
        &format!("{}-{}", name(node), suffix()),
        spec,
        json!({OF_PARENT: name(node), OF_WORKFLOW: label(node, OF_WORKFLOW)}),
    );
    match shared.objects.create(kind, &key_of(&object), &object).await {
        Ok(created) => {
            let reference = created.map(|object| json!({"apiGroup": GROUP, "kind": kind.kind, "name": name(&object)}));
            write_injected(shared, &key, true, "ChaosCRCreated", reference).await?;
            Ok(Again::OnChange)
        }
        Err(error) => {
            write_injected(shared, &key, false, "ChaosCRCreateFailed", None).await?;
            Err(error)
        }
    }
}

async fn write_injected(
    shared: &Shared,
    key: &Key,
    injected: bool,
    reason: &str,
    reference: Option<Value>,
) -> Result<(), ObjectError> {
    let changed = shared
        .objects
        .change_status(WORKFLOW_NODE, key, |node| {
            if let Some(reference) = &reference {
                set(node, "/status/chaosResource", reference.clone());
            }
            put_condition(node, "ChaosInjected", injected, reason) || reference.is_some()
        })
        .await;
    changed.map(drop)
}

/// Makes the node of a template; `None` when there is no such template.
async fn spawn(shared: &Shared, flow: &Value, parent: &Value, template: &str) -> Result<Option<Value>, ObjectError> {
    let templates = array_at(flow, "/spec/templates");
    let Some(found) = templates.iter().find(|one| str_at(one, "/name") == Some(template)) else {
        return Ok(None);
    };
    let mut spec = found.clone();
    let kind = str_at(found, "/templateType").unwrap_or_default().to_owned();
    if let Some(map) = spec.as_object_mut() {
        for field in ["name", "templateType", "deadline"] {
            map.remove(field);
        }
    }
    let now = Timestamp::now();
    set(&mut spec, "/templateName", template);
    set(&mut spec, "/workflowName", name(flow));
    set(&mut spec, "/type", kind);
    set(&mut spec, "/startTime", stamp(now));
    let limit = str_at(found, "/deadline").and_then(|text| super::duration::parse(text).ok());
    if let Some(deadline) = limit.and_then(|limit| now.checked_add(limit).ok()) {
        set(&mut spec, "/deadline", stamp(deadline));
    }
    let labels = json!({OF_PARENT: name(parent), OF_WORKFLOW: name(flow)});
    let node = owned(WORKFLOW_NODE, parent, &format!("{template}-{}", suffix()), spec, labels);
    let key = key_of(&node);
    let created = shared.objects.create(WORKFLOW_NODE, &key, &node).await?;
    shared
        .recorder
        .tell("workflow", parent, &Told::Spawned { child: key.name });
    Ok(created)
}

/// What an object has made, oldest first.
async fn children(shared: &Shared, kind: Kind, parent: &Value) -> Result<Vec<Value>, ObjectError> {
    let labels = format!("{OF_PARENT}={}", name(parent));
    let mut found = shared.objects.list(kind, namespace(parent), &labels).await?;
    let is_own = |child: &Value| {
        let owners = array_at(child, "/metadata/ownerReferences");
        owners.iter().any(|owner| str_at(owner, "/uid") == Some(uid(parent)))
    };
    found.retain(is_own);
    found.sort_by(|a, b| created(a).cmp(&created(b)));
    Ok(found)
}

fn created(object: &Value) -> (&str, &str) {
    let at = str_at(object, "/metadata/creationTimestamp").unwrap_or_default();
    (at, name(object))
}

fn key_of(object: &Value) -> Key {
    Key::new(namespace(object), name(object))
}

fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    let labels = object.pointer("/metadata/labels");
    labels.and_then(|labels| labels.get(key)?.as_str()).unwrap_or_default()
}

fn is_aborted(flow: &Value) -> bool {
    str_at(flow, ABORT) == Some("true")
}

fn holds(object: &Value, kind: &str) -> bool {
    let found = array_at(object, "/status/conditions")
        .iter()
        .find(|condition| str_at(condition, "/type") == Some(kind));
    found.is_some_and(|condition| str_at(condition, "/status") == Some("True"))
}

/// How the node was ended from outside.
fn end_of(node: &Value) -> Option<End> {
    if holds(node, "Aborted") {
        Some(End::Abort)
    } else {
        holds(node, "DeadlineExceed").then_some(End::Deadline)
    }
}

fn is_finished(node: &Value) -> bool {
    holds(node, "Accomplished") || end_of(node).is_some()
}

/// Whether that changed anything.
fn put_condition(object: &mut Value, kind: &str, status: bool, reason: &str) -> bool {
    let wanted = json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason});
    let mut conditions = array_at(object, "/status/conditions").to_vec();
    match conditions.iter_mut().find(|one| str_at(one, "/type") == Some(kind)) {
        Some(found) if *found == wanted => return false,
        Some(found) => *found = wanted,
        None => conditions.push(wanted),
    }
    set(object, "/status/conditions", conditions);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_finished_by_success_deadline_or_abortion() {
        let mut node = json!({});
        assert!(put_condition(&mut node, "DeadlineExceed", false, "NodeDeadlineOmitted"));
        assert!(
            !put_condition(&mut node, "DeadlineExceed", false, "NodeDeadlineOmitted"),
            "no change"
        );
        assert!(!is_finished(&node));
        for (kind, end) in [
            ("Accomplished", None),
            ("DeadlineExceed", Some(End::Deadline)),
            ("Aborted", Some(End::Abort)),
        ] {
            let mut node = node.clone();
            put_condition(&mut node, kind, true, "x");
            assert!(is_finished(&node), "{kind}");
            assert_eq!(end_of(&node), end, "{kind}");
        }
    }

    #[test]
    fn a_template_can_be_wanted_twice() {
        assert_eq!(missing(&["a", "b", "a"], &[]), ["a", "b", "a"]);
        assert_eq!(missing(&["a", "b", "a"], &["a"]), ["b", "a"]);
        assert!(missing(&["a", "a"], &["a", "a"]).is_empty());
    }
}
