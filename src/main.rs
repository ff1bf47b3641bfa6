//! The `chaosrun` program.

use chaosrun::cli::{Streams, main as run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // The lab runs parts of itself (its daemon, the built-in pipeline) as this same program.
    if let Some(code) = chaosrun_lab::standard::multicall(arguments.iter().cloned()) {
        return code;
    }
    ExitCode::from(run(arguments, Streams::process()).code())
}
