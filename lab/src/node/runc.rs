//! Starts container processes with `runc` and owns them afterwards. Depends on [`error`](super::error) and rustix.
//!
//! Every process is started *detached*: runc sets it up and leaves, and because this process is a child subreaper
//! ([`become_subreaper`]) the container's first process becomes our child. Its end is then seen through a pidfd within
//! microseconds and with its true status, without a runc process per container in between.
//!
//! Central types: [`Runc`], [`Process`].

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::watch;

use super::error::NodeError;

/// Starting takes about 50 ms; with every core busy it can take seconds.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When this process learned of it.
    pub at: Timestamp,
}

/// A process of a container: its first one, or one that was started later by exec.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: i32,
    pidfd: std::sync::Arc<OwnedFd>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Waits for the end. May be called any number of times, by any number of tasks.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let found = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        // The sender only goes away after it has sent, except when the runtime is shutting down.
        found.unwrap_or(Exit {
            code: 255,
            signal: None,
            at: Timestamp::now(),
        })
    }

    /// How it ended, when it has.
    pub(crate) fn ended(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Process id on this machine.
    pub(crate) fn id(&self) -> i32 {
        self.pid
    }

    /// Sends a signal; a process that is gone already is fine.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), signal) {
            tracing::debug!(pid = self.pid, ?signal, %error, "signal not delivered");
        }
    }
}

/// A started process and our ends of its pipes.
pub(crate) struct Started {
    pub process: Process,
    pub stdin: Option<pipe::Sender>,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
}

/// Makes orphans of our children our children, so that detached containers can be waited for.
pub(crate) fn become_subreaper() -> Result<(), NodeError> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(NodeError::errno("become the child subreaper in", "/proc/self"))
}

/// The `runc` program with its state folder.
#[derive(Debug, Clone)]
pub(crate) struct Runc {
    state: PathBuf,
    scratch: PathBuf,
}

impl Runc {
    /// `state` is runc's own folder (`--root`), `scratch` one for pid files and logs; both must exist.
    pub(crate) fn new(state: PathBuf, scratch: PathBuf) -> Self {
        Self { state, scratch }
    }

    /// Creates and starts a container from its bundle folder.
    pub(crate) async fn run(&self, id: &str, bundle: &Path) -> Result<Started, NodeError> {
        let arguments = ["run", "--detach", "--bundle", &bundle.to_string_lossy()].map(str::to_owned);
        self.start(id, &arguments, id, false).await
    }

    /// Starts another process in a running container; `process` is the file with its OCI description.
    pub(crate) async fn exec(&self, id: &str, process: &serde_json::Value, stdin: bool) -> Result<Started, NodeError> {
        let name = format!("exec-{}", uuid::Uuid::new_v4().simple());
        let file = self.scratch.join(format!("{name}.json"));
        std::fs::write(&file, process.to_string()).map_err(NodeError::io("write", &file))?;
        let arguments = ["exec", "--detach", "--process", &file.to_string_lossy()].map(str::to_owned);
        let started = self.start_apart(id, &arguments, &name, stdin).await;
        drop(std::fs::remove_file(&file));
        started
    }

    /// Starts another process in a running container, on a terminal. Returns it and the terminal's master side.
    pub(crate) async fn exec_on_terminal(
        &self,
        id: &str,
        process: &serde_json::Value,
    ) -> Result<(Process, OwnedFd), NodeError> {
        let name = format!("exec-{}", uuid::Uuid::new_v4().simple());
        let file = self.scratch.join(format!("{name}.json"));
        std::fs::write(&file, process.to_string()).map_err(NodeError::io("write", &file))?;
        let socket = self.scratch.join(format!("{name}.sock"));
        let listener = std::os::unix::net::UnixListener::bind(&socket).map_err(NodeError::io("listen on", &socket))?;
        let received = tokio::task::spawn_blocking(move || receive_descriptor(&listener));
        let arguments = [
            "exec",
            "--detach",
            "--console-socket",
            &socket.to_string_lossy(),
            "--process",
            &file.to_string_lossy(),
        ]
        .map(str::to_owned);
        let started = self.start_apart(id, &arguments, &name, false).await;
        if started.is_err() {
            // Wakes the listener, which would otherwise wait for a terminal that never comes.
            drop(std::os::unix::net::UnixStream::connect(&socket));
        }
        let terminal = received.await;
        drop(std::fs::remove_file(&file));
        drop(std::fs::remove_file(&socket));
        let process = started?.process;
        match terminal {
            Ok(Ok(terminal)) => Ok((process, terminal)),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(NodeError::Pod(format!("terminal not received: {error}"))),
        }
    }

    /// Like [`start`](Self::start), in a task of its own: a caller that gives up half-way must not leave a process that
    /// nobody adopted.
    async fn start_apart(&self, id: &str, arguments: &[String], name: &str, stdin: bool) -> Result<Started, NodeError> {
        let (runc, id, arguments, name) = (self.clone(), id.to_owned(), arguments.to_vec(), name.to_owned());
        let started = tokio::spawn(async move { runc.start(&id, &arguments, &name, stdin).await });
        started
            .await
            .unwrap_or_else(|error| Err(NodeError::Pod(format!("not started: {error}"))))
    }

    /// Runs runc detached and adopts what it started.
    async fn start(&self, id: &str, arguments: &[String], name: &str, stdin: bool) -> Result<Started, NodeError> {
        let pid_file = self.scratch.join(format!("{name}.pid"));
        let log_file = self.scratch.join(format!("{name}.log"));
        let pipe = || std::io::pipe().map_err(NodeError::io("create a pipe for", &pid_file));
        let (stdout_ours, stdout_theirs) = pipe()?;
        let (stderr_ours, stderr_theirs) = pipe()?;
        let (stdin_theirs, stdin_ours) = if stdin { Some(pipe()?) } else { None }.unzip();
        let mut command = Command::new("runc");
        command
            .arg("--root")
            .arg(&self.state)
            .arg("--log")
            .arg(&log_file)
            .args(["--log-format", "json"]);
        command.args(arguments).arg("--pid-file").arg(&pid_file).arg(id);
        command
            .stdin(stdin_theirs.map_or_else(Stdio::null, Stdio::from))
            .stdout(stdout_theirs)
            .stderr(stderr_theirs);
        let described = || format!("runc {} {id}", arguments.first().map_or("", String::as_str));
        let spawned = command.spawn();
        // The command still holds the container's ends of the pipes; only without them can we see their end.
        drop(command);
        let mut child = spawned.map_err(|error| NodeError::Command {
            command: described(),
            message: error.to_string(),
        })?;
        let status = tokio::time::timeout(START_TIMEOUT, child.wait()).await;
        let log = std::fs::read_to_string(&log_file).unwrap_or_default();
        let pid = std::fs::read_to_string(&pid_file)
            .ok()
            .and_then(|text| text.trim().parse::<i32>().ok());
        drop(std::fs::remove_file(&log_file));
        drop(std::fs::remove_file(&pid_file));
        let failed = |message: String| NodeError::Command {
            command: described(),
            message,
        };
        match status {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => {
                return Err(failed(log_message(&log).unwrap_or_else(|| status.to_string())));
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => {
                return Err(failed(format!("not started within {} s", START_TIMEOUT.as_secs())));
            }
        }
        let pid = pid.ok_or_else(|| failed("runc wrote no process id".to_owned()))?;
        let io = |error: std::io::Error| failed(error.to_string());
        Ok(Started {
            process: adopt(pid)?,
            stdin: stdin_ours
                .map(|end| pipe::Sender::from_owned_fd(end.into()))
                .transpose()
                .map_err(io)?,
            stdout: pipe::Receiver::from_owned_fd(stdout_ours.into()).map_err(io)?,
            stderr: pipe::Receiver::from_owned_fd(stderr_ours.into()).map_err(io)?,
        })
    }

    /// Removes runc's record of an ended container. Its control group is removed by whoever made its name: so it
    /// costs no process.
    pub(crate) fn forget(&self, id: &str) {
        let folder = self.state.join(id);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "runc's record not removed");
        }
    }
}

/// Starts waiting for a process that became our child. It cannot be reaped before that, so its pid is still its own.
fn adopt(pid: i32) -> Result<Process, NodeError> {
    let path = format!("/proc/{pid}");
    let raw = Pid::from_raw(pid).ok_or_else(|| NodeError::Pod(format!("runc named the process {pid}")))?;
    let pidfd =
        rustix::process::pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(NodeError::errno("open a pidfd for", &path))?;
    let pidfd = std::sync::Arc::new(pidfd);
    let waiter = super::descriptor::watch(std::sync::Arc::clone(&pidfd)).map_err(NodeError::io("watch", &path))?;
    let (sender, exit) = watch::channel(None);
    tokio::spawn(async move {
        let exit = loop {
            let Ok(mut ready) = waiter.readable().await else {
                break Exit {
                    code: 255,
                    signal: None,
                    at: Timestamp::now(),
                };
            };
            match rustix::process::waitid(
                WaitId::PidFd(waiter.get_ref().as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            ) {
                Ok(Some(status)) => {
                    let signal = status.terminating_signal();
                    let code = signal.map_or_else(|| status.exit_status().unwrap_or(255), |signal| 128 + signal);
                    break Exit {
                        code,
                        signal,
                        at: Timestamp::now(),
                    };
                }
                Ok(None) | Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => {
                    tracing::warn!(pid, %error, "the exit status of a container process is not known");
                    break Exit {
                        code: 255,
                        signal: None,
                        at: Timestamp::now(),
                    };
                }
            }
        };
        sender.send_replace(Some(exit));
    });
    Ok(Process { pid, pidfd, exit })
}

/// The last error in runc's log, without the chain of its internal steps.
fn log_message(log: &str) -> Option<String> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|entry| entry.get("level").and_then(serde_json::Value::as_str) == Some("error"))
        .filter_map(|entry| entry.get("msg").and_then(serde_json::Value::as_str).map(str::to_owned))
        .next_back()
}

/// Receives the terminal that runc sends over its console socket.
fn receive_descriptor(listener: &std::os::unix::net::UnixListener) -> Result<OwnedFd, NodeError> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let (stream, _) = listener
        .accept()
        .map_err(NodeError::io("accept on", "the console socket"))?;
    stream
        .set_read_timeout(Some(START_TIMEOUT))
        .map_err(NodeError::io("set a timeout on", "the console socket"))?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut data = [0_u8; 4096];
    rustix::net::recvmsg(
        &stream,
        &mut [std::io::IoSliceMut::new(&mut data)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(NodeError::errno("receive from", "the console socket"))?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| NodeError::Pod("runc sent no terminal".to_owned()))
}
