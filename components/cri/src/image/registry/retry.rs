//! Which failures are worth another attempt, after which pause, and what is said when all attempts are spent.
//!
//! A registry that answers with a passing error is asked again. One that cannot be reached or does not answer is
//! asked again only when there is nobody else to ask, because each such attempt costs a deadline.

use super::super::{error::ImageError, hosts::Endpoint};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, SystemTime},
};

/// Attempts at one endpoint without any progress.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A registry that wants to be left alone for longer is not asked again by this pull; the kubelet comes back.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why one request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// An answer that may be another one soon; the registry may have said when.
    Transient(String, Option<Duration>),
    /// No connection, or no answer in time.
    Unreachable(String),
    NotFound(String),
    Denied(String),
    /// Will not pass.
    Final(String),
    /// Whoever wanted the bytes is gone.
    Unwanted,
}

impl Failure {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Transient(reason, _)
            | Self::Unreachable(reason)
            | Self::NotFound(reason)
            | Self::Denied(reason)
            | Self::Final(reason) => reason,
            Self::Unwanted => "cancelled",
        }
    }

    /// The pause before the next attempt, after `attempt` earlier ones (from 0); `None`: no further attempt here.
    /// `others`: is there another endpoint to ask?
    pub(super) fn pause(&self, attempt: u32, others: bool) -> Option<Duration> {
        if attempt + 1 >= ATTEMPTS {
            return None;
        }
        match self {
            Self::Transient(_, Some(asked)) => {
                let longest = if others { LONGEST_PAUSE } else { LONGEST_WAIT };
                // Nodes that were told the same moment do not all come at it, and none comes before it.
                (*asked <= longest).then(|| *asked + part_of(*asked / 10))
            }
            Self::Transient(_, None) => Some(growing(attempt)),
            Self::Unreachable(_) if !others => Some(growing(attempt)),
            _ => None,
        }
    }
}

/// Doubled each time, and a random half of it off, so that nodes that failed together do not return together.
fn growing(attempt: u32) -> Duration {
    let whole = (FIRST_PAUSE * 2_u32.saturating_pow(attempt.min(10))).min(LONGEST_PAUSE);
    whole / 2 + part_of(whole / 2)
}

/// A random part of `whole`.
fn part_of(whole: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    whole * u32::try_from(random % 1024).unwrap_or(0) / 1024
}

/// The value of a `Retry-After` header (RFC 9110 section 10.2.3): seconds or a date. A date that is past is now.
pub(in super::super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or(Duration::ZERO)),
    }
}

/// What each endpoint said.
#[derive(Default)]
pub(super) struct Failures {
    said: Vec<String>,
    /// The registry's own word, or else the last that was said.
    decisive: Option<Failure>,
    own: bool,
}

impl Failures {
    pub(super) fn add(&mut self, endpoint: &Endpoint, failure: Failure) {
        self.said.push(format!("{}: {}", endpoint.host, failure.reason()));
        // A mirror that lacks the image or refuses us says nothing about the image.
        if endpoint.own || !self.own {
            self.own = endpoint.own;
            self.decisive = Some(failure);
        }
    }

    pub(super) fn into_error(self, reference: String) -> ImageError {
        let detail = match self.said.is_empty() {
            true => "hosts.toml leaves no endpoint with the capability for this".to_owned(),
            false => self.said.join("; "),
        };
        match self.decisive {
            Some(Failure::NotFound(_)) => ImageError::NotFound { reference, detail },
            Some(Failure::Denied(_)) => ImageError::Denied { reference, detail },
            _ => ImageError::Unavailable { reference, detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn pauses_grow_vary_and_end() {
        let passing = Failure::Transient(String::new(), None);
        let pauses: Vec<_> = (0..5).map(|attempt| passing.pause(attempt, true)).collect();
        assert!(pauses[0] >= Some(FIRST_PAUSE / 2) && pauses[0] <= Some(FIRST_PAUSE), "{pauses:?}");
        assert!(pauses[2] >= Some(FIRST_PAUSE * 2), "{pauses:?}");
        assert_eq!(pauses[3], None);
        let several: std::collections::HashSet<_> = (0..50).map(|_| passing.pause(2, true)).collect();
        assert!(several.len() > 1, "there is no jitter");
        assert!((0..100).all(|attempt| growing(attempt) <= LONGEST_PAUSE));
    }

    #[test]
    fn what_is_asked_for_is_kept_and_what_asks_too_much_is_left() {
        let asked = |seconds| Failure::Transient(String::new(), Some(Duration::from_secs(seconds)));
        let pause = asked(5).pause(0, true).unwrap();
        assert!(pause >= Duration::from_secs(5) && pause <= Duration::from_millis(5500));
        assert_eq!(asked(30).pause(0, true), None);
        assert!(asked(30).pause(0, false).is_some());
        assert_eq!(asked(3600).pause(0, false), None);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for failure in [
            Failure::NotFound(String::new()),
            Failure::Denied(String::new()),
            Failure::Final(String::new()),
            Failure::Unwanted,
        ] {
            assert_eq!(failure.pause(0, false), None, "{failure:?}");
        }
        let unreachable = Failure::Unreachable(String::new());
        assert_eq!(unreachable.pause(0, true), None);
        assert!(unreachable.pause(0, false).is_some());
    }
}
