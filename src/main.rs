//! chaosrun
fn main() {}
