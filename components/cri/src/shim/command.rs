//! Commands run in a container: captured ones, and those whose streams a daemon holds.

use super::{
    child::{exit_code, send_signal, watch},
    launch::{self, Stdio, Streams},
    serve::{Opened, Shim},
    stdio::{self, Console},
    stream::Stream,
};
use crate::protocol::{Descriptor, Event, Exec, ExecSync, Message, Reply};
use rustix::process::WaitStatus;
use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A running command.
pub(super) struct Command {
    pid: i32,
    /// Readable once it has ended.
    pub(super) pidfd: Option<OwnedFd>,
    code: Option<i32>,
    kind: Kind,
}

enum Kind {
    Captured(Captured),
    /// The session that is told how it ended, if that is still there.
    Session {
        connection: u64,
    },
}

/// A command run by [`crate::protocol::Request::ExecSync`].
struct Captured {
    connection: u64,
    request: u64,
    stdout: Stream,
    stderr: Stream,
    deadline: Option<Instant>,
    timed_out: bool,
}

impl Command {
    fn new(pid: i32, kind: Kind) -> Self {
        Self { pid, pidfd: watch(pid), code: None, kind }
    }

    /// Output to read.
    pub(super) fn to_read(&self) -> impl Iterator<Item = &OwnedFd> {
        let streams = match &self.kind {
            Kind::Captured(captured) => [Some(&captured.stdout), Some(&captured.stderr)],
            Kind::Session { .. } => [None, None],
        };
        streams.into_iter().flatten().filter_map(Stream::to_read)
    }

    /// Reads output.
    pub(super) fn pump(&mut self) {
        if let Kind::Captured(captured) = &mut self.kind {
            captured.stdout.pump(None);
            captured.stderr.pump(None);
        }
    }

    /// When it is to be killed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Captured(captured) => captured.deadline,
            Kind::Session { .. } => None,
        }
    }

    /// Kills it if it ran too long.
    pub(super) fn enforce(&mut self, now: Instant) {
        if let Kind::Captured(captured) = &mut self.kind
            && captured.deadline.is_some_and(|deadline| deadline <= now)
        {
            captured.deadline = None;
            captured.timed_out = true;
            let _ = send_signal(self.pid, libc::SIGKILL);
        }
    }
}

impl Shim {
    /// The bundle of a running container, and its user.
    fn place(&self, container: &str) -> Result<(PathBuf, u32), Reply> {
        let held = self.containers.get(container).ok_or(Reply::NotFound)?;
        if held.exit.is_some() {
            return Err(Reply::Failed("the container is not running".to_owned()));
        }
        let bundle = held.request.bundle.clone();
        let user = launch::user_of(&bundle).map_err(Reply::Failed)?;
        Ok((bundle, user))
    }

    /// Runs a command whose output is for the answer.
    pub(super) fn exec_sync(&mut self, connection: u64, request: u64, what: ExecSync) -> Result<(), Reply> {
        let (bundle, user) = self.place(&what.container)?;
        let (stdout, out) = stdio::output(user).map_err(failed)?;
        let (stderr, err) = stdio::output(user).map_err(failed)?;
        let streams =
            Streams::Given(Stdio { stdin: stdio::null().map_err(failed)?, stdout: out, stderr: err });
        let deadline = what.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let pid = launch::exec(&self.library(), &bundle, &what.container, what.command, streams)
            .map_err(Reply::Failed)?;
        let (stdout, stderr) = (Stream::captured(stdout), Stream::captured(stderr));
        let captured = Captured { connection, request, stdout, stderr, deadline, timed_out: false };
        self.commands.push(Command::new(pid, Kind::Captured(captured)));
        Ok(())
    }

    /// Runs a command for a session.
    pub(super) fn exec(&mut self, connection: u64, what: Exec) -> Result<Opened, Reply> {
        let (bundle, user) = self.place(&what.container)?;
        let mut opened = Opened::default();
        let pid = if what.terminal {
            let console = Console::listen(&self.setup.run).map_err(failed)?;
            let streams = Streams::Terminal(console.path());
            let pid = launch::exec(&self.library(), &bundle, &what.container, what.command, streams)
                .map_err(Reply::Failed)?;
            match console.receive() {
                Ok(terminal) => opened.push(Descriptor::Terminal, terminal),
                Err(error) => {
                    let _ = send_signal(pid, libc::SIGKILL);
                    return Err(Reply::Failed(format!("no terminal came from libcontainer: {error}")));
                }
            }
            pid
        } else {
            let mut wanted = |wanted: bool, descriptor: Descriptor| -> io::Result<OwnedFd> {
                if !wanted {
                    return stdio::null();
                }
                let (ours, theirs) = if descriptor == Descriptor::Stdin {
                    let (theirs, ours) = stdio::input()?;
                    (ours, theirs)
                } else {
                    stdio::output(user)?
                };
                opened.push(descriptor, ours);
                Ok(theirs)
            };
            let stdin = wanted(what.stdin, Descriptor::Stdin).map_err(failed)?;
            let stdout = wanted(what.stdout, Descriptor::Stdout).map_err(failed)?;
            let stderr = wanted(what.stderr, Descriptor::Stderr).map_err(failed)?;
            let streams = Streams::Given(Stdio { stdin, stdout, stderr });
            launch::exec(&self.library(), &bundle, &what.container, what.command, streams)
                .map_err(Reply::Failed)?
        };
        self.commands.push(Command::new(pid, Kind::Session { connection }));
        Ok(opened)
    }

    /// Notes that a process ended; false if it is no command.
    pub(super) fn command_ended(&mut self, pid: i32, status: WaitStatus) -> bool {
        let found = self.commands.iter_mut().find(|command| command.pid == pid);
        found.map(|command| command.code = Some(exit_code(status))).is_some()
    }

    /// Tells how commands ended.
    pub(super) fn report_commands(&mut self) {
        while let Some(at) = self.commands.iter().position(|command| command.code.is_some()) {
            let command = self.commands.swap_remove(at);
            let code = command.code.unwrap_or_default();
            match command.kind {
                Kind::Session { connection } => {
                    self.send(connection, &Message::Event(Event::Ended { code }));
                }
                Kind::Captured(mut captured) => {
                    captured.stdout.finish(None);
                    captured.stderr.finish(None);
                    let reply = if captured.timed_out {
                        Reply::TimedOut
                    } else {
                        let (stdout, stderr) =
                            (captured.stdout.into_captured(), captured.stderr.into_captured());
                        Reply::Executed { code, stdout, stderr }
                    };
                    self.send(captured.connection, &Message::Reply { id: captured.request, reply });
                }
            }
        }
    }
}

fn failed(error: io::Error) -> Reply {
    Reply::Failed(error.to_string())
}
