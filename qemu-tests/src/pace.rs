//! How patient to be.
//!
//! The same image boots in 2 s under KVM, in 12 s under TCG and in 110 s under TCG with two builds beside it.
//! A fixed timeout is either too short for the one or useless for the other. So the machine's speed is measured
//! where it costs nothing, at the time from power-on to the switch to the real root, and every later deadline is
//! a multiple of it. And while the machine shows progress on its console it is given more time, up to a cap.

use std::time::Duration;
use tokio::time::Instant;

/// Power-on to switch_root on a quiet two-core machine under TCG (measured: 3.4 s). Budgets are written for it.
const REFERENCE: Duration = Duration::from_millis(3500);
/// Nothing is ever given less than the budget, however fast the machine: a fast boot may be followed by load.
const SLOWEST: f64 = 40.0;

/// Speed of this machine in this run: 1 is the reference, 2 is half as fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    factor: f64,
}

impl Default for Pace {
    /// Before anything was measured: a busy machine.
    fn default() -> Self {
        Self { factor: 6.0 }
    }
}

impl Pace {
    /// From a measured time to switch_root.
    pub fn measured(switch_root: Duration) -> Self {
        Self { factor: (switch_root.as_secs_f64() / REFERENCE.as_secs_f64()).clamp(1.0, SLOWEST) }
    }

    /// What the reference machine does in `budget`, this one does in that.
    pub fn scale(self, budget: Duration) -> Duration {
        budget.mul_f64(self.factor)
    }

    /// How much slower than the reference.
    pub fn factor(self) -> f64 {
        self.factor
    }

    /// A deadline from now on: `budget`, scaled, after the last sign of progress, and at most five times that
    /// in all.
    pub fn deadline(self, budget: Duration) -> Deadline {
        let quiet = self.scale(budget);
        Deadline { start: Instant::now(), quiet, total: quiet * 5 }
    }
}

/// A deadline that progress moves.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    quiet: Duration,
    total: Duration,
}

impl Deadline {
    /// When to give up, if the last progress was at `progress`.
    pub fn expires(&self, progress: Instant) -> Instant {
        (progress.max(self.start) + self.quiet).min(self.start + self.total)
    }

    /// Not yet over, without progress.
    pub fn is_open(&self) -> bool {
        Instant::now() < self.start + self.quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slower_machines_get_more_and_fast_ones_never_less() {
        let budget = Duration::from_secs(10);
        assert_eq!(Pace::measured(Duration::from_secs(7)).scale(budget), Duration::from_secs(20));
        assert_eq!(Pace::measured(Duration::from_millis(400)).scale(budget), budget);
        assert_eq!(Pace::measured(Duration::from_secs(100_000)).scale(budget), Duration::from_secs(400));
    }

    #[test]
    fn progress_extends_up_to_the_cap() {
        let pace = Pace::measured(Duration::from_secs(7));
        let deadline = pace.deadline(Duration::from_secs(10));
        let start = deadline.start;
        let second = Duration::from_secs(1);
        assert_eq!(deadline.expires(start - 5 * second), start + 20 * second);
        assert_eq!(deadline.expires(start + 15 * second), start + 35 * second);
        assert_eq!(deadline.expires(start + 95 * second), start + 100 * second);
        assert!(deadline.is_open());
        assert!(!Deadline { start: start - 21 * second, ..deadline }.is_open());
    }
}
