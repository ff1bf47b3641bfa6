//! Vectors of the measurement's specification (`interval/*`): samples in, instants with both ends out. Times in seconds.

use crate::dsl::{Log, at, experiment, good_unless, http, silent};
use chaosrun::evidence::{Event, Outcome};
use chaosrun::model::Interval;
use chaosrun::timeline::{Span, Timeline};

/// One sample a second, answered after 10 ms: `g`ood, `b`ad, or nothing (`-`).
fn spans(samples: &str) -> Vec<Span> {
    let wanted = experiment("vector", vec![http()], 60.0);
    let mut log = Log::of(&wanted);
    for (index, letter) in samples.chars().enumerate() {
        let sent = f64::from(u32::try_from(index).unwrap());
        let outcome: Outcome = match letter {
            '-' => silent(),
            letter => good_unless(letter == 'b'),
        };
        log = log.event(Event::ProbeSample {
            probe: http().name,
            scheduled: at(sent),
            sent: at(sent),
            received: at(sent + 0.01),
            known_from: None,
            outcome,
            value: None,
        });
    }
    let mut timeline = Timeline::new(&wanted);
    for event in &log.events {
        timeline.apply(event);
    }
    timeline.spans(&http().name)
}

fn within(span: &Span) -> (f64, f64) {
    let Interval { lower, upper } = span.entered.within;
    (lower.seconds(), upper.seconds())
}

#[test]
fn a_short_good_run_is_a_flap_and_recovery_is_dated_at_the_one_that_lasts() {
    let spans = spans("gbbgbgggg");
    let states: Vec<String> = spans.iter().map(|span| format!("{:?}", span.state)).collect();
    assert_eq!(states, ["Good", "Bad", "Good", "Bad", "Good"]);
    assert_eq!(within(&spans[1]), (0.0, 1.01), "impact");
    assert_eq!(within(&spans[4]), (4.0, 5.01), "restored");
}

#[test]
fn samples_without_an_answer_widen_and_are_neither_good_nor_bad() {
    let spans = spans("gb--ggg");
    assert_eq!(spans.len(), 3);
    assert_eq!(within(&spans[1]), (0.0, 1.01), "impact");
    assert_eq!(within(&spans[2]), (1.0, 4.01), "restored");
}

#[test]
fn what_never_recovered_is_known_from_below_only() {
    let spans = spans("gbbbbb");
    assert_eq!(spans.len(), 2);
    assert_eq!(within(&spans[1]), (0.0, 1.01), "impact");
    assert_eq!(spans[1].last_known, at(5.0));
}

#[test]
fn a_duration_between_two_intervals_is_an_interval() {
    let between = |lower, upper| Interval::between(at(lower), at(upper));
    let duration = between(41.2, 42.0).since(between(10.0, 10.5));
    assert!((duration.lower - 30.7).abs() < 1e-9 && (duration.upper - 32.0).abs() < 1e-9);
}
