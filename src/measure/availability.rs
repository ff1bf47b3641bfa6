//! Share of good time.

use crate::experiment::Probe;
use crate::model::{Bounded, Interval, Measured, Mono, WhyNot};
use crate::timeline::{ProbeState, Span};

/// One probe's stretches and what is not known in between.
pub(crate) struct Lane<'a> {
    pub(crate) probe: &'a Probe,
    /// It never said anything, also outside the window.
    pub(crate) silent: bool,
    pub(crate) spans: Vec<Span>,
    pub(crate) holes: Vec<Interval>,
}

impl Lane<'_> {
    /// State that surely held over all of `[from, to]`, an elementary stretch that no edge of the lane cuts.
    fn state(&self, from: Mono, to: Mono) -> ProbeState {
        let inside = |hole: &Interval| hole.lower <= from && to <= hole.upper;
        if self.holes.iter().any(inside) {
            return ProbeState::NoData;
        }
        self.spans
            .iter()
            .find(|span| span.entered.within.upper <= from && to <= span.last_known)
            .map_or(ProbeState::NoData, |span| span.state)
    }
}

/// Share of `[from, to]` in which every probe was good. Lower: what is unknown counts as bad. Upper: as good.
pub(crate) fn share(lanes: &[Lane<'_>], from: Mono, to: Mono) -> Measured<Bounded> {
    if to <= from {
        return Err(WhyNot::NoData {
            why: "there is no time between fault and end of the trial".to_owned(),
        });
    }
    if let Some(silent) = lanes.iter().find(|lane| lane.silent) {
        return Err(WhyNot::NoData {
            why: format!("{} gave no sample", silent.probe.name),
        });
    }
    if lanes.is_empty() {
        return Err(WhyNot::NoData {
            why: "there is no probe".to_owned(),
        });
    }
    let mut edges: Vec<Mono> = lanes
        .iter()
        .flat_map(|lane| {
            let spans = lane
                .spans
                .iter()
                .flat_map(|span| [span.entered.within.upper, span.last_known]);
            let holes = lane.holes.iter().flat_map(|hole| [hole.lower, hole.upper]);
            spans.chain(holes)
        })
        .filter(|edge| *edge > from && *edge < to)
        .chain([from, to])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let (mut good, mut bad) = (0.0, 0.0);
    for pair in edges.windows(2) {
        let [start, end] = *pair else { continue };
        let length = end.since(start).as_secs_f64();
        let states: Vec<ProbeState> = lanes.iter().map(|lane| lane.state(start, end)).collect();
        if states.contains(&ProbeState::Bad) {
            bad += length;
        } else if !states.contains(&ProbeState::NoData) {
            good += length;
        }
    }
    let total = to.since(from).as_secs_f64();
    let lower: f64 = good / total;
    let upper: f64 = 1.0 - bad / total;
    Ok(Bounded::new(lower.clamp(0.0, 1.0), upper.clamp(lower, 1.0)))
}
