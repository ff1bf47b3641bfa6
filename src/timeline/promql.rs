//! What the answer of a query says about its condition.

use crate::evidence::Outcome;
use crate::experiment::Comparison;

/// Good when there is at least one value and EVERY value satisfies the condition. No series at all says nothing: it is not a
/// pass. The value is what is compared, never a truth value: `up == 0` matching with the value 0 is judged on that 0.
#[must_use]
pub fn promql_outcome(values: &[f64], condition: Comparison) -> Outcome {
    if values.is_empty() {
        return Outcome::NoData {
            why: "the query returned no series".to_owned(),
        };
    }
    let breaching = values.iter().find(|value| !condition.holds(**value));
    match (breaching, values.len()) {
        (None, _) => Outcome::Good,
        (Some(value), 1) => Outcome::Bad {
            why: format!("value is {value}, {condition} wanted"),
        },
        (Some(value), count) => Outcome::Bad {
            why: format!("one of {count} series is {value}, {condition} wanted"),
        },
    }
}
