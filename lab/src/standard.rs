//! The lab as it is shipped: every image and every controller.
//!
//! Depends on all other parts and is known by none of them. Whoever embeds the lab takes [`configuration`] and
//! [`controllers`], and calls [`multicall`] first thing in `main`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::controllers::prometheus::{self, PrometheusConfig};
use crate::controllers::{in_lab, spark};
use crate::images::{find_spark, known_images};
use crate::lifecycle::{self, Controller, LabConfig};

/// A lab with every image that this machine can offer. `program` is the executable that calls [`multicall`].
#[must_use]
pub fn configuration(name: &str, program: &Path) -> LabConfig {
    LabConfig {
        images: known_images(find_spark().as_ref(), program),
        ..LabConfig::new(name)
    }
}

/// Every controller.
#[must_use]
pub fn controllers() -> Vec<Controller> {
    // Without the program there is nothing to deploy; probes by PromQL then say that they cannot reach it.
    let prometheus = prometheus::is_installed().then(PrometheusConfig::default);
    vec![in_lab(prometheus), spark::controller(find_spark())]
}

/// Serves the lab's hidden commands. `None`: the arguments are for somebody else. Call it before anything else in `main`.
pub fn multicall(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let hidden = arguments
        .get(1)
        .is_some_and(|argument| argument == "lab-internal");
    if hidden
        && arguments
            .get(2)
            .is_some_and(|argument| argument == "pipeline")
    {
        return Some(crate::pipeline::main(arguments.into_iter().skip(3)));
    }
    if hidden
        && arguments
            .get(2)
            .is_some_and(|argument| argument == prometheus::DISCOVERY_ARGUMENT)
    {
        return Some(prometheus::discovery::main(arguments.into_iter().skip(3)));
    }
    lifecycle::multicall(arguments, controllers)
}
