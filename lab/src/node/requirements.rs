//! What a machine must offer to run a lab, checked before anything is created. Depends on `command`.
//!
//! There is no mode that runs pods as plain processes: without root or without runc a lab is refused, with the reason.

use super::command::{find_program, package_of};
use super::error::NodeError;

/// Tools that every lab needs.
const PROGRAMS: [&str; 3] = ["runc", "ip", "nft"];

/// Refuses a machine that cannot run pods.
pub fn check() -> Result<(), NodeError> {
    if !rustix::process::geteuid().is_root() {
        return Err(NodeError::Unsupported {
            what: "the lab runs pods with namespaces and control groups, for which it needs root".to_owned(),
            hint: "run it as root (sudo), or point chaosrun to a cluster instead".to_owned(),
        });
    }
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|program| find_program(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().filter_map(|program| package_of(program)).collect();
    Err(NodeError::Unsupported {
        what: format!("the lab needs {}, which this machine does not have", missing.join(", ")),
        hint: format!("on Debian: apt-get install {}", packages.join(" ")),
    })
}
