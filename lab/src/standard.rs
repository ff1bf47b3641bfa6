//! The lab as it is shipped: every image and every controller.
//!
//! Depends on all other parts and is known by none of them. Whoever embeds the lab takes [`configuration`] and
//! [`controllers`], and calls [`multicall`] first thing in `main`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::controllers::{self, chaos_mesh, litmus, prometheus, spark};
use crate::images::{find_spark, known_images};
use crate::lifecycle::{self, Controller, LabConfig};
use crate::shaper;

/// A lab with every image that this machine can offer. `program` is the executable that calls [`multicall`].
#[must_use]
pub fn configuration(name: &str, program: &Path) -> LabConfig {
    let images = known_images(find_spark().as_ref(), program);
    LabConfig {
        images,
        program: Some(program.to_owned()),
        ..LabConfig::new(name)
    }
}

/// Every controller; Prometheus where the machine has it, Apache Spark likewise.
#[must_use]
pub fn controllers() -> Vec<Controller> {
    let metrics = prometheus::is_installed().then(prometheus::PrometheusConfig::default);
    vec![
        controllers::in_lab(metrics),
        spark::controller(find_spark()),
        chaos_mesh::controller(),
        litmus::controller(),
    ]
}

/// Serves the lab's hidden commands. `None`: the arguments are for somebody else. Call it before anything else in
/// `main`.
pub fn multicall(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let is = |index: usize, word: &str| arguments.get(index).is_some_and(|argument| argument == word);
    let text = |from: usize| -> Vec<String> {
        let rest = arguments.iter().skip(from);
        rest.map(|argument| argument.to_string_lossy().into_owned()).collect()
    };
    if arguments
        .first()
        .is_some_and(|program| Path::new(program).file_name() == Some("tc".as_ref()))
        && !is(1, "lab-internal")
    {
        return Some(shaper::tc(text(1)));
    }
    if is(1, "lab-internal") && is(2, shaper::HOLD_ARGUMENT) {
        return Some(shaper::hold(text(3)));
    }
    if is(1, "lab-internal") && is(2, shaper::ATTENDED_ARGUMENT) {
        return Some(shaper::hold_attended(text(3)));
    }
    if is(1, "lab-internal") && is(2, "intruder") {
        return Some(crate::intruder::main(arguments.into_iter().skip(3)));
    }
    if is(1, "lab-internal") && is(2, "idle") {
        return Some(crate::intruder::idle());
    }
    if is(1, "lab-internal") && is(2, "pipeline") {
        return Some(crate::pipeline::main(arguments.into_iter().skip(3)));
    }
    if is(1, "lab-internal") && is(2, prometheus::DISCOVERY_ARGUMENT) {
        return Some(prometheus::discovery::main(arguments.into_iter().skip(3)));
    }
    lifecycle::multicall(arguments, controllers)
}
