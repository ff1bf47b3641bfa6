//! Controllers: what turns declared objects into running ones.
pub mod spark;
