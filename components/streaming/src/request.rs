//! What a client can ask for, and who does it.

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Bytes from the client. It ends where the client closed the stream, and fails where the client is gone. Dropped, the
/// client is told that nobody reads, and what still comes is thrown away.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes to the client. A write waits while the client does not read. `shutdown`, or dropping it, ends the stream
/// in this direction only.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A process's standard streams, those that were asked for.
pub struct Stdio {
    /// What the client types.
    pub stdin: Option<Input>,
    /// Standard output, or all output of a terminal.
    pub stdout: Option<Output>,
    /// Standard error. Never with a terminal.
    pub stderr: Option<Output>,
    /// The terminal's sizes, the first of them as soon as the client tells it. Closed from the start without a terminal.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// Run a command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The container's id.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether standard input is connected.
    pub stdin: bool,
    /// Whether standard output is.
    pub stdout: bool,
    /// Whether standard error is. Not with a terminal.
    pub stderr: bool,
}

/// Connect to a container's own process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The container's id.
    pub container: String,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// Whether standard input is connected.
    pub stdin: bool,
    /// Whether standard output is.
    pub stdout: bool,
    /// Whether standard error is. Not with a terminal.
    pub stderr: bool,
}

/// Connect to ports in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// The sandbox's id.
    pub sandbox: String,
    /// The ports that may be asked for; none named: any.
    pub ports: Vec<u16>,
}

/// What a URL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command.
    Exec(Exec),
    /// Connect to a container's process.
    Attach(Attach),
    /// Connect to ports.
    PortForward(PortForward),
}

/// How a command or an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// With this exit code.
    Exited(i32),
    /// It could not be done, and why: a sentence for the user.
    Failed(String),
}

/// Who does what clients ask for.
///
/// A future that is returned here is dropped when its client vanishes, when the connection was idle for too long, and when the
/// server stops: let what it holds go with it.
pub trait Runtime: Send + Sync + 'static {
    /// Runs a command, and tells how it ended once all its output is written.
    fn exec(&self, exec: Exec, stdio: Stdio) -> BoxFuture<'_, Finish>;

    /// Connects to a container's process, until the process ends or the client closes what it opened.
    fn attach(&self, attach: Attach, stdio: Stdio) -> BoxFuture<'_, Finish>;

    /// Connects to a port, and returns when both directions have ended. An error is a sentence for the user.
    fn port_forward(
        &self,
        sandbox: String,
        port: u16,
        stream: (Input, Output),
    ) -> BoxFuture<'_, Result<(), String>>;
}
