//! How large each `ReplicaSet` of a Deployment should be. Pure.
//!
//! Source of the rules: `rolling.go`, `recreate.go`, `sync.go` and `util/deployment_util.go` of Kubernetes 1.33.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::history::{DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS};
use crate::controllers::meta::{created, scaled};
use crate::controllers::pods::annotation;

/// A `ReplicaSet` that should have another size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Name of the `ReplicaSet`.
    pub(crate) name: String,
    /// Its new size.
    pub(crate) replicas: i32,
}

/// The `ReplicaSets` of a Deployment.
pub(crate) struct Sets {
    /// The one with the present template.
    pub(crate) new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub(crate) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    /// Tells the new one from the old ones by comparing templates (`FindNewReplicaSet`).
    pub(crate) fn of(mut owned: Vec<Arc<ReplicaSet>>, spec: &DeploymentSpec) -> Self {
        owned.sort_by_cached_key(|set| (created(&set.metadata), set.name_any()));
        let position = owned.iter().position(|set| same_template(set, &spec.template));
        let new = position.map(|position| owned.remove(position));
        Self { new, old: owned }
    }

    /// All, the new one last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.iter())
    }

    /// The sizes asked for, added up.
    pub(crate) fn total(&self) -> i32 {
        self.all().map(|set| size(set)).sum()
    }

    fn available(&self) -> i32 {
        self.all().map(|set| available(set)).sum()
    }
}

/// Whether the set was made from this template.
fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mut made_from) = set.spec.as_ref().and_then(|spec| spec.template.clone()) else {
        return false;
    };
    if let Some(labels) = made_from.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let (one, other) = (
        made_from.metadata.unwrap_or_default(),
        template.metadata.clone().unwrap_or_default(),
    );
    one.labels.unwrap_or_default() == other.labels.unwrap_or_default()
        && one.annotations.unwrap_or_default() == other.annotations.unwrap_or_default()
        && made_from.spec == template.spec
}

/// `spec.replicas` of a set.
pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// `spec.replicas` of the Deployment.
pub(crate) fn wanted(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

/// Strategy Recreate.
pub(crate) fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// maxSurge and maxUnavailable in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) surge: i32,
    pub(crate) unavailable: i32,
}

impl Limits {
    /// Resolves percentages: surge rounds up, unavailable down; never both zero (`ResolveFenceposts`).
    pub(crate) fn of(spec: &DeploymentSpec) -> Result<Self, String> {
        if is_recreate(spec) {
            return Ok(Self {
                surge: 0,
                unavailable: 0,
            });
        }
        let rolling = spec
            .strategy
            .as_ref()
            .and_then(|strategy| strategy.rolling_update.clone())
            .unwrap_or_default();
        let quarter = || IntOrString::String("25%".to_owned());
        let replicas = wanted(spec);
        let surge = scaled(&rolling.max_surge.unwrap_or_else(quarter), replicas, true)?;
        let unavailable = scaled(&rolling.max_unavailable.unwrap_or_else(quarter), replicas, false)?;
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Ok(Self {
            surge: surge.max(0),
            unavailable: unavailable.clamp(0, replicas.max(1)),
        })
    }
}

fn scale_to(set: &ReplicaSet, replicas: i32) -> Option<Scale> {
    (size(set) != replicas).then(|| Scale {
        name: set.name_any(),
        replicas,
    })
}

/// When somebody changed `replicas` (or it is paused), only sizes change: `None` when there is nothing of that kind to
/// do, so that the rollout goes on.
pub(crate) fn resize(spec: &DeploymentSpec, sets: &Sets) -> Option<Vec<Scale>> {
    let wanted = wanted(spec);
    let is_resize = sets.all().filter(|set| size(set) > 0).any(|set| {
        annotation(&set.metadata, DESIRED_REPLICAS)
            .and_then(|desired| desired.parse::<i32>().ok())
            .is_some_and(|desired| desired != wanted)
    });
    let is_held = spec.paused == Some(true) && sets.total() > 0;
    if !is_resize && !is_held {
        return None;
    }
    let active: Vec<&Arc<ReplicaSet>> = sets.all().filter(|set| size(set) > 0).collect();
    // One set, or none with pods: that one takes it all.
    if active.len() <= 1 {
        let target = active.first().copied().or(sets.new.as_ref()).or(sets.old.last())?;
        return Some(vec![Scale {
            name: target.name_any(),
            replicas: wanted,
        }]);
    }
    // The new one has everything: what is left of the old ones goes.
    if let Some(new) = sets
        .new
        .as_ref()
        .filter(|new| size(new) == wanted && available(new) == wanted)
    {
        let rest = sets.old.iter().filter(|set| size(set) > 0);
        let mut scales: Vec<Scale> = rest
            .map(|set| Scale {
                name: set.name_any(),
                replicas: 0,
            })
            .collect();
        scales.push(Scale {
            name: new.name_any(),
            replicas: wanted,
        });
        return Some(scales);
    }
    Some(proportionally(spec, &active))
}

/// Spreads the difference over sets in proportion to their size, the larger first, the newest taking the rest.
fn proportionally(spec: &DeploymentSpec, active: &[&Arc<ReplicaSet>]) -> Vec<Scale> {
    let surge = Limits::of(spec).map_or(0, |limits| limits.surge);
    let allowed = if wanted(spec) > 0 {
        wanted(spec).saturating_add(surge)
    } else {
        0
    };
    let total: i32 = active.iter().map(|set| size(set)).sum();
    let mut left = allowed - total;
    let mut ordered = active.to_vec();
    // Growing favours the newest of equals, shrinking the oldest.
    if left > 0 {
        ordered.sort_by_key(|set| (Reverse(size(set)), Reverse(created(&set.metadata))));
    } else {
        ordered.sort_by_key(|set| (Reverse(size(set)), created(&set.metadata)));
    }
    let difference = left;
    let mut scales: Vec<Scale> = Vec::new();
    for set in &ordered {
        let basis = annotation(&set.metadata, MAX_REPLICAS)
            .and_then(|maximum| maximum.parse::<i32>().ok())
            .filter(|maximum| *maximum > 0)
            .unwrap_or(total);
        let share = f64::from(size(set)) * f64::from(allowed) / f64::from(basis.max(1));
        #[expect(clippy::cast_possible_truncation, reason = "replica counts are far below 2^31")]
        let share = share.round() as i32 - size(set);
        let share = if difference > 0 {
            share.clamp(0, left.max(0))
        } else {
            share.clamp(left.min(0), 0)
        };
        left -= share;
        scales.push(Scale {
            name: set.name_any(),
            replicas: (size(set) + share).max(0),
        });
    }
    if let Some(first) = scales.first_mut() {
        first.replicas = first.replicas.saturating_add(left).max(0);
    }
    scales
}

/// Recreate, first half.
pub(crate) fn old_to_zero(sets: &Sets) -> Vec<Scale> {
    sets.old.iter().filter_map(|set| scale_to(set, 0)).collect()
}

/// Recreate, second half.
pub(crate) fn new_to_full(spec: &DeploymentSpec, sets: &Sets) -> Vec<Scale> {
    sets.new.iter().filter_map(|set| scale_to(set, wanted(spec))).collect()
}

/// Size with which a new set is born (`NewRSNewReplicas`).
pub(crate) fn first_size(spec: &DeploymentSpec, sets: &Sets) -> i32 {
    if is_recreate(spec) {
        return wanted(spec);
    }
    let surge = Limits::of(spec).map_or(0, |limits| limits.surge);
    let room = wanted(spec).saturating_add(surge) - sets.total();
    room.clamp(0, wanted(spec))
}

/// One step of a rolling update: grow the new set into the surge, or shrink old ones by what is spare.
pub(crate) fn rolling_step(spec: &DeploymentSpec, sets: &Sets, limits: Limits) -> Vec<Scale> {
    let Some(new) = &sets.new else {
        return Vec::new();
    };
    let wanted = wanted(spec);
    let target = match size(new).cmp(&wanted) {
        std::cmp::Ordering::Equal => size(new),
        std::cmp::Ordering::Greater => wanted,
        std::cmp::Ordering::Less => {
            let room = wanted.saturating_add(limits.surge) - sets.total();
            if room <= 0 {
                size(new)
            } else {
                size(new) + room.min(wanted - size(new))
            }
        }
    };
    if let Some(scale) = scale_to(new, target) {
        return vec![scale];
    }
    shrink_old(wanted, new, sets, limits)
}

fn shrink_old(wanted: i32, new: &ReplicaSet, sets: &Sets, limits: Limits) -> Vec<Scale> {
    let old_total: i32 = sets.old.iter().map(|set| size(set)).sum();
    if old_total == 0 {
        return Vec::new();
    }
    let minimum = wanted - limits.unavailable;
    let new_unavailable = size(new) - available(new);
    let mut spare = sets.total() - minimum - new_unavailable;
    if spare <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(usize, i32)> = sets.old.iter().map(|set| size(set)).enumerate().collect();
    // Pods that do not serve go first: taking them away costs nothing.
    for (index, current) in &mut sizes {
        let serving = sets.old.get(*index).map_or(0, |set| available(set));
        let dead = (*current - serving).clamp(0, spare);
        *current -= dead;
        spare -= dead;
    }
    // Then as many that serve as availability allows.
    let removed: i32 = old_total - sizes.iter().map(|(_, size)| *size).sum::<i32>();
    let mut allowed = (sets.available() - minimum)
        .min(sets.total() - removed - minimum)
        .max(0);
    for (_, current) in &mut sizes {
        let less = (*current).min(allowed);
        *current -= less;
        allowed -= less;
    }
    sizes
        .into_iter()
        .filter_map(|(index, size)| sets.old.get(index).and_then(|set| scale_to(set, size)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};
    use serde_json::{Value, json};

    use super::{Limits, Scale, Sets, first_size, rolling_step};

    fn spec(replicas: i32, strategy: Value) -> DeploymentSpec {
        serde_json::from_value(json!({
            "replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "strategy": strategy,
            "template": {"metadata": {"labels": {"app": "a", "v": "2"}}, "spec": {"containers": []}},
        }))
        .unwrap()
    }

    fn rolling(surge: &Value, unavailable: &Value) -> Value {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
    }

    fn set(version: &str, replicas: i32, available: i32) -> Arc<ReplicaSet> {
        let value = json!({
            "metadata": {"name": format!("a-{version}"), "creationTimestamp": format!("2026-01-0{version}T00:00:00Z")},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
                "template": {
                    "metadata": {"labels": {"app": "a", "v": version, "pod-template-hash": "x"}},
                    "spec": {"containers": []},
                },
            },
            "status": {"replicas": replicas, "availableReplicas": available},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn step(spec: &DeploymentSpec, sets: &[Arc<ReplicaSet>]) -> Vec<Scale> {
        rolling_step(spec, &Sets::of(sets.to_vec(), spec), Limits::of(spec).unwrap())
    }

    fn to(version: &str, replicas: i32) -> Scale {
        Scale {
            name: format!("a-{version}"),
            replicas,
        }
    }

    #[test]
    fn the_new_set_is_told_by_its_template_and_not_by_its_age() {
        let spec = spec(1, rolling(&json!(1), &json!(0)));
        let sets = Sets::of(vec![set("2", 1, 1), set("1", 0, 0), set("3", 0, 0)], &spec);
        assert_eq!(sets.new.unwrap().metadata.name.as_deref(), Some("a-2"));
        assert_eq!(sets.old.len(), 2);
    }

    #[test]
    fn percentages_never_leave_a_rollout_without_room() {
        let limits = Limits::of(&spec(3, rolling(&json!("0%"), &json!("10%")))).unwrap();
        assert_eq!(
            limits,
            Limits {
                surge: 0,
                unavailable: 1
            }
        );
        let limits = Limits::of(&spec(4, rolling(&json!("25%"), &json!("25%")))).unwrap();
        assert_eq!(
            limits,
            Limits {
                surge: 1,
                unavailable: 1
            }
        );
    }

    #[test]
    fn a_rolling_update_surges_first_then_removes_old_pods_one_for_one() {
        let spec = spec(3, rolling(&json!(1), &json!(0)));
        let old_only = Sets::of(vec![set("1", 3, 3)], &spec);
        assert_eq!(first_size(&spec, &old_only), 1);
        assert_eq!(
            step(&spec, &[set("1", 3, 3), set("2", 1, 0)]),
            [],
            "the new pod does not serve yet"
        );
        assert_eq!(step(&spec, &[set("1", 3, 3), set("2", 1, 1)]), [to("1", 2)]);
        assert_eq!(step(&spec, &[set("1", 2, 2), set("2", 1, 1)]), [to("2", 2)]);
        assert_eq!(step(&spec, &[set("1", 0, 0), set("2", 3, 3)]), []);
    }

    #[test]
    fn old_pods_that_do_not_serve_go_first() {
        let spec = spec(3, rolling(&json!(1), &json!(1)));
        let scales = step(&spec, &[set("1", 3, 1), set("2", 1, 1)]);
        assert_eq!(scales, [to("1", 1)]);
    }

    #[test]
    fn availability_never_falls_below_the_minimum_for_any_small_state() {
        for (surge, unavailable) in [(0, 1), (1, 0), (1, 1), (2, 2)] {
            let spec = spec(3, rolling(&json!(surge), &json!(unavailable)));
            for old in 0..=4 {
                for old_serving in 0..=old {
                    for new in 0..=3 {
                        for new_serving in 0..=new {
                            let before = old_serving + new_serving;
                            for scale in step(&spec, &[set("1", old, old_serving), set("2", new, new_serving)]) {
                                if scale.name == "a-2" {
                                    assert!(old + scale.replicas <= 3 + surge, "surge {old} {new} {scale:?}");
                                } else {
                                    // The worst case takes serving pods only after the dead ones are gone.
                                    let serving_after = old_serving.min(scale.replicas) + new_serving;
                                    assert!(
                                        serving_after >= (3 - unavailable).min(before),
                                        "{old}/{old_serving} {new}/{new_serving} {scale:?}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
