//! YAML text to a valid [`Experiment`], or to ALL of its problems at once.
//!
//! Pure: may depend on [`crate::model`] and [`crate::fault`] only. Contract: a value of type [`Experiment`] is valid.

mod types;

pub use types::{
    Assertion, Check, Claim, Comparison, Experiment, Guards, Ledger, Limit, Operator, Probe,
    RtoSlo, RtoStart, Setup, Slos, SteadyState, StopCondition, Target, Timeouts, Trials, When,
    Workload,
};
