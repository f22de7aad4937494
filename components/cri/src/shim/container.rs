//! Containers: started, attached to, ended, forgotten.

use super::{
    child::watch,
    launch::{self, Stdio, Streams},
    log::{Log, StreamKind},
    serve::{Opened, Shim},
    stdio::{self, Console},
    stream::Stream,
    tap::Tap,
};
use crate::{
    cgroup::Cgroup,
    protocol::{Attach, Descriptor, Event, Exit, Message, Reply, Start},
    record,
};
use jiff::Timestamp;
use std::{io, os::fd::OwnedFd, time::Instant};

/// A container that was started, and may have ended.
pub(super) struct Running {
    /// Its first process.
    pub(super) pid: i32,
    /// Readable once that has ended.
    pub(super) pidfd: Option<OwnedFd>,
    /// How it ended.
    pub(super) exit: Option<Exit>,
    /// Its output: two pipes, or the terminal.
    pub(super) streams: Vec<Stream>,
    /// Open while it runs.
    pub(super) log: Option<Log>,
    /// Held open so that the process does not see the end of its input.
    input: Option<OwnedFd>,
    attached: Vec<Attached>,
    /// What was asked for.
    pub(super) request: Start,
    /// Its cgroup.
    pub(super) cgroup: Cgroup,
}

/// A client's session.
struct Attached {
    connection: u64,
    /// It may send input.
    input: bool,
}

impl Running {
    /// The client of a session sends no more input.
    fn input_ended(&mut self, connection: u64) {
        let of_client = |client: &Attached| client.connection == connection && client.input;
        if self.request.stdin_once && self.attached.iter().any(of_client) {
            // A client that is still attached holds the pipe open, too.
            self.input = None;
        }
    }

    fn detach(&mut self, connection: u64) {
        self.input_ended(connection);
        self.attached.retain(|client| client.connection != connection);
        self.streams.iter_mut().for_each(|stream| stream.untap(connection));
    }
}

impl Shim {
    /// Creates a container and starts it.
    pub(super) fn start(&mut self, request: Start) -> Result<i32, String> {
        if self.ending || self.containers.contains_key(&request.container) {
            return Err("the container was started before, or the pod is stopping".to_owned());
        }
        let describe = |error: io::Error| error.to_string();
        let log = request.log.as_deref().map(Log::open).transpose().map_err(describe)?;
        let mut input = None;
        let (pid, streams) = if request.terminal {
            let console = Console::listen(&self.setup.run).map_err(describe)?;
            let pid = launch::start(&self.library(), &request, Streams::Terminal(console.path()))?;
            let streams = match console.receive() {
                Ok(terminal) => vec![Stream::logged(terminal, StreamKind::Stdout)],
                Err(error) => {
                    tracing::error!("no terminal came from libcontainer: {error}");
                    Vec::new()
                }
            };
            (pid, streams)
        } else {
            let stdin = if request.stdin {
                let (theirs, ours) = stdio::input().map_err(describe)?;
                input = Some(ours);
                theirs
            } else {
                stdio::null().map_err(describe)?
            };
            let user = launch::user_of(&request.bundle)?;
            let (out, stdout) = stdio::output(user).map_err(describe)?;
            let (err, stderr) = stdio::output(user).map_err(describe)?;
            let streams = Streams::Given(Stdio { stdin, stdout, stderr });
            let pid = launch::start(&self.library(), &request, streams)?;
            (pid, vec![Stream::logged(out, StreamKind::Stdout), Stream::logged(err, StreamKind::Stderr)])
        };
        let cgroup = Cgroup::new(&request.cgroup);
        let id = request.container.clone();
        let (pidfd, attached) = (watch(pid), Vec::new());
        let held = Running { pid, pidfd, exit: None, streams, log, input, attached, request, cgroup };
        self.containers.insert(id, held);
        Ok(pid)
    }

    /// Gives a session's client its share in a container's streams.
    pub(super) fn attach(&mut self, connection: u64, what: &Attach) -> Result<Opened, Reply> {
        let held = self.containers.get_mut(&what.container).ok_or(Reply::NotFound)?;
        if held.exit.is_some() {
            return Err(Reply::Failed("the container is not running".to_owned()));
        }
        let failed = |error: io::Error| Reply::Failed(error.to_string());
        let mut opened = Opened::default();
        if held.request.terminal {
            if let Some(terminal) = held.streams.first().and_then(Stream::fd) {
                opened.push(Descriptor::Terminal, terminal.try_clone().map_err(failed)?);
            }
        } else if let Some(input) = held.input.as_ref().filter(|_| what.stdin) {
            opened.push(Descriptor::Stdin, input.try_clone().map_err(failed)?);
        }
        let wanted = [(what.stdout, Descriptor::Stdout), (what.stderr, Descriptor::Stderr)];
        for (stream, (wanted, descriptor)) in held.streams.iter_mut().zip(wanted) {
            if wanted {
                let (theirs, ours) = stdio::tap().map_err(failed)?;
                stream.tap(Tap::new(connection, ours));
                opened.push(descriptor, theirs);
            }
        }
        held.attached.push(Attached { connection, input: what.stdin && !held.request.terminal });
        Ok(opened)
    }

    /// The client of a session sends no more input.
    pub(super) fn input_ended(&mut self, connection: u64) {
        self.containers.values_mut().for_each(|held| held.input_ended(connection));
    }

    /// A session is over.
    pub(super) fn detach(&mut self, connection: u64) {
        self.containers.values_mut().for_each(|held| held.detach(connection));
    }

    /// Cuts off clients that do not take what they attached to.
    pub(super) fn cut_off(&mut self, now: Instant) {
        let streams = self.containers.values_mut().flat_map(|held| &mut held.streams);
        let slow: Vec<u64> = streams.flat_map(|stream| stream.cut_off(now)).collect();
        for connection in slow {
            let reason = "the client is too slow for the container's output and was detached".to_owned();
            self.send(connection, &Message::Event(Event::Detached { reason }));
            self.detach(connection);
        }
    }

    /// A container's first process has ended: notes it on disk, then tells.
    pub(super) fn exited(&mut self, id: &str, code: i32) {
        let Some(held) = self.containers.get_mut(id) else { return };
        held.pidfd = None;
        if held.request.kill_rest {
            held.cgroup.kill();
        }
        for stream in &mut held.streams {
            stream.finish(held.log.as_mut());
        }
        held.log = None;
        held.input = None;
        let exit = Exit {
            code,
            finished_at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
            oom_killed: held.cgroup.oom_kills() > 0,
        };
        if let Err(error) = record::save(&held.request.exit_file, &exit) {
            tracing::error!("cannot record that {id} ended: {error}");
        }
        held.exit = Some(exit.clone());
        for client in std::mem::take(&mut held.attached) {
            self.send(client.connection, &Message::Event(Event::Ended { code }));
        }
        let event = Message::Event(Event::Exited { container: id.to_owned(), exit });
        for connection in self.connections.values_mut().filter(|connection| !connection.session) {
            connection.send(&event);
        }
        if let Some(held) = self.containers.get(id) {
            launch::ended(&self.library(), id, &held.request.bundle);
        }
    }

    /// Drops what is left of an ended container.
    pub(super) fn forget(&mut self, id: &str) -> Reply {
        match self.containers.get(id) {
            None => Reply::NotFound,
            Some(held) if held.exit.is_none() => Reply::Failed("the container is running".to_owned()),
            Some(held) => {
                launch::forget(&self.library(), id, &held.cgroup);
                self.containers.remove(id);
                Reply::Done
            }
        }
    }
}
