//! What happens during a run, as it happens.

use super::ScenarioReport;
use tokio::sync::mpsc;

/// One happening.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run begins.
    Planned {
        /// Number of scenarios.
        scenarios: usize,
        /// Image, machine: one line.
        headline: String,
    },
    /// A scenario begins.
    Started {
        /// Scenario id.
        id: &'static str,
        /// What it shows.
        title: &'static str,
    },
    /// A step of it begins.
    Step {
        /// Scenario id.
        id: &'static str,
        /// What is done.
        title: String,
    },
    /// A scenario is over.
    Finished {
        /// Its result.
        report: ScenarioReport,
    },
}

/// Where events go.
#[derive(Debug, Clone)]
pub struct Events(mpsc::UnboundedSender<Event>);

impl Events {
    /// A pair of ends.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub(crate) fn send(&self, event: Event) {
        // Nobody listens: the run goes on without an audience.
        let _ = self.0.send(event);
    }
}
