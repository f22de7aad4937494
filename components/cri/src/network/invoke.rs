//! Running one CNI plugin.
//!
//! A plugin is a program of somebody else's, so nothing is believed: it may hang, print without end, print no JSON, or
//! die by a signal. It runs in a process group of its own, which is killed as a whole when its time is over; what
//! it prints is kept up to a limit; and a process that it leaves behind with its output open holds nobody up.

use super::config::PluginConfig;
use crate::traces;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{sleep, timeout},
};

/// Largest result, bytes.
const RESULT_LIMIT: usize = 1 << 20;
/// As much of what goes to standard error is kept.
const MESSAGE_LIMIT: usize = 16 << 10;
/// How long output is waited for once the plugin itself has ended: a child of it may hold the pipe open.
const GRACE: Duration = Duration::from_millis(500);
/// A program that is just being installed cannot be run; it is tried so often, with pauses.
const BUSY_ATTEMPTS: u32 = 30;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Connect a pod.
    Add,
    /// Undo that.
    Del,
    /// Say whether it still is so.
    Check,
    /// Give back what belongs to no pod.
    Gc,
    /// Say whether pods can be connected.
    Status,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        })
    }
}

/// A plugin call that failed. Each variant names the program; all but the first the operation.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The program is in none of the directories.
    #[error(
        "CNI plugin `{plugin}` is not in {}: install it there, or name another network",
        .searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Missing {
        /// The program.
        plugin: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// It could not be run.
    #[error("cannot run CNI plugin `{plugin}` ({operation}): {source}")]
    Run {
        /// The program.
        plugin: String,
        /// What for.
        operation: Operation,
        /// Why.
        source: io::Error,
    },
    /// It took too long; it and its children were killed.
    #[error("CNI plugin `{plugin}` {operation} did not finish within {} s and was killed{}", .limit.as_secs_f64(), said(.message))]
    TimedOut {
        /// The program.
        plugin: String,
        /// What for.
        operation: Operation,
        /// How long it had.
        limit: Duration,
        /// What it wrote to standard error.
        message: String,
    },
    /// It printed more than a result can be; it and its children were killed.
    #[error("CNI plugin `{plugin}` {operation} printed more than {RESULT_LIMIT} bytes and was killed")]
    TooMuch {
        /// The program.
        plugin: String,
        /// What for.
        operation: Operation,
    },
    /// It said that it succeeded, and printed something that is no result.
    #[error("CNI plugin `{plugin}` {operation} printed no CNI result: {reason}")]
    NoResult {
        /// The program.
        plugin: String,
        /// What for.
        operation: Operation,
        /// What is wrong with it, and its beginning.
        reason: String,
    },
    /// It reported an error, or died.
    #[error("CNI plugin `{plugin}` {operation} failed: {message}")]
    Failed {
        /// The program.
        plugin: String,
        /// What for.
        operation: Operation,
        /// CNI error code; 0 when it gave none.
        code: u64,
        /// What it said, or how it ended.
        message: String,
    },
}

impl PluginError {
    /// Whether nothing can have been begun with this configuration: there is no such plugin, or it refuses the version, a
    /// field, the form or the sense of it (specification, section "Error": 1, 2, 6 and 7).
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Failed { code: 1 | 2 | 6 | 7, .. })
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!("; it said: {message}") }
}

/// Who a call is for: CNI's environment. Empty for the operations that are for a whole network.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Call<'a> {
    /// Sandbox id.
    pub(super) container: &'a str,
    /// Network namespace file; empty when it is gone.
    pub(super) namespace: &'a str,
    /// Interface name in the namespace.
    pub(super) interface: &'a str,
    /// `KEY=value;KEY=value`.
    pub(super) arguments: &'a str,
}

/// Where plugins are, and how long they may take.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// Directories, in order.
    pub(super) directories: Vec<PathBuf>,
    /// For one call of one plugin.
    pub(super) limit: Duration,
}

impl Programs {
    /// The program of a plugin, in the first directory that has it.
    pub(super) fn find(&self, plugin: &str) -> Result<PathBuf, PluginError> {
        let found = self.directories.iter().map(|directory| directory.join(plugin));
        found.into_iter().find(|path| Path::is_file(path)).ok_or_else(|| PluginError::Missing {
            plugin: plugin.to_owned(),
            searched: self.directories.clone(),
        })
    }

    /// Runs the plugin that `config` names with `config` on its standard input. What it printed, if it succeeded.
    pub(super) async fn run(
        &self,
        operation: Operation,
        call: Call<'_>,
        config: &PluginConfig,
    ) -> Result<Vec<u8>, PluginError> {
        let (plugin, network) = (super::config::kind(config), config.get("name").and_then(Value::as_str));
        let span = match operation {
            Operation::Add => "CNI ADD",
            Operation::Del => "CNI DEL",
            Operation::Check => "CNI CHECK",
            Operation::Gc => "CNI GC",
            Operation::Status => "CNI STATUS",
        };
        let network = network.unwrap_or_default();
        traces::step(
            span,
            &[("cni.plugin", &plugin), ("cni.network", &network), ("cni.interface", &call.interface)],
            self.run_program(operation, call, config),
        )
        .await
    }

    async fn run_program(
        &self,
        operation: Operation,
        call: Call<'_>,
        config: &PluginConfig,
    ) -> Result<Vec<u8>, PluginError> {
        let plugin = super::config::kind(config).to_owned();
        let program = self.find(&plugin)?;
        let failed = |source| PluginError::Run { plugin: plugin.clone(), operation, source };
        let search =
            std::env::join_paths(&self.directories).map_err(|error| failed(io::Error::other(error)))?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", operation.to_string())
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.namespace)
            .env("CNI_IFNAME", call.interface)
            .env("CNI_ARGS", call.arguments)
            .env("CNI_PATH", search)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let input = serde_json::to_vec(config).map_err(|error| failed(error.into()))?;
        let process = Process::start(&mut command).await.map_err(failed)?;
        let (printed, message, end) = process.talk(&input, self.limit).await;
        let message = String::from_utf8_lossy(&message).trim().to_owned();
        let plugin = plugin.clone();
        match end {
            End::Exited(status) if status.success() => Ok(printed),
            End::Exited(status) => {
                let (code, message) = complaint(status, &printed, &message);
                Err(PluginError::Failed { plugin, operation, code, message })
            }
            End::TimedOut => Err(PluginError::TimedOut { plugin, operation, limit: self.limit, message }),
            End::TooMuch => Err(PluginError::TooMuch { plugin, operation }),
            End::Lost(source) => Err(PluginError::Run { plugin, operation, source }),
        }
    }

    /// Runs ADD. Its result.
    pub(super) async fn add(
        &self,
        call: Call<'_>,
        config: &PluginConfig,
    ) -> Result<serde_json::Map<String, Value>, PluginError> {
        let printed = self.run(Operation::Add, call, config).await?;
        serde_json::from_slice(&printed).map_err(|error| PluginError::NoResult {
            plugin: super::config::kind(config).to_owned(),
            operation: Operation::Add,
            reason: format!("{error}: `{}`", beginning(&printed)),
        })
    }
}

/// CNI error code and text of a plugin that failed.
fn complaint(status: ExitStatus, printed: &[u8], message: &str) -> (u64, String) {
    let error = serde_json::from_slice::<Value>(printed).unwrap_or(Value::Null);
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let code = error.get("code").and_then(Value::as_u64).unwrap_or(0);
    let parts = [text("msg"), text("details")].into_iter().filter(|part| !part.is_empty());
    let told = parts.collect::<Vec<_>>().join(": ");
    if told.is_empty() {
        let printed = beginning(printed);
        let said = [message, printed.as_str()].into_iter().find(|text| !text.is_empty());
        return (code, said.map_or_else(|| status.to_string(), |said| format!("{status}; {said}")));
    }
    (code, if code == 0 { told } else { format!("{told} (CNI error {code})") })
}

fn beginning(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed.get(..200).unwrap_or(printed));
    text.trim().replace(|letter: char| letter.is_control(), " ")
}

/// How a plugin ended.
enum End {
    Exited(ExitStatus),
    TimedOut,
    TooMuch,
    Lost(io::Error),
}

/// A running plugin, and all that it starts in its process group.
struct Process {
    child: Child,
    /// `None` once the child was waited for: from then on the number may be another's.
    group: Option<Pid>,
}

impl Process {
    async fn start(command: &mut Command) -> io::Result<Self> {
        let mut attempt = 1;
        loop {
            match command.spawn() {
                Ok(child) => {
                    let id = child.id().and_then(|id| i32::try_from(id).ok());
                    return Ok(Self { child, group: id.and_then(Pid::from_raw) });
                }
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < BUSY_ATTEMPTS =>
                {
                    attempt += 1;
                    sleep(BUSY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it `input` and takes what it writes: to standard output, to standard error, and how it ended.
    async fn talk(mut self, input: &[u8], limit: Duration) -> (Vec<u8>, Vec<u8>, End) {
        let (mut printed, mut message) = (Vec::new(), Vec::new());
        let (stdin, stdout, stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A plugin that fails early does not read its input; what it says is worth more than EPIPE.
                let _ = stdin.write_all(input).await;
            }
        };
        let listen = async {
            let note = keep_beginning(stderr, &mut message);
            let (whole, (), ()) = tokio::join!(collect(stdout, &mut printed), note, write);
            whole
        };
        let ended = timeout(limit, async {
            tokio::pin!(listen);
            tokio::select! {
                whole = &mut listen => if whole { self.child.wait().await.map_or_else(End::Lost, End::Exited) } else { End::TooMuch },
                status = self.child.wait() => {
                    self.group = None;
                    match timeout(GRACE, &mut listen).await {
                        Ok(false) => End::TooMuch,
                        Ok(true) | Err(_) => status.map_or_else(End::Lost, End::Exited),
                    }
                }
            }
        });
        let end = ended.await.unwrap_or(End::TimedOut);
        if matches!(end, End::Exited(_)) {
            self.group = None;
        }
        self.kill();
        if self.group.take().is_some() {
            let _ = self.child.wait().await;
        }
        (printed, message, end)
    }

    fn kill(&self) {
        if let Some(group) = self.group {
            // Fails when all of it has ended, which is what we want.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads to the end; false when there is more than a result can be.
async fn collect(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> bool {
    let Some(stream) = stream else { return true };
    let mut limited = stream.take(RESULT_LIMIT as u64 + 1);
    // What cannot be read is missing from the result, which is then judged.
    let _ = limited.read_to_end(into).await;
    into.len() <= RESULT_LIMIT
}

/// Reads to the end and keeps the beginning.
async fn keep_beginning(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = MESSAGE_LIMIT.saturating_sub(into.len()).min(length);
        into.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
