//! Runs scenarios in an order that wastes no boot.

use super::{Context, Needs, Scenario, Stop, emulator};
use crate::{
    lab::Lab,
    node::{Node, Setup},
    report::{
        Outcome, ScenarioReport,
        event::{Event, Events},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// What one scenario may take on the reference machine.
const BUDGET: Duration = Duration::from_secs(90);
/// Below this many cores two machines only slow each other down. An emulated one keeps little more than one core busy.
const CORES_FOR_TWO: usize = 2;
/// What is said when a machine is given up.
const BEGIN_ANEW: &str = "the emulator broke the machine (Oops: int3 in its kernel); begin anew";
/// Directory of the shared machine.
const SHARED: &str = "shared";

/// Runs `selected` and returns their reports in the order of `selected`.
pub(crate) async fn run_all(
    lab: &Lab,
    selected: &[&'static Scenario],
    events: &Events,
) -> Vec<ScenarioReport> {
    let (mut shared, own): (Vec<_>, Vec<_>) = selected.iter().copied().partition(|s| s.needs != Needs::Own);
    shared.sort_by_key(|scenario| scenario.needs);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut reports = if cores >= CORES_FOR_TWO {
        let (mut first, second) = tokio::join!(share(lab, &shared, events), each_alone(lab, &own, events));
        first.extend(second);
        first
    } else {
        let mut first = share(lab, &shared, events).await;
        first.extend(each_alone(lab, &own, events).await);
        first
    };
    let place = |id: &str| selected.iter().position(|scenario| scenario.id == id);
    reports.sort_by_key(|report| place(report.id));
    reports
}

/// One boot for all of them, another only when one of them spoiled the machine.
async fn share(lab: &Lab, scenarios: &[&'static Scenario], events: &Events) -> Vec<ScenarioReport> {
    let mut reports = Vec::new();
    let mut machine = SharedMachine::default();
    for scenario in scenarios {
        events.send(Event::Started { id: scenario.id, title: scenario.title });
        let mut report = machine.run(lab, scenario, events).await;
        let mut lost = 0;
        while lost < emulator::PATIENCE && machine.broken_by_emulator(lab, &report) {
            lost += 1;
            machine.discard();
            events.send(Event::Step { id: scenario.id, title: BEGIN_ANEW.into() });
            report = machine.run(lab, scenario, events).await;
        }
        reports.push(finished(report, lost, events));
    }
    if let Some(mut node) = machine.node {
        node.shut_down().await;
    }
    reports
}

/// The machine that scenarios share.
#[derive(Default)]
struct SharedMachine {
    node: Option<Node>,
    boots: u32,
    /// It did not boot, and will not for the next scenario either.
    dead: Option<String>,
}

impl SharedMachine {
    /// Runs one scenario on it; boots it before if need be.
    async fn run(&mut self, lab: &Lab, scenario: &'static Scenario, events: &Events) -> ScenarioReport {
        if let Some(reason) = &self.dead {
            return ended(scenario, Stop::Skipped(reason.clone()), Instant::now(), None, vec![]);
        }
        if self.node.is_none() {
            self.boots += 1;
            events.send(Event::Step { id: scenario.id, title: "boot the shared machine".into() });
            match boot(lab, &self.name()).await {
                Ok(booted) => self.node = Some(booted),
                Err(stop) => {
                    self.dead = Some(format!("the shared machine did not boot (see {})", scenario.id));
                    let artefacts = keep(lab, scenario.id, &[lab.work.join(self.name())]);
                    return ended(scenario, stop, Instant::now(), None, artefacts);
                }
            }
        }
        let report = run_one(lab, self.node.as_mut(), scenario, events).await;
        // A scenario that failed half-way has left pods behind; without them the machine is as good as new.
        if is_bad(&report)
            && let Some(spoiled) = &mut self.node
            && !(spoiled.is_running() && spoiled.guest().sweep().await.is_ok())
        {
            self.node = None;
        }
        report
    }

    fn name(&self) -> String {
        format!("{SHARED}-{}", self.boots)
    }

    fn broken_by_emulator(&self, lab: &Lab, report: &ScenarioReport) -> bool {
        is_bad(report) && emulator::broke(lab, &[lab.work.join(self.name())])
    }

    fn discard(&mut self) {
        (self.node, self.dead) = (None, None);
    }
}

async fn each_alone(lab: &Lab, scenarios: &[&'static Scenario], events: &Events) -> Vec<ScenarioReport> {
    let mut reports = Vec::new();
    for scenario in scenarios {
        events.send(Event::Started { id: scenario.id, title: scenario.title });
        let mut report = run_one(lab, None, scenario, events).await;
        let mut lost = 0;
        while lost < emulator::PATIENCE
            && is_bad(&report)
            && emulator::broke(lab, &own_directories(&lab.work, scenario.id))
        {
            lost += 1;
            // The next try's machines have the same names.
            for directory in own_directories(&lab.work, scenario.id) {
                let _ = std::fs::remove_dir_all(directory);
            }
            events.send(Event::Step { id: scenario.id, title: BEGIN_ANEW.into() });
            report = run_one(lab, None, scenario, events).await;
        }
        reports.push(finished(report, lost, events));
    }
    reports
}

fn is_bad(report: &ScenarioReport) -> bool {
    matches!(report.outcome, Outcome::Failed { .. } | Outcome::Broken { .. })
}

fn finished(mut report: ScenarioReport, lost: u32, events: &Events) -> ScenarioReport {
    report.lost_to_emulator = lost;
    events.send(Event::Finished { report: report.clone() });
    report
}

async fn boot(lab: &Lab, name: &str) -> Result<Node, Stop> {
    let mut node = Node::power_on(lab, Setup::shared(), name).await?;
    node.ready().await?;
    Ok(node)
}

async fn run_one(
    lab: &Lab,
    mut node: Option<&mut Node>,
    scenario: &'static Scenario,
    events: &Events,
) -> ScenarioReport {
    let start = Instant::now();
    let mut context = Context::new(lab, node.as_deref_mut(), scenario, events.clone());
    let (pace, budget) = (lab.pace(), context.budget());
    let overdue = async {
        loop {
            let limit = pace.scale(BUDGET) * budget.load(Ordering::Relaxed);
            match limit.checked_sub(start.elapsed()) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return limit,
            }
        }
    };
    let result = tokio::select! {
        result = (scenario.run)(&mut context) => result,
        limit = overdue => Err(Stop::failed(format!("not finished within {:.0} s", limit.as_secs_f64()))),
    };
    let during = context.current_step().map(str::to_owned);
    let recorded = context.finish();
    match result {
        Ok(()) => ScenarioReport::new(scenario, Outcome::Passed, start.elapsed(), recorded),
        Err(stop) => {
            let stop = match during {
                Some(step) => stop.while_trying(&step),
                None => stop,
            };
            let mut kept = Vec::new();
            if !matches!(stop, Stop::Skipped(_)) {
                let mut directories = own_directories(&lab.work, scenario.id);
                if let Some(node) = node {
                    node.save_journal().await;
                    directories.push(node.directory().to_owned());
                }
                kept = keep(lab, scenario.id, &directories);
            }
            ended(scenario, stop, start, Some(recorded), kept)
        }
    }
}

fn ended(
    scenario: &'static Scenario,
    stop: Stop,
    start: Instant,
    recorded: Option<(Vec<super::Step>, Vec<super::Figure>)>,
    artefacts: Vec<PathBuf>,
) -> ScenarioReport {
    let outcome = match stop {
        Stop::Failed(message) => Outcome::Failed { message, artefacts },
        Stop::Skipped(reason) => Outcome::Skipped { reason },
        Stop::Broken(error) => Outcome::Broken { message: error.to_string(), artefacts },
    };
    ScenarioReport::new(scenario, outcome, start.elapsed(), recorded.unwrap_or_default())
}

/// Directories of the machines that scenario `id` started.
fn own_directories(work: &Path, id: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(work) else { return Vec::new() };
    let is_own = |name: &str| {
        name.strip_prefix(id)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_own))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

/// Copies what helps to understand a failure: logs and command lines, not disks.
fn keep(lab: &Lab, id: &str, directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut kept = Vec::new();
    for directory in directories {
        let name = directory.file_name().unwrap_or_default();
        let target = lab.artefacts.join(id).join(name);
        if std::fs::create_dir_all(&target).is_err() {
            continue;
        }
        for file in ["serial.log", "qemu.log", "qemu.args", "journal.log"] {
            let copy = target.join(file);
            // Absent files are no artefacts; a full disk must not hide the failure itself.
            if std::fs::copy(directory.join(file), &copy).is_ok() {
                kept.push(copy);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenarios_machines_are_found_by_its_whole_id() {
        let work = tempfile::tempdir().unwrap();
        for name in ["boot-1", "boot-2", "boot-again-1", "boot", "shared-1"] {
            std::fs::create_dir(work.path().join(name)).unwrap();
        }
        assert_eq!(
            own_directories(work.path(), "boot"),
            [work.path().join("boot-1"), work.path().join("boot-2")]
        );
    }
}
