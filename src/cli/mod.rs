//! The command line: arguments to plain values, one file per command, and the exit code.
//!
//! The only module (with `main`) that knows the lab. May depend on everything. Contract: a command returns an [`Exit`]; it
//! never ends the process itself, so that reverts and temporary labs always get their end.

mod arguments;
mod calibrate;
mod clean;
mod cluster;
mod compare;
mod exit;
mod folder;
mod lab;
mod live;
mod load;
mod plan;
mod rbac;
mod report;
mod run;
mod streams;
mod validate;
mod verify;

use arguments::{Arguments, Command};
use clap::{CommandFactory as _, Parser as _};
pub use exit::Exit;
use exit::Failure;
pub use streams::Streams;

/// Runs chaosrun with these arguments (the program's name first) and gives the exit code.
pub fn main(arguments: Vec<std::ffi::OsString>, mut streams: Streams) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments::with_default_command(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => return arguments::explain(&error, &mut streams),
    };
    streams.choose_color(arguments.global.color);
    start_tracing(arguments.global.verbose);
    match dispatch(arguments, &mut streams) {
        Ok(exit) => exit,
        Err(failure) => {
            streams.complain(&failure);
            failure.exit()
        }
    }
}

fn dispatch(arguments: Arguments, streams: &mut Streams) -> Result<Exit, Failure> {
    let global = arguments.global;
    let command = match arguments.command {
        Command::Run(run) if global.dry_run => Command::Plan(arguments::PlanArguments {
            paths: run.paths,
            variables: run.variables,
            prometheus: run.prometheus,
        }),
        command => command,
    };
    match command {
        Command::Run(run) => run_async(run::run(global, run, streams)),
        Command::Validate(validate) => validate::validate(&validate, streams),
        Command::Rbac(paths) => rbac::rbac(&paths, streams),
        Command::Plan(plan) => run_async(plan::plan(global, plan, streams)),
        Command::Calibrate(calibrate) => run_async(calibrate::calibrate(global, calibrate, streams)),
        Command::Clean(clean) => run_async(clean::clean(global, clean, streams)),
        Command::Report(report) => report::report(&report, streams),
        Command::Compare(compare) => compare::compare(&compare, streams),
        Command::Verify(verify) => verify::verify(&verify, streams),
        Command::Schema => {
            let text = serde_json::to_string_pretty(&crate::experiment::json_schema())
                .map_err(|error| Failure::Internal(error.to_string()))?;
            streams.say(&text);
            Ok(Exit::Pass)
        }
        Command::Completions { shell } => {
            let mut buffer = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "chaosrun", &mut buffer);
            streams.say(String::from_utf8_lossy(&buffer).trim_end());
            Ok(Exit::Pass)
        }
        Command::Lab { command } => lab::lab(&command, streams),
    }
}

/// Everything that talks to the world runs on one runtime, made only for commands that need it.
fn run_async(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    // Whoever comes first installs the TLS provider; a second time is not an error worth telling.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Internal(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "chaosrun=info,warn",
        2 => "chaosrun=debug,info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHAOSRUN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // A second call in one process (tests) keeps the first subscriber.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .without_time()
            .try_init(),
    );
}
