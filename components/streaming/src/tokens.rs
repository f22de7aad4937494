//! Requests that were granted and whose clients have not come yet.
//!
//! A token is the only proof the client has to give, so it is a random number of 122 bits, works once, and dies
//! after a minute.

use crate::request::Request;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a URL works.
const LIFETIME: Duration = Duration::from_secs(60);
/// URLs at the same time.
const LIMIT: usize = 1000;

/// Why there is no URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The request contradicts itself: CRI's InvalidArgument.
    #[error("{0}")]
    Invalid(&'static str),
    /// Too many clients have not come yet: CRI's ResourceExhausted.
    #[error("{LIMIT} streaming requests are waiting for their clients; try again within a minute")]
    TooMany,
}

/// Granted requests by token.
#[derive(Debug, Default)]
pub(crate) struct Tokens(HashMap<String, (Instant, Request)>);

impl Tokens {
    /// Remembers a request, and returns its token.
    pub(crate) fn insert(&mut self, request: Request, now: Instant) -> Result<String, UrlError> {
        check(&request)?;
        self.0.retain(|_, (until, _)| *until > now);
        if self.0.len() >= LIMIT {
            return Err(UrlError::TooMany);
        }
        let token = Uuid::new_v4().simple().to_string();
        self.0.insert(token.clone(), (now + LIFETIME, request));
        Ok(token)
    }

    /// The request of this token and this kind, once.
    pub(crate) fn take(&mut self, kind: &str, token: &str, now: Instant) -> Option<Request> {
        let (_, request) = self.0.get(token)?;
        if request.kind() != kind {
            return None;
        }
        self.0.remove(token).filter(|(until, _)| *until > now).map(|(_, request)| request)
    }
}

impl Request {
    /// The URL's first part.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

fn check(request: &Request) -> Result<(), UrlError> {
    let (container, tty, stdin, stdout, stderr) = match request {
        Request::Exec(exec) if exec.command.is_empty() => {
            return Err(UrlError::Invalid("exec without a command"));
        }
        Request::Exec(exec) => (&exec.container, exec.tty, exec.stdin, exec.stdout, exec.stderr),
        Request::Attach(attach) => {
            (&attach.container, attach.tty, attach.stdin, attach.stdout, attach.stderr)
        }
        Request::PortForward(forward) if forward.sandbox.is_empty() => {
            return Err(UrlError::Invalid("port-forward without a sandbox"));
        }
        Request::PortForward(forward) if forward.ports.contains(&0) => {
            return Err(UrlError::Invalid("port-forward to port 0"));
        }
        Request::PortForward(_) => return Ok(()),
    };
    if container.is_empty() {
        Err(UrlError::Invalid("a container must be named"))
    } else if tty && stderr {
        Err(UrlError::Invalid(
            "with a terminal there is no standard error: tty and stderr exclude each other",
        ))
    } else if !(stdin || stdout || stderr) {
        Err(UrlError::Invalid("one of stdin, stdout and stderr must be asked for"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Attach, PortForward};

    fn forward() -> Request {
        Request::PortForward(PortForward { sandbox: "s".to_owned(), ports: Vec::new() })
    }

    #[test]
    fn a_token_works_once_and_for_its_kind() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let token = tokens.insert(forward(), now).unwrap();
        assert_eq!(tokens.take("exec", &token, now), None);
        assert_eq!(tokens.take("portforward", &token, now), Some(forward()));
        assert_eq!(tokens.take("portforward", &token, now), None);
    }

    #[test]
    fn a_token_dies_after_a_minute() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let token = tokens.insert(forward(), now).unwrap();
        assert_eq!(tokens.take("portforward", &token, now + LIFETIME), None);
    }

    #[test]
    fn tokens_are_limited_and_room_returns() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let all: Vec<_> = (0..LIMIT).map(|_| tokens.insert(forward(), now).unwrap()).collect();
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), LIMIT);
        assert_eq!(tokens.insert(forward(), now), Err(UrlError::TooMany));
        assert!(tokens.insert(forward(), now + LIFETIME).is_ok());
    }

    #[test]
    fn contradictions_are_refused() {
        let attach = |tty, stdout, stderr| {
            let attach = Attach { container: "c".to_owned(), tty, stdin: false, stdout, stderr };
            Tokens::default().insert(Request::Attach(attach), Instant::now()).map(drop)
        };
        assert!(matches!(attach(true, true, true), Err(UrlError::Invalid(_))));
        assert!(matches!(attach(false, false, false), Err(UrlError::Invalid(_))));
        assert_eq!(attach(true, true, false), Ok(()));
    }
}
