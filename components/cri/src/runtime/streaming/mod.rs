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
mod prepare;
mod relay;
mod session;

use super::{Runtime, RuntimeError, state::ContainerRecord};
use crate::{protocol, shim::SOCKET};
use cairn_contract::cri;
use cairn_streaming::{Attach, Exec, Finish, Input, Output, Stdio};
use futures::{FutureExt, future::BoxFuture};
use relay::{AfterInput, LastOutput, relay};
use session::SessionError;
use std::path::PathBuf;

impl cairn_streaming::Runtime for Runtime {
    fn exec(&self, exec: Exec, stdio: Stdio) -> BoxFuture<'_, Finish> {
        async { finish(self.try_exec(exec, stdio).await) }.boxed()
    }

    fn attach(&self, attach: Attach, stdio: Stdio) -> BoxFuture<'_, Finish> {
        async { finish(self.try_attach(attach, stdio).await) }.boxed()
    }

    fn port_forward(
        &self,
        sandbox: String,
        port: u16,
        stream: (Input, Output),
    ) -> BoxFuture<'_, Result<(), String>> {
        async move { self.forward(&sandbox, port, stream).await }.boxed()
    }
}

impl Runtime {
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
