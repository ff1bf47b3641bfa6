//! Which trials there will be: with or without the fault, in which order, and at which phase of the period.
//!
//! Every choice is a hash of the seed and of what is chosen, so that the same seed gives the same schedule, and none of it depends
//! on how many choices were made before.

use crate::experiment::{Experiment, Over, Trials};
use crate::stats::sequential;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// One trial before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// From 1, control trials included.
    pub number: u32,
    /// A control trial: everything but the fault.
    pub control: bool,
    /// How long after the begin of a period the fault comes.
    pub phase: Option<Duration>,
}

/// Phases are spread evenly over this many trials at a time when nobody knows how many there will be.
const BLOCK: u32 = 20;

/// The trials of an experiment, the most there can be, in order.
#[must_use]
pub fn schedule(experiment: &Experiment, seed: u64) -> Vec<Planned> {
    let trials = &experiment.trials;
    let controls = controls(trials, horizon(experiment), seed);
    let mut planned = Vec::new();
    let mut number = 0;
    let mut push = |control: bool, phase: Option<Duration>| {
        number += 1;
        planned.push(Planned { number, control, phase });
    };
    for fault in 0..trials.count {
        for control in controls.iter().filter(|(before, _)| *before == fault) {
            push(
                true,
                trials
                    .phase
                    .map(|period| period.mul_f64(unit(seed, "control phase", control.1, 0))),
            );
        }
        push(false, trials.phase.map(|period| phase(trials, seed, fault, period)));
    }
    for control in controls.iter().filter(|(before, _)| *before >= trials.count) {
        push(
            true,
            trials
                .phase
                .map(|period| period.mul_f64(unit(seed, "control phase", control.1, 0))),
        );
    }
    planned
}

/// How many trials with the fault there will be at least: the controls have to lie among these.
fn horizon(experiment: &Experiment) -> u32 {
    let trials = &experiment.trials;
    if !trials.until_decided {
        return trials.count;
    }
    let soonest = experiment
        .slos
        .over_trials
        .iter()
        .filter_map(|slo| match slo.over {
            Over::Share { share, confidence } => sequential::decided_after(share, confidence, 0).ok().flatten(),
            Over::Max => None,
        })
        .max();
    soonest
        .and_then(|soonest| u32::try_from(soonest).ok())
        .map_or(trials.count, |soonest| soonest.clamp(1, trials.count))
}

/// One control in each of as many equal stretches, somewhere in it: before which trial, and which control it is.
fn controls(trials: &Trials, horizon: u32, seed: u64) -> Vec<(u32, u32)> {
    (0..trials.control)
        .map(|index| {
            let place = (f64::from(index) + unit(seed, "control", index, 0)) / f64::from(trials.control);
            (whole(place * f64::from(horizon + 1), horizon), index)
        })
        .collect()
}

/// One jittered phase in each of as many equal parts of the period, in random order (measurement.md 3.6): some trial is then
/// always close to the worst phase.
fn phase(trials: &Trials, seed: u64, fault: u32, period: Duration) -> Duration {
    let block = if trials.until_decided {
        BLOCK.min(trials.count)
    } else {
        trials.count
    };
    let (round, place) = (fault / block, fault % block);
    let mut order: Vec<u32> = (0..block).collect();
    order.sort_by_key(|part| hash(seed, "stratum", round, *part));
    let part = order.get(usize::try_from(place).unwrap_or(0)).copied().unwrap_or(0);
    period.mul_f64((f64::from(part) + unit(seed, "phase", fault, 0)) / f64::from(block))
}

/// Uniform in `[0, 1)`.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds exactly")]
fn unit(seed: u64, purpose: &str, index: u32, second: u32) -> f64 {
    let bytes = hash(seed, purpose, index, second);
    let number = bytes
        .iter()
        .take(8)
        .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

fn hash(seed: u64, purpose: &str, index: u32, second: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(purpose.as_bytes());
    hash.update([0]);
    hash.update(index.to_le_bytes());
    hash.update(second.to_le_bytes());
    hash.finalize().into()
}

/// Rounded down, at most `most`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value lies between 0 and 10001"
)]
fn whole(value: f64, most: u32) -> u32 {
    (value as u32).min(most)
}
