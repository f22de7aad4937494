//! How a daemon ends: at SIGTERM or SIGINT, with time for the requests that are open.

use std::{io, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The end, which may not have come yet.
#[derive(Debug, Clone)]
pub struct Stopping {
    token: CancellationToken,
    patience: Duration,
}

impl Stopping {
    /// From now on a signal is the end's beginning, of which the log and systemd are told. Open requests have as long as `patience`;
    /// `stays` says what the end does not touch.
    ///
    /// # Errors
    /// When signals cannot be waited for.
    pub fn at_signal(patience: Duration, stays: &'static str) -> io::Result<Self> {
        let token = CancellationToken::new();
        let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(announce(signals, patience, stays, token.clone()));
        Ok(Self { token, patience })
    }

    /// Cancelled when the end begins.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// What `serving` comes to; `None` if it has not ended when patience has.
    pub async fn limit<T>(&self, serving: impl Future<Output = T>) -> Option<T> {
        let patience = async {
            self.token.cancelled().await;
            tokio::time::sleep(self.patience).await;
        };
        tokio::select! {
            ended = serving => Some(ended),
            () = patience => None,
        }
    }
}

async fn announce(
    (mut terminate, mut interrupt): (Signal, Signal),
    patience: Duration,
    stays: &'static str,
    token: CancellationToken,
) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: open requests have {} s, {stays}", patience.as_secs());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    token.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use std::future::{pending, ready};

    #[tokio::test]
    async fn patience_begins_with_the_signal() {
        let stopping = Stopping::at_signal(Duration::from_millis(1), "nothing").unwrap();
        assert_eq!(stopping.limit(ready(1)).await, Some(1));
        assert!(!stopping.token().is_cancelled());
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(stopping.limit(pending::<()>()).await, None);
        assert!(stopping.token().is_cancelled());
    }
}
