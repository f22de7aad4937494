//! What a scenario has at hand.

use super::{Scenario, Stop};
use crate::{
    guest::Guest,
    lab::Lab,
    node::{Node, Setup},
    report::event::{Event, Events},
};
use serde::Serialize;
use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

/// A part of a scenario, with the time it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// What was done.
    pub title: String,
    /// How long it took.
    pub seconds: f64,
}

/// A measured number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured, with the unit as the last word: `switch_root_seconds`.
    pub name: Cow<'static, str>,
    /// How much.
    pub value: f64,
}

/// Hands a scenario its machines, and keeps its steps and figures.
pub struct Context<'a> {
    lab: &'a Lab,
    shared: Option<&'a mut Node>,
    id: &'static str,
    events: Events,
    steps: Vec<Step>,
    current: Option<(String, Instant)>,
    figures: Vec<Figure>,
    machines: usize,
    budget: Arc<AtomicU32>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        lab: &'a Lab,
        shared: Option<&'a mut Node>,
        scenario: &Scenario,
        events: Events,
    ) -> Self {
        let budget = Arc::new(AtomicU32::new(scenario.budget));
        let id = scenario.id;
        Self { lab, shared, id, events, steps: vec![], current: None, figures: vec![], machines: 0, budget }
    }

    /// Gives the scenario so many times the usual time, from its start on, in the place of what it declares: it was asked to
    /// do more.
    pub fn allow(&self, budget: u32) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// How many times the usual time it has.
    pub(super) fn budget(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.budget)
    }

    /// Begins a step; the one before it is over.
    pub fn step(&mut self, title: impl Into<String>) {
        self.finish_step();
        let title = title.into();
        self.events.send(Event::Step { id: self.id, title: title.clone() });
        self.current = Some((title, Instant::now()));
    }

    /// Records a measurement.
    pub fn figure(&mut self, name: impl Into<Cow<'static, str>>, value: f64) {
        self.figures.push(Figure { name: name.into(), value });
    }

    /// The image, the probe, the registry and what else all scenarios use.
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// The shared machine.
    pub fn node(&mut self) -> Result<&mut Node, Stop> {
        // A scenario that needs its own machines and asks for the shared one is declared wrongly.
        self.shared
            .as_deref_mut()
            .ok_or_else(|| Stop::failed("this scenario declares that it shares no machine"))
    }

    /// The guest channel of the shared machine.
    pub fn guest(&mut self) -> Result<Guest, Stop> {
        Ok(self.node()?.guest().clone())
    }

    /// Powers on a machine of this scenario's own. It ends when dropped.
    pub async fn boot(&mut self, setup: Setup) -> Result<Node, Stop> {
        self.machines += 1;
        Node::power_on(self.lab, setup, &format!("{}-{}", self.id, self.machines)).await
    }

    pub(super) fn finish(mut self) -> (Vec<Step>, Vec<Figure>) {
        self.finish_step();
        (self.steps, self.figures)
    }

    pub(super) fn current_step(&self) -> Option<&str> {
        self.current.as_ref().map(|(title, _)| title.as_str())
    }

    fn finish_step(&mut self) {
        if let Some((title, start)) = self.current.take() {
            self.steps.push(Step { title, seconds: start.elapsed().as_secs_f64() });
        }
    }
}
