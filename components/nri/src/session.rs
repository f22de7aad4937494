//! The state of one plugin's connection, without any I/O: bytes in, calls and answers out.
//!
//! On one of the two connections inside we call and the other end answers, on the other it is the other way
//! round. Which is which depends on who we are, and nothing else does.

use crate::{
    message::{Request, Response, Status},
    mux, ttrpc,
};
use bytes::Bytes;
use prost::Message;
use std::{collections::HashMap, time::Duration};

/// gRPC's codes, as far as they are used here.
pub mod code {
    /// All is well.
    pub const OK: i32 = 0;
    /// An error that has no better code.
    pub const UNKNOWN: i32 = 2;
    /// The request makes no sense.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// There is no such method.
    pub const UNIMPLEMENTED: i32 = 12;
    /// Something is wrong inside.
    pub const INTERNAL: i32 = 13;
}

impl Status {
    /// An error.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Which end we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The runtime.
    Runtime,
    /// A plugin.
    Plugin,
}

impl Role {
    /// Where we call, and where we are called.
    fn connections(self) -> (u32, u32) {
        match self {
            Self::Runtime => (mux::TO_PLUGIN, mux::TO_RUNTIME),
            Self::Plugin => (mux::TO_RUNTIME, mux::TO_PLUGIN),
        }
    }
}

/// The other end does not keep to the protocol: the connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] mux::TooLong),
    /// Not a message.
    #[error(transparent)]
    Message(#[from] ttrpc::TooLong),
}

/// What came in.
#[derive(Debug)]
pub enum Incoming<W> {
    /// The answer to a call.
    Answered {
        /// Who waits for it.
        waiter: W,
        /// The answer.
        answer: Result<Bytes, Status>,
    },
    /// The other end calls.
    Called(Called),
    /// Bytes to send: the other end called in a way that makes no sense.
    Refused(Vec<u8>),
}

/// A call of the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Its stream.
    pub stream: u32,
    /// Service.
    pub service: String,
    /// Method.
    pub method: String,
    /// The request message.
    pub payload: Bytes,
}

/// A connection's state. `W` is whatever waits for the answer to a call.
#[derive(Debug)]
pub struct Session<W> {
    role: Role,
    frames: mux::Decoder,
    answers: ttrpc::Decoder,
    calls: ttrpc::Decoder,
    waiting: HashMap<u32, W>,
    next_stream: u32,
    last_called: u32,
}

impl<W> Session<W> {
    /// A new connection.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            frames: mux::Decoder::default(),
            answers: ttrpc::Decoder::default(),
            calls: ttrpc::Decoder::default(),
            waiting: HashMap::new(),
            next_stream: 1,
            last_called: 0,
        }
    }

    /// The bytes of a call. Calls must be sent in the order in which they are made here.
    ///
    /// # Errors
    /// A request that is too long; then nobody waits.
    pub fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        limit: Duration,
        waiter: W,
    ) -> Result<Vec<u8>, ttrpc::TooLong> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        };
        let stream = self.next_stream;
        let message = ttrpc::encode(stream, ttrpc::Kind::Request, &request.encode_to_vec())?;
        self.next_stream = stream.wrapping_add(2);
        self.waiting.insert(stream, waiter);
        let mut wire = Vec::new();
        mux::encode(self.role.connections().0, &message, &mut wire);
        Ok(wire)
    }

    /// The bytes of an answer to the call on `stream`.
    pub fn answer(&self, stream: u32, answer: Result<Vec<u8>, Status>) -> Vec<u8> {
        let response = match answer {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        let encoded = ttrpc::encode(stream, ttrpc::Kind::Response, &response.encode_to_vec());
        let message = encoded.unwrap_or_else(|error| {
            let status = Some(Status::new(code::INTERNAL, format!("the answer is {error}")));
            let short = Response { status, payload: Vec::new() }.encode_to_vec();
            ttrpc::encode(stream, ttrpc::Kind::Response, &short).unwrap_or_default()
        });
        let mut wire = Vec::new();
        mux::encode(self.role.connections().1, &message, &mut wire);
        wire
    }

    /// Takes bytes from the other end, and says what they mean.
    ///
    /// # Errors
    /// Bytes that mean nothing.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Incoming<W>>, ProtocolError> {
        self.frames.push(bytes);
        let (ours, theirs) = self.role.connections();
        let mut incoming = Vec::new();
        while let Some(frame) = self.frames.next_frame()? {
            // Other numbers may come to mean something to others.
            if frame.connection == ours {
                self.answers.push(&frame.payload);
                while let Some(message) = self.answers.next_message()? {
                    incoming.extend(self.answered(&message));
                }
            } else if frame.connection == theirs {
                self.calls.push(&frame.payload);
                while let Some(message) = self.calls.next_message()? {
                    incoming.extend(self.called(&message));
                }
            }
        }
        Ok(incoming)
    }

    fn answered(&mut self, message: &ttrpc::Message) -> Option<Incoming<W>> {
        if message.kind != ttrpc::Kind::Response {
            return None;
        }
        // One that nobody waits for is late.
        let waiter = self.waiting.remove(&message.stream)?;
        let answer = match Response::decode(message.content.as_ref()) {
            Ok(Response { status: Some(status), .. }) if status.code != code::OK => Err(status),
            Ok(response) => Ok(response.payload.into()),
            Err(error) => Err(Status::new(code::INTERNAL, format!("the answer is not a message: {error}"))),
        };
        Some(Incoming::Answered { waiter, answer })
    }

    fn called(&mut self, message: &ttrpc::Message) -> Option<Incoming<W>> {
        if message.kind != ttrpc::Kind::Request {
            return None;
        }
        let stream = message.stream;
        let refuse = |text: String| {
            Some(Incoming::Refused(self.answer(stream, Err(Status::new(code::INVALID_ARGUMENT, text)))))
        };
        if stream.is_multiple_of(2) || stream <= self.last_called {
            return refuse(format!(
                "stream {stream} after {}: they must be odd and rising",
                self.last_called
            ));
        }
        let request = match Request::decode(message.content.as_ref()) {
            Ok(request) => request,
            Err(error) => return refuse(format!("the request is not a message: {error}")),
        };
        self.last_called = stream;
        Some(Incoming::Called(Called {
            stream,
            service: request.service,
            method: request.method,
            payload: request.payload.into(),
        }))
    }

    /// Forgets everybody who waits.
    pub fn abandon(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only<W: std::fmt::Debug>(mut incoming: Vec<Incoming<W>>) -> Incoming<W> {
        assert_eq!(incoming.len(), 1, "{incoming:?}");
        incoming.remove(0)
    }

    #[test]
    fn both_ends_call_at_once() {
        let (mut runtime, mut plugin) = (Session::new(Role::Runtime), Session::new(Role::Plugin));
        let second = Duration::from_secs(1);
        let down = runtime.call("P", "Configure", b"c".to_vec(), second, 'r').unwrap();
        let up = plugin.call("R", "Register", b"u".to_vec(), second, 'p').unwrap();
        let Incoming::Called(called) = only(plugin.receive(&down).unwrap()) else { panic!() };
        assert_eq!(
            (called.stream, called.method.as_str(), called.payload.as_ref()),
            (1, "Configure", &b"c"[..])
        );
        let Incoming::Called(registered) = only(runtime.receive(&up).unwrap()) else { panic!() };
        assert_eq!((registered.service.as_str(), registered.stream), ("R", 1));
        let answer = plugin.answer(called.stream, Ok(b"yes".to_vec()));
        let Incoming::Answered { waiter: 'r', answer: Ok(text) } = only(runtime.receive(&answer).unwrap())
        else {
            panic!()
        };
        assert_eq!(text.as_ref(), b"yes");
        let refusal = runtime.answer(registered.stream, Err(Status::new(code::INVALID_ARGUMENT, "no")));
        let Incoming::Answered { waiter: 'p', answer: Err(status) } = only(plugin.receive(&refusal).unwrap())
        else {
            panic!()
        };
        assert_eq!((status.code, status.message.as_str()), (code::INVALID_ARGUMENT, "no"));
        assert!(runtime.receive(&answer).unwrap().is_empty(), "an answer counts once");
    }

    #[test]
    fn a_stream_is_used_once() {
        let (mut runtime, mut plugin) = (Session::<()>::new(Role::Runtime), Session::new(Role::Plugin));
        let call = plugin.call("R", "M", Vec::new(), Duration::ZERO, ()).unwrap();
        assert!(matches!(only(runtime.receive(&call).unwrap()), Incoming::Called(_)));
        assert!(matches!(only(runtime.receive(&call).unwrap()), Incoming::Refused(_)));
    }

    #[test]
    fn an_answer_that_is_too_long_becomes_an_error() {
        let (mut runtime, mut plugin) = (Session::new(Role::Runtime), Session::<()>::new(Role::Plugin));
        let call = runtime.call("P", "M", Vec::new(), Duration::ZERO, ()).unwrap();
        plugin.receive(&call).unwrap();
        let answer = plugin.answer(1, Ok(vec![0; ttrpc::LENGTH_LIMIT]));
        let Incoming::Answered { answer: Err(status), .. } = only(runtime.receive(&answer).unwrap()) else {
            panic!()
        };
        assert_eq!(status.code, code::INTERNAL);
    }
}
