//! `plan`: what WOULD happen. Reads only.

use super::arguments::{Global, PlanArguments};
use super::cluster::{Connected, override_with};
use super::exit::{Exit, Failure};
use super::load;
use super::streams::Streams;
use crate::cluster::{Failed, missing_permissions};
use crate::engine::{EngineError, Loaded, needed_permissions, needed_setup, snapshot_candidates, uses_prometheus};
use crate::experiment::Experiment;
use crate::fault::{Injector, chaos_mesh_object};
use crate::inject::survey_chaos_mesh;
use crate::plan::{explain, protected_namespace, select};
use std::collections::BTreeSet;

/// Shows the plan of every experiment. Exit 77 when something would be refused.
pub(super) async fn plan(global: Global, arguments: PlanArguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let mut experiments: Vec<Loaded> = Vec::new();
    for from in load::experiments(&arguments.paths, &arguments.variables, streams)? {
        let mut loaded = load::with_manifests(from)?;
        override_with(&mut loaded.experiment, &global, None);
        experiments.push(loaded);
    }
    let connected = Connected::open(&global, streams).await?;
    let prometheus = connected.prometheus_url(arguments.prometheus).await;
    let mut exits = vec![Exit::Pass];
    for loaded in &experiments {
        match describe(&connected, loaded, prometheus.as_deref(), streams).await {
            Ok(exit) => exits.push(exit),
            Err(failure) => {
                connected.close(streams).await?;
                return Err(failure);
            }
        }
    }
    connected.close(streams).await?;
    Ok(Exit::first_of(&exits))
}

async fn describe(
    connected: &Connected,
    loaded: &Loaded,
    prometheus: Option<&str>,
    streams: &mut Streams,
) -> Result<Exit, Failure> {
    let experiment = &loaded.experiment;
    let mut refusals = Vec::new();
    streams.say(&format!("{} ({})", experiment.name, loaded.file));
    streams.say(&format!("  claim: {}", experiment.claim.text));
    if let Some(pattern) = protected_namespace(experiment) {
        refusals.push(format!(
            "namespace {} is protected ({pattern})",
            experiment.target.namespace
        ));
    }
    // Without a right something cannot be told; which right, the list below says.
    for told in [
        setup(connected, loaded, &mut refusals, streams).await,
        faults(connected, experiment, &mut refusals, streams).await,
    ] {
        match told {
            Err(EngineError::Cluster(error)) if error.failed == Failed::Forbidden => refusals.push(error.to_string()),
            told => told?,
        }
    }
    streams.say(&format!(
        "  guard: Job and ConfigMap chaosrun-<run>-t<trial> in {}, removed by the cluster itself {} s after the runner died",
        experiment.target.namespace,
        experiment.guards.deadline.as_secs()
    ));
    chaos_mesh(connected, experiment, &mut refusals, streams).await?;
    let needed = needed_permissions(experiment);
    let missing = missing_permissions(&connected.cluster, &needed).await?;
    streams.say(&format!(
        "  permissions: {} needed, {} missing",
        needed.len(),
        missing.len()
    ));
    for verb in &needed {
        let mark = if missing.contains(verb) { "MISSING" } else { "held" };
        streams.say(&format!("    {mark:<7} {verb}"));
    }
    refusals.extend(missing.iter().map(|verb| format!("missing permission: {verb}")));
    if uses_prometheus(experiment) && experiment.prometheus_url.is_none() && prometheus.is_none() {
        refusals.push("a probe asks Prometheus, but no address is known".to_owned());
    }
    streams.say(&format!("  duration: {}", duration(experiment)));
    if refusals.is_empty() {
        streams.say("  would run: nothing stands in the way");
        return Ok(Exit::Pass);
    }
    for refusal in &refusals {
        streams.say(&format!("  would be REFUSED: {refusal}"));
    }
    Ok(Exit::Refused)
}

/// What is installed of Chaos Mesh, when a fault is done through it.
async fn chaos_mesh(
    connected: &Connected,
    experiment: &Experiment,
    refusals: &mut Vec<String>,
    streams: &mut Streams,
) -> Result<(), Failure> {
    let through = experiment
        .faults
        .iter()
        .filter(|fault| fault.injector == Injector::ChaosMesh);
    let kinds: BTreeSet<String> = through
        .filter_map(|fault| chaos_mesh_object(&fault.kind).ok())
        .flat_map(|object| object.plurals())
        .collect();
    if kinds.is_empty() {
        return Ok(());
    }
    let installed = survey_chaos_mesh(&connected.cluster, &experiment.target.namespace, &kinds).await?;
    streams.say(&format!("  Chaos Mesh: {}", installed.line()));
    refusals.extend(installed.problems);
    Ok(())
}

async fn setup(
    connected: &Connected,
    loaded: &Loaded,
    refusals: &mut Vec<String>,
    streams: &mut Streams,
) -> Result<(), EngineError> {
    let experiment = &loaded.experiment;
    let applied = match needed_setup(&connected.cluster, experiment, loaded.manifests.clone()).await {
        Ok(applied) => applied,
        Err(EngineError::Refused(why)) => {
            refusals.push(why);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if applied.is_empty() {
        if !loaded.manifests.is_empty() {
            streams.say("  setup: nothing is applied, the target exists");
        }
        return Ok(());
    }
    let then = if experiment.setup.keep {
        "kept afterwards"
    } else {
        "removed afterwards when created by the run"
    };
    streams.say(&format!("  setup, {then}:"));
    for manifest in &applied {
        streams.say(&format!("    {}", manifest.title()));
    }
    Ok(())
}

async fn faults(
    connected: &Connected,
    experiment: &Experiment,
    refusals: &mut Vec<String>,
    streams: &mut Streams,
) -> Result<(), EngineError> {
    let candidates = snapshot_candidates(&connected.cluster, &experiment.target).await?;
    for fault in &experiment.faults {
        let explained = explain(fault);
        let lasts = fault.duration.map_or(String::new(), |duration| {
            format!(", kept up for {} s", duration.as_secs_f64())
        });
        streams.say(&format!(
            "  fault {}: {} ({}) by {}, {} s after injection starts{lasts}",
            fault.name,
            fault.kind.word(),
            explained.does,
            fault.injector.word(),
            fault.after.as_secs_f64()
        ));
        streams.say(&format!("    ends: {}", explained.ends));
        streams.say(&format!("    proof: {}", explained.proof));
        if fault.kind.on_object().is_some() {
            continue;
        }
        let Some(candidates) = &candidates else {
            streams.say("    pods: the target does not exist yet (the setup makes it), so they are chosen at run time");
            continue;
        };
        // The seed of the run decides which; the plan shows how many and among whom.
        match select(fault, &experiment.guards, candidates, 0, 1) {
            Ok(chosen) => {
                let among = candidates
                    .iter()
                    .filter(|held| fault.role.is_none() || held.role == fault.role);
                let names: Vec<&str> = among.map(|held| held.pod.name.as_str()).collect();
                streams.say(&format!("    pods: {} of {}", chosen.len(), names.join(", ")));
            }
            Err(refusal) => refusals.push(refusal.to_string()),
        }
    }
    Ok(())
}

fn duration(experiment: &Experiment) -> String {
    let timeouts = &experiment.timeouts;
    let holds = experiment
        .steady_state
        .probes
        .iter()
        .map(|probe| probe.hold)
        .max()
        .unwrap_or_default();
    let count = experiment.trials.count + experiment.trials.control;
    let drain = experiment
        .ledger
        .as_ref()
        .map(|ledger| ledger.drain)
        .unwrap_or_default();
    let least = (holds + timeouts.settle) * count;
    let pauses = experiment.trials.cooldown * count.saturating_sub(1);
    let most = timeouts.setup + (timeouts.baseline + timeouts.recovery + timeouts.settle + drain) * count + pauses;
    let phases = experiment.trials.phase.unwrap_or_default() * count;
    let most = most + phases;
    let most =
        (experiment.trials.max_time).map_or(most, |limit| most.min(limit + timeouts.baseline + timeouts.recovery));
    let kinds = match (experiment.trials.control, experiment.trials.until_decided) {
        (0, false) => format!("{count} trials"),
        (0, true) => format!("until the verdict is there, at most {count} trials"),
        (control, false) => format!("{count} trials, {control} of them without the fault"),
        (control, true) => {
            format!("until the verdict is there, at most {count} trials, {control} of them without the fault")
        }
    };
    if experiment.trials.until_decided {
        return format!("{kinds}, at most {} s", most.as_secs());
    }
    format!(
        "{kinds}, at least {} s, at most {} s",
        (least + pauses).as_secs(),
        most.as_secs()
    )
}
