//! What the daemon and a pod's shim say to each other.
//!
//! A stream socket carries frames: a big-endian `u32` length, then that many bytes of JSON. The daemon sends
//! [`Envelope`]s with a number of its choice; the shim answers each with a [`Message::Reply`] of the same number,
//! in any order, and sends [`Message::Event`]s to every connection when something happens by itself. A daemon
//! and a shim of different versions meet after every update of the node that keeps its pods, so a field, once
//! here, keeps its name and meaning, and a new one has a default.
//!
//! A session, that is a command with its streams ([`Request::Exec`]) or an attached client ([`Request::Attach`]), has a
//! connection to itself, and lasts no longer. The answer to it, [`Reply::Opened`], comes with descriptors
//! (`SCM_RIGHTS`), so that what is streamed does not pass through the shim; then comes one event that says how it ended.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, io, path::PathBuf};

/// Longest frame accepted: two captured streams of [`CAPTURE_LIMIT`] in base64, and room to spare.
pub const FRAME_LIMIT: usize = 64 << 20;
/// Bytes kept of each stream of an [`Request::ExecSync`]; the rest is read and dropped.
pub const CAPTURE_LIMIT: usize = 16 << 20;

/// What the shim is to make before it serves; a file, since there is no connection yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSetup {
    /// Sandbox id.
    pub id: String,
    /// Run directory of the pod: `shim.sock`, `ns/`, `shm/`, `bundles/` are made in it.
    pub run: PathBuf,
    /// Host name in a UTS namespace of its own; `None` shares the node's namespace.
    pub hostname: Option<String>,
    /// A network namespace of its own.
    pub own_network: bool,
    /// An IPC namespace and `/dev/shm` of its own.
    pub own_ipc: bool,
    /// A PID namespace that all containers share, held by a pause process.
    pub shared_pid: bool,
    /// A user namespace that owns the others.
    #[serde(default)]
    pub users: Option<crate::userns::UserNamespace>,
    /// Kernel parameters of those namespaces, `net.ipv4.ip_forward` → `1`.
    pub sysctls: BTreeMap<String, String>,
    /// The pod's cgroup, absolute within the hierarchy.
    pub cgroup: PathBuf,
}

/// What the shim prints, once, on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetupOutcome {
    /// Serving on the socket.
    Ready,
    /// Nothing is left behind; the process ends.
    Failed(String),
}

/// A request and its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Chosen by the daemon, unique among its open requests.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// What the daemon asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What is running.
    Inspect,
    /// Creates a container and starts its process.
    Start(Box<Start>),
    /// Runs a command in a running container and answers when it has ended.
    ExecSync(ExecSync),
    /// Runs a command in a running container with its streams in the daemon's hands: opens a session.
    Exec(Exec),
    /// Shares in the streams of a running container: opens a session.
    Attach(Attach),
    /// In a session of [`Request::Attach`]: its client will send no more input.
    CloseStdin,
    /// Sends a signal to a container's first process, or to every process in its cgroup.
    Signal {
        /// Container id.
        container: String,
        /// Signal number.
        signal: i32,
        /// Every process.
        all: bool,
    },
    /// Closes and opens the log file again, after the kubelet renamed it.
    ReopenLog {
        /// Container id.
        container: String,
    },
    /// Drops an exited container's cgroup and libcontainer state.
    Forget {
        /// Container id.
        container: String,
    },
    /// Kills every container and the pause process, then ends; namespaces and mounts are the daemon's to remove.
    Shutdown,
}

/// [`Request::Start`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Container id.
    pub container: String,
    /// Directory with `config.json` and the mounted root file system.
    pub bundle: PathBuf,
    /// CRI log file; `None` discards the output.
    pub log: Option<PathBuf>,
    /// Allocate a terminal.
    pub terminal: bool,
    /// Keep standard input open; else it is `/dev/null`.
    pub stdin: bool,
    /// Close it when the first client that was attached to it has gone.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where the [`Exit`] is kept.
    pub exit_file: PathBuf,
    /// The container's cgroup, absolute within the hierarchy.
    pub cgroup: PathBuf,
    /// Limits to apply before the process starts.
    pub resources: crate::cgroup::Resources,
    /// Kill what is left in the cgroup when the first process ends: the container has no PID namespace of its own.
    pub kill_rest: bool,
}

/// [`Request::ExecSync`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSync {
    /// Container id.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Kill it after so many milliseconds.
    pub timeout_ms: Option<u64>,
}

/// [`Request::Exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Container id.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Give it a terminal, which then is all its streams.
    pub terminal: bool,
    /// Wanted; what is not wanted is `/dev/null`.
    pub stdin: bool,
    /// Wanted.
    pub stdout: bool,
    /// Wanted.
    pub stderr: bool,
}

/// [`Request::Attach`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Container id.
    pub container: String,
    /// Wanted; there is none unless the container was created with one.
    pub stdin: bool,
    /// Wanted.
    pub stdout: bool,
    /// Wanted; there is none with a terminal.
    pub stderr: bool,
}

/// What a descriptor is that comes with [`Reply::Opened`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptor {
    /// Writing end of a pipe.
    Stdin,
    /// Reading end of a pipe.
    Stdout,
    /// Reading end of a pipe.
    Stderr,
    /// Master side of a terminal. That of a container is for writing and resizing only: the shim reads it.
    Terminal,
}

/// How a container ended. Also the content of its exit file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, or 128 and the signal.
    pub code: i32,
    /// Nanoseconds since 1970.
    pub finished_at: i64,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
}

/// One container, as the shim knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Container id.
    pub id: String,
    /// First process, in the node's PID namespace.
    pub pid: i32,
    /// Present once it has ended.
    pub exit: Option<Exit>,
}

/// What the shim sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done, nothing to tell.
    Done,
    /// To [`Request::Inspect`].
    State {
        /// The shim itself.
        pid: i32,
        /// Holder of the shared PID namespace.
        pause: Option<i32>,
        /// Every container not forgotten.
        containers: Vec<ContainerState>,
    },
    /// To [`Request::Start`].
    Started {
        /// First process, in the node's PID namespace.
        pid: i32,
    },
    /// To [`Request::ExecSync`].
    Executed {
        /// Exit status, or 128 and the signal.
        code: i32,
        /// Captured, at most [`CAPTURE_LIMIT`].
        #[serde(with = "base64_bytes")]
        stdout: Vec<u8>,
        /// Captured, at most [`CAPTURE_LIMIT`].
        #[serde(with = "base64_bytes")]
        stderr: Vec<u8>,
    },
    /// To [`Request::Exec`] and [`Request::Attach`].
    Opened {
        /// The descriptors that come with it, in their order.
        descriptors: Vec<Descriptor>,
    },
    /// The command ran longer than allowed and was killed.
    TimedOut,
    /// The shim knows no such container.
    NotFound,
    /// It could not be done.
    Failed(String),
}

/// What the shim tells unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A container ended; its exit file is already on disk.
    Exited {
        /// Container id.
        container: String,
        /// How.
        exit: Exit,
    },
    /// In a session: the command, or the container that the client was attached to, has ended.
    Ended {
        /// Exit status, or 128 and the signal.
        code: i32,
    },
    /// In a session: the client is attached no more, though the container runs.
    Detached {
        /// Why, for people.
        reason: String,
    },
}

/// Length and JSON of one frame.
pub fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_LIMIT);
    let length =
        length.ok_or_else(|| io::Error::other("a message to or from the shim is too long to send"))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Takes the first whole frame off `buffer`; `None` when more bytes are needed.
pub fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame longer than any message"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let value = serde_json::from_slice(&buffer[4..4 + length])?;
    buffer.drain(..4 + length);
    Ok(Some(value))
}

/// Bytes as base64 text: JSON's array of numbers is four times as long.
mod base64_bytes {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let first = Message::Reply {
            id: 7,
            reply: Reply::Executed { code: 1, stdout: vec![0, 255, 10], stderr: vec![] },
        };
        let second = Message::Event(Event::Exited {
            container: "a".into(),
            exit: Exit { code: 137, finished_at: 5, oom_killed: true },
        });
        let mut wire = encode(&first).unwrap();
        wire.extend(encode(&second).unwrap());
        for split in 0..wire.len() {
            let mut buffer = wire[..split].to_vec();
            let mut seen = Vec::new();
            while let Some(message) = decode::<Message>(&mut buffer).unwrap() {
                seen.push(message);
            }
            buffer.extend_from_slice(&wire[split..]);
            while let Some(message) = decode::<Message>(&mut buffer).unwrap() {
                seen.push(message);
            }
            assert_eq!(seen, [first.clone(), second.clone()], "split at {split}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_read() {
        let mut buffer = u32::MAX.to_be_bytes().to_vec();
        assert!(decode::<Message>(&mut buffer).is_err());
    }
}
