//! The lab by itself: `chaosrun-lab up|down|status|env [NAME]`.

use std::io::Write;
use std::process::ExitCode;

use chaosrun_lab::lifecycle::{LabConfig, LabError, down, environment, status, up};
use chaosrun_lab::standard::{configuration, multicall};
use clap::{Parser, Subcommand};

/// A small Kubernetes in one process.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots a lab in the background.
    Up {
        /// Name of the lab.
        #[arg(default_value = "default")]
        name: String,
        /// Number of nodes.
        #[arg(long, default_value_t = 3)]
        nodes: u8,
    },
    /// Takes a lab down and removes every trace.
    Down {
        /// Name of the lab.
        #[arg(default_value = "default")]
        name: String,
    },
    /// Lists the labs of this machine.
    Status,
    /// Prints the line that points kubectl to a lab.
    Env {
        /// Name of the lab.
        #[arg(default_value = "default")]
        name: String,
    },
}

fn main() -> ExitCode {
    if let Some(code) = multicall(std::env::args_os()) {
        return code;
    }
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    match runtime.block_on(Box::pin(execute(arguments.command))) {
        Ok(text) => {
            drop(writeln!(std::io::stdout(), "{text}"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    drop(writeln!(std::io::stderr(), "error: {message}"));
    ExitCode::FAILURE
}

async fn execute(command: Command) -> Result<String, LabError> {
    match command {
        Command::Up { name, nodes } => {
            let program = std::env::current_exe().unwrap_or_else(|_| "chaosrun-lab".into());
            let lab = up(&LabConfig {
                nodes,
                ..configuration(&name, &program)
            })
            .await?;
            Ok(format!(
                "lab {} is up at {}\nexport KUBECONFIG='{}'",
                lab.name,
                lab.api.unwrap_or_default(),
                lab.kubeconfig.display()
            ))
        }
        Command::Down { name } => down(&LabConfig::new(&*name))
            .await
            .map(|()| format!("lab {name} is down")),
        Command::Status => Ok(status(&LabConfig::new("any"))
            .iter()
            .map(|lab| {
                let state = if lab.alive { "up" } else { "dead" };
                format!(
                    "{}\t{state}\tpid {}\t{}",
                    lab.name,
                    lab.process.pid,
                    lab.api.as_deref().unwrap_or("-")
                )
            })
            .collect::<Vec<_>>()
            .join("\n")),
        Command::Env { name } => environment(&LabConfig::new(name)),
    }
}
