//! The shim's loop: requests, output and exits, one after the other.

use super::{
    launch::{self, Stdio},
    log::{Log, StreamKind},
    sandbox,
    stream::Stream,
};
use crate::{
    cgroup::Cgroup,
    protocol::{
        self, ContainerState, Envelope, Event, ExecSync, Exit, Message, PodSetup, Reply, Request,
        SetupOutcome, Start,
    },
    record,
};
use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, set_child_subreaper, wait,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// File name of the shim's socket in the pod's run directory.
pub(super) const SOCKET: &str = "shim.sock";

/// `cairn-shim serve SETUP.json`. The result is the exit status.
pub fn serve(setup: &Path) -> u8 {
    let outcome = Shim::set_up(setup);
    let report = match &outcome {
        Ok(_) => SetupOutcome::Ready,
        Err(error) => SetupOutcome::Failed(error.clone()),
    };
    let told = protocol::encode(&report)
        .and_then(|frame| io::stdout().write_all(&frame).and_then(|()| io::stdout().flush()));
    // The daemon reads to the end: give it one.
    if let Ok(null) = null() {
        let _ = rustix::stdio::dup2_stdout(null);
    }
    match (outcome, told) {
        (Ok(mut shim), Ok(())) => {
            shim.run();
            0
        }
        _ => 1,
    }
}

struct Shim {
    setup: PodSetup,
    listener: UnixListener,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    containers: BTreeMap<String, Running>,
    commands: Vec<Command>,
    pause: Option<i32>,
    ending: bool,
}

/// A daemon's connection; there are two for a moment when a new daemon comes before the old one is gone.
struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    closed: bool,
}

struct Running {
    pid: i32,
    pidfd: Option<OwnedFd>,
    exit: Option<Exit>,
    streams: Vec<Stream>,
    log: Option<Log>,
    /// Held open so that the process does not see the end of its input.
    _stdin: Option<OwnedFd>,
    request: Start,
    cgroup: Cgroup,
}

/// A command run by [`Request::ExecSync`].
struct Command {
    pid: i32,
    pidfd: Option<OwnedFd>,
    connection: u64,
    request: u64,
    stdout: Stream,
    stderr: Stream,
    deadline: Option<Instant>,
    timed_out: bool,
    code: Option<i32>,
}

/// Whose descriptor a poll entry is.
#[derive(Clone)]
enum Source {
    Listener,
    Connection(u64),
    Container(String, usize),
    Command(usize),
    Exit,
}

impl Shim {
    fn set_up(path: &Path) -> Result<Self, String> {
        let text = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let setup: PodSetup = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let io = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| format!("cannot {what}: {error}")
        };
        // A session of its own: what is sent to the daemon's does not reach the pod.
        let _ = rustix::process::setsid();
        set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| error.to_string())?;
        // The kernel ends the shim last: without it, nobody learns how the others ended.
        let _ = fs::write("/proc/self/oom_score_adj", "-998");
        let cgroup = Cgroup::new(&setup.cgroup);
        cgroup.create().map_err(io("make the pod's cgroup"))?;
        let joined =
            Cgroup::new(setup.cgroup.join("shim")).adopt(rustix::process::getpid().as_raw_nonzero().get());
        joined.map_err(io("join the pod's cgroup"))?;
        let pause = sandbox::create(&setup)?;
        let socket = setup.run.join(SOCKET);
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(io("listen for the daemon"))?;
        listener.set_nonblocking(true).map_err(io("listen for the daemon"))?;
        fs::create_dir_all(setup.run.join("lib")).map_err(io("make the pod's directory"))?;
        Ok(Self {
            setup,
            listener,
            connections: BTreeMap::new(),
            next_connection: 0,
            containers: BTreeMap::new(),
            commands: Vec::new(),
            pause,
            ending: false,
        })
    }

    fn run(&mut self) {
        while !self.ending || self.connections.values().any(|connection| !connection.outbox.is_empty()) {
            let ready = self.sleep();
            for source in ready {
                match source {
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.converse(id),
                    Source::Container(id, stream) => {
                        if let Some(container) = self.containers.get_mut(&id)
                            && let Some(stream) = container.streams.get_mut(stream)
                        {
                            stream.pump(container.log.as_mut());
                        }
                    }
                    Source::Command(at) => {
                        if let Some(command) = self.commands.get_mut(at) {
                            command.stdout.pump(None);
                            command.stderr.pump(None);
                        }
                    }
                    Source::Exit => {}
                }
            }
            self.reap();
            self.enforce_deadlines();
            self.flush();
        }
    }

    /// Sleeps until something is to be done, and says what.
    fn sleep(&self) -> Vec<Source> {
        let mut sources = vec![Source::Listener];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for (&id, connection) in &self.connections {
            let mut flags = PollFlags::IN;
            if !connection.outbox.is_empty() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::new(&connection.stream, flags));
            sources.push(Source::Connection(id));
        }
        for (id, container) in &self.containers {
            for (at, stream) in container.streams.iter().enumerate() {
                if let Some(fd) = &stream.fd {
                    fds.push(PollFd::new(fd, PollFlags::IN));
                    sources.push(Source::Container(id.clone(), at));
                }
            }
            if let Some(pidfd) = &container.pidfd {
                fds.push(PollFd::new(pidfd, PollFlags::IN));
                sources.push(Source::Exit);
            }
        }
        for (at, command) in self.commands.iter().enumerate() {
            for stream in [&command.stdout, &command.stderr] {
                if let Some(fd) = &stream.fd {
                    fds.push(PollFd::new(fd, PollFlags::IN));
                    sources.push(Source::Command(at));
                }
            }
            if let Some(pidfd) = &command.pidfd {
                fds.push(PollFd::new(pidfd, PollFlags::IN));
                sources.push(Source::Exit);
            }
        }
        let deadline = self.commands.iter().filter_map(|command| command.deadline).min();
        // Orphans that the shim adopted have no descriptor to wait on: look for them now and then.
        let longest = Duration::from_secs(30);
        let timeout =
            deadline.map_or(longest, |at| at.saturating_duration_since(Instant::now()).min(longest));
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        if poll(&mut fds, Some(&timeout)).is_err() {
            return Vec::new();
        }
        fds.iter().zip(sources).filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, source)| source).collect()
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let connection = Connection { stream, inbox: Vec::new(), outbox: Vec::new(), closed: false };
                self.connections.insert(self.next_connection, connection);
                self.next_connection += 1;
            }
        }
    }

    /// Reads what a daemon sent and does it.
    fn converse(&mut self, id: u64) {
        let mut requests = Vec::new();
        if let Some(connection) = self.connections.get_mut(&id) {
            let mut buffer = [0; 64 << 10];
            loop {
                match connection.stream.read(&mut buffer) {
                    Ok(0) => connection.closed = true,
                    Ok(length) => {
                        connection.inbox.extend_from_slice(&buffer[..length]);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => connection.closed = true,
                }
                break;
            }
            loop {
                match protocol::decode::<Envelope>(&mut connection.inbox) {
                    Ok(Some(envelope)) => requests.push(envelope),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!("the daemon sent something unreadable: {error}");
                        connection.closed = true;
                        break;
                    }
                }
            }
        }
        for Envelope { id: request, request: what } in requests {
            if let Some(reply) = self.handle(id, request, what) {
                self.send(id, &Message::Reply { id: request, reply });
            }
        }
    }

    /// Does one request; `None` when the answer comes later.
    fn handle(&mut self, connection: u64, number: u64, request: Request) -> Option<Reply> {
        let reply = match request {
            Request::Inspect => Reply::State {
                pid: rustix::process::getpid().as_raw_nonzero().get(),
                pause: self.pause,
                containers: self
                    .containers
                    .iter()
                    .map(|(id, held)| ContainerState {
                        id: id.clone(),
                        pid: held.pid,
                        exit: held.exit.clone(),
                    })
                    .collect(),
            },
            Request::Start(start) => match self.start(*start) {
                Ok(pid) => Reply::Started { pid },
                Err(error) => Reply::Failed(error),
            },
            Request::ExecSync(request) => match self.exec(connection, number, request) {
                Ok(()) => return None,
                Err(reply) => reply,
            },
            Request::Signal { container, signal, all } => match self.containers.get(&container) {
                None => Reply::NotFound,
                Some(held) if held.exit.is_some() => Reply::Done,
                Some(held) if all => {
                    held.cgroup.kill();
                    Reply::Done
                }
                Some(held) => match send_signal(held.pid, signal) {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Failed(format!("cannot send signal {signal}: {error}")),
                },
            },
            Request::ReopenLog { container } => match self.containers.get_mut(&container) {
                None => Reply::NotFound,
                Some(held) => match held.log.as_mut().map_or(Ok(()), Log::reopen) {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Failed(error.to_string()),
                },
            },
            Request::Forget { container } => match self.containers.get(&container) {
                None => Reply::NotFound,
                Some(held) if held.exit.is_none() => Reply::Failed("the container is running".to_owned()),
                Some(held) => {
                    launch::forget(&self.library(), &container, &held.cgroup);
                    self.containers.remove(&container);
                    Reply::Done
                }
            },
            Request::Shutdown => {
                self.shut_down();
                Reply::Done
            }
        };
        Some(reply)
    }

    /// Where libcontainer keeps its state.
    fn library(&self) -> PathBuf {
        self.setup.run.join("lib")
    }

    fn start(&mut self, request: Start) -> Result<i32, String> {
        if self.ending || self.containers.contains_key(&request.container) {
            return Err("the container was started before, or the pod is stopping".to_owned());
        }
        let describe = |error: io::Error| error.to_string();
        let log = request.log.as_deref().map(Log::open).transpose().map_err(describe)?;
        let (stdin, input) = if request.stdin && !request.terminal {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| describe(error.into()))?;
            (read, Some(write))
        } else {
            (null().map_err(describe)?, None)
        };
        let user = launch::user_of(&request.bundle)?;
        let (stdout, out) = output(user).map_err(describe)?;
        let (stderr, err) = output(user).map_err(describe)?;
        let stdio = Stdio { stdin, stdout: out, stderr: err };
        // One at a time, and short: a socket path has room for 107 bytes.
        let console_path = self.setup.run.join("tty.sock");
        let console =
            request.terminal.then(|| UnixListener::bind(&console_path)).transpose().map_err(describe)?;
        let started =
            launch::start(&self.library(), &request, stdio, console.as_ref().map(|_| console_path.as_path()));
        let _ = console.as_ref().map(|_| fs::remove_file(&console_path));
        let pid = started?;
        let streams = match &console {
            None => {
                vec![Stream::logged(stdout, StreamKind::Stdout), Stream::logged(stderr, StreamKind::Stderr)]
            }
            Some(listener) => match receive_terminal(listener) {
                Ok(terminal) => vec![Stream::logged(terminal, StreamKind::Stdout)],
                Err(error) => {
                    tracing::error!("no terminal came from libcontainer: {error}");
                    Vec::new()
                }
            },
        };
        let cgroup = Cgroup::new(&request.cgroup);
        let id = request.container.clone();
        let held =
            Running { pid, pidfd: watch(pid), exit: None, streams, log, _stdin: input, request, cgroup };
        self.containers.insert(id, held);
        Ok(pid)
    }

    fn exec(&mut self, connection: u64, number: u64, request: ExecSync) -> Result<(), Reply> {
        let held = self.containers.get(&request.container).ok_or(Reply::NotFound)?;
        if held.exit.is_some() {
            return Err(Reply::Failed("the container is not running".to_owned()));
        }
        let failed = |error: io::Error| Reply::Failed(error.to_string());
        let user = launch::user_of(&held.request.bundle).map_err(Reply::Failed)?;
        let (stdout, out) = output(user).map_err(failed)?;
        let (stderr, err) = output(user).map_err(failed)?;
        let stdio = Stdio { stdin: null().map_err(failed)?, stdout: out, stderr: err };
        let deadline = request.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let pid =
            launch::exec(&self.library(), &held.request.bundle, &request.container, request.command, stdio)
                .map_err(Reply::Failed)?;
        self.commands.push(Command {
            pid,
            pidfd: watch(pid),
            connection,
            request: number,
            stdout: Stream::captured(stdout),
            stderr: Stream::captured(stderr),
            deadline,
            timed_out: false,
            code: None,
        });
        Ok(())
    }

    /// Collects every child that has ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let code = exit_code(status);
            if let Some(command) = self.commands.iter_mut().find(|command| command.pid == pid) {
                command.code = Some(code);
            } else if self.pause == Some(pid) {
                self.pause = None;
            } else if let Some(id) = self
                .containers
                .iter()
                .find(|(_, held)| held.pid == pid && held.exit.is_none())
                .map(|(id, _)| id.clone())
            {
                self.exited(&id, code);
            }
        }
        while let Some(at) = self.commands.iter().position(|command| command.code.is_some()) {
            let mut command = self.commands.swap_remove(at);
            command.stdout.finish(None);
            command.stderr.finish(None);
            let reply = if command.timed_out {
                Reply::TimedOut
            } else {
                Reply::Executed {
                    code: command.code.unwrap_or_default(),
                    stdout: command.stdout.into_captured(),
                    stderr: command.stderr.into_captured(),
                }
            };
            self.send(command.connection, &Message::Reply { id: command.request, reply });
        }
    }

    fn exited(&mut self, id: &str, code: i32) {
        let Some(held) = self.containers.get_mut(id) else { return };
        held.pidfd = None;
        if held.request.kill_rest {
            held.cgroup.kill();
        }
        for stream in &mut held.streams {
            stream.finish(held.log.as_mut());
        }
        held.log = None;
        held._stdin = None;
        let exit = Exit {
            code,
            finished_at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
            oom_killed: held.cgroup.oom_kills() > 0,
        };
        if let Err(error) = record::save(&held.request.exit_file, &exit) {
            tracing::error!("cannot record that {id} ended: {error}");
        }
        held.exit = Some(exit.clone());
        let event = Message::Event(Event::Exited { container: id.to_owned(), exit });
        let connections: Vec<u64> = self.connections.keys().copied().collect();
        for connection in connections {
            self.send(connection, &event);
        }
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        for command in &mut self.commands {
            if command.deadline.is_some_and(|deadline| deadline <= now) {
                command.deadline = None;
                command.timed_out = true;
                let _ = send_signal(command.pid, libc::SIGKILL);
            }
        }
    }

    fn shut_down(&mut self) {
        self.ending = true;
        for held in self.containers.values().filter(|held| held.exit.is_none()) {
            held.cgroup.kill();
            let _ = send_signal(held.pid, libc::SIGKILL);
        }
        if let Some(pause) = self.pause {
            let _ = send_signal(pause, libc::SIGKILL);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while (self.pause.is_some() || self.containers.values().any(|held| held.exit.is_none()))
            && Instant::now() < deadline
        {
            self.reap();
            std::thread::sleep(Duration::from_millis(2));
        }
        for (id, held) in &self.containers {
            launch::forget(&self.library(), id, &held.cgroup);
        }
    }

    fn send(&mut self, connection: u64, message: &Message) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            match protocol::encode(message) {
                Ok(frame) => connection.outbox.extend_from_slice(&frame),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// Sends what can be sent, and drops connections that are gone.
    fn flush(&mut self) {
        for connection in self.connections.values_mut() {
            while !connection.outbox.is_empty() && !connection.closed {
                match connection.stream.write(&connection.outbox) {
                    Ok(length) => drop(connection.outbox.drain(..length)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => connection.closed = true,
                }
            }
        }
        self.connections.retain(|_, connection| !connection.closed);
    }
}

/// A descriptor that becomes readable when the process ends.
fn watch(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process"))?;
    let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other("not a named signal"))?;
    Ok(kill_process(pid, signal)?)
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255)
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// A pipe for output: our end, which does not block, and the process's, which its user owns and so may reopen
/// through `/dev/stdout`.
fn output(user: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    rustix::fs::fchown(&theirs, Some(rustix::fs::Uid::from_raw(user)), None)?;
    Ok((ours, theirs))
}

/// Takes the terminal's master side, sent by libcontainer over the console socket.
fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    listener.set_nonblocking(true)?; // it was sent before the container was ready
    let (socket, _) = listener.accept()?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 128];
    recvmsg(socket.as_fd(), &mut [io::IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(terminal) = descriptors.next()
        {
            rustix::fs::fcntl_setfl(&terminal, OFlags::NONBLOCK)?;
            return Ok(terminal);
        }
    }
    Err(io::Error::other("the console socket carried no descriptor"))
}
