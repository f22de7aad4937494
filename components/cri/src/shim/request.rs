//! What a daemon asks for, one request after the other.

use super::{child::send_signal, log::Log, serve::Shim};
use crate::protocol::{ContainerState, Envelope, Message, Reply, Request};

impl Shim {
    /// Does what a daemon sent.
    pub(super) fn converse(&mut self, connection: u64) {
        let requests = self.connections.get_mut(&connection).map(super::connection::Connection::receive);
        for Envelope { id, request } in requests.into_iter().flatten() {
            if let Some(reply) = self.handle(connection, id, request) {
                self.send(connection, &Message::Reply { id, reply });
            }
        }
    }

    /// Does one request; `None` when the answer comes later or is sent already.
    fn handle(&mut self, connection: u64, number: u64, request: Request) -> Option<Reply> {
        self.worked |= matches!(request, Request::Start(_) | Request::ExecSync(_) | Request::Exec(_));
        let reply = match request {
            Request::Inspect => self.inspect(),
            Request::Start(start) => match self.start(*start) {
                Ok(pid) => Reply::Started { pid },
                Err(error) => Reply::Failed(error),
            },
            Request::ExecSync(request) => match self.exec_sync(connection, number, request) {
                Ok(()) => return None,
                Err(reply) => reply,
            },
            Request::Exec(request) => match self.exec(connection, request) {
                Ok(opened) => {
                    self.open(connection, number, opened);
                    return None;
                }
                Err(reply) => reply,
            },
            Request::Attach(request) => match self.attach(connection, &request) {
                Ok(opened) => {
                    self.open(connection, number, opened);
                    return None;
                }
                Err(reply) => reply,
            },
            Request::CloseStdin => {
                self.input_ended(connection);
                Reply::Done
            }
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
            Request::Forget { container } => self.forget(&container),
            Request::Shutdown => {
                self.shut_down();
                Reply::Done
            }
        };
        Some(reply)
    }

    fn inspect(&self) -> Reply {
        let containers = self.containers.iter().map(|(id, held)| ContainerState {
            id: id.clone(),
            pid: held.pid,
            exit: held.exit.clone(),
        });
        Reply::State {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            pause: self.pause,
            containers: containers.collect(),
        }
    }
}
