//! Runs scenarios in an order that wastes no boot.

use super::{Context, Needs, Scenario, Stop};
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
    time::{Duration, Instant},
};

/// What one scenario may take on the reference machine.
const BUDGET: Duration = Duration::from_secs(90);
/// Below this many cores two machines only slow each other down, and blur each other's timings.
const CORES_FOR_TWO: usize = 4;
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
    let mut node: Option<Node> = None;
    let mut boots = 0;
    let mut dead: Option<String> = None;
    for scenario in scenarios {
        events.send(Event::Started { id: scenario.id, title: scenario.title });
        if node.is_none() && dead.is_none() {
            boots += 1;
            events.send(Event::Step { id: scenario.id, title: "boot the shared machine".into() });
            match boot(lab, &format!("{SHARED}-{boots}")).await {
                Ok(booted) => node = Some(booted),
                Err(stop) => {
                    dead = Some(format!("the shared machine did not boot (see {})", scenario.id));
                    let artefacts = keep(lab, scenario.id, &[lab.work.join(format!("{SHARED}-{boots}"))]);
                    reports.push(report(scenario, stop, Instant::now(), None, artefacts, events));
                    continue;
                }
            }
        }
        if let Some(reason) = &dead {
            let stop = Stop::Skipped(reason.clone());
            reports.push(report(scenario, stop, Instant::now(), None, vec![], events));
            continue;
        }
        let result = run_one(lab, node.as_mut(), scenario, events).await;
        let bad = matches!(result.outcome, Outcome::Failed { .. } | Outcome::Broken { .. });
        reports.push(result);
        // A scenario that failed half-way has left pods behind; without them the machine is as good as new.
        if bad
            && let Some(spoiled) = &mut node
            && !(spoiled.is_running() && spoiled.guest().sweep().await.is_ok())
        {
            node = None;
        }
    }
    if let Some(mut node) = node {
        node.shut_down().await;
    }
    reports
}

async fn each_alone(lab: &Lab, scenarios: &[&'static Scenario], events: &Events) -> Vec<ScenarioReport> {
    let mut reports = Vec::new();
    for scenario in scenarios {
        events.send(Event::Started { id: scenario.id, title: scenario.title });
        reports.push(run_one(lab, None, scenario, events).await);
    }
    reports
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
    let limit = lab.pace().scale(BUDGET) * scenario.budget;
    let mut context = Context::new(lab, node.as_deref_mut(), scenario.id, events.clone());
    let ended = tokio::time::timeout(limit, (scenario.run)(&mut context)).await;
    let result = ended
        .unwrap_or_else(|_| Err(Stop::failed(format!("not finished within {:.0} s", limit.as_secs_f64()))));
    let during = context.current_step().map(str::to_owned);
    let recorded = context.finish();
    match result {
        Ok(()) => {
            let report = ScenarioReport::new(scenario, Outcome::Passed, start.elapsed(), recorded);
            events.send(Event::Finished { report: report.clone() });
            report
        }
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
            report(scenario, stop, start, Some(recorded), kept, events)
        }
    }
}

fn report(
    scenario: &'static Scenario,
    stop: Stop,
    start: Instant,
    recorded: Option<(Vec<super::Step>, Vec<super::Figure>)>,
    artefacts: Vec<PathBuf>,
    events: &Events,
) -> ScenarioReport {
    let outcome = match stop {
        Stop::Failed(message) => Outcome::Failed { message, artefacts },
        Stop::Skipped(reason) => Outcome::Skipped { reason },
        Stop::Broken(error) => Outcome::Broken { message: error.to_string(), artefacts },
    };
    let report = ScenarioReport::new(scenario, outcome, start.elapsed(), recorded.unwrap_or_default());
    events.send(Event::Finished { report: report.clone() });
    report
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
