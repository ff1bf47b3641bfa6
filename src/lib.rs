//! chaosrun
