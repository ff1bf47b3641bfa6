//! Runs the system tools (`ip`, `nft`, `runc`) that the node agent builds on. Depends on [`error`](super::error) only.
//!
//! Contract: every call ends, within [`TIMEOUT`], and a failure carries the tool's own words.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::error::NodeError;

/// No call of a tool takes longer than this; on a busy two-core machine they take milliseconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a tool to its end and returns its standard output.
pub(crate) async fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, NodeError> {
    let described = || format!("{program} {}", arguments.join(" "));
    let failed = |message: String| NodeError::Command {
        command: described(),
        message,
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command
        .spawn()
        .map_err(|error| failed(spawn_problem(program, &error)))?;
    let ended = tokio::time::timeout(TIMEOUT, async {
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).await?;
            drop(stdin);
        }
        child.wait_with_output().await
    })
    .await;
    let output = match ended {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no end within {} s", TIMEOUT.as_secs()))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(if stderr.is_empty() {
        output.status.to_string()
    } else {
        stderr
    }))
}

/// Says which package a missing tool comes with.
fn spawn_problem(program: &str, error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::NotFound {
        return error.to_string();
    }
    match package_of(program) {
        Some(package) => format!("not installed; on Debian: apt-get install {package}"),
        None => "not installed".to_owned(),
    }
}

/// The Debian package of each tool that the lab needs.
pub(crate) fn package_of(program: &str) -> Option<&'static str> {
    match program {
        "ip" => Some("iproute2"),
        "nft" => Some("nftables"),
        "runc" => Some("runc"),
        "tini" => Some("tini"),
        _ => None,
    }
}

/// Looks a program up in `PATH`, and where Debian keeps the administrator's tools.
pub(crate) fn find_program(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].into_iter().map(Into::into))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
