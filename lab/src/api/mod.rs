//! The API server.

pub(crate) mod apply;
pub(crate) mod fields;
