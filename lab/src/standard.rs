//! The lab as it is shipped: every image and every controller.
//!
//! Depends on all other parts and is known by none of them. Whoever embeds the lab takes [`configuration`] and
//! [`controllers`], and calls [`multicall`] first thing in `main`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use crate::controllers::{ControllersConfig, spark, spawn_all};
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
    vec![core_controllers(), spark::controller(find_spark())]
}

/// Scheduler, workloads, endpoints, disruption budgets.
fn core_controllers() -> Controller {
    Box::new(|client, info| {
        Box::pin(async move {
            let api_address = info
                .pod_api_url
                .strip_prefix("https://")
                .and_then(|host| host.parse::<SocketAddr>().ok());
            let handle = spawn_all(client, &ControllersConfig { api_address });
            // They end with the lab, which drops this future.
            std::future::pending::<()>().await;
            drop(handle);
        })
    })
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
    lifecycle::multicall(arguments, controllers)
}
