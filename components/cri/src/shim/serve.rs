//! The shim's loop: requests, output and exits, one after the other.

use super::{
    child::{exit_code, send_signal},
    command::Command,
    connection::Connection,
    container::Running,
    launch, lean, sandbox,
    stdio::null,
    stream::Stream,
};
use crate::{
    cgroup::Cgroup,
    protocol::{self, Descriptor, Message, PodSetup, Reply, SetupOutcome},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, WaitOptions, set_child_subreaper, set_parent_process_death_signal, wait},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// File name of the shim's socket in the pod's run directory.
pub(crate) const SOCKET: &str = "shim.sock";

/// When nothing happens for so long after work, it is done.
const REST: Duration = Duration::from_secs(1);

/// `cairn-shim serve SETUP.json`. The result is the exit status.
pub fn serve(setup: &Path) -> u8 {
    // Until the pod is made, the shim dies with its daemon: the next daemon, which removes what was half-made,
    // must not race with one that goes on making.
    let daemon_is_gone = |bound: rustix::io::Result<()>| bound.is_err() || nobody_listens();
    if daemon_is_gone(set_parent_process_death_signal(Some(Signal::KILL))) {
        return 1;
    }
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
    let freed = set_parent_process_death_signal(None);
    match (outcome, told, freed) {
        (Ok(mut shim), Ok(()), Ok(())) => {
            shim.run();
            0
        }
        _ => 1,
    }
}

/// The daemon no longer reads the standard output it gave us.
fn nobody_listens() -> bool {
    let output = rustix::stdio::stdout();
    let mut polled = [PollFd::new(&output, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

/// The shim of a pod.
pub(super) struct Shim {
    /// The pod.
    pub(super) setup: PodSetup,
    listener: UnixListener,
    /// By a number that is never used again.
    pub(super) connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// By id.
    pub(super) containers: BTreeMap<String, Running>,
    /// Those that run.
    pub(super) commands: Vec<Command>,
    /// First process of the shared PID namespace.
    pub(super) pause: Option<i32>,
    /// Nothing is started any more.
    pub(super) ending: bool,
    /// Something was made or started since memory was given back.
    pub(super) worked: bool,
}

/// Descriptors for a session.
#[derive(Debug, Default)]
pub(super) struct Opened {
    names: Vec<Descriptor>,
    descriptors: Vec<OwnedFd>,
}

impl Opened {
    /// Adds one.
    pub(super) fn push(&mut self, name: Descriptor, descriptor: OwnedFd) {
        self.names.push(name);
        self.descriptors.push(descriptor);
    }
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
            worked: true,
        })
    }

    fn run(&mut self) {
        while !self.ending || self.connections.values().any(Connection::has_output) {
            let ready = self.sleep();
            if self.worked && ready.is_empty() {
                lean::give_back();
                self.worked = false;
            }
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
                            command.pump();
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
            if connection.has_output() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::new(connection, flags));
            sources.push(Source::Connection(id));
        }
        for (id, container) in &self.containers {
            for (at, stream) in container.streams.iter().enumerate() {
                let reads = stream.to_read().map(|fd| PollFd::new(fd, PollFlags::IN));
                let writes = stream.to_write().map(|fd| PollFd::new(fd, PollFlags::OUT));
                for polled in reads.into_iter().chain(writes) {
                    fds.push(polled);
                    sources.push(Source::Container(id.clone(), at));
                }
            }
            if let Some(pidfd) = &container.pidfd {
                fds.push(PollFd::new(pidfd, PollFlags::IN));
                sources.push(Source::Exit);
            }
        }
        for (at, command) in self.commands.iter().enumerate() {
            for fd in command.to_read() {
                fds.push(PollFd::new(fd, PollFlags::IN));
                sources.push(Source::Command(at));
            }
            if let Some(pidfd) = &command.pidfd {
                fds.push(PollFd::new(pidfd, PollFlags::IN));
                sources.push(Source::Exit);
            }
        }
        let streams = self.containers.values().flat_map(|held| &held.streams);
        let deadlines = self.commands.iter().filter_map(Command::deadline);
        let deadline = deadlines.chain(streams.filter_map(Stream::deadline)).min();
        // Orphans that the shim adopted have no descriptor to wait on: look for them now and then.
        let longest = if self.worked { REST } else { Duration::from_secs(30) };
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
            if let Ok(connection) = Connection::new(stream) {
                self.connections.insert(self.next_connection, connection);
                self.next_connection += 1;
            }
        }
    }

    /// Where libcontainer keeps its state.
    pub(super) fn library(&self) -> PathBuf {
        self.setup.run.join("lib")
    }

    /// Collects every child that has ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if self.command_ended(pid, status) {
                continue;
            }
            if self.pause == Some(pid) {
                self.pause = None;
                continue;
            }
            let mut running = self.containers.iter().filter(|(_, held)| held.exit.is_none());
            if let Some(id) = running.find(|(_, held)| held.pid == pid).map(|(id, _)| id.clone()) {
                self.exited(&id, exit_code(status));
            }
        }
        self.report_commands();
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        for command in &mut self.commands {
            command.enforce(now);
        }
        self.cut_off(now);
    }

    /// Kills everything and waits for its end.
    pub(super) fn shut_down(&mut self) {
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

    /// Sends a message, if the connection is still there.
    pub(super) fn send(&mut self, connection: u64, message: &Message) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.send(message);
        }
    }

    /// Answers with a session's descriptors.
    pub(super) fn open(&mut self, connection: u64, id: u64, opened: Opened) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.session = true;
            let reply = Reply::Opened { descriptors: opened.names };
            connection.send_with(&Message::Reply { id, reply }, &opened.descriptors);
        }
    }

    /// Sends what can be sent, and drops connections that are gone.
    fn flush(&mut self) {
        self.connections.values_mut().for_each(Connection::flush);
        let closed = self.connections.iter().filter(|(_, connection)| connection.is_closed());
        let closed: Vec<u64> = closed.map(|(&id, _)| id).collect();
        for id in closed {
            self.connections.remove(&id);
            self.detach(id);
        }
    }
}
