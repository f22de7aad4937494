//! Commands with streams, attached clients and forwarded ports.
//!
//! The shim, which has one thread and should stay small, copies nothing for a command: it makes the pipes or the
//! terminal, and gives the daemon the other ends. A container's own output it has to read, for the log, so an attached
//! client gets a pipe of its own. Either way the daemon copies between descriptors and the client, and hears from the
//! shim how it ended ([`session`]).
//!
//! When a client vanishes its streams are closed, no more: a command without a terminal sees the end of its input and,
//! when it writes, a broken pipe; one with a terminal is hung up; a container loses nothing. The same happens when the
//! daemon dies.

mod descriptor;
mod forward;
mod relay;
mod session;

use super::{Runtime, RuntimeError, state::ContainerRecord};
use crate::{protocol, shim::SOCKET};
use cairn_contract::cri;
use relay::{AfterInput, LastOutput, relay};
use session::SessionError;
use std::path::PathBuf;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// What a client sends.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// What a client receives.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// A client's streams.
pub struct Stdio {
    /// Sent by it.
    pub stdin: Option<Input>,
    /// Received by it.
    pub stdout: Option<Output>,
    /// Received by it.
    pub stderr: Option<Output>,
    /// Its window, each time that changes.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Container id.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// Wanted.
    pub stdin: bool,
    /// Wanted.
    pub stdout: bool,
    /// Wanted.
    pub stderr: bool,
}

/// A container to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Container id.
    pub container: String,
    /// The client has a terminal.
    pub tty: bool,
    /// Wanted.
    pub stdin: bool,
    /// Wanted.
    pub stdout: bool,
    /// Wanted.
    pub stderr: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// With this exit status.
    Exited(i32),
    /// It could not be done; the text is for the client.
    Failed(String),
}

impl Runtime {
    /// Runs a command in a container, with the client's streams.
    pub async fn exec(&self, what: Exec, stdio: Stdio) -> Finish {
        finish(self.try_exec(what, stdio).await)
    }

    /// Attaches a client to a container, until the container ends or the client leaves.
    pub async fn attach(&self, what: Attach, stdio: Stdio) -> Finish {
        finish(self.try_attach(what, stdio).await)
    }

    async fn try_exec(&self, what: Exec, stdio: Stdio) -> Result<i32, RuntimeError> {
        let record = self.running(&what.container)?;
        let request = protocol::Request::Exec(protocol::Exec {
            container: record.id.clone(),
            command: what.command,
            terminal: what.tty,
            stdin: what.stdin,
            stdout: what.stdout,
            stderr: what.stderr,
        });
        let (events, orders, mut wires) = session::open(&self.shim_socket(&record), request).await?;
        let last = if what.tty { LastOutput::End } else { LastOutput::Waiting };
        if let Some(terminal) = &wires.terminal {
            wires.stdout = Some(terminal.clone());
            wires.stdin = what.stdin.then(|| terminal.clone());
        }
        let code = relay((events, orders, wires), stdio, AfterInput::GoOn, last).await?;
        Ok(code.unwrap_or_default())
    }

    async fn try_attach(&self, what: Attach, stdio: Stdio) -> Result<i32, RuntimeError> {
        let record = self.running(&what.container)?;
        let config = &record.config;
        let stdin = what.stdin && config.stdin;
        let request = protocol::Request::Attach(protocol::Attach {
            container: record.id.clone(),
            stdin,
            stdout: what.stdout,
            stderr: what.stderr && !config.tty,
        });
        let (events, orders, mut wires) = session::open(&self.shim_socket(&record), request).await?;
        if stdin && let Some(terminal) = &wires.terminal {
            wires.stdin = Some(terminal.clone());
        }
        // As other runtimes have it, since `kubectl attach` counts on it.
        let after = if config.stdin_once && !config.tty { AfterInput::Tell } else { AfterInput::Leave };
        relay((events, orders, wires), stdio, after, LastOutput::End).await?;
        // How a container ended is not the client's to report.
        Ok(0)
    }

    /// The record of a container that runs.
    fn running(&self, id: &str) -> Result<ContainerRecord, RuntimeError> {
        let container = self.container(id)?;
        let record = container.record();
        if record.state() != cri::ContainerState::ContainerRunning {
            return Err(RuntimeError::State(format!("container {} is not running", record.id)));
        }
        Ok(record.clone())
    }

    fn shim_socket(&self, record: &ContainerRecord) -> PathBuf {
        self.pod_run(&record.sandbox).join(SOCKET)
    }
}

impl From<SessionError> for RuntimeError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NotRunning => Self::State(error.to_string()),
            error => Self::Fault(error.to_string()),
        }
    }
}

fn finish(result: Result<i32, RuntimeError>) -> Finish {
    match result {
        Ok(code) => Finish::Exited(code),
        Err(error) => Finish::Failed(error.to_string()),
    }
}
