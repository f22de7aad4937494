//! The node's state, as the monitor keeps it and the console and the management API show it.

use crate::machine_facts;
use tokio::sync::watch;

/// One thing that readiness depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Short name, `runtime`.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// Whether the node is not ready without it.
    pub required: bool,
    /// What was seen, for people.
    pub message: String,
}

/// A moment of this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milestone {
    /// Short name, `runtime-ready`.
    pub name: &'static str,
    /// Microseconds since the kernel started.
    pub boot_usec: u64,
}

/// Everything the monitor found out so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// In the order they were first made.
    pub checks: Vec<Check>,
    /// In the order they were reached.
    pub milestones: Vec<Milestone>,
}

impl NodeStatus {
    /// Whether every required check is good. A node that nothing has been checked of is not ready.
    pub fn ready(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.good || !check.required)
    }

    /// Whether a milestone was reached.
    pub fn reached(&self, name: &str) -> bool {
        self.milestones.iter().any(|milestone| milestone.name == name)
    }
}

/// The state with its watchers.
#[derive(Debug)]
pub struct StatusBoard {
    status: watch::Sender<NodeStatus>,
    /// Held, shared, by requests that end the system until they are answered.
    ending: tokio::sync::RwLock<()>,
}

impl Default for StatusBoard {
    fn default() -> Self {
        Self { status: watch::Sender::new(NodeStatus::default()), ending: tokio::sync::RwLock::new(()) }
    }
}

impl StatusBoard {
    /// Begins a request that ends the system: the service does not go before it is answered.
    pub async fn begin_ending(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.ending.read().await
    }

    /// Waits for such requests.
    pub async fn endings_answered(&self) {
        drop(self.ending.write().await);
    }

    /// The state now.
    pub fn now(&self) -> NodeStatus {
        self.status.borrow().clone()
    }

    /// Follows changes.
    pub fn subscribe(&self) -> watch::Receiver<NodeStatus> {
        self.status.subscribe()
    }

    /// Records a check's result; watchers wake only if it is news.
    pub fn record(&self, check: Check) {
        self.status.send_if_modified(|status| {
            match status.checks.iter_mut().find(|known| known.name == check.name) {
                Some(known) if *known == check => false,
                Some(known) => {
                    *known = check;
                    true
                }
                None => {
                    status.checks.push(check);
                    true
                }
            }
        });
    }

    /// Records a milestone, with the time now. The first time counts: `None` if it was reached before.
    pub fn reach(&self, name: &'static str) -> Option<u64> {
        let boot_usec = machine_facts::boot_usec();
        let new = self.status.send_if_modified(|status| {
            let new = !status.reached(name);
            if new {
                status.milestones.push(Milestone { name, boot_usec });
            }
            new
        });
        new.then_some(boot_usec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, good: bool, required: bool) -> Check {
        Check { name, good, required, message: String::new() }
    }

    #[test]
    fn ready_means_every_required_check() {
        let board = StatusBoard::default();
        assert!(!board.now().ready());
        board.record(check("a", true, true));
        board.record(check("b", false, false));
        assert!(board.now().ready());
        board.record(check("a", false, true));
        assert!(!board.now().ready());
        assert_eq!(board.now().checks.len(), 2);
    }

    #[test]
    fn watchers_hear_news_only_and_milestones_stay() {
        let board = StatusBoard::default();
        let mut watcher = board.subscribe();
        board.record(check("a", true, true));
        assert!(watcher.has_changed().unwrap());
        watcher.mark_unchanged();
        board.record(check("a", true, true));
        assert!(!watcher.has_changed().unwrap());
        assert!(board.reach("m").is_some());
        assert_eq!(board.reach("m"), None);
    }
}
