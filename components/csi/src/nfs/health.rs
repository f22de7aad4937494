//! Whether the server behind a mounted volume answers.
//!
//! Asking may never return while a server is away (nfs(5), `hard`). So each volume is asked by a thread of its own, which is
//! waited for a moment; while one is held up no other is sent after it.

use crate::{backend::Condition, id::VolumeId};
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Volumes whose server has been asked and has not answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<BTreeSet<VolumeId>>>);

impl Health {
    /// The condition of the volume mounted at `path`.
    pub(super) fn of(&self, id: &VolumeId, path: &Path) -> Condition {
        let path = path.to_owned();
        self.ask(id, PATIENCE, move || rustix::fs::statvfs(&path).map(drop).map_err(Into::into))
    }

    fn ask(
        &self,
        id: &VolumeId,
        patience: Duration,
        question: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    ) -> Condition {
        let silent = || {
            Condition::Abnormal(
                "the NFS server does not answer; what is written waits for it to come back".to_owned(),
            )
        };
        if !self.lock().insert(id.clone()) {
            return silent();
        }
        let (told, answer) = mpsc::channel();
        let (held, asked) = (self.clone(), id.clone());
        let started = thread::Builder::new().stack_size(64 << 10).spawn(move || {
            let result = question();
            held.lock().remove(&asked);
            // Nobody listens if it was late.
            let _ = told.send(result);
        });
        if let Err(error) = started {
            self.lock().remove(id);
            return Condition::Abnormal(format!("the NFS server cannot be asked: {error}"));
        }
        match answer.recv_timeout(patience) {
            Ok(Ok(())) => Condition::Normal,
            Ok(Err(error)) => Condition::Abnormal(format!("the NFS server says: {error}")),
            Err(_) => silent(),
        }
    }

    /// Whether the server was asked and has not answered.
    pub(super) fn is_silent(&self, id: &VolumeId) -> bool {
        self.lock().contains(id)
    }

    /// The volume is gone.
    pub(super) fn forget(&self, id: &VolumeId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<VolumeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_asked_once() {
        let (health, id) = (Health::default(), VolumeId::parse("a").unwrap());
        let patient = Duration::from_secs(60);
        assert_eq!(health.of(&id, Path::new("/")), Condition::Normal);
        assert!(matches!(health.of(&id, Path::new("/no/such")), Condition::Abnormal(_)));
        let (answer, question) = mpsc::channel::<()>();
        let late = health.ask(&id, Duration::from_millis(10), move || {
            let _ = question.recv();
            Ok(())
        });
        assert!(matches!(&late, Condition::Abnormal(text) if text.contains("does not answer")));
        assert!(health.is_silent(&id));
        let again = health.ask(&id, patient, || panic!("asked while the first question is open"));
        assert!(matches!(again, Condition::Abnormal(_)));
        answer.send(()).unwrap();
        while health.is_silent(&id) {
            thread::yield_now();
        }
        assert_eq!(health.ask(&id, patient, || Ok(())), Condition::Normal);
    }
}
