//! The arguments, as clap sees them.

use super::exit::Exit;
use super::streams::Streams;
use crate::compare::Margin;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Break a running system on purpose, measure when service came back and which data survived.
#[derive(Debug, Parser)]
#[command(name = "chaosrun", version, max_term_width = 100)]
#[command(
    after_help = "`run` is the default: `chaosrun scenarios/driver-kill.yaml` runs that experiment.\n\
    Exit codes: 0 every claim holds, 1 a claim is refuted, 2 inconclusive, 3 aborted by a stop condition,\n\
    4 a fault could not be reverted, 64 usage, 65 invalid experiment, 69 unreachable, 70 internal error,\n\
    73 report cannot be written, 77 refused before anything was touched, 130/143 interrupted."
)]
pub(super) struct Arguments {
    /// What applies to every command.
    #[command(flatten)]
    pub(super) global: Global,
    /// The command.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Args, Clone)]
pub(super) struct Global {
    /// Context of the kubeconfig to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// Path of the kubeconfig (default: KUBECONFIG, ~/.kube/config, or the pod's service account).
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Use this namespace instead of the experiment's target.namespace.
    #[arg(long, short = 'n', global = true, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// Use the embedded cluster: the running lab, or one that is booted now and taken down afterwards.
    #[arg(long, global = true)]
    pub(super) lab: bool,
    /// Say more (-v, -vv, -vvv).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Colour in the output.
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(super) color: Color,
    /// Show what would happen and touch nothing (the same as `plan`).
    #[arg(long, global = true)]
    pub(super) dry_run: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run experiments (files or folders), print the verdict, write the run folder.
    Run(RunArguments),
    /// Check experiment files without a cluster: every problem with file, line and column.
    Validate(ValidateArguments),
    /// Show what would happen: exact pods, permissions, guards, expected duration. Touches nothing.
    Plan(PlanArguments),
    /// Print the least Role (and ClusterRole) with which these experiments can be run.
    Rbac(ValidateArguments),
    /// Find everything that chaosrun left behind, by label, from any machine, and remove it.
    Clean(CleanArguments),
    /// Hold the instrument against recoveries of known length, in the lab: its error distribution, and whether it keeps its limits.
    Calibrate(CalibrateArguments),
    /// Render a report again from the event log of a run.
    Report(ReportArguments),
    /// Compare two runs (or folders of runs): is recovery significantly slower? The exit code says so.
    Compare(CompareArguments),
    /// Recompute every number from the event log, check its hash chain, and compare with the report: evidence, not a claim.
    Verify(VerifyArguments),
    /// Print the JSON Schema of experiment files, for editors.
    Schema,
    /// Print a completion script.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// The embedded cluster.
    Lab {
        /// What to do with it.
        #[command(subcommand)]
        command: LabCommand,
    },
}

/// Options of `run`.
#[derive(Debug, Args, Clone)]
pub(super) struct RunArguments {
    /// Experiment files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// Where run folders go.
    #[arg(long, default_value = "reports", value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Seed of every random choice; printed and recorded, so that a run can be repeated.
    #[arg(long, value_name = "NUMBER")]
    pub(super) seed: Option<u64>,
    /// Number of trials, instead of the file's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) trials: Option<u32>,
    /// What to print at the end.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: Format,
    /// Address of Prometheus, for experiments that name none.
    #[arg(long, env = "CHAOSRUN_PROMETHEUS", value_name = "URL")]
    pub(super) prometheus: Option<String>,
    /// Calibration to quote in the report (default: calibration.json in the folder of --out, if it is there).
    #[arg(long, value_name = "FILE")]
    pub(super) calibration: Option<PathBuf>,
    /// Variables of the experiment files.
    #[command(flatten)]
    pub(super) variables: Variables,
}

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// report.json.
    Json,
}

/// `--var`.
#[derive(Debug, Args, Clone, Default)]
pub(super) struct Variables {
    /// Value of a `${NAME}` in the files; may be given several times.
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub(super) values: Vec<(String, String)>,
}

/// Options of `validate`.
#[derive(Debug, Args)]
pub(super) struct ValidateArguments {
    /// Experiment files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// Variables of the experiment files.
    #[command(flatten)]
    pub(super) variables: Variables,
}

/// Options of `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArguments {
    /// Experiment files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// Variables of the experiment files.
    #[command(flatten)]
    pub(super) variables: Variables,
    /// Address of Prometheus, for experiments that name none.
    #[arg(long, env = "CHAOSRUN_PROMETHEUS", value_name = "URL")]
    pub(super) prometheus: Option<String>,
}

/// Options of `calibrate`.
#[derive(Debug, Args, Clone)]
pub(super) struct CalibrateArguments {
    /// 60 recoveries instead of 300: some three minutes.
    #[arg(long, conflicts_with = "recoveries")]
    quick: bool,
    /// Number of recoveries.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(6..=3000))]
    recoveries: u32,
    /// Seed of lengths, order and phases.
    #[arg(long, value_name = "NUMBER")]
    pub(super) seed: Option<u64>,
    /// The file to write; logs and stamps go into a folder beside it.
    #[arg(long, default_value = "reports/calibration.json", value_name = "FILE")]
    pub(super) out: PathBuf,
}

impl CalibrateArguments {
    /// Number of recoveries.
    pub(super) fn count(&self) -> usize {
        if self.quick {
            60
        } else {
            usize::try_from(self.recoveries).unwrap_or(usize::MAX)
        }
    }
}

/// Options of `clean`.
#[derive(Debug, Args)]
pub(super) struct CleanArguments {
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub(super) yes: bool,
    /// How long taking one thing back may take.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(super) timeout: u64,
    /// Let go of what does not go away: take the finalizers from objects whose controller is stuck or gone. What they did to pods
    /// may remain, and is named.
    #[arg(long)]
    pub(super) force: bool,
    /// Only what this run left.
    #[arg(long, value_name = "RUN")]
    pub(super) run: Option<String>,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub(super) struct ReportArguments {
    /// Folder of a run.
    #[arg(value_name = "RUN_DIR")]
    pub(super) folder: PathBuf,
    /// What to print.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: Format,
}

/// Options of `compare`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 not slower by the margin, 1 slower by more than the margin, 2 inconclusive.")]
pub(super) struct CompareArguments {
    /// BASE and NEW: run folders, or folders of them. With --store NEW alone, or the run to save.
    #[arg(required = true, num_args = 1..=2, value_name = "RUN_DIR")]
    pub(super) paths: Vec<PathBuf>,
    /// A slow-down below this does not matter: 2s, 500ms, or a share of the base's median.
    #[arg(long, value_name = "SIZE", default_value = "10%", value_parser = super::compare::parse_margin)]
    pub(super) margin: Margin,
    /// Confidence of each one-sided bound of the slow-down.
    #[arg(long, value_name = "SHARE", default_value = "95%", value_parser = super::compare::parse_confidence)]
    pub(super) confidence: f64,
    /// Folder with what is kept of past runs; NEW is compared with the newest of them.
    #[arg(long, value_name = "DIR")]
    pub(super) store: Option<PathBuf>,
    /// Keep what later comparisons need of this run in the store, and compare nothing.
    #[arg(long, requires = "store", conflicts_with = "base")]
    pub(super) save: bool,
    /// Name to save it under (a build, a release); runs of one name are compared as one.
    #[arg(long, value_name = "NAME", requires = "save")]
    pub(super) name: Option<String>,
    /// Compare with the saved runs of this name or id, not with the newest.
    #[arg(long, value_name = "NAME", requires = "store")]
    pub(super) base: Option<String>,
    /// What to print.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: Format,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// Folder of a run.
    #[arg(value_name = "RUN_DIR")]
    pub(super) folder: PathBuf,
    /// Hash of the log's last line as it was noted elsewhere: shows that log and report were not rewritten together since.
    #[arg(long, value_name = "HASH", value_parser = parse_hash)]
    pub(super) head: Option<String>,
    /// What to print.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: VerifyFormat,
}

/// What `verify` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum VerifyFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `lab` commands.
#[derive(Debug, Subcommand)]
pub(super) enum LabCommand {
    /// Boot it and leave it running in the background.
    Up {
        /// Name, for several side by side.
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Take it down and remove every trace, also of one that was killed.
    Down {
        /// Name.
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Which labs are there.
    Status,
    /// Let its API server drop every connection, be away for 3 s, and come back: what a client does then can be seen.
    RestartApi {
        /// Name.
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Print the line that points kubectl at it: `eval "$(chaosrun lab env)"`.
    Env {
        /// Name.
        #[arg(long, default_value = "default")]
        name: String,
    },
}

fn parse_hash(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_owned())
    } else {
        Err("wanted the 64 hexadecimal digits that `verify` prints".to_owned())
    }
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("wanted NAME=VALUE".to_owned()),
    }
}

/// Puts the word `run` in where it was left out: when the first word that is no option is not a command.
pub(super) fn with_default_command(arguments: Vec<OsString>) -> Vec<OsString> {
    const TAKES_VALUE: [&str; 13] = [
        "--context",
        "--kubeconfig",
        "--namespace",
        "-n",
        "--color",
        "--out",
        "--seed",
        "--trials",
        "--format",
        "--var",
        "--head",
        "--recoveries",
        "--calibration",
    ];
    let command = Arguments::command();
    let mut skip = false;
    let mut first = None;
    for (index, argument) in arguments.iter().enumerate().skip(1) {
        let text = argument.to_string_lossy();
        if skip {
            skip = false;
        } else if TAKES_VALUE.contains(&text.as_ref()) || text == "--prometheus" {
            skip = true;
        } else if matches!(text.as_ref(), "-h" | "--help" | "-V" | "--version" | "help") {
            return arguments;
        } else if !text.starts_with('-') {
            first = Some((index, text.into_owned()));
            break;
        }
    }
    let Some((_, word)) = first else {
        return arguments;
    };
    if command.find_subcommand(&word).is_some() {
        return arguments;
    }
    let mut arguments = arguments;
    let end = arguments.len().min(1);
    arguments.insert(end, OsString::from("run"));
    arguments
}

/// Help and version go to stdout and are no error; everything else is wrong usage.
pub(super) fn explain(error: &clap::Error, streams: &mut Streams) -> Exit {
    use clap::error::ErrorKind;
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        streams.say(text.trim_end());
        return Exit::Pass;
    }
    streams.note(text.trim_end());
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn run_is_put_in_where_it_was_left_out() {
        assert_eq!(
            with_default_command(words("chaosrun a.yaml")),
            words("chaosrun run a.yaml")
        );
        assert_eq!(
            with_default_command(words("chaosrun --lab a.yaml")),
            words("chaosrun run --lab a.yaml")
        );
        assert_eq!(
            with_default_command(words("chaosrun --out validate a.yaml")),
            words("chaosrun run --out validate a.yaml")
        );
    }

    #[test]
    fn commands_and_help_are_left_alone() {
        for text in [
            "chaosrun validate a.yaml",
            "chaosrun --lab clean",
            "chaosrun --help",
            "chaosrun",
            "chaosrun help run",
        ] {
            assert_eq!(with_default_command(words(text)), words(text));
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
