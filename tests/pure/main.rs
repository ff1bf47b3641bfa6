//! The pure half as its users see it: logs in, judgements out. No cluster, no clock, no files but the committed corpus.

mod chain;
mod corpus;
mod dsl;
mod ledger_cases;
mod live;
mod pod_cases;
mod probe_cases;
mod properties;
mod snapshots;
