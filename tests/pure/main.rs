//! The pure half as its users see it: logs in, judgements out. No cluster, no clock, no files but the committed corpus.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "these are tests: a panic is a failure, and their numbers are small"
)]

mod chain;
mod comparing;
mod corpus;
mod dsl;
mod lasting_cases;
mod ledger_cases;
mod ledger_counts;
mod live;
mod pod_cases;
mod probe_cases;
mod properties;
mod snapshots;
mod statistics;
mod trials;
mod vectors;
