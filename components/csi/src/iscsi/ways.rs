//! Ways to a target that could not be had when a volume was staged.
//!
//! iscsid looks after ways that were lost, not after those that never were. So whoever asks for a volume's condition, as the kubelet
//! does every minute, makes the driver look again, beside the answer: first whether the portal takes a connection at all,
//! which holds up nobody, and only then by logging in.

use super::target::Portal;
use std::{
    collections::BTreeMap,
    net::{IpAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two looks at one target.
const PERIOD: Duration = Duration::from_secs(30);
/// How long a portal may take to take a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// When targets were looked at. All clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Looks(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Looks {
    /// Whether it is time to look at a target; then it is not for a while.
    pub(super) fn is_time(&self, iqn: &str) -> bool {
        let (mut last, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        last.retain(|_, then| now.duration_since(*then) < PERIOD);
        let is_time = !last.contains_key(iqn);
        if is_time {
            last.insert(iqn.to_owned(), now);
        }
        is_time
    }
}

/// Whether a portal takes connections; one that is a name may.
pub(super) fn answers(portal: &Portal) -> bool {
    match portal.host.parse::<IpAddr>() {
        Ok(address) => TcpStream::connect_timeout(&(address, portal.port).into(), PATIENCE).is_ok(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_looked_at_once_in_a_while() {
        let looks = Looks::default();
        assert!(looks.is_time("a") && looks.is_time("b"));
        assert!(!looks.is_time("a"));
        let before = Instant::now().checked_sub(PERIOD).unwrap();
        looks.0.lock().unwrap().insert("a".into(), before);
        assert!(looks.is_time("a") && !looks.is_time("b"));
    }

    #[test]
    fn who_takes_no_connection_is_not_logged_in_to() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let portal = |host: &str| Portal { host: host.into(), port };
        assert!(answers(&portal("127.0.0.1")) && answers(&portal("target.example")));
        drop(listener);
        assert!(!answers(&portal("127.0.0.1")));
    }
}
